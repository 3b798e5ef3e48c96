//! Sandboxes: made, stopped, removed, told of.

use std::{
    collections::BTreeMap,
    fs, io,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::{DirBuilderExt as _, PermissionsExt as _},
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use rustix::mount::{MountFlags, mount};
use serde_json::json;
use wharf_base::random_hex;
use wharf_network::{PortMapping, Protocol as HostProtocol};
use wharf_runtime::{
    ContainerConfig, Network, PodCgroup, RootFs, SandboxConfig, Seccomp, Share, SpecOptions, Stdin, Users,
    WhenIdle,
};

use crate::{
    container::kill_and_wait,
    cri::{Cri, PAUSE, in_network, now, remove},
    describe, etc,
    grpc::{Code, Failure, Result},
    host, pause, record,
    record::SandboxRecord,
    resources, spec,
    table::{Living, Sandbox, locked, sandbox_name},
    v1::{
        ContainerEventType, ListPodSandboxRequest, ListPodSandboxResponse, NamespaceMode, NamespaceOption,
        PodSandboxConfig, PodSandboxStatusRequest, PodSandboxStatusResponse, Protocol,
        RemovePodSandboxRequest, RemovePodSandboxResponse, RunPodSandboxRequest, RunPodSandboxResponse,
        StopPodSandboxRequest, StopPodSandboxResponse, UpdatePodSandboxResourcesRequest,
        UpdatePodSandboxResourcesResponse,
    },
};

/// Bytes of the memory containers of a pod share by name, at the most.
const SHM: &str = "mode=1777,size=65536k";
/// How long a killed process may take to be gone.
pub(crate) const KILLED: Duration = Duration::from_secs(60);

/// The namespaces of a sandbox, once they are known to be possible.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Shares {
    pub(crate) host_network: bool,
    pub(crate) host_ipc: bool,
    /// Containers see each other's processes.
    pub(crate) pids: bool,
    /// The pod's own user namespace.
    users: Option<Users>,
}

impl Shares {
    pub(crate) fn of(options: &NamespaceOption) -> Result<Self> {
        let users = spec::users(options.userns_options.as_ref())?;
        let shared = [options.network(), options.ipc(), options.pid()].contains(&NamespaceMode::Node);
        if users.is_some() && shared {
            return Err(Failure::invalid(
                "a pod with a user namespace of its own cannot have the machine's network, ipc or pid namespace",
            ));
        }
        for (name, mode) in [("network", options.network()), ("ipc", options.ipc())] {
            if matches!(mode, NamespaceMode::Container | NamespaceMode::Target) {
                return Err(Failure::invalid(format_args!(
                    "the {name} namespace cannot be of mode {mode:?}"
                )));
            }
        }
        Ok(Self {
            host_network: options.network() == NamespaceMode::Node,
            host_ipc: options.ipc() == NamespaceMode::Node,
            pids: options.pid() == NamespaceMode::Pod,
            users,
        })
    }
}

/// Refuses kernel settings that are not of the pod's own namespaces.
fn check_sysctls(sysctls: &BTreeMap<String, String>, shares: &Shares) -> Result<()> {
    for name in sysctls.keys() {
        let dotted = name.replace('/', ".");
        let network = dotted.starts_with("net.");
        let queues =
            ["kernel.shm", "kernel.msg", "kernel.sem", "fs.mqueue."].iter().any(|p| dotted.starts_with(p));
        if !network && !queues {
            return Err(Failure::invalid(format_args!("the sysctl {name} is the machine's, not a pod's")));
        }
        if network && shares.host_network || queues && shares.host_ipc {
            return Err(Failure::invalid(format_args!(
                "the sysctl {name} is of a namespace the pod shares with the machine"
            )));
        }
    }
    Ok(())
}

/// Refuses what would have no effect.
pub(crate) fn check(config: &PodSandboxConfig) -> Result<Shares> {
    let shares = Shares::of(&describe::namespaces(config))?;
    let linux = config.linux.clone().unwrap_or_default();
    check_sysctls(&linux.sysctls, &shares)?;
    if let Some(security) = &linux.security_context {
        spec::check_labels(security.selinux_options.as_ref(), security.apparmor.as_ref(), "")?;
    }
    let dns = config.dns_config.clone().unwrap_or_default();
    let words = dns.servers.iter().chain(&dns.searches).chain(&dns.options).chain([&config.hostname]);
    match words.filter(|word| !word.is_empty()).find(|word| !etc::is_one_word(word)) {
        Some(word) => {
            Err(Failure::invalid(format_args!("{word:?} of dns_config or hostname is not one word")))
        }
        None => Ok(shares),
    }
}

