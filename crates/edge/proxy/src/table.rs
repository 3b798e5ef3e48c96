//! The routing table: made from API objects without I/O, and replaced as a whole when they change.

use std::{
    collections::{BTreeMap, BTreeSet, HashMap},
    net::{IpAddr, SocketAddr},
    sync::Arc,
};

use base64::{Engine as _, engine::general_purpose::STANDARD};
use wharf_control::{
    endpointslice::{Endpoint as SliceEndpoint, EndpointSlice, SERVICE_LABEL},
    service::{Service, ServicePort},
};
use wharf_http::{
    Certificate,
    client::{Protocol, Target},
};

use crate::{
    backend::{Backend, Endpoint, Group},
    metrics::Registry,
    objects::{Ingress, Kind, PodFacts, ROLLOUT_HASH, Rollout, World},
    routes::{BackendKey, PortRef, Routes, Warning, routes_of, served},
};

/// Where requests go.
#[derive(Debug, Default)]
pub struct RouteTable {
    routes: Arc<Routes>,
    backends: HashMap<BackendKey, Arc<Backend>>,
}

impl RouteTable {
    /// The Service's port for a request. `host` is in lower case and without a port; `path` has no query.
    pub fn route(&self, host: &str, path: &str) -> Option<&Arc<Backend>> {
        self.backends.get(self.routes.find(host, path)?)
    }
}

/// What is to be made anew.
#[derive(Debug, Default)]
pub struct Dirty {
    /// Routes and certificates.
    pub routes: bool,
    /// Namespaces whose Services, endpoints or weights changed.
    pub namespaces: BTreeSet<String>,
}

impl Dirty {
    /// Notes that an object changed.
    pub fn note(&mut self, kind: Kind, key: &str) {
        match kind {
            Kind::Ingress | Kind::Class | Kind::Secret => self.routes = true,
            Kind::Service | Kind::Slice | Kind::Pod | Kind::Rollout => {
                let namespace = key.split('/').next().unwrap_or("");
                if !self.namespaces.contains(namespace) {
                    self.namespaces.insert(namespace.to_owned());
                }
            }
        }
    }

    /// Whether nothing changed.
    pub fn is_empty(&self) -> bool {
        !self.routes && self.namespaces.is_empty()
    }
}

/// What comes with new routes.
#[derive(Debug, Default)]
pub struct Outcome {
    /// The Ingresses served, by namespace and name.
    pub served: Vec<(String, String)>,
    /// What of them is not honoured.
    pub warnings: Vec<Warning>,
    /// Certificates by host.
    pub certificates: HashMap<String, Certificate>,
}

/// The whole table.
pub fn table_of(world: &World, registry: &Registry) -> (RouteTable, Outcome) {
    let dirty = Dirty { routes: true, namespaces: BTreeSet::new() };
    let (table, outcome) = update(&RouteTable::default(), world, &dirty, registry);
    (table, outcome.unwrap_or_default())
}

/// The table after a change; what did not change is shared with the one before.
pub fn update(
    before: &RouteTable,
    world: &World,
    dirty: &Dirty,
    registry: &Registry,
) -> (RouteTable, Option<Outcome>) {
    let (routes, outcome) = match dirty.routes {
        false => (Arc::clone(&before.routes), None),
        true => {
            let (ingresses, mut warnings) = served(world);
            let routes = routes_of(&ingresses, &mut warnings);
            let certificates = certificates(&ingresses, world, &mut warnings);
            let served = ingresses.iter().map(|i| (i.metadata.namespace.clone(), i.metadata.name.clone()));
            let served = served.collect();
            (Arc::new(routes), Some(Outcome { served, warnings, certificates }))
        }
    };
    let mut spaces: HashMap<&str, Space<'_>> = HashMap::new();
    let mut backends = HashMap::new();
    for key in routes.keys() {
        if backends.contains_key(key) {
            continue;
        }
        let kept = before.backends.get(key).filter(|_| !dirty.namespaces.contains(&*key.namespace));
        let backend = kept.cloned().unwrap_or_else(|| {
            let space = spaces.entry(&key.namespace).or_insert_with(|| Space::of(world, &key.namespace));
            Arc::new(backend(key, world, space, registry))
        });
        backends.insert(key.clone(), backend);
    }
    (RouteTable { routes, backends }, outcome)
}

/// One namespace's objects, found by what they belong to.
struct Space<'a> {
    slices: HashMap<&'a str, Vec<&'a EndpointSlice>>,
    rollouts: Vec<&'a Rollout>,
}

