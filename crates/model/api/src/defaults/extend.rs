//! Conditional defaults of role bindings, webhooks and custom resource definitions.

use serde_json::{Value, json};

use super::row::{self, Fixed, Row};
use crate::table::tree;

/// Users and groups belong to the RBAC group, service accounts to the core group.
pub(super) fn subjects(object: &mut Value) {
    let subjects = object.get_mut("subjects").and_then(Value::as_array_mut);
    for subject in subjects.into_iter().flatten() {
        if matches!(tree::text(subject, "/kind"), "User" | "Group") {
            tree::set_empty(subject, "apiGroup", json!("rbac.authorization.k8s.io"));
        }
    }
}

/// What mutating webhooks have beyond validating ones.
pub(super) fn mutating(object: &mut Value) {
    row::apply(&[Row("webhooks[].reinvocationPolicy", Fixed::Text("Never"))], object);
}

/// Names that follow from the kind, and the stored version in the status.
pub(super) fn resource_definition(object: &mut Value) {
    let kind = tree::text(object, "/spec/names/kind").to_owned();
    if let Some(names) = object.pointer_mut("/spec/names")
        && !kind.is_empty()
    {
        tree::set_empty(names, "singular", json!(kind.to_lowercase()));
        tree::set_empty(names, "listKind", json!(format!("{kind}List")));
    }
    if tree::list(object, "/status/storedVersions").is_empty() {
        add_stored_version(object);
    }
}

/// Adds the version that is stored to `status.storedVersions`.
pub(super) fn add_stored_version(object: &mut Value) {
    let versions = tree::list(object, "/spec/versions");
    let Some(stored) = versions.iter().find(|version| tree::flag(version, "/storage")) else { return };
    let name = tree::at(stored, "/name").clone();
    tree::set_missing(object, "status", json!({}));
    let Some(status) = object.get_mut("status") else { return };
    tree::set_missing(status, "storedVersions", json!([]));
    if let Some(list) = status.get_mut("storedVersions").and_then(Value::as_array_mut)
        && !list.contains(&name)
    {
        list.push(name);
    }
}
