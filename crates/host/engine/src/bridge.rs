//! The networks of containers in the kernel, used with and without the platform: the platform's own pod network, which
//! containers know as "bridge", and the bridge networks people make.
//!
//! Nobody watches a container without a platform, so what an ended one had is taken back by a program started at its end,
//! or by whoever comes next: every command on containers, or the platform. Its link goes by
//! itself, with the network namespace. The network stays a little longer than its last container: making and removing
//! it takes longer than a short run.

use std::{
    collections::BTreeMap,
    fs::{self, File},
    future::Future,
    net::{Ipv4Addr, Ipv6Addr, TcpListener, UdpSocket},
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use rustix::fs::{FlockOperation, flock};
use wharf_base::ContainerId;
use wharf_network::{
    BridgeNetwork, EndpointWish, Ipv4Net, NetworkConfig, PodNetwork, PortMapping, Protocol, hardware,
};
use wharf_runtime::{Phase, PodDir};

use crate::{
    MAIN,
    error::{Error, IoContext as _, Result},
    networks::BRIDGE,
    ports::Publish,
};

/// How long the network stays without containers.
const IDLE: Duration = Duration::from_secs(3);
/// How often another free port or subnet is tried.
const TRIES: usize = 100;

/// A network to connect a container to.
#[derive(Debug, Clone)]
pub(crate) enum Target {
    /// The one all pods are on.
    Pods,
    /// One that people made, and what the container wants to be there.
    Made(BridgeNetwork, EndpointWish),
}

impl Target {
    fn leads_out(&self) -> bool {
        match self {
            Self::Pods => true,
            Self::Made(network, _) => !network.internal,
        }
    }
}

/// The networks of a container, by name.
pub(crate) type Targets = BTreeMap<String, Target>;

/// A container's place in one network.
#[derive(Debug, Clone)]
pub struct Place {
    /// Its address.
    pub address: Ipv4Addr,
    /// How many bits of the address are the network's.
    pub prefix: u8,
    /// The machine's address in the network.
    pub gateway: Ipv4Addr,
    /// Its place over IPv6, where the network has it.
    pub ipv6: Option<Place6>,
    /// Its hardware address.
    pub hardware: [u8; 6],
}

/// A container's place in one network over IPv6.
#[derive(Debug, Clone, Copy)]
pub struct Place6 {
    /// Its address.
    pub address: Ipv6Addr,
    /// How many bits of the address are the network's.
    pub prefix: u8,
    /// The machine's address in the network.
    pub gateway: Ipv6Addr,
}

/// The addresses of something in one network.
pub(crate) type Addresses = (Ipv4Addr, Option<Ipv6Addr>);

/// What a container has been connected to.
#[derive(Debug, Clone)]
pub struct Joined {
    /// Its places, by the names of the networks.
    pub places: BTreeMap<String, Place>,
    /// The machine's address that all containers reach, where the platform's DNS answers.
    pub machine: Ipv4Addr,
    /// The ports that lead to it, with those that were left to choose.
    pub ports: Vec<Publish>,
}

/// The bridge network of one data folder.
#[derive(Debug, Clone)]
pub struct Bridge {
    data: PathBuf,
    config: NetworkConfig,
}

impl Bridge {
    /// That of `data`.
    pub fn new(data: impl Into<PathBuf>, config: NetworkConfig) -> Self {
        Self { data: data.into(), config }
    }

    async fn open(&self) -> Result<PodNetwork> {
        if !rustix::process::geteuid().is_root() {
            let error = Error::host("a container's network needs root: it makes namespaces and packet rules");
            return Err(error.hint("run it with sudo, or with --network none or --network host"));
        }
        Ok(PodNetwork::open(self.config.clone()).await?)
    }

    /// Where every container and pod is: by who, then by the network's id, or `bridge` for the one all pods are on.
    ///
    /// # Errors
    /// When it cannot be read.
    pub(crate) fn addresses(&self) -> Result<BTreeMap<String, BTreeMap<String, Addresses>>> {
        let folder = &self.config.data;
        let mut found: BTreeMap<String, BTreeMap<String, Addresses>> = BTreeMap::new();
        if !PodNetwork::exists(folder) {
            return Ok(found);
        }
        let taken = PodNetwork::taken(folder)?;
        for (pod, address) in taken.pods {
            found.entry(pod).or_default().insert(BRIDGE.to_owned(), (address, None));
        }
        for (network, endpoints) in taken.bridges {
            for (container, endpoint) in endpoints {
                let addresses = (endpoint.address, endpoint.ipv6);
                found.entry(container).or_default().insert(network.clone(), addresses);
            }
        }
        Ok(found)
    }

    /// The addresses of the pod network, once they are chosen.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn range(&self) -> Result<Option<Ipv4Net>> {
        match PodNetwork::exists(&self.config.data) {
            true => Ok(PodNetwork::taken(&self.config.data)?.range),
            false => Ok(None),
        }
    }

    /// The places a container has now in these networks.
    pub(crate) fn places(&self, id: &ContainerId, targets: &Targets) -> Result<BTreeMap<String, Place>> {
        let folder = &self.config.data;
        let mut places = BTreeMap::new();
        if targets.is_empty() || !PodNetwork::exists(folder) {
            return Ok(places);
        }
        let taken = PodNetwork::taken(folder)?;
        let endpoint =
            |network: &BridgeNetwork| taken.bridges.get(&network.id).and_then(|on| on.get(id.as_str()));
        for (name, target) in targets {
            let place = match target {
                Target::Pods => {
                    let address = taken.pods.get(id.as_str()).copied();
                    address.zip(taken.range).map(|(address, range)| Place {
                        address,
                        prefix: range.prefix(),
                        gateway: range.gateway(),
                        ipv6: None,
                        hardware: hardware(address),
                    })
                }
                Target::Made(network, _) => endpoint(network).map(|endpoint| Place {
                    address: endpoint.address,
                    prefix: network.subnet.prefix(),
                    gateway: network.gateway,
                    ipv6: endpoint.ipv6.zip(network.ipv6).map(|(address, side)| Place6 {
                        address,
                        prefix: side.subnet.prefix(),
                        gateway: side.gateway,
                    }),
                    hardware: endpoint.hardware,
                }),
            };
            places.extend(place.map(|place| (name.clone(), place)));
        }
        Ok(places)
    }

    /// Held while containers join or leave, and while the platform takes the network over.
    pub fn lock(&self) -> Result<File> {
        let folder = &self.config.data;
        fs::create_dir_all(folder).at("make the folder", folder)?;
        let path = folder.join("containers.lock");
        let file = File::options().write(true).create(true).truncate(false).open(&path).at("open", &path)?;
        flock(&file, FlockOperation::LockExclusive).at("lock", &path)?;
        Ok(file)
    }

    /// Connects a container that starts to its networks, and leads ports to it.
    ///
    /// # Errors
    /// When a port or an address is taken, no address is free, or the kernel refuses.
    pub(crate) fn attach(
        &self,
        id: &ContainerId,
        namespace: &Path,
        targets: &Targets,
        ports: &[Publish],
    ) -> Result<Joined> {
        let locked = self.lock()?;
        locked.set_modified(SystemTime::now()).at("touch", "containers.lock")?;
        let ended = self.ended()?;
        let namespace = open_namespace(namespace)?;
        block_on(async {
            let network = self.open().await?;
            for id in ended {
                network.detach(&id).await?;
            }
            let joined = async {
                for target in targets.values() {
                    plug(&network, id, target, &namespace).await?;
                }
                // The pods' network alone has given it the way already.
                let routed = targets.len() == 1 && targets.values().all(|one| matches!(one, Target::Pods));
                self.settle(&network, id, &namespace, targets, ports, routed).await
            };
            let joined = joined.await;
            if joined.is_err() {
                network.detach(id.as_str()).await?;
            }
            joined
        })
    }

    /// Connects a container that runs to one more network; `targets` are all it then has.
    ///
    /// # Errors
    /// When its address is taken, none is free, or the kernel refuses.
    pub(crate) fn join(
        &self,
        id: &ContainerId,
        namespace: &Path,
        new: &str,
        targets: &Targets,
        ports: &[Publish],
    ) -> Result<Joined> {
        let _locked = self.lock()?;
        let namespace = open_namespace(namespace)?;
        block_on(async {
            let network = self.open().await?;
            let Some(target) = targets.get(new) else {
                return Err(Error::host(format!("there is nothing known of network {new}")));
            };
            plug(&network, id, target, &namespace).await?;
            let joined = self.settle(&network, id, &namespace, targets, ports, false).await;
            if joined.is_err() {
                unplug(&network, id, target).await?;
            }
            joined
        })
    }

    /// Takes a container that runs off a network; `targets` are those it keeps.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn leave(
        &self,
        id: &ContainerId,
        namespace: &Path,
        old: &Target,
        targets: &Targets,
        ports: &[Publish],
    ) -> Result<Joined> {
        let _locked = self.lock()?;
        let namespace = open_namespace(namespace)?;
        block_on(async {
            let network = self.open().await?;
            unplug(&network, id, old).await?;
            self.settle(&network, id, &namespace, targets, ports, false).await
        })
    }

    /// Leads what a container sends elsewhere, unless it is `routed`, over the first of its networks by name that leads out,
    /// and its ports to its address there.
    async fn settle(
        &self,
        network: &PodNetwork,
        id: &ContainerId,
        namespace: &File,
        targets: &Targets,
        ports: &[Publish],
        routed: bool,
    ) -> Result<Joined> {
        let places = self.places(id, targets)?;
        let ways = targets.iter().filter(|(_, target)| target.leads_out());
        let ways: Vec<&Place> = ways.filter_map(|(name, _)| places.get(name)).collect();
        let machine = network.gateway();
        let mut made = targets.iter().filter(|(_, target)| matches!(target, Target::Made(..)));
        if let Some(first) = made.find_map(|(name, _)| places.get(name)) {
            let by = ways.first().copied().unwrap_or(first);
            network.serve_names(by.address, namespace).await?;
        }
        let Some(place) = ways.first() else {
            network.unpublish(id.as_str()).await?;
            return Ok(Joined { places, machine, ports: Vec::new() });
        };
        if !routed {
            network.route_over(place.gateway, place.address, namespace).await?;
        }
        // Not always the same one: a network without IPv6 may come first.
        if let Some((address, over)) = ways.iter().find_map(|place| Some((place.address, place.ipv6?))) {
            network.route6_over(over.gateway, address, namespace).await?;
        }
        let ports = publish(network, id, place, ports).await?;
        Ok(Joined { places, machine, ports })
    }

    /// Makes a bridge network, with a free subnet when none is said.
    ///
    /// # Errors
    /// When something else has its addresses, none are free, or the kernel refuses.
    pub(crate) fn make(
        &self,
        taken: &[Ipv4Net],
        chosen: bool,
        mut network: BridgeNetwork,
    ) -> Result<BridgeNetwork> {
        let _locked = self.lock()?;
        block_on(async {
            let open = self.open().await?;
            let mut tries = 0;
            loop {
                if chosen {
                    network.subnet = open.free_subnet(taken).await?;
                    network.gateway = network.subnet.gateway();
                }
                tries += 1;
                match open.make_bridge(&network).await {
                    Ok(()) => return Ok(network),
                    // Another platform took it in this moment.
                    Err(wharf_network::Error::SubnetTaken { .. }) if chosen && tries < TRIES => {}
                    Err(error) => return Err(error.into()),
                }
            }
        })
    }

    /// Removes a bridge network from the kernel.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub(crate) fn unmake(&self, id: &str) -> Result<()> {
        if !PodNetwork::exists(&self.config.data) {
            return Ok(());
        }
        let _locked = self.lock()?;
        block_on(async { Ok(self.open().await?.remove_bridge(id).await?) })
    }

    /// Connects something that is no container, under a name of its own, after those of `over` have gone.
    ///
    /// # Errors
    /// When no address is free, or the kernel refuses.
    pub fn attach_other(&self, name: &str, namespace: &Path, over: &[String]) -> Result<Ipv4Addr> {
        let _locked = self.lock()?;
        let namespace = File::open(namespace).at("open the network namespace", namespace)?;
        block_on(async {
            let network = self.open().await?;
            for name in over {
                network.detach(name).await?;
            }
            Ok(network.attach(name, &namespace).await?)
        })
    }

    /// Takes back what something that is no container had.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn detach_others(&self, names: &[String]) -> Result<()> {
        if names.is_empty() {
            return Ok(());
        }
        let _locked = self.lock()?;
        block_on(async {
            let network = self.open().await?;
            for name in names {
                network.detach(name).await?;
            }
            Ok(())
        })
    }

    /// Names of all that is connected: containers, pods and others.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn connected(&self) -> Result<Vec<String>> {
        match PodNetwork::exists(&self.config.data) {
            true => Ok(PodNetwork::attached(&self.config.data)?.into_iter().collect()),
            false => Ok(Vec::new()),
        }
    }

    /// Takes back addresses and ports of containers that have ended; removes the network when nobody needs it any more, nor
    /// waits to.
    pub fn release_ended(&self) -> Result<()> {
        if self.is_orphan() {
            return Ok(());
        }
        let _lock = self.lock()?;
        let ended = self.ended()?;
        let other_waits = self.take_wait()?.is_none();
        if ended.is_empty() && (other_waits || !self.is_idle()?) {
            return Ok(());
        }
        block_on(async {
            let network = self.open().await?;
            for id in ended {
                network.detach(&id).await?;
            }
            if !other_waits && self.is_idle()? {
                network.remove_all().await?;
            }
            Ok(())
        })
    }

    /// Waits until the network has been without containers for a while, and removes it; unless another waits already.
    pub fn remove_idle(&self) -> Result<()> {
        if self.is_orphan() {
            return Ok(());
        }
        let wait = {
            let _lock = self.lock()?;
            self.take_wait()?
        };
        if wait.is_none() {
            return Ok(());
        }
        loop {
            std::thread::sleep(IDLE);
            if self.is_orphan() {
                return self.remove_orphan();
            }
            let locked = self.lock()?;
            if !self.is_idle()? {
                return Ok(());
            }
            let used = locked.metadata().and_then(|found| found.modified()).at("read", "containers.lock")?;
            if used.elapsed().is_ok_and(|since| since < IDLE) {
                continue;
            }
            crate::remove_empty_group();
            return block_on(async { Ok(self.open().await?.remove_all().await?) });
        }
    }

    /// Whether the folder of the network is not there: none was made, or somebody removed it with the data folder.
    pub fn is_orphan(&self) -> bool {
        !self.config.data.exists()
    }

    /// Removes a network that nobody else knows of any more.
    pub fn remove_orphan(&self) -> Result<()> {
        block_on(async { Ok(self.open().await?.remove_all().await?) })?;
        fs::remove_dir_all(&self.config.data).at("remove", &self.config.data)?;
        // Unless somebody has begun anew.
        let _ = fs::remove_dir(&self.data);
        Ok(())
    }

    /// Held by the process that waits to remove the network; nothing when another holds it. Asked for under the lock.
    fn take_wait(&self) -> Result<Option<File>> {
        let path = self.config.data.join("idle.lock");
        let file = File::options().write(true).create(true).truncate(false).open(&path).at("open", &path)?;
        Ok(flock(&file, FlockOperation::NonBlockingLockExclusive).is_ok().then_some(file))
    }

    /// The network is there, and neither a container nor the platform uses it.
    fn is_idle(&self) -> Result<bool> {
        let there = PodNetwork::exists(&self.config.data);
        Ok(there && PodNetwork::attached(&self.config.data)?.is_empty() && !self.platform_runs())
    }

    /// Containers that are attached.
    fn attached(&self) -> Result<Vec<ContainerId>> {
        let known = PodNetwork::attached(&self.config.data)?;
        Ok(known.iter().filter_map(|id| id.parse().ok()).collect())
    }

    fn ended(&self) -> Result<Vec<String>> {
        let ended = self.attached()?.into_iter().filter(|id| !self.lives(id));
        Ok(ended.map(|id| id.to_string()).collect())
    }

    /// Containers that are attached and have not ended.
    pub fn living(&self) -> Result<Vec<String>> {
        let living = self.attached()?.into_iter().filter(|id| self.lives(id));
        Ok(living.map(|id| id.to_string()).collect())
    }

    /// Before its container is made, a pod that has a shim lives.
    fn lives(&self, id: &ContainerId) -> bool {
        let dir = PodDir::at(self.folder(id));
        dir.has_shim() && !dir.status(MAIN).is_ok_and(|status| status.phase == Phase::Exited)
    }

    fn folder(&self, id: &ContainerId) -> PathBuf {
        self.data.join("containers").join(id.as_str())
    }

    /// The platform holds this lock as long as it runs; it waits for ours before it opens the network.
    fn platform_runs(&self) -> bool {
        let Ok(file) = File::open(self.data.join("lock")) else { return false };
        flock(&file, FlockOperation::NonBlockingLockShared).is_err()
    }
}

