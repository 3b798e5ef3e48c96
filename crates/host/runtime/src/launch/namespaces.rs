//! Which namespaces a container gets: new ones, those at a path, or those it is started in.

use std::{
    fs,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
};

use oci_spec::runtime::{LinuxIdMapping, LinuxNamespaceType as Kind, LinuxTimeOffset, Spec};
use rustix::{
    fs::{Mode, OFlags},
    process::Pid,
};

use crate::{
    config::Users,
    error::{Context, Error, Result},
    sys::{self, Cloned},
};

/// Whose namespaces of network, queues and host name a container has.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Owner {
    /// The pod's, in which the shim is, unless the specification names a path.
    Pod,
    /// What its specification says, and else the machine's.
    Spec,
}

/// A container's namespaces.
pub(crate) struct Namespaces {
    /// To be made, as flags of `clone`.
    new: i32,
    /// That exist: kind and open file, which is nothing for a container that runs.
    joined: Vec<(Kind, Option<OwnedFd>)>,
    pub(super) owner: Owner,
}

/// The kinds a container of a pod shares with it.
const OF_POD: i32 = libc::CLONE_NEWNET | libc::CLONE_NEWIPC | libc::CLONE_NEWUTS;

fn flag(kind: Kind) -> i32 {
    kind as i32
}

impl Namespaces {
    /// Reads what the specification asks for, and opens what it names by path.
    pub(crate) fn of(spec: &Spec, owner: Owner) -> Result<Self> {
        let mut all = Self { new: 0, joined: Vec::new(), owner };
        let linux = spec.linux().as_ref();
        let wanted = linux.and_then(|linux| linux.namespaces().as_deref()).unwrap_or_default();
        for (index, namespace) in wanted.iter().enumerate() {
            let kind = namespace.typ();
            if wanted[..index].iter().any(|before| before.typ() == kind) {
                return Err(Error::invalid("make the namespace", kind, "it is named twice"));
            }
            match namespace.path().as_deref().filter(|path| !path.as_os_str().is_empty()) {
                Some(path) => all.joined.push((kind, Some(open(path, kind)?))),
                None if owner == Owner::Pod && flag(kind) & OF_POD != 0 => {}
                None => all.new |= flag(kind),
            }
        }
        if owner == Owner::Pod {
            // As it always was for containers of pods, whatever their specification says.
            all.new |= libc::CLONE_NEWNS | libc::CLONE_NEWCGROUP;
        } else if !all.has(Kind::Mount) {
            return Err(Error::invalid(
                "make the container",
                "",
                "sharing the machine's mounts is not supported: name a 'mount' namespace",
            ));
        }
        if all.new & libc::CLONE_NEWUSER != 0 && linux.is_none_or(|linux| mappings(linux).0.is_empty()) {
            return Err(Error::invalid(
                "make the user namespace",
                "",
                "it needs uidMappings and gidMappings",
            ));
        }
        let time = linux.and_then(|linux| linux.time_offsets().as_ref()).is_some_and(|all| !all.is_empty());
        if time && !all.makes(Kind::Time) {
            return Err(Error::invalid("set", "timeOffsets", "they need a new 'time' namespace"));
        }
        Ok(all)
    }

    /// Those of a container that runs: nothing is opened, since its first process has them.
    pub(crate) fn named(spec: &Spec, owner: Owner) -> Self {
        let linux = spec.linux().as_ref();
        let named = linux.and_then(|linux| linux.namespaces().as_ref()).into_iter().flatten();
        Self { new: 0, joined: named.map(|namespace| (namespace.typ(), None)).collect(), owner }
    }

    /// Whether one of this kind is made.
    pub(super) fn makes(&self, kind: Kind) -> bool {
        self.new & flag(kind) != 0
    }

    /// Whether the container has one of this kind that is not just the one the caller is in.
    pub(super) fn has(&self, kind: Kind) -> bool {
        self.makes(kind) || self.joined.iter().any(|(joined, _)| *joined == kind)
    }

    pub(super) fn path(&self, kind: Kind) -> Option<&OwnedFd> {
        self.joined.iter().find(|(joined, _)| *joined == kind).and_then(|(_, file)| file.as_ref())
    }

