//! Why a workload's pods do not come up, in words.

use serde_json::Value;

use super::rollout::{condition, text};

/// What keeps a pod from being ready.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(super) struct Trouble {
    /// The pod, the container where it is one container's, and the reason.
    pub(super) message: String,
    /// What to do or where to look.
    pub(super) hint: String,
    /// No waiting mends it: the manifest must change.
    pub(super) lasting: bool,
}

/// The worst that is wrong with a workload's pods. Those of an older template count only while there are no others, and
/// end nothing.
pub(super) fn worst_of(workload: &Value, pods: &[&Value], events: &[&Value]) -> Option<Trouble> {
    let current: Vec<&Value> = pods.iter().copied().filter(|pod| is_current(workload, pod)).collect();
    match current.is_empty() {
        true => worst(pods.iter().copied(), events).map(|trouble| Trouble { lasting: false, ..trouble }),
        false => worst(current, events),
    }
}

/// Whether a pod runs the images that its workload has now.
fn is_current(workload: &Value, pod: &Value) -> bool {
    let list = |object: &Value, pointer: &str| object.pointer(pointer).and_then(Value::as_array).cloned();
    ["containers", "initContainers"].into_iter().all(|kind| {
        let wanted = list(workload, &format!("/spec/template/spec/{kind}")).unwrap_or_default();
        let running = list(pod, &format!("/spec/{kind}")).unwrap_or_default();
        wanted.iter().all(|container| {
            running
                .iter()
                .any(|own| ["/name", "/image"].iter().all(|of| text(own, of) == text(container, of)))
        })
    })
}

/// The worst that is wrong with pods, of the youngest that has it. `events` are those of the namespace.
pub(super) fn worst<'a>(pods: impl IntoIterator<Item = &'a Value>, events: &[&Value]) -> Option<Trouble> {
    let age = |pod: &Value| text(pod, "/metadata/creationTimestamp").to_owned();
    pods.into_iter()
        .filter(|pod| pod.pointer("/metadata/deletionTimestamp").is_none())
        .filter_map(|pod| trouble(pod, events).map(|(rank, trouble)| (rank, age(pod), trouble)))
        .max_by(|a, b| (a.0, &a.1).cmp(&(b.0, &b.1)))
        .map(|(_, _, trouble)| trouble)
}

/// How much a reason tells: of several pods, the one with the most is shown.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord)]
enum Rank {
    Slow,
    NotReady,
    NotPlaced,
    NotStarted,
    Lasting,
}

