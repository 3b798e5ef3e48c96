//! Workflow YAML and expressions to a job graph and run state.
//!
//! Everything here is pure: text in, decisions out. It knows no repository, container, clock or API object; the CI
//! loop reads files, runs steps and stores what is decided here.

pub mod expr;
