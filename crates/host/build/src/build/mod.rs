//! Stages to images: the plan, the steps, the cache.

mod capture;
mod check;
mod contexts;
mod copy_step;
mod devices;
mod emulation;
mod executor;
mod finish;
mod image;
mod inputs;
mod mask;
mod plan;
mod platform;
mod remote_step;
mod request;
mod run_container;
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
#[cfg(test)]
pub(crate) use plan::platform_args;
pub use platform::parse_platform;
pub use request::{
    Allowed, AllowedDevices, BuildRequest, BuildResult, Builder, Context, DockerfileSource, Image,
    NamedContext, Pull, Secret, StepNetwork, StepReport,
};
pub use transfer::{CachePlace, CacheTarget};

/// What helps when variables leave nothing of a word.
const UNSET: &str = "give its variable a value by ARG, ENV or --build-arg, or a default: ${NAME:-value}";
