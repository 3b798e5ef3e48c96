//! The devices registered on this machine, and which of them a name means.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File},
    io::Read,
    path::{Path, PathBuf},
};

use serde::Deserialize;
use wharf_base::closest;

use super::edits::Edits;
use crate::error::{Error, Result};

/// Where makers of devices register them; what stands in a later folder counts.
pub const SPEC_DIRS: [&str; 2] = ["/etc/cdi", "/var/run/cdi"];

const MAX_FILE: u64 = 4 << 20;
const MAX_FILES: usize = 1000;
const CLASS: &str = "org.mobyproject.buildkit.device.class";
const AUTO_ALLOW: &str = "org.mobyproject.buildkit.device.autoallow";

/// One file of the registry.
#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Spec {
    cdi_version: String,
    kind: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    devices: Vec<Device>,
    #[serde(default)]
    container_edits: Edits,
}

#[derive(Debug, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Device {
    name: String,
    #[serde(default)]
    annotations: BTreeMap<String, String>,
    #[serde(default)]
    container_edits: Edits,
}

/// A device as it is registered.
#[derive(Debug, Clone)]
struct Known {
    /// What all devices of its file bring, and its own.
    edits: [Edits; 2],
    file: PathBuf,
    class: Option<String>,
    allowed_to_all: bool,
}

/// `RUN --device`: a name and whether the step can do without.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Request {
    pub(crate) name: String,
    pub(crate) required: bool,
}

impl Request {
    /// Reads `NAME[,required]` or `name=NAME,required=true`.
    pub(crate) fn parse(text: &str) -> Result<Self> {
        let mut request = Self { name: String::new(), required: false };
        for field in text.split(',') {
            let bad = || {
                Error::invalid(format!("RUN --device={text}: '{field}' is not known"))
                    .hint("write --device=VENDOR/CLASS=NAME, with ',required' if the step needs it")
            };
            match field.split_once('=').map(|(key, value)| (key.to_ascii_lowercase(), value)) {
                None if field.eq_ignore_ascii_case("required") => request.required = true,
                Some((key, value)) if key == "required" => {
                    request.required = match value {
                        "true" | "1" => true,
                        "false" | "0" => false,
                        _ => return Err(bad()),
                    }
                }
                Some((key, value)) if key == "name" && request.name.is_empty() => {
                    request.name = value.to_owned()
                }
                _ if request.name.is_empty() => request.name = field.to_owned(),
                _ => return Err(bad()),
            }
        }
        match request.name.is_empty() {
            true => Err(Error::invalid(format!("RUN --device={text} names no device"))
                .hint("write --device=VENDOR/CLASS=NAME")),
            false => Ok(request),
        }
    }
}

/// All devices, by their full names `VENDOR/CLASS=NAME`.
#[derive(Debug, Default)]
pub(crate) struct Registry {
    devices: BTreeMap<String, Known>,
    /// Files that could not be read, with why.
    unread: Vec<String>,
}

impl Registry {
    /// Reads the files of these folders; one that is not there holds nothing.
    pub(crate) fn read(folders: &[PathBuf]) -> Self {
        let mut registry = Self::default();
        for folder in folders {
            let mut files: Vec<PathBuf> = fs::read_dir(folder)
                .into_iter()
                .flatten()
                .flatten()
                .map(|entry| entry.path())
                .filter(|path| {
                    path.extension().is_some_and(|end| end == "json" || end == "yaml" || end == "yml")
                })
                .take(MAX_FILES)
                .collect();
            files.sort();
            let mut here = BTreeMap::new();
            let mut twice = BTreeSet::new();
            for path in files {
                match read_file(&path) {
                    Ok(devices) => {
                        for (name, device) in devices {
                            if here.insert(name.clone(), device).is_some() {
                                twice.insert(name);
                            }
                        }
                    }
                    Err(why) => registry.unread.push(format!("'{}': {why}", path.display())),
                }
            }
            for name in twice {
                // As CDI has it: nobody can say which is meant.
                here.remove(&name);
                registry.unread.push(format!("'{}': {name} is registered twice", folder.display()));
            }
            registry.devices.extend(here);
        }
        registry
    }

