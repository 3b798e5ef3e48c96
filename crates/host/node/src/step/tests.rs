use serde_json::{Value, json};

use super::*;

fn at(second: i64) -> Timestamp {
    Timestamp::from_unix(1_000_000 + second, 0)
}

fn pod(spec: Value) -> Pod {
    Pod::read(&json!({"metadata": {"name": "p", "namespace": "n", "uid": "u"}, "spec": spec})).unwrap()
}

fn two() -> Pod {
    pod(json!({"restartPolicy": "Always",
        "initContainers": [{"name": "i"}, {"name": "s", "restartPolicy": "Always"}, {"name": "j"}],
        "containers": [{"name": "a"}, {"name": "b"}]}))
}

fn one(policy: &str) -> Pod {
    pod(json!({"restartPolicy": policy, "containers": [{"name": "a"}]}))
}

fn ready(containers: &[(&str, ContainerState)]) -> PodState {
    PodState {
        started: Some(at(0)),
        sandbox: Sandbox::Ready,
        containers: containers.iter().map(|(name, state)| ((*name).to_owned(), state.clone())).collect(),
        ..PodState::default()
    }
}

fn running() -> ContainerState {
    let running = Running { id: "x".into(), since: at(0), started: true, ready: true };
    ContainerState { run: Run::Running(running), ..ContainerState::default() }
}

fn ended(code: i32, second: i64) -> ContainerState {
    let ended = Termination {
        id: "x".into(),
        code,
        signal: None,
        reason: "Error".into(),
        message: String::new(),
        started: None,
        finished: at(second),
    };
    ContainerState { run: Run::Ended(ended), ..ContainerState::default() }
}

fn start(name: &str, attempt: u32) -> Action {
    Action::Start { container: name.into(), attempt }
}

fn stop(name: &str, grace: i64) -> Action {
    Action::Stop { container: name.into(), grace, why: "told".into() }
}

/// Everything has the resources asked for, where nothing else is known.
fn sized(pod: &Pod, mut state: PodState) -> PodState {
    state.size.pod.get_or_insert_with(|| resize::wanted(pod));
    for (name, known) in &mut state.containers {
        let asked = pod.container(name).map(|container| container.resources.clone());
        known.resources = known.resources.take().or(asked);
    }
    state
}

fn check(pod: &Pod, state: &PodState, second: i64, actions: &[Action], wake: Option<i64>) {
    let decision = decide(pod, &sized(pod, state.clone()), at(second));
    assert_eq!(decision.actions, actions);
    assert_eq!(decision.wake, wake.map(at));
}

#[test]
fn the_sandbox_comes_first_and_waits_after_a_failure() {
    let pod = two();
    check(&pod, &PodState::default(), 0, &[Action::Setup], None);
    let why = Reason::new("x", "y");
    let failed =
        PodState { setup_failure: Some(Retry { why, failed: at(0), at: at(5) }), ..PodState::default() };
    check(&pod, &failed, 3, &[], Some(5));
    check(&pod, &failed, 5, &[Action::Setup], None);
}

#[test]
fn init_containers_run_in_order_and_sidecars_stay() {
    let pod = two();
    check(&pod, &ready(&[]), 0, &[start("i", 0)], None);
    check(&pod, &ready(&[("i", running())]), 0, &[], None);
    check(&pod, &ready(&[("i", ended(0, 0))]), 0, &[start("s", 0)], None);
    let mut slow = running();
    if let Run::Running(running) = &mut slow.run {
        running.started = false;
    }
    check(&pod, &ready(&[("i", ended(0, 0)), ("s", slow)]), 0, &[], None);
    check(&pod, &ready(&[("i", ended(0, 0)), ("s", running())]), 0, &[start("j", 0)], None);
    let state = ready(&[("i", ended(0, 0)), ("s", running()), ("j", ended(0, 0))]);
    check(&pod, &state, 0, &[start("a", 0), start("b", 0)], None);
    // A sidecar that ends is started again, and the init containers are not.
    let state = ready(&[
        ("i", ended(0, 0)),
        ("s", ended(0, 0)),
        ("j", ended(0, 0)),
        ("a", running()),
        ("b", running()),
    ]);
    check(&pod, &state, 0, &[start("s", 1)], None);
}

