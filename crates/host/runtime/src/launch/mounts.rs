//! The file systems of a container besides its root, and what of them is hidden or read-only.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use oci_spec::runtime::{LinuxNamespaceType as Kind, Mount, Spec};
use rustix::{
    fs::{CWD, FileType, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountPropagationFlags, MoveMountFlags, OpenTreeFlags,
        fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change, move_mount,
        open_tree,
    },
};

use super::{
    copy_up, files,
    namespaces::{self, Namespaces, Owner},
    options::{self, Options},
    root::Root,
};
use crate::{
    cgroup::{Cgroup, has_cgroups},
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

impl Prepared<'_> {
    /// What the kernel does not look at, for the author of the specification.
    pub(super) fn warning(&self) -> Option<String> {
        let unknown = self.options.data.first().filter(|_| self.options.bind)?;
        Some(format!(
            "the option '{unknown}' of the mount at {} has no effect",
            self.mount.destination().display()
        ))
    }
}

/// Takes hold of everything that is mounted from the machine.
pub(super) fn open_sources<'a>(
    spec: &'a Spec,
    config: &ContainerConfig,
    namespaces: &Namespaces,
) -> Result<Vec<Prepared<'a>>> {
    let mounts = spec.mounts().iter().flatten();
    mounts.filter_map(|mount| prepare(mount, spec, config, namespaces).transpose()).collect()
}

/// Whether a mount of the specification can be prepared only by a process outside the container's user namespace.
pub(super) fn any_maps_users(spec: &Spec) -> bool {
    spec.mounts().iter().flatten().any(|mount| options::parse(mount).map_users)
}

/// None where there is nothing to mount.
fn prepare<'a>(
    mount: &'a Mount,
    spec: &Spec,
    config: &ContainerConfig,
    namespaces: &Namespaces,
) -> Result<Option<Prepared<'a>>> {
    let options = options::parse(mount);
    let destination = mount.destination();
    let refuse = |what: std::fmt::Arguments<'_>| Err(Error::invalid("mount", destination.display(), what));
    let kind = mount.typ().as_deref().unwrap_or("none");
    let mut sources = Vec::new();
    if options.copy_up && kind != "tmpfs" {
        return refuse(format_args!("'tmpcopyup' is for mounts of type 'tmpfs'"));
    }
    if options.map_users && !options.bind {
        return refuse(format_args!("only a mount of a folder or file can be id-mapped"));
    }
    if options.bind {
        if let (Some(unknown), Owner::Pod) = (options.data.first(), namespaces.owner) {
            return refuse(format_args!("unknown option '{unknown}'"));
        }
        let source = mount
            .source()
            .as_deref()
            .ok_or_else(|| Error::invalid("mount", destination.display(), "it has no source"))?;
        let copy = clone_of(source, options.recursive)?;
        if options.map_users {
            map_users(&copy, mount, spec, &options)?;
        }
        sources.push(("", copy));
    } else if matches!(kind, "cgroup" | "cgroup2") {
        let path =
            spec.linux().as_ref().and_then(|linux| linux.cgroups_path().as_deref()).unwrap_or(Path::new(""));
        for (name, folder) in Cgroup::at(&path.to_string_lossy())?.folders() {
            sources.push((name, clone_of(&folder, false)?));
        }
        if sources.is_empty() && has_cgroups() {
            return Err(Error::invalid("mount the cgroup of", &config.name, "it has none"));
        }
    } else if namespaces.maps_users() && owned_outside(kind, namespaces) {
        // The kernel lets only the owner of the network (or of the queues) mount these.
        sources.push((
            "",
            create(kind, None, &options).step("create the file system for", destination.display())?,
        ));
    } else if let Some(machines) = machines(kind, namespaces) {
        let made = match create(kind, None, &options) {
            // The machine's processes or queues, and it is not this user namespace that owns them.
            // They can be used without being seen.
            Err(Errno::PERM) if kind == "mqueue" && !machines.exists() => return Ok(None),
            Err(Errno::PERM) => shown(machines, &options)?,
            made => made.step("create the file system for", destination.display())?,
        };
        sources.push(("", made));
    }
    Ok(Some(Prepared { mount, options, sources }))
}

/// Whether the namespace that file systems of this kind show belongs to those outside the container's user namespace.
fn owned_outside(kind: &str, namespaces: &Namespaces) -> bool {
    match kind {
        "sysfs" => !namespaces.has(Kind::Network),
        "mqueue" => !namespaces.has(Kind::Ipc),
        _ => false,
    }
}

