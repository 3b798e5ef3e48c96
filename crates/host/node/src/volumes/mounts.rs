//! What a container sees of its pod's volumes and files.

use std::{
    collections::BTreeSet,
    fs, io,
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, PermissionsExt},
    },
    path::{Component, Path, PathBuf},
};

use rustix::{
    fs::{CWD, FileType, Mode, OFlags, ResolveFlags, openat2},
    io::Errno,
    mount::{MoveMountFlags, OpenTreeFlags, UnmountFlags, move_mount, open_tree, unmount},
};
use wharf_runtime::{mount, oci::Mount};

use super::{Mounted, Volumes};
use crate::{
    env::{Env, config_error, expand},
    model::{Container, VolumeMount},
    spec::run_name,
    step::Reason,
};

/// The mounts of one run of a container. The subpaths among them are held until this is dropped: once the container has been created
/// it has its own.
pub(crate) struct ContainerMounts {
    pub(crate) mounts: Vec<Mount>,
    _held: Held,
}

/// Subpaths bound to places nothing in a container can change.
#[derive(Default)]
struct Held(Vec<PathBuf>);

impl Drop for Held {
    fn drop(&mut self) {
        for place in &self.0 {
            // What stays goes with the pod.
            let _ = unmount(place, UnmountFlags::DETACH);
            let _ = fs::remove_file(place).or_else(|_| fs::remove_dir(place));
        }
    }
}

/// Describes a container's mounts: the pod's files, the place for its last words, and its volumes. Places the image declares as data need
/// none: what is written there goes with the container, as everything it writes.
pub(crate) fn container_mounts(
    volumes: &Volumes,
    container: &Container,
    attempt: u32,
    env: &Env,
    folder: &Path,
) -> Result<ContainerMounts, Reason> {
    let mut held = Held::default();
    let own: BTreeSet<&str> =
        container.volume_mounts.iter().map(|m| m.mount_path.trim_end_matches('/')).collect();
    let mut mounts = Vec::new();
    for name in ["hosts", "hostname", "resolv.conf"] {
        let place = format!("/etc/{name}");
        if !own.contains(place.as_str()) {
            mounts.push(bind(&folder.join("etc").join(name), &place, &[])?);
        }
    }
    let io = |what: &str, error: io::Error| Reason::new("CreateContainerError", format!("{what}: {error}"));
    if !container.termination_message_path.is_empty() {
        let file = termination_file(folder, &container.name, attempt);
        make_termination_file(&file).map_err(|error| io("the termination message's file", error))?;
        mounts.push(bind(&file, &container.termination_message_path, &[])?);
    }
    for (index, wanted) in container.volume_mounts.iter().enumerate() {
        let volume = volumes.known.get(&wanted.name);
        let volume = volume.ok_or_else(|| {
            config_error(format!("container {}: volume {:?} not found", container.name, wanted.name))
        })?;
        let sub = match (wanted.sub_path.as_str(), wanted.sub_path_expr.as_str()) {
            ("", "") => String::new(),
            ("", expr) => expand(expr, env),
            (path, _) => path.to_owned(),
        };
        let source = match sub.as_str() {
            "" => volume.path.clone(),
            sub => {
                let place =
                    folder.join("subpaths").join(run_name(&container.name, attempt)).join(index.to_string());
                hold(volume, sub, &place, &mut held).map_err(|error| {
                    let message =
                        format!("failed to prepare subPath {sub:?} of volume {:?}: {error}", wanted.name);
                    config_error(message)
                })?;
                place
            }
        };
        mounts.push(bind(&source, &wanted.mount_path, &options(volume, wanted, container)?)?);
    }
    Ok(ContainerMounts { mounts, _held: held })
}

fn options(
    volume: &Mounted,
    wanted: &VolumeMount,
    container: &Container,
) -> Result<Vec<&'static str>, Reason> {
    let mut options = Vec::new();
    if wanted.read_only || volume.read_only {
        // With everything below it: safer than what Kubernetes promises.
        options.push("rro");
    }
    match wanted.mount_propagation.as_str() {
        "" | "None" => options.push("rprivate"),
        "HostToContainer" => options.push("rslave"),
        "Bidirectional" if container.security_context.privileged => options.push("rshared"),
        other => {
            let message =
                format!("mountPropagation {other} of volume {:?} needs a privileged container", wanted.name);
            return Err(config_error(message));
        }
    }
    Ok(options)
}

fn bind(source: &Path, destination: &str, options: &[&str]) -> Result<Mount, Reason> {
    let options = [&["rbind"], options].concat();
    let made = mount(destination, "bind", &source.to_string_lossy(), &options);
    made.map_err(|error| config_error(error.to_string()))
}

