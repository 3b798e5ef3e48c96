//! A container's output on its way to the log and to those attached.

use std::os::fd::{AsFd, BorrowedFd, OwnedFd};

use rustix::{io::Errno, pipe::PipeFlags};

use crate::log::{LogWriter, Stream};

/// One output of a container: a pipe's end or the outer side of its terminal.
pub(super) struct Output {
    fd: Option<OwnedFd>,
    stream: Stream,
    sinks: Vec<Sink>,
}

/// Someone attached. One that does not read holds the program up, as a terminal would; one that is gone is dropped.
struct Sink {
    fd: OwnedFd,
    pending: Vec<u8>,
}

/// Read at once.
const CHUNK: usize = 32 << 10;

impl Output {
    pub(super) fn new(fd: OwnedFd, stream: Stream) -> Self {
        Self { fd: Some(fd), stream, sinks: Vec::new() }
    }

    /// Lets someone read along from now on. Nothing when the output is over.
    pub(super) fn attach(&mut self) -> Option<OwnedFd> {
        self.fd.as_ref()?;
        let (read, write) = rustix::pipe::pipe_with(PipeFlags::CLOEXEC).ok()?;
        // Only this side may not block.
        rustix::io::ioctl_fionbio(&write, true).ok()?;
        self.sinks.push(Sink { fd: write, pending: Vec::new() });
        Some(read)
    }

    /// What to read from, unless somebody attached is behind.
    pub(super) fn to_read(&self) -> Option<BorrowedFd<'_>> {
        self.fd.as_ref().filter(|_| self.sinks.iter().all(|sink| sink.pending.is_empty())).map(AsFd::as_fd)
    }

    pub(super) fn to_write(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.sinks.iter().filter(|sink| !sink.pending.is_empty()).map(|sink| sink.fd.as_fd())
    }

    /// Reads once. False when there was nothing.
    pub(super) fn read(&mut self, log: &mut Option<LogWriter>) -> bool {
        let Some(fd) = &self.fd else { return false };
        let mut buffer = [0; CHUNK];
        match rustix::io::read(fd, &mut buffer) {
            Ok(count @ 1..) => {
                self.pass_on(&buffer[..count], log);
                true
            }
            Err(Errno::INTR) => true,
            Err(Errno::AGAIN) => false,
            // A terminal whose last user is gone answers EIO instead of an end.
            Ok(_) | Err(_) => {
                self.close(log);
                false
            }
        }
    }

    fn pass_on(&mut self, bytes: &[u8], log: &mut Option<LogWriter>) {
        if let Some(log) = log {
            // A full disk must not stop the program; what did not fit is lost and the next write tries anew.
            let _ = log.write(self.stream, bytes);
        }
        for sink in &mut self.sinks {
            sink.pending.extend_from_slice(bytes);
        }
        self.flush();
    }

    /// Writes on what those attached take.
    pub(super) fn flush(&mut self) {
        self.sinks.retain_mut(|sink| {
            while !sink.pending.is_empty() {
                match rustix::io::write(&sink.fd, &sink.pending) {
                    Ok(count) => drop(sink.pending.drain(..count)),
                    Err(Errno::INTR) => {}
                    Err(Errno::AGAIN) => return true,
                    Err(_) => return false,
                }
            }
            true
        });
        if self.fd.is_none() {
            self.sinks.retain(|sink| !sink.pending.is_empty());
        }
    }

    /// The output is over: those attached see the end once they have read the rest.
    pub(super) fn close(&mut self, log: &mut Option<LogWriter>) {
        if self.fd.take().is_some() {
            if let Some(log) = log {
                let _ = log.end(self.stream);
            }
            self.flush();
        }
    }

    pub(super) fn is_over(&self) -> bool {
        self.fd.is_none() && self.sinks.is_empty()
    }
}
