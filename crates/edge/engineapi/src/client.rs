//! The client of other registries.
