//! Pods: the one status word that sums up phase, conditions and every container.

use serde_json::{Value, json};
use wharf_base::Timestamp;

use super::{AGE, Column, NAME, Row, Table, column, text, tree, wide};

const COLUMNS: &[Column] = &[
    NAME,
    column("Ready", "Containers that are ready, of all"),
    column("Status", "State of the pod in one word"),
    column("Restarts", "Restarts of the containers, and when the last one was"),
    AGE,
    wide("IP", "First address of the pod"),
    wide("Node", "Node the pod is bound to"),
    wide("Nominated Node", "Node being cleared for the pod by preemption"),
    wide("Readiness Gates", "Readiness gates that are true, of all"),
];

pub(super) const TABLES: &[Table] = &[Table { group: "", resource: "pods", columns: COLUMNS, cells }];

/// What the containers of a pod add up to.
#[derive(Default)]
struct Summary {
    ready: usize,
    restarts: Restarts,
    reason: Option<String>,
}

/// A count of restarts and the time the last terminated container ended.
#[derive(Clone, Copy, Default)]
struct Restarts {
    count: i64,
    last: Option<Timestamp>,
}

impl Restarts {
    fn add(&mut self, container: &Value) {
        self.count = self.count.saturating_add(tree::int(container, "/restartCount"));
        self.last = self.last.max(tree::time(container, "/lastState/terminated/finishedAt"));
    }
}

fn cells(row: &Row<'_>) -> Vec<Value> {
    let pod = row.object;
    let init_containers = tree::list(pod, "/spec/initContainers");
    let sidecars = init_containers.iter().filter(|container| is_sidecar(container)).count();
    let total = tree::list(pod, "/spec/containers").len() + sidecars;
    let summary = summary(pod);
    let reason =
        deletion_reason(pod).map_or_else(|| summary.reason.unwrap_or_else(|| phase(pod)), str::to_owned);
    vec![
        row.name(),
        json!(format!("{}/{total}", summary.ready)),
        json!(reason),
        json!(restarts_text(summary.restarts, row.now)),
        row.age(),
        row.string_or("/status/podIPs/0/ip", "<none>"),
        row.string_or("/spec/nodeName", "<none>"),
        row.string_or("/status/nominatedNodeName", "<none>"),
        json!(readiness_gates(pod)),
    ]
}

/// Marks pods that have ended.
pub(super) fn row_conditions(pod: &Value) -> Vec<Value> {
    let (reason, message) = match tree::text(pod, "/status/phase") {
        "Succeeded" => ("Succeeded", "All containers ended with status 0"),
        "Failed" => ("Failed", "A container failed, or the pod was evicted"),
        _ => return Vec::new(),
    };
    vec![json!({"type": "Completed", "status": "True", "reason": reason, "message": message})]
}

fn is_sidecar(container: &Value) -> bool {
    tree::text(container, "/restartPolicy") == "Always"
}

/// The word for a pod whose containers say nothing.
fn phase(pod: &Value) -> String {
    let gated = tree::list(pod, "/status/conditions").iter().any(|condition| {
        tree::text(condition, "/type") == "PodScheduled"
            && tree::text(condition, "/reason") == "SchedulingGated"
    });
    let reason = tree::text(pod, "/status/reason");
    let word = match (gated, reason) {
        (true, _) => "SchedulingGated",
        (false, "") => tree::text(pod, "/status/phase"),
        (false, reason) => reason,
    };
    word.to_owned()
}

/// The word for a pod that is being deleted and has not ended.
fn deletion_reason(pod: &Value) -> Option<&'static str> {
    if !tree::has(pod, "/metadata/deletionTimestamp") {
        None
    } else if tree::text(pod, "/status/reason") == "NodeLost" {
        Some("Unknown")
    } else if matches!(tree::text(pod, "/status/phase"), "Succeeded" | "Failed") {
        None
    } else {
        Some("Terminating")
    }
}

