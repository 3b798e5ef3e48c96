//! `wharf stop`: asks a container to end, and ends it when it does not.

use std::{process::ExitCode, time::Duration};

use wharf_engine::{Container, Engine};

use super::{
    Globals, completion,
    containers::{self, for_each, hinted, tidy},
};

/// How a container is asked to end.
#[derive(clap::Args)]
pub(super) struct Grace {
    /// Seconds to wait before killing it, -1 without end [default: the container's own, else 10]
    #[arg(short, long, visible_alias = "timeout", allow_negative_numbers = true)]
    time: Option<i64>,
    /// Signal to send instead of the image's own
    #[arg(short, long)]
    signal: Option<String>,
}

impl Grace {
    /// Stops a container; one that has stopped is no failure, as with docker.
    pub(super) fn stop(&self, engine: &Engine, container: &Container) -> anyhow::Result<()> {
        // Without end when it is negative.
        let grace = self.time.map(|seconds| u64::try_from(seconds).ok().map(Duration::from_secs));
        engine.stop(container, self.signal.as_deref(), grace).map(drop).map_err(hinted)
    }
}

#[derive(clap::Args)]
pub(crate) struct Args {
    #[command(flatten)]
    grace: Grace,
    /// Names or ids
    #[arg(required = true, add = completion::running_container())]
    containers: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let engine = containers::open(globals)?;
        let code = for_each(&self.containers, |wanted| {
            let container = engine.find(wanted).map_err(hinted)?;
            self.grace.stop(&engine, &container)
        });
        tidy(&engine);
        code
    }
}
