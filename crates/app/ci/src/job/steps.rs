//! Steps in order: conditions, scripts, actions, and how each went.

use std::{collections::BTreeMap, time::Duration};

use futures_util::future::BoxFuture;
use tokio::sync::mpsc;
use wharf_workflow::{
    Position, SHELL_HINT,
    expr::{EvalError, Object, Template},
    model::{Action, ActionRef, Settings, Step, Work},
    read_action,
    run::{Outcome, flag, number},
};

use super::{AFTER_STOP, Runner, frame::Frame, output::Output};
use crate::{
    actions::{Call, missing_input},
    beneath::within,
    check::ACTION_FILES,
    sandbox::{Cancel, Command, StopReason, WORKSPACE},
    status::now,
    wrong::Wrong,
};

/// Composite actions inside one another at the most, as upstream.
const MAX_DEPTH: usize = 10;
/// Bytes of an `action.yml`.
const MAX_ACTION: u64 = 1 << 20;

/// How a step went.
struct Done {
    outcome: Outcome,
    outputs: Vec<(String, String)>,
}

type Outputs = Vec<(String, String)>;

fn failure(what: &str) -> impl Fn(EvalError) -> Wrong {
    let what = what.to_owned();
    move |error| Wrong::eval(&what, &error)
}

/// What a step is called before its name can be evaluated.
pub(super) fn default_name(step: &Step) -> String {
    if let Some(name) = step.name.as_ref().and_then(|name| name.as_literal()) {
        return name.to_owned();
    }
    match &step.work {
        Work::Uses { action, .. } => format!("Run {action}"),
        Work::Run { script, .. } => named_after(script.source()),
    }
}

/// A script without a name is called after its first line.
fn named_after(script: &str) -> String {
    format!("Run {}", script.trim().lines().next().unwrap_or_default())
}

