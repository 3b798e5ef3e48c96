//! The pod network of one instance: a range of addresses, a gateway, and a link for each pod.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{Ipv4Addr, SocketAddrV4, TcpListener, UdpSocket},
    os::fd::AsFd,
    path::{Path, PathBuf},
};

use crate::{
    Ipv4Net, PortMapping, Protocol, ServicePortRule, ServiceRules,
    bridges::{Endpoint, bridge_prefix},
    error::{Error, Result},
    kernel::{Gateway, Links, Netlink, Nftables, Port},
    outside,
    range::free_range,
    rules::{HostPort, Layout, Table},
    saved::{Store, at, lock_machine},
};

/// The size of an instance's network of service addresses.
const SERVICES_PREFIX: u8 = 16;
/// Which of the service addresses is cluster DNS, as kubeadm has it.
const DNS: u32 = 10;
const FORWARDING: &str = "/proc/sys/net/ipv4/ip_forward";
/// Routes of the host itself win over those to services.
const FIRST_METRIC: u32 = 10_000;

/// How a pod network is made.
#[derive(Debug, Clone)]
pub struct NetworkConfig {
    /// Short name of this instance on the machine: 1 to 8 of `a-z0-9`. Links and rules carry it.
    pub instance: String,
    /// Folder for what must survive a restart.
    pub data: PathBuf,
    /// Where this node's /24 is taken from.
    pub pods: Ipv4Net,
    /// Where this instance's network of service addresses is taken from: a /16, or all of it when it is smaller.
    pub services: Ipv4Net,
    /// Where the relay listens that has the machine's ports, when this network is not the machine's own.
    pub outside: Option<PathBuf>,
}

impl NetworkConfig {
    /// The network of service addresses that was chosen for this folder, or the one that would be on a machine without
    /// other instances.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn services(&self) -> Result<Ipv4Net> {
        Ok(Store::open(&self.data)?.services()?.unwrap_or(self.first_services()))
    }

    fn first_services(&self) -> Ipv4Net {
        Ipv4Net::new(self.services.address(), self.services.prefix().max(SERVICES_PREFIX))
    }
}

/// The addresses of a network that are given out.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Taken {
    /// Where those of pods are from, once that is chosen.
    pub range: Option<Ipv4Net>,
    /// By pod.
    pub pods: BTreeMap<String, Ipv4Addr>,
    /// Those of bridge networks, by network and then by container.
    pub bridges: BTreeMap<String, BTreeMap<String, Endpoint>>,
}

/// The pod network of one instance.
pub struct PodNetwork {
    pub(crate) links: Box<dyn Links>,
    gateway: Gateway,
    pub(crate) rules: ServiceRules,
    pub(crate) store: Store,
    pub(crate) instance: String,
    pub(crate) outside: Option<PathBuf>,
}

impl PodNetwork {
    /// Makes the network, or takes over the one that is there.
    ///
    /// # Errors
    /// When the configuration is wrong, no range is free, or the kernel refuses.
    pub async fn open(config: NetworkConfig) -> Result<Self> {
        check(&config)?;
        let store = Store::open(&config.data)?;
        let links = Box::new(Netlink::open()?);
        let gateway = make_gateway(&config, &store, links.as_ref()).await?;
        forward()?;
        let links_of_pods = link_prefix(&config.instance);
        let layout = Layout {
            links: links_of_pods,
            bridges: bridge_prefix(&config.instance),
            pods: gateway.pods,
            services: gateway.services,
        };
        let firewall = Box::new(Nftables::open(format!("wharf-{}", config.instance))?);
        let rules = ServiceRules::open(firewall, store.clone(), Table::new(layout)).await?;
        let network =
            Self { links, gateway, rules, store, instance: config.instance, outside: config.outside };
        network.rules.set_platform("dns", network.dns_rules()).await?;
        Ok(network)
    }

    /// This node's range.
    pub fn range(&self) -> Ipv4Net {
        self.gateway.pods
    }

