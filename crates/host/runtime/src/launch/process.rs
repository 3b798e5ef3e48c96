//! The process itself: limits, user, working directory, program.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::MetadataExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
};

use oci_spec::runtime::{PosixRlimitType, Process};
use rustix::{
    fs::{FileType, Gid, Uid},
    io::Errno,
    process::Pid,
};

use super::{Into, Launch, Line, Warn, capabilities::Sets, schedule, user};
use crate::{
    cgroup::has_cgroups,
    config::Size,
    error::{Context, Error, ErrorKind, Result},
    sys,
};

/// A process to start.
#[derive(Clone)]
pub(crate) struct Plan {
    /// The process in the specification's words.
    pub(crate) process: Process,
    /// User to look up, instead of the specification's numbers.
    pub(crate) user: Option<String>,
    /// A terminal instead of pipes.
    pub(crate) terminal: Option<TerminalPlan>,
}

/// A terminal to open.
#[derive(Debug, Clone, Copy)]
pub(crate) struct TerminalPlan {
    pub(crate) size: Option<Size>,
}

/// A process that only has to drop its privileges and be replaced by its program.
pub(super) struct Ready {
    program: PathBuf,
    args: Vec<CString>,
    env: Vec<CString>,
    sets: Sets,
    root: bool,
}

/// Told to the kernel while the machine's `/proc` is still there.
pub(super) fn set_oom_score(plan: &Plan, line: &Line) -> Result<()> {
    write_oom_score("/proc/self/oom_score_adj", plan, line)
}

/// As [`set_oom_score`], for a process that may not itself.
pub(super) fn set_oom_score_of(pid: Pid, plan: &Plan, warn: &impl Warn) -> Result<()> {
    write_oom_score(&format!("/proc/{}/oom_score_adj", pid.as_raw_nonzero()), plan, warn)
}

fn write_oom_score(path: &str, plan: &Plan, warn: &impl Warn) -> Result<()> {
    let Some(score) = plan.process.oom_score_adj() else { return Ok(()) };
    match std::fs::write(path, score.to_string()) {
        // Lowering it takes a capability some machines withhold even from root.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            warn.warn(&format!("the machine does not allow oom_score_adj {score}: {error}"));
            Ok(())
        }
        other => other.step("set oom_score_adj to", score),
    }
}

/// Takes on what the program is to run with, and finds the program. Privileges it still needs to install a filter are dropped at the end.
pub(super) fn become_user(plan: &Launch<'_>, line: &Line) -> Result<Ready> {
    let process = &plan.process.process;
    if !plan.namespaces.maps_users() {
        set_limits(None, process, line)?;
    }
    schedule::set(process)?;
    schedule::set_personality(&plan.config.spec)?;
    let identity = identity(plan)?;
    enter_cwd(process.cwd(), matches!(plan.into, Into::New { .. }))?;
    let mapped = plan.namespaces.maps_users() || sys::in_user_namespace();
    own_stdio(identity.uid, mapped)?;
    let sets = Sets::of(process.capabilities().as_ref())?;
    sets.drop_bounding()?;
    if process.no_new_privileges() == Some(true) {
        rustix::thread::set_no_new_privs(true).step("set", "no_new_privs")?;
    }
    sets.warn(identity.uid == 0, line);
    plan.seccomp.iter().flat_map(|filter| &filter.warnings).for_each(|text| line.warn(text));
    set_user(&identity, process.user().umask(), mapped)?;
    let env = environment(process, identity.home.as_deref())?;
    let args = process.args().as_deref().unwrap_or_default();
    let program = find_program(args.first().map_or("", String::as_str), &env)?;
    Ok(Ready { program, args: c_strings(args, "argument")?, env, sets, root: identity.uid == 0 })
}

