//! Nodes that have fallen silent: their condition becomes unknown, taints keep new pods away, and pods
//! leave once they tolerate it no longer.

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::json;
use wharf_base::Timestamp;

use crate::{
    action::{Action, Event, NODES, PODS, Step},
    condition::{self, Condition},
    meta::{Meta, null_default},
    pod::{Pod, Toleration},
};

/// Silence after which a node counts as unreachable.
pub const GRACE: Duration = Duration::from_secs(40);
/// On nodes that say they are not ready.
pub const NOT_READY: &str = "node.kubernetes.io/not-ready";
/// On nodes that say nothing.
pub const UNREACHABLE: &str = "node.kubernetes.io/unreachable";
/// Taints that follow from a condition of the node: (condition, status, taint).
const PRESSURES: [(&str, &str, &str); 4] = [
    ("MemoryPressure", "True", "node.kubernetes.io/memory-pressure"),
    ("DiskPressure", "True", "node.kubernetes.io/disk-pressure"),
    ("PIDPressure", "True", "node.kubernetes.io/pid-pressure"),
    ("NetworkUnavailable", "True", "node.kubernetes.io/network-unavailable"),
];
/// On nodes that take no further pods.
pub(crate) const UNSCHEDULABLE: &str = "node.kubernetes.io/unschedulable";
/// Conditions that become unknown with the node's silence.
const REPORTED: [&str; 4] = ["Ready", "MemoryPressure", "DiskPressure", "PIDPressure"];

/// `v1.Node`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Node {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: NodeSpec,
    /// What it says.
    pub status: NodeStatus,
}

/// `v1.NodeSpec`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Cordoned.
    #[serde(deserialize_with = "null_default")]
    pub unschedulable: bool,
    /// Taints.
    #[serde(deserialize_with = "null_default")]
    pub taints: Vec<Taint>,
}

/// `v1.NodeStatus`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// `v1.Taint`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    #[serde(deserialize_with = "null_default")]
    pub effect: String,
    /// Since when (`NoExecute`).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub time_added: Option<Timestamp>,
}

/// What a decision about one node sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The node.
    pub node: &'a Node,
    /// When the runner last saw the node's Lease renewed or its status change, by the runner's own
    /// clock; its own start counts, so that a restart makes nobody silent.
    pub heard: Timestamp,
    /// The pods bound to it.
    pub pods: &'a [&'a Pod],
}

/// Decides about one node and the pods on it.
pub fn step(view: &View<'_>, now: Timestamp) -> Step {
    let node = view.node;
    let mut step = Step::idle();
    let left = view.heard.plus(GRACE).since(now);
    let mut status = node.status.clone();
    if left.is_zero() {
        fall_silent(&mut status, now);
    } else {
        step.requeue(left);
    }
    let silent = condition::find(&status.conditions, "Ready").is_none_or(|c| c.status == "Unknown");
    if silent && ready(&node.status) {
        let involved = node.metadata.object_ref("v1", "Node");
        let message = format!("Node {} status is now: NodeNotReady", node.metadata.name);
        step.actions.push(Action::Event(Event::normal(involved, "NodeNotReady", message)));
    }
    let taints = wanted_taints(node, &status, now);
    if same_taints(&taints, &node.spec.taints) {
        step.actions.extend(node.metadata.status_update(NODES, &node.status, &status));
    } else {
        // The status follows in the next step: one resource version guards both.
        step.actions.push(node.metadata.locked_patch(NODES, json!({"spec": {"taints": taints}})));
    }
    if !ready(&status) {
        unready_pods(view.pods, now, &mut step.actions);
    }
    evict(view.pods, &node.spec.taints, now, &mut step);
    step
}

fn ready(status: &NodeStatus) -> bool {
    condition::holds(&status.conditions, "Ready")
}

