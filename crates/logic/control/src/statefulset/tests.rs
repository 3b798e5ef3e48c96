use super::*;
use crate::{
    action::{CONTROLLER_REVISIONS, PERSISTENT_VOLUME_CLAIMS},
    meta::read,
    world::World,
};
use proptest::prelude::*;
use serde_json::json;

const NOW: i64 = 1_000_000;

fn now() -> Timestamp {
    Timestamp::from_unix(NOW, 0)
}

fn template(image: &str) -> Value {
    json!({"metadata": {"labels": {"app": "w"}}, "spec": {"containers": [{"image": image}]}})
}

/// A StatefulSet `w` of the version `new`, coming from `old`.
fn set(replicas: i64, spec: Value) -> StatefulSet {
    let mut object = json!({"metadata": {"name": "w", "namespace": "ns", "uid": "set", "generation": 2},
        "spec": {"replicas": replicas, "serviceName": "svc", "selector": {"matchLabels": {"app": "w"}},
            "template": template("new"), "updateStrategy": {"type": "RollingUpdate"}},
        "status": {"currentRevision": "old"}});
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    read(&object).unwrap()
}

fn parallel(replicas: i64) -> StatefulSet {
    set(replicas, json!({"podManagementPolicy": "Parallel"}))
}

fn revisions() -> Vec<ControllerRevision> {
    let revision = |name: &str, number: i64| {
        let mut template = template(name);
        template["$patch"] = json!("replace");
        read(&json!({"metadata": {"name": name, "uid": name, "namespace": "ns",
                "labels": {"app": "w", HASH_LABEL: name},
                "ownerReferences": [{"uid": "set", "controller": true}]},
            "data": {"spec": {"template": template}}, "revision": number}))
        .unwrap()
    };
    vec![revision("old", 1), revision("new", 2)]
}

/// A pod as `ORDINAL VERSION STATE`: ready, waiting, running, failed, leaving.
fn pod(words: &str) -> Pod {
    let mut words = words.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (ordinal, version, state) = (next(), next(), next());
    let phase = match state {
        "failed" => "Failed",
        "waiting" => "Pending",
        _ => "Running",
    };
    let ready = if matches!(state, "ready" | "leaving") { "True" } else { "False" };
    let name = format!("w-{ordinal}");
    read(&json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name,
            "deletionTimestamp": (state == "leaving").then(now),
            "labels": {"app": "w", REVISION_LABEL: version, "statefulset.kubernetes.io/pod-name": name},
            "ownerReferences": [{"uid": "set", "controller": true}]},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}}))
    .unwrap()
}

fn run(set: &StatefulSet, pods: &[Pod], claims: &[PersistentVolumeClaim]) -> Step {
    let revisions = revisions();
    let view = View {
        stateful_set: set,
        pods: &pods.iter().collect::<Vec<_>>(),
        claims: &claims.iter().collect::<Vec<_>>(),
        revisions: &revisions.iter().collect::<Vec<_>>(),
        failure: None,
    };
    step(&view, now())
}

/// Creates (`+NAME VERSION`), deletes (`-NAME`) and patches (`~NAME`).
fn words(step: &Step) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::Create { object, .. } => {
            let version = object.pointer("/metadata/labels/controller-revision-hash");
            let version = version.and_then(Value::as_str).map(|v| format!(" {v}")).unwrap_or_default();
            Some(format!("+{}{version}", object["metadata"]["name"].as_str().unwrap_or("?")))
        }
        Action::Delete { name, .. } => Some(format!("-{name}")),
        Action::Patch { name, .. } => Some(format!("~{name}")),
        _ => None,
    };
    step.actions.iter().filter_map(word).collect()
}

fn check(set: &StatefulSet, pods: &[&str], expect: &[&str]) {
    let made: Vec<Pod> = pods.iter().map(|words| pod(words)).collect();
    assert_eq!(words(&run(set, &made, &[])), expect, "{pods:?}");
}

