//! Control groups: limits, accounting, and knowing every process of a container. Version 1 and version 2 of the kernel's interface.

mod devices;
mod v1;
mod v2;
mod watch;

use std::{
    borrow::Cow,
    fs,
    io::{self, ErrorKind as Io, Write},
    os::fd::OwnedFd,
    path::{Path, PathBuf},
    sync::OnceLock,
    time::{Duration, Instant},
};

use oci_spec::runtime::{LinuxNetwork, LinuxResources};
use rustix::fs::{Mode, OFlags};

use crate::{
    error::{Context, Error, ErrorKind, Result},
    status::{BlockIo, Stats},
    sys,
};

pub(crate) use watch::{Denied, Watch};

const ROOT: &str = "/sys/fs/cgroup";

/// How long removal waits for processes already killed to be gone.
const REMOVE_DEADLINE: Duration = Duration::from_secs(5);

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Version {
    V1,
    V2,
    /// None that this process may make groups in: it is root only in a user namespace.
    Absent,
}

/// The machine's, looked up once.
fn version() -> Version {
    const CGROUP2: u64 = 0x6367_7270;
    static VERSION: OnceLock<Version> = OnceLock::new();
    *VERSION.get_or_init(|| match rustix::fs::statfs(ROOT) {
        Ok(stat) if stat.f_type as u64 == CGROUP2 => ours_or_absent(Version::V2, || is_ours(Path::new(ROOT))),
        _ => ours_or_absent(Version::V1, v1::is_ours),
    })
}

/// The machine's root never goes without: nothing else would keep its containers from making devices.
fn ours_or_absent(version: Version, ours: impl FnOnce() -> bool) -> Version {
    match sys::in_user_namespace() && !ours() {
        true => Version::Absent,
        false => version,
    }
}

/// Whether groups may be made in the folder.
fn is_ours(folder: &Path) -> bool {
    let (access, flags) = (rustix::fs::Access::WRITE_OK, rustix::fs::AtFlags::EACCESS);
    rustix::fs::accessat(rustix::fs::CWD, folder, access, flags).is_ok()
}

/// Whether containers have cgroups here: limits, accounts, and a way to stop all their processes for a while.
pub fn has_cgroups() -> bool {
    version() != Version::Absent
}

/// One cgroup: the same path in every hierarchy of version 1, or the path in the one of version 2.
#[derive(Debug, Clone)]
pub struct Cgroup {
    path: String,
    version: Version,
}

impl Cgroup {
    /// Names the cgroup at `path` below the root of the hierarchy. It need not exist.
    pub fn at(path: &str) -> Result<Self> {
        let path = path.trim_matches('/');
        let ok = !path.is_empty() && path.split('/').all(|part| !matches!(part, "" | "." | ".."));
        if !ok {
            return Err(Error::invalid(
                "name the cgroup",
                path,
                "it must be a path below the root, without '.' and '..'",
            ));
        }
        Ok(Self { path: path.to_owned(), version: version() })
    }

    /// Its path below the root of the hierarchy.
    pub fn path(&self) -> &str {
        &self.path
    }

    /// Makes it, with the limits of `resources`. Refuses one that has processes already.
    pub(crate) fn create(&self, resources: &LinuxResources) -> Result<()> {
        check_supported(resources)?;
        let made = self.make(resources);
        if made.is_err() {
            self.remove_quietly();
        }
        made
    }

    fn make(&self, resources: &LinuxResources) -> Result<()> {
        let mut existed = false;
        match self.version {
            Version::V1 => {
                for controller in v1::wanted(resources) {
                    existed |= !v1::make(controller, &self.path)?;
                }
            }
            Version::V2 => existed = !v2::make(&self.path, resources)?,
            Version::Absent => return Ok(()),
        }
        if existed && !self.processes().is_empty() {
            return Err(Error::new(
                ErrorKind::Exists,
                "create the cgroup",
                &self.path,
                "it has processes already",
            ));
        }
        self.limit(resources)?;
        match self.version {
            Version::V1 => v1::limit_devices(&self.path, resources),
            Version::V2 => v2::limit_devices(&self.path, resources),
            Version::Absent => Ok(()),
        }
    }

    /// Changes its limits; what `resources` leaves out stays. On version 1 it joins the controllers it has needed none of before.
    pub fn update(&self, resources: &LinuxResources) -> Result<()> {
        check_supported(resources)?;
        self.check_usage(resources)?;
        let late = match self.version {
            Version::V1 => v1::make_late(&self.path, resources)?,
            _ => Vec::new(),
        };
        self.limit(resources)?;
        late.iter().try_for_each(|folder| self.join_late(folder))
    }

