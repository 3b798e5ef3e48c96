//! Mirroring of Endpoints: those somebody made for a Service without a selector, as EndpointSlices.
//!
//! Addresses that share all their ports are in one slice, of each family. A slice no longer wanted is
//! given to ports that have none yet before a new one is made.

use std::{
    collections::{BTreeMap, BTreeSet},
    net::{IpAddr, Ipv4Addr},
};

use serde_json::{Map, Value, json};

use crate::{
    action::{Action, ENDPOINT_SLICES, Event, Step},
    endpoints::{Address, Endpoints, Subset},
    endpointslice::{Endpoint, EndpointConditions, EndpointSlice, MANAGED_BY, SERVICE_LABEL},
    meta::{Labels, OwnerReference, merge_diff, to_value},
    service::{EndpointPort, Service},
};

/// Most addresses mirrored of those that share their ports.
pub const MAX_ADDRESSES: usize = 1000;
/// The name of this controller, as upstream's.
pub const CONTROLLER: &str = "endpointslicemirroring-controller.k8s.io";
/// A label: `true` keeps Endpoints from being mirrored.
const SKIP: &str = "endpointslice.kubernetes.io/skip-mirror";
/// An annotation: the Endpoints are a lock, not addresses.
const LEADER: &str = "control-plane.alpha.kubernetes.io/leader";
/// Annotations that speak of the Endpoints alone.
const NOT_COPIED: [&str; 2] =
    ["endpoints.kubernetes.io/last-change-trigger-time", "kubectl.kubernetes.io/last-applied-configuration"];

/// What a decision about the mirror of one name sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The Service of this name, if there is one.
    pub service: Option<&'a Service>,
    /// The Endpoints of this name, if there are any.
    pub endpoints: Option<&'a Endpoints>,
    /// The slices labelled with this name; those of other managers do no harm.
    pub slices: &'a [&'a EndpointSlice],
}

/// Decides about the mirror of one name.
pub fn step(view: &View<'_>) -> Step {
    let ours = view.slices.iter().copied().filter(|slice| is_ours(slice));
    let Some(endpoints) = mirrored(view) else {
        return Step::of(ours.map(delete).collect());
    };
    let mut actions = Vec::new();
    let wanted = Wanted::of(endpoints);
    wanted.complain(endpoints, &mut actions);
    Plan::new(wanted.slices, ours.collect()).carry_out(endpoints, &mut actions);
    Step::of(actions)
}

/// The Endpoints, when they are to be mirrored.
fn mirrored<'a>(view: &View<'a>) -> Option<&'a Endpoints> {
    let meta = &view.endpoints?.metadata;
    let skipped = meta.labels.get(SKIP).is_some_and(|skip| skip == "true");
    let lock = meta.annotations.contains_key(LEADER);
    let selects = !view.service?.spec.selector.is_empty();
    view.endpoints.filter(|_| !skipped && !lock && !selects)
}

/// Whether a slice is a mirror that stays.
fn is_ours(slice: &EndpointSlice) -> bool {
    let manager = slice.metadata.labels.get(MANAGED_BY);
    manager.is_some_and(|manager| manager == CONTROLLER) && !slice.metadata.deleting()
}

/// Address family and ports: what the endpoints of a slice have in common.
type Key = (&'static str, Vec<EndpointPort>);

/// The slices that shall be, and what was left out.
#[derive(Default)]
struct Wanted {
    slices: BTreeMap<Key, Vec<Endpoint>>,
    invalid: usize,
    surplus: usize,
}

impl Wanted {
    fn of(endpoints: &Endpoints) -> Self {
        let mut wanted = Self::default();
        for (ports, addresses) in regroup(&endpoints.subsets) {
            let total = addresses.len();
            let (mut added, mut invalid) = (0, 0);
            // What is ready must not be what is left out.
            let ready = addresses.iter().filter(|(_, ready)| *ready);
            for (address, ready) in ready.chain(addresses.iter().filter(|(_, ready)| !ready)) {
                if added == MAX_ADDRESSES {
                    break;
                }
                let Some(ip) = parse(&address.ip) else {
                    invalid += 1;
                    continue;
                };
                added += 1;
                let family = if ip.is_ipv4() { "IPv4" } else { "IPv6" };
                let slice = wanted.slices.entry((family, ports.clone())).or_default();
                slice.push(endpoint(address, ip, *ready));
            }
            wanted.invalid += invalid;
            wanted.surplus += total - added - invalid;
        }
        wanted
    }

    /// Tells whoever made the Endpoints what is not mirrored.
    fn complain(&self, endpoints: &Endpoints, actions: &mut Vec<Action>) {
        let mut warn = |count: usize, reason, message: String| {
            if count > 0 {
                let involved = endpoints.metadata.object_ref("v1", "Endpoints");
                actions.push(Action::Event(Event::warning(involved, reason, message)));
            }
        };
        let invalid = format!("Not mirrored, since they are no IP addresses: {}", self.invalid);
        warn(self.invalid, "InvalidIPAddress", invalid);
        let surplus =
            format!("Not mirrored, since a slice holds at most {MAX_ADDRESSES} addresses: {}", self.surplus);
        warn(self.surplus, "TooManyAddressesToMirror", surplus);
    }
}

/// The address and the pod behind it: two pods may share the address of their node.
type Identity<'a> = (&'a str, &'a str);

/// Ports, and the addresses that have all of them, with whether they are ready.
type Group<'a> = (Vec<EndpointPort>, Vec<(&'a Address, bool)>);

