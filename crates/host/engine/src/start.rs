//! From what a container is asked to be to its running program.

use std::{
    collections::{BTreeMap, HashMap},
    fs,
    net::Ipv4Addr,
    os::unix::fs::{FileTypeExt as _, MetadataExt as _},
    path::{Path, PathBuf},
    time::{Duration, Instant},
};

use wharf_base::ContainerId;
use wharf_runtime::{
    ContainerConfig, LogConfig, Network, PodDir, RootFs, Runtime as _, Sandbox, SandboxConfig, Seccomp,
    Share, Size, SpecOptions, WhenIdle, init_program,
    oci::{
        BoxBuilder, LinuxBlockIo, LinuxCpuBuilder, LinuxDevice, LinuxDeviceBuilder, LinuxDeviceCgroup,
        LinuxDeviceCgroupBuilder, LinuxDeviceType, LinuxMemoryBuilder, LinuxNamespaceType, LinuxPidsBuilder,
        LinuxResources, LinuxSeccomp, Mount, PosixRlimit, PosixRlimitBuilder, Spec as OciSpec,
    },
};

use crate::{
    GROUP, MAIN, archive,
    bridge::resolver,
    connect::{LOCAL_HOSTS, extra_hosts, resolver_with},
    containers::{Container, Engine, log_of},
    error::{Error, ErrorKind, IoContext as _, Result},
    image::{self, Image},
    networks,
    spec::{Device, MountPoint, MountSource, Record, Spec, StartError, Whose},
    volumes::{self, Files},
};

/// Where the first process of a container that asks for one lies in it, as docker has it.
pub const INIT_PATH: &str = "/sbin/docker-init";
const DEV: &str = "/dev";
const SHM: &str = "/dev/shm";
const PATH: &str = "PATH=/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// A shim that has nothing left to hold is gone after so long.
const SHIM_ENDS: Duration = Duration::from_secs(5);

/// A container whose program has been started.
pub struct Started<T> {
    /// Its pod.
    pub sandbox: Box<dyn Sandbox>,
    /// What the caller made of it before its program started.
    pub joined: T,
    /// What could not be done as asked but did not prevent the start.
    pub warnings: Vec<String>,
}

impl Engine {
    /// Starts a container, for the first time or again. Just before its program starts, `join` may attach to it.
    ///
    /// # Errors
    /// When it runs already, or cannot be started. Nothing runs then; why is kept in its record.
    pub fn start<T>(
        &self,
        record: &Record,
        image: Option<Image>,
        terminal: Option<Size>,
        join: impl FnOnce(&dyn Sandbox) -> Result<T>,
    ) -> Result<Started<T>> {
        let folder = self.folder(&record.id);
        let dir = PodDir::at(&folder);
        if dir.has_shim() {
            let status = dir.status(MAIN);
            if status.is_ok_and(|status| status.phase != wharf_runtime::Phase::Exited) {
                return Err(Error::conflict(format!("container {} runs already", record.name)));
            }
            // It has ended; its shim is about to, or stays for somebody who is still connected.
            if let Ok(sandbox) = self.runtime.open(&folder) {
                sandbox.shutdown()?;
            }
            let deadline = Instant::now() + SHIM_ENDS;
            while dir.has_shim() && Instant::now() < deadline {
                std::thread::sleep(Duration::from_millis(1));
            }
        }
        self.runtime.clean_up(&folder)?;
        let image = match (image, &record.spec.rootfs) {
            (Some(image), _) => image,
            (None, Some(folder)) => image::from_directory(folder)?,
            (None, None) => image::resolve(self.data(), &record.image_id)?,
        };
        let new = New { engine: self, record, spec: &record.spec, image: &image, folder };
        let started = new.start(terminal, join);
        match &started {
            Ok(_) if record.error.is_some() => drop(self.change(&record.id, |record| record.error = None)?),
            Ok(_) => {}
            Err(error) => {
                let code = match error.kind {
                    ErrorKind::NoProgram => 127,
                    ErrorKind::NotExecutable => 126,
                    _ => 128,
                };
                let why = StartError { code, message: error.to_string() };
                self.change(&record.id, |record| record.error = Some(why))?;
            }
        }
        started
    }
}

/// A container about to run.
struct New<'a> {
    engine: &'a Engine,
    record: &'a Record,
    spec: &'a Spec,
    image: &'a Image,
    folder: PathBuf,
}

