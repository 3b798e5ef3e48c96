//! Small file system steps that must survive a crash: locked temporaries, atomic replacement.

use std::{
    collections::HashSet,
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::{MetadataExt, OpenOptionsExt},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use wharf_base::random_hex;

use crate::error::{IoContext, Result};

/// Makes a folder and what leads to it, readable by its owner only.
pub(crate) fn create_private_dir(path: &Path) -> Result<()> {
    use std::os::unix::fs::DirBuilderExt;
    fs::DirBuilder::new().recursive(true).mode(0o700).create(path).at("create folder", path)
}

/// A temporary that a lock marks as in use; whoever finds it unlocked may remove it.
#[derive(Debug)]
pub(crate) struct Temp {
    pub(crate) path: PathBuf,
    pub(crate) file: File,
    armed: bool,
}

impl Temp {
    pub(crate) fn file(dir: &Path) -> Result<Self> {
        Self::claim(dir, |path| {
            OpenOptions::new().read(true).write(true).create_new(true).mode(0o600).open(path).map(Some)
        })
    }

    pub(crate) fn dir(dir: &Path) -> Result<Self> {
        Self::claim(dir, |path| {
            fs::create_dir(path)?;
            match File::open(path) {
                // A cleaner was here already.
                Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(None),
                opened => opened.map(Some),
            }
        })
    }

    fn claim(dir: &Path, make: impl Fn(&Path) -> io::Result<Option<File>>) -> Result<Self> {
        loop {
            let path = dir.join(random_hex(16));
            let Some(file) = make(&path).at("create temporary", &path)? else { continue };
            flock(&file, FlockOperation::LockExclusive).at("lock", &path)?;
            // A cleaner may have taken it between its creation and our lock.
            if fs::symlink_metadata(&path).is_ok_and(|m| file.metadata().is_ok_and(|f| f.ino() == m.ino())) {
                return Ok(Self { path, file, armed: true });
            }
        }
    }

    /// Moves the temporary to its final name; true when it is there, false when the name was taken.
    pub(crate) fn rename_into(mut self, target: &Path) -> Result<bool> {
        match rustix::fs::renameat_with(
            rustix::fs::CWD,
            &self.path,
            rustix::fs::CWD,
            target,
            rustix::fs::RenameFlags::NOREPLACE,
        ) {
            Ok(()) => {
                self.armed = false;
                Ok(true)
            }
            Err(rustix::io::Errno::EXIST | rustix::io::Errno::NOTEMPTY) => Ok(false),
            Err(e) => Err(e).at("rename into place", target),
        }
    }
}

impl Drop for Temp {
    fn drop(&mut self) {
        if self.armed {
            remove_any(&self.path).ok();
        }
    }
}

/// Removes a file or a whole folder; nothing there is fine.
pub(crate) fn remove_any(path: &Path) -> io::Result<()> {
    let result = match fs::symlink_metadata(path) {
        Ok(m) if m.is_dir() => fs::remove_dir_all(path),
        Ok(_) => fs::remove_file(path),
        Err(e) => Err(e),
    };
    match result {
        Err(e) if e.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

/// What `count` says of all that is no folder below a folder, each file once under however many names; what cannot be read
/// counts nothing.
pub(crate) fn sum_below(dir: &Path, count: impl Fn(&fs::Metadata) -> u64) -> u64 {
    let (mut seen, mut open, mut sum) = (HashSet::new(), vec![dir.to_owned()], 0);
    while let Some(dir) = open.pop() {
        for entry in fs::read_dir(dir).into_iter().flatten().flatten() {
            match entry.metadata() {
                Ok(meta) if meta.is_dir() => open.push(entry.path()),
                Ok(meta) if seen.insert(meta.ino()) => sum += count(&meta),
                _ => {}
            }
        }
    }
    sum
}

/// Removes the temporaries in `dir` that no living process holds.
pub(crate) fn sweep_temps(dir: &Path) -> Result<()> {
    for entry in fs::read_dir(dir).at("list", dir)? {
        let path = entry.at("list", dir)?.path();
        let Ok(file) = File::open(&path) else { continue };
        if flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok() {
            remove_any(&path).at("remove left-over", &path)?;
        }
    }
    Ok(())
}

/// Writes `bytes` to `path` so that a reader sees the old or the new content, never a mix, and the
/// new one survives a power cut once this returns.
pub(crate) fn replace_file(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, true)?;
    sync_dir(path.parent().unwrap_or(Path::new(".")))
}

/// As [`replace_file`], for what is of no use once the machine has stopped: nothing is flushed.
pub(crate) fn replace_file_for_now(path: &Path, bytes: &[u8]) -> Result<()> {
    replace(path, bytes, false)
}

fn replace(path: &Path, bytes: &[u8], flush: bool) -> Result<()> {
    let dir = path.parent().unwrap_or(Path::new("."));
    let temp = dir.join(format!(".{}.tmp", random_hex(8)));
    let write = || -> io::Result<()> {
        let mut file = OpenOptions::new().write(true).create_new(true).mode(0o600).open(&temp)?;
        file.write_all(bytes)?;
        if flush {
            file.sync_all()?;
        }
        fs::rename(&temp, path)
    };
    write().inspect_err(|_| drop(fs::remove_file(&temp))).at("write", path)
}

pub(crate) fn sync_dir(dir: &Path) -> Result<()> {
    File::open(dir).and_then(|d| d.sync_all()).at("flush folder", dir)
}

/// Holds `path` locked until dropped. The file stays: removing a lock file races with its users.
pub(crate) fn lock(path: &Path, how: FlockOperation) -> Result<File> {
    let file = OpenOptions::new()
        .create(true)
        .truncate(false)
        .write(true)
        .mode(0o600)
        .open(path)
        .at("open lock", path)?;
    flock(&file, how).at("lock", path)?;
    Ok(file)
}
