//! Which jobs of a run start, wait, stop and are skipped. A pure scheduler: `step(state, events, now) -> actions`.
//!
//! ```text
//! waiting ──needs done, `if` true──▶ queued ──a place is free──▶ running ──▶ done
//!    └──────`if` false───────────────────────────────────────────────────────▶ done (skipped)
//! ```

mod matrix;
#[cfg(test)]
mod tests;

use std::{collections::BTreeSet, time::Duration};

use serde::{Deserialize, Serialize};
use wharf_base::Timestamp;

use crate::{
    expr::{Env, EvalError, Object, Status, Template, Value},
    model::{Job, Workflow},
    problem::Problem,
};

/// Instances of all jobs of a run at the most.
const MAX_INSTANCES: usize = 256;
/// How long a job may take when it does not say, as upstream.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(360 * 60);

/// How a job, a step or a run ended.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "lowercase")]
pub enum Outcome {
    /// All went well.
    Success,
    /// Something failed.
    Failure,
    /// It was stopped.
    Cancelled,
    /// It was not meant to run.
    Skipped,
}

impl Outcome {
    /// The word expressions use.
    pub const fn as_str(self) -> &'static str {
        match self {
            Self::Success => "success",
            Self::Failure => "failure",
            Self::Cancelled => "cancelled",
            Self::Skipped => "skipped",
        }
    }
}

/// Where an instance of a job is.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub enum Phase {
    /// Waits for a place.
    Queued,
    /// Runs.
    Running {
        /// Since when.
        since: Timestamp,
        /// It was told to stop.
        stopping: bool,
    },
    /// Has ended.
    Done(Outcome),
}

/// One execution of a job: the job itself, or one combination of its matrix.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct Instance {
    /// Unique in the run: `JOB` or `JOB.INDEX`; fit for a file name.
    pub key: String,
    /// The job.
    pub job: String,
    /// For people.
    pub name: String,
    /// The matrix context; null without a matrix.
    pub matrix: Value,
    /// Its place among the combinations.
    pub index: usize,
    /// How many combinations there are.
    pub total: usize,
    /// Where it is.
    pub phase: Phase,
    /// Its failure does not fail the run.
    pub continue_on_error: bool,
    /// How long it may take.
    pub timeout: Duration,
    /// `strategy.fail-fast`.
    pub fail_fast: bool,
    /// `strategy.max-parallel`.
    pub max_parallel: usize,
    /// Why it ended as it did, where there is more to say.
    pub message: Option<String>,
}

/// A job of a run.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct JobState {
    /// Its id.
    pub id: String,
    /// Its executions; none until its needs are done.
    pub instances: Vec<Instance>,
    /// How it ended.
    pub result: Option<Outcome>,
    /// What it hands to others.
    pub outputs: Vec<(String, String)>,
    /// Why it could not be started, with its place and what to do.
    pub message: Option<String>,
}

/// A run of a workflow.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct Run {
    /// The jobs, as the workflow has them.
    pub jobs: Vec<JobState>,
    /// Somebody asked to end it.
    pub cancelled: bool,
}

/// What happened.
#[derive(Debug, Clone, PartialEq)]
pub enum Event {
    /// An instance ended.
    Finished {
        /// Which.
        key: String,
        /// How.
        outcome: Outcome,
        /// What it hands on.
        outputs: Vec<(String, String)>,
        /// More about a failure.
        message: Option<String>,
    },
    /// The run is to be ended.
    Cancel,
}

/// Why an instance is told to stop.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Stop {
    /// The run was cancelled.
    Cancelled,
    /// It took too long.
    TimedOut,
    /// Another one of its matrix failed.
    FailFast,
}

/// What to do.
#[derive(Debug, Clone, PartialEq)]
pub enum Action {
    /// Start an instance.
    Start {
        /// Which.
        key: String,
    },
    /// Stop an instance; it ends with [`Event::Finished`].
    Stop {
        /// Which.
        key: String,
        /// Why.
        why: Stop,
    },
    /// Look again at that time.
    WakeAt(Timestamp),
}

impl Run {
    /// A run of which nothing has happened yet.
    pub fn new(workflow: &Workflow) -> Self {
        let jobs = workflow.jobs.iter().map(|job| JobState {
            id: job.id.clone(),
            instances: Vec::new(),
            result: None,
            outputs: Vec::new(),
            message: None,
        });
        Self { jobs: jobs.collect(), cancelled: false }
    }

