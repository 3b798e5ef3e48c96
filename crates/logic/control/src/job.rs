//! Jobs: pods that run to their end, a number of times.
//!
//! A pod that has ended is counted exactly once, however the pod goes: pods carry the finalizer
//! `batch.kubernetes.io/job-tracking`; an ended one is first noted in `status.uncountedTerminatedPods`,
//! then loses its finalizer, then moves from the note into the counts. Each is a write that the next
//! step sees, so a crash between any two loses and doubles nothing.
//!
//! Where each index has failures of its own, the last failed pod of an index is not counted before the
//! next one is made, which has to know how often the index has failed.
//!
//! The view must be consistent: it shows this controller's own earlier writes.

mod backoff;
mod failures;
mod index;
mod pods;
pub mod policy;
mod state;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_base::Timestamp;

use crate::{
    action::{Action, Event, JOBS, ObjectRef, PODS, Propagation, Step},
    claim::drop_finalizer,
    condition::{self, Condition},
    meta::{Meta, is_zero, null_default},
    pod::Pod,
    selector::LabelSelector,
};

/// Holds a pod until it is counted.
pub const TRACKING: &str = "batch.kubernetes.io/job-tracking";
/// The index of a pod of an indexed Job; an annotation and a label.
pub const INDEX: &str = "batch.kubernetes.io/job-completion-index";

/// `batch/v1.Job`, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Job {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: JobSpec,
    /// What was last reported.
    pub status: JobStatus,
}

/// `batch/v1.JobSpec`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobSpec {
    /// Pods at the same time; 1 when absent.
    pub parallelism: Option<i64>,
    /// Successes wanted; when absent, one success ends it.
    pub completions: Option<i64>,
    /// Failures allowed; 6 when absent.
    pub backoff_limit: Option<i64>,
    /// Failures allowed of each index; those of all indexes count together when absent.
    pub backoff_limit_per_index: Option<i64>,
    /// Indexes that may fail before all others are stopped; any number when absent.
    pub max_failed_indexes: Option<i64>,
    /// Seconds it may be active.
    pub active_deadline_seconds: Option<i64>,
    /// Seconds after its end when it is deleted; never when absent.
    pub ttl_seconds_after_finished: Option<i64>,
    /// No pods run while true.
    #[serde(deserialize_with = "null_default")]
    pub suspend: bool,
    /// `NonIndexed` (when empty) or `Indexed`.
    #[serde(deserialize_with = "null_default")]
    pub completion_mode: String,
    /// `Failed`: a pod is replaced only once it has ended; otherwise as soon as it is being deleted.
    #[serde(deserialize_with = "null_default")]
    pub pod_replacement_policy: String,
    /// What is made of failed pods.
    pub pod_failure_policy: Option<policy::PodFailurePolicy>,
    /// What is enough; all indexes when absent.
    pub success_policy: Option<policy::SuccessPolicy>,
    /// Who manages it; another controller than the built-in one when set to another name.
    #[serde(deserialize_with = "null_default")]
    pub managed_by: String,
    /// Which pods are its own.
    pub selector: Option<LabelSelector>,
    /// What the pods are made from.
    pub template: Value,
}

/// `batch/v1.JobStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct JobStatus {
    /// `Complete`, `Failed`, `Suspended`, `SuccessCriteriaMet`, `FailureTarget`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
    /// When it was first (or again) active.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub start_time: Option<Timestamp>,
    /// When it was complete.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub completion_time: Option<Timestamp>,
    /// Pods that have not ended and are not being deleted.
    #[serde(skip_serializing_if = "is_zero")]
    pub active: i64,
    /// Of these, ready pods.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<i64>,
    /// Pods being deleted that have not ended yet.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<i64>,
    /// Pods that succeeded.
    #[serde(skip_serializing_if = "is_zero")]
    pub succeeded: i64,
    /// Pods that failed.
    #[serde(skip_serializing_if = "is_zero")]
    pub failed: i64,
    /// Indexes that succeeded, as `0-2,5`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub completed_indexes: String,
    /// Indexes that failed for good, as `0-2,5`; absent unless indexes fail on their own.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub failed_indexes: Option<String>,
    /// Ended pods on their way into the counts; absent when there are none.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub uncounted_terminated_pods: Option<Uncounted>,
}

/// Uids of pods that have ended but are not counted yet.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Uncounted {
    /// Pods that succeeded.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub succeeded: Vec<String>,
    /// Pods that failed.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub failed: Vec<String>,
}

impl Uncounted {
    fn is_empty(&self) -> bool {
        self.succeeded.is_empty() && self.failed.is_empty()
    }
}

