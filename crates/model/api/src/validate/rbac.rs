//! Roles and their bindings.

use super::field::{Errors, Field};
use super::{names, values};

const GROUP: &str = "rbac.authorization.k8s.io";

/// A Role.
pub(super) fn role(root: &Field<'_>, errors: &mut Errors) {
    root.child("rules").items().for_each(|rule| policy_rule(&rule, true, errors));
}

/// A ClusterRole.
pub(super) fn cluster_role(root: &Field<'_>, errors: &mut Errors) {
    root.child("rules").items().for_each(|rule| policy_rule(&rule, false, errors));
    let aggregation = root.child("aggregationRule");
    if !aggregation.is_set() {
        return;
    }
    let selectors = aggregation.child("clusterRoleSelectors");
    if selectors.is_empty() {
        errors.push(
            selectors.required("at least one clusterRoleSelector required if aggregationRule is non-nil"),
        );
    }
    selectors.items().for_each(|selector| values::selector(&selector, errors));
}

fn policy_rule(rule: &Field<'_>, is_namespaced: bool, errors: &mut Errors) {
    let (verbs, urls) = (rule.child("verbs"), rule.child("nonResourceURLs"));
    let (groups, resources) = (rule.child("apiGroups"), rule.child("resources"));
    if verbs.is_empty() {
        errors.push(verbs.required("verbs must contain at least one value"));
    }
    if !urls.is_empty() {
        if is_namespaced {
            errors.push(urls.invalid("namespaced rules cannot apply to non-resource URLs"));
        }
        if !groups.is_empty() || !resources.is_empty() || !rule.list_at("/resourceNames").is_empty() {
            errors.push(urls.invalid("rules cannot apply to both regular resources and non-resource URLs"));
        }
        return;
    }
    if groups.is_empty() {
        errors.push(groups.required("resource rules must supply at least one api group"));
    }
    if resources.is_empty() {
        errors.push(resources.required("resource rules must supply at least one resource"));
    }
}

/// A RoleBinding.
pub(super) fn role_binding(root: &Field<'_>, errors: &mut Errors) {
    role_reference(&root.child("roleRef"), &["Role", "ClusterRole"], errors);
    root.child("subjects").items().for_each(|who| subject(&who, true, errors));
}

/// A ClusterRoleBinding.
pub(super) fn cluster_role_binding(root: &Field<'_>, errors: &mut Errors) {
    role_reference(&root.child("roleRef"), &["ClusterRole"], errors);
    root.child("subjects").items().for_each(|who| subject(&who, false, errors));
}

fn role_reference(reference: &Field<'_>, kinds: &[&str], errors: &mut Errors) {
    let group = reference.child("apiGroup");
    if group.text() != GROUP {
        errors.push(group.not_supported(&[GROUP]));
    }
    let kind = reference.child("kind");
    if !kinds.contains(&kind.text()) {
        errors.push(kind.not_supported(kinds));
    }
    values::required_name(&reference.child("name"), names::path_segment, errors);
}

fn subject(subject: &Field<'_>, is_namespaced: bool, errors: &mut Errors) {
    let (name, group, kind) = (subject.child("name"), subject.child("apiGroup"), subject.child("kind"));
    values::required_text(&name, errors);
    match kind.text() {
        "ServiceAccount" => {
            values::optionally_named(&name, names::dns_subdomain, errors);
            if !group.text().is_empty() {
                errors.push(group.not_supported(&[""]));
            }
            if !is_namespaced && subject.text_at("/namespace").is_empty() {
                errors.push(subject.child("namespace").required(""));
            }
        }
        "User" | "Group" => {
            if group.text() != GROUP {
                errors.push(group.not_supported(&[GROUP]));
            }
        }
        _ => errors.push(kind.not_supported(&["ServiceAccount", "User", "Group"])),
    }
}

/// The role of a binding stays what it was.
pub(super) fn update_binding(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let role = new.child("roleRef");
    if role.value() != old.at("/roleRef") {
        errors.push(role.invalid("cannot change roleRef"));
    }
}
