//! The decision: what traffic to a Service is to do.

use std::{
    collections::BTreeMap,
    net::{Ipv4Addr, SocketAddrV4},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use wharf_client::Object;
use wharf_control::{
    endpointslice::{Endpoint, EndpointSlice},
    meta::Meta,
};

use crate::{Protocol, ServicePortRule};

/// Marks the pods of a Rollout's version.
const TEMPLATE_HASH: &str = "/metadata/labels/rollouts-pod-template-hash";
/// A per cent, in parts that divide well among pods.
const PER_CENT: u32 = 1_000_000;
/// How long a client keeps its backend when the Service does not say.
const AFFINITY_SECONDS: u64 = 10_800;

/// `v1.Service`, as far as traffic needs it.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
pub struct Service {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: ServiceSpec,
    status: ServiceStatus,
}

/// `v1.ServiceSpec`, in part.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP` (when absent), `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type")]
    pub kind: Option<String>,
    /// Its address, `None` for a headless Service.
    #[serde(rename = "clusterIP")]
    pub cluster_ip: Option<String>,
    /// All its addresses.
    #[serde(rename = "clusterIPs")]
    pub cluster_ips: Option<Vec<String>>,
    /// Further addresses.
    #[serde(rename = "externalIPs")]
    pub external_ips: Option<Vec<String>>,
    /// The name an `ExternalName` Service stands for.
    pub external_name: Option<String>,
    /// Ports.
    pub ports: Option<Vec<ServicePort>>,
    /// `ClientIP` or `None`.
    pub session_affinity: Option<String>,
    session_affinity_config: Option<AffinityConfig>,
}

