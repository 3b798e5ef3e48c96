//! The loop: WorkflowRuns that nobody works on are started, cancelled ones stopped, repositories kept in step with
//! their objects, and what a killed process left is put in order.

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
};

use anyhow::Context as _;
use serde_json::{Value, json};
use tokio::{
    sync::{Semaphore, watch},
    task::JoinSet,
};
use wharf_client::{Client, Informer, ListParams, PatchKind};
use wharf_gitserver::{GitError, PushHook, Repositories};

use crate::{
    actions::Registry,
    api::{NAMESPACE, REPOSITORIES, RunPhase, WORKFLOW_RUNS, WorkflowRun},
    hook::Hook,
    logs::LogBook,
    run,
    sandbox::Sandboxes,
    services::Services,
    status::{Board, conclude, now},
};

/// Keeps a repository's object until its folder is gone.
const FINALIZER: &str = "ci.wharf.dev/repository";

/// What the loop works with.
pub struct Config {
    /// The platform's folder; `ci/` in it is this room's.
    pub data: PathBuf,
    /// The API.
    pub client: Client,
    /// The repositories.
    pub repositories: Repositories,
    /// Where jobs run.
    pub sandboxes: Arc<dyn Sandboxes>,
    /// What built-in actions need of other parts.
    pub services: Services,
    /// Address people push to, without the name: `http://127.0.0.1:7070/git`.
    pub git_url: String,
    /// Jobs that run at once.
    pub jobs_at_once: usize,
}

/// What all runs share.
pub(crate) struct Shared {
    pub(crate) config: Config,
    pub(crate) logs: LogBook,
    pub(crate) slots: Arc<Semaphore>,
    pub(crate) actions: Registry,
    /// True once the platform stops.
    pub(crate) interrupt: watch::Sender<bool>,
    /// Tells a run that it is to end.
    cancels: Mutex<HashMap<String, watch::Sender<bool>>>,
    /// Runs of a concurrency group, the oldest first.
    pub(crate) groups: Mutex<HashMap<String, Vec<run::Member>>>,
    pub(crate) groups_changed: watch::Sender<u64>,
}

impl Shared {
    pub(crate) fn runs_dir(&self) -> PathBuf {
        self.config.data.join("ci/runs")
    }

    pub(crate) fn artifacts_dir(&self) -> PathBuf {
        self.config.data.join("ci/artifacts")
    }
}

/// Runs workflows. Ends with [`Ci::stop`].
pub struct Ci {
    shared: Arc<Shared>,
    informers: [Informer; 2],
    tasks: tokio::sync::Mutex<JoinSet<()>>,
}

impl Ci {
    /// Puts in order what an earlier process left, then starts the loop. The kinds of `ci.wharf.dev` must be served.
    ///
    /// # Errors
    /// When the API cannot be read or written, or the folder cannot be made.
    pub async fn start(config: Config) -> anyhow::Result<Arc<Self>> {
        let runs = config.data.join("ci/runs");
        std::fs::create_dir_all(&runs)
            .with_context(|| format!("cannot make the folder {}", runs.display()))?;
        let client = config.client.clone();
        let namespace = json!({"apiVersion": "v1", "kind": "Namespace", "metadata": {"name": NAMESPACE}});
        match client.create(&wharf_control::action::NAMESPACES, "", &namespace).await {
            Err(error) if !error.is_already_exists() => return Err(error.into()),
            _ => {}
        }
        let shared = Arc::new(Shared {
            logs: LogBook::new(runs),
            slots: Arc::new(Semaphore::new(config.jobs_at_once.max(1))),
            actions: Registry::built_in(),
            interrupt: watch::Sender::new(false),
            cancels: Mutex::default(),
            groups: Mutex::default(),
            groups_changed: watch::Sender::new(0),
            config,
        });
        recover(&shared).await?;
        let params = ListParams::namespace(NAMESPACE);
        let informers = [
            Informer::start(client.clone(), REPOSITORIES, params.clone()),
            Informer::start(client, WORKFLOW_RUNS, params),
        ];
        let mut tasks = JoinSet::new();
        tasks.spawn(keep_repositories(Arc::clone(&shared), informers[0].clone()));
        tasks.spawn(keep_runs(Arc::clone(&shared), informers[1].clone()));
        Ok(Arc::new(Self { shared, informers, tasks: tokio::sync::Mutex::new(tasks) }))
    }

    /// What the git server tells of pushes.
    pub fn hook(&self) -> Arc<dyn PushHook> {
        Arc::new(Hook(Arc::clone(&self.shared)))
    }

    /// The logs of jobs.
    pub fn logs(&self) -> LogBook {
        self.shared.logs.clone()
    }

    /// Repositories and runs as they were last seen.
    pub fn informers(&self) -> &[Informer; 2] {
        &self.informers
    }

    /// Ends all jobs, marks their runs as interrupted, and returns once they are.
    pub async fn stop(&self) {
        self.shared.interrupt.send_replace(true);
        let mut tasks = self.tasks.lock().await;
        while tasks.join_next().await.is_some() {}
    }
}

/// Marks runs that were under way as interrupted, and ends the containers of their jobs.
async fn recover(shared: &Arc<Shared>) -> anyhow::Result<()> {
    let client = &shared.config.client;
    for object in client.list(&WORKFLOW_RUNS, &ListParams::namespace(NAMESPACE)).await?.items {
        let Ok(run) = wharf_control::read::<WorkflowRun>(&object) else { continue };
        if run.status.phase != RunPhase::Running {
            continue;
        }
        let mut status = run.status;
        let again = format!("'wharf runs rerun {}' starts it again", run.metadata.name);
        conclude(
            &mut status,
            RunPhase::Interrupted,
            "Interrupted",
            &format!("the platform stopped while it ran; {again}"),
        );
        Board::new(status).flush(client, &run.metadata.name).await;
    }
    let shared = Arc::clone(shared);
    tokio::task::spawn_blocking(move || clean_up(&shared)).await?;
    Ok(())
}

