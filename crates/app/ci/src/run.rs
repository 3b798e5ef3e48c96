//! One run, from its workflow file to its end.

use std::{
    collections::HashMap,
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use sha2::{Digest as _, Sha256};
use tokio::sync::{mpsc, watch};
use wharf_base::{Clock as _, SystemClock, Timestamp};
use wharf_gitserver::{Commit, Repository};
use wharf_workflow::{
    Masker,
    expr::{Env, EvalError, Object, Status, Value},
    model::Workflow,
    read_workflow,
    run::{Action, Event, Outcome, Run, Stop, step},
};

use crate::{
    api::{RunPhase, RunSpec, WorkflowRun},
    check::check,
    controller::Shared,
    job::{self, JobEnd, JobOrder},
    sandbox::{Cancel, StopReason},
    secrets,
    status::{Board, conclude, now},
    wrong::Wrong,
};

/// A run in a concurrency group.
pub(crate) struct Member {
    name: String,
    cancel: watch::Sender<bool>,
}

/// What the jobs of a run share.
pub(crate) struct RunContext {
    pub(crate) shared: Arc<Shared>,
    pub(crate) uid: String,
    pub(crate) spec: RunSpec,
    pub(crate) workflow: Workflow,
    /// The contexts `github`, `vars` and `inputs`.
    pub(crate) base: Object,
    pub(crate) secrets: Object,
    pub(crate) masker: Arc<Mutex<Masker>>,
    pub(crate) board: Board,
    pub(crate) folder: PathBuf,
    pub(crate) repository: Repository,
}

/// The id of a job's sandbox on this machine.
pub(crate) fn sandbox_id(run: &str, job: &str) -> String {
    let digest = Sha256::digest(format!("{run}/{job}"));
    let hex: String = digest.iter().take(8).map(|byte| format!("{byte:02x}")).collect();
    format!("ci-{hex}")
}

/// Removes what a job leaves on disk, but not its log and summary.
pub(crate) fn remove_job_files(folder: &Path) {
    for name in ["workspace", "files", "home", "temp", "pod", "checkout"] {
        match std::fs::remove_dir_all(folder.join(name)) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                tracing::warn!(folder = %folder.display(), %error, "cannot remove the files of a job");
            }
            _ => {}
        }
    }
}

/// Works a run off.
pub(crate) async fn execute(shared: Arc<Shared>, object: WorkflowRun, cancelled: watch::Receiver<bool>) {
    let (name, uid) = (object.metadata.name.clone(), object.metadata.uid.clone());
    let board = Board::new(object.status.clone());
    let client = shared.config.client.clone();
    let writer = board.write_to(client.clone(), name.clone());
    board.update(|status| {
        status.phase = RunPhase::Running;
        status.started_at = Some(now());
    });
    let (phase, reason, message) = match prepare(&shared, &object, &board).await {
        Ok(context) => drive(Arc::new(context), &name, cancelled).await,
        Err(error) => (RunPhase::Failed, "Invalid", format!("{error:#}")),
    };
    board.update(|status| conclude(status, phase, reason, &message));
    writer.abort();
    board.flush(&client, &name).await;
    shared.logs.ended(&uid, phase, &message);
}

async fn prepare(shared: &Arc<Shared>, object: &WorkflowRun, board: &Board) -> anyhow::Result<RunContext> {
    let spec = &object.spec;
    let repository = shared.config.repositories.get(&spec.repository)?;
    let commit = repository.commit(&spec.sha).await?;
    board.update(|status| status.title = commit.message.lines().next().unwrap_or_default().to_owned());
    let text = repository.read_file(&spec.sha, &spec.workflow).await?;
    let text = text.ok_or_else(|| anyhow::anyhow!("the commit {} has no {}", spec.sha, spec.workflow))?;
    let workflow = read_workflow(&spec.workflow, &String::from_utf8_lossy(&text))?;
    board.update(|status| status.workflow_name.clone_from(&workflow.name));
    check(&workflow, &repository, &spec.sha, &shared.actions, &*shared.config.sandboxes).await?;
    let client = &shared.config.client;
    let secrets = secrets::secrets(client, &spec.repository).await?;
    let texts: Vec<String> = secrets.iter().map(|(_, value)| value.to_text()).collect();
    let masker = Masker::new(texts.iter().map(String::as_str));
    let mut base = Object::new();
    base.set("vars", secrets::variables(client, &spec.repository).await?);
    base.set("github", github(shared, object, &workflow, &commit));
    base.set("inputs", inputs(&workflow, spec, &base)?);
    if let Some(name) = &workflow.run_name {
        let env = Env { contexts: &base, status: Status::default(), hash_files: &no_files };
        let title = name.text(&env).map_err(|error| anyhow::anyhow!("'run-name': {error}"))?;
        // As on GitHub, an empty one leaves the commit's.
        if !title.trim().is_empty() {
            board.update(|status| title.trim().clone_into(&mut status.title));
        }
    }
    Ok(RunContext {
        folder: shared.runs_dir().join(&object.metadata.uid),
        shared: Arc::clone(shared),
        uid: object.metadata.uid.clone(),
        spec: spec.clone(),
        workflow,
        base,
        secrets,
        masker: Arc::new(Mutex::new(masker)),
        board: board.clone(),
        repository,
    })
}