/// The ports of this machine that lead to the pod.
fn ports(config: &PodSandboxConfig, ip: Ipv4Addr) -> Result<Vec<PortMapping>> {
    let mut ports = Vec::new();
    for asked in config.port_mappings.iter().filter(|asked| asked.host_port != 0) {
        let bad = |what: &str| Failure::invalid(format_args!("port_mappings: {what}"));
        let port = |number: i32| u16::try_from(number).ok().filter(|port| *port != 0);
        let host_ip = match asked.host_ip.as_str() {
            "" | "::" => None,
            text => Some(text.parse().map_err(|_| bad(&format!("the host_ip {text} is no IPv4 address")))?),
        };
        ports.push(PortMapping {
            host_ip,
            host_port: port(asked.host_port).ok_or_else(|| bad("a host_port is out of range"))?,
            container_ip: ip,
            container_ip6: None,
            container_port: port(asked.container_port)
                .ok_or_else(|| bad("a container_port is out of range"))?,
            protocol: match asked.protocol() {
                Protocol::Tcp => HostProtocol::Tcp,
                Protocol::Udp => HostProtocol::Udp,
                Protocol::Sctp => HostProtocol::Sctp,
            },
        });
    }
    Ok(ports)
}

/// Whether a cgroup is there, in any hierarchy.
fn cgroup_exists(path: &str) -> bool {
    let root = Path::new("/sys/fs/cgroup");
    let below = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    below.chain([root.to_owned()]).any(|hierarchy| hierarchy.join(path.trim_matches('/')).is_dir())
}

impl Cri {
    pub(crate) fn run_pod_sandbox(
        self: &Arc<Self>,
        request: RunPodSandboxRequest,
    ) -> Result<RunPodSandboxResponse> {
        if !request.runtime_handler.is_empty() {
            return Err(Failure::invalid(format_args!(
                "there is no runtime handler '{}', only the default one",
                request.runtime_handler
            )));
        }
        let config = request.config.unwrap_or_default();
        let metadata =
            config.metadata.clone().ok_or_else(|| Failure::invalid("the sandbox has no metadata"))?;
        let shares = check(&config)?;
        if shares.users.is_some() && !host::user_namespaces() {
            return Err(Failure::invalid(
                "a pod with a user namespace of its own takes root, user.max_user_namespaces, and Linux 6.5 or later",
            ));
        }
        let id = random_hex(32);
        locked(&self.table).reserve(&sandbox_name(&metadata), &id)?;
        let made = self.make_sandbox(&id, config, &shares);
        let (sandbox, living) = made.inspect_err(|_| self.discard(&id))?;
        locked(&self.table).sandboxes.insert(id.clone(), Arc::clone(&sandbox));
        self.listen(&sandbox, living);
        for kind in [ContainerEventType::Created, ContainerEventType::Started] {
            self.tell(kind, &sandbox, &id);
        }
        Ok(RunPodSandboxResponse { pod_sandbox_id: id })
    }

    fn make_sandbox(
        &self,
        id: &str,
        config: PodSandboxConfig,
        shares: &Shares,
    ) -> Result<(Arc<Sandbox>, Living)> {
        let folder = self.folder_of(id);
        fs::DirBuilder::new().mode(0o700).create(&folder).map_err(Failure::internal)?;
        fs::create_dir(folder.join("records")).map_err(Failure::internal)?;
        let linux = config.linux.clone().unwrap_or_default();
        let parent = linux.cgroup_parent.trim_matches('/').to_owned();
        let cgroup = if parent.is_empty() { self.own_cgroup(id) } else { parent };
        let own_cgroup = !cgroup_exists(&cgroup);
        let limits =
            resources::limits(&linux.resources.clone().unwrap_or_default(), host::limits_huge_pages())?;
        let wanted = SandboxConfig {
            id: id.to_owned(),
            hostname: Some(config.hostname.clone()).filter(|name| !name.is_empty() && !shares.host_network),
            network: if shares.host_network { Network::Host } else { Network::New },
            ipc: if shares.host_ipc { Share::Host } else { Share::Own },
            uts: if shares.host_network { Share::Host } else { Share::Own },
            users: shares.users.clone(),
            cgroup: own_cgroup.then(|| PodCgroup { path: cgroup.clone(), resources: limits }),
            sysctls: linux.sysctls,
            when_idle: WhenIdle::Stay,
            at_end: Vec::new(),
            labels: BTreeMap::new(),
        };
        let living: Living = Arc::from(self.config.runtime.create(&folder, &wanted)?);
        let ip = self.wire(id, &config, &living, shares)?;
        write_files(&folder, &config, ip, shares).map_err(|error| {
            Failure::internal(format_args!("the files of the sandbox cannot be made: {error}"))
        })?;
        if shares.pids {
            start_pause(&living, &folder, &format!("{cgroup}/{id}"))?;
        }
        let record = SandboxRecord {
            config: Some(config),
            created_at: now(),
            ip: ip.map_or_else(String::new, |ip| ip.to_string()),
            stopped: false,
            cgroup,
            own_cgroup,
        };
        // From here on it is found again after a restart.
        record::write(&folder.join("sandbox.pb"), &record).map_err(Failure::internal)?;
        let sandbox = Sandbox {
            id: id.to_owned(),
            folder,
            record: Mutex::new(record),
            living: Mutex::new(Some(Arc::clone(&living))),
            turn: Mutex::default(),
        };
        Ok((Arc::new(sandbox), living))
    }

