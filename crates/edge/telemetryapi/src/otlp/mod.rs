//! OTLP over gRPC and HTTP (opentelemetry-proto 1.x, OTLP specification 1.x).
//!
//! Each export is kept before it is answered. What cannot be kept is told in `partial_success`.

mod attributes;
mod logs;
mod metrics;
mod traces;

use std::{io::Read as _, sync::Arc};

use bytes::{BufMut as _, Bytes, BytesMut};
use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, header};
use http_body::Frame;
use http_body_util::{BodyExt as _, StreamBody};
use opentelemetry_proto::tonic::collector::{
    logs::v1::{ExportLogsPartialSuccess, ExportLogsServiceRequest, ExportLogsServiceResponse},
    metrics::v1::{ExportMetricsPartialSuccess, ExportMetricsServiceRequest, ExportMetricsServiceResponse},
    trace::v1::{ExportTracePartialSuccess, ExportTraceServiceRequest, ExportTraceServiceResponse},
};
use prost::Message;
use serde::{Serialize, de::DeserializeOwned};
use wharf_http::{Body, collect, full};
use wharf_telemetry::{logs::Logs, metrics::Metrics, traces::Traces};

/// Bytes of one export at the most, packed and unpacked.
const MAX_BODY: usize = 16 << 20;

/// Where exports go.
#[derive(Clone)]
pub struct Otlp {
    /// Metrics.
    pub metrics: Arc<Metrics>,
    /// Logs.
    pub logs: Arc<Logs>,
    /// Traces.
    pub traces: Arc<Traces>,
}

/// What was refused of an export, and why.
#[derive(Debug, Default)]
struct Refused {
    count: i64,
    why: String,
}

impl Refused {
    fn add(&mut self, count: i64, why: impl Into<String>) {
        self.count += count;
        if self.why.is_empty() {
            self.why = why.into();
        }
    }
}

/// Why an export was not kept at all.
enum Failure {
    /// The sender's fault.
    Malformed(String),
    /// Not to be sent again as it is.
    TooLarge,
    /// To be tried again.
    Store(String),
}

#[derive(Clone, Copy)]
enum Signal {
    Traces,
    Metrics,
    Logs,
}

#[derive(Clone, Copy, PartialEq, Eq)]
enum Encoding {
    Protobuf,
    Json,
}

impl Otlp {
    /// OTLP/HTTP: `POST /v1/{traces,metrics,logs}` in protobuf or JSON.
    pub async fn http(&self, request: Request<Body>) -> Response<Body> {
        let signal = match request.uri().path().trim_end_matches('/') {
            "/v1/traces" => Signal::Traces,
            "/v1/metrics" => Signal::Metrics,
            "/v1/logs" => Signal::Logs,
            _ => return plain(StatusCode::NOT_FOUND, "OTLP is at /v1/traces, /v1/metrics and /v1/logs"),
        };
        if request.method() != Method::POST {
            return plain(StatusCode::METHOD_NOT_ALLOWED, "exports are sent with POST");
        }
        let content_type =
            request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        let encoding = match content_type.split(';').next().unwrap_or("").trim() {
            "application/x-protobuf" => Encoding::Protobuf,
            "application/json" => Encoding::Json,
            _ => {
                let text = "the content type must be application/x-protobuf or application/json";
                return plain(StatusCode::UNSUPPORTED_MEDIA_TYPE, text);
            }
        };
        let gzip = is_gzip(request.headers(), &header::CONTENT_ENCODING);
        let outcome = match collect(request.into_body(), MAX_BODY).await {
            Err(_) => Err(Failure::TooLarge),
            Ok(body) => self.export(signal, encoding, body, gzip).await,
        };
        match outcome {
            Ok(answer) => {
                let mut response = Response::new(full(answer));
                let content_type = match encoding {
                    Encoding::Protobuf => "application/x-protobuf",
                    Encoding::Json => "application/json",
                };
                response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
                response
            }
            Err(Failure::Malformed(why)) => plain(StatusCode::BAD_REQUEST, &why),
            Err(Failure::TooLarge) => {
                plain(StatusCode::PAYLOAD_TOO_LARGE, "the export is larger than 16 MiB: send smaller batches")
            }
            Err(Failure::Store(why)) => {
                tracing::error!(error = %why, "an export could not be kept");
                plain(StatusCode::SERVICE_UNAVAILABLE, &why)
            }
        }
    }

