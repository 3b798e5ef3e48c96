use super::*;
use crate::{
    action::{NODES, PODS},
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
    json!({"metadata": {"labels": {"app": "d"}}, "spec": {"containers": [{"image": image}]}})
}

fn set(strategy: Value) -> DaemonSet {
    read(&json!({"metadata": {"name": "d", "namespace": "ns", "uid": "set", "generation": 4},
        "spec": {"selector": {"matchLabels": {"app": "d"}}, "template": template("new"),
            "updateStrategy": strategy}}))
    .unwrap()
}

fn rolling(unavailable: i64, surge: i64) -> DaemonSet {
    set(json!({"type": "RollingUpdate",
        "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}))
}

fn node(name: &str) -> Node {
    read(&json!({"metadata": {"name": name, "labels": {"name": name}}})).unwrap()
}

/// The revisions `old` and `new`.
fn revisions() -> Vec<ControllerRevision> {
    let revision = |name: &str, number: i64| {
        let mut template = template(name);
        template["$patch"] = json!("replace");
        read(&json!({"metadata": {"name": name, "uid": name, "namespace": "ns",
                "labels": {"app": "d", REVISION_LABEL: name},
                "ownerReferences": [{"uid": "set", "controller": true}]},
            "data": {"spec": {"template": template}}, "revision": number}))
        .unwrap()
    };
    vec![revision("old", 1), revision("new", 2)]
}

/// A pod as `NODE VERSION STATE`: ready, waiting, failed, done, leaving.
fn pod(words: &str) -> Pod {
    let mut words = words.split(' ');
    let mut next = || words.next().unwrap_or_default();
    let (node, version, state) = (next(), next(), next());
    let phase = match state {
        "failed" => "Failed",
        "done" => "Succeeded",
        "waiting" => "Pending",
        _ => "Running",
    };
    let deletion = (state == "leaving").then(now);
    let ready = if state == "ready" { "True" } else { "False" };
    let name = format!("{node}-{version}-{state}");
    read(&json!({
        "metadata": {"name": name, "namespace": "ns", "uid": name, "deletionTimestamp": deletion,
            "labels": {"app": "d", REVISION_LABEL: version}, "creationTimestamp": now(),
            "ownerReferences": [{"uid": "set", "controller": true}]},
        "spec": {"nodeName": node},
        "status": {"phase": phase, "conditions": [{"type": "Ready", "status": ready}]}}))
    .unwrap()
}

fn run(set: &DaemonSet, nodes: &[Node], pods: &[&str], backoffs: &mut Backoffs) -> Step {
    let pods: Vec<Pod> = pods.iter().map(|words| pod(words)).collect();
    let revisions = revisions();
    let view = View {
        daemon_set: set,
        nodes: &nodes.iter().collect::<Vec<_>>(),
        pods: &pods.iter().collect::<Vec<_>>(),
        revisions: &revisions.iter().collect::<Vec<_>>(),
        failure: None,
    };
    step(&view, backoffs, now())
}

/// Pods created (`+NODE`) and deleted (`-NAME`).
fn words(step: &Step) -> Vec<String> {
    let word = |action: &Action| match action {
        Action::Create { resource, object, .. } if *resource == PODS => {
            Some(format!("+{}", pods::node_of(object)))
        }
        Action::Delete { resource, name, .. } if *resource == PODS => Some(format!("-{name}")),
        _ => None,
    };
    step.actions.iter().filter_map(word).collect()
}

fn check(set: &DaemonSet, pods: &[&str], expect: &[&str]) {
    let nodes = ["a", "b", "c"].map(node);
    assert_eq!(words(&run(set, &nodes, pods, &mut Backoffs::default())), expect, "{pods:?}");
}

#[test]
fn every_node_has_one() {
    let set = rolling(1, 0);
    check(&set, &[], &["+a", "+b", "+c"]);
    check(&set, &["a new ready", "b new waiting", "c new leaving"], &[]);
    check(&set, &["a new ready", "b new failed", "c new done"], &["-b-new-failed", "-c-new-done"]);
    check(&set, &["a new ready", "a new waiting", "b new ready", "c new ready"], &["-a-new-waiting"]);
}

#[test]
fn nodes_are_chosen_by_selector_and_taints() {
    let place_of = |spec: Value, taints: Value| {
        let mut set = rolling(1, 0);
        set.spec.template["spec"] = spec;
        let mut node = node("a");
        node.spec.taints = read(&taints).unwrap();
        nodes::places(&set, &[&node])["a"]
    };
    use nodes::Place::{MayKeep, Not, Should};
    let taint = |key: &str, effect: &str| json!([{"key": key, "effect": effect}]);
    assert_eq!(place_of(json!({}), json!([])), Should);
    assert_eq!(place_of(json!({"nodeSelector": {"name": "b"}}), json!([])), Not);
    assert_eq!(place_of(json!({"nodeName": "b"}), json!([])), Not);
    assert_eq!(place_of(json!({}), taint("mine", "NoSchedule")), MayKeep);
    assert_eq!(place_of(json!({}), taint("mine", "NoExecute")), Not);
    assert_eq!(place_of(json!({}), taint("mine", "PreferNoSchedule")), Should);
    let tolerant = json!({"tolerations": [{"key": "mine", "operator": "Exists"}]});
    assert_eq!(place_of(tolerant, taint("mine", "NoExecute")), Should);
    // Cordoned, under pressure or silent: daemons run there all the same.
    for (key, effect) in [
        ("node.kubernetes.io/unschedulable", "NoSchedule"),
        ("node.kubernetes.io/disk-pressure", "NoSchedule"),
        ("node.kubernetes.io/unreachable", "NoExecute"),
    ] {
        assert_eq!(place_of(json!({}), taint(key, effect)), Should, "{key}");
    }
    let network = taint("node.kubernetes.io/network-unavailable", "NoSchedule");
    assert_eq!(place_of(json!({}), network.clone()), MayKeep);
    assert_eq!(place_of(json!({"hostNetwork": true}), network), Should);
}

#[test]
fn pods_are_pinned_to_their_node() {
    let mut set = rolling(1, 0);
    set.spec.template["spec"]["affinity"] = json!({"podAffinity": {}, "nodeAffinity":
        {"requiredDuringSchedulingIgnoredDuringExecution": {"nodeSelectorTerms": [
            {"matchExpressions": [{"key": "name", "operator": "Exists"}]}]}}});
    let step = run(&set, &[node("a")], &[], &mut Backoffs::default());
    let pods: Vec<&Value> = step
        .actions
        .iter()
        .filter_map(|action| match action {
            Action::Create { resource, object, .. } if *resource == PODS => Some(object),
            _ => None,
        })
        .collect();
    let pod = pods[0];
    assert_eq!((pods.len(), pods::node_of(pod)), (1, "a"));
    assert!(pod.pointer("/spec/affinity/podAffinity").is_some());
    assert_eq!(pod.pointer("/spec/tolerations").and_then(Value::as_array).map(Vec::len), Some(6));
    let label = pod["metadata"]["labels"][REVISION_LABEL].as_str().unwrap();
    let made = step.actions.iter().find_map(|action| match action {
        Action::Create { object, .. } => Some(&object["metadata"]["labels"][REVISION_LABEL]),
        _ => None,
    });
    assert_eq!(made, Some(&json!(label)), "the revision is made first, and its pods name it");
    assert_eq!(pod["metadata"]["generateName"], "d-");
}

#[test]
fn old_pods_are_replaced_as_far_as_allowed() {
    let old = ["a old ready", "b old ready", "c old ready"];
    check(&rolling(1, 0), &old, &["-a-old-ready"]);
    check(&rolling(2, 0), &old, &["-a-old-ready", "-b-old-ready"]);
    check(&set(json!({"type": "OnDelete"})), &old, &[]);
    // One new pod is not available yet: no other old one may go.
    check(&rolling(1, 0), &["a new waiting", "b old ready", "c old ready"], &[]);
    // One that is not available goes in any case.
    check(&rolling(1, 0), &["a new waiting", "b old waiting", "c old ready"], &["-b-old-waiting"]);
    check(&rolling(1, 0), &["a new ready", "b old ready", "c old leaving"], &[]);
    check(&rolling(0, 0), &old, &["-a-old-ready"]);
}

#[test]
fn surging_pods_come_before_old_ones_go() {
    let set = rolling(0, 1);
    check(&set, &["a old ready", "b old ready", "c old ready"], &["+a"]);
    check(&set, &["a old ready", "a new waiting", "b old ready", "c old ready"], &[]);
    check(&set, &["a old ready", "a new ready", "b old ready", "c old ready"], &["-a-old-ready"]);
    check(&set, &["a old waiting", "b old ready", "c old ready"], &["+a", "+b"]);
    check(&set, &["a new ready", "b new ready"], &["+c"]);
}

#[test]
fn failed_pods_are_replaced_ever_more_slowly() {
    let (set, mut backoffs) = (rolling(1, 0), Backoffs::default());
    let pods = ["a new failed"];
    assert_eq!(words(&run(&set, &[node("a")], &pods, &mut backoffs)), ["-a-new-failed"]);
    let again = run(&set, &[node("a")], &pods, &mut backoffs);
    assert_eq!((words(&again), again.requeue_after), (vec![], Some(Duration::from_secs(1))));
}

#[test]
fn the_status_counts_nodes() {
    let set = rolling(1, 0);
    let mut nodes: Vec<Node> = ["a", "b", "c", "d"].map(node).into();
    nodes[3].spec.taints = read(&json!([{"key": "mine", "effect": "NoExecute"}])).unwrap();
    let pods = ["a new ready", "b old ready", "c new waiting", "d new ready"];
    let step = run(&set, &nodes, &pods, &mut Backoffs::default());
    let patch = step.actions.iter().find_map(|action| match action {
        Action::UpdateStatus { patch, .. } => Some(&patch["status"]),
        _ => None,
    });
    let expect = json!({"desiredNumberScheduled": 3, "currentNumberScheduled": 3, "numberMisscheduled": 1,
        "numberReady": 2, "numberAvailable": 2, "numberUnavailable": 1, "updatedNumberScheduled": 2,
        "observedGeneration": 4});
    assert_eq!(patch, Some(&expect));
}

#[test]
fn going_back_keeps_the_pods_of_the_version() {
    let mut set = rolling(1, 0);
    set.spec.template = template("old");
    let step =
        run(&set, &[node("a"), node("b")], &["a old ready", "b new waiting"], &mut Backoffs::default());
    assert_eq!(words(&step), ["-b-new-waiting"]);
    let renewed = step.actions.iter().any(
        |action| matches!(action, Action::Patch { name, body, .. } if name == "old" && body["revision"] == 3),
    );
    assert!(renewed);
}

/// A world with a DaemonSet and nodes.
fn world(nodes: usize, strategy: Value) -> World {
    let mut world = World::new();
    for n in 0..nodes {
        world.create(&NODES, json!({"metadata": {"name": format!("n{n}")}}));
    }
    let spec = json!({"selector": {"matchLabels": {"app": "d"}}, "template": template("v0"),
        "updateStrategy": strategy, "revisionHistoryLimit": 2});
    world.create(&DAEMON_SETS, json!({"metadata": {"name": "d"}, "spec": spec}));
    world.settle();
    world
}

/// Nodes with an available pod, and the images of all pods.
fn state(world: &World) -> (usize, Vec<String>) {
    let pods = world.all::<Pod>(&PODS);
    let ready = pods.iter().filter(|pod| pod.active() && pod.ready());
    let nodes: std::collections::BTreeSet<&str> = ready.map(|pod| pod.spec.node_name.as_str()).collect();
    let image = |pod: &Pod| {
        let object = world.object(&PODS, &pod.metadata.name).unwrap();
        object["spec"]["containers"][0]["image"].as_str().unwrap().to_owned()
    };
    (nodes.len(), pods.iter().map(image).collect())
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(64))]

    /// However nodes and pods move: it rolls to one pod of the present version on every node, and is never
    /// without more pods than it may be.
    #[test]
    fn rolls_within_its_bounds(nodes in 1usize..6, unavailable in 0i64..3, surge in 0i64..3, versions in 1usize..4, moves in proptest::collection::vec((0usize..3, 0usize..3), 0..30)) {
        let mut world = world(nodes, json!({"type": "RollingUpdate",
            "rollingUpdate": {"maxUnavailable": unavailable, "maxSurge": surge}}));
        let bound = if unavailable == 0 && surge == 0 { 1 } else { unavailable };
        // With surge nothing available is taken away before its place has another.
        let bound = if surge > 0 { 0 } else { usize::try_from(bound).unwrap() };
        for version in 1..=versions {
            world.patch(&DAEMON_SETS, "d", json!({"spec": {"template": template(&format!("v{version}"))}}));
            for (starts, stops) in &moves {
                world.run_daemon_sets();
                prop_assert!(state(&world).0 + bound >= nodes, "{:?}", state(&world));
                world.run_node(*starts, *stops);
            }
            world.settle();
            prop_assert_eq!(state(&world), (nodes, vec![format!("v{version}"); nodes]));
        }
        let kept = world.all::<ControllerRevision>(&crate::action::CONTROLLER_REVISIONS).len();
        prop_assert_eq!(kept, (versions + 1).min(3), "two old versions are kept beside the present one");
    }
}
