//! Waiting for workloads to be rolled out.

use std::time::Duration;

use anyhow::bail;
use serde_json::Value;
use tokio::time::Instant;
use wharf_base::Hinted;
use wharf_client::{Client, Informer, ListParams};
use wharf_control::action::{EVENTS, PODS};

use super::{
    manifests::{Kind, title},
    pods::{self, Trouble},
};

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

pub(super) fn text<'a>(object: &'a Value, pointer: &str) -> &'a str {
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
///
/// # Errors
/// When one cannot be any more, or is not within `limit`: then with what its worst pod says.
pub(super) async fn wait(
    client: &Client,
    applied: &[(Kind, Value)],
    limit: Duration,
    say: impl Fn(&str),
) -> anyhow::Result<()> {
    let deadline = Instant::now() + limit;
    for (kind, object) in applied {
        if progress(&kind.gvr.resource, object).is_some() {
            Watched::start(client, kind, object).await.until(deadline, limit, &say).await?;
        }
    }
    Ok(())
}

/// A workload that is waited for, and its pods.
struct Watched<'a> {
    client: &'a Client,
    resource: &'a str,
    title: String,
    key: String,
    workload: Informer,
    pods: Option<Informer>,
}

impl<'a> Watched<'a> {
    async fn start(client: &'a Client, kind: &'a Kind, object: &Value) -> Self {
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        let fields = format!("metadata.name={name}");
        let params = ListParams { fields, ..ListParams::namespace(namespace) };
        let workload = Informer::start(client.clone(), kind.gvr.clone(), params);
        let pods = selector(object).map(|labels| {
            let params = ListParams { labels, ..ListParams::namespace(namespace) };
            Informer::start(client.clone(), PODS, params)
        });
        workload.seen(text(object, "/metadata/resourceVersion").parse().unwrap_or(0)).await;
        let key = format!("{namespace}/{name}");
        Self { client, resource: &kind.gvr.resource, title: title(object), key, workload, pods }
    }

    async fn until(self, deadline: Instant, limit: Duration, say: &impl Fn(&str)) -> anyhow::Result<()> {
        let title = &self.title;
        let mut changes = self.workload.subscribe();
        let mut pods = self.pods.as_ref().map(Informer::subscribe);
        let (mut said, mut said_of_pods) = (String::new(), String::new());
        loop {
            let Some(now) = self.workload.get(&self.key) else { bail!("{title} was deleted") };
            let waiting = match progress(self.resource, &now) {
                Some(Progress::Failed(message)) => {
                    return Err(self.failed(format!("{title}: {message}")).await);
                }
                Some(Progress::Waiting(message)) => message,
                Some(Progress::Done) | None => {
                    say(&format!("{title}: rolled out"));
                    return Ok(());
                }
            };
            if said != waiting {
                say(&format!("{title}: {waiting}"));
                said = waiting;
            }
            if let Some(trouble) = self.trouble().await {
                if trouble.lasting {
                    return Err(Hinted::new(format!("{title}: {}", trouble.message), trouble.hint).into());
                }
                if said_of_pods != trouble.message {
                    say(&format!("{title}: {}", trouble.message));
                    said_of_pods = trouble.message;
                }
            }
            if Instant::now() >= deadline {
                let minutes = limit.as_secs_f64() / 60.0;
                let message = format!("{title} was not rolled out within {minutes} minutes: {said}");
                return Err(self.failed(message).await);
            }
            // Whatever the watches may miss, a look now and then does not.
            let look = deadline.min(Instant::now() + Duration::from_secs(30));
            let pod = async {
                match &mut pods {
                    Some(pods) => drop(pods.recv().await),
                    None => std::future::pending().await,
                }
            };
            tokio::select! {
                _ = changes.recv() => {}
                () = pod => {}
                () = tokio::time::sleep_until(look) => {}
            }
        }
    }

    /// With what its worst pod says.
    async fn failed(&self, message: String) -> anyhow::Error {
        match self.trouble().await {
            Some(trouble) => Hinted::new(format!("{message}: {}", trouble.message), trouble.hint).into(),
            None => {
                let (namespace, name) = self.key.split_once('/').unwrap_or_default();
                let hint = format!("'kubectl -n {namespace} describe {} {name}' tells more", self.resource);
                Hinted::new(message, hint).into()
            }
        }
    }

    /// What is wrong with its pods, or why there are none.
    async fn trouble(&self) -> Option<Trouble> {
        let pods = self.pods.as_ref().map(Informer::list).unwrap_or_default();
        let namespace = self.key.split('/').next().unwrap_or_default();
        let params =
            ListParams { fields: "involvedObject.kind=Pod".into(), ..ListParams::namespace(namespace) };
        let events = match pods.is_empty() {
            true => Vec::new(),
            // What they would add is not worth an end of its own.
            false => self.client.list(&EVENTS, &params).await.map(|list| list.items).unwrap_or_default(),
        };
        let workload = self.workload.get(&self.key)?;
        pods::worst_of(&workload, &pods.iter().map(|pod| &**pod).collect::<Vec<_>>(), &events).or_else(|| {
            let refused = condition(&workload, "ReplicaFailure").filter(|c| text(c, "/status") == "True")?;
            let hint = format!("'kubectl -n {namespace} get events' tells more");
            Some(Trouble { message: text(refused, "/message").to_owned(), hint, lasting: false })
        })
    }
}

/// The labels of a workload's pods, as a selector.
fn selector(object: &Value) -> Option<String> {
    let labels = object.pointer("/spec/selector/matchLabels")?.as_object()?;
    let labels: Vec<String> =
        labels.iter().filter_map(|(name, value)| Some(format!("{name}={}", value.as_str()?))).collect();
    (!labels.is_empty()).then(|| labels.join(","))
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
