//! When an image is pulled, unless the user says so.

use serde_json::Value;

/// `Always` for images that may change under their name (no tag, or `latest`), else `IfNotPresent`.
pub(super) fn pull_policy(reference: &str) -> Value {
    Value::from(if tag(reference) == Some("latest") { "Always" } else { "IfNotPresent" })
}

/// The tag of an image reference; `latest` when it has neither tag nor digest.
fn tag(reference: &str) -> Option<&str> {
    let (name, digest) = match reference.split_once('@') {
        Some((name, digest)) => (name, Some(digest)),
        None => (reference, None),
    };
    let last = name.rsplit('/').next().unwrap_or(name);
    match last.split_once(':') {
        Some((_, tag)) => Some(tag),
        None if digest.is_none() && !last.is_empty() => Some("latest"),
        None => None,
    }
}
