//! The container runtime interface, as a kubelet uses it: sandboxes, containers, logs, commands, and what is left of them.

#![allow(clippy::unwrap_used)] // a test

mod support;

use std::{
    collections::BTreeMap,
    fs,
    io::{Read as _, Write as _},
    net::TcpStream,
    path::{Path, PathBuf},
    process::Command,
};

use support::{
    IMAGE, Platform,
    cri::{Cri, DEADLINE, EXISTS, Failed, INVALID, NOT_FOUND, STATE, UNIMPLEMENTED, remote_command},
    output_of, until,
};
use wharf_criapi::v1::*;

/// A file system in memory, as long as this value lives.
struct Mounted(PathBuf);

impl Mounted {
    fn tmpfs(place: PathBuf) -> Self {
        output_of(Command::new("mount").args(["-t", "tmpfs", "none"]).arg(&place));
        Self(place)
    }
}

impl Drop for Mounted {
    fn drop(&mut self) {
        let _ = Command::new("umount").arg("-l").arg(&self.0).status();
    }
}

/// A sandbox as a kubelet asks for it.
fn pod(name: &str, logs: &Path) -> PodSandboxConfig {
    PodSandboxConfig {
        metadata: Some(PodSandboxMetadata {
            name: name.to_owned(),
            uid: format!("{name}-uid"),
            namespace: "default".to_owned(),
            attempt: 0,
        }),
        hostname: name.to_owned(),
        log_directory: logs.to_str().unwrap().to_owned(),
        dns_config: Some(DNSConfig { servers: vec!["192.0.2.53".to_owned()], ..Default::default() }),
        labels: [("app".to_owned(), name.to_owned())].into(),
        linux: Some(LinuxPodSandboxConfig {
            security_context: Some(LinuxSandboxSecurityContext::default()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A container that runs a script.
fn container(name: &str, script: &str) -> ContainerConfig {
    ContainerConfig {
        metadata: Some(ContainerMetadata { name: name.to_owned(), attempt: 0 }),
        image: Some(ImageSpec { image: IMAGE.to_owned(), ..Default::default() }),
        command: ["sh", "-c", script].map(str::to_owned).to_vec(),
        log_path: format!("{name}/0.log"),
        linux: Some(LinuxContainerConfig {
            security_context: Some(LinuxContainerSecurityContext::default()),
            ..Default::default()
        }),
        ..Default::default()
    }
}

/// A script that runs until it is asked to end.
const WAIT: &str = "trap 'exit 0' TERM; while :; do busybox sleep 0.1; done";

struct Kubelet {
    cri: Cri,
}

impl Kubelet {
    fn of(platform: &Platform) -> Self {
        Self { cri: Cri::of(platform.data()) }
    }

    fn run(&self, config: &PodSandboxConfig) -> Result<String, Failed> {
        let request = RunPodSandboxRequest { config: Some(config.clone()), runtime_handler: String::new() };
        let answer = self.cri.call::<RunPodSandboxResponse>("RuntimeService/RunPodSandbox", request)?;
        Ok(answer.pod_sandbox_id)
    }

    fn create(
        &self,
        sandbox: &str,
        pod: &PodSandboxConfig,
        config: ContainerConfig,
    ) -> Result<String, Failed> {
        let request = CreateContainerRequest {
            pod_sandbox_id: sandbox.to_owned(),
            config: Some(config),
            sandbox_config: Some(pod.clone()),
        };
        let answer = self.cri.call::<CreateContainerResponse>("RuntimeService/CreateContainer", request)?;
        Ok(answer.container_id)
    }

    fn start(&self, id: &str) -> Result<StartContainerResponse, Failed> {
        let request = StartContainerRequest { container_id: id.to_owned() };
        self.cri.call("RuntimeService/StartContainer", request)
    }

    /// Creates and starts.
    fn begin(&self, sandbox: &str, pod: &PodSandboxConfig, config: ContainerConfig) -> String {
        let id = self.create(sandbox, pod, config).unwrap();
        self.start(&id).unwrap();
        id
    }

    fn stop(&self, id: &str, timeout: i64) -> Result<StopContainerResponse, Failed> {
        self.cri.call(
            "RuntimeService/StopContainer",
            StopContainerRequest { container_id: id.to_owned(), timeout },
        )
    }

    fn remove(&self, id: &str) -> Result<RemoveContainerResponse, Failed> {
        self.cri
            .call("RuntimeService/RemoveContainer", RemoveContainerRequest { container_id: id.to_owned() })
    }

    fn status(&self, id: &str) -> Result<ContainerStatus, Failed> {
        let request = ContainerStatusRequest { container_id: id.to_owned(), verbose: false };
        let answer = self.cri.call::<ContainerStatusResponse>("RuntimeService/ContainerStatus", request)?;
        Ok(answer.status.unwrap())
    }

    fn exec(&self, id: &str, script: &str, timeout: i64) -> Result<ExecSyncResponse, Failed> {
        let cmd = ["sh", "-c", script].map(str::to_owned).to_vec();
        self.cri
            .call("RuntimeService/ExecSync", ExecSyncRequest { container_id: id.to_owned(), cmd, timeout })
    }

    /// What a script says that must end well.
    fn said(&self, id: &str, script: &str) -> String {
        let answer = self.exec(id, script, 30).unwrap();
        assert_eq!(answer.exit_code, 0, "{script}: {}", String::from_utf8_lossy(&answer.stderr));
        String::from_utf8(answer.stdout).unwrap().trim().to_owned()
    }

    fn sandbox(&self, id: &str) -> Result<PodSandboxStatus, Failed> {
        let request = PodSandboxStatusRequest { pod_sandbox_id: id.to_owned(), verbose: false };
        let answer = self.cri.call::<PodSandboxStatusResponse>("RuntimeService/PodSandboxStatus", request)?;
        Ok(answer.status.unwrap())
    }

    fn stop_sandbox(&self, id: &str) -> Result<StopPodSandboxResponse, Failed> {
        let request = StopPodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.cri.call("RuntimeService/StopPodSandbox", request)
    }

    fn remove_sandbox(&self, id: &str) -> Result<RemovePodSandboxResponse, Failed> {
        let request = RemovePodSandboxRequest { pod_sandbox_id: id.to_owned() };
        self.cri.call("RuntimeService/RemovePodSandbox", request)
    }

    fn containers(&self, filter: ContainerFilter) -> Vec<Container> {
        let request = ListContainersRequest { filter: Some(filter) };
        self.cri.call::<ListContainersResponse>("RuntimeService/ListContainers", request).unwrap().containers
    }

    fn sandboxes(&self) -> Vec<PodSandbox> {
        let request = ListPodSandboxRequest { filter: None };
        self.cri.call::<ListPodSandboxResponse>("RuntimeService/ListPodSandbox", request).unwrap().items
    }

    fn ended(&self, id: &str) -> ContainerStatus {
        until("the container ends", || {
            let status = self.status(id).unwrap();
            if status.state() == ContainerState::Exited {
                Ok(status)
            } else {
                Err(format!("{:?}", status.state()))
            }
        })
    }
}

fn code<T: std::fmt::Debug>(result: Result<T, Failed>) -> u16 {
    result.unwrap_err().code
}

/// The lines of a log in CRI's form, without their times.
fn log(path: &Path) -> Vec<String> {
    let text = fs::read_to_string(path).unwrap_or_default();
    text.lines().map(|line| line.split_once(' ').unwrap().1.to_owned()).collect()
}

/// Cgroups, links and mounts that have the id of a sandbox or container in their names.
fn traces_of(platform: &Platform, id: &str) -> Vec<String> {
    let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
    let mut found: Vec<String> = mounts.lines().filter(|line| line.contains(id)).map(str::to_owned).collect();
    found.extend(
        output_of(Command::new("find").args(["/sys/fs/cgroup", "-name", id])).lines().map(str::to_owned),
    );
    found.extend(platform.data().join("cri").join(id).exists().then(|| "its folder".to_owned()));
    found
}

#[test]
fn a_pod_lives_and_leaves_nothing() {
    let platform = Platform::start();
    let kubelet = Kubelet::of(&platform);
    let logs = tempfile::tempdir().unwrap();
    tells_what_it_is(&kubelet);

    let config = pod("web", logs.path());
    let sandbox = kubelet.run(&config).unwrap();
    assert_eq!(code(kubelet.run(&config)), EXISTS);
    let status = kubelet.sandbox(&sandbox).unwrap();
    assert_eq!(status.state(), PodSandboxState::Ready);
    let ip = status.network.unwrap().ip;
    assert!(platform.traces().pod_links().len() == 1, "no link");

    let main = kubelet
        .create(&sandbox, &config, container("main", &format!("echo begun; echo bad >&2; {WAIT}")))
        .unwrap();
    assert_eq!(kubelet.status(&main).unwrap().state(), ContainerState::Created);
    assert_eq!(code(kubelet.exec(&main, "true", 5)), STATE);
    kubelet.start(&main).unwrap();
    assert_eq!(code(kubelet.start(&main)), STATE);
    let status = kubelet.status(&main).unwrap();
    assert_eq!((status.state(), status.image.unwrap().image.as_str()), (ContainerState::Running, IMAGE));
    assert!(
        status.image_id.starts_with("sha256:")
            && status.created_at > 0
            && status.started_at >= status.created_at
    );

    // Containers of `wharf run`, and what takes back what they had, leave pods alone.
    output_of(platform.wharf().args(["run", "--rm", IMAGE, "true"]));
    assert!(kubelet.said(&main, "cat /proc/net/dev").contains("eth0"));

    // What the pod was told of itself.
    let hosts = kubelet.said(&main, "hostname; cat /etc/resolv.conf /etc/hosts");
    for part in ["web", "nameserver 192.0.2.53", &ip] {
        assert!(hosts.contains(part), "{part} is not in {hosts}");
    }
    commands(&kubelet, &main);
    shared_pids_and_memory(&kubelet, &sandbox, &config, &main);
    logs_go_on_in_a_new_file(&kubelet, &main, &logs.path().join("main/0.log"));
    streams(&kubelet, &main);
    limits_and_use(&kubelet, &main, &sandbox);

    // An end that is asked for.
    kubelet.stop(&main, 60).unwrap();
    let status = kubelet.status(&main).unwrap();
    assert_eq!(
        (status.state(), status.exit_code, status.reason.as_str()),
        (ContainerState::Exited, 0, "Completed")
    );
    assert!(status.finished_at >= status.started_at);
    kubelet.stop(&main, 60).unwrap();
    kubelet.remove(&main).unwrap();
    kubelet.remove(&main).unwrap();
    kubelet.stop(&main, 0).unwrap();
    assert_eq!(code(kubelet.status(&main)), NOT_FOUND);

    // One that is not, and one that is ended with its pod.
    let failing = kubelet.begin(&sandbox, &config, container("failing", "exit 7"));
    let status = kubelet.ended(&failing);
    assert_eq!((status.exit_code, status.reason.as_str()), (7, "Error"));
    let stubborn = kubelet.begin(
        &sandbox,
        &config,
        container("stubborn", "trap '' TERM; while :; do busybox sleep 0.1; done"),
    );
    kubelet.stop_sandbox(&sandbox).unwrap();
    kubelet.stop_sandbox(&sandbox).unwrap();
    assert_eq!(kubelet.sandbox(&sandbox).unwrap().state(), PodSandboxState::Notready);
    assert_eq!(kubelet.status(&stubborn).unwrap().exit_code, 137);
    assert_eq!(code(kubelet.create(&sandbox, &config, container("late", "true"))), STATE);
    assert!(platform.traces().pod_links().is_empty());
    kubelet.remove_sandbox(&sandbox).unwrap();
    kubelet.remove_sandbox(&sandbox).unwrap();
    kubelet.stop_sandbox(&sandbox).unwrap();
    assert!(kubelet.sandboxes().is_empty() && kubelet.containers(ContainerFilter::default()).is_empty());
    for id in [&sandbox, &main, &failing, &stubborn] {
        assert_eq!(traces_of(&platform, id), [""; 0]);
    }
    what_is_asked_for_is_given_or_refused(&kubelet, &platform, logs.path());
    users_of_its_own(&kubelet, &platform, logs.path());
    layers_that_come_again(&kubelet, &platform, logs.path());
    events(&platform, &kubelet, logs.path());
    platform.drain();
}

/// An image may have the same layer twice, and more layers than fit into the text of one option.
fn layers_that_come_again(kubelet: &Kubelet, platform: &Platform, logs: &Path) {
    let context = tempfile::tempdir().unwrap();
    for name in ["same", "other", "third"] {
        fs::write(context.path().join(name), name).unwrap();
    }
    let steps = "COPY same /same\nCOPY other /other\nCOPY third /third\nRUN rm /same\nCOPY same /same\nRUN cat /same /other";
    fs::write(context.path().join("Dockerfile"), format!("FROM {IMAGE}\n{steps}\n")).unwrap();
    output_of(platform.wharf().args(["build", "-q", "-t", "again"]).arg(context.path()));
    let said = output_of(platform.wharf().args(["run", "--rm", "again", "cat", "/same", "/other", "/third"]));
    assert_eq!(said, "sameotherthird");
    let config = pod("again", logs);
    let sandbox = kubelet.run(&config).unwrap();
    let image = Some(ImageSpec { image: "again".to_owned(), ..Default::default() });
    let mut wanted = ContainerConfig { image: image.clone(), ..container("main", WAIT) };
    wanted.mounts =
        vec![Mount { container_path: "/image".to_owned(), image, readonly: true, ..Default::default() }];
    let main = kubelet.begin(&sandbox, &config, wanted);
    assert_eq!(kubelet.said(&main, "cat /same /image/same /image/other"), "samesameother");
    kubelet.remove_sandbox(&sandbox).unwrap();
}

/// A pod whose root is nobody on the machine (Kubernetes' `hostUsers: false`).
fn users_of_its_own(kubelet: &Kubelet, platform: &Platform, logs: &Path) {
    const FIRST: u32 = 1_000_000;
    let range = || vec![IDMapping { host_id: FIRST, container_id: 0, length: 65_536 }];
    let users = UserNamespace { mode: NamespaceMode::Pod as i32, uids: range(), gids: range() };
    let options = NamespaceOption { userns_options: Some(users), ..Default::default() };
    let mut config = pod("mapped", logs);
    let linux = config.linux.as_mut().unwrap();
    linux.security_context.as_mut().unwrap().namespace_options = Some(options.clone());
    linux.sysctls.insert("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned());
    let sandbox = kubelet.run(&config).unwrap();
    let volume = tempfile::tempdir().unwrap();
    let mut wanted = container("main", &format!("echo mine > /own; echo mine > /volume/file; {WAIT}"));
    wanted.mounts.push(Mount {
        container_path: "/volume".to_owned(),
        host_path: volume.path().to_str().unwrap().to_owned(),
        uid_mappings: range(),
        gid_mappings: range(),
        ..Default::default()
    });
    // Neither may a container be somebody of the machine.
    assert_eq!(code(kubelet.create(&sandbox, &config, wanted.clone())), INVALID);
    let security = wanted.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options = Some(options);
    let main = kubelet.begin(&sandbox, &config, wanted);
    let owner = |path: &Path| std::os::unix::fs::MetadataExt::uid(&fs::metadata(path).unwrap());
    let file = volume.path().join("file");
    until("the volume has the file", || if file.exists() { Ok(()) } else { Err("no file".to_owned()) });
    assert_eq!(owner(&file), 0);
    let said =
        kubelet.said(&main, "id -u; cat /proc/self/uid_map /proc/sys/net/ipv4/ip_unprivileged_port_start");
    assert_eq!(said.split_whitespace().collect::<Vec<_>>(), ["0", "0", "1000000", "65536", "80"]);
    // Its layers are root's there, and everything on the machine is somebody else's.
    assert_eq!(kubelet.said(&main, "busybox stat -c %u /bin/sh /own /volume/file"), "0\n0\n0");
    let facts = kubelet.cri.call::<ContainerStatusResponse>(
        "RuntimeService/ContainerStatus",
        ContainerStatusRequest { container_id: main.clone(), verbose: true },
    );
    let facts: serde_json::Value = serde_json::from_str(&facts.unwrap().info["info"]).unwrap();
    assert_eq!(owner(Path::new(&format!("/proc/{}", facts["pid"]))), FIRST);
    assert!(kubelet.said(&main, "cat /proc/net/dev; ls /sys/class/net").contains("eth0"));
    assert!(kubelet.said(&main, "cat /proc/1/cmdline; echo > /dev/shm/note").contains("pause"));
    kubelet.stop(&main, 60).unwrap();
    assert_eq!(kubelet.status(&main).unwrap().exit_code, 0);
    kubelet.remove_sandbox(&sandbox).unwrap();
    for id in [&sandbox, &main] {
        assert_eq!(traces_of(platform, id), [""; 0]);
    }
}

/// A listener hears of a pod from its beginning to its end.
fn events(platform: &Platform, kubelet: &Kubelet, logs: &Path) {
    let listener = Cri::of(platform.data());
    let config = pod("heard", logs);
    std::thread::scope(|scope| {
        let heard = scope.spawn(move || {
            listener.messages::<ContainerEventResponse>(
                "RuntimeService/GetContainerEvents",
                GetEventsRequest {},
                4,
            )
        });
        // The listener may not listen yet when the first of these are made.
        let mut sandboxes = 0;
        while !heard.is_finished() {
            let mut config = config.clone();
            config.metadata.as_mut().unwrap().attempt = sandboxes;
            let id = kubelet.run(&config).unwrap();
            kubelet.remove_sandbox(&id).unwrap();
            sandboxes += 1;
        }
        let mut kinds: Vec<ContainerEventType> =
            heard.join().unwrap().unwrap().iter().map(|event| event.container_event_type()).collect();
        kinds.sort();
        kinds.dedup();
        let all = [
            ContainerEventType::Created,
            ContainerEventType::Started,
            ContainerEventType::Stopped,
            ContainerEventType::Deleted,
        ];
        assert_eq!(kinds, all);
    });
}

fn tells_what_it_is(kubelet: &Kubelet) {
    let version =
        kubelet.cri.call::<VersionResponse>("RuntimeService/Version", VersionRequest::default()).unwrap();
    assert_eq!((version.runtime_name.as_str(), version.runtime_api_version.as_str()), ("wharf", "v1"));
    let status =
        kubelet.cri.call::<StatusResponse>("RuntimeService/Status", StatusRequest::default()).unwrap();
    assert!(status.status.unwrap().conditions.iter().all(|condition| condition.status));
    let config =
        kubelet.cri.call::<RuntimeConfigResponse>("RuntimeService/RuntimeConfig", RuntimeConfigRequest {});
    assert_eq!(config.unwrap().linux.unwrap().cgroup_driver(), CgroupDriver::Cgroupfs);
    let unknown = kubelet.cri.call::<VersionResponse>("RuntimeService/Dance", VersionRequest::default());
    assert_eq!(code(unknown), UNIMPLEMENTED);
    assert_eq!(code(kubelet.status("none")), NOT_FOUND);
    let images =
        kubelet.cri.call::<ListImagesResponse>("ImageService/ListImages", ListImagesRequest::default());
    let image = images.unwrap().images.remove(0);
    assert!(image.repo_tags[0].contains(IMAGE) && image.size > 0);
    let spec = |image: &str| Some(ImageSpec { image: image.to_owned(), ..Default::default() });
    for (name, there) in [(IMAGE, true), (image.id.as_str(), true), ("nothing/here", false)] {
        let request = ImageStatusRequest { image: spec(name), verbose: false };
        let answer = kubelet.cri.call::<ImageStatusResponse>("ImageService/ImageStatus", request).unwrap();
        assert_eq!(answer.image.is_some_and(|found| found.id == image.id), there, "{name}");
    }
    let pull = PullImageRequest { image: spec(IMAGE), ..Default::default() };
    let pulled = kubelet.cri.call::<PullImageResponse>("ImageService/PullImage", pull).unwrap();
    assert_eq!(pulled.image_ref, image.id);
}

fn commands(kubelet: &Kubelet, id: &str) {
    let answer = kubelet.exec(id, "echo out; echo err >&2; exit 3", 30).unwrap();
    assert_eq!((answer.stdout, answer.stderr, answer.exit_code), (b"out\n".to_vec(), b"err\n".to_vec(), 3));
    // More than a pipe holds.
    let long = kubelet.exec(id, "busybox dd if=/dev/zero bs=1024 count=300 2>/dev/null", 60).unwrap();
    assert_eq!(long.stdout.len(), 300 << 10);
    assert_eq!(code(kubelet.exec(id, "busybox sleep 1000", 1)), DEADLINE);
}

fn shared_pids_and_memory(kubelet: &Kubelet, sandbox: &str, config: &PodSandboxConfig, main: &str) {
    let other =
        kubelet.begin(sandbox, config, container("other", &format!("echo hi > /dev/shm/note; {WAIT}")));
    until("the shared memory has the note", || {
        match kubelet.exec(main, "cat /dev/shm/note", 30).unwrap().stdout.as_slice() {
            b"hi\n" => Ok(()),
            said => Err(format!("{said:?}")),
        }
    });
    // The first process of the pod is none of its containers'.
    assert!(kubelet.said(main, "cat /proc/1/cmdline").contains("/pause"));
    let mut own = container("own", WAIT);
    let security = own.linux.as_mut().unwrap().security_context.as_mut().unwrap();
    security.namespace_options =
        Some(NamespaceOption { pid: NamespaceMode::Container as i32, ..Default::default() });
    let own = kubelet.begin(sandbox, config, own);
    assert!(kubelet.said(&own, "cat /proc/1/cmdline").contains("sleep"));
    let running = ContainerFilter {
        state: Some(ContainerStateValue { state: ContainerState::Running as i32 }),
        pod_sandbox_id: sandbox.to_owned(),
        ..Default::default()
    };
    assert_eq!(kubelet.containers(running).len(), 3);
    kubelet.remove(&other).unwrap();
    kubelet.remove(&own).unwrap();
}

fn logs_go_on_in_a_new_file(kubelet: &Kubelet, id: &str, path: &Path) {
    until("the log has both lines", || match log(path).len() {
        2 => Ok(()),
        lines => Err(format!("{lines} lines")),
    });
    let mut lines = log(path);
    lines.sort();
    assert_eq!(lines, ["stderr F bad", "stdout F begun"]);
    let old = path.with_extension("log.1");
    fs::rename(path, &old).unwrap();
    let request = ReopenContainerLogRequest { container_id: id.to_owned() };
    kubelet.cri.call::<ReopenContainerLogResponse>("RuntimeService/ReopenContainerLog", request).unwrap();
    // The first process of the container writes where its output goes.
    kubelet.said(id, "for p in /proc/[0-9]*; do tr '\\0' ' ' < $p/cmdline | grep -q 'echo begun' && echo more > $p/fd/1; done; true");
    until("the new file has the new line", || match log(path) {
        lines if lines.first().is_some_and(|line| line == "stdout F more") => Ok(()),
        lines => Err(format!("{lines:?}")),
    });
    assert_eq!(log(&old).len(), 2);
}

fn streams(kubelet: &Kubelet, id: &str) {
    let exec = |script: &str, stdin: bool| {
        let request = ExecRequest {
            container_id: id.to_owned(),
            cmd: ["sh", "-c", script].map(str::to_owned).to_vec(),
            stdin,
            stdout: true,
            stderr: true,
            ..Default::default()
        };
        kubelet.cri.call::<ExecResponse>("RuntimeService/Exec", request).unwrap().url
    };
    let url = exec("read word; echo got $word; echo no >&2; exit 4", true);
    let said = remote_command(&url, "this\n");
    assert_eq!((said.stdout.as_str(), said.stderr.as_str()), ("got this\n", "no\n"));
    assert!(said.status.contains("NonZeroExitCode") && said.status.contains("\"4\""), "{}", said.status);
    // An address is good once.
    let (host, path) = url.strip_prefix("http://").unwrap().split_once('/').unwrap();
    assert!(host.starts_with("127.0.0.1:"), "{host}");
    let mut again = TcpStream::connect(host).unwrap();
    let ask = format!(
        "GET /{path} HTTP/1.1\r\nHost: x\r\nConnection: Upgrade\r\nUpgrade: websocket\r\nSec-WebSocket-Version: 13\r\n\
        Sec-WebSocket-Key: dGhlIHNhbXBsZSBub25jZQ==\r\nSec-WebSocket-Protocol: v5.channel.k8s.io\r\n\r\n"
    );
    again.write_all(ask.as_bytes()).unwrap();
    let mut head = [0; 12];
    again.read_exact(&mut head).unwrap();
    assert_eq!(&head, b"HTTP/1.1 404");
}

fn limits_and_use(kubelet: &Kubelet, id: &str, sandbox: &str) {
    let linux =
        LinuxContainerResources { memory_limit_in_bytes: 64 << 20, cpu_shares: 512, ..Default::default() };
    let request = UpdateContainerResourcesRequest {
        container_id: id.to_owned(),
        linux: Some(linux),
        annotations: BTreeMap::new(),
    };
    kubelet
        .cri
        .call::<UpdateContainerResourcesResponse>("RuntimeService/UpdateContainerResources", request)
        .unwrap();
    let told = kubelet.status(id).unwrap().resources.unwrap().linux.unwrap();
    assert_eq!((told.memory_limit_in_bytes, told.cpu_shares), (64 << 20, 512));
    let request = ContainerStatsRequest { container_id: id.to_owned() };
    let stats = kubelet
        .cri
        .call::<ContainerStatsResponse>("RuntimeService/ContainerStats", request)
        .unwrap()
        .stats
        .unwrap();
    let memory = stats.memory.unwrap();
    let used = memory.working_set_bytes.unwrap().value;
    assert!(used > 0 && memory.available_bytes.unwrap().value == (64 << 20) - used, "the limit holds");
    assert!(stats.cpu.unwrap().usage_core_nano_seconds.unwrap().value > 0);
    assert!(stats.writable_layer.unwrap().inodes_used.unwrap().value > 0);
    let request = PodSandboxStatsRequest { pod_sandbox_id: sandbox.to_owned() };
    let stats = kubelet
        .cri
        .call::<PodSandboxStatsResponse>("RuntimeService/PodSandboxStats", request)
        .unwrap()
        .stats
        .unwrap();
    let linux = stats.linux.unwrap();
    assert_eq!(linux.network.unwrap().default_interface.unwrap().name, "eth0");
    assert_eq!(linux.containers.len(), 1);
}

fn what_is_asked_for_is_given_or_refused(kubelet: &Kubelet, platform: &Platform, logs: &Path) {
    let mut config = pod("secured", logs);
    let port = std::net::TcpListener::bind("127.0.0.1:0").unwrap().local_addr().unwrap().port();
    config.port_mappings =
        vec![PortMapping { container_port: 8080, host_port: i32::from(port), ..Default::default() }];
    config.linux.as_mut().unwrap().sysctls =
        [("net.ipv4.ip_unprivileged_port_start".to_owned(), "80".to_owned())].into();
    let sandbox = kubelet.run(&config).unwrap();
    let shared = tempfile::tempdir().unwrap();
    let mut wanted = container("main", "exec busybox httpd -f -p 8080 -h /etc");
    wanted.envs = vec![KeyValue { key: "WORD".to_owned(), value: b"said".to_vec() }];
    let deep = shared.path().join("deep");
    fs::create_dir_all(deep.join("below")).unwrap();
    let _mounted = Mounted::tmpfs(deep.join("below"));
    let readonly = |container_path: &str, host_path: &Path, recursive_read_only| Mount {
        container_path: container_path.to_owned(),
        host_path: host_path.to_str().unwrap().to_owned(),
        readonly: true,
        recursive_read_only,
        ..Default::default()
    };
    wanted.mounts = vec![
        readonly("/given", &shared.path().join("made"), false),
        readonly("/flat", &deep, false),
        readonly("/deep", &deep, true),
    ];
    wanted.linux = Some(LinuxContainerConfig {
        resources: Some(LinuxContainerResources { memory_limit_in_bytes: 100 << 20, ..Default::default() }),
        security_context: Some(LinuxContainerSecurityContext {
            run_as_user: Some(Int64Value { value: 1234 }),
            run_as_group: Some(Int64Value { value: 77 }),
            supplemental_groups: vec![88],
            readonly_rootfs: true,
            no_new_privs: true,
            masked_paths: vec!["/proc/cpuinfo".to_owned()],
            capabilities: Some(Capability {
                drop_capabilities: vec!["ALL".to_owned()],
                ..Default::default()
            }),
            seccomp: Some(SecurityProfile::default()),
            ..Default::default()
        }),
    });
    let id = kubelet.begin(&sandbox, &config, wanted.clone());
    let user = kubelet.status(&id).unwrap().user.unwrap().linux.unwrap();
    assert_eq!((user.uid, user.gid, user.supplemental_groups), (1234, 77, vec![77, 88]));
    let seen = kubelet.said(
        &id,
        "echo $WORD $(busybox id -u) $(busybox id -g) $(busybox id -G); grep -E 'CapEff|NoNewPrivs|Seccomp:' /proc/self/status | tr -s '\\t\\n' ' '; \
         touch /x 2>/dev/null || echo sealed; touch /given/x 2>/dev/null || echo given; \
         touch /flat/below/x && echo below; touch /deep/below/x 2>/dev/null || echo deep; cat /proc/cpuinfo | wc -c; \
         cat /proc/sys/net/ipv4/ip_unprivileged_port_start",
    );
    let expected = [
        "said 1234 77 77 88",
        "CapEff: 0000000000000000",
        "NoNewPrivs: 1",
        "Seccomp: 2",
        "sealed",
        "given\nbelow\ndeep\n",
        "\n0\n80",
    ];
    for part in expected {
        assert!(seen.contains(part), "{part:?} is not in {seen}");
    }
    assert!(shared.path().join("made").is_dir());
    until("the port of the machine leads to the container", || {
        let mut said = String::new();
        let mut stream = TcpStream::connect(("127.0.0.1", port)).map_err(|error| error.to_string())?;
        stream.write_all(b"GET /hostname HTTP/1.0\r\n\r\n").map_err(|error| error.to_string())?;
        stream.read_to_string(&mut said).map_err(|error| error.to_string())?;
        if said.ends_with("secured\n") { Ok(()) } else { Err(said) }
    });
    refused(kubelet, &sandbox, &config, &wanted);
    kubelet.remove_sandbox(&sandbox).unwrap();
    assert_eq!(platform.traces().rules_with(port), [""; 0]);
}

fn refused(kubelet: &Kubelet, sandbox: &str, config: &PodSandboxConfig, good: &ContainerConfig) {
    let named = |change: &dyn Fn(&mut ContainerConfig)| {
        let mut config = good.clone();
        config.metadata = Some(ContainerMetadata { name: "bad".to_owned(), attempt: 0 });
        change(&mut config);
        config
    };
    let security = |config: &mut ContainerConfig, change: &dyn Fn(&mut LinuxContainerSecurityContext)| {
        change(config.linux.as_mut().unwrap().security_context.as_mut().unwrap());
    };
    let bad: [(u16, &str, ContainerConfig); 6] = [
        (
            NOT_FOUND,
            "nothing/here",
            named(&|c| c.image = Some(ImageSpec { image: "nothing/here".to_owned(), ..Default::default() })),
        ),
        (
            INVALID,
            "selinux",
            named(&|c| {
                security(c, &|s| {
                    s.selinux_options = Some(SELinuxOption { level: "s0".to_owned(), ..Default::default() });
                })
            }),
        ),
        (INVALID, "privileged sandbox", named(&|c| security(c, &|s| s.privileged = true))),
        (INVALID, "run_as_group", named(&|c| security(c, &|s| s.run_as_user = None))),
        (
            INVALID,
            "/no/profile",
            named(&|c| {
                security(c, &|s| {
                    s.seccomp =
                        Some(SecurityProfile { profile_type: 2, localhost_ref: "/no/profile".to_owned() });
                })
            }),
        ),
        (INVALID, "CDI", named(&|c| c.cdi_devices = vec![CDIDevice { name: "x".to_owned() }])),
    ];
    for (expected, part, config_of) in bad {
        let failed = kubelet.create(sandbox, config, config_of).unwrap_err();
        assert!(
            failed.code == expected && failed.message.contains(part),
            "{failed:?}, not {expected} {part}"
        );
    }
    let mut pod = config.clone();
    pod.metadata.as_mut().unwrap().attempt = 1;
    pod.linux.as_mut().unwrap().sysctls = [("kernel.panic".to_owned(), "1".to_owned())].into();
    assert_eq!(code(kubelet.run(&pod)), INVALID);
    assert_eq!(kubelet.sandboxes().len(), 1);
}

#[test]
fn pods_survive_a_kill_of_the_platform() {
    let mut platform = Platform::start();
    let kubelet = Kubelet::of(&platform);
    let logs = tempfile::tempdir().unwrap();
    let config = pod("steady", logs.path());
    let sandbox = kubelet.run(&config).unwrap();
    let before = kubelet.sandbox(&sandbox).unwrap();
    let count = "i=0; while :; do i=$((i+1)); echo $i; busybox sleep 0.1; done";
    let counting = kubelet.begin(&sandbox, &config, container("counting", count));
    let brief = kubelet.begin(&sandbox, &config, container("brief", "read x < /dev/shm/go; exit 5"));
    let made = kubelet.create(&sandbox, &config, container("made", "exit 6")).unwrap();
    let begun = kubelet.status(&counting).unwrap();
    let path = logs.path().join("counting/0.log");
    platform.kill();
    // The log goes on without the platform.
    let lines = log(&path).len();
    until("the log goes on", || {
        if log(&path).len() > lines + 3 { Ok(()) } else { Err("standing still".to_owned()) }
    });
    platform.restart();
    let after = kubelet.sandbox(&sandbox).unwrap();
    assert_eq!(
        (after.state(), &after.network, after.created_at),
        (PodSandboxState::Ready, &before.network, before.created_at)
    );
    let again = kubelet.status(&counting).unwrap();
    assert_eq!((again.state(), again.started_at), (ContainerState::Running, begun.started_at));
    assert_eq!(kubelet.status(&made).unwrap().state(), ContainerState::Created);
    assert_eq!(code(kubelet.run(&config)), EXISTS);
    kubelet.start(&made).unwrap();
    assert_eq!(kubelet.ended(&made).exit_code, 6);
    // No number is missing, and none is there twice.
    let numbers: Vec<String> = log(&path);
    let expected: Vec<String> = (1..=numbers.len()).map(|number| format!("stdout F {number}")).collect();
    assert_eq!(numbers, expected);
    assert_eq!(kubelet.ended(&brief).exit_code, 5);

    // A shim that is killed takes its containers with it, and is told of.
    let shim = platform.traces().processes().into_iter().find(|(_, name)| name.contains(&sandbox)).unwrap().0;
    rustix::process::kill_process(
        rustix::process::Pid::from_raw(shim).unwrap(),
        rustix::process::Signal::KILL,
    )
    .unwrap();
    let status = kubelet.ended(&counting);
    assert_eq!((status.exit_code, status.reason.as_str()), (255, "Error"));
    assert_eq!(kubelet.sandbox(&sandbox).unwrap().state(), PodSandboxState::Notready);
    platform.kill();
    platform.restart();
    assert_eq!(kubelet.ended(&counting).exit_code, 255);
    kubelet.remove_sandbox(&sandbox).unwrap();
    assert_eq!(traces_of(&platform, &sandbox), [""; 0]);
    // What is still there goes with the platform.
    let config = pod("left", logs.path());
    let left = kubelet.run(&config).unwrap();
    kubelet.begin(&left, &config, container("main", WAIT));
    platform.drain();
}