impl New<'_> {
    fn start<T>(
        &self,
        terminal: Option<Size>,
        join: impl FnOnce(&dyn Sandbox) -> Result<T>,
    ) -> Result<Started<T>> {
        self.make_room()?;
        let config = self.container(terminal)?;
        let sandbox = self.engine.runtime.create(&self.folder, &self.sandbox()?)?;
        let joined = (|| {
            self.connect(&*sandbox)?;
            let status = sandbox.create_container(&config)?;
            let joined = join(&*sandbox)?;
            sandbox.start(MAIN)?;
            Ok((joined, status.warnings))
        })();
        match joined {
            Ok((joined, warnings)) => Ok(Started { sandbox, joined, warnings }),
            Err(error) => {
                sandbox.shutdown()?;
                self.make_room()?;
                Err(error)
            }
        }
    }

    /// Takes away what is written of the run before; files the container wrote and its log stay.
    fn make_room(&self) -> Result<()> {
        let before = self.folder.join("containers").join(MAIN);
        for name in ["config.json", "state.json", "exit.json"] {
            let file = before.join(name);
            match fs::remove_file(&file) {
                Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                    return Err(error).at("remove", &file);
                }
                _ => {}
            }
        }
        Ok(())
    }

    fn on_host_network(&self) -> bool {
        self.spec.network == networks::HOST
    }

    /// Whether it has an address of its own.
    fn bridged(&self) -> bool {
        let network = self.spec.network.as_str();
        !matches!(network, networks::HOST | networks::NONE) && networks::of_container(network).is_none()
    }

    /// Another container whose namespace this one is to have.
    fn other(&self, id: &str) -> Result<Container> {
        let container = self.engine.find(id)?;
        if !container.is_running() {
            let name = container.name();
            return Err(Error::conflict(format!(
                "cannot join a namespace of container {name}: container {name} is not running"
            ))
            .hint("start it first"));
        }
        Ok(container)
    }

    /// The container whose network this one has, if it has another's.
    fn network_of(&self) -> Result<Option<Container>> {
        networks::of_container(&self.spec.network).map(|id| self.other(id)).transpose()
    }

    /// Joins its networks, and tells the container its addresses.
    fn connect(&self, sandbox: &dyn Sandbox) -> Result<()> {
        if !self.bridged() {
            return Ok(());
        }
        let namespace = sandbox.network_namespace();
        let _kept = self.engine.keep_networks(self.spec)?;
        let targets = self.engine.targets(self.spec)?;
        let joined =
            self.engine.bridge().attach(&self.record.id, &namespace, &targets, &self.spec.publish)?;
        self.engine.tell_all(self.record, &joined)
    }

    fn sandbox(&self) -> Result<SandboxConfig> {
        let host = self.on_host_network();
        let spec = self.spec;
        let at_end = self.engine.at_end(&self.record.id, &self.record.name, self.bridged());
        let other = self.network_of()?;
        let network = match &other {
            Some(other) => Network::Path(namespace(other, "net")),
            None if host => Network::Host,
            None => Network::New,
        };
        let mut sysctls = BTreeMap::new();
        if network == Network::New {
            // Whoever is not root may listen on every port and send pings: nothing of the machine's is behind them.
            sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "0".to_owned());
            let groups = fs::read_to_string("/proc/self/gid_map").unwrap_or_default();
            let last = wharf_base::last_of(&groups).min(i32::MAX as u32);
            sysctls.insert("net.ipv4.ping_group_range".to_owned(), format!("0 {last}"));
        }
        sysctls.extend(spec.sysctls.clone());
        if let Some(domain) = &spec.domainname {
            sysctls.insert("kernel.domainname".to_owned(), domain.clone());
        }
        let of_machine = spec.host_uts || (host && spec.hostname.is_none() && spec.domainname.is_none());
        Ok(SandboxConfig {
            id: self.record.id.to_string(),
            hostname: (!of_machine).then(|| self.hostname()),
            network,
            ipc: if spec.ipc == Whose::Host { Share::Host } else { Share::Own },
            uts: if of_machine { Share::Host } else { Share::Own },
            users: None,
            cgroup: None,
            sysctls,
            when_idle: if spec.auto_remove { WhenIdle::Remove } else { WhenIdle::Exit },
            at_end,
            labels: BTreeMap::new(),
        })
    }

    fn hostname(&self) -> String {
        let own = || self.spec.hostname.clone().unwrap_or_else(|| self.record.id.short().to_owned());
        match self.network_of() {
            // Whoever has another's network has its name there.
            Ok(Some(other)) => other.hostname(),
            _ => own(),
        }
    }

    fn container(&self, terminal: Option<Size>) -> Result<ContainerConfig> {
        let spec = self.spec;
        let privileged = spec.privileged;
        let options = SpecOptions {
            args: self.program()?,
            env: self.environment(),
            cwd: spec.workdir.clone().unwrap_or_else(|| self.image.workdir.clone()),
            terminal: spec.tty,
            readonly_root: spec.read_only,
            privileged,
            add_capabilities: spec.cap_add.clone(),
            drop_capabilities: spec.cap_drop.clone(),
            no_new_privileges: spec.no_new_privileges,
            mounts: self.mounts()?,
            cgroup: format!("{GROUP}/{}", self.record.id),
            resources: resources(spec)?,
            rlimits: spec.ulimits.iter().map(rlimit).collect::<Result<_>>()?,
            sysctls: HashMap::new(),
            host_pids: spec.pids == Whose::Host,
            devices: self.devices()?,
            oom_score_adj: spec.oom_score_adj,
            shm_bytes: spec.shm_size,
            ..SpecOptions::default()
        };
        let mut oci = options.build()?;
        self.adjust(&mut oci)?;
        if let (Some(process), Some(size)) = (oci.process_mut(), terminal.filter(|_| spec.tty)) {
            let size = BoxBuilder::default().height(size.rows).width(size.columns).build();
            process.set_console_size(Some(size.map_err(described)?));
        }
        let unconfined = privileged || spec.seccomp_unconfined;
        Ok(ContainerConfig {
            name: MAIN.to_owned(),
            spec: oci,
            root: RootFs { lower: self.image.lower_dirs.clone(), volatile: spec.auto_remove },
            user: spec.user.clone().or_else(|| Some(self.image.user.clone())),
            groups: spec.groups.clone(),
            seccomp: if unconfined { Seccomp::Unconfined } else { Seccomp::Default },
            stdin: spec.stdin.into(),
            log: (!spec.no_log).then(|| self.log()),
            labels: BTreeMap::new(),
        })
    }

    fn log(&self) -> LogConfig {
        let usual = LogConfig::new(log_of(&self.folder));
        LogConfig {
            max_bytes: self.spec.log_bytes.unwrap_or(usual.max_bytes),
            max_files: self.spec.log_files.unwrap_or(usual.max_files),
            ..usual
        }
    }

    /// What differs from a usual container's specification.
    fn adjust(&self, oci: &mut OciSpec) -> Result<()> {
        let spec = self.spec;
        if spec.no_shm
            && let Some(mounts) = oci.mounts_mut()
        {
            mounts.retain(|mount| mount.destination() != Path::new(SHM));
        }
        let Some(linux) = oci.linux_mut() else { return Ok(()) };
        if let (Some(filter), false) = (&spec.seccomp, spec.privileged) {
            linux.set_seccomp(Some(LinuxSeccomp::clone(filter)));
        }
        if let Some(paths) = &spec.masked_paths {
            linux.set_masked_paths(Some(paths.clone()));
        }
        if let Some(paths) = &spec.readonly_paths {
            linux.set_readonly_paths(Some(paths.clone()));
        }
        for (whose, kind, name) in
            [(&spec.pids, LinuxNamespaceType::Pid, "pid"), (&spec.ipc, LinuxNamespaceType::Ipc, "ipc")]
        {
            let Whose::Container(id) = whose else { continue };
            wharf_runtime::join(linux, kind, &namespace(&self.other(id)?, name));
        }
        let access: Vec<LinuxDeviceCgroup> = self
            .spec
            .devices
            .iter()
            .map(allowed)
            .collect::<Result<Vec<_>>>()?
            .into_iter()
            .flatten()
            .collect();
        if let Some(resources) =
            linux.resources_mut().as_mut().filter(|_| !spec.privileged && !access.is_empty())
        {
            resources.set_devices(Some(access));
        }
        Ok(())
    }

    /// Devices of this machine that are there inside too; all of them for a privileged container.
    fn devices(&self) -> Result<Vec<LinuxDevice>> {
        let mut devices = Vec::new();
        for device in &self.spec.devices {
            devices.extend(nodes(&device.path, &device.inside)?);
        }
        if self.spec.privileged {
            devices.extend(nodes(Path::new(DEV), Path::new(DEV))?);
        }
        Ok(devices)
    }

    fn program(&self) -> Result<Vec<String>> {
        let (entrypoint, mut default) = match &self.spec.entrypoint {
            Some(words) => (words.clone(), Vec::new()),
            None => (self.image.entrypoint.clone(), self.image.cmd.clone()),
        };
        if !self.spec.command.is_empty() {
            default = self.spec.command.clone();
        }
        let program = [entrypoint, default].concat();
        if program.is_empty() {
            let error = Error::invalid(format!("the image {} names no program", self.image.name));
            return Err(error.hint("write the command after the image"));
        }
        let own = if self.spec.init { vec![INIT_PATH.to_owned(), "--".to_owned()] } else { Vec::new() };
        Ok([own, program].concat())
    }

    fn environment(&self) -> Vec<String> {
        let mut all = vec![PATH.to_owned(), format!("HOSTNAME={}", self.hostname())];
        all.extend(self.spec.tty.then(|| "TERM=xterm".to_owned()));
        all.extend(self.image.env.iter().cloned());
        all.extend(self.spec.env.iter().cloned());
        unique(all)
    }

    /// The files that tell the container its own name, then the volumes.
    fn mounts(&self) -> Result<Vec<Mount>> {
        let etc = self.folder.join("etc");
        fs::create_dir_all(&etc).at("make", &etc)?;
        let hostname = self.hostname();
        let of_machine = |path: &str| fs::read_to_string(path).unwrap_or_default();
        let hosts = match self.on_host_network() {
            true => of_machine("/etc/hosts") + &extra_hosts(self.spec, Ipv4Addr::LOCALHOST),
            false => format!("{LOCAL_HOSTS}{}", extra_hosts(self.spec, Ipv4Addr::LOCALHOST)),
        };
        if let Some(other) = self.network_of()? {
            // The names of a network are one for all who have it.
            let mut mounts = Vec::new();
            for name in ["hosts", "hostname", "resolv.conf"] {
                let file = other.dir.path().join("etc").join(name);
                mounts.push(bind(&file, &format!("/etc/{name}"), &[])?);
            }
            mounts.extend(self.volumes()?);
            return Ok(mounts);
        }
        let mut mounts = Vec::new();
        for (name, text) in
            [("hosts", hosts), ("hostname", format!("{hostname}\n")), ("resolv.conf", self.resolver())]
        {
            let file = etc.join(name);
            fs::write(&file, text).at("write", &file)?;
            mounts.push(bind(&file, &format!("/etc/{name}"), &[])?);
        }
        mounts.extend(self.volumes()?);
        Ok(mounts)
    }

    fn volumes(&self) -> Result<Vec<Mount>> {
        let mut mounts = self.image_volumes()?;
        if self.spec.init {
            mounts.push(bind(&init_program()?, INIT_PATH, &["ro"])?);
        }
        // A folder before what is mounted inside it, whatever the order they were asked for in.
        let mut asked: Vec<&MountPoint> = self.spec.mounts.iter().collect();
        asked.sort_by_key(|mount| Path::new(&mount.target).components().count());
        for mount in asked {
            mounts.push(self.mount(mount)?);
        }
        // Queues and shared memory go together.
        let given = self.spec.mounts.iter().any(|mount| mount.target == SHM);
        match &self.spec.ipc {
            _ if given => {}
            Whose::Host => mounts.push(bind(Path::new(SHM), SHM, &[])?),
            // That of another container is a mount of its own, which nobody outside can bind.
            Whose::Own | Whose::Container(_) => {}
        }
        Ok(mounts)
    }

    fn resolver(&self) -> String {
        let of_machine = fs::read_to_string("/etc/resolv.conf").unwrap_or_default();
        resolver_with(
            self.spec,
            match self.spec.network.as_str() {
                networks::HOST => of_machine,
                networks::NONE => String::new(),
                _ => resolver(&of_machine),
            },
        )
    }

    fn mount(&self, mount: &MountPoint) -> Result<Mount> {
        let options: Vec<&str> = mount.options.iter().map(String::as_str).collect();
        match &mount.source {
            MountSource::Path { path, make } => {
                if *make && !path.exists() {
                    fs::create_dir_all(path).at("make the folder", path)?;
                }
                if !path.exists() {
                    return Err(Error::invalid(format!(
                        "the path {} to be mounted does not exist",
                        path.display()
                    ))
                    .hint("make it first, or mount it with -v, which makes folders"));
                }
                bind(path, &mount.target, &options)
            }
            MountSource::Volume(name) => {
                // Removed by somebody meanwhile, it begins anew.
                let files = volumes::get_or_make(self.engine.data(), name)?;
                let options = options.into_iter().filter(|option| *option != "nocopy");
                match &files {
                    Files::Folder(folder, own) => {
                        let all: Vec<&str> = own.iter().map(String::as_str).chain(options).collect();
                        bind(folder, &mount.target, &all)
                    }
                    Files::Mounted(kind, device, own) => {
                        let all: Vec<&str> = own.iter().map(String::as_str).chain(options).collect();
                        Ok(wharf_runtime::mount(&mount.target, kind, device, &all)?)
                    }
                }
            }
            MountSource::Tmpfs => {
                let mut all = vec!["nosuid", "nodev", "noexec"];
                all.extend(options);
                Ok(wharf_runtime::mount(&mount.target, "tmpfs", "tmpfs", &all)?)
            }
        }
    }

    /// A folder of the container's own for every place it or its image declares as data, filled with what the image has there.
    fn image_volumes(&self) -> Result<Vec<Mount>> {
        let mut mounts = Vec::new();
        let own = self.spec.volumes.iter().filter(|place| !self.image.volumes.contains(place));
        for (index, place) in self.image.volumes.iter().chain(own).enumerate() {
            if self.spec.mounts.iter().any(|mount| Path::new(&mount.target) == Path::new(place)) {
                continue;
            }
            let folder = self.folder.join("volumes").join(index.to_string());
            if !folder.exists() {
                fs::create_dir_all(&folder).at("make", &folder)?;
                archive::fill(&folder, &self.image.lower_dirs, place)?;
            }
            mounts.push(bind(&folder, place, &[])?);
        }
        Ok(mounts)
    }
}

