//! PodDisruptionBudgets: how many of their pods may be taken away now.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::{Deserialize, Serialize};
use wharf_base::Timestamp;

use crate::{
    action::{Action, Event, ObjectRef, POD_DISRUPTION_BUDGETS, PODS, Step},
    condition::{self, Condition},
    intstr::IntOrString,
    meta::{Meta, OwnerReference, is_zero, null_default},
    pod::Pod,
    selector::LabelSelector,
};

/// How long an evicted pod counts as on its way out before its deletion is seen.
pub const DELETION_WITHIN: Duration = Duration::from_secs(120);
/// How long a pod may say that it is about to be disrupted without being deleted.
pub const STALE_AFTER: Duration = Duration::from_secs(120);
const TARGET: &str = "DisruptionTarget";
const ALLOWED: &str = "DisruptionAllowed";

/// `policy/v1.PodDisruptionBudget`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Budget {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: BudgetSpec,
    /// What was last reported.
    pub status: BudgetStatus,
}

/// `policy/v1.PodDisruptionBudgetSpec`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetSpec {
    /// Pods that must stay healthy.
    pub min_available: Option<IntOrString>,
    /// Pods that may be missing.
    pub max_unavailable: Option<IntOrString>,
    /// Which pods it is about; none when absent, all of the namespace when empty.
    pub selector: Option<LabelSelector>,
}

/// `policy/v1.PodDisruptionBudgetStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct BudgetStatus {
    /// Generation of the spec this speaks of.
    #[serde(skip_serializing_if = "is_zero")]
    pub observed_generation: i64,
    /// Pods evicted a short while ago, and when.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "BTreeMap::is_empty")]
    pub disrupted_pods: BTreeMap<String, Timestamp>,
    /// Pods that may be evicted now.
    pub disruptions_allowed: i64,
    /// Pods that are healthy.
    pub current_healthy: i64,
    /// Pods that must stay healthy.
    pub desired_healthy: i64,
    /// Pods there should be.
    pub expected_pods: i64,
    /// `DisruptionAllowed`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

impl Budget {
    /// Whether it is about a pod of its namespace.
    pub fn covers(&self, pod: &Meta) -> bool {
        self.spec.selector.as_ref().is_some_and(|selector| selector.matches(&pod.labels))
    }

    /// Whether it depends on how many pods their controllers ask for.
    pub fn scales(&self) -> bool {
        self.spec.max_unavailable.is_some() || matches!(self.spec.min_available, Some(IntOrString::Text(_)))
    }

    fn object_ref(&self) -> ObjectRef {
        self.metadata.object_ref("policy/v1", "PodDisruptionBudget")
    }
}

/// What asks for a number of pods.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Scale {
    /// Uid: one that is behind several controllers counts once.
    pub uid: String,
    /// Pods asked for.
    pub replicas: i64,
}

/// What a decision about one PodDisruptionBudget sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The budget.
    pub budget: &'a Budget,
    /// The pods of its namespace that it covers.
    pub pods: &'a [&'a Pod],
    /// The scale behind each of [`controllers`], by the controller's uid, or why it is not known. The
    /// Deployment stands for its ReplicaSets.
    pub scales: &'a BTreeMap<String, Result<Scale, String>>,
}

/// The controllers of pods, each once.
pub fn controllers<'a>(pods: &[&'a Pod]) -> Vec<&'a OwnerReference> {
    let mut seen = BTreeSet::new();
    let owners = pods.iter().filter_map(|pod| pod.metadata.controller());
    owners.filter(|owner| seen.insert(owner.uid.as_str())).collect()
}

/// Decides about one PodDisruptionBudget.
pub fn step(view: &View<'_>, now: Timestamp) -> Step {
    let budget = view.budget;
    let mut step = Step::idle();
    let status = match wanted(view) {
        Ok((expected, desired)) => {
            let disrupted = disrupted_pods(view, now);
            let checks = disrupted.values().map(|at| at.plus(DELETION_WITHIN).since(now) + MOMENT);
            step.requeue_after = checks.min();
            status(view, expected, desired, disrupted, now)
        }
        Err(why) => {
            // What could not be asked may answer next time, and nothing else would tell.
            step.requeue(RETRY);
            failed(budget, &why, now)
        }
    };
    let write = budget.metadata.status_update(POD_DISRUPTION_BUDGETS, &budget.status, &status);
    if write.is_some() {
        step.actions.extend(remarks(view).map(Action::Event));
    }
    step.actions.extend(write);
    step
}

const RETRY: Duration = Duration::from_secs(10);
const MOMENT: Duration = Duration::from_millis(10);

/// Pods there should be, and pods that must be healthy.
fn wanted(view: &View<'_>) -> Result<(i64, i64), String> {
    let spec = &view.budget.spec;
    let share = |value: &IntOrString, total: i64| {
        let share = value.of_total(total, true);
        share.ok_or_else(|| "neither a number nor a percentage".to_owned())
    };
    match (&spec.max_unavailable, &spec.min_available) {
        (Some(most), _) => {
            let expected = expected(view)?;
            Ok((expected, (expected - share(most, expected)?).max(0)))
        }
        (None, Some(IntOrString::Int(least))) => Ok((view.pods.len() as i64, *least)),
        (None, Some(least)) => {
            let expected = expected(view)?;
            Ok((expected, share(least, expected)?))
        }
        (None, None) => Ok((0, 0)),
    }
}

