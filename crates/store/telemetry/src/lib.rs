//! Metrics, logs and traces: ingest, compress, index, query.
//!
//! It knows nothing of HTTP, of Kubernetes objects or of who scrapes what.

mod blocks;
pub mod logs;
pub mod metrics;
pub mod promql;
pub mod traces;
