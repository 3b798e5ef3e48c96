//! User-defined networks: groups of containers that know each other by name.
//!
//! Every container has one address on the bridge network. A network of its own gives it names, which the
//! platform's DNS answers by who asks; it does not keep others away.

use std::{
    collections::BTreeMap,
    fs,
    net::Ipv4Addr,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use wharf_base::{Clock as _, ContainerId, SystemClock, Timestamp, closest, random_hex};
use wharf_runtime::Phase;

use crate::{
    containers::{Container, Engine},
    error::{Error, IoContext as _, Result, write_json},
    names,
};

/// The network everyone is on who asks for none.
pub const BRIDGE: &str = "bridge";
/// The machine's own.
pub const HOST: &str = "host";
/// Only the loopback.
pub const NONE: &str = "none";

/// A network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct UserNetwork {
    /// Its id, 64 hexadecimal digits.
    pub id: String,
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The caller's own words.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Containers connected after they were made, with their further names.
    #[serde(default)]
    pub joined: BTreeMap<ContainerId, Vec<String>>,
    /// Containers made on it that were disconnected.
    #[serde(default)]
    pub left: Vec<ContainerId>,
}

fn folder(data: &Path) -> PathBuf {
    data.join("networks")
}

fn path(data: &Path, name: &str) -> PathBuf {
    folder(data).join(format!("{name}.json"))
}

/// Whether a name is one of the three networks that are always there.
pub fn is_predefined(name: &str) -> bool {
    matches!(name, BRIDGE | HOST | NONE)
}

/// The container whose network a name stands for: `container:ID`.
pub fn of_container(name: &str) -> Option<&str> {
    name.strip_prefix("container:")
}

/// Makes a network.
///
/// # Errors
/// When the name is taken or cannot be one.
pub fn create(data: &Path, name: &str, labels: BTreeMap<String, String>) -> Result<UserNetwork> {
    if !names::is_name(name) {
        let error = Error::invalid(format!("'{name}' cannot be a network's name"));
        return Err(error.hint("begin with a letter or digit and use letters, digits, '_', '.' and '-'"));
    }
    let _lock = names::locked(&data.join("containers"))?;
    if is_predefined(name) || path(data, name).exists() {
        return Err(Error::conflict(format!("network with name {name} already exists")));
    }
    let (created_at, id) = (SystemClock.now(), random_hex(32));
    let network = UserNetwork {
        id,
        name: name.to_owned(),
        created_at,
        labels,
        joined: BTreeMap::new(),
        left: Vec::new(),
    };
    write(data, &network)?;
    Ok(network)
}

fn write(data: &Path, network: &UserNetwork) -> Result<()> {
    let folder = folder(data);
    fs::create_dir_all(&folder).at("make the folder", &folder)?;
    write_json(&path(data, &network.name), network)
}

/// All networks people made, by name.
pub fn all(data: &Path) -> Vec<UserNetwork> {
    let entries = fs::read_dir(folder(data)).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"));
    let read = |entry: fs::DirEntry| serde_json::from_slice(&fs::read(entry.path()).ok()?).ok();
    let mut networks: Vec<UserNetwork> = files.filter_map(read).collect();
    networks.sort_by(|a, b| a.name.cmp(&b.name));
    networks
}

/// A network by its name, its id, or the beginning of its id.
///
/// # Errors
/// When there is none.
pub fn find(data: &Path, wanted: &str) -> Result<UserNetwork> {
    let all = all(data);
    let named = all.iter().find(|network| network.name == wanted);
    let by_id = || all.iter().find(|network| !wanted.is_empty() && network.id.starts_with(wanted));
    named.or_else(by_id).cloned().ok_or_else(|| {
        let names = all.iter().map(|network| network.name.as_str()).chain([BRIDGE, HOST, NONE]);
        let hint = match closest(wanted, names) {
            Some(name) => format!("did you mean '{name}'?"),
            None => "there are bridge, host, none, and those made with 'docker network create'".to_owned(),
        };
        Error::not_found(format!("network {wanted} not found")).hint(hint)
    })
}

impl UserNetwork {
    /// Whether a container is on it, and its further names there.
    pub fn aliases(&self, container: &Container) -> Option<Vec<String>> {
        let spec = &container.record.spec;
        if let Some(aliases) = self.joined.get(&container.id) {
            return Some(aliases.clone());
        }
        let made_on_it = spec.network == self.name || spec.network == self.id;
        (made_on_it && !self.left.contains(&container.id)).then(|| spec.aliases.clone())
    }
}