/// What the controllers of the pods ask for together. Pods without a controller do not count.
fn expected(view: &View<'_>) -> Result<i64, String> {
    let mut scales = BTreeMap::new();
    for owner in controllers(view.pods) {
        let scale = view.scales.get(&owner.uid);
        let scale = scale.ok_or_else(|| format!("found no scale of {} {}", owner.kind, owner.name))?;
        let scale = scale.as_ref().map_err(Clone::clone)?;
        scales.insert(scale.uid.as_str(), scale.replicas);
    }
    Ok(scales.values().sum())
}

/// Evicted pods whose deletion is still to come.
fn disrupted_pods(view: &View<'_>, now: Timestamp) -> BTreeMap<String, Timestamp> {
    let staying = view.pods.iter().filter(|pod| !pod.metadata.deleting());
    let evicted = staying.filter_map(|pod| {
        let (name, at) = view.budget.status.disrupted_pods.get_key_value(&pod.metadata.name)?;
        (at.plus(DELETION_WITHIN) >= now).then(|| (name.clone(), *at))
    });
    evicted.collect()
}

fn status(
    view: &View<'_>,
    expected: i64,
    desired: i64,
    disrupted: BTreeMap<String, Timestamp>,
    now: Timestamp,
) -> BudgetStatus {
    let healthy = view
        .pods
        .iter()
        .filter(|pod| !pod.metadata.deleting() && !disrupted.contains_key(&pod.metadata.name) && pod.ready());
    let healthy = healthy.count() as i64;
    // Without pods the numbers say nothing about those that will come.
    let allowed = if expected > 0 { (healthy - desired).max(0) } else { 0 };
    let generation = view.budget.metadata.generation;
    let (status, reason) =
        if allowed > 0 { ("True", "SufficientPods") } else { ("False", "InsufficientPods") };
    let mut conditions = view.budget.status.conditions.clone();
    note(&mut conditions, status, reason, "", generation, now);
    BudgetStatus {
        observed_generation: generation,
        disrupted_pods: disrupted,
        disruptions_allowed: allowed,
        current_healthy: healthy,
        desired_healthy: desired,
        expected_pods: expected,
        conditions,
    }
}

/// Nothing may be disrupted while the numbers are not known.
fn failed(budget: &Budget, why: &str, now: Timestamp) -> BudgetStatus {
    let mut status = budget.status.clone();
    status.disruptions_allowed = 0;
    let generation = status.observed_generation;
    note(&mut status.conditions, "False", "SyncFailed", why, generation, now);
    status
}

fn note(
    conditions: &mut Vec<Condition>,
    status: &str,
    reason: &str,
    message: &str,
    generation: i64,
    now: Timestamp,
) {
    let mut condition = Condition::new(ALLOWED, status, reason, message, now);
    if generation != 0 {
        condition.other.insert("observedGeneration".to_owned(), generation.into());
    }
    if let Some(present) = condition::find(conditions, ALLOWED).filter(|c| c.status == status) {
        condition.last_transition_time = present.last_transition_time;
    }
    condition::replace(conditions, condition);
}

/// What a person should know about the numbers.
fn remarks(view: &View<'_>) -> Option<Event> {
    let budget = view.budget;
    if let Err(why) = wanted(view) {
        let message = format!("Failed to calculate the number of expected pods: {why}");
        return Some(Event::warning(budget.object_ref(), "CalculateExpectedPodCountFailed", message));
    }
    if view.pods.is_empty() {
        return Some(Event::normal(budget.object_ref(), "NoPods", "No matching pods found"));
    }
    let unmanaged = budget.scales() && view.pods.iter().any(|pod| pod.metadata.controller().is_none());
    unmanaged.then(|| {
        let message =
            "Some of its pods have no controller and do not count: give .spec.minAvailable as a number";
        Event::warning(budget.object_ref(), "UnmanagedPods", message)
    })
}

/// Takes back what a pod says of its coming disruption when none has come. The runner calls this for
/// every pod.
pub fn renew(pod: &Pod, now: Timestamp) -> Step {
    let target = condition::find(&pod.status.conditions, TARGET).filter(|c| c.is_true());
    // What the node itself ends may take any time.
    let target = target.filter(|c| c.reason != "TerminationByKubelet");
    let (Some(target), false) = (target, pod.metadata.deleting() || pod.ended()) else { return Step::idle() };
    let left = target.last_transition_time.map_or(Duration::ZERO, |at| at.plus(STALE_AFTER).since(now));
    if !left.is_zero() {
        return Step { actions: Vec::new(), requeue_after: Some(left) };
    }
    let mut conditions = pod.status.conditions.clone();
    condition::replace(&mut conditions, Condition::new(TARGET, "False", "", "", now));
    let body = serde_json::json!({"status": {"conditions": conditions}});
    Step::of(vec![pod.metadata.locked_status_patch(PODS, body)])
}

#[cfg(test)]
mod tests;
