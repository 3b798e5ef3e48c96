//! Prometheus' HTTP API.
