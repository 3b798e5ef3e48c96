//! Namespaces, nodes and leases.

use super::field::{Errors, Field};
use super::{ingress, names, pod, values};

/// A Namespace.
pub(super) fn namespace(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let finalizers = spec.child("finalizers");
    for finalizer in finalizers.items() {
        let name = finalizer.text();
        let wrong = names::qualified_name(name);
        errors.extend(wrong.into_iter().map(|message| finalizers.invalid_as(name, message)));
        if !name.contains('/') && name != "kubernetes" {
            let message = "name is neither a standard finalizer name nor is it fully qualified";
            errors.push(finalizers.invalid_as(name, message));
        }
    }
}

/// A Node.
pub(super) fn node(root: &Field<'_>, errors: &mut Errors) {
    let (metadata, spec, status) = (root.child("metadata"), root.child("spec"), root.child("status"));
    let taints = spec.child("taints");
    let mut wrong = Errors::new();
    pod::taints(&taints, &mut wrong);
    // Upstream's path is metadata.taints.
    let [ours, theirs] = [taints.path(), metadata.child("taints").path()];
    for error in &mut wrong {
        error.field = error.field.replacen(&ours, &theirs, 1);
    }
    errors.append(&mut wrong);
    for range in spec.child("podCIDRs").items() {
        ingress::cidr(&range, errors);
    }
    for key in ["capacity", "allocatable"] {
        let amounts = status.child(key);
        for (_, amount) in amounts.entries() {
            values::nonnegative_quantity(&amount, errors);
        }
    }
}

/// What may not change in a Node.
pub(super) fn update_node(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (new, old) = (new.child("spec"), old.child("spec"));
    let ranges = old.list_at("/podCIDRs");
    if !ranges.is_empty() && ranges != new.list_at("/podCIDRs") {
        let message = "node updates may not change podCIDR except from \"\" to valid";
        errors.push(new.child("podCIDRs").forbidden(message));
    }
    let provider = old.text_at("/providerID");
    if !provider.is_empty() && provider != new.text_at("/providerID") {
        let message = "node updates may not change providerID except from \"\" to valid";
        errors.push(new.child("providerID").forbidden(message));
    }
}

/// A Lease.
pub(super) fn lease(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let duration = spec.child("leaseDurationSeconds");
    if duration.value().as_i64().is_some_and(|seconds| seconds <= 0) {
        errors.push(duration.invalid("must be greater than 0"));
    }
    values::nonnegative(&spec, &["leaseTransitions"], errors);
    if !spec.text_at("/preferredHolder").is_empty() && spec.text_at("/strategy").is_empty() {
        let message = "may only be specified if `strategy` is defined";
        errors.push(spec.child("preferredHolder").forbidden(message));
    }
}
