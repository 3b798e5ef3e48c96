//! The OCI registry and the Docker Engine API.
