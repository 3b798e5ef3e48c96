//! ReplicaSets and ReplicationControllers: keep as many active pods as asked for.
//!
//! The view must be consistent: it shows this controller's own earlier writes (the runner waits for
//! them before it decides again), so no write is asked for twice.

use std::{cmp::Ordering, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_base::Timestamp;

use crate::{
    action::{
        Action, Event, Gvr, ObjectRef, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, Step, WriteFailure,
    },
    claim::{Claim, adopt, claim, pod_from_template, release},
    condition::{self, Condition},
    meta::{Labels, Meta, OwnerReference, is_zero, null_default},
    pod::{Pod, sort_for_deletion},
    selector::{LabelSelector, contains},
};

/// Most pods one step creates or deletes.
pub const BURST: usize = 500;

/// The kinds that keep a number of pods.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub enum Kind {
    /// `apps/v1.ReplicaSet`.
    #[default]
    ReplicaSet,
    /// `v1.ReplicationController`.
    ReplicationController,
}

impl Kind {
    /// `apiVersion` and `kind`.
    pub const fn names(self) -> (&'static str, &'static str) {
        match self {
            Self::ReplicaSet => ("apps/v1", "ReplicaSet"),
            Self::ReplicationController => ("v1", "ReplicationController"),
        }
    }

    /// The resource objects of the kind are in.
    pub const fn resource(self) -> Gvr {
        match self {
            Self::ReplicaSet => REPLICA_SETS,
            Self::ReplicationController => REPLICATION_CONTROLLERS,
        }
    }
}

/// `apps/v1.ReplicaSet`, as far as decisions need it; also the form ReplicationControllers are decided in.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSet {
    /// Which of the kinds it is.
    #[serde(skip)]
    pub kind: Kind,
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: ReplicaSetSpec,
    /// What was last reported.
    pub status: ReplicaSetStatus,
}

/// `apps/v1.ReplicaSetSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetSpec {
    /// Pods wanted; 1 when absent.
    pub replicas: Option<i64>,
    /// Which pods it manages.
    pub selector: Option<LabelSelector>,
    /// What the pods are made from.
    pub template: Value,
    /// Seconds a pod must be ready before it counts as available.
    #[serde(deserialize_with = "null_default")]
    pub min_ready_seconds: i64,
}

/// `apps/v1.ReplicaSetStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ReplicaSetStatus {
    /// Active pods.
    pub replicas: i64,
    /// Of these, pods with all labels of the template.
    #[serde(skip_serializing_if = "is_zero")]
    pub fully_labeled_replicas: i64,
    /// Of these, ready pods.
    #[serde(skip_serializing_if = "is_zero")]
    pub ready_replicas: i64,
    /// Of these, pods ready for long enough.
    #[serde(skip_serializing_if = "is_zero")]
    pub available_replicas: i64,
    /// Pods being deleted that have not ended yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating_replicas: Option<i64>,
    /// Generation of the spec this speaks of.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// `ReplicaFailure`, when pods cannot be created or deleted.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl ReplicaSet {
    /// Pods wanted.
    pub fn replicas(&self) -> i64 {
        self.spec.replicas.unwrap_or(1).max(0)
    }

    /// As its pods name it.
    fn controller_ref(&self) -> OwnerReference {
        let (api_version, kind) = self.kind.names();
        self.metadata.controller_ref(api_version, kind)
    }

    /// As Events name it.
    fn object_ref(&self) -> ObjectRef {
        let (api_version, kind) = self.kind.names();
        self.metadata.object_ref(api_version, kind)
    }
}

/// `v1.ReplicationController`: read from its own form, in which the selector is a set of labels.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(from = "ControllerForm")]
pub struct ReplicationController(pub ReplicaSet);

#[derive(Deserialize)]
struct ControllerForm {
    #[serde(default)]
    metadata: Meta,
    #[serde(default)]
    spec: ControllerSpec,
    #[serde(default)]
    status: ReplicaSetStatus,
}

#[derive(Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
struct ControllerSpec {
    replicas: Option<i64>,
    #[serde(deserialize_with = "null_default")]
    selector: Labels,
    template: Value,
    #[serde(deserialize_with = "null_default")]
    min_ready_seconds: i64,
}

impl From<ControllerForm> for ReplicationController {
    fn from(ControllerForm { metadata, spec, status }: ControllerForm) -> Self {
        let ControllerSpec { replicas, selector, template, min_ready_seconds } = spec;
        // An empty set of labels selects nothing here, where an empty selector would select everything.
        let selector = (!selector.is_empty())
            .then(|| LabelSelector { match_labels: selector, match_expressions: Vec::new() });
        let spec = ReplicaSetSpec { replicas, selector, template, min_ready_seconds };
        Self(ReplicaSet { kind: Kind::ReplicationController, metadata, spec, status })
    }
}

/// What a decision about one ReplicaSet sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The ReplicaSet.
    pub replica_set: &'a ReplicaSet,
    /// The pods of its namespace that it manages, or that nobody manages. More do no harm.
    pub pods: &'a [&'a Pod],
    /// The pods of the ReplicaSets with the same owner (its own included), which crowd nodes
    /// together. Empty: only its own pods count.
    pub related: &'a [&'a Pod],
    /// Why the writes of the last step failed, if they did.
    pub failure: Option<&'a WriteFailure>,
}

