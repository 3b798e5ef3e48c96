//! Notice of what the kernel denies a container: memory, and further processes.
//!
//! A notice only says that there is something to see; what is told are the kernel's counters.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write},
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::event::{EventfdFlags, PollFlags, eventfd};

use super::{Cgroup, Version, v1, v2};

/// After a notice the next is looked at no sooner: a program that forks without end must not keep its shim busy.
const QUIET: Duration = Duration::from_millis(100);

/// On version 1 the notice of memory comes before the kill it announces. For so long the kill is looked for.
const FOLLOWS: Duration = Duration::from_secs(5);

/// How often something was denied since the cgroup was made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Denied {
    /// Processes killed for want of memory.
    pub(crate) oom_kills: u64,
    /// Processes and threads that could not be made for `pids.max`.
    pub(crate) forks: u64,
    /// Its processes stand still for want of memory: the cgroup is set so that none is killed.
    pub(crate) stopped: bool,
}

/// Watches one cgroup. What the kernel does not offer is not watched.
pub(crate) struct Watch {
    memory: Option<OwnedFd>,
    pids: Option<File>,
    cgroup: Cgroup,
    quiet_until: Option<Instant>,
    /// A kill may still come until then.
    follow_until: Option<Instant>,
}

impl Watch {
    pub(crate) fn of(cgroup: &Cgroup) -> Self {
        let memory = match cgroup.version {
            Version::V1 => told_of_memory(cgroup),
            Version::V2 | Version::Absent => File::open(cgroup.file("memory.events")).map(OwnedFd::from),
        };
        let watch = Self {
            memory: memory.ok(),
            pids: File::open(cgroup.file("pids.events")).ok(),
            cgroup: cgroup.clone(),
            quiet_until: None,
            follow_until: None,
        };
        watch.hear();
        watch
    }

    /// What to wait for: descriptors and what they are polled for.
    pub(crate) fn notices(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        let memory = match self.cgroup.version {
            Version::V1 => PollFlags::IN,
            Version::V2 | Version::Absent => PollFlags::PRI,
        };
        let memory = self.memory.iter().map(move |file| (file.as_fd(), memory));
        let pids = self.pids.iter().map(|file| (file.as_fd(), PollFlags::PRI));
        memory.chain(pids).filter(|_| self.quiet_until.is_none())
    }

    /// When to look whatever the notices say.
    pub(crate) fn due(&self) -> Option<Instant> {
        self.quiet_until
    }

    /// Looks, after a notice or because it is due.
    pub(crate) fn look(&mut self, noticed: bool, now: Instant) -> Denied {
        if self.hear() {
            self.follow_until = Some(now + FOLLOWS);
        }
        let follows = self.follow_until.is_some_and(|until| now < until);
        self.quiet_until = (noticed || follows).then_some(now + QUIET);
        self.cgroup.denied()
    }

    /// Takes the notices: the kernel gives the next only then. Whether one was of a kill to come.
    fn hear(&self) -> bool {
        let mut buffer = [0; 256];
        if let Some(pids) = &self.pids {
            let _ = rustix::io::pread(pids, &mut buffer, 0);
        }
        match (&self.memory, self.cgroup.version) {
            (Some(memory), Version::V1) => rustix::io::read(memory, &mut buffer).is_ok(),
            (Some(memory), Version::V2 | Version::Absent) => {
                let _ = rustix::io::pread(memory, &mut buffer, 0);
                false
            }
            (None, _) => false,
        }
    }
}

/// A descriptor that becomes readable when memory runs out, as version 1 tells it.
fn told_of_memory(cgroup: &Cgroup) -> io::Result<OwnedFd> {
    let notice = eventfd(0, EventfdFlags::CLOEXEC | EventfdFlags::NONBLOCK)?;
    let watched = File::open(cgroup.file("memory.oom_control"))?;
    let folder = v1::folder("memory", &cgroup.path);
    OpenOptions::new()
        .write(true)
        .open(folder.join("cgroup.event_control"))?
        .write_all(format!("{} {}", notice.as_raw_fd(), watched.as_raw_fd()).as_bytes())?;
    Ok(notice)
}

impl Cgroup {
    /// What the kernel has denied it so far.
    pub(crate) fn denied(&self) -> Denied {
        match self.version {
            Version::V1 => v1::denied(|name| self.read(name)),
            Version::V2 | Version::Absent => v2::denied(|name| self.read(name)),
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    /// The cgroup's files as the kernel writes them.
    fn from(files: &[(&str, &str)]) -> impl Fn(&str) -> String {
        let folder = tempfile::tempdir().unwrap();
        for (name, text) in files {
            std::fs::write(folder.path().join(name), text).unwrap();
        }
        move |name| std::fs::read_to_string(folder.path().join(name)).unwrap_or_default()
    }

    #[test]
    fn version_1_counts_kills_and_knows_who_stands_still() {
        let read = from(&[
            ("memory.oom_control", "oom_kill_disable 0\nunder_oom 1\noom_kill 2\n"),
            ("pids.events", "max 9\n"),
        ]);
        assert_eq!(v1::denied(read), Denied { oom_kills: 2, forks: 9, stopped: false });
        let read = from(&[("memory.oom_control", "oom_kill_disable 1\nunder_oom 1\noom_kill 0\n")]);
        assert_eq!(v1::denied(read), Denied { stopped: true, ..Denied::default() });
    }

    #[test]
    fn version_2_counts_what_was_killed_not_what_was_tried() {
        let read = from(&[
            ("memory.events", "low 0\nhigh 5\nmax 33\noom 4\noom_kill 3\noom_group_kill 1\n"),
            ("pids.events", "max 7\n"),
        ]);
        assert_eq!(v2::denied(read), Denied { oom_kills: 3, forks: 7, ..Denied::default() });
        // Kernels before 4.19 and cgroups without a controller have less.
        assert_eq!(v2::denied(from(&[("memory.events", "low 0\n")])), Denied::default());
        assert_eq!(v2::denied(from(&[("pids.events", "max many\n")])), Denied::default());
    }
}
