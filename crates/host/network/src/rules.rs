//! What the kernel is to do with traffic to services and host ports, and the steps from one such state to the next.
//!
//! Pure: it knows neither the API nor netlink. Each port of a Service is a *balancer* (a chain of its own) that is
//! found by its *fronts* (elements of verdict maps), so that a change touches only what belongs to it.

use std::{
    collections::{BTreeMap, BTreeSet},
    fmt,
    net::{Ipv4Addr, SocketAddrV4, SocketAddrV6},
    time::Duration,
};

use serde::{Deserialize, Serialize};

use crate::{Ipv4Net, Ipv6Net};

/// A transport protocol.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(rename_all = "UPPERCASE")]
pub enum Protocol {
    /// TCP.
    Tcp,
    /// UDP.
    Udp,
    /// SCTP.
    Sctp,
}

impl Protocol {
    /// Its number in IP headers.
    pub(crate) fn number(self) -> u8 {
        match self {
            Self::Tcp => 6,
            Self::Udp => 17,
            Self::Sctp => 132,
        }
    }

    /// By its Kubernetes name; TCP when empty.
    pub fn from_name(name: &str) -> Option<Self> {
        match name {
            "" | "TCP" => Some(Self::Tcp),
            "UDP" => Some(Self::Udp),
            "SCTP" => Some(Self::Sctp),
            _ => None,
        }
    }

    /// As in names of DNS and of rules.
    pub fn lower(self) -> &'static str {
        match self {
            Self::Tcp => "tcp",
            Self::Udp => "udp",
            Self::Sctp => "sctp",
        }
    }
}

/// One port of a Service, as traffic sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ServicePortRule {
    /// Unique, and stable over changes: `NAMESPACE/SERVICE/PORT`.
    pub name: String,
    /// Addresses reachable from this instance's pods and from the host.
    pub cluster_ips: Vec<Ipv4Addr>,
    /// The port on these, and on `external_ips`.
    pub port: u16,
    /// The protocol.
    pub protocol: Protocol,
    /// A port on every address of the host, loopback included.
    pub node_port: Option<u16>,
    /// Addresses reachable from everywhere.
    pub external_ips: Vec<Ipv4Addr>,
    /// How long a client address keeps its backend, where it does.
    pub session_affinity: Option<Duration>,
    /// Where connections go, with relative weights. A loopback address is the host's own. None: refused.
    pub backends: Vec<(SocketAddrV4, u32)>,
}

/// By what a packet finds its balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) enum Front {
    Cluster(Ipv4Addr, Protocol, u16),
    External(Ipv4Addr, Protocol, u16),
    Node(Protocol, u16),
}

/// A port of the host; without address it is on all of them.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub(crate) struct HostPort {
    pub address: Option<Ipv4Addr>,
    pub protocol: Protocol,
    pub port: u16,
}

impl fmt::Display for HostPort {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let address = self.address.unwrap_or(Ipv4Addr::UNSPECIFIED);
        write!(f, "{address}:{}/{}", self.port, self.protocol.lower())
    }
}

/// A bridge network, as traffic sees it.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct BridgeRule {
    /// The name of its bridge.
    pub link: String,
    pub subnet: Ipv4Net,
    pub subnet6: Option<Ipv6Net>,
    /// Nothing passes between it and the rest.
    pub internal: bool,
}

/// What never changes while a table lives.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Layout {
    /// What the names of all pods' links start with.
    pub links: String,
    /// What the names of all bridges start with.
    pub bridges: String,
    pub pods: Ipv4Net,
    pub services: Ipv4Net,
}

/// What the kernel holds for a balancer.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Shape {
    pub version: u64,
    pub mapped: bool,
    pub affinity: Option<u64>,
}

/// A step; a list of them is done at once or not at all.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Op {
    /// Puts an empty table in the place of what is there.
    Create(Layout),
    SetBalancer {
        name: String,
        shape: Shape,
        previous: Option<Shape>,
        backends: Vec<(SocketAddrV4, u32)>,
    },
    RemoveBalancer {
        name: String,
        shape: Shape,
    },
    Route {
        front: Front,
        balancer: String,
    },
    Unroute(Front),
    Refuse(Front),
    Unrefuse(Front),
    Publish {
        port: HostPort,
        to: SocketAddrV4,
    },
    Unpublish(HostPort),
    /// Leads a port on all of the host's addresses of IPv6 to a container.
    Publish6 {
        protocol: Protocol,
        port: u16,
        to: SocketAddrV6,
    },
    Unpublish6(Protocol, u16),
    AddBridge(BridgeRule),
    RemoveBridge(BridgeRule),
}

