//! The volumes of a pod: made before its sandbox, kept up to date while it lives, taken away with it.

mod content;
mod mounts;
mod writer;

use std::{
    collections::BTreeMap,
    ffi::CString,
    fs, io,
    os::unix::fs::{DirBuilderExt, FileTypeExt, PermissionsExt},
    path::{Path, PathBuf},
};

use rustix::mount::{MountFlags, UnmountFlags, mount, unmount};
use serde::Deserialize;
use serde_json::{Value, json};
use wharf_base::{Quantity, Timestamp};

use crate::{
    agent::Shared,
    env::Facts,
    events::Level,
    model::{Pod, Volume},
    step::Reason,
    watches::ObjectName,
};
pub(crate) use content::Tokens;
pub(crate) use mounts::{container_mounts, termination_file};

/// The volumes of one pod, by name.
#[derive(Debug, Clone, Default)]
pub(crate) struct Volumes {
    known: BTreeMap<String, Mounted>,
}

/// A volume in place.
#[derive(Debug, Clone)]
struct Mounted {
    path: PathBuf,
    /// Its content is the platform's: containers only read it.
    read_only: bool,
}

/// What has to be looked at again.
#[derive(Debug, Default)]
pub(crate) struct Upkeep {
    /// Objects whose changes must be shown.
    pub(crate) objects: Vec<ObjectName>,
    /// When a token has to be renewed.
    pub(crate) renew: Option<Timestamp>,
}

fn failed(volume: &str, why: impl std::fmt::Display) -> Reason {
    Reason::new("FailedMount", format!("MountVolume.SetUp failed for volume {volume:?} : {why}"))
}

/// Makes all volumes of a pod. Those that are there stay as they are; their content is brought up to date.
pub(crate) async fn prepare(
    shared: &Shared,
    facts: &Facts<'_>,
    folder: &Path,
    tokens: &mut Tokens,
) -> Result<(Volumes, Upkeep), Reason> {
    let (mut volumes, mut upkeep) = (Volumes::default(), Upkeep::default());
    for volume in &facts.pod.spec.volumes {
        let place = folder.join("volumes").join(&volume.name);
        let mounted = match content::projection(volume)? {
            Some(projection) => {
                let gathered = content::gather(shared, facts, volume, &projection, tokens).await?;
                upkeep.objects.extend(gathered.objects);
                upkeep.renew = upkeep.renew.into_iter().chain(gathered.renew).min();
                let (files, target) = (gathered.files, place.clone());
                let written = tokio::task::spawn_blocking(move || writer::write(&target, &files)).await;
                written
                    .map_err(|_| failed(&volume.name, "the files could not be written"))?
                    .map_err(|error| failed(&volume.name, error))?;
                Mounted { path: place, read_only: true }
            }
            None => plain(shared, facts.pod, volume, &place)?,
        };
        volumes.known.insert(volume.name.clone(), mounted);
    }
    Ok((volumes, upkeep))
}

/// A source of a volume, read from its one field.
fn source<T: for<'de> Deserialize<'de>>(volume: &Volume, value: &Value) -> Result<T, Reason> {
    T::deserialize(value).map_err(|error| failed(&volume.name, error))
}

fn plain(shared: &Shared, pod: &Pod, volume: &Volume, place: &Path) -> Result<Mounted, Reason> {
    let empty = json!({});
    let (kind, value) = match volume.source.iter().next() {
        Some((kind, value)) => (kind.as_str(), value),
        None => ("emptyDir", &empty),
    };
    let path = match kind {
        "emptyDir" => empty_dir(shared, pod, volume, &source(volume, value)?, place)?,
        "hostPath" => host_path(volume, &source(volume, value)?)?,
        other => {
            return Err(failed(
                &volume.name,
                format_args!("volumes of type {other} are not supported by this node"),
            ));
        }
    };
    Ok(Mounted { path, read_only: false })
}

/// Gives a file or folder of a volume to a group.
fn give_to(place: &Path, group: u32) -> io::Result<()> {
    std::os::unix::fs::chown(place, None, Some(group)).map_err(|error| {
        let map = fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
        let unknown =
            wharf_base::unknown(&map, group).filter(|_| error.kind() == io::ErrorKind::InvalidInput);
        unknown.map_or(error, |why| io::Error::other(format!("group {group}: {why}")))
    })
}

#[derive(Deserialize, Default)]
#[serde(rename_all = "camelCase", default)]
struct EmptyDir {
    medium: String,
    size_limit: Option<Quantity>,
}