/// The `github` context, as far as there is one without a forge.
fn github(shared: &Shared, object: &WorkflowRun, workflow: &Workflow, commit: &Commit) -> Object {
    let spec = &object.spec;
    let (kind, short) =
        match (spec.reference.strip_prefix("refs/heads/"), spec.reference.strip_prefix("refs/tags/")) {
            (Some(branch), _) => ("branch", branch),
            (_, Some(tag)) => ("tag", tag),
            _ => ("", spec.reference.as_str()),
        };
    let person: Object =
        [("name", commit.author.as_str()), ("email", commit.email.as_str())].into_iter().collect();
    let head: Object = [
        ("id", Value::from(spec.sha.as_str())),
        ("message", commit.message.as_str().into()),
        ("timestamp", commit.time.as_str().into()),
        ("author", person.into()),
    ]
    .into_iter()
    .collect();
    let repository: Object =
        [("name", spec.repository.as_str()), ("full_name", spec.repository.as_str())].into_iter().collect();
    let mut event = Object::new();
    event.set("ref", spec.reference.as_str());
    event.set("before", spec.before.as_str());
    event.set("after", spec.sha.as_str());
    event.set("head_commit", head);
    event.set("repository", repository);
    let mut github: Object = [
        ("sha", spec.sha.as_str()),
        ("ref", spec.reference.as_str()),
        ("ref_name", short),
        ("ref_type", kind),
        ("event_name", spec.event.as_str()),
        ("repository", spec.repository.as_str()),
        ("repository_owner", ""),
        ("actor", spec.actor.as_str()),
        ("triggering_actor", spec.actor.as_str()),
        ("workflow", workflow.name.as_str()),
        ("workflow_ref", &format!("{}/{}@{}", spec.repository, spec.workflow, spec.reference)),
        ("workflow_sha", spec.sha.as_str()),
        ("run_id", object.metadata.uid.as_str()),
        ("run_number", &spec.number.to_string()),
        ("run_attempt", &spec.attempt.max(1).to_string()),
        ("server_url", shared.config.git_url.as_str()),
        ("workspace", crate::sandbox::WORKSPACE),
        ("head_ref", ""),
        ("base_ref", ""),
    ]
    .into_iter()
    .collect();
    github.set("event", event);
    github
}

fn no_files(_: &[String]) -> Result<String, String> {
    Err("hashFiles cannot be used here".to_owned())
}

/// The inputs of `workflow_dispatch`, checked against what the workflow declares.
fn inputs(workflow: &Workflow, spec: &RunSpec, base: &Object) -> anyhow::Result<Object> {
    let declared = workflow.on.dispatch.as_deref().unwrap_or_default();
    if let Some(unknown) = spec.inputs.keys().find(|name| !declared.iter().any(|input| input.name == **name))
    {
        anyhow::bail!("the workflow has no input '{unknown}'");
    }
    let mut inputs = Object::new();
    if spec.event != "workflow_dispatch" {
        return Ok(inputs);
    }
    anyhow::ensure!(workflow.on.dispatch.is_some(), "{} is not started by workflow_dispatch", workflow.file);
    let env = Env { contexts: base, status: Status::default(), hash_files: &no_files };
    for input in declared {
        let text = match (spec.inputs.get(&input.name), &input.default) {
            (Some(given), _) => given.clone(),
            (None, Some(default)) => default.text(&env)?,
            (None, None) if input.required => anyhow::bail!("the input '{}' is required", input.name),
            (None, None) => String::new(),
        };
        let value: Value = match input.kind.as_str() {
            "boolean" => (text == "true").into(),
            "number" => Value::from(text.as_str()).to_number().into(),
            "choice" if !input.options.contains(&text) => {
                anyhow::bail!("the input '{}' must be one of {}", input.name, input.options.join(", "))
            }
            _ => text.into(),
        };
        inputs.set(input.name.clone(), value);
    }
    Ok(inputs)
}

