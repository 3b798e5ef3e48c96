//! Carries bytes between this terminal and a program in a container, until the program ends.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use anyhow::Context;
use rustix::{
    event::{PollFd, PollFlags, poll},
    io::Errno,
};
use wharf_runtime::{Ending, Exit, Signals, Size};

use super::Terminal;

/// What the relay may ask of the program's side.
pub(crate) trait Remote {
    /// Passes a signal on.
    fn signal(&self, signal: i32);
    /// Tells the terminal's size.
    fn resize(&self, size: Size);
}

/// Signals that are the program's while it has the terminal.
const FORWARDED: [i32; 8] = [
    libc::SIGHUP,
    libc::SIGINT,
    libc::SIGQUIT,
    libc::SIGTERM,
    libc::SIGUSR1,
    libc::SIGUSR2,
    libc::SIGCONT,
    libc::SIGWINCH,
];

/// Ctrl-P Ctrl-Q: leaves the program running and goes.
const DETACH: [u8; 2] = [0x10, 0x11];

/// This program's exit code after that.
pub(crate) fn exit_code(outcome: Outcome) -> std::process::ExitCode {
    match outcome {
        Outcome::Ended(exit) => {
            if exit.oom_killed {
                eprintln!("warning: the container ran out of memory and was killed");
            }
            std::process::ExitCode::from(u8::try_from(exit.code).unwrap_or(255))
        }
        Outcome::Detached => std::process::ExitCode::SUCCESS,
    }
}

/// The streams between here and there.
pub(crate) struct Relay {
    signals: Signals,
    input: Option<OwnedFd>,
    pending: Vec<u8>,
    outputs: [Option<OwnedFd>; 2],
    keys: Option<Keys>,
}

/// Looks for the keys that detach.
#[derive(Default)]
struct Keys {
    held: bool,
}

/// How the relay came to its end.
pub(crate) enum Outcome {
    /// The program ended.
    Ended(Exit),
    /// The person left.
    Detached,
}

impl Relay {
    /// Takes signals over. To be made before the program starts.
    pub(crate) fn new() -> anyhow::Result<Self> {
        let signals = Signals::take_over(&FORWARDED).context("cannot take signals over")?;
        Ok(Self { signals, input: None, pending: Vec::new(), outputs: [None, None], keys: None })
    }

    /// Joins the program's streams: where its input is written, where its output and error are read.
    pub(crate) fn join(&mut self, streams: [Option<OwnedFd>; 3], terminal: bool) -> anyhow::Result<()> {
        let [input, output, error] = streams;
        if let Some(input) = &input {
            rustix::io::ioctl_fionbio(input, true)?;
        }
        self.input = input;
        self.outputs = [output, error];
        self.keys = terminal.then(Keys::default);
        Ok(())
    }

    /// Carries on until the program has ended and all it said has been passed on.
    pub(crate) fn run(&mut self, remote: &dyn Remote, ending: &mut Ending) -> anyhow::Result<Outcome> {
        let mut exit = None;
        while exit.is_none() || self.outputs.iter().any(Option::is_some) {
            let ready = self.wait(exit.is_none().then(|| ending.as_fd()))?;
            if ready.signal {
                self.pass_signals(remote);
            }
            if ready.stdin && self.read_input() {
                return Ok(Outcome::Detached);
            }
            if ready.input {
                self.write_input();
            }
            for index in 0..2 {
                if ready.outputs[index] {
                    self.copy_output(index)?;
                }
            }
            if ready.ended {
                exit = Some(ending.wait()?);
            }
        }
        exit.map(Outcome::Ended).context("the program ended without a word")
    }

    fn pass_signals(&self, remote: &dyn Remote) {
        while let Some(signal) = self.signals.next_signal() {
            match (signal, Terminal::size()) {
                (libc::SIGWINCH, Some(size)) if self.keys.is_some() => remote.resize(size),
                (libc::SIGWINCH, _) => {}
                _ => remote.signal(signal),
            }
        }
    }

