//! The process itself: limits, user, capabilities, filter, working directory, program.

use std::{
    ffi::{CString, OsStr},
    io,
    os::{
        fd::AsFd,
        unix::{ffi::OsStrExt, fs::MetadataExt, fs::PermissionsExt},
    },
    path::{Path, PathBuf},
};

use oci_spec::runtime::{Capabilities, LinuxCapabilities, PosixRlimitType, Process};
use rustix::{
    fs::{FileType, Gid, Uid},
    thread::{CapabilitySet, CapabilitySets},
};

use super::{Launch, Line, user};
use crate::{
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

/// A process that only has to be replaced by its program.
pub(super) struct Ready {
    program: PathBuf,
    args: Vec<CString>,
    env: Vec<CString>,
}

/// Numbers of the capabilities, by place.
const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// Told to the kernel while the machine's `/proc` is still there.
pub(super) fn set_oom_score(plan: &Plan, line: &Line) -> Result<()> {
    let Some(score) = plan.process.oom_score_adj() else { return Ok(()) };
    match std::fs::write("/proc/self/oom_score_adj", score.to_string()) {
        // Lowering it takes a capability some machines withhold even from root.
        Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
            line.warn(&format!("the machine does not allow oom_score_adj {score}: {error}"));
            Ok(())
        }
        other => other.step("set oom_score_adj to", score),
    }
}

/// Takes on everything the program is to run with, and finds the program.
pub(super) fn become_user(plan: &Launch<'_>, line: &Line) -> Result<Ready> {
    let process = &plan.process.process;
    set_limits(process, line)?;
    let identity = identity(&plan.process)?;
    enter_cwd(process.cwd())?;
    own_stdio(identity.uid)?;
    let capabilities = process.capabilities().clone().unwrap_or_default();
    drop_bounding(&bits(capabilities.bounding()))?;
    let no_new_privileges = process.no_new_privileges() == Some(true);
    if no_new_privileges {
        rustix::thread::set_no_new_privs(true).step("set", "no_new_privs")?;
    } else {
        // Without no_new_privs this takes a capability that is about to go.
        load_filters(plan)?;
    }
    set_user(&identity, process.user().umask())?;
    set_capabilities(&capabilities, identity.uid == 0, line)?;
    if no_new_privileges {
        load_filters(plan)?;
    }
    let env = environment(process, identity.home.as_deref())?;
    let args = process.args().as_deref().unwrap_or_default();
    let program = find_program(args.first().map_or("", String::as_str), &env)?;
    Ok(Ready { program, args: c_strings(args, "argument")?, env })
}

fn identity(plan: &Plan) -> Result<user::Identity> {
    let user = plan.process.user();
    match plan.user.as_deref().filter(|wanted| !wanted.is_empty()) {
        Some(wanted) => {
            let mut identity = user::look_up(wanted)?;
            identity.groups.extend(user.additional_gids().iter().flatten());
            Ok(identity)
        }
        None => Ok(user::Identity {
            uid: user.uid(),
            gid: user.gid(),
            groups: user.additional_gids().clone().unwrap_or_default(),
            home: user::home_of(user.uid()),
        }),
    }
}

fn set_limits(process: &Process, line: &Line) -> Result<()> {
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
        match sys::set_limit(resource, limit.soft(), limit.hard()) {
            Err(error) if error.kind() == io::ErrorKind::PermissionDenied => {
                line.warn(&format!("the machine does not allow the limit {subject}: {error}"));
            }
            other => other.step("set the limit", subject)?,
        }
    }
    Ok(())
}

