//! Metadata: names, labels, annotations, owners, finalizers, and what the server wrote.

use serde_json::json;

use super::field::{Errors, Field};
use super::names::{self, Rule};
use super::values;
use crate::table::tree;

/// How many bytes all annotations together may have.
const ANNOTATIONS_LIMIT: usize = 256 << 10;
/// Fields that stay what they were.
const IMMUTABLE: [&str; 6] =
    ["name", "namespace", "uid", "creationTimestamp", "deletionTimestamp", "deletionGracePeriodSeconds"];

/// Checks the metadata of a new object.
pub(super) fn create(root: &Field<'_>, rule: Rule, errors: &mut Errors) {
    let metadata = root.child("metadata");
    let generate = metadata.child("generateName");
    if !generate.text().is_empty() {
        let wrong = names::prefix(rule, generate.text());
        errors.extend(wrong.into_iter().map(|message| generate.invalid(message)));
    }
    let name = metadata.child("name");
    if name.text().is_empty() {
        errors.push(name.required("name or generateName is required"));
    } else {
        values::named(&name, rule, errors);
    }
    values::optionally_named(&metadata.child("namespace"), names::dns_label, errors);
    values::nonnegative(&metadata, &["generation"], errors);
    finalizers(&metadata.child("finalizers"), errors);
    common(&metadata, errors);
}

/// Checks the metadata of the new form of an object.
pub(super) fn update(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (new, old) = (new.child("metadata"), old.child("metadata"));
    if old.has("/deletionTimestamp") {
        no_new_finalizers(&new.child("finalizers"), &old.child("finalizers"), errors);
    }
    let generation = new.child("generation");
    if new.int_at("/generation") < old.int_at("/generation") {
        errors.push(generation.invalid("must not be decremented"));
    }
    for key in IMMUTABLE {
        values::immutable(&new.child(key), &old.child(key), errors);
    }
    finalizers(&new.child("finalizers"), errors);
    common(&new, errors);
}

fn common(metadata: &Field<'_>, errors: &mut Errors) {
    values::labels(&metadata.child("labels"), errors);
    annotations(&metadata.child("annotations"), errors);
    owners(&metadata.child("ownerReferences"), errors);
}

/// The keys, and the size of all together.
pub(super) fn annotations(field: &Field<'_>, errors: &mut Errors) {
    let mut size = 0;
    for (key, value) in field.entries() {
        let wrong = names::qualified_name(&key.to_lowercase());
        errors.extend(wrong.into_iter().map(|message| field.invalid_as(key, message)));
        size += key.len() + value.text().len();
    }
    if size > ANNOTATIONS_LIMIT {
        errors.push(field.too_long(ANNOTATIONS_LIMIT));
    }
}

fn owners(field: &Field<'_>, errors: &mut Errors) {
    let mut controller: Option<String> = None;
    for owner in field.items() {
        owner_reference(field, owner.value(), errors);
        if !owner.flag_at("/controller") {
            continue;
        }
        let name = format!("{}/{}", owner.text_at("/kind"), owner.text_at("/name"));
        match &controller {
            None => controller = Some(name),
            Some(first) => errors.push(field.invalid(format!(
                "Only one reference can have Controller set to true. Found \"true\" in references for {first} and {name}"
            ))),
        }
    }
}

/// One owner; the path is that of the list, as upstream's is.
fn owner_reference(list: &Field<'_>, owner: &serde_json::Value, errors: &mut Errors) {
    let version = tree::text(owner, "/apiVersion");
    let is_versioned = version.rsplit('/').next().is_some_and(|version| !version.is_empty());
    if !is_versioned {
        errors.push(list.child("apiVersion").invalid_as(version, "version must not be empty"));
    }
    for key in ["kind", "name", "uid"] {
        if owner.get(key).and_then(serde_json::Value::as_str).unwrap_or_default().is_empty() {
            errors.push(list.child(key).invalid_as("", "must not be empty"));
        }
    }
    if version == "v1" && tree::text(owner, "/kind") == "Event" {
        errors.push(list.invalid_as(owner.clone(), "/v1, Kind=Event is disallowed from being an owner"));
    }
}

fn finalizers(field: &Field<'_>, errors: &mut Errors) {
    let has = |name: &str| field.list_at("").contains(&json!(name));
    for finalizer in field.items() {
        let wrong = names::qualified_name(finalizer.text());
        errors.extend(wrong.into_iter().map(|message| field.invalid_as(finalizer.text(), message)));
    }
    if has("orphan") && has("foregroundDeletion") {
        errors.push(field.invalid("finalizer orphan and foregroundDeletion cannot be both set"));
    }
}

/// An object that is being deleted gets no further finalizers.
fn no_new_finalizers(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let mut added: Vec<String> = new
        .list_at("")
        .iter()
        .filter(|finalizer| !old.list_at("").contains(finalizer))
        .map(|finalizer| finalizer.to_string())
        .collect();
    if added.is_empty() {
        return;
    }
    added.sort();
    errors.push(new.forbidden(format!(
        "no new finalizers can be added if the object is being deleted, found new finalizers []string{{{}}}",
        added.join(", ")
    )));
}
