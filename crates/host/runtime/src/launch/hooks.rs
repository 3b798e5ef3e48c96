//! Hooks: programs of the specification that run beside a container's life, with its state as JSON on their standard input.

use std::{
    fs::File,
    io::{Read, Seek, Write},
    os::{
        fd::{AsFd, OwnedFd},
        unix::process::CommandExt,
    },
    process::{Child, Command, Stdio},
    time::Duration,
};

use oci_spec::runtime::{Hook, Hooks};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::MemfdFlags,
    io::Errno,
    process::{Pid, PidfdFlags, pidfd_open},
};

use crate::error::{Context, Error, ErrorKind, Result};

/// What a hook said is kept of up to this, for the error message.
const SAID: usize = 1000;

/// When hooks run, as the specification names it.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum When {
    Prestart,
    CreateRuntime,
    CreateContainer,
    StartContainer,
    Poststart,
    Poststop,
}

impl When {
    /// Its name in a specification.
    pub(crate) fn name(self) -> &'static str {
        match self {
            Self::Prestart => "prestart",
            Self::CreateRuntime => "createRuntime",
            Self::CreateContainer => "createContainer",
            Self::StartContainer => "startContainer",
            Self::Poststart => "poststart",
            Self::Poststop => "poststop",
        }
    }

    /// All of them.
    pub(crate) const ALL: [Self; 6] = [
        Self::Prestart,
        Self::CreateRuntime,
        Self::CreateContainer,
        Self::StartContainer,
        Self::Poststart,
        Self::Poststop,
    ];

    #[allow(deprecated, reason = "prestart hooks are still in use: docker's network is wired by one")]
    fn of(self, hooks: &Hooks) -> &[Hook] {
        match self {
            Self::Prestart => hooks.prestart(),
            Self::CreateRuntime => hooks.create_runtime(),
            Self::CreateContainer => hooks.create_container(),
            Self::StartContainer => hooks.start_container(),
            Self::Poststart => hooks.poststart(),
            Self::Poststop => hooks.poststop(),
        }
        .as_deref()
        .unwrap_or_default()
    }
}

/// A container's hooks, and what they are told.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Told<'a> {
    pub(crate) hooks: Option<&'a Hooks>,
    pub(crate) id: &'a str,
    pub(crate) bundle: &'a str,
    pub(crate) annotations: Option<&'a std::collections::HashMap<String, String>>,
}

impl Told<'_> {
    /// Whether there is one for `when`.
    pub(crate) fn any(&self, when: When) -> bool {
        self.hooks.is_some_and(|hooks| !when.of(hooks).is_empty())
    }

    /// Refuses hooks that cannot be run as asked.
    pub(crate) fn check(&self) -> Result<()> {
        let all = When::ALL.into_iter().flat_map(|when| self.hooks.map_or(&[][..], |hooks| when.of(hooks)));
        for hook in all {
            if !hook.path().is_absolute() {
                return Err(Error::invalid(
                    "use the hook",
                    hook.path().display(),
                    "its path must be absolute",
                ));
            }
            if hook.timeout().is_some_and(|timeout| timeout <= 0) {
                return Err(Error::invalid(
                    "use the hook",
                    hook.path().display(),
                    "its timeout must be greater than 0",
                ));
            }
        }
        Ok(())
    }

    /// The state hooks are told.
    pub(crate) fn state(&self, status: &str, pid: Option<i32>) -> String {
        let mut state = serde_json::json!({
            "ociVersion": crate::bundle::OCI_VERSION, "id": self.id, "status": status, "bundle": self.bundle,
        });
        if let Some(pid) = pid {
            state["pid"] = pid.into();
        }
        if let Some(annotations) = self.annotations {
            state["annotations"] = serde_json::json!(annotations);
        }
        state.to_string()
    }

    /// Runs those of `when` in turn, up to the first that fails.
    pub(crate) fn run(&self, when: When, status: &str, pid: Option<i32>) -> Result<()> {
        let Some(hooks) = self.hooks.filter(|hooks| !when.of(hooks).is_empty()) else { return Ok(()) };
        let state = self.state(status, pid);
        when.of(hooks).iter().try_for_each(|hook| run(hook, when, &state))
    }

    /// Runs those of `when` in turn, whatever happens to each. Gives what went wrong.
    pub(crate) fn run_all(&self, when: When, status: &str, pid: Option<i32>) -> Vec<Error> {
        let Some(hooks) = self.hooks.filter(|hooks| !when.of(hooks).is_empty()) else { return Vec::new() };
        let state = self.state(status, pid);
        when.of(hooks).iter().filter_map(|hook| run(hook, when, &state).err()).collect()
    }
}

