//! Endpoints: the older form of EndpointSlices, one object per Service.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    action::{Action, ENDPOINTS, Step},
    meta::{Labels, Meta, merge_diff, null_default, to_value},
    pod::Pod,
    service::{EndpointPort, Service, TargetRef, address_of, target_of},
};

/// Most addresses in one object; the rest is left out and an annotation says so.
pub const MAX_ADDRESSES: usize = 1000;
const OVER_CAPACITY: &str = "endpoints.kubernetes.io/over-capacity";
const MANAGED_BY: &str = "endpoints.kubernetes.io/managed-by";
const CONTROLLER: &str = "endpoint-controller";

/// `v1.Endpoints`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoints {
    /// Metadata.
    pub metadata: Meta,
    /// Addresses by ports.
    #[serde(deserialize_with = "null_default")]
    pub subsets: Vec<Subset>,
}

/// `v1.EndpointSubset`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Subset {
    /// Ready addresses.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub addresses: Vec<Address>,
    /// Addresses that are not ready.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub not_ready_addresses: Vec<Address>,
    /// Ports all of them have.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub ports: Vec<EndpointPort>,
}

/// `v1.EndpointAddress`.
#[derive(Clone, Debug, Default, PartialEq, Eq, PartialOrd, Ord, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Address {
    /// The address.
    pub ip: String,
    /// Host name under the Service's domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Node of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
}

/// What a decision about the Endpoints of one Service sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The Service.
    pub service: &'a Service,
    /// The pods of its namespace; those it does not select do no harm.
    pub pods: &'a [&'a Pod],
    /// The Endpoints of the Service's name, if there are any.
    pub endpoints: Option<&'a Endpoints>,
}

/// Decides about the Endpoints of one Service.
pub fn step(view: &View<'_>) -> Step {
    let service = view.service;
    if !service.selects_pods() || service.metadata.deleting() {
        return Step::idle();
    }
    let (subsets, cut) = subsets(view);
    let labels = service.labels_with(&[(MANAGED_BY, CONTROLLER)]);
    match view.endpoints {
        None => Step::of(vec![create(service, &subsets, &labels, cut)]),
        Some(present) => Step::of(update(present, &subsets, &labels, cut).into_iter().collect()),
    }
}

/// Decides about the Endpoints of a Service that is gone. Those somebody else made stay.
pub fn orphaned(endpoints: &Endpoints) -> Step {
    let meta = &endpoints.metadata;
    if meta.deleting() || meta.labels.get(MANAGED_BY).is_none_or(|manager| manager != CONTROLLER) {
        return Step::idle();
    }
    Step::of(vec![meta.delete(ENDPOINTS, None)])
}

/// The addresses by ports, and whether some were left out.
fn subsets(view: &View<'_>) -> (Vec<Subset>, bool) {
    let service = view.service;
    let publish_all = service.spec.publish_not_ready_addresses;
    let family = service.families().first().copied().unwrap_or("IPv4");
    let mut groups: BTreeMap<Vec<EndpointPort>, Subset> = BTreeMap::new();
    let mut total = 0;
    let mut selected: Vec<&Pod> = view.pods.iter().copied().filter(|pod| service.selects(pod)).collect();
    // What is ready must not be what is left out.
    selected.sort_by_key(|pod| (!(publish_all || pod.ready()), pod.metadata.uid.as_str()));
    for pod in selected {
        let Some(ip) = address_of(pod, family) else { continue };
        let ports = service.ports_on(pod);
        let reachable = !ports.is_empty() || service.spec.ports.is_empty();
        if !reachable || (pod.metadata.deleting() && !publish_all) {
            continue;
        }
        total += 1;
        if total > MAX_ADDRESSES {
            break;
        }
        let subset = groups.entry(ports).or_default();
        let ready = publish_all || pod.ready();
        let list = if ready { &mut subset.addresses } else { &mut subset.not_ready_addresses };
        list.push(Address {
            ip: ip.to_owned(),
            hostname: service.hostname_of(pod),
            node_name: Some(pod.spec.node_name.clone()).filter(|node| !node.is_empty()),
            target_ref: Some(target_of(pod)),
        });
    }
    let subsets = groups.into_iter().map(|(ports, mut subset)| {
        subset.ports = ports;
        subset.addresses.sort();
        subset.not_ready_addresses.sort();
        subset
    });
    (subsets.collect(), total > MAX_ADDRESSES)
}