    fn wire(
        &self,
        id: &str,
        config: &PodSandboxConfig,
        living: &Living,
        shares: &Shares,
    ) -> Result<Option<IpAddr>> {
        if shares.host_network {
            return Ok(None);
        }
        let network = &self.config.network;
        let failed = |error: wharf_node::Failure| Failure::internal(format_args!("the network: {error}"));
        let ip = network.attach(&in_network(id), &living.network_namespace()).map_err(failed)?;
        if let IpAddr::V4(four) = ip {
            let ports = ports(config, four)?;
            if !ports.is_empty() {
                network.publish(&in_network(id), ports).map_err(failed)?;
            }
        }
        Ok(Some(ip))
    }

    pub(crate) fn stop_pod_sandbox(&self, request: StopPodSandboxRequest) -> Result<StopPodSandboxResponse> {
        let found = locked(&self.table).sandbox(&request.pod_sandbox_id);
        match found {
            Ok(sandbox) => self.stop_sandbox(&sandbox)?,
            Err(failure) if failure.code == Code::NotFound => {}
            Err(failure) => return Err(failure),
        }
        Ok(StopPodSandboxResponse {})
    }

    fn stop_sandbox(&self, sandbox: &Arc<Sandbox>) -> Result<()> {
        let _turn = locked(&sandbox.turn);
        if locked(&sandbox.record).stopped {
            return Ok(());
        }
        if let Some(living) = sandbox.living() {
            let containers = locked(&self.table).containers_of(&sandbox.id);
            for container in containers.iter().filter(|container| !container.has_ended()) {
                let exit = kill_and_wait(&living, &container.id)?;
                self.container_ended(&container.id, exit);
            }
            // Taken first: that it ends now is no accident.
            locked(&sandbox.living).take();
            living.shutdown()?;
        }
        self.give_back(&sandbox.id)?;
        sandbox.change(|record| {
            record.stopped = true;
            record.ip.clear();
        })?;
        self.tell(ContainerEventType::Stopped, sandbox, &sandbox.id);
        Ok(())
    }

    pub(crate) fn remove_pod_sandbox(
        &self,
        request: RemovePodSandboxRequest,
    ) -> Result<RemovePodSandboxResponse> {
        match self.remove_sandbox(&request.pod_sandbox_id) {
            Err(failure) if failure.code != Code::NotFound => Err(failure),
            _ => Ok(RemovePodSandboxResponse {}),
        }
    }

    pub(crate) fn remove_sandbox(&self, id: &str) -> Result<()> {
        let sandbox = locked(&self.table).sandbox(id)?;
        self.stop_sandbox(&sandbox)?;
        let containers = locked(&self.table).containers_of(&sandbox.id);
        for container in containers {
            self.remove(&container)?;
        }
        let _turn = locked(&sandbox.turn);
        // The record first: what is left of the folder then is half made, and goes at the next start.
        let record = sandbox.folder.join("sandbox.pb");
        match fs::remove_file(&record) {
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(Failure::internal(error)),
            _ => remove(&sandbox.folder)?,
        }
        {
            let mut table = locked(&self.table);
            table.sandboxes.remove(&sandbox.id);
            table.release(&sandbox.id);
        }
        self.tell(ContainerEventType::Deleted, &sandbox, &sandbox.id);
        Ok(())
    }

