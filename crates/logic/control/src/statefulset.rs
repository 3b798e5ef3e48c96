//! StatefulSets: pods with names that stay, each with claims of its own.
//!
//! A pod's name ends in its ordinal. By default (`OrderedReady`) pods come one after the other, the lowest
//! ordinal first, and go the other way round; whatever is not well stops everything after it. With `Parallel`
//! nobody waits. A step repairs the pods that should be there, then takes away those that should not, and
//! only when there is nothing else to do goes on with an update, from the highest ordinal down.

mod claims;
mod identity;
mod replicas;
mod status;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_base::Timestamp;

use crate::{
    action::{Action, Event, ObjectRef, PODS, STATEFUL_SETS, Step, WriteFailure},
    claim::{Claim, adopt, claim, release},
    condition::Condition,
    history::{ControllerRevision, Owner, REVISION_LABEL, Versions, truncate, versions},
    intstr::IntOrString,
    meta::{Meta, is_zero, null_default},
    pod::Pod,
    selector::LabelSelector,
};

pub use claims::{PersistentVolumeClaim, RetentionPolicy};
pub use identity::ordinal;

/// After this many writes to make and mend pods a step leaves the rest to the next one.
pub const BURST: usize = 500;
/// The label of a ControllerRevision with its hash.
const HASH_LABEL: &str = "controller.kubernetes.io/hash";

/// `apps/v1.StatefulSet`, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct StatefulSet {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: StatefulSetSpec,
    /// What was last reported.
    pub status: StatefulSetStatus,
}

/// `apps/v1.StatefulSetSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetSpec {
    /// Pods wanted; 1 when absent.
    pub replicas: Option<i64>,
    /// Which pods it manages.
    pub selector: Option<LabelSelector>,
    /// What the pods are made from.
    pub template: Value,
    /// The claims each pod has.
    #[serde(deserialize_with = "null_default")]
    pub volume_claim_templates: Vec<Value>,
    /// The headless Service of the pods' domain.
    #[serde(deserialize_with = "null_default")]
    pub service_name: String,
    /// `OrderedReady` (when empty) or `Parallel`.
    #[serde(deserialize_with = "null_default")]
    pub pod_management_policy: String,
    /// How pods of an older version are replaced.
    #[serde(deserialize_with = "null_default")]
    pub update_strategy: UpdateStrategy,
    /// Old versions kept; 10 when absent.
    pub revision_history_limit: Option<i64>,
    /// Seconds a pod must be ready before it counts as available.
    #[serde(deserialize_with = "null_default")]
    pub min_ready_seconds: i64,
    /// What becomes of claims; they stay when absent.
    #[serde(deserialize_with = "null_default")]
    pub persistent_volume_claim_retention_policy: RetentionPolicy,
    /// Where ordinals begin; at 0 when absent.
    #[serde(deserialize_with = "null_default")]
    pub ordinals: Ordinals,
}

/// `apps/v1.StatefulSetUpdateStrategy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateStrategy {
    /// `RollingUpdate` or `OnDelete`.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// How far and how fast to roll.
    #[serde(deserialize_with = "null_default")]
    pub rolling_update: RollingUpdate,
}

/// `apps/v1.RollingUpdateStatefulSetStrategy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// Ordinals below it, counted from the first, stay as they are.
    #[serde(deserialize_with = "null_default")]
    pub partition: i64,
    /// Pods that may be missing while it rolls; 1 when absent.
    pub max_unavailable: Option<IntOrString>,
}

/// `apps/v1.StatefulSetOrdinals`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct Ordinals {
    /// The first ordinal.
    #[serde(deserialize_with = "null_default")]
    pub start: i64,
}

/// `apps/v1.StatefulSetStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct StatefulSetStatus {
    /// Generation of the spec this speaks of.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// Pods there are.
    pub replicas: i64,
    /// Of these, ready pods.
    #[serde(skip_serializing_if = "is_zero")]
    pub ready_replicas: i64,
    /// Of these, pods ready for long enough.
    pub available_replicas: i64,
    /// Pods of the version it comes from.
    #[serde(skip_serializing_if = "is_zero")]
    pub current_replicas: i64,
    /// Pods of the version it goes to.
    #[serde(skip_serializing_if = "is_zero")]
    pub updated_replicas: i64,
    /// The version it comes from.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub current_revision: String,
    /// The version it goes to.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub update_revision: String,
    /// Names of versions that were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i64>,
    /// Conditions of others.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl StatefulSet {
    /// Pods wanted.
    pub fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1).max(0)
    }

    fn first(&self) -> i64 {
        self.spec.ordinals.start.max(0)
    }

    /// Whether it wants a pod with this ordinal.
    fn wants(&self, ordinal: i64) -> bool {
        ordinal >= self.first() && ordinal - self.first() < self.replicas()
    }

    /// Whether pods wait for each other.
    fn ordered(&self) -> bool {
        self.spec.pod_management_policy != "Parallel"
    }

    fn rolls(&self) -> bool {
        self.spec.update_strategy.kind != "OnDelete"
    }

    fn available(&self, pod: &Pod, now: Timestamp) -> bool {
        pod.available_in(self.spec.min_ready_seconds, now).is_some_and(|wait| wait.is_zero())
    }

    fn object_ref(&self) -> ObjectRef {
        self.metadata.object_ref("apps/v1", "StatefulSet")
    }
}

