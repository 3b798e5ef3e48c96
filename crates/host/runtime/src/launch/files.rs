//! Paths inside a container's root, which its image controls: resolved by the kernel within that root, whatever links it holds.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
};

use crate::error::{Context, Error, Result};

/// How often a path is looked up again when something renames folders meanwhile.
const TRIES: usize = 32;

/// The components of an absolute path inside the container. Refuses `..`.
fn relative(path: &Path) -> Result<PathBuf> {
    let mut clean = PathBuf::new();
    for component in path.components() {
        match component {
            Component::Normal(name) => clean.push(name),
            Component::RootDir | Component::CurDir => {}
            _ => return Err(Error::invalid("use the path", path.display(), "'..' is not allowed here")),
        }
    }
    Ok(clean)
}

/// Opens `path` below `root` without following it out, and without following links at all when `plain`.
fn open(root: BorrowedFd<'_>, path: &Path, flags: OFlags, plain: bool) -> Result<OwnedFd, Errno> {
    let links = if plain { ResolveFlags::NO_SYMLINKS } else { ResolveFlags::empty() };
    let path = if path.as_os_str().is_empty() { Path::new(".") } else { path };
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_MAGICLINKS | links;
    for _ in 0..TRIES {
        match openat2(root, path, flags | OFlags::CLOEXEC, Mode::empty(), resolve) {
            Err(Errno::AGAIN | Errno::INTR) => {}
            other => return other,
        }
    }
    Err(Errno::AGAIN)
}

/// A handle on what is at `path`. Nothing when there is nothing.
pub(super) fn find(root: BorrowedFd<'_>, path: &Path, plain: bool) -> Result<Option<OwnedFd>> {
    match open(root, &relative(path)?, OFlags::PATH, plain) {
        Ok(fd) => Ok(Some(fd)),
        Err(Errno::NOENT | Errno::NOTDIR) => Ok(None),
        Err(error) => Err(error).step("open in the container", path.display()),
    }
}

/// A handle on the folder at `path`, made with its parents where missing.
pub(super) fn folder(root: BorrowedFd<'_>, path: &Path, plain: bool) -> Result<OwnedFd> {
    let wanted = relative(path)?;
    let flags = OFlags::PATH | OFlags::DIRECTORY;
    match open(root, &wanted, flags, plain) {
        Err(Errno::NOENT) => {}
        other => return other.step("open the folder in the container", path.display()),
    }
    let mut current = PathBuf::new();
    let mut parent = open(root, &current, flags, plain).step("open", "the root of the container")?;
    for name in wanted.iter() {
        current.push(name);
        parent = match open(root, &current, flags, plain) {
            // A dangling link is here too: mkdirat does not follow it and reports that it exists.
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&parent, name, Mode::from_raw_mode(0o755))
                    .step("make the folder in the container", path.display())?;
                open(parent.as_fd(), Path::new(name), flags, true)
            }
            other => other,
        }
        .step("open the folder in the container", path.display())?;
    }
    Ok(parent)
}

/// A handle on the file at `path`, made empty where missing.
pub(super) fn file(root: BorrowedFd<'_>, path: &Path, plain: bool) -> Result<OwnedFd> {
    if let Some(found) = find(root, path, plain)? {
        return Ok(found);
    }
    let wanted = relative(path)?;
    let name = wanted
        .file_name()
        .ok_or_else(|| Error::invalid("make the file", path.display(), "it has no name"))?;
    let parent = folder(root, wanted.parent().unwrap_or(Path::new("")), plain)?;
    let flags = OFlags::CREATE | OFlags::EXCL | OFlags::NOFOLLOW | OFlags::CLOEXEC | OFlags::WRONLY;
    rustix::fs::openat(&parent, name, flags, Mode::from_raw_mode(0o644))
        .step("make the file in the container", path.display())?;
    open(parent.as_fd(), Path::new(name), OFlags::PATH, true).step("open in the container", path.display())
}