#[test]
fn pods_come_in_order() {
    let three = set(3, json!({}));
    check(&three, &[], &["+w-0 new"]);
    check(&three, &["0 new waiting"], &[]);
    check(&three, &["0 new running"], &[]);
    check(&three, &["0 new ready"], &["+w-1 new"]);
    check(&three, &["0 new ready", "2 new ready"], &["+w-1 new"]);
    check(&three, &["0 new leaving", "1 new ready"], &[]);
    check(&three, &["0 new failed", "1 new ready"], &["-w-0"]);
    check(&set(2, json!({"ordinals": {"start": 5}})), &["5 new ready"], &["+w-6 new"]);
}

#[test]
fn pods_go_in_order() {
    let one = set(1, json!({}));
    let ready = ["0 new ready", "1 new ready", "2 new ready"];
    check(&one, &ready, &["-w-2"]);
    check(&one, &["0 new ready", "1 new ready", "2 new leaving"], &[]);
    // What is not well stops the others, but can go itself.
    check(&one, &["0 new ready", "1 new running", "2 new ready"], &["-w-2"]);
    check(&one, &["0 new ready", "1 new running", "2 new running"], &[]);
    check(&one, &["0 new ready", "1 new ready", "2 new running"], &["-w-2"]);
    check(&one, &["0 new ready", "1 new failed", "2 new failed"], &["-w-2"]);
    check(&set(0, json!({})), &["0 new running", "1 new running", "2 new running"], &[]);
    check(&set(1, json!({"ordinals": {"start": 2}})), &ready, &["-w-1"]);
}

#[test]
fn in_parallel_nobody_waits() {
    check(&parallel(3), &[], &["+w-0 new", "+w-1 new", "+w-2 new"]);
    check(&parallel(3), &["0 new running"], &["+w-1 new", "+w-2 new"]);
    check(&parallel(0), &["0 new running", "1 new leaving", "2 new ready"], &["-w-2", "-w-0"]);
    let many = run(&parallel(100_000), &[], &[]);
    assert_eq!(words(&many).len(), BURST);
}

#[test]
fn updates_go_from_the_top_down() {
    let three = set(3, json!({}));
    check(&three, &["0 old ready", "1 old ready", "2 old ready"], &["-w-2"]);
    check(&three, &["0 old ready", "1 old ready", "2 new running"], &[]);
    check(&three, &["0 old ready", "1 old ready", "2 new ready"], &["-w-1"]);
    let strategy = |rolling: Value| {
        set(3, json!({"updateStrategy": {"type": "RollingUpdate", "rollingUpdate": rolling}}))
    };
    let old = ["0 old ready", "1 old ready", "2 old ready"];
    check(&strategy(json!({"partition": 2})), &["0 old ready", "1 old ready", "2 new ready"], &[]);
    check(&strategy(json!({"maxUnavailable": 2})), &old, &["-w-2", "-w-1"]);
    check(&strategy(json!({"maxUnavailable": "70%"})), &old, &["-w-2", "-w-1"]);
    check(&set(3, json!({"updateStrategy": {"type": "OnDelete"}})), &old, &[]);
    // A pod before the partition that is lost comes back as it was.
    check(&strategy(json!({"partition": 2})), &["1 old ready", "2 new ready"], &["+w-0 old"]);
    check(&strategy(json!({"partition": 2})), &["0 old ready", "1 old ready"], &["+w-2 new"]);
    // In parallel a broken old pod does not stop the update.
    check(&parallel(3), &["0 old ready", "1 old running", "2 old ready"], &["-w-2"]);
    check(&parallel(3), &["0 old ready", "1 old running", "2 new ready"], &["-w-1"]);
}

