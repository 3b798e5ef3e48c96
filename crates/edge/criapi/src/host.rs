//! What a container is given of this machine: mounts, devices, a filter from a file. Each is looked at before the container is described.

use std::{
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Component, Path, PathBuf},
};

use rustix::fs::{major, minor};
use wharf_image::ResolvedImage;
use wharf_runtime::{
    RootFs, mount,
    oci::{
        LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup, LinuxDeviceCgroupBuilder, LinuxDeviceType,
        LinuxSeccomp, Mount as OciMount,
    },
};

use crate::{
    grpc::{Failure, Result},
    spec,
    v1::{Device, Mount, MountPropagation},
};

/// Profiles of more than this are not read.
const MAX_PROFILE: u64 = 4 << 20;
/// Device nodes taken from one folder.
const MAX_DEVICES: usize = 4096;

fn bad(error: impl std::fmt::Display) -> Failure {
    Failure::invalid(error)
}

/// Whether pods can have user namespaces: somebody has to map ids of others, and layers to be shown with them.
pub(crate) fn user_namespaces() -> bool {
    let allowed = fs::read_to_string("/proc/sys/user/max_user_namespaces");
    let release = rustix::system::uname().release().to_string_lossy().into_owned();
    let mut numbers = release.split(['.', '-']).map_while(|part| part.parse::<u32>().ok());
    let version = (numbers.next().unwrap_or(0), numbers.next().unwrap_or(0));
    version >= (6, 5)
        && rustix::process::geteuid().is_root()
        && !wharf_runtime::in_user_namespace()
        && allowed.is_ok_and(|text| text.trim() != "0")
}

/// Where a mount goes: absolute.
fn target(path: &str) -> Result<PathBuf> {
    let path = Path::new("/").join(path);
    match path.components().any(|part| part == Component::ParentDir) {
        true => Err(Failure::invalid(format_args!("the mount's container_path {} has '..'", path.display()))),
        false => Ok(path),
    }
}

/// A mount of a file or folder of this machine, which is made as a folder where it is not there.
pub(crate) fn bind(asked: &Mount) -> Result<OciMount> {
    let source = Path::new(&asked.host_path);
    let shown = source.display();
    if !source.is_absolute() {
        return Err(Failure::invalid(format_args!("the mount's host_path '{shown}' is not absolute")));
    }
    let uids = spec::mappings("uid_mappings of a mount", &asked.uid_mappings)?;
    let gids = spec::mappings("gid_mappings of a mount", &asked.gid_mappings)?;
    if uids.is_empty() != gids.is_empty() {
        return Err(Failure::invalid(format_args!(
            "the mount of {shown} maps users or groups, and not both"
        )));
    }
    if !source.exists() {
        fs::create_dir_all(source)
            .map_err(|error| Failure::internal(format_args!("cannot make {shown}: {error}")))?;
    }
    let source = fs::canonicalize(source)
        .map_err(|error| Failure::internal(format_args!("cannot find {shown}: {error}")))?;
    let propagation = asked.propagation();
    let mut options = vec!["rbind"];
    options.push(match propagation {
        MountPropagation::Private => "rprivate",
        MountPropagation::HostToContainer => "rslave",
        MountPropagation::Bidirectional => "rshared",
    });
    options.push(match (asked.readonly, asked.recursive_read_only) {
        (false, true) => {
            return Err(Failure::invalid(format_args!(
                "the mount of {shown} is recursive_read_only but not readonly"
            )));
        }
        (true, true) if propagation != MountPropagation::Private => {
            return Err(Failure::invalid(format_args!(
                "the mount of {shown} is recursive_read_only, which needs PROPAGATION_PRIVATE"
            )));
        }
        (true, true) => "rro",
        (true, false) => "ro",
        (false, false) => "rw",
    });
    check_propagation(&source, propagation)?;
    let target = target(&asked.container_path)?;
    let mut made = mount(&target.to_string_lossy(), "bind", &source.to_string_lossy(), &options)?;
    if !uids.is_empty() {
        made.set_uid_mappings(Some(uids)).set_gid_mappings(Some(gids));
    }
    Ok(made)
}

/// Refuses propagation that the machine's mount does not have.
fn check_propagation(source: &Path, propagation: MountPropagation) -> Result<()> {
    let wanted: &[&str] = match propagation {
        MountPropagation::Private => return Ok(()),
        MountPropagation::HostToContainer => &["shared:", "master:"],
        MountPropagation::Bidirectional => &["shared:"],
    };
    let mounts = fs::read_to_string("/proc/self/mountinfo").map_err(Failure::internal)?;
    match has_propagation(&mounts, source, wanted) {
        true => Ok(()),
        false => Err(Failure::invalid(format_args!(
            "{} is on a mount that is not {}",
            source.display(),
            wanted.join(" or ").replace(':', "")
        ))),
    }
}

