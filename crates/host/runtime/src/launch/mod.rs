//! Starts processes in containers: the shim forks, the child builds the container around itself, and waits for the word to go.
//!
//! ```text
//! shim                          child (first process of the container, or one more)
//!  clone3 ────────────────────▶ cgroup, mounts, user, …
//!  recv   ◀──── terminal ────── (descriptor of the terminal's other side, if any)
//!  recv   ◀──── ready ───────── everything is set up          or: error, and the child ends
//!  go     ────────────────────▶ execve
//!  recv   ◀──── end of file ─── the program runs              or: error, and the child ends
//! ```

mod agent;
mod capabilities;
mod child;
mod copy_up;
mod devices;
mod files;
mod fork;
mod hooks;
mod mounts;
mod namespaces;
mod options;
mod process;
mod protect;
mod root;
mod schedule;
mod user;

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use oci_spec::runtime::LinuxNamespaceType as Kind;
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
    },
    process::Pid,
};

use crate::{
    cgroup::Doors,
    config::{ContainerConfig, Size},
    error::{Context, Error, ErrorKind, Result},
    seccomp::Filter,
    sys::{self, Cloned},
};

/// How long a child may take to set itself up: a mount of a dead network file system must not hold the whole pod.
const SETUP_DEADLINE: Duration = Duration::from_secs(60);

/// Largest message on the line between shim and child.
const MESSAGE: usize = 16 << 10;

/// What to start.
pub(crate) struct Launch<'a> {
    /// The container's description.
    pub(crate) config: &'a ContainerConfig,
    /// The process: the container's own, or one more.
    pub(crate) process: Plan,
    /// Into what.
    pub(crate) into: Into<'a>,
    /// The ways into its cgroup.
    pub(crate) doors: &'a Doors,
    /// Standard input, output and error; nothing means the null device, or a terminal when the process has one.
    pub(crate) stdio: [Option<OwnedFd>; 3],
    /// How many descriptors from 3 on the program is given besides.
    pub(crate) keep: u32,
    /// A socket on which somebody else will say go; without one the word comes from whoever launches.
    pub(crate) start: Option<OwnedFd>,
    /// The system call filter.
    pub(crate) seccomp: Option<&'a Filter>,
    /// The namespaces of the container.
    pub(crate) namespaces: &'a Namespaces,
    /// Its hooks, for a new container.
    pub(crate) told: Option<Told<'a>>,
}

/// A new container, or a running one.
pub(crate) enum Into<'a> {
    /// A new container whose writable layer is in this folder.
    New { folder: &'a Path },
    /// The running container whose first process this names.
    Running { init: BorrowedFd<'a> },
}

pub(crate) use agent::Agent;
pub(crate) use capabilities::CAPABILITIES;
pub(crate) use hooks::{Told, When};
pub(crate) use namespaces::{Namespaces, Owner, enter_owned, outside};
pub(crate) use options::known as known_mount_options;
pub(crate) use process::{Plan, TerminalPlan};
pub(crate) use protect::write_own_sysctls;

/// What is taken hold of outside, for a container with a user namespace, whose own process could not.
struct Before<'a> {
    sources: Option<Vec<mounts::Prepared<'a>>>,
    root: Option<root::Unmounted>,
}

/// Somebody to be told of what could not be done as asked.
trait Warn {
    fn warn(&self, text: &str);
}

/// A process that is set up and waits for the word.
pub(crate) struct Launched {
    pub(crate) pid: Pid,
    pub(crate) pidfd: OwnedFd,
    /// The other side of its terminal.
    pub(crate) terminal: Option<OwnedFd>,
    pub(crate) warnings: Vec<String>,
    line: OwnedFd,
}

/// A message of the child. The first byte says which.
enum Word {
    Terminal(OwnedFd),
    Warning(String),
    /// The process behind one that only went ahead.
    Process(Pid, OwnedFd),
    /// The container is built, for the hooks to see.
    Hooks,
    /// The filter is in force, and asks through this.
    Listener(OwnedFd),
    Ready,
    Failed(Error),
    End,
}

