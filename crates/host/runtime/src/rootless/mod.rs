//! Containers of people who are not root: they are root in a user namespace of their own, with numbers for others that
//! `/etc/subuid` and `/etc/subgid` give them, and with mounts and a network of their own (user_namespaces(7)).
//!
//! One process, the holder, keeps the namespaces as long as anything runs in them. Every command enters them, and from then on works
//! as root's do.
//!
//! ```text
//! command                     holder
//!  runs it ─────────────────▶ makes user and mount namespace
//!  hears  ◀──── "map PID" ───
//!  newuidmap, newgidmap
//!  says   ───── "mapped" ───▶ makes the network, tells in holder.json who it is
//!  hears  ◀──── warnings, then end of file
//!  enters ══════════════════▶ (namespaces)
//! ```
//!
//! The namespaces of a holder that was killed live on in what runs in them. The next one enters them in the place of making some, and
//! says "kept" where this one says "map".

mod ids;

use std::{
    fs::{self, File},
    io::{BufRead, BufReader, Read as _, Write as _},
    os::{
        fd::{AsFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt},
    },
    path::{Path, PathBuf},
    process::{Command, Stdio},
};

use rustix::{
    fs::{FlockOperation, flock},
    mount::{MountPropagationFlags, mount_change},
    process::{DumpableBehavior, Gid, Pid, PidfdFlags, Uid, pidfd_open, set_dumpable_behavior},
};
use serde::{Deserialize, Serialize};
use wharf_base::root_of;

use crate::{
    error::{Context, Error, ErrorKind, Result},
    pod_dir::write_json,
    processes::began,
    sys,
};

/// The namespaces of the holder.
const ALL: i32 = libc::CLONE_NEWUSER | libc::CLONE_NEWNS | libc::CLONE_NEWNET;

/// More is not heard of a holder that begins.
const HEARD: u64 = 16 << 10;

/// Who holds the namespaces.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Holder {
    pid: i32,
    /// When it began, in ticks since the machine did: another process may have its number later.
    began: u64,
    /// What it holds.
    #[serde(default)]
    spaces: Option<Spaces>,
}

impl Holder {
    /// This process.
    fn own() -> Option<Self> {
        let pid = std::process::id() as i32;
        Some(Self { pid, began: began(pid)?, spaces: Spaces::of(pid) })
    }
}

/// The numbers of a process's namespaces.
#[derive(PartialEq, Eq, Serialize, Deserialize)]
struct Spaces {
    user: u64,
    mount: u64,
    network: u64,
}

impl Spaces {
    fn of(pid: i32) -> Option<Self> {
        let number = |kind| fs::metadata(format!("/proc/{pid}/ns/{kind}")).ok().map(|found| found.ino());
        Some(Self { user: number("user")?, mount: number("mnt")?, network: number("net")? })
    }
}

/// Names the folder for those who are in the person's namespaces: there it is not to be looked for again.
pub const FOLDER: &str = "WHARF_ROOTLESS";

/// The folder of what a person's containers need while the machine runs: the holder's files. Of several it may be in, that of a holder
/// that lives, since variables of a login are not set everywhere, as in `cron`.
///
/// # Errors
/// When it cannot be made, or is somebody else's.
pub fn folder() -> Result<PathBuf> {
    if let Some(known) = std::env::var_os(FOLDER).filter(|_| sys::in_user_namespace()) {
        return Ok(known.into());
    }
    let person = person();
    let given = std::env::var_os("XDG_RUNTIME_DIR").map(PathBuf::from).filter(|path| path.is_absolute());
    let usual = Some(PathBuf::from(format!("/run/user/{person}")));
    // After `su` the variable may be another person's.
    let of_logins = [given, usual].into_iter().flatten().filter(|path| is_own(path).is_ok());
    let all: Vec<PathBuf> =
        of_logins.map(|path| path.join("wharf")).chain([format!("/tmp/wharf-{person}").into()]).collect();
    if let Some(living) = all.iter().find(|path| is_own(path).is_ok() && held(path).is_some()) {
        return Ok(living.clone());
    }
    let path = all.into_iter().next().unwrap_or_default();
    match fs::DirBuilder::new().mode(0o700).create(&path) {
        Err(error) if error.kind() != std::io::ErrorKind::AlreadyExists => Err(error),
        _ => Ok(()),
    }
    .step("make the folder", path.display())?;
    is_own(&path)?;
    Ok(path)
}

