//! The child's way from fork to `execve`.

use std::os::fd::{AsFd, OwnedFd};

use oci_spec::runtime::LinuxNamespaceType as Kind;
use rustix::fs::{Mode, OFlags};

use super::{
    Before, Into, Launch, Line, Warn, devices, fork, hooks::When, mounts, namespaces::Owner, process,
    protect, root,
};
use crate::{
    error::{Context, Error, Result},
    sys,
};

/// Never returns: becomes the program, or tells why not and ends.
pub(super) fn run(plan: Launch<'_>, before: Before<'_>, line: OwnedFd) -> ! {
    let line = Line(line);
    // From here on the line has another number.
    let (line, start) = enter(&plan, before, &line).unwrap_or_else(|error| line.fail(&error));
    let ready = process::become_user(&plan, &line).unwrap_or_else(|error| line.fail(&error));
    line.say(b'R', b"");
    let line = line.wait_for_go(start);
    if let Some(told) = plan.told.filter(|told| told.any(When::StartContainer)) {
        told.run(When::StartContainer, "created", Some(std::process::id() as i32))
            .unwrap_or_else(|error| line.fail(&error));
    }
    line.fail(&ready.exec(&plan, &line))
}

/// Builds the container, or joins it, and takes its streams in place. Gives the line, moved, and the socket to be started by.
fn enter(plan: &Launch<'_>, before: Before<'_>, line: &Line) -> Result<(Line, Option<OwnedFd>)> {
    sys::reset_signals();
    let made = plan.namespaces.makes(Kind::User);
    if made || fork::goes_ahead(plan) {
        // Nobody is anybody in there before the mappings are told, and nobody knows this process before it has been named.
        line.wait_for(b'M');
    }
    if made || plan.namespaces.path(Kind::User).is_some() {
        process::become_root(true)?;
    }
    // Until it is the container's own program, nobody in the container may look into this process or at its executable.
    rustix::process::set_dumpable_behavior(rustix::process::DumpableBehavior::NotDumpable)
        .step("hide", "the launcher")?;
    rustix::process::umask(Mode::empty());
    process::set_affinity(&plan.process.process, false)?;
    plan.doors.enter().step("enter the cgroup", &plan.config.name)?;
    process::set_affinity(&plan.process.process, true)?;
    rustix::process::setsid().step("begin", "a session")?;
    if !plan.namespaces.maps_users() {
        process::set_oom_score(&plan.process, line)?;
    }
    let terminal = match &plan.into {
        Into::New { folder } => build(plan, before, folder, line)?,
        Into::Running { init } => {
            sys::setns(*init, plan.namespaces.of_running()).step("enter the container", &plan.config.name)?;
            if plan.namespaces.maps_users() {
                process::become_root(false)?;
            }
            match &plan.process.terminal {
                Some(size) => Some(devices::open_terminal(None, size)?),
                None => None,
            }
        }
    };
    stdio(plan, terminal, line)
}

/// Builds the container around this process. Gives its terminal.
fn build(
    plan: &Launch<'_>,
    before: Before<'_>,
    folder: &std::path::Path,
    line: &Line,
) -> Result<Option<devices::Terminal>> {
    let (spec, mapped) = (&plan.config.spec, plan.namespaces.maps_users());
    plan.namespaces.join()?;
    plan.namespaces.make_late()?;
    if plan.namespaces.owner == Owner::Spec {
        set_names(plan)?;
    }
    // Before the mounts are cut off from the machine's, so that a shared source stays shared.
    let sources = match before.sources {
        Some(sources) => sources,
        None => mounts::open_sources(spec, plan.config, plan.namespaces)?,
    };
    sources.iter().filter_map(mounts::Prepared::warning).for_each(|text| line.warn(&text));
    mounts::cut_off(spec)?;
    let made = match before.root {
        Some(root) => root,
        None => root::open(plan.config, folder, None)?,
    };
    let root = root::attach(made, plan.config, folder, mapped)?;
    mounts::attach_all(&root, sources)?;
    devices::make(&root, spec, mapped || sys::in_user_namespace())?;
    let terminal = match &plan.process.terminal {
        Some(size) => Some(devices::open_terminal(Some(&root), size)?),
        None => None,
    };
    protect::set_sysctls(spec)?;
    if let Some(told) = plan.told {
        if told.any(When::Prestart) || told.any(When::CreateRuntime) {
            line.say(b'H', b"");
            line.wait_for(b'C');
        }
        told.run(When::CreateContainer, "creating", Some(std::process::id() as i32))?;
    }
    protect::protect(&root, spec)?;
    root.pivot(spec)?;
    Ok(terminal)
}

/// What a pod's shim has done for all its containers.
fn set_names(plan: &Launch<'_>) -> Result<()> {
    let spec = &plan.config.spec;
    if plan.namespaces.makes(Kind::Network) {
        sys::loopback_up().step("bring up", "the loopback interface")?;
    }
    if let Some(name) = spec.hostname() {
        rustix::system::sethostname(name.as_bytes()).step("set the host name", name)?;
    }
    if let Some(name) = spec.domainname() {
        rustix::system::setdomainname(name.as_bytes()).step("set the domain name", name)?;
    }
    Ok(())
}

/// Puts standard input, output and error in place, the line behind them, and closes everything else the shim had open.
fn stdio(
    plan: &Launch<'_>,
    terminal: Option<devices::Terminal>,
    line: &Line,
) -> Result<(Line, Option<OwnedFd>)> {
    // The program's own, then those it is given besides, then the line, and the socket to be started by.
    let first = 3 + plan.keep as i32;
    let null = || {
        rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
            .step("open", "/dev/null in the container")
    };
    if let Some(terminal) = &terminal {
        line.send_terminal(terminal.master.as_fd())?;
        sys::set_controlling_terminal(terminal.slave.as_fd()).step("take", "the terminal")?;
    }
    // Copies above them, so that no target number is still the source of another.
    let copies: Result<Vec<OwnedFd>> = (0..3)
        .map(|index| {
            let high = |fd: std::os::fd::BorrowedFd<'_>| rustix::io::fcntl_dupfd_cloexec(fd, first + 8);
            match (&plan.stdio[index], &terminal) {
                (_, Some(terminal)) => high(terminal.slave.as_fd()),
                (Some(fd), None) => high(fd.as_fd()),
                (None, None) => high(null()?.as_fd()),
            }
            .step("copy", "a standard stream")
        })
        .collect();
    let high =
        |fd: &OwnedFd| rustix::io::fcntl_dupfd_cloexec(fd, first + 8).step("copy", "a line to the outside");
    let line_copy = high(&line.0)?;
    let start_copy = plan.start.as_ref().map(high).transpose()?;
    let [input, output, error] = <[OwnedFd; 3]>::try_from(copies?)
        .map_err(|_| Error::invalid("copy", "standard streams", "not three"))?;
    for (from, to) in [(&input, 0), (&output, 1), (&error, 2), (&line_copy, first)] {
        sys::put_at(from.as_fd(), to).step("place descriptor", to)?;
    }
    if let Some(start) = &start_copy {
        sys::put_at(start.as_fd(), first + 1).step("place descriptor", first + 1)?;
    }
    let waits = start_copy.is_some();
    // Nothing below closes by its owner: this process ends by execve or _exit.
    std::mem::forget((input, output, error, line_copy, start_copy, terminal));
    sys::close_from(first as u32 + 1 + u32::from(waits)).step("close", "what the shim had open")?;
    sys::close_on_exec_from(first as u32).step("mark", "the lines to be closed")?;
    Ok((Line(sys::adopt(first)), waits.then(|| sys::adopt(first + 1))))
}
