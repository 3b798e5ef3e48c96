//! What the API server fills in: defaults of built-in kinds, and what create and update do to an object.
//!
//! A constant default is a row (`path = value`) of a kind in [`kinds`]; code is only for defaults that depend on
//! other fields. [`apply`] is repeatable: applying it twice changes nothing more. Defaults of custom resources
//! come from their schema, not from here.
//! Source: Kubernetes API reference, fields' documented defaults; checked against kube-apiserver 1.36.

mod apps;
mod batch;
mod extend;
mod image;
mod kinds;
mod network;
mod pod;
mod qos;
mod row;
mod storage;
mod strategy;

#[cfg(test)]
mod tests;

use serde_json::Value;

pub use strategy::{
    prepare_certificate_request, prepare_custom_for_create, prepare_custom_for_status_update,
    prepare_custom_for_update, prepare_for_create, prepare_for_part_update, prepare_for_status_update,
    prepare_for_update,
};

/// Where a built-in kind has the spec of its pods, as a JSON pointer.
pub fn pod_spec(group: &str, version: &str, kind: &str) -> Option<&'static str> {
    kinds::of(group, version, kind).find_map(|defaults| defaults.pod_spec)
}

/// The class a pod's resources come to (`status.qosClass`).
pub(crate) fn qos_class(pod: &Value) -> &'static str {
    qos::class(pod)
}

/// Fills in the defaults of a built-in kind. Other kinds are left as they are.
pub fn apply(group: &str, version: &str, kind: &str, object: &mut Value) {
    for defaults in kinds::of(group, version, kind) {
        defaults.apply(object);
    }
}
