//! Which nodes a DaemonSet's pods are for.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};

use super::DaemonSet;
use crate::{
    affinity::{NAME_FIELD, allows},
    meta::null_default,
    node_lifecycle::{NOT_READY, Node, UNREACHABLE, UNSCHEDULABLE, covers},
    pod::Toleration,
};

/// How a node stands to a DaemonSet.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Place {
    /// It should have a pod.
    Should,
    /// It gets none, but one that is there may stay.
    MayKeep,
    /// It should have none.
    Not,
}

/// How each of these nodes stands to it, by name.
pub(super) fn places<'a>(set: &DaemonSet, nodes: &[&'a Node]) -> BTreeMap<&'a str, Place> {
    let spec = set.spec.template.get("spec").unwrap_or(&Value::Null);
    let tolerations = tolerations(spec);
    nodes.iter().map(|node| (node.metadata.name.as_str(), place(spec, &tolerations, node))).collect()
}

fn place(spec: &Value, tolerations: &[Toleration], node: &Node) -> Place {
    let wanted = spec.get("nodeName").and_then(Value::as_str).unwrap_or_default();
    if !(wanted.is_empty() || wanted == node.metadata.name) || !allows(spec, &node.metadata) {
        return Place::Not;
    }
    let refused = |effect: &str| {
        let mut taints = node.spec.taints.iter().filter(|taint| taint.effect == effect);
        taints.any(|taint| !tolerations.iter().any(|toleration| covers(toleration, taint)))
    };
    match (refused("NoExecute"), refused("NoSchedule")) {
        (true, _) => Place::Not,
        (false, true) => Place::MayKeep,
        (false, false) => Place::Should,
    }
}

/// Taints every daemon pod tolerates: (key, effect).
const TOLERATED: [(&str, &str); 6] = [
    (NOT_READY, "NoExecute"),
    (UNREACHABLE, "NoExecute"),
    ("node.kubernetes.io/disk-pressure", "NoSchedule"),
    ("node.kubernetes.io/memory-pressure", "NoSchedule"),
    ("node.kubernetes.io/pid-pressure", "NoSchedule"),
    (UNSCHEDULABLE, "NoSchedule"),
];
/// And those on the host's network.
const NETWORK: (&str, &str) = ("node.kubernetes.io/network-unavailable", "NoSchedule");

fn tolerations(spec: &Value) -> Vec<Toleration> {
    let own = spec.get("tolerations").map(null_default::<_, Vec<Toleration>>);
    let mut all = own.and_then(Result::ok).unwrap_or_default();
    all.extend(added(spec).map(|(key, effect)| Toleration {
        key: key.to_owned(),
        operator: "Exists".to_owned(),
        effect: effect.to_owned(),
        ..Toleration::default()
    }));
    all
}

fn added(spec: &Value) -> impl Iterator<Item = (&'static str, &'static str)> {
    let host = spec.get("hostNetwork") == Some(&Value::Bool(true));
    TOLERATED.into_iter().chain(host.then_some(NETWORK))
}

/// Makes a pod spec one for this node alone, with the tolerations of daemon pods.
pub(super) fn pin(spec: &mut Value, node: &str) {
    let wanted: Vec<Value> = added(spec)
        .map(|(key, effect)| json!({"key": key, "operator": "Exists", "effect": effect}))
        .collect();
    let Some(fields) = spec.as_object_mut() else { return };
    let tolerations = fields.entry("tolerations").or_insert(Value::Null);
    let mut all = tolerations.as_array().cloned().unwrap_or_default();
    all.extend(wanted.iter().filter(|toleration| !all.contains(toleration)).cloned().collect::<Vec<_>>());
    *tolerations = Value::Array(all);
    let term = json!({"matchFields": [{"key": NAME_FIELD, "operator": "In", "values": [node]}]});
    // The node was chosen by what stood here: it need not be asked again.
    let required = json!({"nodeSelectorTerms": [term]});
    let affinity = object(fields.entry("affinity").or_insert(Value::Null));
    let node_affinity = affinity.and_then(|a| object(a.entry("nodeAffinity").or_insert(Value::Null)));
    if let Some(node_affinity) = node_affinity {
        node_affinity.insert("requiredDuringSchedulingIgnoredDuringExecution".to_owned(), required);
    }
}

/// The fields of a value, which becomes an object if it is none.
fn object(value: &mut Value) -> Option<&mut Map<String, Value>> {
    if !value.is_object() {
        *value = json!({});
    }
    value.as_object_mut()
}
