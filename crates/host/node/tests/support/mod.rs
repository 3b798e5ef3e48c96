//! A node with the real API in this process, real containers of busybox, and a network that is the loopback interface.

#![allow(dead_code, unreachable_pub, reason = "each test file uses a part of it")]

use std::{
    collections::BTreeMap,
    fs,
    net::{IpAddr, Ipv4Addr},
    os::unix::fs::symlink,
    path::{Path, PathBuf},
    sync::Arc,
    time::{Duration, Instant},
};

use serde_json::{Value, json};
use tokio::io::AsyncReadExt;
use wharf_apiserver::{ApiServer, Config, Identity, Ranges, SigningKey};
use wharf_base::{SystemClock, random_hex};
use wharf_client::{Client, Gvr, ListParams, action::PODS};
use wharf_image::{Compression, ImageConfig, Store};
use wharf_node::{ExecStart, Failure, ImagePuller, NodeAgent, NodeConfig, PodNetwork, Pull, PullSecret};
use wharf_runtime::ShimRuntime;
use wharf_state::{Embedded, Options};

/// How long anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(60);
pub const EVENTS: Gvr = Gvr::fixed("", "v1", "events");
pub const SECRETS: Gvr = Gvr::fixed("", "v1", "secrets");
pub const NODE: &str = "node-1";

struct Loopback;

impl PodNetwork for Loopback {
    fn attach(&self, _: &str, _: &Path) -> Result<IpAddr, Failure> {
        Ok(Ipv4Addr::LOCALHOST.into())
    }

    fn detach(&self, _: &str) -> Result<(), Failure> {
        Ok(())
    }
}

struct Secure;

impl wharf_node::SecureConnect for Secure {
    fn secure<'a>(&'a self, connection: tokio::net::TcpStream, host: &'a str) -> wharf_node::Securing<'a> {
        Box::pin(async move {
            let secure = wharf_http::client::to_anybody(connection, host).await?;
            Ok(Box::new(secure) as Box<dyn wharf_node::Stream>)
        })
    }
}

struct NoRegistry;

impl ImagePuller for NoRegistry {
    fn pull<'a>(&'a self, _: &'a str, _: &'a [PullSecret]) -> Pull<'a> {
        Box::pin(async { Err(Failure("no registry is reachable".into())) })
    }
}

pub struct Cluster {
    folder: tempfile::TempDir,
    pub client: Client,
    pub agent: Option<NodeAgent>,
    config: NodeConfig,
}

fn busybox_image(images: &Store) {
    let busybox = Path::new("/usr/bin/busybox");
    assert!(rustix::process::geteuid().is_root(), "these tests make real containers: run them as root");
    assert!(busybox.exists(), "these tests need /usr/bin/busybox: apt-get install -y busybox-static");
    let scratch = images.scratch().unwrap();
    let root = scratch.upper();
    for name in ["bin", "etc", "tmp", "proc", "sys", "dev", "root"] {
        fs::create_dir_all(root.join(name)).unwrap();
    }
    fs::copy(busybox, root.join("bin/busybox")).unwrap();
    for name in [
        "sh", "true", "false", "cat", "echo", "ls", "id", "pwd", "env", "sleep", "stat", "dd", "head",
        "tail", "kill", "hostname", "touch", "mkdir", "grep", "test", "tr", "wc", "nc", "stty", "rm", "seq",
    ] {
        symlink("busybox", root.join("bin").join(name)).unwrap();
    }
    fs::write(root.join("etc/passwd"), "root:x:0:0:root:/root:/bin/sh\n").unwrap();
    fs::write(root.join("etc/group"), "root:x:0:\n").unwrap();
    let layer = images.commit_scratch(scratch, Compression::None, None).unwrap().unwrap();
    let mut config = ImageConfig::for_host();
    config.config.cmd = Some(vec!["sh".into()]);
    let image = images.put_image(config, &[layer]).unwrap();
    images.tag(&["test/busybox:1".parse().unwrap()], &image).unwrap();
}

