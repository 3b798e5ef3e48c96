use super::*;
use crate::meta::read;
use proptest::prelude::*;
use serde_json::{Value, json};

const NOW: i64 = 1_000_000;

fn at(seconds: i64) -> Timestamp {
    Timestamp::from_unix(NOW + seconds, 0)
}

fn budget(spec: Value) -> Budget {
    let mut spec = spec;
    spec["selector"] = json!({"matchLabels": {"app": "web"}});
    read(&json!({"metadata": {"name": "b", "namespace": "ns", "generation": 2}, "spec": spec})).unwrap()
}

fn pod(name: &str, owner: &str, ready: bool) -> Pod {
    let owners = match owner {
        "" => json!([]),
        uid => json!([{"uid": uid, "controller": true, "kind": "ReplicaSet", "name": uid}]),
    };
    let ready = if ready { "True" } else { "False" };
    read(&json!({"metadata": {"name": name, "labels": {"app": "web"}, "ownerReferences": owners},
        "status": {"phase": "Running", "conditions": [{"type": "Ready", "status": ready}]}}))
    .unwrap()
}

/// Five pods of two ReplicaSets of one Deployment that asks for `replicas`; the first `ready` are ready.
fn pods(ready: usize) -> Vec<Pod> {
    let owner = |n| if n < 3 { "old" } else { "new" };
    (0..5).map(|n| pod(&format!("p{n}"), owner(n), n < ready)).collect()
}

fn run(budget: &Budget, pods: &[Pod], replicas: i64) -> Step {
    let scale = || Ok(Scale { uid: "deployment".into(), replicas });
    let scales = BTreeMap::from([("old".to_owned(), scale()), ("new".to_owned(), scale())]);
    let pods: Vec<&Pod> = pods.iter().collect();
    step(&View { budget, pods: &pods, scales: &scales }, at(0))
}

fn written(step: &Step) -> &Value {
    let patch = step.actions.iter().find_map(|action| match action {
        Action::UpdateStatus { patch, .. } => Some(&patch["status"]),
        _ => None,
    });
    patch.expect("a status")
}

/// The status: (expected, desired, healthy, allowed), and the reason of the condition.
fn check(spec: Value, ready: usize, replicas: i64, expect: [i64; 4], reason: &str) {
    let step = run(&budget(spec.clone()), &pods(ready), replicas);
    let status = written(&step);
    let number = |field: &str| status.get(field).and_then(Value::as_i64).unwrap_or(0);
    let found = ["expectedPods", "desiredHealthy", "currentHealthy", "disruptionsAllowed"].map(number);
    assert_eq!((found, status["conditions"][0]["reason"].as_str()), (expect, Some(reason)), "{spec}");
    assert_eq!(number("observedGeneration"), 2);
}

#[test]
fn numbers_and_percentages() {
    check(json!({"minAvailable": 3}), 5, 5, [5, 3, 5, 2], "SufficientPods");
    check(json!({"minAvailable": 3}), 3, 5, [5, 3, 3, 0], "InsufficientPods");
    check(json!({"minAvailable": "50%"}), 5, 7, [7, 4, 5, 1], "SufficientPods");
    check(json!({"maxUnavailable": 1}), 5, 5, [5, 4, 5, 1], "SufficientPods");
    check(json!({"maxUnavailable": "30%"}), 5, 5, [5, 3, 5, 2], "SufficientPods");
    check(json!({"maxUnavailable": 9}), 2, 5, [5, 0, 2, 2], "SufficientPods");
    check(json!({"maxUnavailable": 1}), 5, 0, [0, 0, 5, 0], "InsufficientPods");
}

#[test]
fn pods_that_were_evicted_count_as_gone_for_a_while() {
    let mut budget = budget(json!({"minAvailable": 1}));
    budget.status.disrupted_pods =
        BTreeMap::from([("p0".to_owned(), at(-60)), ("p1".to_owned(), at(-121)), ("gone".to_owned(), at(0))]);
    let step = run(&budget, &pods(5), 5);
    let status = written(&step);
    assert_eq!(status["currentHealthy"], 4);
    assert_eq!(status["disruptedPods"], json!({"p1": null, "gone": null}));
    assert_eq!(step.requeue_after.map(|wait| wait.as_secs()), Some(60));
}

#[test]
fn what_is_not_known_allows_nothing() {
    let mut budget = budget(json!({"maxUnavailable": 1}));
    budget.status.disruptions_allowed = 3;
    let stranger = pod("s", "stranger", true);
    let scales = BTreeMap::from([("stranger".to_owned(), Err("no scale".to_owned()))]);
    let step = step(&View { budget: &budget, pods: &[&stranger], scales: &scales }, at(0));
    let status = written(&step);
    assert_eq!(status["disruptionsAllowed"], 0);
    assert_eq!(status["conditions"][0]["reason"], "SyncFailed");
    assert_eq!(status["conditions"][0]["message"], "no scale");
    assert!(matches!(&step.actions[0], Action::Event(e) if e.reason == "CalculateExpectedPodCountFailed"));
}

#[test]
fn pods_without_controller_are_left_out_and_told_of() {
    let step = run(&budget(json!({"maxUnavailable": 1})), &[pod("a", "", true)], 5);
    assert!(matches!(&step.actions[0], Action::Event(e) if e.reason == "UnmanagedPods"));
    assert_eq!(written(&step)["conditions"][0]["reason"], "InsufficientPods");
    let plain = run(&budget(json!({"minAvailable": 1})), &[pod("a", "", true), pod("b", "", true)], 0);
    assert_eq!(written(&plain)["disruptionsAllowed"], 1);
}

#[test]
fn a_disruption_that_does_not_come_is_taken_back() {
    let target = |since: i64, reason: &str| {
        let mut pod = pod("p", "", true);
        let mut condition = Condition::new(TARGET, "True", reason, "", at(since));
        condition.last_transition_time = Some(at(since));
        pod.status.conditions.push(condition);
        renew(&pod, at(0))
    };
    assert_eq!(target(-50, "EvictionByEvictionAPI").requeue_after, Some(Duration::from_secs(70)));
    assert_eq!(target(-500, "TerminationByKubelet"), Step::idle());
    let [Action::UpdateStatus { patch, .. }] = &target(-121, "EvictionByEvictionAPI").actions[..] else {
        panic!("no write");
    };
    assert_eq!(patch.pointer("/status/conditions/1/status"), Some(&json!("False")));
}

proptest! {
    /// Whatever the numbers: taking away what is allowed leaves what is desired.
    #[test]
    fn allowed_disruptions_keep_the_desired(ready in 0usize..6, replicas in 0i64..12, percent in 0i64..120, min in any::<bool>()) {
        let share = json!(format!("{percent}%"));
        let spec = if min { json!({"minAvailable": share}) } else { json!({"maxUnavailable": share}) };
        let step = run(&budget(spec), &pods(ready), replicas);
        let status = written(&step);
        let number = |field: &str| status.get(field).and_then(Value::as_i64).unwrap_or(0);
        let allowed = number("disruptionsAllowed");
        prop_assert!(allowed >= 0);
        prop_assert!(allowed == 0 || number("currentHealthy") - allowed >= number("desiredHealthy"));
    }
}
