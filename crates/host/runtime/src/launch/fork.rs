//! The fork itself, and what has to be done before it.

use std::{
    os::fd::{AsFd, BorrowedFd, OwnedFd},
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
    if mapped || mounts::any_maps_users(&config.spec) {
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

/// Whether a process goes ahead, and the container's is its sister: from another user namespace nobody comes back, and in one that is
/// not the machine's not even from namespaces that are only for children, since their own are the machine's.
pub(super) fn goes_ahead(plan: &Launch<'_>) -> bool {
    let for_children = || match &plan.into {
        Into::New { .. } => plan.namespaces.path(Kind::Pid).is_some() || plan.namespaces.makes(Kind::Time),
        Into::Running { .. } => true,
    };
    plan.namespaces.path(Kind::User).is_some() || sys::in_user_namespace() && for_children()
}

/// Forks into the namespaces of the plan. Namespaces a process only hands to its children are the caller's own again afterwards.
pub(super) fn fork(plan: &Launch<'_>, line: &OwnedFd) -> Result<Cloned> {
    if goes_ahead(plan) {
        // SAFETY: the caller has one thread.
        let cloned = unsafe { sys::clone(0, birthplace(plan)) };
        return match cloned.step("start a process", &plan.config.name)? {
            Cloned::Child => go_ahead(plan, line),
            parent => Ok(parent),
        };
    }
    let mut homes = Vec::new();
    let cloned = prepare(plan, Some(&mut homes)).and_then(|()| clone(plan, 0, birthplace(plan)));
    if !matches!(cloned, Ok(Cloned::Child)) {
        homes.into_iter().try_for_each(Home::come_back)?;
    }
    cloned
}

fn birthplace<'a>(plan: &'a Launch<'_>) -> Option<BorrowedFd<'a>> {
    plan.doors.birthplace().map(AsFd::as_fd)
}

/// Enters what only children of this process will be in. What it was before is remembered in `homes`.
fn prepare(plan: &Launch<'_>, mut homes: Option<&mut Vec<Home>>) -> Result<()> {
    let mut leave = |name, flag| match &mut homes {
        Some(homes) => Home::of(name, flag).map(|home| homes.push(home)),
        None => Ok(()),
    };
    match &plan.into {
        Into::New { .. } => {
            if let Some(pids) = plan.namespaces.path(Kind::Pid) {
                leave("pid", libc::CLONE_NEWPID)?;
                sys::setns(pids.as_fd(), libc::CLONE_NEWPID).step("enter", "the pid namespace")?;
            }
            if plan.namespaces.makes(Kind::Time) {
                leave("time", libc::CLONE_NEWTIME)?;
                prepare_time(&plan.config.spec)?;
            }
        }
        Into::Running { init } => {
            leave("pid", libc::CLONE_NEWPID)?;
            sys::setns(*init, libc::CLONE_NEWPID).step("enter the container's process ids", "")?;
        }
    }
    Ok(())
}

fn clone(plan: &Launch<'_>, further: i32, birthplace: Option<BorrowedFd<'_>>) -> Result<Cloned> {
    let (flags, what) = match &plan.into {
        Into::New { .. } => (plan.namespaces.at_clone(), "start a process in new namespaces"),
        Into::Running { .. } => (0, "start a process"),
    };
    // SAFETY: the caller has one thread.
    unsafe { sys::clone(flags | further, birthplace) }.step(what, &plan.config.name)
}

/// Runs in the process that goes ahead. Comes back only as the container's.
fn go_ahead(plan: &Launch<'_>, line: &OwnedFd) -> Result<Cloned> {
    let cloned = prepare(plan, None)
        .and_then(|()| match plan.namespaces.path(Kind::User) {
            Some(users) => sys::setns(users.as_fd(), libc::CLONE_NEWUSER).step("enter", "the user namespace"),
            None => Ok(()),
        })
        // It is born where this process was.
        .and_then(|()| clone(plan, libc::CLONE_PARENT, None));
    match cloned {
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
