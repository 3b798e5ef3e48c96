//! Logs of jobs: kept in files, one line after the other, and told live.
//!
//! `DIR/ci/runs/UID/JOB/log` holds lines of the form `TIME STEP TEXT`; the step is the number of the step, 0 for what
//! the runner itself does.

use std::{
    fs::{File, OpenOptions},
    io::{self, Write as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex, PoisonError},
};

use tokio::sync::broadcast;
use wharf_base::{Clock as _, SystemClock, Timestamp};
use wharf_workflow::Masker;

use crate::api::RunPhase;

/// Events a slow listener may be behind.
const BACKLOG: usize = 8192;
/// Bytes of a job's log at the most.
const MAX_LOG: u64 = 64 << 20;

/// A line of a job's log.
#[derive(Debug, Clone)]
pub struct LogLine {
    /// The run's uid.
    pub run: Arc<str>,
    /// The job's key.
    pub job: Arc<str>,
    /// The step, 0 for the runner itself.
    pub step: usize,
    /// When.
    pub time: Timestamp,
    /// What, without line end.
    pub text: Arc<str>,
}

/// Something that happens to a log.
#[derive(Debug, Clone)]
pub enum LogEvent {
    /// A line.
    Line(LogLine),
    /// A run ended; nothing more will be said of it.
    Ended {
        /// The run's uid.
        run: Arc<str>,
        /// How.
        phase: RunPhase,
        /// More for people.
        message: Arc<str>,
    },
}

/// All logs. Cheap to clone.
#[derive(Clone)]
pub struct LogBook {
    root: PathBuf,
    events: broadcast::Sender<LogEvent>,
}

impl LogBook {
    pub(crate) fn new(root: PathBuf) -> Self {
        Self { root, events: broadcast::Sender::new(BACKLOG) }
    }

    /// Everything from now on.
    pub fn subscribe(&self) -> broadcast::Receiver<LogEvent> {
        self.events.subscribe()
    }

    /// The file of a job's log.
    pub fn path(&self, run: &str, job: &str) -> PathBuf {
        log_path(&self.root, run, job)
    }

    pub(crate) fn ended(&self, run: &str, phase: RunPhase, message: &str) {
        // Nobody may be listening.
        let _ = self.events.send(LogEvent::Ended { run: run.into(), phase, message: message.into() });
    }

    /// Opens the log of a job for writing.
    pub(crate) fn writer(&self, run: &str, job: &str, masker: Arc<Mutex<Masker>>) -> io::Result<JobLog> {
        let path = self.path(run, job);
        if let Some(folder) = path.parent() {
            std::fs::create_dir_all(folder)?;
        }
        let file = OpenOptions::new().append(true).create(true).open(path)?;
        let written = file.metadata()?.len();
        Ok(JobLog(Arc::new(Inner {
            run: run.into(),
            job: job.into(),
            file: Mutex::new((file, written)),
            masker,
            events: self.events.clone(),
        })))
    }
}

/// The file of a job's log below the folder of all runs.
pub(crate) fn log_path(root: &Path, run: &str, job: &str) -> PathBuf {
    root.join(run).join(job).join("log")
}

/// Takes a line of a log file apart: time, step, text.
pub fn read_log_line(line: &str) -> Option<(&str, usize, &str)> {
    let (time, rest) = line.split_once(' ')?;
    let (step, text) = rest.split_once(' ').unwrap_or((rest, ""));
    Some((time, step.parse().ok()?, text))
}

/// The log of one job. Cheap to clone.
#[derive(Clone)]
pub(crate) struct JobLog(Arc<Inner>);

struct Inner {
    run: Arc<str>,
    job: Arc<str>,
    file: Mutex<(File, u64)>,
    masker: Arc<Mutex<Masker>>,
    events: broadcast::Sender<LogEvent>,
}

impl JobLog {
    /// Hides a text from now on.
    pub(crate) fn hide(&self, secret: &str) {
        self.0.masker.lock().unwrap_or_else(PoisonError::into_inner).add(secret);
    }

    /// A text without secrets.
    pub(crate) fn mask(&self, text: &str) -> String {
        self.0.masker.lock().unwrap_or_else(PoisonError::into_inner).mask(text)
    }

    /// Writes one or more lines.
    pub(crate) fn say(&self, step: usize, text: &str) {
        let masked = self.mask(text);
        for line in masked.split('\n') {
            self.line(step, line.trim_end_matches('\r'));
        }
    }

    fn line(&self, step: usize, text: &str) {
        let time = SystemClock.now();
        let line = format!("{} {step} {text}\n", time.to_nano());
        {
            let mut file = self.0.file.lock().unwrap_or_else(PoisonError::into_inner);
            let before = file.1;
            file.1 += line.len() as u64;
            let written = match file.1 {
                ..=MAX_LOG => file.0.write_all(line.as_bytes()),
                _ if before <= MAX_LOG => {
                    let last =
                        format!("{} {step} the log is full: what follows is left out\n", time.to_nano());
                    file.0.write_all(last.as_bytes())
                }
                _ => Ok(()),
            };
            if let Err(error) = written {
                tracing::error!(run = %self.0.run, job = %self.0.job, %error, "cannot write the log of a job");
            }
        }
        let (run, job) = (Arc::clone(&self.0.run), Arc::clone(&self.0.job));
        let _ = self.0.events.send(LogEvent::Line(LogLine { run, job, step, time, text: text.into() }));
    }
}
