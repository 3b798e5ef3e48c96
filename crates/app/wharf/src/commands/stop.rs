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
    let signal = chosen(signal, container.config.labels.get(STOP_SIGNAL).map(String::as_str))?;
    let mut ending = sandbox.watch(MAIN)?;
    if container.status.phase == wharf_runtime::Phase::Paused {
        sandbox.unpause(MAIN)?;
    }
    sandbox.kill(MAIN, signal, SignalTo::First)?;
    if !ends_within(&ending, Duration::from_secs(seconds))? {
        sandbox.kill(MAIN, libc::SIGKILL, SignalTo::First)?;
    }
    ending.wait()?;
    Ok(())
}

/// The signal asked for, or else the image's. An image that names none that exists must not keep its containers running.
fn chosen(given: Option<&str>, of_image: Option<&str>) -> anyhow::Result<i32> {
    match (given, of_image) {
        (Some(name), _) => signal_number(name),
        (None, Some(name)) => Ok(signal_number(name).unwrap_or_else(|_| {
            eprintln!("warning: the image's stop signal '{name}' does not exist; TERM is sent");
            libc::SIGTERM
        })),
        (None, None) => Ok(libc::SIGTERM),
    }
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

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_bad_signal_of_the_image_is_no_obstacle() {
        for (given, of_image, expected) in [
            (None, None, Some(15)),
            (None, Some("SIGQUIT"), Some(3)),
            (None, Some("SIGRTMIN+3"), Some(37)),
            (None, Some("NOPE"), Some(15)),
            (Some("INT"), Some("NOPE"), Some(2)),
            (Some("NOPE"), Some("SIGQUIT"), None),
        ] {
            assert_eq!(chosen(given, of_image).ok(), expected, "{given:?} {of_image:?}");
        }
    }
}
