//! User-defined networks: containers on one reach each other, also by name, and nobody else.
//!
//! What was asked for is kept here; the kernel's side, and who has which address, is [`wharf_network`]'s. The platform's DNS
//! answers for names by who asks.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    net::{Ipv4Addr, Ipv6Addr},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use wharf_base::{Clock as _, SystemClock, Timestamp, closest, random_bytes, random_hex};
use wharf_network::{BridgeNetwork, EndpointWish, Ipv4Net, Ipv6Net, Ipv6Side, Known};
use wharf_runtime::Phase;

use crate::{
    bridge::{Place, Target, Targets},
    containers::{Container, Engine},
    disk::keep_json,
    error::{Error, IoContext as _, Result},
    names,
    ports::Publish,
    spec::{Endpoint, Spec},
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
    /// Its name.
    pub name: String,
    /// When it was made.
    pub created_at: Timestamp,
    /// The caller's own words.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
    /// Options of its driver, as they were given.
    #[serde(default)]
    pub options: BTreeMap<String, String>,
    /// Its id, 64 hexadecimal digits, and its addresses.
    pub bridge: BridgeNetwork,
}

/// A network as asked for; what is not said is chosen.
#[derive(Debug, Clone, Default)]
pub struct NetworkWish {
    /// Its name.
    pub name: String,
    /// The caller's own words.
    pub labels: BTreeMap<String, String>,
    /// Options of its driver.
    pub options: BTreeMap<String, String>,
    /// Its addresses.
    pub subnet: Option<Ipv4Net>,
    /// The machine's address.
    pub gateway: Option<Ipv4Addr>,
    /// Where containers' addresses are taken from.
    pub range: Option<Ipv4Net>,
    /// Its addresses of IPv6, if it is to have some.
    pub ipv6: Option<(Option<Ipv6Net>, Option<Ipv6Addr>)>,
    /// Nothing leads out of it.
    pub internal: bool,
    /// The largest packet in bytes.
    pub mtu: Option<u32>,
}

fn folder(data: &Path) -> PathBuf {
    data.join("networks")
}