/// Whether the mount a path is on has one of these marks, by `/proc/self/mountinfo`.
fn has_propagation(mounts: &str, path: &Path, wanted: &[&str]) -> bool {
    let lines = mounts.lines().filter_map(|line| {
        let fields: Vec<&str> = line.split(' ').collect();
        let at = PathBuf::from(fields.get(4)?.replace("\\040", " "));
        let marks = fields.get(6..)?.iter().take_while(|field| **field != "-");
        path.starts_with(&at).then(|| {
            (
                at.components().count(),
                marks.clone().any(|mark| wanted.iter().any(|word| mark.starts_with(word))),
            )
        })
    });
    // The last mount at a place hides those before it.
    lines.max_by_key(|(depth, _)| *depth).is_some_and(|(_, has)| has)
}

/// An image as a volume: its layers as one read-only tree, or a folder of it.
pub(crate) fn image_mount(asked: &Mount, image: &ResolvedImage) -> Result<OciMount> {
    let name = asked.image.as_ref().map_or("", |image| image.image.as_str());
    let refuse = |why: &str| Err(Failure::invalid(format_args!("the volume of the image {name}: {why}")));
    if !asked.readonly {
        return refuse("images are mounted read-only; set readonly");
    }
    if !asked.host_path.is_empty() {
        return refuse("it has a host_path too");
    }
    if asked.propagation() != MountPropagation::Private {
        return refuse("images are mounted with PROPAGATION_PRIVATE");
    }
    let sub = Path::new(&asked.image_sub_path);
    if sub.components().any(|part| !matches!(part, Component::Normal(_) | Component::CurDir)) {
        return refuse("image_sub_path must be below the image's root");
    }
    let folders = below(&image.lower_dirs, sub);
    let target = target(&asked.container_path)?.to_string_lossy().into_owned();
    match RootFs::distinct(&folders).as_slice() {
        [] => Err(Failure::new(
            crate::grpc::Code::NotFound,
            format_args!("the image {name} has no folder '{}'", asked.image_sub_path),
        )),
        [only] => Ok(mount(&target, "bind", &only.to_string_lossy(), &["rbind", "rprivate", "rro"])?),
        several => {
            let paths: Vec<String> = several.iter().map(|path| path.to_string_lossy().into_owned()).collect();
            let lower = format!("lowerdir={}", paths.join(":"));
            Ok(mount(&target, "overlay", "overlay", &["ro", &lower])?)
        }
    }
}

/// The folders of the layers that make up one folder of the image, the top first, by overlayfs' rules. Links are not followed.
fn below(layers: &[PathBuf], sub: &Path) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for layer in layers {
        let mut path = layer.clone();
        let (mut hides, mut there) = (false, true);
        for part in sub.components().filter(|part| matches!(part, Component::Normal(_))) {
            path.push(part);
            match fs::symlink_metadata(&path) {
                Ok(meta) if meta.is_dir() => hides |= is_opaque(&path),
                // A whiteout, or a file in the place of the folders below.
                Ok(_) => return found,
                Err(_) => {
                    there = false;
                    break;
                }
            }
        }
        if there {
            found.push(path);
        }
        if hides {
            return found;
        }
    }
    found
}

fn is_opaque(folder: &Path) -> bool {
    let mut value = [0u8; 8];
    ["trusted.overlay.opaque", "user.overlay.opaque"].iter().any(|name| {
        matches!(rustix::fs::lgetxattr(folder, *name, &mut value), Ok(1) if value.first() == Some(&b'y'))
    })
}

/// The nodes and rules of a device, or of all devices in a folder.
pub(crate) fn devices(asked: &Device) -> Result<(Vec<LinuxDevice>, Vec<LinuxDeviceCgroup>)> {
    let shown = &asked.host_path;
    let permissions = match asked.permissions.as_str() {
        "" => "rwm",
        own if own.bytes().all(|b| b"rwm".contains(&b)) => own,
        own => {
            return Err(Failure::invalid(format_args!(
                "the permissions '{own}' of the device {shown} are not of r, w, m"
            )));
        }
    };
    let source = fs::canonicalize(shown)
        .map_err(|error| Failure::invalid(format_args!("the device {shown} cannot be found: {error}")))?;
    let inside = if asked.container_path.is_empty() { shown } else { &asked.container_path };
    let mut found = Vec::new();
    collect(&source, Path::new(inside), &mut found)?;
    if found.is_empty() {
        return Err(Failure::invalid(format_args!("{shown} is no device")));
    }
    let rules = found.iter().map(|device| rule(device, permissions)).collect::<Result<_>>()?;
    Ok((found, rules))
}

/// Every device of this machine, for privileged containers.
pub(crate) fn all_devices() -> Vec<LinuxDevice> {
    let mut found = Vec::new();
    let _ = collect(Path::new("/dev"), Path::new("/dev"), &mut found);
    found
}