fn trouble(pod: &Value, events: &[&Value]) -> Option<(Rank, Trouble)> {
    let (namespace, name) = (text(pod, "/metadata/namespace"), text(pod, "/metadata/name"));
    let describe = || format!("'kubectl -n {namespace} describe pod {name}' tells more");
    let say = |rank, what: String, hint: String| {
        let message = format!("the pod {name}{what}");
        Some((rank, Trouble { message, hint, lasting: rank == Rank::Lasting }))
    };
    if let Some(placed) = condition(pod, "PodScheduled").filter(|c| text(c, "/status") == "False") {
        let what = format!(" has no node: {}", text(placed, "/message"));
        return say(Rank::NotPlaced, what, format!("ask for less, or add a node; {}", describe()));
    }
    let warning = || {
        let of =
            |event: &&Value| text(event, "/involvedObject/name") == name && text(event, "/type") == "Warning";
        events.iter().copied().filter(of).max_by_key(|event| when(event)).map(|event| text(event, "/message"))
    };
    for container in containers(pod) {
        let of = text(container, "/name");
        let logs = || {
            format!("'wharf logs -l pod={name},container={of} --namespace {namespace}' shows what it said")
        };
        let what = |rest: String| format!(", container {of}: {rest}");
        if let Some(waiting) = container.pointer("/state/waiting") {
            let (reason, message) = (text(waiting, "/reason"), text(waiting, "/message"));
            let full = match message {
                "" => reason.to_owned(),
                message => format!("{reason}: {message}"),
            };
            match reason {
                "" | "PodInitializing" => {}
                "ContainerCreating" => {
                    if let Some(message) = warning() {
                        return say(Rank::NotStarted, what(message.to_owned()), describe());
                    }
                }
                "CrashLoopBackOff" => {
                    let ended = container.pointer("/lastState/terminated");
                    let how = ended.map_or_else(String::new, |ended| format!(", {}", ending(ended)));
                    return say(Rank::NotStarted, what(format!("{reason}{how}")), logs());
                }
                "InvalidImageName" => {
                    let hint = "write 'image' as NAME:TAG, in lower case, without blanks";
                    return say(Rank::Lasting, what(full), hint.into());
                }
                "ErrImagePull" | "ImagePullBackOff" | "ErrImageNeverPull" => {
                    let hint = format!(
                        "check the name of the image, and that it was pushed or its registry can be reached; {}",
                        describe()
                    );
                    return say(Rank::NotStarted, what(full), hint);
                }
                "CreateContainerConfigError" => {
                    let hint = format!("add the ConfigMap, Secret or key it names; {}", describe());
                    return say(Rank::NotStarted, what(full), hint);
                }
                _ => return say(Rank::NotStarted, what(full), describe()),
            }
        }
        if let Some(ended) = container.pointer("/state/terminated").filter(|ended| code(ended) != 0) {
            return say(Rank::NotStarted, what(ending(ended)), logs());
        }
    }
    if condition(pod, "Ready").is_some_and(|ready| text(ready, "/status") == "True") {
        return None;
    }
    let slow = containers(pod).find(|c| {
        c.pointer("/state/running").is_some() && c.pointer("/ready").and_then(Value::as_bool) == Some(false)
    });
    let container = slow.map_or_else(String::new, |c| format!(", container {}", text(c, "/name")));
    match warning() {
        Some(message) => say(Rank::NotReady, format!("{container}: {message}"), describe()),
        None => say(Rank::Slow, format!("{container} is not ready yet"), describe()),
    }
}

/// The states of its containers, those that run first before the others.
fn containers(pod: &Value) -> impl Iterator<Item = &Value> {
    ["/status/initContainerStatuses", "/status/containerStatuses"]
        .into_iter()
        .filter_map(|list| pod.pointer(list)?.as_array())
        .flatten()
}

fn code(ended: &Value) -> i64 {
    ended.pointer("/exitCode").and_then(Value::as_i64).unwrap_or(0)
}

/// How a container ended.
fn ending(ended: &Value) -> String {
    let more = match (text(ended, "/reason"), text(ended, "/message")) {
        ("" | "Error" | "Completed", "") => String::new(),
        ("" | "Error" | "Completed", message) => format!(" ({message})"),
        (reason, "") => format!(" ({reason})"),
        (reason, message) => format!(" ({reason}: {message})"),
    };
    format!("it ended with exit code {}{more}", code(ended))
}

