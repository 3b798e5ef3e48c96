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

mod child;
mod devices;
mod files;
mod mounts;
mod process;
mod root;
mod user;

use std::{
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    time::Duration,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::Errno,
    net::{
        AddressFamily, RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer,
        SendAncillaryMessage, SendFlags, SocketFlags, SocketType, recvmsg, send, sendmsg, socketpair,
    },
    process::Pid,
};
use seccompiler::BpfProgram;

use crate::{
    cgroup::Doors,
    config::{ContainerConfig, Size},
    error::{Context, Error, ErrorKind, Result},
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
    /// Compiled system call filters, installed in this order.
    pub(crate) seccomp: &'a [BpfProgram],
}

/// A new container, or a running one.
pub(crate) enum Into<'a> {
    /// A new container whose writable layer is in this folder.
    New { folder: &'a Path },
    /// The running container whose first process this names.
    Running { init: BorrowedFd<'a> },
}

pub(crate) use mounts::write_sysctls;
pub(crate) use process::{Plan, TerminalPlan};

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
    Ready,
    Failed(Error),
    End,
}

/// Forks and waits until the child is ready. On failure the child is gone, and reaped.
pub(crate) fn launch(plan: Launch<'_>) -> Result<Launched> {
    let flags = SocketFlags::CLOEXEC;
    let (ours, theirs) =
        socketpair(AddressFamily::UNIX, SocketType::SEQPACKET, flags, None).step("make", "a socket pair")?;
    let (pid, pidfd) = match fork(&plan)? {
        Cloned::Child => {
            drop(ours);
            child::run(plan, theirs)
        }
        Cloned::Parent(pid, pidfd) => (pid, pidfd),
    };
    drop(theirs);
    let mut launched = Launched { pid, pidfd, terminal: None, warnings: Vec::new(), line: ours };
    match launched.wait_ready() {
        Ok(()) => Ok(launched),
        Err(error) => {
            launched.abandon();
            Err(error)
        }
    }
}

fn fork(plan: &Launch<'_>) -> Result<Cloned> {
    let own_pids = match &plan.into {
        Into::New { .. } => {
            libc::CLONE_NEWNS | if mounts::shares_pids(&plan.config.spec) { 0 } else { libc::CLONE_NEWPID }
        }
        Into::Running { init } => {
            sys::setns(*init, libc::CLONE_NEWPID).step("enter the container's process ids", "")?;
            0
        }
    };
    // SAFETY: the shim has one thread.
    let cloned = unsafe { sys::clone(own_pids, plan.doors.birthplace().map(AsFd::as_fd)) };
    if !matches!(cloned, Ok(Cloned::Child)) && matches!(plan.into, Into::Running { .. }) {
        // The shim's next children belong to the machine again.
        let own = std::fs::File::open("/proc/self/ns/pid").step("open", "/proc/self/ns/pid")?;
        sys::setns(own.as_fd(), libc::CLONE_NEWPID).step("return to", "the machine's process ids")?;
    }
    cloned.step("start a process in new namespaces", &plan.config.name)
}

impl Launched {
    fn wait_ready(&mut self) -> Result<()> {
        loop {
            match self.hear()? {
                Word::Terminal(fd) => self.terminal = Some(fd),
                Word::Warning(text) => self.warnings.push(text),
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

    /// Says go, and waits until the program runs.
    pub(crate) fn go(&mut self) -> Result<()> {
        send(&self.line, b"G", SendFlags::NOSIGNAL).step("start the program", "")?;
        match self.hear()? {
            Word::Failed(error) => Err(error),
            _ => Ok(()),
        }
    }

    fn hear(&self) -> Result<Word> {
        let timeout = Timespec::try_from(SETUP_DEADLINE).ok();
        let mut polled = [PollFd::new(&self.line, PollFlags::IN)];
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
        let received = match recvmsg(&self.line, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
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
            (Some(b'R'), _) => Word::Ready,
            (Some(b'W'), _) => Word::Warning(String::from_utf8_lossy(text).into_owned()),
            _ => Word::Failed(serde_json::from_slice(text).unwrap_or_else(|_| {
                Error::new(ErrorKind::Failed, "set the container up", "", String::from_utf8_lossy(text))
            })),
        })
    }

    /// Kills the child and takes its exit status, so that nothing is left.
    pub(crate) fn abandon(&self) {
        // It may have ended by itself.
        let _ = sys::pidfd_signal(self.pidfd.as_fd(), libc::SIGKILL);
        let _ = rustix::process::waitpid(Some(self.pid), rustix::process::WaitOptions::empty());
    }
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

    fn warn(&self, text: &str) {
        self.say(b'W', text.as_bytes());
    }

    fn send_terminal(&self, terminal: BorrowedFd<'_>) -> Result<()> {
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [terminal];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let iov = [rustix::io::IoSlice::new(b"T")];
        sendmsg(&self.0, &iov, &mut ancillary, SendFlags::NOSIGNAL)
            .map(drop)
            .step("hand over", "the terminal")
    }

    /// Waits for the word to go. A shim that is gone means never.
    fn wait_for_go(&self) {
        let mut buffer = [0; 1];
        match rustix::net::recv(&self.0, &mut buffer[..], RecvFlags::empty()) {
            Ok((1.., _)) => {}
            _ => sys::exit_now(1),
        }
    }
}

/// Sets a terminal's size.
pub(crate) fn resize(terminal: BorrowedFd<'_>, size: Size) -> Result<()> {
    let size =
        rustix::termios::Winsize { ws_row: size.rows, ws_col: size.columns, ws_xpixel: 0, ws_ypixel: 0 };
    rustix::termios::tcsetwinsize(terminal, size).step("resize", "the terminal")
}
