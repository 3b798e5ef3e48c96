//! The state store in an etcd, 3.4 or later.
//!
//! Revisions are etcd's own; keys stand under a prefix, beside those of others. One watch feeds all subscribers, and a
//! writer hears once it has brought what was written. It does not know what keys or values mean.

mod address;
mod compact;
mod feed;
mod grpc;
mod owner;
mod pages;
mod store;
mod txn;
pub mod v3;

pub use address::{AddressError, Config, Endpoint, Tls};
pub use grpc::{Failure, Frames, code};
pub use store::Etcd;
