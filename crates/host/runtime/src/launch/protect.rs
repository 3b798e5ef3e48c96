//! What is kept from the container: paths that are hidden or read-only, and kernel settings that are not its own.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use oci_spec::runtime::Spec;
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    mount::{OpenTreeFlags, open_tree},
};

use super::{
    files,
    mounts::{FLAGS_PLAIN, new, put},
    root::Root,
};
use crate::{
    error::{Context, Error, Result},
    sys,
};

/// Kernel settings of the container, written through a fresh `/proc` that nothing in the image can have replaced.
pub(super) fn set_sysctls(spec: &Spec) -> Result<()> {
    let Some(settings) = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref()) else {
        return Ok(());
    };
    write_sysctls(settings.iter(), new_proc)
}

/// [`write_sysctls`] for the namespaces of this process, which sees the machine's files.
pub(crate) fn write_own_sysctls<'a>(settings: impl Iterator<Item = (&'a String, &'a String)>) -> Result<()> {
    // A user namespace may make a proc file system only for a process namespace of its own.
    write_sysctls(settings, if sys::in_user_namespace() { machines_proc } else { new_proc })
}

fn new_proc() -> Result<OwnedFd> {
    new("proc", &[], FLAGS_PLAIN).step("create the file system for", "/proc")
}

fn machines_proc() -> Result<OwnedFd> {
    let flags = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    rustix::fs::open("/proc", flags, Mode::empty()).step("open", "/proc")
}

/// Writes kernel settings by dotted name through a proc file system. Only those of a namespace a container has.
fn write_sysctls<'a>(
    settings: impl Iterator<Item = (&'a String, &'a String)>,
    open: fn() -> Result<OwnedFd>,
) -> Result<()> {
    let mut proc = None;
    for (name, value) in settings {
        let own = name.starts_with("net.")
            || name.starts_with("fs.mqueue.")
            || name == "kernel.domainname"
            || ["kernel.msg", "kernel.sem", "kernel.shm"].iter().any(|prefix| name.starts_with(prefix));
        if !own || name.contains("..") {
            return Err(Error::invalid(
                "set the kernel setting",
                name,
                "it is not one of a container's own namespaces",
            ));
        }
        if proc.is_none() {
            proc = Some(open()?);
        }
        let Some(proc) = &proc else { continue };
        let path = format!("sys/{}", name.replace('.', "/"));
        rustix::fs::openat(proc, &path, OFlags::WRONLY | OFlags::CLOEXEC, Mode::empty())
            .and_then(|file| rustix::io::write(&file, value.as_bytes()))
            .step("set the kernel setting", format_args!("{name} = {value}"))?;
    }
    Ok(())
}

/// Makes paths read-only and hides others.
pub(super) fn protect(root: &Root, spec: &Spec) -> Result<()> {
    let Some(linux) = spec.linux().as_ref() else { return Ok(()) };
    for path in linux.readonly_paths().iter().flatten() {
        make_readonly(root, Path::new(path))?;
    }
    let masked: BTreeSet<&String> = linux.masked_paths().iter().flatten().collect();
    let mut empty = None;
    for path in masked {
        hide(root, Path::new(path), &mut empty)?;
    }
    Ok(())
}

/// What the container sees at `path`. An image may have links on the way, but not to or in the kernel's own file systems.
fn find(root: &Root, path: &Path) -> Result<Option<OwnedFd>> {
    let plain = path.starts_with("/proc") || path.starts_with("/sys");
    files::find(root.0.as_fd(), path, plain)
}

fn make_readonly(root: &Root, path: &Path) -> Result<()> {
    let Some(target) = find(root, path)? else { return Ok(()) };
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let copy = open_tree(&target, "", flags).step("copy the mount of", path.display())?;
    sys::mount_setattr(copy.as_fd(), true, libc::MOUNT_ATTR_RDONLY, 0, 0)
        .step("make read-only", path.display())?;
    put(copy.as_fd(), target.as_fd()).step("make read-only", path.display())
}

/// Covers a folder with an empty one, anything else with the null device.
fn hide(root: &Root, path: &Path, empty: &mut Option<OwnedFd>) -> Result<()> {
    let Some(target) = find(root, path)? else { return Ok(()) };
    let kind = rustix::fs::fstat(&target).step("look at", path.display())?;
    let copied = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let cover = if FileType::from_raw_mode(kind.st_mode) == FileType::Directory {
        let first = match empty.take() {
            Some(first) => first,
            None => new("tmpfs", &["size=0k", "mode=555"], FLAGS_PLAIN | libc::MOUNT_ATTR_RDONLY)
                .step("create the cover for", path.display())?,
        };
        let copy = open_tree(&first, "", copied | OpenTreeFlags::AT_EMPTY_PATH);
        *empty = Some(first);
        // Kernels before 6.15 cannot copy what is mounted nowhere.
        copy.or_else(|_| new("tmpfs", &["size=0k"], FLAGS_PLAIN | libc::MOUNT_ATTR_RDONLY))
    } else {
        // The machine's own device: the root has not been changed yet, so that the image cannot have put another in its place.
        open_tree(CWD, "/dev/null", copied)
    };
    cover.and_then(|cover| put(cover.as_fd(), target.as_fd())).step("hide", path.display())
}
