//! Bridge networks: segments of their own, whose containers reach each other and not those of other networks.
//!
//! Each is a bridge of the kernel with the network's gateway as its address; the links of its containers are its ports.
//! The machine routes and translates what leaves it. What was asked for is kept by whoever made the network; here is
//! kept what the kernel has of it, and which container has which address.

use std::{
    collections::{BTreeMap, BTreeSet},
    fs,
    net::{Ipv4Addr, Ipv6Addr},
    os::fd::AsFd,
    path::Path,
};

use serde::{Deserialize, Serialize};

use crate::{
    Ipv4Net, Ipv6Net, PodNetwork,
    error::{Error, Result},
    kernel::{Plug, Segment, hardware},
    range::free_range,
    rules::BridgeRule,
    saved::{at, lock_machine},
};

/// What the names of all instances' bridges start with.
pub(crate) const BRIDGES: &str = "wb-";
/// Where networks have their addresses from, as docker's: the first network of this size that is free.
const POOLS: [(Ipv4Addr, u8, u8); 3] = [
    // The first /16 of this pool is the one docker's own bridge has.
    (Ipv4Addr::new(172, 16, 0, 0), 12, 16),
    (Ipv4Addr::new(192, 168, 0, 0), 16, 20),
    (Ipv4Addr::new(10, 200, 0, 0), 13, 24),
];
const NOT_CHOSEN: Ipv4Net = Ipv4Net::new(Ipv4Addr::new(172, 16, 0, 0), 15);

/// Networks of fewer bits are not one place's, but all there is of some kind.
const SITE: u8 = 16;

/// A bridge network as it is asked for.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct BridgeNetwork {
    /// Its id, which is no other network's.
    pub id: String,
    /// Its addresses.
    pub subnet: Ipv4Net,
    /// The machine's address in it.
    pub gateway: Ipv4Addr,
    /// Where containers' addresses are taken from, when that is not the whole subnet.
    #[serde(default)]
    pub range: Option<Ipv4Net>,
    /// Its addresses of IPv6, if it has some.
    #[serde(default)]
    pub ipv6: Option<Ipv6Side>,
    /// Nothing leads out of it or into it.
    #[serde(default)]
    pub internal: bool,
    /// The largest packet in bytes, when it is not the kernel's own choice.
    #[serde(default)]
    pub mtu: Option<u32>,
}

/// The IPv6 of a bridge network.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Ipv6Side {
    /// Its addresses.
    pub subnet: Ipv6Net,
    /// The machine's address in it.
    pub gateway: Ipv6Addr,
}

/// What a container wants to be in a network; what is not said is chosen.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct EndpointWish {
    /// Its address.
    pub address: Option<Ipv4Addr>,
    /// Its address of IPv6.
    pub ipv6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub hardware: Option<[u8; 6]>,
}

/// A container in a bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Endpoint {
    /// Its address.
    pub address: Ipv4Addr,
    /// Its address of IPv6, where the network has such.
    #[serde(default)]
    pub ipv6: Option<Ipv6Addr>,
    /// Its hardware address.
    pub hardware: [u8; 6],
    /// The number of its link on the host.
    number: u32,
}

/// What the kernel has of a bridge network.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub(crate) struct SavedBridge {
    pub number: u32,
    pub network: BridgeNetwork,
    /// The address given out last.
    #[serde(default)]
    pub last: Option<Ipv4Addr>,
    /// By container.
    #[serde(default)]
    pub endpoints: BTreeMap<String, Endpoint>,
}

impl SavedBridge {
    fn endpoint(&mut self, container: &str, wish: &EndpointWish, number: u32) -> Result<Endpoint> {
        let subnet = self.network.subnet;
        let has = |address: Ipv4Addr| self.endpoints.values().any(|endpoint| endpoint.address == address);
        let address = match wish.address {
            Some(address) if !subnet.contains(address) || address == self.network.gateway => {
                return Err(Error::Input(format!("address {address} is not one for containers of {subnet}")));
            }
            Some(address) if has(address) => return Err(Error::AddressTaken(address.into())),
            Some(address) => address,
            None => {
                let range = self.network.range.unwrap_or(subnet);
                let hosts = || range.addresses().filter(|address| subnet.has_host(*address));
                let free = |address: &Ipv4Addr| !has(*address) && *address != self.network.gateway;
                let later = self.last.and_then(|last| hosts().filter(|one| *one > last).find(free));
                later.or_else(|| hosts().find(free)).ok_or(Error::Full(range))?
            }
        };
        if wish.address.is_none() {
            self.last = Some(address);
        }
        let hardware = wish.hardware.unwrap_or(hardware(address));
        let endpoint = Endpoint { address, ipv6: self.address6(wish)?, hardware, number };
        self.endpoints.insert(container.to_owned(), endpoint.clone());
        Ok(endpoint)
    }

