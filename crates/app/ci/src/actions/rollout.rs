//! Waiting for workloads to be rolled out.

use std::time::Duration;

use serde_json::Value;
use tokio::{
    sync::mpsc::UnboundedReceiver,
    time::{Instant, timeout_at},
};
use wharf_api::selector::written;
use wharf_base::Hinted;
use wharf_client::{Change, Client, Informer, ListParams};
use wharf_control::action::{EVENTS, PODS};

use super::{
    manifests::{Kind, title},
    pods::{self, Trouble},
};

/// How long the first lists of pods and their events are waited for: what they tell is not worth an end of its own.
const FIRST_LISTS: Duration = Duration::from_secs(5);

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

pub(super) fn condition<'a>(object: &'a Value, kind: &str) -> Option<&'a Value> {
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
            let limit = Limit { deadline, minutes: limit.as_secs_f64() / 60.0 };
            Watched::start(client, kind, object, limit).await?.until(limit, &say).await?;
        }
    }
    Ok(())
}

/// How long is waited.
#[derive(Clone, Copy)]
struct Limit {
    deadline: Instant,
    /// As it was given.
    minutes: f64,
}

/// A workload that is waited for, and its pods.
struct Watched<'a> {
    resource: &'a str,
    title: String,
    key: String,
    workload: Informer,
    pods: Option<Pods>,
}

/// The pods of a workload, and what is told of the pods of its namespace.
struct Pods {
    pods: Informer,
    events: Informer,
}

impl Pods {
    fn start(client: &Client, namespace: &str, labels: String) -> Self {
        let pods = ListParams { labels, ..ListParams::namespace(namespace) };
        let events =
            ListParams { fields: "involvedObject.kind=Pod".into(), ..ListParams::namespace(namespace) };
        Self {
            pods: Informer::start(client.clone(), PODS, pods),
            events: Informer::start(client.clone(), EVENTS, events),
        }
    }
}

/// The next change; never without something to follow.
async fn next(changes: Option<&mut UnboundedReceiver<Change>>) {
    match changes {
        Some(changes) => drop(changes.recv().await),
        None => std::future::pending().await,
    }
}

impl<'a> Watched<'a> {
    /// # Errors
    /// When it does not show up in time.
    async fn start(client: &Client, kind: &'a Kind, object: &Value, limit: Limit) -> anyhow::Result<Self> {
        let (namespace, name) = (text(object, "/metadata/namespace"), text(object, "/metadata/name"));
        let fields = format!("metadata.name={name}");
        let params = ListParams { fields, ..ListParams::namespace(namespace) };
        let workload = Informer::start(client.clone(), kind.gvr.clone(), params);
        let labels = object.pointer("/spec/selector").and_then(written).filter(|labels| !labels.is_empty());
        let pods = labels.map(|labels| Pods::start(client, namespace, labels));
        let (resource, title) = (&*kind.gvr.resource, title(object));
        let written = text(object, "/metadata/resourceVersion").parse().unwrap_or(0);
        if timeout_at(limit.deadline, workload.seen(written)).await.is_err() {
            let message = format!("{title} was applied, and not seen again within {} minutes", limit.minutes);
            let hint =
                format!("'kubectl -n {namespace} get {resource} {name}' tells whether the cluster serves it");
            return Err(Hinted::new(message, hint).into());
        }
        if let Some(Pods { pods, events }) = &pods {
            let listed = async { tokio::join!(pods.synced(), events.synced()) };
            let _ = timeout_at(limit.deadline.min(Instant::now() + FIRST_LISTS), listed).await;
        }
        Ok(Self { resource, title, key: format!("{namespace}/{name}"), workload, pods })
    }

    async fn until(self, limit: Limit, say: &impl Fn(&str)) -> anyhow::Result<()> {
        let title = &self.title;
        let mut changes = self.workload.subscribe();
        let mut pods = self.pods.as_ref().map(|pods| pods.pods.subscribe());
        let mut events = self.pods.as_ref().map(|pods| pods.events.subscribe());
        let (mut said, mut said_of_pods) = (String::new(), String::new());
        loop {
            let Some(now) = self.workload.get(&self.key) else {
                let hint = format!(
                    "something else deletes it meanwhile: 'kubectl -n {} get events' tells more",
                    self.namespace()
                );
                return Err(Hinted::new(format!("{title} was deleted"), hint).into());
            };
            let waiting = match progress(self.resource, &now) {
                Some(Progress::Failed(message)) => return Err(self.failed(format!("{title}: {message}"))),
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
            if let Some(trouble) = self.trouble() {
                if trouble.lasting {
                    return Err(Hinted::new(format!("{title}: {}", trouble.message), trouble.hint).into());
                }
                if said_of_pods != trouble.message {
                    say(&format!("{title}: {}", trouble.message));
                    said_of_pods = trouble.message;
                }
            }
            if Instant::now() >= limit.deadline {
                let message = format!("{title} was not rolled out within {} minutes: {said}", limit.minutes);
                return Err(self.failed(message));
            }
            // Whatever the watches may miss, a look now and then does not.
            let look = limit.deadline.min(Instant::now() + Duration::from_secs(30));
            tokio::select! {
                () = next(Some(&mut changes)) => {}
                () = next(pods.as_mut()) => {}
                () = next(events.as_mut()) => {}
                () = tokio::time::sleep_until(look) => {}
            }
            // The next look sees all that has happened so far.
            for queued in [Some(&mut changes), pods.as_mut(), events.as_mut()].into_iter().flatten() {
                while queued.try_recv().is_ok() {}
            }
        }
    }

    fn namespace(&self) -> &str {
        self.key.split('/').next().unwrap_or_default()
    }

    /// With what its worst pod says.
    fn failed(&self, message: String) -> anyhow::Error {
        match self.trouble() {
            Some(trouble) => Hinted::new(format!("{message}: {}", trouble.message), trouble.hint).into(),
            None => {
                let (namespace, name) = self.key.split_once('/').unwrap_or_default();
                let hint = format!("'kubectl -n {namespace} describe {} {name}' tells more", self.resource);
                Hinted::new(message, hint).into()
            }
        }
    }

    /// What is wrong with its pods, or why there are none.
    fn trouble(&self) -> Option<Trouble> {
        let (pods, events) =
            self.pods.as_ref().map(|pods| (pods.pods.list(), pods.events.list())).unwrap_or_default();
        let pods: Vec<&Value> = pods.iter().map(|pod| &**pod).collect();
        let events: Vec<&Value> = events.iter().map(|event| &**event).collect();
        let workload = self.workload.get(&self.key)?;
        pods::worst_of(&workload, &pods, &events).or_else(|| {
            let refused = condition(&workload, "ReplicaFailure").filter(|c| text(c, "/status") == "True")?;
            let hint = format!("'kubectl -n {} get events' tells more", self.namespace());
            Some(Trouble { message: text(refused, "/message").to_owned(), hint, lasting: false })
        })
    }
}

#[cfg(test)]
mod tests {
    use std::sync::{Arc, Mutex};

