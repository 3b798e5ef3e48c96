//! Stages to images: the plan, the steps, the cache.

mod check;
mod contexts;
mod copy_step;
mod executor;
mod inputs;
mod mask;
mod plan;
mod remote_step;
mod request;
mod run_mounts;
mod run_step;
mod settings;
mod ssh;
mod stage;
mod state;
mod stubs;
mod transfer;
mod turn;

pub use check::CheckReport;
pub use request::{
    Allowed, BuildRequest, BuildResult, Builder, Context, DockerfileSource, NamedContext, Pull, Secret,
    StepNetwork, StepReport,
};
pub use transfer::{CachePlace, CacheTarget};