/// Becomes root of the user namespace this process is in, without groups from outside.
pub(super) fn become_root(drop_groups: bool) -> Result<()> {
    let (uid, gid) = (Uid::ROOT, Gid::ROOT);
    rustix::thread::set_thread_res_gid(gid, gid, gid)
        .step("become", "the group of root in the user namespace")?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step("become", "root in the user namespace")?;
    if drop_groups {
        match rustix::thread::set_thread_groups(&[]) {
            // Whoever made the namespace without being root may not.
            Ok(()) | Err(Errno::PERM) => {}
            Err(error) => return Err(error).step("drop", "additional groups"),
        }
    }
    Ok(())
}

/// Restricts a further process of a container to processors: for the way into its cgroup, and from then on.
pub(super) fn set_affinity(process: &Process, entered: bool) -> Result<()> {
    let Some(wanted) = process.exec_cpu_affinity() else { return Ok(()) };
    let list = if entered { wanted.cpu_affinity_final() } else { wanted.initial() };
    list.as_deref().map_or(Ok(()), schedule::set_affinity)
}

fn identity(plan: &Launch<'_>) -> Result<user::Identity> {
    let user = plan.process.process.user();
    let Some(wanted) = plan.process.user.as_deref() else {
        return Ok(user::Identity {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            home: user::home_of(user.uid()),
        });
    };
    let mut identity = match wanted {
        "" => user::Identity { uid: user.uid(), gid: user.gid(), ..user::look_up(&user.uid().to_string())? },
        wanted => user::look_up(wanted)?,
    };
    // As a login does: without it, files that shut out the main group would not.
    let main = identity.gid;
    let named = user::groups(&plan.config.groups)?;
    let further = user.additional_gids().iter().flatten().copied().chain(named);
    let mut groups = vec![main];
    for group in identity.groups.into_iter().chain(further) {
        if !groups.contains(&group) {
            groups.push(group);
        }
    }
    identity.groups = groups;
    Ok(identity)
}

/// Sets the limits of this process, or of the one named.
pub(super) fn set_limits(pid: Option<Pid>, process: &Process, warn: &impl Warn) -> Result<()> {
    for limit in process.rlimits().iter().flatten() {
        let resource = match limit.typ() {
            PosixRlimitType::RlimitCpu => libc::RLIMIT_CPU,
            PosixRlimitType::RlimitFsize => libc::RLIMIT_FSIZE,
            PosixRlimitType::RlimitData => libc::RLIMIT_DATA,
            PosixRlimitType::RlimitStack => libc::RLIMIT_STACK,
            PosixRlimitType::RlimitCore => libc::RLIMIT_CORE,
            PosixRlimitType::RlimitRss => libc::RLIMIT_RSS,
            PosixRlimitType::RlimitNproc => libc::RLIMIT_NPROC,
            PosixRlimitType::RlimitNofile => libc::RLIMIT_NOFILE,
            PosixRlimitType::RlimitMemlock => libc::RLIMIT_MEMLOCK,
            PosixRlimitType::RlimitAs => libc::RLIMIT_AS,
            PosixRlimitType::RlimitLocks => libc::RLIMIT_LOCKS,
            PosixRlimitType::RlimitSigpending => libc::RLIMIT_SIGPENDING,
            PosixRlimitType::RlimitMsgqueue => libc::RLIMIT_MSGQUEUE,
            PosixRlimitType::RlimitNice => libc::RLIMIT_NICE,
            PosixRlimitType::RlimitRtprio => libc::RLIMIT_RTPRIO,
            PosixRlimitType::RlimitRttime => libc::RLIMIT_RTTIME,
        };
        let subject = format!("{:?} = {}:{}", limit.typ(), limit.soft(), limit.hard());
        match sys::set_limit(pid, resource, limit.soft(), limit.hard()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                warn.warn(&format!("the machine does not allow the limit {subject}: {error}"));
            }
            other => other.step("set the limit", subject)?,
        }
    }
    Ok(())
}