type Ended = (RunPhase, &'static str, String);

/// Waits for the run's turn in its concurrency group, then lets the scheduler decide until all jobs are done.
async fn drive(context: Arc<RunContext>, name: &str, mut cancelled: watch::Receiver<bool>) -> Ended {
    let turn = match Turn::take(&context, name) {
        Ok(turn) => turn,
        Err(error) => {
            return (RunPhase::Failed, "Invalid", Wrong::eval("'concurrency'", &error).to_string());
        }
    };
    let mut interrupt = context.shared.interrupt.subscribe();
    let mut displaced = turn.as_ref().map(Turn::displaced);
    if let Some(turn) = &turn {
        tokio::select! {
            () = turn.wait() => {}
            () = set(&mut cancelled) => {
                return (RunPhase::Cancelled, "Cancelled", "it was cancelled while it waited for its turn".into());
            }
            () = told(displaced.as_mut()) => {
                return (RunPhase::Cancelled, "Displaced", "a newer run took its place".into());
            }
            () = set(&mut interrupt) => return interrupted(name),
        }
    }
    let mut scheduler = Scheduler::new(Arc::clone(&context));
    let mut events = Vec::new();
    let mut told_to_cancel = false;
    loop {
        let wake = scheduler.decide(&events);
        events.clear();
        if let Some(outcome) = scheduler.run.outcome() {
            return match outcome {
                Outcome::Success | Outcome::Skipped => (RunPhase::Succeeded, "Completed", String::new()),
                Outcome::Cancelled => (RunPhase::Cancelled, "Cancelled", String::new()),
                Outcome::Failure => (RunPhase::Failed, "JobsFailed", scheduler.failures()),
            };
        }
        let sleep = wake.map_or(Duration::from_secs(3600), |wake| wake.since(SystemClock.now()));
        tokio::select! {
            Some(end) = scheduler.ends.recv() => events.push(scheduler.ended(end)),
            () = set(&mut cancelled), if !told_to_cancel => {
                told_to_cancel = true;
                events.push(Event::Cancel);
            }
            () = told(displaced.as_mut()), if !told_to_cancel => {
                told_to_cancel = true;
                events.push(Event::Cancel);
            }
            () = set(&mut interrupt) => {
                scheduler.interrupt().await;
                return interrupted(name);
            }
            () = tokio::time::sleep(sleep) => {}
        }
    }
}

/// Waits until a flag is set; for ever when nobody can set it any more.
async fn set(flag: &mut watch::Receiver<bool>) {
    if flag.wait_for(|flag| *flag).await.is_err() {
        std::future::pending::<()>().await;
    }
}

async fn told(cancel: Option<&mut watch::Receiver<bool>>) {
    match cancel {
        Some(cancel) => set(cancel).await,
        None => std::future::pending().await,
    }
}

fn interrupted(name: &str) -> Ended {
    let message = format!("the platform stopped while it ran; 'wharf runs rerun {name}' starts it again");
    (RunPhase::Interrupted, "Interrupted", message)
}

/// Starts and stops jobs as the pure scheduler says.
struct Scheduler {
    context: Arc<RunContext>,
    run: Run,
    jobs: HashMap<String, watch::Sender<Option<StopReason>>>,
    ends: mpsc::UnboundedReceiver<JobEnd>,
    end: mpsc::UnboundedSender<JobEnd>,
}

impl Scheduler {
    fn new(context: Arc<RunContext>) -> Self {
        let (end, ends) = mpsc::unbounded_channel();
        Self { run: Run::new(&context.workflow), context, jobs: HashMap::new(), ends, end }
    }

    /// Lets the scheduler decide and does what it says. Gives the time to look again.
    fn decide(&mut self, events: &[Event]) -> Option<Timestamp> {
        let context = Arc::clone(&self.context);
        let actions = step(&context.workflow, &context.base, &mut self.run, events, SystemClock.now());
        let needs = |id: &str| {
            context
                .workflow
                .jobs
                .iter()
                .find(|job| job.id == id)
                .map(|job| job.needs.clone())
                .unwrap_or_default()
        };
        context.board.follow(&self.run, needs);
        let mut wake = None;
        for action in actions {
            match action {
                Action::Start { key } => self.start(&key),
                Action::Stop { key, why } => {
                    let reason = match why {
                        Stop::TimedOut => StopReason::TimedOut,
                        Stop::Cancelled | Stop::FailFast => StopReason::Cancelled,
                    };
                    if let Some(stop) = self.jobs.get(&key) {
                        stop.send_replace(Some(reason));
                    }
                }
                Action::WakeAt(time) => wake = Some(time),
            }
        }
        wake
    }

    fn start(&mut self, key: &str) {
        let Some(instance) = self.run.instance(key).cloned() else { return };
        let Some(job) = self.context.workflow.jobs.iter().find(|job| job.id == instance.job) else { return };
        let (stop, cancel) = Cancel::new();
        self.jobs.insert(key.to_owned(), stop);
        let order = JobOrder {
            needs: self.run.needs(job),
            job: job.clone(),
            context: Arc::clone(&self.context),
            instance,
            cancel,
        };
        let end = self.end.clone();
        tokio::spawn(async move {
            let key = order.instance.key.clone();
            // A job that panics must not leave its run waiting for ever.
            let done = tokio::spawn(job::run(order)).await;
            let done =
                done.unwrap_or_else(|_| JobEnd::failed(key, "the runner failed; its log tells more".into()));
            let _ = end.send(done);
        });
    }

    fn ended(&mut self, end: JobEnd) -> Event {
        self.jobs.remove(&end.key);
        Event::Finished { key: end.key, outcome: end.outcome, outputs: end.outputs, message: end.message }
    }

    async fn interrupt(&mut self) {
        for stop in self.jobs.values() {
            stop.send_replace(Some(StopReason::Interrupted));
        }
        while !self.jobs.is_empty() {
            let Some(end) = self.ends.recv().await else { return };
            self.jobs.remove(&end.key);
        }
    }

    fn failures(&self) -> String {
        let failed: Vec<&str> = self
            .run
            .jobs
            .iter()
            .filter(|job| job.result == Some(Outcome::Failure))
            .map(|job| job.id.as_str())
            .collect();
        format!("failed: {}", failed.join(", "))
    }
}

/// A run's place in its concurrency group, given up when dropped.
struct Turn {
    shared: Arc<Shared>,
    group: String,
    name: String,
    displaced: watch::Receiver<bool>,
}

impl Turn {
    fn take(context: &RunContext, name: &str) -> Result<Option<Self>, EvalError> {
        let Some(concurrency) = &context.workflow.concurrency else { return Ok(None) };
        let env = Env { contexts: &context.base, status: Status::default(), hash_files: &no_files };
        let group = concurrency.group.text(&env)?;
        let replace = wharf_workflow::run::flag(Some(&concurrency.cancel_in_progress), false, &env)?;
        if group.is_empty() {
            return Ok(None);
        }
        context.board.update(|status| status.concurrency_group.clone_from(&group));
        let group = format!("{}/{group}", context.spec.repository);
        let shared = Arc::clone(&context.shared);
        let cancel = watch::Sender::new(false);
        let displaced = cancel.subscribe();
        {
            let mut groups = shared.groups.lock().unwrap_or_else(PoisonError::into_inner);
            let members = groups.entry(group.clone()).or_default();
            // Only the newest waits: those before it give way, the running one only if asked to.
            let keep = if replace { 0 } else { 1 };
            members.iter().skip(keep).for_each(|member| {
                member.cancel.send_replace(true);
            });
            members.push(Member { name: name.to_owned(), cancel });
        }
        Ok(Some(Self { shared, group, name: name.to_owned(), displaced }))
    }

    fn displaced(&self) -> watch::Receiver<bool> {
        self.displaced.clone()
    }

    async fn wait(&self) {
        let mut changed = self.shared.groups_changed.subscribe();
        loop {
            let first = {
                let groups = self.shared.groups.lock().unwrap_or_else(PoisonError::into_inner);
                groups
                    .get(&self.group)
                    .and_then(|members| members.first())
                    .is_none_or(|m| m.name == self.name)
            };
            if first || changed.changed().await.is_err() {
                return;
            }
        }
    }
}

impl Drop for Turn {
    fn drop(&mut self) {
        let mut groups = self.shared.groups.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(members) = groups.get_mut(&self.group) {
            members.retain(|member| member.name != self.name);
            if members.is_empty() {
                groups.remove(&self.group);
            }
        }
        drop(groups);
        self.shared.groups_changed.send_modify(|count| *count += 1);
    }
}