    fn address6(&self, wish: &EndpointWish) -> Result<Option<Ipv6Addr>> {
        let Some(side) = self.network.ipv6 else { return Ok(None) };
        let has = |address: Ipv6Addr| self.endpoints.values().any(|endpoint| endpoint.ipv6 == Some(address));
        match wish.ipv6 {
            Some(address) if !side.subnet.contains(address) || address == side.gateway => {
                Err(Error::Input(format!("address {address} is not one for containers of {}", side.subnet)))
            }
            Some(address) if has(address) => Err(Error::AddressTaken(address.into())),
            Some(address) => Ok(Some(address)),
            None => {
                let free = |address: &Ipv6Addr| !has(*address) && *address != side.gateway;
                Ok(Some(side.subnet.hosts().find(free).ok_or(Error::Full6(side.subnet))?))
            }
        }
    }
}

/// The first number nobody has.
fn free_number(taken: impl Iterator<Item = u32>) -> u32 {
    let taken: BTreeSet<u32> = taken.collect();
    (0..).find(|number| !taken.contains(number)).unwrap_or_default()
}

/// A number in few letters, for the names of links have fifteen in all.
fn short(mut number: u32) -> String {
    let mut digits = Vec::new();
    loop {
        digits.push(char::from_digit(number % 36, 36).unwrap_or('0'));
        number /= 36;
        if number == 0 {
            return digits.iter().rev().collect();
        }
    }
}

impl PodNetwork {
    /// A subnet that nothing on this machine has, nor one of `taken`.
    ///
    /// # Errors
    /// When none is free, or the kernel refuses.
    pub async fn free_subnet(&self, taken: &[Ipv4Net]) -> Result<Ipv4Net> {
        let mut used = self.links.networks().await?;
        used.extend([NOT_CHOSEN, self.range(), self.service_range()]);
        used.extend(taken);
        let free = |(address, prefix, size)| free_range(Ipv4Net::new(address, prefix), size, &used);
        POOLS.into_iter().find_map(free).ok_or(Error::NoFreeSubnet)
    }

    /// Makes a bridge network in the kernel; does nothing when it is there.
    ///
    /// # Errors
    /// When something else on this machine has its addresses, or the kernel refuses; then nothing has changed.
    pub async fn make_bridge(&self, network: &BridgeNetwork) -> Result<()> {
        let _machine = lock_machine(self.outside.as_deref())?;
        let known = self.store.read()?.bridges.get(&network.id).map(|known| known.number);
        if let Some(number) = known
            && self.links.exists(&self.bridge_link(number)).await?
        {
            return Ok(());
        }
        self.check_subnet(network).await?;
        let number = self.store.change(|saved| {
            let number = known.unwrap_or_else(|| free_number(saved.bridges.values().map(|one| one.number)));
            let new =
                || SavedBridge { number, network: network.clone(), last: None, endpoints: BTreeMap::new() };
            let bridge = saved.bridges.entry(network.id.clone()).or_insert_with(new);
            bridge.network = network.clone();
            Ok(number)
        })?;
        let made = async {
            if network.ipv6.is_some() {
                forward6()?;
            }
            self.links.ensure_bridge(&self.segment(number, network)).await?;
            self.rules.bridges(&[self.bridge_rule(number, network)], &[]).await
        };
        match made.await {
            Err(error) if known.is_none() => {
                self.remove_bridge(&network.id).await?;
                Err(error)
            }
            made => made,
        }
    }

    /// What the machine has of it would be cut off. A route to a whole private range is only overruled.
    async fn check_subnet(&self, network: &BridgeNetwork) -> Result<()> {
        let subnet = network.subnet;
        let used = self.links.networks().await?;
        let own = [self.range(), self.service_range()];
        let least = subnet.prefix().min(SITE);
        let within = used.into_iter().filter(|used| used.prefix() >= least).chain(own);
        let mut clash = within.filter(|used| used.overlaps(subnet));
        clash.next().map_or(Ok(()), |by| Err(Error::SubnetTaken { subnet, by }))
    }

