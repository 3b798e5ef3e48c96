//! Prometheus' HTTP API over the metrics store.
//!
//! It knows nothing of scraping and rules: what there is of targets, rules and alerts comes through a callback.

use std::sync::Arc;
use std::sync::atomic::{AtomicBool, Ordering::Relaxed};
use std::time::{Duration, Instant};

use http::{Method, Request, Response, StatusCode, header};
use serde_json::{Value, json};
use tokio::sync::Semaphore;
use wharf_http::{Body, collect, full};
use wharf_telemetry::metrics::Metrics;
use wharf_telemetry::promql::{self, Query, QueryError, QueryOptions};

mod json;
mod params;
mod write;

use params::Params;

const FORM_LIMIT: usize = 4 << 20;
const MAX_POINTS: i64 = 11_000;
/// Grafana and others choose features by this: the Prometheus whose API this is.
const API_VERSION: &str = "3.14.0";

/// Gives the `data` of a path such as `targets`, `rules` or `alerts`.
pub type Extra = Arc<dyn Fn(&str) -> Option<Value> + Send + Sync>;

/// Limits of the API.
#[derive(Debug, Clone)]
pub struct Limits {
    /// Queries evaluated at once; others wait.
    pub concurrent: usize,
    /// A query may take this long, and no `timeout` parameter makes it more.
    pub timeout: Duration,
    /// Options of every query.
    pub query: QueryOptions,
}

impl Default for Limits {
    fn default() -> Self {
        Self { concurrent: 20, timeout: Duration::from_secs(120), query: QueryOptions::default() }
    }
}

/// Answers the requests under `/prometheus`.
pub struct Prometheus {
    metrics: Arc<Metrics>,
    limits: Limits,
    extra: Option<Extra>,
    queries: Semaphore,
    series: write::SeriesCache,
}

/// An error as the API reports it.
#[derive(Debug)]
pub(crate) struct ApiError {
    status: StatusCode,
    kind: &'static str,
    text: String,
}

impl ApiError {
    fn bad(text: impl Into<String>) -> Self {
        Self { status: StatusCode::BAD_REQUEST, kind: "bad_data", text: text.into() }
    }

    fn parameter(name: &str, text: impl std::fmt::Display) -> Self {
        Self::bad(format!("invalid parameter {name:?}: {text}"))
    }

    fn internal(text: impl Into<String>) -> Self {
        Self { status: StatusCode::INTERNAL_SERVER_ERROR, kind: "internal", text: text.into() }
    }

    fn response(&self) -> Response<Body> {
        let body = json!({"status": "error", "errorType": self.kind, "error": self.text});
        answer(self.status, "application/json", body.to_string())
    }
}

impl From<QueryError> for ApiError {
    fn from(error: QueryError) -> Self {
        let (status, kind) = match &error {
            QueryError::Parse(_) => (StatusCode::BAD_REQUEST, "bad_data"),
            QueryError::Timeout => (StatusCode::SERVICE_UNAVAILABLE, "timeout"),
            QueryError::Canceled => (StatusCode::SERVICE_UNAVAILABLE, "canceled"),
            QueryError::Store(_) => (StatusCode::INTERNAL_SERVER_ERROR, "internal"),
            QueryError::Execution(_) | QueryError::TooManySamples => {
                (StatusCode::UNPROCESSABLE_ENTITY, "execution")
            }
        };
        Self { status, kind, text: error.to_string() }
    }
}

impl From<wharf_telemetry::metrics::MetricsError> for ApiError {
    fn from(error: wharf_telemetry::metrics::MetricsError) -> Self {
        Self::internal(error.to_string())
    }
}

/// The `data` of an answer, already in JSON, with its notes.
pub(crate) struct Data {
    json: String,
    warnings: Vec<String>,
    infos: Vec<String>,
}

impl Data {
    fn of(value: &Value) -> Self {
        Self { json: value.to_string(), warnings: vec![], infos: vec![] }
    }