fn run(hook: &Hook, when: When, state: &str) -> Result<()> {
    let step = format!("run the {} hook", when.name());
    let subject = hook.path().display();
    let said = scratch("hook-error").step("keep", "what a hook says")?;
    let args = hook.args().as_deref().unwrap_or_default();
    let mut command = Command::new(hook.path());
    if let Some(name) = args.first() {
        command.arg0(name);
    }
    let variables = hook.env().iter().flatten().filter_map(|setting| setting.split_once('='));
    let (input, rest) = input(state).step("write", "the state for a hook")?;
    let mut child = command
        .args(args.iter().skip(1))
        .env_clear()
        .envs(variables)
        .stdin(input)
        .stdout(Stdio::null())
        .stderr(said.try_clone().step("copy", "a descriptor")?)
        .spawn()
        .step(&step, &subject)?;
    if let Some(mut rest) = rest {
        // A hook need not read what it is told.
        let _ = rest.write_all(state.as_bytes());
    }
    wait(&mut child, hook.timeout(), &step, &subject.to_string())?;
    let status = child.wait().step(&step, &subject)?;
    if status.success() {
        return Ok(());
    }
    Err(Error::new(ErrorKind::Failed, &step, &subject, format_args!("{status}{}", words(said))))
}

/// A file without a name. Where a filter forbids those, there is none.
fn scratch(name: &str) -> Result<File, Errno> {
    rustix::fs::memfd_create(name, MemfdFlags::CLOEXEC).map(File::from)
}

/// What a hook reads its state from, and where it is still to be written.
fn input(state: &str) -> std::io::Result<(Stdio, Option<File>)> {
    if let Ok(mut file) = scratch("hook-state") {
        file.write_all(state.as_bytes())?;
        file.rewind()?;
        return Ok((file.into(), None));
    }
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC)?;
    Ok((OwnedFd::into(read), Some(write.into())))
}

/// Waits for the end, or ends it when its time is over.
fn wait(child: &mut Child, timeout: Option<i64>, step: &str, subject: &str) -> Result<()> {
    let Some(seconds) = timeout else { return Ok(()) };
    let Some(pid) = Pid::from_raw(child.id() as i32) else { return Ok(()) };
    let handle = pidfd_open(pid, PidfdFlags::empty()).step("watch", subject)?;
    let deadline = std::time::Instant::now() + Duration::from_secs(seconds.unsigned_abs());
    loop {
        let left = deadline.saturating_duration_since(std::time::Instant::now());
        let left = Timespec::try_from(left).unwrap_or(Timespec { tv_sec: i64::MAX, tv_nsec: 0 });
        match rustix::event::poll(&mut [PollFd::from_borrowed_fd(handle.as_fd(), PollFlags::IN)], Some(&left))
        {
            Ok(0) => break,
            Ok(_) => return Ok(()),
            Err(Errno::INTR) => {}
            Err(error) => return Err(error).step("wait for", subject),
        }
    }
    let _ = child.kill();
    let _ = child.wait();
    Err(Error::new(ErrorKind::Failed, step, subject, format_args!("it took longer than {seconds} s")))
}

fn words(mut said: File) -> String {
    let mut text = Vec::new();
    let _ = said.rewind();
    let _ = said.take(SAID as u64).read_to_end(&mut text);
    let text = String::from_utf8_lossy(&text);
    if text.trim().is_empty() { String::new() } else { format!(": {}", text.trim()) }
}
