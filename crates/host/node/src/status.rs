//! A pod's status as the API shows it, from what the agent knows.

use serde_json::{Map, Value, json};
use wharf_base::Timestamp;

use crate::{
    model::{Container, Pod, Resources},
    resources::Qos,
    step::{
        self, ContainerState, PodState, Run, SHOWN, Sandbox, Termination,
        resize::{self, Held},
    },
};

/// The status to write. Conditions others own are not in it: the patch merges conditions by type.
///
/// `before` are the conditions as they were written last: one that stays as it was keeps its time.
pub(crate) fn of(pod: &Pod, state: &PodState, host_ip: &str, before: &[Value], now: Timestamp) -> Value {
    let phase = phase(pod, state);
    let failed = state.failed.as_ref();
    let mut status = json!({
        "phase": phase,
        "reason": failed.map(|failed| failed.reason.as_str()),
        "message": failed.map(|failed| failed.message.as_str()),
        "hostIP": host_ip,
        "hostIPs": [{"ip": host_ip}],
        "startTime": state.started,
        "conditions": conditions(pod, state, phase, before, now),
        "containerStatuses": containers(pod, state, &pod.spec.containers, now),
    });
    let generation = pod.metadata.generation;
    if generation > 0 {
        status["observedGeneration"] = generation.into();
        for condition in status["conditions"].as_array_mut().into_iter().flatten() {
            condition["observedGeneration"] = generation.into();
        }
    }
    if !pod.spec.ephemeral_containers.is_empty() {
        status["ephemeralContainerStatuses"] =
            containers(pod, state, &pod.spec.ephemeral_containers, now).into();
    }
    if !pod.spec.init_containers.is_empty() {
        status["initContainerStatuses"] = containers(pod, state, &pod.spec.init_containers, now).into();
    }
    if pod.status.qos_class.is_empty() {
        status["qosClass"] = Qos::of(pod).word().into();
    }
    if let Some(ip) = state.ip {
        status["podIP"] = json!(ip);
        status["podIPs"] = json!([{"ip": ip}]);
    }
    status
}

/// Where the pod is in its life.
pub(crate) fn phase(pod: &Pod, state: &PodState) -> &'static str {
    if state.failed.is_some() || step::init_failed(pod, state) {
        return "Failed";
    }
    let known: Vec<Option<&ContainerState>> =
        pod.spec.containers.iter().map(|container| state.container(&container.name)).collect();
    let never_ran = |known: &Option<&ContainerState>| {
        known.is_none_or(|known| known.run == Run::Absent && known.last.is_none())
    };
    if known.iter().any(never_ran) {
        return "Pending";
    }
    // A pod that was told to end has ended once its containers have, whatever would have been restarted.
    let told = state.removed && state.ending.is_some();
    if !step::is_over(pod, state) && !told {
        return "Running";
    }
    let all_well =
        known.iter().all(|known| known.and_then(|known| known.ended()).is_some_and(|e| e.code == 0));
    if all_well { "Succeeded" } else { "Failed" }
}

fn initialized(pod: &Pod, state: &PodState) -> bool {
    pod.spec.init_containers.iter().all(|container| {
        let known = state.container(&container.name);
        match container.is_sidecar() {
            true => known.and_then(ContainerState::running).is_some_and(|running| running.started),
            false => known.and_then(ContainerState::ended).is_some_and(|ended| ended.code == 0),
        }
    }) || step::has_begun(pod, state)
}

fn is_ready(state: &PodState, container: &Container) -> bool {
    let running = state.container(&container.name).and_then(ContainerState::running);
    running.is_some_and(|running| running.started && running.ready)
}

