use serde_json::{Value, json};
use wharf_telemetry::{
    logs,
    metrics::{self, Matcher},
    traces,
};

use super::*;

fn stores(dir: &std::path::Path) -> Otlp {
    let options = metrics::Options { background: false, ..metrics::Options::default() };
    Otlp {
        metrics: Metrics::open(dir.join("metrics"), options).unwrap(),
        logs: Logs::open(dir.join("logs"), logs::Options::default()).unwrap(),
        traces: Traces::open(dir.join("traces"), traces::Options::default()).unwrap(),
    }
}

fn resource() -> Value {
    json!({"attributes": [
        {"key": "service.name", "value": {"stringValue": "shop"}},
        {"key": "k8s.namespace.name", "value": {"stringValue": "ns"}},
    ]})
}

async fn post(otlp: &Otlp, path: &str, body: &Value) -> (u16, Value) {
    let request = Request::post(path)
        .header(header::CONTENT_TYPE, "application/json")
        .body(full(body.to_string()))
        .unwrap();
    let response = otlp.http(request).await;
    let status = response.status().as_u16();
    let body = collect(response.into_body(), MAX_BODY).await.unwrap();
    (status, serde_json::from_slice(&body).unwrap_or(Value::Null))
}

fn traces_export() -> Value {
    json!({"resourceSpans": [{"resource": resource(), "scopeSpans": [{"spans": [
        {"traceId": "0af7651916cd43dd8448eb211c80319c", "spanId": "b7ad6b7169203331", "name": "GET /products",
            "kind": 2, "startTimeUnixNano": "1700000000000000000", "endTimeUnixNano": "1700000000005000000",
            "attributes": [{"key": "http.response.status_code", "value": {"intValue": "200"}}],
            "status": {"code": 2, "message": "bad"}},
        {"traceId": "", "spanId": "b7ad6b7169203331", "name": "no id"},
    ]}]}]})
}

#[tokio::test]
async fn spans_are_kept_and_refused_ones_counted() {
    let dir = tempfile::tempdir().unwrap();
    let otlp = stores(dir.path());
    let (status, answer) = post(&otlp, "/v1/traces", &traces_export()).await;
    assert_eq!((status, &answer["partialSuccess"]["rejectedSpans"]), (200, &json!(1)), "{answer}");
    let id = "0af7651916cd43dd8448eb211c80319c".parse().unwrap();
    let spans = otlp.traces.trace(id).unwrap();
    let span = &spans[0];
    assert_eq!((span.service.as_str(), span.duration, span.kind), ("shop", 5_000_000, traces::Kind::Server));
    assert_eq!(span.attribute("http.response.status_code"), Some("200"));
}

#[tokio::test]
async fn the_same_export_over_grpc() {
    let dir = tempfile::tempdir().unwrap();
    let otlp = stores(dir.path());
    let export: ExportTraceServiceRequest = serde_json::from_value(traces_export()).unwrap();
    let message = export.encode_to_vec();
    let mut body = vec![0];
    body.extend((message.len() as u32).to_be_bytes());
    body.extend(message);
    let request = Request::post("/opentelemetry.proto.collector.trace.v1.TraceService/Export")
        .header(header::CONTENT_TYPE, "application/grpc")
        .body(full(body))
        .unwrap();
    let response = otlp.grpc(request).await;
    let collected = response.into_body().collect().await.unwrap();
    assert_eq!(collected.trailers().unwrap()["grpc-status"], "0");
    let bytes = collected.to_bytes();
    let answer = ExportTraceServiceResponse::decode(&bytes[5..]).unwrap();
    assert_eq!(answer.partial_success.unwrap().rejected_spans, 1);
    assert_eq!(otlp.traces.services().len(), 1);
    let unknown =
        Request::post("/x.Y/Z").header(header::CONTENT_TYPE, "application/grpc").body(full("")).unwrap();
    assert_eq!(otlp.grpc(unknown).await.headers()["grpc-status"], "12");
}

#[tokio::test]
async fn metrics_become_series() {
    let dir = tempfile::tempdir().unwrap();
    let otlp = stores(dir.path());
    let now = std::time::SystemTime::now().duration_since(std::time::UNIX_EPOCH).unwrap().as_nanos() as u64;
    let at = now.to_string();
    let point = |value: Value| {
        let mut point = json!({"timeUnixNano": at, "attributes": [{"key": "http.route", "value": {"stringValue": "/x"}}]});
        point.as_object_mut().unwrap().extend(value.as_object().unwrap().clone());
        point
    };
    let export = json!({"resourceMetrics": [{"resource": resource(), "scopeMetrics": [{"metrics": [
        {"name": "http.server.requests", "sum": {"isMonotonic": true, "aggregationTemporality": 2,
            "dataPoints": [point(json!({"asInt": "7"}))]}},
        {"name": "http.server.duration", "unit": "s", "histogram": {"aggregationTemporality": 2, "dataPoints": [
            point(json!({"count": "3", "sum": 0.6, "bucketCounts": ["1", "1", "1"], "explicitBounds": [0.1, 0.5]}))]}},
        {"name": "delta", "sum": {"isMonotonic": true, "aggregationTemporality": 1, "dataPoints": [point(json!({"asInt": "1"}))]}},
    ]}]}]});
    let (status, answer) = post(&otlp, "/v1/metrics", &export).await;
    assert_eq!((status, &answer["partialSuccess"]["rejectedDataPoints"]), (200, &json!(1)), "{answer}");
    let names = otlp.metrics.label_values(METRIC, &[], 0, i64::MAX).unwrap_or_default();
    let expected = [
        "http_server_duration_seconds_bucket",
        "http_server_duration_seconds_count",
        "http_server_duration_seconds_sum",
        "http_server_requests_total",
    ];
    assert_eq!(names, expected);
    let matcher = Matcher::equal("http_route", "/x");
    let routes = otlp.metrics.label_values("namespace", &[vec![matcher]], 0, i64::MAX).unwrap_or_default();
    assert_eq!(routes, ["ns"]);
}

const METRIC: &str = metrics::METRIC_NAME;

#[tokio::test]
async fn log_records_become_lines() {
    let dir = tempfile::tempdir().unwrap();
    let otlp = stores(dir.path());
    let export = json!({"resourceLogs": [{"resource": resource(), "scopeLogs": [{"logRecords": [
        {"timeUnixNano": "1700000000000000000", "severityNumber": 17, "body": {"stringValue": "no stock"},
            "attributes": [{"key": "sku", "value": {"stringValue": "a b"}}], "traceId": "0af7651916cd43dd8448eb211c80319c"},
    ]}]}]});
    let (status, _) = post(&otlp, "/v1/logs", &export).await;
    assert_eq!(status, 200);
    let query = logs::Query { to: i64::MAX, limit: 10, ..logs::Query::default() };
    let streams = otlp.logs.query(&query).unwrap();
    assert_eq!(streams[0].labels.get("level"), "error");
    let line = &*streams[0].entries[0].line;
    assert_eq!(line, "no stock sku=\"a b\" trace_id=0af7651916cd43dd8448eb211c80319c");
}

#[tokio::test]
async fn what_is_no_export_is_told_so() {
    let dir = tempfile::tempdir().unwrap();
    let otlp = stores(dir.path());
    assert_eq!(post(&otlp, "/v1/traces", &json!([1])).await.0, 400);
    assert_eq!(post(&otlp, "/v1/nothing", &json!({})).await.0, 404);
    let request =
        Request::post("/v1/traces").header(header::CONTENT_TYPE, "text/plain").body(full("x")).unwrap();
    assert_eq!(otlp.http(request).await.status(), 415);
}