    /// The host's own address in it: the pods' gateway, and where cluster DNS listens.
    pub fn gateway(&self) -> Ipv4Addr {
        self.gateway.pods.gateway()
    }

    /// The network of service addresses.
    pub fn service_range(&self) -> Ipv4Net {
        self.gateway.services
    }

    /// Where pods find cluster DNS: the tenth address of services.
    pub fn dns(&self) -> Ipv4Addr {
        let services = self.gateway.services;
        services.nth(DNS).unwrap_or(services.address())
    }

    /// Service load balancing.
    pub fn services(&self) -> &ServiceRules {
        &self.rules
    }

    /// Connects the pod whose network namespace this is; does nothing when it is connected already. The address stays
    /// the pod's until [`PodNetwork::detach`].
    ///
    /// # Errors
    /// When no address is free, or the kernel refuses.
    pub async fn attach(&self, pod: &str, netns: impl AsFd) -> Result<Ipv4Addr> {
        let range = self.range();
        let (known, address) = self.store.change(|saved| {
            let known = saved.pods.contains_key(pod);
            Ok((known, saved.address(pod, range)?))
        })?;
        let port = self.port(address);
        if known && self.links.is_attached(&port, netns.as_fd()).await? {
            return Ok(address);
        }
        match self.links.attach(self.gateway(), &port, netns.as_fd()).await {
            Ok(()) => Ok(address),
            Err(error) => {
                self.detach(pod).await?;
                Err(error)
            }
        }
    }