fn conditions(pod: &Pod, state: &PodState, phase: &str, before: &[Value], now: Timestamp) -> Vec<Value> {
    let sidecars = pod.spec.init_containers.iter().filter(|container| container.is_sidecar());
    let unready: Vec<&str> = sidecars
        .chain(&pod.spec.containers)
        .filter(|container| !is_ready(state, container))
        .map(|container| container.name.as_str())
        .collect();
    let incomplete: Vec<&str> = pod
        .spec
        .init_containers
        .iter()
        .filter(|container| {
            state.container(&container.name).is_none_or(|known| known.ended().is_none_or(|e| e.code != 0))
        })
        .map(|container| container.name.as_str())
        .collect();
    let gates_open = pod.spec.readiness_gates.iter().all(|gate| {
        pod.status
            .conditions
            .iter()
            .any(|c| c["type"] == gate.condition_type.as_str() && c["status"] == "True")
    });
    let over = matches!(phase, "Succeeded" | "Failed");
    let not_ready = match (over, unready.is_empty()) {
        (true, _) if phase == "Succeeded" => Some(("PodCompleted", String::new())),
        (true, _) => Some(("PodFailed", String::new())),
        (false, false) => {
            Some(("ContainersNotReady", format!("containers with unready status: [{}]", unready.join(" "))))
        }
        (false, true) => None,
    };
    let ready = not_ready.clone().or_else(|| {
        (!gates_open)
            .then(|| ("ReadinessGatesNotReady", "a readiness gate's condition is not true".to_owned()))
    });
    let init = (!initialized(pod, state)).then(|| {
        ("ContainersNotInitialized", format!("containers with incomplete status: [{}]", incomplete.join(" ")))
    });
    let sandbox = (state.sandbox != Sandbox::Ready).then(|| ("", String::new()));
    let all = [
        ("PodReadyToStartContainers", sandbox),
        ("Initialized", init),
        ("Ready", ready),
        ("ContainersReady", not_ready),
        ("PodScheduled", None),
    ];
    let lasting = all.into_iter().map(|(kind, why)| condition(before, kind, why, now));
    lasting.chain(resizing(pod, state, before, now)).collect()
}

/// Conditions that are there only while there is something to say.
pub(crate) const PASSING: [&str; 2] = ["PodResizePending", "PodResizeInProgress"];

/// What becomes of a change of the pod's resources.
fn resizing(pod: &Pod, state: &PodState, before: &[Value], now: Timestamp) -> Option<Value> {
    let [pending, in_progress] = PASSING;
    let (kind, reason, message) = match (&state.held, &state.size.failure) {
        (Some(Held::Infeasible(message)), _) => (pending, "Infeasible", message.as_str()),
        (Some(Held::Deferred(message)), _) => (pending, "Deferred", message.as_str()),
        // What is not asked for any more has not failed either.
        (None, _) if !resize::in_progress(pod, state) => return None,
        (None, Some((message, _))) => (in_progress, "Error", message.as_str()),
        (None, None) => (in_progress, "", ""),
    };
    let mut made = condition(before, kind, None, now);
    if !reason.is_empty() {
        made["reason"] = reason.into();
        made["message"] = message.into();
    }
    Some(made)
}

/// A condition, true without a reason why not; its time of transition stays while its status does.
fn condition(before: &[Value], kind: &str, why_not: Option<(&str, String)>, now: Timestamp) -> Value {
    let status = if why_not.is_none() { "True" } else { "False" };
    let before = before.iter().find(|c| c["type"] == kind && c["status"] == status);
    let since = before.map(|c| c["lastTransitionTime"].clone()).filter(|time| time.is_string());
    let (reason, message) = why_not.unwrap_or_default();
    let text = |text: &str| if text.is_empty() { Value::Null } else { text.into() };
    json!({"type": kind, "status": status, "lastProbeTime": null, "reason": text(reason), "message": text(&message),
        "lastTransitionTime": since.unwrap_or_else(|| json!(now))})
}

fn containers(pod: &Pod, state: &PodState, list: &[Container], now: Timestamp) -> Vec<Value> {
    list.iter().map(|container| container_status(pod, state, container, now)).collect()
}

fn container_status(pod: &Pod, state: &PodState, container: &Container, now: Timestamp) -> Value {
    let absent = ContainerState::default();
    let known = state.container(&container.name).unwrap_or(&absent);
    let is_init = pod.spec.init_containers.iter().any(|init| init.name == container.name);
    let ended_well = known.ended().is_some_and(|ended| ended.code == 0);
    let waits = waiting(pod, state, container, known, now);
    let (current, last) = match (&known.run, waits) {
        (Run::Running(running), _) => (json!({"running": {"startedAt": running.since}}), known.last.as_ref()),
        // A run that has ended becomes the last one as soon as the next is waited for.
        (Run::Ended(ended), Some(waiting)) => (waiting, Some(ended)),
        (Run::Ended(ended), None) => (terminated(ended), known.last.as_ref()),
        (Run::Absent, waiting) => (
            waiting.unwrap_or_else(|| json!({"waiting": {"reason": "ContainerCreating"}})),
            known.last.as_ref(),
        ),
    };
    let id = match &known.run {
        Run::Running(running) => running.id.as_str(),
        Run::Ended(ended) => ended.id.as_str(),
        Run::Absent => known.last.as_ref().map_or("", |last| last.id.as_str()),
    };
    let ready = if is_init && !container.is_sidecar() { ended_well } else { is_ready(state, container) };
    let mut status = json!({
        "name": container.name,
        "image": container.image,
        "imageID": known.image_id,
        "containerID": if id.is_empty() { String::new() } else { format!("wharf://{id}") },
        "restartCount": known.attempt,
        "ready": ready,
        "started": known.running().is_some_and(|running| running.started),
        "state": current,
        "lastState": last.map_or_else(|| json!({}), terminated),
    });
    if !pod.is_ephemeral(&container.name) {
        amounts(&mut status, known, &resize::of_next_run(container, state));
    }
    status
}