/// The addresses of all subsets, grouped anew so that each port is in one group only. An address that
/// is ready in one subset and not in another, for the same port, is not ready.
fn regroup(subsets: &[Subset]) -> Vec<Group<'_>> {
    let mut known: BTreeMap<Identity<'_>, &Address> = BTreeMap::new();
    // Nothing stands for subsets without ports.
    let mut of_port: BTreeMap<Option<EndpointPort>, BTreeMap<Identity<'_>, bool>> = BTreeMap::new();
    for subset in subsets {
        let listed = subset.addresses.iter().map(|address| (address, true));
        let all: Vec<_> = listed.chain(subset.not_ready_addresses.iter().map(|a| (a, false))).collect();
        let ports: Vec<_> = subset.ports.iter().map(|port| Some(complete(port))).collect();
        for port in if ports.is_empty() { vec![None] } else { ports } {
            let addresses = of_port.entry(port).or_default();
            for (address, ready) in &all {
                known.entry(identity(address)).or_insert(address);
                addresses.entry(identity(address)).and_modify(|known| *known &= ready).or_insert(*ready);
            }
        }
    }
    let mut ports_of: BTreeMap<BTreeMap<Identity<'_>, bool>, Vec<EndpointPort>> = BTreeMap::new();
    for (port, addresses) in of_port {
        ports_of.entry(addresses).or_default().extend(port);
    }
    let with_addresses = ports_of.into_iter().map(|(addresses, ports)| {
        let known = |(key, ready): (&Identity<'_>, &bool)| Some((*known.get(key)?, *ready));
        (ports, addresses.iter().filter_map(known).collect())
    });
    with_addresses.collect()
}

fn identity(address: &Address) -> Identity<'_> {
    (&address.ip, address.target_ref.as_ref().map_or("", |target| &target.uid))
}

/// A port with the protocol that is meant when none is named.
fn complete(port: &EndpointPort) -> EndpointPort {
    let mut port = port.clone();
    if port.protocol.is_empty() {
        "TCP".clone_into(&mut port.protocol);
    }
    port
}

/// Reads an address; leading zeros are decimal, and a mapped IPv4 address is what it maps.
fn parse(text: &str) -> Option<IpAddr> {
    if let Ok(ip) = text.parse::<IpAddr>() {
        return Some(ip.to_canonical());
    }
    let parts: Vec<u8> = text.split('.').map(decimal).collect::<Option<_>>()?;
    <[u8; 4]>::try_from(parts).ok().map(|octets| IpAddr::V4(Ipv4Addr::from(octets)))
}

fn decimal(text: &str) -> Option<u8> {
    text.bytes().all(|b| b.is_ascii_digit()).then(|| text.parse().ok())?
}

fn endpoint(address: &Address, ip: IpAddr, ready: bool) -> Endpoint {
    Endpoint {
        addresses: vec![ip.to_string()],
        conditions: EndpointConditions { ready: Some(ready), ..EndpointConditions::default() },
        hostname: address.hostname.clone().filter(|name| !name.is_empty()),
        node_name: address.node_name.clone(),
        zone: None,
        target_ref: address.target_ref.clone(),
    }
}

/// Which slice becomes what.
struct Plan<'a> {
    wanted: Vec<(Key, Vec<Endpoint>, Option<&'a EndpointSlice>)>,
    surplus: Vec<&'a EndpointSlice>,
}

