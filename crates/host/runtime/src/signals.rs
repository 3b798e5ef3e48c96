//! Signals sent to this process, as something to poll.

use std::{
    io,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
};

use crate::sys;

/// Signals taken out of the usual way, until the end of the process. Programs started through the shim are not touched by it.
pub struct Signals(OwnedFd);

impl Signals {
    /// Takes `signals` over. To be called before threads are started: those begun earlier still receive them.
    pub fn take_over(signals: &[i32]) -> io::Result<Self> {
        sys::signal_fd(signals).map(Self)
    }

    /// The next signal that has come, if any.
    pub fn next_signal(&self) -> Option<i32> {
        let mut buffer = [0; 128];
        match rustix::io::read(&self.0, &mut buffer) {
            Ok(128) => Some(i32::from_ne_bytes([buffer[0], buffer[1], buffer[2], buffer[3]])),
            _ => None,
        }
    }
}

impl AsFd for Signals {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.0.as_fd()
    }
}
