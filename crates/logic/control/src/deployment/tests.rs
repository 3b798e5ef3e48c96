use std::time::Duration;

use proptest::prelude::{
    Just, ProptestConfig, Strategy as _, prop_assert, prop_assert_eq, prop_oneof, proptest,
};
use serde_json::json;

use super::*;
use crate::{action::PODS, condition, meta::read, world::World};

fn deployment(replicas: i64, surge: Value, unavailable: Value) -> Value {
    json!({
        "metadata": {"name": "web"},
        "spec": {"replicas": replicas, "selector": {"matchLabels": {"app": "web"}},
            "progressDeadlineSeconds": 600, "revisionHistoryLimit": 2,
            "strategy": {"type": "RollingUpdate", "rollingUpdate": {"maxSurge": surge, "maxUnavailable": unavailable}},
            "template": {"metadata": {"labels": {"app": "web"}}, "spec": {"containers": [{"image": "v1"}]}}},
    })
}

fn settled(replicas: i64, surge: Value, unavailable: Value) -> World {
    let mut world = World::new();
    world.create(&DEPLOYMENTS, deployment(replicas, surge, unavailable));
    world.settle();
    world
}

fn set_image(world: &mut World, image: &str) {
    let body = json!({"spec": {"template": {"spec": {"containers": [{"image": image}]}}}});
    world.patch(&DEPLOYMENTS, "web", body);
}

fn set_spec(world: &mut World, spec: Value) {
    world.patch(&DEPLOYMENTS, "web", json!({"spec": spec}));
}

fn get(world: &World) -> Deployment {
    read(world.object(&DEPLOYMENTS, "web").unwrap()).unwrap()
}

fn reason(world: &World, kind: &str) -> String {
    condition::find(&get(world).status.conditions, kind).map(|c| c.reason.clone()).unwrap_or_default()
}

/// Sizes of the ReplicaSets that have any, with their revisions.
fn sizes(world: &World) -> Vec<(String, i64)> {
    let sets = world.all::<ReplicaSet>(&REPLICA_SETS);
    let active = sets.iter().filter(|set| set.replicas() > 0);
    let mut sizes: Vec<_> =
        active.map(|set| (set.metadata.annotations[REVISION].clone(), set.replicas())).collect();
    sizes.sort();
    sizes
}

fn check(world: &World, revision: &str, replicas: i64) {
    let d = get(world);
    assert_eq!(sizes(world), if replicas == 0 { vec![] } else { vec![(revision.to_owned(), replicas)] });
    assert_eq!(d.metadata.annotations[REVISION], revision);
    let status = &d.status;
    assert_eq!(
        (status.replicas, status.updated_replicas, status.ready_replicas, status.available_replicas),
        (replicas, replicas, replicas, replicas)
    );
    assert_eq!((status.unavailable_replicas, status.observed_generation), (0, d.metadata.generation));
    assert_eq!(reason(world, "Progressing"), "NewReplicaSetAvailable");
    assert_eq!(reason(world, "Available"), "MinimumReplicasAvailable");
}

#[test]
fn first_rollout() {
    let world = settled(3, json!("25%"), json!("25%"));
    check(&world, "1", 3);
    let set = &world.all::<ReplicaSet>(&REPLICA_SETS)[0];
    assert_eq!(set.metadata.labels.len(), 2);
    assert!(set.metadata.name.ends_with(&set.metadata.labels[HASH_LABEL]));
    assert_eq!(set.metadata.annotations[MAX_REPLICAS], "4");
}

#[test]
fn update_undo_and_history() {
    let mut world = settled(3, json!(1), json!(0));
    for (image, revision) in [("v2", "2"), ("v1", "3"), ("v3", "4"), ("v4", "5"), ("v5", "6")] {
        set_image(&mut world, image);
        world.settle();
        check(&world, revision, 3);
    }
    // Two old ones are kept beside the present one.
    assert_eq!(world.all::<ReplicaSet>(&REPLICA_SETS).len(), 3);
}

#[test]
fn undo_keeps_former_revisions() {
    let mut world = settled(1, json!(1), json!(0));
    set_image(&mut world, "v2");
    world.settle();
    set_image(&mut world, "v1");
    world.settle();
    let sets = world.all::<ReplicaSet>(&REPLICA_SETS);
    let back = sets.iter().find(|set| set.replicas() > 0).unwrap();
    assert_eq!(back.metadata.annotations[REVISION_HISTORY], "1");
}

#[test]
fn scaling_follows_the_spec() {
    let mut world = settled(3, json!(1), json!(1));
    for replicas in [10, 0, 2] {
        set_spec(&mut world, json!({"replicas": replicas}));
        world.settle();
        check(&world, "1", replicas);
    }
}