#[test]
fn a_failed_init_container_ends_the_pod_only_when_nothing_is_restarted() {
    let spec = |policy| {
        pod(
            json!({"restartPolicy": policy, "initContainers": [{"name": "i"}], "containers": [{"name": "a"}]}),
        )
    };
    let state = ready(&[("i", ended(1, 0))]);
    check(&spec("Always"), &state, 0, &[start("i", 1)], None);
    check(&spec("OnFailure"), &state, 0, &[start("i", 1)], None);
    check(&spec("Never"), &state, 0, &[Action::Remove], None);
}

#[test]
fn restarts_follow_the_policy() {
    for (policy, code, expected) in [
        ("Always", 0, start("a", 1)),
        ("Always", 1, start("a", 1)),
        ("OnFailure", 1, start("a", 1)),
        ("OnFailure", 0, Action::Remove),
        ("Never", 1, Action::Remove),
    ] {
        check(&one(policy), &ready(&[("a", ended(code, 0))]), 0, &[expected], None);
    }
}

#[test]
fn restarts_back_off_from_ten_seconds_to_five_minutes() {
    let mut backoff = Backoff::default();
    let mut delays = Vec::new();
    let mut now = at(0);
    for _ in 0..8 {
        let next = backoff.until(now);
        delays.push(next.since(now).as_secs());
        now = next;
        backoff.count(now);
    }
    assert_eq!(delays, [0, 10, 20, 40, 80, 160, 300, 300]);
    assert_eq!(backoff.until(now.plus(Duration::from_secs(601))), now.plus(Duration::from_secs(601)));
    let mut waiting = ended(1, 20);
    waiting.restart.count(at(15));
    check(&one("Always"), &ready(&[("a", waiting.clone())]), 25, &[], Some(30));
    check(&one("Always"), &ready(&[("a", waiting)]), 30, &[start("a", 1)], None);
}

#[test]
fn a_deadline_fails_the_pod() {
    let pod =
        pod(json!({"restartPolicy": "Always", "activeDeadlineSeconds": 10, "containers": [{"name": "a"}]}));
    let mut state = ready(&[("a", running())]);
    check(&pod, &state, 9, &[], Some(10));
    let decision = decide(&pod, &state, at(10));
    assert!(matches!(&decision.actions[..], [Action::Fail(reason)] if reason.reason == "DeadlineExceeded"));
    state.failed = Some(Reason::new("DeadlineExceeded", ""));
    assert!(matches!(&decide(&pod, &state, at(11)).actions[..], [Action::Stop { .. }]));
}

#[test]
fn deletion_ends_containers_then_sidecars_then_all() {
    let pod = two();
    let busy = |mut state: ContainerState| {
        state.busy = true;
        state
    };
    let ending = |containers: &[(&str, ContainerState)]| PodState {
        ending: Some(Ending { since: at(0), grace: 30, why: "told", delete: true }),
        ..ready(containers)
    };
    let all = ending(&[("a", running()), ("b", running()), ("s", running())]);
    check(&pod, &all, 10, &[stop("a", 20), stop("b", 20)], None);
    check(&pod, &ending(&[("a", busy(running())), ("b", ended(0, 1)), ("s", running())]), 10, &[], None);
    check(&pod, &ending(&[("a", ended(0, 1)), ("s", running())]), 40, &[stop("s", 0)], None);
    let mut over = ending(&[("a", ended(0, 1)), ("s", ended(0, 1))]);
    check(&pod, &over, 40, &[Action::Remove], None);
    over.removed = true;
    check(&pod, &over, 40, &[Action::Delete], None);
    // A start under way is waited for.
    check(&pod, &ending(&[("a", busy(ContainerState::default()))]), 0, &[], None);
}

#[test]
fn a_condemned_container_is_ended_and_started_again() {
    let mut state = running();
    state.condemned = Some(Condemned { grace: 5, why: "told".into(), again: false });
    check(&one("Always"), &ready(&[("a", state)]), 0, &[stop("a", 5)], None);
}

