//! What is found of a pod when the agent starts, or after its shim has died.

use std::{
    collections::BTreeMap,
    fs, io,
    io::{Read, Seek, SeekFrom},
    path::Path,
    sync::Arc,
};

use serde::{Deserialize, Serialize};
use wharf_base::Timestamp;
use wharf_runtime::{Error, ErrorKind, LogLine, Phase, PodDir, Runtime, Sandbox, Status};

use crate::{
    model::{Container, Pod, Resources},
    spec::{ID, IMAGE_ID, parse_run},
    step::{Backoff, ContainerState, PodState, Reason, Run, Running, Sandbox as SandboxState, Termination},
    volumes::termination_file,
};

/// Why a run ended whose program could not be started.
pub(crate) const START_ERROR: &str = "StartError";

/// What only the agent knows of a pod, kept in its folder.
#[derive(Debug, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct Notes {
    started: Option<Timestamp>,
    failed: Option<(String, String)>,
    restarts: BTreeMap<String, Backoff>,
    /// Runs whose program could not be started: the runtime keeps nothing of them.
    #[serde(default)]
    unstarted: BTreeMap<String, (u32, Termination)>,
    /// What the containers' runs have.
    #[serde(default)]
    resources: BTreeMap<String, Resources>,
}

impl Notes {
    pub(crate) fn of(state: &PodState) -> Self {
        Self {
            started: state.started,
            failed: state.failed.as_ref().map(|failed| (failed.reason.clone(), failed.message.clone())),
            unstarted: state
                .containers
                .iter()
                .filter_map(|(name, known)| Some((name.clone(), (known.attempt, unstarted(known)?.clone()))))
                .collect(),
            resources: state
                .containers
                .iter()
                .filter_map(|(name, known)| Some((name.clone(), known.resources.clone()?)))
                .collect(),
            restarts: state.containers.iter().map(|(name, known)| (name.clone(), known.restart)).collect(),
        }
    }

    pub(crate) fn save(&self, folder: &Path) -> io::Result<()> {
        let draft = folder.join("agent.tmp");
        fs::write(&draft, serde_json::to_vec(self)?)?;
        fs::rename(draft, folder.join("agent.json"))
    }

    fn load(folder: &Path) -> Self {
        // A pod without notes is one that was just begun.
        fs::read(folder.join("agent.json"))
            .ok()
            .and_then(|b| serde_json::from_slice(&b).ok())
            .unwrap_or_default()
    }
}

/// A pod as it was found.
pub(crate) struct Found {
    pub(crate) state: PodState,
    pub(crate) sandbox: Option<Arc<dyn Sandbox>>,
    /// Containers that ended because their shim died.
    pub(crate) lost: Vec<String>,
}

/// Finds a pod in its folder: connects to its shim, or clears up after it. Blocks.
pub(crate) fn find(runtime: &dyn Runtime, pod: &Pod, folder: &Path) -> Result<Found, Error> {
    let mut lost = Vec::new();
    let (sandbox, runs): (Option<Arc<dyn Sandbox>>, Vec<Status>) = match runtime.open(folder) {
        Ok(sandbox) => {
            let runs = sandbox.list()?;
            (Some(Arc::from(sandbox)), runs)
        }
        Err(error) if error.kind == ErrorKind::ShimGone => {
            lost = runtime.clean_up(folder)?;
            (None, Vec::new())
        }
        Err(error) => return Err(error),
    };
    let dir = PodDir::at(folder);
    let notes = Notes::load(folder);
    let mut state = PodState {
        started: notes.started,
        failed: notes.failed.map(|(reason, message)| Reason { reason, message }),
        sandbox: if sandbox.is_some() { SandboxState::Ready } else { SandboxState::Absent },
        ..PodState::default()
    };
    let mut known: BTreeMap<String, BTreeMap<u32, Status>> = BTreeMap::new();
    // Runs from before a shim died are only on disk.
    let on_disk = dir.containers().into_iter().filter_map(|name| dir.status(&name).ok());
    for status in on_disk.chain(runs) {
        if let Some((container, attempt)) = parse_run(&status.name) {
            known.entry(container.to_owned()).or_default().insert(attempt, status.clone());
        }
    }
    for (name, runs) in known {
        let Some(container) = pod.container(&name) else { continue };
        let restart = notes.restarts.get(&name).copied().unwrap_or_default();
        let resources = notes.resources.get(&name).cloned();
        let known = ContainerState { resources, ..container_state(&dir, container, &runs, restart) };
        state.containers.insert(name, known);
    }
    for (name, (attempt, ended)) in notes.unstarted {
        let known = state.containers.entry(name.clone()).or_default();
        if known.run == Run::Absent || known.attempt < attempt {
            if let Run::Ended(last) = std::mem::replace(&mut known.run, Run::Ended(ended)) {
                known.last = Some(last);
            }
            known.attempt = attempt;
            known.restart = notes.restarts.get(&name).copied().unwrap_or_default();
        }
    }
    Ok(Found { state, sandbox, lost })
}

