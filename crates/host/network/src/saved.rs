//! What must be the same after a restart: the pods' range, their addresses, published ports, and the network of services.
//!
//! One small file for what the network has. Several processes may change it (`wharf up`, `wharf run`): each change is read, made and written
//! under a lock.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs::{self, File, OpenOptions},
    io::{self, Write as _},
    net::{Ipv4Addr, Ipv6Addr, SocketAddrV4, SocketAddrV6},
    os::unix::fs::{DirBuilderExt as _, OpenOptionsExt as _},
    path::{Path, PathBuf},
};

use rustix::fs::{FlockOperation, flock};
use serde::{Deserialize, Serialize};

use crate::{
    Ipv4Net, Protocol,
    bridges::{SavedBridge, bridge_rule},
    error::{Error, Result},
    rules::{BridgeRule, HostPort},
};

/// A port of the host that leads to a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct PortMapping {
    /// The host's address; all of them when absent or 0.0.0.0.
    pub host_ip: Option<Ipv4Addr>,
    /// The host's port.
    pub host_port: u16,
    /// The container's address.
    pub container_ip: Ipv4Addr,
    /// The container's address of IPv6: to it lead all the host's addresses of IPv6, where none of the host's is said.
    #[serde(default)]
    pub container_ip6: Option<Ipv6Addr>,
    /// The container's port.
    pub container_port: u16,
    /// The protocol.
    pub protocol: Protocol,
}

impl PortMapping {
    pub(crate) fn rule(&self) -> (HostPort, SocketAddrV4) {
        let address = self.host_ip.filter(|ip| !ip.is_unspecified());
        let port = HostPort { address, protocol: self.protocol, port: self.host_port };
        (port, SocketAddrV4::new(self.container_ip, self.container_port))
    }

    pub(crate) fn rule6(&self) -> Option<((Protocol, u16), SocketAddrV6)> {
        let to = self.container_ip6.filter(|_| self.rule().0.address.is_none())?;
        Some(((self.protocol, self.host_port), SocketAddrV6::new(to, self.container_port, 0, 0)))
    }
}

/// The file's content.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Saved {
    /// This node's range for pods.
    pub range: Option<Ipv4Net>,
    /// The address given out last.
    pub last: Option<Ipv4Addr>,
    /// Addresses by pod.
    pub pods: BTreeMap<String, Ipv4Addr>,
    /// Published ports by who published them.
    pub ports: BTreeMap<String, Vec<PortMapping>>,
    /// Bridge networks in the kernel, by id.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub bridges: BTreeMap<String, SavedBridge>,
}

impl Saved {
    /// Whoever has an address or a port.
    pub(crate) fn connected(&self) -> BTreeSet<String> {
        let on_bridges = self.bridges.values().flat_map(|bridge| bridge.endpoints.keys());
        self.pods.keys().chain(self.ports.keys()).chain(on_bridges).cloned().collect()
    }

    /// What is ruled for the bridge networks of the instance whose bridges' names start so.
    pub(crate) fn bridge_rules(&self, prefix: &str) -> Vec<BridgeRule> {
        let rule = |bridge: &SavedBridge| bridge_rule(prefix, bridge.number, &bridge.network);
        self.bridges.values().map(rule).collect()
    }

    /// All published ports.
    pub(crate) fn host_ports(&self) -> BTreeMap<HostPort, SocketAddrV4> {
        self.ports.values().flatten().map(PortMapping::rule).collect()
    }

    /// All published ports of IPv6.
    pub(crate) fn host_ports6(&self) -> BTreeMap<(Protocol, u16), SocketAddrV6> {
        self.ports.values().flatten().filter_map(PortMapping::rule6).collect()
    }

    /// The pod's address, a new one when it has none. Addresses come round late, so that nobody talks to a pod that
    /// took over another's.
    pub(crate) fn address(&mut self, pod: &str, range: Ipv4Net) -> Result<Ipv4Addr> {
        if let Some(address) = self.pods.get(pod) {
            return Ok(*address);
        }
        let taken: std::collections::HashSet<_> = self.pods.values().collect();
        let free = |address: &Ipv4Addr| !taken.contains(address);
        let last = self.last.unwrap_or(range.gateway());
        let later = range.hosts().filter(|address| *address > last).find(free);
        let address = later.or_else(|| range.hosts().find(free)).ok_or(Error::Full(range))?;
        self.last = Some(address);
        self.pods.insert(pod.to_owned(), address);
        Ok(address)
    }

    /// Who has published a port that `port` cannot stand beside.
    pub(crate) fn publisher(&self, port: HostPort) -> Option<&str> {
        let clash = |other: HostPort| {
            let apart = matches!((port.address, other.address), (Some(one), Some(two)) if one != two);
            port.protocol == other.protocol && port.port == other.port && !apart
        };
        let has = |mappings: &[PortMapping]| mappings.iter().any(|mapping| clash(mapping.rule().0));
        self.ports.iter().find(|(_, mappings)| has(mappings)).map(|(id, _)| id.as_str())
    }
}

const FILE: &str = "network.json";
/// Beside it, since it outlives the network: objects hold addresses of it.
const SERVICES: &str = "services";

/// The file.
#[derive(Debug, Clone)]
pub(crate) struct Store {
    folder: PathBuf,
}

impl Store {
    pub(crate) fn open(folder: &Path) -> Result<Self> {
        fs::create_dir_all(folder).map_err(at(folder))?;
        Ok(Self { folder: folder.to_owned() })
    }

    pub(crate) fn exists(folder: &Path) -> bool {
        folder.join(FILE).exists()
    }

    fn path(&self) -> PathBuf {
        self.folder.join(FILE)
    }

