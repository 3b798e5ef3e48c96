//! Runs workflows: a push becomes WorkflowRun objects, a WorkflowRun becomes jobs in containers, and what they say
//! and how they end becomes logs and status.
//!
//! What to do next is decided in `wharf_workflow`; here it is done. Images are built, scanned and reached through
//! traits ([`services`]) the application wires; containers stand behind [`sandbox::Sandboxes`]. This room knows nothing
//! of Dockerfiles, vulnerabilities or the pod network.

mod actions;
pub mod api;
mod beneath;
mod check;
mod controller;
mod hook;
mod job;
mod logs;
mod run;
pub mod sandbox;
mod secrets;
pub mod services;
mod status;
mod wrong;

pub use controller::{Ci, Config};
pub use logs::{LogBook, LogEvent, LogLine, read_log_line};
