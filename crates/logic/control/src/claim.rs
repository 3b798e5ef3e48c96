//! Which objects a controller manages: adoption of orphans its selector matches, release of those
//! it no longer matches.

use serde_json::{Map, Value, json};

use crate::{
    action::{Action, Gvr},
    meta::{Meta, OwnerReference, to_value},
    selector::LabelSelector,
};

/// How an object stands to an owner with a selector.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Claim {
    /// Managed and selected.
    Owned,
    /// Managed by nobody and selected: to be adopted.
    Adopt,
    /// Managed, but no longer selected: to be released.
    Release,
    /// None of the owner's business.
    Ignore,
}

/// How `object` stands to `owner`. An owner under deletion neither adopts nor releases.
pub(crate) fn claim(owner: &Meta, selector: &LabelSelector, object: &Meta) -> Claim {
    let selected = selector.matches(&object.labels);
    match object.controller() {
        Some(controller) if controller.uid != owner.uid => Claim::Ignore,
        Some(_) if selected => Claim::Owned,
        Some(_) if owner.deleting() => Claim::Ignore,
        Some(_) => Claim::Release,
        None if selected && !owner.deleting() && !object.deleting() => Claim::Adopt,
        None => Claim::Ignore,
    }
}

/// Adds `owner` to the owners of `object`.
pub(crate) fn adopt(resource: Gvr, object: &Meta, owner: OwnerReference) -> Action {
    let mut owners = object.owner_references.clone();
    owners.retain(|present| present.uid != owner.uid);
    owners.push(owner);
    object.locked_patch(resource, json!({"metadata": {"ownerReferences": owners}}))
}

/// Takes the owners with these uids from `object`.
pub(crate) fn release(resource: Gvr, object: &Meta, owner_uids: &[&str]) -> Action {
    let kept: Vec<_> =
        object.owner_references.iter().filter(|owner| !owner_uids.contains(&owner.uid.as_str())).collect();
    let owners = if kept.is_empty() { Value::Null } else { to_value(&kept) };
    object.locked_patch(resource, json!({"metadata": {"ownerReferences": owners}}))
}

/// Lets the owners of `object` go before it does.
pub(crate) fn unblock(resource: Gvr, object: &Meta) -> Action {
    let mut owners = object.owner_references.clone();
    owners.iter_mut().for_each(|owner| owner.block_owner_deletion = Some(false));
    object.locked_patch(resource, json!({"metadata": {"ownerReferences": to_value(&owners)}}))
}

/// Takes a finalizer from `object`.
pub(crate) fn drop_finalizer(resource: Gvr, object: &Meta, finalizer: &str) -> Action {
    let kept: Vec<&str> = object.finalizers.iter().map(String::as_str).filter(|f| *f != finalizer).collect();
    let kept = if kept.is_empty() { Value::Null } else { json!(kept) };
    object.locked_patch(resource, json!({"metadata": {"finalizers": kept}}))
}

/// A pod made from a template for `owner`: its labels, annotations, finalizers and spec. The name is
/// left to `generateName`.
pub(crate) fn pod_from_template(
    owner: &Meta,
    owner_ref: &OwnerReference,
    template: &Value,
    prefix: &str,
) -> Value {
    let mut metadata = Map::new();
    for key in ["labels", "annotations", "finalizers"] {
        if let Some(value) = template.pointer(&format!("/metadata/{key}")).filter(|value| !value.is_null()) {
            metadata.insert(key.to_owned(), value.clone());
        }
    }
    metadata.insert("generateName".to_owned(), Value::from(prefix));
    metadata.insert("namespace".to_owned(), Value::from(owner.namespace.as_str()));
    metadata.insert("ownerReferences".to_owned(), json!([owner_ref]));
    json!({
        "apiVersion": "v1",
        "kind": "Pod",
        "metadata": metadata,
        "spec": template.get("spec").cloned().unwrap_or_else(|| json!({})),
    })
}
