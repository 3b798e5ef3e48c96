use super::*;
use crate::{meta::read, world::World};
use proptest::prelude::*;
use serde_json::json;

const NOW: i64 = 1_000_000;

fn now() -> Timestamp {
    Timestamp::from_unix(NOW, 0)
}

fn set(replicas: i64) -> ReplicaSet {
    read(&json!({
        "metadata": {"name": "web", "namespace": "ns", "uid": "set-uid", "generation": 3, "resourceVersion": "7"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
                 "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
    }))
    .unwrap()
}

/// A pod of the set: name, node, phase, seconds it has been ready (none: not ready).
fn pod(name: &str, node: &str, phase: &str, ready_for: Option<i64>) -> Pod {
    let conditions = ready_for.map_or(json!([]), |seconds| {
        let since = Timestamp::from_unix(NOW - seconds, 0);
        json!([{"type": "Ready", "status": "True", "lastTransitionTime": since}])
    });
    read(&json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "labels": {"app": "web"},
                     "ownerReferences": [{"uid": "set-uid", "controller": true, "kind": "ReplicaSet", "name": "web"}]},
        "spec": {"nodeName": node}, "status": {"phase": phase, "conditions": conditions},
    }))
    .unwrap()
}

fn run(set: &ReplicaSet, pods: &[Pod]) -> Step {
    let pods: Vec<&Pod> = pods.iter().collect();
    step(&View { replica_set: set, pods: &pods, related: &[], failure: None }, now())
}

fn deleted(step: &Step) -> Vec<&str> {
    let mut names = Vec::new();
    for action in &step.actions {
        if let Action::Delete { name, .. } = action {
            names.push(name.as_str());
        }
    }
    names
}

fn status_patch(step: &Step) -> &Value {
    let patch = step.actions.iter().find_map(|action| match action {
        Action::UpdateStatus { patch, .. } => Some(patch),
        _ => None,
    });
    patch.expect("a status")
}

fn created(step: &Step) -> usize {
    step.actions.iter().filter(|action| matches!(action, Action::Create { .. })).count()
}

/// Scaling to `keep` deletes these pods, in this order.
fn check(pods: &[Pod], keep: i64, expect: &[&str]) {
    assert_eq!(deleted(&run(&set(keep), pods)), expect);
}

#[test]
fn missing_pods_are_created() {
    assert_eq!(created(&run(&set(3), &[])), 3);
    assert_eq!(created(&run(&set(3), &[pod("a", "n", "Running", None)])), 2);
    assert_eq!(created(&run(&set(1000), &[])), BURST);
    // A pod that failed is replaced.
    assert_eq!(created(&run(&set(1), &[pod("a", "n", "Failed", None)])), 1);
}

#[test]
fn worst_pods_go_first() {
    let ready = |name| pod(name, "n1", "Running", Some(100));
    check(&[ready("a"), pod("b", "", "Pending", None)], 1, &["b"]);
    check(&[ready("a"), pod("b", "n1", "Pending", None), pod("c", "n1", "Running", None)], 1, &["b", "c"]);
    check(&[ready("a"), pod("b", "n1", "Running", Some(5))], 1, &["b"]);
    let mut cheap = ready("cheap");
    cheap.metadata.annotations.insert("controller.kubernetes.io/pod-deletion-cost".into(), "-5".into());
    check(&[ready("a"), cheap], 1, &["cheap"]);
    let alone = pod("alone", "n2", "Running", Some(1));
    check(&[ready("a"), ready("b"), alone], 2, &["a"]);
}

#[test]
fn orphans_are_adopted_and_strangers_released() {
    let mut orphan = pod("orphan", "n", "Running", None);
    orphan.metadata.owner_references.clear();
    let mut stranger = pod("stranger", "n", "Running", None);
    stranger.metadata.labels.clear();
    let step = run(&set(1), &[orphan, stranger]);
    assert_eq!((created(&step), deleted(&step).len()), (0, 0));
    let bodies: Vec<&Value> = step
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Patch { body, .. } => Some(body),
            _ => None,
        })
        .collect();
    assert_eq!(bodies[0].pointer("/metadata/ownerReferences/0/uid"), Some(&json!("set-uid")));
    assert_eq!(bodies[1].pointer("/metadata/ownerReferences"), Some(&Value::Null));
}

#[test]
fn availability_waits_for_min_ready_seconds() {
    let mut set = set(2);
    set.spec.min_ready_seconds = 30;
    let pods = [pod("a", "n", "Running", Some(40)), pod("b", "n", "Running", Some(10))];
    let step = run(&set, &pods);
    let patch = status_patch(&step);
    assert_eq!(patch.pointer("/status/readyReplicas"), Some(&json!(2)));
    assert_eq!(patch.pointer("/status/availableReplicas"), Some(&json!(1)));
    assert_eq!(patch.pointer("/status/observedGeneration"), Some(&json!(3)));
    assert_eq!(step.requeue_after.map(|wait| wait.as_secs()), Some(20));
}

#[test]
fn failures_become_a_condition_and_an_event() {
    let failure = WriteFailure { creating: true, message: "quota".into() };
    let set = set(1);
    let step = step(&View { replica_set: &set, pods: &[], related: &[], failure: Some(&failure) }, now());
    assert_eq!(created(&step), 1);
    assert!(step.actions.iter().any(|a| matches!(a, Action::Event(e) if e.reason == "FailedCreate")));
    let patch = status_patch(&step);
    assert_eq!(patch.pointer("/status/conditions/0/type"), Some(&json!("ReplicaFailure")));
}

#[test]
fn a_replication_controller_is_decided_alike() {
    let read_controller = |selector: Value| -> ReplicaSet {
        let object = json!({
            "metadata": {"name": "rc", "namespace": "ns", "uid": "set-uid"},
            "spec": {"replicas": 1, "selector": selector,
                     "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": []}}},
        });
        read::<ReplicationController>(&object).unwrap().0
    };
    let mut terminating = pod("old", "n", "Running", None);
    terminating.metadata.deletion_timestamp = Some(now());
    let step = run(&read_controller(json!({"app": "web"})), &[terminating]);
    let owner = step.actions.iter().find_map(|action| match action {
        Action::Create { object, .. } => object.pointer("/metadata/ownerReferences/0"),
        _ => None,
    });
    let owner = owner.expect("a pod with an owner");
    assert_eq!((&owner["apiVersion"], &owner["kind"]), (&json!("v1"), &json!("ReplicationController")));
    let failure = WriteFailure { creating: true, message: "exceeded quota".into() };
    let set = read_controller(json!({"app": "web"}));
    let failed =
        super::step(&View { replica_set: &set, pods: &[], related: &[], failure: Some(&failure) }, now());
    let patch = status_patch(&failed);
    assert_eq!(patch.pointer("/status/conditions/0/reason"), Some(&json!("FailedCreate")));
    assert_eq!(patch.pointer("/status/terminatingReplicas"), None);
    assert_eq!(run(&read_controller(json!({})), &[]), Step::idle(), "no labels select no pods");
}

proptest! {
    #[test]
    fn converges_from_any_start(replicas in 0i64..20, start in 0usize..30, chaos in proptest::collection::vec(0usize..30, 0..10)) {
        let mut world = World::new();
        world.create_replica_set(replicas, start);
        for name in chaos {
            world.fail_pod(name);
            world.run_replica_sets();
        }
        world.settle();
        prop_assert_eq!(world.active_pods() as i64, replicas);
        prop_assert_eq!(world.replica_set_status(), (replicas, replicas));
    }
}
