//! Volumes, claims and storage classes.

use serde_json::Value;
use wharf_base::Quantity;

use super::field::{Errors, Field};
use super::{names, values};
use crate::table::tree;

const ACCESS_MODES: [&str; 4] = ["ReadOnlyMany", "ReadWriteMany", "ReadWriteOnce", "ReadWriteOncePod"];
const VOLUME_MODES: [&str; 2] = ["Block", "Filesystem"];
/// Fields of a volume's spec that are not its source.
const NOT_SOURCES: [&str; 9] = [
    "accessModes",
    "capacity",
    "claimRef",
    "mountOptions",
    "nodeAffinity",
    "persistentVolumeReclaimPolicy",
    "storageClassName",
    "volumeAttributesClassName",
    "volumeMode",
];

/// A PersistentVolume.
pub(super) fn volume(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    access_modes(&spec.child("accessModes"), "", errors);
    let capacity = spec.child("capacity");
    if capacity.is_empty() {
        errors.push(capacity.required(""));
    }
    if !spec.has("/capacity/storage") || capacity.len() > 1 {
        errors.push(capacity.not_supported(&["storage"]));
    }
    for (_, amount) in capacity.entries() {
        values::positive_quantity(&amount, errors);
    }
    let policies = ["Delete", "Recycle", "Retain"];
    values::optionally_one_of(&spec.child("persistentVolumeReclaimPolicy"), &policies, errors);
    volume_source(&spec, errors);
    values::optionally_named(&spec.child("storageClassName"), names::dns_subdomain, errors);
    values::optionally_one_of(&spec.child("volumeMode"), &VOLUME_MODES, errors);
}

/// Exactly one source.
fn volume_source(spec: &Field<'_>, errors: &mut Errors) {
    let mut has_source = false;
    for (key, _) in spec.entries().filter(|(key, field)| !NOT_SOURCES.contains(key) && field.is_set()) {
        if has_source {
            errors.push(spec.child(key).forbidden("may not specify more than 1 volume type"));
        }
        has_source = true;
    }
    if !has_source {
        errors.push(spec.required("must specify a volume type"));
    }
    let path = spec.text_at("/hostPath/path");
    let host_path = spec.child("hostPath");
    if host_path.is_set() && path.is_empty() {
        errors.push(host_path.child("path").required(""));
    }
}

/// The source and the mode of a volume stay what they were.
pub(super) fn update_volume(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (new, old) = (new.child("spec"), old.child("spec"));
    let source = |spec: &Field<'_>| {
        let mut copy = spec.value().clone();
        for key in NOT_SOURCES {
            tree::remove(&mut copy, key);
        }
        copy
    };
    if source(&new) != source(&old) {
        errors.push(
            new.child("persistentvolumesource")
                .forbidden("spec.persistentvolumesource is immutable after creation"),
        );
    }
    if new.at("/volumeMode") != old.at("/volumeMode") {
        errors.push(super::FieldError {
            field: "volumeMode".to_owned(),
            ..new.child("volumeMode").invalid(values::IMMUTABLE)
        });
    }
}

/// A PersistentVolumeClaim.
pub(super) fn claim(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    access_modes(&spec.child("accessModes"), "at least 1 access mode is required", errors);
    values::selector(&spec.child("selector"), errors);
    let resources = spec.child("resources");
    let requests = resources.child("requests");
    let storage = requests.child("storage");
    if storage.is_set() {
        values::positive_quantity(&storage, errors);
    } else {
        errors.push(resources.key("storage").required(""));
    }
    values::optionally_named(&spec.child("storageClassName"), names::dns_subdomain, errors);
    values::optionally_one_of(&spec.child("volumeMode"), &VOLUME_MODES, errors);
}

fn access_modes(modes: &Field<'_>, missing: &str, errors: &mut Errors) {
    if modes.is_empty() {
        errors.push(modes.required(missing));
    }
    for mode in modes.items().filter(|mode| !ACCESS_MODES.contains(&mode.text())) {
        let error = mode.not_supported(&ACCESS_MODES);
        errors.push(super::FieldError { field: modes.path(), ..error });
    }
    let is_exclusive = |mode: &Value| mode.as_str() == Some("ReadWriteOncePod");
    let list = modes.list_at("");
    if list.iter().any(is_exclusive) && !list.iter().all(is_exclusive) {
        errors.push(modes.forbidden("may not use ReadWriteOncePod with other access modes"));
    }
}

/// A claim may only be bound, and grow while it is.
pub(super) fn update_claim(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let is_bound = new.text_at("/status/phase") == "Bound";
    let (spec, before) = (new.child("spec"), old.child("spec"));
    if fixed_part(&spec, &before, is_bound) != fixed_part(&before, &before, is_bound) {
        errors.push(spec.forbidden(
            "spec is immutable after creation except resources.requests and volumeAttributesClassName for bound claims",
        ));
    }
    let size = |value: &Value| tree::scalar(value).parse::<Quantity>().unwrap_or(Quantity::ZERO);
    let (wanted, had) =
        (size(spec.at("/resources/requests/storage")), size(before.at("/resources/requests/storage")));
    if wanted < had && wanted <= size(old.at("/status/capacity/storage")) {
        let resources = spec.child("resources");
        let requests = resources.child("requests");
        errors.push(requests.child("storage").forbidden("field can not be less than status.capacity"));
    }
}

/// The spec with what may change set to the old values.
fn fixed_part(spec: &Field<'_>, old: &Field<'_>, is_bound: bool) -> Value {
    let mut fixed = spec.value().clone();
    if old.text_at("/volumeName").is_empty() {
        tree::remove(&mut fixed, "volumeName");
    }
    if !old.has("/storageClassName") {
        tree::remove(&mut fixed, "storageClassName");
    }
    if is_bound {
        tree::remove(&mut fixed, "volumeAttributesClassName");
        if let Some(requests) = fixed.pointer_mut("/resources/requests") {
            tree::remove(requests, "storage");
        }
    }
    fixed
}

/// A StorageClass.
pub(super) fn class(root: &Field<'_>, errors: &mut Errors) {
    let provisioner = root.child("provisioner");
    if provisioner.text().is_empty() {
        errors.push(provisioner.required(""));
    } else {
        let wrong = names::qualified_name(&provisioner.text().to_lowercase());
        errors.extend(wrong.into_iter().map(|message| provisioner.invalid(message)));
    }
    values::optionally_one_of(&root.child("reclaimPolicy"), &["Delete", "Retain"], errors);
    let binding = root.child("volumeBindingMode");
    if binding.is_set() {
        values::one_of(&binding, &["Immediate", "WaitForFirstConsumer"], errors);
    } else {
        errors.push(binding.required(""));
    }
}

/// What may not change in a StorageClass.
pub(super) fn update_class(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    for (key, message) in [
        ("parameters", "updates to parameters are forbidden."),
        ("provisioner", "updates to provisioner are forbidden."),
        ("reclaimPolicy", "updates to reclaimPolicy are forbidden."),
    ] {
        let field = new.child(key);
        if field.value() != old.child(key).value() {
            errors.push(field.forbidden(message));
        }
    }
    values::immutable(&new.child("volumeBindingMode"), &old.child("volumeBindingMode"), errors);
}
