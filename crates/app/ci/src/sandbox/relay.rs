//! Carries the output of a process in a container to whoever waits for its lines. Blocks.

use std::{
    os::fd::{AsFd, OwnedFd},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    process::{Pid, Signal, kill_process_group},
};
use tokio::sync::mpsc;
use wharf_runtime::Exec;

use super::Line;

/// Bytes of a line; longer ones are cut.
const MAX_LINE: usize = 64 << 10;
/// How long a process may take to end after it was asked to.
const GRACE: Duration = Duration::from_secs(5);

/// Cuts what comes out of a pipe into lines.
struct Output {
    pipe: Option<OwnedFd>,
    pending: Vec<u8>,
}

impl Output {
    /// Reads what is there. False when it would have to wait, or nothing more comes.
    fn read(&mut self, lines: &mpsc::Sender<Line>) -> bool {
        let Some(pipe) = &self.pipe else { return false };
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(pipe, &mut buffer) {
            Ok(0) => self.pipe = None,
            Ok(count) => {
                self.pending.extend_from_slice(buffer.get(..count).unwrap_or_default());
                self.cut(lines);
                return true;
            }
            Err(Errno::INTR) => return true,
            Err(Errno::AGAIN) => {}
            Err(_) => self.pipe = None,
        }
        false
    }

    fn cut(&mut self, lines: &mpsc::Sender<Line>) {
        loop {
            let end = self.pending.iter().position(|byte| *byte == b'\n');
            let (length, skip) = match end {
                Some(end) if end <= MAX_LINE => (end, 1),
                _ if self.pending.len() > MAX_LINE => (MAX_LINE, 0),
                _ => return,
            };
            let line: Vec<u8> = self.pending.drain(..length + skip).take(length).collect();
            send(lines, &line);
        }
    }

    fn finish(&mut self, lines: &mpsc::Sender<Line>) {
        while self.read(lines) {}
        if !self.pending.is_empty() {
            send(lines, &std::mem::take(&mut self.pending));
        }
    }
}

fn send(lines: &mpsc::Sender<Line>, line: &[u8]) {
    let line = line.strip_suffix(b"\r").unwrap_or(line);
    // Nobody may be listening any more.
    let _ = lines.blocking_send(String::from_utf8_lossy(line).into_owned());
}

/// Follows a process to its end. `cancel` becomes readable, or is hung up, when it is to be ended.
pub(super) fn follow(
    mut exec: Exec,
    outputs: [OwnedFd; 2],
    cancel: &OwnedFd,
    lines: &mpsc::Sender<Line>,
) -> anyhow::Result<i32> {
    let mut outputs = outputs.map(|pipe| {
        let nonblocking = rustix::io::ioctl_fionbio(&pipe, true);
        Output { pipe: nonblocking.is_ok().then_some(pipe), pending: Vec::new() }
    });
    let group = Pid::from_raw(exec.pid);
    let mut asked: Option<Instant> = None;
    let mut killed = false;
    loop {
        let ready = wait(&mut exec, &outputs, cancel, asked.is_some())?;
        for output in &mut outputs {
            output.read(lines);
        }
        if ready.ended {
            // A process left in the background may hold the pipes open: what has been written so far is all there is.
            outputs.iter_mut().for_each(|output| output.finish(lines));
            return Ok(exec.wait()?.code);
        }
        let Some(group) = group else { continue };
        if ready.cancelled && asked.is_none() {
            asked = Some(Instant::now());
            let _ = kill_process_group(group, Signal::TERM);
        }
        if asked.is_some_and(|asked| asked.elapsed() > GRACE) && !killed {
            killed = true;
            let _ = kill_process_group(group, Signal::KILL);
        }
    }
}

struct Ready {
    ended: bool,
    cancelled: bool,
}

fn wait(exec: &mut Exec, outputs: &[Output; 2], cancel: &OwnedFd, asked: bool) -> anyhow::Result<Ready> {
    let ending = exec.ending();
    let mut polled = vec![PollFd::from_borrowed_fd(ending.as_fd(), PollFlags::IN)];
    if !asked {
        polled.push(PollFd::new(cancel, PollFlags::IN));
    }
    polled
        .extend(outputs.iter().filter_map(|o| o.pipe.as_ref()).map(|pipe| PollFd::new(pipe, PollFlags::IN)));
    let timeout = asked.then_some(Timespec { tv_sec: 0, tv_nsec: 200_000_000 });
    match poll(&mut polled, timeout.as_ref()) {
        Ok(_) | Err(Errno::INTR) => {}
        Err(error) => return Err(error.into()),
    }
    let ready = |index: usize| polled.get(index).is_some_and(|fd| !fd.revents().is_empty());
    Ok(Ready { ended: ready(0), cancelled: !asked && ready(1) })
}