fn open_namespace(path: &Path) -> Result<File> {
    File::open(path).at("open the container's network namespace", path)
}

async fn plug(network: &PodNetwork, id: &ContainerId, target: &Target, namespace: &File) -> Result<()> {
    match target {
        Target::Pods => {
            network.attach(id.as_str(), namespace).await?;
        }
        Target::Made(made, wish) => {
            network.connect(id.as_str(), made, wish, namespace).await?;
        }
    }
    Ok(())
}

async fn unplug(network: &PodNetwork, id: &ContainerId, target: &Target) -> Result<()> {
    match target {
        Target::Pods => network.leave(id.as_str()).await?,
        Target::Made(made, _) => network.disconnect(id.as_str(), &made.id).await?,
    }
    Ok(())
}

/// Leads ports to a container. One that is left to choose is tried until it is nobody's.
async fn publish(
    network: &PodNetwork,
    id: &ContainerId,
    place: &Place,
    ports: &[Publish],
) -> Result<Vec<Publish>> {
    let (mut tries, mut refused) = (0, None);
    loop {
        let mut chosen: Vec<Publish> = Vec::new();
        for port in ports {
            match choose(port, tries, &chosen) {
                Ok(port) => chosen.push(port),
                Err(error) => return Err(refused.unwrap_or(error)),
            }
        }
        let mapping = |port: &Publish| PortMapping {
            host_ip: port.host_ip,
            host_port: port.host_port,
            container_ip: place.address,
            container_ip6: place.ipv6.map(|over| over.address),
            container_port: port.container_port,
            protocol: port.protocol,
        };
        tries += 1;
        match network.publish(id.as_str(), chosen.iter().map(mapping).collect()).await {
            Ok(()) => return Ok(chosen),
            Err(error @ wharf_network::Error::PortTaken { .. })
                if tries < TRIES && ports.iter().any(Publish::is_open) =>
            {
                refused = Some(error.into());
            }
            Err(error) => return Err(error.into()),
        }
    }
}