fn create(service: &Service, subsets: &[Subset], labels: &Labels, cut: bool) -> Action {
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(service.metadata.name));
    metadata.insert("namespace".to_owned(), json!(service.metadata.namespace));
    metadata.insert("labels".to_owned(), json!(labels));
    if cut {
        metadata.insert("annotations".to_owned(), json!({OVER_CAPACITY: "truncated"}));
    }
    Action::Create {
        resource: ENDPOINTS,
        namespace: service.metadata.namespace.clone(),
        object: json!({"apiVersion": "v1", "kind": "Endpoints", "metadata": metadata, "subsets": subsets}),
        announce: None,
    }
}

fn update(present: &Endpoints, subsets: &[Subset], labels: &Labels, cut: bool) -> Option<Action> {
    let mut body = Map::new();
    let mut metadata = Map::new();
    if present.subsets != subsets {
        body.insert("subsets".to_owned(), json!(subsets));
    }
    if let Some(difference) = merge_diff(&to_value(&present.metadata.labels), &to_value(labels)) {
        metadata.insert("labels".to_owned(), difference);
    }
    if present.metadata.annotations.contains_key(OVER_CAPACITY) != cut {
        let mark = if cut { json!("truncated") } else { Value::Null };
        metadata.insert("annotations".to_owned(), json!({OVER_CAPACITY: mark}));
    }
    if !metadata.is_empty() {
        body.insert("metadata".to_owned(), Value::Object(metadata));
    }
    (!body.is_empty()).then(|| present.metadata.locked_patch(ENDPOINTS, Value::Object(body)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::read;

    fn pod(name: &str, status: &str, deleting: bool) -> Pod {
        let deletion = if deleting { json!("2026-01-01T00:00:00Z") } else { Value::Null };
        read(&json!({
            "metadata": {"name": name, "uid": name, "labels": {"a": "b"}, "deletionTimestamp": deletion},
            "spec": {"nodeName": "n"},
            "status": {"phase": "Running", "podIP": format!("10.0.0.{}", name.len()),
                "conditions": [{"type": "Ready", "status": status}]},
        }))
        .unwrap()
    }

    /// (ready, not ready) addresses.
    fn check(publish: bool, pods: &[Pod], expect: (&[&str], &[&str])) {
        let service: Service = read(&json!({"metadata": {"name": "s"}, "spec": {"selector": {"a": "b"},
            "publishNotReadyAddresses": publish, "ports": [{"port": 80}]}}))
        .unwrap();
        let pods: Vec<&Pod> = pods.iter().collect();
        let (subsets, cut) = subsets(&View { service: &service, pods: &pods, endpoints: None });
        assert!(!cut);
        let ips = |list: fn(&Subset) -> &Vec<Address>| -> Vec<String> {
            subsets.iter().flat_map(|subset| list(subset).iter().map(|a| a.ip.clone())).collect()
        };
        let (ready, not_ready) = (ips(|s| &s.addresses), ips(|s| &s.not_ready_addresses));
        assert_eq!(ready, expect.0);
        assert_eq!(not_ready, expect.1);
    }

    #[test]
    fn ready_pods_are_told_from_others() {
        check(false, &[pod("a", "True", false), pod("bb", "False", false)], (&["10.0.0.1"], &["10.0.0.2"]));
        check(true, &[pod("a", "True", false), pod("bb", "False", false)], (&["10.0.0.1", "10.0.0.2"], &[]));
        check(false, &[pod("a", "True", true)], (&[], &[]));
        check(true, &[pod("a", "True", true)], (&["10.0.0.1"], &[]));
    }

    #[test]
    fn rests_when_nothing_changes() {
        let service: Service =
            read(&json!({"metadata": {"name": "s", "namespace": "n"}, "spec": {"selector": {"a": "b"}}}))
                .unwrap();
        let pods = [pod("a", "True", false)];
        let pods: Vec<&Pod> = pods.iter().collect();
        let first = step(&View { service: &service, pods: &pods, endpoints: None });
        let Some(Action::Create { object, .. }) = first.actions.first() else { panic!("no create") };
        let endpoints: Endpoints = read(object).unwrap();
        let second = step(&View { service: &service, pods: &pods, endpoints: Some(&endpoints) });
        assert_eq!(second, Step::idle());
    }
}
