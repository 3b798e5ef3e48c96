//! Containers: shim, namespaces, cgroups, root filesystems, exec and stdio.
//!
//! A pod is one shim process ([`shim_entry`]) that holds the namespaces its containers share, starts them, and keeps their output and
//! exit statuses. It outlives the caller, who finds it again by the pod's folder ([`PodDir`], [`Runtime::open`]). Everything blocks;
//! callers in asynchronous code use a thread, or wait for [`Events`] and [`Exec`] through their descriptors.
//!
//! This room knows nothing of images (it takes folders), of networks beyond the namespace, of restart policies, or of Kubernetes.

#![allow(
    unsafe_code,
    reason = "this room makes the system calls no safe library has; each block says why it is sound"
)]

mod bundle;
mod cgroup;
mod client;
mod command;
mod config;
mod defaults;
mod error;
mod launch;
mod log;
mod pod_dir;
mod prepare;
mod processes;
mod program;
mod recover;
pub mod rootless;
mod runtime;
mod seccomp;
mod shim;
mod signals;
mod status;
mod sys;
mod traffic;
mod wire;

pub use bundle::main as oci_main;
pub use cgroup::{Cgroup, has_cgroups};
pub use client::{Ending, Events, Exec, ShimRuntime, ShimSandbox};
pub use command::{Answer, command};
pub use config::{
    ContainerConfig, ExecConfig, LogConfig, Network, PodCgroup, RootFs, SandboxConfig, Seccomp, Share, Size,
    Stdin, Users, WhenIdle,
};
pub use defaults::{SpecOptions, join, mount};
pub use error::{Error, ErrorKind, Result};
pub use log::{LogLine, Stream, log_files};
/// The OCI runtime specification's types, in which containers are described.
pub use oci_spec::runtime as oci;
pub use pod_dir::PodDir;
pub use processes::{block_io, processes, stats};
pub use program::init_program;
pub use runtime::{Runtime, Sandbox, SignalTo};
pub use shim::entry as shim_entry;
pub use signals::Signals;
pub use status::{BlockIo, Event, Exit, Phase, Stats, Status};
pub use sys::{in_user_namespace, peer_has_read};
pub use traffic::{Counters, Traffic, traffic};
