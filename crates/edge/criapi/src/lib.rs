//! Kubernetes' container runtime interface (`runtime.v1`), for a kubelet and crictl.
//!
//! A sandbox is a pod of the runtime: one shim that holds its namespaces and containers and outlives wharf. What the interface adds is
//! kept beside it in `DIR/cri/ID` (`record.rs`), and found again after a restart.
//!
//! This room knows nothing of how a pod's network is wired ([`Network`]), where images come from ([`wharf_node::ImagePuller`]), or of
//! the Kubernetes API.

mod container;
mod cri;
mod describe;
mod etc;
mod exec;
mod grpc;
mod host;
mod images;
mod log;
mod pause;
mod record;
mod resources;
mod sandbox;
mod service;
mod signals;
mod spec;
mod stats;
mod streaming;
mod table;
mod user;
pub mod v1;

pub use cri::{Config, Cri, Network, sandboxes};
pub use grpc::{Code, Failure};
pub use streaming::Streams;