    use futures_util::{StreamExt as _, stream};
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

    /// An API in which every list of a resource is `objects`' answer. A watch gives the objects of `changes`, one
    /// after the other, and stays open.
    fn api(
        asked: Arc<Mutex<Vec<String>>>,
        objects: fn(&str) -> Value,
        changes: fn(&str) -> Vec<Value>,
    ) -> Client {
        Client::in_process(Arc::new(move |request| {
            let uri = request.uri().to_string();
            let resource = request.uri().path().rsplit('/').next().unwrap_or_default().to_owned();
            asked.lock().unwrap().push(uri.clone());
            Box::pin(async move {
                let body = match uri.contains("watch=") {
                    false => {
                        let list = json!({"metadata": {"resourceVersion": "1"}, "items": objects(&resource)});
                        wharf_http::full(list.to_string())
                    }
                    true => {
                        let lines = changes(&resource).into_iter().map(|object| {
                            std::io::Result::Ok(
                                format!("{}\n", json!({"type": "MODIFIED", "object": object})).into(),
                            )
                        });
                        let slowly = stream::iter(lines).then(|line| async {
                            tokio::time::sleep(Duration::from_millis(2)).await;
                            line
                        });
                        wharf_http::stream(slowly.chain(stream::pending()))
                    }
                };
                http::Response::new(body)
            })
        }))
    }

    fn shop() -> (Kind, Value) {
        let object = json!({"kind": "Deployment", "metadata":
            {"namespace": "n", "name": "shop", "resourceVersion": "1", "generation": 1},
            "spec": {"selector": {"matchLabels": {"app": "shop"},
                "matchExpressions": [{"key": "tier", "operator": "In", "values": ["front"]}]}}});
        (Kind { gvr: wharf_client::action::DEPLOYMENTS, namespaced: true }, object)
    }

    async fn refused(client: &Client, limit: Duration) -> String {
        let applied = [shop()];
        let waited = tokio::time::timeout(Duration::from_secs(20), wait(client, &applied, limit, |_| {}));
        let error = waited.await.expect("the limit holds").unwrap_err();
        wharf_base::render_error(error.as_ref())
    }

    #[tokio::test]
    async fn the_limit_holds_for_an_api_that_does_not_answer() {
        let client = Client::in_process(Arc::new(|_| Box::pin(std::future::pending())));
        let error = refused(&client, Duration::from_millis(60)).await;
        assert!(
            error.contains("Deployment shop was applied, and not seen again within 0.001 minutes"),
            "{error}"
        );
        assert!(error.contains("hint: 'kubectl -n n get deployments shop' tells whether"), "{error}");
    }

    #[tokio::test]
    async fn each_thing_is_listed_once_however_often_pods_change() {
        fn pod(revision: usize) -> Value {
            json!({"metadata": {"namespace": "n", "name": "p", "resourceVersion": revision.to_string()},
                "status": {"containerStatuses": [{"name": "app", "state": {"waiting": {"reason": "ContainerCreating"}}}]}})
        }
        let objects = |resource: &str| match resource {
            "deployments" => json!([shop().1]),
            "pods" => json!([pod(1)]),
            _ => json!([{"metadata": {"namespace": "n", "name": "e"}, "involvedObject": {"name": "p"},
                "type": "Warning", "message": "no place on the disk"}]),
        };
        let changes = |resource: &str| match resource {
            "pods" => (2..30).map(pod).collect(),
            _ => Vec::new(),
        };
        let asked = Arc::new(Mutex::new(Vec::new()));
        let error = refused(&api(Arc::clone(&asked), objects, changes), Duration::from_millis(600)).await;
        assert!(error.contains("the pod p, container app: no place on the disk"), "{error}");
        let asked = asked.lock().unwrap().clone();
        let lists = |of: &str| {
            let lists = asked.iter().filter(|uri| uri.contains(of) && !uri.contains("watch="));
            lists.cloned().collect::<Vec<_>>()
        };
        assert_eq!(lists("/events").len(), 1, "{asked:#?}");
        let pods = lists("/pods");
        assert!(pods.len() == 1 && pods[0].contains("tier"), "all of the selector counts: {pods:?}");
    }
}
