//! What a script prints: lines for the log, and `::commands::` for the runner.

use wharf_workflow::command::Command;

use super::{Runner, set};
use crate::api::Annotation;

/// Annotations of a job that are kept.
const MAX_ANNOTATIONS: usize = 50;

/// A script's output so far.
#[derive(Default)]
pub(super) struct Output {
    /// Outputs set by the old `::set-output::`.
    pub(super) outputs: Vec<(String, String)>,
    /// Commands are ignored until this word comes.
    stopped: Option<String>,
}

impl Runner {
    /// Takes a line.
    pub(super) fn line(&mut self, output: &mut Output, step: usize, line: &str) {
        let Some(command) = Command::parse(line) else { return self.log.say(step, line) };
        if let Some(word) = &output.stopped {
            if command.name == *word {
                output.stopped = None;
            } else {
                self.log.say(step, line);
            }
            return;
        }
        match command.name.as_str() {
            "add-mask" => self.log.hide(&command.message),
            "group" => self.log.say(step, &format!("> {}", command.message)),
            "endgroup" => {}
            "error" | "warning" | "notice" => self.annotate(step, &command),
            // As on hosted runners, seen only when the step asks for it.
            "debug" => {
                if self.env.iter().any(|(name, value)| name == "ACTIONS_STEP_DEBUG" && value == "true") {
                    self.log.say(step, &format!("Debug: {}", command.message));
                }
            }
            "stop-commands" => output.stopped = Some(command.message.to_ascii_lowercase()),
            "set-output" => match command.property("name") {
                Some(name) => set(&mut output.outputs, name, command.message.clone()),
                None => self.log.say(step, "Warning: '::set-output::' names no output"),
            },
            "save-state" => {}
            "set-env" | "add-path" => self.log.say(
                step,
                &format!(
                    "Warning: '::{}::' is not supported: write to GITHUB_ENV or GITHUB_PATH",
                    command.name
                ),
            ),
            "echo" | "add-matcher" | "remove-matcher" => {}
            _ => self.log.say(step, line),
        }
    }

    fn annotate(&mut self, step: usize, command: &Command) {
        let level = match command.name.as_str() {
            "error" => "Error",
            "warning" => "Warning",
            _ => "Notice",
        };
        let property = |name| command.property(name).unwrap_or_default().to_owned();
        let (file, line) = (property("file"), property("line"));
        let place = match (file.is_empty(), line.is_empty()) {
            (true, _) => String::new(),
            (false, true) => format!("{file}: "),
            (false, false) => format!("{file}:{line}: "),
        };
        self.log.say(step, &format!("{level}: {place}{}", command.message));
        self.annotations += 1;
        if self.annotations > MAX_ANNOTATIONS {
            return;
        }
        let annotation = Annotation {
            level: command.name.clone(),
            message: self.log.mask(&command.message),
            file: self.log.mask(&file),
            line,
            step,
        };
        self.context.board.job(&self.key, |job| job.annotations.push(annotation));
    }
}