impl Cluster {
    pub async fn start() -> Self {
        let folder = tempfile::tempdir().unwrap();
        let data = folder.path().to_owned();
        let store = Embedded::open(&data.join("state.redb"), Options::default()).unwrap();
        let server = ApiServer::open(Config {
            store: Arc::new(store),
            clock: Arc::new(SystemClock),
            signing_key: SigningKey::open(&SigningKey::generate().unwrap()).unwrap(),
            ranges: Ranges::new(Ipv4Addr::new(10, 96, 0, 0), 16, 30000..=32767),
            authority: "-----BEGIN CERTIFICATE-----".into(),
            front_proxy: None,
        })
        .await
        .unwrap();
        let client = Client::in_process(Arc::new(move |request| {
            let (mut parts, body) = request.into_parts();
            parts.extensions.insert(Identity::system());
            let request = http::Request::from_parts(parts, wharf_http::full(body));
            Box::pin(Arc::clone(&server).handle(request))
        }));
        let images = Store::open(data.join("images")).unwrap();
        busybox_image(&images);
        let config = NodeConfig {
            name: NODE.into(),
            client: client.clone(),
            images: Arc::new(images),
            data,
            instance: format!("test{}", random_hex(4)),
            runtime: Arc::new(ShimRuntime::new(env!("CARGO_BIN_EXE_wharf-node-shim"))),
            network: Arc::new(Loopback),
            puller: Arc::new(NoRegistry),
            secure: Arc::new(Secure),
            dns: Some("10.96.0.10".parse().unwrap()),
            cluster_domain: "cluster.local".into(),
            api_address: "10.96.0.1:443".parse().unwrap(),
            address: Some(Ipv4Addr::LOCALHOST.into()),
            labels: BTreeMap::new(),
        };
        let cluster = Self { folder, client, agent: Some(NodeAgent::start(config.clone()).unwrap()), config };
        cluster
            .create("serviceaccounts", json!({"kind": "ServiceAccount", "metadata": {"name": "default"}}))
            .await;
        let authority = json!({"kind": "ConfigMap", "metadata": {"name": "kube-root-ca.crt"}, "data": {"ca.crt": "authority"}});
        cluster.create("configmaps", authority).await;
        cluster
    }

    pub async fn create(&self, resource: &str, mut object: Value) -> Value {
        object["apiVersion"] = "v1".into();
        let resource = Gvr::dynamic("", "v1", resource);
        self.client.create(&resource, "default", &object).await.unwrap_or_else(|error| panic!("{error}"))
    }

    /// Creates a pod bound to the node.
    pub async fn pod(&self, name: &str, mut spec: Value) -> Value {
        spec["nodeName"] = NODE.into();
        for list in ["containers", "initContainers"] {
            for container in spec[list].as_array_mut().into_iter().flatten() {
                if container["image"].is_null() {
                    container["image"] = "test/busybox:1".into();
                }
            }
        }
        let labels = json!({"app": name});
        self.create(
            "pods",
            json!({"kind": "Pod", "metadata": {"name": name, "labels": labels}, "spec": spec}),
        )
        .await
    }

    pub async fn get(&self, name: &str) -> Option<Value> {
        self.client.get(&PODS, "default", name).await.unwrap()
    }

