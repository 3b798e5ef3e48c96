//! Where a Job stands, and what follows: pods to make or delete, its end, its status.

use std::{collections::BTreeSet, time::Duration};

use wharf_base::Timestamp;

use super::{
    Action, Condition, Event, JOBS, Job, JobStatus, PODS, Pod, Step, TRACKING, Uncounted, condition,
    drop_finalizer, index, pods, policy::Verdict,
};
use crate::pod::sort_for_deletion;

/// Most pods one step creates or deletes.
const BURST: usize = 500;
/// Wait after the first failure in a row; doubled with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(10);
/// The longest wait.
const LAST_BACKOFF: Duration = Duration::from_secs(360);

/// A decision about a Job that is not over.
pub(super) struct Progress<'a> {
    job: &'a Job,
    now: Timestamp,
    owned: Vec<&'a Pod>,
    active: Vec<&'a Pod>,
    /// Indexes that succeeded, ended pods that are not counted yet included.
    done: BTreeSet<i64>,
    status: JobStatus,
    /// Writes after the status.
    writes: Vec<Action>,
    step: Step,
}

impl<'a> Progress<'a> {
    pub(super) fn new(job: &'a Job, owned: Vec<&'a Pod>, now: Timestamp) -> Self {
        let active = owned.iter().copied().filter(|pod| pod.active()).collect();
        Self {
            job,
            now,
            owned,
            active,
            done: BTreeSet::new(),
            status: job.status.clone(),
            writes: Vec::new(),
            step: Step::idle(),
        }
    }

    pub(super) fn run(mut self) -> Step {
        self.count();
        self.note_suspension();
        if self.status.start_time.is_none() && !self.job.spec.suspend {
            self.status.start_time = Some(self.now.truncated());
        }
        self.judge();
        if self.ending() {
            // What is stopped because the Job fails counts as failed; a surplus at success does not.
            let failing = condition::holds(&self.status.conditions, "FailureTarget");
            self.delete_active(self.active.len(), failing);
            self.end_when_quiet();
        } else {
            self.manage();
        }
        self.report()
    }

    /// Takes ended pods into the counts, in the three writes the head of this controller tells of.
    fn count(&mut self) {
        let noted = self.job.status.uncounted_terminated_pods.clone().unwrap_or_default();
        let total = self.job.spec.completions.unwrap_or(i64::MAX);
        let mut indexes = index::parse(&self.job.status.completed_indexes, total);
        let held = |uid: &String| {
            self.owned.iter().any(|pod| pod.metadata.uid == *uid && pod.metadata.has_finalizer(TRACKING))
        };
        let (still_succeeded, succeeded): (Vec<String>, Vec<String>) =
            noted.succeeded.iter().cloned().partition(held);
        let (still_failed, failed): (Vec<String>, Vec<String>) = noted.failed.iter().cloned().partition(held);
        let mut uncounted = Uncounted { succeeded: still_succeeded, failed: still_failed };
        self.status.failed += failed.len() as i64;
        if !self.job.indexed() {
            self.status.succeeded += succeeded.len() as i64;
        }
        let tracked: Vec<&Pod> =
            self.owned.iter().copied().filter(|pod| pod.metadata.has_finalizer(TRACKING)).collect();
        for pod in tracked {
            let uid = &pod.metadata.uid;
            if uncounted.succeeded.contains(uid) || uncounted.failed.contains(uid) {
                self.writes.push(drop_finalizer(PODS, &pod.metadata, TRACKING));
            } else if pod.status.phase == "Succeeded" {
                self.note_success(pod, &mut indexes, &mut uncounted);
            } else if pod.status.phase == "Failed"
                || (pod.metadata.deleting() && pod.spec.node_name.is_empty())
            {
                self.note_failure(pod, &mut uncounted);
            }
        }
        if self.job.indexed() {
            self.status.succeeded = indexes.len() as i64;
            self.status.completed_indexes = index::format(&indexes);
        }
        self.done = indexes;
        self.status.uncounted_terminated_pods = Some(uncounted).filter(|u| !u.is_empty());
    }

