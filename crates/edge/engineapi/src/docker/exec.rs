//! `/exec`: further processes in containers.

use std::{
    collections::HashMap,
    os::fd::{AsFd as _, OwnedFd},
    sync::{Mutex, PoisonError},
};

use http::{Method, StatusCode};
use serde::Deserialize;
use serde_json::json;
use wharf_base::random_hex;
use wharf_engine::{Container, Engine, MAIN};
use wharf_runtime::{Exec, ExecConfig, Phase, Size};

use super::{
    Call, Docker,
    answer::{self, Failure, Reply, Upgrade, content_type, created, json_of, streaming},
    blocking,
    containers::{body_of, size},
    keeper::Streams,
    streams::{frame, outputs, pump},
};

/// Processes that are remembered after their end.
const KEPT: usize = 1000;

/// A process to be started, that runs, or that has ended.
#[derive(Default)]
struct Process {
    container: String,
    config: ExecConfig,
    wants: [bool; 3],
    /// Somebody has asked for its start.
    begun: bool,
    running: bool,
    pid: i32,
    exit_code: Option<i32>,
    terminal: Option<OwnedFd>,
}

/// All processes by id, the oldest first.
#[derive(Default)]
pub(super) struct Execs(Mutex<(HashMap<String, Process>, Vec<String>)>);

impl Execs {
    fn add(&self, process: Process) -> String {
        let id = random_hex(32);
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        if all.1.len() >= KEPT
            && let Some(oldest) = all.1.iter().position(|id| all.0.get(id).is_none_or(|known| !known.running))
        {
            let oldest = all.1.remove(oldest);
            all.0.remove(&oldest);
        }
        all.1.push(id.clone());
        all.0.insert(id.clone(), process);
        id
    }

    fn with<T>(&self, id: &str, act: impl FnOnce(&mut Process) -> T) -> Result<T, Failure> {
        let mut all = self.0.lock().unwrap_or_else(PoisonError::into_inner);
        let process = all.0.get_mut(id);
        process.map(act).ok_or_else(|| Failure::not_found(format!("No such exec instance: {id}")))
    }
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Wanted {
    attach_stdin: bool,
    attach_stdout: bool,
    attach_stderr: bool,
    tty: bool,
    cmd: Option<Vec<String>>,
    env: Option<Vec<String>>,
    working_dir: String,
    user: String,
    privileged: bool,
    console_size: Option<[u16; 2]>,
}

#[derive(Default, Deserialize)]
#[serde(default, rename_all = "PascalCase")]
struct Start {
    detach: bool,
    tty: bool,
    console_size: Option<[u16; 2]>,
}

impl Docker {
    pub(super) async fn create_exec(&self, id: &str, mut call: Call) -> Reply {
        let wanted: Wanted = call.json().await?;
        let (engine, container) = self.found(id).await?;
        let args = wanted.cmd.unwrap_or_default();
        if args.is_empty() {
            return Err(Failure::bad("No exec command specified"));
        }
        if !container.is_running() {
            return Err(Failure::conflict(format!("container {} is not running", container.id)));
        }
        if container.status.phase == Phase::Paused {
            let name = container.name();
            return Err(Failure::conflict(format!(
                "Container {name} is paused, unpause the container before exec"
            )));
        }
        drop(engine);
        let size = wanted.console_size.map(|[rows, columns]| Size { rows, columns });
        let mut env = if wanted.tty { vec!["TERM=xterm".to_owned()] } else { Vec::new() };
        env.extend(wanted.env.unwrap_or_default());
        let some = |text: String| Some(text).filter(|text| !text.is_empty());
        let config = ExecConfig {
            args,
            env,
            cwd: some(wanted.working_dir),
            user: some(wanted.user),
            terminal: wanted.tty.then(|| size.unwrap_or(Size { rows: 24, columns: 80 })),
            privileged: wanted.privileged,
        };
        let id = self.execs.add(Process {
            container: container.id.to_string(),
            config,
            wants: [wanted.attach_stdin, wanted.attach_stdout, wanted.attach_stderr],
            ..Process::default()
        });
        let command = self.execs.with(&id, |process| process.config.args.join(" "))?;
        self.keeper.tell_of(&container.record, &format!("exec_create: {command}"), &[("execID", id.clone())]);
        Ok(created(&json!({ "Id": id })))
    }

