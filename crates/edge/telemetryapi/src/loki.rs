//! Loki's push and query API, below the prefix the caller has taken off: `/loki/api/v1/…`.

use std::{collections::BTreeMap, sync::Arc};

use http::{Method, Request, Response, header};
use serde::Deserialize;
use serde_json::{Value, json};
use wharf_http::{Body, collect};
use wharf_telemetry::{
    logs::{
        Direction, Entry, Logs, Query, StreamEntries,
        logql::{self, LogQl, MetricQuery, Pipeline, RangeFunction},
    },
    metrics::{Labels, Matcher, is_label_name},
};

use crate::answer::{Params, json as answer, text};

/// Bytes of a push at the most.
const MAX_PUSH: usize = 16 << 20;
/// Lines in an answer, unless asked otherwise.
const LIMIT: usize = 100;
const MAX_LIMIT: usize = 50_000;
/// Points in an answer per series at the most, as Loki's.
const MAX_POINTS: i64 = 11_000;
const SECOND: i64 = 1_000_000_000;
/// Looked back over when no start is given.
const DEFAULT_RANGE: i64 = 3600 * SECOND;
/// Labels and series are looked for this far back when no start is given.
const LABELS_RANGE: i64 = 6 * 3600 * SECOND;

/// The API.
#[derive(Clone)]
pub struct Loki {
    logs: Arc<Logs>,
    /// The time in nanoseconds since the epoch.
    now: fn() -> i64,
}

/// A refusal: status and text.
struct Refusal(u16, String);

fn bad(text: impl ToString) -> Refusal {
    Refusal(400, text.to_string())
}

type Answer = Result<Response<Body>, Refusal>;

fn system_now() -> i64 {
    let since = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap_or_default();
    i64::try_from(since.as_nanos()).unwrap_or(i64::MAX)
}

impl Loki {
    /// Over a store.
    pub fn new(logs: Arc<Logs>) -> Self {
        Self { logs, now: system_now }
    }

    /// Answers a request; `path` is what follows the prefix.
    pub async fn handle(&self, path: &str, request: Request<Body>) -> Response<Body> {
        let answered = match (request.method(), path.trim_end_matches('/')) {
            (&Method::POST, "/loki/api/v1/push") => self.push(request).await,
            (&Method::GET, "/ready") => Ok(text(200, "ready")),
            (&Method::GET, "/loki/api/v1/status/buildinfo") => {
                Ok(answer(200, &json!({"version": env!("CARGO_PKG_VERSION"), "goVersion": "none"})))
            }
            (&Method::GET | &Method::POST, path) => self.read(path, request).await,
            _ => Err(Refusal(405, "this method is not allowed here".into())),
        };
        answered.unwrap_or_else(|Refusal(status, why)| text(status, &why))
    }

    async fn read(&self, path: &str, request: Request<Body>) -> Answer {
        let params = Params::of(request).await.map_err(bad)?;
        let api = self.clone();
        let path = path.to_owned();
        // Queries read files and may take long.
        let work = tokio::task::spawn_blocking(move || match path.as_str() {
            "/loki/api/v1/query_range" => api.query_range(&params),
            "/loki/api/v1/query" => api.query(&params),
            "/loki/api/v1/labels" | "/loki/api/v1/label" => api.labels(&params),
            "/loki/api/v1/series" => api.series(&params),
            other => {
                match other.strip_prefix("/loki/api/v1/label/").and_then(|p| p.strip_suffix("/values")) {
                    Some(name) => api.label_values(name, &params),
                    None => Err(Refusal(404, format!("there is no {other} in this API"))),
                }
            }
        });
        work.await.map_err(|e| Refusal(500, e.to_string()))?
    }

    fn span(&self, params: &Params, back: i64) -> Result<(i64, i64), Refusal> {
        let now = (self.now)();
        let to = params.get("end").map(|t| time("end", t)).transpose()?.unwrap_or(now);
        let since = params.get("since").map(|t| {
            logql::duration(t).ok_or_else(|| bad(format!("since: {t:?} is no duration such as 1h or 30m")))
        });
        let back = since.transpose()?.map_or(back, |d| i64::try_from(d.as_nanos()).unwrap_or(i64::MAX));
        let from =
            params.get("start").map(|t| time("start", t)).transpose()?.unwrap_or(to.saturating_sub(back));
        if from > to {
            return Err(bad("end timestamp must not be before start time"));
        }
        Ok((from, to))
    }