    /// Notes a success; an index that succeeded twice counts once.
    fn note_success(&self, pod: &Pod, indexes: &mut BTreeSet<i64>, uncounted: &mut Uncounted) {
        uncounted.succeeded.push(pod.metadata.uid.clone());
        let in_range = |index: &i64| *index >= 0 && *index < self.job.spec.completions.unwrap_or(0);
        if self.job.indexed() {
            indexes.extend(pods::index_of(pod).filter(in_range));
        }
    }

    /// Notes a failure, unless the Job's policy says otherwise.
    fn note_failure(&mut self, pod: &Pod, uncounted: &mut Uncounted) {
        let policy = self.job.spec.pod_failure_policy.as_ref();
        match policy.map_or(Verdict::Count, |policy| policy.judge(pod)) {
            Verdict::Count => uncounted.failed.push(pod.metadata.uid.clone()),
            Verdict::Ignore => self.writes.push(drop_finalizer(PODS, &pod.metadata, TRACKING)),
            Verdict::FailJob(why) => {
                uncounted.failed.push(pod.metadata.uid.clone());
                if !self.ending() {
                    self.add_condition("FailureTarget", "True", "PodFailurePolicy", &why);
                }
            }
        }
    }

    fn uncounted(&self) -> Uncounted {
        self.status.uncounted_terminated_pods.clone().unwrap_or_default()
    }

    /// Successes, those not counted yet included.
    fn succeeded(&self) -> i64 {
        if self.job.indexed() {
            return self.status.succeeded;
        }
        self.status.succeeded + self.uncounted().succeeded.len() as i64
    }

    /// Failures, those not counted yet included.
    fn failed(&self) -> i64 {
        self.status.failed + self.uncounted().failed.len() as i64
    }

    fn note_suspension(&mut self) {
        let was = condition::holds(&self.status.conditions, "Suspended");
        let involved = self.job.object_ref();
        if self.job.spec.suspend && !was {
            self.add_condition("Suspended", "True", "JobSuspended", "Job suspended");
            self.step.actions.push(Action::Event(Event::normal(involved, "Suspended", "Job suspended")));
        } else if !self.job.spec.suspend && was {
            self.add_condition("Suspended", "False", "JobResumed", "Job resumed");
            self.step.actions.push(Action::Event(Event::normal(involved, "Resumed", "Job resumed")));
            self.status.start_time = Some(self.now.truncated());
        }
    }

    /// Says that the Job will fail or succeed, when that is certain.
    fn judge(&mut self) {
        if self.ending() {
            return;
        }
        let limit = self.job.backoff_limit();
        if self.failed() > limit || self.restarts_exceed(limit) {
            let message = "Job has reached the specified backoff limit";
            self.add_condition("FailureTarget", "True", "BackoffLimitExceeded", message);
        } else if self.past_deadline() {
            let message = "Job was active longer than specified deadline";
            self.add_condition("FailureTarget", "True", "DeadlineExceeded", message);
        } else if let Some(rule) = self.success_rule() {
            let message = format!("Matched rules at index {rule}");
            self.add_condition("SuccessCriteriaMet", "True", "SuccessPolicy", &message);
        } else if self.complete() && !self.job.spec.suspend {
            let message = "Reached expected number of succeeded pods";
            self.add_condition("SuccessCriteriaMet", "True", "CompletionsReached", message);
        }
    }

    /// The rule of the Job's success policy that is met.
    fn success_rule(&self) -> Option<usize> {
        let policy = self.job.spec.success_policy.as_ref().filter(|_| self.job.indexed())?;
        policy.met(&self.done, self.job.spec.completions.unwrap_or(0))
    }

