//! Dockerfiles: text to stages of instructions, each with its place. Pure: no file is read, nothing is run.

mod instruction;
mod lines;
mod lint;
mod mount;
mod stages;
mod substitute;
#[cfg(test)]
mod tests;
mod words;

pub use instruction::{Command, Copy, From, Heredoc, Instruction, Kind, Network, Run};
pub(crate) use lint::{Checks, Facts, lint, skip_by_instruction, wanted};
pub use mount::{Expand, Mount, MountKind, Sharing, parse_mount};
pub use stages::{Dockerfile, Stage, Warning};
pub use substitute::{Expanded, Expander};