/// The share of each backend out of the sum of all: what has no weight is left out (all are equal when none has one).
pub(crate) fn slots(backends: &[(SocketAddrV4, u32)]) -> Vec<(SocketAddrV4, u32)> {
    let total: u64 = backends.iter().map(|(_, weight)| u64::from(*weight)).sum();
    if total == 0 {
        return backends.iter().map(|(address, _)| (*address, 1)).collect();
    }
    let weighted = backends.iter().filter(|(_, weight)| *weight > 0);
    let divisor = weighted.clone().fold(0, |divisor, (_, weight)| gcd(divisor, *weight));
    // The kernel draws a 32-bit number: larger sums lose precision instead of wrapping.
    let excess = (total / u64::from(divisor)) >> 31;
    let share = |weight: u32| (u64::from(weight / divisor) / (excess + 1)).max(1) as u32;
    weighted.map(|(address, weight)| (*address, share(*weight))).collect()
}

fn gcd(a: u32, b: u32) -> u32 {
    if b == 0 { a } else { gcd(b, a % b) }
}

/// What the kernel is to hold.
pub(crate) struct Table {
    layout: Layout,
    /// The rules of each owner (a Service, or a part of the platform).
    owners: BTreeMap<String, Vec<ServicePortRule>>,
    balancers: BTreeMap<String, (Shape, Vec<(SocketAddrV4, u32)>)>,
    /// Who asked for a front, first come first; the first one has it. `None` stands for "no backends".
    fronts: BTreeMap<Front, Vec<(String, Option<String>)>>,
    version: u64,
}

/// Steps, and flows of connectionless protocols that must not go on as they were.
#[derive(Debug, Default, PartialEq, Eq)]
pub(crate) struct Plan {
    pub ops: Vec<Op>,
    pub stale: BTreeSet<SocketAddrV4>,
}

impl Table {
    pub(crate) fn new(layout: Layout) -> Self {
        Self {
            layout,
            owners: BTreeMap::new(),
            balancers: BTreeMap::new(),
            fronts: BTreeMap::new(),
            version: 0,
        }
    }

    /// The owners there are.
    pub(crate) fn owners(&self) -> impl Iterator<Item = &String> {
        self.owners.keys()
    }

    /// Sets the rules of one owner.
    pub(crate) fn set(&mut self, owner: &str, rules: Vec<ServicePortRule>) -> Plan {
        let mut plan = Plan::default();
        if self.owners.get(owner).is_some_and(|old| *old == rules) {
            return plan;
        }
        let old = self.owners.remove(owner).unwrap_or_default();
        let before: BTreeMap<_, _> = old.iter().flat_map(|rule| fronts(owner, rule)).collect();
        let after: BTreeMap<_, _> = rules.iter().flat_map(|rule| fronts(owner, rule)).collect();
        for rule in &rules {
            self.balance(owner, rule, &mut plan);
        }
        for front in before.keys().chain(after.keys()).collect::<BTreeSet<_>>() {
            self.claim(owner, *front, after.get(front).cloned(), &mut plan.ops);
        }
        let kept: BTreeSet<String> =
            rules.iter().filter(|r| !r.backends.is_empty()).map(|r| chain(owner, r)).collect();
        for rule in &old {
            self.retire(owner, rule, &kept, &mut plan);
            plan.stale.extend(gone(rule, &rules));
        }
        if !rules.is_empty() {
            self.owners.insert(owner.to_owned(), rules);
        }
        plan
    }

    fn balance(&mut self, owner: &str, rule: &ServicePortRule, plan: &mut Plan) {
        if rule.backends.is_empty() {
            return;
        }
        let name = chain(owner, rule);
        let backends = slots(&rule.backends);
        let affinity = rule.session_affinity.map(|time| time.as_secs().max(1));
        let previous = self.balancers.get(&name).map(|(shape, _)| *shape);
        if self
            .balancers
            .get(&name)
            .is_some_and(|(shape, old)| *old == backends && shape.affinity == affinity)
        {
            return;
        }
        self.version += 1;
        let shape = Shape { version: self.version, mapped: backends.len() > 1, affinity };
        self.balancers.insert(name.clone(), (shape, backends.clone()));
        plan.ops.push(Op::SetBalancer { name, shape, previous, backends });
    }

    fn retire(&mut self, owner: &str, rule: &ServicePortRule, kept: &BTreeSet<String>, plan: &mut Plan) {
        let name = chain(owner, rule);
        if kept.contains(&name) {
            return;
        }
        if let Some((shape, _)) = self.balancers.remove(&name) {
            plan.ops.push(Op::RemoveBalancer { name, shape });
        }
    }

