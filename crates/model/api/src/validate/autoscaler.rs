//! Horizontal autoscalers: bounds, target, metrics, behavior.

use super::field::{Errors, Field};
use super::{names, values};

/// Where a metric may come from: its type, and the field that describes it.
const SOURCES: [(&str, &str); 5] = [
    ("Object", "object"),
    ("External", "external"),
    ("Pods", "pods"),
    ("Resource", "resource"),
    ("ContainerResource", "containerResource"),
];
const TYPES: [&str; 5] = ["ContainerResource", "External", "Object", "Pods", "Resource"];
const MOST_WINDOW_SECONDS: i64 = 3600;
const MOST_PERIOD_SECONDS: i64 = 1800;

/// A HorizontalPodAutoscaler of any version.
pub(super) fn autoscaler(root: &Field<'_>, errors: &mut Errors) {
    let spec = root.child("spec");
    target_reference(&spec.child("scaleTargetRef"), errors);
    let utilization = spec.child("targetCPUUtilizationPercentage");
    if utilization.value().as_i64().is_some_and(|percent| percent < 1) {
        errors.push(utilization.invalid("must be greater than 0"));
    }
    let metrics = spec.child("metrics");
    for metric in metrics.items() {
        metric_spec(&metric, errors);
    }
    let reaches_zero = spec.at("/minReplicas").as_i64() == Some(0);
    let is_outside = |metric: Field<'_>| matches!(metric.text_at("/type"), "Object" | "External");
    if reaches_zero && !metrics.items().any(is_outside) {
        errors.push(metrics.forbidden(
            "must specify at least one Object or External metric to support scaling to zero replicas",
        ));
    }
    let behavior = spec.child("behavior");
    for direction in ["scaleUp", "scaleDown"] {
        let rules = behavior.child(direction);
        if rules.is_set() {
            scaling_rules(&rules, errors);
        }
    }
}

/// Least and most replicas. Zero replicas are for an object that already has them as its bound.
fn bounds(spec: &Field<'_>, lower: i64, errors: &mut Errors) {
    let (least, most) = (spec.child("minReplicas"), spec.child("maxReplicas"));
    if least.value().as_i64().is_some_and(|replicas| replicas < lower) {
        errors.push(least.invalid(format!("must be greater than or equal to {lower}")));
    }
    match spec.int_at("/maxReplicas") {
        0 => errors.push(most.required("must be set and greater than 0")),
        ..0 => errors.push(most.invalid("must be greater than or equal to 1")),
        _ => {}
    }
    if least.is_set() && spec.int_at("/maxReplicas") < spec.int_at("/minReplicas") {
        errors.push(
            most.invalid_as(spec.int_at("/maxReplicas"), "must be greater than or equal to `minReplicas`"),
        );
    }
}

/// A new autoscaler keeps at least one replica.
pub(super) fn create(root: &Field<'_>, errors: &mut Errors) {
    bounds(&root.child("spec"), 1, errors);
}

/// A changed autoscaler may keep zero replicas as its lower bound, if it had them.
pub(super) fn update(new: &Field<'_>, old: &Field<'_>, errors: &mut Errors) {
    let lower = i64::from(old.at("/spec/minReplicas").as_i64() != Some(0));
    bounds(&new.child("spec"), lower, errors);
}

fn target_reference(reference: &Field<'_>, errors: &mut Errors) {
    for key in ["kind", "name"] {
        values::required_name(&reference.child(key), names::path_segment, errors);
    }
}

fn metric_spec(metric: &Field<'_>, errors: &mut Errors) {
    let type_ = metric.child("type");
    values::one_of(&type_, &TYPES, errors);
    let expected = SOURCES.iter().find(|(name, _)| *name == type_.text()).map(|(_, field)| *field);
    for (_, name) in SOURCES {
        let source = metric.child(name);
        match (source.is_set(), expected == Some(name)) {
            (true, true) => metric_source(name, &source, errors),
            (true, false) => errors.push(source.forbidden("must populate the given metric source only")),
            (false, true) => {
                errors.push(source.required("must populate information for the given metric source"));
            }
            (false, false) => {}
        }
    }
}