fn when(event: &Value) -> &str {
    let times = ["/lastTimestamp", "/eventTime", "/firstTimestamp", "/metadata/creationTimestamp"];
    times.iter().map(|time| text(event, time)).find(|time| !time.is_empty()).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn pod(name: &str, status: Value) -> Value {
        json!({"metadata": {"namespace": "n", "name": name}, "status": status})
    }

    fn waiting(reason: &str, message: &str) -> Value {
        pod(
            "p",
            json!({"containerStatuses": [
                {"name": "app", "state": {"waiting": {"reason": reason, "message": message}},
                 "lastState": {"terminated": {"exitCode": 3, "reason": "Error"}}}]}),
        )
    }

    fn event(message: &str, time: &str, kind: &str) -> Value {
        json!({"involvedObject": {"name": "p"}, "type": kind, "message": message, "lastTimestamp": time})
    }

    #[test]
    fn the_reason_of_a_pod_is_told_with_what_to_do() {
        let told = [
            event("Readiness probe failed: 500", "2026-01-01T00:00:02Z", "Warning"),
            event("Readiness probe failed: refused", "2026-01-01T00:00:01Z", "Warning"),
            event("Started container", "2026-01-01T00:00:03Z", "Normal"),
        ];
        let events: Vec<&Value> = told.iter().collect();
        let unready = json!({"conditions": [{"type": "Ready", "status": "False"}],
            "containerStatuses": [{"name": "app", "ready": false, "state": {"running": {}}}]});
        let unplaced = json!({"conditions": [
            {"type": "PodScheduled", "status": "False", "reason": "Unschedulable", "message": "0/1 nodes are available"}]});
        for (pod, events, message, hint) in [
            (
                waiting("ImagePullBackOff", "Back-off pulling image \"shop:no\""),
                &[][..],
                "the pod p, container app: ImagePullBackOff: Back-off pulling image \"shop:no\"",
                "check the name of the image",
            ),
            (
                waiting("CrashLoopBackOff", "back-off 10s"),
                &[],
                "the pod p, container app: CrashLoopBackOff, it ended with exit code 3",
                "'wharf logs -l pod=p,container=app --namespace n' shows",
            ),
            (
                waiting("CreateContainerConfigError", "secret \"db\" not found"),
                &[],
                "the pod p, container app: CreateContainerConfigError: secret \"db\" not found",
                "add the ConfigMap, Secret or key it names",
            ),
            (
                waiting("ContainerCreating", ""),
                &events[..1],
                "the pod p, container app: Readiness probe failed: 500",
                "kubectl -n n describe pod p",
            ),
            (pod("p", unplaced), &[], "the pod p has no node: 0/1 nodes are available", "ask for less"),
            (
                pod("p", unready.clone()),
                &events,
                "the pod p, container app: Readiness probe failed: 500",
                "kubectl -n n describe pod p",
            ),
            (pod("p", unready), &[], "the pod p, container app is not ready yet", "describe pod p"),
        ] {
            let found = worst([&pod], events).unwrap();
            assert_eq!(found.message, message);
            assert!(found.hint.contains(hint) && !found.lasting, "{found:?}");
        }
        let ready = json!({"conditions": [{"type": "Ready", "status": "True"}]});
        assert_eq!(worst([&pod("p", ready)], &events), None);
    }

    #[test]
    fn the_worst_pod_is_told_of() {
        let slow = pod("slow", json!({}));
        let bad = waiting("InvalidImageName", "couldn't parse \"A B\"");
        let pulling = waiting("ErrImagePull", "not found");
        let found = worst([&slow, &bad, &pulling], &[]).unwrap();
        assert!(found.lasting && found.message.contains("InvalidImageName"), "{found:?}");
        assert!(worst([&slow, &pulling], &[]).unwrap().message.contains("ErrImagePull: not found"));
        let workload = |image: &str| json!({"spec": {"template": {"spec": {"containers": [{"name": "app", "image": image}]}}}});
        let mut old = bad.clone();
        old["spec"] = json!({"containers": [{"name": "app", "image": "A B"}]});
        assert!(worst_of(&workload("A B"), &[&old], &[]).unwrap().lasting);
        assert!(
            !worst_of(&workload("a:b"), &[&old], &[]).unwrap().lasting,
            "an older template may be mended"
        );
        // An image that only the containers before the others have is mended as well.
        let with_init = |image: &str| {
            let mut workload = workload("a:b");
            workload["spec"]["template"]["spec"]["initContainers"] =
                json!([{"name": "init", "image": image}]);
            workload
        };
        let mut old = bad.clone();
        old["spec"] = with_init("A B")["spec"]["template"]["spec"].clone();
        assert!(worst_of(&with_init("A B"), &[&old], &[]).unwrap().lasting);
        assert!(!worst_of(&with_init("c:d"), &[&old], &[]).unwrap().lasting, "its init image is mended");
        let mut gone = bad;
        gone["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        assert_eq!(worst([&gone], &[]), None);
    }
}
