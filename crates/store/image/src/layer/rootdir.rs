//! A folder that is about to become a root file system: every path is resolved inside it by the kernel.

use std::{
    ffi::CString,
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use rustix::{
    fs::{
        AtFlags, FileType, Mode, OFlags, RawMode, ResolveFlags, Timespec, Timestamps, XattrFlags, chownat,
        fchmod, mkdirat, openat, openat2, statat, unlinkat, utimensat,
    },
    io::Errno,
};

use super::{read::TarEntry, unknown_owner};
use crate::error::{Error, IoContext, Result};

/// The folder, and the parent folder of the entry before: entries of one folder follow each other.
pub(super) struct RootDir {
    root: OwnedFd,
    recent: Option<(Vec<u8>, OwnedFd)>,
}

impl RootDir {
    pub(super) fn open(path: &Path) -> Result<Self> {
        let root = openat(
            rustix::fs::CWD,
            path,
            OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC,
            Mode::empty(),
        )
        .at("open folder", path)?;
        Ok(Self { root, recent: None })
    }

    pub(super) fn root(&self) -> BorrowedFd<'_> {
        self.root.as_fd()
    }

    /// Opens `path` inside the root, following symbolic links inside the root only.
    pub(super) fn open_inside(&self, path: &[u8], flags: OFlags) -> Result<OwnedFd, Errno> {
        let path = if path.is_empty() { b"." } else { path };
        openat2(
            &self.root,
            path,
            flags | OFlags::CLOEXEC,
            Mode::empty(),
            ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS,
        )
    }

    /// Opens the folder `path` inside the root, making what is missing; layers may leave folders out.
    pub(super) fn parent(&mut self, entry: &TarEntry, path: &[u8]) -> Result<BorrowedFd<'_>> {
        if self.recent.as_ref().is_none_or(|(recent, _)| recent != path) {
            let fd = self.make_dirs(path).map_err(|e| entry.refused("has no usable parent folder", e))?;
            self.recent = Some((path.to_owned(), fd));
        }
        match &self.recent {
            Some((_, fd)) => Ok(fd.as_fd()),
            None => Err(entry.error("has no parent folder")),
        }
    }

    /// Forgets the folder kept open, since what was removed may be it or lead to it.
    pub(super) fn forget(&mut self) {
        self.recent = None;
    }

    fn make_dirs(&self, path: &[u8]) -> Result<OwnedFd, Errno> {
        let flags = OFlags::PATH | OFlags::DIRECTORY;
        match self.open_inside(path, flags) {
            Err(Errno::NOENT) => {}
            other => return other,
        }
        let cut = path.iter().rposition(|b| *b == b'/');
        let (above, name) = match cut {
            Some(cut) => (&path[..cut], &path[cut + 1..]),
            None => (&path[..0], path),
        };
        let above = self.make_dirs(above)?;
        match mkdirat(&above, name, Mode::from_raw_mode(0o755)) {
            Ok(()) => {
                chmod_nofollow(&above, name, 0o755)?;
            }
            // A dangling symbolic link is there: nothing can be made through it.
            Err(Errno::EXIST) => return Err(Errno::NOENT),
            Err(e) => return Err(e),
        }
        self.open_inside(path, flags)
    }
}

/// The path of `name` in the folder `dir`, for system calls without an `at` form.
fn proc_path(dir: BorrowedFd<'_>, name: &[u8]) -> Vec<u8> {
    [format!("/proc/self/fd/{}/", dir.as_raw_fd()).as_bytes(), name].concat()
}

fn chmod_nofollow(dir: impl AsFd, name: &[u8], mode: u32) -> Result<(), Errno> {
    let fd = openat(
        dir.as_fd(),
        name,
        OFlags::RDONLY | OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC,
        Mode::empty(),
    )?;
    fchmod(fd, Mode::from_raw_mode(mode as RawMode))
}