/// Held while networks are made or removed, and while containers come and go.
fn locked(data: &Path) -> Result<File> {
    let folder = folder(data);
    fs::create_dir_all(&folder).at("make the folder", &folder)?;
    let path = folder.join(".lock");
    let lock = File::create(&path).at("write", &path)?;
    lock.lock().at("lock", &path)?;
    Ok(lock)
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

fn write(data: &Path, network: &UserNetwork) -> Result<()> {
    keep_json(&path(data, &network.name), network)
}

/// All networks people made, by name.
pub fn all(data: &Path) -> Vec<UserNetwork> {
    let entries = fs::read_dir(folder(data)).into_iter().flatten().flatten();
    let files = entries.filter(|entry| entry.path().extension().is_some_and(|extension| extension == "json"));
    let read = |entry: fs::DirEntry| {
        let read = serde_json::from_slice(&fs::read(entry.path()).ok()?);
        if let Err(error) = &read {
            tracing::warn!(file = %entry.path().display(), %error, "a network cannot be read; remove the file and make it anew");
        }
        read.ok()
    };
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
    let by_id = || all.iter().find(|network| !wanted.is_empty() && network.bridge.id.starts_with(wanted));
    named.or_else(by_id).cloned().ok_or_else(|| {
        let names = all.iter().map(|network| network.name.as_str()).chain([BRIDGE, HOST, NONE]);
        let hint = match closest(wanted, names) {
            Some(name) => format!("did you mean '{name}'?"),
            None => "there are bridge, host, none, and those made with 'docker network create'".to_owned(),
        };
        Error::not_found(format!("network {wanted} not found")).hint(hint)
    })
}

/// The addresses a network is to have: those asked for, or an empty subnet when they are to be chosen.
fn bridge_of(wish: &NetworkWish) -> Result<BridgeNetwork> {
    let invalid = |error: String| {
        Err(Error::invalid(error)
            .hint("give --subnet, and a gateway and range inside it: 10.5.0.0/16, 10.5.0.1"))
    };
    let subnet = match wish.subnet {
        Some(subnet) if subnet.prefix() > 30 => {
            return invalid(format!("the subnet {subnet} has no room for a gateway and a container"));
        }
        None if wish.gateway.is_some() || wish.range.is_some() => {
            return invalid("a gateway or a range without a subnet".to_owned());
        }
        subnet => subnet.unwrap_or(Ipv4Net::new(Ipv4Addr::UNSPECIFIED, 32)),
    };
    let gateway = wish.gateway.unwrap_or(subnet.gateway());
    if wish.subnet.is_some() && !subnet.contains(gateway) {
        return invalid(format!("no matching subnet for gateway {gateway}: it is not in {subnet}"));
    }
    if let Some(range) =
        wish.range.filter(|range| !subnet.contains(range.address()) || range.prefix() < subnet.prefix())
    {
        return invalid(format!("the range {range} is not in the subnet {subnet}"));
    }
    let (id, range, ipv6) = (random_hex(32), wish.range, ipv6_of(wish)?);
    Ok(BridgeNetwork { id, subnet, gateway, range, ipv6, internal: wish.internal, mtu: wish.mtu })
}

/// The addresses of IPv6: those asked for, or unique local ones.
fn ipv6_of(wish: &NetworkWish) -> Result<Option<Ipv6Side>> {
    let Some((subnet, gateway)) = wish.ipv6 else { return Ok(None) };
    let subnet = subnet.unwrap_or_else(|| Ipv6Net::unique_local(random_bytes()));
    let gateway = gateway.unwrap_or(subnet.gateway());
    match subnet.contains(gateway) && subnet.prefix() <= 126 {
        true => Ok(Some(Ipv6Side { subnet, gateway })),
        false => {
            let error = format!(
                "no matching subnet for gateway {gateway}: it is not in {subnet}, or that is too small"
            );
            Err(Error::invalid(error).hint("give a subnet such as fd00:1::/64, and a gateway inside it"))
        }
    }
}

impl Engine {
    /// Makes a network.
    ///
    /// # Errors
    /// When the name is taken or cannot be one, or its addresses cannot be had.
    pub fn create_network(&self, wish: NetworkWish) -> Result<UserNetwork> {
        let (data, name) = (self.data(), wish.name.as_str());
        if !names::is_name(name) {
            let error = Error::invalid(format!("'{name}' cannot be a network's name"));
            return Err(error.hint("begin with a letter or digit and use letters, digits, '_', '.' and '-'"));
        }
        let _lock = locked(self.data())?;
        let others = all(data);
        if is_predefined(name) || others.iter().any(|other| other.name == name) {
            return Err(Error::conflict(format!("network with name {name} already exists")));
        }
        let taken: Vec<Ipv4Net> = others.iter().map(|other| other.bridge.subnet).collect();
        let clash = |subnet: Ipv4Net| taken.iter().any(|other| other.overlaps(subnet));
        let taken6 = || others.iter().filter_map(|other| other.bridge.ipv6);
        let clash6 = |subnet: Ipv6Net| taken6().any(|other| other.subnet.overlaps(subnet));
        let asked6 = wish.ipv6.and_then(|(subnet, _)| subnet);
        if wish.subnet.is_some_and(clash) || asked6.is_some_and(clash6) {
            let error = Error::invalid("Pool overlaps with other one on this address space");
            return Err(error.hint("'docker network inspect' shows the subnets of the others"));
        }
        let (chosen, bridge) = (wish.subnet.is_none(), bridge_of(&wish)?);
        let mut network = UserNetwork {
            name: wish.name,
            created_at: SystemClock.now(),
            labels: wish.labels,
            options: wish.options,
            bridge,
        };
        network.bridge = self.bridge().make(&taken, chosen, network.bridge)?;
        if let Err(error) = write(data, &network) {
            self.bridge().unmake(&network.bridge.id)?;
            return Err(error);
        }
        Ok(network)
    }

    /// The name of a network, by whatever it is called.
    fn named(&self, wanted: &str) -> Result<String> {
        match is_predefined(wanted) {
            true => Ok(wanted.to_owned()),
            false => Ok(find(self.data(), wanted)?.name),
        }
    }

    /// The networks a container is to be connected to.
    ///
    /// # Errors
    /// When one is not there.
    pub(crate) fn targets(&self, spec: &Spec) -> Result<Targets> {
        let target = |(name, endpoint): (&String, &Endpoint)| {
            let target = match name.as_str() {
                BRIDGE => Target::Pods,
                name => Target::Made(find(self.data(), name)?.bridge, endpoint.wish.clone()),
            };
            Ok((name.clone(), target))
        };
        spec.endpoints.iter().map(target).collect()
    }

    /// Held while a container that starts joins the networks people made.
    pub(crate) fn keep_networks(&self, spec: &Spec) -> Result<Option<File>> {
        let made = spec.endpoints.keys().any(|network| !is_predefined(network));
        made.then(|| locked(self.data())).transpose()
    }

    /// Whether a container can be on the networks it names.
    pub(crate) fn check_endpoints(&self, spec: &Spec) -> Result<()> {
        for target in self.targets(spec)?.values() {
            if let Target::Made(made, wish) = target {
                check_wish(made, wish)?;
            }
        }
        Ok(())
    }

    /// Where a container is now, by the names of its networks.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn places(&self, container: &Container) -> Result<BTreeMap<String, Place>> {
        if !container.is_running() {
            return Ok(BTreeMap::new());
        }
        self.bridge().places(&container.id, &self.targets(&container.record.spec)?)
    }

    /// Connects a container to a network, at once when it runs.
    ///
    /// # Errors
    /// When there is no such network, it is on it already, or it has no network of its own.
    pub fn join(&self, network: &str, container: &Container, endpoint: Endpoint) -> Result<()> {
        let _lock = locked(self.data())?;
        let (name, network) = (container.name(), self.named(network)?);
        let spec = &container.record.spec;
        if matches!(spec.network.as_str(), HOST | NONE) || of_container(&spec.network).is_some() {
            let error = format!("container {name} has no network of its own to connect to {network}");
            return Err(
                Error::conflict(error).hint("run it on a network other than host, none and another's")
            );
        }
        if matches!(network.as_str(), HOST | NONE) {
            return Err(Error::conflict(format!("containers are put on {network} when they are made")));
        }
        if spec.endpoints.contains_key(&network) {
            return Err(Error::conflict(format!(
                "endpoint with name {name} already exists in network {network}"
            )));
        }
        let mut after = spec.clone();
        after.endpoints.insert(network.clone(), endpoint.clone());
        let targets = self.targets(&after)?;
        if let Some(Target::Made(made, wish)) = targets.get(&network) {
            check_wish(made, wish)?;
        }
        if container.is_running() {
            let namespace = container.connect(self)?.network_namespace();
            let ports = &self.asked_ports(container);
            let joined = self.bridge().join(&container.id, &namespace, &network, &targets, ports)?;
            self.tell_place(container, &joined, joined.places.get(&network), None)?;
        }
        self.change(&container.id, |record| {
            record.spec.endpoints.insert(network, endpoint);
        })?;
        Ok(())
    }

    /// Takes a container off a network, at once when it runs.
    ///
    /// # Errors
    /// When there is no such network, or it is not on it.
    pub fn leave(&self, network: &str, container: &Container) -> Result<()> {
        let _lock = locked(self.data())?;
        let network = self.named(network)?;
        let mut targets = self.targets(&container.record.spec)?;
        let Some(old) = targets.remove(&network) else {
            let error = format!("container {} is not connected to network {network}", container.name());
            return Err(Error::conflict(error));
        };
        if container.is_running() {
            let before = self.places(container)?;
            let namespace = container.connect(self)?.network_namespace();
            let ports = &self.asked_ports(container);
            let joined = self.bridge().leave(&container.id, &namespace, &old, &targets, ports)?;
            self.tell_place(container, &joined, None, before.get(&network))?;
        }
        self.change(&container.id, |record| drop(record.spec.endpoints.remove(&network)))?;
        Ok(())
    }

    /// Ports as they are now where they were left to choose, so that they stay.
    fn asked_ports(&self, container: &Container) -> Vec<Publish> {
        let now = container.ports();
        if now.is_empty() { container.record.spec.publish.clone() } else { now }
    }

    /// Containers on a network by its name, with their places while they run.
    ///
    /// # Errors
    /// When the containers cannot be read.
    pub fn members(&self, network: &str) -> Result<Vec<(Container, Option<Place>)>> {
        let all = self.all()?.into_iter();
        let on = all.filter(|container| container.record.spec.endpoints.contains_key(network));
        on.map(|container| {
            let place = self.places(&container)?.remove(network);
            Ok((container, place))
        })
        .collect()
    }

    /// Removes a network.
    ///
    /// # Errors
    /// When there is none, or a running container is on it.
    pub fn remove_network(&self, wanted: &str) -> Result<()> {
        if is_predefined(wanted) {
            return Err(Error::invalid(format!("{wanted} is a pre-defined network and cannot be removed")));
        }
        let _lock = locked(self.data())?;
        let network = find(self.data(), wanted)?;
        let members = self.members(&network.name)?;
        if let Some((container, _)) = members.iter().find(|(container, _)| container.is_running()) {
            let error =
                format!("network {} has active endpoints: container {}", network.name, container.name());
            return Err(Error::conflict(error).hint("stop it, or disconnect it from the network"));
        }
        // Whoever is killed in between leaves a bridge that the platform's next start removes.
        let path = path(self.data(), &network.name);
        fs::remove_file(&path).at("remove", &path)?;
        self.bridge().unmake(&network.bridge.id)
    }

    /// What `name` is to the container at `source`, as those it shares a network with have it.
    ///
    /// # Errors
    /// When the containers cannot be read.
    pub fn addresses_of(&self, source: Ipv4Addr, name: &str) -> Result<Known> {
        let networks = all(self.data());
        let mut known = Known::default();
        if networks.is_empty() {
            return Ok(known);
        }
        // Who has an address is asked, not who runs: a program may ask before anybody has written down that it does.
        let places = self.bridge().addresses()?;
        let asking = places.iter().find(|(_, on)| on.values().any(|(address, _)| *address == source));
        let Some((who, asking)) = asking else { return Ok(known) };
        let who = who.parse().ok().and_then(|id| self.load(&id).ok());
        let on: Vec<&UserNetwork> =
            networks.iter().filter(|network| asking.contains_key(&network.bridge.id)).collect();
        known.alone = !on.is_empty()
            && !asking.contains_key(BRIDGE)
            && on.iter().all(|network| network.bridge.internal);
        for network in on {
            // Also with the network's own name behind it.
            let suffix = format!(".{}", network.name);
            let name = name.strip_suffix(&suffix).unwrap_or(name);
            let linked = who.as_ref().and_then(|who| linked_as(who, &network.name, name));
            for (id, places) in &places {
                let Some((address, ipv6)) = places.get(&network.bridge.id) else { continue };
                // What has ended or goes just now is of no use to anybody.
                let Some(container) = id.parse().ok().and_then(|id| self.load(&id).ok()) else { continue };
                let gone = container.status.phase == Phase::Exited && *address != source;
                let is_meant = is_known_as(&container, &network.name, linked.unwrap_or(name));
                if !gone && is_meant && !known.addresses.contains(address) {
                    known.addresses.push(*address);
                    known.ipv6.extend(*ipv6);
                }
            }
        }
        Ok(known)
    }
}