    /// The full names of what `name` means: a device, the first or all (`*`) of a kind, or those of a class.
    pub(crate) fn find(&self, name: &str) -> Vec<&str> {
        let (kind, device) = name.split_once('=').unwrap_or((name, ""));
        let of_kind = |full: &&String| full.strip_prefix(kind).is_some_and(|rest| rest.starts_with('='));
        let names = || self.devices.keys();
        let found: Vec<&String> = match (kind.contains('/'), device) {
            (false, _) => Vec::new(),
            (true, "") => names().find(of_kind).into_iter().collect(),
            (true, "*") => names().filter(of_kind).collect(),
            (true, _) => names().filter(|full| *full == name).collect(),
        };
        match found.is_empty() {
            false => found.into_iter().map(String::as_str).collect(),
            true => {
                let of_class = self.devices.iter().filter(|(_, known)| known.class.as_deref() == Some(name));
                of_class.map(|(full, _)| full.as_str()).collect()
            }
        }
    }

    /// Whether every build may use the device, by what its file says.
    pub(crate) fn is_allowed_to_all(&self, full: &str) -> bool {
        self.devices.get(full).is_some_and(|known| known.allowed_to_all)
    }

    /// The edits of these devices; what all devices of a file bring comes once.
    pub(super) fn edits(&self, full_names: &BTreeSet<String>) -> Vec<&Edits> {
        let mut files = BTreeSet::new();
        let mut all = Vec::new();
        for known in full_names.iter().filter_map(|name| self.devices.get(name)) {
            let [of_file, own] = &known.edits;
            if files.insert(&known.file) {
                all.push(of_file);
            }
            all.push(own);
        }
        all
    }

    /// Why there is no device of this name.
    pub(crate) fn missing(&self, name: &str) -> Error {
        let error = Error::invalid(format!("the device '{name}' is not registered on this machine"));
        if let Some(unread) = self.unread.first() {
            return error.hint(format!("one file could not be used: {unread}"));
        }
        match closest(name, self.devices.keys().map(String::as_str)) {
            Some(near) => error.hint(format!("did you mean '{near}'?")),
            None => error.hint("register it with a CDI file in /etc/cdi or /var/run/cdi"),
        }
    }
}

fn read_file(path: &Path) -> Result<Vec<(String, Known)>, String> {
    let mut text = String::new();
    let read = File::open(path).and_then(|file| file.take(MAX_FILE + 1).read_to_string(&mut text));
    read.map_err(|error| error.to_string())?;
    if text.len() as u64 > MAX_FILE {
        return Err(format!("it has more than {MAX_FILE} bytes"));
    }
    let is_json = path.extension().is_some_and(|end| end == "json");
    Ok(devices_of(&text, is_json)?
        .into_iter()
        .map(|(name, known)| (name, Known { file: path.to_owned(), ..known }))
        .collect())
}

/// The full names of the devices that the text of a CDI file registers.
///
/// # Errors
/// When the text is no CDI file, with why.
pub fn registered_devices(text: &str, is_json: bool) -> Result<Vec<String>, String> {
    Ok(devices_of(text, is_json)?.into_iter().map(|(name, _)| name).collect())
}

/// The devices of a file, by full name.
fn devices_of(text: &str, is_json: bool) -> Result<Vec<(String, Known)>, String> {
    let first_line = |text: String| text.lines().next().unwrap_or_default().to_owned();
    let spec: Spec = match is_json {
        true => serde_json::from_str(text).map_err(|error| error.to_string())?,
        false => serde_saphyr::from_str(text).map_err(|error| first_line(error.to_string()))?,
    };
    let major = spec.cdi_version.split('.').next().unwrap_or_default();
    if !matches!(major, "0" | "1") {
        return Err(format!("cdiVersion {} is not known", spec.cdi_version));
    }
    let is_name = |text: &str, more: &[u8]| {
        let mut bytes = text.bytes();
        bytes.next().is_some_and(|b| b.is_ascii_alphanumeric())
            && bytes.all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(&b) || more.contains(&b))
    };
    match spec.kind.split_once('/') {
        Some((vendor, class)) if is_name(vendor, b"") && is_name(class, b"") => {}
        _ => return Err(format!("the kind '{}' is not VENDOR/CLASS", spec.kind)),
    }
    let mut found = Vec::new();
    for device in spec.devices {
        if !is_name(&device.name, b":") {
            return Err(format!("'{}' is no name of a device", device.name));
        }
        let annotation =
            |key: &str| device.annotations.get(key).or_else(|| spec.annotations.get(key)).cloned();
        let known = Known {
            class: annotation(CLASS),
            allowed_to_all: annotation(AUTO_ALLOW)
                .is_some_and(|value| matches!(value.as_str(), "true" | "1" | "t" | "True" | "TRUE")),
            edits: [spec.container_edits.clone(), device.container_edits],
            file: PathBuf::new(),
        };
        found.push((format!("{}={}", spec.kind, device.name), known));
    }
    Ok(found)
}

