//! The root file system: an overlay, attached in the container's own mount namespace only, so that it goes with its last process.

use std::{
    os::fd::{AsFd, AsRawFd, BorrowedFd, OwnedFd},
    path::Path,
};

use oci_spec::runtime::Spec;
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MountPropagationFlags, MoveMountFlags,
        UnmountFlags, fsconfig_create, fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, mount_change,
        move_mount, unmount,
    },
};

use super::mounts;
use crate::{
    config::{ContainerConfig, RootFs},
    error::{Context, Error, Result},
    sys,
};

/// The container's root, mounted and open.
pub(super) struct Root(pub(super) OwnedFd);

/// A root file system that is mounted nowhere yet; nothing where the kernel is too old for that.
pub(super) struct Unmounted(Option<OwnedFd>);

/// Makes the overlay of the container with its writable layer in `folder`, or a copy of the mount of its plain root folder.
/// With `users` what lies in the layers is shown with the owners as that user namespace has them, so that its root is root there.
pub(super) fn open(
    config: &ContainerConfig,
    folder: &Path,
    users: Option<BorrowedFd<'_>>,
) -> Result<Unmounted> {
    if config.root.lower.is_empty() {
        return open_plain(&config.spec).map(Some).map(Unmounted);
    }
    let layers = Layers::open(&config.root, folder, users)?;
    match overlay(&layers, config.root.volatile) {
        Ok(mount) => Ok(Unmounted(Some(mount))),
        // Kernels before 6.5 have no `lowerdir+`.
        Err(Errno::INVAL) => Ok(Unmounted(None)),
        Err(error) => Err(error).step("mount the root file system of", subject(&config.root)),
    }
}

fn open_plain(spec: &Spec) -> Result<OwnedFd> {
    let path = spec.root().as_ref().map_or(Path::new(""), |root| root.path().as_path());
    if !path.is_absolute() {
        return Err(Error::invalid("mount the root file system", path.display(), "no layer is given"));
    }
    let copy = mounts::clone_of(path, true)?;
    // A mount that others see the changes of cannot become the root.
    let kind = match mounts::propagation(spec)? {
        MountPropagationFlags::PRIVATE | MountPropagationFlags::UNBINDABLE => libc::MS_PRIVATE,
        _ => libc::MS_SLAVE,
    };
    sys::mount_setattr(copy.as_fd(), true, 0, 0, kind).step("cut off", path.display())?;
    Ok(copy)
}

/// Attaches the root in this process's mounts.
pub(super) fn attach(made: Unmounted, config: &ContainerConfig, folder: &Path, mapped: bool) -> Result<Root> {
    let step =
        |result: Result<(), Errno>| result.step("mount the root file system of", subject(&config.root));
    let target = folder.join("rootfs");
    match made.0 {
        Some(mount) => {
            // A process in a user namespace of its own may not get as far as the folder; and a plain root has none.
            let plain = mapped || config.root.lower.is_empty();
            let at = if plain { Path::new("/") } else { &target };
            step(move_mount(&mount, "", CWD, at, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH))?;
            Ok(Root(mount))
        }
        None if mapped => step(Err(Errno::NOSYS)).and_then(|()| Root::at(&target)),
        None => {
            let layers = Layers::open(&config.root, folder, None)?;
            step(overlay_at_once(&layers, config.root.volatile, &target))?;
            Root::at(&target)
        }
    }
}

fn subject(root: &RootFs) -> String {
    root.lower.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":")
}

/// The folders of an overlay, open.
struct Layers {
    lower: Vec<OwnedFd>,
    upper: OwnedFd,
    work: OwnedFd,
}

impl Layers {
    fn open(root: &RootFs, folder: &Path, users: Option<BorrowedFd<'_>>) -> Result<Self> {
        let open = |path: &Path| {
            rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
                .step("open the layer", path.display())
        };
        let shown = |path: &Path| match users {
            Some(users) => {
                let copy = mounts::clone_of(path, false)?;
                sys::mount_map_users(copy.as_fd(), false, users).step("id-map the layer", path.display())?;
                Ok(copy)
            }
            None => open(path),
        };
        let lower =
            RootFs::distinct(&root.lower).into_iter().map(|path| shown(path)).collect::<Result<_>>()?;
        // The kernel wants the writable folders below an attached mount: what is written there has the owners it has.
        Ok(Self { lower, upper: open(&folder.join("upper"))?, work: open(&folder.join("work"))? })
    }
}

/// A short name for an open folder: layer paths may be longer than the kernel's 255 bytes for an option.
fn name_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn overlay(layers: &Layers, volatile: bool) -> Result<OwnedFd, Errno> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in &layers.lower {
        fsconfig_set_string(fs.as_fd(), "lowerdir+", name_of(layer))?;
    }
    fsconfig_set_string(fs.as_fd(), "upperdir", name_of(&layers.upper))?;
    fsconfig_set_string(fs.as_fd(), "workdir", name_of(&layers.work))?;
    if volatile {
        fsconfig_set_flag(fs.as_fd(), "volatile")?;
    }
    if sys::in_user_namespace() {
        fsconfig_set_flag(fs.as_fd(), "userxattr")?;
    }
    fsconfig_create(fs.as_fd())?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn overlay_at_once(layers: &Layers, volatile: bool, target: &Path) -> Result<(), Errno> {
    let lower = layers.lower.iter().map(name_of).collect::<Vec<_>>().join(":");
    let volatile = if volatile { ",volatile" } else { "" };
    let notes = if sys::in_user_namespace() { ",userxattr" } else { "" };
    let (upper, work) = (name_of(&layers.upper), name_of(&layers.work));
    let options = format!("lowerdir={lower},upperdir={upper},workdir={work}{volatile}{notes}");
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())
}

impl Root {
    fn at(target: &Path) -> Result<Self> {
        rustix::fs::open(target, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .map(Self)
            .step("open the root file system", target.display())
    }

    /// Makes it the root of this process and drops the machine's.
    pub(super) fn pivot(&self, spec: &Spec) -> Result<()> {
        rustix::process::fchdir(&self.0).step("enter", "the root file system")?;
        rustix::process::pivot_root(".", ".").step("change to", "the root file system")?;
        // The old root now lies on top of the new one.
        unmount(".", UnmountFlags::DETACH).step("drop", "the machine's file systems")?;
        rustix::process::chdir("/").step("enter", "the root file system")?;
        let kind = mounts::propagation(spec)?;
        if matches!(kind, MountPropagationFlags::SHARED | MountPropagationFlags::UNBINDABLE) {
            mount_change("/", kind).step("set the root's propagation", "/")?;
        }
        if spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)) {
            let root =
                rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step("open", "/")?;
            sys::mount_setattr(root.as_fd(), false, libc::MOUNT_ATTR_RDONLY, 0, 0)
                .step("make read-only", "/")?;
        }
        Ok(())
    }
}
