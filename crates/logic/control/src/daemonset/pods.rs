//! The pods of a DaemonSet: claimed, made, deleted, and repaired node by node.

use std::{collections::BTreeMap, time::Duration};

use serde_json::json;

use super::{
    Backoffs, DaemonSet, Plan, View,
    nodes::{Place, pin},
};
use crate::{
    action::{Action, Event, PODS},
    affinity::required_node,
    claim::{Claim, adopt, claim, pod_from_template, release},
    deployment::insert,
    history::{REVISION_LABEL, Versions, delete as delete_revision},
    pod::Pod,
    selector::LabelSelector,
};

/// The pods it manages, adopting and releasing where that is due.
pub(super) fn claimed<'a>(
    view: &View<'a>,
    selector: &LabelSelector,
    actions: &mut Vec<Action>,
) -> Vec<&'a Pod> {
    let owner = &view.daemon_set.metadata;
    let mut owned = Vec::with_capacity(view.pods.len());
    for pod in view.pods {
        match claim(owner, selector, &pod.metadata) {
            Claim::Owned => owned.push(*pod),
            Claim::Adopt => {
                actions.push(adopt(PODS, &pod.metadata, owner.controller_ref("apps/v1", "DaemonSet")));
                owned.push(*pod);
            }
            Claim::Release => actions.push(release(PODS, &pod.metadata, &[&owner.uid])),
            Claim::Ignore => {}
        }
    }
    owned
}

/// Pods by the node they are on or wait for. Those that have ended and are being deleted are no longer there.
pub(super) fn by_node<'a>(owned: &[&'a Pod]) -> BTreeMap<&'a str, Vec<&'a Pod>> {
    let mut by_node: BTreeMap<&str, Vec<&Pod>> = BTreeMap::new();
    for pod in owned.iter().filter(|pod| !(pod.ended() && pod.metadata.deleting())) {
        let bound = Some(pod.spec.node_name.as_str()).filter(|name| !name.is_empty());
        if let Some(node) = bound.or_else(|| required_node(&pod.spec.affinity)) {
            by_node.entry(node).or_default().push(pod);
        }
    }
    for pods in by_node.values_mut() {
        sort(pods);
    }
    by_node
}

/// Bound ones before others, then the oldest first.
fn sort(pods: &mut [&Pod]) {
    pods.sort_by_key(|pod| {
        (pod.spec.node_name.is_empty(), pod.metadata.creation_timestamp, pod.metadata.name.clone())
    });
}

/// Where a version is there more than once, pods of the others become pods of the one that stays.
pub(super) fn relabel(versions: &Versions<'_>, owned: &[&Pod]) -> Vec<Action> {
    let doubled: Vec<Option<&String>> =
        versions.doubles.iter().map(|double| double.metadata.labels.get(REVISION_LABEL)).collect();
    let of_double = owned.iter().filter(|pod| {
        let hash = pod.metadata.labels.get(REVISION_LABEL);
        hash.is_some() && doubled.contains(&hash)
    });
    let body = json!({"metadata": {"labels": {REVISION_LABEL: versions.hash}}});
    let relabelled = of_double.map(|pod| pod.metadata.locked_patch(PODS, body.clone()));
    let mut actions: Vec<Action> = relabelled.collect();
    // A pod that could not be changed keeps its version alive for the next step.
    if actions.is_empty() {
        actions.extend(versions.doubles.iter().map(|double| delete_revision(double)));
    }
    actions
}

/// A pod for a node.
pub(super) fn create(set: &DaemonSet, node: &str, hash: &str) -> Action {
    let owner = set.metadata.controller_ref("apps/v1", "DaemonSet");
    let prefix = format!("{}-", set.metadata.name);
    let mut pod = pod_from_template(&set.metadata, &owner, &set.spec.template, &prefix);
    insert(&mut pod, &["metadata", "labels"], REVISION_LABEL, hash);
    if let Some(spec) = pod.get_mut("spec") {
        pin(spec, node);
    }
    Action::Create {
        resource: PODS,
        namespace: set.metadata.namespace.clone(),
        object: pod,
        announce: Some(Box::new(Event::normal(set.object_ref(), "SuccessfulCreate", "Created pod: {name}"))),
    }
}

