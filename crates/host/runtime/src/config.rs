//! What a caller asks for: pods, containers, processes inside them.

use std::{
    collections::{BTreeMap, HashSet},
    path::PathBuf,
};

use oci_spec::runtime::{LinuxIdMapping, LinuxResources, Spec};
use serde::{Deserialize, Serialize};

/// A pod's sandbox: the namespaces its containers share, held by one shim.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct SandboxConfig {
    /// The pod's id, unique on the machine.
    pub id: String,
    /// Host name inside the pod; the machine's own when absent. Needs `uts: Own`.
    #[serde(default)]
    pub hostname: Option<String>,
    /// Where the pod's network comes from.
    #[serde(default)]
    pub network: Network,
    /// System V and POSIX queues: the pod's own or the machine's.
    #[serde(default)]
    pub ipc: Share,
    /// Host name space: the pod's own or the machine's.
    #[serde(default)]
    pub uts: Share,
    /// The pod's own user namespace, which owns its others, and in which all its containers are; the machine's when absent.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub users: Option<Users>,
    /// A cgroup for the pod as a whole, as a path below the hierarchy's root; the parent of its containers' cgroups.
    #[serde(default)]
    pub cgroup: Option<PodCgroup>,
    /// Kernel settings of the pod's network and IPC namespaces (`net.*`, `kernel.msg*`, …), by dotted name.
    #[serde(default)]
    pub sysctls: BTreeMap<String, String>,
    /// What the shim does once no container runs any more.
    #[serde(default)]
    pub when_idle: WhenIdle,
    /// Program and arguments that run when the pod has ended by itself and its folder is as it stays, in the network of
    /// whoever made the pod. A shim that is killed or told to end runs nothing. `/proc/self/exe` is the program that made the pod.
    #[serde(default)]
    pub at_end: Vec<String>,
    /// The caller's own words; kept, not interpreted.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// Who users and groups of a user namespace are outside of it (user_namespaces(7)).
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Users {
    /// Users.
    pub uids: Vec<LinuxIdMapping>,
    /// Groups.
    pub gids: Vec<LinuxIdMapping>,
}

/// A pod-level cgroup and its limits.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct PodCgroup {
    /// Path below the root of the hierarchy, such as `wharf/pods/burstable/UID`.
    pub path: String,
    /// Limits of the pod as a whole.
    #[serde(default)]
    pub resources: LinuxResources,
}

/// Where a pod's network comes from.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Network {
    /// The machine's own.
    Host,
    /// A new one with only `lo`, up. It can be wired through [`crate::Sandbox::network_namespace`].
    #[default]
    New,
    /// One that exists, by the path of its namespace file.
    Path(PathBuf),
}

/// Own namespace or the machine's.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Share {
    /// A namespace of the pod's own.
    #[default]
    Own,
    /// The machine's.
    Host,
}

/// What the shim does once nobody is connected to it and, but for `WithCaller`, every container of its pod has ended.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum WhenIdle {
    /// Keeps the pod's namespaces for the next container, until told to shut down.
    #[default]
    Stay,
    /// Ends, and leaves the pod's folder with the exit status to read.
    Exit,
    /// Ends, and removes the pod's folder with everything in it.
    Remove,
    /// Ends what still runs, and itself: the pod is the work of one process, which takes it along however it ends. The folder
    /// stays.
    WithCaller,
}

/// One container.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct ContainerConfig {
    /// The container's name, unique in its pod: letters, digits, `-`, `_`, `.`.
    pub name: String,
    /// The container in the words of the OCI runtime specification. Its `root.path` counts only when `root` names no layer, its
    /// `linux.seccomp` takes the place of `seccomp`.
    pub spec: Spec,
    /// The root file system.
    pub root: RootFs,
    /// The user by name or number, with a group after a colon, looked up in the container's own files. Takes the place of the
    /// specification's numbers, which stand when this is absent.
    #[serde(default)]
    pub user: Option<String>,
    /// Further groups by name or number, looked up in the container's own files.
    #[serde(default)]
    pub groups: Vec<String>,
    /// The system call filter.
    #[serde(default)]
    pub seccomp: Seccomp,
    /// Whether anything can be written to its standard input.
    #[serde(default)]
    pub stdin: Stdin,
    /// Where its output is kept; not at all when absent.
    #[serde(default)]
    pub log: Option<LogConfig>,
    /// The caller's own words; kept, not interpreted.
    #[serde(default)]
    pub labels: BTreeMap<String, String>,
}

/// A container's root file system: an overlay of read-only folders and a writable one in the container's own folder.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct RootFs {
    /// The read-only folders, the topmost first. Without one the folder at the specification's `root.path` is the root itself, and
    /// what the container writes stays in it.
    pub lower: Vec<PathBuf>,
    /// Never write anything back at unmount: for containers whose changes are thrown away with them.
    #[serde(default)]
    pub volatile: bool,
}

impl RootFs {
    /// The folders to mount: each where it lies topmost. The kernel takes none twice, and what lies below the same folder once more
    /// shows nothing that the upper one does not.
    pub fn distinct(lower: &[PathBuf]) -> Vec<&PathBuf> {
        let mut seen = HashSet::new();
        lower.iter().filter(|folder| seen.insert(*folder)).collect()
    }
}

/// The system call filter of a container.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Seccomp {
    /// The platform's own profile, like Docker's: what a program needs, nothing that administers the machine.
    #[default]
    Default,
    /// None.
    Unconfined,
}

/// A container's standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stdin {
    /// At its end from the start.
    #[default]
    Null,
    /// A pipe; it ends when the first attached caller closes its side.
    Once,
    /// A pipe that stays open when callers come and go.
    Open,
}

/// A log file in CRI format.
#[derive(Debug, Clone, Serialize, Deserialize)]
pub struct LogConfig {
    /// The file. Older ones are kept beside it as `FILE.1`, `FILE.2`, ….
    pub path: PathBuf,
    /// Bytes after which a new file is begun.
    #[serde(default = "default_log_size")]
    pub max_bytes: u64,
    /// How many files there are at most, the current one included.
    #[serde(default = "default_log_files")]
    pub max_files: u32,
}

impl LogConfig {
    /// A log at `path` of at most five files of 10 MiB, the kubelet's default.
    pub fn new(path: impl Into<PathBuf>) -> Self {
        Self { path: path.into(), max_bytes: default_log_size(), max_files: default_log_files() }
    }
}

fn default_log_size() -> u64 {
    10 << 20
}

fn default_log_files() -> u32 {
    5
}

/// One more process in a running container. What is absent is the container's own.
#[derive(Debug, Clone, Default, Serialize, Deserialize)]
pub struct ExecConfig {
    /// Program and arguments.
    pub args: Vec<String>,
    /// `K=V`, added to the container's environment.
    #[serde(default)]
    pub env: Vec<String>,
    /// Working directory.
    #[serde(default)]
    pub cwd: Option<String>,
    /// User, as in [`ContainerConfig::user`].
    #[serde(default)]
    pub user: Option<String>,
    /// A terminal of this size instead of three pipes.
    #[serde(default)]
    pub terminal: Option<Size>,
    /// All capabilities, and no system call filter.
    #[serde(default)]
    pub privileged: bool,
}

/// A terminal's size.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
pub struct Size {
    /// Lines.
    pub rows: u16,
    /// Columns.
    pub columns: u16,
}