    fn response(self) -> Response<Body> {
        let mut body = String::with_capacity(self.json.len() + 64);
        body.push_str("{\"status\":\"success\",\"data\":");
        body.push_str(&self.json);
        for (name, list) in [("warnings", self.warnings), ("infos", self.infos)] {
            if !list.is_empty() {
                body.push_str(&format!(",\"{name}\":{}", json!(list)));
            }
        }
        body.push('}');
        answer(StatusCode::OK, "application/json", body)
    }
}

fn answer(status: StatusCode, kind: &'static str, body: impl Into<bytes::Bytes>) -> Response<Body> {
    let mut response = Response::new(full(body));
    *response.status_mut() = status;
    response.headers_mut().insert(header::CONTENT_TYPE, header::HeaderValue::from_static(kind));
    response
}

/// Set when nobody waits for the answer any more.
struct Cancel(Arc<AtomicBool>);

impl Drop for Cancel {
    fn drop(&mut self) {
        self.0.store(true, Relaxed);
    }
}

impl Prometheus {
    /// Over a store.
    pub fn new(metrics: Arc<Metrics>, limits: Limits, extra: Option<Extra>) -> Arc<Self> {
        let queries = Semaphore::new(limits.concurrent.max(1));
        Arc::new(Self { metrics, limits, extra, queries, series: write::SeriesCache::default() })
    }

    /// Answers a request; `path` is what follows `/prometheus`.
    pub async fn handle(self: &Arc<Self>, path: &str, request: Request<Body>) -> Response<Body> {
        let path = path.trim_end_matches('/');
        match path {
            "/-/healthy" => return answer(StatusCode::OK, "text/plain", "Prometheus Server is Healthy.\n"),
            "/-/ready" => return answer(StatusCode::OK, "text/plain", "Prometheus Server is Ready.\n"),
            "/api/v1/write" => return write::receive(self, request).await,
            _ => {}
        }
        let outcome = match path {
            "/federate" => return self.federate(request).await.unwrap_or_else(|e| e.response()),
            _ => match path.strip_prefix("/api/v1/") {
                Some(name) => self.api(name, request).await,
                None => Err(not_found(path)),
            },
        };
        outcome.map_or_else(|error| error.response(), Data::response)
    }

    async fn api(self: &Arc<Self>, name: &str, request: Request<Body>) -> Result<Data, ApiError> {
        let params = read_params(request).await?;
        match name {
            "query" => self.query(params).await,
            "query_range" => self.query_range(params).await,
            "query_exemplars" => self.blocking(move |api, _| api.exemplars(&params)).await,
            "format_query" => {
                let query = parse_query(&params)?;
                Ok(Data::of(&json!(promql::pretty(&query))))
            }
            "series" => self.blocking(move |api, _| api.series(&params)).await,
            "labels" => self.blocking(move |api, _| api.labels(&params)).await,
            "metadata" => self.metadata(&params),
            "status/buildinfo" => Ok(Data::of(&json!({
                "version": API_VERSION, "revision": concat!("wharf-", env!("CARGO_PKG_VERSION")), "branch": "wharf",
                "buildUser": "wharf", "buildDate": "", "goVersion": ""
            }))),
            "status/tsdb" | "status/runtimeinfo" => Ok(Data::of(&self.status(name))),
            _ => match name.strip_prefix("label/").and_then(|rest| rest.strip_suffix("/values")) {
                Some(label) => {
                    let label = params::label_name(label)?;
                    self.blocking(move |api, _| api.label_values(&label, &params)).await
                }
                None => self.extra(name),
            },
        }
    }

