//! The language between a shim and those who talk to it: frames of JSON on a Unix socket, with descriptors beside them.
//!
//! A frame is the length of its text and the number of its descriptors, four bytes each, little end first, then the text.

use std::{
    collections::VecDeque,
    io,
    mem::MaybeUninit,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use rustix::{
    io::Errno,
    net::{
        RecvAncillaryBuffer, RecvAncillaryMessage, RecvFlags, SendAncillaryBuffer, SendAncillaryMessage,
        SendFlags, recvmsg, sendmsg,
    },
};
use serde::{Deserialize, Serialize, de::DeserializeOwned};

use crate::{
    config::{ExecConfig, Size},
    error::Error,
    status::{Event, Exit, Status},
};

/// What is asked of a shim. One at a time on a connection; answers come in order.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Request {
    /// Creates the container whose description is in its folder. Answered by how it is.
    Create { name: String },
    /// Starts the program of a created container.
    Start { name: String },
    /// Sends a signal to a container's first process, or to all.
    Kill { name: String, signal: i32, all: bool },
    /// Starts one more process; `stdio` tells which descriptors come with it. Answered twice: started, then ended.
    Exec { name: String, config: Box<ExecConfig>, stdio: [bool; 3] },
    /// Joins a container's standard streams.
    Attach { name: String },
    /// Sets the size of a container's terminal.
    Resize { name: String, size: Size },
    /// Freezes or thaws.
    Freeze { name: String, frozen: bool },
    /// Tells how a container is.
    Status { name: String },
    /// Tells how all are.
    List,
    /// Answers when the container has ended.
    Wait { name: String },
    /// Answers with every event from now on.
    Subscribe,
    /// Removes a container that does not run.
    Delete { name: String },
    /// Ends the shim, with every container.
    Shutdown,
}

/// What a shim answers.
#[derive(Debug, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub(crate) enum Response {
    /// The shim is up, with this process id.
    Hello { pid: i32 },
    /// Done.
    Done,
    /// How one container is.
    Status(Box<Status>),
    /// How all are.
    List(Vec<Status>),
    /// A further process runs.
    Started { pid: i32 },
    /// A process has ended.
    Exit(Exit),
    /// Something happened.
    Event(Event),
    /// The streams that come with it: input, output, error.
    Streams { stdio: [bool; 3] },
    /// It could not be done.
    Error(Error),
}

/// Frames of more than this are refused: environments and argument lists fit many times over.
const MAX_FRAME: usize = 8 << 20;
/// Descriptors beside one frame.
const MAX_FDS: usize = 8;
const HEADER: usize = 8;
/// Bytes read at once.
const CHUNK: usize = 16 << 10;

struct Outgoing {
    bytes: Vec<u8>,
    sent: usize,
    fds: Vec<OwnedFd>,
}

/// One end of a connection.
pub(crate) struct Channel {
    socket: OwnedFd,
    inbox: Vec<u8>,
    fds: VecDeque<OwnedFd>,
    outbox: VecDeque<Outgoing>,
}

impl Channel {
    pub(crate) fn new(socket: OwnedFd) -> Self {
        Self { socket, inbox: Vec::new(), fds: VecDeque::new(), outbox: VecDeque::new() }
    }

    /// Reads what there is, once. False at the end.
    pub(crate) fn fill(&mut self) -> io::Result<bool> {
        self.fill_at_most(CHUNK)
    }

    fn fill_at_most(&mut self, most: usize) -> io::Result<bool> {
        let mut buffer = [0; CHUNK];
        let most = most.min(CHUNK);
        let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
        let mut ancillary = RecvAncillaryBuffer::new(&mut space);
        let received = loop {
            let mut iov = [rustix::io::IoSliceMut::new(&mut buffer[..most])];
            match recvmsg(&self.socket, &mut iov, &mut ancillary, RecvFlags::CMSG_CLOEXEC) {
                Err(Errno::INTR) => {}
                Err(Errno::CONNRESET) => return Ok(false),
                other => break other?,
            }
        };
        for message in ancillary.drain() {
            if let RecvAncillaryMessage::ScmRights(fds) = message {
                self.fds.extend(fds);
            }
        }
        self.inbox.extend_from_slice(&buffer[..received.bytes]);
        Ok(received.bytes > 0)
    }