/// Forks and waits until the child is ready. On failure the child is gone, and reaped.
pub(crate) fn launch(mut plan: Launch<'_>) -> Result<Launched> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).step("make", "a socket pair")?;
    let before = fork::before(&plan)?;
    let (pid, pidfd) = match fork::fork(&plan, &theirs)? {
        Cloned::Child => {
            drop(ours);
            child::run(plan, before, theirs)
        }
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop((theirs, before, plan.start.take()));
    let mut launched = Launched { pid, pidfd, terminal: None, warnings: Vec::new(), line: ours };
    match launched.wait_ready(&plan) {
        Ok(()) => Ok(launched),
        Err(error) => {
            launched.abandon();
            Err(error)
        }
    }
}

impl Launched {
    fn wait_ready(&mut self, plan: &Launch<'_>) -> Result<()> {
        if plan.namespaces.makes(Kind::User) && !fork::goes_ahead(plan) {
            self.map_users(plan)?;
        }
        loop {
            match self.hear()? {
                Word::Process(pid, pidfd) => {
                    let _ = rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::empty());
                    (self.pid, self.pidfd) = (pid, pidfd);
                    self.map_users(plan)?;
                }
                Word::Hooks => self.run_hooks(plan)?,
                // Comes only after the word to go.
                Word::Listener(_) => {}
                Word::Terminal(fd) => self.terminal = Some(fd),
                Word::Warning(text) => self.warnings.push(text),
                Word::Ready if plan.namespaces.maps_users() => return self.set_from_outside(plan),
                Word::Ready => return Ok(()),
                Word::Failed(error) => return Err(error),
                Word::End => {
                    return Err(Error::new(
                        ErrorKind::Failed,
                        "set the container up",
                        "",
                        "the process was killed meanwhile; its memory limit may be too small to start in",
                    ));
                }
            }
        }
    }

    /// Lets the process go on, as somebody of the user namespace it has made, if it has.
    fn map_users(&self, plan: &Launch<'_>) -> Result<()> {
        if plan.namespaces.makes(Kind::User) {
            let (uids, gids) = namespaces::mappings_of(&plan.config.spec);
            namespaces::map_users(self.pid, uids, gids)?;
        }
        self.say(b"M")
    }

    /// Does for a process in a user namespace what it can no longer do itself.
    fn set_from_outside(&mut self, plan: &Launch<'_>) -> Result<()> {
        let warnings = Warnings::default();
        process::set_limits(Some(self.pid), &plan.process.process, &warnings)?;
        process::set_oom_score_of(self.pid, &plan.process, &warnings)?;
        self.warnings.extend(warnings.0.take());
        Ok(())
    }

    fn run_hooks(&self, plan: &Launch<'_>) -> Result<()> {
        let pid = Some(self.pid.as_raw_nonzero().get());
        if let Some(told) = plan.told {
            // As the specification's validation wants it, whose steps call it created from here on; runc tells the later hooks this.
            told.run(When::Prestart, "created", pid)?;
            told.run(When::CreateRuntime, "creating", pid)?;
        }
        self.say(b"C")
    }

    fn say(&self, word: &[u8]) -> Result<()> {
        send(&self.line, word, SendFlags::NOSIGNAL).map(drop).step("talk to", "the container's first process")
    }

    /// Says go, and waits until the program runs.
    pub(crate) fn go(&mut self, agent: &Agent<'_>) -> Result<()> {
        // Whoever holds a whole pod does not wait for ever.
        go(&self.line, agent, Some(SETUP_DEADLINE)).inspect_err(|_| {
            // It may be on its way, without those who were to watch it.
            let _ = sys::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL);
        })
    }

    fn hear(&self) -> Result<Word> {
        hear(&self.line, Some(SETUP_DEADLINE))
    }

    /// Kills the child and takes its exit status, so that nothing is left.
    pub(crate) fn abandon(&self) {
        // It may have ended by itself.
        let _ = sys::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::empty());
    }
}

/// Tells a process that waits at the other end of `line` to go, and waits until its program runs.
pub(crate) fn go(line: &OwnedFd, agent: &Agent<'_>, deadline: Option<Duration>) -> Result<()> {
    send(line, b"G", SendFlags::NOSIGNAL).step("start the program", "")?;
    loop {
        match hear(line, deadline)? {
            Word::Failed(error) => return Err(error),
            Word::Listener(listener) => {
                agent.tell(&listener)?;
                send(line, b"A", SendFlags::NOSIGNAL).step("start the program", "")?;
            }
            _ => return Ok(()),
        }
    }
}

