//! Loki's push and query API.
