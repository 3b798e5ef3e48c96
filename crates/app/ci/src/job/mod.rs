//! One job: its sandbox, its steps in order, its outputs.

mod files;
mod frame;
mod output;
mod steps;

use std::{
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use wharf_base::Hinted;
use wharf_workflow::{
    Position, Problem,
    expr::{Env, EvalError, Object, Status},
    model::{Job, Settings},
    run::{Instance, Outcome},
};

use crate::{
    api::StepStatus,
    beneath,
    logs::JobLog,
    run::{RunContext, remove_job_files, sandbox_id},
    sandbox::{Cancel, JobSandbox, SandboxSpec, StopReason, WORKSPACE},
    wrong::Wrong,
};

use frame::Frame;

/// The image of jobs that name none.
pub(crate) const DEFAULT_IMAGE: &str = "base/ci";
/// Labels of `runs-on` that mean this runner.
const LABELS: [&str; 5] = ["wharf", "self-hosted", "linux", "x64", "ubuntu-latest"];
/// How long steps may still take once the job is to stop (`if: always()`).
const AFTER_STOP: Duration = Duration::from_secs(300);

/// A job to be run.
pub(crate) struct JobOrder {
    pub(crate) context: Arc<RunContext>,
    pub(crate) job: Job,
    pub(crate) instance: Instance,
    pub(crate) needs: Object,
    pub(crate) cancel: Cancel,
}

/// A job that has ended.
pub(crate) struct JobEnd {
    pub(crate) key: String,
    pub(crate) outcome: Outcome,
    pub(crate) outputs: Vec<(String, String)>,
    pub(crate) message: Option<String>,
}

impl JobEnd {
    pub(crate) fn failed(key: String, message: String) -> Self {
        Self { key, outcome: Outcome::Failure, outputs: Vec::new(), message: Some(message) }
    }
}

/// A job under way.
pub(crate) struct Runner {
    pub(crate) context: Arc<RunContext>,
    pub(crate) key: String,
    pub(crate) log: JobLog,
    pub(crate) sandbox: Arc<dyn JobSandbox>,
    pub(crate) workspace: Arc<beneath::Shared>,
    /// Scripts and command files.
    files: Arc<beneath::Shared>,
    /// The job's folder on this machine.
    pub(crate) folder: PathBuf,
    /// Contexts that do not change.
    contexts: Object,
    /// The environment so far: the workflow's, the job's, and what steps added.
    env: Vec<(String, String)>,
    /// What steps put before `PATH`.
    path: Vec<String>,
    defaults: Defaults,
    cancel: Cancel,
    /// Counts scripts and command files.
    count: usize,
    /// Counts annotations, of which not all are kept.
    pub(crate) annotations: usize,
}

#[derive(Default)]
struct Defaults {
    shell: Option<String>,
    working_directory: Option<String>,
}

/// Runs a job to its end.
pub(crate) async fn run(order: JobOrder) -> JobEnd {
    let (key, mut cancel) = (order.instance.key.clone(), order.cancel.clone());
    let slots = Arc::clone(&order.context.shared.slots);
    let slot = tokio::select! {
        slot = slots.acquire_owned() => slot.ok(),
        reason = cancel.stopped() => {
            let outcome = if reason == StopReason::TimedOut { Outcome::Failure } else { Outcome::Cancelled };
            return JobEnd { key, outcome, outputs: Vec::new(), message: None };
        }
    };
    let context = Arc::clone(&order.context);
    let log = match context.shared.logs.writer(&context.uid, &key, Arc::clone(&context.masker)) {
        Ok(log) => log,
        Err(error) => return JobEnd::failed(key, format!("cannot write its log: {error}")),
    };
    let folder = context.folder.join(&key);
    let stopped = order.cancel.clone();
    let end = match prepare(order, log.clone()).await {
        Ok((runner, job)) => finish(runner, job).await,
        Err(_) if stopped.reason().is_some_and(|reason| reason != StopReason::TimedOut) => {
            JobEnd { key, outcome: Outcome::Cancelled, outputs: Vec::new(), message: None }
        }
        Err(error) => {
            let message = Wrong::from(error).to_string();
            log.say(0, &format!("Error: {message}"));
            JobEnd::failed(key, message)
        }
    };
    let removed = tokio::task::spawn_blocking(move || remove_job_files(&folder)).await;
    drop((slot, removed));
    end
}

/// Makes the sandbox and everything steps find in it.
async fn prepare(order: JobOrder, log: JobLog) -> anyhow::Result<(Runner, Job)> {
    let JobOrder { context, job, instance, needs, mut cancel } = order;
    let contexts = job_contexts(&context, &instance, needs);
    let (image, image_at) = image(&context, &job, &contexts, &log)?;
    let place = |wrong: Wrong| wrong.at(&context.workflow.file, image_at);
    pull(&context, &image, &log, &mut cancel).await.map_err(|error| place(error.into()))?;
    let folder = context.folder.join(&instance.key);
    for name in ["workspace", "files", "home", "temp"] {
        std::fs::create_dir_all(folder.join(name))?;
    }
    let wrong = |wrong: Wrong| wrong.at(&context.workflow.file, job.at);
    let env = settings(&contexts, &[&context.workflow.env, &job.env]).map_err(wrong)?;
    let container_env = match &job.container {
        Some(container) => settings(&contexts, &[&container.env]).map_err(wrong)?,
        None => Vec::new(),
    };
    log.say(0, &format!("Job {} runs in {image}", instance.name));
    let spec = SandboxSpec {
        id: sandbox_id(&context.uid, &instance.key),
        folder: folder.join("pod"),
        image,
        env: container_env.iter().map(|(name, value)| format!("{name}={value}")).collect(),
        mounts: vec![
            (folder.join("workspace"), WORKSPACE.to_owned()),
            (folder.join("files"), "/github/files".to_owned()),
            (folder.join("home"), "/github/home".to_owned()),
            (folder.join("temp"), "/github/temp".to_owned()),
        ],
    };
    let started = context.shared.config.sandboxes.start(spec).await;
    let sandbox = started.map_err(|error| place(error.into()))?;
    let runner = Runner {
        workspace: Arc::new(beneath::Shared::open(&folder.join("workspace"))?),
        files: Arc::new(beneath::Shared::open(&folder.join("files"))?),
        key: instance.key.clone(),
        log,
        sandbox,
        folder,
        contexts,
        env,
        path: Vec::new(),
        defaults: Defaults::default(),
        cancel,
        count: 0,
        annotations: 0,
        context,
    };
    Ok((runner, job))
}

async fn finish(mut runner: Runner, job: Job) -> JobEnd {
    let key = runner.key.clone();
    let worked = runner.work(&job).await;
    if let Err(error) = runner.sandbox.stop().await {
        tracing::warn!(job = key, %error, "cannot stop the sandbox of a job");
    }
    let (failed, outputs) = match worked {
        Ok(worked) => worked,
        Err(wrong) => {
            let message = wrong.at(&runner.context.workflow.file, job.at).to_string();
            runner.log.say(0, &format!("Error: {message}"));
            return JobEnd::failed(key, message);
        }
    };
    let (outcome, message) = match runner.cancel.reason() {
        Some(StopReason::TimedOut) => {
            let message = "the job took longer than its 'timeout-minutes'".to_owned();
            runner.log.say(0, &format!("Error: {message}"));
            (Outcome::Failure, Some(message))
        }
        Some(StopReason::Cancelled) => (Outcome::Cancelled, None),
        Some(StopReason::Interrupted) => (Outcome::Cancelled, Some("the platform stopped".to_owned())),
        None if failed.is_some() => (Outcome::Failure, failed),
        None => (Outcome::Success, None),
    };
    JobEnd { key, outcome, outputs, message }
}

impl Runner {
    /// Runs the steps; gives the first failure and the job's outputs.
    async fn work(&mut self, job: &Job) -> Result<(Option<String>, Vec<(String, String)>), Wrong> {
        let mut frame = Frame::job(&self.context.workflow.file);
        let names: Vec<String> = job.steps.iter().map(steps::default_name).collect();
        self.context.board.job(&self.key, |status| {
            status.steps = (1..)
                .zip(job.steps.iter().zip(names))
                .map(|(number, (step, name))| StepStatus {
                    number,
                    id: step.id.clone(),
                    name,
                    status: "queued".into(),
                    ..StepStatus::default()
                })
                .collect();
        });
        self.defaults = self.read_defaults(job, &frame)?;
        self.environment(job, &frame, false)?;
        self.run_steps(&mut frame, &job.steps).await;
        self.environment(job, &frame, true)?;
        let outputs = self.outputs(&job.outputs, &frame)?;
        self.context.board.job(&self.key, |status| status.outputs = outputs.iter().cloned().collect());
        Ok((frame.failure, outputs))
    }

    /// What may be meant by a path that is not in the workspace.
    pub(crate) fn path_hint(&self, path: &Path) -> String {
        if self.workspace.names(Path::new("")).is_ok_and(|names| names.is_empty()) {
            return "the workspace is empty: add the step 'uses: actions/checkout@v4' before this one".into();
        }
        // The first part that is not there.
        let mut known = PathBuf::new();
        for part in path.components() {
            let part = part.as_os_str().to_string_lossy().into_owned();
            let Ok(names) = self.workspace.names(&known) else { break };
            if !names.contains(&part) {
                return match wharf_base::closest(&part, names.iter().map(String::as_str)) {
                    Some(meant) => format!("did you mean '{}'?", known.join(meant).display()),
                    None => absent(&part, &known, &names),
                };
            }
            known.push(part);
        }
        "paths begin in the workspace, into which actions/checkout puts the repository".into()
    }

    fn read_defaults(&self, job: &Job, frame: &Frame) -> Result<Defaults, Wrong> {
        let contexts = self.contexts(frame, &[]);
        self.with_env(&contexts, Status::default(), |env| {
            let text = |own: &Option<wharf_workflow::expr::Template>, outer: &Option<_>| {
                own.as_ref().or(outer.as_ref()).map(|template| template.text(env)).transpose()
            };
            let outer = &self.context.workflow.defaults;
            Ok(Defaults {
                shell: text(&job.defaults.shell, &outer.shell)?,
                working_directory: text(&job.defaults.working_directory, &outer.working_directory)?,
            })
        })
        .map_err(|error: EvalError| Wrong::eval("'defaults' of the job", &error))
    }

    /// Notes the environment the job deploys to; its address can only be told at the end.
    fn environment(&self, job: &Job, frame: &Frame, ended: bool) -> Result<(), Wrong> {
        let Some(environment) = &job.environment else { return Ok(()) };
        let contexts = self.contexts(frame, &[]);
        self.with_env(&contexts, Status::default(), |env| {
            let name = environment.name.text(env)?;
            let url = environment.url.as_ref().filter(|_| ended).map(|url| url.text(env)).transpose()?;
            self.context.board.job(&self.key, |status| {
                status.environment = name;
                status.url = url.unwrap_or_default();
            });
            Ok(())
        })
        .map_err(|error: EvalError| Wrong::eval("'environment' of the job", &error))
    }

    fn outputs(&self, outputs: &Settings, frame: &Frame) -> Result<Vec<(String, String)>, Wrong> {
        let contexts = self.contexts(frame, &[]);
        let mut found = Vec::new();
        for (name, template) in outputs {
            let value = self.with_env(&contexts, Status::default(), |env| template.text(env));
            let value =
                value.map_err(|error| Wrong::eval(&format!("the output '{name}' of the job"), &error))?;
            if self.log.mask(&value) == value {
                found.push((name.clone(), value));
            } else {
                self.log.say(0, &format!("Warning: the output '{name}' holds a secret and is left out"));
            }
        }
        Ok(found)
    }
}

/// The contexts of a job that do not change while it runs.
fn job_contexts(context: &RunContext, instance: &Instance, needs: Object) -> Object {
    let mut contexts = context.base.clone();
    let mut github =
        contexts.get("github").and_then(|github| github.as_object()).cloned().unwrap_or_default();
    github.set("job", instance.job.as_str());
    contexts.set("github", github);
    contexts.set("needs", needs);
    contexts.set("matrix", instance.matrix.clone());
    contexts.set("strategy", instance.strategy());
    contexts.set("secrets", context.secrets.clone());
    let runner: Object = [
        ("name", "wharf"),
        ("os", "Linux"),
        ("arch", if cfg!(target_arch = "aarch64") { "ARM64" } else { "X64" }),
        ("temp", "/github/temp"),
        ("tool_cache", "/github/temp/tools"),
        ("environment", "self-hosted"),
    ]
    .into_iter()
    .collect();
    contexts.set("runner", runner);
    contexts
}

/// Settings of several levels, the later ones hiding the earlier, each level seeing those before it.
fn settings(contexts: &Object, levels: &[&Settings]) -> Result<Vec<(String, String)>, Wrong> {
    let mut found: Vec<(String, String)> = Vec::new();
    let no_files = |_: &[String]| Err("hashFiles cannot be used here".to_owned());
    for level in levels {
        let mut contexts = contexts.clone();
        contexts.set("env", found.iter().map(|(k, v)| (k, v)).collect::<Object>());
        let env = Env { contexts: &contexts, status: Status::default(), hash_files: &no_files };
        for (name, template) in *level {
            let value =
                template.text(&env).map_err(|error| Wrong::eval(&format!("the setting '{name}'"), &error))?;
            set(&mut found, name, value);
        }
    }
    Ok(found)
}

/// Sets a variable, in the place it had.
pub(crate) fn set(env: &mut Vec<(String, String)>, name: &str, value: String) {
    match env.iter_mut().find(|(known, _)| known == name) {
        Some(known) => known.1 = value,
        None => env.push((name.to_owned(), value)),
    }
}

/// Whether this runner has a label.
///
/// # Errors
/// When it does not.
pub(crate) fn check_label(label: &str) -> Result<(), Wrong> {
    let known = LABELS.iter().any(|known| known.eq_ignore_ascii_case(label)) || label.starts_with("ubuntu-");
    if known {
        return Ok(());
    }
    let hint = "write 'runs-on: wharf' and name an image by 'container:'";
    Err(Wrong::hinted(format!("no runner has the label '{label}'"), hint))
}

/// A job names no image, and there is none for such jobs.
pub(crate) fn no_image(job: &str) -> Wrong {
    Wrong::hinted(
        format!("the job '{job}' names no image, and there is no image '{DEFAULT_IMAGE}'"),
        format!("add 'container: IMAGE' to the job, or make one by 'wharf image pack {DEFAULT_IMAGE} sh …'"),
    )
}

/// The image a job runs in, and where it is named.
fn image(
    context: &RunContext,
    job: &Job,
    contexts: &Object,
    log: &JobLog,
) -> Result<(String, Position), Problem> {
    let file = &context.workflow.file;
    let no_files = |_: &[String]| Err("hashFiles cannot be used here".to_owned());
    let env = Env { contexts, status: Status::default(), hash_files: &no_files };
    for (at, label) in &job.runs_on {
        let label = label.text(&env).map_err(|error| Wrong::eval("'runs-on'", &error).at(file, *at))?;
        check_label(&label).map_err(|wrong| wrong.at(file, *at))?;
        if label.starts_with("ubuntu-") {
            log.say(
                0,
                &format!("Warning: '{label}' means this runner; its tools are those of the job's image"),
            );
        }
    }
    if let Some(container) = &job.container {
        let image = container.image.text(&env);
        let image = image.map_err(|error| Wrong::eval("'container'", &error).at(file, container.at))?;
        if !image.is_empty() {
            return Ok((image, container.at));
        }
    }
    if context.shared.config.sandboxes.find_image(DEFAULT_IMAGE).is_err() {
        return Err(no_image(&job.id).at(file, job.at));
    }
    Ok((DEFAULT_IMAGE.to_owned(), job.at))
}

/// Brings an image that is not here from its registry.
async fn pull(context: &RunContext, image: &str, log: &JobLog, cancel: &mut Cancel) -> anyhow::Result<()> {
    let missing = match context.shared.config.sandboxes.find_image(image) {
        Err(error @ wharf_image::Error::NoImage { .. }) => error,
        other => return other.map_err(Into::into),
    };
    let hint = missing.hint().unwrap_or_default();
    let Some(pull) = &context.shared.config.services.pull else {
        return Err(Hinted::new(missing, hint).into());
    };
    log.say(0, &format!("Pulling {image}, which is not here"));
    let pulled = tokio::select! {
        pulled = pull.pull(image) => pulled,
        _ = cancel.stopped() => anyhow::bail!("the job was stopped"),
    };
    pulled.map_err(|error| Hinted::new(format!("{missing}, and it cannot be pulled: {error:#}"), hint).into())
}

/// What to say about a name that is not in a folder of the workspace.
fn absent(part: &str, folder: &Path, names: &[String]) -> String {
    let place = match folder.as_os_str().is_empty() {
        true => "the workspace".to_owned(),
        false => format!("{} of the workspace", folder.display()),
    };
    match wharf_base::some_of(names.iter().filter(|name| !name.starts_with('.'))) {
        None => format!("there is no '{part}' in {place}, which is empty"),
        Some(names) => format!("there is no '{part}' in {place}, only {names}"),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_that_are_not_there_are_told_with_those_that_are() {
        let names = |count: usize| (0..count).map(|n| format!("f{n}")).collect::<Vec<_>>();
        for (folder, names, expected) in [
            ("", names(2), "there is no 'nope' in the workspace, only f0, f1"),
            ("a/b", vec!["x".into(), ".git".into()], "there is no 'nope' in a/b of the workspace, only x"),
            ("a", Vec::new(), "there is no 'nope' in a of the workspace, which is empty"),
        ] {
            assert_eq!(absent("nope", Path::new(folder), &names), expected);
        }
        assert!(absent("nope", Path::new(""), &names(11)).ends_with("f8, …"));
    }
}