impl Runner {
    /// Runs steps one after the other.
    pub(super) fn run_steps<'a>(&'a mut self, frame: &'a mut Frame, steps: &'a [Step]) -> BoxFuture<'a, ()> {
        Box::pin(async move {
            for (index, step) in steps.iter().enumerate() {
                if frame.depth == 0 {
                    frame.number = index + 1;
                }
                if self.cancel.reason() == Some(StopReason::Interrupted) {
                    return;
                }
                self.run_step(frame, step).await;
            }
        })
    }

    async fn run_step(&mut self, frame: &mut Frame, step: &Step) {
        let number = frame.number;
        let top = frame.depth == 0;
        let contexts = self.contexts(frame, &[]);
        let holds = self.with_env(&contexts, self.status(frame), |env| step.condition.holds(env));
        let begun = match holds {
            Ok(true) => Ok(()),
            Ok(false) => {
                frame.record(&step.id, Outcome::Skipped, Outcome::Skipped, &[]);
                if top {
                    self.tell(number, Outcome::Skipped, &[]);
                }
                return;
            }
            Err(error) => Err(Wrong::eval("'if'", &error)),
        };
        if top {
            self.context.board.step(&self.key, number, |status| {
                status.status = "in_progress".into();
                status.started_at = Some(now());
            });
        }
        let done = match begun {
            Ok(()) => self.attempt(frame, step).await,
            Err(wrong) => Err(wrong),
        };
        let done = done.unwrap_or_else(|wrong| {
            self.log.say(number, &format!("Error: {}", wrong.at(&frame.file, step.at)));
            Done { outcome: Outcome::Failure, outputs: Vec::new() }
        });
        let forgiven = done.outcome == Outcome::Failure && self.forgives(frame, step, &contexts);
        let conclusion = if forgiven { Outcome::Success } else { done.outcome };
        frame.record(&step.id, done.outcome, conclusion, &done.outputs);
        if conclusion == Outcome::Failure && frame.failure.is_none() {
            frame.failure = Some(format!("the step '{}' failed", default_name(step)));
        }
        if top {
            self.tell(number, conclusion, &done.outputs);
        }
    }

    fn forgives(&self, frame: &Frame, step: &Step, contexts: &Object) -> bool {
        let flag = self
            .with_env(contexts, self.status(frame), |env| flag(step.continue_on_error.as_ref(), false, env));
        flag.unwrap_or_else(|error| {
            let wrong = Wrong::eval("'continue-on-error'", &error);
            self.log.say(frame.number, &format!("Error: {}", wrong.at(&frame.file, step.at)));
            false
        })
    }

    fn tell(&self, number: usize, conclusion: Outcome, outputs: &[(String, String)]) {
        // Secrets do not go into the API.
        let outputs: BTreeMap<String, String> =
            outputs.iter().map(|(name, value)| (name.clone(), self.log.mask(value))).collect();
        self.context.board.step(&self.key, number, |status| {
            status.completed_at = status.started_at.as_ref().map(|_| now());
            status.status = "completed".into();
            status.conclusion = conclusion.as_str().into();
            status.outputs = outputs;
        });
    }

    /// Runs a step whose condition holds.
    async fn attempt(&mut self, frame: &mut Frame, step: &Step) -> Result<Done, Wrong> {
        let own = self.evaluate(frame, &[], &step.env)?;
        let contexts = self.contexts(frame, &own);
        let status = self.status(frame);
        let text = |template: &Template, what: &str| {
            self.with_env(&contexts, status, |env| template.text(env)).map_err(failure(what))
        };
        let name = match (&step.name, &step.work) {
            (Some(name), _) => text(name, "'name'")?,
            (None, Work::Run { script, .. }) => named_after(&text(script, "'run'")?),
            (None, _) => default_name(step),
        };
        self.log.say(frame.number, &format!("{}# {name}", "  ".repeat(frame.depth)));
        if frame.depth == 0 {
            let shown = self.log.mask(&name);
            self.context.board.step(&self.key, frame.number, |status| status.name = shown);
        }
        let minutes = self
            .with_env(&contexts, status, |env| number(step.timeout_minutes.as_ref(), env))
            .map_err(failure("'timeout-minutes'"))?;
        let (cancel, _guard) =
            self.step_cancel(minutes.map(|m| Duration::from_secs_f64((m * 60.0).min(1e8))));
        let result = match &step.work {
            Work::Run { .. } => self.run_script(frame, step, &own, &contexts, cancel.clone()).await,
            Work::Uses { action, with, places } => {
                self.use_action(frame, action, with, places, &own, cancel.clone()).await
            }
        };
        match (cancel.reason(), result) {
            (Some(StopReason::TimedOut), _) if self.cancel.reason().is_none() => {
                Err(format!("the step took longer than {} minutes", minutes.unwrap_or_default()).into())
            }
            (Some(_), _) => Ok(Done { outcome: Outcome::Cancelled, outputs: Vec::new() }),
            (None, Ok(outputs)) => Ok(Done { outcome: Outcome::Success, outputs }),
            (None, Err(Ended::Failed(outputs))) => Ok(Done { outcome: Outcome::Failure, outputs }),
            (None, Err(Ended::Wrong(wrong))) => Err(wrong),
        }
    }

    /// When a step is to stop: with its job, or after its own time. A step that begins after the job was told to stop
    /// has a little time of its own.
    fn step_cancel(&self, timeout: Option<Duration>) -> (Cancel, Guard) {
        let (sender, cancel) = Cancel::new();
        let mut outer = self.cancel.clone();
        let late = outer.reason().is_some();
        let timeout = match (timeout, late) {
            (Some(own), true) => Some(own.min(AFTER_STOP)),
            (None, true) => Some(AFTER_STOP),
            (own, false) => own,
        };
        let task = tokio::spawn(async move {
            let time = async {
                match timeout {
                    Some(timeout) => tokio::time::sleep(timeout).await,
                    None => std::future::pending().await,
                }
            };
            let stop = async { if late { outer.interrupted().await } else { outer.stopped().await } };
            let reason = tokio::select! {
                reason = stop => reason,
                () = time => StopReason::TimedOut,
            };
            sender.send_replace(Some(reason));
            sender.closed().await;
        });
        (cancel, Guard(task))
    }

    fn evaluate(
        &self,
        frame: &Frame,
        own: &[(String, String)],
        settings: &Settings,
    ) -> Result<Outputs, Wrong> {
        let contexts = self.contexts(frame, own);
        let status = self.status(frame);
        settings
            .iter()
            .map(|(name, template)| {
                let value = self.with_env(&contexts, status, |env| template.text(env));
                Ok((name.clone(), value.map_err(failure(&format!("'{name}'")))?))
            })
            .collect()
    }

    async fn run_script(
        &mut self,
        frame: &Frame,
        step: &Step,
        own: &[(String, String)],
        contexts: &Object,
        cancel: Cancel,
    ) -> Result<Outputs, Ended> {
        let Work::Run { script, shell, working_directory } = &step.work else { return Ok(Vec::new()) };
        let status = self.status(frame);
        let text = |template: &Template, what: &str| {
            self.with_env(contexts, status, |env| template.text(env)).map_err(failure(what))
        };
        let script = text(script, "'run'")?;
        // The job's defaults are not an action's.
        let defaults = (frame.depth == 0).then_some(&self.defaults);
        let shell = match shell {
            Some(shell) => Some(text(shell, "'shell'")?),
            None => defaults.and_then(|defaults| defaults.shell.clone()),
        };
        let folder = match working_directory {
            Some(folder) => Some(text(folder, "'working-directory'")?),
            None => defaults.and_then(|defaults| defaults.working_directory.clone()),
        };
        let cwd = match folder {
            Some(folder) if folder.starts_with('/') => folder,
            Some(folder) => format!("{WORKSPACE}/{folder}"),
            None => WORKSPACE.to_owned(),
        };
        let step_number = frame.number;
        let io = |error: std::io::Error| Ended::from(format!("cannot prepare the step: {error}"));
        let files = self.command_files().map_err(io)?;
        let extension = if shell.as_deref() == Some("python") { ".py" } else { ".sh" };
        let path = self.script(&files, &script, extension).map_err(io)?;
        let args = arguments(shell.as_deref(), &path)?;
        let mut env = self.script_env(frame, own, contexts);
        env.extend(files.env().map(|(name, value)| format!("{name}={value}")));
        let mut output = Output::default();
        let code = self.exec(Command { args, env, cwd }, cancel, step_number, &mut output).await;
        let mut outputs = self.read_command_files(&files, step_number)?;
        outputs.splice(0..0, output.outputs);
        match code {
            Ok(0) => Ok(outputs),
            Ok(code) => {
                self.log.say(step_number, &format!("Error: the script ended with exit code {code}"));
                Err(Ended::Failed(outputs))
            }
            Err(error) => Err(Ended::from(format!("cannot run the script: {error:#}"))),
        }
    }

    async fn exec(
        &mut self,
        command: Command,
        cancel: Cancel,
        number: usize,
        output: &mut Output,
    ) -> anyhow::Result<i32> {
        let (sender, mut lines) = mpsc::channel(256);
        let sandbox = std::sync::Arc::clone(&self.sandbox);
        let mut work = sandbox.exec(command, sender, cancel);
        let code = loop {
            tokio::select! {
                biased;
                Some(line) = lines.recv() => self.line(output, number, &line),
                code = &mut work => break code,
            }
        };
        while let Ok(line) = lines.try_recv() {
            self.line(output, number, &line);
        }
        code
    }

    /// The environment of a script, in layers.
    fn script_env(&self, frame: &Frame, own: &[(String, String)], contexts: &Object) -> Vec<String> {
        let github = contexts.get("github").cloned().unwrap_or_default();
        let text = |name: &str| github.get(name).to_text();
        let mut env: Vec<(String, String)> =
            vec![("CI".into(), "true".into()), ("HOME".into(), "/github/home".into())];
        for name in [
            "sha",
            "ref",
            "ref_name",
            "ref_type",
            "event_name",
            "repository",
            "repository_owner",
            "actor",
            "triggering_actor",
            "workflow",
            "workflow_ref",
            "workflow_sha",
            "run_id",
            "run_number",
            "run_attempt",
            "server_url",
            "workspace",
            "head_ref",
            "base_ref",
            "job",
            "action_path",
        ] {
            env.push((format!("GITHUB_{}", name.to_ascii_uppercase()), text(name)));
        }
        env.push(("GITHUB_ACTIONS".into(), "true".into()));
        let runner = contexts.get("runner").cloned().unwrap_or_default();
        for name in ["name", "os", "arch", "temp", "tool_cache", "environment"] {
            env.push((format!("RUNNER_{}", name.to_ascii_uppercase()), runner.get(name).to_text()));
        }
        for (name, value) in self.env.iter().chain(&frame.env).chain(own) {
            super::set(&mut env, name, value.clone());
        }
        if !self.path.is_empty() && !env.iter().any(|(name, _)| name == "PATH") {
            env.push(("PATH".into(), format!("{}:{}", self.path.join(":"), self.sandbox.path_variable())));
        }
        env.into_iter().map(|(name, value)| format!("{name}={value}")).collect()
    }

    async fn use_action(
        &mut self,
        frame: &Frame,
        action: &ActionRef,
        with: &Settings,
        places: &[Position],
        own: &[(String, String)],
        cancel: Cancel,
    ) -> Result<Outputs, Ended> {
        let given = self.evaluate(frame, own, with)?;
        match action {
            ActionRef::Local(path) => self.use_composite(frame, path, given, own).await,
            ActionRef::Named { name, .. } => {
                let shared = std::sync::Arc::clone(&self.context.shared);
                let built_in = shared.actions.get(name)?;
                let known: Vec<_> =
                    given.iter().map(|(name, value)| (name.as_str(), Some(value.as_str()))).collect();
                let inputs = built_in.inputs(&known, |line| self.log.say(frame.number, line));
                let inputs = inputs.map_err(|refused| refused.placed(places))?;
                let call = Call { runner: self, step: frame.number, inputs };
                let mut stop = cancel;
                tokio::select! {
                    done = built_in.run(call) => {
                        done.map_err(|error| Ended::Wrong(Wrong::from(error).of(name)))
                    }
                    _ = stop.stopped() => Err(Ended::Failed(Vec::new())),
                }
            }
        }
    }

    async fn use_composite(
        &mut self,
        frame: &Frame,
        path: &str,
        given: Outputs,
        own: &[(String, String)],
    ) -> Result<Outputs, Ended> {
        if frame.depth >= MAX_DEPTH {
            return Err(format!("actions use one another more than {MAX_DEPTH} levels deep").into());
        }
        let (file, action) = self.load_action(path).await?;
        let mut inner = Frame {
            depth: frame.depth + 1,
            number: frame.number,
            file,
            action_path: Some(format!("{WORKSPACE}/{path}")),
            env: frame.env.iter().chain(own).cloned().collect(),
            ..Frame::default()
        };
        inner.inputs = Some(self.action_inputs(frame, &action, path, given)?);
        self.run_steps(&mut inner, &action.steps).await;
        let outputs = self.evaluate(&inner, &[], &action.outputs)?;
        match inner.failure {
            None => Ok(outputs),
            Some(message) => {
                self.log.say(frame.number, &format!("Error: in the action ./{path} {message}"));
                Err(Ended::Failed(outputs))
            }
        }
    }

    /// A local action as the workspace has it, with the name of its file.
    async fn load_action(&self, path: &str) -> Result<(String, Action), Ended> {
        let folder = within("uses", &format!("./{path}"))?;
        for name in ACTION_FILES {
            let file = folder.join(name);
            let text = self.workspace.read_text(&file, MAX_ACTION);
            let text =
                text.map_err(|error| Ended::from(format!("cannot read {}: {error}", file.display())))?;
            if !text.is_empty() {
                let file = file.to_string_lossy().into_owned();
                let action =
                    read_action(&file, &text).map_err(|problems| Ended::from(problems.to_string()))?;
                return Ok((file, action));
            }
        }
        let hint = self.path_hint(&folder.join(ACTION_FILES[0]));
        Err(Ended::Wrong(Wrong::hinted(format!("there is no action.yml in ./{path}"), hint)))
    }

    fn action_inputs(
        &self,
        frame: &Frame,
        action: &Action,
        path: &str,
        given: Outputs,
    ) -> Result<Object, Wrong> {
        for (name, _) in &given {
            if !action.inputs.iter().any(|input| input.name.eq_ignore_ascii_case(name)) {
                let known: Vec<&str> = action.inputs.iter().map(|input| input.name.as_str()).collect();
                let hint = match wharf_base::closest(name, known.iter().copied()) {
                    Some(meant) => format!("did you mean '{meant}'?"),
                    None if known.is_empty() => "it has none".to_owned(),
                    None => format!("known are: {}", known.join(", ")),
                };
                let message = format!("Warning: ./{path} has no input '{name}': {hint}");
                self.log.say(frame.number, &message);
            }
        }
        let contexts = self.contexts(frame, &[]);
        let mut inputs = Object::new();
        for input in &action.inputs {
            let own = given.iter().find(|(name, _)| name.eq_ignore_ascii_case(&input.name));
            let value = match (own, &input.default) {
                (Some((_, value)), _) => value.clone(),
                (None, Some(default)) => self
                    .with_env(&contexts, self.status(frame), |env| default.text(env))
                    .map_err(failure(&format!("the default of '{}'", input.name)))?,
                (None, None) if input.required => {
                    return Err(missing_input(&format!("./{path}"), &input.name));
                }
                (None, None) => String::new(),
            };
            inputs.set(input.name.clone(), value);
        }
        Ok(inputs)
    }
}