    pub(crate) fn pod_sandbox_status(
        &self,
        request: PodSandboxStatusRequest,
    ) -> Result<PodSandboxStatusResponse> {
        let sandbox = locked(&self.table).sandbox(&request.pod_sandbox_id)?;
        let containers = locked(&self.table).containers_of(&sandbox.id);
        let mut info = BTreeMap::new();
        if request.verbose {
            let record = sandbox.record();
            let pid = sandbox.living().map(|living| living.pid());
            let facts = json!({ "pid": pid, "cgroup": record.cgroup, "folder": sandbox.folder });
            info.insert("info".to_owned(), facts.to_string());
        }
        Ok(PodSandboxStatusResponse {
            status: Some(describe::sandbox_status(&sandbox)),
            info,
            containers_statuses: containers.iter().map(|one| describe::container_status(one)).collect(),
            timestamp: now(),
        })
    }

    pub(crate) fn list_pod_sandbox(&self, request: ListPodSandboxRequest) -> Result<ListPodSandboxResponse> {
        let filter = request.filter.unwrap_or_default();
        Ok(ListPodSandboxResponse { items: describe::sandboxes(&locked(&self.table), &filter) })
    }

    pub(crate) fn update_pod_sandbox_resources(
        &self,
        request: UpdatePodSandboxResourcesRequest,
    ) -> Result<UpdatePodSandboxResourcesResponse> {
        let sandbox = locked(&self.table).sandbox(&request.pod_sandbox_id)?;
        sandbox.ready()?;
        let record = sandbox.record();
        // A cgroup of the kubelet's is the kubelet's to limit: this tells of it.
        if let (true, Some(asked)) = (record.own_cgroup, &request.resources) {
            let limits = resources::limits(asked, host::limits_huge_pages())?;
            wharf_runtime::Cgroup::at(&record.cgroup)?.update(&limits)?;
        }
        sandbox.change(|record| {
            let linux = record.config.get_or_insert_default().linux.get_or_insert_default();
            linux.resources = request.resources.or(linux.resources.take());
            linux.overhead = request.overhead.or(linux.overhead.take());
        })?;
        Ok(UpdatePodSandboxResourcesResponse {})
    }
}

/// The name a pod's programs see.
pub(crate) fn hostname(config: &PodSandboxConfig) -> String {
    let machine = || rustix::system::uname().nodename().to_string_lossy().into_owned();
    let on_machine = describe::namespaces(config).network() == NamespaceMode::Node;
    if config.hostname.is_empty() || on_machine { machine() } else { config.hostname.clone() }
}

/// Where the memory containers of a pod share by name is.
pub(crate) fn shm(folder: &Path, config: &PodSandboxConfig) -> PathBuf {
    match describe::namespaces(config).ipc() {
        NamespaceMode::Node => PathBuf::from("/dev/shm"),
        _ => folder.join("shm"),
    }
}

fn write_files(
    folder: &Path,
    config: &PodSandboxConfig,
    ip: Option<IpAddr>,
    shares: &Shares,
) -> io::Result<()> {
    let of_machine = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let hosts = match shares.host_network {
        true => of_machine("/etc/hosts"),
        false => etc::hosts(&config.hostname, ip),
    };
    let resolver = etc::resolver(config.dns_config.as_ref(), &of_machine("/etc/resolv.conf"));
    fs::create_dir(folder.join("etc"))?;
    for (name, text) in [("hosts", hosts), ("hostname", hostname(config) + "\n"), ("resolv.conf", resolver)] {
        fs::write(folder.join("etc").join(name), text)?;
    }
    if !shares.host_ipc {
        let shm = folder.join("shm");
        fs::create_dir(&shm)?;
        let options = std::ffi::CString::new(SHM)?;
        mount(
            "shm",
            &shm,
            "tmpfs",
            MountFlags::NOSUID | MountFlags::NODEV | MountFlags::NOEXEC,
            options.as_c_str(),
        )?;
    }
    Ok(())
}