    fn complete(&self) -> bool {
        match self.job.spec.completions {
            Some(wanted) => self.succeeded() >= wanted,
            // A work queue: one success means that there is nothing left, but what runs may end.
            None => self.succeeded() > 0 && self.active.is_empty(),
        }
    }

    /// With restart policy OnFailure containers are restarted in place: their restarts are failures.
    fn restarts_exceed(&self, limit: i64) -> bool {
        let policy = self.job.spec.template.pointer("/spec/restartPolicy").and_then(|p| p.as_str());
        let restarts: i64 = self.active.iter().map(|pod| pod.total_restarts()).sum();
        policy == Some("OnFailure") && if limit == 0 { restarts > 0 } else { restarts >= limit }
    }

    /// Whether the deadline has passed; otherwise asks to look again when it does.
    fn past_deadline(&mut self) -> bool {
        let deadline = self.job.spec.active_deadline_seconds.and_then(|s| u64::try_from(s).ok());
        let (Some(seconds), Some(start)) = (deadline, self.status.start_time) else { return false };
        if self.job.spec.suspend {
            return false;
        }
        let left = start.plus(Duration::from_secs(seconds)).since(self.now);
        if !left.is_zero() {
            self.step.requeue(left);
        }
        left.is_zero()
    }

    /// Whether its end is certain and only has to be carried out.
    fn ending(&self) -> bool {
        let conditions = &self.status.conditions;
        condition::holds(conditions, "FailureTarget") || condition::holds(conditions, "SuccessCriteriaMet")
    }

    /// Ends it once no pod runs and every ended one is counted.
    fn end_when_quiet(&mut self) {
        let quiet = self.owned.iter().all(|pod| pod.ended()) && self.uncounted().is_empty();
        if !quiet {
            return;
        }
        let involved = self.job.object_ref();
        let criterion =
            |kind| condition::find(&self.status.conditions, kind).filter(|c| c.is_true()).cloned();
        if let Some(failure) = criterion("FailureTarget") {
            let reason = match failure.reason.as_str() {
                "DeadlineExceeded" => "DeadlineExceeded",
                "PodFailurePolicy" => "PodFailurePolicy",
                _ => "BackoffLimitExceeded",
            };
            self.add_condition("Failed", "True", reason, &failure.message);
            self.step.actions.push(Action::Event(Event::warning(involved, reason, failure.message)));
        } else if let Some(success) = criterion("SuccessCriteriaMet") {
            self.add_condition("Complete", "True", &success.reason, &success.message);
            self.status.completion_time = Some(self.now.truncated());
            self.step.actions.push(Action::Event(Event::normal(involved, "Completed", "Job completed")));
        }
    }

    /// Brings the number of running pods to what is wanted.
    fn manage(&mut self) {
        if self.job.spec.suspend {
            return self.delete_active(self.active.len(), false);
        }
        let wanted = usize::try_from(self.wanted_active()).unwrap_or(0);
        if self.job.indexed() {
            self.delete_superfluous_indexes();
        }
        if self.active.len() > wanted {
            return self.delete_active(self.active.len() - wanted, false);
        }
        let occupied = if self.job.spec.pod_replacement_policy == "Failed" {
            self.active.len() + self.owned.iter().filter(|pod| pod.terminating()).count()
        } else {
            self.active.len()
        };
        let missing = wanted.saturating_sub(occupied).min(BURST);
        let wait = self.backoff();
        if missing == 0 {
            return;
        }
        if !wait.is_zero() {
            return self.step.requeue(wait);
        }
        self.create(missing);
    }

    fn wanted_active(&self) -> i64 {
        let parallelism = self.job.parallelism();
        match self.job.spec.completions {
            Some(wanted) => (wanted - self.succeeded()).clamp(0, parallelism),
            None if self.succeeded() > 0 => (self.active.len() as i64).min(parallelism),
            None => parallelism,
        }
    }