fn clean_up(shared: &Shared) {
    let folders = |path: PathBuf| std::fs::read_dir(path).into_iter().flatten().flatten();
    for run in folders(shared.runs_dir()) {
        for job in folders(run.path()) {
            let pod = job.path().join("pod");
            if !pod.is_dir() {
                continue;
            }
            let id = run::sandbox_id(&run.file_name().to_string_lossy(), &job.file_name().to_string_lossy());
            match shared.config.sandboxes.clean_up(&id, &pod) {
                Ok(()) => run::remove_job_files(&job.path()),
                Err(error) => {
                    tracing::warn!(job = %job.path().display(), %error, "cannot clean up after an interrupted job");
                }
            }
        }
    }
}

async fn keep_runs(shared: Arc<Shared>, informer: Informer) {
    let mut changes = informer.subscribe();
    let mut interrupt = shared.interrupt.subscribe();
    let mut runs = JoinSet::new();
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            _ = interrupt.wait_for(|stop| *stop) => break,
            Some(_) = runs.join_next(), if !runs.is_empty() => continue,
        };
        let Some(change) = change else { break };
        let name = change.key.rsplit('/').next().unwrap_or_default().to_owned();
        let Some(object) = change.new else {
            cancel(&shared, &name);
            shared.cancels.lock().unwrap_or_else(PoisonError::into_inner).remove(&name);
            continue;
        };
        let Ok(run) = wharf_control::read::<WorkflowRun>(&object) else {
            tracing::warn!(run = name, "a run is not readable");
            continue;
        };
        if run.spec.cancel || run.metadata.deleting() {
            cancel(&shared, &name);
        }
        let known = shared.cancels.lock().unwrap_or_else(PoisonError::into_inner).contains_key(&name);
        if run.status.phase != RunPhase::Pending || known {
            continue;
        }
        let sender = watch::Sender::new(run.spec.cancel);
        let cancelled = sender.subscribe();
        shared.cancels.lock().unwrap_or_else(PoisonError::into_inner).insert(name.clone(), sender);
        let shared = Arc::clone(&shared);
        // It is forgotten only with its object: the informer may show it as pending for a moment after its end.
        runs.spawn(run::execute(shared, run, cancelled));
    }
    while runs.join_next().await.is_some() {}
}

fn cancel(shared: &Shared, name: &str) {
    let cancels = shared.cancels.lock().unwrap_or_else(PoisonError::into_inner);
    if let Some(sender) = cancels.get(name) {
        sender.send_if_modified(|cancelled| !std::mem::replace(cancelled, true));
    }
}

async fn keep_repositories(shared: Arc<Shared>, informer: Informer) {
    let mut changes = informer.subscribe();
    let mut interrupt = shared.interrupt.subscribe();
    loop {
        let change = tokio::select! {
            change = changes.recv() => change,
            _ = interrupt.wait_for(|stop| *stop) => return,
        };
        let Some(change) = change else { return };
        let Some(object) = change.new else { continue };
        let name = change.key.rsplit('/').next().unwrap_or_default();
        if let Err(error) = keep_repository(&shared, name, &object).await {
            tracing::warn!(repository = name, %error, "cannot bring a repository in line with its object");
        }
    }
}

async fn keep_repository(shared: &Shared, name: &str, object: &Value) -> anyhow::Result<()> {
    let (client, repositories) = (&shared.config.client, &shared.config.repositories);
    let meta: wharf_control::meta::Meta =
        object.get("metadata").map(wharf_control::read).transpose()?.unwrap_or_default();
    let finalizers = |list: Vec<String>| json!({"metadata": {"finalizers": list}});
    if meta.deleting() {
        match repositories.remove(name) {
            Ok(()) | Err(GitError::NotFound(_) | GitError::Name(_)) => {}
            Err(error) => return Err(error.into()),
        }
        let rest = meta.finalizers.into_iter().filter(|f| f != FINALIZER).collect();
        let body = finalizers(rest);
        return match client.patch(&REPOSITORIES, NAMESPACE, name, None, PatchKind::Merge, &body).await {
            Err(error) if !error.is_not_found() => Err(error.into()),
            _ => Ok(()),
        };
    }
    if !meta.has_finalizer(FINALIZER) {
        let mut list = meta.finalizers;
        list.push(FINALIZER.into());
        client.patch(&REPOSITORIES, NAMESPACE, name, None, PatchKind::Merge, &finalizers(list)).await?;
    }
    let made = match repositories.create(name).await {
        Ok(_) | Err(GitError::Exists(_)) => Ok(()),
        Err(error) => Err(error.to_string()),
    };
    let wanted = if made.is_ok() { "True" } else { "False" };
    let url = format!("{}/{name}.git", shared.config.git_url);
    let same = object.pointer("/status/conditions/0/status").and_then(Value::as_str) == Some(wanted)
        && object.pointer("/status/url").and_then(Value::as_str) == Some(&url);
    if !same {
        let condition = json!({
            "type": "Ready", "status": wanted, "lastTransitionTime": now(),
            "reason": if made.is_ok() { "Served" } else { "Failed" },
            "message": made.err().unwrap_or_default(),
        });
        client
            .patch_status(&REPOSITORIES, NAMESPACE, name, &json!({"url": url, "conditions": [condition]}))
            .await?;
    }
    Ok(())
}
