//! What devices change of a container.

use std::{
    collections::BTreeSet,
    fs,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
};

use serde::Deserialize;
use wharf_runtime::{mount, oci};

use super::registry::Registry;
use crate::error::{Error, Result};

/// `containerEdits` of CDI.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
pub(super) struct Edits {
    #[serde(default)]
    env: Vec<String>,
    #[serde(default)]
    device_nodes: Vec<Node>,
    #[serde(default)]
    mounts: Vec<Mount>,
    #[serde(default)]
    hooks: Vec<Hook>,
    #[serde(default, rename = "additionalGids")]
    additional_gids: Vec<u32>,
    /// Not honoured: refused where a step asks for the device.
    #[serde(default)]
    intel_rdt: Option<serde_json::Value>,
    /// Likewise.
    #[serde(default)]
    net_devices: Vec<serde_json::Value>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Node {
    path: PathBuf,
    host_path: Option<PathBuf>,
    #[serde(rename = "type")]
    kind: Option<String>,
    major: Option<i64>,
    minor: Option<i64>,
    file_mode: Option<u32>,
    permissions: Option<String>,
    uid: Option<u32>,
    gid: Option<u32>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Mount {
    host_path: String,
    container_path: String,
    #[serde(rename = "type")]
    kind: Option<String>,
    #[serde(default)]
    options: Vec<String>,
}

#[derive(Debug, Clone, Deserialize)]
#[serde(rename_all = "camelCase", deny_unknown_fields)]
struct Hook {
    hook_name: String,
    path: PathBuf,
    args: Option<Vec<String>>,
    env: Option<Vec<String>>,
    timeout: Option<i64>,
}

/// What a step gets with its devices.
#[derive(Debug, Default)]
pub(crate) struct Granted {
    pub(crate) env: Vec<String>,
    pub(crate) mounts: Vec<oci::Mount>,
    pub(crate) devices: Vec<oci::LinuxDevice>,
    pub(crate) rules: Vec<oci::LinuxDeviceCgroup>,
    pub(crate) groups: Vec<u32>,
    pub(crate) hooks: Option<oci::Hooks>,
}

impl Granted {
    /// All that these devices bring.
    pub(crate) fn of(registry: &Registry, full_names: &BTreeSet<String>) -> Result<Self> {
        let mut granted = Self::default();
        for edits in registry.edits(full_names) {
            granted.add(edits)?;
        }
        Ok(granted)
    }

    fn add(&mut self, edits: &Edits) -> Result<()> {
        if edits.intel_rdt.is_some() || !edits.net_devices.is_empty() {
            return Err(Error::invalid(
                "the device's CDI file asks for intelRdt or netDevices, which steps do not have",
            )
            .hint("leave --device out, or that part of the file"));
        }
        self.env.extend(edits.env.iter().cloned());
        self.groups.extend(edits.additional_gids.iter().filter(|gid| **gid != 0));
        for one in &edits.mounts {
            let options: Vec<&str> = one.options.iter().map(String::as_str).collect();
            let options =
                if options.is_empty() { vec!["rbind", "rro", "rnosuid", "rnodev"] } else { options };
            let kind = one.kind.as_deref().unwrap_or("bind");
            self.mounts.push(mount(&one.container_path, kind, &one.host_path, &options)?);
        }
        for node in &edits.device_nodes {
            self.node(node)?;
        }
        edits.hooks.iter().try_for_each(|hook| self.hook(hook))
    }

    fn node(&mut self, node: &Node) -> Result<()> {
        if !node.path.starts_with("/dev/") || node.path.components().any(|part| part.as_os_str() == "..") {
            return Err(Error::invalid(format!(
                "the CDI file puts a device at '{}', which is not below /dev",
                node.path.display()
            )));
        }
        let found = Found::of(node)?;
        let access = node.permissions.clone().unwrap_or_else(|| "rwm".into());
        let mut device = oci::LinuxDeviceBuilder::default()
            .path(node.path.clone())
            .typ(found.kind)
            .major(found.major)
            .minor(found.minor)
            .uid(node.uid.unwrap_or(0))
            .gid(node.gid.unwrap_or(0));
        if let Some(mode) = node.file_mode.or(found.mode) {
            device = device.file_mode(mode);
        }
        let rule = oci::LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(found.kind)
            .major(found.major)
            .minor(found.minor)
            .access(access);
        self.devices.push(device.build().map_err(described)?);
        self.rules.push(rule.build().map_err(described)?);
        Ok(())
    }

    fn hook(&mut self, hook: &Hook) -> Result<()> {
        let mut built = oci::HookBuilder::default().path(hook.path.clone());
        if let Some(args) = &hook.args {
            built = built.args(args.clone());
        }
        if let Some(env) = &hook.env {
            built = built.env(env.clone());
        }
        if let Some(timeout) = hook.timeout {
            built = built.timeout(timeout);
        }
        let built = built.build().map_err(described)?;
        let hooks = self.hooks.get_or_insert_default();
        let slot = match hook.hook_name.as_str() {
            "createRuntime" => hooks.create_runtime_mut(),
            "createContainer" => hooks.create_container_mut(),
            "startContainer" => hooks.start_container_mut(),
            "poststart" => hooks.poststart_mut(),
            "poststop" => hooks.poststop_mut(),
            #[allow(deprecated, reason = "CDI files have it")]
            "prestart" => hooks.prestart_mut(),
            other => {
                return Err(Error::invalid(format!("the CDI file has a hook '{other}', which is not known")));
            }
        };
        slot.get_or_insert_default().push(built);
        Ok(())
    }
}

fn described(error: impl std::fmt::Display) -> Error {
    Error::host(format!("cannot describe the device: {error}"))
}

/// A device's kind and numbers: as the file says, or as the machine has it.
struct Found {
    kind: oci::LinuxDeviceType,
    major: i64,
    minor: i64,
    mode: Option<u32>,
}

impl Found {
    fn of(node: &Node) -> Result<Self> {
        let named = match node.kind.as_deref() {
            None | Some("") => None,
            Some("b") => Some(oci::LinuxDeviceType::B),
            Some("c" | "u") => Some(oci::LinuxDeviceType::C),
            Some("p") => Some(oci::LinuxDeviceType::P),
            Some(other) => {
                return Err(Error::invalid(format!(
                    "the CDI file has a device of type '{other}', which is not known"
                )));
            }
        };
        if let (Some(kind), Some(major), Some(minor)) = (named, node.major, node.minor) {
            return Ok(Self { kind, major, minor, mode: None });
        }
        let path: &Path = node.host_path.as_deref().unwrap_or(&node.path);
        let meta = fs::metadata(path).map_err(|error| {
            Error::host(format!("the device '{}' is not there", path.display())).caused_by(error)
        })?;
        let kind = match meta.file_type() {
            kind if kind.is_char_device() => oci::LinuxDeviceType::C,
            kind if kind.is_block_device() => oci::LinuxDeviceType::B,
            kind if kind.is_fifo() => oci::LinuxDeviceType::P,
            _ => return Err(Error::invalid(format!("'{}' is no device", path.display()))),
        };
        let number = |part: u32| i64::from(part);
        Ok(Self {
            kind: named.unwrap_or(kind),
            major: node.major.unwrap_or_else(|| number(rustix::fs::major(meta.rdev()))),
            minor: node.minor.unwrap_or_else(|| number(rustix::fs::minor(meta.rdev()))),
            mode: Some(meta.mode() & 0o7777),
        })
    }
}
