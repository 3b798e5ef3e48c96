//! Device nodes, and the terminal.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxDeviceType, Spec};
use rustix::{
    fs::{FileType, Gid, Mode, OFlags, Uid, makedev},
    io::Errno,
    pty::OpenptFlags,
};

use super::{files, mounts, process::TerminalPlan, resize, root::Root};
use crate::error::{Context, Error, Result};

/// The nodes every container has, and their numbers.
const NODES: [(&str, u32, u32); 6] =
    [("null", 1, 3), ("zero", 1, 5), ("full", 1, 7), ("random", 1, 8), ("urandom", 1, 9), ("tty", 5, 0)];

const LINKS: [(&str, &str); 5] = [
    ("fd", "/proc/self/fd"),
    ("stdin", "/proc/self/fd/0"),
    ("stdout", "/proc/self/fd/1"),
    ("stderr", "/proc/self/fd/2"),
    ("ptmx", "pts/ptmx"),
];

/// Makes the standard nodes and links, and those of the specification.
pub(super) fn make(root: &Root, spec: &Spec) -> Result<()> {
    let dev = files::folder(root.0.as_fd(), Path::new("/dev"), true)?;
    for (name, major, minor) in NODES {
        node(&dev, Path::new(name), FileType::CharacterDevice, (major, minor), 0o666)?;
    }
    for (name, target) in LINKS {
        match rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).step("make the link", format_args!("/dev/{name}")),
        }
    }
    for device in spec.linux().iter().flat_map(|linux| linux.devices().iter().flatten()) {
        let kind = match device.typ() {
            LinuxDeviceType::B => FileType::BlockDevice,
            LinuxDeviceType::P => FileType::Fifo,
            _ => FileType::CharacterDevice,
        };
        let parent = files::folder(root.0.as_fd(), device.path().parent().unwrap_or(Path::new("/")), false)?;
        let name = device
            .path()
            .file_name()
            .ok_or_else(|| Error::invalid("make the device", device.path().display(), "it has no name"))?;
        let number = (device.major().max(0) as u32, device.minor().max(0) as u32);
        node(&parent, Path::new(name), kind, number, device.file_mode().unwrap_or(0o666))?;
        let (uid, gid) = (Uid::from_raw(device.uid().unwrap_or(0)), Gid::from_raw(device.gid().unwrap_or(0)));
        rustix::fs::chownat(&parent, name, Some(uid), Some(gid), rustix::fs::AtFlags::SYMLINK_NOFOLLOW)
            .step("give an owner to the device", device.path().display())?;
    }
    Ok(())
}

fn node(folder: &OwnedFd, name: &Path, kind: FileType, (major, minor): (u32, u32), mode: u32) -> Result<()> {
    match rustix::fs::mknodat(folder, name, kind, Mode::from_raw_mode(mode & 0o7777), makedev(major, minor)) {
        Ok(()) | Err(Errno::EXIST) => Ok(()),
        Err(error) => Err(error).step("make the device", name.display()),
    }
}

/// A terminal of the container: the side for the outside, and the program's.
pub(super) struct Terminal {
    pub(super) master: OwnedFd,
    pub(super) slave: OwnedFd,
}

/// Opens a terminal on the container's own devpts; `root` is nothing once this process is inside.
pub(super) fn open_terminal(root: Option<&Root>, plan: &TerminalPlan) -> Result<Terminal> {
    let flags = OFlags::RDWR | OFlags::NOCTTY | OFlags::CLOEXEC;
    let here = rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step("open", "/")?;
    let base = root.map_or(here.as_fd(), |root| root.0.as_fd());
    let resolve = rustix::fs::ResolveFlags::IN_ROOT | rustix::fs::ResolveFlags::NO_SYMLINKS;
    let master = rustix::fs::openat2(base, "dev/pts/ptmx", flags, Mode::empty(), resolve)
        .step("open", "/dev/pts/ptmx")?;
    rustix::pty::unlockpt(&master).step("unlock", "the terminal")?;
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer).step("open", "the terminal")?;
    if let Some(size) = plan.size {
        resize(master.as_fd(), size)?;
    }
    if let Some(root) = root {
        let name = rustix::pty::ptsname(&master, Vec::new()).step("name", "the terminal")?;
        let name = PathBuf::from(name.to_string_lossy().into_owned());
        if let Some(found) = files::find(base, &name, true)? {
            mounts::put_file(root, found.as_fd(), Path::new("/dev/console"))?;
        }
    }
    Ok(Terminal { master, slave })
}
