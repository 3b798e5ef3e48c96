//! wharf takes software from `git push` to a healthy production service.

#[macro_use]
mod output;

mod commands;
mod format;
mod logging;
mod loops;
mod platform;

use std::process::ExitCode;

fn main() -> ExitCode {
    // The shim of a pod is this program under another name. It must be decided before anything else is set up.
    if wharf_runtime::shim_entry() {
        return ExitCode::SUCCESS;
    }
    commands::dispatch()
}
