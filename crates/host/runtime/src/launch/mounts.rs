//! The file systems of a container besides its root, and what of them is hidden or read-only.

use std::{
    collections::BTreeSet,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use oci_spec::runtime::{LinuxNamespaceType, Mount, Spec};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
        open_tree,
    },
};

use super::{files, root::Root};
use crate::{
    cgroup::Cgroup,
    config::ContainerConfig,
    error::{Context, Error, Result},
    sys,
};

/// A mount of the specification with its source in hand.
pub(super) struct Prepared<'a> {
    mount: &'a Mount,
    options: Options,
    sources: Vec<(&'static str, OwnedFd)>,
}

/// Mount options by what they act on.
#[derive(Default)]
struct Options {
    bind: bool,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: Option<u64>,
    /// For the file system itself: `key` or `key=value`.
    data: Vec<String>,
}

fn parse(mount: &Mount) -> Options {
    let mut options = Options { bind: mount.typ().as_deref() == Some("bind"), ..Options::default() };
    for option in mount.options().iter().flatten() {
        let (set, clear, propagation) = match option.as_str() {
            "bind" => (0, 0, None),
            "rbind" => {
                options.recursive = true;
                (0, 0, None)
            }
            "ro" | "rro" => (libc::MOUNT_ATTR_RDONLY, 0, None),
            "rw" | "rrw" => (0, libc::MOUNT_ATTR_RDONLY, None),
            "nosuid" => (libc::MOUNT_ATTR_NOSUID, 0, None),
            "suid" => (0, libc::MOUNT_ATTR_NOSUID, None),
            "nodev" => (libc::MOUNT_ATTR_NODEV, 0, None),
            "dev" => (0, libc::MOUNT_ATTR_NODEV, None),
            "noexec" => (libc::MOUNT_ATTR_NOEXEC, 0, None),
            "exec" => (0, libc::MOUNT_ATTR_NOEXEC, None),
            "nodiratime" => (libc::MOUNT_ATTR_NODIRATIME, 0, None),
            "noatime" => (libc::MOUNT_ATTR_NOATIME, libc::MOUNT_ATTR__ATIME, None),
            "strictatime" => (libc::MOUNT_ATTR_STRICTATIME, libc::MOUNT_ATTR__ATIME, None),
            "relatime" => (0, libc::MOUNT_ATTR__ATIME, None),
            "private" | "rprivate" => (0, 0, Some(libc::MS_PRIVATE)),
            "slave" | "rslave" => (0, 0, Some(libc::MS_SLAVE)),
            "shared" | "rshared" => (0, 0, Some(libc::MS_SHARED)),
            "unbindable" | "runbindable" => (0, 0, Some(libc::MS_UNBINDABLE)),
            "defaults" | "async" => (0, 0, None),
            other => {
                options.data.push(other.to_owned());
                (0, 0, None)
            }
        };
        options.bind |= matches!(option.as_str(), "bind" | "rbind");
        options.set = (options.set & !clear) | set;
        options.clear = (options.clear & !set) | clear;
        options.propagation = propagation.or(options.propagation);
    }
    options
}

/// Whether the container shares the machine's process ids.
pub(super) fn shares_pids(spec: &Spec) -> bool {
    let namespaces =
        spec.linux().as_ref().and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
    !namespaces.iter().any(|namespace| namespace.typ() == LinuxNamespaceType::Pid)
}

/// Takes hold of everything that is mounted from the machine.
pub(super) fn open_sources<'a>(spec: &'a Spec, config: &ContainerConfig) -> Result<Vec<Prepared<'a>>> {
    spec.mounts().iter().flatten().map(|mount| prepare(mount, spec, config)).collect()
}

fn prepare<'a>(mount: &'a Mount, spec: &Spec, config: &ContainerConfig) -> Result<Prepared<'a>> {
    let options = parse(mount);
    let mut sources = Vec::new();
    if options.bind {
        if let Some(unknown) = options.data.first() {
            return Err(Error::invalid(
                "mount",
                mount.destination().display(),
                format_args!("unknown option '{unknown}'"),
            ));
        }
        let source = mount
            .source()
            .as_deref()
            .ok_or_else(|| Error::invalid("mount", mount.destination().display(), "it has no source"))?;
        sources.push(("", clone_of(source, options.recursive)?));
    } else if matches!(mount.typ().as_deref(), Some("cgroup" | "cgroup2")) {
        let path =
            spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref()).unwrap_or(Path::new(""));
        for (name, folder) in Cgroup::at(&path.to_string_lossy())?.folders() {
            sources.push((name, clone_of(&folder, false)?));
        }
        if sources.is_empty() {
            return Err(Error::invalid("mount the cgroup of", &config.name, "it has none"));
        }
    }
    Ok(Prepared { mount, options, sources })
}

