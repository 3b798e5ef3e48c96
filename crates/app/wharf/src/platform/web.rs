//! The console's port: the web page, git, and the query APIs, by path.

use std::{
    collections::VecDeque,
    io::{Read as _, Seek as _, SeekFrom},
    path::PathBuf,
    sync::Arc,
    time::Duration,
};

use futures_util::StreamExt as _;
use http::{HeaderValue, Request, Response, StatusCode, header};
use tokio::sync::mpsc;
use wharf_ci::{LogBook, read_log_line};
use wharf_client::{Client, Gvr};
use wharf_console::{Answer, Console, ConsoleConfig, Lines, LogSource, LogTarget, MetricsQuery, Series};
use wharf_gitserver::GitServer;
use wharf_http::{Body, Handler, full};
use wharf_telemetryapi::{loki::Loki, prometheus::Prometheus, tempo::Tempo};

use super::telemetry::{OwnMetrics, Telemetry};

const WORKFLOW_RUNS: Gvr = Gvr::fixed("ci.wharf.dev", "v1alpha1", "workflowruns");
/// A followed job's log is looked at this often.
const LOOK: Duration = Duration::from_millis(200);

/// What stands behind the port.
pub(crate) struct Web {
    pub(crate) console: Console,
    pub(crate) git: Option<Arc<GitServer>>,
    pub(crate) prometheus: Arc<Prometheus>,
    pub(crate) loki: Loki,
    pub(crate) tempo: Tempo,
}

impl Web {
    /// Answers by the first part of the path.
    pub(crate) fn handler(self) -> Handler {
        let web = Arc::new(self);
        Arc::new(move |request| {
            let web = Arc::clone(&web);
            Box::pin(async move { web.answer(request).await })
        })
    }

    async fn answer(&self, request: Request<Body>) -> Response<Body> {
        // A page elsewhere must not reach a port of this machine under a name of its own (DNS rebinding).
        if !local(&request) {
            return plain(StatusCode::MISDIRECTED_REQUEST, "this port is reached as localhost or by address");
        }
        let path = request.uri().path().to_owned();
        let below =
            |prefix: &str| path.strip_prefix(prefix).filter(|rest| rest.is_empty() || rest.starts_with('/'));
        if below("/git").is_some() {
            return match &self.git {
                Some(git) => Arc::clone(git).handle(request).await,
                None => plain(
                    StatusCode::SERVICE_UNAVAILABLE,
                    "pipelines need a node: this is a control plane only",
                ),
            };
        }
        if let Some(rest) = below("/prometheus") {
            return self.prometheus.handle(rest, request).await;
        }
        if let Some(rest) = below("/loki") {
            // Grafana is told the address with or without `/loki`: Loki's own paths begin with it.
            let rest = if rest.starts_with("/api/") { format!("/loki{rest}") } else { rest.to_owned() };
            return self.loki.handle(&rest, request).await;
        }
        if let Some(rest) = below("/tempo") {
            return self.tempo.handle(rest, request).await;
        }
        self.console.handle(request).await
    }
}

fn local(request: &Request<Body>) -> bool {
    let host = request.headers().get(header::HOST).and_then(|v| v.to_str().ok());
    let Some(host) = host.or_else(|| request.uri().host()) else { return true };
    let name = match host.rsplit_once(':') {
        Some((name, port)) if port.bytes().all(|b| b.is_ascii_digit()) => name,
        _ => host,
    };
    let name = name.trim_matches(['[', ']']);
    name == "localhost" || name.ends_with(".localhost") || name.parse::<std::net::IpAddr>().is_ok()
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(format!("{text}\n")));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

/// The page over the platform's own parts.
pub(crate) fn console(client: Client, telemetry: &Telemetry, jobs: Option<LogBook>) -> Console {
    let logs = Logs { client: client.clone(), jobs };
    let query = Query(Arc::new(OwnMetrics(Arc::clone(&telemetry.metrics))));
    Console::new(ConsoleConfig { client, query: Arc::new(query), logs: Arc::new(logs) })
}

struct Query(Arc<OwnMetrics>);

impl MetricsQuery for Query {
    fn range(&self, query: String, start: f64, end: f64, step: f64) -> Answer<Vec<Series>> {
        let metrics = Arc::clone(&self.0);
        Box::pin(async move {
            let millis = |seconds: f64| (seconds * 1000.0) as i64;
            let range = (millis(start), millis(end), millis(step).max(1));
            let asked = tokio::task::spawn_blocking(move || metrics.range(&query, range));
            let series = asked.await.map_err(|e| e.to_string())??;
            Ok(series
                .into_iter()
                .map(|s| Series {
                    labels: s.labels,
                    points: s.points.into_iter().map(|(at, v)| (at as f64 / 1000.0, v)).collect(),
                })
                .collect())
        })
    }
}

#[derive(Clone)]
struct Logs {
    client: Client,
    jobs: Option<LogBook>,
}