/// What a decision about one StatefulSet sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The StatefulSet.
    pub stateful_set: &'a StatefulSet,
    /// The pods of its namespace that it manages, or that nobody manages. More do no harm.
    pub pods: &'a [&'a Pod],
    /// The claims of its namespace.
    pub claims: &'a [&'a PersistentVolumeClaim],
    /// The ControllerRevisions of its namespace.
    pub revisions: &'a [&'a ControllerRevision],
    /// Why the writes of the last step failed, if they did.
    pub failure: Option<&'a WriteFailure>,
}

/// Decides about one StatefulSet.
pub fn step(view: &View<'_>, now: Timestamp) -> Step {
    let set = view.stateful_set;
    let Some(selector) = &set.spec.selector else { return Step::idle() };
    // Its versions may be gone already: nothing can be said of its pods.
    if set.metadata.deleting() {
        return Step::idle();
    }
    let owner = Owner {
        metadata: &set.metadata,
        kind: "StatefulSet",
        selector,
        template: &set.spec.template,
        collisions: set.status.collision_count,
        hash_label: HASH_LABEL,
    };
    let mut plan = Plan::new(view, selector, versions(&owner, view.revisions), now);
    plan.run();
    plan.finish()
}

/// A decision under way.
struct Plan<'a> {
    view: &'a View<'a>,
    set: &'a StatefulSet,
    now: Timestamp,
    versions: Versions<'a>,
    /// The version it comes from; the present one when that is not known.
    current: String,
    /// Its pods by ordinal.
    pods: BTreeMap<i64, &'a Pod>,
    claims: BTreeMap<&'a str, &'a PersistentVolumeClaim>,
    /// Adoptions and versions, which come first.
    first: Vec<Action>,
    /// Claims to create, before anything that needs them.
    new_claims: Vec<Action>,
    writes: Vec<Action>,
}

impl<'a> Plan<'a> {
    fn new(view: &'a View<'a>, selector: &LabelSelector, mut versions: Versions<'a>, now: Timestamp) -> Self {
        let set = view.stateful_set;
        let mut first = std::mem::take(&mut versions.actions);
        let pods = claimed(view, selector, &mut first);
        let known = versions.known.iter().find(|r| r.metadata.name == set.status.current_revision);
        let current = known.map_or(&versions.name, |r| &r.metadata.name).clone();
        let claims = view.claims.iter().map(|claim| (claim.metadata.name.as_str(), *claim)).collect();
        Self {
            view,
            set,
            now,
            versions,
            current,
            pods,
            claims,
            first,
            new_claims: Vec::new(),
            writes: Vec::new(),
        }
    }

    fn run(&mut self) {
        if self.keep_wanted() && self.remove_unwanted() && self.set.rolls() {
            self.roll();
        }
    }

    /// The status speaks of what is there, and comes before writes that may be refused.
    fn finish(mut self) -> Step {
        let status = status::status(&self);
        let mut actions = std::mem::take(&mut self.first);
        actions.extend(self.set.metadata.status_update(STATEFUL_SETS, &self.set.status, &status));
        actions.extend(self.clean_up());
        if let Some(failure) = self.view.failure {
            let (reason, doing) = match failure.creating {
                true => ("FailedCreate", "Create"),
                false => ("FailedUpdate", "Update"),
            };
            let name = &self.set.metadata.name;
            let message = format!("{doing} in StatefulSet {name} failed error: {}", failure.message);
            actions.push(Action::Event(Event::warning(self.set.object_ref(), reason, message)));
        }
        actions.append(&mut self.new_claims);
        actions.append(&mut self.writes);
        let min_ready = self.set.spec.min_ready_seconds;
        let waits = self.pods.values().filter_map(|pod| pod.available_in(min_ready, self.now));
        // Times are whole seconds: a moment more, so that the wait is over then.
        let wait = waits.filter(|wait| !wait.is_zero()).min().map(|wait| wait + Duration::from_millis(10));
        Step { actions, requeue_after: wait }
    }

    /// Old versions beyond the limit go when no pod is of them.
    fn clean_up(&self) -> Vec<Action> {
        let in_use = |revision: &ControllerRevision| {
            let name = &revision.metadata.name;
            let used = |pod: &&Pod| pod.metadata.labels.get(REVISION_LABEL) == Some(name);
            *name == self.versions.name || *name == self.current || self.pods.values().any(used)
        };
        truncate(&self.versions.known, self.set.spec.revision_history_limit, in_use)
    }
}

/// The pods it manages by ordinal, adopting and releasing where that is due. A pod with another name is none
/// of its own, whatever its labels say.
fn claimed<'a>(
    view: &View<'a>,
    selector: &LabelSelector,
    actions: &mut Vec<Action>,
) -> BTreeMap<i64, &'a Pod> {
    let owner = &view.stateful_set.metadata;
    let mut owned = BTreeMap::new();
    for pod in view.pods {
        let ordinal = ordinal(&owner.name, &pod.metadata.name);
        match (claim(owner, selector, &pod.metadata), ordinal) {
            (Claim::Owned, Some(ordinal)) => drop(owned.insert(ordinal, *pod)),
            (Claim::Adopt, Some(ordinal)) => {
                actions.push(adopt(PODS, &pod.metadata, owner.controller_ref("apps/v1", "StatefulSet")));
                owned.insert(ordinal, *pod);
            }
            (Claim::Release, _) | (Claim::Owned, None) => {
                actions.push(release(PODS, &pod.metadata, &[&owner.uid]));
            }
            (Claim::Adopt, None) | (Claim::Ignore, _) => {}
        }
    }
    owned
}

#[cfg(test)]
mod tests;
