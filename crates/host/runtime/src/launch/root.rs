//! The root file system: an overlay, attached in the container's own mount namespace only, so that it goes with its last process.

use std::{
    os::fd::{AsFd, AsRawFd, OwnedFd},
    path::Path,
};

use oci_spec::runtime::Spec;
use rustix::{
    fs::{CWD, Mode, OFlags},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, MountFlags, MoveMountFlags, UnmountFlags, fsconfig_create,
        fsconfig_set_flag, fsconfig_set_string, fsmount, fsopen, move_mount, unmount,
    },
};

use crate::{
    config::RootFs,
    error::{Context, Error, Result},
    sys,
};

/// The container's root, mounted and open.
pub(super) struct Root(pub(super) OwnedFd);

/// Mounts the overlay of `config` with its writable layer in `folder`.
pub(super) fn mount(config: &RootFs, folder: &Path) -> Result<Root> {
    let open = |path: &Path| {
        rustix::fs::open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
            .step("open the layer", path.display())
    };
    if config.lower.is_empty() {
        return Err(Error::invalid("mount the root file system", "", "no layer is given"));
    }
    let lower: Vec<OwnedFd> = config.lower.iter().map(|path| open(path)).collect::<Result<_>>()?;
    let (upper, work) = (open(&folder.join("upper"))?, open(&folder.join("work"))?);
    let target = folder.join("rootfs");
    let subject = config.lower.iter().map(|path| path.display().to_string()).collect::<Vec<_>>().join(":");
    match overlay(&lower, &upper, &work, config.volatile) {
        Ok(mount) => move_mount(&mount, "", CWD, &target, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH),
        // Kernels before 6.5 have no `lowerdir+`.
        Err(Errno::INVAL) => overlay_at_once(&lower, &upper, &work, config.volatile, &target),
        Err(error) => Err(error),
    }
    .step("mount the root file system of", subject)?;
    let root = rustix::fs::open(&target, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty())
        .step("open the root file system", target.display())?;
    Ok(Root(root))
}

/// A short name for an open folder: layer paths may be longer than the kernel's 255 bytes for an option.
fn name_of(fd: &OwnedFd) -> String {
    format!("/proc/self/fd/{}", fd.as_raw_fd())
}

fn overlay(lower: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd, volatile: bool) -> Result<OwnedFd, Errno> {
    let fs = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        fsconfig_set_string(fs.as_fd(), "lowerdir+", name_of(layer))?;
    }
    fsconfig_set_string(fs.as_fd(), "upperdir", name_of(upper))?;
    fsconfig_set_string(fs.as_fd(), "workdir", name_of(work))?;
    if volatile {
        fsconfig_set_flag(fs.as_fd(), "volatile")?;
    }
    fsconfig_create(fs.as_fd())?;
    fsmount(fs.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

fn overlay_at_once(
    lower: &[OwnedFd],
    upper: &OwnedFd,
    work: &OwnedFd,
    volatile: bool,
    target: &Path,
) -> Result<(), Errno> {
    let layers = lower.iter().map(name_of).collect::<Vec<_>>().join(":");
    let volatile = if volatile { ",volatile" } else { "" };
    let options =
        format!("lowerdir={layers},upperdir={},workdir={}{volatile}", name_of(upper), name_of(work));
    let options = std::ffi::CString::new(options).map_err(|_| Errno::INVAL)?;
    rustix::mount::mount("overlay", target, "overlay", MountFlags::empty(), options.as_c_str())
}

impl Root {
    /// Makes it the root of this process and drops the machine's.
    pub(super) fn pivot(&self, spec: &Spec) -> Result<()> {
        rustix::process::fchdir(&self.0).step("enter", "the root file system")?;
        rustix::process::pivot_root(".", ".").step("change to", "the root file system")?;
        // The old root now lies on top of the new one.
        unmount(".", UnmountFlags::DETACH).step("drop", "the machine's file systems")?;
        rustix::process::chdir("/").step("enter", "the root file system")?;
        if spec.root().as_ref().is_some_and(|root| root.readonly() == Some(true)) {
            let root =
                rustix::fs::open("/", OFlags::PATH | OFlags::CLOEXEC, Mode::empty()).step("open", "/")?;
            sys::mount_setattr(root.as_fd(), false, libc::MOUNT_ATTR_RDONLY, 0, 0)
                .step("make read-only", "/")?;
        }
        Ok(())
    }
}
