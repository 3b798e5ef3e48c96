//! The agent a specification names to decide about system calls (`linux.seccomp.listenerPath`): it is sent the descriptor the kernel
//! asks through, with who is asked about.

use std::os::{
    fd::{AsFd, OwnedFd},
    unix::net::UnixStream,
};

use oci_spec::runtime::Spec;
use rustix::net::{SendAncillaryBuffer, SendAncillaryMessage, SendFlags, sendmsg};

use super::hooks::Told;
use crate::error::{Context, Result};

/// Whom to tell, and what.
pub(crate) struct Agent<'a> {
    spec: &'a Spec,
    told: Told<'a>,
    pid: i32,
}

impl<'a> Agent<'a> {
    /// For the process `pid` of the container.
    pub(crate) fn of(spec: &'a Spec, told: Told<'a>, pid: i32) -> Self {
        Self { spec, told, pid }
    }

    /// Hands the descriptor over.
    pub(super) fn tell(&self, listener: &OwnedFd) -> Result<()> {
        let Some(seccomp) = self.spec.linux().as_ref().and_then(|linux| linux.seccomp().as_ref()) else {
            return Ok(());
        };
        let Some(path) = seccomp.listener_path().as_deref() else { return Ok(()) };
        let state = self.told.state("creating", Some(self.pid));
        let state: serde_json::Value = serde_json::from_str(&state).unwrap_or_default();
        let text = serde_json::json!({
            "ociVersion": crate::bundle::OCI_VERSION,
            "fds": ["seccompFd"],
            "pid": self.pid,
            "metadata": seccomp.listener_metadata().as_deref().unwrap_or_default(),
            "state": state,
        })
        .to_string();
        let step = "tell the system call agent at";
        let socket = UnixStream::connect(path).step(step, path.display())?;
        let mut space = [std::mem::MaybeUninit::uninit(); rustix::cmsg_space!(ScmRights(1))];
        let mut ancillary = SendAncillaryBuffer::new(&mut space);
        let fds = [listener.as_fd()];
        ancillary.push(SendAncillaryMessage::ScmRights(&fds));
        let iov = [rustix::io::IoSlice::new(text.as_bytes())];
        sendmsg(&socket, &iov, &mut ancillary, SendFlags::NOSIGNAL).map(drop).step(step, path.display())
    }
}