#[test]
fn a_pod_is_made_with_its_identity() {
    let templates = json!([{"metadata": {"name": "data"}, "spec": {"accessModes": ["ReadWriteOnce"]}}]);
    let mut one = set(1, json!({"volumeClaimTemplates": templates}));
    one.spec.template["spec"]["volumes"] = json!([{"name": "data", "emptyDir": {}}, {"name": "tmp"}]);
    let step = run(&one, &[], &[]);
    let objects: Vec<&Value> = step
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Create { resource, object, .. } if *resource != CONTROLLER_REVISIONS => Some(object),
            _ => None,
        })
        .collect();
    let [claim, pod] = objects[..] else { panic!("{objects:?}") };
    assert_eq!(
        (&claim["kind"], &claim["metadata"]["name"]),
        (&json!("PersistentVolumeClaim"), &json!("data-w-0"))
    );
    assert_eq!(
        (&claim["metadata"]["labels"]["app"], &claim["spec"]["accessModes"][0]),
        (&json!("w"), &json!("ReadWriteOnce"))
    );
    let labels = &pod["metadata"]["labels"];
    assert_eq!(labels["statefulset.kubernetes.io/pod-name"], "w-0");
    assert_eq!(labels["apps.kubernetes.io/pod-index"], "0");
    assert_eq!((&pod["spec"]["hostname"], &pod["spec"]["subdomain"]), (&json!("w-0"), &json!("svc")));
    let claimed = json!({"name": "data", "persistentVolumeClaim": {"claimName": "data-w-0"}});
    assert_eq!(pod["spec"]["volumes"], json!([claimed, {"name": "tmp"}]));
    assert_eq!(pod["metadata"].get("generateName"), None);
}

/// A claim of `w-ORDINAL`, and the owners it has (`set`, `pod`, `other`, `stale`).
fn claim_of(ordinal: i64, owners: &[&str]) -> PersistentVolumeClaim {
    let owner = |name: &&str| match *name {
        "set" => {
            json!({"apiVersion": "apps/v1", "kind": "StatefulSet", "name": "w", "uid": "set", "controller": true})
        }
        "pod" => {
            json!({"apiVersion": "v1", "kind": "Pod", "name": format!("w-{ordinal}"), "uid": format!("w-{ordinal}"), "controller": true})
        }
        "stale" => {
            json!({"apiVersion": "v1", "kind": "Pod", "name": format!("w-{ordinal}"), "uid": "before", "controller": true})
        }
        other => json!({"apiVersion": "v1", "kind": "X", "name": other, "uid": other, "controller": true}),
    };
    let owners: Vec<Value> = owners.iter().map(owner).collect();
    read(&json!({"metadata": {"name": format!("data-w-{ordinal}"), "uid": "c", "ownerReferences": owners}}))
        .unwrap()
}

#[test]
fn claims_are_owned_by_the_retention_policy() {
    let with = |deleted: &str, scaled: &str| {
        set(
            1,
            json!({"volumeClaimTemplates": [{"metadata": {"name": "data"}}],
                "persistentVolumeClaimRetentionPolicy": {"whenDeleted": deleted, "whenScaled": scaled}}),
        )
    };
    let check = |set: &StatefulSet, ordinal: i64, before: &[&str], after: Option<&[&str]>| {
        let pods = [pod("0 new ready"), pod("1 new ready")];
        let claims = [claim_of(ordinal, before), claim_of(1 - ordinal, &[])];
        let step = run(set, &pods, &claims);
        let name = format!("data-w-{ordinal}");
        let patched = step.actions.iter().find_map(|action| match action {
            Action::Patch { name: found, body, .. } if *found == name => {
                let owners = body["metadata"]["ownerReferences"].as_array().cloned().unwrap_or_default();
                let word = |owner: &Value| match owner["uid"].as_str().unwrap_or_default() {
                    "set" => "set".to_owned(),
                    uid if uid.starts_with("w-") => "pod".to_owned(),
                    other => other.to_owned(),
                };
                Some(owners.iter().map(word).collect::<Vec<String>>())
            }
            _ => None,
        });
        let expect = after.map(|owners| owners.iter().map(|o| (*o).to_owned()).collect::<Vec<String>>());
        assert_eq!(patched, expect, "ordinal {ordinal} with {before:?}");
    };
    let (retain, delete) = ("Retain", "Delete");
    check(&with(retain, retain), 0, &[], None);
    check(&with(retain, retain), 0, &["set"], Some(&[]));
    check(&with(delete, retain), 0, &[], Some(&["set"]));
    check(&with(delete, retain), 1, &["set"], None);
    check(&with(retain, delete), 0, &["pod"], Some(&[]));
    check(&with(retain, delete), 1, &[], Some(&["pod"]));
    check(&with(delete, delete), 0, &["pod"], Some(&["set"]));
    check(&with(delete, delete), 1, &["set"], Some(&["pod"]));
    check(&with(delete, delete), 0, &["other"], None);
    check(&with(delete, delete), 0, &["stale"], None);
}

