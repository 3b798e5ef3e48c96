//! Names of containers: a link per name, taken and given back under one lock, so that several programs may use the folder at once.

use std::{
    fs::{self, File},
    io,
    os::unix::fs::symlink,
    path::{Path, PathBuf},
};

use wharf_base::{ContainerId, random_hex};

use crate::{
    disk::keep_folder,
    error::{Error, IoContext as _, Result},
};

/// Words names are made of: how the sea is, and what lies on it.
const MOODS: [&str; 24] = [
    "amber", "bold", "brave", "bright", "calm", "clear", "deep", "distant", "fair", "fresh", "gentle",
    "golden", "grand", "keen", "mellow", "noble", "quiet", "silver", "steady", "still", "swift", "tidal",
    "vivid", "windy",
];
const THINGS: [&str; 24] = [
    "anchor", "barge", "bay", "beacon", "brig", "buoy", "clipper", "cove", "crane", "cutter", "dinghy",
    "dock", "ferry", "frigate", "gull", "harbour", "jetty", "ketch", "lagoon", "mooring", "pier", "schooner",
    "sloop", "tug",
];

fn folder(root: &Path) -> PathBuf {
    root.join("names")
}

pub(crate) fn locked(root: &Path) -> Result<File> {
    let folder = folder(root);
    fs::create_dir_all(&folder).at("make", &folder)?;
    let path = folder.join(".lock");
    let lock = File::create(&path).at("write", &path)?;
    lock.lock().at("lock", &path)?;
    Ok(lock)
}

/// Whether a text can be the name of a container, a network or a volume, and thereby of a file.
pub(crate) fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
        && text.len() <= 200
        && bytes.all(|b| b.is_ascii_alphanumeric() || matches!(b, b'-' | b'_' | b'.'))
}

fn check(name: &str) -> Result<()> {
    if is_name(name) {
        return Ok(());
    }
    Err(Error::invalid(format!(
        "Invalid container name ({name}), only [a-zA-Z0-9][a-zA-Z0-9_.-] are allowed"
    )))
}

/// The container a name stands for, if its folder is still there.
pub(crate) fn look_up(root: &Path, name: &str) -> Option<ContainerId> {
    check(name).ok()?;
    let id: ContainerId = fs::read_link(folder(root).join(name)).ok()?.to_str()?.parse().ok()?;
    root.join(id.as_str()).exists().then_some(id)
}

/// All names in use.
pub(crate) fn all(root: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder(root)).into_iter().flatten().flatten();
    entries
        .filter_map(|entry| entry.file_name().into_string().ok())
        .filter(|name| look_up(root, name).is_some())
        .collect()
}

/// Takes `name`, or one that is free, for `id`, whose folder exists already.
pub(crate) fn reserve(root: &Path, id: &ContainerId, name: Option<&str>) -> Result<String> {
    let _lock = locked(root)?;
    let take = |name: &str| -> Result<bool> {
        if look_up(root, name).is_some() {
            return Ok(false);
        }
        let link = folder(root).join(name);
        // Left by a container whose folder is gone.
        match fs::remove_file(&link) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error).at("remove", &link),
            _ => {}
        }
        symlink(id.as_str(), &link).at("write", &link)?;
        Ok(true)
    };
    if let Some(name) = name {
        check(name)?;
        if !take(name)? {
            let owner = look_up(root, name).map_or(String::new(), |id| id.to_string());
            let hint = format!("remove it with 'wharf rm {name}', or choose another name");
            // Scripts and SDKs look for these words of docker's.
            return Err(Error::conflict(format!(
                "Conflict. The container name \"/{name}\" is already in use by container \"{owner}\". You have to \
                 remove (or rename) that container to be able to reuse that name."
            ))
            .hint(hint));
        }
        return Ok(name.to_owned());
    }
    for attempt in 0..100 {
        let mut name = random_name();
        if attempt > 10 {
            name.push_str(&random_hex(2));
        }
        if take(&name)? {
            return Ok(name);
        }
    }
    Err(Error::host("no free container name was found"))
}

fn random_name() -> String {
    let digits = random_hex(4);
    let number = usize::from_str_radix(&digits, 16).unwrap_or(0);
    format!("{}_{}", MOODS[number % MOODS.len()], THINGS[number / 256 % THINGS.len()])
}

/// The names there are by now are there after a loss of power.
pub(crate) fn keep(root: &Path) -> Result<()> {
    keep_folder(&folder(root))
}

/// Gives a name back, if it is still this container's.
pub(crate) fn release(root: &Path, id: &ContainerId, name: &str) -> Result<()> {
    let _lock = locked(root)?;
    let link = folder(root).join(name);
    let ours =
        check(name).is_ok() && fs::read_link(&link).is_ok_and(|target| target.as_os_str() == id.as_str());
    if ours {
        fs::remove_file(&link).at("remove", &link)?;
    }
    Ok(())
}
