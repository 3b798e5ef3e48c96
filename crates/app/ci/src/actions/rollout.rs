//! Waiting for workloads to be rolled out.

use std::{collections::HashMap, time::Duration};

use anyhow::bail;
use serde_json::Value;
use wharf_client::{Client, Informer, ListParams};

use super::manifests::{Kind, title};

/// How a workload is.
#[derive(Debug, PartialEq)]
pub(super) enum Progress {
    Done,
    Waiting(String),
    Failed(String),
}

fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or_default()
}

fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
    let conditions = object.pointer("/status/conditions").and_then(Value::as_array)?;
    conditions.iter().find(|condition| text(condition, "/type") == kind)
}

/// How far a workload is. Nothing for kinds that are not waited for.
pub(super) fn progress(resource: &str, object: &Value) -> Option<Progress> {
    let wanted = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    let seen = || observed(object) >= number(object, "/metadata/generation");
    let unseen = || Progress::Waiting("the change has not been taken up yet".into());
    Some(match resource {
        "deployments" | "statefulsets" | "rollouts" if !seen() => unseen(),
        "deployments" => deployment(object, wanted),
        "statefulsets" => {
            let (updated, ready) =
                (number(object, "/status/updatedReplicas"), number(object, "/status/readyReplicas"));
            counts(wanted, updated, ready)
        }
        "rollouts" => rollout(object),
        _ => return None,
    })
}

/// Argo's Rollout keeps the generation it has seen as a text.
fn observed(object: &Value) -> i64 {
    match object.pointer("/status/observedGeneration") {
        Some(Value::String(text)) => text.parse().unwrap_or(0),
        Some(value) => value.as_i64().unwrap_or(0),
        None => 0,
    }
}

fn counts(wanted: i64, updated: i64, ready: i64) -> Progress {
    match updated >= wanted && ready >= wanted {
        true => Progress::Done,
        false => Progress::Waiting(format!("{updated} of {wanted} updated, {ready} ready")),
    }
}

fn deployment(object: &Value, wanted: i64) -> Progress {
    if let Some(condition) = condition(object, "Progressing")
        && text(condition, "/reason") == "ProgressDeadlineExceeded"
    {
        return Progress::Failed(text(condition, "/message").to_owned());
    }
    let (updated, available) =
        (number(object, "/status/updatedReplicas"), number(object, "/status/availableReplicas"));
    let old = number(object, "/status/replicas") - updated;
    match counts(wanted, updated, available) {
        Progress::Done if old > 0 => Progress::Waiting(format!("{old} old replicas are still there")),
        other => other,
    }
}

fn rollout(object: &Value) -> Progress {
    let message = text(object, "/status/message").to_owned();
    if object.pointer("/status/abort").and_then(Value::as_bool) == Some(true) {
        return Progress::Failed(if message.is_empty() { "it was aborted".into() } else { message });
    }
    match text(object, "/status/phase") {
        "Healthy" => Progress::Done,
        "Degraded" => Progress::Failed(if message.is_empty() { "it is degraded".into() } else { message }),
        phase => {
            let step = object.pointer("/status/currentStepIndex").and_then(Value::as_i64);
            let steps = object.pointer("/spec/strategy/canary/steps").and_then(Value::as_array).map(Vec::len);
            let place = match (step, steps) {
                (Some(step), Some(steps)) => format!(", step {step} of {steps}"),
                _ => String::new(),
            };
            let phase = if phase.is_empty() { "Progressing" } else { phase };
            let more = if message.is_empty() { String::new() } else { format!(" ({message})") };
            Progress::Waiting(format!("{phase}{place}{more}"))
        }
    }
}

/// Waits until all workloads are rolled out.
pub(super) async fn wait(
    client: &Client,
    applied: &[(Kind, Value)],
    say: impl Fn(&str),
) -> anyhow::Result<()> {
    let mut said: HashMap<String, String> = HashMap::new();
    for (kind, object) in applied {
        if progress(&kind.gvr.resource, object).is_none() {
            continue;
        }
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        let params =
            ListParams { fields: format!("metadata.name={name}"), ..ListParams::namespace(namespace) };
        let informer = Informer::start(client.clone(), kind.gvr.clone(), params);
        let revision: u64 = text(object, "/metadata/resourceVersion").parse().unwrap_or(0);
        informer.seen(revision).await;
        let mut changes = informer.subscribe();
        let key = format!("{namespace}/{name}");
        loop {
            let Some(now) = informer.get(&key) else { bail!("{} was deleted", title(object)) };
            match progress(&kind.gvr.resource, &now) {
                Some(Progress::Failed(message)) => bail!("{}: {message}", title(object)),
                Some(Progress::Waiting(message)) => {
                    if said.get(&key) != Some(&message) {
                        say(&format!("{}: {message}", title(object)));
                        said.insert(key.clone(), message);
                    }
                }
                Some(Progress::Done) | None => {
                    say(&format!("{}: rolled out", title(object)));
                    break;
                }
            }
            // Whatever the watch may miss, a look now and then does not.
            let _ = tokio::time::timeout(Duration::from_secs(30), changes.recv()).await;
        }
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn tells_how_far_workloads_are() {
        let deployment = |status: Value| {
            progress(
                "deployments",
                &json!({"metadata": {"generation": 2}, "spec": {"replicas": 2}, "status": status}),
            )
        };
        let waiting = |text: &str| Some(Progress::Waiting(text.into()));
        assert_eq!(
            deployment(json!({"observedGeneration": 1})),
            waiting("the change has not been taken up yet")
        );
        assert_eq!(
            deployment(
                json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 1, "availableReplicas": 2})
            ),
            waiting("1 of 2 updated, 2 ready")
        );
        assert_eq!(
            deployment(
                json!({"observedGeneration": 2, "replicas": 3, "updatedReplicas": 2, "availableReplicas": 2})
            ),
            waiting("1 old replicas are still there")
        );
        assert_eq!(
            deployment(
                json!({"observedGeneration": 2, "replicas": 2, "updatedReplicas": 2, "availableReplicas": 2})
            ),
            Some(Progress::Done)
        );
        assert_eq!(
            deployment(
                json!({"observedGeneration": 2, "conditions": [{"type": "Progressing", "reason": "ProgressDeadlineExceeded", "message": "late"}]})
            ),
            Some(Progress::Failed("late".into()))
        );
        let rollout =
            |status: Value| progress("rollouts", &json!({"metadata": {"generation": 1}, "status": status}));
        assert_eq!(rollout(json!({"observedGeneration": "1", "phase": "Healthy"})), Some(Progress::Done));
        assert_eq!(
            rollout(json!({"observedGeneration": "1", "phase": "Degraded", "message": "errors"})),
            Some(Progress::Failed("errors".into()))
        );
        assert_eq!(
            rollout(json!({"observedGeneration": "1", "phase": "Healthy", "abort": true})),
            Some(Progress::Failed("it was aborted".into()))
        );
        assert_eq!(
            rollout(json!({"observedGeneration": "1", "phase": "Paused", "currentStepIndex": 1})),
            waiting("Paused")
        );
        assert_eq!(progress("services", &json!({})), None);
    }
}
