//! Pods nobody will miss: ended ones beyond a number, those of nodes that are gone, and those deleted
//! before they had a node.

use std::collections::BTreeSet;

use serde_json::json;
use wharf_base::Timestamp;

use crate::{
    action::{Action, PODS, Step},
    condition::{self, Condition},
    pod::Pod,
};

/// Ended pods that are kept, as upstream's default.
pub const KEPT: usize = 12_500;

/// What a decision about all pods sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// All pods.
    pub pods: &'a [&'a Pod],
    /// Names of all nodes. The runner leaves a node in for 40 s after it has gone, and reads it live
    /// before it believes that, so that a slow watch deletes nothing.
    pub nodes: &'a BTreeSet<String>,
    /// Ended pods to keep; usually [`KEPT`].
    pub kept: usize,
}

/// Decides which pods go. To be called every 20 s.
pub fn step(view: &View<'_>, now: Timestamp) -> Step {
    let mut actions = Vec::new();
    for pod in view.pods {
        let node = pod.spec.node_name.as_str();
        let orphaned = !node.is_empty() && !view.nodes.contains(node);
        let unplaced = node.is_empty() && pod.metadata.deleting();
        if orphaned && !pod.ended() {
            actions.push(fail(pod, now));
        }
        if orphaned || unplaced {
            actions.push(delete(pod));
        }
    }
    let placed = |pod: &&Pod| view.nodes.contains(&pod.spec.node_name) || pod.spec.node_name.is_empty();
    let mut ended: Vec<&Pod> = view
        .pods
        .iter()
        .copied()
        .filter(|pod| pod.ended() && !pod.metadata.deleting())
        .filter(placed)
        .collect();
    let surplus = ended.len().saturating_sub(view.kept);
    if surplus > 0 {
        ended.sort_by_key(|pod| (pod.metadata.creation_timestamp, pod.metadata.name.as_str()));
        actions.extend(ended.into_iter().take(surplus).map(delete));
    }
    Step::of(actions)
}

/// A pod of a node that is gone has failed: its controllers shall count it so.
fn fail(pod: &Pod, now: Timestamp) -> Action {
    let mut conditions = pod.status.conditions.clone();
    let message = "PodGC: node no longer exists";
    let condition = Condition::new("DisruptionTarget", "True", "DeletionByPodGC", message, now);
    condition::replace(&mut conditions, condition);
    Action::UpdateStatus {
        resource: PODS,
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        patch: json!({"metadata": {"uid": pod.metadata.uid}, "status": {"phase": "Failed", "conditions": conditions}}),
    }
}

fn delete(pod: &Pod) -> Action {
    Action::Delete {
        resource: PODS,
        namespace: pod.metadata.namespace.clone(),
        name: pod.metadata.name.clone(),
        uid: Some(pod.metadata.uid.clone()),
        resource_version: None,
        propagation: None,
        grace: Some(0),
        announce: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::read;

    fn pod(name: &str, node: &str, phase: &str, deleting: bool) -> Pod {
        let deletion = deleting.then_some("2026-01-01T00:00:00Z");
        read(&json!({"metadata": {"name": name, "deletionTimestamp": deletion},
            "spec": {"nodeName": node}, "status": {"phase": phase}}))
        .unwrap()
    }

    fn check(pods: &[Pod], kept: usize, expect: &[&str]) {
        let nodes = BTreeSet::from(["n".to_owned()]);
        let pods: Vec<&Pod> = pods.iter().collect();
        let step = step(&View { pods: &pods, nodes: &nodes, kept }, Timestamp::EPOCH);
        let word = |action: &Action| match action {
            Action::Delete { name, .. } => format!("delete {name}"),
            Action::UpdateStatus { name, .. } => format!("fail {name}"),
            other => format!("{other:?}"),
        };
        assert_eq!(step.actions.iter().map(word).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn only_what_nobody_misses() {
        check(&[pod("a", "n", "Running", false), pod("b", "", "Pending", false)], 0, &[]);
        check(&[pod("a", "gone", "Running", false)], 9, &["fail a", "delete a"]);
        check(&[pod("a", "", "Pending", true)], 9, &["delete a"]);
        check(&[pod("a", "n", "Failed", false), pod("b", "n", "Succeeded", false)], 1, &["delete a"]);
    }
}
