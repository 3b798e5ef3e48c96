//! From changes to the keys of the objects they concern.

use serde_json::Value;
use wharf_client::{Change, Object};
use wharf_control::meta::Labels;

/// The changed object itself.
pub(crate) fn own(change: &Change) -> Vec<String> {
    vec![change.key.clone()]
}

/// The namespace in a key.
pub(crate) fn namespace(key: &str) -> &str {
    key.split_once('/').map_or("", |(namespace, _)| namespace)
}

/// The name in a key.
pub(crate) fn name(key: &str) -> &str {
    key.split_once('/').map_or(key, |(_, name)| name)
}

/// The object before and after a change.
pub(crate) fn both(change: &Change) -> impl Iterator<Item = &Object> {
    change.old.iter().chain(&change.new)
}

/// A text inside an object; empty when it is not there.
pub(crate) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// The controller of an object, when it has this kind, as a key.
pub(crate) fn controller(object: &Value, kind: &str) -> Option<String> {
    let owner = controller_of(object)?;
    let namespace = text(object, "/metadata/namespace");
    (owner.get("kind")? == kind).then(|| format!("{namespace}/{}", text(owner, "/name")))
}

/// Whether nobody manages an object.
pub(crate) fn unmanaged(object: &Value) -> bool {
    controller_of(object).is_none()
}

fn controller_of(object: &Value) -> Option<&Value> {
    let owners = object.pointer("/metadata/ownerReferences").and_then(Value::as_array)?;
    owners.iter().find(|owner| owner.get("controller") == Some(&Value::Bool(true)))
}

/// The controllers of this kind an object had and has.
pub(crate) fn controllers(change: &Change, kind: &str) -> Vec<String> {
    let mut keys: Vec<String> = both(change).filter_map(|object| controller(object, kind)).collect();
    keys.dedup();
    keys
}

/// The labels of an object.
pub(crate) fn labels(object: &Value) -> Labels {
    let labels = object.pointer("/metadata/labels").and_then(Value::as_object);
    let pairs = labels.into_iter().flatten();
    pairs.filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect()
}

/// Whether the values at one of `pointers` differ before and after a change.
pub(crate) fn differs(change: &Change, pointers: &[&str]) -> bool {
    let (Some(old), Some(new)) = (&change.old, &change.new) else { return true };
    pointers.iter().any(|pointer| old.pointer(pointer) != new.pointer(pointer))
}
