//! A console over sample objects, for tests and for looking at it.

use std::{collections::BTreeMap, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, stream};
use http::{Request, Response};
use serde_json::{Value, json};
use wharf_client::Client;
use wharf_console::{Answer, Console, ConsoleConfig, Lines, LogSource, LogTarget, MetricsQuery, Series};

/// A console whose API knows these objects, by the last element of their path.
pub(crate) fn console() -> Console {
    let objects = Arc::new(objects());
    let client = Client::in_process(Arc::new(move |request: Request<Bytes>| {
        let watch = request.uri().query().unwrap_or("").contains("watch=true");
        let resource = request.uri().path().rsplit('/').next().unwrap_or("").to_owned();
        let objects = Arc::clone(&objects);
        Box::pin(async move {
            let body = match watch {
                true => wharf_http::stream(stream::pending()),
                false => {
                    let items = objects.get(resource.as_str()).cloned().unwrap_or_default();
                    wharf_http::full(
                        json!({"metadata": {"resourceVersion": "7"}, "items": items}).to_string(),
                    )
                }
            };
            Response::new(body)
        })
    }));
    Console::new(ConsoleConfig { client, query: Arc::new(Waves), logs: Arc::new(Logs) })
}

struct Waves;

impl MetricsQuery for Waves {
    fn range(&self, query: String, start: f64, end: f64, step: f64) -> Answer<Vec<Series>> {
        Box::pin(async move {
            let (label, values, scale): (_, &[&str], f64) = match query.as_str() {
                q if q.contains("0.99") => ("", &[""], 0.09),
                q if q.contains("0.9,") => ("", &[""], 0.03),
                q if q.contains("quantile") => ("", &[""], 0.008),
                q if q.contains("by (code)") => ("code", &["200", "404", "503"], 40.0),
                q if q.contains("by (version)") => ("version", &["7c9d", "5f8b"], 2.0),
                _ => ("", &[""], 12.0),
            };
            let wave = |at: f64, n: f64| scale / (n * 4.0 + 1.0) * (1.2 + (at / 180.0 + n).sin() * 0.5);
            let points = |n: f64| {
                (0..)
                    .map(|i| start + f64::from(i) * step)
                    .take_while(|at| *at <= end)
                    .map(|at| (at, wave(at, n)))
                    .collect()
            };
            Ok((0_u8..)
                .zip(values)
                .map(|(n, value)| Series {
                    labels: BTreeMap::from([(label.to_owned(), (*value).to_owned())]),
                    points: points(f64::from(n)),
                })
                .collect())
        })
    }
}

struct Logs;

impl LogSource for Logs {
    fn tail(&self, target: LogTarget, _: usize) -> Answer<Vec<String>> {
        Box::pin(async move {
            match target {
                LogTarget::Container { container, .. } if container == "sidecar" => {
                    Err("the container has not started".to_owned())
                }
                _ => Ok((1..30)
                    .map(|n| format!("2026-01-01T10:00:{n:02}Z GET /cart <b>{n}</b> 200 4ms"))
                    .collect()),
            }
        })
    }

    fn follow(&self, target: LogTarget, lines: usize) -> Answer<Lines> {
        let tail = self.tail(target, lines);
        Box::pin(async move {
            Ok(stream::iter(tail.await?).chain(stream::iter(["one\nmore".to_owned()])).boxed())
        })
    }
}

fn meta(namespace: &str, name: &str) -> Value {
    json!({"namespace": namespace, "name": name, "uid": name, "creationTimestamp": "2026-11-26T20:00:00Z"})
}

fn pod(name: &str, phase: &str, waiting: Option<&str>) -> Value {
    let state = waiting.map_or(json!({"running": {}}), |reason| json!({"waiting": {"reason": reason}}));
    json!({"metadata": meta("shop", name),
        "spec": {"nodeName": "node-1", "containers": [{"name": "shop", "image": "localhost:5000/shop:8c1f"}, {"name": "sidecar", "image": "proxy"}]},
        "status": {"phase": phase, "podIP": "10.244.0.9", "containerStatuses": [
            {"name": "shop", "ready": waiting.is_none(), "restartCount": if waiting.is_some() { 7 } else { 0 }, "state": state}]}})
}