/// What a container is promised, and what its run has.
fn amounts(status: &mut Value, known: &ContainerState, promised: &Resources) {
    if !promised.requests.is_empty() {
        status["allocatedResources"] = json!(promised.requests);
    }
    let has = known.resources.as_ref().filter(|_| known.running().is_some()).unwrap_or(promised);
    let mut amounts = Map::new();
    for (name, list) in [("requests", &has.requests), ("limits", &has.limits)] {
        if !list.is_empty() {
            amounts.insert(name.into(), json!(list));
        }
    }
    status["resources"] = Value::Object(amounts);
}

fn terminated(ended: &Termination) -> Value {
    let mut state = json!({"exitCode": ended.code, "reason": ended.reason, "startedAt": ended.started,
        "finishedAt": ended.finished, "containerID": format!("wharf://{}", ended.id)});
    if let Some(signal) = ended.signal {
        state["signal"] = signal.into();
    }
    if !ended.message.is_empty() {
        state["message"] = ended.message.as_str().into();
    }
    json!({"terminated": state})
}

/// What a container that does not run waits for; nothing when it has ended for good or its pod ends.
fn waiting(
    pod: &Pod,
    state: &PodState,
    container: &Container,
    known: &ContainerState,
    now: Timestamp,
) -> Option<Value> {
    let wait = |reason: &str, message: &str| {
        let mut state = json!({"reason": reason});
        if !message.is_empty() {
            state["message"] = message.into();
        }
        Some(json!({"waiting": state}))
    };
    if let Some(failure) = &known.failure {
        let (reason, message) = (failure.why.reason.as_str(), failure.why.message.as_str());
        if reason == "ErrImagePull" && now >= failure.failed.plus(SHOWN) {
            return wait(
                "ImagePullBackOff",
                &format!("Back-off pulling image {:?}: {message}", container.image),
            );
        }
        return wait(reason, message);
    }
    match &known.run {
        Run::Running(_) => None,
        Run::Ended(ended) => {
            let goes_on = state.ending.is_none() && state.failed.is_none();
            if !goes_on
                || !step::restarts(pod, container, known, ended)
                || known.restart.until(ended.finished) <= now
            {
                return None;
            }
            let message = format!(
                "back-off {}s restarting failed container={} pod={}_{}({})",
                known.restart.delay(),
                container.name,
                pod.metadata.name,
                pod.metadata.namespace,
                pod.metadata.uid
            );
            wait("CrashLoopBackOff", &message)
        }
        Run::Absent => wait(waits(pod, state, &container.name), ""),
    }
}

