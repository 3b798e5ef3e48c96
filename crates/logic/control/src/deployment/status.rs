//! The status of a Deployment, from that of its ReplicaSets.

use super::{DeploymentStatus, Plan};
use crate::{
    action::DEPLOYMENTS,
    condition::{self, Condition},
    replicaset::ReplicaSet,
};

impl Plan<'_> {
    /// Counts and availability; progress is left as it was reported.
    pub(super) fn status(&self) -> DeploymentStatus {
        let sum = |count: &dyn Fn(&ReplicaSet) -> i64| self.all().map(count).sum::<i64>();
        let available = sum(&|set| set.status.available_replicas);
        let terminating: Vec<i64> = self.all().filter_map(|set| set.status.terminating_replicas).collect();
        let mut conditions = self.conditions.clone();
        condition::set(&mut conditions, self.availability(available));
        DeploymentStatus {
            observed_generation: self.d.metadata.generation,
            replicas: sum(&|set| set.status.replicas),
            updated_replicas: self.new.map_or(0, |set| set.status.replicas),
            ready_replicas: sum(&|set| set.status.ready_replicas),
            available_replicas: available,
            unavailable_replicas: (self.total_size() - available).max(0),
            terminating_replicas: Some(terminating.iter().sum()),
            collision_count: self.collisions,
            conditions,
        }
    }

    fn availability(&self, available: i64) -> Condition {
        let enough = available >= self.d.replicas() - self.d.max_unavailable();
        let (status, reason, message) = if enough {
            ("True", "MinimumReplicasAvailable", "Deployment has minimum availability.")
        } else {
            ("False", "MinimumReplicasUnavailable", "Deployment does not have minimum availability.")
        };
        let mut condition = Condition::new("Available", status, reason, message, self.now);
        condition.last_update_time = Some(self.now.truncated());
        condition
    }

    /// Asks for the status to be written, when it changes.
    pub(super) fn report(&mut self) {
        let status = self.status();
        self.write(&status);
    }

    pub(super) fn write(&mut self, status: &DeploymentStatus) {
        let update = self.d.metadata.status_update(DEPLOYMENTS, &self.d.status, status);
        self.step.actions.extend(update);
    }
}