    /// Disconnects a pod from all of its networks, takes back its host ports and frees its addresses; it may be gone
    /// already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn detach(&self, pod: &str) -> Result<()> {
        self.unpublish(pod).await?;
        for network in self.networks_of(pod)? {
            self.disconnect(pod, &network).await?;
        }
        self.leave(pod).await
    }

    /// Disconnects a pod from this network only; it may not be on it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn leave(&self, pod: &str) -> Result<()> {
        let address = self.store.read()?.pods.get(pod).copied();
        if let Some(address) = address {
            self.links.remove(&self.port(address).link).await?;
        }
        self.store.change(|saved| {
            saved.pods.remove(pod);
            Ok(())
        })
    }

    /// Leads ports of the host to a container, in the place of those `id` published before.
    ///
    /// # Errors
    /// When a port is taken, or the kernel refuses; then nothing has changed.
    pub async fn publish(&self, id: &str, mappings: Vec<PortMapping>) -> Result<()> {
        let (old, new) = self.store.change(|saved| {
            let old = saved.ports.remove(id).unwrap_or_default();
            for mapping in &mappings {
                let port = mapping.rule().0;
                if let Some(by) = saved.publisher(port) {
                    return Err(Error::PortTaken { port: port.to_string(), by: by.to_owned() });
                }
                // A relay finds out itself, in the machine's network.
                if self.outside.is_none() && !old.iter().any(|old| old.rule().0 == port) {
                    probe(port)?;
                }
            }
            if !mappings.is_empty() {
                saved.ports.insert(id.to_owned(), mappings.clone());
            }
            Ok((old, mappings))
        })?;
        let changed = |mappings: &[PortMapping], others: &[PortMapping]| -> Vec<PortMapping> {
            mappings.iter().filter(|mapping| !others.contains(mapping)).cloned().collect()
        };
        let (add, remove) = (changed(&new, &old), changed(&old, &new));
        if add.is_empty() && remove.is_empty() {
            return Ok(());
        }
        let published = match self.publish_outside(id, &new).await {
            Ok(()) => self.rules.publish(&add, &remove).await,
            refused => refused,
        };
        if published.is_err() {
            // Best effort: the first error is the one to tell.
            let _ = self.publish_outside(id, &old).await;
            self.store.change(|saved| {
                saved.ports.remove(id);
                if !old.is_empty() {
                    saved.ports.insert(id.to_owned(), old);
                }
                Ok(())
            })?;
        }
        published
    }

    async fn publish_outside(&self, id: &str, mappings: &[PortMapping]) -> Result<()> {
        match &self.outside {
            Some(socket) => {
                let published = outside::publish(socket, &format!("{}/{id}", self.instance), mappings).await;
                // A relay that is gone holds nothing.
                published.or_else(|error| if mappings.is_empty() { Ok(()) } else { Err(error) })
            }
            None => Ok(()),
        }
    }

    /// Takes back the ports `id` published; there may be none.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn unpublish(&self, id: &str) -> Result<()> {
        self.publish(id, Vec::new()).await
    }

    /// Gateway links of other instances on this machine. They share the node ports of Services: one that two of them have
    /// leads to one of the two.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn neighbours(&self) -> Result<Vec<String>> {
        let gateways = self.links.named(GATEWAY_PREFIX).await?;
        Ok(gateways.into_iter().filter(|link| *link != self.gateway.link).collect())
    }

    /// Whether a network was made with this folder and not removed.
    pub fn exists(data: &Path) -> bool {
        Store::exists(data)
    }

    /// Every pod and publisher saved in a network's folder, which need not be open.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn attached(data: &Path) -> Result<BTreeSet<String>> {
        Ok(Store::open(data)?.read()?.connected())
    }

    /// Who has which address, as it is saved in a network's folder, which need not be open.
    ///
    /// # Errors
    /// When the file cannot be read.
    pub fn taken(data: &Path) -> Result<Taken> {
        let saved = Store::open(data)?.read()?;
        let bridges =
            saved.bridges.into_iter().map(|(network, bridge)| (network, bridge.endpoints)).collect();
        Ok(Taken { range: saved.range, pods: saved.pods, bridges })
    }

    /// Forgets every pod and publisher but those, and bridge networks but these, and removes their links.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn recover(&self, living: &BTreeSet<String>, networks: &BTreeSet<String>) -> Result<()> {
        for id in self.store.read()?.connected().iter().filter(|id| !living.contains(*id)) {
            self.detach(id).await?;
        }
        self.recover_bridges(networks).await?;
        let known: BTreeSet<String> =
            self.store.read()?.pods.values().map(|address| self.port(*address).link).collect();
        for link in self.links.named(&link_prefix(&self.instance)).await? {
            if !known.contains(&link) {
                self.links.remove(&link).await?;
            }
        }
        Ok(())
    }

    /// Removes everything of this instance: links, rules and what was saved.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_all(&self) -> Result<()> {
        for link in self.links.named(&link_prefix(&self.instance)).await? {
            self.links.remove(&link).await?;
        }
        self.remove_bridges().await?;
        self.links.remove(&self.gateway.link).await?;
        self.rules.remove().await?;
        self.store.remove()
    }

    fn port(&self, address: Ipv4Addr) -> Port {
        let [.., last] = address.octets();
        Port { link: format!("{}{last}", link_prefix(&self.instance)), address }
    }

    fn dns_rules(&self) -> Vec<ServicePortRule> {
        let rule = |protocol: Protocol| ServicePortRule {
            name: protocol.lower().to_owned(),
            cluster_ips: vec![self.dns()],
            port: 53,
            protocol,
            node_port: None,
            external_ips: Vec::new(),
            session_affinity: None,
            backends: vec![(SocketAddrV4::new(self.gateway(), 53), 1)],
        };
        vec![rule(Protocol::Udp), rule(Protocol::Tcp)]
    }
}

/// What the names of all instances' gateways start with.
const GATEWAY_PREFIX: &str = "wh-";

/// What the names of links of all instances' pods start with on the host.
pub(crate) const LINKS: &str = "wv-";

/// What the names of an instance's pods' links start with on the host.
fn link_prefix(instance: &str) -> String {
    format!("{LINKS}{instance}.")
}

