//! The Kubernetes API as data: resource table, run-time schema, codecs, patches, validation.
