//! Real containers on a small root file system, cleaned away even when a test panics.

#![allow(dead_code, reason = "each test file uses a part of it")]

pub mod bundle;

use std::{
    fs,
    io::Read,
    os::{fd::OwnedFd, unix::fs::symlink},
    path::{Path, PathBuf},
    sync::atomic::{AtomicU32, Ordering},
    time::{Duration, Instant},
};

use wharf_runtime::{
    ContainerConfig, ExecConfig, Exit, LogConfig, Network, Result, RootFs, Runtime, Sandbox, SandboxConfig,
    Seccomp, ShimRuntime, SpecOptions, Stdin, WhenIdle, oci::Mount,
};

/// How long anything may take on a busy machine.
pub const DEADLINE: Duration = Duration::from_secs(30);

/// The runtime under test.
pub fn runtime() -> ShimRuntime {
    ShimRuntime::new(env!("CARGO_BIN_EXE_wharf-shim"))
}

/// Waits for a condition.
pub fn until(what: &str, mut condition: impl FnMut() -> bool) {
    let deadline = Instant::now() + DEADLINE;
    while !condition() {
        assert!(Instant::now() < deadline, "in vain: {what}");
        std::thread::sleep(Duration::from_millis(2));
    }
}

/// Makes a root file system of busybox in `folder`.
pub fn busybox_root(folder: &Path) {
    let busybox = Path::new("/usr/bin/busybox");
    assert!(rustix::process::geteuid().is_root(), "these tests make real containers: run them as root");
    assert!(busybox.exists(), "these tests need /usr/bin/busybox: apt-get install -y busybox-static");
    for name in ["bin", "etc", "tmp", "proc", "sys", "dev", "root", "home/app"] {
        fs::create_dir_all(folder.join(name)).unwrap();
    }
    fs::copy(busybox, folder.join("bin/busybox")).unwrap();
    for name in [
        "sh", "true", "false", "cat", "echo", "ls", "id", "pwd", "env", "sleep", "mount", "stat", "dd",
        "head", "tail", "kill", "hostname", "stty", "touch", "mkdir", "grep", "test", "tr", "wc", "readlink",
        "printf", "mknod", "nproc", "unshare", "seq", "ps", "uname", "rmdir", "nice", "mv", "ln", "umount",
        "uptime", "chmod",
    ] {
        symlink("busybox", folder.join("bin").join(name)).unwrap();
    }
    fs::write(
        folder.join("etc/passwd"),
        "root:x:0:0:root:/root:/bin/sh\napp:x:1000:1001::/home/app:/bin/sh\n",
    )
    .unwrap();
    fs::write(folder.join("etc/group"), "root:x:0:\napp:x:1001:\nwheel:x:10:app\n").unwrap();
}

/// A pod of its own, with folder and root, gone with the value.
pub struct Pod {
    pub folder: tempfile::TempDir,
    pub root: PathBuf,
    pub id: String,
    pub sandbox: Box<dyn Sandbox>,
}

static NEXT: AtomicU32 = AtomicU32::new(0);

impl Pod {
    pub fn new() -> Self {
        Self::with(|_| {})
    }

    pub fn with(change: impl FnOnce(&mut SandboxConfig)) -> Self {
        Self::try_with(change).unwrap_or_else(|error| panic!("{error}"))
    }

    pub fn try_with(change: impl FnOnce(&mut SandboxConfig)) -> Result<Self> {
        let folder = tempfile::tempdir().unwrap();
        let root = folder.path().join("root");
        fs::create_dir(&root).unwrap();
        busybox_root(&root);
        let id = format!("test-{}-{}", std::process::id(), NEXT.fetch_add(1, Ordering::Relaxed));
        let mut config = SandboxConfig {
            id: id.clone(),
            hostname: Some("pod".into()),
            network: Network::New,
            ipc: Default::default(),
            uts: Default::default(),
            users: None,
            cgroup: None,
            sysctls: Default::default(),
            when_idle: WhenIdle::Stay,
            at_end: Vec::new(),
            labels: Default::default(),
        };
        change(&mut config);
        let sandbox = runtime().create(&folder.path().join("pod"), &config)?;
        Ok(Self { folder, root, id, sandbox })
    }

    pub fn dir(&self) -> PathBuf {
        self.folder.path().join("pod")
    }

    pub fn log_path(&self, name: &str) -> PathBuf {
        self.folder.path().join(format!("{name}.log"))
    }

    /// A container that runs `script`.
    pub fn container(&self, name: &str, script: &str) -> Container<'_> {
        Container {
            pod: self,
            name: name.into(),
            options: SpecOptions {
                args: vec!["/bin/sh".into(), "-c".into(), script.into()],
                env: vec!["PATH=/bin".into()],
                cgroup: format!("wharf-test/{}-{name}", self.id),
                ..SpecOptions::default()
            },
            user: None,
            stdin: Stdin::Null,
            seccomp: Seccomp::Default,
            changes: Vec::new(),
        }
    }

    /// Runs `script` to its end, and gives its exit and what it said.
    pub fn run(&self, name: &str, script: &str) -> (Exit, String) {
        self.container(name, script).run()
    }

    /// The text of a container's log, pieces of lines joined.
    pub fn said(&self, name: &str) -> String {
        let mut text = Vec::new();
        let log = fs::read(self.log_path(name)).unwrap_or_default();
        for line in log.split_inclusive(|byte| *byte == b'\n') {
            let line = wharf_runtime::LogLine::parse(line).expect("a log line");
            text.extend_from_slice(line.text);
            if line.complete {
                text.push(b'\n');
            }
        }
        String::from_utf8_lossy(&text).into_owned()
    }

    /// Runs `script` in a running container, and gives its exit and its output.
    pub fn exec(&self, name: &str, config: &ExecConfig) -> (Exit, String) {
        let (mut read, write) = pipe();
        let error = write.try_clone().unwrap();
        let mut exec = self
            .sandbox
            .exec(name, config, [None, Some(write), Some(error)])
            .unwrap_or_else(|error| panic!("{error}"));
        let mut said = String::new();
        read.read_to_string(&mut said).unwrap();
        (exec.wait().unwrap(), said)
    }
}