#[cfg(test)]
mod tests {
    use super::*;

    const FILE: &str = r#"
cdiVersion: "0.6.0"
kind: "vendor1.com/device"
devices:
  - name: foo
    containerEdits:
      env: [FOO=injected]
  - name: bar
    annotations: { org.mobyproject.buildkit.device.class: class1 }
  - name: baz
    annotations:
      org.mobyproject.buildkit.device.class: class1
      org.mobyproject.buildkit.device.autoallow: "true"
"#;

    #[test]
    fn names_mean_devices_kinds_and_classes() {
        let dir = tempfile::tempdir().unwrap();
        let first = dir.path().join("a");
        fs::create_dir(&first).unwrap();
        fs::write(first.join("v.yaml"), FILE).unwrap();
        fs::write(first.join("bad.json"), "{").unwrap();
        fs::write(first.join("note.txt"), "no").unwrap();
        let registry = Registry::read(&[first.clone(), dir.path().join("none")]);
        let kind = "vendor1.com/device";
        let full = |name: &str| format!("{kind}={name}");
        assert_eq!(registry.find(kind), [full("bar")]);
        assert_eq!(registry.find(&full("foo")), [full("foo")]);
        assert_eq!(registry.find(&full("*")), [full("bar"), full("baz"), full("foo")]);
        assert_eq!(registry.find("class1"), [full("bar"), full("baz")]);
        assert!(registry.find("other").is_empty() && registry.find("vendor1.com/devic=foo").is_empty());
        assert!(registry.is_allowed_to_all(&full("baz")) && !registry.is_allowed_to_all(&full("foo")));
        let error = registry.missing("vendor1.com/device=fo");
        assert!(error.hint.unwrap().contains("bad.json"));
        // The later folder counts; within one folder nobody can say.
        let second = dir.path().join("b");
        fs::create_dir(&second).unwrap();
        fs::write(second.join("v.yml"), FILE.replace("class1", "class2")).unwrap();
        let both = [first, second.clone()];
        assert!(Registry::read(&both).find("class1").is_empty());
        fs::write(second.join("w.yml"), FILE).unwrap();
        let registry = Registry::read(&[second]);
        assert!(registry.find(kind).is_empty() && registry.unread.len() == 3);
    }

    #[test]
    fn requests_and_files_are_checked() {
        let request = |text: &str| Request::parse(text).ok().map(|request| (request.name, request.required));
        assert_eq!(request("v/c=x"), Some(("v/c=x".into(), false)));
        assert_eq!(request("v/c=x,required"), Some(("v/c=x".into(), true)));
        assert_eq!(request("name=v/c=x,required=true"), Some(("v/c=x".into(), true)));
        assert_eq!(request("class1,required=false"), Some(("class1".into(), false)));
        for bad in ["", "required", "a,b", "a,required=maybe", "a,x=y"] {
            assert_eq!(request(bad), None, "{bad}");
        }
        for (from, to) in [
            ("vendor1.com/device", "vendor1"),
            ("\"0.6.0\"", "\"7\""),
            ("name: foo", "name: -"),
            ("env:", "envs:"),
            ("kind:", "kin:"),
        ] {
            assert!(devices_of(&FILE.replacen(from, to, 1), false).is_err(), "{to}");
        }
        assert!(devices_of("", false).is_err() && devices_of("[]", true).is_err());
    }
}