fn unstarted(known: &ContainerState) -> Option<&Termination> {
    known.ended().filter(|ended| ended.reason == START_ERROR)
}

fn container_state(
    dir: &PodDir,
    container: &Container,
    runs: &BTreeMap<u32, Status>,
    restart: Backoff,
) -> ContainerState {
    let mut newest = runs.iter().rev();
    let Some((attempt, status)) = newest.next() else { return ContainerState::default() };
    let last = newest.next().and_then(|(attempt, status)| ended(dir, container, *attempt, status));
    let run = match status.phase {
        Phase::Running | Phase::Paused => Run::Running(Running {
            id: label(dir, &status.name, ID),
            since: status.started_at.unwrap_or(status.created_at),
            started: container.startup_probe.is_none(),
            ready: container.readiness_probe.is_none(),
        }),
        // Made but never started: the agent died in between. It is made anew.
        Phase::Created => Run::Absent,
        Phase::Exited => match ended(dir, container, *attempt, status) {
            Some(ended) => Run::Ended(ended),
            None => Run::Absent,
        },
    };
    let image_id = label(dir, &status.name, IMAGE_ID);
    ContainerState { attempt: *attempt, run, last, restart, image_id, ..ContainerState::default() }
}

fn label(dir: &PodDir, run: &str, label: &str) -> String {
    let config = dir.container_config(run).ok();
    config.and_then(|config| config.labels.get(label).cloned()).unwrap_or_default()
}

/// How a run has ended, with its last words.
pub(crate) fn ended(
    dir: &PodDir,
    container: &Container,
    attempt: u32,
    status: &Status,
) -> Option<Termination> {
    let exit = status.exit.as_ref()?;
    let (code, reason) = match (&exit.reason, exit.oom_killed, exit.code) {
        (Some(_), _, _) => (137, "ContainerStatusUnknown"),
        (None, true, code) => (code, "OOMKilled"),
        (None, false, 0) => (0, "Completed"),
        (None, false, code) => (code, "Error"),
    };
    let message = match &exit.reason {
        Some(reason) => reason.clone(),
        None => last_words(dir.path(), container, attempt, exit.code),
    };
    Some(Termination {
        id: label(dir, &status.name, ID),
        code,
        signal: exit.signal,
        reason: reason.to_owned(),
        message,
        started: status.started_at,
        finished: exit.finished_at,
    })
}

/// The kubelet's bounds of termination messages.
const MAX_MESSAGE: u64 = 4096;
const MAX_LOG_MESSAGE: u64 = 2048;
const MAX_LOG_LINES: usize = 80;

fn last_words(folder: &Path, container: &Container, attempt: u32, code: i32) -> String {
    let file = termination_file(folder, &container.name, attempt);
    let mut bytes = Vec::new();
    if let Ok(file) = fs::File::open(file) {
        let _ = file.take(MAX_MESSAGE).read_to_end(&mut bytes);
    }
    if bytes.is_empty() && code != 0 && container.termination_message_policy == "FallbackToLogsOnError" {
        return log_tail(&log_path(folder, &container.name, attempt)).unwrap_or_default();
    }
    String::from_utf8_lossy(&bytes).into_owned()
}

/// The log of a run.
pub(crate) fn log_path(folder: &Path, container: &str, attempt: u32) -> std::path::PathBuf {
    folder.join("logs").join(container).join(format!("{attempt}.log"))
}

fn log_tail(path: &Path) -> io::Result<String> {
    let mut file = fs::File::open(path)?;
    let length = file.metadata()?.len();
    // Times and streams stand before each line: twice the bound holds the text in most cases.
    file.seek(SeekFrom::Start(length.saturating_sub(2 * MAX_LOG_MESSAGE)))?;
    let mut bytes = Vec::new();
    file.take(2 * MAX_LOG_MESSAGE).read_to_end(&mut bytes)?;
    let lines: Vec<&[u8]> =
        bytes.split(|byte| *byte == b'\n').filter_map(LogLine::parse).map(|line| line.text).collect();
    let from = lines.len().saturating_sub(MAX_LOG_LINES);
    let text = lines.get(from..).unwrap_or_default().join(&b'\n');
    let from = text.len().saturating_sub(MAX_LOG_MESSAGE as usize);
    Ok(String::from_utf8_lossy(text.get(from..).unwrap_or_default()).into_owned())
}
