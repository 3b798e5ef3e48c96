//! The Kubernetes API as its clients see it: requests, informers and work queues.
//!
//! Every loop, the node agent, the proxy and the console talk to the API through a [`Client`]. Inside the platform it
//! enters the API server's pipeline by function call; with a kubeconfig the same code serves another cluster. This
//! room does not know which of the two it talks to, nor what any object means.

mod client;
mod error;
mod informer;
mod queue;

pub use client::{Client, InProcess, List, ListParams, Response};
pub use error::{Error, Result};
pub use informer::{Change, Informer, Object, object_key};
pub use queue::{Queue, Retry};
pub use wharf_control::action::Gvr;
pub use wharf_control::{PatchKind, action};
