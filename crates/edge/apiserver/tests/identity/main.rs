//! Who may ask for what: nodes, bootstrap tokens, certificates, tokens of other issuers; what is written down of requests,
//! and what is kept secret.

#![allow(clippy::unwrap_used)] // a test

#[path = "../support/mod.rs"]
#[allow(dead_code, reason = "shared with the other tests of the server")]
mod support;

mod audit;
mod certificates;
mod encryption;
mod fairness;
mod issuers;
mod nodes;
mod tokens;
