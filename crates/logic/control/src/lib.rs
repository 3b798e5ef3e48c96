//! Decisions of the Kubernetes controllers, as pure functions: one file per controller, each with
//! `step(view, now) -> Step`.
//!
//! This room knows nothing of clients, caches, clocks or tasks. A runner builds the view of one object
//! from its caches, calls `step`, applies the [`action::Action`]s in their order, and calls again when
//! something in the view changes or `requeue_after` has passed. What it promises:
//!
//! * A view shows this controller's own earlier writes for the same object. `step` therefore never
//!   keeps count of what it has asked for.
//! * A write that conflicts or fails is followed by another `step` on a fresh view, with back-off.
//! * Objects carry the API's defaults, as the API server stores them.

pub mod action;
mod affinity;
pub mod aggregation;
pub mod bootstrap_token;
pub mod certificate;
mod claim;
pub mod condition;
pub mod cronjob;
pub mod daemonset;
pub mod definition;
pub mod deployment;
pub mod disruption;
pub mod endpoints;
pub mod endpointslice;
pub mod endpointslicemirroring;
pub mod events;
pub mod garbage;
pub mod hash;
pub mod history;
pub mod intstr;
pub mod job;
pub mod meta;
pub mod namespace;
pub mod namespace_defaults;
pub mod node_lifecycle;
pub mod pod;
pub mod podgc;
pub mod quota;
pub mod replicaset;
pub mod selector;
pub mod service;
pub mod statefulset;
#[cfg(test)]
mod world;

pub use action::{Action, Event, EventType, Gvr, ObjectRef, PatchKind, Propagation, Step, WriteFailure};
pub use meta::{Meta, OwnerReference, read};
pub use selector::LabelSelector;