/// The port, or one of those it may be that no program has now nor stands in `others`, after so many that were not to be
/// had.
fn choose(port: &Publish, tries: usize, others: &[Publish]) -> Result<Publish> {
    let taken = |host_port: u16| {
        others.iter().any(|other| (other.host_port, other.protocol) == (host_port, port.protocol))
    };
    let host_port = match (port.host_port, port.host_end) {
        (0, _) => bound(port, 0).at("find a free port of", "this machine")?,
        (only, None) => only,
        (first, Some(last)) => {
            let free = |one: &u16| !taken(*one) && bound(port, *one).is_ok();
            let none = || {
                let error = format!("Bind for {port} failed: all ports are allocated");
                Error::host(error).hint("choose others, or stop what uses them")
            };
            (first..=last).filter(free).nth(tries).ok_or_else(none)?
        }
    };
    Ok(Publish { host_port, host_end: None, ..port.clone() })
}

/// The port a program of the machine gets that asks for this one; any free one for 0.
fn bound(port: &Publish, asked: u16) -> std::io::Result<u16> {
    let address = (port.host_ip.unwrap_or(Ipv4Addr::UNSPECIFIED), asked);
    let bound = match port.protocol {
        Protocol::Udp => UdpSocket::bind(address)?.local_addr()?,
        _ => TcpListener::bind(address)?.local_addr()?,
    };
    Ok(bound.port())
}

fn block_on<T>(work: impl Future<Output = Result<T>>) -> Result<T> {
    let runtime = tokio::runtime::Builder::new_current_thread().enable_all().build();
    runtime.at("start", "the network's runtime")?.block_on(work)
}

/// What a container reads as /etc/resolv.conf: this machine's, without servers it cannot reach from its own loopback.
pub fn resolver(of_machine: &str) -> String {
    let reachable = |line: &&str| {
        let mut words = line.split_ascii_whitespace();
        let server = (words.next() == Some("nameserver")).then(|| words.next().unwrap_or_default());
        server.is_none_or(|server| !server.starts_with("127.") && !server.contains(':'))
    };
    of_machine.lines().filter(reachable).map(|line| format!("{line}\n")).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn servers_on_the_loopback_are_left_out() {
        let text = "search a b\nnameserver 127.0.0.53\nnameserver ::1\nnameserver 10.0.0.2\n";
        assert_eq!(resolver(text), "search a b\nnameserver 10.0.0.2\n");
    }
}
