//! DaemonSets: one pod on every node that may have it.
//!
//! The scheduler binds the pods: each requires its node by name. A step first repairs (creates where a pod
//! is missing, deletes where one is too much), and only when there is nothing to repair replaces pods of an
//! older version.

mod backoff;
mod nodes;
mod pods;
mod rolling;
mod status;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_base::Timestamp;

use crate::{
    action::{Action, DAEMON_SETS, Event, ObjectRef, Step, WriteFailure},
    history::{ControllerRevision, Owner, REVISION_LABEL, Versions, truncate, versions},
    intstr::IntOrString,
    meta::{Meta, is_zero, null_default},
    node_lifecycle::Node,
    pod::Pod,
    selector::LabelSelector,
};

pub use backoff::Backoffs;
use nodes::Place;

/// Most pods one step creates or deletes.
pub const BURST: usize = 250;

/// `apps/v1.DaemonSet`, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct DaemonSet {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: DaemonSetSpec,
    /// What was last reported.
    pub status: DaemonSetStatus,
}

/// `apps/v1.DaemonSetSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetSpec {
    /// Which pods it manages.
    pub selector: Option<LabelSelector>,
    /// What the pods are made from.
    pub template: Value,
    /// How pods of an older version are replaced.
    #[serde(deserialize_with = "null_default")]
    pub update_strategy: UpdateStrategy,
    /// Seconds a pod must be ready before it counts as available.
    #[serde(deserialize_with = "null_default")]
    pub min_ready_seconds: i64,
    /// Old versions kept; 10 when absent.
    pub revision_history_limit: Option<i64>,
}

/// `apps/v1.DaemonSetUpdateStrategy`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct UpdateStrategy {
    /// `RollingUpdate` or `OnDelete`.
    #[serde(rename = "type", deserialize_with = "null_default")]
    pub kind: String,
    /// How fast to roll.
    pub rolling_update: Option<RollingUpdate>,
}

/// `apps/v1.RollingUpdateDaemonSet`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct RollingUpdate {
    /// Nodes that may be without an available pod.
    pub max_unavailable: Option<IntOrString>,
    /// Nodes that may have two pods.
    pub max_surge: Option<IntOrString>,
}

/// `apps/v1.DaemonSetStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DaemonSetStatus {
    /// Nodes with a pod that should have one.
    pub current_number_scheduled: i64,
    /// Nodes with a pod that should have none.
    pub number_misscheduled: i64,
    /// Nodes that should have a pod.
    pub desired_number_scheduled: i64,
    /// Nodes with a ready pod.
    pub number_ready: i64,
    /// Nodes with a pod of the present version.
    #[serde(skip_serializing_if = "is_zero")]
    pub updated_number_scheduled: i64,
    /// Nodes with an available pod.
    #[serde(skip_serializing_if = "is_zero")]
    pub number_available: i64,
    /// Nodes without one.
    #[serde(skip_serializing_if = "is_zero")]
    pub number_unavailable: i64,
    /// Generation of the spec this speaks of.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// Names of versions that were taken.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub collision_count: Option<i64>,
}

impl DaemonSet {
    fn object_ref(&self) -> ObjectRef {
        self.metadata.object_ref("apps/v1", "DaemonSet")
    }

    fn rolls(&self) -> bool {
        self.spec.update_strategy.kind != "OnDelete"
    }

    /// Nodes of `desired` that may have two pods while it rolls.
    fn max_surge(&self, desired: i64) -> i64 {
        self.share(|rolling| rolling.max_surge.as_ref(), desired).unwrap_or(0)
    }

    /// Nodes of `desired` that may be without an available pod while it rolls.
    fn max_unavailable(&self, desired: i64) -> i64 {
        self.share(|rolling| rolling.max_unavailable.as_ref(), desired).unwrap_or(1)
    }

    fn share(&self, of: impl Fn(&RollingUpdate) -> Option<&IntOrString>, desired: i64) -> Option<i64> {
        let rolling = self.spec.update_strategy.rolling_update.as_ref().filter(|_| self.rolls());
        of(rolling?)?.of_total(desired, true)
    }

    fn available(&self, pod: &Pod, now: Timestamp) -> bool {
        pod.available_in(self.spec.min_ready_seconds, now).is_some_and(|wait| wait.is_zero())
    }
}

/// What a decision about one DaemonSet sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The DaemonSet.
    pub daemon_set: &'a DaemonSet,
    /// Every node.
    pub nodes: &'a [&'a Node],
    /// The pods of its namespace that it manages, or that nobody manages. More do no harm.
    pub pods: &'a [&'a Pod],
    /// The ControllerRevisions of its namespace.
    pub revisions: &'a [&'a ControllerRevision],
    /// Why the writes of the last step failed, if they did.
    pub failure: Option<&'a WriteFailure>,
}

