//! `wharf kill`: sends a signal to containers.

use std::process::ExitCode;

use super::{
    Globals, completion,
    containers::{self, for_each, hinted},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Signal by name or number
    #[arg(short, long, default_value = "KILL")]
    signal: String,
    /// Names or ids
    #[arg(required = true, add = completion::running_container())]
    containers: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        // Told before the first is touched.
        wharf_engine::signal_number(&self.signal).map_err(hinted)?;
        let engine = containers::open(globals)?;
        for_each(&self.containers, |wanted| {
            let container = engine.find(wanted).map_err(hinted)?;
            engine.kill(&container, &self.signal).map_err(hinted)
        })
    }
}
