//! What may change in a pod: images, the deadline, further tolerations, fewer scheduling gates.

use serde_json::{Map, Value};

use crate::table::tree;
use crate::validate::field::{Errors, Field};

/// The text for any other change, up to the list of changes.
const FORBIDDEN: &str = "pod updates may not change fields other than `spec.containers[*].image`,`spec.initContainers[*].image`,`spec.activeDeadlineSeconds`,`spec.tolerations` (only additions to existing tolerations),`spec.terminationGracePeriodSeconds` (allow it to be set to 1 if it was previously negative)";

/// Checks the change of a pod.
pub(in crate::validate) fn update(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (new, old) = (new.child("spec"), old.child("spec"));
    for list in ["containers", "initContainers"] {
        if new.child(list).len() != old.child(list).len() {
            errors.push(new.child(list).forbidden("pod updates may not add or remove containers"));
            return;
        }
    }
    if !deadline(&new, &old, errors) {
        return;
    }
    tolerations(&new, &old, errors);
    gates(&new, &old, errors);
    let (wanted, kept) = (fixed_part(new.value(), old.value()), fixed_part(old.value(), old.value()));
    if wanted != kept {
        errors.push(new.forbidden(format!("{FORBIDDEN}\n{}", changes(&kept, &wanted))));
    }
}

/// The deadline may come nearer. Says whether the rest is worth checking.
fn deadline(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) -> bool {
    let field = new.child("activeDeadlineSeconds");
    let before = old.at("/activeDeadlineSeconds").as_i64();
    match (field.value().as_i64(), before) {
        (Some(after), Some(before)) if after > before => {
            errors.push(field.invalid("must be less than or equal to previous value"));
            false
        }
        (None, Some(_)) => {
            errors
                .push(field.invalid_as(Value::Null, "must not update from a positive integer to nil value"));
            true
        }
        _ => true,
    }
}

/// Every old toleration must still be there; only its seconds may differ.
fn tolerations(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let without_seconds = |toleration: &Value| {
        let mut copy = toleration.clone();
        tree::remove(&mut copy, "tolerationSeconds");
        copy
    };
    let kept: Vec<Value> = new.list_at("/tolerations").iter().map(without_seconds).collect();
    if !old.list_at("/tolerations").iter().all(|toleration| kept.contains(&without_seconds(toleration))) {
        let message = "existing toleration can not be modified except its tolerationSeconds";
        errors.push(new.child("tolerations").forbidden(message));
    }
}

/// Gates may only go away.
fn gates(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let before = old.list_at("/schedulingGates");
    if new.list_at("/schedulingGates").iter().any(|gate| !before.contains(gate)) {
        let message = "only deletion is allowed, but found new scheduling gate";
        errors.push(new.child("schedulingGates").forbidden(message));
    }
}

/// The spec with what may change set to the old values, and without nulls.
fn fixed_part(spec: &Value, old: &Value) -> Value {
    let mut fixed = spec.clone();
    for list in ["containers", "initContainers"] {
        let images: Vec<Value> =
            tree::list(old, &format!("/{list}")).iter().map(|c| tree::at(c, "/image").clone()).collect();
        let containers = fixed.get_mut(list).and_then(Value::as_array_mut);
        for (container, image) in containers.into_iter().flatten().zip(images) {
            tree::set(container, "image", image);
        }
    }
    for key in ["activeDeadlineSeconds", "tolerations", "schedulingGates"] {
        take_from(&mut fixed, old, key);
    }
    let grace = |spec: &Value| tree::int(spec, "/terminationGracePeriodSeconds");
    if grace(old) < 0 && grace(spec) == 1 {
        take_from(&mut fixed, old, "terminationGracePeriodSeconds");
    }
    if !tree::list(old, "/schedulingGates").is_empty() {
        // A pod that is held back may still be narrowed down to fewer nodes.
        take_from(&mut fixed, old, "nodeSelector");
        take_from(&mut fixed, old, "affinity");
    }
    if let Some(fields) = fixed.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
    }
    fixed
}

fn take_from(fixed: &mut Value, old: &Value, key: &str) {
    match old.get(key) {
        Some(value) => tree::set(fixed, key, value.clone()),
        None => {
            tree::remove(fixed, key);
        }
    }
}

/// The fields that differ, one a line: `  nodeName: "a" -> "b"`.
fn changes(old: &Value, new: &Value) -> String {
    let empty = Map::new();
    let (old, new) = (old.as_object().unwrap_or(&empty), new.as_object().unwrap_or(&empty));
    let mut lines = Vec::new();
    for key in old.keys().chain(new.keys().filter(|key| !old.contains_key(*key))) {
        let (before, after) = (old.get(key).unwrap_or(&Value::Null), new.get(key).unwrap_or(&Value::Null));
        if before != after {
            lines.push(format!("  {key}: {before} -> {after}"));
        }
    }
    lines.join("\n")
}
