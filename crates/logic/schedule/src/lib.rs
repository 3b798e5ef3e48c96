//! Pods and nodes to bindings, as a pure function.