impl Engine {
    /// The program that takes back what an ended container had.
    pub fn at_end(&self, id: &ContainerId, name: &str, bridged: bool) -> Vec<String> {
        let mut words = self.config.at_end.clone();
        if words.is_empty() {
            return words;
        }
        words.extend(bridged.then(|| "--bridged".to_owned()));
        words.extend([id.to_string(), name.to_owned()]);
        words
    }
}

/// A namespace of a container that runs.
fn namespace(of: &Container, kind: &str) -> PathBuf {
    PathBuf::from(format!("/proc/{}/ns/{kind}", of.status.pid.unwrap_or_default()))
}

/// Folders of `/dev` that are not of the machine's devices.
const NOT_DEVICES: [&str; 5] = ["/dev/pts", "/dev/shm", "/dev/mqueue", "/dev/fd", "/dev/console"];

/// The device at `path`, or all below it where that is a folder, as they are to be inside.
fn nodes(path: &Path, inside: &Path) -> Result<Vec<LinuxDevice>> {
    let found = fs::metadata(path).map_err(|error| {
        let error = format!("cannot add the device {}: {error}", path.display());
        Error::invalid(error).hint("name a device of this machine: ls -l /dev")
    })?;
    if found.is_dir() {
        let mut all = Vec::new();
        for entry in fs::read_dir(path).at("read", path)?.flatten() {
            let (from, to) = (entry.path(), inside.join(entry.file_name()));
            let kind = entry.file_type().at("look at", &from)?;
            let skipped = NOT_DEVICES.iter().any(|skipped| from == Path::new(skipped));
            if !skipped && (kind.is_dir() || kind.is_char_device() || kind.is_block_device()) {
                all.extend(nodes(&from, &to)?);
            }
        }
        return Ok(all);
    }
    let kind = match found.file_type() {
        kind if kind.is_char_device() => LinuxDeviceType::C,
        kind if kind.is_block_device() => LinuxDeviceType::B,
        _ => return Err(Error::invalid(format!("{} is not a device", path.display()))),
    };
    let number = |part: u32| i64::from(part);
    let built = LinuxDeviceBuilder::default()
        .path(inside)
        .typ(kind)
        .major(number(rustix::fs::major(found.rdev())))
        .minor(number(rustix::fs::minor(found.rdev())))
        .file_mode(found.mode() & 0o7777)
        .uid(found.uid())
        .gid(found.gid())
        .build();
    Ok(vec![built.map_err(described)?])
}