    pub(super) async fn exec(&self, method: &Method, id: &str, rest: &[&str], call: Call) -> Reply {
        match (method.as_str(), rest) {
            ("POST", ["start"]) => self.start_exec(id, call).await,
            ("POST", ["resize"]) => {
                let size = size(&call.query)?;
                self.execs.with(id, |process| match &process.terminal {
                    Some(terminal) => {
                        let size = rustix::termios::Winsize {
                            ws_row: size.rows,
                            ws_col: size.columns,
                            ws_xpixel: 0,
                            ws_ypixel: 0,
                        };
                        rustix::termios::tcsetwinsize(terminal, size).map_err(std::io::Error::from)
                    }
                    None => {
                        // It has begun, and does not run yet.
                        if let Some(terminal) = &mut process.config.terminal {
                            *terminal = size;
                        }
                        Ok(())
                    }
                })??;
                Ok(answer::status(StatusCode::OK))
            }
            ("GET", ["json"]) => self.execs.with(id, |process| {
                let (program, args) = process.config.args.split_first().unzip();
                json_of(&json!({
                    "ID": id, "ContainerID": process.container, "Running": process.running, "ExitCode": process.exit_code,
                    "Pid": process.pid, "CanRemove": !process.running, "DetachKeys": "",
                    "OpenStdin": process.wants[0], "OpenStdout": process.wants[1], "OpenStderr": process.wants[2],
                    "ProcessConfig": {
                        "tty": process.config.terminal.is_some(), "entrypoint": program, "arguments": args,
                        "privileged": process.config.privileged, "user": process.config.user.clone().unwrap_or_default(),
                    },
                }))
            }),
            _ => Err(Failure::not_found(format!("page not found: {method} /exec/{id}"))),
        }
    }

    async fn start_exec(&self, id: &str, mut call: Call) -> Reply {
        let start: Start = call.json().await?;
        let (container, terminal) = self.execs.with(id, |process| {
            if process.begun {
                return Err(Failure::conflict(format!("exec {id} has already been started")));
            }
            if start.tty && process.config.terminal.is_none() {
                return Err(Failure::bad("the exec was not made with a terminal"));
            }
            if let (Some(terminal), Some([rows, columns])) =
                (&mut process.config.terminal, start.console_size)
            {
                *terminal = Size { rows, columns };
            }
            process.begun = true;
            Ok((process.container.clone(), process.config.terminal.is_some()))
        })??;
        let (_, container) = self.found(&container).await?;
        match call.upgrade.filter(|_| !start.detach) {
            // Only once the answer is on its way: some clients lose what comes together with its head.
            Some(upgrade) => {
                let (docker, id) = (self.clone(), id.to_owned());
                tokio::spawn(async move { docker.exec_over(&id, &container, terminal, upgrade).await });
                Ok(Upgrade::response(terminal))
            }
            None => {
                let begun = self.begin(id, &container, !start.detach).await;
                let (_, [_, output, error]) = match begun {
                    Ok(begun) => begun,
                    Err(failure) => {
                        self.execs.with(id, |process| process.exit_code = Some(code_of(&failure)))?;
                        return Err(failure);
                    }
                };
                if start.detach {
                    return Ok(answer::status(StatusCode::OK));
                }
                let streams = body_of(async move { outputs([output, error], terminal) });
                Ok(streaming(streams, content_type(terminal)))
            }
        }
    }

