//! The OCI registry, the client of other registries, and the Docker Engine API.

pub mod client;
pub mod docker;
pub mod registry;