/// A detached copy of the mount at `path`.
fn clone_of(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let flags = if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags };
    open_tree(CWD, path, flags).step("open the mount source", path.display())
}

/// Cuts this process's mounts off from the machine's. Mounts the machine makes later come through only when some mount asks for it.
pub(super) fn cut_off(spec: &Spec) -> Result<()> {
    let named =
        spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or("rprivate");
    let kind = match named {
        "private" | "rprivate" | "" => MountPropagationFlags::PRIVATE,
        "slave" | "rslave" | "shared" | "rshared" => MountPropagationFlags::DOWNSTREAM,
        other => {
            return Err(Error::invalid(
                "set the root's propagation",
                other,
                "expected private, slave or shared",
            ));
        }
    };
    mount_change("/", kind | MountPropagationFlags::REC).step("cut off", "the mounts of the machine")
}

/// Attaches every mount, in order.
pub(super) fn attach_all(root: &Root, mounts: Vec<Prepared<'_>>) -> Result<()> {
    mounts.iter().try_for_each(|prepared| match prepared.mount.typ().as_deref() {
        _ if prepared.options.bind => attach_bind(root, prepared),
        Some("cgroup" | "cgroup2") => attach_cgroup(root, prepared),
        _ => attach_new(root, prepared),
    })
}

fn attach_bind(root: &Root, prepared: &Prepared<'_>) -> Result<()> {
    let Some((_, source)) = prepared.sources.first() else { return Ok(()) };
    let destination = prepared.mount.destination();
    let kind = rustix::fs::fstat(source).step("look at the source of", destination.display())?;
    let target = if FileType::from_raw_mode(kind.st_mode) == FileType::Directory {
        files::folder(root.0.as_fd(), destination, false)?
    } else {
        files::file(root.0.as_fd(), destination, false)?
    };
    let propagation = prepared.options.propagation.unwrap_or(libc::MS_PRIVATE);
    sys::mount_setattr(
        source.as_fd(),
        prepared.options.recursive,
        prepared.options.set,
        prepared.options.clear,
        propagation,
    )
    .step("set the options of the mount at", destination.display())?;
    put(source.as_fd(), target.as_fd()).step("mount at", destination.display())
}

/// Shows the container its own part of the cgroup hierarchies.
fn attach_cgroup(root: &Root, prepared: &Prepared<'_>) -> Result<()> {
    let destination = prepared.mount.destination();
    let target = files::folder(root.0.as_fd(), destination, true)?;
    let put_one = |source: &OwnedFd, target: BorrowedFd<'_>| {
        put(source.as_fd(), target).step("mount at", destination.display())
    };
    let [(name, source), ..] = prepared.sources.as_slice() else { return Ok(()) };
    if name.is_empty() {
        sys::mount_setattr(source.as_fd(), false, prepared.options.set, 0, 0)
            .step("protect", destination.display())?;
        return put_one(source, target.as_fd());
    }
    let shelf = create("tmpfs", &["mode=755".to_owned()], FLAGS_PLAIN)
        .step("create the file system for", destination.display())?;
    put(shelf.as_fd(), target.as_fd()).step("mount at", destination.display())?;
    for (name, source) in &prepared.sources {
        rustix::fs::mkdirat(&shelf, *name, Mode::from_raw_mode(0o755))
            .step("make the folder for cgroup", name)?;
        let place = rustix::fs::openat(&shelf, *name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .step("open", name)?;
        put_one(source, place.as_fd())?;
    }
    sys::mount_setattr(shelf.as_fd(), true, prepared.options.set | FLAGS_PLAIN, 0, 0)
        .step("protect", destination.display())
}

/// `nosuid,nodev,noexec`.
const FLAGS_PLAIN: u64 = libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

/// File systems made for the container.
const KINDS: [&str; 5] = ["proc", "sysfs", "tmpfs", "devpts", "mqueue"];

