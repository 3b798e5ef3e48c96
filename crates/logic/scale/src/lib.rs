//! Metric windows, triggers and forecasts to replicas, as pure functions.
