//! The fork itself, and what has to be done before it.

use std::{
    os::fd::{AsFd, OwnedFd},
    path::Path,
};

use oci_spec::runtime::LinuxNamespaceType as Kind;

use super::{
    Before, Into, Launch, Line, mounts,
    namespaces::{Home, for_mount, mappings_of, prepare_time},
    root,
};
use crate::{
    error::{Context, Error, Result},
    sys::{self, Cloned},
};

/// Takes hold of what the new process could not reach from within its user namespace.
pub(super) fn before<'a>(plan: &Launch<'a>) -> Result<Before<'a>> {
    let mut before = Before { sources: None, root: None };
    let Into::New { folder } = &plan.into else { return Ok(before) };
    let (config, mapped) = (plan.config, plan.namespaces.maps_users());
    if mapped || mounts::any_maps_users(&config.spec, plan.namespaces.owner) {
        before.sources = Some(mounts::open_sources(&config.spec, config, plan.namespaces)?);
    }
    if mapped {
        before.root = Some(open_root(plan, folder)?);
    }
    Ok(before)
}

/// The layers of a pod's container belong to the machine's root; a plain root folder belongs to whoever made it so.
fn open_root(plan: &Launch<'_>, folder: &Path) -> Result<root::Unmounted> {
    let (config, joined) = (plan.config, plan.namespaces.path(Kind::User));
    let made = if joined.is_none() && !config.root.lower.is_empty() {
        let (uids, gids) = mappings_of(&config.spec);
        Some(for_mount(uids, gids)?)
    } else {
        None
    };
    let users = made.as_ref().or(joined).filter(|_| !config.root.lower.is_empty());
    root::open(config, folder, users.map(AsFd::as_fd))
}

/// Forks into the namespaces of the plan. Namespaces a process only hands to its children are the caller's own again afterwards.
pub(super) fn fork(plan: &Launch<'_>, line: &OwnedFd) -> Result<Cloned> {
    let mut homes = Vec::new();
    let cloned = prepare(plan, &mut homes).and_then(|()| clone(plan, line));
    if !matches!(cloned, Ok(Cloned::Child)) {
        homes.into_iter().try_for_each(Home::come_back)?;
    }
    cloned
}

fn prepare(plan: &Launch<'_>, homes: &mut Vec<Home>) -> Result<()> {
    match &plan.into {
        Into::New { .. } => {
            if let Some(pids) = plan.namespaces.path(Kind::Pid) {
                homes.push(Home::of("pid", libc::CLONE_NEWPID)?);
                sys::setns(pids.as_fd(), libc::CLONE_NEWPID).step("enter", "the pid namespace")?;
            }
            if plan.namespaces.makes(Kind::Time) {
                homes.push(prepare_time(&plan.config.spec)?);
            }
        }
        Into::Running { init } => {
            homes.push(Home::of("pid", libc::CLONE_NEWPID)?);
            sys::setns(*init, libc::CLONE_NEWPID).step("enter the container's process ids", "")?;
        }
    }
    Ok(())
}

fn clone(plan: &Launch<'_>, line: &OwnedFd) -> Result<Cloned> {
    let birthplace = plan.doors.birthplace().map(AsFd::as_fd);
    let Into::New { .. } = &plan.into else {
        // SAFETY: the caller has one thread.
        return unsafe { sys::clone(0, birthplace) }.step("start a process", &plan.config.name);
    };
    let flags = plan.namespaces.at_clone();
    let Some(users) = plan.namespaces.path(Kind::User) else {
        // SAFETY: the caller has one thread.
        let cloned = unsafe { sys::clone(flags, birthplace) };
        return cloned.step("start a process in new namespaces", &plan.config.name);
    };
    // Whoever enters another user namespace does not come back: a process goes ahead, and the container's is its sister.
    // SAFETY: the caller has one thread.
    match unsafe { sys::clone(0, birthplace) }.step("start a process", &plan.config.name)? {
        Cloned::Child => go_ahead(users, flags, line),
        parent => Ok(parent),
    }
}

/// Runs in the process that goes ahead. Comes back only as the container's.
fn go_ahead(users: &OwnedFd, flags: i32, line: &OwnedFd) -> Result<Cloned> {
    if let Err(error) = sys::setns(users.as_fd(), libc::CLONE_NEWUSER).step("enter", "the user namespace") {
        fail(line, &error);
    }
    // SAFETY: this process has one thread.
    match unsafe { sys::clone(flags | libc::CLONE_PARENT, None) }.step("start a process", "in new namespaces")
    {
        Ok(Cloned::Child) => Ok(Cloned::Child),
        Ok(Cloned::Parent(pid, pidfd)) => {
            let text = format!("P{}", pid.as_raw_nonzero());
            if let Ok(line) = line.try_clone() {
                let _ = Line(line).send_with(text.as_bytes(), pidfd.as_fd());
            }
            sys::exit_now(0)
        }
        Err(error) => fail(line, &error),
    }
}

fn fail(line: &OwnedFd, error: &Error) -> ! {
    match line.try_clone() {
        Ok(line) => Line(line).fail(error),
        Err(_) => sys::exit_now(1),
    }
}