/// The container that one has given a name of its own: `--link CONTAINER:NAME`.
fn linked_as<'a>(who: &'a Container, network: &str, name: &str) -> Option<&'a str> {
    let links = who.record.spec.endpoints.get(network)?.links.iter();
    let mut pairs = links.map(|link| link.split_once(':').unwrap_or((link, link)));
    pairs.find(|(_, alias)| alias.eq_ignore_ascii_case(name)).map(|(container, _)| container)
}

fn is_known_as(container: &Container, network: &str, name: &str) -> bool {
    let spec = &container.record.spec;
    let aliases = spec.endpoints.get(network).map(|endpoint| endpoint.aliases.as_slice()).unwrap_or_default();
    container.name().eq_ignore_ascii_case(name)
        || container.id.short() == name
        || spec.hostname.as_deref() == Some(name)
        || aliases.iter().any(|alias| alias.eq_ignore_ascii_case(name))
}

/// An address can be asked for only where the subnet was.
fn check_wish(network: &BridgeNetwork, wish: &EndpointWish) -> Result<()> {
    if let Some(address) = wish.ipv6
        && !network.ipv6.is_some_and(|side| side.subnet.contains(address))
    {
        let error = Error::invalid(format!("no configured subnet contains IP address {address}"));
        return Err(error.hint("make the network with --ipv6 and a --subnet that has it"));
    }
    match wish.address {
        Some(address) if !network.subnet.contains(address) => {
            let subnet = network.subnet;
            let error = Error::invalid(format!("no configured subnet contains IP address {address}"));
            Err(error.hint(format!("the network's addresses are {subnet}")))
        }
        _ => Ok(()),
    }
}