    pub(crate) fn read(&self) -> Result<Saved> {
        let path = self.path();
        let text = match fs::read(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(Saved::default()),
            Err(error) => return Err(at(&path)(error)),
        };
        // It is not flushed, since what it tells of goes with the machine's power: a loss of that leaves it empty.
        if text.iter().all(|byte| *byte == 0) {
            return Ok(Saved::default());
        }
        serde_json::from_slice(&text).map_err(|error| {
            let hint = "remove the file to give pods new addresses";
            Error::Input(format!("{} is damaged: {error}; {hint}", path.display()))
        })
    }

    /// The network of service addresses, once it is chosen.
    pub(crate) fn services(&self) -> Result<Option<Ipv4Net>> {
        let path = self.folder.join(SERVICES);
        let text = match fs::read_to_string(&path) {
            Ok(text) => text,
            Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
            Err(error) => return Err(at(&path)(error)),
        };
        let damaged = |why| {
            let hint = "write the network there that the addresses of Services are in";
            Error::Input(format!("{} is damaged: {why}; {hint}", path.display()))
        };
        text.trim_end().parse().map(Some).map_err(damaged)
    }

    /// Keeps the network of service addresses for as long as the folder exists.
    pub(crate) fn keep_services(&self, services: Ipv4Net) -> Result<()> {
        let path = self.folder.join(SERVICES);
        let temporary = path.with_extension("new");
        let written = File::create(&temporary).and_then(|mut file| {
            writeln!(file, "{services}")?;
            file.sync_all()
        });
        written.map_err(at(&temporary))?;
        fs::rename(&temporary, &path).map_err(at(&path))
    }

    /// Changes what is saved; nothing is written when `change` fails or changes nothing.
    pub(crate) fn change<T>(&self, change: impl FnOnce(&mut Saved) -> Result<T>) -> Result<T> {
        let _lock = lock(&self.folder.join("lock"))?;
        let old = self.read()?;
        let mut new = old.clone();
        let result = change(&mut new)?;
        if new != old {
            let (path, temporary) = (self.path(), self.path().with_extension("new"));
            let text = serde_json::to_vec_pretty(&new).map_err(|e| Error::Input(e.to_string()))?;
            fs::write(&temporary, text).map_err(at(&temporary))?;
            fs::rename(&temporary, &path).map_err(at(&path))?;
        }
        Ok(result)
    }

    pub(crate) fn remove(&self) -> Result<()> {
        match fs::remove_file(self.path()) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => Err(at(&self.path())(error)),
            _ => Ok(()),
        }
    }
}

/// Holds a lock among processes until the file is dropped.
pub(crate) fn lock(path: &Path) -> Result<File> {
    let file = OpenOptions::new()
        .write(true)
        .create(true)
        .truncate(false)
        .mode(0o600)
        .open(path)
        .map_err(at(path))?;
    flock(&file, FlockOperation::LockExclusive).map_err(|error| at(path)(error.into()))?;
    Ok(file)
}

/// Instances on one machine choose their ranges one after another. Nobody else may open the lock, or could hold it for ever: it
/// is beside the relay of somebody who is not the machine's root.
pub(crate) fn lock_machine(relay: Option<&Path>) -> Result<File> {
    let folder = relay.and_then(Path::parent).unwrap_or(Path::new("/run/wharf"));
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(at(folder))?;
    lock(&folder.join("network.lock"))
}

pub(crate) fn at(path: &Path) -> impl FnOnce(io::Error) -> Error {
    let path = path.to_owned();
    move |source| Error::File { path, source }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn addresses_come_round_late() {
        let range: Ipv4Net = "10.244.0.0/29".parse().unwrap();
        let mut saved = Saved::default();
        let next = |saved: &mut Saved, pod: &str| saved.address(pod, range).map(|ip| ip.octets()[3]);
        assert_eq!(next(&mut saved, "a").unwrap(), 2);
        assert_eq!(next(&mut saved, "b").unwrap(), 3);
        assert_eq!(next(&mut saved, "a").unwrap(), 2);
        saved.pods.remove("a");
        for (pod, address) in [("c", 4), ("d", 5), ("e", 6), ("f", 2)] {
            assert_eq!(next(&mut saved, pod).unwrap(), address);
        }
        assert!(matches!(next(&mut saved, "g"), Err(Error::Full(_))));
    }

    #[test]
    fn what_a_loss_of_power_leaves() {
        let folder = tempfile::tempdir().unwrap();
        let store = Store::open(folder.path()).unwrap();
        for (text, fine) in [(&b""[..], true), (&[0; 100], true), (b"{", false)] {
            fs::write(store.path(), text).unwrap();
            assert_eq!(store.read().is_ok(), fine, "{text:?}");
        }
    }

    #[test]
    fn ports_that_clash() {
        let mapping = |host_ip: Option<[u8; 4]>, host_port, protocol| PortMapping {
            host_ip: host_ip.map(Ipv4Addr::from),
            host_port,
            container_ip: Ipv4Addr::new(10, 244, 0, 2),
            container_ip6: None,
            container_port: 80,
            protocol,
        };
        let mut saved = Saved::default();
        saved.ports.insert("a".to_owned(), vec![mapping(Some([127, 0, 0, 1]), 80, Protocol::Tcp)]);
        let check = |ip, port, protocol| saved.publisher(mapping(ip, port, protocol).rule().0).is_some();
        assert!(check(None, 80, Protocol::Tcp));
        assert!(check(Some([0, 0, 0, 0]), 80, Protocol::Tcp));
        assert!(check(Some([127, 0, 0, 1]), 80, Protocol::Tcp));
        assert!(!check(Some([10, 0, 0, 1]), 80, Protocol::Tcp));
        assert!(!check(None, 80, Protocol::Udp));
        assert!(!check(None, 81, Protocol::Tcp));
    }
}