fn fall_silent(status: &mut NodeStatus, now: Timestamp) {
    for kind in REPORTED {
        let known = condition::find(&status.conditions, kind);
        if known.is_some_and(|c| c.status == "Unknown") {
            continue;
        }
        let heartbeat = known.and_then(|c| c.last_heartbeat_time);
        let message = "Kubelet stopped posting node status.";
        let mut condition = Condition::new(kind, "Unknown", "NodeStatusUnknown", message, now);
        condition.last_heartbeat_time = heartbeat;
        condition::replace(&mut status.conditions, condition);
    }
}

/// The taints of others, and those that follow from the state. A taint that stays keeps its time.
fn wanted_taints(node: &Node, status: &NodeStatus, now: Timestamp) -> Vec<Taint> {
    let mut wanted: Vec<(&str, &str)> = Vec::new();
    match condition::find(&status.conditions, "Ready").map(|c| c.status.as_str()) {
        Some("True") => {}
        // A node that has never said anything is not ready yet.
        Some("False") | None => wanted.extend([(NOT_READY, "NoSchedule"), (NOT_READY, "NoExecute")]),
        _ => wanted.extend([(UNREACHABLE, "NoSchedule"), (UNREACHABLE, "NoExecute")]),
    }
    for (kind, when, taint) in PRESSURES {
        if condition::find(&status.conditions, kind).is_some_and(|c| c.status == when) {
            wanted.push((taint, "NoSchedule"));
        }
    }
    if node.spec.unschedulable {
        wanted.push((UNSCHEDULABLE, "NoSchedule"));
    }
    let mut taints: Vec<Taint> = node.spec.taints.iter().filter(|t| !ours(t)).cloned().collect();
    for (key, effect) in wanted {
        let present = node.spec.taints.iter().find(|t| t.key == key && t.effect == effect).cloned();
        taints.push(present.unwrap_or_else(|| Taint {
            key: key.to_owned(),
            value: String::new(),
            effect: effect.to_owned(),
            time_added: Some(now.truncated()),
        }));
    }
    taints
}

fn ours(taint: &Taint) -> bool {
    let key = taint.key.as_str();
    [NOT_READY, UNREACHABLE, UNSCHEDULABLE].contains(&key) || PRESSURES.iter().any(|(_, _, t)| *t == key)
}

fn same_taints(a: &[Taint], b: &[Taint]) -> bool {
    let named = |t: &Taint, others: &[Taint]| others.iter().any(|o| o.key == t.key && o.effect == t.effect);
    a.len() == b.len() && a.iter().all(|t| named(t, b))
}

/// Pods of a node that is not ready are not ready either, so that Services leave them out.
fn unready_pods(pods: &[&Pod], now: Timestamp, actions: &mut Vec<Action>) {
    for pod in pods.iter().filter(|pod| pod.ready()) {
        let mut conditions = pod.status.conditions.clone();
        for condition in conditions.iter_mut().filter(|c| c.kind == "Ready") {
            condition.status = "False".to_owned();
            condition.last_transition_time = Some(now.truncated());
        }
        let metadata = json!({"uid": pod.metadata.uid, "resourceVersion": pod.metadata.resource_version});
        actions.push(Action::UpdateStatus {
            resource: PODS,
            namespace: pod.metadata.namespace.clone(),
            name: pod.metadata.name.clone(),
            patch: json!({"metadata": metadata, "status": {"conditions": conditions}}),
        });
    }
}

/// Deletes the pods that do not tolerate the node's NoExecute taints, or no longer.
fn evict(pods: &[&Pod], taints: &[Taint], now: Timestamp, step: &mut Step) {
    let effective: Vec<&Taint> = taints.iter().filter(|taint| taint.effect == "NoExecute").collect();
    for pod in pods.iter().filter(|pod| !pod.ended() && !pod.metadata.deleting()) {
        let leaves = effective.iter().filter_map(|taint| leaves_at(pod, taint, now)).min();
        match leaves.map(|at| at.since(now)) {
            None => {}
            Some(Duration::ZERO) => step.actions.push(evict_one(pod)),
            Some(left) => step.requeue(left),
        }
    }
}