    /// How it ended; nothing while it goes on.
    pub fn outcome(&self) -> Option<Outcome> {
        let results = self.jobs.iter().map(|job| job.result).collect::<Option<Vec<Outcome>>>()?;
        Some(
            if self.cancelled || results.contains(&Outcome::Cancelled) && !results.contains(&Outcome::Failure)
            {
                Outcome::Cancelled
            } else if results.contains(&Outcome::Failure) {
                Outcome::Failure
            } else {
                Outcome::Success
            },
        )
    }

    /// An instance by its key.
    pub fn instance(&self, key: &str) -> Option<&Instance> {
        self.jobs.iter().flat_map(|job| &job.instances).find(|instance| instance.key == key)
    }

    fn job(&self, id: &str) -> Option<&JobState> {
        self.jobs.iter().find(|job| job.id == id)
    }

    /// The `needs` context of a job.
    pub fn needs(&self, job: &Job) -> Object {
        job.needs
            .iter()
            .filter_map(|id| self.job(id))
            .map(|state| {
                let mut need = Object::new();
                need.set("result", state.result.map_or("", Outcome::as_str));
                need.set("outputs", state.outputs.iter().map(|(k, v)| (k, v)).collect::<Object>());
                (state.id.clone(), need)
            })
            .collect()
    }

    /// How the jobs a job needs, directly or not, went.
    fn status(&self, workflow: &Workflow, job: &Job) -> Status {
        let mut ancestors = BTreeSet::new();
        let mut open: Vec<&str> = job.needs.iter().map(String::as_str).collect();
        while let Some(id) = open.pop() {
            if ancestors.insert(id) {
                let needs = workflow.jobs.iter().find(|job| job.id == id).map(|job| &job.needs);
                open.extend(needs.into_iter().flatten().map(String::as_str));
            }
        }
        let results: Vec<Option<Outcome>> =
            ancestors.iter().filter_map(|id| self.job(id)).map(|job| job.result).collect();
        Status {
            success: !self.cancelled && results.iter().all(|result| *result == Some(Outcome::Success)),
            failure: results.contains(&Some(Outcome::Failure)),
            cancelled: self.cancelled,
        }
    }

    fn finish(
        &mut self,
        key: &str,
        outcome: Outcome,
        outputs: &[(String, String)],
        message: &Option<String>,
    ) {
        for job in &mut self.jobs {
            let Some(instance) = job.instances.iter_mut().find(|i| i.key == key) else { continue };
            instance.phase = Phase::Done(outcome);
            instance.message = message.clone().or(instance.message.take());
            for (name, value) in outputs {
                // Of several combinations the last one that has something to say is heard.
                match job.outputs.iter_mut().find(|(known, _)| known == name) {
                    Some(known) if !value.is_empty() => known.1.clone_from(value),
                    Some(_) => {}
                    None => job.outputs.push((name.clone(), value.clone())),
                }
            }
        }
    }
}

/// Takes what happened, decides what follows. `base` holds the contexts `github`, `vars` and `inputs`.
pub fn step(
    workflow: &Workflow,
    base: &Object,
    run: &mut Run,
    events: &[Event],
    now: Timestamp,
) -> Vec<Action> {
    let mut actions = Vec::new();
    for event in events {
        match event {
            Event::Cancel => cancel(run, &mut actions),
            Event::Finished { key, outcome, outputs, message } => run.finish(key, *outcome, outputs, message),
        }
    }
    // A skipped job may let another one start, or be skipped, at once.
    loop {
        settle(run, &mut actions);
        if !plan_ready(workflow, base, run) {
            break;
        }
    }
    start_and_stop(run, now, &mut actions);
    actions
}

/// Ends what was there when the run was cancelled. Jobs that become ready later and ask for it (`always()`) still run.
fn cancel(run: &mut Run, actions: &mut Vec<Action>) {
    run.cancelled = true;
    for instance in run.jobs.iter_mut().flat_map(|job| &mut job.instances) {
        instance.stop(Stop::Cancelled, actions);
    }
}

/// Ends what can go no further: the rest of a matrix of which one failed, and jobs all of whose instances are done.
fn settle(run: &mut Run, actions: &mut Vec<Action>) {
    for job in &mut run.jobs {
        let failed = job.instances.iter().any(|i| {
            i.phase == Phase::Done(Outcome::Failure) && !i.continue_on_error && i.fail_fast && i.total > 1
        });
        if failed {
            job.instances.iter_mut().for_each(|instance| instance.stop(Stop::FailFast, actions));
        }
        if job.result.is_none() && !job.instances.is_empty() {
            job.result = result_of(&job.instances);
        }
    }
}