    /// Runs work that takes time away from the threads that serve connections.
    async fn blocking<T: Send + 'static>(
        self: &Arc<Self>,
        work: impl FnOnce(&Self, Arc<AtomicBool>) -> Result<T, ApiError> + Send + 'static,
    ) -> Result<T, ApiError> {
        let turn = tokio::time::timeout(self.limits.timeout, self.queries.acquire()).await;
        let _turn = turn
            .map_err(|_| ApiError::from(QueryError::Timeout))?
            .map_err(|_| ApiError::internal("the query queue is closed"))?;
        let cancel = Cancel(Arc::default());
        let (flag, api) = (cancel.0.clone(), self.clone());
        let task = tokio::task::spawn_blocking(move || work(&api, flag));
        task.await.map_err(|_| ApiError::internal("the query's evaluation broke; this is a defect"))?
    }

    fn options(&self, params: &Params, canceled: Arc<AtomicBool>) -> Result<QueryOptions, ApiError> {
        let mut options = self.limits.query.clone();
        if let Some(delta) = params.duration("lookback_delta")? {
            options.lookback = delta;
        }
        let timeout = params.duration("timeout")?.map_or(self.limits.timeout, |t| t.min(self.limits.timeout));
        options.deadline = Some(Instant::now() + timeout);
        options.canceled = Some(canceled);
        Ok(options)
    }

    async fn query(self: &Arc<Self>, params: Params) -> Result<Data, ApiError> {
        let query = parse_query(&params)?;
        let time = params.time("time")?.unwrap_or_else(params::now);
        let limit = params.limit()?;
        self.blocking(move |api, canceled| {
            let options = api.options(&params, canceled)?;
            let result = query.instant(&*api.metrics, time, &options)?;
            Ok(json::result(result, limit))
        })
        .await
    }

    async fn query_range(self: &Arc<Self>, params: Params) -> Result<Data, ApiError> {
        let start = params.required_time("start")?;
        let end = params.required_time("end")?;
        if end < start {
            return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
        }
        let step = params
            .duration_ms("step")?
            .ok_or_else(|| ApiError::parameter("step", "cannot parse \"\" to a valid duration"))?;
        if step <= 0 {
            return Err(ApiError::parameter(
                "step",
                "zero or negative query resolution step widths are not accepted. Try a positive integer",
            ));
        }
        if (end - start) / step > MAX_POINTS {
            return Err(ApiError::bad(
                "exceeded maximum resolution of 11,000 points per timeseries. Try decreasing the query resolution \
                 (?step=XX)",
            ));
        }
        let query = parse_query(&params)?;
        let limit = params.limit()?;
        self.blocking(move |api, canceled| {
            let options = api.options(&params, canceled)?;
            let result = query.range(&*api.metrics, (start, end, step), &options)?;
            Ok(json::result(result, limit))
        })
        .await
    }

    fn range_of(params: &Params) -> Result<(i64, i64), ApiError> {
        let start = params.time("start")?.unwrap_or(i64::MIN / 4);
        let end = params.time("end")?.unwrap_or(i64::MAX / 4);
        if end < start {
            return Err(ApiError::parameter("end", "end timestamp must not be before start time"));
        }
        Ok((start, end))
    }

    fn series(&self, params: &Params) -> Result<Data, ApiError> {
        let selectors = params.selectors()?;
        if selectors.is_empty() {
            return Err(ApiError::bad("no match[] parameter provided"));
        }
        let (start, end) = Self::range_of(params)?;
        let found = self.metrics.series(&selectors, start, end)?;
        Ok(json::list(found.iter().map(json::labels).collect(), params.limit()?))
    }

    fn labels(&self, params: &Params) -> Result<Data, ApiError> {
        let (start, end) = Self::range_of(params)?;
        let names = self.metrics.label_names(&params.selectors()?, start, end)?;
        Ok(json::list(names.iter().map(|n| json!(n).to_string()).collect(), params.limit()?))
    }

    fn label_values(&self, label: &str, params: &Params) -> Result<Data, ApiError> {
        let (start, end) = Self::range_of(params)?;
        let values = self.metrics.label_values(label, &params.selectors()?, start, end)?;
        Ok(json::list(values.iter().map(|v| json!(v).to_string()).collect(), params.limit()?))
    }

    fn exemplars(&self, params: &Params) -> Result<Data, ApiError> {
        let query = parse_query(params)?;
        let (start, end) = Self::range_of(params)?;
        let found = self.metrics.exemplars(&query.selectors(), start, end);
        Ok(Data { json: json::exemplars(&found), warnings: vec![], infos: vec![] })
    }

    fn metadata(&self, params: &Params) -> Result<Data, ApiError> {
        let limit = params.limit()?;
        let metric = params.get("metric").filter(|m| !m.is_empty());
        let known = self.metrics.metadata().into_iter().filter(|(name, _)| metric.is_none_or(|m| m == name));
        let known = known.take(if limit == 0 { usize::MAX } else { limit });
        let entry =
            |m: wharf_telemetry::metrics::Metadata| json!([{"type": m.kind, "help": m.help, "unit": m.unit}]);
        let map: serde_json::Map<String, Value> = known.map(|(name, m)| (name, entry(m))).collect();
        Ok(Data::of(&Value::Object(map)))
    }

    fn status(&self, name: &str) -> Value {
        let stats = self.metrics.stats();
        if name == "status/tsdb" {
            return json!({"headStats": {"numSeries": stats.series, "chunkCount": 0, "numLabelPairs": 0,
                "minTime": 0, "maxTime": 0}, "seriesCountByMetricName": [], "labelValueCountByLabelName": [],
                "memoryInBytesByLabelName": [], "seriesCountByLabelValuePair": []});
        }
        json!({"timeSeriesCount": stats.series, "corruptionCount": stats.problems.len(), "reloadConfigSuccess": true})
    }

    fn extra(&self, name: &str) -> Result<Data, ApiError> {
        if let Some(data) = self.extra.as_ref().and_then(|extra| extra(name)) {
            return Ok(Data::of(&data));
        }
        Ok(Data::of(&match name {
            "targets" => json!({"activeTargets": [], "droppedTargets": [], "droppedTargetCounts": {}}),
            "rules" => json!({"groups": []}),
            "alerts" => json!({"alerts": []}),
            "alertmanagers" => json!({"activeAlertmanagers": [], "droppedAlertmanagers": []}),
            other => return Err(not_found(&format!("/api/v1/{other}"))),
        }))
    }

    async fn federate(self: &Arc<Self>, request: Request<Body>) -> Result<Response<Body>, ApiError> {
        let params = read_params(request).await?;
        let texts: Vec<String> = params.all("match[]").map(str::to_string).collect();
        params.selectors()?;
        let text = self
            .blocking(move |api, canceled| {
                let options = api.options(&params, canceled)?;
                let mut out = String::new();
                for text in texts {
                    let query = Query::parse(&text).map_err(|e| ApiError::parameter("match[]", e))?;
                    let result = query.instant(&*api.metrics, params::now(), &options)?;
                    json::exposition(result.value, &mut out);
                }
                Ok(out)
            })
            .await?;
        Ok(answer(StatusCode::OK, "text/plain; version=0.0.4; charset=utf-8", text))
    }
}

