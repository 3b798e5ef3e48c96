//! What steps see: the job's own level, and one more for each composite action they are in.

use wharf_workflow::{
    expr::{Env, EvalError, Object, Status, Value},
    filter::Patterns,
    run::Outcome,
};

use super::Runner;
use crate::sandbox::StopReason;

/// Files `hashFiles` looks at.
const MAX_HASHED: usize = 100_000;

/// One level of steps.
#[derive(Default)]
pub(super) struct Frame {
    /// The file the steps stand in.
    pub(super) file: String,
    /// The `steps` context.
    pub(super) steps: Object,
    /// The `inputs` of an action; those of the run at the job's own level.
    pub(super) inputs: Option<Object>,
    /// The first step that failed.
    pub(super) failure: Option<String>,
    /// Levels above.
    pub(super) depth: usize,
    /// The step of the job this happens in.
    pub(super) number: usize,
    /// Where the action's files are in the sandbox.
    pub(super) action_path: Option<String>,
    /// What the step that uses the action set.
    pub(super) env: Vec<(String, String)>,
}

impl Frame {
    pub(super) fn job(file: &str) -> Self {
        Self { file: file.to_owned(), ..Self::default() }
    }

    /// Notes how a step went.
    pub(super) fn record(
        &mut self,
        id: &str,
        outcome: Outcome,
        conclusion: Outcome,
        outputs: &[(String, String)],
    ) {
        let mut step = Object::new();
        step.set("outputs", outputs.iter().map(|(name, value)| (name, value)).collect::<Object>());
        step.set("outcome", outcome.as_str());
        step.set("conclusion", conclusion.as_str());
        self.steps.set(id, step);
    }
}

impl Runner {
    /// The contexts of a step with these settings of its own.
    pub(super) fn contexts(&self, frame: &Frame, own: &[(String, String)]) -> Object {
        let mut contexts = self.contexts.clone();
        let mut env = Object::new();
        for (name, value) in self.env.iter().chain(&frame.env).chain(own) {
            env.set(name.clone(), value.as_str());
        }
        contexts.set("env", env);
        contexts.set("steps", frame.steps.clone());
        if let Some(inputs) = &frame.inputs {
            contexts.set("inputs", inputs.clone());
        }
        if let Some(path) = &frame.action_path {
            let mut github = contexts.get("github").and_then(Value::as_object).cloned().unwrap_or_default();
            github.set("action_path", path.as_str());
            contexts.set("github", github);
        }
        let mut job = Object::new();
        let status = self.status(frame);
        job.set(
            "status",
            if status.cancelled {
                "cancelled"
            } else if status.failure {
                "failure"
            } else {
                "success"
            },
        );
        contexts.set("job", job);
        contexts
    }

    pub(super) fn status(&self, frame: &Frame) -> Status {
        let cancelled = matches!(self.cancel.reason(), Some(StopReason::Cancelled | StopReason::TimedOut));
        Status { success: frame.failure.is_none() && !cancelled, failure: frame.failure.is_some(), cancelled }
    }

    pub(super) fn with_env<T>(
        &self,
        contexts: &Object,
        status: Status,
        act: impl FnOnce(&Env<'_>) -> Result<T, EvalError>,
    ) -> Result<T, EvalError> {
        act(&Env { contexts, status, hash_files: &|patterns| self.hash_files(patterns) })
    }

    /// One digest of all files that fit, empty when none does.
    fn hash_files(&self, patterns: &[String]) -> Result<String, String> {
        use sha2::{Digest as _, Sha256};
        let patterns: Vec<String> = patterns
            .iter()
            .map(|p| p.trim_start_matches("./").to_owned())
            .filter(|p| !p.is_empty())
            .collect();
        let patterns = Patterns::new(&patterns, false).map_err(|(_, why)| why)?;
        let files = self.workspace.walk("".as_ref(), MAX_HASHED).map_err(|e| e.to_string())?;
        let mut all = Sha256::new();
        let mut any = false;
        for file in files.iter().filter(|file| patterns.matches(&file.to_string_lossy())) {
            let mut one = wharf_base::Hasher::new();
            let mut content = self.workspace.open_file(file).map_err(|e| e.to_string())?;
            std::io::copy(&mut content, &mut one).map_err(|e| e.to_string())?;
            all.update(one.finish().hex());
            any = true;
        }
        let hex = |bytes: &[u8]| bytes.iter().map(|byte| format!("{byte:02x}")).collect::<String>();
        Ok(if any { hex(&all.finalize()) } else { String::new() })
    }
}