/// `v1.ServicePort`, in part.
#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Name among the ports of the Service.
    pub name: Option<String>,
    /// `TCP` when absent.
    pub protocol: Option<String>,
    /// Port of the Service.
    pub port: u16,
    /// Port of every node.
    pub node_port: Option<u16>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct AffinityConfig {
    #[serde(rename = "clientIP")]
    client_ip: Option<ClientIp>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ClientIp {
    timeout_seconds: Option<u64>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ServiceStatus {
    load_balancer: Option<LoadBalancer>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct LoadBalancer {
    ingress: Option<Vec<Ingress>>,
}

#[derive(Debug, Clone, Default, Deserialize)]
#[serde(default)]
struct Ingress {
    ip: Option<String>,
}

impl Service {
    /// Its IPv4 cluster addresses; none when it is headless or only a name.
    pub fn cluster_ips(&self) -> Vec<Ipv4Addr> {
        if self.external() {
            return Vec::new();
        }
        let many = self.spec.cluster_ips.iter().flatten();
        let mut addresses: Vec<Ipv4Addr> =
            many.chain(&self.spec.cluster_ip).filter_map(|text| text.parse().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    /// Whether it has no address of its own.
    pub fn headless(&self) -> bool {
        self.spec.cluster_ip.as_deref() == Some("None")
    }

    /// Whether it stands for a name elsewhere.
    pub fn external(&self) -> bool {
        self.spec.kind.as_deref() == Some("ExternalName")
    }

    fn external_ips(&self) -> Vec<Ipv4Addr> {
        let ingress = self.status.load_balancer.iter().flat_map(|balancer| balancer.ingress.iter().flatten());
        let ingress = ingress.filter_map(|ingress| ingress.ip.as_ref());
        let all = self.spec.external_ips.iter().flatten().chain(ingress);
        let mut addresses: Vec<Ipv4Addr> = all.filter_map(|text| text.parse().ok()).collect();
        addresses.sort_unstable();
        addresses.dedup();
        addresses
    }

    fn affinity(&self) -> Option<Duration> {
        let asked = self.spec.session_affinity.as_deref() == Some("ClientIP");
        let config = self.spec.session_affinity_config.as_ref().and_then(|config| config.client_ip.as_ref());
        let seconds = config.and_then(|client| client.timeout_seconds).unwrap_or(AFFINITY_SECONDS);
        asked.then(|| Duration::from_secs(seconds))
    }
}

/// The shares of versions while rollouts of a namespace are under way. Empty: all endpoints are equal.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Weights {
    /// The version (pod template hash) of each pod.
    pub pods: BTreeMap<String, String>,
    /// Per cent of the requests by version.
    pub versions: BTreeMap<String, u32>,
}

impl Weights {
    /// Reads them from the Rollouts and pods of one namespace.
    pub(super) fn of(rollouts: &[Object], pods: &[Object]) -> Self {
        let name = |pod: &Value| pod.pointer("/metadata/name").and_then(Value::as_str).map(str::to_owned);
        let pods = pods.iter().filter_map(|pod| Some((name(pod)?, template_hash(pod)?.to_owned())));
        let versions = rollouts.iter().filter_map(|rollout| weights(rollout)).flat_map(|weights| {
            let side = |side: &str| {
                let version = weights.get(side)?;
                let weight = version.get("weight")?.as_u64()?.min(100) as u32;
                let hash = version.get("podTemplateHash")?.as_str().filter(|hash| !hash.is_empty())?;
                Some((hash.to_owned(), weight))
            };
            [side("canary"), side("stable")].into_iter().flatten()
        });
        Self { pods: pods.collect(), versions: versions.collect() }
    }

    fn share(&self, endpoint: &Endpoint) -> Option<(&str, u32)> {
        let pod = endpoint.target_ref.as_ref().filter(|target| target.kind == "Pod")?;
        let (version, share) = self.versions.get_key_value(self.pods.get(&pod.name)?)?;
        Some((version, *share))
    }
}

pub(super) fn template_hash(pod: &Value) -> Option<&str> {
    pod.pointer(TEMPLATE_HASH).and_then(Value::as_str)
}

pub(super) fn weights(rollout: &Value) -> Option<&Value> {
    rollout.pointer("/status/canary/weights")
}

pub(super) fn has_weights(rollout: &Value) -> bool {
    weights(rollout).is_some_and(|weights| !weights.is_null())
}

/// The rules of one Service; none when it has no address of its own.
pub fn rules_of(service: &Service, slices: &[EndpointSlice], weights: &Weights) -> Vec<ServicePortRule> {
    let (cluster_ips, external_ips) = (service.cluster_ips(), service.external_ips());
    if cluster_ips.is_empty() {
        return Vec::new();
    }
    let key = format!("{}/{}", service.metadata.namespace, service.metadata.name);
    let rule = |port: &ServicePort| {
        let protocol = Protocol::from_name(port.protocol.as_deref().unwrap_or_default())?;
        let name = port.name.as_deref().unwrap_or_default();
        let label = if name.is_empty() { port.port.to_string() } else { name.to_owned() };
        Some(ServicePortRule {
            name: format!("{key}/{label}"),
            cluster_ips: cluster_ips.clone(),
            port: port.port,
            protocol,
            node_port: port.node_port.filter(|port| *port != 0),
            external_ips: external_ips.clone(),
            session_affinity: service.affinity(),
            backends: backends(slices, name, protocol, weights),
        })
    };
    service.spec.ports.iter().flatten().filter_map(rule).collect()
}

/// Endpoints that take new connections; when there is none, those that still serve on their way out.
pub(crate) fn usable(slices: &[EndpointSlice]) -> Vec<(&EndpointSlice, &Endpoint)> {
    let of_ipv4 = slices.iter().filter(|slice| slice.address_type == "IPv4");
    let all = of_ipv4.flat_map(|slice| slice.endpoints.iter().map(move |endpoint| (slice, endpoint)));
    let ready: Vec<_> =
        all.clone().filter(|(_, endpoint)| endpoint.conditions.ready != Some(false)).collect();
    if !ready.is_empty() {
        return ready;
    }
    let leaving = |endpoint: &Endpoint| {
        endpoint.conditions.serving != Some(false) && endpoint.conditions.terminating == Some(true)
    };
    all.filter(|(_, endpoint)| leaving(endpoint)).collect()
}

fn backends(
    slices: &[EndpointSlice],
    port: &str,
    protocol: Protocol,
    weights: &Weights,
) -> Vec<(SocketAddrV4, u32)> {
    let mut found: BTreeMap<SocketAddrV4, Option<(&str, u32)>> = BTreeMap::new();
    for (slice, endpoint) in usable(slices) {
        let fits = |p: &&wharf_control::service::EndpointPort| {
            p.name == port && Protocol::from_name(&p.protocol) == Some(protocol)
        };
        let number = slice.ports.iter().find(fits).and_then(|port| u16::try_from(port.port).ok());
        let address = endpoint.addresses.first().and_then(|text| text.parse().ok());
        if let (Some(number), Some(address)) = (number.filter(|n| *n != 0), address) {
            found.insert(SocketAddrV4::new(address, number), weights.share(endpoint));
        }
    }
    let mut sizes: BTreeMap<&str, u32> = BTreeMap::new();
    for (version, _) in found.values().flatten() {
        *sizes.entry(version).or_default() += 1;
    }
    let weighted = |share: Option<(&str, u32)>| match share {
        _ if sizes.is_empty() => 1,
        None => 0,
        Some((_, 0)) => 0,
        Some((version, per_cent)) => {
            let pods = sizes.get(version).copied().unwrap_or(1).max(1);
            (per_cent * PER_CENT / pods).max(1)
        }
    };
    found.into_iter().map(|(address, share)| (address, weighted(share))).collect()
}
