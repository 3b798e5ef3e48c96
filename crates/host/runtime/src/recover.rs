//! Order after a shim has died: its containers have nobody left to keep their output or to tell of their end, so they end too.

use std::os::fd::AsFd as _;

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    process::{Pid, PidfdFlags, pidfd_open},
};
use wharf_base::{Clock, SystemClock};

use crate::{
    cgroup::Cgroup,
    error::Result,
    pod_dir::{PodDir, unlock, write_json},
    processes::began,
    status::{Exit, Phase, Status},
    sys,
};

/// Why a container whose shim died has ended.
const REASON: &str = "the shim that held the container was killed";

pub(crate) fn clean_up(dir: &PodDir) -> Result<Vec<String>> {
    // Held to the end, so that no shim is started meanwhile.
    let Some(lock) = dir.lock()? else { return Ok(Vec::new()) };
    let ended = put_in_order(dir);
    unlock(&lock);
    ended
}

fn put_in_order(dir: &PodDir) -> Result<Vec<String>> {
    let mut ended = Vec::new();
    for name in dir.containers() {
        match dir.status(&name) {
            Ok(status) => {
                Cgroup::at(&status.cgroup)?.remove()?;
                if status.exit.is_none() {
                    end_survivor(&status);
                    write_end(dir, status)?;
                    ended.push(name);
                }
            }
            // Killed in the middle of making it: the description tells where its cgroup may be.
            Err(_) => remove_half_made(dir, &name)?,
        }
    }
    if let Some(pod) = dir.config().ok().and_then(|config| config.cgroup) {
        Cgroup::at(&pod.path)?.remove()?;
    }
    let _ = std::fs::remove_file(dir.path().join("shim.sock"));
    Ok(ended)
}

/// Without a cgroup a container's first process may outlive its shim: it does not end with it once it has changed its user. All others
/// end with it.
fn end_survivor(status: &Status) {
    let (Some(pid), Some(_)) = (status.pid, status.began) else { return };
    let Some(process) = Pid::from_raw(pid).and_then(|pid| pidfd_open(pid, PidfdFlags::empty()).ok()) else {
        return;
    };
    if began(pid) == status.began && sys::pidfd_signal(process.as_fd(), libc::SIGKILL).is_ok() {
        let long = Timespec { tv_sec: 5, tv_nsec: 0 };
        // One that does not end is in the kernel's hands.
        let _ = rustix::event::poll(&mut [PollFd::new(&process, PollFlags::IN)], Some(&long));
    }
}

fn write_end(dir: &PodDir, mut status: Status) -> Result<()> {
    status.pid = None;
    let exit = Exit {
        code: 255,
        signal: None,
        oom_killed: false,
        finished_at: SystemClock.now(),
        reason: Some(REASON.to_owned()),
    };
    let folder = dir.container(&status.name);
    write_json(&folder.join("exit.json"), &exit)?;
    status.exit = Some(exit);
    status.phase = Phase::Exited;
    write_json(&folder.join("state.json"), &status)
}

fn remove_half_made(dir: &PodDir, name: &str) -> Result<()> {
    let config = dir.container_config(name).ok();
    let path = config
        .as_ref()
        .and_then(|config| config.spec.linux().as_ref())
        .and_then(|linux| linux.cgroups_path().clone());
    match path {
        Some(path) => Cgroup::at(&path.to_string_lossy())?.remove(),
        None => Ok(()),
    }
}