#[test]
fn what_cannot_be_made_is_tried_again_later() {
    let why = Reason::new("ErrImagePull", "no such image");
    let failed = ContainerState {
        failure: Some(Retry { why, failed: at(0), at: at(10) }),
        ..ContainerState::default()
    };
    check(&one("Always"), &ready(&[("a", failed.clone())]), 0, &[], Some(2));
    check(&one("Always"), &ready(&[("a", failed.clone())]), 3, &[], Some(10));
    check(&one("Always"), &ready(&[("a", failed)]), 10, &[start("a", 0)], None);
}

/// A pod of containers with these requests of processors in thousandths, running with those.
fn sized_by(policy: &str, requests: &[(&str, u32, u32)]) -> (Pod, PodState) {
    let resources = |milli: u32| json!({"requests": {"cpu": format!("{milli}m")}});
    let containers: Vec<Value> = requests
        .iter()
        .map(|(name, wanted, _)| {
            json!({"name": name, "resources": resources(*wanted),
                "resizePolicy": [{"resourceName": "cpu", "restartPolicy": policy}]})
        })
        .collect();
    let pod = pod(json!({"restartPolicy": "Never", "containers": containers}));
    let states: Vec<(&str, ContainerState)> = requests
        .iter()
        .map(|(name, _, has)| {
            let has = serde_json::from_value(resources(*has)).unwrap();
            (*name, ContainerState { resources: Some(has), ..running() })
        })
        .collect();
    let mut state = ready(&states);
    let has = states.iter().map(|(name, known)| ((*name).to_owned(), known.resources.clone().unwrap()));
    state.size.pod = Some(has.collect());
    (pod, state)
}

#[test]
fn other_resources_are_given_in_place() {
    let resize = |containers: &[&str]| Action::Resize {
        containers: containers.iter().map(|name| (*name).to_owned()).collect(),
    };
    let (pod, mut state) = sized_by("NotRequired", &[("a", 100, 100), ("b", 200, 100)]);
    check(&pod, &state, 0, &[resize(&["b"])], None);
    state.size.failure = Some(("it is in use".into(), at(0)));
    check(&pod, &state, 1, &[], Some(5));
    check(&pod, &state, 5, &[resize(&["b"])], None);
    state.size.busy = true;
    check(&pod, &state, 9, &[], None);
    state.size.busy = false;
    state.held = Some(resize::Held::Deferred("no room".into()));
    check(&pod, &state, 9, &[], Some(14));
    // A container that has ended takes what it is given when it starts; the pod changes all the same.
    let (pod, mut state) = sized_by("NotRequired", &[("a", 100, 100), ("b", 200, 100)]);
    state.containers.insert("b".into(), ended(0, 0));
    check(&pod, &state, 1, &[resize(&[])], None);
}

#[test]
fn other_resources_may_need_a_restart() {
    let (pod, mut state) = sized_by("RestartContainer", &[("a", 200, 100)]);
    let restarted: Vec<&str> =
        resize::to_restart(&pod, &state).map(|(container, _)| container.name.as_str()).collect();
    assert_eq!(restarted, ["a"]);
    check(&pod, &state, 0, &[], None);
    let known = ContainerState { again: true, ..ended(0, 3) };
    state.containers.insert("a".into(), known);
    let resize = Action::Resize { containers: Vec::new() };
    check(&pod, &state, 3, &[resize, start("a", 1)], None);
    assert!(!is_over(&pod, &state), "it is started again whatever the policy");
}

#[test]
fn changes_are_judged_against_the_node() {
    use resize::{Held, Room, judge};
    let (pod, state) = sized_by("NotRequired", &[("a", 1500, 1000)]);
    let judged = |node, others| {
        let room = |milli| Room { milli, bytes: 0 };
        match judge(&pod, &state, room(node), room(others)) {
            None => "fits",
            Some(Held::Deferred(_)) => "deferred",
            Some(Held::Infeasible(_)) => "infeasible",
        }
    };
    assert_eq!(judged(2000, 500), "fits");
    assert_eq!(judged(2000, 501), "deferred");
    assert_eq!(judged(1400, 0), "infeasible");
    let (same, unchanged) = sized_by("NotRequired", &[("a", 1500, 1500)]);
    assert_eq!(judge(&same, &unchanged, Room::default(), Room::default()), None, "what runs, runs");
}