    /// Moves all its processes into a further folder. What they start meanwhile comes after.
    fn join_late(&self, folder: &Path) -> Result<()> {
        let (door, mut before) = (folder.join("cgroup.procs"), Vec::new());
        loop {
            let there = fs::read_to_string(&door).step("read", door.display())?;
            let there: Vec<i32> = there.lines().filter_map(|line| line.parse().ok()).collect();
            let missing: Vec<i32> = self.processes().into_iter().filter(|pid| !there.contains(pid)).collect();
            // Those that are left twice do not let themselves be moved: they end.
            if missing.iter().all(|pid| before.contains(pid)) {
                return Ok(());
            }
            for pid in &missing {
                match fs::write(&door, pid.to_string()) {
                    Err(error) if error.raw_os_error() != Some(libc::ESRCH) => {
                        return Err(error).step("move a process into", folder.display());
                    }
                    _ => {}
                }
            }
            before = missing;
        }
    }

    fn limit(&self, resources: &LinuxResources) -> Result<()> {
        let settings = match self.version {
            Version::V1 => v1::settings(resources),
            Version::V2 => v2::settings(resources),
            Version::Absent => Vec::new(),
        };
        let mut again = Vec::new();
        for (file, value) in settings {
            if write_file(&self.file(&file), &value).is_err() {
                again.push((file, value));
            }
        }
        // One limit may have to wait for another: memory is raised above what it is with swap only after that.
        again.into_iter().try_for_each(|(file, value)| write_file(&self.file(&file), &value))
    }

    /// Refuses limits below what is used, where the specification asks for that.
    fn check_usage(&self, resources: &LinuxResources) -> Result<()> {
        let memory = resources.memory().unwrap_or_default();
        let (Some(true), Some(limit)) = (memory.check_before_update(), memory.limit()) else { return Ok(()) };
        let used = self.stats()?.memory_usage;
        if limit > 0 && (limit as u64) < used {
            let why = format_args!("{used} bytes are in use, and 'checkBeforeUpdate' is set");
            return Err(Error::invalid("limit the memory to", limit, why));
        }
        Ok(())
    }

    /// Where its file `name` (`memory.max`, `pids.max`) is.
    fn file(&self, name: &str) -> PathBuf {
        match self.version {
            Version::V1 => v1::folder(v1::controller_of(name), &self.path).join(name),
            Version::V2 | Version::Absent => Path::new(ROOT).join(&self.path).join(name),
        }
    }

    /// All its folders, with the controller's name on version 1.
    pub(crate) fn folders(&self) -> Vec<(&'static str, PathBuf)> {
        match self.version {
            Version::V1 => v1::existing(&self.path),
            Version::V2 => vec![("", Path::new(ROOT).join(&self.path))],
            Version::Absent => Vec::new(),
        }
    }

    /// Opens the doors through which a new process enters.
    pub(crate) fn doors(&self) -> Result<Doors> {
        let open = |path: &Path, flags: OFlags| {
            rustix::fs::open(path, flags | OFlags::CLOEXEC, Mode::empty())
                .step("open the cgroup", path.display())
        };
        match self.version {
            Version::V1 => {
                let files: Result<Vec<_>> = self
                    .folders()
                    .iter()
                    .map(|(_, folder)| open(&folder.join("tasks"), OFlags::WRONLY))
                    .collect();
                Ok(Doors { tasks: files?, born_in: None })
            }
            Version::V2 => {
                let folder = open(&Path::new(ROOT).join(&self.path), OFlags::RDONLY | OFlags::DIRECTORY)?;
                Ok(Doors { tasks: Vec::new(), born_in: Some(folder) })
            }
            Version::Absent => Ok(Doors { tasks: Vec::new(), born_in: None }),
        }
    }

    /// Opens the doors once more where there are others by now: a change of limits may have added controllers.
    pub(crate) fn renew(&self, doors: &mut Doors) -> Result<()> {
        if self.version == Version::V1 && self.folders().len() != doors.tasks.len() {
            *doors = self.doors()?;
        }
        Ok(())
    }

    /// The ids of its processes.
    pub(crate) fn processes(&self) -> Vec<i32> {
        let mut pids: Vec<i32> = self
            .folders()
            .iter()
            .filter_map(|(_, folder)| fs::read_to_string(folder.join("cgroup.procs")).ok())
            .flat_map(|text| text.lines().filter_map(|line| line.parse().ok()).collect::<Vec<_>>())
            .collect();
        pids.sort_unstable();
        pids.dedup();
        pids
    }

    /// Sends `signal` to every process in it.
    pub(crate) fn signal_all(&self, signal: i32) {
        if self.version == Version::V2 && signal == libc::SIGKILL {
            let kill = Path::new(ROOT).join(&self.path).join("cgroup.kill");
            if fs::write(kill, "1").is_ok() {
                return;
            }
        }
        for pid in self.processes() {
            if let (Some(pid), Some(signal)) =
                (rustix::process::Pid::from_raw(pid), rustix::process::Signal::from_named_raw(signal))
            {
                // A process that ended meanwhile is no failure.
                let _ = rustix::process::kill_process(pid, signal);
            }
        }
    }