fn empty_dir(
    shared: &Shared,
    pod: &Pod,
    volume: &Volume,
    wanted: &EmptyDir,
    place: &Path,
) -> Result<PathBuf, Reason> {
    if place.exists() {
        return Ok(place.to_owned());
    }
    let made = || -> io::Result<()> {
        fs::DirBuilder::new().recursive(true).mode(0o755).create(place)?;
        if wanted.medium == "Memory" {
            mount_memory(place, wanted.size_limit)?;
        }
        let group = pod.spec.security_context.fs_group.and_then(|group| u32::try_from(group).ok());
        if let Some(group) = group {
            give_to(place, group)?;
        }
        let group_bit = if group.is_some() { 0o2000 } else { 0 };
        fs::set_permissions(place, fs::Permissions::from_mode(0o777 | group_bit))
    };
    match wanted.medium.as_str() {
        "" | "Memory" => {}
        other => {
            return Err(failed(
                &volume.name,
                format_args!("emptyDir medium {other:?} is not supported by this node"),
            ));
        }
    }
    if wanted.medium.is_empty() && wanted.size_limit.is_some() {
        let message = format!(
            "volume {:?}: sizeLimit of an emptyDir on disk is not enforced by this node",
            volume.name
        );
        shared.events.pod(&pod.metadata, None, Level::Warning, "UnenforcedLimit", message);
    }
    made().map_err(|error| {
        // Half a volume must not be taken for a whole one later.
        let _ = unmount(place, UnmountFlags::DETACH);
        let _ = fs::remove_dir(place);
        failed(&volume.name, error)
    })?;
    Ok(place.to_owned())
}

fn mount_memory(place: &Path, limit: Option<Quantity>) -> io::Result<()> {
    let size = limit.map_or(String::new(), |limit| format!("size={},", limit.units()));
    let options = CString::new(format!("{size}mode=0777"))?;
    let flags = MountFlags::NOSUID | MountFlags::NODEV;
    Ok(mount("tmpfs", place, "tmpfs", flags, options.as_c_str())?)
}

#[derive(Deserialize, Default)]
#[serde(default)]
struct HostPath {
    path: PathBuf,
    #[serde(rename = "type")]
    kind: String,
}

fn host_path(volume: &Volume, wanted: &HostPath) -> Result<PathBuf, Reason> {
    let path = &wanted.path;
    let refuse = |why: &str| {
        Err(failed(&volume.name, format_args!("hostPath type check failed: {} {why}", path.display())))
    };
    if !path.is_absolute() {
        return refuse("is not an absolute path");
    }
    let io = |error: io::Error| failed(&volume.name, format_args!("{}: {error}", path.display()));
    match wanted.kind.as_str() {
        "DirectoryOrCreate" => fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(io)?,
        "FileOrCreate" => {
            let opened = fs::OpenOptions::new().append(true).create(true).open(path);
            opened.map_err(io)?;
        }
        _ => {}
    }
    let kind = match fs::metadata(path) {
        Ok(found) => found.file_type(),
        Err(error) if error.kind() == io::ErrorKind::NotFound && wanted.kind.is_empty() => {
            fs::DirBuilder::new().recursive(true).mode(0o755).create(path).map_err(io)?;
            return Ok(path.clone());
        }
        Err(error) => return Err(io(error)),
    };
    match wanted.kind.as_str() {
        "Directory" | "DirectoryOrCreate" if !kind.is_dir() => refuse("is not a directory"),
        "File" | "FileOrCreate" if !kind.is_file() => refuse("is not a file"),
        "Socket" if !kind.is_socket() => refuse("is not a socket file"),
        "CharDevice" if !kind.is_char_device() => refuse("is not a character device"),
        "BlockDevice" if !kind.is_block_device() => refuse("is not a block device"),
        "" | "Directory" | "DirectoryOrCreate" | "File" | "FileOrCreate" | "Socket" | "CharDevice"
        | "BlockDevice" => Ok(path.clone()),
        other => refuse(&format!("cannot be checked: unknown type {other:?}")),
    }
}

/// Unmounts everything below a pod's folder, the innermost first.
pub(crate) fn unmount_all(folder: &Path) -> io::Result<()> {
    let folder = fs::canonicalize(folder)?;
    let table = fs::read_to_string("/proc/self/mountinfo")?;
    let mut places: Vec<PathBuf> = table
        .lines()
        .filter_map(|line| line.split(' ').nth(4))
        .map(|place| PathBuf::from(place.replace("\\040", " ").replace("\\011", "\t").replace("\\134", "\\")))
        .filter(|place| place.starts_with(&folder) && *place != folder)
        .collect();
    places.sort();
    places.iter().rev().try_for_each(|place| Ok(unmount(place, UnmountFlags::DETACH)?))
}