    /// Removes a bridge network from the kernel, and the links of those still on it; it may be gone already.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn remove_bridge(&self, id: &str) -> Result<()> {
        let Some(bridge) = self.store.read()?.bridges.remove(id) else { return Ok(()) };
        for endpoint in bridge.endpoints.values() {
            self.links.remove(&self.port_link(endpoint)).await?;
        }
        self.rules.bridges(&[], &[self.bridge_rule(bridge.number, &bridge.network)]).await?;
        self.links.remove(&self.bridge_link(bridge.number)).await?;
        self.store.change(|saved| {
            saved.bridges.remove(id);
            Ok(())
        })
    }

    /// Connects a container to a bridge network, which is made when it is not there; what it had in it before goes.
    ///
    /// # Errors
    /// When the address wished for is taken or none is free, or the kernel refuses; then it is not connected.
    pub async fn connect(
        &self,
        container: &str,
        network: &BridgeNetwork,
        wish: &EndpointWish,
        netns: impl AsFd,
    ) -> Result<Endpoint> {
        self.disconnect(container, &network.id).await?;
        self.make_bridge(network).await?;
        let gone = || Error::Input(format!("network {} has just been removed", network.id));
        let (number, endpoint) = self.store.change(|saved| {
            let all = saved.bridges.values().flat_map(|bridge| bridge.endpoints.values());
            let free = free_number(all.map(|endpoint| endpoint.number));
            let bridge = saved.bridges.get_mut(&network.id).ok_or_else(gone)?;
            Ok((bridge.number, bridge.endpoint(container, wish, free)?))
        })?;
        let (segment, plug) = (self.segment(number, network), self.plug(&endpoint));
        if let Err(error) = self.links.plug(&segment, &plug, netns.as_fd()).await {
            self.disconnect(container, &network.id).await?;
            return Err(error);
        }
        Ok(endpoint)
    }

    /// Takes a container off a bridge network; it may not be on it.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn disconnect(&self, container: &str, network: &str) -> Result<()> {
        let saved = self.store.read()?;
        let endpoint = saved.bridges.get(network).and_then(|bridge| bridge.endpoints.get(container));
        let Some(endpoint) = endpoint else { return Ok(()) };
        self.links.remove(&self.port_link(endpoint)).await?;
        self.store.change(|saved| {
            if let Some(bridge) = saved.bridges.get_mut(network) {
                bridge.endpoints.remove(container);
            }
            Ok(())
        })
    }

    /// Leads what a container sends elsewhere over the network it has `address` in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn route_over(&self, gateway: Ipv4Addr, address: Ipv4Addr, netns: impl AsFd) -> Result<()> {
        self.links.route(gateway.into(), address, netns.as_fd()).await
    }

    /// Leads what a container sends elsewhere over IPv6 over the network it has `address` in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn route6_over(&self, gateway: Ipv6Addr, address: Ipv4Addr, netns: impl AsFd) -> Result<()> {
        self.links.route(gateway.into(), address, netns.as_fd()).await
    }

    /// Leads [`NAME_SERVER`](crate::NAME_SERVER) in a container to the machine's server of names, over the network it has `address`
    /// in.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub async fn serve_names(&self, address: Ipv4Addr, netns: impl AsFd) -> Result<()> {
        self.links.serve_names(self.gateway(), address, netns.as_fd()).await
    }

    /// The networks a container is on.
    pub(crate) fn networks_of(&self, container: &str) -> Result<Vec<String>> {
        let bridges = self.store.read()?.bridges.into_iter();
        let on = bridges.filter(|(_, bridge)| bridge.endpoints.contains_key(container));
        Ok(on.map(|(id, _)| id).collect())
    }

    /// Forgets bridge networks but those, and removes links nobody knows.
    pub(crate) async fn recover_bridges(&self, networks: &BTreeSet<String>) -> Result<()> {
        let saved = self.store.read()?;
        for id in saved.bridges.keys().filter(|id| !networks.contains(*id)) {
            self.remove_bridge(id).await?;
        }
        let bridges = self.store.read()?.bridges;
        let known: BTreeSet<String> = bridges
            .values()
            .flat_map(|bridge| {
                let ports = bridge.endpoints.values().map(|endpoint| self.port_link(endpoint));
                ports.chain([self.bridge_link(bridge.number)])
            })
            .collect();
        for prefix in self.prefixes() {
            for link in self.links.named(&prefix).await?.iter().filter(|link| !known.contains(*link)) {
                self.links.remove(link).await?;
            }
        }
        Ok(())
    }

    /// Removes the links of all bridge networks.
    pub(crate) async fn remove_bridges(&self) -> Result<()> {
        for prefix in self.prefixes() {
            for link in self.links.named(&prefix).await? {
                self.links.remove(&link).await?;
            }
        }
        Ok(())
    }

    fn prefixes(&self) -> [String; 2] {
        [format!("wp-{}.", self.instance), bridge_prefix(&self.instance)]
    }

    fn bridge_link(&self, number: u32) -> String {
        format!("{}{}", bridge_prefix(&self.instance), short(number))
    }

    fn port_link(&self, endpoint: &Endpoint) -> String {
        format!("wp-{}.{}", self.instance, short(endpoint.number))
    }

    fn segment(&self, number: u32, network: &BridgeNetwork) -> Segment {
        Segment {
            link: self.bridge_link(number),
            subnet: network.subnet,
            gateway: network.gateway,
            ipv6: network.ipv6,
            mtu: network.mtu,
            // Only the machine's DNS is reached from a network nothing leads out of.
            only: network.internal.then(|| self.gateway()),
        }
    }

    fn plug(&self, endpoint: &Endpoint) -> Plug {
        Plug {
            link: self.port_link(endpoint),
            address: endpoint.address,
            ipv6: endpoint.ipv6,
            hardware: endpoint.hardware,
        }
    }

    fn bridge_rule(&self, number: u32, network: &BridgeNetwork) -> BridgeRule {
        bridge_rule(&bridge_prefix(&self.instance), number, network)
    }
}