    /// Freezes or thaws all its processes, and waits until they are.
    pub(crate) fn freeze(&self, frozen: bool) -> Result<()> {
        let (file, value, state, expected) = match self.version {
            Version::V1 => {
                let word = if frozen { "FROZEN" } else { "THAWED" };
                ("freezer.state", word, "freezer.state", word)
            }
            Version::V2 if frozen => ("cgroup.freeze", "1", "cgroup.events", "frozen 1"),
            Version::V2 => ("cgroup.freeze", "0", "cgroup.events", "frozen 0"),
            Version::Absent if frozen => return Err(absent("pause", &self.path)),
            Version::Absent => return Ok(()),
        };
        write_file(&self.file(file), value)?;
        let deadline = Instant::now() + Duration::from_secs(2);
        loop {
            let path = self.file(state);
            if fs::read_to_string(&path).step("read", path.display())?.contains(expected) {
                return Ok(());
            }
            if Instant::now() > deadline {
                return Err(Error::new(
                    ErrorKind::Failed,
                    "freeze the cgroup",
                    &self.path,
                    "some process does not stop",
                ));
            }
            std::thread::sleep(Duration::from_millis(1));
        }
    }

    /// Whether its processes are frozen, or about to be.
    pub(crate) fn is_frozen(&self) -> bool {
        match self.version {
            Version::V1 => matches!(self.read("freezer.state").trim(), "FROZEN" | "FREEZING"),
            Version::V2 => self.read("cgroup.freeze").trim() == "1",
            Version::Absent => false,
        }
    }

    /// What it uses. Zeroes for what the kernel does not offer.
    pub fn stats(&self) -> Result<Stats> {
        let exists = self.folders().iter().any(|(_, folder)| folder.exists());
        match self.version {
            Version::Absent => Err(absent("account for", &self.path)),
            _ if !exists => Err(Error::not_found(&self.path)),
            Version::V1 => Ok(v1::stats(|name| self.read(name))),
            Version::V2 => Ok(v2::stats(|name| self.read(name))),
        }
    }

    /// What it has read from and written to each block device. Nothing where the kernel does not say.
    pub fn block_io(&self) -> Vec<BlockIo> {
        match self.version {
            Version::Absent => Vec::new(),
            Version::V1 => v1::block_io(
                &self.read("blkio.throttle.io_service_bytes_recursive"),
                &self.read("blkio.throttle.io_serviced_recursive"),
            ),
            Version::V2 => v2::block_io(&self.read("io.stat")),
        }
    }

    fn read(&self, name: &str) -> String {
        fs::read_to_string(self.file(name)).unwrap_or_default()
    }

    /// Removes it and what is left below it, killing what still runs inside. Succeeds when there is none.
    pub fn remove(&self) -> Result<()> {
        let deadline = Instant::now() + REMOVE_DEADLINE;
        for (_, folder) in self.folders() {
            loop {
                match remove_tree(&folder) {
                    Ok(()) => break,
                    Err(error) if error.kind() == Io::ResourceBusy && Instant::now() < deadline => {
                        // Killed processes leave a moment later; the kernel gives no other notice on version 1.
                        self.signal_all(libc::SIGKILL);
                        let _ = self.thaw();
                        std::thread::sleep(Duration::from_millis(1));
                    }
                    other => return other.step("remove the cgroup", folder.display()),
                }
            }
        }
        Ok(())
    }

    /// A frozen process cannot die on version 1.
    fn thaw(&self) -> io::Result<()> {
        match self.version {
            Version::V1 => fs::write(self.file("freezer.state"), "THAWED"),
            Version::V2 => fs::write(self.file("cgroup.freeze"), "0"),
            Version::Absent => Ok(()),
        }
    }

    pub(crate) fn remove_quietly(&self) {
        // The caller is on its way out with a better error.
        let _ = self.remove();
    }
}

/// The ways into a cgroup, opened while its path can be reached.
pub(crate) struct Doors {
    tasks: Vec<OwnedFd>,
    born_in: Option<OwnedFd>,
}

impl Doors {
    /// The cgroup a child is to be born in (version 2).
    pub(crate) fn birthplace(&self) -> Option<&OwnedFd> {
        self.born_in.as_ref()
    }

    /// Moves the calling thread in (version 1). Writing `0` to `tasks` moves only the writer and spares the kernel the lock on all
    /// threads that `cgroup.procs` takes: 12 ms for eight hierarchies.
    pub(crate) fn enter(&self) -> io::Result<()> {
        self.tasks
            .iter()
            .try_for_each(|file| rustix::io::write(file, b"0").map(drop).map_err(io::Error::from))
    }
}

