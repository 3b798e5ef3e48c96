//! A push, and the run it starts, told job by job.

use std::{
    collections::{HashMap, VecDeque},
    path::Path,
    process::Stdio,
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use tokio::{
    io::{AsyncBufReadExt as _, BufReader},
    process::Command,
    time::timeout,
};
use wharf_ci::{
    api::{JobStatus, NAMESPACE, RunPhase, RunStatus, WORKFLOW_RUNS, WorkflowRun},
    read_log_line,
};
use wharf_client::{Client, Informer, ListParams};

use super::screen::{Screen, Style, time};

/// A run of the sample takes well under a minute; a slow machine may need much more.
const LONGEST: Duration = Duration::from_secs(600);
/// Lines of git's output kept for a failure.
const KEPT: usize = 40;
/// Lines of a failed job's log shown.
const TAIL: usize = 15;

/// Pushes, and follows the run of the commit to its end.
pub(super) async fn push(client: &Client, screen: &Screen, git: Command, sha: &str) -> Result<WorkflowRun> {
    let runs = Informer::start(client.clone(), WORKFLOW_RUNS, ListParams::namespace(NAMESPACE));
    let follow = async {
        let mut changes = runs.subscribe();
        let mut told = Told::default();
        loop {
            let Some(change) = changes.recv().await else { bail!("runs cannot be watched any more") };
            let Some(object) = change.new else { continue };
            let run: WorkflowRun = wharf_control::read(&object)?;
            if run.spec.sha != sha {
                continue;
            }
            for line in told.lines(&run.status, Instant::now()) {
                match line {
                    Line::Step(text) => screen.detail(&screen.paint(Style::Dim, &text)),
                    Line::Job(true, text) => screen.detail(&screen.paint(Style::Good, &text)),
                    Line::Job(false, text) => screen.detail(&screen.paint(Style::Bad, &text)),
                }
            }
            if let Some(running) = running(&run.status) {
                screen.live(&running);
            }
            if run.status.phase.is_final() {
                return Ok(run);
            }
        }
    };
    let follow = async { timeout(LONGEST, follow).await.context("the run did not end in time")? };
    tokio::pin!(follow);
    let pushed = run_git(git);
    tokio::pin!(pushed);
    // git stays until the run ends, since the run's log goes to its terminal.
    tokio::select! {
        run = &mut follow => run,
        pushed = &mut pushed => {
            pushed?;
            follow.await
        }
    }
}

async fn run_git(mut git: Command) -> Result<()> {
    let mut child = git.stdout(Stdio::null()).stderr(Stdio::piped()).spawn().context("git cannot be run")?;
    let mut kept = VecDeque::with_capacity(KEPT);
    if let Some(output) = child.stderr.take() {
        let mut lines = BufReader::new(output).split(b'\n');
        while let Ok(Some(line)) = lines.next_segment().await {
            if kept.len() == KEPT {
                kept.pop_front();
            }
            kept.push_back(String::from_utf8_lossy(&line).into_owned());
        }
    }
    let status = child.wait().await?;
    if !status.success() {
        let said: Vec<String> = kept.into();
        bail!("git push: {status}\n{}", said.join("\n"));
    }
    Ok(())
}

/// Jobs and steps that run now; nothing between two.
fn running(status: &RunStatus) -> Option<String> {
    let now = |job: &JobStatus| {
        let step = job.steps.iter().find(|step| step.status == "in_progress")?;
        Some(format!("{}: {}", job.name, step.name))
    };
    let running: Vec<String> =
        status.jobs.iter().filter(|job| job.status == "in_progress").filter_map(now).collect();
    (!running.is_empty()).then(|| running.join("; "))
}

#[derive(Debug, PartialEq)]
enum Line {
    Step(String),
    /// Whether it went well.
    Job(bool, String),
}

/// What was told of a run. Times in the run's status are whole seconds, so they are taken here.
#[derive(Default)]
struct Told {
    jobs: HashMap<String, Times>,
}

struct Times {
    begun: Instant,
    /// The last step ended, or the first began.
    step: Instant,
    steps: usize,
    ended: bool,
}

impl Told {
    fn lines(&mut self, status: &RunStatus, now: Instant) -> Vec<Line> {
        let mut lines = Vec::new();
        for job in &status.jobs {
            if !matches!(job.status.as_str(), "in_progress" | "completed") {
                continue;
            }
            let times = self.jobs.entry(job.key.clone()).or_insert(Times {
                begun: now,
                step: now,
                steps: 0,
                ended: false,
            });
            let done: Vec<_> = job.steps.iter().filter(|step| step.status == "completed").collect();
            for step in done.iter().skip(times.steps).filter(|step| step.conclusion != "skipped") {
                let failed =
                    if step.conclusion == "success" { "" } else { &format!(" ({})", step.conclusion) };
                let took = time(now - times.step);
                lines.push(Line::Step(format!("  {} · {}{failed}  {took}", job.name, step.name)));
                times.step = now;
            }
            times.steps = done.len().max(times.steps);
            if job.status == "completed" && !std::mem::replace(&mut times.ended, true) {
                let good = matches!(job.conclusion.as_str(), "success" | "skipped");
                let mark = if good { "✓" } else { "✗" };
                let word = if job.conclusion == "success" { "" } else { &format!(" {}", job.conclusion) };
                lines
                    .push(Line::Job(good, format!("{mark} {}{word}  {}", job.name, time(now - times.begun))));
            }
        }
        lines
    }
}

/// Whether every job went well.
pub(super) fn expect_success(run: &WorkflowRun) -> Result<String> {
    if run.status.phase != RunPhase::Succeeded {
        bail!("the run {} ended as {:?}: {}", run.metadata.name, run.status.phase, run.status.message);
    }
    Ok(format!("{} jobs", run.status.jobs.len()))
}

/// What failed in a run, with the ends of the logs.
pub(super) fn failures(data: &Path, run: &WorkflowRun) -> Vec<String> {
    let mut lines = vec![format!("run {}: {:?} {}", run.metadata.name, run.status.phase, run.status.message)];
    for job in run.status.jobs.iter().filter(|job| matches!(job.conclusion.as_str(), "failure" | "cancelled"))
    {
        lines.push(format!("  job {}: {} {} {}", job.name, job.conclusion, job.reason, job.message));
        for step in job.steps.iter().filter(|step| step.conclusion == "failure") {
            lines.push(format!("    step {} failed", step.name));
        }
        let log = data.join("ci/runs").join(&run.metadata.uid).join(&job.key).join("log");
        let text = std::fs::read(&log).unwrap_or_default();
        let text = String::from_utf8_lossy(&text);
        let all: Vec<&str> = text.lines().filter_map(|line| Some(read_log_line(line)?.2)).collect();
        let tail = all.iter().skip(all.len().saturating_sub(TAIL));
        lines.extend(tail.map(|line| format!("      | {line}")));
        lines.push(format!("      log: {}", log.display()));
    }
    lines
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn status(value: serde_json::Value) -> RunStatus {
        serde_json::from_value(json!({ "jobs": [value] })).unwrap()
    }

    #[test]
    fn steps_and_jobs_are_told_once_with_their_times() {
        let (mut told, start) = (Told::default(), Instant::now());
        let at = |seconds| start + Duration::from_secs(seconds);
        let step = |name: &str, status: &str, conclusion: &str| json!({"name": name, "status": status, "conclusion": conclusion});
        let job = |status: &str, conclusion: &str, steps: Vec<serde_json::Value>| json!({"key": "lint", "name": "lint", "status": status, "conclusion": conclusion, "steps": steps});
        let begun = status(job("in_progress", "", vec![step("Checkout", "in_progress", "")]));
        assert_eq!(told.lines(&begun, at(0)), []);
        let half = status(job(
            "in_progress",
            "",
            vec![step("Checkout", "completed", "success"), step("Lint", "in_progress", "")],
        ));
        assert_eq!(told.lines(&half, at(2)), [Line::Step("  lint · Checkout  2.0 s".into())]);
        assert_eq!(told.lines(&half, at(3)), []);
        let ended = status(job(
            "completed",
            "failure",
            vec![step("Checkout", "completed", "success"), step("Lint", "completed", "failure")],
        ));
        assert_eq!(
            told.lines(&ended, at(5)),
            [
                Line::Step("  lint · Lint (failure)  3.0 s".into()),
                Line::Job(false, "✗ lint failure  5.0 s".into())
            ]
        );
        assert_eq!(told.lines(&ended, at(6)), []);
    }
}
