//! The files of a packed image before they are written.

use std::{
    collections::BTreeMap,
    fs,
    os::unix::fs::{MetadataExt, PermissionsExt, symlink},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use crate::error::{Error, IoContext, Result};

const MAX_ENTRIES: usize = 500_000;

/// What stands at a path.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) enum Entry {
    /// A folder with this mode.
    Dir(u32),
    /// A link to this target.
    Link(PathBuf),
    /// A copy of this file.
    File(PathBuf),
    /// A file of these bytes.
    Data(Vec<u8>),
}

/// A tree, by path without the leading slash.
#[derive(Debug, Default)]
pub(super) struct Layout {
    entries: BTreeMap<PathBuf, Entry>,
}

impl Layout {
    pub(super) fn has(&self, path: &Path) -> bool {
        self.entries.contains_key(path.strip_prefix("/").unwrap_or(path))
    }

    /// Puts something at a path where nothing is yet; true when it did.
    pub(super) fn put(&mut self, path: &Path, entry: Entry) -> Result<bool> {
        let path = path.strip_prefix("/").unwrap_or(path);
        if path.as_os_str().is_empty() || self.entries.contains_key(path) {
            return Ok(false);
        }
        if self.entries.len() >= MAX_ENTRIES {
            return Err(Error::invalid(format!("there are more than {MAX_ENTRIES} files to pack")));
        }
        for parent in path.ancestors().skip(1).filter(|parent| !parent.as_os_str().is_empty()) {
            self.entries.entry(parent.to_owned()).or_insert(Entry::Dir(0o755));
        }
        self.entries.insert(path.to_owned(), entry);
        Ok(true)
    }

    /// Number of files, and their bytes.
    pub(super) fn size(&self) -> (usize, u64) {
        let bytes = |entry: &Entry| match entry {
            Entry::File(source) => fs::metadata(source).map_or(0, |meta| meta.len()),
            Entry::Data(bytes) => bytes.len() as u64,
            _ => 0,
        };
        let files = self.entries.values().filter(|entry| matches!(entry, Entry::File(_) | Entry::Data(_)));
        (files.count(), self.entries.values().map(bytes).sum())
    }

    /// Writes the tree below `root`. Files keep their times, so that compiled Python stays valid; all else has none.
    pub(super) fn write(&self, root: &Path) -> Result<()> {
        let none = SystemTime::UNIX_EPOCH;
        for (path, entry) in &self.entries {
            let target = root.join(path);
            match entry {
                Entry::Dir(_) => fs::create_dir(&target).at("create folder", &target)?,
                Entry::Link(to) => {
                    symlink(to, &target).at("create link", &target)?;
                    let times = rustix::fs::Timestamps {
                        last_access: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
                        last_modification: rustix::fs::Timespec { tv_sec: 0, tv_nsec: 0 },
                    };
                    let flags = rustix::fs::AtFlags::SYMLINK_NOFOLLOW;
                    rustix::fs::utimensat(rustix::fs::CWD, &target, &times, flags)
                        .at("set the time of", &target)?;
                }
                Entry::File(source) => copy(source, &target)?,
                Entry::Data(bytes) => {
                    fs::write(&target, bytes).at("write", &target)?;
                    settle(&target, 0o644, none)?;
                }
            }
        }
        // From the deepest up: what is put into a folder changes its time.
        for (path, entry) in self.entries.iter().rev() {
            if let Entry::Dir(mode) = entry {
                settle(&root.join(path), *mode, none)?;
            }
        }
        Ok(())
    }
}

fn copy(source: &Path, target: &Path) -> Result<()> {
    let meta = fs::metadata(source).at("read", source)?;
    fs::copy(source, target).at("pack", source)?;
    // Whole seconds, as the layer holds them.
    let seconds = Duration::from_secs(meta.mtime().max(0) as u64);
    settle(target, meta.mode() & 0o7777, SystemTime::UNIX_EPOCH + seconds)
}

fn settle(path: &Path, mode: u32, time: SystemTime) -> Result<()> {
    fs::set_permissions(path, fs::Permissions::from_mode(mode)).at("set the mode of", path)?;
    let file = fs::File::open(path).at("open", path)?;
    file.set_times(fs::FileTimes::new().set_modified(time).set_accessed(time)).at("set the time of", path)
}