    fn query_range(&self, params: &Params) -> Answer {
        let text = params.get("query").ok_or_else(|| bad("query is required"))?;
        let (from, to) = self.span(params, DEFAULT_RANGE)?;
        match logql::parse(text).map_err(bad)? {
            LogQl::Lines(pipeline) => self.lines(pipeline, params, from, to),
            LogQl::Metric(metric) => {
                let seconds = (to - from) as f64 / SECOND as f64;
                let step = match params.get("step").or(params.get("interval")) {
                    Some(text) => step(text)?,
                    None => ((seconds / 250.0).max(1.0) * SECOND as f64) as i64,
                };
                if (to - from) / step > MAX_POINTS {
                    return Err(bad(format!(
                        "exceeded maximum resolution of {MAX_POINTS} points per time series: raise step"
                    )));
                }
                let series = self.count(&metric, from, to, step)?;
                let result: Vec<Value> = series
                    .into_iter()
                    .map(|(labels, points)| json!({"metric": object(&labels), "values": points}))
                    .collect();
                Ok(answer(
                    200,
                    &json!({"status": "success", "data": {"resultType": "matrix", "result": result, "stats": {}}}),
                ))
            }
        }
    }

    fn query(&self, params: &Params) -> Answer {
        let text = params.get("query").ok_or_else(|| bad("query is required"))?;
        let at = params.get("time").map(|t| time("time", t)).transpose()?.unwrap_or_else(self.now);
        match logql::parse(text).map_err(bad)? {
            LogQl::Lines(pipeline) => self.lines(pipeline, params, at.saturating_sub(DEFAULT_RANGE), at),
            LogQl::Metric(metric) => {
                let series = self.count(&metric, at, at, SECOND)?;
                let result: Vec<Value> = series
                    .into_iter()
                    .filter_map(|(labels, points)| {
                        Some(json!({"metric": object(&labels), "value": points.into_iter().next()?}))
                    })
                    .collect();
                Ok(answer(
                    200,
                    &json!({"status": "success", "data": {"resultType": "vector", "result": result, "stats": {}}}),
                ))
            }
        }
    }

    fn lines(&self, pipeline: Pipeline, params: &Params, from: i64, to: i64) -> Answer {
        let limit =
            params.get("limit").map(|t| t.parse().map_err(|_| bad(format!("limit: {t:?} is no number"))));
        let direction = match params.get("direction").map(str::to_ascii_lowercase).as_deref() {
            None | Some("backward") => Direction::Backward,
            Some("forward") => Direction::Forward,
            Some(other) => return Err(bad(format!("direction: {other:?} is neither forward nor backward"))),
        };
        let query = Query {
            matchers: pipeline.matchers,
            filters: pipeline.filters,
            from,
            to,
            limit: limit.transpose()?.unwrap_or(LIMIT).clamp(1, MAX_LIMIT),
            direction,
        };
        let streams = self.logs.query(&query).map_err(|e| Refusal(500, e.to_string()))?;
        let result: Vec<Value> = streams.iter().map(stream).collect();
        Ok(answer(
            200,
            &json!({"status": "success", "data": {"resultType": "streams", "result": result, "stats": {}}}),
        ))
    }

    /// For each step the lines of the range before it, by stream or by the labels summed by.
    fn count(
        &self,
        metric: &MetricQuery,
        from: i64,
        to: i64,
        step: i64,
    ) -> Result<Vec<(Labels, Vec<Value>)>, Refusal> {
        let range = i64::try_from(metric.range.as_nanos()).unwrap_or(i64::MAX);
        let query = Query {
            matchers: metric.pipeline.matchers.clone(),
            filters: metric.pipeline.filters.clone(),
            from: from.saturating_sub(range),
            to: to.saturating_add(1),
            ..Query::default()
        };
        let bytes = matches!(metric.function, RangeFunction::BytesOverTime | RangeFunction::BytesRate);
        let mut groups: BTreeMap<Labels, Vec<(i64, u64)>> = BTreeMap::new();
        let counted = self.logs.for_each(&query, |labels, at, line| {
            let group = match &metric.sum_by {
                Some(by) => labels.filter(|name| by.iter().any(|b| b == name)),
                None => labels.clone(),
            };
            groups.entry(group).or_default().push((at, if bytes { line.len() as u64 } else { 1 }));
        });
        counted.map_err(|e| Refusal(500, e.to_string()))?;
        let per_second = matches!(metric.function, RangeFunction::Rate | RangeFunction::BytesRate);
        let divisor = if per_second { metric.range.as_secs_f64() } else { 1.0 };
        let mut series = Vec::new();
        for (labels, mut lines) in groups {
            lines.sort_unstable_by_key(|(at, _)| *at);
            let mut points = Vec::new();
            let (mut first, mut next, mut sum) = (0, 0, 0_u64);
            let mut at = from;
            while at <= to {
                // The range is open at its beginning and closed at its end.
                while let Some((_, n)) = lines.get(next).filter(|(t, _)| *t <= at) {
                    sum += n;
                    next += 1;
                }
                while let Some((_, n)) = lines.get(first).filter(|(t, _)| *t <= at.saturating_sub(range)) {
                    sum -= n;
                    first += 1;
                }
                if sum > 0 {
                    let value = sum as f64 / divisor;
                    points.push(json!([at as f64 / SECOND as f64, value.to_string()]));
                }
                at = at.saturating_add(step);
            }
            if !points.is_empty() {
                series.push((labels, points));
            }
        }
        Ok(series)
    }

