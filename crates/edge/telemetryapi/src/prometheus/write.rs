//! Remote write 1.0 in: acknowledged only once it is on disk.

use std::collections::HashMap;
use std::sync::{Arc, Mutex, PoisonError};

use bytes::Bytes;
use http::{Method, Request, Response, StatusCode, header};
use prost::Message;
use wharf_http::{Body, collect, empty};
use wharf_telemetry::metrics::{Exemplar, FastHash, Labels, Metadata, MetricsError, SeriesRef, Str};

use super::{Prometheus, answer};

const COMPRESSED_LIMIT: usize = 32 << 20;
const PLAIN_LIMIT: usize = 128 << 20;
/// Series remembered by the bytes they are written as.
const CACHE_LIMIT: usize = 500_000;

#[derive(Clone, PartialEq, Message)]
struct WriteRequest {
    #[prost(message, repeated, tag = "1")]
    timeseries: Vec<TimeSeries>,
    #[prost(message, repeated, tag = "3")]
    metadata: Vec<MetricMetadata>,
}

#[derive(Clone, PartialEq, Message)]
struct TimeSeries {
    /// Messages of [`Label`], left packed: mostly they are known already.
    #[prost(bytes = "bytes", repeated, tag = "1")]
    labels: Vec<Bytes>,
    #[prost(message, repeated, tag = "2")]
    samples: Vec<Sample>,
    #[prost(message, repeated, tag = "3")]
    exemplars: Vec<WireExemplar>,
    #[prost(bytes = "bytes", repeated, tag = "4")]
    histograms: Vec<Bytes>,
}

#[derive(Clone, PartialEq, Message)]
struct Label {
    #[prost(string, tag = "1")]
    name: String,
    #[prost(string, tag = "2")]
    value: String,
}

#[derive(Clone, Copy, PartialEq, Message)]
struct Sample {
    #[prost(double, tag = "1")]
    value: f64,
    #[prost(int64, tag = "2")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct WireExemplar {
    #[prost(message, repeated, tag = "1")]
    labels: Vec<Label>,
    #[prost(double, tag = "2")]
    value: f64,
    #[prost(int64, tag = "3")]
    timestamp: i64,
}

#[derive(Clone, PartialEq, Message)]
struct MetricMetadata {
    #[prost(int32, tag = "1")]
    kind: i32,
    #[prost(string, tag = "2")]
    metric: String,
    #[prost(string, tag = "4")]
    help: String,
    #[prost(string, tag = "5")]
    unit: String,
}

const KINDS: [&str; 8] =
    ["unknown", "counter", "gauge", "histogram", "gaugehistogram", "summary", "info", "stateset"];

/// Remembered series of writers.
#[derive(Default)]
pub(super) struct SeriesCache(Mutex<HashMap<Box<[u8]>, SeriesRef, FastHash>>);

enum WriteError {
    Bad(String),
    Store(MetricsError),
}

impl From<MetricsError> for WriteError {
    fn from(error: MetricsError) -> Self {
        match error {
            // Sending it again would not help.
            MetricsError::TooManySeries(_) => Self::Bad(error.to_string()),
            other => Self::Store(other),
        }
    }
}

fn text(status: StatusCode, message: &str) -> Response<Body> {
    answer(status, "text/plain; charset=utf-8", format!("{message}\n"))
}

/// What is wrong with a request's head.
fn refuse(request: &Request<Body>) -> Option<Response<Body>> {
    let header =
        |name: header::HeaderName| request.headers().get(name).and_then(|v| v.to_str().ok()).unwrap_or("");
    let (kind, encoding) = (header(header::CONTENT_TYPE), header(header::CONTENT_ENCODING));
    let unsupported = if request.method() != Method::POST {
        return Some(text(StatusCode::METHOD_NOT_ALLOWED, "remote write needs POST"));
    } else if kind.contains("write.v2") {
        "remote write 2.0 is not supported; send version 1.0"
    } else if !kind.is_empty() && !kind.starts_with("application/x-protobuf") {
        "the content type must be application/x-protobuf"
    } else if !encoding.is_empty() && encoding != "snappy" {
        "the content encoding must be snappy"
    } else {
        return None;
    };
    Some(text(StatusCode::UNSUPPORTED_MEDIA_TYPE, unsupported))
}

pub(super) async fn receive(api: &Arc<Prometheus>, request: Request<Body>) -> Response<Body> {
    if let Some(refusal) = refuse(&request) {
        return refusal;
    }
    let body = match collect(request.into_body(), COMPRESSED_LIMIT).await {
        Ok(body) => body,
        Err(error) => return text(StatusCode::PAYLOAD_TOO_LARGE, &error.to_string()),
    };
    let api = api.clone();
    match tokio::task::spawn_blocking(move || store(&api, &body)).await {
        Ok(Ok(())) => {
            let mut response = Response::new(empty());
            *response.status_mut() = StatusCode::NO_CONTENT;
            response
        }
        Ok(Err(WriteError::Bad(message))) => text(StatusCode::BAD_REQUEST, &message),
        Ok(Err(WriteError::Store(error))) => text(StatusCode::INTERNAL_SERVER_ERROR, &error.to_string()),
        Err(_) => text(StatusCode::INTERNAL_SERVER_ERROR, "storing broke; this is a defect"),
    }
}

