//! A pod's folder: what is in it, and how its files are written so that a crash leaves the old or the new.
//!
//! ```text
//! pod.json        the sandbox as asked for          lock       locked by the shim while it lives
//! shim.json       the shim's process id             shim.sock  where it listens
//! containers/NAME/config.json  state.json  exit.json  upper/ work/ rootfs/
//! ```

use std::{
    fs,
    io::{self, Write},
    os::{
        fd::{AsRawFd, OwnedFd},
        unix::fs::DirBuilderExt,
    },
    path::{Path, PathBuf},
    time::Duration,
};

use rustix::{
    fs::{FlockOperation, Mode, OFlags},
    io::Errno,
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    config::{ContainerConfig, SandboxConfig},
    error::{Context, Error, Result},
    status::{Exit, Status},
};

/// What a shim writes about itself.
#[derive(Debug, Serialize, Deserialize)]
pub(crate) struct ShimFile {
    pub(crate) pid: i32,
}

/// A pod's folder.
#[derive(Debug, Clone)]
pub struct PodDir(PathBuf);

impl PodDir {
    /// The folder at `path`, which need not exist.
    pub fn at(path: impl Into<PathBuf>) -> Self {
        Self(path.into())
    }

    /// Where it is.
    pub fn path(&self) -> &Path {
        &self.0
    }

    /// The sandbox as it was asked for.
    pub fn config(&self) -> Result<SandboxConfig> {
        read_json(&self.0.join("pod.json"))
    }

    /// The folder of one container.
    pub fn container(&self, name: &str) -> PathBuf {
        self.0.join("containers").join(name)
    }

    /// The names of its containers.
    pub fn containers(&self) -> Vec<String> {
        let entries = fs::read_dir(self.0.join("containers")).into_iter().flatten().flatten();
        let mut names: Vec<String> =
            entries.filter_map(|entry| entry.file_name().into_string().ok()).collect();
        names.sort();
        names
    }

    /// A container as it was asked for.
    pub fn container_config(&self, name: &str) -> Result<ContainerConfig> {
        read_json(&self.container(name).join("config.json"))
    }

    /// A container as last written down. Read without asking the shim: what a killed shim could not write is not in it.
    pub fn status(&self, name: &str) -> Result<Status> {
        let folder = self.container(name);
        let mut status: Status = read_json(&folder.join("state.json"))?;
        if status.exit.is_none()
            && let Ok(exit) = read_json::<Exit>(&folder.join("exit.json"))
        {
            status.exit = Some(exit);
            status.pid = None;
            status.phase = crate::status::Phase::Exited;
        }
        Ok(status)
    }

    /// Whether a shim lives in it. Not by its process id, which may be another's by now, but by the lock the kernel drops with it.
    pub fn has_shim(&self) -> bool {
        let Ok(lock) = rustix::fs::open(self.0.join("lock"), OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        else {
            return false;
        };
        is_held(&lock)
    }

    /// Takes the lock a living shim holds. Nothing when a shim lives.
    pub(crate) fn lock(&self) -> Result<Option<OwnedFd>> {
        let path = self.0.join("lock");
        let flags = OFlags::RDWR | OFlags::CREATE | OFlags::CLOEXEC;
        let lock = rustix::fs::open(&path, flags, Mode::from_raw_mode(0o600))
            .step("open the lock", path.display())?;
        loop {
            match rustix::fs::flock(&lock, FlockOperation::NonBlockingLockExclusive) {
                Ok(()) => return Ok(Some(lock)),
                Err(Errno::WOULDBLOCK) if is_held(&lock) => return Ok(None),
                // Only somebody who looks, and is gone in a moment.
                Err(Errno::WOULDBLOCK) => std::thread::sleep(Duration::from_micros(100)),
                Err(error) => return Err(error).step("lock", path.display()),
            }
        }
    }

    /// The process id of its shim.
    pub(crate) fn shim_pid(&self) -> Option<i32> {
        read_json::<ShimFile>(&self.0.join("shim.json")).ok().map(|file| file.pid)
    }

    /// Runs `act` with a short name for the socket: the kernel takes no more than 107 bytes of one.
    pub(crate) fn with_socket<T>(&self, act: impl FnOnce(&Path) -> io::Result<T>) -> io::Result<T> {
        let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
        let folder = rustix::fs::open(&self.0, flags, Mode::empty())?;
        act(Path::new(&format!("/proc/self/fd/{}/shim.sock", folder.as_raw_fd())))
    }
}

/// Whether somebody holds the lock for good. Those who look share it for a moment, and do not see each other.
fn is_held(lock: &OwnedFd) -> bool {
    let shared = rustix::fs::flock(lock, FlockOperation::NonBlockingLockShared);
    unlock(lock);
    shared == Err(Errno::WOULDBLOCK)
}

/// Gives the lock back. To close it is not enough: a process another thread forks has a copy of it until its program runs.
pub(crate) fn unlock(lock: &OwnedFd) {
    // Fails for no lock that could be taken.
    let _ = rustix::fs::flock(lock, FlockOperation::Unlock);
}

/// Makes a folder only its owner may enter, with its parents.
pub(crate) fn private_folder(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).step("make the folder", path.display())
}

/// Whether `name` can be a container's and thereby a folder's.
pub(crate) fn check_name(name: &str) -> Result<()> {
    let ok = !name.is_empty()
        && name.len() <= 128
        && !name.starts_with('.')
        && name.bytes().all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'));
    if ok {
        Ok(())
    } else {
        Err(Error::invalid("use the container name", name, "letters, digits, '-', '_' and '.' only"))
    }
}

pub(crate) fn read_json<T: DeserializeOwned>(path: &Path) -> Result<T> {
    let bytes = fs::read(path).map_err(|error| match error.kind() {
        io::ErrorKind::NotFound => Error::not_found(path.display()),
        _ => Error { errno: error.raw_os_error(), ..Error::invalid("read", path.display(), "") },
    })?;
    serde_json::from_slice(&bytes).map_err(|error| Error::invalid("read", path.display(), error))
}

/// Writes `value` so that a reader sees the old file or the new one. What it describes does not outlive a power cut, so nothing is
/// forced to the disk.
pub(crate) fn write_json(path: &Path, value: &impl Serialize) -> Result<()> {
    let bytes = serde_json::to_vec(value).map_err(|error| Error::invalid("write", path.display(), error))?;
    write_bytes(path, &bytes)
}

/// As [`write_json`], for text.
pub(crate) fn write_text(path: &Path, text: &str) -> Result<()> {
    write_bytes(path, text.as_bytes())
}

fn write_bytes(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = path.with_extension("tmp");
    fs::File::create(&draft)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&draft, path))
        .step("write", path.display())
}
