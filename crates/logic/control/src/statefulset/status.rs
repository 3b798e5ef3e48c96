//! What a StatefulSet reports.

use super::{Plan, StatefulSetStatus};
use crate::{history::REVISION_LABEL, pod::Pod};

pub(super) fn status(plan: &Plan<'_>) -> StatefulSetStatus {
    let set = plan.set;
    let count = |test: &dyn Fn(&Pod) -> bool| plan.pods.values().filter(|pod| test(pod)).count() as i64;
    let ready = |pod: &Pod| pod.status.phase == "Running" && pod.ready();
    let of = |pod: &Pod, version: &String| {
        !pod.metadata.deleting() && pod.metadata.labels.get(REVISION_LABEL) == Some(version)
    };
    let mut status = StatefulSetStatus {
        observed_generation: set.metadata.generation,
        replicas: plan.pods.len() as i64,
        ready_replicas: count(&ready),
        available_replicas: count(&|pod| ready(pod) && set.available(pod, plan.now)),
        current_replicas: count(&|pod| of(pod, &plan.current)),
        updated_replicas: count(&|pod| of(pod, &plan.versions.name)),
        current_revision: plan.current.clone(),
        update_revision: plan.versions.name.clone(),
        collision_count: Some(plan.versions.collisions.unwrap_or(0)),
        conditions: set.status.conditions.clone(),
    };
    let wanted = set.replicas();
    let all = [status.updated_replicas, status.ready_replicas, status.replicas];
    // Where it goes to is where it comes from, once all are there.
    if set.rolls() && all.iter().all(|count| *count == wanted) {
        status.current_replicas = status.updated_replicas;
        status.current_revision.clone_from(&status.update_revision);
    }
    status
}