/// Where the machine shows what a file system of this kind would show somebody in a user namespace who shares it with the machine.
fn machines(kind: &str, namespaces: &Namespaces) -> Option<&'static Path> {
    let (owner, path) = match kind {
        "proc" => (Kind::Pid, "/proc"),
        "mqueue" => (Kind::Ipc, "/dev/mqueue"),
        _ => return None,
    };
    (sys::in_user_namespace() && !namespaces.has(owner)).then_some(Path::new(path))
}

/// A copy of one of the machine's own mounts with more options.
fn shown(path: &Path, options: &Options) -> Result<OwnedFd> {
    let copy = clone_of(path, true)?;
    sys::mount_setattr(copy.as_fd(), true, options.deep.set, 0, 0)
        .step("set the options of the copy of", path.display())?;
    Ok(copy)
}

/// Lets the mount show the owners of its files as its own mapping says, or else as the container's does.
fn map_users(copy: &OwnedFd, mount: &Mount, spec: &Spec, options: &Options) -> Result<()> {
    let subject = mount.destination().display();
    let (uids, gids) = match (mount.uid_mappings(), mount.gid_mappings()) {
        (Some(uids), Some(gids)) if !uids.is_empty() && !gids.is_empty() => {
            (uids.as_slice(), gids.as_slice())
        }
        (None, None) => namespaces::mappings_of(spec),
        _ => {
            return Err(Error::invalid(
                "id-map the mount at",
                subject,
                "it needs uidMappings and gidMappings",
            ));
        }
    };
    if uids.is_empty() || gids.is_empty() {
        return Err(Error::invalid(
            "id-map the mount at",
            subject,
            "neither it nor the container has mappings",
        ));
    }
    let users = namespaces::for_mount(uids, gids)?;
    sys::mount_map_users(copy.as_fd(), options.map_deep, users.as_fd()).step("id-map the mount at", subject)
}

/// A detached copy of the mount at `path`.
pub(super) fn clone_of(path: &Path, recursive: bool) -> Result<OwnedFd> {
    let flags = OpenTreeFlags::OPEN_TREE_CLONE | OpenTreeFlags::OPEN_TREE_CLOEXEC;
    let flags = if recursive { flags | OpenTreeFlags::AT_RECURSIVE } else { flags };
    open_tree(CWD, path, flags).step("open the mount source", path.display())
}

/// Cuts this process's mounts off from the machine's. Mounts the machine makes later come through only when some mount asks for it.
pub(super) fn cut_off(spec: &Spec) -> Result<()> {
    let kind = match propagation(spec)? {
        MountPropagationFlags::PRIVATE | MountPropagationFlags::UNBINDABLE => MountPropagationFlags::PRIVATE,
        _ => MountPropagationFlags::DOWNSTREAM,
    };
    mount_change("/", kind | MountPropagationFlags::REC).step("cut off", "the mounts of the machine")
}

/// What the specification wants of the root's mount.
pub(super) fn propagation(spec: &Spec) -> Result<MountPropagationFlags> {
    let named =
        spec.linux().as_ref().and_then(|linux| linux.rootfs_propagation().as_deref()).unwrap_or("rprivate");
    match named {
        "private" | "rprivate" | "" => Ok(MountPropagationFlags::PRIVATE),
        "slave" | "rslave" => Ok(MountPropagationFlags::DOWNSTREAM),
        "shared" | "rshared" => Ok(MountPropagationFlags::SHARED),
        "unbindable" | "runbindable" => Ok(MountPropagationFlags::UNBINDABLE),
        other => Err(Error::invalid(
            "set the root's propagation",
            other,
            "expected private, slave, shared or unbindable",
        )),
    }
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
    set_options(source.as_fd(), &prepared.options)
        .step("set the options of the mount at", destination.display())?;
    put(source.as_fd(), target.as_fd()).step("mount at", destination.display())
}

fn set_options(mount: BorrowedFd<'_>, options: &Options) -> io::Result<()> {
    let kind = options.propagation.unwrap_or(libc::MS_PRIVATE);
    let all_alike = options.propagation.is_none() || options.deep_propagation || !options.recursive;
    let deep = options.deep;
    let below = if all_alike { kind } else { libc::MS_PRIVATE };
    sys::mount_setattr(mount, options.recursive, deep.set, deep.clear, below)?;
    if options.top.is_empty() && all_alike {
        return Ok(());
    }
    sys::mount_setattr(mount, false, options.top.set, options.top.clear, if all_alike { 0 } else { kind })
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
        sys::mount_setattr(source.as_fd(), false, prepared.options.deep.set, 0, 0)
            .step("protect", destination.display())?;
        return put_one(source, target.as_fd());
    }
    let shelf =
        new("tmpfs", &["mode=755"], FLAGS_PLAIN).step("create the file system for", destination.display())?;
    put(shelf.as_fd(), target.as_fd()).step("mount at", destination.display())?;
    for (name, source) in &prepared.sources {
        rustix::fs::mkdirat(&shelf, *name, Mode::from_raw_mode(0o755))
            .step("make the folder for cgroup", name)?;
        let place = rustix::fs::openat(&shelf, *name, OFlags::PATH | OFlags::CLOEXEC, Mode::empty())
            .step("open", name)?;
        put_one(source, place.as_fd())?;
    }
    sys::mount_setattr(shelf.as_fd(), true, prepared.options.deep.set | FLAGS_PLAIN, 0, 0)
        .step("protect", destination.display())
}

