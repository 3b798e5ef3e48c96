//! `tmpcopyup`: a new tmpfs begins with a copy of what it covers. The files are the image's: nothing is followed, everything bounded.

use std::{
    ffi::OsStr,
    io,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::ffi::OsStrExt,
    },
};

use rustix::{
    fs::{AtFlags, Dir, FileType, Gid, Mode, OFlags, Stat, Timestamps, Uid, openat, statat},
    io::Errno,
};

use super::options::Change;
use crate::sys;

/// Folders within folders.
const DEPTH: u32 = 64;

/// Copies what is in `from` to the mount `to`, which then gets its attributes.
pub(super) fn copy(from: &OwnedFd, to: &OwnedFd, attributes: Change) -> io::Result<()> {
    folder(from.as_fd(), to.as_fd(), DEPTH)?;
    if attributes.set & libc::MOUNT_ATTR_RDONLY != 0 {
        sys::mount_setattr(to.as_fd(), false, libc::MOUNT_ATTR_RDONLY, 0, 0)?;
    }
    Ok(())
}

fn folder(from: BorrowedFd<'_>, to: BorrowedFd<'_>, depth: u32) -> io::Result<()> {
    if depth == 0 {
        return Err(Errno::LOOP.into());
    }
    let from = openat(from, ".", OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())?;
    for entry in Dir::read_from(&from)? {
        let entry = entry?;
        let name = OsStr::from_bytes(entry.file_name().to_bytes());
        if name != "." && name != ".." {
            one(from.as_fd(), to, name, depth)?;
        }
    }
    Ok(())
}

fn one(from: BorrowedFd<'_>, to: BorrowedFd<'_>, name: &OsStr, depth: u32) -> io::Result<()> {
    let found = statat(from, name, AtFlags::SYMLINK_NOFOLLOW)?;
    let mode = Mode::from_raw_mode(found.st_mode & 0o7777);
    match FileType::from_raw_mode(found.st_mode) {
        FileType::Directory => {
            rustix::fs::mkdirat(to, name, Mode::RWXU)?;
            let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::NOFOLLOW | OFlags::CLOEXEC;
            let (source, target) =
                (openat(from, name, flags, Mode::empty())?, openat(to, name, flags, Mode::empty())?);
            folder(source.as_fd(), target.as_fd(), depth - 1)?;
        }
        FileType::RegularFile => {
            let flags = OFlags::NOFOLLOW | OFlags::NONBLOCK | OFlags::CLOEXEC;
            let mut source = std::fs::File::from(openat(from, name, flags | OFlags::RDONLY, Mode::empty())?);
            let made = openat(to, name, flags | OFlags::WRONLY | OFlags::CREATE | OFlags::EXCL, Mode::RWXU)?;
            io::copy(&mut source, &mut std::fs::File::from(made))?;
        }
        FileType::Symlink => {
            let target = rustix::fs::readlinkat(from, name, Vec::new())?;
            rustix::fs::symlinkat(target, to, name)?;
            return own(to, name, &found);
        }
        kind => rustix::fs::mknodat(to, name, kind, mode, found.st_rdev)?,
    }
    own(to, name, &found)?;
    rustix::fs::chmodat(to, name, mode, AtFlags::empty())?;
    let times = Timestamps {
        last_access: rustix::fs::Timespec { tv_sec: found.st_atime, tv_nsec: found.st_atime_nsec as _ },
        last_modification: rustix::fs::Timespec { tv_sec: found.st_mtime, tv_nsec: found.st_mtime_nsec as _ },
    };
    rustix::fs::utimensat(to, name, &times, AtFlags::SYMLINK_NOFOLLOW)?;
    Ok(())
}

fn own(to: BorrowedFd<'_>, name: &OsStr, found: &Stat) -> io::Result<()> {
    let (uid, gid) = (Uid::from_raw(found.st_uid), Gid::from_raw(found.st_gid));
    Ok(rustix::fs::chownat(to, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)?)
}
