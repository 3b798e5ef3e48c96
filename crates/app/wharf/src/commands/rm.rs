//! `wharf rm`: removes containers.

use std::process::ExitCode;

use super::{
    Globals, completion,
    containers::{self, for_each, hinted, tidy},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Kill it first when it runs
    #[arg(short, long)]
    force: bool,
    /// Remove the volumes that are its own too (they always are)
    #[arg(short, long)]
    volumes: bool,
    /// Names or ids
    #[arg(required = true, add = completion::any_container())]
    containers: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let engine = containers::open(globals)?;
        let code = for_each(&self.containers, |wanted| {
            let container = engine.find(wanted).map_err(hinted)?;
            engine.remove(&container, self.force).map_err(hinted)
        });
        tidy(&engine);
        code
    }
}