#[test]
fn a_pod_waits_for_the_claim_of_the_one_before_to_go() {
    let templates = json!([{"metadata": {"name": "data"}}]);
    let policy = json!({"whenDeleted": "Retain", "whenScaled": "Delete"});
    let one =
        set(1, json!({"volumeClaimTemplates": templates, "persistentVolumeClaimRetentionPolicy": policy}));
    assert_eq!(words(&run(&one, &[], &[claim_of(0, &["stale"])])), [""; 0]);
    assert_eq!(words(&run(&one, &[], &[claim_of(0, &[])])), ["+w-0 new"]);
    let mut leaving = claim_of(0, &[]);
    leaving.metadata.deletion_timestamp = Some(now());
    assert_eq!(words(&run(&one, &[], &[leaving])), [""; 0]);
    // A pod that waits for its claim gets it.
    assert_eq!(words(&run(&one, &[pod("0 new waiting")], &[])), ["+data-w-0"]);
}

#[test]
fn the_status_counts_pods_by_version() {
    let status = |pods: &[&str]| {
        let pods: Vec<Pod> = pods.iter().map(|words| pod(words)).collect();
        let step = run(&set(2, json!({})), &pods, &[]);
        let patch = step.actions.iter().find_map(|action| match action {
            Action::UpdateStatus { patch, .. } => Some(patch["status"].clone()),
            _ => None,
        });
        patch.unwrap()
    };
    assert_eq!(
        status(&["0 old ready", "1 new running"]),
        json!({"observedGeneration": 2, "replicas": 2, "readyReplicas": 1, "availableReplicas": 1,
            "currentReplicas": 1, "updatedReplicas": 1, "updateRevision": "new", "collisionCount": 0})
    );
    // Once all are new, the new version is the current one.
    let done = status(&["0 new ready", "1 new ready"]);
    assert_eq!((&done["currentRevision"], &done["currentReplicas"]), (&json!("new"), &json!(2)));
}

#[test]
fn only_pods_of_its_name_are_its_own() {
    let mut orphan = pod("0 new ready");
    orphan.metadata.owner_references.clear();
    let mut stranger = pod("0 new ready");
    stranger.metadata.name = "other".into();
    stranger.metadata.owner_references.clear();
    let mut lost = pod("1 new ready");
    lost.metadata.name = "w-01".into();
    let step = run(&set(1, json!({})), &[orphan, stranger, lost], &[]);
    assert_eq!(words(&step), ["~w-0", "~w-01"]);
}

/// A world with a StatefulSet.
fn world(replicas: i64, spec: &Value) -> World {
    let mut world = World::new();
    let mut object = json!({"metadata": {"name": "w"}, "spec": {"replicas": replicas,
        "selector": {"matchLabels": {"app": "w"}}, "template": template("v0"),
        "volumeClaimTemplates": [{"metadata": {"name": "data"}, "spec": {}}],
        "updateStrategy": {"type": "RollingUpdate"}, "revisionHistoryLimit": 1}});
    for (field, value) in spec.as_object().unwrap() {
        object["spec"][field] = value.clone();
    }
    world.create(&STATEFUL_SETS, object);
    world.settle();
    world
}

