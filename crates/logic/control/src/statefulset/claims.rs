//! The claims of a StatefulSet's pods: made with the first pod of their ordinal, kept for the next, and
//! deleted with the StatefulSet or with the ordinal where the retention policy says so. They are deleted by
//! garbage collection: what changes is who owns them.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use super::{Plan, StatefulSet, identity::pod_name, ordinal};
use crate::{
    action::{Action, Event, PERSISTENT_VOLUME_CLAIMS},
    meta::{Meta, OwnerReference, null_default},
    pod::Pod,
};

/// `v1.PersistentVolumeClaim`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct PersistentVolumeClaim {
    /// Metadata.
    pub metadata: Meta,
}

/// `apps/v1.StatefulSetPersistentVolumeClaimRetentionPolicy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RetentionPolicy {
    /// `Retain` (when empty) or `Delete`: when the StatefulSet goes.
    #[serde(deserialize_with = "null_default")]
    pub when_deleted: String,
    /// The same, when there are too many pods.
    #[serde(deserialize_with = "null_default")]
    pub when_scaled: String,
}

impl RetentionPolicy {
    fn deletes_scaled(&self) -> bool {
        self.when_scaled == "Delete"
    }

    fn deletes_with_set(&self) -> bool {
        self.when_deleted == "Delete"
    }
}

impl StatefulSet {
    /// Whether a claim of this name may be one of its pods'.
    pub fn may_claim(&self, name: &str) -> bool {
        let templates = self.spec.volume_claim_templates.iter();
        let mut names = templates.filter_map(|t| t.pointer("/metadata/name").and_then(Value::as_str));
        names.any(|template| {
            let pod = name.strip_prefix(template).and_then(|rest| rest.strip_prefix('-'));
            pod.is_some_and(|pod| ordinal(&self.metadata.name, pod).is_some())
        })
    }
}

/// Volume and claim of each claim template, for an ordinal.
pub(super) fn names(set: &StatefulSet, ordinal: i64) -> impl Iterator<Item = (&str, String)> {
    let pod = pod_name(set, ordinal);
    let templates = set.spec.volume_claim_templates.iter();
    let names = templates.filter_map(|t| t.pointer("/metadata/name").and_then(Value::as_str));
    names.map(move |name| (name, format!("{name}-{pod}")))
}

/// Whether the claims of a pod that is to be created are there.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Ready {
    /// They are, or are being created.
    Yes,
    /// One of them goes with the pod that was there before, or was deleted: the next has to wait.
    No,
}

impl Plan<'_> {
    /// Creates the claims of an ordinal that are missing.
    pub(super) fn create_claims(&mut self, ordinal: i64) -> Ready {
        let set = self.set;
        let pod = pod_name(set, ordinal);
        let stale = set.spec.persistent_volume_claim_retention_policy.deletes_scaled();
        let present = names(set, ordinal).filter_map(|(_, name)| self.claims.get(name.as_str()));
        let absent_pod = !self.pods.contains_key(&ordinal);
        let lost = |claim: &PersistentVolumeClaim| {
            let mut owners = claim.metadata.owner_references.iter();
            claim.metadata.deleting()
                || (stale && absent_pod && owners.any(|owner| owner.kind == "Pod" && owner.name == pod))
        };
        if present.into_iter().any(|claim| lost(claim)) {
            return Ready::No;
        }
        let missing = names(set, ordinal).zip(&set.spec.volume_claim_templates);
        let missing = missing.filter(|((_, name), _)| !self.claims.contains_key(name.as_str()));
        let creates: Vec<Action> = missing.map(|((_, name), t)| create(set, &pod, &name, t)).collect();
        self.new_claims.extend(creates);
        Ready::Yes
    }

    /// Brings the owners of a pod's claims in line with the retention policy.
    pub(super) fn own_claims(&mut self, ordinal: i64, pod: &Pod) {
        let set = self.set;
        for (_, name) in names(set, ordinal) {
            let Some(claim) = self.claims.get(name.as_str()).filter(|c| !c.metadata.deleting()) else {
                continue;
            };
            if let Some(owners) = owners(set, ordinal, pod, claim) {
                let owners = if owners.is_empty() { Value::Null } else { json!(owners) };
                let body = json!({"metadata": {"ownerReferences": owners}});
                self.writes.push(claim.metadata.locked_patch(PERSISTENT_VOLUME_CLAIMS, body));
            }
        }
    }
}

fn create(set: &StatefulSet, pod: &str, name: &str, template: &Value) -> Action {
    let mut metadata = Map::new();
    for key in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{key}")).filter(|value| !value.is_null()) {
            metadata.insert(key.to_owned(), value.clone());
        }
    }
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("namespace".to_owned(), json!(set.metadata.namespace));
    let labels = metadata.entry("labels").or_insert_with(|| json!({}));
    let selected = set.spec.selector.iter().flat_map(|selector| &selector.match_labels);
    if let Some(labels) = labels.as_object_mut() {
        labels.extend(selected.map(|(key, value)| (key.clone(), json!(value))));
    }
    let message = format!("Create Claim {name} Pod {pod} in StatefulSet {} success", set.metadata.name);
    Action::Create {
        resource: PERSISTENT_VOLUME_CLAIMS,
        namespace: set.metadata.namespace.clone(),
        object: json!({
            "apiVersion": "v1",
            "kind": "PersistentVolumeClaim",
            "metadata": metadata,
            "spec": template.get("spec").cloned().unwrap_or_else(|| json!({})),
        }),
        announce: Some(Box::new(Event::normal(set.object_ref(), "SuccessfulCreate", message))),
    }
}

/// Who should own a claim; nothing when that is so, or not for this StatefulSet to say.
fn owners(
    set: &StatefulSet,
    ordinal: i64,
    pod: &Pod,
    claim: &PersistentVolumeClaim,
) -> Option<Vec<OwnerReference>> {
    let of_set = set.metadata.controller_ref("apps/v1", "StatefulSet");
    let of_pod = pod.metadata.controller_ref("v1", "Pod");
    let present = &claim.metadata.owner_references;
    let named = |a: &OwnerReference, b: &OwnerReference| {
        (&a.api_version, &a.kind, &a.name) == (&b.api_version, &b.kind, &b.name)
    };
    let ours = |owner: &OwnerReference| named(owner, &of_set) || named(owner, &of_pod);
    // It goes with a former one of the same name.
    let stale = |owner: &&OwnerReference| ours(owner) && owner.uid != of_set.uid && owner.uid != of_pod.uid;
    if present.iter().any(|owner| stale(&owner)) {
        return None;
    }
    let policy = &set.spec.persistent_volume_claim_retention_policy;
    let scaled_down = !set.wants(ordinal);
    let strange = present.iter().any(|owner| !ours(owner) && owner.controller == Some(true));
    let mut wanted: Vec<OwnerReference> = present.iter().filter(|owner| !ours(owner)).cloned().collect();
    if !strange {
        match (policy.deletes_scaled(), policy.deletes_with_set()) {
            (true, _) if scaled_down => wanted.push(of_pod),
            (_, true) => wanted.push(of_set),
            _ => {}
        }
    }
    let same = |a: &OwnerReference, b: &OwnerReference| a.uid == b.uid && a.controller == b.controller;
    let unchanged = wanted.len() == present.len()
        && wanted.iter().all(|owner| present.iter().any(|other| same(owner, other)));
    (!unchanged).then_some(wanted)
}