fn metric_source(kind: &str, source: &Field<'_>, errors: &mut Errors) {
    let target = source.child("target");
    metric_target(&target, errors);
    let has = |key: &str| target.child(key).is_set();
    match kind {
        "resource" | "containerResource" => {
            let name = source.child("name");
            if name.text().is_empty() {
                errors.push(name.required("must specify a resource name"));
            }
            if !has("averageUtilization") && !has("averageValue") {
                let message = "must set either a target raw value or a target utilization";
                errors.push(target.child("averageUtilization").required(message));
            }
            if has("averageUtilization") && has("averageValue") {
                let message = "may not set both a target raw value and a target utilization";
                errors.push(target.child("averageValue").forbidden(message));
            }
        }
        "pods" => {
            metric_name(source, errors);
            if !has("averageValue") {
                errors.push(
                    target.child("averageValue").required("must specify a positive target averageValue"),
                );
            }
        }
        _ => {
            metric_name(source, errors);
            if !has("value") && !has("averageValue") {
                let message = "must set either a target value or averageValue";
                errors.push(target.child("averageValue").required(message));
            }
            if kind == "object" {
                target_reference(&source.child("describedObject"), errors);
            }
        }
    }
}

fn metric_name(source: &Field<'_>, errors: &mut Errors) {
    let metric = source.child("metric");
    let name = metric.child("name");
    if name.text().is_empty() {
        errors.push(name.required("must specify a metric name"));
    } else {
        values::named(&name, names::path_segment, errors);
    }
    values::selector(&metric.child("selector"), errors);
}

fn metric_target(target: &Field<'_>, errors: &mut Errors) {
    let type_ = target.child("type");
    if type_.text().is_empty() {
        errors.push(type_.required("must specify a metric target type"));
    }
    if !matches!(type_.text(), "Utilization" | "Value" | "AverageValue") {
        errors.push(type_.invalid("must be either Utilization, Value, or AverageValue"));
    }
    for key in ["value", "averageValue"] {
        let field = target.child(key);
        if field.is_set()
            && let Some(quantity) = values::quantity(&field, errors)
            && quantity <= wharf_base::Quantity::ZERO
        {
            errors.push(field.invalid("must be positive"));
        }
    }
    let utilization = target.child("averageUtilization");
    if utilization.value().as_i64().is_some_and(|percent| percent < 1) {
        errors.push(utilization.invalid("must be greater than 0"));
    }
}

fn scaling_rules(rules: &Field<'_>, errors: &mut Errors) {
    let window = rules.child("stabilizationWindowSeconds");
    match rules.int_at("/stabilizationWindowSeconds") {
        ..0 => errors.push(window.invalid("must be greater than or equal to zero")),
        seconds if seconds > MOST_WINDOW_SECONDS => {
            errors.push(window.invalid(format!("must be less than or equal to {MOST_WINDOW_SECONDS}")));
        }
        _ => {}
    }
    values::optionally_one_of(&rules.child("selectPolicy"), &["Max", "Min", "Disabled"], errors);
    let policies = rules.child("policies");
    if policies.is_empty() {
        errors.push(policies.required("must specify at least one Policy"));
    }
    for policy in policies.items() {
        scaling_policy(&policy, errors);
    }
}

fn scaling_policy(policy: &Field<'_>, errors: &mut Errors) {
    let type_ = policy.child("type");
    if !matches!(type_.text(), "Pods" | "Percent") {
        errors.push(type_.not_supported(&["Percent", "Pods"]));
    }
    for key in ["value", "periodSeconds"] {
        let number = policy.child(key).value().as_i64().unwrap_or_default();
        if number <= 0 {
            errors.push(policy.child(key).invalid_as(number, "must be greater than zero"));
        }
    }
    if policy.int_at("/periodSeconds") > MOST_PERIOD_SECONDS {
        let message = format!("must be less than or equal to {MOST_PERIOD_SECONDS}");
        errors.push(policy.child("periodSeconds").invalid(message));
    }
}