fn collect(source: &Path, inside: &Path, found: &mut Vec<LinuxDevice>) -> Result<()> {
    let refused =
        |error| Failure::invalid(format_args!("the device {} cannot be read: {error}", source.display()));
    let meta = fs::metadata(source).map_err(refused)?;
    if !meta.is_dir() {
        found.extend(device(&meta, inside)?);
        return Ok(());
    }
    for entry in fs::read_dir(source).map_err(refused)?.flatten() {
        // Of the container's own, or not of devices.
        const OTHERS: [&str; 6] = ["pts", "shm", "mqueue", "fd", "console", "ptmx"];
        let name = entry.file_name();
        let is_link = entry.file_type().is_ok_and(|kind| kind.is_symlink());
        if is_link || OTHERS.iter().any(|other| name == *other) || found.len() >= MAX_DEVICES {
            continue;
        }
        // It may have been unplugged meanwhile.
        let _ = collect(&entry.path(), &inside.join(&name), found);
    }
    Ok(())
}

fn device(meta: &fs::Metadata, path: &Path) -> Result<Option<LinuxDevice>> {
    let kind = match meta.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return Ok(None),
    };
    let built = LinuxDeviceBuilder::default()
        .path(path)
        .typ(kind)
        .major(i64::from(major(meta.rdev())))
        .minor(i64::from(minor(meta.rdev())))
        .file_mode(meta.mode() & 0o7777)
        .uid(meta.uid())
        .gid(meta.gid())
        .build();
    built.map(Some).map_err(bad)
}

fn rule(device: &LinuxDevice, access: &str) -> Result<LinuxDeviceCgroup> {
    LinuxDeviceCgroupBuilder::default()
        .allow(true)
        .typ(device.typ())
        .major(device.major())
        .minor(device.minor())
        .access(access)
        .build()
        .map_err(bad)
}

/// A filter in the runtime specification's form, from a file of this machine.
pub(crate) fn seccomp_profile(path: &str) -> Result<LinuxSeccomp> {
    let refused = |error: &dyn std::fmt::Display| {
        Failure::invalid(format_args!("the seccomp profile {path} cannot be used: {error}"))
    };
    if !Path::new(path).is_absolute() {
        return Err(refused(&"its path is not absolute"));
    }
    let meta = fs::metadata(path).map_err(|error| refused(&error))?;
    if !meta.is_file() || meta.len() > MAX_PROFILE {
        return Err(refused(&"it is no file, or too long"));
    }
    let bytes = fs::read(path).map_err(|error| refused(&error))?;
    serde_json::from_slice(&bytes).map_err(|error| refused(&error))
}

/// Whether this machine limits huge pages.
pub(crate) fn limits_huge_pages() -> bool {
    let controllers = fs::read_to_string("/sys/fs/cgroup/cgroup.controllers").unwrap_or_default();
    Path::new("/sys/fs/cgroup/hugetlb").is_dir()
        || controllers.split_whitespace().any(|name| name == "hugetlb")
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn propagation_is_that_of_the_mount_a_path_is_on() {
        let mounts = "1 0 8:1 / / rw,relatime shared:1 - ext4 /dev/a rw\n\
            2 1 8:2 / /data rw,relatime - ext4 /dev/b rw\n\
            3 1 8:3 / /slave rw master:4 - ext4 /dev/c rw\n";
        let has = |path: &str, wanted: &[&str]| has_propagation(mounts, Path::new(path), wanted);
        assert!(has("/etc", &["shared:"]));
        assert!(!has("/data/x", &["shared:"]));
        assert!(has("/database", &["shared:"]));
        assert!(has("/slave", &["shared:", "master:"]) && !has("/slave", &["shared:"]));
    }

    #[test]
    fn mounts_are_refused_by_name() {
        let folder = tempfile::tempdir().unwrap();
        let host_path = folder.path().to_str().unwrap().to_owned();
        let good = Mount { container_path: "/x".to_owned(), host_path, ..Mount::default() };
        assert!(bind(&good).is_ok());
        let check = |mount: Mount, part: &str| {
            let failure = bind(&mount).unwrap_err();
            assert!(failure.message.contains(part), "{failure}");
        };
        check(Mount { host_path: "x".to_owned(), ..good.clone() }, "not absolute");
        check(Mount { container_path: "/a/../b".to_owned(), ..good.clone() }, "'..'");
        check(Mount { recursive_read_only: true, ..good.clone() }, "not readonly");
        let deep = Mount { recursive_read_only: true, readonly: true, propagation: 1, ..good };
        check(deep, "PROPAGATION_PRIVATE");
    }

    #[test]
    fn folders_of_images_follow_the_layers() {
        let folder = tempfile::tempdir().unwrap();
        let layers: Vec<PathBuf> = ["top", "base"].iter().map(|name| folder.path().join(name)).collect();
        for path in ["top/both", "base/both/deep", "base/only"] {
            fs::create_dir_all(folder.path().join(path)).unwrap();
        }
        fs::write(folder.path().join("top/only"), "").unwrap();
        let names = |sub: &str| -> Vec<String> {
            let found = below(&layers, Path::new(sub));
            found
                .iter()
                .map(|p| p.strip_prefix(folder.path()).unwrap().to_string_lossy().into_owned())
                .collect()
        };
        assert_eq!(names(""), ["top", "base"]);
        assert_eq!(names("both"), ["top/both", "base/both"]);
        assert_eq!(names("both/deep"), ["base/both/deep"]);
        assert!(names("only").is_empty() && names("none").is_empty());
    }
}
