//! Node agent: pods, probes, volumes, resources, eviction.
