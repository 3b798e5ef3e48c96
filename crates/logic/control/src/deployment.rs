//! Deployments: one ReplicaSet per version of the pod template, and a careful walk from the old ones
//! to the new one.
//!
//! A step either creates the ReplicaSet of the present template, or moves replicas between the
//! ReplicaSets, and reports. The view must be consistent: it shows this controller's own earlier
//! writes (the runner waits for them before it decides again).
//!
//! A roll-back is a template that equals an older one: that ReplicaSet becomes the new one again.

mod progress;
mod revision;
mod rolling;
mod scale;
mod status;
mod template;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_base::Timestamp;

use crate::{
    action::{Action, DEPLOYMENTS, Event, ObjectRef, REPLICA_SETS, Step, WriteFailure},
    claim::{Claim, adopt, claim, release},
    condition::Condition,
    intstr::IntOrString,
    meta::{Meta, is_zero, null_default},
    pod::Pod,
    replicaset::ReplicaSet,
    selector::LabelSelector,
};

pub(crate) use template::same;
pub use template::{HASH_LABEL, insert, same_template, template_hash};

/// Counts the versions of the template; on the Deployment and on its ReplicaSets.
pub const REVISION: &str = "deployment.kubernetes.io/revision";
/// Revisions a ReplicaSet had before it was rolled back to.
pub const REVISION_HISTORY: &str = "deployment.kubernetes.io/revision-history";
/// On a ReplicaSet: replicas of the Deployment when it was last scaled.
pub const DESIRED_REPLICAS: &str = "deployment.kubernetes.io/desired-replicas";
/// On a ReplicaSet: replicas and surge of the Deployment when it was last scaled.
pub const MAX_REPLICAS: &str = "deployment.kubernetes.io/max-replicas";

/// `apps/v1.Deployment`, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Deployment {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: DeploymentSpec,
    /// What was last reported.
    pub status: DeploymentStatus,
}

/// `apps/v1.DeploymentSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentSpec {
    /// Pods wanted; 1 when absent.
    pub replicas: Option<i64>,
    /// Which ReplicaSets and pods it manages.
    pub selector: Option<LabelSelector>,
    /// What the pods are made from.
    pub template: Value,
    /// How old pods make room for new ones.
    #[serde(deserialize_with = "null_default")]
    pub strategy: Strategy,
    /// Seconds a pod must be ready before it counts as available.
    #[serde(deserialize_with = "null_default")]
    pub min_ready_seconds: i64,
    /// Old ReplicaSets to keep; all when absent.
    pub revision_history_limit: Option<i64>,
    /// No new version is rolled out while true.
    #[serde(deserialize_with = "null_default")]
    pub paused: bool,
    /// Seconds without progress after which the rollout is reported as failed.
    pub progress_deadline_seconds: Option<i64>,
}

/// `apps/v1.DeploymentStrategy`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Strategy {
    /// `RollingUpdate` (when absent) or `Recreate`.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// Bounds of a rolling update.
    pub rolling_update: Option<RollingUpdate>,
}

/// `apps/v1.RollingUpdateDeployment`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// Pods there may be too many; 25 % when absent, rounded up.
    pub max_surge: Option<IntOrString>,
    /// Pods that may be unavailable; 25 % when absent, rounded down.
    pub max_unavailable: Option<IntOrString>,
}

