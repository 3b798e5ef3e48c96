//! What a container is asked to be. Kept in its folder, so that it can be started again, and by others.

use std::{collections::BTreeMap, path::PathBuf};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_base::{ContainerId, Timestamp};
use wharf_image::Healthcheck;
use wharf_network::EndpointWish;
use wharf_runtime::{Stdin, oci::LinuxSeccomp};

use crate::ports::Publish;

/// A container as asked for.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Spec {
    /// The image, as it was named.
    pub image: String,
    /// A folder to run in instead of an image.
    pub rootfs: Option<PathBuf>,
    /// Program instead of the image's; an empty one means none.
    pub entrypoint: Option<Vec<String>>,
    /// Arguments instead of the image's.
    pub command: Vec<String>,
    /// `K=V`, added to the image's.
    pub env: Vec<String>,
    /// Working directory instead of the image's.
    pub workdir: Option<String>,
    /// User instead of the image's.
    pub user: Option<String>,
    /// Further groups by number, or by a name the container's `/etc/group` knows.
    pub groups: Vec<String>,
    /// Host name; the beginning of its id when absent.
    pub hostname: Option<String>,
    /// The domain it is in.
    pub domainname: Option<String>,
    /// Its first process is one that passes signals on and takes the exit status of orphans.
    pub init: bool,
    /// A terminal.
    pub tty: bool,
    /// Standard input.
    pub stdin: InputMode,
    /// The caller's own words.
    pub labels: BTreeMap<String, String>,
    /// Signal that stops it, instead of the image's.
    pub stop_signal: Option<String>,
    /// Seconds between that signal and the end; ten when absent.
    pub stop_timeout: Option<u64>,
    /// `bridge`, `none`, `host`, a network of [`crate::networks`], or that of the container `container:ID`.
    pub network: String,
    /// Its networks by name, where they are `bridge` or made by people, and how it stands in them.
    pub endpoints: BTreeMap<String, Endpoint>,
    /// Ports of this machine that lead to it.
    pub publish: Vec<Publish>,
    /// Lines for `/etc/hosts`: address and name.
    pub extra_hosts: Vec<(String, String)>,
    /// Name servers instead of the machine's.
    pub dns: Vec<String>,
    /// Domains names are looked for in.
    pub dns_search: Vec<String>,
    /// Options of looking names up, as in `resolv.conf`.
    pub dns_options: Vec<String>,
    /// Files and folders of this machine, and volumes.
    pub mounts: Vec<MountPoint>,
    /// Places of data, which are folders of the container's own besides those its image declares.
    #[serde(default)]
    pub volumes: Vec<String>,
    /// Limits.
    pub resources: Resources,
    /// The root file system cannot be written to.
    pub read_only: bool,
    /// Everything root may do.
    pub privileged: bool,
    /// Capabilities added.
    pub cap_add: Vec<String>,
    /// Capabilities taken away.
    pub cap_drop: Vec<String>,
    /// No gain of privileges through set-user-id files.
    pub no_new_privileges: bool,
    /// No system call filter.
    pub seccomp_unconfined: bool,
    /// A system call filter of its own.
    pub seccomp: Option<Box<LinuxSeccomp>>,
    /// Devices of this machine.
    pub devices: Vec<Device>,
    /// Files nobody inside sees, instead of the usual ones.
    pub masked_paths: Option<Vec<String>>,
    /// Files nobody inside writes to, instead of the usual ones.
    pub readonly_paths: Option<Vec<String>>,
    /// Kernel settings.
    pub sysctls: BTreeMap<String, String>,
    /// Process limits: name, soft, hard.
    pub ulimits: Vec<(String, u64, u64)>,
    /// Bytes of `/dev/shm`.
    pub shm_size: Option<u64>,
    /// How willingly the kernel kills it.
    pub oom_score_adj: Option<i32>,
    /// Whose processes it sees.
    pub pids: Whose,
    /// Whose System V and POSIX queues it has.
    pub ipc: Whose,
    /// It has no `/dev/shm`.
    pub no_shm: bool,
    /// It has the machine's host name.
    pub host_uts: bool,
    /// What it says is not kept.
    pub no_log: bool,
    /// Bytes of its log after which a new file is begun.
    pub log_bytes: Option<u64>,
    /// How many files its log has at most.
    pub log_files: Option<u32>,
    /// Removes itself at its end.
    pub auto_remove: bool,
    /// What happens at its end.
    pub restart: Restart,
    /// How its health is checked, instead of the image's way.
    pub healthcheck: Option<Healthcheck>,
}

/// How a container is to stand in a network.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Endpoint {
    /// Further names it is known by there.
    pub aliases: Vec<String>,
    /// Names it alone gives to others there: `CONTAINER:NAME`.
    pub links: Vec<String>,
    /// Its addresses.
    pub wish: EndpointWish,
}