fn result_of(instances: &[Instance]) -> Option<Outcome> {
    let mut result = Outcome::Success;
    for instance in instances {
        let Phase::Done(outcome) = instance.phase else { return None };
        result = match (result, outcome) {
            (Outcome::Failure, _) => Outcome::Failure,
            (_, Outcome::Failure) if !instance.continue_on_error => Outcome::Failure,
            (_, Outcome::Cancelled) => Outcome::Cancelled,
            (so_far, _) => so_far,
        };
    }
    Some(result)
}

/// Skips or expands every job whose needs are done. Whether there was one.
fn plan_ready(workflow: &Workflow, base: &Object, run: &mut Run) -> bool {
    let mut changed = false;
    for (place, job) in workflow.jobs.iter().enumerate() {
        let waiting = run.jobs.get(place).is_some_and(|s| s.result.is_none() && s.instances.is_empty());
        let done = |id: &String| run.job(id).is_some_and(|need| need.result.is_some());
        if !waiting || !job.needs.iter().all(done) {
            continue;
        }
        changed = true;
        let instances: usize = run.jobs.iter().map(|job| job.instances.len()).sum();
        let planned = plan_job(workflow, base, run, job, MAX_INSTANCES.saturating_sub(instances));
        let Some(state) = run.jobs.get_mut(place) else { continue };
        match planned {
            Ok(Some(instances)) => state.instances = instances,
            Ok(None) => state.result = Some(Outcome::Skipped),
            Err(EvalError { message, hint }) => {
                let problem = Problem { file: workflow.file.clone(), at: job.at, message, hint };
                state.result = Some(Outcome::Failure);
                state.message = Some(problem.to_string());
            }
        }
    }
    changed
}

/// The instances of a job, or nothing when it is skipped.
fn plan_job(
    workflow: &Workflow,
    base: &Object,
    run: &Run,
    job: &Job,
    room: usize,
) -> Result<Option<Vec<Instance>>, EvalError> {
    let mut contexts = base.clone();
    contexts.set("needs", run.needs(job));
    let status = run.status(workflow, job);
    let no_files = |_: &[String]| Err("hashFiles cannot be used here".to_owned());
    let env = Env { contexts: &contexts, status, hash_files: &no_files };
    let wrong = |what: &str, error: EvalError| EvalError {
        message: format!("{what} of the job '{}': {}", job.id, error.message),
        hint: error.hint,
    };
    if !job.condition.holds(&env).map_err(|e| wrong("'if'", e))? {
        return Ok(None);
    }
    let combinations = match &job.strategy.matrix {
        Some(matrix) => matrix::expand(matrix, &env).map_err(|e| wrong("'matrix'", e))?,
        None => vec![Object::new()],
    };
    if combinations.is_empty() {
        let hint = "give a value to each of its lists, or exclude less";
        return Err(wrong("'matrix'", EvalError::new("it has no combination", hint)));
    }
    if combinations.len() > room {
        let message = format!("the run would have more than {MAX_INSTANCES} jobs");
        return Err(wrong("'matrix'", EvalError::new(message, "make the matrix smaller")));
    }
    let total = combinations.len();
    let fail_fast = flag(job.strategy.fail_fast.as_ref(), true, &env).map_err(|e| wrong("'fail-fast'", e))?;
    let max_parallel =
        number(job.strategy.max_parallel.as_ref(), &env).map_err(|e| wrong("'max-parallel'", e))?;
    let mut instances = Vec::new();
    for (index, combination) in combinations.into_iter().enumerate() {
        let mut contexts = contexts.clone();
        let matrix: Value = match job.strategy.matrix {
            Some(_) => combination.into(),
            None => Value::Null,
        };
        contexts.set("matrix", matrix.clone());
        contexts.set("strategy", strategy_context(fail_fast, max_parallel, index, total));
        let env = Env { contexts: &contexts, status, hash_files: &no_files };
        let minutes =
            number(job.timeout_minutes.as_ref(), &env).map_err(|e| wrong("'timeout-minutes'", e))?;
        let named = job.name.as_ref().map(|name| name.text(&env)).transpose();
        let name = named.map_err(|e| wrong("'name'", e))?;
        instances.push(Instance {
            key: if total > 1 { format!("{}.{index}", job.id) } else { job.id.clone() },
            job: job.id.clone(),
            name: name.filter(|name| !name.is_empty()).unwrap_or_else(|| default_name(job, &matrix)),
            matrix,
            index,
            total,
            phase: Phase::Queued,
            continue_on_error: flag(job.continue_on_error.as_ref(), false, &env)
                .map_err(|e| wrong("'continue-on-error'", e))?,
            timeout: minutes.map_or(DEFAULT_TIMEOUT, |m| Duration::from_secs_f64((m * 60.0).min(1e8))),
            fail_fast,
            max_parallel: max_parallel.map_or(usize::MAX, |count| count as usize),
            message: None,
        });
    }
    Ok(Some(instances))
}