/// Rules that let a container use a device as it was asked for.
fn allowed(device: &Device) -> Result<Vec<LinuxDeviceCgroup>> {
    let rule = |node: LinuxDevice| {
        let rule = LinuxDeviceCgroupBuilder::default()
            .allow(true)
            .typ(node.typ())
            .major(node.major())
            .minor(node.minor())
            .access(device.access.clone());
        rule.build().map_err(described)
    };
    nodes(&device.path, &device.inside)?.into_iter().map(rule).collect()
}

/// Settings with each name once: the place of the first, the value of the last. A name without a value takes the
/// variable away.
fn unique(all: Vec<String>) -> Vec<String> {
    let name = |setting: &str| setting.split('=').next().unwrap_or_default().to_owned();
    let mut env: Vec<String> = Vec::new();
    for setting in all {
        let known = env.iter().position(|known| name(known) == name(&setting));
        match (known, setting.contains('=')) {
            (Some(known), true) => env[known] = setting,
            (Some(known), false) => drop(env.remove(known)),
            (None, true) => env.push(setting),
            (None, false) => {}
        }
    }
    env
}

fn bind(source: &Path, target: &str, options: &[&str]) -> Result<Mount> {
    let propagation = ["private", "rprivate", "shared", "rshared", "slave", "rslave"];
    let mut all = vec!["rbind"];
    if !options.iter().any(|option| propagation.contains(option)) {
        all.push("rprivate");
    }
    // With everything below it, as docker does.
    all.extend(options.iter().map(|option| match *option {
        "ro" => "rro",
        "nosuid" => "rnosuid",
        "nodev" => "rnodev",
        "noexec" => "rnoexec",
        option => option,
    }));
    Ok(wharf_runtime::mount(target, "bind", &source.to_string_lossy(), &all)?)
}