pub(super) fn kind_of(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Option<FileType>, Errno> {
    match statat(dir, name, AtFlags::SYMLINK_NOFOLLOW) {
        Ok(stat) => Ok(Some(FileType::from_raw_mode(stat.st_mode))),
        Err(Errno::NOENT) => Ok(None),
        Err(e) => Err(e),
    }
}

/// Removes `name`, and all below it when it is a folder, without ever following a symbolic link.
pub(super) fn remove_tree(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    match unlinkat(dir, name, AtFlags::empty()) {
        Err(Errno::ISDIR | Errno::PERM) => {}
        Err(Errno::NOENT) => return Ok(()),
        other => return other,
    }
    clear_dir(dir, name)?;
    unlinkat(dir, name, AtFlags::REMOVEDIR)
}

/// Removes everything in the folder `name`.
pub(super) fn clear_dir(dir: BorrowedFd<'_>, name: &[u8]) -> Result<(), Errno> {
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
    let folder = openat(dir, name, flags, Mode::empty())?;
    let mut names = Vec::new();
    for item in rustix::fs::Dir::read_from(&folder)? {
        let item = item?;
        if !matches!(item.file_name().to_bytes(), b"." | b"..") {
            names.push(item.file_name().to_owned());
        }
    }
    for item in names {
        remove_tree(folder.as_fd(), item.to_bytes())?;
    }
    Ok(())
}

/// Sets owner, permissions, extended attributes and time of `name`, in the order the kernel needs:
/// a change of owner clears set-uid and capabilities.
pub(super) fn set_metadata(dir: BorrowedFd<'_>, name: &[u8], entry: &TarEntry, symlink: bool) -> Result<()> {
    let owner = (rustix::fs::Uid::from_raw(entry.uid), rustix::fs::Gid::from_raw(entry.gid));
    chownat(dir, name, Some(owner.0), Some(owner.1), AtFlags::SYMLINK_NOFOLLOW).map_err(|e| {
        let unknown = unknown_owner(entry.uid, entry.gid).filter(|_| e == Errno::INVAL);
        let why = unknown.unwrap_or_else(|| e.to_string());
        entry.error(format!("cannot get owner {}:{}: {why}", entry.uid, entry.gid))
    })?;
    if !symlink {
        rustix::fs::chmodat(dir, name, Mode::from_raw_mode(entry.mode), AtFlags::empty())
            .map_err(|e| entry.error(format!("cannot get mode {:o}: {e}", entry.mode)))?;
    }
    for (key, value) in &entry.xattrs {
        rustix::fs::lsetxattr(proc_path(dir, name), key.as_str(), value, XattrFlags::empty())
            .map_err(|e| entry.refused(format!("cannot get the extended attribute {key}"), e))?;
    }
    set_time(dir, name, entry.mtime).map_err(|e| entry.error(format!("cannot get its time: {e}")))
}

pub(super) fn set_time(dir: BorrowedFd<'_>, name: &[u8], mtime: (i64, u32)) -> Result<(), Errno> {
    let time = Timespec { tv_sec: mtime.0, tv_nsec: mtime.1.into() };
    utimensat(
        dir,
        name,
        &Timestamps { last_access: time, last_modification: time },
        AtFlags::SYMLINK_NOFOLLOW,
    )
}

/// All extended attributes of `name`, but for those of overlayfs itself.
pub(crate) fn read_xattrs(dir: BorrowedFd<'_>, name: &[u8]) -> Result<Vec<(String, Vec<u8>)>, Errno> {
    let path = proc_path(dir, name);
    let mut list = vec![0_u8; 1 << 16];
    let used = match rustix::fs::llistxattr(path.as_slice(), list.as_mut_slice()) {
        Ok(used) => used,
        Err(Errno::NOTSUP) => 0,
        Err(e) => return Err(e),
    };
    let mut found = Vec::new();
    for key in list[..used].split(|b| *b == 0).filter(|k| !k.is_empty()) {
        let Ok(text) = std::str::from_utf8(key) else { continue };
        if let Some(value) = read_xattr(dir, name, text)? {
            found.push((text.to_owned(), value));
        }
    }
    Ok(found)
}

pub(crate) fn read_xattr(dir: BorrowedFd<'_>, name: &[u8], key: &str) -> Result<Option<Vec<u8>>, Errno> {
    let mut value = vec![0_u8; 1 << 16];
    match rustix::fs::lgetxattr(proc_path(dir, name), key, value.as_mut_slice()) {
        Ok(size) => {
            value.truncate(size);
            Ok(Some(value))
        }
        Err(Errno::NODATA | Errno::NOTSUP) => Ok(None),
        Err(e) => Err(e),
    }
}

/// The bytes of a path as the kernel wants them.
pub(super) fn c_path(entry: &TarEntry, path: &[u8]) -> Result<CString> {
    CString::new(path).map_err(|_| entry.error("has a zero byte in its path"))
}

impl From<(&TarEntry, &'static str, Errno)> for Error {
    fn from((entry, what, errno): (&TarEntry, &'static str, Errno)) -> Self {
        entry.refused(format!("cannot be {what}"), errno)
    }
}