impl<'a> Space<'a> {
    fn of(world: &'a World, namespace: &str) -> Self {
        let mut slices: HashMap<&str, Vec<&EndpointSlice>> = HashMap::new();
        for slice in within(&world.slices, namespace) {
            if let Some(service) = slice.metadata.labels.get(SERVICE_LABEL) {
                slices.entry(service).or_default().push(slice);
            }
        }
        Self { slices, rollouts: within(&world.rollouts, namespace).collect() }
    }
}

/// The objects of a namespace; `0` follows the slash.
fn within<'a, T>(all: &'a BTreeMap<String, T>, namespace: &str) -> impl Iterator<Item = &'a T> + use<'a, T> {
    all.range(format!("{namespace}/")..format!("{namespace}0")).map(|(_, object)| object)
}

fn backend(key: &BackendKey, world: &World, space: &Space<'_>, registry: &Registry) -> Backend {
    let state = registry.service(&key.namespace, &key.service);
    let broken = |problem: String| Backend {
        problem: Some(problem),
        protocol: Protocol::Http1,
        groups: Vec::new(),
        state: Arc::clone(&state),
    };
    let name = format!("{}/{}", key.namespace, key.service);
    let Some(service) = world.services.get(&name) else {
        return broken(format!("service {name} does not exist"));
    };
    if service.sticky {
        registry.say_once(&name, "sessionAffinity ClientIP has no effect on requests through the proxy");
    }
    let service = &service.service;
    if service.spec.kind == "ExternalName" {
        return broken(format!("service {name} is of type ExternalName, which the proxy does not support"));
    }
    let Some(port) = port_of(service, &key.port) else {
        let port = match &key.port {
            PortRef::Number(number) => number.to_string(),
            PortRef::Name(name) => format!("'{name}'"),
        };
        return broken(format!("service {name} has no port {port}"));
    };
    let protocol = protocol_of(&name, port.app_protocol.as_deref(), registry);
    let no_slices = Vec::new();
    let slices = space.slices.get(&*key.service).unwrap_or(&no_slices);
    let mut endpoints = BTreeMap::new();
    for slice in slices {
        for (address, pod) in ready(slice, port) {
            let facts = pod.as_ref().and_then(|pod| world.pods.get(&format!("{}/{pod}", key.namespace)));
            if facts.is_some_and(|facts| facts.leaving) {
                continue;
            }
            let target = Target { address, protocol: protocol.clone() };
            let version = facts.map_or("", PodFacts::version);
            let pod = pod.unwrap_or_default();
            endpoints.insert(address, (registry.endpoint(&state, target, &pod, version), facts));
        }
    }
    let groups = weighted(endpoints.into_values().collect(), &space.rollouts);
    Backend { problem: None, protocol, groups, state }
}

fn port_of<'a>(service: &'a Service, port: &PortRef) -> Option<&'a ServicePort> {
    service.spec.ports.iter().find(|candidate| match port {
        PortRef::Number(number) => candidate.port == *number,
        PortRef::Name(name) => candidate.name == **name,
    })
}

fn protocol_of(service: &str, named: Option<&str>, registry: &Registry) -> Protocol {
    match named {
        None | Some("" | "http" | "kubernetes.io/ws") => Protocol::Http1,
        Some("kubernetes.io/h2c" | "grpc" | "h2c") => Protocol::H2c,
        Some(other) => {
            let what = format!("appProtocol '{other}' is not supported; HTTP/1.1 is spoken in plain");
            registry.say_once(service, &what);
            Protocol::Http1
        }
    }
}

/// Addresses of a slice that may get new requests, each with its pod.
fn ready(slice: &EndpointSlice, port: &ServicePort) -> Vec<(SocketAddr, Option<String>)> {
    let port = slice.ports.iter().find(|candidate| candidate.name == port.name);
    let Some(port) = port.and_then(|port| u16::try_from(port.port).ok()) else { return Vec::new() };
    let usable = |endpoint: &&SliceEndpoint| {
        endpoint.conditions.ready != Some(false) && endpoint.conditions.terminating != Some(true)
    };
    let addressed = |endpoint: &SliceEndpoint| {
        let address: IpAddr = endpoint.addresses.first()?.parse().ok()?;
        let pod = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod");
        Some((SocketAddr::new(address, port), pod.map(|pod| pod.name.clone())))
    };
    slice.endpoints.iter().filter(usable).filter_map(addressed).collect()
}