/// Refuses folders of others, and those others may look into.
fn is_own(path: &Path) -> Result<()> {
    let found = fs::symlink_metadata(path).step("look at", path.display())?;
    match found.is_dir() && found.uid() == rustix::process::getuid().as_raw() && found.mode() & 0o077 == 0 {
        true => Ok(()),
        false => Err(Error::invalid(
            "use the folder",
            path.display(),
            "it must belong to you, and nobody else may look into it",
        )),
    }
}

/// The number of the person, also for those who are root in their user namespace by now.
fn person() -> u32 {
    let outside = || root_of(&fs::read_to_string("/proc/self/uid_map").ok()?);
    let outside = sys::in_user_namespace().then(outside).flatten();
    outside.unwrap_or_else(|| rustix::process::getuid().as_raw())
}

/// Enters the namespaces kept from `folder`, after `holder` has been run to make them if nobody holds any. Gives what the holder has
/// to tell people. This process must have one thread.
///
/// # Errors
/// When the machine does not let people who are not root have user namespaces, or the holder fails.
pub fn enter(folder: &Path, holder: &mut Command) -> Result<Vec<String>> {
    let lock = lock(folder)?;
    flock(&lock, FlockOperation::LockExclusive).step("lock", folder.display())?;
    let (holder, warnings) = match held(folder) {
        Some(found) => (found, Vec::new()),
        None => {
            let warnings = begin(folder, holder)?;
            let gone = || Error::state("enter", "your namespaces", "their holder has ended at once");
            (held(folder).ok_or_else(gone)?, warnings)
        }
    };
    let here = std::env::current_dir().step("look for", "the current folder")?;
    join(&holder, ALL)?;
    // Entering mounts leads to their root.
    std::env::set_current_dir(&here).step("return to", here.display())?;
    Ok(warnings)
}

/// Held by whoever looks for the holder until they have entered, and by the holder when it ends.
fn lock(folder: &Path) -> Result<File> {
    let path = folder.join("holder.lock");
    let opened = File::options().write(true).create(true).truncate(false).open(&path);
    opened.step("open", path.display())
}

/// Who tells to be the holder.
fn told(folder: &Path) -> Option<Holder> {
    serde_json::from_slice(&fs::read(folder.join("holder.json")).ok()?).ok()
}

/// The holder, if one lives.
fn held(folder: &Path) -> Option<OwnedFd> {
    let holder = told(folder)?;
    let process = pidfd_open(Pid::from_raw(holder.pid)?, PidfdFlags::empty()).ok()?;
    (began(holder.pid) == Some(holder.began)).then_some(process)
}

/// A process in the namespaces of a holder that has been killed.
struct Survivor {
    process: OwnedFd,
    network: File,
}

/// Somebody who has outlived the holder, and sees the folder.
fn survivor(folder: &Path) -> Option<Survivor> {
    let spaces = told(folder)?.spaces?;
    let own = fs::metadata(folder).ok()?;
    let below = folder.strip_prefix("/").ok()?;
    let pids = fs::read_dir("/proc").ok()?.flatten();
    let pids = pids.filter_map(|entry| entry.file_name().to_str()?.parse::<i32>().ok());
    pids.into_iter().find_map(|pid| {
        let process = pidfd_open(Pid::from_raw(pid)?, PidfdFlags::empty()).ok()?;
        let seen = fs::metadata(Path::new("/proc").join(pid.to_string()).join("root").join(below)).ok()?;
        let network = File::open(format!("/proc/{pid}/ns/net")).ok()?;
        let same = (seen.dev(), seen.ino()) == (own.dev(), own.ino());
        // It is not another's number by now if it is still of the same ones.
        (same && Spaces::of(pid).as_ref() == Some(&spaces)).then_some(Survivor { process, network })
    })
}

