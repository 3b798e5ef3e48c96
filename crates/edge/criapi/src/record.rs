//! What is kept of sandboxes and containers on disk, beside what their shim keeps.
//!
//! ```text
//! DIR/cri/ID/             the pod's folder of the runtime
//!   sandbox.pb            the sandbox; without it the folder is half made
//!   records/CONTAINER.pb  a container; without a state in the runtime it is half made
//!   etc/ shm/ pause/      files its containers share
//! ```

use std::{
    fs,
    io::{self, Write as _},
    os::unix::fs::OpenOptionsExt as _,
    path::Path,
};

use prost::Message;

use crate::v1::{ContainerConfig, LinuxContainerResources, LinuxContainerUser, PodSandboxConfig};

/// A sandbox as it was asked for, and what it got.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct SandboxRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) config: Option<PodSandboxConfig>,
    /// In nanoseconds since 1970.
    #[prost(int64, tag = "2")]
    pub(crate) created_at: i64,
    /// Empty on the machine's network.
    #[prost(string, tag = "3")]
    pub(crate) ip: String,
    /// It has been stopped: what it had is given back.
    #[prost(bool, tag = "4")]
    pub(crate) stopped: bool,
    /// The cgroup of the pod, below the root of the hierarchy.
    #[prost(string, tag = "5")]
    pub(crate) cgroup: String,
    /// That cgroup was made for this sandbox and goes with it.
    #[prost(bool, tag = "6")]
    pub(crate) own_cgroup: bool,
}

/// A container as it was asked for, and what it got.
#[derive(Clone, PartialEq, Message)]
pub(crate) struct ContainerRecord {
    #[prost(message, optional, tag = "1")]
    pub(crate) config: Option<ContainerConfig>,
    /// The configuration's digest of its image.
    #[prost(string, tag = "2")]
    pub(crate) image_id: String,
    /// The image by repository and digest, or its id.
    #[prost(string, tag = "3")]
    pub(crate) image_ref: String,
    /// Absolute; empty without a log.
    #[prost(string, tag = "4")]
    pub(crate) log_path: String,
    /// Device and inode of the log, by which it is found after it was renamed.
    #[prost(uint64, repeated, tag = "5")]
    pub(crate) log_inode: Vec<u64>,
    /// As they are now.
    #[prost(message, optional, tag = "6")]
    pub(crate) resources: Option<LinuxContainerResources>,
    #[prost(message, optional, tag = "7")]
    pub(crate) user: Option<LinuxContainerUser>,
    /// The signal that asks it to stop, by its number on this machine.
    #[prost(int32, tag = "8")]
    pub(crate) stop_signal: i32,
    /// Why its program could not be started.
    #[prost(string, tag = "9")]
    pub(crate) start_error: String,
}

/// Writes a record so that a reader sees the old one or the new one, also after a power cut.
pub(crate) fn write(path: &Path, record: &impl Message) -> io::Result<()> {
    let draft = path.with_extension("tmp");
    let mut file = fs::OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&draft)?;
    file.write_all(&record.encode_to_vec())?;
    file.sync_all()?;
    fs::rename(&draft, path)?;
    path.parent().map_or(Ok(()), |folder| fs::File::open(folder)?.sync_all())
}

/// Reads a record; nothing when there is none that can be used.
pub(crate) fn read<M: Message + Default>(path: &Path) -> Option<M> {
    M::decode(fs::read(path).ok()?.as_slice()).ok()
}