impl Drop for Pod {
    fn drop(&mut self) {
        if self.sandbox.shutdown().is_err() {
            let _ = runtime().clean_up(&self.dir());
        }
        let _ = runtime().clean_up(&self.dir());
    }
}

pub fn pipe() -> (fs::File, OwnedFd) {
    let (read, write) = rustix::pipe::pipe_with(rustix::pipe::PipeFlags::CLOEXEC).unwrap();
    (read.into(), write)
}

pub fn shell(script: &str) -> ExecConfig {
    ExecConfig { args: vec!["/bin/sh".into(), "-c".into(), script.into()], ..ExecConfig::default() }
}

/// A container to be changed before it is made.
pub struct Container<'a> {
    pod: &'a Pod,
    pub name: String,
    pub options: SpecOptions,
    pub user: Option<String>,
    pub stdin: Stdin,
    pub seccomp: Seccomp,
    changes: Vec<SpecChange>,
}

type SpecChange = Box<dyn FnOnce(&mut serde_json::Value)>;

impl Container<'_> {
    pub fn options(mut self, change: impl FnOnce(&mut SpecOptions)) -> Self {
        change(&mut self.options);
        self
    }

    /// Changes the finished specification.
    pub fn spec(mut self, change: impl FnOnce(&mut serde_json::Value) + 'static) -> Self {
        self.changes.push(Box::new(change));
        self
    }

    pub fn user(mut self, user: &str) -> Self {
        self.user = Some(user.into());
        self
    }

    pub fn stdin(mut self, stdin: Stdin) -> Self {
        self.stdin = stdin;
        self
    }

    pub fn create(self) -> Result<()> {
        let log = LogConfig::new(self.pod.log_path(&self.name));
        let mut spec = serde_json::to_value(self.options.build()?).unwrap();
        self.changes.into_iter().for_each(|change| change(&mut spec));
        self.pod
            .sandbox
            .create_container(&ContainerConfig {
                name: self.name,
                spec: serde_json::from_value(spec).unwrap(),
                root: RootFs { lower: vec![self.pod.root.clone()], volatile: true },
                user: self.user,
                groups: Vec::new(),
                seccomp: self.seccomp,
                stdin: self.stdin,
                log: Some(log),
                labels: Default::default(),
            })
            .map(drop)
    }

    pub fn start(self) -> Result<()> {
        let (pod, name) = (self.pod, self.name.clone());
        self.create()?;
        pod.sandbox.start(&name)
    }

    pub fn run(self) -> (Exit, String) {
        let (pod, name) = (self.pod, self.name.clone());
        self.start().unwrap_or_else(|error| panic!("{error}"));
        let exit = pod.sandbox.wait(&name).unwrap_or_else(|error| panic!("{error}"));
        (exit, pod.said(&name))
    }
}

/// Waits until a filter asks about a call, and lets the call fail.
#[allow(unsafe_code, reason = "no safe library speaks to filters")]
pub fn refuse_one_call(filter: &OwnedFd, errno: i32) {
    use std::os::fd::AsRawFd;
    const RECEIVE: libc::c_ulong = 0xc050_2100;
    const ANSWER: libc::c_ulong = 0xc018_2101;
    // SAFETY: both are plain data of the sizes in the numbers, for which zeroes are valid, and outlive the calls.
    unsafe {
        let mut asked: libc::seccomp_notif = std::mem::zeroed();
        let got = libc::ioctl(filter.as_raw_fd(), RECEIVE as _, &mut asked);
        assert_eq!(got, 0, "{}", std::io::Error::last_os_error());
        let mut answer = libc::seccomp_notif_resp { id: asked.id, val: 0, error: -errno, flags: 0 };
        let sent = libc::ioctl(filter.as_raw_fd(), ANSWER as _, &mut answer);
        assert_eq!(sent, 0, "{}", std::io::Error::last_os_error());
    }
}

/// A mount of the machine's `source`.
pub fn bind(source: &Path, destination: &str, options: &[&str]) -> Mount {
    let all: Vec<&str> = ["rbind"].iter().chain(options).copied().collect();
    wharf_runtime::mount(destination, "bind", source.to_str().unwrap(), &all).unwrap()
}

/// The cgroups that belong to a pod of these tests.
pub fn cgroups_of(id: &str) -> Vec<PathBuf> {
    let mut found = Vec::new();
    for hierarchy in fs::read_dir("/sys/fs/cgroup").unwrap().flatten() {
        for entry in fs::read_dir(hierarchy.path().join("wharf-test")).into_iter().flatten().flatten() {
            let name = entry.file_name().to_string_lossy().into_owned();
            if name == id || name.starts_with(&format!("{id}-")) {
                found.push(entry.path());
            }
        }
    }
    found
}

impl Container<'_> {
    /// Why it did not start, or what it said.
    pub fn run_to_error(self) -> String {
        let (pod, name) = (self.pod, self.name.clone());
        match self.start() {
            Err(error) => error.to_string(),
            Ok(()) => {
                pod.sandbox.wait(&name).unwrap();
                pod.said(&name)
            }
        }
    }
}