fn run(name: &str, phase: &str, title: &str) -> Value {
    let step = |n: i32, name: &str, end: &str| {
        json!({"number": n, "name": name, "status": "completed", "conclusion": end,
        "startedAt": "2026-11-26T20:00:00Z", "completedAt": "2026-11-26T20:00:04Z"})
    };
    json!({"metadata": meta("ci", name),
        "spec": {"repository": "shop", "ref": "refs/heads/main", "sha": "8c1f0a7be4d2b6aa5a3c1f0a7be4d2b6aa5a3c1f", "workflow": "ci.yml", "event": "push", "number": 12, "actor": "ada"},
        "status": {"phase": phase, "title": title, "workflowName": "deliver", "startedAt": "2026-11-26T20:00:00Z", "jobs": [
            {"key": "test (3.11)", "name": "Test on 3.11", "status": "completed", "conclusion": "success", "startedAt": "2026-11-26T20:00:00Z",
             "completedAt": "2026-11-26T20:01:10Z", "steps": [step(1, "checkout", "success"), step(2, "unit tests", "success")]},
            {"key": "image", "name": "Build the image", "status": "in_progress", "startedAt": "2026-11-26T20:01:10Z",
             "annotations": [{"level": "warning", "file": "Dockerfile", "line": "3", "message": "no tag on <base>"}],
             "steps": [step(1, "build", "success"), {"number": 2, "name": "scan", "status": "in_progress", "startedAt": "2026-11-26T20:02:00Z"}]},
            {"key": "deploy", "name": "Deploy", "status": "waiting", "steps": []}]}})
}

fn objects() -> BTreeMap<&'static str, Vec<Value>> {
    let rollout = json!({"metadata": meta("shop", "shop"),
        "spec": {"replicas": 4, "strategy": {"canary": {"steps": [{"setWeight": 1}, {"pause": {"duration": "30s"}}, {"setWeight": 5},
            {"analysis": {"templates": [{"templateName": "errors"}]}}, {"pause": {}}]}}},
        "status": {"phase": "Progressing", "message": "waiting for the analysis", "currentStepIndex": 3, "readyReplicas": 4, "stableRS": "5f8b",
            "currentPodHash": "7c9d", "canary": {"weights": {"canary": {"weight": 5, "podTemplateHash": "7c9d"}}}}});
    let mut aborted = rollout.clone();
    aborted["metadata"] = meta("shop", "cart");
    aborted["status"]["abort"] = json!(true);
    aborted["status"]["currentStepIndex"] = json!(0);
    let analysis = json!({"metadata": {"namespace": "shop", "name": "shop-errors-1", "ownerReferences": [{"uid": "shop"}]},
        "status": {"phase": "Running", "message": "holding: not enough evidence", "metricResults": [{"name": "error-rate", "phase": "Running",
            "successful": 3, "failed": 0, "inconclusive": 1, "measurements": [{"value": "0.012"}]}]}});
    let service = json!({"metadata": meta("shop", "shop"), "spec": {"type": "ClusterIP", "clusterIP": "10.96.0.40",
        "ports": [{"port": 80, "protocol": "TCP"}]}});
    let node = json!({"metadata": {"name": "node-1", "creationTimestamp": "2026-11-26T19:00:00Z"}, "status": {
        "allocatable": {"cpu": "2", "memory": "24Gi"}, "nodeInfo": {"kubeletVersion": "v1.36.0"},
        "conditions": [{"type": "Ready", "status": "True"}]}});
    let mut initialising = pod("shop-7c9d-d", "Pending", Some("PodInitializing"));
    initialising["spec"]["initContainers"] = json!([{"name": "wait", "image": "wait"}]);
    initialising["status"]["initContainerStatuses"] = json!([{"name": "wait", "state": {"running": {}}}]);
    let mut completed = pod("migrate-x", "Succeeded", None);
    completed["status"]["containerStatuses"] = json!([{"name": "shop", "restartCount": 0, "state": {"terminated": {"exitCode": 0, "reason": "Completed"}}}]);
    BTreeMap::from([
        (
            "pods",
            vec![
                pod("shop-5f8b-a", "Running", None),
                pod("shop-5f8b-b", "Running", None),
                pod("shop-7c9d-c", "Running", Some("CrashLoopBackOff")),
                initialising,
                completed,
            ],
        ),
        ("services", vec![service]),
        ("nodes", vec![node]),
        ("rollouts", vec![rollout, aborted]),
        ("analysisruns", vec![analysis]),
        (
            "workflowruns",
            vec![
                run("shop-12", "Running", "Sell <script>alert(1)</script> & more"),
                run("shop-11", "Succeeded", "Fix the cart"),
            ],
        ),
    ])
}