/// Goes on as root of namespaces that are there.
fn join(process: &OwnedFd, which: i32) -> Result<()> {
    sys::setns(process.as_fd(), which).step("enter", "your namespaces")?;
    // Also after `newgrp`, whose group nobody knows inside.
    rustix::thread::set_thread_res_gid(Gid::ROOT, Gid::ROOT, Gid::ROOT).step("enter", "your namespaces")?;
    rustix::thread::set_thread_res_uid(Uid::ROOT, Uid::ROOT, Uid::ROOT).step("enter", "your namespaces")?;
    // Files of this process in /proc would belong to the machine's root otherwise.
    set_dumpable_behavior(DumpableBehavior::Dumpable).step("enter", "your namespaces")
}

/// Runs the holder, and maps its users.
fn begin(folder: &Path, holder: &mut Command) -> Result<Vec<String>> {
    let log = File::create(folder.join("holder.log")).step("write", "holder.log")?;
    let mut child = holder
        .stdin(Stdio::piped())
        .stdout(Stdio::piped())
        .stderr(Stdio::from(log))
        .spawn()
        .step("start", "the holder of your namespaces")?;
    let failed = |what: &str| {
        let said = fs::read_to_string(folder.join("holder.log")).unwrap_or_default();
        let said = said.trim().trim_start_matches("Error: ");
        let why = if said.is_empty() { "it ended without a word" } else { said };
        Error::new(ErrorKind::Failed, "make", what, why)
    };
    let (Some(mut says), Some(hears)) = (child.stdin.take(), child.stdout.take()) else {
        return Err(failed("pipes to the holder"));
    };
    let mut hears = BufReader::new(hears.take(HEARD));
    let mut line = String::new();
    hears.read_line(&mut line).step("hear from", "the holder of your namespaces")?;
    let mut warnings = match line.trim().strip_prefix("map ").map(str::parse) {
        Some(Ok(pid)) => {
            let warnings = map(pid)?;
            says.write_all(b"mapped\n").step("talk to", "the holder of your namespaces")?;
            warnings
        }
        _ if line.trim() == "kept" => Vec::new(),
        _ => return Err(failed("a user namespace")),
    };
    let mut ready = false;
    for line in hears.lines() {
        match line.step("hear from", "the holder of your namespaces")? {
            line if line == "ready" => ready = true,
            line => warnings.push(line),
        }
    }
    if ready { Ok(warnings) } else { Err(failed("a network of your own")) }
}

/// Maps the users and groups of the process `pid`: with the setuid programs that may, and else only the person.
fn map(pid: u32) -> Result<Vec<String>> {
    let person = (rustix::process::getuid().as_raw(), rustix::process::getgid().as_raw());
    let passwd = fs::read_to_string("/etc/passwd").unwrap_or_default();
    let name = ids::name_of(&passwd, person.0)
        .map(str::to_owned)
        .or_else(|| std::env::var("USER").ok())
        .unwrap_or_else(|| person.0.to_string());
    let ranges = |path: &str| ids::ranges(&fs::read_to_string(path).unwrap_or_default(), &name, person.0);
    let (users, groups) = (ranges("/etc/subuid"), ranges("/etc/subgid"));
    let only = |why: &str| -> Result<Vec<String>> {
        map_one(pid, person)?;
        let files = "files of an image that belong to others than root cannot be unpacked";
        Ok(vec![format!("only your own user is known in containers, and {files}: {why}")])
    };
    if users.is_empty() || groups.is_empty() {
        let ask = format!(
            "ask for 'usermod --add-subuids 100000-165535 --add-subgids 100000-165535 {name}', end what runs, and wait ten seconds"
        );
        return only(&format!("/etc/subuid and /etc/subgid have nothing for {name}; {ask}"));
    }
    for (program, own, ranges) in [("newuidmap", person.0, users), ("newgidmap", person.1, groups)] {
        let words = ids::mapping(own, &ranges).into_iter().flatten().map(|number| number.to_string());
        match Command::new(program).arg(pid.to_string()).args(words).output() {
            Ok(done) if done.status.success() => {}
            Ok(done) => {
                let said = String::from_utf8_lossy(&done.stderr).trim().to_owned();
                return Err(Error::new(ErrorKind::Failed, "map users with", program, said));
            }
            // The first of two: nothing is mapped yet.
            Err(error) if error.kind() == std::io::ErrorKind::NotFound && program == "newuidmap" => {
                return only("newuidmap is not there; install 'uidmap', end what runs, and wait ten seconds");
            }
            Err(error) => return Err(error).step("run", program),
        }
    }
    Ok(Vec::new())
}