    fn selected(&self, selectors: &[&str], from: i64, to: i64) -> Result<Vec<Labels>, Refusal> {
        let mut found = std::collections::BTreeSet::new();
        for selector in selectors {
            match logql::parse(selector).map_err(bad)? {
                LogQl::Lines(pipeline) => found.extend(self.logs.series(&pipeline.matchers, from, to)),
                LogQl::Metric(_) => return Err(bad(format!("{selector} is no stream selector"))),
            }
        }
        if selectors.is_empty() {
            found = self.logs.series(&Vec::<Matcher>::new(), from, to);
        }
        Ok(found.into_iter().collect())
    }

    fn labels(&self, params: &Params) -> Answer {
        let (from, to) = self.span(params, LABELS_RANGE)?;
        let query: Vec<&str> = params.get("query").into_iter().collect();
        let series = self.selected(&query, from, to)?;
        let names: std::collections::BTreeSet<&str> =
            series.iter().flat_map(|l| l.iter().map(|(n, _)| n)).collect();
        Ok(answer(200, &json!({"status": "success", "data": names})))
    }

    fn label_values(&self, name: &str, params: &Params) -> Answer {
        let (from, to) = self.span(params, LABELS_RANGE)?;
        let query: Vec<&str> = params.get("query").into_iter().collect();
        let series = self.selected(&query, from, to)?;
        let values: std::collections::BTreeSet<&str> =
            series.iter().map(|labels| labels.get(name)).filter(|v| !v.is_empty()).collect();
        Ok(answer(200, &json!({"status": "success", "data": values})))
    }

    fn series(&self, params: &Params) -> Answer {
        let (from, to) = self.span(params, LABELS_RANGE)?;
        let selectors: Vec<&str> =
            params.all("match[]").iter().chain(params.all("match")).map(String::as_str).collect();
        let series = self.selected(&selectors, from, to)?;
        let data: Vec<Value> = series.iter().map(object).collect();
        Ok(answer(200, &json!({"status": "success", "data": data})))
    }

    async fn push(&self, request: Request<Body>) -> Answer {
        let content_type =
            request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        if !content_type.starts_with("application/json") {
            return Err(Refusal(415, "send JSON: the content type must be application/json".into()));
        }
        let too_large = |_| Refusal(413, "the push is larger than 16 MiB: send smaller batches".into());
        let body = collect(request.into_body(), MAX_PUSH).await.map_err(too_large)?;
        let push: Push =
            serde_json::from_slice(&body).map_err(|e| bad(format!("the body is no push: {e}")))?;
        let mut batches = Vec::new();
        for stream in push.streams {
            if let Some(name) = stream.stream.keys().find(|n| !is_label_name(n)) {
                return Err(bad(format!("{name:?} is no label name")));
            }
            if stream.stream.is_empty() {
                return Err(bad("a stream needs at least one label"));
            }
            let labels = Labels::from_pairs(stream.stream.iter().map(|(n, v)| (n.as_str(), v.as_str())));
            let mut entries = Vec::new();
            for value in stream.values {
                let at =
                    value.0.parse().map_err(|_| bad(format!("{:?} is no time in nanoseconds", value.0)))?;
                entries.push(Entry::new(at, value.1));
            }
            batches.push((labels, entries));
        }
        let logs = Arc::clone(&self.logs);
        let kept = tokio::task::spawn_blocking(move || {
            for (labels, entries) in batches {
                logs.append(&labels, &entries)?;
            }
            logs.sync()
        });
        let kept = kept.await.map_err(|e| Refusal(500, e.to_string()))?;
        kept.map_err(|e| Refusal(500, e.to_string()))?;
        let mut response = text(204, "");
        *response.body_mut() = wharf_http::empty();
        Ok(response)
    }
}

#[derive(Deserialize)]
struct Push {
    streams: Vec<PushStream>,
}

#[derive(Deserialize)]
struct PushStream {
    stream: BTreeMap<String, String>,
    values: Vec<PushValue>,
}

