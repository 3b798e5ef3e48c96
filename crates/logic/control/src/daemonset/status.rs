//! What a DaemonSet reports.

use super::{DaemonSetStatus, Plan, nodes::Place};

pub(super) fn status(plan: &Plan<'_>) -> DaemonSetStatus {
    let mut status = DaemonSetStatus {
        observed_generation: plan.set.metadata.generation,
        collision_count: plan.versions.collisions,
        ..DaemonSetStatus::default()
    };
    for (node, place) in &plan.places {
        let oldest = plan.by_node.get(node).and_then(|pods| pods.first());
        match (place, oldest) {
            (Place::Should, None) => status.desired_number_scheduled += 1,
            (Place::Should, Some(pod)) => {
                status.desired_number_scheduled += 1;
                status.current_number_scheduled += 1;
                status.number_ready += i64::from(pod.ready());
                status.number_available += i64::from(plan.set.available(pod, plan.now));
                status.updated_number_scheduled += i64::from(plan.updated(pod));
            }
            (_, Some(_)) => status.number_misscheduled += 1,
            (_, None) => {}
        }
    }
    status.number_unavailable = status.desired_number_scheduled - status.number_available;
    status
}
