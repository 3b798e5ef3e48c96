//! CronJobs: a Job at each time of a schedule. Schedules are in UTC; another time zone is refused with
//! an Event.

pub mod schedule;

use std::time::Duration;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};
use wharf_base::Timestamp;

pub use schedule::Schedule;

use crate::{
    action::{Action, CRON_JOBS, Event, JOBS, ObjectRef, Propagation, Step},
    condition,
    job::Job,
    meta::{Meta, null_default},
};

/// On a Job: the time it was due.
pub const SCHEDULED: &str = "batch.kubernetes.io/cronjob-scheduled-timestamp";
/// More missed times than this are reported.
const MANY: usize = 100;

/// `batch/v1.CronJob`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJob {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: CronJobSpec,
    /// What was last reported.
    pub status: CronJobStatus,
}

/// `batch/v1.CronJobSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobSpec {
    /// When, in cron's five fields.
    pub schedule: String,
    /// Time zone; UTC when empty.
    #[serde(deserialize_with = "null_default")]
    pub time_zone: String,
    /// Seconds after which a missed time is given up.
    pub starting_deadline_seconds: Option<i64>,
    /// `Allow` (when empty), `Forbid` or `Replace`.
    #[serde(deserialize_with = "null_default")]
    pub concurrency_policy: String,
    /// Nothing is started while true.
    #[serde(deserialize_with = "null_default")]
    pub suspend: bool,
    /// What the Jobs are made from.
    pub job_template: Value,
    /// Successful Jobs to keep; 3 when absent.
    pub successful_jobs_history_limit: Option<i64>,
    /// Failed Jobs to keep; 1 when absent.
    pub failed_jobs_history_limit: Option<i64>,
}

/// `batch/v1.CronJobStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct CronJobStatus {
    /// Jobs that are not over.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub active: Vec<Value>,
    /// The last time a Job was started for.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_schedule_time: Option<Timestamp>,
    /// When a Job last succeeded.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_successful_time: Option<Timestamp>,
}

/// What a decision about one CronJob sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The CronJob.
    pub cron_job: &'a CronJob,
    /// The Jobs it manages.
    pub jobs: &'a [&'a Job],
}

/// Decides about one CronJob.
pub fn step(view: &View<'_>, now: Timestamp) -> Step {
    let cron_job = view.cron_job;
    if cron_job.metadata.deleting() {
        return Step::idle();
    }
    let mut step = Step::of(clean_up(view));
    let mut status = status(view);
    if !cron_job.spec.suspend {
        start(view, &mut status, &mut step, now);
    }
    // The status after the create: a start that was refused is tried again.
    step.actions.extend(cron_job.metadata.status_update(CRON_JOBS, &cron_job.status, &status));
    step
}

/// Starts the Job that is due, and asks to be called at the next time.
fn start(view: &View<'_>, status: &mut CronJobStatus, step: &mut Step, now: Timestamp) {
    let cron_job = view.cron_job;
    let warn = |step: &mut Step, reason, message: String| {
        step.actions.push(Action::Event(Event::warning(object_ref(cron_job), reason, message)));
    };
    let zone = cron_job.spec.time_zone.as_str();
    if !matches!(zone, "" | "UTC" | "Etc/UTC") {
        return warn(step, "UnknownTimeZone", format!("time zone {zone} is not supported: only UTC is"));
    }
    let Some(schedule) = Schedule::parse(&cron_job.spec.schedule) else {
        return warn(
            step,
            "UnparseableSchedule",
            format!("unparseable schedule: {}", cron_job.spec.schedule),
        );
    };
    if let Some(next) = schedule.next(now) {
        step.requeue(next.since(now));
    }
    let Some((due, missed)) = last_due(cron_job, &schedule, now) else { return };
    if missed > MANY {
        warn(
            step,
            "TooManyMissedTimes",
            format!("too many missed start times ({missed}); starting the last one"),
        );
    }
    let name = format!("{}-{}", cron_job.metadata.name, due.as_second() / 60);
    if view.jobs.iter().any(|job| job.metadata.name == name) {
        status.last_schedule_time = Some(due);
        return;
    }
    let active = view.jobs.iter().filter(|job| job.finished_at().is_none() && !job.metadata.deleting());
    match cron_job.spec.concurrency_policy.as_str() {
        "Forbid" if active.clone().next().is_some() => {
            let message =
                "Not starting job because prior execution is running and concurrency policy is Forbid";
            let event = Event::normal(object_ref(cron_job), "JobAlreadyActive", message);
            step.actions.push(Action::Event(event));
            return;
        }
        "Replace" => step.actions.extend(active.map(|job| delete(cron_job, job))),
        _ => {}
    }
    step.actions.push(create(cron_job, &name, due));
    status.last_schedule_time = Some(due);
}