#[test]
fn recreate_has_no_two_versions_at_once() {
    let mut world = settled(3, json!(1), json!(1));
    set_spec(&mut world, json!({"strategy": {"type": "Recreate", "rollingUpdate": null}}));
    set_image(&mut world, "v2");
    for _ in 0..50 {
        world.run_deployments();
        world.run_replica_sets();
        world.run_node(1, 1);
        let images: std::collections::BTreeSet<String> = world
            .all::<Pod>(&PODS)
            .iter()
            .filter_map(|pod| pod.metadata.labels.get(HASH_LABEL).cloned())
            .collect();
        assert!(images.len() <= 1);
    }
    world.settle();
    check(&world, "2", 3);
}

#[test]
fn broken_version_times_out_and_old_pods_stay() {
    let mut world = settled(4, json!(1), json!(0));
    set_image(&mut world, "broken");
    world.settle();
    assert_eq!(sizes(&world), [("1".to_owned(), 4), ("2".to_owned(), 1)]);
    assert_eq!(reason(&world, "Progressing"), "ReplicaSetUpdated");
    world.now = world.now.plus(Duration::from_secs(601));
    world.settle();
    assert_eq!(reason(&world, "Progressing"), "ProgressDeadlineExceeded");
    set_image(&mut world, "v1");
    world.settle();
    check(&world, "3", 4);
}

#[test]
fn pause_holds_the_rollout_and_scales_in_proportion() {
    let mut world = settled(8, json!(2), json!(0));
    set_image(&mut world, "broken");
    world.settle();
    assert_eq!(sizes(&world), [("1".to_owned(), 8), ("2".to_owned(), 2)]);
    set_spec(&mut world, json!({"paused": true}));
    world.settle();
    assert_eq!(reason(&world, "Progressing"), "DeploymentPaused");
    set_spec(&mut world, json!({"replicas": 18}));
    world.settle();
    assert_eq!(sizes(&world), [("1".to_owned(), 16), ("2".to_owned(), 4)]);
    set_spec(&mut world, json!({"paused": false}));
    set_image(&mut world, "v3");
    world.settle();
    check(&world, "3", 18);
}

#[test]
fn a_taken_name_makes_another_hash() {
    let mut world = World::new();
    let d = deployment(1, json!(1), json!(0));
    let name = format!("web-{}", template_hash(&d["spec"]["template"], None));
    world.create(
        &REPLICA_SETS,
        json!({"metadata": {"name": name}, "spec": {"replicas": 0,
        "selector": {"matchLabels": {"other": "x"}}, "template": {}}}),
    );
    world.create(&DEPLOYMENTS, d);
    world.settle();
    check(&world, "1", 1);
    assert_eq!(get(&world).status.collision_count, Some(1));
}

#[test]
fn an_empty_selector_is_refused() {
    let mut world = World::new();
    let mut d = deployment(1, json!(1), json!(0));
    d["spec"]["selector"] = json!({});
    world.create(&DEPLOYMENTS, d);
    world.settle();
    assert_eq!(
        (world.all::<ReplicaSet>(&REPLICA_SETS).len(), get(&world).status.observed_generation),
        (0, 1)
    );
}

#[derive(Clone, Debug)]
enum Turn {
    Deployment,
    ReplicaSets,
    Node(usize, usize),
    Image(u8),
}

fn turn() -> impl proptest::strategy::Strategy<Value = Turn> {
    prop_oneof![
        4 => Just(Turn::Deployment),
        4 => Just(Turn::ReplicaSets),
        4 => (0usize..4, 0usize..4).prop_map(|(starts, stops)| Turn::Node(starts, stops)),
        1 => (1u8..4).prop_map(Turn::Image),
    ]
}

proptest! {
    #![proptest_config(ProptestConfig::with_cases(48))]

    #[test]
    fn bounds_hold_at_every_moment(
        replicas in 1i64..12, surge in 0i64..5, unavailable in 0i64..5,
        turns in proptest::collection::vec(turn(), 0..60),
    ) {
        let mut world = settled(replicas, json!(surge), json!(unavailable));
        let d = get(&world);
        let most = replicas + d.max_surge();
        let least = replicas - d.max_unavailable();
        for turn in turns {
            match turn {
                Turn::Deployment => { world.run_deployments(); }
                Turn::ReplicaSets => { world.run_replica_sets(); }
                Turn::Node(starts, stops) => { world.run_node(starts, stops); }
                Turn::Image(n) => set_image(&mut world, &format!("v{n}")),
            }
            let asked: i64 = world.all::<ReplicaSet>(&REPLICA_SETS).iter().map(ReplicaSet::replicas).sum();
            prop_assert!(asked <= most, "{asked} replicas asked for, at most {most} allowed");
            prop_assert!(world.ready_pods() as i64 >= least, "{} ready, at least {least} wanted", world.ready_pods());
        }
        world.settle();
        prop_assert_eq!(world.ready_pods() as i64, replicas);
        let status = get(&world).status;
        prop_assert_eq!((status.replicas, status.updated_replicas), (replicas, replicas));
    }
}
