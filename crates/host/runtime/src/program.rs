//! The program shims run: the small one a release carries inside, or else the caller's own.

use std::{
    ffi::OsStr,
    fs,
    io::{self, Write},
    os::{
        fd::{AsFd, AsRawFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, OpenOptionsExt},
    },
    path::{Path, PathBuf},
    process::Stdio,
};

use rustix::{
    fs::{CWD, Mode, OFlags},
    mount::{OpenTreeFlags, open_tree},
};

use crate::{
    error::{Context, Result},
    rootless, sys,
};

/// The program of whoever reads it.
pub(crate) const OWN: &str = "/proc/self/exe";

/// The shim by itself, and a name no other version of it has.
#[cfg(shim_inside)]
const INSIDE: Option<(&str, &[u8])> = Some((env!("WHARF_SHIM_NAME"), include_bytes!(env!("WHARF_SHIM"))));
#[cfg(not(shim_inside))]
const INSIDE: Option<(&str, &[u8])> = None;

const INIT: &[u8] = include_bytes!(env!("WHARF_INIT"));
const INIT_NAME: &str = env!("WHARF_INIT_NAME");

/// Where it is laid out to be run. All shims of a version run one file, and share its memory.
const PLACE: &str = "/run/wharf";

/// People who are root only in a user namespace may have to use a folder of their own.
fn places() -> impl Iterator<Item = PathBuf> {
    let own = || sys::in_user_namespace().then(rootless::folder).and_then(Result::ok);
    std::iter::once(PLACE.into()).chain(std::iter::once_with(own).flatten())
}

/// What shims run by default, the best first.
pub(crate) fn usual() -> Vec<PathBuf> {
    let placed =
        INSIDE.and_then(|(name, bytes)| places().find_map(|folder| place(&folder, name, bytes, 0o500).ok()));
    placed.into_iter().chain([OWN.into()]).collect()
}

/// A program to be a container's first process, as a file to be mounted there: as `init -- PROGRAM ARGUMENTS` it starts the program,
/// passes signals on to it, takes the exit status of orphans, and ends as the program does. It needs nothing of the container.
///
/// # Errors
/// When it cannot be laid out.
pub fn init_program() -> Result<PathBuf> {
    // Whoever runs in a container may run it.
    let mut tried = places().map(|folder| place(&folder, INIT_NAME, INIT, 0o555));
    let first = tried.next().unwrap_or_else(|| Err(io::ErrorKind::NotFound.into()));
    first
        .or_else(|error| tried.find_map(io::Result::ok).ok_or(error))
        .step("lay out the first process of containers in", PLACE)
}

/// Lays `bytes` out as the program `name` in `folder`, unless it is there. Its name stands for its content.
fn place(folder: &Path, name: &str, bytes: &[u8], mode: u32) -> io::Result<PathBuf> {
    let path = folder.join(name);
    if fs::symlink_metadata(&path).is_ok_and(|found| is_ours(&found, bytes.len(), mode)) {
        return Ok(path);
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder)?;
    let draft = folder.join(format!("{name}.{}", std::process::id()));
    // One of a process that was killed, whose number this one has now.
    let _ = fs::remove_file(&draft);
    fs::OpenOptions::new()
        .write(true)
        .create_new(true)
        .mode(mode)
        .open(&draft)
        .and_then(|mut file| file.write_all(bytes))
        .and_then(|()| fs::rename(&draft, &path))
        .inspect_err(|_| drop(fs::remove_file(&draft)))?;
    Ok(path)
}

/// Whole, and nobody else can have written it.
fn is_ours(found: &fs::Metadata, length: usize, mode: u32) -> bool {
    let me = rustix::process::geteuid().as_raw();
    found.is_file() && found.len() == length as u64 && found.uid() == me && found.mode() & 0o7777 == mode
}

/// The program through a read-only mount of its own, so that nothing in a container can write to it through `/proc/PID/exe`
/// (CVE-2019-5736).
pub(crate) fn sealed(program: &Path) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let mount = open_tree(CWD, program, flags).step("open the program", program.display())?;
    // Some machines run nothing from /run.
    sys::mount_setattr(mount.as_fd(), false, libc::MOUNT_ATTR_RDONLY, libc::MOUNT_ATTR_NOEXEC, 0)
        .step("protect the program", program.display())?;
    Ok(mount)
}

/// What a shim needs to run `at_end`: the caller's own program, where that is named, even if its file is replaced meanwhile.
pub(crate) fn for_the_end(at_end: &[String]) -> Result<Stdio> {
    match at_end.first() {
        Some(program) if program == OWN => {
            let own = rustix::fs::open(OWN, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
            own.map(Stdio::from).step("open", OWN)
        }
        _ => Ok(Stdio::null()),
    }
}

/// The path under which this process can run the open file `program`.
pub(crate) fn path_of(program: &OwnedFd) -> impl AsRef<OsStr> {
    format!("/proc/self/fd/{}", program.as_raw_fd())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_program_is_laid_out_once_and_again_when_it_is_not_whole() {
        let folder = tempfile::tempdir().unwrap();
        let place = || place(&folder.path().join("wharf"), "shim-1", b"program", 0o500).unwrap();
        let path = place();
        let first = fs::metadata(&path).unwrap();
        assert_eq!(fs::metadata(place()).unwrap().ino(), first.ino());
        assert_eq!(first.mode() & 0o777, 0o500);
        for spoil in [
            |path: &Path| fs::write(path, b"pro"),
            |path: &Path| fs::set_permissions(path, std::os::unix::fs::PermissionsExt::from_mode(0o777)),
            |path: &Path| fs::remove_file(path).and_then(|()| std::os::unix::fs::symlink("/bin/sh", path)),
        ] {
            spoil(&path).unwrap();
            assert_eq!(fs::read(place()).unwrap(), b"program");
            assert!(fs::symlink_metadata(&path).unwrap().is_file());
        }
        let left: Vec<_> = fs::read_dir(path.parent().unwrap()).unwrap().collect();
        assert_eq!(left.len(), 1);
    }
}