fn check(config: &NetworkConfig) -> Result<()> {
    let id = &config.instance;
    let fits = |c: u8| c.is_ascii_lowercase() || c.is_ascii_digit();
    if id.is_empty() || id.len() > 8 || !id.bytes().all(fits) {
        return Err(Error::Input(format!("instance `{id}` must be 1 to 8 characters of a-z and 0-9")));
    }
    if config.pods.prefix() > 24 {
        return Err(Error::Input(format!(
            "pod network {} is too small: at least a /24 is needed",
            config.pods
        )));
    }
    if config.pods.overlaps(config.services) {
        let (pods, services) = (config.pods, config.services);
        return Err(Error::Input(format!("pod network {pods} and service network {services} overlap")));
    }
    if config.services.nth(DNS).is_none() {
        let services = config.services;
        return Err(Error::Input(format!(
            "service network {services} is too small: DNS is its address {DNS}"
        )));
    }
    Ok(())
}

/// Chooses this node's ranges, once and for all, and makes the gateway while no other instance chooses.
async fn make_gateway(config: &NetworkConfig, store: &Store, links: &dyn Links) -> Result<Gateway> {
    let _machine = lock_machine(config.outside.as_deref())?;
    let name = format!("{GATEWAY_PREFIX}{}", config.instance);
    let exists = links.exists(&name).await?;
    let used = if exists { Vec::new() } else { links.networks().await? };
    let services = choose_services(config, store, exists, &used)?;
    let range = store.change(|saved| {
        // Without a gateway no pod lives: the range may change when somebody else took it meanwhile.
        let kept = saved.range.filter(|range| config.pods.contains(range.address()));
        let kept = kept.filter(|range| exists || free_range(*range, 24, &used).is_some());
        if kept.is_none() {
            saved.range = free_range(config.pods, 24, &used);
            (saved.last, saved.pods) = (None, Default::default());
        }
        saved.range.ok_or(Error::NoFreeRange(config.pods))
    })?;
    let metric = FIRST_METRIC + ((range.address().to_bits() >> 8) & 0xff);
    let gateway = Gateway { link: name, pods: range, services, metric };
    links.ensure_gateway(&gateway).await?;
    Ok(gateway)
}

/// Two instances with the same service addresses would break each other's connections from the host: these leave with
/// the address of one instance's gateway, which goes when that one does.
fn choose_services(config: &NetworkConfig, store: &Store, exists: bool, used: &[Ipv4Net]) -> Result<Ipv4Net> {
    let (first, saved) = (config.first_services(), store.services()?);
    let Some(kept) = saved.filter(|kept| config.services.contains(kept.address())) else {
        // What was made before there was a choice has the first.
        let free = || free_range(config.services, SERVICES_PREFIX, used);
        let made = exists || store.read()?.range.is_some();
        let chosen = if made { first } else { free().unwrap_or(first) };
        store.keep_services(chosen)?;
        return Ok(chosen);
    };
    if used.iter().any(|network| network.prefix() >= config.services.prefix() && network.overlaps(kept)) {
        tracing::warn!(
            services = %kept,
            "something else on this machine has the addresses of Services: from the host they may lead there; pods \
             reach their own"
        );
    }
    Ok(kept)
}

fn forward() -> Result<()> {
    let path = Path::new(FORWARDING);
    if std::fs::read(path).map_err(at(path))?.starts_with(b"1") {
        return Ok(());
    }
    std::fs::write(path, "1").map_err(at(path))
}

/// Fails when a program of the host listens there: the rules would take its traffic.
fn probe(port: HostPort) -> Result<()> {
    let address = SocketAddrV4::new(port.address.unwrap_or(Ipv4Addr::UNSPECIFIED), port.port);
    let bound = match port.protocol {
        Protocol::Tcp => TcpListener::bind(address).map(drop),
        Protocol::Udp => UdpSocket::bind(address).map(drop),
        Protocol::Sctp => Ok(()),
    };
    bound.map_err(|error| Error::PortTaken {
        port: port.to_string(),
        by: format!("a program of the host ({error})"),
    })
}
