//! Commands inside a container, for probes and hooks.

use std::{
    io,
    net::IpAddr,
    os::fd::{AsFd, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, kill_process},
};
use wharf_runtime::{Exec, ExecConfig, Sandbox};

use crate::model::Container;

/// A run of a container, to be asked something.
#[derive(Clone)]
pub(crate) struct Target {
    pub(crate) sandbox: Arc<dyn Sandbox>,
    /// The run's name.
    pub(crate) run: String,
    pub(crate) container: Container,
    pub(crate) ip: Option<IpAddr>,
}

/// The most that is kept of a command's output.
const MAX_OUTPUT: usize = 10 << 10;

/// Runs a command to its end, at most for `limit`; gives its exit code and the start of its output.
pub(crate) async fn command(
    target: &Target,
    args: &[String],
    limit: Duration,
) -> Result<(i32, String), String> {
    let (target, args) = (target.clone(), args.to_vec());
    let ran = tokio::task::spawn_blocking(move || run(&target, args, limit)).await;
    ran.unwrap_or_else(|_| Err("the command could not be run".to_owned()))
}

fn run(target: &Target, args: Vec<String>, limit: Duration) -> Result<(i32, String), String> {
    let pipe =
        rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).map_err(|error| error.to_string())?;
    let (read, write) = pipe;
    let config = ExecConfig { args, ..ExecConfig::default() };
    let copy = write.try_clone().map_err(|error| error.to_string())?;
    let exec = target.sandbox.exec(&target.run, &config, [None, Some(write), Some(copy)]);
    let mut exec = exec.map_err(|error| error.to_string())?;
    match follow(&mut exec, &read, limit) {
        Ok(Some(output)) => {
            let exit = exec.wait().map_err(|error| error.to_string())?;
            Ok((exit.code, String::from_utf8_lossy(&output).trim().to_owned()))
        }
        Ok(None) => {
            if let Some(pid) = Pid::from_raw(exec.pid) {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = exec.wait();
            Err(format!("command timed out after {limit:?}"))
        }
        Err(error) => Err(error.to_string()),
    }
}

/// Collects output until the command ends; nothing when it does not in time.
fn follow(exec: &mut Exec, output: &OwnedFd, limit: Duration) -> io::Result<Option<Vec<u8>>> {
    let deadline = Instant::now() + limit;
    let mut said = Vec::new();
    let mut open = true;
    loop {
        let left = deadline.saturating_duration_since(Instant::now());
        if left.is_zero() {
            return Ok(None);
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
            let room = MAX_OUTPUT.saturating_sub(said.len()).min(n);
            said.extend_from_slice(chunk.get(..room).unwrap_or_default());
        } else if ready.first() == Some(&true) {
            return Ok(Some(said));
        }
    }
}