/// Groups the endpoints by the weights of the Rollout that some of them belong to. Versions that have no weight get
/// nothing; pods of others share with the stable version. Without weights, or when no weighted version has an
/// endpoint, all are equal.
fn weighted(all: Vec<(Arc<Endpoint>, Option<&PodFacts>)>, rollouts: &[&Rollout]) -> Vec<Group> {
    let owner = rollouts.iter().find_map(|rollout| {
        let weights = Shares::of(rollout)?;
        all.iter()
            .any(|(_, facts)| facts.is_some_and(|facts| owns(rollout, facts)))
            .then_some((rollout, weights))
    });
    let equal = |all: Vec<(Arc<Endpoint>, _)>| {
        if all.is_empty() {
            return Vec::new();
        }
        vec![Group::new(1, all.into_iter().map(|(endpoint, _)| endpoint).collect())]
    };
    let Some((rollout, shares)) = owner else { return equal(all) };
    let (mut stable, mut canary) = (Vec::new(), Vec::new());
    for (endpoint, facts) in &all {
        if !facts.is_some_and(|facts| owns(rollout, facts)) || *endpoint.version == shares.stable.1 {
            stable.push(Arc::clone(endpoint));
        } else if *endpoint.version == shares.canary.1 {
            canary.push(Arc::clone(endpoint));
        }
    }
    let groups = [(shares.canary.0, canary), (shares.stable.0, stable)];
    let groups = groups.into_iter().filter(|(weight, endpoints)| *weight > 0 && !endpoints.is_empty());
    let groups: Vec<_> = groups.map(|(weight, endpoints)| Group::new(weight, endpoints)).collect();
    if groups.is_empty() { equal(all) } else { groups }
}

/// Weight and hash of either version.
struct Shares {
    canary: (u64, String),
    stable: (u64, String),
}

impl Shares {
    fn of(rollout: &Rollout) -> Option<Self> {
        let weights = rollout.status.canary.weights.as_ref()?;
        let share = |weight: i64| u64::try_from(weight).unwrap_or(0);
        let mut shares = Self {
            canary: (share(weights.canary.weight), weights.canary.pod_template_hash.clone()),
            stable: (share(weights.stable.weight), weights.stable.pod_template_hash.clone()),
        };
        if shares.stable.1.is_empty() {
            shares.stable.1.clone_from(&rollout.status.stable);
        }
        if rollout.status.abort {
            // Weights may still be those from before; an abort does not wait for them.
            (shares.canary.0, shares.stable.0) = (0, 100);
        }
        Some(shares)
    }
}

fn owns(rollout: &Rollout, pod: &PodFacts) -> bool {
    pod.labels.contains_key(ROLLOUT_HASH)
        && rollout.spec.selector.as_ref().is_none_or(|selector| selector.matches(&pod.labels))
}

fn certificates(
    ingresses: &[&Ingress],
    world: &World,
    warnings: &mut Vec<Warning>,
) -> HashMap<String, Certificate> {
    let mut by_host = HashMap::new();
    for ingress in ingresses {
        for (at, tls) in ingress.spec.tls.iter().enumerate().filter(|(_, tls)| !tls.secret_name.is_empty()) {
            let certificate = match certificate(world, &ingress.metadata.namespace, &tls.secret_name) {
                Ok(certificate) => certificate,
                Err(why) => {
                    let message =
                        format!("spec.tls[{at}].secretName: {why}; the default certificate is shown");
                    warnings.push(Warning::about(ingress, message));
                    continue;
                }
            };
            let of_rules = ingress.spec.rules.iter().map(|rule| &rule.host).filter(|host| !host.is_empty());
            let hosts: Vec<_> =
                if tls.hosts.is_empty() { of_rules.collect() } else { tls.hosts.iter().collect() };
            for host in hosts {
                by_host.entry(host.to_ascii_lowercase()).or_insert_with(|| certificate.clone());
            }
        }
    }
    by_host
}

fn certificate(world: &World, namespace: &str, name: &str) -> Result<Certificate, String> {
    let secret = world
        .secrets
        .get(&format!("{namespace}/{name}"))
        .ok_or_else(|| format!("there is no secret '{name}' of type kubernetes.io/tls"))?;
    let text = |key: &str| -> Result<String, String> {
        let value = secret.get(key).ok_or_else(|| format!("secret '{name}' has no {key}"))?;
        let bytes =
            STANDARD.decode(value).map_err(|e| format!("{key} of secret '{name}' is not base64: {e}"))?;
        String::from_utf8(bytes).map_err(|_| format!("{key} of secret '{name}' is not PEM text"))
    };
    Certificate::from_pem(&text("tls.crt")?, &text("tls.key")?).map_err(|e| format!("secret '{name}': {e}"))
}
