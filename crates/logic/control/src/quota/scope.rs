//! Scopes: which objects a quota speaks of.

use serde_json::Value;

use super::{Pod, QuotaSpec, ScopeRequirement};

/// Whether a quota has scopes at all.
pub(super) fn scoped(spec: &QuotaSpec) -> bool {
    !spec.scopes.is_empty() || spec.scope_selector.as_ref().is_some_and(|s| !s.match_expressions.is_empty())
}

pub(super) fn matches_pod(spec: &QuotaSpec, pod: &Pod) -> bool {
    all(spec, |scope, requirement| match scope {
        "Terminating" => pod.has_deadline(),
        "NotTerminating" => !pod.has_deadline(),
        "BestEffort" => pod.best_effort(),
        "NotBestEffort" => !pod.best_effort(),
        "PriorityClass" => {
            let class = pod.spec.priority_class_name.as_str();
            names_match(requirement, Some(class).filter(|class| !class.is_empty()).as_slice())
        }
        "CrossNamespacePodAffinity" => pod.reaches_other_namespaces(),
        _ => false,
    })
}

pub(super) fn matches_claim(spec: &QuotaSpec, claim: &Value) -> bool {
    let pointers = [
        "/spec/volumeAttributesClassName",
        "/status/currentVolumeAttributesClassName",
        "/status/modifyVolumeStatus/targetVolumeAttributesClassName",
    ];
    let classes: Vec<&str> = pointers
        .iter()
        .filter_map(|pointer| claim.pointer(pointer).and_then(Value::as_str))
        .filter(|class| !class.is_empty())
        .collect();
    all(spec, |scope, requirement| scope == "VolumeAttributesClass" && names_match(requirement, &classes))
}

/// Whether every scope holds; a plain scope is one with the operator `Exists`.
fn all(spec: &QuotaSpec, holds: impl Fn(&str, Option<&ScopeRequirement>) -> bool) -> bool {
    let requirements = spec.scope_selector.iter().flat_map(|selector| &selector.match_expressions);
    spec.scopes.iter().all(|scope| holds(scope, None))
        && requirements.into_iter().all(|requirement| holds(&requirement.scope_name, Some(requirement)))
}

/// Whether one of an object's names, or their absence, satisfies a requirement.
fn names_match(requirement: Option<&ScopeRequirement>, names: &[&str]) -> bool {
    let Some(requirement) = requirement else { return !names.is_empty() };
    let listed = |name: &&str| requirement.values.iter().any(|value| value == name);
    match requirement.operator.as_str() {
        "In" => names.iter().any(listed),
        "NotIn" => names.is_empty() || names.iter().any(|name| !listed(name)),
        "Exists" => !names.is_empty(),
        "DoesNotExist" => names.is_empty(),
        _ => false,
    }
}