/// Decides about one ReplicaSet. The status comes before creates and deletes: it speaks of the pods
/// that will be left, and is written even when a create is refused.
pub fn step(view: &View<'_>, now: Timestamp) -> Step {
    let set = view.replica_set;
    let mut step = Step::idle();
    let Some(selector) = &set.spec.selector else { return step };
    let owned = claim_pods(view, selector, &mut step.actions);
    let mut active: Vec<&Pod> = owned.iter().copied().filter(|pod| pod.active()).collect();
    let failed = failure_reason(view, active.len());
    let writes = if set.metadata.deleting() { Vec::new() } else { manage(view, &mut active) };
    let status = status(view, &owned, &active, failed, now);
    report_failure(view, failed, &mut step.actions);
    step.actions.extend(set.metadata.status_update(set.kind.resource(), &set.status, &status));
    step.actions.extend(writes);
    // A pod that becomes available with time alone is seen by nobody else.
    let waits = active.iter().filter_map(|pod| pod.available_in(set.spec.min_ready_seconds, now));
    step.requeue_after = waits.filter(|wait| !wait.is_zero()).min().map(|wait| wait + ROUNDING);
    step
}

/// Times are whole seconds: a moment more, so that the wait is over when it is looked at again.
const ROUNDING: Duration = Duration::from_millis(10);

/// The pods it manages, adopting and releasing where that is due. An orphan that has ended is left.
fn claim_pods<'a>(view: &View<'a>, selector: &LabelSelector, actions: &mut Vec<Action>) -> Vec<&'a Pod> {
    let set = view.replica_set;
    let mut owned = Vec::with_capacity(view.pods.len());
    for pod in view.pods {
        match claim(&set.metadata, selector, &pod.metadata) {
            Claim::Owned => owned.push(*pod),
            Claim::Adopt if pod.active() => {
                actions.push(adopt(PODS, &pod.metadata, set.controller_ref()));
                owned.push(*pod);
            }
            Claim::Release if pod.active() => {
                actions.push(release(PODS, &pod.metadata, &[&set.metadata.uid]));
            }
            _ => {}
        }
    }
    owned
}

/// Creates what is missing, deletes what is too much; `active` keeps the pods that stay.
fn manage(view: &View<'_>, active: &mut Vec<&Pod>) -> Vec<Action> {
    let set = view.replica_set;
    let wanted = usize::try_from(set.replicas()).unwrap_or(0);
    if active.len() < wanted {
        let missing = (wanted - active.len()).min(BURST);
        return vec![create_pod(set); missing];
    }
    let surplus = (active.len() - wanted).min(BURST);
    if surplus == 0 {
        return Vec::new();
    }
    let own = active.clone();
    sort_for_deletion(active, if view.related.is_empty() { own.as_slice() } else { view.related });
    active.drain(..surplus).map(|pod| delete_pod(set, pod)).collect()
}

fn create_pod(set: &ReplicaSet) -> Action {
    let owner = set.controller_ref();
    let prefix = format!("{}-", set.metadata.name);
    let involved = set.object_ref();
    Action::Create {
        resource: PODS,
        namespace: set.metadata.namespace.clone(),
        object: pod_from_template(&set.metadata, &owner, &set.spec.template, &prefix),
        announce: Some(Box::new(Event::normal(involved, "SuccessfulCreate", "Created pod: {name}"))),
    }
}

fn delete_pod(set: &ReplicaSet, pod: &Pod) -> Action {
    let involved = set.object_ref();
    let message = format!("Deleted pod: {}", pod.metadata.name);
    pod.metadata.delete(PODS, Some(Event::normal(involved, "SuccessfulDelete", message)))
}

fn report_failure(view: &View<'_>, reason: Option<&'static str>, actions: &mut Vec<Action>) {
    let Some((failure, reason)) = view.failure.zip(reason) else { return };
    let involved = view.replica_set.object_ref();
    let doing = if failure.creating { "creating" } else { "deleting" };
    let message = format!("Error {doing}: {}", failure.message);
    actions.push(Action::Event(Event::warning(involved, reason, message)));
}

/// What the failed writes were about; nothing when none failed or the number of pods is right by now.
fn failure_reason(view: &View<'_>, active: usize) -> Option<&'static str> {
    view.failure?;
    match (active as i64).cmp(&view.replica_set.replicas()) {
        Ordering::Less => Some("FailedCreate"),
        Ordering::Greater => Some("FailedDelete"),
        Ordering::Equal => None,
    }
}

fn status(
    view: &View<'_>,
    owned: &[&Pod],
    active: &[&Pod],
    failed: Option<&'static str>,
    now: Timestamp,
) -> ReplicaSetStatus {
    let set = view.replica_set;
    let template_labels = template_labels(&set.spec.template);
    let count = |test: &dyn Fn(&Pod) -> bool| active.iter().filter(|pod| test(pod)).count() as i64;
    let available =
        |pod: &Pod| pod.available_in(set.spec.min_ready_seconds, now).is_some_and(|wait| wait.is_zero());
    let mut conditions = set.status.conditions.clone();
    match view.failure.zip(failed) {
        Some((failure, reason)) => condition::set(
            &mut conditions,
            Condition::new("ReplicaFailure", "True", reason, failure.message.as_str(), now),
        ),
        None => condition::remove(&mut conditions, "ReplicaFailure"),
    }
    ReplicaSetStatus {
        replicas: active.len() as i64,
        fully_labeled_replicas: count(&|pod| contains(&pod.metadata.labels, &template_labels)),
        ready_replicas: count(&Pod::ready),
        available_replicas: count(&available),
        // ReplicationControllers have no such field.
        terminating_replicas: (set.kind == Kind::ReplicaSet)
            .then(|| owned.iter().filter(|pod| pod.terminating()).count() as i64),
        observed_generation: set.metadata.generation,
        conditions,
    }
}

/// The labels pods made from a template have.
pub(crate) fn template_labels(template: &Value) -> Labels {
    let labels = template.pointer("/metadata/labels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

#[cfg(test)]
mod tests;
