//! Commands in containers: run to their end, or handed to the streaming server.

use std::{
    os::fd::{AsFd as _, OwnedFd},
    sync::Arc,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
    pipe::{PipeFlags, pipe_with},
    process::{Pid, Signal, kill_process},
};
use wharf_node::ExecStart;
use wharf_runtime::{Exec, ExecConfig};

use crate::{
    cri::Cri,
    describe,
    grpc::{Code, Failure, Result},
    streaming::Ask,
    table::locked,
    v1::{
        AttachRequest, AttachResponse, ExecRequest, ExecResponse, ExecSyncRequest, ExecSyncResponse,
        NamespaceMode, PortForwardRequest, PortForwardResponse,
    },
};

/// Bytes of each output that are kept: what a message to the kubelet may have.
const MAX_OUTPUT: usize = 16 << 20;

/// One output of a command.
struct Output {
    fd: Option<OwnedFd>,
    said: Vec<u8>,
}

impl Output {
    fn new(fd: OwnedFd) -> Result<Self> {
        rustix::io::ioctl_fionbio(&fd, true).map_err(Failure::internal)?;
        Ok(Self { fd: Some(fd), said: Vec::new() })
    }

    /// Reads what there is now. What does not fit is let go, so that the command does not stand still for it.
    fn read(&mut self) {
        let mut chunk = [0; 16 << 10];
        while let Some(fd) = &self.fd {
            match rustix::io::read(fd, &mut chunk) {
                Ok(count @ 1..) => {
                    let kept = count.min(MAX_OUTPUT.saturating_sub(self.said.len()));
                    self.said.extend_from_slice(chunk.get(..kept).unwrap_or_default());
                }
                Err(Errno::INTR) => {}
                Err(Errno::AGAIN) => return,
                Ok(_) | Err(_) => self.fd = None,
            }
        }
    }
}

/// Reads outputs until the command has ended. False when it does not in time.
fn follow(exec: &mut Exec, outputs: &mut [Output; 2], deadline: Option<Instant>) -> Result<bool> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        if left.is_some_and(|left| left.is_zero()) {
            return Ok(false);
        }
        let left = left
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        let ended = {
            let ending = exec.ending();
            let mut polled = vec![PollFd::from_borrowed_fd(ending.as_fd(), PollFlags::IN)];
            let open = outputs.iter().filter_map(|output| output.fd.as_ref());
            polled.extend(open.map(|fd| PollFd::new(fd, PollFlags::IN)));
            match poll(&mut polled, left.as_ref()) {
                Err(Errno::INTR) => continue,
                Err(error) => return Err(Failure::internal(error)),
                Ok(_) => polled.first().is_some_and(|fd| !fd.revents().is_empty()),
            }
        };
        outputs.iter_mut().for_each(Output::read);
        if ended {
            return Ok(true);
        }
    }
}

fn streams(stdin: bool, stdout: bool, stderr: bool, tty: bool) -> Result<()> {
    if !(stdin || stdout || stderr) {
        return Err(Failure::invalid("one of stdin, stdout and stderr must be asked for"));
    }
    if tty && stderr {
        return Err(Failure::invalid("a terminal has no stderr of its own"));
    }
    Ok(())
}

impl Cri {
    pub(crate) fn exec_sync(&self, request: ExecSyncRequest) -> Result<ExecSyncResponse> {
        let container = locked(&self.table).container(&request.container_id)?;
        let living = container.running()?;
        if request.cmd.is_empty() {
            return Err(Failure::invalid("no command is given"));
        }
        let pipe = || pipe_with(PipeFlags::CLOEXEC).map_err(Failure::internal);
        let ((out, their_out), (err, their_err)) = (pipe()?, pipe()?);
        let mut outputs = [Output::new(out)?, Output::new(err)?];
        let config = ExecConfig { args: request.cmd, ..ExecConfig::default() };
        let mut exec = living.exec(&container.id, &config, [None, Some(their_out), Some(their_err)])?;
        let limit =
            u64::try_from(request.timeout).ok().filter(|seconds| *seconds > 0).map(Duration::from_secs);
        let deadline = limit.and_then(|limit| Instant::now().checked_add(limit));
        if !follow(&mut exec, &mut outputs, deadline)? {
            if let Some(pid) = Pid::from_raw(exec.pid) {
                // It may have ended meanwhile.
                let _ = kill_process(pid, Signal::KILL);
            }
            let _ = exec.wait();
            let limit = request.timeout;
            return Err(Failure::new(
                Code::DeadlineExceeded,
                format_args!("the command did not end in {limit} s"),
            ));
        }
        let exit = exec.wait()?;
        let [stdout, stderr] = outputs.map(|output| output.said);
        Ok(ExecSyncResponse { stdout, stderr, exit_code: exit.code })
    }

    pub(crate) fn exec(self: &Arc<Self>, request: ExecRequest) -> Result<ExecResponse> {
        let container = locked(&self.table).container(&request.container_id)?;
        let sandbox = container.running()?;
        streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        if request.cmd.is_empty() {
            return Err(Failure::invalid("no command is given"));
        }
        let start = ExecStart {
            command: request.cmd,
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            tty: request.tty,
            ..ExecStart::default()
        };
        let url = self.streams.url("exec", Ask::Command { sandbox, run: container.id.clone(), start })?;
        Ok(ExecResponse { url })
    }

    pub(crate) fn attach(self: &Arc<Self>, request: AttachRequest) -> Result<AttachResponse> {
        let container = locked(&self.table).container(&request.container_id)?;
        let sandbox = container.running()?;
        streams(request.stdin, request.stdout, request.stderr, request.tty)?;
        let tty = container.record().config.unwrap_or_default().tty;
        if tty != request.tty {
            return Err(Failure::invalid(format_args!(
                "tty is {}, but the container's is {tty}",
                request.tty
            )));
        }
        let start = ExecStart {
            stdin: request.stdin,
            stdout: request.stdout,
            stderr: request.stderr,
            tty,
            attach: true,
            ..ExecStart::default()
        };
        let url = self.streams.url("attach", Ask::Command { sandbox, run: container.id.clone(), start })?;
        Ok(AttachResponse { url })
    }

    pub(crate) fn port_forward(self: &Arc<Self>, request: PortForwardRequest) -> Result<PortForwardResponse> {
        let sandbox = locked(&self.table).sandbox(&request.pod_sandbox_id)?;
        let living = sandbox.ready()?;
        let on_machine = describe::namespaces(&sandbox.config()).network() == NamespaceMode::Node;
        let network = (!on_machine).then(|| living.network_namespace());
        let ports = request.port.iter().map(ToString::to_string).collect();
        Ok(PortForwardResponse { url: self.streams.url("portforward", Ask::Ports { network, ports })? })
    }
}
