//! Limits on what others do: disruption budgets, quotas, limit ranges, priorities.

use std::collections::{BTreeMap, BTreeSet};

use serde_json::json;
use wharf_base::Quantity;

use super::field::{Errors, Field};
use super::{names, values};

/// The highest priority a user may define.
const HIGHEST_PRIORITY: i64 = 1_000_000_000;

/// A PodDisruptionBudget.
pub(super) fn budget(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    if spec.has("/minAvailable") && spec.has("/maxUnavailable") {
        errors.push(spec.invalid("minAvailable and maxUnavailable cannot be both set"));
    }
    for key in ["minAvailable", "maxUnavailable"] {
        let bound = spec.child(key);
        values::int_or_percent(&bound, errors);
        values::at_most_all(&bound, errors);
    }
    values::selector(&spec.child("selector"), errors);
    let policies = ["AlwaysAllow", "IfHealthyBudget"];
    values::optionally_one_of(&spec.child("unhealthyPodEvictionPolicy"), &policies, errors);
}

/// A ResourceQuota.
pub(super) fn quota(root: &Field<'_>, errors: &mut Errors) {
    const SCOPES: [&str; 7] = [
        "BestEffort",
        "CrossNamespacePodAffinity",
        "NotBestEffort",
        "NotTerminating",
        "PriorityClass",
        "Terminating",
        "VolumeAttributesClass",
    ];
    let spec = root.child("spec");
    let hard = spec.child("hard");
    for (name, amount) in hard.entries() {
        let wrong = names::qualified_name(name);
        errors.extend(wrong.into_iter().map(|message| amount.invalid_as(name, message)));
        values::nonnegative_quantity(&amount, errors);
    }
    let scopes = spec.child("scopes");
    for scope in scopes.items() {
        if !SCOPES.contains(&scope.text()) {
            errors.push(scopes.invalid("unsupported scope"));
        }
    }
    let held: BTreeSet<&str> = scopes.list_at("").iter().filter_map(|scope| scope.as_str()).collect();
    for (one, other) in [("BestEffort", "NotBestEffort"), ("Terminating", "NotTerminating")] {
        if held.contains(one) && held.contains(other) {
            errors.push(scopes.invalid("conflicting scopes"));
        }
    }
}

/// The scopes of a quota stay what they were.
pub(super) fn update_quota(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let (new, old) = (new.child("spec"), old.child("spec"));
    values::immutable(&new.child("scopes"), &old.child("scopes"), errors);
}

/// A LimitRange.
pub(super) fn limit_range(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    let mut seen = BTreeSet::new();
    for limit in spec.child("limits").items() {
        let type_ = limit.child("type");
        values::named(&type_, names::qualified_name, errors);
        if !seen.insert(type_.text().to_owned()) {
            errors.push(type_.duplicate());
        }
        if type_.text() == "Pod" {
            for key in ["default", "defaultRequest"] {
                if !limit.child(key).is_empty() {
                    errors.push(limit.child(key).forbidden("may not be specified when `type` is 'Pod'"));
                }
            }
        }
        if type_.text() == "PersistentVolumeClaim" && !limit.has("/min/storage") && !limit.has("/max/storage")
        {
            let message = "either minimum or maximum storage value is required, but neither was provided";
            errors.push(limit.child("limits").required(message));
        }
        bounds_in_order(&limit, errors);
    }
}

/// Pairs of bounds of which the first may not be above the second: fields and the words for them, and which of
/// the two fields is to blame.
const ORDER: [(&str, &str, &str, &str, &str); 6] = [
    ("min", "max", "min value", "max value", "min"),
    ("min", "defaultRequest", "min value", "default request value", "defaultRequest"),
    ("defaultRequest", "max", "default request value", "max value", "defaultRequest"),
    ("defaultRequest", "default", "default request value", "default limit value", "defaultRequest"),
    ("min", "default", "min value", "default value", "default"),
    ("default", "max", "default value", "max value", "default"),
];

fn bounds_in_order(limit: &Field<'_>, errors: &mut Errors) {
    let mut bounds: BTreeMap<(&str, String), Quantity> = BTreeMap::new();
    let mut resources: BTreeSet<String> = BTreeSet::new();
    for key in ["min", "max", "default", "defaultRequest", "maxLimitRequestRatio"] {
        let amounts = limit.child(key);
        for (resource, amount) in amounts.entries() {
            if let Some(quantity) = values::quantity(&amount, errors) {
                bounds.insert((key, resource.to_owned()), quantity);
                resources.insert(resource.to_owned());
            }
        }
    }
    for resource in resources {
        let bound = |key: &'static str| bounds.get(&(key, resource.clone())).copied();
        for (low, high, low_words, high_words, blamed) in ORDER {
            if let (Some(least), Some(most)) = (bound(low), bound(high))
                && least > most
            {
                let message = format!("{low_words} {least} is greater than {high_words} {most}");
                let field = limit.child(blamed);
                let value = bound(blamed).map(|quantity| quantity.to_string());
                errors.push(field.key(&resource).invalid_as(json!(value), message));
            }
        }
        if let Some(ratio) = bound("maxLimitRequestRatio")
            && ratio < Quantity::from_units(1)
        {
            let field = limit.child("maxLimitRequestRatio");
            let message = format!("ratio {ratio} is less than 1");
            errors.push(field.key(&resource).invalid_as(ratio.to_string(), message));
        }
    }
}

/// A PriorityClass.
pub(super) fn priority_class(root: &Field<'_>, errors: &mut Errors) {
    const SYSTEM: [(&str, i64); 2] =
        [("system-node-critical", 2_000_001_000), ("system-cluster-critical", 2_000_000_000)];
    let (name, value) = (root.text_at("/metadata/name"), root.int_at("/value"));
    if name.starts_with("system-") {
        if !SYSTEM.contains(&(name, value)) {
            let metadata = root.child("metadata");
            errors.push(metadata.child("name").forbidden(format!(
                "priority class names with 'system-' prefix are reserved for system use only. error: {name} is not a known system priority class"
            )));
        }
    } else if value > HIGHEST_PRIORITY {
        let message = format!("maximum allowed value of a user defined priority is {HIGHEST_PRIORITY}");
        errors.push(root.child("value").forbidden(message));
    }
    let policies = ["PreemptLowerPriority", "Never"];
    values::optionally_one_of(&root.child("preemptionPolicy"), &policies, errors);
}

/// The priority of a class stays what it was.
pub(super) fn update_priority_class(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    if new.int_at("/value") != old.int_at("/value") {
        errors.push(new.child("value").forbidden("may not be changed in an update."));
    }
    values::immutable(&new.child("preemptionPolicy"), &old.child("preemptionPolicy"), errors);
}