impl<'a> Plan<'a> {
    fn new(wanted: BTreeMap<Key, Vec<Endpoint>>, mut present: Vec<&'a EndpointSlice>) -> Self {
        present.sort_by_key(|slice| &slice.metadata.name);
        let mut plan = Self { wanted: Vec::with_capacity(wanted.len()), surplus: Vec::new() };
        for (key, endpoints) in wanted {
            let slice = take(&mut present, |slice| slice.address_type == key.0 && same(&slice.ports, &key.1));
            plan.wanted.push((key, endpoints, slice));
        }
        for (key, _, slice) in plan.wanted.iter_mut().filter(|(_, _, slice)| slice.is_none()) {
            *slice = take(&mut present, |slice| slice.address_type == key.0);
        }
        plan.surplus = present;
        plan
    }

    fn carry_out(self, endpoints: &Endpoints, actions: &mut Vec<Action>) {
        let mirror = Mirror::of(endpoints);
        for (key, wanted, slice) in self.wanted {
            match slice {
                Some(slice) => actions.extend(mirror.update(slice, &key, &wanted)),
                None if endpoints.metadata.deleting() => {}
                None => actions.push(mirror.create(&key, &wanted)),
            }
        }
        actions.extend(self.surplus.into_iter().map(delete));
    }
}

/// Takes the first that fits.
fn take<'a>(
    slices: &mut Vec<&'a EndpointSlice>,
    fits: impl Fn(&EndpointSlice) -> bool,
) -> Option<&'a EndpointSlice> {
    let place = slices.iter().position(|slice| fits(slice))?;
    Some(slices.remove(place))
}

/// Whether the ports are the same, in whatever order.
fn same(some: &[EndpointPort], others: &[EndpointPort]) -> bool {
    some.iter().collect::<BTreeSet<_>>() == others.iter().collect()
}

/// What every slice of the Endpoints carries.
struct Mirror<'a> {
    endpoints: &'a Endpoints,
    labels: Labels,
    annotations: Labels,
    owner: OwnerReference,
}

impl<'a> Mirror<'a> {
    fn of(endpoints: &'a Endpoints) -> Self {
        let meta = &endpoints.metadata;
        let mut labels = meta.labels.clone();
        labels.insert(SERVICE_LABEL.to_owned(), meta.name.clone());
        labels.insert(MANAGED_BY.to_owned(), CONTROLLER.to_owned());
        let mut annotations = meta.annotations.clone();
        annotations.retain(|key, _| !NOT_COPIED.contains(&key.as_str()));
        Self { endpoints, labels, annotations, owner: meta.controller_ref("v1", "Endpoints") }
    }

    fn create(&self, (family, ports): &Key, endpoints: &[Endpoint]) -> Action {
        let meta = &self.endpoints.metadata;
        Action::Create {
            resource: ENDPOINT_SLICES,
            namespace: meta.namespace.clone(),
            object: json!({
                "apiVersion": "discovery.k8s.io/v1",
                "kind": "EndpointSlice",
                "metadata": {
                    "generateName": format!("{}-", meta.name),
                    "namespace": meta.namespace,
                    "labels": self.labels,
                    "annotations": self.annotations,
                    "ownerReferences": [self.owner],
                },
                "addressType": family,
                "endpoints": endpoints,
                "ports": ports,
            }),
            announce: None,
        }
    }

    fn update(&self, slice: &EndpointSlice, (_, ports): &Key, endpoints: &[Endpoint]) -> Option<Action> {
        let (mut body, mut metadata) = (Map::new(), Map::new());
        if slice.endpoints != endpoints {
            body.insert("endpoints".to_owned(), json!(endpoints));
        }
        if !same(&slice.ports, ports) {
            body.insert("ports".to_owned(), json!(ports));
        }
        let meta = &slice.metadata;
        for (field, present, wanted) in
            [("labels", &meta.labels, &self.labels), ("annotations", &meta.annotations, &self.annotations)]
        {
            if let Some(difference) = merge_diff(&to_value(present), &to_value(wanted)) {
                metadata.insert(field.to_owned(), difference);
            }
        }
        if !meta.owner_references.iter().any(|owner| owner.uid == self.owner.uid) {
            metadata.insert("ownerReferences".to_owned(), json!([self.owner]));
        }
        if !metadata.is_empty() {
            body.insert("metadata".to_owned(), Value::Object(metadata));
        }
        (!body.is_empty()).then(|| meta.locked_patch(ENDPOINT_SLICES, Value::Object(body)))
    }
}

fn delete(slice: &EndpointSlice) -> Action {
    slice.metadata.delete(ENDPOINT_SLICES, None)
}

#[cfg(test)]
mod tests;
