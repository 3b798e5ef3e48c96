//! Dockerfile to build graph to image.
//!
//! A [`Dockerfile`](dockerfile::Dockerfile) is read to stages; those the target needs are planned; each runs in a thread, step by
//! step. A step's key says what goes into it: the files before, its words and variables, the content of what it copies. Its result
//! is a layer of the image store, kept under that key. A `RUN` is a throw-away container.
//!
//! This room knows nothing of registries, pipelines, terminals or Kubernetes.

mod attest;
mod build;
mod cache;
mod cdi;
mod copy;
pub mod dockerfile;
mod error;
mod export;
mod ignore;
mod pack;
mod progress;
mod remote;
mod workspace;

pub use attest::{Attestations, Bill, BillRequest, Provenance, Slsa};
pub use build::{
    Allowed, AllowedDevices, BuildRequest, BuildResult, Builder, CachePlace, CacheTarget, CheckReport,
    Context, DockerfileSource, Image, NamedContext, Pull, Secret, StepNetwork, StepReport, parse_platform,
};
pub use cdi::{SPEC_DIRS, registered_devices};
pub use error::{Error, ErrorKind, Place, Result, plain};
pub use ignore::Ignore;
pub use pack::{PackReport, PackRequest, pack};
pub use progress::{Cancel, CancelOnDrop, Progress, StepId};
pub use remote::{Fetch, FetchRequest, FetchResponse, is_archive};