fn not_found(path: &str) -> ApiError {
    ApiError {
        status: StatusCode::NOT_FOUND,
        kind: "not_found",
        text: format!("{path} is not part of the Prometheus API that wharf serves"),
    }
}

fn parse_query(params: &Params) -> Result<Query, ApiError> {
    Query::parse(params.get("query").unwrap_or("")).map_err(|error| {
        let hint = error.hint.as_ref().map_or_else(String::new, |hint| format!(": {hint}"));
        ApiError::parameter("query", format!("{error}{hint}"))
    })
}

async fn read_params(request: Request<Body>) -> Result<Params, ApiError> {
    let (parts, body) = request.into_parts();
    let mut params = Params::default();
    match parts.method {
        Method::GET | Method::HEAD => {}
        Method::POST => {
            let body = collect(body, FORM_LIMIT).await.map_err(|e| ApiError::bad(e.to_string()))?;
            params.add(&body)?;
        }
        other => {
            let text = format!("the method {other} is not allowed here; use GET or POST");
            return Err(ApiError { status: StatusCode::METHOD_NOT_ALLOWED, kind: "bad_data", text });
        }
    }
    params.add(parts.uri.query().unwrap_or("").as_bytes())?;
    Ok(params)
}

#[cfg(test)]
mod tests;