fn summary(pod: &Value) -> Summary {
    let mut total = Summary::default();
    let mut sidecars = Restarts::default();
    for (index, status) in tree::list(pod, "/status/initContainerStatuses").iter().enumerate() {
        total.restarts.add(status);
        let sidecar = is_sidecar_status(pod, status);
        if sidecar {
            sidecars.add(status);
        }
        if has_succeeded(status) {
            continue;
        }
        if sidecar && tree::flag(status, "/started") {
            total.ready += usize::from(tree::flag(status, "/ready"));
            continue;
        }
        total.reason = Some(init_reason(pod, status, index));
        break;
    }
    if total.reason.is_none() || text::condition(pod, "/status/conditions", "Initialized") == "True" {
        total.restarts = sidecars;
        add_main_containers(pod, &mut total);
    }
    total
}

fn is_sidecar_status(pod: &Value, status: &Value) -> bool {
    let name = tree::text(status, "/name");
    tree::find(tree::list(pod, "/spec/initContainers"), "name", name).is_some_and(is_sidecar)
}

fn has_succeeded(status: &Value) -> bool {
    tree::has(status, "/state/terminated") && tree::int(status, "/state/terminated/exitCode") == 0
}

/// The word for the init container that holds the pod up.
fn init_reason(pod: &Value, status: &Value, index: usize) -> String {
    let waiting = tree::text(status, "/state/waiting/reason");
    if tree::has(status, "/state/terminated") {
        format!("Init:{}", terminated_reason(status))
    } else if !matches!(waiting, "" | "PodInitializing") {
        format!("Init:{waiting}")
    } else {
        format!("Init:{index}/{}", tree::list(pod, "/spec/initContainers").len())
    }
}

fn terminated_reason(status: &Value) -> String {
    let reason = tree::text(status, "/state/terminated/reason");
    let signal = tree::int(status, "/state/terminated/signal");
    if !reason.is_empty() {
        reason.to_owned()
    } else if signal != 0 {
        format!("Signal:{signal}")
    } else {
        format!("ExitCode:{}", tree::int(status, "/state/terminated/exitCode"))
    }
}

/// Adds the ordinary containers, last to first, so that the first container's reason wins.
fn add_main_containers(pod: &Value, total: &mut Summary) {
    let mut running = false;
    let mut error = None;
    for status in tree::list(pod, "/status/containerStatuses").iter().rev() {
        total.restarts.add(status);
        let waiting = tree::text(status, "/state/waiting/reason");
        if !waiting.is_empty() {
            total.reason = Some(waiting.to_owned());
        } else if tree::has(status, "/state/terminated") {
            let reason = terminated_reason(status);
            if tree::int(status, "/state/terminated/exitCode") != 0 {
                error = Some(reason.clone());
            }
            total.reason = Some(reason);
        } else if tree::flag(status, "/ready") && tree::has(status, "/state/running") {
            running = true;
            total.ready += 1;
        }
    }
    let reason = total.reason.clone().unwrap_or_else(|| phase(pod));
    if reason == "Completed" {
        total.reason = Some(completed_reason(pod, running, error));
    }
}

/// The word for a pod with a completed container: others may still run, or have failed.
fn completed_reason(pod: &Value, running: bool, error: Option<String>) -> String {
    let ready = text::condition(pod, "/status/conditions", "Ready") == "True";
    match (running, error) {
        (true, _) if ready => "Running".to_owned(),
        (_, Some(error)) => error,
        (true, None) => "NotReady".to_owned(),
        (false, None) => "Completed".to_owned(),
    }
}

fn restarts_text(restarts: Restarts, now: Timestamp) -> String {
    match restarts.last {
        Some(last) if restarts.count != 0 => {
            format!("{} ({} ago)", restarts.count, text::since(Some(last), now))
        }
        _ => restarts.count.to_string(),
    }
}

fn readiness_gates(pod: &Value) -> String {
    let gates = tree::list(pod, "/spec/readinessGates");
    if gates.is_empty() {
        return "<none>".to_owned();
    }
    let open = gates
        .iter()
        .filter(|gate| {
            text::condition(pod, "/status/conditions", tree::text(gate, "/conditionType")) == "True"
        })
        .count();
    format!("{open}/{}", gates.len())
}
