//! Following a process in the foreground: signals go in, a terminal is passed through, its end becomes the caller's.

use std::{
    collections::VecDeque,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    event::{PollFd, PollFlags},
    io::Errno,
    process::WaitOptions,
    termios::{OptionalActions, Termios},
};

use crate::{
    config::Size,
    error::{Context, Result},
    launch::{self, Launched},
    signals, sys,
};

/// Signals that are passed on.
const PASSED: [i32; 9] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGTSTP,
    libc::SIGWINCH,
];

/// Input is read no farther ahead than this.
const CHUNK: usize = 16 << 10;

/// The signals of this process, from before the other is started.
pub(super) struct Signals(signals::Signals);

impl Signals {
    pub(super) fn take() -> Result<Self> {
        signals::Signals::take_over(&PASSED).map(Self).step("take over", "signals")
    }
}

/// Waits for the end of a started process. Gives its exit code, 128 and the signal when one ended it.
pub(super) fn follow(mut launched: Launched, signals: &Signals) -> Result<i32> {
    let mut terminal = launched.terminal.take().map(Terminal::open).transpose()?;
    loop {
        let mut polled = vec![
            PollFd::from_borrowed_fd(launched.pidfd.as_fd(), PollFlags::IN),
            PollFd::from_borrowed_fd(signals.0.as_fd(), PollFlags::IN),
        ];
        let input = std::io::stdin();
        if let Some(terminal) = &terminal {
            terminal.watch(&mut polled, input.as_fd());
        }
        match rustix::event::poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error).step("wait for", "the container"),
        }
        let ready: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        drop(polled);
        while let Some(signal) = signals.0.next_signal() {
            pass_on(signal, &launched, terminal.as_ref());
        }
        if let Some(open) = &mut terminal {
            open.carry(ready.get(2..).unwrap_or_default(), input.as_fd());
        }
        if !ready[0].is_empty() {
            if let Some(open) = &mut terminal {
                open.drain();
            }
            break;
        }
    }
    let status = rustix::process::waitpid(Some(launched.pid), WaitOptions::empty());
    let status = status.step("wait for", "the container")?;
    Ok(status.map_or(255, |(_, status)| match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => code,
        (None, Some(signal)) => 128 + signal,
        _ => 255,
    }))
}

fn pass_on(signal: i32, launched: &Launched, terminal: Option<&Terminal>) {
    match (signal, terminal) {
        (libc::SIGWINCH, Some(terminal)) => terminal.fit(),
        // A process that has ended meanwhile needs none.
        _ => drop(sys::pidfd_signal(launched.pidfd.as_fd(), signal)),
    }
}

/// The outer side of a container's terminal, passed through to this process' own.
struct Terminal {
    fd: OwnedFd,
    /// How this process' terminal was, to be put back.
    before: Option<Termios>,
    input_over: bool,
    output_over: bool,
    pending: VecDeque<u8>,
}

impl Terminal {
    fn open(fd: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true).step("prepare", "the terminal")?;
        let input = std::io::stdin();
        let before = rustix::termios::tcgetattr(&input).ok();
        if let Some(before) = &before {
            let mut raw = before.clone();
            raw.make_raw();
            rustix::termios::tcsetattr(&input, OptionalActions::Now, &raw).step("prepare", "the terminal")?;
        }
        let terminal = Self { fd, before, input_over: false, output_over: false, pending: VecDeque::new() };
        terminal.fit();
        Ok(terminal)
    }

    /// Gives it the size of this process' own.
    fn fit(&self) {
        if let Ok(size) = rustix::termios::tcgetwinsize(std::io::stdin()) {
            let _ = launch::resize(self.fd.as_fd(), Size { rows: size.ws_row, columns: size.ws_col });
        }
    }

    fn watch<'a>(&'a self, polled: &mut Vec<PollFd<'a>>, input: BorrowedFd<'a>) {
        let mut interest = if self.output_over { PollFlags::empty() } else { PollFlags::IN };
        if !self.pending.is_empty() {
            interest |= PollFlags::OUT;
        }
        polled.push(PollFd::from_borrowed_fd(self.fd.as_fd(), interest));
        if !self.input_over && self.pending.is_empty() {
            polled.push(PollFd::from_borrowed_fd(input, PollFlags::IN));
        }
    }

    fn carry(&mut self, ready: &[PollFlags], input: BorrowedFd<'_>) {
        if ready
            .first()
            .is_some_and(|ready| ready.intersects(PollFlags::IN | PollFlags::HUP | PollFlags::ERR))
        {
            self.read();
        }
        if ready.get(1).is_some_and(|ready| !ready.is_empty()) {
            let mut buffer = [0; CHUNK];
            match rustix::io::read(input, &mut buffer) {
                Ok(count @ 1..) => self.pending.extend(&buffer[..count]),
                Err(Errno::INTR | Errno::AGAIN) => {}
                // What a terminal's user types to tell of the end.
                _ => {
                    self.input_over = true;
                    self.pending.push_back(4);
                }
            }
        }
        while let (first, _) = self.pending.as_slices()
            && !first.is_empty()
        {
            match rustix::io::write(&self.fd, first) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => break,
                Err(_) => self.pending.clear(),
            }
        }
    }

    /// Passes on one piece of output. False when there was none.
    fn read(&mut self) -> bool {
        let mut buffer = [0; CHUNK];
        match rustix::io::read(&self.fd, &mut buffer) {
            Ok(count @ 1..) => {
                let mut rest = &buffer[..count];
                while let Ok(written @ 1..) =
                    rustix::io::retry_on_intr(|| rustix::io::write(std::io::stdout(), rest))
                {
                    rest = &rest[written..];
                }
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            _ => {
                self.output_over = true;
                false
            }
        }
    }

    fn drain(&mut self) {
        while !self.output_over && self.read() {}
    }
}

impl Drop for Terminal {
    fn drop(&mut self) {
        if let Some(before) = &self.before {
            let _ = rustix::termios::tcsetattr(std::io::stdin(), OptionalActions::Now, before);
        }
    }
}