fn hear(line: &OwnedFd, deadline: Option<Duration>) -> Result<Word> {
    let timeout = deadline.and_then(|deadline| Timespec::try_from(deadline).ok());
    let mut polled = [PollFd::new(line, PollFlags::IN)];
    while let Err(error) = rustix::event::poll(&mut polled, timeout.as_ref()) {
        if error != Errno::INTR {
            return Err(error).step("wait for", "the container's first process");
        }
    }
    if polled[0].revents().is_empty() {
        return Err(Error::new(
            ErrorKind::Failed,
            "set the container up",
            "",
            "it took longer than a minute",
        ));
    }
    let mut buffer = vec![0; MESSAGE];
    let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
    let mut ancillary = RecvAncillaryBuffer::new(&mut space);
    let mut iov = [rustix::io::IoSliceMut::new(&mut buffer)];
    let received = match recvmsg(line, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
        Err(Errno::CONNRESET) => return Ok(Word::End),
        received => received.step("hear from", "the container's first process")?,
    };
    let fd = ancillary.drain().find_map(|message| match message {
        RecvAncillaryMessage::ScmRights(mut fds) => fds.next(),
        _ => None,
    });
    let text = &buffer[1.min(received.bytes)..received.bytes];
    Ok(match (buffer[..received.bytes].first(), fd) {
        (None, _) => Word::End,
        (Some(b'T'), Some(fd)) => Word::Terminal(fd),
        (Some(b'P'), Some(fd)) => {
            match std::str::from_utf8(text).ok().and_then(|text| text.parse().ok()).and_then(Pid::from_raw) {
                Some(pid) => Word::Process(pid, fd),
                None => Word::End,
            }
        }
        (Some(b'N'), Some(fd)) => Word::Listener(fd),
        (Some(b'H'), _) => Word::Hooks,
        (Some(b'R'), _) => Word::Ready,
        (Some(b'W'), _) => Word::Warning(String::from_utf8_lossy(text).into_owned()),
        _ => Word::Failed(serde_json::from_slice(text).unwrap_or_else(|_| {
            Error::new(ErrorKind::Failed, "set the container up", "", String::from_utf8_lossy(text))
        })),
    })
}

/// The child's side of the line.
struct Line(OwnedFd);

impl Line {
    fn say(&self, kind: u8, text: &[u8]) {
        let text = &text[..text.len().min(MESSAGE - 1)];
        // Without a shim to hear it there is nobody to tell.
        let _ = send(&self.0, &[&[kind], text].concat(), SendFlags::NOSIGNAL);
    }

    fn fail(&self, error: &Error) -> ! {
        self.say(b'E', &serde_json::to_vec(error).unwrap_or_default());
        sys::exit_now(1)
    }

    fn send_terminal(&self, terminal: BorrowedFd<'_>) -> Result<()> {
        self.send_with(b"T", terminal).step("hand over", "the terminal")
    }

    fn send_with(&self, text: &[u8], fd: BorrowedFd<'_>) -> Result<(), Errno> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [fd];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let iov = [rustix::io::IoSlice::new(text)];
        sendmsg(&self.0, &iov, &mut ancillary, SendFlags::NOSIGNAL).map(drop)
    }

    /// Waits for a word. A shim that is gone means never.
    fn wait_for(&self, word: u8) {
        let mut buffer = [0; 1];
        match rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
            Ok((1.., _)) if buffer[0] == word => {}
            _ => sys::exit_now(1),
        }
    }

    /// Waits for the word to go, on this line or from whoever connects to `start`. Gives the line to be answered on.
    fn wait_for_go(self, start: Option<OwnedFd>) -> Self {
        let Some(start) = start else {
            self.wait_for(b'G');
            return self;
        };
        // Whoever made the container knows now that it is ready, by the end of this.
        drop(self);
        loop {
            match rustix::net::accept_with(&start, SocketFlags::CLOEXEC) {
                Ok(socket) => {
                    let line = Self(socket);
                    let mut buffer = [0; 1];
                    // Somebody who has gone without a word has not said go.
                    let heard = rustix::net::recv(&line.0, &mut buffer[..], RecvFlags::empty());
                    if matches!(heard, Ok((1.., _)) if buffer[0] == b'G') {
                        return line;
                    }
                }
                Err(Errno::INTR | Errno::CONNABORTED) => {}
                Err(_) => sys::exit_now(1),
            }
        }
    }
}

impl Warn for Line {
    fn warn(&self, text: &str) {
        self.say(b'W', text.as_bytes());
    }
}

/// Warnings on this side of the line.
#[derive(Default)]
struct Warnings(std::cell::RefCell<Vec<String>>);

impl Warn for Warnings {
    fn warn(&self, text: &str) {
        self.0.borrow_mut().push(text.to_owned());
    }
}

/// Sets a terminal's size.
pub(crate) fn resize(terminal: BorrowedFd<'_>, size: Size) -> Result<()> {
    let size =
        rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).step("resize", "the terminal")
}