/// How a step's work ended when not well.
enum Ended {
    /// Failed, and has said so.
    Failed(Outputs),
    /// Could not be done, for this reason.
    Wrong(Wrong),
}

impl<W: Into<Wrong>> From<W> for Ended {
    fn from(wrong: W) -> Self {
        Self::Wrong(wrong.into())
    }
}

/// Ends the task that watches over a step with the step.
struct Guard(tokio::task::JoinHandle<()>);

impl Drop for Guard {
    fn drop(&mut self) {
        self.0.abort();
    }
}

/// Program and arguments that run a script file.
fn arguments(shell: Option<&str>, path: &str) -> Result<Vec<String>, Wrong> {
    let words = |words: &[&str]| words.iter().map(|word| (*word).to_owned()).collect();
    Ok(match shell {
        // bash where the image has it, as upstream.
        None => words(&[
            "sh",
            "-c",
            "if command -v bash >/dev/null 2>&1; then exec bash -e \"$0\"; fi; exec sh -e \"$0\"",
            path,
        ]),
        Some("bash") => words(&["bash", "--noprofile", "--norc", "-eo", "pipefail", path]),
        Some("sh") => words(&["sh", "-e", path]),
        Some("python") => words(&[
            "sh",
            "-c",
            "if command -v python >/dev/null 2>&1; then exec python \"$0\"; fi; exec python3 \"$0\"",
            path,
        ]),
        Some(custom) if custom.contains("{0}") => {
            custom.split_whitespace().map(|word| word.replace("{0}", path)).collect()
        }
        Some(other) => {
            return Err(Wrong::hinted(format!("the shell '{other}' is not supported"), SHELL_HINT));
        }
    })
}
