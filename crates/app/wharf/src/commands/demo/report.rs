//! What is known when a stage failed: runs, rollouts, pods, events, and the platform's own log.

use std::path::Path;

use serde_json::Value;
use wharf_ci::api::{NAMESPACE, WORKFLOW_RUNS, WorkflowRun};
use wharf_client::{
    Client, Gvr, ListParams,
    action::{EVENTS, PODS},
};
use wharf_deliver::{ANALYSIS_RUNS, ROLLOUTS};

use super::{pipeline, story::complaint};
use crate::commands::platform::text;

/// The platform's own log in the data folder.
pub(super) const LOG: &str = "wharf.log";
/// Events and log lines shown.
const TAIL: usize = 12;
/// Namespaces of the sample.
const NAMESPACES: [&str; 2] = ["shop-staging", "shop"];

/// Lines for people.
pub(super) async fn lines(client: &Client, data: &Path) -> Vec<String> {
    let mut lines = Vec::new();
    if let Some(run) = last_run(client).await {
        lines.extend(pipeline::failures(data, &run));
    }
    for namespace in NAMESPACES {
        for resource in [ROLLOUTS, ANALYSIS_RUNS] {
            let all = list(client, &resource, namespace).await;
            lines.extend(all.iter().map(|object| format!("{} {}", resource.resource, complaint(object))));
        }
        lines.extend(list(client, &PODS, namespace).await.iter().map(pod));
        let mut events = list(client, &EVENTS, namespace).await;
        events.retain(|event| event["type"] == "Warning");
        events.sort_by_key(|event| text(event, "/lastTimestamp").to_owned());
        let from = events.len().saturating_sub(TAIL);
        lines.extend(events.iter().skip(from).map(event));
    }
    lines.extend(log(data));
    lines
}

/// The end of the platform's own log.
pub(super) fn log(data: &Path) -> Vec<String> {
    let log = std::fs::read(data.join(LOG)).unwrap_or_default();
    let log = String::from_utf8_lossy(&log);
    let all: Vec<&str> = log.lines().collect();
    all.iter().skip(all.len().saturating_sub(TAIL)).map(|line| format!("log: {line}")).collect()
}

async fn list(client: &Client, resource: &Gvr, namespace: &str) -> Vec<Value> {
    // What cannot be told is left out: the failure itself is told in any case.
    client.list(resource, &ListParams::namespace(namespace)).await.map(|list| list.items).unwrap_or_default()
}

async fn last_run(client: &Client) -> Option<WorkflowRun> {
    let runs = list(client, &WORKFLOW_RUNS, NAMESPACE).await;
    let runs = runs.iter().filter_map(|object| wharf_control::read::<WorkflowRun>(object).ok());
    runs.max_by_key(|run| run.spec.number)
}

fn pod(pod: &Value) -> String {
    let states = pod.pointer("/status/containerStatuses").and_then(Value::as_array).into_iter().flatten();
    let states: Vec<String> = states
        .map(|container| {
            let restarts = container["restartCount"].as_i64().unwrap_or(0);
            let waiting = text(container, "/state/waiting/reason");
            format!("ready {} restarts {restarts} {waiting}", container["ready"]).trim_end().to_owned()
        })
        .collect();
    format!("pod {} {}", complaint(pod), states.join(", ")).trim_end().to_owned()
}

fn event(event: &Value) -> String {
    let (kind, name) = (text(event, "/involvedObject/kind"), text(event, "/involvedObject/name"));
    format!("event {kind} {name}: {}: {}", text(event, "/reason"), text(event, "/message"))
}
