//! The ReplicaSet of the present template: found, given its revision, or created.

use std::collections::BTreeMap;

use serde_json::json;

use super::{
    DESIRED_REPLICAS, MAX_REPLICAS, Plan, REVISION, REVISION_HISTORY, same_template,
    template::{HASH_LABEL, insert, template_hash, with_hash},
};
use crate::{
    action::{Action, Event, Propagation, REPLICA_SETS},
    condition::{self, Condition},
    meta::{Labels, to_value},
    replicaset::{ReplicaSet, template_labels},
};

/// Not copied from the Deployment to its ReplicaSets.
const OWN_ANNOTATIONS: [&str; 7] = [
    "kubectl.kubernetes.io/last-applied-configuration",
    REVISION,
    REVISION_HISTORY,
    DESIRED_REPLICAS,
    MAX_REPLICAS,
    "deprecated.deployment.rollback.to",
    "deployment.kubernetes.io/error-selector-overlapping-with",
];

/// The longest list of former revisions, in bytes; the oldest are dropped first.
const HISTORY_LENGTH: usize = 2000;

impl Plan<'_> {
    /// Brings revision, annotations and minReadySeconds of the new ReplicaSet up to date, if there is one.
    pub(super) fn sync_new(&mut self) {
        let Some(new) = self.new else { return };
        let revision = self.max_old_revision() + 1;
        let mut annotations = missing_annotations(&self.d.metadata.annotations, &new.metadata.annotations);
        let present = revision_of(new);
        if present < revision {
            annotations.insert(REVISION.to_owned(), revision.to_string());
            if let Some(before) = new.metadata.annotations.get(REVISION) {
                let history = new.metadata.annotations.get(REVISION_HISTORY).map_or("", String::as_str);
                annotations.insert(REVISION_HISTORY.to_owned(), extended_history(history, before));
            }
        }
        let min_ready = self.d.spec.min_ready_seconds;
        if !annotations.is_empty() {
            self.edit(new).annotations.extend(annotations);
        }
        if new.spec.min_ready_seconds != min_ready {
            self.edit(new).min_ready_seconds = Some(min_ready);
        }
        self.set_revision(present.max(revision));
        if self.d.progress_deadline().is_some() && condition::find(&self.conditions, "Progressing").is_none()
        {
            let message = format!("Found new replica set \"{}\"", new.metadata.name);
            self.progressing("True", "FoundNewReplicaSet", message);
        }
    }

    /// Creates the new ReplicaSet. When its name is taken by another, counts a collision and leaves it
    /// to the next step, which makes another name.
    pub(super) fn create_new(&mut self) {
        let hash = template_hash(&self.d.spec.template, self.collisions);
        let name = format!("{}-{hash}", self.d.metadata.name);
        if let Some(taken) = self.view.replica_sets.iter().find(|set| set.metadata.name == name) {
            // Its own with this very template would have been found; one under deletion will go.
            let own = taken.metadata.controlled_by(&self.d.metadata.uid)
                && same_template(&taken.spec.template, &self.d.spec.template);
            if !own {
                self.collisions = Some(self.collisions.unwrap_or(0) + 1);
            }
            return;
        }
        let replicas = self.new_size(0);
        let revision = self.max_old_revision() + 1;
        let involved = self.d.object_ref();
        let message = format!("Scaled up replica set {name} from 0 to {replicas}");
        self.step.actions.push(Action::Create {
            resource: REPLICA_SETS,
            namespace: self.d.metadata.namespace.clone(),
            object: self.new_set(&name, &hash, replicas, revision),
            announce: (replicas > 0).then(|| Box::new(Event::normal(involved, "ScalingReplicaSet", message))),
        });
        if self.d.progress_deadline().is_some() {
            match self.view.failure.filter(|failure| failure.creating) {
                Some(failure) => {
                    let message = format!("Failed to create new replica set \"{name}\": {}", failure.message);
                    self.progressing("False", "ReplicaSetCreateError", message);
                }
                None => {
                    let message = format!("Created new replica set \"{name}\"");
                    self.progressing("True", "NewReplicaSetCreated", message);
                }
            }
        }
        self.new_name = Some(name);
    }

    fn new_set(&self, name: &str, hash: &str, replicas: i64, revision: i64) -> serde_json::Value {
        let d = self.d;
        let mut annotations = missing_annotations(&d.metadata.annotations, &Labels::new());
        annotations.insert(REVISION.to_owned(), revision.to_string());
        annotations.insert(DESIRED_REPLICAS.to_owned(), d.replicas().to_string());
        annotations.insert(MAX_REPLICAS.to_owned(), (d.replicas() + d.max_surge()).to_string());
        let template = with_hash(&d.spec.template, hash);
        let mut selector = to_value(&d.spec.selector);
        insert(&mut selector, &["matchLabels"], HASH_LABEL, hash);
        json!({
            "apiVersion": "apps/v1",
            "kind": "ReplicaSet",
            "metadata": {
                "name": name,
                "namespace": d.metadata.namespace,
                "labels": template_labels(&template),
                "annotations": annotations,
                "ownerReferences": [d.metadata.controller_ref("apps/v1", "Deployment")],
            },
            "spec": {
                "replicas": replicas,
                "minReadySeconds": d.spec.min_ready_seconds,
                "selector": selector,
                "template": template,
            },
        })
    }

    pub(super) fn progressing(&mut self, status: &str, reason: &str, message: String) {
        let mut condition = Condition::new("Progressing", status, reason, message, self.now);
        condition.last_update_time = Some(self.now.truncated());
        condition::set(&mut self.conditions, condition);
    }

    fn set_revision(&mut self, revision: i64) {
        let revision = revision.to_string();
        if self.d.metadata.annotations.get(REVISION) != Some(&revision) && !self.d.metadata.deleting() {
            self.revision = Some(revision);
        }
    }

    fn max_old_revision(&self) -> i64 {
        self.old.iter().map(|set| revision_of(set)).max().unwrap_or(0).max(0)
    }

    /// Deletes the oldest idle ReplicaSets beyond `revisionHistoryLimit`.
    pub(super) fn clean_up(&mut self) {
        let Some(limit) = self.d.spec.revision_history_limit.filter(|l| *l < i64::from(i32::MAX)) else {
            return;
        };
        let mut alive: Vec<&ReplicaSet> =
            self.old.iter().copied().filter(|set| !set.metadata.deleting()).collect();
        let surplus = alive.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        alive.sort_by_key(|set| (revision_of(set), set.metadata.creation_timestamp));
        let oldest = alive.into_iter().take(surplus);
        let idle = oldest.filter(|set| {
            set.status.replicas == 0
                && self.size(set) == 0
                && set.replicas() == 0
                && set.metadata.generation <= set.status.observed_generation
        });
        let deletes: Vec<Action> = idle.map(delete).collect();
        self.step.actions.extend(deletes);
    }
}

