//! AnalysisRuns: measure metrics, compare them with their conditions, decide (as Argo Rollouts' analysis does).
//!
//! [`step`] says what is to be measured now; the runner measures and gives the outcome to [`record`], which makes the
//! next status. Both are pure.

pub mod condition;
mod model;
pub mod template;

use std::time::Duration;

use wharf_base::Timestamp;
use wharf_control::Action;

pub use model::{
    AnalysisRun, AnalysisRunSpec, AnalysisRunStatus, Argument, Measurement, Metric, MetricResult, Phase,
    Prometheus, Provider,
};

pub(crate) use model::duration;

use crate::ANALYSIS_RUNS;
use condition::Datum;

/// Errors in a row before a metric is in error, unless it says otherwise.
const ERROR_LIMIT: i64 = 4;
/// A measurement that failed is tried again after this long.
const ERROR_INTERVAL: Duration = Duration::from_secs(10);
/// Measurements kept per metric.
const KEPT: usize = 10;

/// What is to be done about a run.
#[derive(Debug, Clone, Default, PartialEq)]
pub struct Decision {
    /// Metrics to measure now.
    pub measure: Vec<Metric>,
    /// Status write that is due without a measurement.
    pub write: Option<Action>,
    /// When to decide again.
    pub requeue_after: Option<Duration>,
}

/// Decides about one AnalysisRun.
pub fn step(run: &AnalysisRun, now: Timestamp) -> Decision {
    if run.metadata.deleting() || run.status.phase.ended() {
        return Decision::default();
    }
    let mut decision = Decision::default();
    if !run.spec.terminate {
        for metric in &run.spec.metrics {
            match due(run, metric, now) {
                Due::Now => decision.measure.push(metric.clone()),
                Due::In(wait) => {
                    decision.requeue_after = Some(decision.requeue_after.map_or(wait, |w| w.min(wait)));
                }
                Due::Never => {}
            }
        }
    }
    let status = assessed(run, run.status.clone(), now);
    decision.write = run.metadata.status_update(ANALYSIS_RUNS, &run.status, &status);
    if status.phase.ended() {
        decision.measure.clear();
        decision.requeue_after = None;
    }
    decision
}

enum Due {
    Now,
    In(Duration),
    Never,
}

fn due(run: &AnalysisRun, metric: &Metric, now: Timestamp) -> Due {
    let at = match run.status.result(&metric.name) {
        Some(result) if result.phase.ended() => return Due::Never,
        Some(result) => {
            let Some(last) = result.measurements.last() else { return Due::Now };
            if metric.effective_count() == Some(result.counted()) {
                return Due::Never;
            }
            let interval = match last.phase {
                Phase::Error => metric.interval().unwrap_or(ERROR_INTERVAL).min(ERROR_INTERVAL),
                _ => match metric.interval() {
                    Some(interval) => interval,
                    None => return Due::Never,
                },
            };
            last.started_at.unwrap_or(now).plus(interval)
        }
        None => match metric.initial_delay() {
            None => return Due::Now,
            Some(delay) => {
                run.status.started_at.or(run.metadata.creation_timestamp).unwrap_or(now).plus(delay)
            }
        },
    };
    match at.since(now) {
        wait if wait.is_zero() => Due::Now,
        wait => Due::In(wait),
    }
}

/// What came of one measurement.
#[derive(Debug, Clone, PartialEq)]
pub struct Outcome {
    /// Name of the metric.
    pub metric: String,
    /// When it was begun.
    pub started_at: Timestamp,
    /// When it was done.
    pub finished_at: Timestamp,
    /// The result and its text, or why there is none.
    pub result: Result<(Datum, String), String>,
}

/// The write that records measurements of a run as it was read.
pub fn record(run: &AnalysisRun, outcomes: &[Outcome], now: Timestamp) -> Option<Action> {
    let mut status = run.status.clone();
    for outcome in outcomes {
        let Some(metric) = run.spec.metrics.iter().find(|m| m.name == outcome.metric) else { continue };
        let (phase, value, message) = match &outcome.result {
            Ok((datum, text)) => match metric.judge(datum) {
                Ok(phase) => (phase, text.clone(), String::new()),
                Err(problem) => (Phase::Error, text.clone(), problem),
            },
            Err(problem) => (Phase::Error, String::new(), problem.clone()),
        };
        let result = status.result_mut(&metric.name);
        result.count(phase, &message);
        result.measurements.push(Measurement {
            phase,
            value,
            message,
            started_at: Some(outcome.started_at.truncated()),
            finished_at: Some(outcome.finished_at.truncated()),
        });
        let surplus = result.measurements.len().saturating_sub(KEPT);
        result.measurements.drain(..surplus);
        result.phase = metric.assess(result);
    }
    let status = assessed(run, status, now);
    run.metadata.status_update(ANALYSIS_RUNS, &run.status, &status)
}

/// The status with the phase of the whole run.
fn assessed(run: &AnalysisRun, mut status: AnalysisRunStatus, now: Timestamp) -> AnalysisRunStatus {
    if status.started_at.is_none() {
        status.started_at = Some(now.truncated());
    }
    if run.spec.metrics.is_empty() {
        status.phase = Phase::Error;
        status.message = "no metrics to measure: the templates name none".to_owned();
        return status;
    }
    if let Some(problem) = run.spec.metrics.iter().find_map(Metric::problem) {
        status.phase = Phase::Error;
        status.message = problem;
        return status;
    }
    if run.spec.terminate {
        for result in status.metric_results.iter_mut().filter(|r| !r.phase.ended()) {
            result.phase = Phase::Successful;
            result.message = "Metric Terminated".to_owned();
        }
    }
    let worst = status.metric_results.iter().filter(|r| r.phase.ended()).max_by_key(|r| r.phase.severity());
    let bad = worst.filter(|r| r.phase != Phase::Successful);
    let complete = run.spec.terminate
        || run.spec.metrics.iter().all(|m| status.result(&m.name).is_some_and(|r| r.phase.ended()));
    let (phase, message) = match bad {
        Some(result) if complete || result.phase.severity() > Phase::Inconclusive.severity() => {
            (result.phase, result.verdict())
        }
        Some(result) if !complete => (Phase::Running, format!("so far: {}", result.verdict())),
        _ if run.spec.terminate => (Phase::Successful, "Run Terminated".to_owned()),
        _ if complete => (Phase::Successful, String::new()),
        _ => (Phase::Running, String::new()),
    };
    if phase.ended() && status.completed_at.is_none() {
        status.completed_at = Some(now.truncated());
    }
    status.phase = phase;
    status.message = message;
    status
}

#[cfg(test)]
mod tests;
