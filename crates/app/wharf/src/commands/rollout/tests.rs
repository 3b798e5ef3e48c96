//! Orders and what is shown, from objects.

use serde_json::{Value, json};
use wharf_base::Timestamp;
use wharf_control::replicaset::ReplicaSet;
use wharf_deliver::rollout::Rollout;

use super::{
    change::{self, Writes},
    show,
};

fn rollout(status: Value, paused: bool) -> Rollout {
    wharf_control::read(&json!({
        "metadata": {"name": "shop", "namespace": "prod", "uid": "u", "creationTimestamp": "1970-01-01T00:00:00Z"},
        "spec": {"replicas": 2, "paused": paused, "selector": {"matchLabels": {"app": "shop"}},
            "template": template("shop:2"),
            "strategy": {"canary": {"steps": [{"setWeight": 1}, {"pause": {}}, {"setWeight": 50}]}}},
        "status": status,
    }))
    .unwrap()
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "shop"}}, "spec": {"containers": [{"name": "c", "image": image}]}})
}

fn replica_set(revision: i64, hash: &str, image: &str, replicas: i64) -> Value {
    let mut template = template(image);
    template["metadata"]["labels"]["rollouts-pod-template-hash"] = hash.into();
    template["metadata"]["creationTimestamp"] = Value::Null;
    json!({
        "metadata": {"name": format!("shop-{hash}"), "namespace": "prod", "uid": hash, "generation": 1,
            "labels": template["metadata"]["labels"], "creationTimestamp": "1970-01-01T00:01:00Z",
            "annotations": {"rollout.argoproj.io/revision": revision.to_string()},
            "ownerReferences": [{"apiVersion": "argoproj.io/v1alpha1", "kind": "Rollout", "name": "shop", "uid": "u", "controller": true}]},
        "spec": {"replicas": replicas, "template": template},
        "status": {"replicas": replicas, "availableReplicas": replicas, "observedGeneration": 1},
    })
}

fn sets() -> Vec<Value> {
    vec![
        replica_set(1, "aaa", "shop:1", 2),
        replica_set(2, "bbb", "shop:2", 1),
        replica_set(3, "ccc", "shop:3", 0),
    ]
}

fn paused_status() -> Value {
    json!({"currentStepIndex": 1, "pauseConditions": [{"reason": "CanaryPauseStep", "startTime": "1970-01-01T00:01:00Z"}],
        "controllerPause": true, "currentPodHash": "bbb", "stableRS": "aaa", "phase": "Paused", "message": "CanaryPauseStep",
        "replicas": 3, "updatedReplicas": 1, "readyReplicas": 3, "availableReplicas": 3,
        "canary": {"weights": {"canary": {"weight": 1, "podTemplateHash": "bbb"}, "stable": {"weight": 99, "podTemplateHash": "aaa"}}}})
}

#[test]
fn promote_ends_a_pause_or_skips_a_step() {
    let check = |status: Value, paused: bool, full: bool, wanted_status: Value, wanted_spec: Value| {
        let rollout = rollout(status, paused);
        let writes = if full { change::promote_fully(&rollout) } else { change::promote(&rollout) };
        let some = |value: Value| (!value.is_null()).then_some(value);
        assert_eq!(writes, Writes { status: some(wanted_status), spec: some(wanted_spec) });
    };
    let unpause = json!({"spec": {"paused": false}});
    let to = |index: i64| json!({"status": {"currentStepIndex": index, "pauseConditions": null}});
    let cleared = json!({"status": {"pauseConditions": null}});
    check(paused_status(), false, false, cleared.clone(), Value::Null);
    check(paused_status(), true, false, cleared, unpause.clone());
    // Only somebody's own pause: the rollout goes on where it is.
    check(json!({"currentStepIndex": 0}), true, false, Value::Null, unpause);
    // Not paused: the step is skipped, the last one too, and no further.
    check(json!({}), false, false, to(1), Value::Null);
    check(json!({"currentStepIndex": 2}), false, false, to(3), Value::Null);
    check(json!({"currentStepIndex": 3}), false, false, to(3), Value::Null);
    check(paused_status(), true, true, json!({"status": {"promoteFull": true}}), Value::Null);
    let done = json!({"currentPodHash": "bbb", "stableRS": "bbb", "currentStepIndex": 3});
    check(done, false, true, Value::Null, Value::Null);
}