/// Why a container that was never made is not there yet.
pub(crate) fn waits<'a>(pod: &Pod, state: &'a PodState, container: &str) -> &'a str {
    if let Some(failure) = state.container(container).and_then(|known| known.failure.as_ref()) {
        return &failure.why.reason;
    }
    let is_main = pod.spec.containers.iter().any(|main| main.name == container);
    let goes_first = pod.spec.init_containers.is_empty()
        || pod.is_ephemeral(container)
        || (is_main && initialized(pod, state));
    if goes_first { "ContainerCreating" } else { "PodInitializing" }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::step::{Backoff, Ending, Reason, Retry, Running};

    fn at(second: i64) -> Timestamp {
        Timestamp::from_unix(1_000_000 + second, 0)
    }

    fn running(ready: bool) -> ContainerState {
        let run = Running { id: "x".into(), since: at(0), started: true, ready };
        ContainerState { run: Run::Running(run), ..ContainerState::default() }
    }

    fn ended(code: i32, restart: Backoff) -> ContainerState {
        let ended = Termination {
            id: "x".into(),
            code,
            signal: None,
            reason: "Error".into(),
            message: String::new(),
            started: None,
            finished: at(0),
        };
        ContainerState { run: Run::Ended(ended), restart, ..ContainerState::default() }
    }

    fn failed(reason: &str) -> ContainerState {
        let failure = Retry { why: Reason::new(reason, "why"), failed: at(0), at: at(10) };
        ContainerState { failure: Some(failure), ..ContainerState::default() }
    }

    /// Phase, whether the pod is ready, and the container's state in one word.
    fn check(policy: &str, container: Option<ContainerState>, second: i64, expected: (&str, bool, &str)) {
        let pod = Pod::read(
            &json!({"spec": {"restartPolicy": policy, "containers": [{"name": "a", "image": "i"}]}}),
        )
        .unwrap();
        let containers = container.into_iter().map(|container| ("a".to_owned(), container)).collect();
        let state = PodState { sandbox: Sandbox::Ready, containers, ..PodState::default() };
        let status = of(&pod, &state, "10.0.0.1", &[], at(second));
        let ready = status["conditions"]
            .as_array()
            .unwrap()
            .iter()
            .any(|c| c["type"] == "Ready" && c["status"] == "True");
        let current = status["containerStatuses"][0]["state"].as_object().unwrap();
        let (kind, detail) = current.iter().next().unwrap();
        let word = detail["reason"].as_str().unwrap_or(kind);
        assert_eq!((status["phase"].as_str().unwrap(), ready, word), expected);
    }

    #[test]
    fn states_and_phases() {
        let mut waiting = Backoff::default();
        waiting.count(at(0));
        let none = Backoff::default();
        check("Always", None, 0, ("Pending", false, "ContainerCreating"));
        check("Always", Some(failed("ErrImagePull")), 1, ("Pending", false, "ErrImagePull"));
        check("Always", Some(failed("ErrImagePull")), 5, ("Pending", false, "ImagePullBackOff"));
        check(
            "Always",
            Some(failed("CreateContainerConfigError")),
            5,
            ("Pending", false, "CreateContainerConfigError"),
        );
        check("Always", Some(running(true)), 0, ("Running", true, "running"));
        check("Always", Some(running(false)), 0, ("Running", false, "running"));
        check("Always", Some(ended(0, waiting)), 5, ("Running", false, "CrashLoopBackOff"));
        check("Always", Some(ended(0, none)), 5, ("Running", false, "Error"));
        check("OnFailure", Some(ended(0, waiting)), 5, ("Succeeded", false, "Error"));
        check("OnFailure", Some(ended(1, waiting)), 5, ("Running", false, "CrashLoopBackOff"));
        check("Never", Some(ended(1, waiting)), 5, ("Failed", false, "Error"));
    }

    #[test]
    fn a_change_that_is_taken_back_has_not_failed() {
        let resources = json!({"limits": {"cpu": "1"}});
        let pod = json!({"spec": {"containers": [{"name": "a", "resources": resources}]}});
        let pod = Pod::read(&pod).unwrap();
        let check = |has: Value, expected: Option<&str>| {
            let has: Resources = serde_json::from_value(has).unwrap();
            let container = ContainerState { resources: Some(has.clone()), ..running(true) };
            let mut state = PodState { sandbox: Sandbox::Ready, ..PodState::default() };
            state.containers.insert("a".into(), container);
            state.size.pod = Some([("a".to_owned(), has)].into());
            state.size.failure = Some(("it is in use".into(), at(0)));
            let status = of(&pod, &state, "h", &[], at(0));
            let mut conditions = status["conditions"].as_array().unwrap().iter();
            let told = conditions.find(|condition| condition["type"] == "PodResizeInProgress");
            assert_eq!(told.map(|condition| condition["reason"].as_str().unwrap()), expected);
        };
        check(json!({"limits": {"cpu": "2"}}), Some("Error"));
        check(resources, None);
    }

    #[test]
    fn conditions_keep_their_time() {
        let pod = Pod::read(&json!({"spec": {"containers": [{"name": "a"}]}})).unwrap();
        let mut state = PodState { sandbox: Sandbox::Ready, ..PodState::default() };
        let first = of(&pod, &state, "h", &[], at(0));
        state.containers.insert("a".into(), running(true));
        let second = of(&pod, &state, "h", first["conditions"].as_array().unwrap(), at(9));
        let since = |status: &Value, kind: &str| {
            let found = status["conditions"].as_array().unwrap().iter().find(|c| c["type"] == kind).cloned();
            found.unwrap()["lastTransitionTime"].as_str().unwrap().to_owned()
        };
        assert_eq!(since(&second, "Initialized"), at(0).to_string());
        assert_eq!(since(&second, "Ready"), at(9).to_string());
        state.ending = Some(Ending { since: at(9), grace: 0, why: "told", delete: true });
        state.removed = true;
        state.containers.insert("a".into(), ended(0, Backoff::default()));
        assert_eq!(phase(&pod, &state), "Succeeded");
    }
}
