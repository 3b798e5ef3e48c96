//! A push: one WorkflowRun for each workflow it starts, and their logs on the terminal that pushed.

use std::{collections::BTreeMap, future::Future, pin::Pin, sync::Arc};

use serde_json::Value;
use tokio::sync::broadcast::{Receiver, error::RecvError};
use wharf_client::{Client, ListParams};
use wharf_gitserver::{Follow, Push, PushHook, RefChange, Repository, Terminal};
use wharf_workflow::read_workflow;

use crate::{
    api::{
        NAMESPACE, REPOSITORIES, RunPhase, RunSpec, WORKFLOW_RUNS, WorkflowRun, create_run, new_repository,
    },
    controller::Shared,
    logs::LogEvent,
};

const FOLDER: &str = ".github/workflows";
/// Workflow files of a commit that are looked at.
const MAX_FILES: usize = 100;

pub(crate) struct Hook(pub(crate) Arc<Shared>);

impl PushHook for Hook {
    fn pushed(&self, push: Push, terminal: Terminal) -> Pin<Box<dyn Future<Output = Option<Follow>> + Send>> {
        let shared = Arc::clone(&self.0);
        Box::pin(async move {
            let repository = push.repository.clone();
            // Listening begins before the runs do, so that no line is lost.
            let events = shared.logs.subscribe();
            match start(&shared, push, &terminal).await {
                Ok(runs) => Some(Box::pin(follow(runs, events, terminal)) as Follow),
                Err(error) => {
                    tracing::error!(repository, %error, "cannot start the workflows of a push");
                    let why = format!("error: cannot start the workflows of this push: {error}");
                    terminal.line(&why).await;
                    None
                }
            }
        })
    }
}

/// Names of runs by uid.
type Runs = BTreeMap<String, String>;

/// Makes the runs of a push.
async fn start(shared: &Arc<Shared>, push: Push, terminal: &Terminal) -> anyhow::Result<Runs> {
    let client = &shared.config.client;
    let object = new_repository(&push.repository, "");
    match client.create(&REPOSITORIES, NAMESPACE, &object).await {
        Err(error) if !error.is_already_exists() => return Err(error.into()),
        _ => {}
    }
    let repository = shared.config.repositories.get(&push.repository)?;
    let known = if push.again { specs(client, &push.repository).await? } else { Vec::new() };
    let mut runs = Runs::new();
    for change in &push.changes {
        for file in matching(&repository, change, &push.changes, terminal).await? {
            let spec = RunSpec {
                repository: push.repository.clone(),
                reference: change.reference.clone(),
                sha: repository.resolve(&change.after).await?.unwrap_or_else(|| change.after.clone()),
                before: change.before.clone(),
                workflow: file.clone(),
                event: "push".into(),
                attempt: 1,
                actor: push.pusher.clone(),
                ..RunSpec::default()
            };
            if known.iter().any(|known| same_push(known, &spec)) {
                continue;
            }
            let run = create_run(client, spec).await?;
            let text = |pointer| run.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned();
            terminal.line(&format!("run {}: {file}", text("/metadata/name"))).await;
            runs.insert(text("/metadata/uid"), text("/metadata/name"));
        }
    }
    Ok(runs)
}

/// What the runs of a repository were made for.
async fn specs(client: &Client, repository: &str) -> anyhow::Result<Vec<RunSpec>> {
    let all = client.list(&WORKFLOW_RUNS, &ListParams::namespace(NAMESPACE)).await?.items;
    let specs = all.iter().filter_map(|run| Some(wharf_control::read::<WorkflowRun>(run).ok()?.spec));
    Ok(specs.filter(|spec| spec.repository == repository).collect())
}

fn same_push(a: &RunSpec, b: &RunSpec) -> bool {
    let of = |spec: &RunSpec| {
        [&spec.reference, &spec.before, &spec.sha, &spec.workflow, &spec.event].map(String::clone)
    };
    of(a) == of(b)
}

/// Shows the logs of runs until they end.
async fn follow(mut runs: Runs, mut events: Receiver<LogEvent>, terminal: Terminal) {
    while !runs.is_empty() && terminal.is_open() {
        match events.recv().await {
            Ok(LogEvent::Line(line)) if runs.contains_key(&*line.run) => {
                terminal.line(&format!("{} | {}", line.job, line.text)).await;
            }
            Ok(LogEvent::Ended { run, phase, message }) => {
                if let Some(name) = runs.remove(&*run) {
                    terminal.line(&ending(&name, phase, &message)).await;
                }
            }
            Ok(LogEvent::Line(_)) => {}
            Err(RecvError::Lagged(count)) => {
                terminal.line(&format!("... {count} lines left out: 'wharf runs logs' has them all")).await;
            }
            Err(RecvError::Closed) => break,
        }
    }
}

fn ending(name: &str, phase: RunPhase, message: &str) -> String {
    let word = match phase {
        RunPhase::Succeeded => "succeeded",
        RunPhase::Cancelled => "was cancelled",
        RunPhase::Interrupted => "was interrupted",
        _ => "failed",
    };
    if message.is_empty() { format!("run {name} {word}") } else { format!("run {name} {word}: {message}") }
}

/// The workflow files a changed reference starts, one of `all` of a push. One that cannot be read counts: its run says what is wrong.
async fn matching(
    repository: &Repository,
    change: &RefChange,
    all: &[RefChange],
    terminal: &Terminal,
) -> anyhow::Result<Vec<String>> {
    let zeros = |sha: &str| sha.bytes().all(|digit| digit == b'0');
    if zeros(&change.after) {
        return Ok(Vec::new());
    }
    let Some(sha) = repository.resolve(&change.after).await? else { return Ok(Vec::new()) };
    let files: Vec<String> = repository
        .list(&sha, FOLDER)
        .await?
        .into_iter()
        .filter(|name| name.ends_with(".yml") || name.ends_with(".yaml"))
        .collect();
    if files.len() > MAX_FILES {
        terminal.line(&format!("warning: only the first {MAX_FILES} workflow files are looked at")).await;
    }
    let new: Vec<&str> = all.iter().filter(|c| zeros(&c.before)).map(|c| c.reference.as_str()).collect();
    let mut changed = None;
    let mut found = Vec::new();
    for name in files.into_iter().take(MAX_FILES) {
        let path = format!("{FOLDER}/{name}");
        let text = repository.read_file(&sha, &path).await?.unwrap_or_default();
        let starts = match read_workflow(&path, &String::from_utf8_lossy(&text)) {
            Err(_) => true,
            Ok(workflow) => match workflow.on.push {
                None => false,
                Some(filter) => {
                    for warning in &workflow.warnings {
                        terminal.line(&format!("warning: {warning}")).await;
                    }
                    if changed.is_none() {
                        let paths = repository.changed(&change.before, &sha, &new).await;
                        changed = Some(paths.ok());
                    }
                    filter.matches(&change.reference, changed.as_ref().and_then(Option::as_deref))
                }
            },
        };
        if starts {
            found.push(path);
        }
    }
    Ok(found)
}
