//! Answers in Prometheus' JSON: numbers as texts, times in seconds.

use std::fmt::Write as _;

use serde_json::json;
use wharf_telemetry::metrics::{Exemplar, Labels, METRIC_NAME, Point, is_metric_name, quote};
use wharf_telemetry::promql::{QueryResult, QueryValue, format_value};

use super::Data;

fn text(out: &mut String, value: &str) {
    if value.bytes().all(|b| b >= 0x20 && b != b'"' && b != b'\\') {
        out.push('"');
        out.push_str(value);
        out.push('"');
    } else {
        out.push_str(&json!(value).to_string());
    }
}

fn time(out: &mut String, t: i64) {
    let sign = if t < 0 { "-" } else { "" };
    let t = t.unsigned_abs();
    let _ = write!(out, "{sign}{}", t / 1000);
    if !t.is_multiple_of(1000) {
        let _ = write!(out, ".{:03}", t % 1000);
    }
}

fn point(out: &mut String, point: Point) {
    out.push('[');
    time(out, point.t);
    let _ = write!(out, ",\"{}\"]", format_value(point.v));
}

fn put_labels(out: &mut String, labels: &Labels) {
    out.push('{');
    for (i, (name, value)) in labels.iter().enumerate() {
        if i > 0 {
            out.push(',');
        }
        text(out, name);
        out.push(':');
        text(out, value);
    }
    out.push('}');
}

pub(super) fn labels(labels: &Labels) -> String {
    let mut out = String::new();
    put_labels(&mut out, labels);
    out
}

const TRUNCATED: &str = "results truncated due to limit";

/// A list of values that are JSON already.
pub(super) fn list(mut values: Vec<String>, limit: usize) -> Data {
    let cut = limit > 0 && values.len() > limit;
    if cut {
        values.truncate(limit);
    }
    let warnings = if cut { vec![TRUNCATED.to_string()] } else { vec![] };
    Data { json: format!("[{}]", values.join(",")), warnings, infos: vec![] }
}

pub(super) fn result(result: QueryResult, limit: usize) -> Data {
    let QueryResult { mut value, mut warnings, infos } = result;
    let cut = match &mut value {
        QueryValue::Vector(list) if limit > 0 && list.len() > limit => {
            list.truncate(limit);
            true
        }
        QueryValue::Matrix(list) if limit > 0 && list.len() > limit => {
            list.truncate(limit);
            true
        }
        _ => false,
    };
    if cut {
        warnings.push(TRUNCATED.into());
    }
    Data { json: value_json(&value), warnings, infos }
}

fn value_json(value: &QueryValue) -> String {
    let mut out = String::from("{\"resultType\":");
    match value {
        QueryValue::Scalar(p) => {
            out.push_str("\"scalar\",\"result\":");
            point(&mut out, *p);
        }
        QueryValue::String(t, content) => {
            out.push_str("\"string\",\"result\":[");
            time(&mut out, *t);
            out.push(',');
            text(&mut out, content);
            out.push(']');
        }
        QueryValue::Vector(list) => {
            out.push_str("\"vector\",\"result\":[");
            for (i, (labels, p)) in list.iter().enumerate() {
                out.push_str(if i > 0 { ",{\"metric\":" } else { "{\"metric\":" });
                put_labels(&mut out, labels);
                out.push_str(",\"value\":");
                point(&mut out, *p);
                out.push('}');
            }
            out.push(']');
        }
        QueryValue::Matrix(list) => {
            out.push_str("\"matrix\",\"result\":[");
            for (i, series) in list.iter().enumerate() {
                out.push_str(if i > 0 { ",{\"metric\":" } else { "{\"metric\":" });
                put_labels(&mut out, &series.labels);
                out.push_str(",\"values\":[");
                for (j, p) in series.points.iter().enumerate() {
                    if j > 0 {
                        out.push(',');
                    }
                    point(&mut out, *p);
                }
                out.push_str("]}");
            }
            out.push(']');
        }
    }
    out.push('}');
    out
}

pub(super) fn exemplars(found: &[Exemplar]) -> String {
    let mut by_series: std::collections::BTreeMap<&Labels, Vec<&Exemplar>> = Default::default();
    for exemplar in found {
        by_series.entry(&exemplar.series).or_default().push(exemplar);
    }
    let mut out = String::from("[");
    for (i, (series, mut list)) in by_series.into_iter().enumerate() {
        list.sort_by_key(|e| e.t);
        out.push_str(if i > 0 { ",{\"seriesLabels\":" } else { "{\"seriesLabels\":" });
        put_labels(&mut out, series);
        out.push_str(",\"exemplars\":[");
        for (j, exemplar) in list.into_iter().enumerate() {
            out.push_str(if j > 0 { ",{\"labels\":" } else { "{\"labels\":" });
            put_labels(&mut out, &exemplar.labels);
            let _ = write!(out, ",\"value\":\"{}\",\"timestamp\":", format_value(exemplar.value));
            time(&mut out, exemplar.t);
            out.push('}');
        }
        out.push_str("]}");
    }
    out.push(']');
    out
}

/// A vector in the text format, for another Prometheus to scrape.
pub(super) fn exposition(value: QueryValue, out: &mut String) {
    let QueryValue::Vector(list) = value else { return };
    for (labels, p) in list {
        let name = labels.name().to_string();
        if name.is_empty() {
            continue;
        }
        let plain = is_metric_name(&name);
        let mut parts: Vec<String> = if plain { vec![] } else { vec![quote(&name)] };
        let rest = labels.iter().filter(|(n, _)| *n != METRIC_NAME);
        parts.extend(rest.map(|(n, v)| {
            let n = if is_metric_name(n) && !n.contains(':') { n.to_string() } else { quote(n) };
            format!("{n}={}", quote(v))
        }));
        let braces = if parts.is_empty() { String::new() } else { format!("{{{}}}", parts.join(",")) };
        let _ =
            writeln!(out, "{}{braces} {} {}", if plain { name.as_str() } else { "" }, format_value(p.v), p.t);
    }
}
