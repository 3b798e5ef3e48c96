//! Where a Job stands, and what follows: pods to make or delete, its end, its status.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use wharf_base::Timestamp;

use super::{
    Action, Condition, Event, JOBS, Job, JobStatus, PODS, Pod, Step, TRACKING, Uncounted, backoff, condition,
    drop_finalizer,
    failures::{Failures, fails_index},
    index, pods,
    policy::Verdict,
};
use crate::pod::sort_for_deletion;

/// Most pods one step creates or deletes.
const BURST: usize = 500;

/// A decision about a Job that is not over.
pub(super) struct Progress<'a> {
    job: &'a Job,
    now: Timestamp,
    owned: Vec<&'a Pod>,
    active: Vec<&'a Pod>,
    /// Indexes that succeeded, ended pods that are not counted yet included.
    done: BTreeSet<i64>,
    /// Indexes that failed for good, where each has failures of its own.
    lost: BTreeSet<i64>,
    /// The last failed pods of indexes that will have another: they are counted only then.
    held: BTreeMap<i64, &'a Pod>,
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
            lost: BTreeSet::new(),
            held: BTreeMap::new(),
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
        let tracked: Vec<&Pod> = self.tracked().collect();
        let mut failed = Vec::new();
        for pod in tracked {
            let uid = &pod.metadata.uid;
            if uncounted.succeeded.contains(uid) || uncounted.failed.contains(uid) {
                self.let_go(pod);
            } else if pod.status.phase == "Succeeded" {
                self.note_success(pod, &mut indexes, &mut uncounted);
            } else if self.counts_as_failed(pod) {
                failed.push(pod);
            } else if pod.metadata.deleting()
                && condition::holds(&self.status.conditions, "SuccessCriteriaMet")
            {
                self.let_go(pod);
            }
        }
        if self.job.indexed() {
            self.status.succeeded = indexes.len() as i64;
            self.status.completed_indexes = index::format(&indexes);
        }
        self.done = indexes;
        self.note_failed_indexes(&failed);
        for pod in failed {
            self.note_failure(pod, &mut uncounted);
        }
        self.status.uncounted_terminated_pods = Some(uncounted).filter(|u| !u.is_empty());
    }

    /// The pods that are not counted yet.
    fn tracked(&self) -> impl Iterator<Item = &'a Pod> {
        self.owned.iter().copied().filter(|pod| pod.metadata.has_finalizer(TRACKING))
    }

    fn let_go(&mut self, pod: &Pod) {
        self.writes.push(drop_finalizer(PODS, &pod.metadata, TRACKING));
    }

    /// Whether a pod that did not succeed has failed. One that is being deleted has, unless its end is
    /// waited for; the end of one that never ran does not come.
    fn counts_as_failed(&self, pod: &Pod) -> bool {
        let failing = condition::holds(&self.job.status.conditions, "FailureTarget");
        let waits = self.job.waits_for_the_end() && !pods::never_ran(pod) && !failing;
        pod.status.phase == "Failed" || (pod.metadata.deleting() && !waits)
    }

    /// Finds the indexes that failed for good, and the pods the others must keep for now.
    fn note_failed_indexes(&mut self, failed: &[&'a Pod]) {
        if !self.job.per_index() {
            self.status.failed_indexes = None;
            return;
        }
        let total = self.job.spec.completions.unwrap_or(0);
        self.lost = index::parse(self.status.failed_indexes.as_deref().unwrap_or(""), total);
        let of_index = |pod: &&'a Pod| Some((pods::index_of(pod)?, *pod));
        let in_range = |(index, _): &(i64, &Pod)| (0..total).contains(index);
        let failed: Vec<_> = failed.iter().filter_map(of_index).filter(in_range).collect();
        self.lost
            .extend(failed.iter().filter(|(_, pod)| fails_index(self.job, pod)).map(|(index, _)| *index));
        self.status.failed_indexes = Some(index::format(&self.lost));
        let active: BTreeSet<i64> = self.active.iter().filter_map(|pod| pods::index_of(pod)).collect();
        let rank = |pod: &Pod| (Failures::before(pod).total(), backoff::ended_at(pod));
        for (index, pod) in failed {
            let over = self.done.contains(&index) || self.lost.contains(&index) || active.contains(&index);
            if !over && self.held.get(&index).is_none_or(|held| rank(held) <= rank(pod)) {
                self.held.insert(index, pod);
            }
        }
    }

    /// Whether a failed pod has to stay for the next one of its index.
    fn is_held(&self, pod: &Pod) -> bool {
        let held = pods::index_of(pod).and_then(|index| self.held.get(&index));
        held.is_some_and(|held| held.metadata.uid == pod.metadata.uid) && !self.ending()
    }

    /// Notes a success; an index that succeeded twice counts once.
    fn note_success(&self, pod: &Pod, indexes: &mut BTreeSet<i64>, uncounted: &mut Uncounted) {
        uncounted.succeeded.push(pod.metadata.uid.clone());
        let index = pods::index_of(pod);
        if self.job.indexed() && self.job.has_index(index) {
            indexes.extend(index);
        }
    }

    /// Notes a failure, unless the Job's policy says otherwise.
    fn note_failure(&mut self, pod: &Pod, uncounted: &mut Uncounted) {
        let verdict = self.job.verdict(pod);
        if let Verdict::FailJob(why) = &verdict
            && !self.ending()
        {
            self.add_condition("FailureTarget", "True", "PodFailurePolicy", why);
        }
        if self.is_held(pod) {
            return;
        }
        if verdict == Verdict::Ignore || !self.job.has_index(pods::index_of(pod)) {
            self.let_go(pod);
        } else {
            uncounted.failed.push(pod.metadata.uid.clone());
        }
    }

    fn uncounted(&self) -> Option<&Uncounted> {
        self.status.uncounted_terminated_pods.as_ref()
    }

    /// Successes, those not counted yet included.
    fn succeeded(&self) -> i64 {
        if self.job.indexed() {
            return self.status.succeeded;
        }
        self.status.succeeded + self.uncounted().map_or(0, |u| u.succeeded.len()) as i64
    }

    /// Failures, those not counted yet included.
    fn failed(&self) -> i64 {
        let held = self.held.values().filter(|pod| self.job.verdict(pod) != Verdict::Ignore).count();
        self.status.failed + (self.uncounted().map_or(0, |u| u.failed.len()) + held) as i64
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
        } else if self.too_many_indexes_failed() {
            let message = "Job has exceeded the specified maximal number of failed indexes";
            self.add_condition("FailureTarget", "True", "MaxFailedIndexesExceeded", message);
        } else if self.no_index_is_left() {
            self.add_condition("FailureTarget", "True", "FailedIndexes", "Job has failed indexes");
        } else if let Some(rule) = self.success_rule() {
            let message = format!("Matched rules at index {rule}");
            self.add_condition("SuccessCriteriaMet", "True", "SuccessPolicy", &message);
        } else if self.complete() && !self.job.spec.suspend {
            let message = "Reached expected number of succeeded pods";
            self.add_condition("SuccessCriteriaMet", "True", "CompletionsReached", message);
        }
    }

    fn too_many_indexes_failed(&self) -> bool {
        self.job.spec.max_failed_indexes.is_some_and(|most| self.lost.len() as i64 > most)
    }

    /// Whether every index is over, and not all well.
    fn no_index_is_left(&self) -> bool {
        let over = (self.lost.len() + self.done.len()) as i64;
        !self.lost.is_empty() && over >= self.job.spec.completions.unwrap_or(0)
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
        let quiet = self.owned.iter().all(|pod| pod.ended())
            && self.tracked().next().is_none()
            && self.uncounted().is_none_or(|u| u.is_empty());
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
                "MaxFailedIndexesExceeded" => "MaxFailedIndexesExceeded",
                "FailedIndexes" => "FailedIndexes",
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
        let occupied = if self.job.waits_for_the_end() {
            self.active.len() + self.owned.iter().filter(|pod| pod.terminating()).count()
        } else {
            self.active.len()
        };
        let missing = wanted.saturating_sub(occupied).min(BURST);
        if missing == 0 {
            return;
        }
        let wait = if self.job.per_index() { Duration::ZERO } else { self.backoff() };
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
            let create = pods::create(self.job, None, None);
            self.writes.extend(std::iter::repeat_n(create, missing));
            return;
        }
        let waits = self.job.waits_for_the_end();
        let counted = |pod: &&&Pod| pod.active() || (waits && pod.terminating());
        let taken: BTreeSet<i64> =
            self.owned.iter().filter(counted).filter_map(|pod| pods::index_of(pod)).collect();
        let all = 0..self.job.spec.completions.unwrap_or(0);
        let over =
            |index: &i64| taken.contains(index) || self.done.contains(index) || self.lost.contains(index);
        let free: Vec<i64> = all.filter(|index| !over(index)).take(missing).collect();
        for index in free {
            self.create_index(index);
        }
    }

    /// Makes the pod of an index, or asks to look again when the index has waited long enough.
    fn create_index(&mut self, index: i64) {
        let held = self.held.get(&index).copied();
        let failures = held.map(|pod| Failures::after(self.job, pod)).unwrap_or_default();
        let wait = held
            .and_then(backoff::ended_at)
            .map_or(Duration::ZERO, |last| backoff::remaining(failures.total(), last, self.now));
        if wait.is_zero() {
            let failures = self.job.per_index().then_some(failures);
            self.writes.push(pods::create(self.job, Some(index), failures));
        } else {
            self.step.requeue(wait);
        }
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
            self.let_go(pod);
        }
        self.writes.push(pods::delete(self.job, pod));
    }

    /// How long to wait before pods are made again, after failures in a row.
    fn backoff(&self) -> Duration {
        let ended = |phase: &'static str| self.owned.iter().filter(move |pod| pod.status.phase == phase);
        let last_success = ended("Succeeded").filter_map(|pod| backoff::ended_at(pod)).max();
        let failures: Vec<Timestamp> = ended("Failed")
            .filter_map(|pod| backoff::ended_at(pod))
            .filter(|at| last_success.is_none_or(|success| *at > success))
            .collect();
        let Some(last) = failures.iter().max() else { return Duration::ZERO };
        backoff::remaining(failures.len() as i64, *last, self.now)
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