    /// Whether the container has a user namespace of its own.
    pub(crate) fn maps_users(&self) -> bool {
        self.has(Kind::User)
    }

    /// What `clone` makes. The cgroup namespace is made once the process is in its cgroup, the time namespace by the caller.
    pub(super) fn at_clone(&self) -> i32 {
        self.new & !(libc::CLONE_NEWCGROUP | libc::CLONE_NEWTIME)
    }

    /// Joins, in the new process, what exists and is not joined by the caller or before.
    pub(super) fn join(&self) -> Result<()> {
        let mine = self.joined.iter().filter(|(kind, _)| !matches!(kind, Kind::Pid | Kind::User));
        mine.clone()
            .filter(|(kind, _)| *kind != Kind::Mount)
            .try_for_each(|(kind, file)| enter(*kind, file))?;
        // Last: names of files are others afterwards.
        mine.filter(|(kind, _)| *kind == Kind::Mount).try_for_each(|(kind, file)| enter(*kind, file))
    }

    /// Makes the cgroup namespace.
    pub(super) fn make_late(&self) -> Result<()> {
        if self.makes(Kind::Cgroup) {
            sys::unshare(libc::CLONE_NEWCGROUP).step("unshare", "the cgroup namespace")?;
        }
        Ok(())
    }

    /// Flags for one more process of the container to join everything its first one has.
    pub(super) fn of_running(&self) -> i32 {
        let all = libc::CLONE_NEWNS
            | libc::CLONE_NEWCGROUP
            | libc::CLONE_NEWIPC
            | libc::CLONE_NEWUTS
            | libc::CLONE_NEWNET;
        let time = if self.has(Kind::Time) { libc::CLONE_NEWTIME } else { 0 };
        // Joining the user namespace one is in already is refused.
        all | time | if self.maps_users() { libc::CLONE_NEWUSER } else { 0 }
    }
}

fn open(path: &Path, kind: Kind) -> Result<OwnedFd> {
    if !path.is_absolute() {
        return Err(Error::invalid("open the namespace", path.display(), "its path must be absolute"));
    }
    let file = rustix::fs::open(path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty())
        .step("open the namespace", path.display())?;
    match sys::namespace_kind(file.as_fd()) {
        Ok(found) if found == flag(kind) => Ok(file),
        Ok(_) => Err(Error::invalid(
            "open the namespace",
            path.display(),
            format_args!("it is not of type '{kind}'"),
        )),
        Err(error) => Err(error).step("look at the namespace", path.display()),
    }
}

fn enter(kind: Kind, file: &Option<OwnedFd>) -> Result<()> {
    let Some(file) = file else { return Ok(()) };
    sys::setns(file.as_fd(), flag(kind)).step("enter the namespace of type", kind)
}

/// The caller's own namespace of one kind, to come back to.
pub(super) struct Home(OwnedFd, i32);

impl Home {
    /// Remembers the one named `name` in `/proc/self/ns`.
    pub(super) fn of(name: &str, flag: i32) -> Result<Self> {
        let path = format!("/proc/self/ns/{name}");
        let file = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
        Ok(Self(file.step("open", &path)?, flag))
    }

    pub(super) fn come_back(self) -> Result<()> {
        sys::setns(self.0.as_fd(), self.1).step("return to", "the machine's namespaces")
    }
}

/// Makes a time namespace for the children of this process, with its clocks set.
pub(super) fn prepare_time(spec: &Spec) -> Result<()> {
    sys::unshare(libc::CLONE_NEWTIME).step("unshare", "the time namespace")?;
    let offsets = spec.linux().as_ref().and_then(|linux| linux.time_offsets().as_ref());
    let lines: String = offsets.into_iter().flatten().map(|(clock, offset)| line(clock, offset)).collect();
    match lines.is_empty() {
        true => Ok(()),
        false => fs::write("/proc/self/timens_offsets", &lines).step("set timeOffsets to", lines.trim()),
    }
}

