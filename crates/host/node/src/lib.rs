//! The node agent: runs the pods bound to this machine with real containers, and tells the API how they are.
//!
//! One worker per pod holds what is known about it, asks the pure decision `step` what to do next, and does it: sandbox, volumes,
//! containers, probes, status. Containers belong to shims that outlive the agent; a restarted agent finds them again by the pod's
//! folder (`DIR/pods/UID`).
//!
//! This room knows nothing of how a pod's network is wired ([`PodNetwork`]), where images come from ([`ImagePuller`]), or who asks
//! for logs and commands.

mod agent;
mod config;
mod env;
mod etc;
mod events;
mod images;
mod machine;
mod model;
mod node;
mod probe;
mod resources;
mod service_env;
mod spec;
mod stats;
mod status;
mod step;
mod streams;
mod volumes;
mod watches;
mod worker;

pub use agent::NodeAgent;
pub use config::{
    Failure, ImagePuller, NodeConfig, PodNetwork, Pull, PullSecret, SecureConnect, Securing, Stream,
};
pub use stats::ContainerStats;
pub use streams::{
    Duplex, ExecStart, ExecStreams, ExitCode, LogOptions, LogStream, StreamError, TerminalSize, attach,
    connect_in, exec,
};
