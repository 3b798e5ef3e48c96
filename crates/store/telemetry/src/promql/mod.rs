//! PromQL: parse and evaluate.
