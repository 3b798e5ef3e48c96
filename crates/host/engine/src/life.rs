//! Stopping, signalling and removing containers.

use std::time::{Duration, Instant};

use rustix::event::{PollFd, PollFlags, Timespec, poll};
use wharf_base::closest;
use wharf_runtime::{Cgroup, Ending, Exit, Phase, Runtime as _, SignalTo};

use crate::{
    MAIN,
    containers::{Container, Engine},
    error::{Error, IoContext as _, Result},
    image,
    spec::{Resources, Spec},
    start::resources,
};

/// Between the signal and the end, where nothing else is said.
const GRACE: Duration = Duration::from_secs(10);

impl Engine {
    /// Asks a container to end, kills it when it does not in time, and waits for its end. One that does not run is left
    /// as it is. Without `grace` it is the container's own; nothing in it means for ever.
    ///
    /// # Errors
    /// When there is no such signal.
    pub fn stop(
        &self,
        container: &Container,
        signal: Option<&str>,
        grace: Option<Option<Duration>>,
    ) -> Result<Option<Exit>> {
        self.change(&container.id, |record| record.stopped = true)?;
        if !container.is_running() {
            return Ok(None);
        }
        let signal = chosen(signal, self.stop_signal(container).as_deref())?;
        let grace = grace
            .unwrap_or_else(|| Some(container.record.spec.stop_timeout.map_or(GRACE, Duration::from_secs)));
        let sandbox = container.connect(self)?;
        let mut ending = sandbox.watch(MAIN)?;
        if container.status.phase == Phase::Paused {
            sandbox.unpause(MAIN)?;
        }
        unless_ended(sandbox.kill(MAIN, signal, SignalTo::First))?;
        if !ends_within(&ending, grace)? {
            unless_ended(sandbox.kill(MAIN, libc::SIGKILL, SignalTo::First))?;
        }
        Ok(Some(ending.wait()?))
    }

    fn stop_signal(&self, container: &Container) -> Option<String> {
        let record = &container.record;
        let of_image = || image::resolve(self.data(), &record.image_id).ok()?.stop_signal;
        record.spec.stop_signal.clone().or_else(of_image)
    }

    /// Sends a signal to a container's first process.
    ///
    /// # Errors
    /// When it does not run, or there is no such signal.
    pub fn kill(&self, container: &Container, signal: &str) -> Result<()> {
        let signal = signal_number(signal)?;
        Ok(container.connect(self)?.kill(MAIN, signal, SignalTo::First)?)
    }

    /// Changes a container's limits, of one that runs at once. What `change` leaves out stays.
    ///
    /// # Errors
    /// When the kernel refuses, or the disk is full; then nothing has changed.
    pub fn limit(&self, container: &Container, change: &Resources) -> Result<()> {
        if container.is_running() && *change != Resources::default() {
            let given = Spec { resources: change.clone(), ..Spec::default() };
            Cgroup::at(&container.status.cgroup)?.update(&resources(&given)?)?;
        }
        self.change(&container.id, |record| {
            let (old, new) = (&mut record.spec.resources, change.clone());
            *old = Resources {
                memory: new.memory.or(old.memory),
                memory_reservation: new.memory_reservation.or(old.memory_reservation),
                memory_swap: new.memory_swap.or(old.memory_swap),
                cpu_quota: new.cpu_quota.or(old.cpu_quota),
                cpu_period: new.cpu_period.or(old.cpu_period),
                cpu_shares: new.cpu_shares.or(old.cpu_shares),
                cpuset_cpus: new.cpuset_cpus.or_else(|| old.cpuset_cpus.take()),
                cpuset_mems: new.cpuset_mems.or_else(|| old.cpuset_mems.take()),
                pids: new.pids.or(old.pids),
                swappiness: new.swappiness.or(old.swappiness),
                oom_kill_disable: new.oom_kill_disable || old.oom_kill_disable,
                block_weight: new.block_weight.or(old.block_weight),
            };
        })?;
        Ok(())
    }

    /// Removes a container with everything it wrote.
    ///
    /// # Errors
    /// When it runs and is not to be killed.
    pub fn remove(&self, container: &Container, force: bool) -> Result<()> {
        if container.is_running() && !force {
            let name = container.name();
            return Err(Error::conflict(format!("container {name} is running"))
                .hint(format!("stop it with 'wharf stop {name}', or use 'wharf rm -f {name}'")));
        }
        // It must not be started again by its restart policy meanwhile. One that removes itself may be gone.
        let _ = self.change(&container.id, |record| record.stopped = true);
        // It ends as by a signal, which those who watch it hear of, before its shim does.
        if container.is_running()
            && let Ok(sandbox) = container.connect(self)
            && let Ok(mut ending) = sandbox.watch(MAIN)
        {
            if container.status.phase == Phase::Paused {
                sandbox.unpause(MAIN)?;
            }
            if sandbox.kill(MAIN, libc::SIGKILL, SignalTo::First).is_ok() {
                // The shim may be killed meanwhile, which comes to the same.
                let _ = ending.wait();
            }
        }
        // The shim of a container that has ended may still be there, for someone connected.
        if let Ok(sandbox) = self.runtime.open(container.dir.path()) {
            sandbox.shutdown()?;
        }
        self.runtime.clean_up(container.dir.path())?;
        self.forget(&container.id, container.name())
    }
}

/// The signal asked for, or else the image's. An image that names none that exists must not keep its containers running.
fn chosen(given: Option<&str>, of_image: Option<&str>) -> Result<i32> {
    match (given, of_image) {
        (Some(name), _) => signal_number(name),
        (None, Some(name)) => Ok(signal_number(name).unwrap_or_else(|_| {
            tracing::warn!(signal = name, "the stop signal of the image does not exist; TERM is sent");
            libc::SIGTERM
        })),
        (None, None) => Ok(libc::SIGTERM),
    }
}

fn ends_within(ending: &Ending, time: Option<Duration>) -> Result<bool> {
    let deadline = time.map(|time| Instant::now() + time);
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let left = left.and_then(|left| Timespec::try_from(left).ok());
        let mut polled = [PollFd::new(ending, PollFlags::IN)];
        match poll(&mut polled, left.as_ref()) {
            Ok(0) => return Ok(false),
            Ok(_) => return Ok(true),
            Err(rustix::io::Errno::INTR) => {}
            Err(error) => return Err(error).at("wait for", "a container"),
        }
    }
}

/// A signal by number or name, with or without `SIG`.
///
/// # Errors
/// When there is none.
pub fn signal_number(text: &str) -> Result<i32> {
    if let Some(number) = wharf_image::signal_number(text) {
        return Ok(number);
    }
    let upper = text.to_ascii_uppercase();
    let name = upper.strip_prefix("SIG").unwrap_or(&upper);
    let hint = closest(name, wharf_image::SIGNAL_NAMES)
        .map_or("names are like TERM or SIGTERM".to_owned(), |n| format!("did you mean '{n}'?"));
    Err(Error::invalid(format!("no such signal: {text}")).hint(hint))
}

/// One that has ended by itself in this moment needs no signal any more.
fn unless_ended(sent: Result<(), wharf_runtime::Error>) -> Result<()> {
    match sent {
        Err(error) if error.kind == wharf_runtime::ErrorKind::State => Ok(()),
        sent => Ok(sent?),
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
