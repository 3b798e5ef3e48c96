//! The L7 proxy: ingress, weighted backends, golden signals.
