//! Exported spans.

use opentelemetry_proto::tonic::{collector::trace::v1::ExportTraceServiceRequest, trace::v1 as otlp};
use wharf_telemetry::traces::{Event, Kind, Span, SpanId, StatusCode, TraceId, Traces};

use super::{
    Failure, Refused,
    attributes::{Origin, pairs},
};

pub(super) fn keep(traces: &Traces, export: ExportTraceServiceRequest) -> Result<Refused, Failure> {
    let (mut spans, mut refused) = (Vec::new(), Refused::default());
    for group in export.resource_spans {
        let origin = Origin::of(group.resource.as_ref());
        for span in group.scope_spans.into_iter().flat_map(|scope| scope.spans) {
            match convert(&origin, span) {
                Some(span) => spans.push(span),
                None => refused.add(1, "a span needs a trace id of 16 bytes and a span id of 8"),
            }
        }
    }
    traces.append(spans).map_err(|e| Failure::Store(e.to_string()))?;
    Ok(refused)
}

fn convert(origin: &Origin, span: otlp::Span) -> Option<Span> {
    let trace_id: [u8; 16] = span.trace_id.try_into().ok().filter(|id| *id != [0; 16])?;
    let span_id: [u8; 8] = span.span_id.try_into().ok().filter(|id| *id != [0; 8])?;
    let status = span.status.unwrap_or_default();
    Some(Span {
        trace_id: TraceId(trace_id),
        span_id: SpanId(span_id),
        parent: SpanId(span.parent_span_id.try_into().unwrap_or_default()),
        service: origin.service().to_owned(),
        name: span.name,
        kind: Kind::from_number(span.kind),
        start: i64::try_from(span.start_time_unix_nano).unwrap_or(i64::MAX),
        duration: span.end_time_unix_nano.saturating_sub(span.start_time_unix_nano),
        status: StatusCode::from_number(status.code),
        status_message: status.message,
        attributes: pairs(&span.attributes),
        resource: origin.attributes.clone(),
        events: span
            .events
            .into_iter()
            .map(|event| Event {
                at: i64::try_from(event.time_unix_nano).unwrap_or(i64::MAX),
                name: event.name,
                attributes: pairs(&event.attributes),
            })
            .collect(),
    })
}
