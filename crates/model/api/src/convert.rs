//! Objects from one version of their kind to another.
//!
//! A resource is stored in one group and version and served in all of its rows. What differs between two forms of a
//! built-in kind is a row of [`CONVERSIONS`]; versions of a custom resource differ in nothing but their name, unless
//! its definition has a webhook, which the API server asks.

mod autoscaler;
mod event;

use serde_json::Value;

use crate::{defaults, resource::Resource, schema::Gvk};

/// From one form of a kind to another, each a group and a version.
struct Conversion {
    kind: &'static str,
    from: (&'static str, &'static str),
    to: (&'static str, &'static str),
    run: fn(&mut Value),
}

const CONVERSIONS: &[Conversion] = &[
    Conversion {
        kind: "HorizontalPodAutoscaler",
        from: ("autoscaling", "v1"),
        to: ("autoscaling", "v2"),
        run: autoscaler::v1_to_v2,
    },
    Conversion {
        kind: "HorizontalPodAutoscaler",
        from: ("autoscaling", "v2"),
        to: ("autoscaling", "v1"),
        run: autoscaler::v2_to_v1,
    },
    Conversion { kind: "Event", from: ("events.k8s.io", "v1"), to: ("", "v1"), run: event::to_core },
    Conversion { kind: "Event", from: ("", "v1"), to: ("events.k8s.io", "v1"), run: event::from_core },
];

/// A stored object in the version this resource serves.
pub fn to_served(resource: &Resource, object: &mut Value) {
    convert(object, &resource.gvk);
}

/// An object of this resource in the version it is stored in, complete with that version's defaults.
pub fn to_stored(resource: &Resource, object: &mut Value) {
    let Gvk { group, version, kind } = &resource.stored;
    if convert(object, &resource.stored) && resource.custom.is_none() {
        defaults::apply(group, version, kind, object);
    }
}

/// Whether there was anything to convert.
fn convert(object: &mut Value, to: &Gvk) -> bool {
    let wanted = to.api_version();
    let from = object["apiVersion"].as_str().unwrap_or_default().to_owned();
    if from == wanted {
        return false;
    }
    let from = from.split_once('/').unwrap_or(("", &from));
    let between = |c: &&Conversion| {
        c.kind == to.kind && c.from == from && c.to == (to.group.as_str(), to.version.as_str())
    };
    if let Some(conversion) = CONVERSIONS.iter().find(between) {
        (conversion.run)(object);
    }
    if let Value::Object(map) = object {
        map.insert("apiVersion".into(), wanted.into());
    }
    true
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::resource::{ROWS, builtin_resources};

    #[test]
    fn every_row_that_is_stored_in_another_version_has_its_conversions() {
        for row in ROWS.iter().filter(|row| row.stored != (row.group, row.version)) {
            let own = (row.group, row.version);
            for (from, to) in [(own, row.stored), (row.stored, own)] {
                let known = CONVERSIONS.iter().any(|c| (c.kind, c.from, c.to) == (row.kind, from, to));
                assert!(known, "{} {from:?} to {to:?}", row.plural);
            }
            assert!(
                ROWS.iter().any(|r| r.plural == row.plural && (r.group, r.version) == row.stored),
                "{} has no row of the form it is stored in",
                row.plural
            );
        }
    }

    #[test]
    fn an_autoscaler_keeps_everything_through_the_older_version() {
        let v1 = builtin_resources()
            .iter()
            .find(|r| r.gvk.group == "autoscaling" && r.gvk.version == "v1")
            .unwrap();
        let stored = json!({"apiVersion": "autoscaling/v2", "kind": "HorizontalPodAutoscaler",
            "metadata": {"name": "web", "annotations": {"own": "x"}},
            "spec": {"scaleTargetRef": {"kind": "Deployment", "name": "web"}, "minReplicas": 1, "maxReplicas": 3,
                "behavior": {"scaleDown": {"stabilizationWindowSeconds": 5, "selectPolicy": "Max",
                    "policies": [{"type": "Percent", "value": 100, "periodSeconds": 15}]},
                  "scaleUp": {"stabilizationWindowSeconds": 0, "selectPolicy": "Max",
                    "policies": [{"type": "Pods", "value": 4, "periodSeconds": 15}]}},
                "metrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "target": {"type": "Utilization", "averageUtilization": 50}}},
                    {"type": "Resource", "resource": {"name": "memory", "target": {"type": "AverageValue", "averageValue": "1Gi"}}},
                    {"type": "Pods", "pods": {"metric": {"name": "hits", "selector": {"matchLabels": {"a": "b"}}},
                        "target": {"type": "AverageValue", "averageValue": "10"}}},
                    {"type": "Object", "object": {"describedObject": {"kind": "Service", "name": "s"},
                        "metric": {"name": "rate"}, "target": {"type": "Value", "value": "5"}}},
                    {"type": "External", "external": {"metric": {"name": "queue", "selector": {"matchLabels": {"q": "1"}}},
                        "target": {"type": "AverageValue", "averageValue": "30"}}}]},
            "status": {"currentReplicas": 2, "desiredReplicas": 2,
                "conditions": [{"type": "AbleToScale", "status": "True"}],
                "currentMetrics": [
                    {"type": "Resource", "resource": {"name": "cpu", "current": {"averageUtilization": 12, "averageValue": "12m"}}},
                    {"type": "Pods", "pods": {"metric": {"name": "hits"}, "current": {"averageValue": "9"}}}]}});
        let mut object = stored.clone();
        to_served(v1, &mut object);
        assert_eq!(object["apiVersion"], "autoscaling/v1");
        assert_eq!(
            object["spec"],
            json!({"scaleTargetRef": {"kind": "Deployment", "name": "web"},
            "minReplicas": 1, "maxReplicas": 3, "targetCPUUtilizationPercentage": 50})
        );
        assert_eq!(
            object["status"],
            json!({"currentReplicas": 2, "desiredReplicas": 2, "currentCPUUtilizationPercentage": 12})
        );
        to_stored(v1, &mut object);
        // The order of metrics has no meaning; processors come first, as upstream.
        assert_eq!(object, stored);
    }

    #[test]
    fn an_autoscaler_of_the_older_version_gets_the_newer_ones_defaults() {
        let v1 = builtin_resources()
            .iter()
            .find(|r| r.gvk.group == "autoscaling" && r.gvk.version == "v1")
            .unwrap();
        let spec = |percent: Value| {
            let mut object = json!({"apiVersion": "autoscaling/v1", "spec": {"maxReplicas": 3, "targetCPUUtilizationPercentage": percent}});
            to_stored(v1, &mut object);
            object["spec"]["metrics"].clone()
        };
        let cpu = |percent: i64| {
            json!([{"type": "Resource", "resource": {"name": "cpu",
            "target": {"type": "Utilization", "averageUtilization": percent}}}])
        };
        assert_eq!(spec(50.into()), cpu(50));
        assert_eq!(spec(Value::Null), cpu(80));
    }
}