/// `nosuid,nodev,noexec`.
pub(super) const FLAGS_PLAIN: u64 =
    libc::MOUNT_ATTR_NOSUID | libc::MOUNT_ATTR_NODEV | libc::MOUNT_ATTR_NOEXEC;

fn attach_new(root: &Root, prepared: &Prepared<'_>) -> Result<()> {
    let destination = prepared.mount.destination();
    let kind = prepared.mount.typ().as_deref().unwrap_or("none");
    // An image whose /proc or /sys is a link could otherwise have them mounted over by something else.
    let plain = matches!(kind, "proc" | "sysfs");
    let target = files::folder(root.0.as_fd(), destination, plain)?;
    if let Some((_, made)) = prepared.sources.first() {
        return put(made.as_fd(), target.as_fd()).step("mount at", destination.display());
    }
    let made = create(kind, prepared.mount.source().as_deref(), &prepared.options)
        .step("create the file system for", format_args!("{} ({kind})", destination.display()))?;
    if prepared.options.copy_up {
        copy_up::copy(&target, &made, prepared.options.deep).step("copy to", destination.display())?;
    }
    if let Some(kind) = prepared.options.propagation {
        sys::mount_setattr(made.as_fd(), false, 0, 0, kind)
            .step("set the propagation of", destination.display())?;
    }
    put(made.as_fd(), target.as_fd()).step("mount at", destination.display())
}

/// A new file system as a mount's options say, mounted nowhere yet.
fn create(kind: &str, source: Option<&Path>, options: &Options) -> Result<OwnedFd, Errno> {
    let data: Vec<&str> = options.data.iter().map(String::as_str).collect();
    // A copy of what was there has to be written first.
    let set = if options.copy_up { options.deep.set & !libc::MOUNT_ATTR_RDONLY } else { options.deep.set };
    match make(kind, source, &data, set) {
        // The group of terminals is nobody in a user namespace that has only its owner.
        Err(Errno::INVAL) if kind == "devpts" && sys::in_user_namespace() => {
            let data: Vec<&str> = data.into_iter().filter(|option| !option.starts_with("gid=")).collect();
            make(kind, source, &data, set)
        }
        other => other,
    }
}

/// A new file system of memory.
pub(super) fn new(kind: &str, data: &[&str], attributes: u64) -> Result<OwnedFd, Errno> {
    make(kind, None, data, attributes)
}

fn make(kind: &str, source: Option<&Path>, data: &[&str], attributes: u64) -> Result<OwnedFd, Errno> {
    let fs = fsopen(kind, FsOpenFlags::FSOPEN_CLOEXEC)?;
    if let Some(source) = source {
        fsconfig_set_string(fs.as_fd(), "source", source)?;
    }
    for option in data {
        match option.split_once('=') {
            Some(("lowerdir", folders)) if kind == "overlay" && folders.len() > MOST => {
                set_layers(fs.as_fd(), folders)?;
            }
            Some((key, value)) => fsconfig_set_string(fs.as_fd(), key, value)?,
            // Every instance is a new one since Linux 4.7.
            None if *option == "newinstance" => {}
            None => fsconfig_set_flag(fs.as_fd(), *option)?,
        }
    }
    fsconfig_create(fs.as_fd())?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::from_bits_retain(attributes as u32))
}

/// The longest text of an option, in bytes (fsconfig(2)).
const MOST: usize = 255;

/// Names the layers of an overlay one by one, which takes Linux 6.5.
fn set_layers(fs: BorrowedFd<'_>, folders: &str) -> Result<(), Errno> {
    // What is escaped, and layers of data alone, are written only at once.
    if folders.contains('\\') || folders.contains("::") {
        return Err(Errno::NAMETOOLONG);
    }
    folders.split(':').try_for_each(|folder| fsconfig_set_string(fs, "lowerdir+", folder))
}

pub(super) fn put(mount: BorrowedFd<'_>, target: BorrowedFd<'_>) -> Result<(), Errno> {
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
