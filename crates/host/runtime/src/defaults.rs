//! The specification of a usual container, in the OCI's words: what is mounted, hidden and allowed unless a caller says otherwise.

use std::{
    collections::{HashMap, HashSet},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{
    Capability, LinuxBuilder, LinuxCapabilitiesBuilder, LinuxDevice, LinuxDeviceCgroupBuilder,
    LinuxNamespaceBuilder, LinuxNamespaceType, LinuxResources, Mount, MountBuilder, PosixRlimit,
    ProcessBuilder, RootBuilder, Spec, SpecBuilder, UserBuilder,
};

use crate::error::{Error, Result};

/// What differs from one container to the next. `Default` is a plain unprivileged container.
#[derive(Debug, Clone, Default)]
pub struct SpecOptions {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `K=V`.
    pub env: Vec<String>,
    /// Working directory; `/` when empty.
    pub cwd: String,
    /// User and group by number. Names are given in [`crate::ContainerConfig::user`].
    pub user: (u32, u32),
    /// Further groups by number.
    pub groups: Vec<u32>,
    /// A terminal instead of pipes.
    pub terminal: bool,
    /// The root file system cannot be written to.
    pub readonly_root: bool,
    /// Everything root of the machine may do, except for the namespaces.
    pub privileged: bool,
    /// Capabilities added to the default ones: `NET_ADMIN`, or `ALL`.
    pub add_capabilities: Vec<String>,
    /// Capabilities taken away: `NET_RAW`, or `ALL`.
    pub drop_capabilities: Vec<String>,
    /// Programs cannot gain privileges through set-user-id files.
    pub no_new_privileges: bool,
    /// Mounts after the default ones; one at the same place takes its place.
    pub mounts: Vec<Mount>,
    /// Devices besides the standard ones.
    pub devices: Vec<LinuxDevice>,
    /// The container's cgroup below the root of the hierarchy.
    pub cgroup: String,
    /// Limits.
    pub resources: LinuxResources,
    /// Process limits.
    pub rlimits: Vec<PosixRlimit>,
    /// Kernel settings.
    pub sysctls: HashMap<String, String>,
    /// Sees the processes of the machine.
    pub host_pids: bool,
    /// How willingly the kernel kills it for want of memory, from -1000 to 1000.
    pub oom_score_adj: Option<i32>,
    /// Size of `/dev/shm` in bytes; 64 MiB when absent.
    pub shm_bytes: Option<u64>,
}

/// What root in a container may do: Docker's and containerd's list.
const CAPABILITIES: [Capability; 14] = [
    Capability::Chown,
    Capability::DacOverride,
    Capability::Fsetid,
    Capability::Fowner,
    Capability::Mknod,
    Capability::NetRaw,
    Capability::Setgid,
    Capability::Setuid,
    Capability::Setfcap,
    Capability::Setpcap,
    Capability::NetBindService,
    Capability::SysChroot,
    Capability::Kill,
    Capability::AuditWrite,
];

const MASKED: [&str; 11] = [
    "/proc/acpi",
    "/proc/asound",
    "/proc/interrupts",
    "/proc/kcore",
    "/proc/keys",
    "/proc/latency_stats",
    "/proc/sched_debug",
    "/proc/scsi",
    "/proc/timer_list",
    "/sys/devices/virtual/powercap",
    "/sys/firmware",
];

const READONLY: [&str; 5] = ["/proc/bus", "/proc/fs", "/proc/irq", "/proc/sys", "/proc/sysrq-trigger"];

/// All capabilities there are.
pub(crate) fn all_capabilities() -> Vec<Capability> {
    use Capability::*;
    vec![
        AuditControl,
        AuditRead,
        AuditWrite,
        BlockSuspend,
        Bpf,
        CheckpointRestore,
        Chown,
        DacOverride,
        DacReadSearch,
        Fowner,
        Fsetid,
        IpcLock,
        IpcOwner,
        Kill,
        Lease,
        LinuxImmutable,
        MacAdmin,
        MacOverride,
        Mknod,
        NetAdmin,
        NetBindService,
        NetBroadcast,
        NetRaw,
        Perfmon,
        Setfcap,
        Setgid,
        Setpcap,
        Setuid,
        SysAdmin,
        SysBoot,
        SysChroot,
        SysModule,
        SysNice,
        SysPacct,
        SysPtrace,
        SysRawio,
        SysResource,
        SysTime,
        SysTtyConfig,
        Syslog,
        WakeAlarm,
    ]
}

fn bad(error: oci_spec::OciSpecError) -> Error {
    Error::invalid("describe", "the container", error)
}

impl SpecOptions {
    /// The specification.
    pub fn build(self) -> Result<Spec> {
        let capabilities: HashSet<Capability> = self.capabilities()?.into_iter().collect();
        let sets = LinuxCapabilitiesBuilder::default()
            .bounding(capabilities.clone())
            .effective(capabilities.clone())
            .permitted(capabilities)
            .inheritable(HashSet::new())
            .ambient(HashSet::new())
            .build()
            .map_err(bad)?;
        let user = UserBuilder::default()
            .uid(self.user.0)
            .gid(self.user.1)
            .additional_gids(self.groups.clone())
            .build()
            .map_err(bad)?;
        let mut process = ProcessBuilder::default()
            .args(self.args.clone())
            .env(self.env.clone())
            .cwd(if self.cwd.is_empty() { "/" } else { &self.cwd })
            .user(user)
            .terminal(self.terminal)
            .capabilities(sets)
            .rlimits(self.rlimits.clone())
            .no_new_privileges(self.no_new_privileges)
            .build()
            .map_err(bad)?;
        process.set_oom_score_adj(self.oom_score_adj);
        let root = RootBuilder::default().path("rootfs").readonly(self.readonly_root).build().map_err(bad)?;
        let mut spec = SpecBuilder::default()
            .version("1.2.0")
            .root(root)
            .mounts(self.all_mounts()?)
            .process(process)
            .linux(self.linux()?)
            .build()
            .map_err(bad)?;
        spec.set_hostname(None);
        Ok(spec)
    }

    fn capabilities(&self) -> Result<Vec<Capability>> {
        let all = || all_capabilities();
        if self.privileged {
            return Ok(all());
        }
        let parse = |name: &String| -> Result<Capability> {
            let name = name.to_ascii_uppercase();
            name.strip_prefix("CAP_")
                .unwrap_or(&name)
                .parse()
                .map_err(|_| Error::invalid("use the capability", &name, "there is none of this name"))
        };
        let is_all = |name: &String| name.eq_ignore_ascii_case("all");
        let mut set =
            if self.drop_capabilities.iter().any(is_all) { Vec::new() } else { CAPABILITIES.to_vec() };
        if self.add_capabilities.iter().any(is_all) {
            set = all();
        }
        for name in self.drop_capabilities.iter().filter(|name| !is_all(name)) {
            let dropped = parse(name)?;
            set.retain(|kept| *kept != dropped);
        }
        for name in self.add_capabilities.iter().filter(|name| !is_all(name)) {
            set.push(parse(name)?);
        }
        Ok(set)
    }

    fn linux(&self) -> Result<oci_spec::runtime::Linux> {
        let mut kinds = vec![
            LinuxNamespaceType::Mount,
            LinuxNamespaceType::Cgroup,
            LinuxNamespaceType::Network,
            LinuxNamespaceType::Ipc,
            LinuxNamespaceType::Uts,
        ];
        if !self.host_pids {
            kinds.push(LinuxNamespaceType::Pid);
        }
        let namespaces: Result<Vec<_>, _> =
            kinds.into_iter().map(|kind| LinuxNamespaceBuilder::default().typ(kind).build()).collect();
        let hidden = |paths: &[&str]| -> Vec<String> {
            if self.privileged { Vec::new() } else { paths.iter().map(|path| (*path).to_owned()).collect() }
        };
        let mut resources = self.resources.clone();
        if self.privileged {
            let all = LinuxDeviceCgroupBuilder::default().allow(true).access("rwm").build().map_err(bad)?;
            resources.set_devices(Some(vec![all]));
        }
        LinuxBuilder::default()
            .namespaces(namespaces.map_err(bad)?)
            .cgroups_path(PathBuf::from(&self.cgroup))
            .resources(resources)
            .sysctl(self.sysctls.clone())
            .devices(self.devices.clone())
            .masked_paths(hidden(&MASKED))
            .readonly_paths(hidden(&READONLY))
            .build()
            .map_err(bad)
    }

    fn all_mounts(&self) -> Result<Vec<Mount>> {
        let shm = format!("size={}", self.shm_bytes.unwrap_or(64 << 20));
        let read_only = if self.privileged { "rw" } else { "ro" };
        let defaults: [(&str, &str, &[&str]); 7] = [
            ("/proc", "proc", &["nosuid", "noexec", "nodev"]),
            ("/dev", "tmpfs", &["nosuid", "strictatime", "mode=755", "size=65536k"]),
            (
                "/dev/pts",
                "devpts",
                &["nosuid", "noexec", "newinstance", "ptmxmode=0666", "mode=0620", "gid=5"],
            ),
            ("/dev/shm", "tmpfs", &["nosuid", "noexec", "nodev", "mode=1777", &shm]),
            ("/dev/mqueue", "mqueue", &["nosuid", "noexec", "nodev"]),
            ("/sys", "sysfs", &["nosuid", "noexec", "nodev", read_only]),
            ("/sys/fs/cgroup", "cgroup", &["nosuid", "noexec", "nodev", "relatime", read_only]),
        ];
        let mut mounts = Vec::new();
        for (path, kind, options) in defaults {
            if !self.mounts.iter().any(|given| given.destination().as_os_str() == path) {
                let source = if path == "/dev/shm" { "shm" } else { kind };
                mounts.push(mount(path, kind, source, options)?);
            }
        }
        mounts.extend(self.mounts.iter().cloned());
        Ok(mounts)
    }
}

/// Makes a container join another's namespace of a kind, by its path, in place of one of its own.
pub fn join(linux: &mut oci_spec::runtime::Linux, kind: LinuxNamespaceType, path: &Path) {
    for namespace in linux.namespaces_mut().iter_mut().flatten().filter(|one| one.typ() == kind) {
        namespace.set_path(Some(path.to_owned()));
    }
}

/// One mount of a specification.
pub fn mount(destination: &str, kind: &str, source: &str, options: &[&str]) -> Result<Mount> {
    MountBuilder::default()
        .destination(destination)
        .typ(kind)
        .source(source)
        .options(options.iter().map(|option| (*option).to_owned()).collect::<Vec<_>>())
        .build()
        .map_err(bad)
}