/// A namespace of a container's own, the machine's, or another container's.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Whose {
    /// Its own.
    #[default]
    Own,
    /// The machine's.
    Host,
    /// That of the container with this id, which must run when this one starts.
    Container(String),
}

/// A device of this machine, inside.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Device {
    /// Its path on this machine.
    pub path: PathBuf,
    /// Its path inside.
    pub inside: PathBuf,
    /// What is allowed: of `r`, `w` and `m`.
    pub access: String,
}

/// Standard input.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum InputMode {
    /// At its end from the start.
    #[default]
    Null,
    /// Ends with the first who is attached.
    Once,
    /// Stays open.
    Open,
}

impl From<InputMode> for Stdin {
    fn from(mode: InputMode) -> Self {
        match mode {
            InputMode::Null => Self::Null,
            InputMode::Once => Self::Once,
            InputMode::Open => Self::Open,
        }
    }
}

/// Something mounted into a container.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct MountPoint {
    /// What.
    pub source: MountSource,
    /// Where, absolute.
    pub target: String,
    /// Options of the mount: `ro`, `rslave`, `size=64m`.
    #[serde(default)]
    pub options: Vec<String>,
}

/// What is mounted.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum MountSource {
    /// A file or folder of this machine; made as a folder where it is not there and `make` says so.
    Path {
        /// Where.
        path: PathBuf,
        /// Whether to make it.
        make: bool,
    },
    /// A volume by its name, filled from the image when it is new.
    Volume(String),
    /// Memory.
    Tmpfs,
}

/// Limits; nothing is none.
#[derive(Debug, Clone, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(default, rename_all = "camelCase")]
pub struct Resources {
    /// Bytes of memory.
    pub memory: Option<i64>,
    /// Bytes of memory below which nothing is taken back.
    pub memory_reservation: Option<i64>,
    /// Bytes of memory and swap together; -1 for no limit of swap.
    pub memory_swap: Option<i64>,
    /// Share of processors in microseconds per period.
    pub cpu_quota: Option<i64>,
    /// The period in microseconds.
    pub cpu_period: Option<u64>,
    /// Weight against others.
    pub cpu_shares: Option<u64>,
    /// Processors it may run on.
    pub cpuset_cpus: Option<String>,
    /// Memory nodes it may use.
    pub cpuset_mems: Option<String>,
    /// Processes and threads.
    pub pids: Option<i64>,
    /// How willingly memory is swapped out, from 0 to 100; cgroup v1 only.
    pub swappiness: Option<u64>,
    /// It waits for memory rather than be killed; cgroup v1 only.
    pub oom_kill_disable: bool,
    /// Weight against others at block devices, from 10 to 1000, where the machine's scheduler knows weights.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub block_weight: Option<u16>,
}

/// What happens when a container ends.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub enum Restart {
    /// It stays ended.
    #[default]
    No,
    /// It is started again, also when the platform starts.
    Always,
    /// As always, but not when a person stopped it.
    UnlessStopped,
    /// When it failed, so many times at the most; zero is without end.
    OnFailure(u32),
}

/// Whether a health check's words check anything.
pub(crate) fn checks(test: &[String]) -> bool {
    test.first().is_some_and(|kind| kind != "NONE")
}

/// What is kept of a container from its making to its removal.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Record {
    /// Its id.
    pub id: ContainerId,
    /// Its name.
    pub name: String,
    /// When it was made.
    #[serde(with = "nanos")]
    pub created_at: Timestamp,
    /// The image's id, where it is one.
    #[serde(default)]
    pub image_id: String,
    /// As asked for.
    pub spec: Spec,
    /// The request in the words of the Docker Engine API, for `inspect`.
    #[serde(default)]
    pub docker: Option<Value>,
    /// Why it could not be started, the last time.
    #[serde(default)]
    pub error: Option<StartError>,
    /// A person stopped it: it is not started again by itself.
    #[serde(default)]
    pub stopped: bool,
    /// How often it was started again by itself.
    #[serde(default)]
    pub restarts: u32,
}

/// Why a container could not be started.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct StartError {
    /// As the shell would tell: 126 or 127; 128 for others.
    pub code: i32,
    /// Why.
    pub message: String,
}

/// Times to the nanosecond, which [`Timestamp`]'s own text leaves out.
pub(crate) mod nanos {
    use serde::{Deserialize as _, Deserializer, Serializer};
    use wharf_base::Timestamp;

    pub(crate) fn serialize<S: Serializer>(time: &Timestamp, serializer: S) -> Result<S::Ok, S::Error> {
        serializer.serialize_str(&time.to_nano())
    }

    pub(crate) fn deserialize<'de, D: Deserializer<'de>>(deserializer: D) -> Result<Timestamp, D::Error> {
        String::deserialize(deserializer)?.parse().map_err(serde::de::Error::custom)
    }
}