/// Goes to the working directory, and makes sure that it is inside. A new container's is made where it is missing.
fn enter_cwd(cwd: &Path, make: bool) -> Result<()> {
    let cwd = if cwd.as_os_str().is_empty() { Path::new("/") } else { cwd };
    if !cwd.is_absolute() {
        return Err(Error::invalid(
            "enter the working directory",
            cwd.display(),
            "it must be an absolute path",
        ));
    }
    if let Err(error) = std::env::set_current_dir(cwd) {
        if !make || error.kind() != io::ErrorKind::NotFound {
            return Err(error).step("enter the working directory", cwd.display());
        }
        rustix::process::umask(rustix::fs::Mode::from_raw_mode(0o022));
        std::fs::create_dir_all(cwd).step("make the working directory", cwd.display())?;
        std::env::set_current_dir(cwd).step("enter the working directory", cwd.display())?;
    }
    // The kernel says "(unreachable)" for a folder outside the root.
    match std::env::current_dir() {
        Ok(real) if real.is_absolute() => Ok(()),
        _ => Err(Error::invalid(
            "enter the working directory",
            cwd.display(),
            "it is not inside the container",
        )),
    }
}

fn load_filter(plan: &Launch<'_>, line: &Line) -> Result<()> {
    let Some(filter) = plan.seccomp else { return Ok(()) };
    match sys::load_seccomp(&filter.program, filter.flags).step("install", "the system call filter")? {
        Some(listener) => {
            line.send_with(b"N", listener.as_fd()).step("hand over", "the system call filter")?;
            // Nothing runs before there is an agent to ask.
            line.wait_for(b'A');
            Ok(())
        }
        None => Ok(()),
    }
}

/// Lets the user reopen its own pipes and terminal through `/dev/stdout`.
fn own_stdio(uid: u32, mapped: bool) -> Result<()> {
    let owner = Some(Uid::from_raw(uid));
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    for fd in [input.as_fd(), output.as_fd(), error.as_fd()] {
        let stat = rustix::fs::fstat(fd).step("look at", "a standard stream")?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let terminal = kind == FileType::CharacterDevice && rustix::termios::isatty(fd);
        if stat.st_uid != uid && (kind == FileType::Fifo || terminal) {
            match rustix::fs::fchown(fd, owner, None) {
                // What belongs to somebody outside the user namespace stays theirs.
                Err(Errno::PERM | Errno::INVAL) if mapped => {}
                other => other.step("give to the user", "a standard stream")?,
            }
        }
    }
    Ok(())
}

const USERS: &str = "/proc/self/uid_map";
const GROUPS: &str = "/proc/self/gid_map";

/// Says what the kernel means by a number that is not valid.
fn known(done: Result<(), Errno>, map: &str, ids: &[u32]) -> io::Result<()> {
    let unknown = || {
        let map = std::fs::read_to_string(map).ok()?;
        ids.iter().find_map(|id| Some(format!("{id}: {}", wharf_base::unknown(&map, *id)?)))
    };
    match done {
        Err(Errno::INVAL) => Err(unknown().map_or_else(|| Errno::INVAL.into(), io::Error::other)),
        done => Ok(done?),
    }
}

fn set_user(identity: &user::Identity, umask: Option<u32>, mapped: bool) -> Result<()> {
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    match rustix::thread::set_thread_groups(&groups) {
        // In a user namespace made by somebody who is not root, and has no other ids, nobody can; there are none then either.
        Err(Errno::PERM) if mapped && identity.groups.iter().all(|group| *group == identity.gid) => {}
        other => known(other, GROUPS, &identity.groups).step("set", "additional groups")?,
    }
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    if identity.uid != 0 {
        rustix::thread::set_keep_capabilities(true).step("keep", "capabilities")?;
    }
    known(rustix::thread::set_thread_res_gid(gid, gid, gid), GROUPS, &[identity.gid])
        .step("become group", identity.gid)?;
    known(rustix::thread::set_thread_res_uid(uid, uid, uid), USERS, &[identity.uid])
        .step("become user", identity.uid)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask.unwrap_or(0o022)));
    Ok(())
}

