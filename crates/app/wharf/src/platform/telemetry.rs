//! The telemetry stores, what asks them, and what feeds them.

use std::{
    path::Path,
    sync::Arc,
    time::{Duration, SystemTime, UNIX_EPOCH},
};

use anyhow::{Context, Result};
use tokio::sync::mpsc;
use wharf_base::Timestamp;
use wharf_proxy::RequestSpan;
use wharf_telemetry::{
    logs::{self, Logs},
    metrics::{self, Labels, Metrics},
    promql::{Query, QueryOptions, QueryValue, parse_selector},
    traces::{self, Kind, Span, SpanId, StatusCode, TraceId, Traces},
};

use super::scrape::Targets;
use crate::loops::measure::{Measure, Sample, Series};

/// Stores are sealed and expired this often.
const TICK: Duration = Duration::from_secs(5);
/// A query of a loop may take this long.
const QUERY_TIME: Duration = Duration::from_secs(5);
/// Spans taken at once.
const BATCH: usize = 512;

/// The three stores, and who is asked for metrics. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Telemetry {
    pub(crate) metrics: Arc<Metrics>,
    pub(crate) logs: Arc<Logs>,
    pub(crate) traces: Arc<Traces>,
    pub(crate) targets: Targets,
}

/// The time in nanoseconds since the epoch.
pub(crate) fn now_nanos() -> i64 {
    let since = SystemTime::now().duration_since(UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

/// The time in milliseconds since the epoch.
pub(crate) fn now_millis() -> i64 {
    now_nanos() / 1_000_000
}

impl Telemetry {
    /// Opens the stores in DIR/telemetry.
    pub(crate) fn open(data: &Path) -> Result<Self> {
        let dir = data.join("telemetry");
        let metrics = Metrics::open(dir.join("metrics"), metrics::Options::default())
            .context("the metrics store cannot be opened")?;
        let logs = Logs::open(dir.join("logs"), logs::Options::default())
            .context("the logs store cannot be opened")?;
        let traces = Traces::open(dir.join("traces"), traces::Options::default())
            .context("the traces store cannot be opened")?;
        for problem in logs.problems().iter().chain(traces.problems()) {
            tracing::error!(problem, "a file of the telemetry stores was left out");
        }
        Ok(Self { metrics, logs, traces, targets: Targets::default() })
    }

    /// Seals and removes what is due, for as long as the platform runs.
    pub(crate) async fn keep(self) {
        let mut tick = tokio::time::interval(TICK);
        loop {
            tick.tick().await;
            let stores = self.clone();
            let ticked = tokio::task::spawn_blocking(move || {
                let now = now_nanos();
                let logs = stores.logs.tick(now).map_err(anyhow::Error::new);
                let traces = stores.traces.tick(now).map_err(anyhow::Error::new);
                logs.and(traces).map_err(|error| format!("{error:#}"))
            });
            match ticked.await {
                Ok(Err(error)) => {
                    tracing::error!(%error, "telemetry could not be sealed; it stays in memory")
                }
                Err(error) => tracing::error!(%error, "telemetry could not be sealed; it stays in memory"),
                Ok(Ok(())) => {}
            }
        }
    }

    /// Keeps the spans of requests that pass the router.
    pub(crate) async fn take_spans(self, mut spans: mpsc::Receiver<RequestSpan>) {
        let mut batch = Vec::with_capacity(BATCH);
        while spans.recv_many(&mut batch, BATCH).await > 0 {
            let (traces, spans) = (Arc::clone(&self.traces), batch.drain(..).map(span).collect());
            // Appending writes a file.
            let kept = tokio::task::spawn_blocking(move || traces.append(spans).map_err(|e| e.to_string()));
            if let Err(error) = kept.await.map_err(|e| e.to_string()).and_then(|kept| kept) {
                tracing::error!(error, "spans of requests are lost");
            }
        }
    }
}

fn span(request: RequestSpan) -> Span {
    let start = request.start.duration_since(UNIX_EPOCH).unwrap_or_default();
    let route = format!("{} {}", request.method, request.path);
    Span {
        trace_id: TraceId(request.trace_id),
        span_id: SpanId(request.span_id),
        parent: SpanId(request.parent.unwrap_or_default()),
        service: request.service.to_string(),
        name: route,
        kind: Kind::Server,
        start: i64::try_from(start.as_nanos()).unwrap_or(i64::MAX),
        duration: u64::try_from(request.duration.as_nanos()).unwrap_or(u64::MAX),
        status: if request.status >= 500 { StatusCode::Error } else { StatusCode::Unset },
        status_message: String::new(),
        attributes: vec![
            ("http.request.method".into(), request.method.into()),
            ("http.response.status_code".into(), request.status.to_string()),
            ("url.path".into(), request.path),
            ("component".into(), "wharf-proxy".into()),
        ],
        resource: vec![
            ("k8s.namespace.name".into(), request.namespace.to_string()),
            ("k8s.pod.name".into(), request.pod.to_string()),
            ("service.version".into(), request.version.to_string()),
        ],
        events: Vec::new(),
    }
}

fn labels_of(labels: &Labels) -> std::collections::BTreeMap<String, String> {
    labels.iter().map(|(name, value)| (name.to_owned(), value.to_owned())).collect()
}

/// The platform's own metrics store.
pub(crate) struct OwnMetrics(pub(crate) Arc<Metrics>);

impl OwnMetrics {
    fn options() -> QueryOptions {
        QueryOptions {
            deadline: Some(std::time::Instant::now() + QUERY_TIME),
            max_samples: 5_000_000,
            ..QueryOptions::default()
        }
    }

    /// A query over a range, in milliseconds.
    pub(crate) fn range(&self, query: &str, range: (i64, i64, i64)) -> Result<Vec<Series>, String> {
        let query = Query::parse(query).map_err(|e| e.to_string())?;
        let result = query.range(&*self.0, range, &Self::options()).map_err(|e| e.to_string())?;
        match result.value {
            QueryValue::Matrix(series) => Ok(series
                .into_iter()
                .map(|s| Series {
                    labels: labels_of(&s.labels),
                    points: s.points.iter().map(|p| (p.t, p.v)).collect(),
                })
                .collect()),
            _ => Err("the query gives no series over time".to_owned()),
        }
    }
}

impl Measure for OwnMetrics {
    fn now(&self, query: &str) -> Result<Vec<Sample>, String> {
        let query = Query::parse(query).map_err(|e| e.to_string())?;
        let result = query.instant(&*self.0, now_millis(), &Self::options()).map_err(|e| e.to_string())?;
        match result.value {
            QueryValue::Scalar(point) => Ok(vec![Sample { labels: Default::default(), value: point.v }]),
            QueryValue::Vector(vector) => Ok(vector
                .into_iter()
                .map(|(labels, point)| Sample { labels: labels_of(&labels), value: point.v })
                .collect()),
            QueryValue::String(..) | QueryValue::Matrix(_) => {
                Err("the query must give a number or an instant vector".to_owned())
            }
        }
    }

    fn since(&self, selector: &str, from: Timestamp) -> Result<Vec<Series>, String> {
        let matchers = parse_selector(selector).map_err(|e| e.to_string())?;
        let (from, to) = (from.as_millis(), now_millis());
        let set = self.0.select(&matchers, from, to).map_err(|e| e.to_string())?;
        let mut all = Vec::new();
        for series in set.series() {
            let mut points = Vec::new();
            series.read(from, to, &mut points).map_err(|e| e.to_string())?;
            let points = points.iter().map(|p| (p.t, p.v)).filter(|(_, v)| v.is_finite()).collect();
            all.push(Series { labels: labels_of(series.labels()), points });
        }
        Ok(all)
    }
}