fn attach_new(root: &Root, prepared: &Prepared<'_>) -> Result<()> {
    let destination = prepared.mount.destination();
    let kind = prepared.mount.typ().as_deref().unwrap_or("none");
    if !KINDS.contains(&kind) {
        return Err(Error::invalid(
            "mount",
            destination.display(),
            format_args!("file systems of type '{kind}' are not supported"),
        ));
    }
    // An image whose /proc or /sys is a link could otherwise have them mounted over by something else.
    let plain = matches!(kind, "proc" | "sysfs");
    let target = files::folder(root.0.as_fd(), destination, plain)?;
    let made = create(kind, &prepared.options.data, prepared.options.set)
        .step("create the file system for", format_args!("{} ({kind})", destination.display()))?;
    put(made.as_fd(), target.as_fd()).step("mount at", destination.display())
}

/// A new file system, mounted nowhere yet.
fn create(kind: &str, data: &[String], attributes: u64) -> Result<OwnedFd, Errno> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    for option in data {
        match option.split_once('=') {
            Some((key, value)) => fsconfig_set_string(fs.as_fd(), key, value)?,
            // Every instance is a new one since Linux 4.7.
            None if option == "newinstance" => {}
            None => fsconfig_set_flag(fs.as_fd(), option.as_str())?,
        }
    }
    fsconfig_create(fs.as_fd())?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes as u32))
}

fn put(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
    let both = MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH | MoveMountFlags::MOVE_MOUNT_T_EMPTY_PATH;
    move_mount(mount, "", target, "", both)
}

/// Binds the machine's `source` (opened before) at `destination`, a file.
pub(super) fn put_file(root: &Root, source: BorrowedFd<'_>, destination: &Path) -> Result<()> {
    let flags =
        OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC | OpenTreeFlags::AT_EMPTY_PATH;
    let copy = open_tree(source, "", flags).step("open the mount source for", destination.display())?;
    let target = files::file(root.0.as_fd(), destination, true)?;
    put(copy.as_fd(), target.as_fd()).step("mount at", destination.display())
}

/// Kernel settings of the container, written through a fresh `/proc` that nothing in the image can have replaced.
pub(super) fn set_sysctls(spec: &Spec) -> Result<()> {
    let Some(settings) = spec.linux().as_ref().and_then(|linux| linux.sysctl().as_ref()) else {
        return Ok(());
    };
    write_sysctls(settings.iter())
}

/// Writes kernel settings by dotted name. Only those of a namespace a container has.
pub(crate) fn write_sysctls<'a>(settings: impl Iterator<Item = (&'a String, &'a String)>) -> Result<()> {
    let mut proc = None;
    for (name, value) in settings {
        let own = name.starts_with("net.")
            || name.starts_with("fs.mqueue.")
            || ["kernel.msg", "kernel.sem", "kernel.shm"].iter().any(|prefix| name.starts_with(prefix));
        if !own || name.contains("..") {
            return Err(Error::invalid(
                "set the kernel setting",
                name,
                "it is not one of a container's own namespaces",
            ));
        }
        if proc.is_none() {
            proc = Some(create("proc", &[], FLAGS_PLAIN).step("create the file system for", "/proc")?);
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

fn make_readonly(root: &Root, path: &Path) -> Result<()> {
    let Some(target) = files::find(root.0.as_fd(), path, true)? else { return Ok(()) };
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
    let Some(target) = files::find(root.0.as_fd(), path, true)? else { return Ok(()) };
    let kind = rustix::fs::fstat(&target).step("look at", path.display())?;
    let copied = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let cover = if FileType::from_raw_mode(kind.st_mode) == FileType::Directory {
        let first = match empty.take() {
            Some(first) => first,
            None => create(
                "tmpfs",
                &["size=0k".to_owned(), "mode=555".to_owned()],
                FLAGS_PLAIN | libc::MOUNT_ATTR_RDONLY,
            )
            .step("create the cover for", path.display())?,
        };
        let copy = open_tree(&first, "", copied | OpenTreeFlags::AT_EMPTY_PATH);
        *empty = Some(first);
        // Kernels before 6.15 cannot copy what is mounted nowhere.
        copy.or_else(|_| create("tmpfs", &["size=0k".to_owned()], FLAGS_PLAIN | libc::MOUNT_ATTR_RDONLY))
    } else {
        // The machine's own device: the root has not been changed yet, so that the image cannot have put another in its place.
        open_tree(CWD, "/dev/null", copied)
    };
    cover.and_then(|cover| put(cover.as_fd(), target.as_fd())).step("hide", path.display())
}