    /// OTLP/gRPC: the unary `Export` calls of the three collector services.
    pub async fn grpc(&self, request: Request<Body>) -> Response<Body> {
        let signal = match request.uri().path() {
            "/opentelemetry.proto.collector.trace.v1.TraceService/Export" => Signal::Traces,
            "/opentelemetry.proto.collector.metrics.v1.MetricsService/Export" => Signal::Metrics,
            "/opentelemetry.proto.collector.logs.v1.LogsService/Export" => Signal::Logs,
            other => return grpc_failure(12, &format!("there is no method {other}")),
        };
        let content_type =
            request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("");
        if !content_type.starts_with("application/grpc") {
            return plain(
                StatusCode::UNSUPPORTED_MEDIA_TYPE,
                "this port speaks gRPC; OTLP over HTTP has its own",
            );
        }
        let gzip = is_gzip(request.headers(), &http::HeaderName::from_static("grpc-encoding"));
        let Ok(body) = collect(request.into_body(), MAX_BODY + 5).await else {
            return grpc_failure(8, "the export is larger than 16 MiB: send smaller batches");
        };
        let Some((message, packed)) = grpc_message(&body) else {
            return grpc_failure(3, "the request is not one gRPC message");
        };
        match self.export(signal, Encoding::Protobuf, message, packed && gzip).await {
            Ok(answer) => grpc_success(&answer),
            Err(Failure::Malformed(why)) => grpc_failure(3, &why),
            Err(Failure::TooLarge) => {
                grpc_failure(8, "the export is larger than 16 MiB: send smaller batches")
            }
            Err(Failure::Store(why)) => {
                tracing::error!(error = %why, "an export could not be kept");
                grpc_failure(14, &why)
            }
        }
    }

    async fn export(
        &self,
        signal: Signal,
        encoding: Encoding,
        body: Bytes,
        gzip: bool,
    ) -> Result<Vec<u8>, Failure> {
        let body = if gzip { unpack(&body)? } else { body };
        let to = self.clone();
        // Decoding and appending are work, and appending writes a file.
        let done = tokio::task::spawn_blocking(move || match signal {
            Signal::Traces => {
                let refused =
                    traces::keep(&to.traces, decode::<ExportTraceServiceRequest>(encoding, &body)?)?;
                let partial_success = (refused.count > 0).then_some(ExportTracePartialSuccess {
                    rejected_spans: refused.count,
                    error_message: refused.why,
                });
                encode(encoding, &ExportTraceServiceResponse { partial_success })
            }
            Signal::Metrics => {
                let refused =
                    metrics::keep(&to.metrics, decode::<ExportMetricsServiceRequest>(encoding, &body)?)?;
                let partial_success = (refused.count > 0).then_some(ExportMetricsPartialSuccess {
                    rejected_data_points: refused.count,
                    error_message: refused.why,
                });
                encode(encoding, &ExportMetricsServiceResponse { partial_success })
            }
            Signal::Logs => {
                let refused = logs::keep(&to.logs, decode::<ExportLogsServiceRequest>(encoding, &body)?)?;
                let partial_success = (refused.count > 0).then_some(ExportLogsPartialSuccess {
                    rejected_log_records: refused.count,
                    error_message: refused.why,
                });
                encode(encoding, &ExportLogsServiceResponse { partial_success })
            }
        });
        done.await.map_err(|e| Failure::Store(e.to_string()))?
    }
}

