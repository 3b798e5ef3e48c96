//! Stages to images: the plan, the steps, the cache.

mod copy_step;
mod executor;
mod plan;
mod request;
mod run_mounts;
mod run_step;
mod settings;
mod stage;
mod state;

pub use request::{BuildRequest, BuildResult, Builder, Context, DockerfileSource, Pull, Secret, StepReport};
