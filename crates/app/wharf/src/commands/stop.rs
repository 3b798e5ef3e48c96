//! `wharf stop`: asks a container to end, and ends it when it does not.

use std::{process::ExitCode, time::Duration};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wharf_runtime::{Ending, SignalTo};

use super::{
    Globals,
    containers::{Container, Containers, MAIN, STOP_SIGNAL, for_each, signal_number},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Seconds to wait before killing it
    #[arg(short, long, visible_alias = "timeout", default_value_t = 10)]
    time: u64,
    /// Signal to send instead of the image's own
    #[arg(short, long)]
    signal: Option<String>,
    /// Names or ids
    #[arg(required = true)]
    containers: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let containers = Containers::open(globals)?;
        let code = for_each(&self.containers, |wanted| {
            let container = containers.find(wanted)?;
            // As docker: one that has stopped is no failure.
            if container.is_running() {
                stop(&containers, &container, self.signal.as_deref(), self.time)
            } else {
                Ok(())
            }
        });
        containers.tidy();
        code
    }
}

/// Asks, waits, kills, and waits for the end.
pub(super) fn stop(
    containers: &Containers,
    container: &Container,
    signal: Option<&str>,
    seconds: u64,
) -> anyhow::Result<()> {
    let sandbox = container.connect(&containers.runtime)?;
    let named = signal.or(container.config.labels.get(STOP_SIGNAL).map(String::as_str)).unwrap_or("TERM");
    let mut ending = sandbox.watch(MAIN)?;
    if container.status.phase == wharf_runtime::Phase::Paused {
        sandbox.unpause(MAIN)?;
    }
    sandbox.kill(MAIN, signal_number(named)?, SignalTo::First)?;
    if !ends_within(&ending, Duration::from_secs(seconds))? {
        sandbox.kill(MAIN, libc::SIGKILL, SignalTo::First)?;
    }
    ending.wait()?;
    Ok(())
}

fn ends_within(ending: &Ending, time: Duration) -> anyhow::Result<bool> {
    let deadline = std::time::Instant::now() + time;
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let mut polled = [PollFd::new(ending, PollFlags::IN)];
        match poll(&mut polled, Some(&Timespec::try_from(left)?)) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
    }
}
