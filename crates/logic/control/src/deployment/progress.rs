//! Whether a rollout is complete, moves on, or has stood still for too long.

use std::time::Duration;

use super::{DeploymentStatus, Plan};
use crate::condition::{self, Condition};

const PROGRESSING: &str = "Progressing";
const TIMED_OUT: &str = "ProgressDeadlineExceeded";
const AVAILABLE: &str = "NewReplicaSetAvailable";
const PAUSED: &str = "DeploymentPaused";

impl Plan<'_> {
    /// Notes that the Deployment was paused or resumed, so that the time in between is no delay.
    pub(super) fn note_pause(&mut self) {
        if self.d.progress_deadline().is_none() {
            return;
        }
        let reason = condition::find(&self.conditions, PROGRESSING).map(|c| c.reason.as_str());
        let was_paused = reason == Some(PAUSED);
        if reason == Some(TIMED_OUT) || was_paused == self.d.spec.paused {
            return;
        }
        if self.d.spec.paused {
            self.progressing("Unknown", PAUSED, "Deployment is paused".to_owned());
        } else {
            self.progressing("Unknown", "DeploymentResumed", "Deployment is resumed".to_owned());
        }
    }

    /// Reports counts, availability, progress and failures.
    pub(super) fn report_progress(&mut self) {
        let status = self.status();
        self.judge(&status);
        self.promote_failures();
        let status = self.status();
        self.write(&status);
        self.requeue_for_deadline(&status);
    }

    fn judge(&mut self, status: &DeploymentStatus) {
        if self.d.progress_deadline().is_none() {
            condition::remove(&mut self.conditions, PROGRESSING);
            return;
        }
        let current = condition::find(&self.conditions, PROGRESSING).cloned();
        let done_before = current.as_ref().is_some_and(|c| c.reason == AVAILABLE);
        if done_before && status.replicas == status.updated_replicas {
            return;
        }
        let subject = match &self.new_name {
            Some(name) => format!("ReplicaSet \"{name}\""),
            None => format!("Deployment \"{}\"", self.d.metadata.name),
        };
        if self.complete(status) {
            self.progressing("True", AVAILABLE, format!("{subject} has successfully progressed."));
        } else if self.moved(status) {
            self.renew_progress(current, format!("{subject} is progressing."));
        } else if self.timed_out(current.as_ref()) {
            self.progressing("False", TIMED_OUT, format!("{subject} has timed out progressing."));
        }
    }

    /// Progress renews the condition even with the same reason, since its time is what counts.
    fn renew_progress(&mut self, current: Option<Condition>, message: String) {
        let mut condition = Condition::new(PROGRESSING, "True", "ReplicaSetUpdated", message, self.now);
        condition.last_update_time = Some(self.now.truncated());
        if let Some(current) = current.filter(Condition::is_true) {
            condition.last_transition_time = current.last_transition_time;
        }
        condition::replace(&mut self.conditions, condition);
    }

    /// Whether all pods are of the present version and available.
    fn complete(&self, status: &DeploymentStatus) -> bool {
        let wanted = self.d.replicas();
        status.updated_replicas == wanted
            && status.replicas == wanted
            && status.available_replicas == wanted
            && status.observed_generation >= self.d.metadata.generation
    }

    /// Whether there are more new, fewer old, more ready or more available pods than last reported.
    fn moved(&self, status: &DeploymentStatus) -> bool {
        let before = &self.d.status;
        status.updated_replicas > before.updated_replicas
            || status.replicas - status.updated_replicas < before.replicas - before.updated_replicas
            || status.ready_replicas > before.ready_replicas
            || status.available_replicas > before.available_replicas
    }

    fn timed_out(&self, current: Option<&Condition>) -> bool {
        let (Some(current), Some(deadline)) = (current, self.d.progress_deadline()) else { return false };
        match current.reason.as_str() {
            AVAILABLE => false,
            TIMED_OUT => true,
            _ => current.last_update_time.is_some_and(|from| from.plus(deadline) < self.now),
        }
    }

    /// A ReplicaSet that cannot create its pods makes the Deployment say so, the new one first.
    fn promote_failures(&mut self) {
        let mut sets = self.new.into_iter().chain(self.old.iter().copied());
        let failure = sets.find_map(|set| condition::find(&set.status.conditions, "ReplicaFailure")).cloned();
        match failure {
            Some(mut failure) => {
                failure.last_update_time = failure.last_transition_time;
                condition::set(&mut self.conditions, failure);
            }
            None => condition::remove(&mut self.conditions, "ReplicaFailure"),
        }
    }

    /// Looks again just after the deadline would be missed.
    fn requeue_for_deadline(&mut self, status: &DeploymentStatus) {
        let Some(deadline) = self.d.progress_deadline() else { return };
        let Some(current) = condition::find(&self.conditions, PROGRESSING) else { return };
        if self.complete(status) || current.reason == TIMED_OUT {
            return;
        }
        let end = current.last_update_time.unwrap_or(self.now).plus(deadline);
        self.step.requeue(end.since(self.now) + Duration::from_secs(1));
    }
}