/// Where a run of a container leaves its last words.
pub(crate) fn termination_file(folder: &Path, container: &str, attempt: u32) -> PathBuf {
    folder.join("termination").join(run_name(container, attempt))
}

fn make_termination_file(file: &Path) -> io::Result<()> {
    if let Some(parent) = file.parent() {
        fs::create_dir_all(parent)?;
    }
    fs::write(file, "")?;
    // Any user of the container may write to it.
    fs::set_permissions(file, fs::Permissions::from_mode(0o666))
}

/// Finds `sub` inside the volume, whatever links a container has put there, and binds it to `place`.
fn hold(volume: &Mounted, sub: &str, place: &Path, held: &mut Held) -> io::Result<()> {
    let parts: Vec<&std::ffi::OsStr> = Path::new(sub)
        .components()
        .map(|part| match part {
            Component::Normal(name) => Ok(name),
            _ => Err(io::Error::other("it must be a relative path without '..'")),
        })
        .collect::<Result<_, _>>()?;
    let found = inside(&volume.path, &parts, !volume.read_only)?;
    if let Some(parent) = place.parent() {
        fs::create_dir_all(parent)?;
    }
    let kind = FileType::from_raw_mode(rustix::fs::fstat(&found)?.st_mode);
    match kind {
        FileType::Directory => fs::DirBuilder::new().recursive(true).mode(0o755).create(place)?,
        _ => fs::write(place, "")?,
    }
    let flags = OpenTreeFlags::OPEN_TREE_CLONE
        | OpenTreeFlags::OPEN_TREE_CLOEXEC
        | OpenTreeFlags::AT_EMPTY_PATH
        | OpenTreeFlags::AT_RECURSIVE;
    let copy = open_tree(&found, "", flags)?;
    move_mount(copy.as_fd(), "", CWD, place, MoveMountFlags::MOVE_MOUNT_F_EMPTY_PATH)?;
    held.0.push(place.to_owned());
    Ok(())
}

/// Opens a path below a volume without leaving it; folders that are missing are made where allowed.
fn inside(volume: &Path, parts: &[&std::ffi::OsStr], make: bool) -> io::Result<OwnedFd> {
    let folder = OFlags::PATH | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let root = rustix::fs::open(volume, folder, Mode::empty())?;
    let mode = rustix::fs::fstat(&root)?.st_mode & 0o7777;
    let resolve = ResolveFlags::BENEATH | ResolveFlags::NO_MAGICLINKS;
    let open = |path: &Path| openat2(&root, path, OFlags::PATH | OFlags::CLOEXEC, Mode::empty(), resolve);
    let whole: PathBuf = parts.iter().collect();
    match open(&whole) {
        Err(Errno::NOENT) if make => {}
        Err(Errno::XDEV) => return Err(io::Error::other("it leads out of the volume")),
        other => return Ok(other?),
    }
    let mut path = PathBuf::new();
    let mut parent = root.try_clone()?;
    for name in parts {
        path.push(name);
        parent = match open(&path) {
            Err(Errno::NOENT) => {
                rustix::fs::mkdirat(&parent, *name, Mode::from_raw_mode(0o700))?;
                let plain = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
                let made =
                    openat2(&parent, *name, plain, Mode::empty(), resolve | ResolveFlags::NO_SYMLINKS)?;
                // As open as the volume itself, whatever the agent's umask.
                rustix::fs::fchmod(&made, Mode::from_raw_mode(mode))?;
                made
            }
            other => other?,
        };
    }
    Ok(parent)
}

#[cfg(test)]
mod tests {
    use std::os::unix::fs::symlink;

    use super::*;

    #[test]
    fn subpaths_stay_inside_their_volume() {
        let folder = tempfile::tempdir().unwrap();
        let volume = folder.path().join("volume");
        fs::create_dir_all(volume.join("real")).unwrap();
        fs::write(folder.path().join("secret"), "").unwrap();
        symlink("real", volume.join("good")).unwrap();
        symlink("../secret", volume.join("up")).unwrap();
        symlink("/etc", volume.join("away")).unwrap();
        for (path, make, fine) in [
            ("real", false, true),
            ("good", false, true),
            ("good/new/deep", true, true),
            ("missing", false, false),
            ("up", true, false),
            ("away/passwd", true, false),
        ] {
            let parts: Vec<_> = Path::new(path).iter().collect();
            assert_eq!(inside(&volume, &parts, make).is_ok(), fine, "{path}");
        }
        assert!(volume.join("real/new/deep").is_dir());
    }
}
