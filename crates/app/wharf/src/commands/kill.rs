//! `wharf kill`: sends a signal to containers.

use std::process::ExitCode;

use wharf_runtime::SignalTo;

use super::{
    Globals,
    containers::{Containers, MAIN, for_each, signal_number},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Signal by name or number
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let signal = signal_number(&self.signal)?;
        let containers = Containers::open(globals)?;
        for_each(&self.containers, |wanted| {
            let sandbox = containers.find(wanted)?.connect(&containers.runtime)?;
            Ok(sandbox.kill(MAIN, signal, SignalTo::First)?)
        })
    }
}