fn delete(set: &ReplicaSet) -> Action {
    Action::Delete {
        resource: REPLICA_SETS,
        namespace: set.metadata.namespace.clone(),
        name: set.metadata.name.clone(),
        uid: Some(set.metadata.uid.clone()),
        resource_version: Some(set.metadata.resource_version.clone()),
        propagation: Some(Propagation::Background),
        grace: None,
        announce: None,
    }
}

/// The revision a ReplicaSet says it has; 0 when it says nothing sensible.
pub(super) fn revision_of(set: &ReplicaSet) -> i64 {
    set.metadata.annotations.get(REVISION).and_then(|text| text.parse().ok()).unwrap_or(0)
}

/// The annotations of a Deployment its ReplicaSet does not have yet.
fn missing_annotations(deployment: &Labels, set: &Labels) -> BTreeMap<String, String> {
    let wanted = deployment.iter().filter(|(key, _)| !OWN_ANNOTATIONS.contains(&key.as_str()));
    wanted.filter(|(key, value)| set.get(*key) != Some(*value)).map(|(k, v)| (k.clone(), v.clone())).collect()
}

fn extended_history(history: &str, revision: &str) -> String {
    let mut list = if history.is_empty() { revision.to_owned() } else { format!("{history},{revision}") };
    while list.len() > HISTORY_LENGTH {
        match list.split_once(',') {
            Some((_, rest)) => list = rest.to_owned(),
            None => return String::new(),
        }
    }
    list
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn history_grows_to_a_limit() {
        assert_eq!(extended_history("", "1"), "1");
        assert_eq!(extended_history("1,3", "7"), "1,3,7");
        let long = vec!["1000"; 500].join(",");
        let extended = extended_history(&long, "2000");
        assert!(extended.len() <= HISTORY_LENGTH && extended.ends_with("1000,2000"));
    }
}
