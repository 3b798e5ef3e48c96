use serde_json::json;
use wharf_control::read;

use super::*;

fn at(second: i64) -> Timestamp {
    // A Tuesday, 22:13:20 UTC.
    Timestamp::from_unix(1_700_000_000 + second, 0)
}

struct World {
    object: ScaledObject,
    history: History,
    conflict: Option<String>,
    replicas: i64,
    events: Vec<String>,
}

impl World {
    fn new(spec: Value) -> Self {
        let object = json!({"metadata": {"name": "s", "namespace": "n", "uid": "u", "resourceVersion": "1",
            "creationTimestamp": at(0)}, "spec": spec});
        Self {
            object: read(&object).expect("reads"),
            history: History::default(),
            conflict: None,
            replicas: 0,
            events: vec![],
        }
    }

    fn at(&mut self, second: i64, measured: Measured) -> i64 {
        let zones = [
            ("UTC".to_owned(), jiff::tz::TimeZone::UTC),
            ("Fixed/Plus2".to_owned(), jiff::tz::TimeZone::fixed(jiff::tz::offset(2))),
        ]
        .into();
        let view = View {
            object: &self.object,
            replicas: Ok(self.replicas),
            conflict: self.conflict.clone(),
            measured: &[measured],
            zones: &zones,
        };
        let decision = step(&view, &mut self.history, at(second));
        for action in decision.actions {
            match action {
                Action::UpdateStatus { patch, .. } => {
                    let mut status = wharf_control::meta::to_value(&self.object.status);
                    for (key, value) in patch["status"].as_object().expect("status") {
                        match (status.get_mut(key), value) {
                            (Some(Value::Object(old)), Value::Object(new)) => old.extend(new.clone()),
                            _ => status[key] = value.clone(),
                        }
                    }
                    self.object.status = read(&status).expect("status");
                }
                Action::Event(event) => self.events.push(event.message),
                other => panic!("not known here: {other:?}"),
            }
        }
        self.replicas = decision.replicas.unwrap_or(self.replicas);
        self.replicas
    }

    fn holds(&self, kind: &str) -> bool {
        condition::holds(&self.object.status.conditions, kind)
    }
}

fn redis() -> Value {
    json!({"scaleTargetRef": {"name": "worker"}, "cooldownPeriod": 60, "maxReplicaCount": 10,
        "triggers": [{"type": "redis", "metadata": {"address": "redis:6379", "listName": "jobs", "listLength": "5"}}]})
}

#[test]
fn a_queue_scales_from_zero_and_back() {
    let mut world = World::new(redis());
    assert_eq!(world.at(0, Measured::Number(0.0)), 0);
    assert_eq!(world.at(1, Measured::Number(12.0)), 3);
    assert!(world.holds("Active"));
    assert_eq!(world.at(5, Measured::Number(500.0)), 7, "the usual behavior: four more, or double");
    assert_eq!(world.at(30, Measured::Number(500.0)), 10);
    assert_eq!(world.at(31, Measured::Number(0.0)), 10, "the cooldown begins with the last activity");
    assert!(!world.holds("Active"));
    assert_eq!(world.at(89, Measured::Number(0.0)), 10);
    assert_eq!(world.at(90, Measured::Number(0.0)), 0);
    assert!(world.events.contains(&"Scaled Deployment worker from 10 to 0: no trigger is active".to_owned()));
}

