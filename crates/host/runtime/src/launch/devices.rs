//! Device nodes, and the terminal.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use oci_spec::runtime::{LinuxDevice, LinuxDeviceType, Spec};
use rustix::{
    fs::{AtFlags, FileType, Gid, Mode, OFlags, ResolveFlags, Uid, makedev},
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

/// Makes the standard nodes and links, and those of the specification. In a user namespace nodes cannot be made: the machine's own are
/// mounted in their places.
pub(super) fn make(root: &Root, spec: &Spec, mapped: bool) -> Result<()> {
    // A /dev of the machine has everything, and nothing in it is to be changed.
    let theirs = spec.mounts().iter().flatten().any(|mount| {
        mount.destination() == Path::new("/dev")
            && !matches!(mount.typ().as_deref(), Some("tmpfs" | "devtmpfs"))
    });
    if !theirs {
        make_standard(root, mapped)?;
    }
    for device in spec.linux().iter().flat_map(|linux| linux.devices().iter().flatten()) {
        // That of the container's own terminals is not the machine's.
        if device.path() == Path::new("/dev/ptmx") {
            continue;
        }
        if mapped {
            show(root, device.path(), kind_of(device), numbers(device))?;
        } else {
            make_one(root, device)?;
        }
    }
    Ok(())
}

fn make_standard(root: &Root, mapped: bool) -> Result<()> {
    let dev = files::folder(root.0.as_fd(), Path::new("/dev"), true)?;
    for (name, major, minor) in NODES {
        if mapped {
            show(root, &Path::new("/dev").join(name), FileType::CharacterDevice, (major, minor))?;
        } else {
            node(&dev, Path::new(name), FileType::CharacterDevice, (major, minor), 0o666)?;
        }
    }
    for (name, target) in LINKS {
        match rustix::fs::symlinkat(target, &dev, name) {
            Ok(()) | Err(Errno::EXIST) => {}
            Err(error) => return Err(error).step("make the link", format_args!("/dev/{name}")),
        }
    }
    Ok(())
}

fn kind_of(device: &LinuxDevice) -> FileType {
    match device.typ() {
        LinuxDeviceType::B => FileType::BlockDevice,
        LinuxDeviceType::P => FileType::Fifo,
        _ => FileType::CharacterDevice,
    }
}

fn numbers(device: &LinuxDevice) -> (u32, u32) {
    (device.major().max(0) as u32, device.minor().max(0) as u32)
}

fn make_one(root: &Root, device: &LinuxDevice) -> Result<()> {
    let subject = device.path().display();
    let parent = files::folder(root.0.as_fd(), device.path().parent().unwrap_or(Path::new("/")), false)?;
    let name = device
        .path()
        .file_name()
        .ok_or_else(|| Error::invalid("make the device", &subject, "it has no name"))?;
    let mode = device.file_mode().unwrap_or(0o666);
    node(&parent, Path::new(name), kind_of(device), numbers(device), mode)?;
    let (uid, gid) = (Uid::from_raw(device.uid().unwrap_or(0)), Gid::from_raw(device.gid().unwrap_or(0)));
    rustix::fs::chownat(&parent, name, Some(uid), Some(gid), AtFlags::SYMLINK_NOFOLLOW)
        .step("give an owner to the device", subject)
}

fn node(folder: &OwnedFd, name: &Path, kind: FileType, number: (u32, u32), mode: u32) -> Result<()> {
    let (mode, number) = (Mode::from_raw_mode(mode & 0o7777), makedev(number.0, number.1));
    match rustix::fs::mknodat(folder, name, kind, mode, number) {
        Ok(()) => Ok(()),
        Err(Errno::EXIST) => {
            let found = rustix::fs::statat(folder, name, AtFlags::SYMLINK_NOFOLLOW)
                .step("look at the device", name.display())?;
            if !is(&found, kind, number) {
                return Err(Error::invalid(
                    "make the device",
                    name.display(),
                    "the image has something else there",
                ));
            }
            rustix::fs::chmodat(folder, name, mode, AtFlags::empty()).step("set the mode of", name.display())
        }
        Err(error) => Err(error).step("make the device", name.display()),
    }
}

fn is(found: &rustix::fs::Stat, kind: FileType, number: u64) -> bool {
    FileType::from_raw_mode(found.st_mode) == kind && (kind == FileType::Fifo || found.st_rdev == number)
}

/// Mounts the machine's device of the same name, after a look whether it is the one meant.
fn show(root: &Root, path: &Path, kind: FileType, number: (u32, u32)) -> Result<()> {
    let source = rustix::fs::open(path, OFlags::PATH | OFlags::NOFOLLOW | OFlags::CLOEXEC, Mode::empty())
        .step("open the machine's device", path.display())?;
    let found = rustix::fs::fstat(&source).step("look at the device", path.display())?;
    if !is(&found, kind, makedev(number.0, number.1)) {
        return Err(Error::invalid("show the device", path.display(), "the machine has another one there"));
    }
    mounts::put_file(root, source.as_fd(), path)
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
    let resolve = ResolveFlags::IN_ROOT | ResolveFlags::NO_SYMLINKS;
    let master = rustix::fs::openat2(base, "dev/pts/ptmx", flags, Mode::empty(), resolve)
        .step("open", "/dev/pts/ptmx")?;
    // What an image has there could be anything.
    const DEVPTS: u64 = 0x1cd1;
    if rustix::fs::fstatfs(&master).step("look at", "/dev/pts/ptmx")?.f_type as u64 != DEVPTS {
        return Err(Error::invalid(
            "open",
            "/dev/pts/ptmx",
            "a terminal needs a mount of type 'devpts' at /dev/pts",
        ));
    }
    rustix::pty::unlockpt(&master).step("unlock", "the terminal")?;
    let peer = OpenptFlags::RDWR | OpenptFlags::NOCTTY | OpenptFlags::CLOEXEC;
    let slave = rustix::pty::ioctl_tiocgptpeer(&master, peer).step("open", "the terminal")?;
    if let Some(size) = plan.size {
        resize(master.as_fd(), size)?;
    }
    if let Some(root) = root {
        // By descriptor: the name could lead to something else by now (CVE-2025-52565).
        mounts::put_file(root, slave.as_fd(), Path::new("/dev/console"))?;
    }
    Ok(Terminal { master, slave })
}