/// Ordinals and images of the pods.
fn state(world: &World) -> Vec<(i64, String)> {
    let pods = world.all::<Pod>(&PODS);
    let image = |pod: &Pod| {
        let object = world.object(&PODS, &pod.metadata.name).unwrap();
        object["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
    };
    let mut all: Vec<_> =
        pods.iter().map(|pod| (ordinal("w", &pod.metadata.name).unwrap(), image(pod))).collect();
    all.sort();
    all
}

#[derive(Clone, Debug)]
enum Move {
    Scale(i64),
    Template(usize),
    Run(usize, usize),
    Fail(usize),
}

fn moves() -> impl Strategy<Value = Vec<Move>> {
    let one = prop_oneof![
        (0i64..5).prop_map(Move::Scale),
        (0usize..3).prop_map(Move::Template),
        ((0usize..3), (0usize..3)).prop_map(|(starts, stops)| Move::Run(starts, stops)),
        ((0usize..3), (0usize..3)).prop_map(|(starts, stops)| Move::Run(starts, stops)),
        (0usize..5).prop_map(Move::Fail),
    ];
    proptest::collection::vec(one, 0..40)
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(96))]

    /// Whatever happens: in order a pod is only made when all before it are well, and in the end there are the
    /// pods asked for, of the present version, with their claims.
    #[test]
    fn reaches_what_is_asked_for(moves in moves(), parallel in any::<bool>(), start in 0i64..3) {
        let policy = if parallel { "Parallel" } else { "OrderedReady" };
        let mut world = world(2, &json!({"podManagementPolicy": policy, "ordinals": {"start": start}}));
        let (mut replicas, mut version) = (2, 0);
        for step in moves {
            match step {
                Move::Scale(wanted) => {
                    replicas = wanted;
                    world.patch(&STATEFUL_SETS, "w", json!({"spec": {"replicas": wanted}}));
                }
                Move::Template(wanted) => {
                    version = wanted;
                    let template = template(&format!("v{wanted}"));
                    world.patch(&STATEFUL_SETS, "w", json!({"spec": {"template": template}}));
                }
                Move::Run(starts, stops) => drop(world.run_node(starts, stops)),
                Move::Fail(index) => world.fail_pod(index),
            }
            let before = world.all::<Pod>(&PODS);
            world.run_stateful_sets();
            let made: Vec<Pod> = world.all::<Pod>(&PODS).into_iter().filter(|pod| {
                before.iter().all(|other| other.metadata.uid != pod.metadata.uid)
            }).collect();
            prop_assert!(parallel || made.len() <= 1);
            for pod in made.iter().filter(|_| !parallel) {
                let own = ordinal("w", &pod.metadata.name).unwrap();
                let well = |n: i64| before.iter().any(|pod| pod.active() && pod.ready()
                    && ordinal("w", &pod.metadata.name) == Some(n));
                prop_assert!((start..own).all(well), "{own} was made before its time");
            }
        }
        world.settle();
        let expect: Vec<_> = (start..start + replicas).map(|n| (n, format!("v{version}"))).collect();
        prop_assert_eq!(state(&world), expect);
        let claims = world.all::<PersistentVolumeClaim>(&PERSISTENT_VOLUME_CLAIMS);
        for n in start..start + replicas {
            let name = format!("data-w-{}", n);
            prop_assert!(claims.iter().any(|claim| claim.metadata.name == name));
        }
        let set = &world.all::<StatefulSet>(&STATEFUL_SETS)[0];
        prop_assert_eq!(set.status.ready_replicas, replicas);
        prop_assert_eq!(&set.status.current_revision, &set.status.update_revision);
        prop_assert!(world.all::<ControllerRevision>(&CONTROLLER_REVISIONS).len() <= 2);
    }
}
