//! What runs at the end of a container, when nobody waits any more: gives back what the container had.

use std::{
    os::unix::process::CommandExt as _,
    process::{Command, ExitCode, Stdio},
    time::Duration,
};

use wharf_base::ContainerId;
use wharf_engine::{Engine, Record};

use super::{
    Globals,
    containers::{self, hinted, tidy},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// It was on the bridge network.
    #[arg(long)]
    bridged: bool,
    id: ContainerId,
    name: String,
}

const LINK_GOES: Duration = Duration::from_millis(200);

/// Hidden from people.
pub(crate) const NAME: &str = "container-ended";

/// Starts it in the background, for a container on the bridge network.
pub(crate) fn start(engine: &Engine, record: &Record) {
    let words = engine.at_end(&record.id, &record.name, true);
    let Some((program, args)) = words.split_first() else { return };
    let mut command = Command::new(program);
    // A terminal's Ctrl-C is not for it, and nobody must wait for the pipes of a command that has ended.
    command.args(args).stdin(Stdio::null()).stdout(Stdio::null()).stderr(Stdio::null()).process_group(0);
    if let Err(error) = command.spawn() {
        tracing::debug!(%error, "the next command takes back what the container had");
    }
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        // The kernel removes the link by itself in a moment. Doing it meanwhile would hold up whoever comes next.
        std::thread::sleep(LINK_GOES);
        let engine = containers::open(globals)?;
        if self.bridged && engine.bridge().is_orphan() {
            engine.bridge().remove_orphan().map_err(hinted)?;
            return Ok(ExitCode::SUCCESS);
        }
        if !engine.folder(&self.id).exists() {
            engine.forget(&self.id, &self.name).map_err(hinted)?;
        }
        tidy(&engine);
        engine.bridge().remove_idle().map_err(hinted)?;
        Ok(ExitCode::SUCCESS)
    }
}