fn store(api: &Prometheus, body: &[u8]) -> Result<(), WriteError> {
    let plain = decompress(body).map_err(WriteError::Bad)?;
    let request = WriteRequest::decode(plain)
        .map_err(|e| WriteError::Bad(format!("the body is no remote write request: {e}")))?;
    let metrics = &*api.metrics;
    let mut appender = metrics.appender();
    let mut histograms = 0;
    let mut cache = api.series.0.lock().unwrap_or_else(PoisonError::into_inner);
    if cache.len() > CACHE_LIMIT {
        cache.clear();
    }
    let mut key = Vec::new();
    for series in &request.timeseries {
        histograms += series.histograms.len();
        key.clear();
        for label in &series.labels {
            key.extend((label.len() as u32).to_le_bytes());
            key.extend(label);
        }
        if !cache.contains_key(&key[..]) {
            let labels = decode_labels(&series.labels).map_err(WriteError::Bad)?;
            cache.insert(key.clone().into(), metrics.series_ref(&labels)?);
        }
        let Some(known) = cache.get_mut(&key[..]) else { continue };
        for sample in &series.samples {
            appender.add_to(known, sample.timestamp, sample.value)?;
        }
        for exemplar in &series.exemplars {
            metrics.add_exemplar(Exemplar {
                series: known.labels().clone(),
                labels: label_set(&exemplar.labels),
                value: exemplar.value,
                t: exemplar.timestamp,
            });
        }
    }
    drop(cache);
    let done = appender.commit()?;
    for meta in request.metadata {
        let kind = KINDS.get(meta.kind as usize).copied().unwrap_or("unknown").to_string();
        metrics.set_metadata(&meta.metric, &Metadata { kind, help: meta.help, unit: meta.unit })?;
    }
    metrics.sync()?;
    if histograms > 0 {
        return Err(WriteError::Bad(format!(
            "{histograms} native histograms were not stored: wharf keeps floats only; set send_native_histograms: false"
        )));
    }
    if done.refused() > 0 {
        return Err(WriteError::Bad(format!(
            "{} samples were refused, the others are stored: out of order {}, duplicate sample for timestamp {}, \
             too old sample {}, too far in future {}",
            done.refused(),
            done.out_of_order,
            done.duplicate,
            done.too_old,
            done.too_new
        )));
    }
    Ok(())
}

fn decompress(body: &[u8]) -> Result<Bytes, String> {
    let wrong = |e: snap::Error| format!("the body is no snappy block: {e}");
    let len = snap::raw::decompress_len(body).map_err(wrong)?;
    if len > PLAIN_LIMIT {
        return Err(format!("the body is larger than {PLAIN_LIMIT} bytes"));
    }
    snap::raw::Decoder::new().decompress_vec(body).map(Bytes::from).map_err(wrong)
}

fn decode_labels(labels: &[Bytes]) -> Result<Labels, String> {
    let labels: Vec<Label> = labels
        .iter()
        .map(|bytes| Label::decode(&**bytes).map_err(|e| format!("a label cannot be read: {e}")))
        .collect::<Result<_, _>>()?;
    let set = label_set(&labels);
    if set.name().is_empty() {
        return Err(format!("the series {set} has no metric name"));
    }
    if labels.iter().any(|l| l.name.is_empty())
        || labels.iter().filter(|l| !l.value.is_empty()).count() != set.len()
    {
        return Err(format!("the series {set} has an empty or repeated label name"));
    }
    Ok(set)
}

fn label_set(labels: &[Label]) -> Labels {
    Labels::new(labels.iter().map(|l| (Str::from(l.name.as_str()), Str::from(l.value.as_str()))).collect())
}

#[cfg(test)]
#[allow(clippy::type_complexity, reason = "labels and samples as the tests write them")]
pub(super) fn encode(series: &[(&[(&str, &str)], &[(i64, f64)])]) -> Vec<u8> {
    let label = |(name, value): &(&str, &str)| {
        Bytes::from(Label { name: name.to_string(), value: value.to_string() }.encode_to_vec())
    };
    let timeseries = series
        .iter()
        .map(|(labels, samples)| TimeSeries {
            labels: labels.iter().map(label).collect(),
            samples: samples.iter().map(|&(timestamp, value)| Sample { value, timestamp }).collect(),
            ..TimeSeries::default()
        })
        .collect();
    let plain = WriteRequest { timeseries, metadata: vec![] }.encode_to_vec();
    snap::raw::Encoder::new().compress_vec(&plain).unwrap_or_default()
}
