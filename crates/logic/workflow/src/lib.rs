//! Workflow YAML and expressions to a job graph and run state.
//!
//! Everything here is pure: text in, decisions out. It knows no repository, container, clock or API object; the CI
//! loop reads files, runs steps and stores what is decided here.

pub mod command;
pub mod expr;
pub mod filter;
mod mask;
pub mod model;
mod places;
mod problem;
mod read;
pub mod run;
mod yaml;

pub use mask::Masker;
pub use places::Places;
pub use problem::{Position, Problem, Problems};
pub use read::{SHELL_HINT, is_shell, read_action, read_workflow};
