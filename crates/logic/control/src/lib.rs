//! Decisions of the Kubernetes controllers, as pure functions.