/// Goes to the working directory, made where missing, and makes sure that it is inside.
fn enter_cwd(cwd: &Path) -> Result<()> {
    let cwd = if cwd.as_os_str().is_empty() { Path::new("/") } else { cwd };
    if !cwd.is_absolute() {
        return Err(Error::invalid(
            "enter the working directory",
            cwd.display(),
            "it must be an absolute path",
        ));
    }
    if let Err(error) = std::env::set_current_dir(cwd) {
        if error.kind() != io::ErrorKind::NotFound {
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

/// Lets the user reopen its own pipes and terminal through `/dev/stdout`.
fn own_stdio(uid: u32) -> Result<()> {
    let owner = Some(Uid::from_raw(uid));
    let (input, output, error) = (io::stdin(), io::stdout(), io::stderr());
    for fd in [input.as_fd(), output.as_fd(), error.as_fd()] {
        let stat = rustix::fs::fstat(fd).step("look at", "a standard stream")?;
        let kind = FileType::from_raw_mode(stat.st_mode);
        let terminal = kind == FileType::CharacterDevice && rustix::termios::isatty(fd);
        if stat.st_uid != uid && (kind == FileType::Fifo || terminal) {
            rustix::fs::fchown(fd, owner, None).step("give to the user", "a standard stream")?;
        }
    }
    Ok(())
}

fn bits(set: &Option<Capabilities>) -> u64 {
    set.iter().flatten().filter_map(|one| number(&one.to_string())).fold(0, |all, number| all | 1 << number)
}

fn number(name: &str) -> Option<usize> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    CAPABILITIES.iter().position(|known| *known == name)
}

fn drop_bounding(keep: &u64) -> Result<()> {
    for number in (0..64).take_while(|number| number <= &last_capability()) {
        if keep & 1 << number == 0 {
            let one = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::remove_capability_from_bounding_set(one).step("drop the capability", number)?;
        }
    }
    Ok(())
}

/// The highest capability this kernel knows: those beyond it cannot be dropped and are not held.
fn last_capability() -> u32 {
    let known = |number: &u32| {
        rustix::thread::capability_is_in_bounding_set(CapabilitySet::from_bits_retain(1 << number)).is_ok()
    };
    (41..63).take_while(known).last().unwrap_or(40)
}

fn load_filters(plan: &Launch<'_>) -> Result<()> {
    plan.seccomp
        .iter()
        .try_for_each(|program| sys::load_seccomp(program))
        .step("install", "the system call filter")
}

fn set_user(identity: &user::Identity, umask: Option<u32>) -> Result<()> {
    let groups: Vec<Gid> = identity.groups.iter().map(|gid| Gid::from_raw(*gid)).collect();
    rustix::thread::set_thread_groups(&groups).step("set", "additional groups")?;
    let (uid, gid) = (Uid::from_raw(identity.uid), Gid::from_raw(identity.gid));
    if identity.uid != 0 {
        rustix::thread::set_keep_capabilities(true).step("keep", "capabilities")?;
    }
    rustix::thread::set_thread_res_gid(gid, gid, gid).step("become group", identity.gid)?;
    rustix::thread::set_thread_res_uid(uid, uid, uid).step("become user", identity.uid)?;
    rustix::process::umask(rustix::fs::Mode::from_raw_mode(umask.unwrap_or(0o022)));
    Ok(())
}

/// A user other than root keeps only what is ambient: its program would not get the rest at `execve` either.
fn set_capabilities(capabilities: &LinuxCapabilities, root: bool, line: &Line) -> Result<()> {
    let held = rustix::thread::capabilities(None).step("read", "capabilities")?.permitted.bits();
    let wanted = bits(capabilities.permitted());
    let missing = wanted & !held;
    if missing != 0 && root {
        let names: Vec<&str> = CAPABILITIES
            .iter()
            .enumerate()
            .filter(|(n, _)| missing & 1 << n != 0)
            .map(|(_, name)| *name)
            .collect();
        line.warn(&format!("the machine does not have the capabilities {}", names.join(", ")));
    }
    let set = |bits: u64| CapabilitySet::from_bits_retain(bits & held);
    let ambient = set(bits(capabilities.ambient()));
    let sets = CapabilitySets {
        effective: set(bits(capabilities.effective())),
        permitted: set(wanted),
        inheritable: set(bits(capabilities.inheritable())),
    };
    rustix::thread::set_capabilities(None, sets).step("set", "capabilities")?;
    rustix::thread::clear_ambient_capability_set().step("clear", "ambient capabilities")?;
    for number in 0..64 {
        if ambient.bits() & 1 << number != 0 {
            let one = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::configure_capability_in_ambient_set(one, true)
                .step("raise the capability", number)?;
        }
    }
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
    /// Becomes the program. Returns only why it could not.
    pub(super) fn exec(&self) -> Error {
        let subject = self.program.display();
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