#[test]
fn the_first_of_two_scales_the_target() {
    let scaled = |name: &str, second: i64, target: Value| -> ScaledObject {
        let metadata = json!({"name": name, "namespace": "n", "uid": name, "creationTimestamp": at(second)});
        read(&json!({"metadata": metadata, "spec": {"scaleTargetRef": target}})).expect("reads")
    };
    let [old, twin, new] = [
        scaled("b", 0, json!({"name": "worker"})),
        scaled("c", 0, json!({"name": "worker", "apiVersion": "apps/v1", "kind": "Deployment"})),
        scaled("a", 5, json!({"name": "worker", "kind": "Deployment"})),
    ];
    let elsewhere = [
        scaled("d", -9, json!({"name": "other"})),
        scaled("e", -9, json!({"name": "worker", "kind": "StatefulSet"})),
    ];
    let all = || [&new, &twin, &old].into_iter().chain(&elsewhere);
    assert_eq!(old.conflict(all(), []), None);
    let message = "Deployment worker is already managed by ScaledObject b";
    assert_eq!(twin.conflict(all(), []).as_deref(), Some(message));
    assert_eq!(new.conflict(all(), []).as_deref(), Some(message));
    let autoscaler: Autoscaler = read(&json!({"metadata": {"name": "h", "namespace": "n"},
        "spec": {"scaleTargetRef": {"apiVersion": "apps/v1", "kind": "Deployment", "name": "worker"}}}))
    .expect("reads");
    assert_eq!(
        old.conflict(all(), [&autoscaler]).as_deref(),
        Some("Deployment worker is already managed by HorizontalPodAutoscaler h")
    );
    assert_eq!(elsewhere[0].conflict(all(), [&autoscaler]), None);

    let mut world = World::new(redis());
    world.conflict = Some(message.to_owned());
    assert_eq!(world.at(0, Measured::Number(50.0)), 0, "it does not scale");
    let ready = condition::find(&world.object.status.conditions, "Ready").expect("a condition");
    assert_eq!((ready.status.as_str(), ready.message.as_str()), ("False", message));
    world.conflict = None;
    assert_eq!(world.at(1, Measured::Number(50.0)), 10);
    assert!(world.holds("Ready"));
}

#[test]
fn what_cannot_be_measured_keeps_the_size_or_falls_back() {
    let mut world = World::new(redis());
    world.at(0, Measured::Number(12.0));
    assert_eq!(world.at(1000, Measured::Unknown("connection refused".into())), 3);
    let ready = condition::find(&world.object.status.conditions, "Ready").expect("a condition");
    assert_eq!(
        (ready.status.as_str(), ready.message.as_str()),
        ("False", "trigger s0-redis: connection refused")
    );
    world.object.spec.fallback = Some(Fallback { failure_threshold: 3, replicas: 6 });
    world.at(1001, Measured::Unknown("connection refused".into()));
    assert_eq!(world.at(1002, Measured::Unknown("connection refused".into())), 6);
    assert!(world.holds("Fallback"));
}

#[test]
fn a_schedule_in_its_time_zone() {
    // 22:13 UTC is 00:13 two hours to the east.
    for (zone, start, end, expect) in [
        ("UTC", "0 22 * * *", "0 23 * * *", 4),
        ("UTC", "0 23 * * *", "0 1 * * *", 0),
        ("Fixed/Plus2", "0 0 * * *", "30 0 * * *", 4),
        ("Fixed/Plus2", "0 22 * * *", "0 23 * * *", 0),
    ] {
        let mut world = World::new(json!({"scaleTargetRef": {"name": "web"},
            "triggers": [{"type": "cron", "metadata":
                {"timezone": zone, "start": start, "end": end, "desiredReplicas": "4"}}]}));
        assert_eq!(world.at(0, Measured::None), expect, "{zone} {start} {end}");
    }
}

#[test]
fn settings_that_cannot_be_followed_are_named() {
    for (trigger, expect) in [
        (
            json!({"type": "kafka"}),
            "spec.triggers[0]: the trigger type \"kafka\" is not supported; cron, prometheus and redis are",
        ),
        (
            json!({"type": "redis", "metadata": {"address": "x"}}),
            "spec.triggers[0]: metadata.listName is required",
        ),
        (
            json!({"type": "prometheus", "metadata": {"query": "x", "threshold": "many"}}),
            "spec.triggers[0]: metadata.threshold: \"many\" is not a number",
        ),
    ] {
        let mut world = World::new(json!({"scaleTargetRef": {"name": "web"}, "triggers": [trigger]}));
        assert_eq!(world.at(0, Measured::None), 0);
        assert_eq!(world.events, [expect]);
        world.at(1, Measured::None);
        assert_eq!(world.events.len(), 1, "said once");
    }
}

#[test]
fn paused_holds_a_size() {
    let mut world = World::new(redis());
    world.object.metadata.annotations.insert(PAUSED_REPLICAS.into(), "2".into());
    assert_eq!(world.at(0, Measured::Number(500.0)), 2);
    assert!(world.holds("Paused"));
}