    /// Changes what one owner wants of a front: nothing, to refuse it, or a balancer.
    fn claim(&mut self, owner: &str, front: Front, wanted: Option<Option<String>>, ops: &mut Vec<Op>) {
        let claims = self.fronts.entry(front).or_default();
        let before = claims.first().map(|(_, balancer)| balancer.clone());
        match (claims.iter_mut().find(|(who, _)| who == owner), wanted) {
            (Some(claim), Some(balancer)) => claim.1 = balancer,
            (Some(_), None) => claims.retain(|(who, _)| who != owner),
            (None, Some(balancer)) => claims.push((owner.to_owned(), balancer)),
            (None, None) => {}
        }
        let after = claims.first().map(|(_, balancer)| balancer.clone());
        if claims.is_empty() {
            self.fronts.remove(&front);
        }
        if before == after {
            return;
        }
        ops.extend(before.and_then(|old| off(front, old.as_ref())));
        ops.extend(after.and_then(|new| on(front, new)));
    }

    /// Everything, from nothing.
    pub(crate) fn rebuild(
        &self,
        ports: &BTreeMap<HostPort, SocketAddrV4>,
        ports6: BTreeMap<(Protocol, u16), SocketAddrV6>,
        bridges: Vec<BridgeRule>,
    ) -> Vec<Op> {
        let mut ops = vec![Op::Create(self.layout.clone())];
        for (name, (shape, backends)) in &self.balancers {
            let (name, backends) = (name.clone(), backends.clone());
            ops.push(Op::SetBalancer { name, shape: *shape, previous: None, backends });
        }
        let first =
            self.fronts.iter().filter_map(|(front, claims)| Some((*front, claims.first()?.1.clone())));
        ops.extend(first.filter_map(|(front, balancer)| on(front, balancer)));
        ops.extend(ports.iter().map(|(port, to)| Op::Publish { port: *port, to: *to }));
        ops.extend(bridges.into_iter().map(Op::AddBridge));
        ops.extend(ports6.into_iter().map(|((protocol, port), to)| Op::Publish6 { protocol, port, to }));
        ops
    }

    /// What the names of all bridges start with.
    pub(crate) fn bridges(&self) -> &str {
        &self.layout.bridges
    }
}

/// The name of a rule's balancer; different owners never share one.
fn chain(owner: &str, rule: &ServicePortRule) -> String {
    match rule.name.strip_prefix(owner) {
        Some(_) => rule.name.clone(),
        None => format!("{owner}/{}", rule.name),
    }
}

fn fronts(owner: &str, rule: &ServicePortRule) -> Vec<(Front, Option<String>)> {
    let balancer = (!rule.backends.is_empty()).then(|| chain(owner, rule));
    let cluster = rule.cluster_ips.iter().map(|ip| Front::Cluster(*ip, rule.protocol, rule.port));
    let external = rule.external_ips.iter().map(|ip| Front::External(*ip, rule.protocol, rule.port));
    let node = rule.node_port.map(|port| Front::Node(rule.protocol, port));
    cluster.chain(external).chain(node).map(|front| (front, balancer.clone())).collect()
}

/// What a front without balancer needs: an external address must be refused here, a cluster address is by default, and
/// a port of the host by the host itself.
fn on(front: Front, balancer: Option<String>) -> Option<Op> {
    match balancer {
        Some(balancer) => Some(Op::Route { front, balancer }),
        None => matches!(front, Front::External(..)).then_some(Op::Refuse(front)),
    }
}

fn off(front: Front, balancer: Option<&String>) -> Option<Op> {
    match balancer {
        Some(_) => Some(Op::Unroute(front)),
        None => matches!(front, Front::External(..)).then_some(Op::Unrefuse(front)),
    }
}

/// Backends of a UDP rule that are no longer there: their flows would go on for as long as the client sends.
fn gone<'a>(old: &'a ServicePortRule, rules: &[ServicePortRule]) -> impl Iterator<Item = SocketAddrV4> + 'a {
    let now = rules.iter().find(|rule| rule.name == old.name && rule.protocol == old.protocol);
    let stay: BTreeSet<_> =
        now.iter().flat_map(|rule| rule.backends.iter().map(|(address, _)| *address)).collect();
    let udp = old.protocol == Protocol::Udp;
    old.backends.iter().map(|(address, _)| *address).filter(move |address| udp && !stay.contains(address))
}

#[cfg(test)]
mod tests;
