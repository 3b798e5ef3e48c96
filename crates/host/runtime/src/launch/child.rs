//! The child's way from fork to `execve`.

use std::os::fd::{AsFd, AsRawFd, OwnedFd};

use rustix::fs::{Mode, OFlags};

use super::{Into, Launch, Line, devices, mounts, process, root};
use crate::{
    error::{Context, Error, Result},
    sys,
};

/// Never returns: becomes the program, or tells why not and ends.
pub(super) fn run(plan: Launch<'_>, line: OwnedFd) -> ! {
    let line = Line(line);
    // From here on the line has another number.
    let line = enter(&plan, &line).unwrap_or_else(|error| line.fail(&error));
    let ready = process::become_user(&plan, &line).unwrap_or_else(|error| line.fail(&error));
    line.say(b'R', b"");
    line.wait_for_go();
    line.fail(&ready.exec())
}

/// Builds the container, or joins it, and takes its streams in place. Gives the line, moved.
fn enter(plan: &Launch<'_>, line: &Line) -> Result<Line> {
    sys::reset_signals();
    // Until it is the container's own program, nobody in the container may look into this process or at its executable.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .step("hide", "the launcher")?;
    rustix::process::umask(Mode::empty());
    plan.doors.enter().step("enter the cgroup", &plan.config.name)?;
    rustix::process::setsid().step("begin", "a session")?;
    process::set_oom_score(&plan.process, line)?;
    let terminal = match &plan.into {
        Into::New { folder } => build(plan, folder)?,
        Into::Running { init } => {
            let all = libc::CLONE_NEWNS
                | libc::CLONE_NEWCGROUP
                | libc::CLONE_NEWIPC
                | libc::CLONE_NEWUTS
                | libc::CLONE_NEWNET;
            sys::setns(*init, all).step("enter the container", &plan.config.name)?;
            match &plan.process.terminal {
                Some(size) => Some(devices::open_terminal(None, size)?),
                None => None,
            }
        }
    };
    stdio(plan, terminal, line)
}

/// Builds the container around this process. Gives its terminal.
fn build(plan: &Launch<'_>, folder: &std::path::Path) -> Result<Option<devices::Terminal>> {
    let spec = &plan.config.spec;
    sys::unshare(libc::CLONE_NEWCGROUP).step("unshare", "the cgroup namespace")?;
    // Before the mounts are cut off from the machine's, so that a shared source stays shared.
    let sources = mounts::open_sources(spec, plan.config)?;
    mounts::cut_off(spec)?;
    let root = root::mount(&plan.config.root, folder)?;
    mounts::attach_all(&root, sources)?;
    devices::make(&root, spec)?;
    let terminal = match &plan.process.terminal {
        Some(size) => Some(devices::open_terminal(Some(&root), size)?),
        None => None,
    };
    mounts::set_sysctls(spec)?;
    mounts::protect(&root, spec)?;
    root.pivot(spec)?;
    Ok(terminal)
}

/// Puts standard input, output and error in place, the line behind them, and closes everything else the shim had open.
fn stdio(plan: &Launch<'_>, terminal: Option<devices::Terminal>, line: &Line) -> Result<Line> {
    let null = || {
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .step("open", "/dev/null in the container")
    };
    if let Some(terminal) = &terminal {
        line.send_terminal(terminal.master.as_fd())?;
        sys::set_controlling_terminal(terminal.slave.as_fd()).step("take", "the terminal")?;
    }
    // Copies above 10, so that no target number is still the source of another.
    let copies: Result<Vec<OwnedFd>> = (0..3)
        .map(|index| {
            let high = |fd: std::os::fd::BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, 10);
            match (&plan.stdio[index], &terminal) {
                (_, Some(terminal)) => high(terminal.slave.as_fd()),
                (Some(fd), None) => high(fd.as_fd()),
                (None, None) => high(null()?.as_fd()),
            }
            .step("copy", "a standard stream")
        })
        .collect();
    let line_copy = rustix::io::fcntl_dupfd_cloexec(&line.0, 10).step("copy", "the line to the shim")?;
    let [input, output, error] = <[OwnedFd; 3]>::try_from(copies?)
        .map_err(|_| Error::invalid("copy", "standard streams", "not three"))?;
    for (from, to) in [(&input, 0), (&output, 1), (&error, 2), (&line_copy, 3)] {
        sys::put_at(from.as_fd(), to).step("place descriptor", to)?;
    }
    debug_assert!(line_copy.as_raw_fd() > 3);
    // Nothing below closes by its owner: this process ends by execve or _exit.
    std::mem::forget((input, output, error, line_copy, terminal));
    sys::close_from(4).step("close", "what the shim had open")?;
    sys::close_on_exec_from(3).step("mark", "the line to be closed")?;
    Ok(Line(sys::adopt_line()))
}
