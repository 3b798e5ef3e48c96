//! Commands in a container that are asked for their answer: probes, hooks, health checks.

use std::{
    io,
    os::fd::{AsFd as _, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process},
};

use crate::{Exec, ExecConfig, Result, Sandbox, error::Context as _};

/// How a command went.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Answer {
    /// Its exit code; nothing when it was killed because its time was over.
    pub code: Option<i32>,
    /// The start of what it wrote to its output and error.
    pub said: Vec<u8>,
}

/// Runs a command in the container `name`, at most for `limit`, and keeps `most` bytes of what it says. Blocks.
///
/// # Errors
/// When it cannot be started, or the shim goes meanwhile.
pub fn command(
    sandbox: &dyn Sandbox,
    name: &str,
    config: &ExecConfig,
    limit: Duration,
    most: usize,
) -> Result<Answer> {
    let (read, write) = pipe_with(PipeFlags::CLOEXEC).step("make", "a pipe")?;
    let copy = write.try_clone().step("copy", "a pipe")?;
    let mut exec = sandbox.exec(name, config, [None, Some(write), Some(copy)])?;
    let mut said = Vec::new();
    let done = follow(&mut exec, &read, limit, most, &mut said).step("follow", "a command")?;
    if !done && let Some(pid) = Pid::from_raw(exec.pid) {
        // It may have ended meanwhile.
        let _ = kill_process(pid, Signal::KILL);
    }
    let exit = exec.wait()?;
    Ok(Answer { code: done.then_some(exit.code), said })
}

/// Collects output until the command ends; false when it does not in time.
fn follow(
    exec: &mut Exec,
    output: &OwnedFd,
    limit: Duration,
    most: usize,
    said: &mut Vec<u8>,
) -> io::Result<bool> {
    let deadline = Instant::now() + limit;
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(false);
        }
        let left = Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) };
        let ending = exec.ending();
        let mut polled = vec![PollFd::from_borrowed_fd(ending.as_fd(), PollFlags::IN)];
        if open {
            polled.push(PollFd::new(output, PollFlags::IN));
        }
        match poll(&mut polled, Some(&left)) {
            Err(Errno::INTR) => continue,
            other => other?,
        };
        let ready: Vec<bool> = polled.iter().map(|fd| !fd.revents().is_empty()).collect();
        if ready.get(1) == Some(&true) {
            let mut chunk = [0; 4096];
            let n = rustix::io::read(output, &mut chunk)?;
            open = n > 0;
            let room = most.saturating_sub(said.len()).min(n);
            said.extend_from_slice(chunk.get(..room).unwrap_or_default());
        } else if ready.first() == Some(&true) {
            return Ok(true);
        }
    }
}
