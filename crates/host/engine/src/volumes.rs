//! Named volumes: folders that outlive the containers they are mounted into.

use std::{
    collections::BTreeMap,
    fs,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use wharf_base::{Clock as _, SystemClock, Timestamp, closest};

use crate::{
    archive,
    containers::Engine,
    disk::{keep_folder, keep_json},
    error::{Error, IoContext as _, Result},
    image::Image,
    names,
    spec::{MountSource, Record},
};

/// A volume.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Volume {
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The caller's own words.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// What is mounted in its place, as docker's driver `local` has it: `type`, `device`, `o` as of mount(8).
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub options: BTreeMap<String, String>,
}

/// What a volume's files are in.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Files {
    /// A folder of this machine, and options of its mount.
    Folder(PathBuf, Vec<String>),
    /// A file system of this kind on this device, mounted for each container.
    Mounted(String, String, Vec<String>),
}

impl Volume {
    pub(crate) fn files(&self, data: &Path) -> Files {
        let option = |name: &str| self.options.get(name).map(String::as_str).unwrap_or_default();
        let words = option("o").split(',').filter(|word| !word.is_empty()).map(str::to_owned);
        let (bound, words): (Vec<String>, Vec<String>) =
            words.partition(|word| matches!(word.as_str(), "bind" | "rbind"));
        match (option("type"), option("device")) {
            ("", _) => Files::Folder(files(data, &self.name), Vec::new()),
            ("none", device) => Files::Folder(device.into(), words),
            (_, device) if !bound.is_empty() => Files::Folder(device.into(), words),
            (kind, device) => Files::Mounted(kind.to_owned(), device.to_owned(), words),
        }
    }
}

/// Options that mount something, as docker's driver `local` takes them.
fn check_options(name: &str, options: &BTreeMap<String, String>) -> Result<()> {
    let invalid = |why: String| Err(Error::invalid(format!("create {name}: {why}")));
    if let Some(unknown) = options.keys().find(|option| !matches!(option.as_str(), "type" | "device" | "o")) {
        return invalid(format!("invalid option: \"{unknown}\""));
    }
    let given = |option: &str| options.get(option).is_some_and(|value| !value.is_empty());
    match ["device", "type"].into_iter().find(|needed| !options.is_empty() && !given(needed)) {
        Some(missing) => invalid(format!("missing required option: \"{missing}\"")),
        None => Ok(()),
    }
}

fn folder(data: &Path, name: &str) -> PathBuf {
    data.join("volumes").join(name)
}

/// Where the files of a volume are.
pub fn files(data: &Path, name: &str) -> PathBuf {
    folder(data, name).join("_data")
}

/// Whether a text can be a volume's name.
pub fn is_name(text: &str) -> bool {
    names::is_name(text)
}

fn check(name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    // Docker's words.
    Err(Error::invalid(format!(
        "create {name}: \"{name}\" includes invalid characters for a local volume name, only \
         \"[a-zA-Z0-9][a-zA-Z0-9_.-]\" are allowed. If you intended to pass a host directory, use absolute path"
    )))
}

/// Makes a volume; the one there is when there is one of the name.
///
/// # Errors
/// When the name cannot be one, or the disk is full.
pub fn create(
    data: &Path,
    name: &str,
    labels: BTreeMap<String, String>,
    options: BTreeMap<String, String>,
) -> Result<Volume> {
    check(name)?;
    check_options(name, &options)?;
    if let Ok(known) = get(data, name) {
        if known.options != options && !options.is_empty() {
            let error = format!("create {name}: conflict: a volume of the name with other options is there");
            return Err(Error::conflict(error).hint("remove it, or give another name"));
        }
        return Ok(known);
    }
    let volume = Volume { name: name.to_owned(), created_at: SystemClock.now(), labels, options };
    let (folder, files) = (folder(data, name), files(data, name));
    fs::create_dir_all(&files).at("make the folder", &files)?;
    keep_json(&folder.join("volume.json"), &volume)?;
    keep_folder(&data.join("volumes"))?;
    Ok(volume)
}

/// What the files of a volume are in, which is made where it is not there.
pub(crate) fn get_or_make(data: &Path, name: &str) -> Result<Files> {
    Ok(create(data, name, BTreeMap::new(), BTreeMap::new())?.files(data))
}

/// A volume by its name.
///
/// # Errors
/// When there is none.
pub fn get(data: &Path, name: &str) -> Result<Volume> {
    check(name)?;
    let bytes = fs::read(folder(data, name).join("volume.json"));
    let volume = bytes.ok().and_then(|bytes| serde_json::from_slice(&bytes).ok());
    volume.ok_or_else(|| {
        let known: Vec<String> = all(data).into_iter().map(|volume| volume.name).collect();
        let meant =
            closest(name, known.iter().map(String::as_str)).map(|name| format!("did you mean '{name}'?"));
        Error::not_found(format!("get {name}: no such volume")).maybe_hint(meant)
    })
}

/// All volumes by name.
pub fn all(data: &Path) -> Vec<Volume> {
    let entries = fs::read_dir(data.join("volumes")).into_iter().flatten().flatten();
    let read =
        |entry: fs::DirEntry| serde_json::from_slice(&fs::read(entry.path().join("volume.json")).ok()?).ok();
    let mut volumes: Vec<Volume> = entries.filter_map(read).collect();
    volumes.sort_by(|a, b| a.name.cmp(&b.name));
    volumes
}

impl Engine {
    /// Makes the volumes of a container that are not there yet, and fills the empty ones with what its image has at their
    /// places.
    pub(crate) fn fill_volumes(&self, record: &Record, image: &Image) -> Result<()> {
        for mount in &record.spec.mounts {
            let MountSource::Volume(name) = &mount.source else { continue };
            let Files::Folder(folder, _) = get_or_make(self.data(), name)? else { continue };
            let empty = fs::read_dir(&folder).is_ok_and(|mut entries| entries.next().is_none());
            if empty && !mount.options.iter().any(|option| option == "nocopy") {
                archive::fill(&folder, &image.lower_dirs, &mount.target)?;
            }
        }
        Ok(())
    }

    /// Ids of the containers that have a volume.
    ///
    /// # Errors
    /// When the containers cannot be read.
    pub fn users_of_volume(&self, name: &str) -> Result<Vec<String>> {
        let uses = |source: &MountSource| matches!(source, MountSource::Volume(used) if used == name);
        let all = self.all()?.into_iter();
        let users =
            all.filter(|container| container.record.spec.mounts.iter().any(|mount| uses(&mount.source)));
        Ok(users.map(|container| container.id.to_string()).collect())
    }

    /// Removes a volume with its files.
    ///
    /// # Errors
    /// When there is none, or a container has it.
    pub fn remove_volume(&self, name: &str) -> Result<()> {
        get(self.data(), name)?;
        let users = self.users_of_volume(name)?;
        if !users.is_empty() {
            return Err(Error::conflict(format!("remove {name}: volume is in use - [{}]", users.join(", "))));
        }
        let folder = folder(self.data(), name);
        fs::remove_dir_all(&folder).at("remove", &folder)
    }
}