    /// Starts a process for a client that has left HTTP, and joins the two.
    async fn exec_over(&self, id: &str, container: &Container, terminal: bool, upgrade: Upgrade) {
        let Ok(connection) = upgrade.connection().await else { return };
        let done = match self.begin(id, container, true).await {
            Ok((ended, streams)) => {
                // Clients ask how it ended when the connection does.
                let ended = async move { drop(ended.await) };
                pump(connection, streams, terminal, Vec::new(), ended).await
            }
            // They read there why, and the code they ask for afterwards.
            Err(failure) => {
                let known = self.execs.with(id, |process| process.exit_code = Some(code_of(&failure)));
                if known.is_err() {
                    return;
                }
                let text = format!("OCI runtime exec failed: exec failed: {}\r\n", failure.message());
                let bytes = if terminal { text.into() } else { frame(1, text.as_bytes()) };
                let none = std::future::ready(());
                pump(connection, [None, None, None], terminal, vec![bytes], none).await
            }
        };
        if let Err(error) = done {
            tracing::debug!(%error, "the client of a process is gone");
        }
    }

    /// Starts a process; gives its end and its streams.
    async fn begin(
        &self,
        id: &str,
        container: &Container,
        with_streams: bool,
    ) -> Result<(tokio::task::JoinHandle<()>, Streams), Failure> {
        let (config, wants) = self.execs.with(id, |process| (process.config.clone(), process.wants))?;
        let (args, target, engine) = (config.args.join(" "), container.clone(), self.engine.clone());
        let (exec, streams) = blocking(move || run(&engine, &target, &config, wants, with_streams)).await?;
        Ok((self.follow_exec(id, container, exec, &args)?, streams))
    }

    /// Waits for the end of a process in the background.
    fn follow_exec(
        &self,
        id: &str,
        container: &Container,
        mut exec: Exec,
        args: &str,
    ) -> Result<tokio::task::JoinHandle<()>, Failure> {
        let copy = exec.terminal().map(|terminal| terminal.as_fd().try_clone_to_owned()).transpose()?;
        let pid = exec.pid;
        self.execs.with(id, |process| {
            (process.running, process.pid, process.terminal) = (true, pid, copy);
        })?;
        let told = [("execID", id.to_owned())];
        self.keeper.tell_of(&container.record, &format!("exec_start: {args}"), &told);
        let (docker, id, record) = (self.clone(), id.to_owned(), container.record.clone());
        Ok(tokio::task::spawn_blocking(move || {
            // The shim was killed, and with it the process.
            let code = exec.wait().map_or(137, |exit| exit.code);
            let ended = docker.execs.with(&id, |process| {
                (process.running, process.exit_code, process.terminal) = (false, Some(code), None);
            });
            if ended.is_ok() {
                docker.keeper.tell_of(&record, "exec_die", &[("execID", id), ("exitCode", code.to_string())]);
            }
        }))
    }
}

/// The code clients are told of a process that could not be started.
fn code_of(failure: &Failure) -> i32 {
    if failure.message().contains("executable file not found") { 127 } else { 126 }
}

/// Starts a process with the streams that are wanted of it.
fn run(
    engine: &Engine,
    container: &Container,
    config: &ExecConfig,
    wants: [bool; 3],
    with_streams: bool,
) -> Result<(Exec, Streams), Failure> {
    let sandbox = container.connect(engine)?;
    let [(input, their_input), (output, their_output), (error, their_error)] = [pipe()?, pipe()?, pipe()?];
    let theirs = match (config.terminal.is_some(), with_streams) {
        (true, _) | (_, false) => [None, None, None],
        (false, true) => {
            [wants[0].then_some(input), wants[1].then_some(their_output), wants[2].then_some(their_error)]
        }
    };
    let exec = sandbox.exec(MAIN, config, theirs)?;
    let streams: Streams = match exec.terminal() {
        Some(terminal) => {
            let copy = || terminal.try_clone_to_owned();
            [wants[0].then(copy).transpose()?, Some(copy()?), None]
        }
        None => [wants[0].then_some(their_input), wants[1].then_some(output), wants[2].then_some(error)],
    };
    Ok((exec, streams))
}

fn pipe() -> Result<(OwnedFd, OwnedFd), Failure> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(std::io::Error::from)?)
}