    fn create(&mut self, missing: usize) {
        if !self.job.indexed() {
            let create = pods::create(self.job, None);
            self.writes.extend(std::iter::repeat_n(create, missing));
            return;
        }
        let waits = self.job.spec.pod_replacement_policy == "Failed";
        let counted = |pod: &&&Pod| pod.active() || (waits && pod.terminating());
        let taken: BTreeSet<i64> =
            self.owned.iter().filter(counted).filter_map(|pod| pods::index_of(pod)).collect();
        let all = 0..self.job.spec.completions.unwrap_or(0);
        let free = all.filter(|index| !taken.contains(index) && !self.done.contains(index));
        let creates: Vec<Action> =
            free.take(missing).map(|index| pods::create(self.job, Some(index))).collect();
        self.writes.extend(creates);
    }

    /// Deletes pods without an index, with one that is done or out of range, and second ones of the
    /// same index.
    fn delete_superfluous_indexes(&mut self) {
        let completions = self.job.spec.completions.unwrap_or(0);
        let mut seen = BTreeSet::new();
        let (kept, surplus): (Vec<&Pod>, Vec<&Pod>) = self.active.iter().copied().partition(|pod| {
            pods::index_of(pod).is_some_and(|index| {
                (0..completions).contains(&index) && !self.done.contains(&index) && seen.insert(index)
            })
        });
        self.active = kept;
        for pod in surplus {
            self.delete(pod, false);
        }
    }

    /// Deletes the least valuable pods; they count as failed when asked so.
    fn delete_active(&mut self, count: usize, counted: bool) {
        let all = self.active.clone();
        sort_for_deletion(&mut self.active, &all);
        let chosen: Vec<&Pod> = self.active.drain(..count.min(BURST).min(all.len())).collect();
        for pod in chosen {
            self.delete(pod, counted);
        }
    }

    fn delete(&mut self, pod: &Pod, counted: bool) {
        if !counted && pod.metadata.has_finalizer(TRACKING) {
            self.writes.push(drop_finalizer(PODS, &pod.metadata, TRACKING));
        }
        self.writes.push(pods::delete(self.job, pod));
    }

    /// How long to wait before pods are made again: after failures in a row, 10 s doubled up to 6 min.
    fn backoff(&self) -> Duration {
        let ended = |phase: &'static str| self.owned.iter().filter(move |pod| pod.status.phase == phase);
        let last_success = ended("Succeeded").filter_map(|pod| pod.finished_at()).max();
        let failures: Vec<Timestamp> = ended("Failed")
            .filter_map(|pod| pod.finished_at())
            .filter(|at| last_success.is_none_or(|success| *at > success))
            .collect();
        let Some(last) = failures.iter().max() else { return Duration::ZERO };
        let doublings = u32::try_from(failures.len() - 1).unwrap_or(u32::MAX).min(10);
        let wait = (FIRST_BACKOFF * 2u32.pow(doublings)).min(LAST_BACKOFF);
        last.plus(wait).since(self.now)
    }

    fn add_condition(&mut self, kind: &str, status: &str, reason: &str, message: &str) {
        let mut condition = Condition::new(kind, status, reason, message, self.now);
        condition.last_probe_time = Some(self.now.truncated());
        condition::set(&mut self.status.conditions, condition);
    }

    /// The status first, so that it is written even when a create is refused.
    fn report(mut self) -> Step {
        // What this step deletes is on its way out already.
        let leaving = self.owned.iter().filter(|pod| pod.active()).count() - self.active.len();
        let terminating = self.owned.iter().filter(|pod| pod.terminating()).count();
        self.status.active = self.active.len() as i64;
        self.status.ready = Some(self.active.iter().filter(|pod| pod.ready()).count() as i64);
        self.status.terminating = Some((terminating + leaving) as i64);
        let update = self.job.metadata.status_update(JOBS, &self.job.status, &self.status);
        self.step.actions.extend(update);
        self.step.actions.extend(self.writes);
        self.step
    }
}
