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
    error::{Error, IoContext as _, Result, write_json},
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
    Err(Error::invalid(format!("'{name}' cannot be a volume's name")).hint(
        "use letters, digits, '_', '.' and '-'; a folder of this machine is named by its absolute path",
    ))
}

/// Makes a volume; the one there is when there is one of the name.
///
/// # Errors
/// When the name cannot be one, or the disk is full.
pub fn create(data: &Path, name: &str, labels: BTreeMap<String, String>) -> Result<Volume> {
    check(name)?;
    if let Ok(known) = get(data, name) {
        return Ok(known);
    }
    let volume = Volume { name: name.to_owned(), created_at: SystemClock.now(), labels };
    let (folder, files) = (folder(data, name), files(data, name));
    fs::create_dir_all(&files).at("make the folder", &files)?;
    write_json(&folder.join("volume.json"), &volume)?;
    Ok(volume)
}

/// The files of a volume, which is made where it is not there.
pub(crate) fn get_or_make(data: &Path, name: &str) -> Result<PathBuf> {
    create(data, name, BTreeMap::new())?;
    Ok(files(data, name))
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
            let folder = get_or_make(self.data(), name)?;
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