/// Decides about one DaemonSet. `backoffs` remembers which failed pods were replaced.
pub fn step(view: &View<'_>, backoffs: &mut Backoffs, now: Timestamp) -> Step {
    let set = view.daemon_set;
    let Some(selector) = set.spec.selector.as_ref().filter(|selector| !selector.is_empty()) else {
        let message = "This daemon set is selecting all pods. A non-empty selector is required.";
        let event = Event::warning(set.object_ref(), "SelectingAll", message);
        return Step::of(vec![Action::Event(event)]);
    };
    // Its versions may be gone already: nothing can be said of its pods.
    if set.metadata.deleting() {
        return Step::idle();
    }
    let owner = Owner {
        metadata: &set.metadata,
        kind: "DaemonSet",
        selector,
        template: &set.spec.template,
        collisions: set.status.collision_count,
        hash_label: REVISION_LABEL,
    };
    let mut plan = Plan::new(view, selector, versions(&owner, view.revisions), now);
    plan.repair(backoffs);
    if plan.creates.is_empty() && plan.deletes.is_empty() && set.rolls() {
        plan.roll();
    }
    plan.finish()
}

/// A decision under way.
struct Plan<'a> {
    view: &'a View<'a>,
    set: &'a DaemonSet,
    now: Timestamp,
    versions: Versions<'a>,
    /// How every node stands to it.
    places: BTreeMap<&'a str, Place>,
    /// Its pods by the node they are meant for.
    by_node: BTreeMap<&'a str, Vec<&'a Pod>>,
    /// Names of nodes to create a pod for.
    creates: Vec<&'a str>,
    deletes: Vec<&'a Pod>,
    actions: Vec<Action>,
    requeue: Option<Duration>,
}

impl<'a> Plan<'a> {
    fn new(view: &'a View<'a>, selector: &LabelSelector, mut versions: Versions<'a>, now: Timestamp) -> Self {
        let mut actions = std::mem::take(&mut versions.actions);
        let owned = pods::claimed(view, selector, &mut actions);
        actions.extend(pods::relabel(&versions, &owned));
        let mut plan = Self {
            view,
            set: view.daemon_set,
            now,
            versions,
            places: nodes::places(view.daemon_set, view.nodes),
            by_node: pods::by_node(&owned),
            creates: Vec::new(),
            deletes: Vec::new(),
            actions,
            requeue: None,
        };
        plan.clean_up(&owned);
        let waits = owned.iter().filter_map(|pod| pod.available_in(plan.set.spec.min_ready_seconds, now));
        // Times are whole seconds: a moment more, so that the wait is over then.
        let wait = waits.filter(|wait| !wait.is_zero()).min();
        plan.requeue = wait.map(|wait| wait + Duration::from_millis(10));
        plan
    }

    /// Whether a pod is of the present version.
    fn updated(&self, pod: &Pod) -> bool {
        pod.metadata.labels.get(REVISION_LABEL) == Some(&self.versions.hash)
    }

    /// Old versions beyond the limit go when no pod is of them.
    fn clean_up(&mut self, owned: &[&Pod]) {
        let hash = |revision: &ControllerRevision| revision.metadata.labels.get(REVISION_LABEL).cloned();
        let old: Vec<&ControllerRevision> =
            self.versions.known.iter().copied().filter(|r| r.metadata.name != self.versions.name).collect();
        let in_use = |revision: &ControllerRevision| {
            let hash = hash(revision);
            hash.is_some() && owned.iter().any(|pod| pod.metadata.labels.get(REVISION_LABEL) == hash.as_ref())
        };
        self.actions.extend(truncate(&old, self.set.spec.revision_history_limit, in_use));
    }

    /// The status speaks of what is there, and comes before creates that may be refused.
    fn finish(mut self) -> Step {
        let status = status::status(&self);
        self.actions.extend(self.set.metadata.status_update(DAEMON_SETS, &self.set.status, &status));
        if let Some(failure) = self.view.failure {
            let (reason, doing) = match failure.creating {
                true => ("FailedCreate", "creating"),
                false => ("FailedDelete", "deleting"),
            };
            let message = format!("Error {doing}: {}", failure.message);
            self.actions.push(Action::Event(Event::warning(self.set.object_ref(), reason, message)));
        }
        self.creates.truncate(BURST);
        self.deletes.truncate(BURST);
        let hash = &self.versions.hash;
        self.actions.extend(self.creates.iter().map(|node| pods::create(self.set, node, hash)));
        self.actions.extend(self.deletes.iter().map(|pod| pods::delete(self.set, pod)));
        Step { actions: self.actions, requeue_after: self.requeue }
    }
}

#[cfg(test)]
mod tests;