    /// Reads what was typed or piped. True when the person wants to leave.
    fn read_input(&mut self) -> bool {
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(std::io::stdin().as_fd(), &mut buffer) {
            Ok(count @ 1..) => {
                let typed = &buffer[..count];
                let left = match &mut self.keys {
                    Some(keys) => keys.take(typed, &mut self.pending),
                    None => {
                        self.pending.extend_from_slice(typed);
                        false
                    }
                };
                self.write_input();
                left
            }
            Err(Errno::INTR | Errno::AGAIN) => false,
            // Its end is the program's end of input.
            _ => {
                self.input = None;
                false
            }
        }
    }

    fn write_input(&mut self) {
        let Some(input) = &self.input else { return };
        while !self.pending.is_empty() {
            match rustix::io::write(input, &self.pending) {
                Ok(count) => drop(self.pending.drain(..count)),
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                // The program does not read any more.
                Err(_) => {
                    self.pending.clear();
                    self.input = None;
                    return;
                }
            }
        }
    }

    fn copy_output(&mut self, index: usize) -> anyhow::Result<()> {
        let Some(output) = &self.outputs[index] else { return Ok(()) };
        let mut buffer = [0; 32 << 10];
        match rustix::io::read(output, &mut buffer) {
            Ok(count @ 1..) => {
                let (out, err) = (std::io::stdout(), std::io::stderr());
                let target = if index == 0 { out.as_fd() } else { err.as_fd() };
                write_all(target, &buffer[..count])?;
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            // A terminal whose last user is gone says EIO.
            _ => self.outputs[index] = None,
        }
        Ok(())
    }

    fn wait(&self, ending: Option<BorrowedFd<'_>>) -> anyhow::Result<Ready> {
        let stdin = std::io::stdin();
        let mut polled = vec![PollFd::new(&self.signals, PollFlags::IN)];
        let wants_stdin = self.input.is_some() && self.pending.is_empty();
        let places = [
            push(&mut polled, wants_stdin.then(|| stdin.as_fd()), PollFlags::IN),
            push(
                &mut polled,
                self.input.as_ref().filter(|_| !self.pending.is_empty()).map(AsFd::as_fd),
                PollFlags::OUT,
            ),
            push(&mut polled, self.outputs[0].as_ref().map(AsFd::as_fd), PollFlags::IN),
            push(&mut polled, self.outputs[1].as_ref().map(AsFd::as_fd), PollFlags::IN),
            push(&mut polled, ending, PollFlags::IN),
        ];
        match poll(&mut polled, None) {
            Ok(_) | Err(Errno::INTR) => {}
            Err(error) => return Err(error.into()),
        }
        let at = |place: Option<usize>| place.is_some_and(|place| !polled[place].revents().is_empty());
        Ok(Ready {
            signal: at(Some(0)),
            stdin: at(places[0]),
            input: at(places[1]),
            outputs: [at(places[2]), at(places[3])],
            ended: at(places[4]),
        })
    }
}

/// What can be gone on with.
struct Ready {
    signal: bool,
    stdin: bool,
    input: bool,
    outputs: [bool; 2],
    ended: bool,
}

fn push<'a>(polled: &mut Vec<PollFd<'a>>, fd: Option<BorrowedFd<'a>>, flags: PollFlags) -> Option<usize> {
    polled.push(PollFd::from_borrowed_fd(fd?, flags));
    Some(polled.len() - 1)
}

impl Keys {
    /// Passes on what was typed, without the keys that detach. True when they were typed.
    fn take(&mut self, typed: &[u8], on: &mut Vec<u8>) -> bool {
        for byte in typed {
            if self.held && *byte == DETACH[1] {
                return true;
            }
            if std::mem::take(&mut self.held) {
                on.push(DETACH[0]);
            }
            if *byte == DETACH[0] {
                self.held = true;
            } else {
                on.push(*byte);
            }
        }
        false
    }
}

/// Writes all of `bytes` to a standard stream, whatever mode it is in.
fn write_all(fd: BorrowedFd<'_>, mut bytes: &[u8]) -> anyhow::Result<()> {
    while !bytes.is_empty() {
        match rustix::io::write(fd, bytes) {
            Ok(count) => bytes = &bytes[count..],
            Err(Errno::INTR) => {}
            Err(Errno::AGAIN) => drop(poll(&mut [PollFd::from_borrowed_fd(fd, PollFlags::OUT)], None)),
            // Nobody reads any more; the program goes on.
            Err(Errno::PIPE) => return Ok(()),
            Err(error) => return Err(error.into()),
        }
    }
    Ok(())
}