/// Why something cannot be had of a container without a cgroup.
fn absent(step: &'static str, path: &str) -> Error {
    Error::invalid(step, path, "this takes cgroups, in which only root may make some on this machine")
}

/// Refuses limits that would not take effect.
fn check_supported(resources: &LinuxResources) -> Result<()> {
    let refuse = |what: &str| Err(Error::invalid("limit", what, "this limit is not supported"));
    let memory = resources.memory().unwrap_or_default();
    if version() == Version::Absent {
        return match any_limit(resources) {
            true => {
                Err(absent("limit the container in", "memory, processors, processes or devices' traffic"))
            }
            // Devices are guarded by the user namespace, in which none can be made.
            false => Ok(()),
        };
    }
    if version() == Version::V1 {
        if resources.unified().as_ref().is_some_and(|all| !all.is_empty()) {
            return refuse("unified");
        }
        return match v1::missing(resources) {
            Some(name) => Err(Error::invalid("limit", name, "the machine does not have this controller")),
            None => Ok(()),
        };
    }
    let block = resources.block_io().clone().unwrap_or_default();
    let cpu = resources.cpu().clone().unwrap_or_default();
    let leaf = block.weight_device().iter().flatten().any(|device| device.leaf_weight().is_some());
    for (name, asked) in [
        ("memory.kernelTCP", memory.kernel_tcp().is_some_and(|limit| limit != 0)),
        ("memory.disableOOMKiller", memory.disable_oom_killer() == Some(true)),
        ("memory.swappiness", memory.swappiness().is_some()),
        ("cpu.realtimeRuntime", cpu.realtime_runtime().is_some_and(|time| time != 0)),
        ("cpu.realtimePeriod", cpu.realtime_period().is_some_and(|time| time != 0)),
        ("blockIO.leafWeight", leaf || block.leaf_weight().is_some_and(|weight| weight != 0)),
        ("network", resources.network().as_ref().is_some_and(|network| *network != LinuxNetwork::default())),
    ] {
        if asked {
            return Err(Error::invalid(
                "limit",
                name,
                "version 2 of the kernel's cgroups has nothing like it",
            ));
        }
    }
    let mut own = resources.unified().iter().flatten();
    match own.find(|(file, _)| file.contains('/') || !file.contains('.')) {
        Some((file, _)) => Err(Error::invalid("limit", file, "expected the name of a cgroup's file")),
        None => Ok(()),
    }
}

/// Whether anything is limited besides the use of devices.
fn any_limit(resources: &LinuxResources) -> bool {
    let mut rest = resources.clone();
    rest.set_devices(None);
    let mut none = LinuxResources::default();
    none.set_devices(None);
    rest != none
}

/// A file and what is written to it.
type Setting = (Cow<'static, str>, String);

/// The same in both versions.
fn rdma_settings(resources: &LinuxResources) -> impl Iterator<Item = Setting> {
    resources.rdma().iter().flatten().map(|(device, limit)| {
        let handles = limit.hca_handles().map(|count| format!(" hca_handle={count}")).unwrap_or_default();
        let objects = limit.hca_objects().map(|count| format!(" hca_object={count}")).unwrap_or_default();
        ("rdma.max".into(), format!("{device}{handles}{objects}"))
    })
}

fn write_file(path: &Path, value: &str) -> Result<()> {
    fs::OpenOptions::new()
        .write(true)
        .open(path)
        .and_then(|mut file| file.write_all(value.as_bytes()))
        .step("set a limit", format_args!("{} = {value}", path.display()))
}

/// Removes a cgroup folder with its children. Its files go with it.
fn remove_tree(folder: &Path) -> io::Result<()> {
    match fs::remove_dir(folder) {
        Err(error) if error.kind() == Io::NotFound => Ok(()),
        Err(error) if error.kind() == Io::ResourceBusy => {
            let mut any = false;
            for entry in fs::read_dir(folder)?.flatten() {
                if entry.file_type().is_ok_and(|kind| kind.is_dir()) {
                    any = true;
                    remove_tree(&entry.path())?;
                }
            }
            if any { fs::remove_dir(folder) } else { Err(error) }
        }
        other => other,
    }
}

/// The number after `key` in lines of `key number`.
fn keyed(text: &str, key: &str) -> u64 {
    text.lines()
        .filter_map(|line| line.split_once(' '))
        .find(|(name, _)| *name == key)
        .and_then(|(_, value)| value.trim().parse().ok())
        .unwrap_or(0)
}

fn number(text: &str) -> u64 {
    text.trim().parse().unwrap_or(0)
}

/// A limit file's number; absent for `max`, and for the huge number that means the same on version 1.
fn limit_of(text: &str) -> Option<u64> {
    text.trim().parse().ok().filter(|limit| *limit < 1 << 62)
}