/// What the kernel allows everybody: the person is root inside, and nobody else is anybody.
fn map_one(pid: u32, person: (u32, u32)) -> Result<()> {
    let (uid, gid) = (format!("0 {} 1\n", person.0), format!("0 {} 1\n", person.1));
    for (name, text) in [("setgroups", "deny"), ("uid_map", uid.as_str()), ("gid_map", gid.as_str())] {
        let path = format!("/proc/{pid}/{name}");
        fs::write(&path, text).step("map users by", &path)?;
    }
    Ok(())
}

/// Leaves the terminal, the folder and the files of whoever began this process.
///
/// # Errors
/// When the kernel refuses.
pub fn become_background() -> Result<()> {
    // What whoever called it happened to have open would stay open, and locked.
    sys::close_from(3).step("close", "what is open")?;
    rustix::process::setsid().step("begin", "a session")?;
    std::env::set_current_dir("/").step("enter", "/")
}

/// Keeps what cleans up temporary folders from this one.
fn keep(folder: &Path) -> Result<File> {
    let kept = File::open(folder).step("open", folder.display())?;
    flock(&kept, FlockOperation::LockShared).step("lock", folder.display())?;
    Ok(kept)
}

/// The side of the process that keeps the namespaces.
pub struct Hold {
    folder: PathBuf,
    /// Kept open: a logout may remove the folder.
    lock: File,
    /// So that what cleans up temporary folders leaves it.
    _kept: File,
    /// The network of namespaces that were there before.
    network: Option<File>,
}

impl Hold {
    /// Makes the user and the mount namespace, and waits until users are mapped; or enters those a holder before it has left. This
    /// process must have one thread. Whoever began it holds the lock.
    ///
    /// # Errors
    /// When the kernel refuses, or whoever began it has gone.
    pub fn begin(folder: &Path) -> Result<Self> {
        become_background()?;
        if let Some(survivor) = survivor(folder) {
            let hold = Self::take_over(folder, survivor, lock(folder)?)?;
            std::io::stdout().write_all(b"kept\n").step("talk to", "whoever began")?;
            return Ok(hold);
        }
        sys::unshare(libc::CLONE_NEWUSER | libc::CLONE_NEWNS).step("make", "a user namespace")?;
        // Whoever maps its users must be able to, and whoever enters to look at it.
        set_dumpable_behavior(DumpableBehavior::Dumpable).step("begin", "to hold namespaces")?;
        writeln!(std::io::stdout(), "map {}", std::process::id()).step("talk to", "whoever began")?;
        let mut line = String::new();
        std::io::stdin().read_line(&mut line).step("hear from", "whoever began")?;
        if line.trim() != "mapped" {
            return Err(Error::state("map", "users", "whoever was to do it has gone"));
        }
        let kind = MountPropagationFlags::DOWNSTREAM | MountPropagationFlags::REC;
        mount_change("/", kind).step("cut off", "the mounts of the machine")?;
        Ok(Self { folder: folder.to_owned(), lock: lock(folder)?, _kept: keep(folder)?, network: None })
    }

