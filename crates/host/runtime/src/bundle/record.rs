//! What is kept of a container between two commands, and what state it is in.
//!
//! ```text
//! ROOT/ID/state.json  config.json  start.sock (until its program is started)
//! ```

use std::{
    fs, io,
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
};

use oci_spec::runtime::Spec;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{Mode, OFlags},
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};
use serde::{Deserialize, Serialize};
use wharf_base::Timestamp;

use crate::{
    cgroup::Cgroup,
    error::{Context, Error, ErrorKind, Result},
    launch::Told,
    pod_dir::{read_json, write_json},
    processes::began,
    sys,
};

/// A container as written down.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub(super) struct Record {
    pub(super) id: String,
    pub(super) pid: i32,
    /// When its first process began, in the kernel's ticks: another process may have its id by now.
    pub(super) began: u64,
    pub(super) bundle: PathBuf,
    pub(super) cgroup: String,
    pub(super) created: Timestamp,
}

/// What a container does, in the specification's words.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Phase {
    Created,
    Running,
    Paused,
    Stopped,
}

impl Phase {
    pub(super) fn name(self) -> &'static str {
        match self {
            Self::Created => "created",
            Self::Running => "running",
            Self::Paused => "paused",
            Self::Stopped => "stopped",
        }
    }
}

/// The folder of one container.
#[derive(Debug, Clone)]
pub(super) struct Folder(pub(super) PathBuf);

impl Folder {
    /// Where the container `id` is kept below `root`.
    pub(super) fn of(root: &Path, id: &str) -> Result<Self> {
        let ok = !id.is_empty()
            && id.len() <= 1024
            && !matches!(id, "." | "..")
            && id.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.' | b'+'));
        if !ok {
            return Err(Error::invalid(
                "use the container id",
                id,
                "letters, digits, '-', '_', '.' and '+' only",
            ));
        }
        Ok(Self(root.join(id)))
    }

    /// Makes it. Fails when there is one.
    pub(super) fn make(&self, id: &str) -> Result<()> {
        if let Some(root) = self.0.parent() {
            fs::DirBuilder::new()
                .recursive(true)
                .mode(0o700)
                .create(root)
                .step("make the folder", root.display())?;
        }
        match fs::DirBuilder::new().mode(0o700).create(&self.0) {
            Err(error) if error.kind() == io::ErrorKind::AlreadyExists => Err(Error::new(
                ErrorKind::Exists,
                "create the container",
                id,
                "there is one of this id already",
            )),
            other => other.step("make the folder", self.0.display()),
        }
    }

    pub(super) fn record(&self) -> Result<Record> {
        read_json(&self.0.join("state.json")).map_err(|error| match error.kind {
            ErrorKind::NotFound => Error::new(
                ErrorKind::NotFound,
                "find the container",
                self.0.file_name().unwrap_or_default().to_string_lossy(),
                "container does not exist",
            ),
            _ => error,
        })
    }

    pub(super) fn spec(&self) -> Result<Spec> {
        read_json(&self.0.join("config.json"))
    }

    pub(super) fn save(&self, record: &Record) -> Result<()> {
        write_json(&self.0.join("state.json"), record)
    }

    pub(super) fn save_spec(&self, spec: &Spec) -> Result<()> {
        write_json(&self.0.join("config.json"), spec)
    }

    pub(super) fn start_socket(&self) -> PathBuf {
        self.0.join("start.sock")
    }

    /// Runs `act` with a short name for the socket: the kernel takes no more than 107 bytes of one.
    pub(super) fn with_socket<T>(&self, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&self.0, flags, Mode::empty())?;
        act(Path::new(&format!("/proc/self/fd/{}/start.sock", folder.as_raw_fd())))
    }

    pub(super) fn phase(&self, record: &Record) -> Phase {
        if record.process().is_none() {
            return Phase::Stopped;
        }
        if self.start_socket().exists() {
            return Phase::Created;
        }
        match record.cgroup().map(|cgroup| cgroup.is_frozen()) {
            Ok(true) => Phase::Paused,
            _ => Phase::Running,
        }
    }
}

impl Record {
    pub(super) fn cgroup(&self) -> Result<Cgroup> {
        Cgroup::at(&self.cgroup)
    }

    /// A handle on its first process, if that lives.
    pub(super) fn process(&self) -> Option<OwnedFd> {
        let pid = Pid::from_raw(self.pid)?;
        let handle = pidfd_open(pid, PidfdFlags::empty()).ok()?;
        // After it was opened: now the id is that of the same process for as long as the handle is held.
        (began(self.pid) == Some(self.began)).then_some(handle)
    }

    /// Signals its first process.
    pub(super) fn signal(&self, signal: i32) -> Result<()> {
        let gone = || Error::state("signal", &self.id, "container not running");
        let process = self.process().ok_or_else(gone)?;
        match sys::pidfd_signal(process.as_fd(), signal) {
            Err(error) if error.raw_os_error() == Some(libc::ESRCH) => Err(gone()),
            other => other.step("signal", &self.id),
        }
    }

    /// Ends it, and waits until it is gone.
    pub(super) fn end(&self) -> Result<()> {
        let Some(process) = self.process() else { return Ok(()) };
        let cgroup = self.cgroup()?;
        let _ = sys::pidfd_signal(process.as_fd(), libc::SIGKILL);
        cgroup.signal_all(libc::SIGKILL);
        let _ = cgroup.freeze(false);
        let deadline = Timespec { tv_sec: 10, tv_nsec: 0 };
        let mut polled = [PollFd::from_borrowed_fd(process.as_fd(), PollFlags::IN)];
        loop {
            match rustix::event::poll(&mut polled, Some(&deadline)) {
                Err(Errno::INTR) => {}
                Ok(0) => {
                    return Err(Error::state("end the container", &self.id, "it does not end though killed"));
                }
                _ => return Ok(()),
            }
        }
    }

    pub(super) fn told<'a>(&'a self, spec: &'a Spec, bundle: &'a str) -> Told<'a> {
        Told { hooks: spec.hooks().as_ref(), id: &self.id, bundle, annotations: spec.annotations().as_ref() }
    }
}
