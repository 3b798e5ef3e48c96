//! Containers as docker knows them: what `wharf run` and the Docker Engine API share.
//!
//! A container is a pod of one, in a folder of its own below `containers/`: `container.json` says what was asked for, the
//! runtime's files say how it is. Several programs use the folders at once; names, addresses and images are taken
//! under locks. What it knows nothing of: HTTP, docker's JSON, terminals, Kubernetes.

pub mod archive;
mod bridge;
mod connect;
mod containers;
mod disk;
mod error;
mod health;
mod image;
mod life;
mod logs;
mod names;
pub mod networks;
mod ports;
mod spec;
mod start;
pub mod volumes;
pub mod watch;
pub mod words;

pub use bridge::{Bridge, Joined, Place, Place6, resolver};
pub use containers::{Container, Engine, EngineConfig};
pub use error::{Error, ErrorKind, Result};
pub use health::{Check, CheckResult, Health, HealthStatus};
pub use image::{Image, leaseholder};
pub use life::signal_number;
pub use logs::{LogEntry, LogQuery, LogReader};
pub use ports::{Publish, by_port};
pub use spec::{
    Device, Endpoint, InputMode, MountPoint, MountSource, Record, Resources, Restart, Spec, StartError, Whose,
};
pub use start::{INIT_PATH, Started};
pub use wharf_network::{EndpointWish, Ipv4Net, Ipv6Net, Ipv6Side};

/// The name of the only container of a pod this room makes.
pub const MAIN: &str = "main";
/// The control group that those of containers are made in.
pub const GROUP: &str = "wharf";

/// Removes the control group that those of containers are made in, unless there are some.
pub fn remove_empty_group() {
    let hierarchies = std::path::Path::new("/sys/fs/cgroup");
    let below = std::fs::read_dir(hierarchies).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in below.chain([hierarchies.to_owned()]) {
        // One with groups in it is not removed by the kernel.
        let _ = std::fs::remove_dir(hierarchy.join(GROUP));
    }
}