fn described(error: impl std::fmt::Display) -> Error {
    Error::invalid(error.to_string())
}

pub(crate) fn resources(spec: &Spec) -> Result<LinuxResources> {
    let wanted = &spec.resources;
    let mut resources = LinuxResources::default();
    resources.set_devices(None);
    let memory = [wanted.memory, wanted.memory_reservation, wanted.memory_swap];
    if memory.iter().any(Option::is_some) || wanted.swappiness.is_some() || wanted.oom_kill_disable {
        let mut memory = LinuxMemoryBuilder::default().build().map_err(described)?;
        memory.set_limit(wanted.memory);
        memory.set_reservation(wanted.memory_reservation);
        memory.set_swap(wanted.memory_swap);
        memory.set_swappiness(wanted.swappiness);
        memory.set_disable_oom_killer(wanted.oom_kill_disable.then_some(true));
        resources.set_memory(Some(memory));
    }
    let cpu =
        (wanted.cpu_quota, wanted.cpu_period, wanted.cpu_shares, &wanted.cpuset_cpus, &wanted.cpuset_mems);
    if cpu != (None, None, None, &None, &None) {
        let mut built = LinuxCpuBuilder::default().build().map_err(described)?;
        built.set_quota(wanted.cpu_quota).set_period(wanted.cpu_period).set_shares(wanted.cpu_shares);
        built.set_cpus(wanted.cpuset_cpus.clone()).set_mems(wanted.cpuset_mems.clone());
        resources.set_cpu(Some(built));
    }
    if wanted.block_weight.is_some() {
        let mut block = LinuxBlockIo::default();
        block.set_weight(wanted.block_weight);
        resources.set_block_io(Some(block));
    }
    if let Some(limit) = wanted.pids {
        resources.set_pids(Some(LinuxPidsBuilder::default().limit(limit).build().map_err(described)?));
    }
    Ok(resources)
}

fn rlimit((name, soft, hard): &(String, u64, u64)) -> Result<PosixRlimit> {
    let kind = format!("RLIMIT_{}", name.to_ascii_uppercase());
    let kind = serde_json::from_value(serde_json::Value::String(kind));
    let kind: wharf_runtime::oci::PosixRlimitType = kind.map_err(|_| {
        Error::invalid(format!("there is no process limit '{name}'"))
            .hint("names are like nofile, nproc, core, memlock")
    })?;
    let built = PosixRlimitBuilder::default().typ(kind).soft(*soft).hard(*hard).build();
    built.map_err(described)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_last_of_equal_names_counts() {
        let all = ["PATH=/a", "X=1", "Z=1", "PATH=/b=c", "Y", "Z", "X="].map(str::to_owned).to_vec();
        assert_eq!(unique(all), ["PATH=/b=c", "X="]);
    }
}
