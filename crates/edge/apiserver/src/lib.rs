//! The Kubernetes API server: discovery, watch cache, admission, authentication, streaming.
