//! Services as the controllers read them, and what a pod contributes to one.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};

use crate::{
    intstr::IntOrString,
    meta::{Labels, Meta, null_default},
    pod::Pod,
    selector::contains,
};

/// `v1.Service`, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Service {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: ServiceSpec,
}

/// `v1.ServiceSpec`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServiceSpec {
    /// `ClusterIP` (when absent), `NodePort`, `LoadBalancer` or `ExternalName`.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// Labels of its pods; without any, its endpoints are somebody else's business.
    #[serde(deserialize_with = "null_default")]
    pub selector: Labels,
    /// Ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ServicePort>,
    /// Its address, or `None` for a headless Service.
    #[serde(rename = "clusterIP", deserialize_with = "null_default")]
    pub cluster_ip: String,
    /// `IPv4`, `IPv6`.
    #[serde(deserialize_with = "null_default")]
    pub ip_families: Vec<String>,
    /// Pods count as ready from the start.
    #[serde(deserialize_with = "null_default")]
    pub publish_not_ready_addresses: bool,
}

/// `v1.ServicePort`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ServicePort {
    /// Name among the ports of the Service.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// `TCP` when absent.
    #[serde(deserialize_with = "null_default")]
    pub protocol: String,
    /// Port of the Service.
    pub port: i64,
    /// Port of the pods, by number or by name; as `port` when absent.
    pub target_port: Option<IntOrString>,
    /// What is spoken.
    pub app_protocol: Option<String>,
}

/// A port of an endpoint (`discovery.k8s.io/v1.EndpointPort`, `v1.EndpointPort`).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointPort {
    /// Name of the Service's port.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// `TCP`, `UDP` or `SCTP`.
    #[serde(deserialize_with = "null_default")]
    pub protocol: String,
    /// Port of the pod.
    #[serde(deserialize_with = "null_default")]
    pub port: i64,
    /// What is spoken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub app_protocol: Option<String>,
}

/// The pod behind an endpoint (`v1.ObjectReference`, in part).
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct TargetRef {
    /// `Pod`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub kind: String,
    /// Its namespace.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub namespace: String,
    /// Its name.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub name: String,
    /// Its uid.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub uid: String,
}

impl Service {
    /// Whether its endpoints are made from pods.
    pub fn selects_pods(&self) -> bool {
        !self.spec.selector.is_empty() && self.spec.kind != "ExternalName"
    }

    /// Whether it has no address of its own.
    pub fn headless(&self) -> bool {
        self.spec.cluster_ip == "None"
    }

    /// Its address families, in order.
    pub(crate) fn families(&self) -> Vec<&'static str> {
        let known = |family: &String| match family.as_str() {
            "IPv4" => Some("IPv4"),
            "IPv6" => Some("IPv6"),
            _ => None,
        };
        let families: Vec<_> = self.spec.ip_families.iter().filter_map(known).collect();
        match families.is_empty() {
            false => families,
            true => vec![if self.spec.cluster_ip.contains(':') { "IPv6" } else { "IPv4" }],
        }
    }

    /// Whether it selects a pod that can be reached or may become so.
    pub(crate) fn selects(&self, pod: &Pod) -> bool {
        !pod.ended() && contains(&pod.metadata.labels, &self.spec.selector)
    }

    /// Its ports as they are on one pod; a named port the pod does not have is left out.
    pub(crate) fn ports_on(&self, pod: &Pod) -> Vec<EndpointPort> {
        let on_pod = |port: &ServicePort| {
            let protocol = if port.protocol.is_empty() { "TCP" } else { port.protocol.as_str() };
            let same = IntOrString::Int(port.port);
            let target = port.target_port.as_ref().filter(|target| **target != IntOrString::Int(0));
            Some(EndpointPort {
                name: port.name.clone(),
                protocol: protocol.to_owned(),
                port: pod.port(target.unwrap_or(&same), protocol)?,
                app_protocol: port.app_protocol.clone(),
            })
        };
        self.spec.ports.iter().filter_map(on_pod).collect()
    }

    /// The host name a pod has under this Service's domain.
    pub(crate) fn hostname_of(&self, pod: &Pod) -> Option<String> {
        let named = !pod.spec.hostname.is_empty() && pod.spec.subdomain == self.metadata.name;
        named.then(|| pod.spec.hostname.clone())
    }

    /// Labels of the objects made for it: its own, and those that mark them.
    pub(crate) fn labels_with(&self, marks: &[(&str, &str)]) -> Labels {
        let mut labels: BTreeMap<String, String> = self.metadata.labels.clone();
        labels.remove("service.kubernetes.io/headless");
        if self.headless() {
            labels.insert("service.kubernetes.io/headless".to_owned(), String::new());
        }
        labels.extend(marks.iter().map(|(key, value)| ((*key).to_owned(), (*value).to_owned())));
        labels
    }
}

/// The address of a pod in one family.
pub(crate) fn address_of<'a>(pod: &'a Pod, family: &str) -> Option<&'a str> {
    let listed = pod.status.pod_ips.iter().map(|ip| ip.ip.as_str());
    let mut all = listed.chain(std::iter::once(pod.status.pod_ip.as_str())).filter(|ip| !ip.is_empty());
    all.find(|ip| ip.contains(':') == (family == "IPv6"))
}

/// A pod as the target of an endpoint.
pub(crate) fn target_of(pod: &Pod) -> TargetRef {
    TargetRef {
        kind: "Pod".to_owned(),
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: pod.metadata.uid.clone(),
    }
}