/// What the names of an instance's bridges start with.
pub(crate) fn bridge_prefix(instance: &str) -> String {
    format!("{BRIDGES}{instance}.")
}

/// What is ruled for a bridge network of the instance whose bridges' names start so.
pub(crate) fn bridge_rule(prefix: &str, number: u32, network: &BridgeNetwork) -> BridgeRule {
    let link = format!("{prefix}{}", short(number));
    let subnet6 = network.ipv6.map(|side| side.subnet);
    BridgeRule { link, subnet: network.subnet, subnet6, internal: network.internal }
}

/// Lets the machine route IPv6. Links that learn their routes from routers go on doing so only when told to.
fn forward6() -> Result<()> {
    let all = Path::new("/proc/sys/net/ipv6/conf");
    let forwarding = all.join("all/forwarding");
    if fs::read(&forwarding).map_err(at(&forwarding))?.starts_with(b"1") {
        return Ok(());
    }
    for link in fs::read_dir(all).map_err(at(all))?.flatten() {
        let accept = link.path().join("accept_ra");
        if fs::read(&accept).is_ok_and(|value| value.starts_with(b"1")) {
            fs::write(&accept, "2").map_err(at(&accept))?;
        }
    }
    fs::write(&forwarding, "1").map_err(at(&forwarding))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn bridge(subnet: &str, range: Option<&str>) -> SavedBridge {
        let subnet: Ipv4Net = subnet.parse().unwrap();
        let range = range.map(|range| range.parse().unwrap());
        let gateway = subnet.gateway();
        let id = "n".to_owned();
        let network = BridgeNetwork { id, subnet, gateway, range, ipv6: None, internal: false, mtu: None };
        SavedBridge { number: 0, network, last: None, endpoints: BTreeMap::new() }
    }

    #[test]
    fn addresses_are_wished_for_or_chosen() {
        let mut bridge = bridge("172.18.0.0/29", None);
        let mut next = |container: &str, wish: Option<&str>| {
            let wish =
                EndpointWish { address: wish.map(|text| text.parse().unwrap()), ..EndpointWish::default() };
            bridge.endpoint(container, &wish, 0).map(|endpoint| endpoint.address.octets()[3])
        };
        assert_eq!(next("a", None).unwrap(), 2);
        assert_eq!(next("b", Some("172.18.0.3")).unwrap(), 3);
        assert_eq!(next("c", None).unwrap(), 4);
        assert!(matches!(next("d", Some("172.18.0.3")), Err(Error::AddressTaken(_))));
        for wrong in ["172.18.0.1", "172.19.0.2"] {
            assert!(matches!(next("d", Some(wrong)), Err(Error::Input(_))), "{wrong}");
        }
        assert_eq!((next("d", None).unwrap(), next("e", None).unwrap()), (5, 6));
        assert!(matches!(next("f", None), Err(Error::Full(_))));
    }

    #[test]
    fn chosen_addresses_are_of_the_range() {
        let mut bridge = bridge("172.18.0.0/16", Some("172.18.5.0/30"));
        let mut next = |container: &str| {
            bridge.endpoint(container, &EndpointWish::default(), 0).map(|one| one.address.to_string())
        };
        assert_eq!(next("a").unwrap(), "172.18.5.0");
        assert_eq!(next("b").unwrap(), "172.18.5.1");
    }

    #[test]
    fn numbers() {
        assert_eq!([0, 35, 36, 46655].map(short), ["0", "z", "10", "zzz"].map(str::to_owned));
        assert_eq!(free_number([0, 1, 3].into_iter()), 2);
    }
}