/// Deletes a pod.
pub(super) fn delete(set: &DaemonSet, pod: &Pod) -> Action {
    let message = format!("Deleted pod: {}", pod.metadata.name);
    pod.metadata.delete(PODS, Some(Event::normal(set.object_ref(), "SuccessfulDelete", message)))
}

impl<'a> Plan<'a> {
    /// Every node that should have a pod gets one, and no node keeps what it should not have.
    pub(super) fn repair(&mut self, backoffs: &mut Backoffs) {
        for (name, place) in self.places.clone() {
            let pods = self.by_node.get(name).cloned();
            match (place, pods) {
                (Place::Should, None) => self.creates.push(name),
                (Place::MayKeep, None) | (Place::Not, None) => {}
                (Place::Not, Some(pods)) => self.delete_all(&pods),
                (place, Some(pods)) => {
                    let running = self.replace_ended(name, &pods, backoffs);
                    self.thin_out(name, running, place);
                }
            }
        }
        self.delete_lost();
    }

    fn delete_all(&mut self, pods: &[&'a Pod]) {
        self.deletes.extend(pods.iter().filter(|pod| !pod.metadata.deleting()));
    }

    /// Deletes the pods that have ended, failed ones with a wait; the others are left.
    fn replace_ended(&mut self, node: &str, pods: &[&'a Pod], backoffs: &mut Backoffs) -> Vec<&'a Pod> {
        let mut running = Vec::with_capacity(pods.len());
        for pod in pods.iter().copied().filter(|pod| !pod.metadata.deleting()) {
            let meta = &pod.metadata;
            let found = |how: &str, verb: &str| {
                format!(
                    "Found {how} daemon pod {}/{} on node {node}, will try to {verb} it",
                    meta.namespace, meta.name
                )
            };
            let event = match pod.status.phase.as_str() {
                "Failed" => {
                    let owner = &self.set.metadata;
                    if let Some(wait) = backoffs.replace(&owner.uid, owner.generation, node, self.now) {
                        self.wait(wait);
                        continue;
                    }
                    Event::warning(self.set.object_ref(), "FailedDaemonPod", found("failed", "kill"))
                }
                "Succeeded" => {
                    Event::normal(self.set.object_ref(), "SucceededDaemonPod", found("succeeded", "delete"))
                }
                _ => {
                    running.push(pod);
                    continue;
                }
            };
            self.actions.push(Action::Event(event));
            self.deletes.push(pod);
        }
        running
    }

    fn wait(&mut self, wait: Duration) {
        self.requeue = Some(self.requeue.map_or(wait, |present| present.min(wait)));
    }

    /// Leaves a node one pod, and while it surges one of each version.
    fn thin_out(&mut self, node: &'a str, running: Vec<&'a Pod>, place: Place) {
        if self.set.max_surge(1) <= 0 {
            return self.deletes.extend(running.into_iter().skip(1));
        }
        // One that goes away, or waits to be replaced, does not keep its node from having another.
        if running.is_empty() && place == Place::Should {
            return self.creates.push(node);
        }
        let (new, old): (Vec<&Pod>, Vec<&Pod>) = running.into_iter().partition(|pod| self.updated(pod));
        self.deletes.extend(new.iter().chain(&old).copied().filter(|pod| {
            let first = |list: &[&Pod]| list.first().is_some_and(|f| f.metadata.uid == pod.metadata.uid);
            !first(&new) && !first(&old)
        }));
        if let (Some(new), Some(old)) = (new.first(), old.first())
            && (!old.ready() || self.set.available(new, self.now))
        {
            self.deletes.push(old);
        }
    }

    /// Pods that wait for a node that is not there would wait for ever.
    fn delete_lost(&mut self) {
        let lost: Vec<&Pod> = self
            .by_node
            .iter()
            .filter(|(node, _)| !self.places.contains_key(*node))
            .flat_map(|(_, pods)| pods.iter().copied())
            .filter(|pod| pod.spec.node_name.is_empty())
            .collect();
        self.delete_all(&lost);
    }
}

/// The name a pod's spec gives its node, for those not bound yet.
#[cfg(test)]
pub(super) fn node_of(object: &serde_json::Value) -> &str {
    object.pointer("/spec/affinity").and_then(required_node).unwrap_or_default()
}