/// `apps/v1.DeploymentStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DeploymentStatus {
    /// Generation of the spec this speaks of.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// Pods of all versions.
    #[serde(skip_serializing_if = "is_zero")]
    pub replicas: i64,
    /// Pods of the present version.
    #[serde(skip_serializing_if = "is_zero")]
    pub updated_replicas: i64,
    /// Ready pods.
    #[serde(skip_serializing_if = "is_zero")]
    pub ready_replicas: i64,
    /// Pods ready for long enough.
    #[serde(skip_serializing_if = "is_zero")]
    pub available_replicas: i64,
    /// Pods still missing for full availability.
    #[serde(skip_serializing_if = "is_zero")]
    pub unavailable_replicas: i64,
    /// Pods being deleted that have not ended yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating_replicas: Option<i64>,
    /// Times the name of a new ReplicaSet was taken by another one.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i64>,
    /// `Available`, `Progressing`, `ReplicaFailure`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl Deployment {
    /// Pods wanted.
    pub fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1).max(0)
    }

    fn recreates(&self) -> bool {
        self.spec.strategy.kind == "Recreate"
    }

    /// (surge, unavailable) pods the strategy allows. Both zero would never move: then one pod may be
    /// unavailable.
    fn fenceposts(&self) -> (i64, i64) {
        let rolling = self.spec.strategy.rolling_update.as_ref();
        let quarter = IntOrString::Text("25%".to_owned());
        let surge = rolling.and_then(|r| r.max_surge.as_ref()).unwrap_or(&quarter);
        let unavailable = rolling.and_then(|r| r.max_unavailable.as_ref()).unwrap_or(&quarter);
        let surge = surge.of_total(self.replicas(), true).unwrap_or(0).max(0);
        let unavailable = unavailable.of_total(self.replicas(), false).unwrap_or(0).max(0);
        if surge == 0 && unavailable == 0 { (0, 1) } else { (surge, unavailable) }
    }

    /// Pods there may be too many during a rolling update.
    pub fn max_surge(&self) -> i64 {
        if self.recreates() { 0 } else { self.fenceposts().0 }
    }

    /// Pods that may be unavailable during a rolling update.
    pub fn max_unavailable(&self) -> i64 {
        if self.recreates() { 0 } else { self.fenceposts().1.min(self.replicas()) }
    }

    /// The deadline, unless there is none (absent, or the largest number as upstream has it).
    fn progress_deadline(&self) -> Option<Duration> {
        let seconds = self.spec.progress_deadline_seconds.filter(|s| *s < i64::from(i32::MAX))?;
        u64::try_from(seconds).ok().map(Duration::from_secs)
    }

    fn object_ref(&self) -> ObjectRef {
        self.metadata.object_ref("apps/v1", "Deployment")
    }
}

/// What a decision about one Deployment sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The Deployment.
    pub deployment: &'a Deployment,
    /// Every ReplicaSet of its namespace: a name may be taken by one that is not its own.
    pub replica_sets: &'a [&'a ReplicaSet],
    /// The pods its ReplicaSets manage, those being deleted included. Only read by `Recreate`.
    pub pods: &'a [&'a Pod],
    /// Why the writes of the last step failed, if they did.
    pub failure: Option<&'a WriteFailure>,
}

/// Decides about one Deployment.
pub fn step(view: &View<'_>, now: Timestamp) -> Step {
    let deployment = view.deployment;
    let Some(selector) = deployment.spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        return selects_all(deployment);
    };
    let (owned, claims) = claim_sets(view, selector);
    if !claims.is_empty() {
        return Step::of(claims);
    }
    Plan::new(view, owned, now).run()
}

/// A Deployment that selects every pod is refused, but observed.
fn selects_all(deployment: &Deployment) -> Step {
    let message = "This deployment is selecting all pods. A non-empty selector is required.";
    let mut actions = vec![Action::Event(Event::warning(deployment.object_ref(), "SelectingAll", message))];
    let observed =
        DeploymentStatus { observed_generation: deployment.metadata.generation, ..deployment.status.clone() };
    actions.extend(deployment.metadata.status_update(DEPLOYMENTS, &deployment.status, &observed));
    Step::of(actions)
}

/// Its ReplicaSets, oldest first, and the adoptions and releases that are due.
fn claim_sets<'a>(view: &View<'a>, selector: &LabelSelector) -> (Vec<&'a ReplicaSet>, Vec<Action>) {
    let owner = &view.deployment.metadata;
    let (mut owned, mut actions) = (Vec::new(), Vec::new());
    for set in view.replica_sets {
        match claim(owner, selector, &set.metadata) {
            Claim::Owned => owned.push(*set),
            Claim::Adopt => {
                let reference = owner.controller_ref("apps/v1", "Deployment");
                actions.push(adopt(REPLICA_SETS, &set.metadata, reference));
            }
            Claim::Release => actions.push(release(REPLICA_SETS, &set.metadata, &[&owner.uid])),
            Claim::Ignore => {}
        }
    }
    owned.sort_by(|a, b| by_age(a).cmp(&by_age(b)));
    (owned, actions)
}

fn by_age(set: &ReplicaSet) -> (Option<Timestamp>, &str) {
    (set.metadata.creation_timestamp, &set.metadata.name)
}