impl Job {
    fn parallelism(&self) -> i64 {
        self.spec.parallelism.unwrap_or(1).max(0)
    }

    fn backoff_limit(&self) -> i64 {
        self.spec.backoff_limit.unwrap_or(6).max(0)
    }

    fn indexed(&self) -> bool {
        self.spec.completion_mode == "Indexed"
    }

    /// Whether each index has failures of its own.
    fn per_index(&self) -> bool {
        self.indexed() && self.spec.backoff_limit_per_index.is_some()
    }

    /// Whether a pod is replaced only once it has ended: a policy about failures needs to see them.
    fn waits_for_the_end(&self) -> bool {
        self.spec.pod_replacement_policy == "Failed" || self.spec.pod_failure_policy.is_some()
    }

    /// What is to be made of a failed pod.
    fn verdict(&self, pod: &Pod) -> policy::Verdict {
        let policy = self.spec.pod_failure_policy.as_ref();
        policy.map_or(policy::Verdict::Count, |policy| policy.judge(pod))
    }

    /// Whether an index is one of its own; one that counts no indexes has all.
    fn has_index(&self, index: Option<i64>) -> bool {
        let known = |index: i64| (0..self.spec.completions.unwrap_or(0)).contains(&index);
        !self.indexed() || index.is_some_and(known)
    }

    /// Whether it is over, and since when.
    pub fn finished_at(&self) -> Option<Timestamp> {
        let over = self.status.conditions.iter().filter(|c| matches!(c.kind.as_str(), "Complete" | "Failed"));
        over.filter(|c| c.is_true()).find_map(|c| c.last_transition_time)
    }

    fn object_ref(&self) -> ObjectRef {
        self.metadata.object_ref("batch/v1", "Job")
    }
}

/// What a decision about one Job sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The Job.
    pub job: &'a Job,
    /// The pods it manages, ended ones and those being deleted included, and pods of its namespace
    /// that nobody manages. More do no harm.
    pub pods: &'a [&'a Pod],
}

/// Decides about one Job.
pub fn step(view: &View<'_>, now: Timestamp) -> Step {
    let job = view.job;
    if !matches!(job.spec.managed_by.as_str(), "" | "kubernetes.io/job-controller") {
        return Step::idle();
    }
    let (owned, claims) = pods::claim_pods(view);
    if let Some(finished) = job.finished_at() {
        return after_the_end(job, &owned, finished, now);
    }
    if job.metadata.deleting() {
        return release(&owned);
    }
    let mut step = state::Progress::new(job, owned, now).run();
    step.actions.splice(0..0, claims);
    step
}

/// Lets go of pods whose Job is gone: the runner calls this for ended or deleted pods with the tracking
/// finalizer whose Job no longer exists.
pub fn release(pods: &[&Pod]) -> Step {
    let held = pods.iter().filter(|pod| pod.metadata.has_finalizer(TRACKING));
    Step::of(held.map(|pod| drop_finalizer(PODS, &pod.metadata, TRACKING)).collect())
}

/// Decides about a pod nobody manages: unless one of these Jobs, those of its namespace, is about to
/// adopt it, nobody will count it.
pub fn orphaned(pod: &Pod, jobs: &[&Job]) -> Step {
    let adopts = |job: &&Job| {
        let selects = job.spec.selector.as_ref().is_some_and(|s| s.matches(&pod.metadata.labels));
        selects && pod.active() && !job.metadata.deleting() && job.finished_at().is_none()
    };
    if pod.metadata.controller().is_some() || jobs.iter().any(adopts) {
        return Step::idle();
    }
    release(&[pod])
}

/// A Job that is over holds no pods, and goes itself when its time to live has passed.
fn after_the_end(job: &Job, owned: &[&Pod], finished: Timestamp, now: Timestamp) -> Step {
    let mut step = release(owned);
    let ttl = job.spec.ttl_seconds_after_finished.and_then(|ttl| u64::try_from(ttl).ok());
    let Some(ttl) = ttl.filter(|_| !job.metadata.deleting()) else { return step };
    let left = finished.plus(Duration::from_secs(ttl)).since(now);
    if left.is_zero() {
        step.actions.push(Action::Delete {
            resource: JOBS,
            namespace: job.metadata.namespace.clone(),
            name: job.metadata.name.clone(),
            uid: Some(job.metadata.uid.clone()),
            resource_version: Some(job.metadata.resource_version.clone()),
            propagation: Some(Propagation::Foreground),
            grace: None,
            announce: None,
        });
    } else {
        step.requeue(left);
    }
    step
}

#[cfg(test)]
mod tests;
