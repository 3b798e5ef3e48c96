//! `wharf exec`: one more process in a running container.

use std::process::ExitCode;

use wharf_engine::MAIN;
use wharf_runtime::{Error, ErrorKind, ExecConfig, Sandbox, Size};

use super::{
    Globals, completion,
    containers::{self, Relay, Remote, Terminal, complain, hinted, is_terminal, relay_end},
};

#[derive(clap::Args)]
pub(crate) struct Args {
    /// Keep standard input open
    #[arg(short, long)]
    interactive: bool,
    /// Give the command a terminal
    #[arg(short, long)]
    tty: bool,
    /// Run the command in the background
    #[arg(short, long)]
    detach: bool,
    /// Set an environment variable: KEY=VALUE
    #[arg(short, long, value_name = "K=V")]
    env: Vec<String>,
    /// Folder the command starts in
    #[arg(short, long, value_name = "DIR")]
    workdir: Option<String>,
    /// User and group by name or number: USER[:GROUP]
    #[arg(short, long)]
    user: Option<String>,
    /// All capabilities, no system call filter
    #[arg(long)]
    privileged: bool,
    /// Name or id of the container
    #[arg(add = completion::running_container())]
    container: String,
    /// The command and its arguments
    #[arg(trailing_var_arg = true, allow_hyphen_values = true, required = true)]
    command: Vec<String>,
}

impl Args {
    pub(crate) fn run(self, globals: &Globals) -> anyhow::Result<ExitCode> {
        let engine = containers::open(globals)?;
        let found = engine.find(&self.container).and_then(|container| container.connect(&engine));
        let sandbox = found.map_err(hinted)?;
        match self.exec(&*sandbox) {
            Ok(code) => Ok(code),
            Err(error) => {
                let code = match error.downcast_ref::<Error>().map(|error| error.kind) {
                    Some(ErrorKind::NoProgram) => 127,
                    Some(ErrorKind::NotExecutable) => 126,
                    _ => 1,
                };
                complain(&error);
                Ok(ExitCode::from(code))
            }
        }
    }

    fn exec(&self, sandbox: &dyn Sandbox) -> anyhow::Result<ExitCode> {
        if self.tty && !self.detach && !is_terminal() {
            anyhow::bail!("the input device is not a terminal: leave -t out");
        }
        let terminal = self.tty.then(|| Terminal::size().unwrap_or(Size { rows: 24, columns: 80 }));
        let mut env = if self.tty { vec!["TERM=xterm".to_owned()] } else { Vec::new() };
        env.extend(self.env.iter().cloned());
        let config = ExecConfig {
            args: self.command.clone(),
            env,
            cwd: self.workdir.clone(),
            user: self.user.clone(),
            terminal,
            privileged: self.privileged,
        };
        if self.detach {
            sandbox.exec(MAIN, &config, [None, None, None])?;
            return Ok(ExitCode::SUCCESS);
        }
        let mut relay = Relay::new()?;
        let [(input, their_input), (output, their_output), (error, their_error)] =
            [pipe()?, pipe()?, pipe()?];
        let theirs = if self.tty {
            [None, None, None]
        } else {
            [self.interactive.then_some(input), Some(their_output), Some(their_error)]
        };
        let mut exec = sandbox.exec(MAIN, &config, theirs)?;
        let ours = match exec.terminal() {
            Some(terminal) => {
                let input = self.interactive.then(|| terminal.try_clone_to_owned()).transpose()?;
                [input, Some(terminal.try_clone_to_owned()?), None]
            }
            None => [self.interactive.then_some(their_input), Some(output), Some(error)],
        };
        relay.join(ours, self.tty)?;
        let raw = if self.tty { Some(Terminal::raw()?) } else { None };
        let remote =
            Process { pid: exec.pid, terminal: exec.terminal().map(|t| t.try_clone_to_owned()).transpose()? };
        let outcome = relay.run(&remote, exec.ending());
        drop(raw);
        Ok(relay_end(outcome?))
    }
}

fn pipe() -> anyhow::Result<(std::os::fd::OwnedFd, std::os::fd::OwnedFd)> {
    Ok(rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?)
}

/// The command as the relay sees it.
struct Process {
    pid: i32,
    terminal: Option<std::os::fd::OwnedFd>,
}

impl Remote for Process {
    fn signal(&self, signal: i32) {
        let signal = rustix::process::Signal::from_named_raw(signal);
        if let (Some(pid), Some(signal)) = (rustix::process::Pid::from_raw(self.pid), signal) {
            // It may have ended meanwhile.
            let _ = rustix::process::kill_process(pid, signal);
        }
    }

    fn resize(&self, size: Size) {
        if let Some(terminal) = &self.terminal {
            let size = rustix::termios::Winsize {
                ws_row: size.rows,
                ws_col: size.columns,
                ws_xpixel: 0,
                ws_ypixel: 0,
            };
            let _ = rustix::termios::tcsetwinsize(terminal, size);
        }
    }
}
