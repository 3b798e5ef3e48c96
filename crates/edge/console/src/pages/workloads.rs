//! Pods and nodes.

use serde_json::Value;
use wharf_base::{Clock as _, SystemClock};
use wharf_client::Object;

use super::{
    E, at, badge, created, encoded, find, items, link, list_of, log, namespace_of, number, page, table,
};
use crate::{Inner, LogTarget};

pub(super) const POD_HEADS: &[&str] =
    &["Pod", "Namespace", "State", "Ready", "Restarts", "Address", "Node", "Created"];

/// What kubectl's table says of a pod.
struct Summary {
    ready: String,
    status: String,
    restarts: String,
}

fn summary(pod: &Value) -> Summary {
    let mut cells = wharf_api::table::cells("", "pods", pod, SystemClock.now()).into_iter().skip(1);
    let mut next = || match cells.next() {
        Some(Value::String(text)) => text,
        other => other.unwrap_or_default().to_string(),
    };
    Summary { ready: next(), status: next(), restarts: next() }
}

/// The state of a pod as kubectl shows it.
pub(super) fn state(pod: &Value) -> String {
    summary(pod).status
}

/// Pods that are neither well nor on their way.
pub(super) fn troubled(pod: &Object) -> bool {
    let state = state(pod);
    let initialising =
        state.strip_prefix("Init:").is_some_and(|at| at.starts_with(|c: char| c.is_ascii_digit()));
    let usual = ["Running", "Completed", "Pending", "Terminating", "ContainerCreating", "PodInitializing"];
    !(usual.contains(&state.as_str()) || initialising) || restarts(pod) > 5
}

fn restarts(pod: &Value) -> i64 {
    items(pod, "/status/containerStatuses").iter().map(|container| number(container, "/restartCount")).sum()
}

pub(super) fn row(pod: &Object) -> Vec<String> {
    let Summary { ready, status, restarts } = summary(pod);
    vec![
        link("pods", pod),
        namespace_of(pod),
        badge(&status),
        E(ready).to_string(),
        E(restarts).to_string(),
        E(at(pod, "/status/podIP")).to_string(),
        E(at(pod, "/spec/nodeName")).to_string(),
        created(pod),
    ]
}

pub(super) fn pods(console: &Inner) -> String {
    let rows: Vec<_> = list_of(console, "pods").iter().map(row).collect();
    page("pods", "Pods", "pods", &table("Pods", POD_HEADS, &rows, "No pod yet."), "")
}

pub(super) async fn pod(console: &Inner, namespace: &str, name: &str) -> Option<String> {
    let pod = find(console, "pods", namespace, name)?;
    let containers: Vec<_> =
        items(&pod, "/spec/containers").iter().map(|c| at(c, "/name").to_owned()).collect();
    let images =
        items(&pod, "/spec/containers").iter().map(|c| format!("<code>{}</code>", E(at(c, "/image"))));
    let live = format!(
        "<dl class=\"facts\"><dt>State</dt><dd>{}</dd><dt>Namespace</dt><dd>{}</dd><dt>Node</dt><dd>{}</dd><dt>Address</dt><dd>{}</dd>\
         <dt>Restarts</dt><dd>{}</dd><dt>Images</dt><dd>{}</dd></dl>",
        badge(&state(&pod)),
        E(namespace),
        E(at(&pod, "/spec/nodeName")),
        E(at(&pod, "/status/podIP")),
        restarts(&pod),
        images.collect::<Vec<_>>().join(" "),
    );
    let mut still = String::new();
    for container in containers {
        let address = format!("/logs/pod/{}/{}/{}", encoded(namespace), encoded(name), encoded(&container));
        let title = format!("Log of {container}");
        let (namespace, pod) = (namespace.to_owned(), name.to_owned());
        still.push_str(
            &log(console, &title, &address, LogTarget::Container { namespace, pod, container }).await,
        );
    }
    Some(page("pods", &format!("Pod {name}"), "pods", &live, &still))
}

pub(super) fn node_state(node: &Value) -> &'static str {
    let ready = items(node, "/status/conditions").iter().find(|condition| at(condition, "/type") == "Ready");
    match ready.map(|condition| at(condition, "/status")) {
        Some("True") => "Ready",
        _ => "NotReady",
    }
}

pub(super) fn nodes(console: &Inner) -> String {
    let pods = list_of(console, "pods");
    let row = |node: &Object| {
        let name = at(node, "/metadata/name");
        let there = pods.iter().filter(|pod| at(pod, "/spec/nodeName") == name).count();
        vec![
            E(name).to_string(),
            badge(node_state(node)),
            E(at(node, "/status/allocatable/cpu")).to_string(),
            E(at(node, "/status/allocatable/memory")).to_string(),
            there.to_string(),
            E(at(node, "/status/nodeInfo/kubeletVersion")).to_string(),
            created(node),
        ]
    };
    let rows: Vec<_> = list_of(console, "nodes").iter().map(row).collect();
    let heads = &["Node", "State", "CPU", "Memory", "Pods", "Version", "Created"];
    page("nodes", "Nodes", "nodes,pods", &table("Nodes", heads, &rows, "No node has joined yet."), "")
}
