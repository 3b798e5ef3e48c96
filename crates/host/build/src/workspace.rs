//! The builder's folder: what a build needs while it runs, and how the next one sweeps what a killed one left.
//!
//! ```text
//! records/KEY     results of steps        files      digests of files by what stat says
//! mounts/ID/      cache mounts            tmp/ID/    of one running build, locked while it lives
//! downloads/HASH/ files over HTTP         turns/KEY  locks of steps that run
//! ```

use std::{
    fs::{self, File},
    io::Write,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use wharf_base::random_hex;
use wharf_runtime::Runtime;

use crate::error::{IoContext, Result};

/// The builder's folder.
#[derive(Debug, Clone)]
pub(crate) struct Workspace {
    root: PathBuf,
}

/// A folder of one build, gone with the value. Whoever finds it unlocked may remove it.
#[derive(Debug)]
pub(crate) struct Temp {
    path: PathBuf,
    _lock: File,
}

impl Temp {
    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    pub(crate) fn name(&self) -> String {
        self.path.file_name().unwrap_or_default().to_string_lossy().into_owned()
    }

    /// Where a step's pod lives: the sweep looks for it under this name.
    pub(crate) fn pod(&self) -> PathBuf {
        self.path.join("pod")
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        // What cannot be removed now is swept when the builder is opened next.
        let _ = fs::remove_dir_all(&self.path);
    }
}

impl Workspace {
    pub(crate) fn open(root: &Path) -> Result<Self> {
        for name in ["records", "mounts", "downloads", "turns", "tmp"] {
            private_dir(&root.join(name))?;
        }
        Ok(Self { root: root.to_owned() })
    }

    pub(crate) fn records(&self) -> PathBuf {
        self.root.join("records")
    }

    pub(crate) fn files(&self) -> PathBuf {
        self.root.join("files")
    }

    pub(crate) fn downloads(&self) -> PathBuf {
        self.root.join("downloads")
    }

    pub(crate) fn turns(&self) -> PathBuf {
        self.root.join("turns")
    }

    pub(crate) fn mounts(&self) -> PathBuf {
        self.root.join("mounts")
    }

    /// Held while temporaries are made or swept, so that a new one is not taken for a left-over.
    fn turn(&self) -> Result<File> {
        lock_file(&self.root.join("lock"), FlockOperation::LockExclusive)
    }

    pub(crate) fn temp(&self) -> Result<Temp> {
        let path = self.root.join("tmp").join(random_hex(8));
        let _turn = self.turn()?;
        private_dir(&path)?;
        let lock = lock_file(&path.join("owner"), FlockOperation::LockExclusive)?;
        Ok(Temp { path, _lock: lock })
    }

    /// Ends and removes what builds left that were killed.
    pub(crate) fn sweep(&self, runtime: &dyn Runtime) -> Result<()> {
        let _turn = self.turn()?;
        let tmp = self.root.join("tmp");
        for entry in fs::read_dir(&tmp).at("list", &tmp)?.flatten() {
            let path = entry.path();
            let owner = File::open(path.join("owner"));
            let lives =
                owner.as_ref().is_ok_and(|o| flock(o, FlockOperation::NonBlockingLockExclusive).is_err());
            if lives {
                continue;
            }
            end_pod(runtime, &path.join("pod"));
            fs::remove_dir_all(&path).at("remove what a killed build left in", &path)?;
        }
        Ok(())
    }
}

/// Ends the pod in `folder`, whether its shim lives or not.
pub(crate) fn end_pod(runtime: &dyn Runtime, folder: &Path) {
    if !folder.exists() {
        return;
    }
    // Either way its processes end: by the shim, or by the cgroup when there is no shim.
    match runtime.open(folder) {
        Ok(sandbox) => drop(sandbox.shutdown()),
        Err(_) => drop(runtime.clean_up(folder)),
    }
}

pub(crate) fn private_dir(path: &Path) -> Result<()> {
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("create folder", path)
}

pub(crate) fn lock_file(path: &Path, how: FlockOperation) -> Result<File> {
    let file =
        fs::OpenOptions::new().create(true).truncate(false).write(true).open(path).at("open lock", path)?;
    flock(&file, how).at("lock", path)?;
    Ok(file)
}

/// Writes `path` so that a reader sees the old or the new content. A cache need not survive a power cut, so nothing
/// is forced to the disk.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    let draft = path.with_file_name(format!(".{}", random_hex(8)));
    let written = File::create(&draft)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&draft, path));
    if written.is_err() {
        let _ = fs::remove_file(&draft);
    }
    written.at("write", path)
}
