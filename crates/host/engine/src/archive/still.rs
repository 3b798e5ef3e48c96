//! The files of a container that does not run, to be written to: its layers in a mount nobody else sees, which goes with
//! the descriptor.

use std::{
    fs,
    os::{
        fd::{AsFd as _, AsRawFd as _, OwnedFd},
        unix::fs::{DirBuilderExt as _, MetadataExt as _, PermissionsExt as _},
    },
    path::{Path, PathBuf},
};

use rustix::{
    fs::{Mode, OFlags, open},
    io::Errno,
    mount::{
        FsMountFlags, FsOpenFlags, MountAttrFlags, fsconfig_create, fsconfig_set_string, fsmount, fsopen,
    },
};

use wharf_runtime::RootFs;

use crate::{
    MAIN,
    containers::{Container, Engine},
    error::{Error, IoContext as _, Result},
    image,
};

/// Opens the root file system of a container that does not run.
pub(super) fn root(engine: &Engine, container: &Container) -> Result<OwnedFd> {
    let lower = match &container.record.spec.rootfs {
        Some(folder) => vec![folder.clone()],
        None => image::resolve(engine.data(), &container.record.image_id)?.lower_dirs,
    };
    let folder = container.dir.container(MAIN);
    make_layers(&folder, &lower)?;
    let opened = |path: &Path| {
        open(path, OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC, Mode::empty()).at("open", path)
    };
    let distinct = RootFs::distinct(&lower).into_iter();
    let layers = distinct.map(|path| opened(path)).collect::<Result<Vec<_>>>()?;
    let (upper, work) = (opened(&folder.join("upper"))?, opened(&folder.join("work"))?);
    overlay(&layers, &upper, &work).map_err(|error| match error {
        // Kernels before 6.5 have no `lowerdir+`.
        Errno::INVAL => Error::conflict(format!("container {} is not running", container.name())).hint(
            "start it first: this kernel cannot open the files of containers that do not run for writing",
        ),
        error => Error::host(format!("cannot open the files of container {}: {error}", container.name())),
    })
}

/// Short names: layer paths may be longer than the kernel's 255 bytes for an option.
fn overlay(lower: &[OwnedFd], upper: &OwnedFd, work: &OwnedFd) -> std::result::Result<OwnedFd, Errno> {
    let name = |fd: &OwnedFd| format!("/proc/self/fd/{}", fd.as_raw_fd());
    let files = fsopen("overlay", FsOpenFlags::FSOPEN_CLOEXEC)?;
    for layer in lower {
        fsconfig_set_string(files.as_fd(), "lowerdir+", name(layer))?;
    }
    fsconfig_set_string(files.as_fd(), "upperdir", name(upper))?;
    fsconfig_set_string(files.as_fd(), "workdir", name(work))?;
    fsconfig_create(files.as_fd())?;
    fsmount(files.as_fd(), FsMountFlags::FSMOUNT_CLOEXEC, MountAttrFlags::empty())
}

/// The writable layer, as the runtime makes it at the first start: its root looks like the topmost layer's.
fn make_layers(folder: &Path, lower: &[PathBuf]) -> Result<()> {
    let upper = folder.join("upper");
    if upper.exists() {
        fs::create_dir_all(folder.join("work")).at("make the folder", folder)?;
        return Ok(());
    }
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).at("make the folder", folder)?;
    for name in ["upper", "work"] {
        let path = folder.join(name);
        fs::DirBuilder::new().mode(0o755).create(&path).at("make the folder", &path)?;
    }
    if let Some(top) = lower.first() {
        let found = fs::metadata(top).at("open", top)?;
        fs::set_permissions(&upper, fs::Permissions::from_mode(found.mode() & 0o7777))
            .and_then(|()| std::os::unix::fs::chown(&upper, Some(found.uid()), Some(found.gid())))
            .at("prepare the folder", &upper)?;
    }
    Ok(())
}