/// The last time that has passed and was not started for, and how many there were.
fn last_due(cron_job: &CronJob, schedule: &Schedule, now: Timestamp) -> Option<(Timestamp, usize)> {
    let mut from = cron_job.status.last_schedule_time.or(cron_job.metadata.creation_timestamp)?;
    let deadline = cron_job.spec.starting_deadline_seconds.and_then(|s| u64::try_from(s).ok());
    if let Some(deadline) = deadline {
        from = from.max(now.minus(Duration::from_secs(deadline)));
    }
    let mut due = None;
    let mut missed = 0;
    while let Some(next) = schedule.next(from).filter(|next| *next <= now) {
        missed += 1;
        due = Some(next);
        // After a very long pause the middle does not matter.
        from = if missed == MANY + 1 { near_the_end(schedule, next, now) } else { next };
    }
    due.map(|due| (due, missed))
}

/// A time between `from` and `now` that still has a due time after it, as late as is cheap to find.
fn near_the_end(schedule: &Schedule, from: Timestamp, now: Timestamp) -> Timestamp {
    const HOUR: u64 = 3600;
    for hours in [1, 24, 24 * 31, 24 * 366] {
        let at = now.minus(Duration::from_secs(hours * HOUR));
        if at > from && schedule.next(at).is_some_and(|next| next <= now) {
            return at;
        }
    }
    from
}

fn status(view: &View<'_>) -> CronJobStatus {
    let active = view.jobs.iter().filter(|job| job.finished_at().is_none());
    let reference = |job: &&Job| {
        json!({"apiVersion": "batch/v1", "kind": "Job", "namespace": job.metadata.namespace,
            "name": job.metadata.name, "uid": job.metadata.uid,
            "resourceVersion": job.metadata.resource_version})
    };
    let successes = view.jobs.iter().filter(|job| condition::holds(&job.status.conditions, "Complete"));
    let last = successes.filter_map(|job| job.status.completion_time.or(job.finished_at())).max();
    let before = &view.cron_job.status;
    let same = |a: &Value, b: &Value| a.get("uid") == b.get("uid");
    let mut references: Vec<Value> = Vec::new();
    for job in active {
        let new = reference(job);
        // The version a Job was first seen at stays: it must not make a write of every change.
        let known = before.active.iter().find(|old| same(old, &new)).cloned();
        references.push(known.unwrap_or(new));
    }
    CronJobStatus {
        active: references,
        last_schedule_time: before.last_schedule_time,
        last_successful_time: last.max(before.last_successful_time),
    }
}

/// Deletes the oldest Jobs that are over, beyond the limits.
fn clean_up(view: &View<'_>) -> Vec<Action> {
    let spec = &view.cron_job.spec;
    let limits = [
        ("Complete", spec.successful_jobs_history_limit.unwrap_or(3)),
        ("Failed", spec.failed_jobs_history_limit.unwrap_or(1)),
    ];
    let mut actions = Vec::new();
    for (kind, limit) in limits {
        let mut over: Vec<&Job> = view.jobs.to_vec();
        over.retain(|job| condition::holds(&job.status.conditions, kind) && !job.metadata.deleting());
        over.sort_by_key(|job| (job.status.start_time, job.metadata.name.as_str()));
        let surplus = over.len().saturating_sub(usize::try_from(limit).unwrap_or(0));
        actions.extend(over.into_iter().take(surplus).map(|job| delete(view.cron_job, job)));
    }
    actions
}