fn decode<M: Message + Default + DeserializeOwned>(encoding: Encoding, body: &[u8]) -> Result<M, Failure> {
    match encoding {
        Encoding::Protobuf => M::decode(body)
            .map_err(|e| Failure::Malformed(format!("the body is not the export's protobuf: {e}"))),
        Encoding::Json => serde_json::from_slice(body)
            .map_err(|e| Failure::Malformed(format!("the body is not the export's JSON: {e}"))),
    }
}

fn encode<M: Message + Serialize>(encoding: Encoding, message: &M) -> Result<Vec<u8>, Failure> {
    match encoding {
        Encoding::Protobuf => Ok(message.encode_to_vec()),
        Encoding::Json => serde_json::to_vec(message).map_err(|e| Failure::Store(e.to_string())),
    }
}

fn is_gzip(headers: &HeaderMap, name: &http::HeaderName) -> bool {
    headers.get(name).is_some_and(|v| v.as_bytes().eq_ignore_ascii_case(b"gzip"))
}

fn unpack(body: &[u8]) -> Result<Bytes, Failure> {
    let mut plain = Vec::new();
    let limited = flate2::read::MultiGzDecoder::new(body).take(MAX_BODY as u64 + 1);
    let read = { limited }.read_to_end(&mut plain);
    read.map_err(|e| Failure::Malformed(format!("the body is not gzip: {e}")))?;
    if plain.len() > MAX_BODY { Err(Failure::TooLarge) } else { Ok(plain.into()) }
}

/// The message of a unary call, and whether it is compressed (gRPC over HTTP/2, "Length-Prefixed-Message").
fn grpc_message(body: &Bytes) -> Option<(Bytes, bool)> {
    let [flag, a, b, c, d] = *body.first_chunk::<5>()?;
    let length = u32::from_be_bytes([a, b, c, d]) as usize;
    (body.len() == length + 5).then(|| (body.slice(5..), flag == 1))
}

fn grpc_trailers(code: u8, message: &str) -> HeaderMap {
    let mut trailers = HeaderMap::new();
    trailers.insert("grpc-status", HeaderValue::from(u16::from(code)));
    // Percent-encoded where gRPC asks for it.
    let escaped: String =
        message.chars().map(|c| if (' '..='~').contains(&c) && c != '%' { c } else { '?' }).collect();
    if let Ok(value) = HeaderValue::from_str(&escaped)
        && !escaped.is_empty()
    {
        trailers.insert("grpc-message", value);
    }
    trailers
}

fn grpc_response(frames: Vec<Frame<Bytes>>) -> Response<Body> {
    let frames = futures_util::stream::iter(frames.into_iter().map(Ok::<_, wharf_http::BoxError>));
    let mut response = Response::new(StreamBody::new(frames).boxed_unsync());
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn grpc_success(message: &[u8]) -> Response<Body> {
    let mut data = BytesMut::with_capacity(message.len() + 5);
    data.put_u8(0);
    data.put_u32(message.len() as u32);
    data.extend_from_slice(message);
    grpc_response(vec![Frame::data(data.freeze()), Frame::trailers(grpc_trailers(0, ""))])
}

fn grpc_failure(code: u8, message: &str) -> Response<Body> {
    // A response of trailers only.
    let mut response = Response::new(wharf_http::empty());
    *response.headers_mut() = grpc_trailers(code, message);
    response.headers_mut().insert(header::CONTENT_TYPE, HeaderValue::from_static("application/grpc"));
    response
}

fn plain(status: StatusCode, text: &str) -> Response<Body> {
    let mut response = Response::new(full(format!("{text}\n")));
    *response.status_mut() = status;
    response
        .headers_mut()
        .insert(header::CONTENT_TYPE, HeaderValue::from_static("text/plain; charset=utf-8"));
    response
}

#[cfg(test)]
mod tests;