    /// Waits until the pod is as wanted.
    pub async fn until(&self, name: &str, what: &str, wanted: impl Fn(&Value) -> bool) -> Value {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let pod = self.get(name).await.unwrap_or(Value::Null);
            if wanted(&pod) {
                return pod;
            }
            if Instant::now() > deadline {
                panic!("in vain: {name} {what}\n{:#}\n{:#?}", pod["status"], self.events(name).await);
            }
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn until_gone(&self, name: &str) {
        self.until(name, "gone", Value::is_null).await;
    }

    /// `REASON: MESSAGE` of all events of a pod.
    pub async fn events(&self, name: &str) -> Vec<String> {
        let events = self.client.list(&EVENTS, &ListParams::namespace("default")).await.unwrap();
        let about = events.items.iter().filter(|event| event["involvedObject"]["name"] == name);
        about
            .map(|event| {
                format!("{}: {}", event["reason"].as_str().unwrap(), event["message"].as_str().unwrap())
            })
            .collect()
    }

    pub async fn until_event(&self, name: &str, start: &str) {
        let deadline = Instant::now() + DEADLINE;
        loop {
            let events = self.events(name).await;
            if events.iter().any(|event| event.starts_with(start)) {
                return;
            }
            assert!(Instant::now() < deadline, "no event {start} in {events:#?}");
            tokio::time::sleep(Duration::from_millis(5)).await;
        }
    }

    pub async fn delete(&self, name: &str, grace: i64) {
        let options = json!({"kind": "DeleteOptions", "apiVersion": "v1", "gracePeriodSeconds": grace});
        self.client.delete(&PODS, "default", name, &options).await.unwrap();
    }

    /// Gives the image one more name.
    pub fn alias(&self, name: &str) {
        let (_, image) = self.config.images.find("test/busybox:1").unwrap();
        self.config.images.tag(&[name.parse().unwrap()], &image).unwrap();
    }

    pub fn agent(&self) -> &NodeAgent {
        self.agent.as_ref().unwrap()
    }

    /// Runs a shell script in a container; gives its code and output.
    pub async fn exec(&self, pod: &str, container: &str, script: &str) -> (i32, String) {
        let mut session = self
            .agent()
            .exec(ExecStart {
                namespace: "default".into(),
                pod: pod.into(),
                container: Some(container.into()),
                command: vec!["sh".into(), "-c".into(), script.into()],
                stdout: true,
                ..ExecStart::default()
            })
            .await
            .unwrap_or_else(|error| panic!("{error}"));
        let mut said = String::new();
        session.stdout.take().unwrap().read_to_string(&mut said).await.unwrap();
        (session.exit.await.unwrap(), said)
    }

    pub fn restart(&mut self) {
        // As if it had been killed.
        drop(self.agent.take());
        self.agent = Some(NodeAgent::start(self.config.clone()).unwrap());
    }

    pub fn pod_folder(&self, pod: &Value) -> PathBuf {
        self.folder.path().join("pods").join(pod["metadata"]["uid"].as_str().unwrap())
    }

    pub fn shim_pid(&self, pod: &Value) -> i32 {
        let file = fs::read(self.pod_folder(pod).join("shim.json")).unwrap();
        serde_json::from_slice::<Value>(&file).unwrap()["pid"].as_i64().unwrap() as i32
    }

    /// The cgroups of this platform that exist.
    pub fn cgroups(&self) -> Vec<PathBuf> {
        let name = format!("wharf-{}", self.config.instance);
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten().map(|entry| entry.path());
        hierarchies.map(|hierarchy| hierarchy.join(&name)).filter(|path| path.exists()).collect()
    }

    pub async fn drain(mut self) {
        self.agent.take().unwrap().drain().await;
        assert_eq!(self.cgroups(), Vec::<PathBuf>::new());
        assert_eq!(fs::read_dir(self.folder.path().join("pods")).unwrap().count(), 0);
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        assert!(!mounts.contains(self.folder.path().to_str().unwrap()));
    }
}

impl Drop for Cluster {
    fn drop(&mut self) {
        // After a failed test nothing may stay.
        drop(self.agent.take());
        for pod in fs::read_dir(self.folder.path().join("pods")).into_iter().flatten().flatten() {
            if let Ok(sandbox) = self.config.runtime.open(&pod.path()) {
                let _ = sandbox.shutdown();
            }
            let _ = self.config.runtime.clean_up(&pod.path());
        }
        if let Ok(cgroup) = wharf_runtime::Cgroup::at(&format!("wharf-{}", self.config.instance)) {
            let _ = cgroup.remove();
        }
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap_or_default();
        let mine = mounts.lines().filter_map(|line| line.split(' ').nth(4)).map(Path::new);
        for place in mine.filter(|place| place.starts_with(self.folder.path())) {
            let _ = rustix::mount::unmount(place, rustix::mount::UnmountFlags::DETACH);
        }
    }
}

pub fn condition(pod: &Value, kind: &str) -> bool {
    let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
    conditions.into_iter().any(|condition| condition["type"] == kind && condition["status"] == "True")
}

pub fn is_ready(pod: &Value) -> bool {
    condition(pod, "Ready")
}

pub fn phase(wanted: &str) -> impl Fn(&Value) -> bool {
    let wanted = wanted.to_owned();
    move |pod| pod["status"]["phase"] == wanted.as_str()
}

/// A script as a command; `forever` ends at once when asked to.
pub fn sh(script: &str) -> Value {
    json!(["sh", "-c", script])
}

pub const FOREVER: &str = "trap 'exit 0' TERM; while :; do sleep 1000 & wait; done";