impl LogSource for Logs {
    fn tail(&self, target: LogTarget, lines: usize) -> Answer<Vec<String>> {
        let logs = self.clone();
        Box::pin(async move {
            match target {
                LogTarget::Container { namespace, pod, container } => {
                    let mut all = logs.container(&namespace, &pod, &container, lines, false).await?;
                    let mut text = Vec::new();
                    while let Some(line) = all.next().await {
                        text.push(line);
                    }
                    Ok(text)
                }
                LogTarget::Job { namespace, run, job } => {
                    let (path, _) = logs.job(&namespace, &run, &job).await?;
                    let reader = JobReader { path, offset: 0, rest: String::new() };
                    let (_, all) = reader.more().await?;
                    Ok(all.into_iter().rev().take(lines).rev().collect())
                }
            }
        })
    }

    fn follow(&self, target: LogTarget, lines: usize) -> Answer<Lines> {
        let logs = self.clone();
        Box::pin(async move {
            match target {
                LogTarget::Container { namespace, pod, container } => {
                    logs.container(&namespace, &pod, &container, lines, true).await
                }
                LogTarget::Job { namespace, run, job } => logs.follow_job(namespace, run, job, lines).await,
            }
        })
    }
}

impl Logs {
    async fn container(
        &self,
        namespace: &str,
        pod: &str,
        container: &str,
        lines: usize,
        follow: bool,
    ) -> Result<Lines, String> {
        let path = format!(
            "/api/v1/namespaces/{namespace}/pods/{pod}/log?container={container}&tailLines={lines}&follow={follow}"
        );
        let request = Request::get(path).body(Vec::new()).map_err(|e| e.to_string())?;
        let stream = self.client.kube().request_stream(request).await.map_err(|e| e.to_string())?;
        use futures_util::io::AsyncBufReadExt as _;
        let lines = stream.lines().take_while(|line| std::future::ready(line.is_ok()));
        Ok(Box::pin(lines.filter_map(|line| std::future::ready(line.ok()))))
    }

    /// Where a job's log is, and whether the run has ended.
    async fn job(&self, namespace: &str, run: &str, job: &str) -> Result<(PathBuf, bool), String> {
        let book = self.jobs.as_ref().ok_or("no pipelines run here")?;
        let object = self.client.get(&WORKFLOW_RUNS, namespace, run).await.map_err(|e| e.to_string())?;
        let object = object.ok_or_else(|| format!("there is no run {run}"))?;
        let uid = object.pointer("/metadata/uid").and_then(|v| v.as_str()).unwrap_or_default();
        // Names come from a path of the page: a job must be one of the run's.
        let jobs = object.pointer("/status/jobs").and_then(|j| j.as_array());
        let entry = jobs.into_iter().flatten().find(|j| ["key", "id", "name"].iter().any(|n| j[*n] == job));
        let entry = entry.ok_or_else(|| format!("the run {run} has no job {job}"))?;
        let ended = entry["completedAt"].is_string();
        Ok((book.path(uid, job), ended))
    }

    async fn follow_job(
        &self,
        namespace: String,
        run: String,
        job: String,
        lines: usize,
    ) -> Result<Lines, String> {
        let (path, _) = self.job(&namespace, &run, &job).await?;
        let logs = self.clone();
        let (sender, receiver) = mpsc::channel(64);
        tokio::spawn(async move {
            let mut reader = JobReader { path, offset: 0, rest: String::new() };
            let mut first = true;
            loop {
                let ended = logs.job(&namespace, &run, &job).await.is_ok_and(|(_, ended)| ended);
                let Ok((back, lines_now)) = reader.more().await else { return };
                reader = back;
                let mut more = VecDeque::from(lines_now);
                if first {
                    let surplus = more.len().saturating_sub(lines);
                    more.drain(..surplus);
                    first = false;
                }
                for line in more {
                    if sender.send(line).await.is_err() {
                        return;
                    }
                }
                if ended {
                    return;
                }
                tokio::time::sleep(LOOK).await;
            }
        });
        Ok(Box::pin(futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|line| (line, receiver))
        })))
    }
}

/// Reads a job's log from where it stopped.
struct JobReader {
    path: PathBuf,
    offset: u64,
    rest: String,
}

impl JobReader {
    /// What was written since, read where blocking is allowed.
    async fn more(mut self) -> Result<(Self, Vec<String>), String> {
        let read = tokio::task::spawn_blocking(move || {
            let lines = self.read();
            (self, lines)
        });
        read.await.map_err(|e| e.to_string())
    }

    fn read(&mut self) -> Vec<String> {
        let mut bytes = Vec::new();
        let read = std::fs::File::open(&self.path).and_then(|mut file| {
            file.seek(SeekFrom::Start(self.offset))?;
            file.take(16 << 20).read_to_end(&mut bytes)
        });
        // The job may not have said anything yet.
        self.offset += read.unwrap_or(0) as u64;
        self.rest.push_str(&String::from_utf8_lossy(&bytes));
        let mut lines = Vec::new();
        while let Some((line, rest)) = self.rest.split_once('\n') {
            lines.push(read_log_line(line).map_or(line, |(_, _, text)| text).to_owned());
            self.rest = rest.to_owned();
        }
        lines
    }
}