    /// The next whole frame, if it is there.
    pub(crate) fn next<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        let Some((header, rest)) = self.inbox.split_first_chunk::<HEADER>() else { return Ok(None) };
        let word = |at: usize| {
            u32::from_le_bytes([header[at], header[at + 1], header[at + 2], header[at + 3]]) as usize
        };
        let (length, count) = (word(0), word(4));
        if length > MAX_FRAME || count > MAX_FDS {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "the frame is too long"));
        }
        let Some(text) = rest.get(..length) else { return Ok(None) };
        if self.fds.len() < count {
            return Err(io::Error::new(io::ErrorKind::InvalidData, "descriptors are missing"));
        }
        let message = serde_json::from_slice(text)?;
        let fds = self.fds.drain(..count).collect();
        self.inbox.drain(..HEADER + length);
        Ok(Some((message, fds)))
    }

    /// Puts a message in line.
    pub(crate) fn queue<T: Serialize>(&mut self, message: &T, fds: Vec<OwnedFd>) {
        let text = serde_json::to_vec(message).unwrap_or_default();
        let mut bytes = Vec::with_capacity(HEADER + text.len());
        bytes.extend((text.len() as u32).to_le_bytes());
        bytes.extend((fds.len() as u32).to_le_bytes());
        bytes.extend(text);
        self.outbox.push_back(Outgoing { bytes, sent: 0, fds });
    }

    /// Whether something waits to be sent.
    pub(crate) fn has_outgoing(&self) -> bool {
        !self.outbox.is_empty()
    }

    /// Bytes that wait to be sent.
    pub(crate) fn backlog(&self) -> usize {
        self.outbox.iter().map(|out| out.bytes.len()).sum()
    }

    /// Sends what the socket takes.
    pub(crate) fn flush(&mut self) -> io::Result<()> {
        while let Some(out) = self.outbox.front_mut() {
            let mut space = [MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(MAX_FDS))];
            let mut ancillary = SendAncillaryBuffer::new(&mut space);
            let fds: Vec<BorrowedFd<'_>> = out.fds.iter().map(AsFd::as_fd).collect();
            if out.sent == 0 && !fds.is_empty() {
                ancillary.push(SendAncillaryMessage::ScmRights(&fds));
            }
            let iov = [rustix::io::IoSlice::new(&out.bytes[out.sent..])];
            match sendmsg(&self.socket, &iov, &mut ancillary, SendFlags::NOSIGNAL) {
                Ok(sent) => out.sent += sent,
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return Ok(()),
                Err(error) => return Err(error.into()),
            }
            if out.sent == out.bytes.len() {
                self.outbox.pop_front();
            }
        }
        Ok(())
    }

    /// Sends a message and waits until it is gone. For sockets that block.
    pub(crate) fn send<T: Serialize>(&mut self, message: &T, fds: Vec<OwnedFd>) -> io::Result<()> {
        self.queue(message, fds);
        self.flush()
    }

    /// Bytes the frame that is being read still lacks, as far as is known.
    fn missing(&self) -> usize {
        let Some((header, rest)) = self.inbox.split_first_chunk::<HEADER>() else {
            return HEADER - self.inbox.len();
        };
        let length = u32::from_le_bytes([header[0], header[1], header[2], header[3]]) as usize;
        length.saturating_sub(rest.len())
    }

    /// Waits for the next frame. Nothing at the end. For sockets that block. Reads nothing beyond it: whoever polls the socket for the
    /// frame after it must find it there.
    pub(crate) fn receive<T: DeserializeOwned>(&mut self) -> io::Result<Option<(T, Vec<OwnedFd>)>> {
        loop {
            if let Some(found) = self.next()? {
                return Ok(Some(found));
            }
            if !self.fill_at_most(self.missing())? {
                return Ok(None);
            }
        }
    }
}

impl AsFd for Channel {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.socket.as_fd()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn pair() -> (Channel, Channel) {
        let (a, b) = std::os::unix::net::UnixStream::pair().unwrap();
        (Channel::new(a.into()), Channel::new(b.into()))
    }

    #[test]
    fn carries_messages_and_descriptors() {
        let (mut a, mut b) = pair();
        let file = std::fs::File::open("/dev/null").unwrap();
        a.send(&Request::Attach { name: "x".into() }, vec![file.into()]).unwrap();
        a.send(&Request::List, vec![]).unwrap();
        let (first, fds) = b.receive::<Request>().unwrap().unwrap();
        assert!(matches!(first, Request::Attach { name } if name == "x"));
        assert_eq!(fds.len(), 1);
        assert!(matches!(b.receive::<Request>().unwrap(), Some((Request::List, fds)) if fds.is_empty()));
        drop(a);
        assert!(b.receive::<Request>().unwrap().is_none());
    }

    #[test]
    fn leaves_the_next_message_to_be_polled_for() {
        let (mut a, mut b) = pair();
        a.send(&Request::Attach { name: "x".repeat(CHUNK) }, vec![]).unwrap();
        a.send(&Request::List, vec![]).unwrap();
        assert!(matches!(b.receive::<Request>().unwrap(), Some((Request::Attach { .. }, _))));
        let mut polled = [rustix::event::PollFd::new(&b, rustix::event::PollFlags::IN)];
        let now = rustix::event::Timespec { tv_sec: 0, tv_nsec: 0 };
        assert_eq!(rustix::event::poll(&mut polled, Some(&now)), Ok(1));
        assert!(matches!(b.receive::<Request>().unwrap(), Some((Request::List, _))));
    }

    #[test]
    fn refuses_frames_that_are_too_long() {
        let (a, mut b) = pair();
        rustix::io::write(&a, &[0xff; 16]).unwrap();
        assert!(b.receive::<Request>().is_err());
    }
}