fn create(cron_job: &CronJob, name: &str, due: Timestamp) -> Action {
    let template = &cron_job.spec.job_template;
    let mut metadata = Map::new();
    let pairs = |key: &str| template.pointer(key).and_then(Value::as_object).cloned().unwrap_or_default();
    let mut annotations = pairs("/metadata/annotations");
    annotations.insert(SCHEDULED.to_owned(), json!(due));
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("namespace".to_owned(), json!(cron_job.metadata.namespace));
    metadata.insert("labels".to_owned(), Value::Object(pairs("/metadata/labels")));
    metadata.insert("annotations".to_owned(), Value::Object(annotations));
    let owner = cron_job.metadata.controller_ref("batch/v1", "CronJob");
    metadata.insert("ownerReferences".to_owned(), json!([owner]));
    let spec = template.get("spec").cloned().unwrap_or_else(|| json!({}));
    let message = "Created job {name}";
    Action::Create {
        resource: JOBS,
        namespace: cron_job.metadata.namespace.clone(),
        object: json!({"apiVersion": "batch/v1", "kind": "Job", "metadata": metadata, "spec": spec}),
        announce: Some(Box::new(Event::normal(object_ref(cron_job), "SuccessfulCreate", message))),
    }
}

fn delete(cron_job: &CronJob, job: &Job) -> Action {
    let message = format!("Deleted job {}", job.metadata.name);
    Action::Delete {
        resource: JOBS,
        namespace: job.metadata.namespace.clone(),
        name: job.metadata.name.clone(),
        uid: Some(job.metadata.uid.clone()),
        resource_version: None,
        propagation: Some(Propagation::Background),
        grace: None,
        announce: Some(Box::new(Event::normal(object_ref(cron_job), "SuccessfulDelete", message))),
    }
}

fn object_ref(cron_job: &CronJob) -> ObjectRef {
    cron_job.metadata.object_ref("batch/v1", "CronJob")
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::read;

    fn job(name: &str, condition: &str) -> Job {
        let conditions = if condition.is_empty() {
            json!([])
        } else {
            json!([{"type": condition, "status": "True", "lastTransitionTime": "2026-01-01T00:00:00Z"}])
        };
        read(&json!({"metadata": {"name": name, "uid": name}, "status": {"conditions": conditions}})).unwrap()
    }

    fn check(spec: Value, jobs: &[Job], now: &str, expect: &[&str]) {
        let mut all = json!({"schedule": "0 * * * *", "jobTemplate": {"spec": {}}});
        for (key, value) in spec.as_object().unwrap() {
            all[key] = value.clone();
        }
        let cron_job: CronJob = read(&json!({"spec": all,
            "metadata": {"name": "c", "creationTimestamp": "2026-01-01T00:30:00Z"}}))
        .unwrap();
        let jobs: Vec<&Job> = jobs.iter().collect();
        let step = step(&View { cron_job: &cron_job, jobs: &jobs }, now.parse().unwrap());
        let word = |action: &Action| match action {
            Action::Create { object, .. } => {
                format!("create {}", object["metadata"]["name"].as_str().unwrap())
            }
            Action::Delete { name, .. } => format!("delete {name}"),
            Action::Event(event) => event.reason.to_owned(),
            Action::UpdateStatus { .. } => "status".to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(step.actions.iter().map(word).collect::<Vec<_>>(), expect, "{spec}");
    }

    #[test]
    fn due_jobs_start() {
        let (early, late) = ("2026-01-01T00:59:59Z", "2026-01-01T01:00:00Z");
        // Minutes since 1970.
        let name = "create c-29453820";
        check(json!({}), &[], early, &[]);
        check(json!({}), &[], late, &[name, "status"]);
        check(json!({"suspend": true}), &[], late, &[]);
        check(json!({"timeZone": "Europe/Paris"}), &[], late, &["UnknownTimeZone"]);
        check(json!({"schedule": "often"}), &[], late, &["UnparseableSchedule"]);
        check(json!({"startingDeadlineSeconds": 10}), &[], "2026-01-01T01:00:30Z", &[]);
        check(json!({"concurrencyPolicy": "Forbid"}), &[job("j", "")], late, &["JobAlreadyActive", "status"]);
        check(json!({"concurrencyPolicy": "Replace"}), &[job("j", "")], late, &["delete j", name, "status"]);
    }

    #[test]
    fn history_is_limited() {
        let jobs = [job("a", "Complete"), job("b", "Complete"), job("f", "Failed"), job("g", "Failed")];
        let spec = json!({"suspend": true, "successfulJobsHistoryLimit": 1});
        check(spec, &jobs, "2026-01-01T00:31:00Z", &["delete a", "delete f", "status"]);
    }
}