fn line(clock: &str, offset: &LinuxTimeOffset) -> String {
    format!("{clock} {} {}\n", offset.secs().unwrap_or(0), offset.nanosecs().unwrap_or(0))
}

fn mappings(linux: &oci_spec::runtime::Linux) -> (&[LinuxIdMapping], &[LinuxIdMapping]) {
    (linux.uid_mappings().as_deref().unwrap_or_default(), linux.gid_mappings().as_deref().unwrap_or_default())
}

/// The mappings of the container's user namespace.
pub(super) fn mappings_of(spec: &Spec) -> (&[LinuxIdMapping], &[LinuxIdMapping]) {
    spec.linux().as_ref().map_or((&[], &[]), mappings)
}

/// Who a user and a group of the container are outside its user namespace. Those without a mapping stay who they are.
pub(crate) fn outside(spec: &Spec, uid: u32, gid: u32) -> (u32, u32) {
    let (uids, gids) = mappings_of(spec);
    let map = |mappings: &[LinuxIdMapping], id: u32| {
        let offset =
            |one: &LinuxIdMapping| id.checked_sub(one.container_id()).filter(|offset| *offset < one.size());
        mappings.iter().find_map(|one| one.host_id().checked_add(offset(one)?)).unwrap_or(id)
    };
    (map(uids, uid), map(gids, gid))
}

/// Tells the kernel the mappings of the new user namespace `pid` is in.
pub(super) fn map_users(pid: Pid, uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<()> {
    let write = |name: &str, text: &str| {
        let path = format!("/proc/{}/{name}", pid.as_raw_nonzero());
        fs::write(&path, text)
            .step("map users by", format_args!("{name}: {}", text.trim().replace('\n', ", ")))
    };
    if !rustix::process::geteuid().is_root() {
        // Whoever is not root may map groups only when nobody in there can drop one.
        write("setgroups", "deny")?;
    }
    write("uid_map", &text(uids))?;
    write("gid_map", &text(gids))
}

fn text(mappings: &[LinuxIdMapping]) -> String {
    mappings.iter().map(|one| format!("{} {} {}\n", one.container_id(), one.host_id(), one.size())).collect()
}

/// A user namespace without a process, which tells a mount how to show the owners of files.
pub(super) fn for_mount(uids: &[LinuxIdMapping], gids: &[LinuxIdMapping]) -> Result<OwnedFd> {
    with_users(0, uids, gids, |users, _| Ok(users))
}

/// Makes a user namespace, and enters new ones it owns of the other kinds `flags` names. Gives the former.
pub(crate) fn enter_owned(users: &Users, flags: i32) -> Result<OwnedFd> {
    with_users(flags, &users.uids, &users.gids, |made, process| {
        if flags != 0 {
            sys::setns(process, flags).step("enter", "the namespaces of the pod")?;
        }
        Ok(made)
    })
}

/// Has a process in a new user namespace, and in others it owns, as long as `then` runs.
fn with_users(
    flags: i32,
    uids: &[LinuxIdMapping],
    gids: &[LinuxIdMapping],
    then: impl FnOnce(OwnedFd, BorrowedFd<'_>) -> Result<OwnedFd>,
) -> Result<OwnedFd> {
    // SAFETY: this process has one thread; the child only waits to be killed.
    match unsafe { sys::clone(libc::CLONE_NEWUSER | flags, None) }.step("make", "a user namespace")? {
        Cloned::Child => {
            // Should its parent die: nobody else ends it.
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
            loop {
                let _ = rustix::event::poll(&mut [], None);
            }
        }
        Cloned::Parent(pid, pidfd) => {
            let made = map_users(pid, uids, gids).and_then(|()| {
                let path = format!("/proc/{}/ns/user", pid.as_raw_nonzero());
                let opened = rustix::fs::open(&path, OFlags::RDONLY | OFlags::CLOEXEC, Mode::empty());
                then(opened.step("open", &path)?, pidfd.as_fd())
            });
            let _ = sys::pidfd_signal(pidfd.as_fd(), libc::SIGKILL);
            let _ = rustix::process::waitpid(Some(pid), rustix::process::WaitOptions::empty());
            made
        }
    }
}
