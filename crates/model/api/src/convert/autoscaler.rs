//! HorizontalPodAutoscalers: `autoscaling/v1` has one target, for processors. It carries all else in annotations, whose
//! names and shapes are those of upstream.

use serde_json::{Map, Value};

use crate::meta;

const METRICS: &str = "autoscaling.alpha.kubernetes.io/metrics";
const CURRENT_METRICS: &str = "autoscaling.alpha.kubernetes.io/current-metrics";
const CONDITIONS: &str = "autoscaling.alpha.kubernetes.io/conditions";
const BEHAVIOR: &str = "autoscaling.alpha.kubernetes.io/behavior";

/// What tells the targets of a spec from the measurements of a status.
struct Side {
    /// The object with the numbers, in v2.
    numbers: &'static str,
    /// How the numbers are called in the annotation.
    utilization: &'static str,
    average: &'static str,
    value: &'static str,
    /// The field of v1.
    processors: &'static str,
    /// The list of v2.
    list: &'static str,
    annotation: &'static str,
}

const SPEC: Side = Side {
    numbers: "target",
    utilization: "targetAverageUtilization",
    average: "targetAverageValue",
    value: "targetValue",
    processors: "targetCPUUtilizationPercentage",
    list: "metrics",
    annotation: METRICS,
};
const STATUS: Side = Side {
    numbers: "current",
    utilization: "currentAverageUtilization",
    average: "currentAverageValue",
    value: "currentValue",
    processors: "currentCPUUtilizationPercentage",
    list: "currentMetrics",
    annotation: CURRENT_METRICS,
};

pub(super) fn v2_to_v1(object: &mut Value) {
    for (part, side) in [("spec", &SPEC), ("status", &STATUS)] {
        let Some(Value::Object(fields)) = object.get_mut(part) else { continue };
        let Some(Value::Array(metrics)) = fields.remove(side.list) else { continue };
        let (processors, others) = split(metrics, side);
        if let Some(percent) = processors {
            fields.insert(side.processors.into(), percent);
        }
        let others: Vec<Value> = others.iter().map(|metric| older(metric, side)).collect();
        annotate(object, side.annotation, (!others.is_empty()).then(|| others.into()));
    }
    for (part, field, annotation) in [("spec", "behavior", BEHAVIOR), ("status", "conditions", CONDITIONS)] {
        let value = object.get_mut(part).and_then(Value::as_object_mut).and_then(|f| f.remove(field));
        annotate(object, annotation, value);
    }
}

pub(super) fn v1_to_v2(object: &mut Value) {
    for (part, side) in [("spec", &SPEC), ("status", &STATUS)] {
        let mut metrics: Vec<Value> = Vec::new();
        let fields = object.get_mut(part).and_then(Value::as_object_mut);
        if let Some(percent) =
            fields.and_then(|fields| fields.remove(side.processors)).filter(|p| !p.is_null())
        {
            let own = match side.numbers {
                "target" => serde_json::json!({"type": "Utilization", "averageUtilization": percent}),
                _ => serde_json::json!({"averageUtilization": percent}),
            };
            metrics.push(
                serde_json::json!({"type": "Resource", "resource": {"name": "cpu", side.numbers: own}}),
            );
        }
        if let Some(Value::Array(others)) = annotated(object, side.annotation, Value::is_array) {
            for metric in others.iter().map(|metric| newer(metric, side)) {
                // What is known of processors beyond the percentage.
                match metrics.iter_mut().find(|m| is_processors(m) && is_processors(&metric)) {
                    Some(known) => *known = metric,
                    None => metrics.push(metric),
                }
            }
        }
        if !metrics.is_empty() {
            meta::member_mut(object, part).insert(side.list.into(), metrics.into());
        }
    }
    if let Some(behavior) = annotated(object, BEHAVIOR, Value::is_object) {
        meta::member_mut(object, "spec").insert("behavior".into(), behavior);
    }
    if let Some(conditions) = annotated(object, CONDITIONS, Value::is_array) {
        meta::member_mut(object, "status").insert("conditions".into(), conditions);
    }
}

fn is_processors(metric: &Value) -> bool {
    metric["type"] == "Resource" && metric["resource"]["name"] == "cpu"
}

