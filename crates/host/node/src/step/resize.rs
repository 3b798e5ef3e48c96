//! A running pod's containers get other resources (`pods/resize`).
//!
//! Source: KEP-1287; a change is judged against the node, then carried out in place, or by a restart of the container
//! where its `resizePolicy` asks for one.

use std::{collections::BTreeMap, time::Duration};

use wharf_base::{Quantity, Timestamp};

use super::{Action, Decision, PodState};
use crate::model::{Amounts, Container, Pod, Resources};

/// What can be changed while a container runs.
const RESIZABLE: [&str; 2] = ["cpu", "memory"];
/// How long a change that does not fit, or failed, waits for the next look.
const AGAIN: Duration = Duration::from_secs(5);

/// How far a change is.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct Sized {
    /// It is being made.
    pub(crate) busy: bool,
    /// The resources of its containers that the pod as a whole was last sized by, where that is known.
    pub(crate) pod: Option<BTreeMap<String, Resources>>,
    /// Why the last attempt failed, and when.
    pub(crate) failure: Option<(String, Timestamp)>,
}

/// A change that is not carried out.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) enum Held {
    /// The node could never give that much.
    Infeasible(String),
    /// The node has too little left beside its other pods.
    Deferred(String),
}

/// CPU and memory of a node, or asked for by pods: thousandths of a processor and bytes.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Room {
    pub(crate) milli: i64,
    pub(crate) bytes: i64,
}

impl Room {
    /// What a pod asks for while its containers run.
    pub(crate) fn of(pod: &Pod) -> Self {
        let ask = |container: &Container| {
            let amount = |name: &str| container.resources.requests.get(name).copied();
            Self {
                milli: amount("cpu").map_or(0, Quantity::milli),
                bytes: amount("memory").map_or(0, Quantity::units),
            }
        };
        pod.lasting_containers().map(ask).fold(Self::default(), Self::plus)
    }

    /// Both together.
    pub(crate) fn plus(self, other: Self) -> Self {
        Self { milli: self.milli.saturating_add(other.milli), bytes: self.bytes.saturating_add(other.bytes) }
    }
}

fn resizable(amounts: &Amounts) -> Vec<(&str, Quantity)> {
    RESIZABLE.iter().filter_map(|name| Some((*name, *amounts.get(*name)?))).collect()
}

fn same(one: &Resources, other: &Resources) -> bool {
    resizable(&one.requests) == resizable(&other.requests)
        && resizable(&one.limits) == resizable(&other.limits)
}

/// The containers whose runs have other resources than asked for.
pub(crate) fn changed<'a>(pod: &'a Pod, state: &'a PodState) -> impl Iterator<Item = &'a Container> {
    pod.lasting_containers().filter(|container| {
        let known = state.container(&container.name).filter(|known| known.running().is_some());
        let has = known.and_then(|known| known.resources.as_ref());
        has.is_some_and(|has| !same(has, &container.resources))
    })
}

/// Whether the pod is on its way to other resources.
pub(crate) fn in_progress(pod: &Pod, state: &PodState) -> bool {
    let sized = state.size.pod.as_ref();
    state.held.is_none()
        && (changed(pod, state).next().is_some() || sized.is_some_and(|sized| !is_sized_by(pod, sized)))
}

/// Whether the pod as a whole is as large as its containers ask for together.
fn is_sized_by(pod: &Pod, sized: &BTreeMap<String, Resources>) -> bool {
    let wanted = wanted(pod);
    sized.len() == wanted.len()
        && wanted.iter().all(|(name, wanted)| sized.get(name).is_some_and(|had| same(had, wanted)))
}

/// Whether a change fits the node, beside what others have asked for.
pub(crate) fn judge(pod: &Pod, state: &PodState, node: Room, others: Room) -> Option<Held> {
    changed(pod, state).next()?;
    let wanted = Room::of(pod);
    let kinds = [
        ("cpu", wanted.milli, node.milli, others.milli, "m"),
        ("memory", wanted.bytes, node.bytes, others.bytes, ""),
    ];
    let too_much = kinds.iter().find(|(_, wanted, node, ..)| wanted > node);
    if let Some((name, wanted, node, _, unit)) = too_much {
        let message = format!(
            "Node didn't have enough capacity: {name}, requested: {wanted}{unit}, capacity: {node}{unit}"
        );
        return Some(Held::Infeasible(message));
    }
    let too_little = kinds.iter().find(|(_, wanted, node, others, _)| wanted.saturating_add(*others) > *node);
    too_little.map(|(name, wanted, node, others, unit)| {
        Held::Deferred(format!(
            "Node didn't have enough resource: {name}, requested: {wanted}{unit}, used: {others}{unit}, capacity: {node}{unit}"
        ))
    })
}

/// The resources the next run of a container has: those asked for, but not while they are held back.
pub(crate) fn of_next_run(container: &Container, state: &PodState) -> Resources {
    let had = state.container(&container.name).and_then(|known| known.resources.clone());
    had.filter(|_| state.held.is_some()).unwrap_or_else(|| container.resources.clone())
}

/// The resources of all lasting containers as they are to be.
pub(crate) fn wanted(pod: &Pod) -> BTreeMap<String, Resources> {
    pod.lasting_containers().map(|container| (container.name.clone(), container.resources.clone())).collect()
}

/// Carries a change out.
pub(super) fn decide(pod: &Pod, state: &PodState, now: Timestamp, decision: &mut Decision) {
    if state.held.is_some() {
        decision.wake_at(now.plus(AGAIN));
        return;
    }
    if state.size.busy {
        return;
    }
    let stopping = to_restart(pod, state).next().is_some();
    let in_place: Vec<String> = pod
        .lasting_containers()
        .filter(|container| {
            let known = state.container(&container.name).filter(|known| known.running().is_some());
            // Nothing is known of runs from before the agent kept note: they get what is asked for once more.
            known.is_some_and(|known| match &known.resources {
                None => true,
                Some(has) => !same(has, &container.resources) && !needs_restart(container, has),
            })
        })
        .map(|container| container.name.clone())
        .collect();
    let pod_differs = state.size.pod.as_ref().is_none_or(|sized| !is_sized_by(pod, sized));
    // A pod is not made smaller around a container that is still to end.
    if in_place.is_empty() && (!pod_differs || stopping) {
        return;
    }
    match &state.size.failure {
        Some((_, at)) if at.plus(AGAIN) > now => decision.wake_at(at.plus(AGAIN)),
        _ => decision.actions.push(Action::Resize { containers: in_place }),
    }
}

/// The containers that get what is asked for by being started again, with the number of their runs.
pub(crate) fn to_restart<'a>(
    pod: &'a Pod,
    state: &'a PodState,
) -> impl Iterator<Item = (&'a Container, u32)> {
    changed(pod, state).filter_map(|container| {
        let known = state.container(&container.name)?;
        let has = known.resources.as_ref()?;
        needs_restart(container, has).then_some((container, known.attempt))
    })
}

fn needs_restart(container: &Container, has: &Resources) -> bool {
    RESIZABLE.iter().any(|name| {
        let changes = has.requests.get(*name) != container.resources.requests.get(*name)
            || has.limits.get(*name) != container.resources.limits.get(*name);
        let restarts = container
            .resize_policy
            .iter()
            .any(|policy| policy.resource_name == *name && policy.restart_policy == "RestartContainer");
        changes && restarts
    })
}
