//! The Kubernetes API as data: resource table, run-time schema, codecs, patches, validation.
//!
//! This room knows no store, no HTTP and no clock; every function is pure.

pub mod admission;
pub mod codec;
pub mod convert;
pub mod crd;
pub mod defaults;
pub mod meta;
pub mod patch;
pub mod resource;
pub mod schema;
pub mod selector;
pub mod status;
pub mod table;
pub mod validate;
