//! The status of a run as its jobs tell it, written to the API as fast as the API takes it.

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle};
use wharf_base::{Clock as _, SystemClock};
use wharf_client::Client;
use wharf_workflow::run::{Outcome, Phase, Run};

use crate::api::{JobStatus, NAMESPACE, RunPhase, RunStatus, StepStatus, WORKFLOW_RUNS};

/// The status of one run. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Board {
    status: Arc<Mutex<RunStatus>>,
    changed: watch::Sender<u64>,
}

/// The time now, as the API writes it.
pub(crate) fn now() -> String {
    SystemClock.now().to_string()
}

impl Board {
    pub(crate) fn new(status: RunStatus) -> Self {
        Self { status: Arc::new(Mutex::new(status)), changed: watch::Sender::new(0) }
    }

    fn lock(&self) -> MutexGuard<'_, RunStatus> {
        self.status.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// Changes the status.
    pub(crate) fn update(&self, change: impl FnOnce(&mut RunStatus)) {
        change(&mut self.lock());
        self.changed.send_modify(|count| *count += 1);
    }

    /// Changes the status of a job.
    pub(crate) fn job(&self, key: &str, change: impl FnOnce(&mut JobStatus)) {
        self.update(|status| {
            if let Some(job) = status.jobs.iter_mut().find(|job| job.key == key) {
                change(job);
            }
        });
    }

    /// Changes the status of a step.
    pub(crate) fn step(&self, key: &str, number: usize, change: impl FnOnce(&mut StepStatus)) {
        self.job(key, |job| {
            if let Some(step) = job.steps.iter_mut().find(|step| step.number == number) {
                change(step);
            }
        });
    }

    /// A copy.
    pub(crate) fn get(&self) -> RunStatus {
        self.lock().clone()
    }

    /// Writes every change from now on, until the handle is aborted.
    pub(crate) fn write_to(&self, client: Client, name: String) -> JoinHandle<()> {
        let (board, mut changed) = (self.clone(), self.changed.subscribe());
        tokio::spawn(async move {
            while changed.changed().await.is_ok() {
                board.flush(&client, &name).await;
            }
        })
    }

    /// Writes the status now. Tries again while the API is away.
    pub(crate) async fn flush(&self, client: &Client, name: &str) {
        for attempt in 0..5u32 {
            let status = json!(self.get());
            match client.patch_status(&WORKFLOW_RUNS, NAMESPACE, name, &status).await {
                Ok(_) => return,
                Err(error) if error.is_temporary() => {
                    tracing::warn!(run = name, %error, "cannot write the status of a run yet");
                    tokio::time::sleep(std::time::Duration::from_millis(100 << attempt)).await;
                }
                Err(error) => {
                    tracing::error!(run = name, %error, "cannot write the status of a run");
                    return;
                }
            }
        }
    }

    /// Takes over what the scheduler has decided.
    pub(crate) fn follow(&self, run: &Run, needs: impl Fn(&str) -> Vec<String>) {
        self.update(|status| {
            for job in &run.jobs {
                if job.instances.is_empty() {
                    let entry = entry(&mut status.jobs, &job.id, &job.id);
                    entry.needs = needs(&job.id);
                    entry.name.clone_from(&job.id);
                    entry.status = "waiting".into();
                    if let Some(result) = job.result {
                        complete(entry, result, job.message.as_deref());
                    }
                    continue;
                }
                // A job of several instances gives up its own place to them.
                if !job.instances.iter().any(|instance| instance.key == job.id) {
                    status.jobs.retain(|entry| entry.key != job.id);
                }
                for instance in &job.instances {
                    let entry = entry(&mut status.jobs, &instance.key, &job.id);
                    entry.needs = needs(&job.id);
                    entry.name.clone_from(&instance.name);
                    match instance.phase {
                        Phase::Queued => entry.status = "queued".into(),
                        Phase::Running { since, .. } => {
                            entry.status = "in_progress".into();
                            entry.started_at.get_or_insert_with(|| since.to_string());
                        }
                        Phase::Done(outcome) => complete(entry, outcome, instance.message.as_deref()),
                    }
                }
            }
        });
    }
}

fn entry<'a>(jobs: &'a mut Vec<JobStatus>, key: &str, id: &str) -> &'a mut JobStatus {
    let place = jobs.iter().position(|job| job.key == key).unwrap_or_else(|| {
        // Beside the others of the same job, in the order of the workflow otherwise.
        let place = jobs.iter().rposition(|job| job.id == id).map_or(jobs.len(), |place| place + 1);
        jobs.insert(place, JobStatus { key: key.into(), id: id.into(), ..JobStatus::default() });
        place
    });
    &mut jobs[place]
}

fn complete(job: &mut JobStatus, outcome: Outcome, message: Option<&str>) {
    if job.status == "completed" && !job.conclusion.is_empty() {
        return;
    }
    job.status = "completed".into();
    job.conclusion = outcome.as_str().into();
    job.message = message.unwrap_or_default().to_owned();
    if job.started_at.is_some() {
        job.completed_at = Some(now());
    }
}

/// Ends a run's status.
pub(crate) fn conclude(status: &mut RunStatus, phase: RunPhase, reason: &str, message: &str) {
    status.phase = phase;
    status.reason = reason.to_owned();
    status.message = message.to_owned();
    status.completed_at = Some(now());
    status.conditions = conditions(phase, reason, message);
    if phase == RunPhase::Interrupted {
        for job in status.jobs.iter_mut().filter(|job| job.status != "completed") {
            let running = job.status == "in_progress";
            job.status = "completed".into();
            job.conclusion = "cancelled".into();
            job.reason = "Interrupted".into();
            job.completed_at = running.then(now);
            for step in job.steps.iter_mut().filter(|step| step.status != "completed") {
                let running = step.status == "in_progress";
                step.status = "completed".into();
                step.conclusion = if running { "cancelled".into() } else { "skipped".into() };
                step.completed_at = running.then(now);
            }
        }
    }
}

fn conditions(phase: RunPhase, reason: &str, message: &str) -> Vec<Value> {
    let time = now();
    let condition = |kind: &str, holds: bool| {
        json!({
            "type": kind, "status": if holds { "True" } else { "False" },
            "reason": reason, "message": message, "lastTransitionTime": time,
        })
    };
    vec![condition("Completed", true), condition("Succeeded", phase == RunPhase::Succeeded)]
}