/// Starts the process that holds the process ids of a pod.
fn start_pause(living: &Living, folder: &Path, cgroup: &str) -> Result<()> {
    let root = folder.join("pause");
    let place = root.join(pause::PATH.trim_start_matches('/'));
    fs::create_dir(&root)
        .and_then(|()| fs::write(&place, pause::program()))
        .and_then(|()| fs::set_permissions(&place, fs::Permissions::from_mode(0o755)))
        .and_then(|()| fs::set_permissions(&root, fs::Permissions::from_mode(0o755)))
        .map_err(Failure::internal)?;
    let options = SpecOptions {
        args: vec![pause::PATH.to_owned()],
        readonly_root: true,
        drop_capabilities: vec!["ALL".to_owned()],
        no_new_privileges: true,
        user: (65_535, 65_535),
        cgroup: cgroup.to_owned(),
        oom_score_adj: Some(-998),
        ..SpecOptions::default()
    };
    living.create_container(&ContainerConfig {
        name: PAUSE.to_owned(),
        spec: options.build()?,
        root: RootFs { lower: vec![root], volatile: true },
        user: None,
        groups: Vec::new(),
        seccomp: Seccomp::Default,
        stdin: Stdin::Null,
        log: None,
        labels: BTreeMap::new(),
    })?;
    Ok(living.start(PAUSE)?)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::{DNSConfig, LinuxPodSandboxConfig, LinuxSandboxSecurityContext, PortMapping as Asked};

    fn config(options: NamespaceOption, sysctl: &str) -> PodSandboxConfig {
        let linux = LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext {
                namespace_options: Some(options),
                ..Default::default()
            }),
            sysctls: if sysctl.is_empty() {
                BTreeMap::new()
            } else {
                [(sysctl.to_owned(), "1".to_owned())].into()
            },
            ..Default::default()
        };
        PodSandboxConfig { linux: Some(linux), ..Default::default() }
    }

    #[test]
    fn what_is_not_the_pods_is_refused() {
        let mode = |network: NamespaceMode, ipc: NamespaceMode| NamespaceOption {
            network: network as i32,
            ipc: ipc as i32,
            ..Default::default()
        };
        use NamespaceMode::{Container, Node, Pod};
        for (options, sysctl, good) in [
            (mode(Pod, Pod), "net.ipv4.ip_forward", true),
            (mode(Pod, Pod), "kernel.shm_rmid_forced", true),
            (mode(Node, Pod), "net.ipv4.ip_forward", false),
            (mode(Pod, Node), "kernel.shm_rmid_forced", false),
            (mode(Pod, Pod), "kernel.hostname", false),
            (mode(Pod, Pod), "vm/swappiness", false),
            (mode(Container, Pod), "", false),
        ] {
            assert_eq!(check(&config(options, sysctl)).is_ok(), good, "{sysctl}");
        }
        let users = |options: NamespaceOption, host_id, length, mode: NamespaceMode| {
            let range = || vec![crate::v1::IDMapping { host_id, container_id: 0, length }];
            let own = crate::v1::UserNamespace { mode: mode as i32, uids: range(), gids: range() };
            NamespaceOption { userns_options: Some(own), ..options }
        };
        for (options, good) in [
            (users(mode(Pod, Pod), 65_536, 65_536, Pod), true),
            (users(mode(Node, Pod), 65_536, 65_536, Pod), false),
            (users(mode(Pod, Node), 65_536, 65_536, Pod), false),
            (users(mode(Pod, Pod), 65_536, 65_536, Node), false),
            (users(mode(Pod, Pod), 65_536, 65_536, Container), false),
            (users(mode(Pod, Pod), u32::MAX, 2, Pod), false),
            (users(mode(Pod, Pod), 65_536, 0, Pod), false),
        ] {
            assert_eq!(check(&config(options.clone(), "")).is_ok(), good, "{options:?}");
        }
        let dns = DNSConfig { searches: vec!["a\nnameserver 6.6.6.6".to_owned()], ..Default::default() };
        assert!(check(&PodSandboxConfig { dns_config: Some(dns), ..Default::default() }).is_err());
    }

    #[test]
    fn ports_of_the_machine() {
        let asked = |container_port, host_port, host_ip: &str| PodSandboxConfig {
            port_mappings: vec![Asked {
                container_port,
                host_port,
                host_ip: host_ip.to_owned(),
                protocol: 1,
            }],
            ..Default::default()
        };
        let ip = Ipv4Addr::new(10, 0, 0, 2);
        let made = ports(&asked(80, 8080, ""), ip).unwrap();
        assert_eq!(
            (made[0].host_port, made[0].container_port, made[0].protocol),
            (8080, 80, HostProtocol::Udp)
        );
        assert!(ports(&asked(80, 0, ""), ip).unwrap().is_empty());
        for bad in [asked(0, 80, ""), asked(80, 65_536, ""), asked(80, -1, ""), asked(80, 80, "::1")] {
            assert!(ports(&bad, ip).is_err());
        }
    }
}
