//! `wharf stop`: asks a container to end, and ends it when it does not.

use std::{process::ExitCode, time::Duration};

use super::{
    Globals, completion,
    containers::{self, for_each, hinted, tidy},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds to wait before killing it, -1 without end [default: the container's own, else 10]
    #[arg(short, long, visible_alias = "timeout", allow_negative_numbers = true)]
    time: Option<i64>,
    /// Signal to send instead of the image's own
    #[arg(short, long)]
    signal: Option<String>,
    /// Names or ids
    #[arg(required = true, add = completion::running_container())]
    containers: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let engine = containers::open(globals)?;
        // Without end when it is negative.
        let grace = self.time.map(|seconds| u64::try_from(seconds).ok().map(Duration::from_secs));
        let code = for_each(&self.containers, |wanted| {
            let container = engine.find(wanted).map_err(hinted)?;
            // As docker: one that has stopped is no failure.
            engine.stop(&container, self.signal.as_deref(), grace).map(drop).map_err(hinted)
        });
        tidy(&engine);
        code
    }
}
