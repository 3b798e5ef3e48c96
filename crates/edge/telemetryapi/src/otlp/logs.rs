//! Exported log records.

use std::collections::BTreeMap;

use opentelemetry_proto::tonic::{collector::logs::v1::ExportLogsServiceRequest, logs::v1::LogRecord};
use wharf_telemetry::{
    logs::{Entry, Logs},
    metrics::Labels,
};

use super::{
    Failure, Refused,
    attributes::{Origin, pairs, text},
};

pub(super) fn keep(logs: &Logs, export: ExportLogsServiceRequest) -> Result<Refused, Failure> {
    let mut streams: BTreeMap<Labels, Vec<Entry>> = BTreeMap::new();
    let mut refused = Refused::default();
    for group in export.resource_logs {
        let origin = Origin::of(group.resource.as_ref());
        for record in group.scope_logs.into_iter().flat_map(|scope| scope.log_records) {
            let at = if record.time_unix_nano > 0 {
                record.time_unix_nano
            } else {
                record.observed_time_unix_nano
            };
            if at == 0 {
                refused.add(1, "a log record needs a time");
                continue;
            }
            let level = level(&record);
            let labels = origin.labels().into_iter().chain(level.as_deref().map(|level| ("level", level)));
            let entry = Entry::new(i64::try_from(at).unwrap_or(i64::MAX), line(&record));
            streams.entry(Labels::from_pairs(labels)).or_default().push(entry);
        }
    }
    for (labels, entries) in streams {
        logs.append(&labels, &entries).map_err(|e| Failure::Store(e.to_string()))?;
    }
    Ok(refused)
}

/// The severity in one of six words, by its number where there is one (OpenTelemetry logs data model).
fn level(record: &LogRecord) -> Option<String> {
    let word = match record.severity_number {
        1..=4 => "trace",
        5..=8 => "debug",
        9..=12 => "info",
        13..=16 => "warn",
        17..=20 => "error",
        21..=24 => "fatal",
        _ if !record.severity_text.is_empty() => return Some(record.severity_text.to_ascii_lowercase()),
        _ => return None,
    };
    Some(word.to_owned())
}

/// The body, followed by the attributes and ids it does not carry itself.
fn line(record: &LogRecord) -> String {
    let mut line = text(record.body.as_ref()).replace('\n', "\\n");
    let hex = |bytes: &[u8]| bytes.iter().fold(String::new(), |text, byte| format!("{text}{byte:02x}"));
    let mut attributes = pairs(&record.attributes);
    for (name, id) in [("trace_id", &record.trace_id), ("span_id", &record.span_id)] {
        if id.iter().any(|byte| *byte != 0) {
            attributes.push((name.to_owned(), hex(id)));
        }
    }
    for (name, value) in attributes {
        if line.contains(&value) && !value.is_empty() {
            continue;
        }
        let plain =
            !value.is_empty() && !value.contains(|c: char| c.is_whitespace() || matches!(c, '"' | '='));
        line.push_str(&if plain { format!(" {name}={value}") } else { format!(" {name}={value:?}") });
    }
    line
}
