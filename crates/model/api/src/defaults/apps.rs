//! Conditional defaults of workloads and autoscalers.

use serde_json::{Value, json};

use crate::table::tree;

/// Surge and unavailability are a quarter, where updates are rolling.
pub(super) fn deployment(object: &mut Value) {
    fill_rolling(object, "/spec/strategy", &[("maxUnavailable", json!("25%")), ("maxSurge", json!("25%"))]);
}

/// One node at a time, where updates are rolling.
pub(super) fn daemon_set(object: &mut Value) {
    fill_rolling(object, "/spec/updateStrategy", &[("maxUnavailable", json!(1)), ("maxSurge", json!(0))]);
}

/// Fills in `rollingUpdate` of a strategy whose type asks for it.
fn fill_rolling(object: &mut Value, strategy: &str, defaults: &[(&str, Value)]) {
    let Some(strategy) = object.pointer_mut(strategy) else { return };
    if tree::text(strategy, "/type") != "RollingUpdate" {
        return;
    }
    if let Some(rolling) = tree::child_mut(strategy, "rollingUpdate") {
        for (key, default) in defaults {
            let entry = rolling.entry(*key).or_insert(Value::Null);
            if entry.is_null() {
                *entry = default.clone();
            }
        }
    }
}

/// Every pod is updated, from the last to the first. `rollingUpdate` is made only with the type.
pub(super) fn stateful_set(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else { return };
    tree::set_missing(spec, "updateStrategy", json!({}));
    let Some(strategy) = spec.get_mut("updateStrategy") else { return };
    if tree::text(strategy, "/type").is_empty() {
        tree::set(strategy, "type", json!("RollingUpdate"));
        tree::set_missing(strategy, "rollingUpdate", json!({}));
    }
    if tree::text(strategy, "/type") == "RollingUpdate"
        && let Some(rolling) = strategy.get_mut("rollingUpdate")
    {
        tree::set_missing(rolling, "partition", json!(0));
    }
}

/// Selector and labels are those of the template.
pub(super) fn replication_controller(object: &mut Value) {
    let labels = tree::at(object, "/spec/template/metadata/labels").clone();
    if !labels.is_object() {
        return;
    }
    if tree::count(object, "/spec/selector") == 0
        && let Some(spec) = object.get_mut("spec")
    {
        tree::set(spec, "selector", labels.clone());
    }
    labels_from_template(object, labels);
}

/// Gives an object without labels those of its template.
pub(super) fn labels_from_template(object: &mut Value, labels: Value) {
    if labels.is_object()
        && tree::count(object, "/metadata/labels") == 0
        && let Some(metadata) = object.get_mut("metadata")
    {
        tree::set(metadata, "labels", labels);
    }
}

/// CPU at 80 % when no metric is named, and both directions of `behavior` when there is one.
pub(super) fn autoscaler_v2(object: &mut Value) {
    let Some(spec) = object.get_mut("spec") else { return };
    if tree::list(spec, "/metrics").is_empty() {
        let target = json!({"type": "Utilization", "averageUtilization": 80});
        tree::set(
            spec,
            "metrics",
            json!([{"type": "Resource", "resource": {"name": "cpu", "target": target}}]),
        );
    }
    let Some(behavior) = spec.get_mut("behavior").filter(|behavior| behavior.is_object()) else { return };
    scaling_rules(
        behavior,
        "scaleUp",
        &[
            ("stabilizationWindowSeconds", json!(0)),
            ("selectPolicy", json!("Max")),
            (
                "policies",
                json!([
                    {"type": "Pods", "value": 4, "periodSeconds": 15},
                    {"type": "Percent", "value": 100, "periodSeconds": 15}
                ]),
            ),
        ],
    );
    scaling_rules(
        behavior,
        "scaleDown",
        &[
            ("selectPolicy", json!("Max")),
            ("policies", json!([{"type": "Percent", "value": 100, "periodSeconds": 15}])),
        ],
    );
}

/// Fills in the rules of one direction.
fn scaling_rules(behavior: &mut Value, direction: &str, defaults: &[(&str, Value)]) {
    tree::set_missing(behavior, direction, json!({}));
    if let Some(rules) = behavior.get_mut(direction) {
        for (key, default) in defaults {
            tree::set_missing(rules, key, default.clone());
        }
    }
}
