//! Tempo's query API.