/// The `strategy` context.
fn strategy_context(fail_fast: bool, max_parallel: Option<f64>, index: usize, total: usize) -> Object {
    let mut strategy = Object::new();
    strategy.set("fail-fast", fail_fast);
    strategy.set("job-index", index as f64);
    strategy.set("job-total", total as f64);
    strategy.set("max-parallel", max_parallel.unwrap_or(total as f64));
    strategy
}

impl Instance {
    fn stop(&mut self, why: Stop, actions: &mut Vec<Action>) {
        match &mut self.phase {
            Phase::Queued => self.phase = Phase::Done(Outcome::Cancelled),
            Phase::Running { stopping, .. } if !*stopping => {
                *stopping = true;
                actions.push(Action::Stop { key: self.key.clone(), why });
            }
            _ => {}
        }
    }

    /// Its `strategy` context.
    pub fn strategy(&self) -> Object {
        let max_parallel = (self.max_parallel != usize::MAX).then_some(self.max_parallel as f64);
        strategy_context(self.fail_fast, max_parallel, self.index, self.total)
    }
}

fn default_name(job: &Job, matrix: &Value) -> String {
    let values: Vec<String> = matrix
        .as_object()
        .into_iter()
        .flat_map(Object::iter)
        .map(|(_, value)| if value.is_primitive() { value.to_text() } else { value.to_json().to_string() })
        .collect();
    if values.is_empty() { job.id.clone() } else { format!("{} ({})", job.id, values.join(", ")) }
}

/// A flag, read from what its template gives.
///
/// # Errors
/// When it gives neither true nor false.
pub fn flag(template: Option<&Template>, default: bool, env: &Env<'_>) -> Result<bool, EvalError> {
    let Some(template) = template else { return Ok(default) };
    match template.value(env)? {
        Value::Bool(value) => Ok(value),
        Value::Null => Ok(default),
        other => match other.to_text().as_str() {
            "true" => Ok(true),
            "false" => Ok(false),
            "" => Ok(default),
            text => {
                let hint = "write true or false, or an expression that gives one of them";
                Err(EvalError::new(format!("'{text}' is neither true nor false"), hint))
            }
        },
    }
}

/// A number above nothing, read from what its template gives.
///
/// # Errors
/// When it gives none.
pub fn number(template: Option<&Template>, env: &Env<'_>) -> Result<Option<f64>, EvalError> {
    let Some(template) = template else { return Ok(None) };
    let value = template.value(env)?;
    let number = value.to_number();
    if number > 0.0 && number.is_finite() {
        Ok(Some(number))
    } else {
        let message = format!("'{}' is not a number above 0", value.to_text());
        Err(EvalError::new(message, "write a number such as 10, or an expression that gives one"))
    }
}

fn start_and_stop(run: &mut Run, now: Timestamp, actions: &mut Vec<Action>) {
    let mut wake: Option<Timestamp> = None;
    for job in &mut run.jobs {
        let mut running = job.instances.iter().filter(|i| matches!(i.phase, Phase::Running { .. })).count();
        for instance in &mut job.instances {
            match &mut instance.phase {
                Phase::Queued if running < instance.max_parallel => {
                    running += 1;
                    instance.phase = Phase::Running { since: now, stopping: false };
                    actions.push(Action::Start { key: instance.key.clone() });
                    wake = earlier(wake, now.plus(instance.timeout));
                }
                Phase::Running { since, stopping: stopping @ false } => {
                    let end = since.plus(instance.timeout);
                    if now >= end {
                        *stopping = true;
                        let minutes = instance.timeout.as_secs_f64() / 60.0;
                        instance.message = Some(format!("it took longer than {minutes} minutes"));
                        actions.push(Action::Stop { key: instance.key.clone(), why: Stop::TimedOut });
                    } else {
                        wake = earlier(wake, end);
                    }
                }
                _ => {}
            }
        }
    }
    actions.extend(wake.map(Action::WakeAt));
}

fn earlier(known: Option<Timestamp>, new: Timestamp) -> Option<Timestamp> {
    Some(known.map_or(new, |known| known.min(new)))
}