/// Time, line, and perhaps structured metadata, which is not kept.
#[derive(Deserialize)]
struct PushValue(
    String,
    String,
    #[serde(default)]
    #[allow(dead_code, reason = "accepted, as senders add it")]
    Value,
);

fn object(labels: &Labels) -> Value {
    Value::Object(labels.iter().map(|(name, value)| (name.to_owned(), value.into())).collect())
}

fn stream(stream: &StreamEntries) -> Value {
    let values: Vec<Value> = stream.entries.iter().map(|e| json!([e.at.to_string(), &*e.line])).collect();
    json!({"stream": object(&stream.labels), "values": values})
}

/// A time: nanoseconds, seconds with a fraction, or RFC 3339.
fn time(name: &str, text: &str) -> Result<i64, Refusal> {
    if let Ok(number) = text.parse::<i64>() {
        // As Loki: up to ten digits are seconds.
        return Ok(if text.trim_start_matches('-').len() <= 10 {
            number.saturating_mul(SECOND)
        } else {
            number
        });
    }
    if let Ok(seconds) = text.parse::<f64>()
        && seconds.is_finite()
    {
        return Ok((seconds * SECOND as f64) as i64);
    }
    let parsed: Result<wharf_base::Timestamp, _> = text.parse();
    parsed
        .map(|t| t.as_second().saturating_mul(SECOND).saturating_add(i64::from(t.subsec_nanos())))
        .map_err(|_| bad(format!("{name}: {text:?} is no time: nanoseconds, seconds or RFC 3339")))
}

fn step(text: &str) -> Result<i64, Refusal> {
    let seconds = text.parse::<f64>().ok().filter(|s| s.is_finite()).map(|s| (s * SECOND as f64) as i64);
    let step = seconds.or_else(|| i64::try_from(logql::duration(text)?.as_nanos()).ok());
    step.filter(|s| *s > 0).ok_or_else(|| bad(format!("step: {text:?} is no duration such as 15 or 1m")))
}

#[cfg(test)]
mod tests {
    use wharf_http::full;
    use wharf_telemetry::logs::Options;

    use super::*;

    async fn call(loki: &Loki, uri: &str) -> (u16, Value) {
        let request = Request::get(uri).body(full("")).unwrap();
        let path = request.uri().path().to_owned();
        let response = loki.handle(&path, request).await;
        let status = response.status().as_u16();
        let body = collect(response.into_body(), 1 << 20).await.unwrap();
        let value = serde_json::from_slice(&body);
        (status, value.unwrap_or_else(|_| String::from_utf8_lossy(&body).trim().into()))
    }

    #[tokio::test]
    async fn what_is_pushed_is_found() {
        let dir = tempfile::tempdir().unwrap();
        let loki = Loki { logs: Logs::open(dir.path(), Options::default()).unwrap(), now: || 2000 * SECOND };
        let values: Vec<Value> =
            (0..60).map(|s| json!([((1000 + s) * SECOND).to_string(), format!("line {s}")])).collect();
        let push = json!({"streams": [{"stream": {"app": "web", "pod": "a"}, "values": values}]});
        let request = Request::post("/loki/api/v1/push")
            .header(header::CONTENT_TYPE, "application/json")
            .body(full(push.to_string()))
            .unwrap();
        assert_eq!(loki.handle("/loki/api/v1/push", request).await.status(), 204);

        let (status, found) =
            call(&loki, "/loki/api/v1/query_range?query=%7Bapp%3D%22web%22%7D%7C%3D%22line+5%22&start=1000&end=1100&limit=3").await;
        assert_eq!(status, 200, "{found}");
        let values = &found["data"]["result"][0]["values"];
        assert_eq!(values[0], json!([(1059 * SECOND).to_string(), "line 59"]));
        assert_eq!(values.as_array().unwrap().len(), 3);

        let query = "sum(count_over_time(%7Bapp%3D%22web%22%7D%5B10s%5D))";
        let (_, counted) =
            call(&loki, &format!("/loki/api/v1/query_range?query={query}&start=1009&end=1029&step=10")).await;
        assert_eq!(
            counted["data"]["result"][0]["values"],
            json!([[1009.0, "10"], [1019.0, "10"], [1029.0, "10"]])
        );
        let (_, labels) = call(&loki, "/loki/api/v1/labels?start=1000&end=2000").await;
        assert_eq!(labels["data"], json!(["app", "pod"]));
        let (_, values) = call(&loki, "/loki/api/v1/label/pod/values?start=1000&end=2000").await;
        assert_eq!(values["data"], json!(["a"]));
        let (status, why) = call(&loki, "/loki/api/v1/query_range?query=%7B%7D").await;
        assert_eq!(status, 400);
        assert!(why.as_str().unwrap().contains("at least one matcher"), "{why}");
    }
}