/// Changes to one ReplicaSet, sent as one patch.
#[derive(Default)]
struct Edit {
    replicas: Option<i64>,
    min_ready_seconds: Option<i64>,
    annotations: BTreeMap<String, String>,
}

/// A decision under way.
struct Plan<'a> {
    view: &'a View<'a>,
    d: &'a Deployment,
    now: Timestamp,
    /// The ReplicaSet of the present template.
    new: Option<&'a ReplicaSet>,
    /// Its name, also when this step creates it.
    new_name: Option<String>,
    /// The others, oldest first.
    old: Vec<&'a ReplicaSet>,
    /// Pending changes by ReplicaSet name.
    edits: BTreeMap<&'a str, Edit>,
    /// Conditions to report.
    conditions: Vec<Condition>,
    /// `collisionCount` to report.
    collisions: Option<i64>,
    /// Revision to write to the Deployment.
    revision: Option<String>,
    step: Step,
}

impl<'a> Plan<'a> {
    fn new(view: &'a View<'a>, owned: Vec<&'a ReplicaSet>, now: Timestamp) -> Self {
        let d = view.deployment;
        let is_new = |set: &&ReplicaSet| same_template(&set.spec.template, &d.spec.template);
        let new = owned.iter().copied().find(|set| is_new(set));
        let old = owned.into_iter().filter(|set| new.is_none_or(|n| n.metadata.uid != set.metadata.uid));
        Self {
            view,
            d,
            now,
            new,
            new_name: new.map(|set| set.metadata.name.clone()),
            old: old.collect(),
            edits: BTreeMap::new(),
            conditions: d.status.conditions.clone(),
            collisions: d.status.collision_count,
            revision: None,
            step: Step::idle(),
        }
    }

    fn run(mut self) -> Step {
        if self.d.metadata.deleting() {
            self.sync_new();
            self.report();
            return self.finish();
        }
        self.note_pause();
        if self.d.spec.paused || self.is_scaling() {
            self.sync_new();
            self.scale();
            if self.d.spec.paused {
                self.clean_up();
            }
            self.report();
        } else if self.d.recreates() {
            self.recreate();
            self.report_progress();
        } else {
            self.roll();
            self.report_progress();
        }
        self.finish()
    }

    /// All its ReplicaSets: the old ones, then the new one.
    fn all(&self) -> impl Iterator<Item = &'a ReplicaSet> {
        self.old.iter().copied().chain(self.new)
    }

    /// Size of a ReplicaSet, with the change of this step.
    fn size(&self, set: &ReplicaSet) -> i64 {
        let edited = self.edits.get(set.metadata.name.as_str()).and_then(|edit| edit.replicas);
        edited.unwrap_or_else(|| set.replicas())
    }

    fn total_size(&self) -> i64 {
        self.all().map(|set| self.size(set)).sum()
    }

    /// Old ReplicaSets that still have replicas.
    fn active_old(&self) -> Vec<&'a ReplicaSet> {
        self.old.iter().copied().filter(|set| self.size(set) > 0).collect()
    }

    fn edit(&mut self, set: &'a ReplicaSet) -> &mut Edit {
        self.edits.entry(set.metadata.name.as_str()).or_default()
    }

    /// Turns the pending changes into patches. The status goes first, so that it is written even when
    /// a create is refused. The revision goes with it: written to the object itself, an annotation would count as a
    /// new generation.
    fn finish(self) -> Step {
        let Step { actions, requeue_after } = self.step;
        let (mut ordered, writes): (Vec<Action>, Vec<Action>) =
            actions.into_iter().partition(|action| matches!(action, Action::UpdateStatus { .. }));
        if let Some(revision) = self.revision {
            let annotations = serde_json::json!({REVISION: revision});
            match ordered.first_mut() {
                Some(Action::UpdateStatus { patch, .. }) => patch["metadata"]["annotations"] = annotations,
                _ => {
                    let body = serde_json::json!({"metadata": {"annotations": annotations}});
                    ordered.push(self.d.metadata.locked_status_patch(DEPLOYMENTS, body));
                }
            }
        }
        ordered.extend(writes);
        for set in self.old.iter().copied().chain(self.new) {
            if let Some(edit) = self.edits.get(set.metadata.name.as_str()) {
                ordered.extend(scale::patch(set, edit));
            }
        }
        Step { actions: ordered, requeue_after }
    }
}

#[cfg(test)]
mod tests;
