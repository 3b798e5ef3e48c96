//! A way out of a network namespace for people who are not root: `pasta` (passt.top) or else `slirp4netns`, which carry what is sent in
//! sockets of their own.

use std::{
    fs,
    io::{ErrorKind, Read as _},
    net::Ipv4Addr,
    os::fd::{AsRawFd as _, OwnedFd},
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    time::{Duration, Instant},
};

use anyhow::{Context as _, Result, bail};
use rustix::{
    event::{PollFd, PollFlags, Timespec},
    io::{FdFlags, fcntl_setfd},
    pipe::{PipeFlags, pipe_with},
    process::{Pid, PidfdFlags, pidfd_open},
};

/// One that is not ready by then is not used.
const DEADLINE: Duration = Duration::from_secs(10);
const GLANCE: Duration = Duration::from_millis(2);

/// Where pasta answers for the machine's server of names, as podman has it.
const PASTAS: Ipv4Addr = Ipv4Addr::new(169, 254, 1, 1);
/// Where slirp4netns does (slirp4netns(1)).
const SLIRPS: Ipv4Addr = Ipv4Addr::new(10, 0, 2, 3);

/// A program that carries what a network namespace sends.
pub(super) struct Outside {
    child: Child,
    resolver: Ipv4Addr,
    /// Where its id stands.
    written: Option<PathBuf>,
    /// slirp4netns ends with it.
    _alive: Option<OwnedFd>,
}

impl Outside {
    /// Runs one for the network mounted at `network`. The calling thread must be in the machine's network.
    pub(super) fn begin(folder: &Path, network: &Path) -> Result<Self> {
        let mut missing = Vec::new();
        for begin in [pasta, slirp4netns] {
            match begin(folder, network) {
                Ok(begun) => return Ok(begun),
                Err(error) => missing.push(format!("{error:#}")),
            }
        }
        bail!("{}; install 'passt' or 'slirp4netns'", missing.join("; "))
    }

    pub(super) fn pid(&self) -> u32 {
        self.child.id()
    }

    /// Waits until it ends, for at most `time`. Gives whether it has ended.
    pub(super) fn wait(&mut self, time: Duration) -> bool {
        let process = i32::try_from(self.pid()).ok().and_then(Pid::from_raw);
        let opened = process.map(|pid| pidfd_open(pid, PidfdFlags::empty()));
        match (opened, Timespec::try_from(time)) {
            (Some(Ok(process)), Ok(time)) => {
                // Interrupted, it is looked at earlier.
                let _ = rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&time));
            }
            _ => std::thread::sleep(time),
        }
        !matches!(self.child.try_wait(), Ok(None))
    }

    /// Its server of names.
    pub(super) fn resolver(&self) -> Ipv4Addr {
        self.resolver
    }

    pub(super) fn end(&mut self) {
        // It may have ended by itself.
        let _ = self.child.kill();
        let _ = self.child.wait();
        // Its id may be another's from now on.
        if let Some(written) = &self.written {
            let _ = fs::remove_file(written);
        }
    }
}

fn log_of(folder: &Path, program: &str) -> std::io::Result<fs::File> {
    fs::File::create(folder.join(program).with_extension("log"))
}

fn pasta(folder: &Path, network: &Path) -> Result<Outside> {
    let written = folder.join("pasta.pid");
    end_before(&written);
    let log = log_of(folder, "pasta")?;
    let mut command = Command::new("pasta");
    command.args(["--foreground", "--quiet", "--config-net", "--no-map-gw"]);
    // Ports come in by wharf's own relay.
    command.args(["-t", "none", "-u", "none", "-T", "none", "-U", "none"]);
    command.args(["--dns-forward", &PASTAS.to_string(), "--netns"]).arg(network);
    // It is root of the user namespace already, and stays the person.
    command.args(["--netns-only", "--runas", "0"]);
    command.arg("--pid").arg(&written).stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log);
    let mut child = command.spawn().context("pasta")?;
    let deadline = Instant::now() + DEADLINE;
    loop {
        if let Some(status) = child.try_wait()? {
            let said = fs::read_to_string(folder.join("pasta.log")).unwrap_or_default();
            let last = said.lines().rfind(|line| !line.trim().is_empty() && !line.contains("syslog"));
            bail!("pasta ended with {status}: {}", last.unwrap_or("no word").trim());
        }
        if fs::read_to_string(&written).is_ok_and(|text| text.ends_with('\n')) {
            return Ok(Outside { child, resolver: PASTAS, written: Some(written), _alive: None });
        }
        if Instant::now() > deadline {
            let _ = child.kill();
            let _ = child.wait();
            bail!("pasta is not ready after {} seconds", DEADLINE.as_secs());
        }
        std::thread::sleep(GLANCE);
    }
}

/// Ends the one of a holder that was killed: pasta does not notice that.
fn end_before(written: &Path) {
    let pid = fs::read_to_string(written).ok().and_then(|text| text.trim().parse().ok());
    let _ = fs::remove_file(written);
    let Some(pid) = pid.and_then(Pid::from_raw) else { return };
    let name = fs::read_to_string(format!("/proc/{}/comm", pid.as_raw_nonzero())).unwrap_or_default();
    // It has this name too, and that of a program for some processors.
    if ["pasta", "passt"].iter().any(|own| name.starts_with(own)) {
        // Somebody else's cannot be.
        let _ = rustix::process::kill_process(pid, rustix::process::Signal::TERM);
    }
}

fn slirp4netns(folder: &Path, network: &Path) -> Result<Outside> {
    let (ready, tells) = pipe_with(PipeFlags::CLOEXEC)?;
    let (sees_end, alive) = pipe_with(PipeFlags::CLOEXEC)?;
    for fd in [&tells, &sees_end] {
        fcntl_setfd(fd, FdFlags::empty())?;
    }
    let log = log_of(folder, "slirp4netns")?;
    let mut command = Command::new("slirp4netns");
    command.args(["--configure", "--mtu=65520", "--disable-host-loopback", "--netns-type=path"]);
    command.arg(format!("--ready-fd={}", tells.as_raw_fd()));
    command.arg(format!("--exit-fd={}", sees_end.as_raw_fd()));
    command.arg(network).arg("tap0");
    let spawned = command.stdin(Stdio::null()).stdout(log.try_clone()?).stderr(log).spawn();
    let mut child = spawned.map_err(|error| match error.kind() {
        ErrorKind::NotFound => anyhow::anyhow!("slirp4netns is not there"),
        _ => anyhow::Error::new(error).context("slirp4netns"),
    })?;
    drop((tells, sees_end));
    let mut polled = [PollFd::new(&ready, PollFlags::IN)];
    let deadline = Timespec::try_from(DEADLINE)?;
    let heard = rustix::event::poll(&mut polled, Some(&deadline));
    let mut word = [0];
    if heard.is_ok_and(|count| count > 0) && fs::File::from(ready).read(&mut word).is_ok_and(|read| read == 1)
    {
        return Ok(Outside { child, resolver: SLIRPS, written: None, _alive: Some(alive) });
    }
    let _ = child.kill();
    let _ = child.wait();
    let said = fs::read_to_string(folder.join("slirp4netns.log")).unwrap_or_default();
    bail!("slirp4netns: {}", said.lines().last().unwrap_or("it is not ready in time"))
}