    /// Enters the namespaces of a holder that has been killed, unless another holds them by now, or nothing is left in them. This
    /// process must have one thread.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn again(folder: &Path) -> Result<Option<Self>> {
        become_background()?;
        let lock = lock(folder)?;
        flock(&lock, FlockOperation::LockExclusive).step("lock", folder.display())?;
        if held(folder).is_some() {
            return Ok(None);
        }
        survivor(folder).map(|survivor| Self::take_over(folder, survivor, lock)).transpose()
    }

    fn take_over(folder: &Path, survivor: Survivor, lock: File) -> Result<Self> {
        join(&survivor.process, libc::CLONE_NEWUSER | libc::CLONE_NEWNS)?;
        let (folder, kept) = (folder.to_owned(), keep(folder)?);
        Ok(Self { folder, lock, _kept: kept, network: Some(survivor.network) })
    }

    /// Whether a holder before this one has made the namespaces.
    pub fn is_taken_over(&self) -> bool {
        self.network.is_some()
    }

    /// Gives the calling thread, which must be the first, and those it starts from now on a network of its own: that of the holder
    /// before, where there was one.
    ///
    /// # Errors
    /// When the kernel refuses.
    pub fn make_network(&self) -> Result<()> {
        if let Some(network) = &self.network {
            return sys::setns(network.as_fd(), libc::CLONE_NEWNET).step("enter", "your network");
        }
        sys::unshare(libc::CLONE_NEWNET).step("make", "a network namespace")?;
        sys::loopback_up().step("bring up", "the loopback interface")
    }

    /// Tells others that the namespaces can be entered.
    ///
    /// # Errors
    /// When that cannot be written.
    pub fn tell(&self) -> Result<()> {
        let own = Holder::own().ok_or_else(|| Error::state("look at", "this process", "it has no /proc"))?;
        write_json(&self.folder.join("holder.json"), &own)?;
        // Of one that was not begun by somebody who has it.
        flock(&self.lock, FlockOperation::Unlock).step("unlock", self.folder.display())
    }

    /// Whether the namespaces can go: nobody but the holder and those it has started, `except`, is in them. If so nobody enters them
    /// any more.
    ///
    /// # Errors
    /// When it cannot be found out.
    pub fn can_end(&self, except: &[u32]) -> Result<bool> {
        // Somebody is about to enter.
        if flock(&self.lock, FlockOperation::NonBlockingLockExclusive).is_err() {
            return Ok(false);
        }
        let others = others(except);
        if !matches!(others, Ok(false)) {
            // Also where it is not known: everybody who enters would wait.
            flock(&self.lock, FlockOperation::Unlock).step("unlock", self.folder.display())?;
            return others.map(|_| false);
        }
        if self.is_told() {
            // It may be gone with its folder.
            let _ = fs::remove_file(self.folder.join("holder.json"));
        }
        Ok(true)
    }

    /// Whether those who look for a holder find this one.
    pub fn is_told(&self) -> bool {
        told(&self.folder).is_some_and(|holder| Some(holder) == Holder::own())
    }
}

/// Whether other processes are in this one's user namespace, or in one below it.
fn others(except: &[u32]) -> Result<bool> {
    let own = fs::read_link("/proc/self/ns/user").step("look at", "the own user namespace")?;
    for entry in fs::read_dir("/proc").step("read", "/proc")?.flatten() {
        let pid: Option<u32> = entry.file_name().to_str().and_then(|name| name.parse().ok());
        let other = pid.is_some_and(|pid| pid != std::process::id() && !except.contains(&pid));
        if other && fs::read_link(entry.path().join("ns/user")).is_ok_and(|user| user == own) {
            return Ok(true);
        }
    }
    Ok(false)
}
