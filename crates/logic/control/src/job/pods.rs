//! The pods of a Job: claimed, made, deleted.

use serde_json::{Map, Value, json};

use super::{
    INDEX, Job, TRACKING, View,
    failures::{COUNTED, Failures, IGNORED},
};
use crate::{
    action::{Action, Event, PODS},
    claim::{Claim, adopt, claim, pod_from_template, release},
    pod::Pod,
};

/// The pods it manages, and the adoptions and releases that are due.
pub(super) fn claim_pods<'a>(view: &View<'a>) -> (Vec<&'a Pod>, Vec<Action>) {
    let owner = &view.job.metadata;
    let (mut owned, mut actions) = (Vec::new(), Vec::new());
    let Some(selector) = &view.job.spec.selector else { return (owned, actions) };
    for pod in view.pods {
        match claim(owner, selector, &pod.metadata) {
            Claim::Owned => owned.push(*pod),
            Claim::Adopt if pod.active() => {
                let adopt = adopt(PODS, &pod.metadata, owner.controller_ref("batch/v1", "Job"));
                actions.push(tracked(adopt, pod, true));
                owned.push(*pod);
            }
            Claim::Release => {
                let release = release(PODS, &pod.metadata, &[&owner.uid]);
                actions.push(tracked(release, pod, false));
            }
            _ => {}
        }
    }
    (owned, actions)
}

/// The patch of a pod, which also says whether the pod has to be counted before it goes.
fn tracked(mut patch: Action, pod: &Pod, tracked: bool) -> Action {
    let mut finalizers = pod.metadata.finalizers.clone();
    finalizers.retain(|finalizer| finalizer != TRACKING);
    finalizers.extend(tracked.then(|| TRACKING.to_owned()));
    if let Action::Patch { body, .. } = &mut patch
        && let Some(metadata) = body.get_mut("metadata").and_then(Value::as_object_mut)
    {
        let finalizers = if finalizers.is_empty() { Value::Null } else { json!(finalizers) };
        metadata.insert("finalizers".to_owned(), finalizers);
    }
    patch
}

/// The index of a pod, where it has one.
pub(super) fn index_of(pod: &Pod) -> Option<i64> {
    pod.metadata.annotations.get(INDEX)?.parse().ok()
}

/// Whether a pod under deletion will not run any more: it has no node, or its node has let it go.
pub(super) fn never_ran(pod: &Pod) -> bool {
    let let_go = pod.metadata.deletion_grace_period_seconds == Some(0);
    pod.spec.node_name.is_empty() || (let_go && matches!(pod.status.phase.as_str(), "" | "Pending"))
}

/// Makes a pod, for an index when the Job is indexed; `failures` are those of that index so far.
pub(super) fn create(job: &Job, index: Option<i64>, failures: Option<Failures>) -> Action {
    let owner = job.metadata.controller_ref("batch/v1", "Job");
    let prefix = match index {
        Some(index) => format!("{}-{index}-", job.metadata.name),
        None => format!("{}-", job.metadata.name),
    };
    let mut pod = pod_from_template(&job.metadata, &owner, &job.spec.template, &prefix);
    if let Some(metadata) = pod.get_mut("metadata").and_then(Value::as_object_mut) {
        let finalizers = metadata.entry("finalizers").or_insert_with(|| json!([]));
        if let Some(list) = finalizers.as_array_mut().filter(|list| !list.contains(&json!(TRACKING))) {
            list.push(json!(TRACKING));
        }
        if let Some(index) = index {
            for field in ["labels", "annotations"] {
                let pairs = metadata.entry(field).or_insert_with(|| Value::Object(Map::new()));
                if let Some(pairs) = pairs.as_object_mut() {
                    pairs.insert(INDEX.to_owned(), json!(index.to_string()));
                }
            }
        }
        if let Some(failures) = failures {
            annotate(metadata, failures);
        }
    }
    if let (Some(index), Some(spec)) = (index, pod.get_mut("spec")) {
        tell_index(job, index, spec);
    }
    let involved = job.object_ref();
    Action::Create {
        resource: PODS,
        namespace: job.metadata.namespace.clone(),
        object: pod,
        announce: Some(Box::new(Event::normal(involved, "SuccessfulCreate", "Created pod: {name}"))),
    }
}

/// Says how often the index of a pod has failed.
fn annotate(metadata: &mut Map<String, Value>, failures: Failures) {
    let annotations = metadata.entry("annotations").or_insert_with(|| Value::Object(Map::new()));
    if let Some(annotations) = annotations.as_object_mut() {
        annotations.insert(COUNTED.to_owned(), json!(failures.counted.to_string()));
        if failures.ignored > 0 {
            annotations.insert(IGNORED.to_owned(), json!(failures.ignored.to_string()));
        }
    }
}

/// The host name `<job>-<index>`, and the environment variable with the index.
fn tell_index(job: &Job, index: i64, spec: &mut Value) {
    if let Some(spec) = spec.as_object_mut() {
        let free = spec.get("hostname").is_none_or(|name| name.as_str().is_none_or(str::is_empty));
        if free {
            spec.insert("hostname".to_owned(), json!(format!("{}-{index}", job.metadata.name)));
        }
    }
    let path = format!("metadata.labels['{INDEX}']");
    let variable = json!({
        "name": "JOB_COMPLETION_INDEX",
        "valueFrom": {"fieldRef": {"apiVersion": "v1", "fieldPath": path}},
    });
    for field in ["containers", "initContainers"] {
        let containers = spec.get_mut(field).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten().filter_map(Value::as_object_mut) {
            let environment = container.entry("env").or_insert_with(|| json!([]));
            if environment.is_null() {
                *environment = json!([]);
            }
            let Some(list) = environment.as_array_mut() else { continue };
            if !list.iter().any(|present| present.get("name") == variable.get("name")) {
                list.push(variable.clone());
            }
        }
    }
}

/// Deletes a pod.
pub(super) fn delete(job: &Job, pod: &Pod) -> Action {
    let message = format!("Deleted pod: {}", pod.metadata.name);
    pod.metadata.delete(PODS, Some(Event::normal(job.object_ref(), "SuccessfulDelete", message)))
}