fn environment(process: &Process, home: Option<&str>) -> Result<Vec<CString>> {
    let mut env: Vec<String> = Vec::new();
    // The last of several settings of one variable stands.
    for setting in process.env().iter().flatten() {
        let name = setting.split('=').next().unwrap_or_default();
        env.retain(|known| known.split('=').next() != Some(name));
        env.push(setting.clone());
    }
    if !env.iter().any(|setting| setting.starts_with("HOME=")) {
        env.push(format!("HOME={}", home.unwrap_or("/")));
    }
    c_strings(&env, "environment variable")
}

fn c_strings(texts: &[String], what: &str) -> Result<Vec<CString>> {
    texts
        .iter()
        .map(|text| {
            CString::new(text.as_bytes())
                .map_err(|_| Error::invalid(&format!("use the {what}"), text, "it has a NUL"))
        })
        .collect()
}

const DEFAULT_PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Finds `name` as a shell would, by the container's own PATH.
fn find_program(name: &str, env: &[CString]) -> Result<PathBuf> {
    if name.is_empty() {
        return Err(Error::new(ErrorKind::NoProgram, "start the program", "", "no command is given"));
    }
    if name.contains('/') {
        return check_program(Path::new(name)).map(|()| PathBuf::from(name));
    }
    let path = env
        .iter()
        .find_map(|setting| setting.as_bytes().strip_prefix(b"PATH="))
        .unwrap_or(DEFAULT_PATH.as_bytes());
    let mut best = Error::new(
        ErrorKind::NoProgram,
        "start the program",
        name,
        "it is in no folder of the container's PATH",
    );
    for folder in path.split(|byte| *byte == b':') {
        let folder = if folder.is_empty() { Path::new(".") } else { Path::new(OsStr::from_bytes(folder)) };
        let candidate = folder.join(name);
        match check_program(&candidate) {
            Ok(()) => return Ok(candidate),
            Err(error) if error.kind == ErrorKind::NotExecutable => best = error,
            Err(_) => {}
        }
    }
    Err(best)
}

fn check_program(path: &Path) -> Result<()> {
    let failed = |kind, error: io::Error| Error {
        errno: error.raw_os_error(),
        ..Error::new(kind, "start the program", path.display(), "")
    };
    let found = std::fs::metadata(path).map_err(|error| match error.kind() {
        io::ErrorKind::PermissionDenied => failed(ErrorKind::NotExecutable, error),
        _ => failed(ErrorKind::NoProgram, error),
    })?;
    let refuse = |errno| Err(failed(ErrorKind::NotExecutable, io::Error::from_raw_os_error(errno)));
    if !found.is_file() || found.permissions().mode() & 0o111 == 0 {
        return refuse(libc::EACCES);
    }
    // `/proc/self/exe` would be the launcher of the machine, run inside the container.
    match std::fs::metadata("/proc/self/exe") {
        Ok(own) if (own.dev(), own.ino()) == (found.dev(), found.ino()) => refuse(libc::EPERM),
        _ => Ok(()),
    }
}

impl Ready {
    /// Drops what the program is not to have, and becomes the program. Returns only why it could not.
    pub(super) fn exec(&self, plan: &Launch<'_>, line: &Line) -> Error {
        let no_new_privileges = plan.process.process.no_new_privileges() == Some(true);
        let dropped = self.sets.drop(|| load_filter(plan, line), no_new_privileges, self.root);
        if let Err(error) = dropped {
            return error;
        }
        let subject = self.program.display();
        if !has_cgroups() {
            // Nothing else would tell later which processes were the container's, had its shim been killed.
            let _ = rustix::process::set_parent_process_death_signal(Some(rustix::process::Signal::KILL));
        }
        let Ok(program) = CString::new(self.program.as_os_str().as_bytes()) else {
            return Error::invalid("start the program", subject, "its name has a NUL");
        };
        let error = sys::execve(&program, &self.args, &self.env);
        let kind = match error.raw_os_error() {
            Some(libc::ENOENT | libc::ENOTDIR) => ErrorKind::NoProgram,
            _ => ErrorKind::NotExecutable,
        };
        Error { errno: error.raw_os_error(), ..Error::new(kind, "start the program", subject, "") }
    }
}