impl Engine {
    /// Connects a container to a network, under further names.
    ///
    /// # Errors
    /// When there is no such network, or the container has no address to be found at.
    pub fn join(&self, network: &str, container: &Container, aliases: Vec<String>) -> Result<()> {
        let _lock = names::locked(&self.root)?;
        let mut network = find(self.data(), network)?;
        if matches!(container.record.spec.network.as_str(), HOST | NONE) {
            let error = format!("container {} has no address of its own", container.name());
            return Err(Error::invalid(error).hint("run it on a network other than host and none"));
        }
        network.left.retain(|id| *id != container.id);
        network.joined.insert(container.id.clone(), aliases);
        write(self.data(), &network)
    }

    /// Takes a container off a network.
    ///
    /// # Errors
    /// When there is no such network, or it is not on it.
    pub fn leave(&self, network: &str, container: &Container) -> Result<()> {
        let _lock = names::locked(&self.root)?;
        let mut network = find(self.data(), network)?;
        if network.aliases(container).is_none() {
            let error =
                format!("container {} is not connected to network {}", container.name(), network.name);
            return Err(Error::conflict(error));
        }
        network.joined.remove(&container.id);
        network.left.push(container.id.clone());
        write(self.data(), &network)
    }

    /// Containers on a network, with their addresses while they run.
    ///
    /// # Errors
    /// When the containers cannot be read.
    pub fn members(&self, network: &UserNetwork) -> Result<Vec<(Container, Option<Ipv4Addr>)>> {
        let all = self.all()?.into_iter().filter(|container| network.aliases(container).is_some());
        all.map(|container| Ok((container.clone(), self.address_of(&container)?))).collect()
    }

    fn address_of(&self, container: &Container) -> Result<Option<Ipv4Addr>> {
        if container.is_running() { self.bridge().address(&container.id) } else { Ok(None) }
    }

    /// Removes a network.
    ///
    /// # Errors
    /// When there is none, or a running container is on it.
    pub fn remove_network(&self, wanted: &str) -> Result<()> {
        if is_predefined(wanted) {
            return Err(Error::invalid(format!("{wanted} is a pre-defined network and cannot be removed")));
        }
        let network = find(self.data(), wanted)?;
        if let Some((container, _)) = self.members(&network)?.into_iter().find(|(c, _)| c.is_running()) {
            let error =
                format!("network {} has active endpoints: container {}", network.name, container.name());
            return Err(Error::conflict(error).hint("stop it, or disconnect it from the network"));
        }
        let path = path(self.data(), &network.name);
        fs::remove_file(&path).at("remove", &path)
    }

    /// The addresses of `name` as the container at `source` knows it: containers it shares a network with.
    ///
    /// # Errors
    /// When the containers cannot be read.
    pub fn addresses_of(&self, source: Ipv4Addr, name: &str) -> Result<Vec<Ipv4Addr>> {
        let networks = all(self.data());
        let mut found = Vec::new();
        if networks.is_empty() {
            return Ok(found);
        }
        // Who has an address is asked, not who runs: a program may ask before anybody has written down that it does.
        let mut there = Vec::new();
        for (id, address) in self.bridge().addresses()? {
            // What has ended or goes just now is of no use to anybody.
            let Some(container) = id.parse().ok().and_then(|id| self.load(&id).ok()) else { continue };
            if address == source || container.status.phase != Phase::Exited {
                there.push((container, address));
            }
        }
        let Some((asking, _)) = there.iter().find(|(_, address)| *address == source) else {
            return Ok(found);
        };
        for network in networks.iter().filter(|network| network.aliases(asking).is_some()) {
            // Also with the network's own name behind it.
            let suffix = format!(".{}", network.name);
            let name = name.strip_suffix(&suffix).unwrap_or(name);
            for (container, address) in &there {
                let Some(aliases) = network.aliases(container) else { continue };
                let known = container.name().eq_ignore_ascii_case(name)
                    || container.id.short() == name
                    || container.record.spec.hostname.as_deref() == Some(name)
                    || aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name));
                if known && container.status.phase != Phase::Exited && !found.contains(address) {
                    found.push(*address);
                }
            }
        }
        Ok(found)
    }
}