/// The percentage of processors, and all that it does not say.
fn split(metrics: Vec<Value>, side: &Side) -> (Option<Value>, Vec<Value>) {
    let mut processors = None;
    let others = metrics.into_iter().filter(|metric| {
        let numbers = &metric["resource"][side.numbers];
        let percent = &numbers["averageUtilization"];
        if processors.is_some() || !is_processors(metric) || percent.is_null() {
            return true;
        }
        processors = Some(percent.clone());
        !numbers["averageValue"].is_null()
    });
    let others = others.collect();
    (processors, others)
}

/// Moves `from` to `to`, when it is there.
fn put(to: &mut Map<String, Value>, name: &str, value: &Value) {
    if !value.is_null() {
        to.insert(name.to_owned(), value.clone());
    }
}

/// The field of a metric's source: `Pods` is described in `pods`.
fn source(metric: &Value) -> String {
    let kind = metric["type"].as_str().unwrap_or_default();
    let mut chars = kind.chars();
    chars.next().map(|c| c.to_ascii_lowercase()).into_iter().chain(chars).collect()
}

/// Names of a metric and its selector in the annotation.
fn names(source: &str) -> (&'static str, &'static str) {
    if source == "external" { ("metricName", "metricSelector") } else { ("metricName", "selector") }
}

fn older(metric: &Value, side: &Side) -> Value {
    let source = source(metric);
    let (from, mut to) = (&metric[&source], Map::new());
    put(&mut to, "name", &from["name"]);
    put(&mut to, "container", &from["container"]);
    put(&mut to, "target", &from["describedObject"]);
    let (name, selector) = names(&source);
    put(&mut to, name, &from["metric"]["name"]);
    put(&mut to, selector, &from["metric"]["selector"]);
    let numbers = &from[side.numbers];
    put(&mut to, side.utilization, &numbers["averageUtilization"]);
    put(&mut to, side.value, &numbers["value"]);
    put(&mut to, average(&source, side), &numbers["averageValue"]);
    serde_json::json!({"type": metric["type"], source: to})
}

fn newer(metric: &Value, side: &Side) -> Value {
    let source = source(metric);
    let (from, mut to) = (&metric[&source], Map::new());
    put(&mut to, "name", &from["name"]);
    put(&mut to, "container", &from["container"]);
    put(&mut to, "describedObject", &from["target"]);
    let (name, selector) = names(&source);
    let mut identity = Map::new();
    put(&mut identity, "name", &from[name]);
    put(&mut identity, "selector", &from[selector]);
    if !identity.is_empty() {
        to.insert("metric".into(), identity.into());
    }
    let mut numbers = Map::new();
    put(&mut numbers, "averageUtilization", &from[side.utilization]);
    put(&mut numbers, "value", &from[side.value]);
    put(&mut numbers, "averageValue", &from[average(&source, side)]);
    if side.numbers == "target" {
        let kind =
            ["averageUtilization", "averageValue", "value"].into_iter().find(|n| numbers.contains_key(*n));
        let kind = match kind {
            Some("averageUtilization") => "Utilization",
            Some("averageValue") => "AverageValue",
            _ => "Value",
        };
        numbers.insert("type".into(), kind.into());
    }
    to.insert(side.numbers.into(), numbers.into());
    serde_json::json!({"type": metric["type"], source: to})
}

/// The name of the average, which an `Object`'s has without a prefix.
fn average(source: &str, side: &Side) -> &'static str {
    if source == "object" { "averageValue" } else { side.average }
}

fn annotate(object: &mut Value, name: &str, value: Option<Value>) {
    let Some(value) = value else { return };
    let metadata = meta::metadata_mut(object);
    let annotations = metadata.entry("annotations").or_insert_with(|| Map::new().into());
    if let Value::Object(annotations) = annotations {
        annotations.insert(name.into(), value.to_string().into());
    }
}

/// Takes an annotation out; one that cannot be read stays where it is.
fn annotated(object: &mut Value, name: &str, expected: fn(&Value) -> bool) -> Option<Value> {
    let annotations = object.pointer_mut("/metadata/annotations")?.as_object_mut()?;
    let value = serde_json::from_str(annotations.get(name)?.as_str()?).ok().filter(expected)?;
    annotations.remove(name);
    if annotations.is_empty() {
        meta::metadata_mut(object).remove("annotations");
    }
    Some(value)
}