/// When a pod leaves because of a taint; nothing when it tolerates it for ever.
fn leaves_at(pod: &Pod, taint: &Taint, now: Timestamp) -> Option<Timestamp> {
    let since = taint.time_added.unwrap_or(now);
    let covering: Vec<&Toleration> = pod.spec.tolerations.iter().filter(|t| covers(t, taint)).collect();
    if covering.is_empty() {
        return Some(now);
    }
    let seconds = covering.iter().filter_map(|t| t.toleration_seconds).min()?;
    Some(since.plus(Duration::from_secs(u64::try_from(seconds).unwrap_or(0))))
}

/// Whether a toleration is about a taint.
pub(crate) fn covers(toleration: &Toleration, taint: &Taint) -> bool {
    let exists = toleration.operator == "Exists";
    (toleration.key == taint.key || (toleration.key.is_empty() && exists))
        && (exists || toleration.value == taint.value)
        && (toleration.effect.is_empty() || toleration.effect == taint.effect)
}

fn evict_one(pod: &Pod) -> Action {
    let involved = pod.metadata.object_ref("v1", "Pod");
    let message = format!("Marking for deletion Pod {}/{}", pod.metadata.namespace, pod.metadata.name);
    pod.metadata.delete(PODS, Some(Event::normal(involved, "TaintManagerEviction", message)))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::read;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(1_000_000 + seconds, 0)
    }

    fn node(ready: &str, taints: serde_json::Value) -> Node {
        read(&json!({"metadata": {"name": "n"}, "spec": {"taints": taints},
            "status": {"conditions": [{"type": "Ready", "status": ready}]}}))
        .unwrap()
    }

    fn pod(toleration: serde_json::Value) -> Pod {
        read(&json!({"metadata": {"name": "p", "namespace": "ns"}, "spec": {"tolerations": [toleration]},
            "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": "True"}]}}))
        .unwrap()
    }

    fn check(node: &Node, pods: &[Pod], silence: i64, expect: &[&str], wait: Option<u64>) {
        let pods: Vec<&Pod> = pods.iter().collect();
        let step = step(&View { node, heard: at(0), pods: &pods }, at(silence));
        let word = |action: &Action| match action {
            Action::Patch { body, .. } => {
                let taints = body["spec"]["taints"].as_array().unwrap();
                let keys: Vec<_> = taints.iter().map(|t| t["key"].as_str().unwrap()).collect();
                format!("taints {}", keys.join(" "))
            }
            Action::UpdateStatus { resource, .. } => format!("status {}", resource.resource),
            Action::Delete { name, .. } => format!("delete {name}"),
            Action::Event(event) => event.reason.to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(step.actions.iter().map(word).collect::<Vec<_>>(), expect);
        assert_eq!(step.requeue_after.map(|wait| wait.as_secs()), wait);
    }

    #[test]
    fn silent_nodes_are_tainted_and_left() {
        let tolerant = || json!({"key": UNREACHABLE, "operator": "Exists", "tolerationSeconds": 300});
        check(&node("True", json!([])), &[], 10, &[], Some(30));
        let tainted = format!("taints {UNREACHABLE} {UNREACHABLE}");
        let pods = [pod(tolerant())];
        check(&node("True", json!([])), &pods, 40, &["NodeNotReady", &tainted, "status pods"], None);
        let taints = json!([{"key": UNREACHABLE, "effect": "NoSchedule"},
            {"key": UNREACHABLE, "effect": "NoExecute", "timeAdded": at(40)}]);
        let mut quiet = pod(tolerant());
        quiet.status.conditions.clear();
        let known = node("Unknown", taints);
        check(&known, &[quiet.clone()], 100, &["status nodes"], Some(240));
        check(&known, &[quiet.clone()], 340, &["status nodes", "delete p"], None);
        quiet.spec.tolerations[0].toleration_seconds = None;
        check(&known, &[quiet], 900, &["status nodes"], None);
    }

    #[test]
    fn recovered_nodes_lose_their_taints() {
        let taints =
            json!([{"key": NOT_READY, "effect": "NoSchedule"}, {"key": "mine", "effect": "NoExecute"}]);
        check(&node("True", taints), &[pod(json!({"operator": "Exists"}))], 1, &["taints mine"], Some(39));
    }
}