#[test]
fn an_aborted_rollout_is_not_promoted() {
    assert!(change::check_promotable("shop", &rollout(paused_status(), false)).is_ok());
    let mut status = paused_status();
    status["abort"] = true.into();
    let refused = change::check_promotable("shop", &rollout(status, false)).unwrap_err();
    assert_eq!(refused.to_string(), "the rollout 'shop' is aborted and cannot be promoted");
    assert!(refused.hint().contains("wharf rollout retry shop"), "{}", refused.hint());
}

#[test]
fn undo_brings_an_earlier_template_back() {
    let rollout = rollout(paused_status(), false);
    let owned: Vec<ReplicaSet> = show::owned(&sets(), &rollout);
    let chosen = change::revision("shop", &owned, Some(1)).unwrap();
    let patch = change::undo(&rollout, chosen).unwrap();
    assert_eq!(patch, json!([{"op": "replace", "path": "/spec/template", "value": template("shop:1")}]));
    let before = change::revision("shop", &owned, None).unwrap();
    assert_eq!(before.metadata.name, "shop-bbb");
    assert_eq!(change::undo(&rollout, before), None, "that is the present template");
    let unknown = change::revision("shop", &owned, Some(9)).unwrap_err();
    assert_eq!(
        (unknown.to_string(), unknown.hint()),
        ("the rollout 'shop' has no revision 9".to_owned(), "its revisions are 3, 2, 1")
    );
    assert!(change::revision("shop", &owned[..1], None).is_err());
}

#[test]
fn a_rollout_is_shown_with_all_that_belongs_to_it() {
    let rollout = rollout(paused_status(), false);
    let pod = |name: &str, owner: &str| {
        json!({"metadata": {"name": name, "namespace": "prod", "creationTimestamp": "1970-01-01T00:01:00Z",
                "ownerReferences": [{"uid": owner, "controller": true}]},
            "spec": {"containers": [{"name": "c"}]},
            "status": {"phase": "Running", "containerStatuses": [{"name": "c", "ready": true, "restartCount": 0, "state": {"running": {}}}],
                "conditions": [{"type": "Ready", "status": "True"}]}})
    };
    let run = json!({"metadata": {"name": "shop-bbb-2", "uid": "r", "creationTimestamp": "1970-01-01T00:01:30Z",
            "labels": {"rollouts-pod-template-hash": "bbb"}, "ownerReferences": [{"apiVersion": "argoproj.io/v1alpha1",
            "kind": "Rollout", "name": "shop", "uid": "u", "controller": true}]},
        "spec": {"metrics": []},
        "status": {"phase": "Running", "metricResults": [{"name": "m", "phase": "Running", "successful": 3, "failed": 1}]}});
    let around = show::Around {
        replica_sets: show::owned(&sets(), &rollout),
        analysis_runs: show::owned(&[run], &rollout),
        pods: vec![
            pod("shop-aaa-1", "aaa"),
            pod("shop-aaa-2", "aaa"),
            pod("shop-bbb-1", "bbb"),
            pod("other", "x"),
        ],
    };
    let shown = show::render(&rollout, &around, Timestamp::from_unix(120, 0));
    let wanted = "\
Name:            shop
Namespace:       prod
Status:          ॥ Paused
Message:         CanaryPauseStep
Strategy:        Canary
  Step:          1/3
  SetWeight:     1
  ActualWeight:  1
Images:          shop:1 (stable)
                 shop:2 (canary)
Replicas:
  Desired:       2
  Current:       3
  Updated:       1
  Ready:         3
  Available:     3

NAME                    KIND          STATUS         AGE   INFO
⟳ shop                  Rollout       ॥ Paused       2m
├─ # revision:3
│  └─ ⧉ shop-ccc        ReplicaSet    • ScaledDown   60s
├─ # revision:2
│  ├─ ⧉ shop-bbb        ReplicaSet    ✔ Healthy      60s   canary
│  │  └─ □ shop-bbb-1   Pod           ✔ Running      60s   ready:1/1
│  └─ α shop-bbb-2      AnalysisRun   ◌ Running      30s   ✔ 3,✖ 1
└─ # revision:1
   └─ ⧉ shop-aaa        ReplicaSet    ✔ Healthy      60s   stable
      ├─ □ shop-aaa-1   Pod           ✔ Running      60s   ready:1/1
      └─ □ shop-aaa-2   Pod           ✔ Running      60s   ready:1/1
";
    assert_eq!(shown, wanted, "\n{shown}");
}
