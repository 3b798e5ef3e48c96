//! The spans of a trace as a tree, each under the span that caused it.

use std::collections::{HashMap, HashSet};

use serde_json::Value;
use wharf_base::Timestamp;

use crate::commands::platform::{Table, branches};

/// Levels drawn; what is deeper is drawn at this one.
const DEEPEST: usize = 40;

struct Span<'a> {
    id: &'a str,
    parent: &'a str,
    name: &'a str,
    service: &'a str,
    start: i64,
    end: i64,
    error: Option<&'a str>,
    attributes: String,
}

/// A trace of Tempo's API as text.
pub(super) fn render(id: &str, trace: &Value, wide: bool) -> String {
    let mut spans = read(trace);
    spans.sort_by_key(|span| (span.start, std::cmp::Reverse(span.end)));
    let (Some(start), Some(end)) = (spans.first().map(|s| s.start), spans.iter().map(|s| s.end).max()) else {
        return format!("trace {id} has no spans\n");
    };
    let errors = spans.iter().filter(|span| span.error.is_some()).count();
    let errors = if errors == 0 { String::new() } else { format!(", {errors} with errors") };
    let at = Timestamp::from_unix(start.div_euclid(1_000_000_000), start.rem_euclid(1_000_000_000) as i32);
    let head = format!(
        "trace {id}\n{} spans{errors}, {} from {}\n\n",
        spans.len(),
        duration(nanos(start, end)),
        at.to_micro()
    );

    let order = order(&spans);
    let depths: Vec<usize> = order.iter().map(|(_, depth)| *depth).collect();
    let mut headings = vec!["SPAN", "SERVICE", "START", "DURATION", "STATUS"];
    headings.extend(wide.then_some("ATTRIBUTES"));
    let mut table = Table::new(&headings);
    for ((index, _), prefix) in order.into_iter().zip(branches(&depths)) {
        let Some(span) = spans.get(index) else { continue };
        let mut row = vec![
            format!("{prefix}{}", span.name),
            span.service.to_owned(),
            format!("+{}", duration(nanos(start, span.start))),
            duration(nanos(span.start, span.end)),
            match span.error {
                None => String::new(),
                Some("") => "error".to_owned(),
                Some(message) => format!("error: {message}"),
            },
        ];
        row.extend(wide.then(|| span.attributes.clone()));
        table.row(row);
    }
    head + &table.render()
}

fn nanos(from: i64, to: i64) -> u64 {
    u64::try_from(to.saturating_sub(from)).unwrap_or(0)
}

/// Nanoseconds with a unit that keeps the number readable.
pub(super) fn duration(nanos: u64) -> String {
    let value = nanos as f64;
    match nanos {
        0 => "0".to_owned(),
        1..1_000 => format!("{nanos} ns"),
        1_000..1_000_000 => format!("{:.1} µs", value / 1e3),
        1_000_000..1_000_000_000 => format!("{:.1} ms", value / 1e6),
        1_000_000_000..60_000_000_000 => format!("{:.2} s", value / 1e9),
        _ => format!("{} m {} s", nanos / 60_000_000_000, nanos / 1_000_000_000 % 60),
    }
}

fn read(trace: &Value) -> Vec<Span<'_>> {
    fn list<'a>(value: &'a Value, name: &str) -> impl Iterator<Item = &'a Value> {
        value[name].as_array().into_iter().flatten()
    }
    let mut spans = Vec::new();
    for batch in list(trace, "batches") {
        let of_resource = list(&batch["resource"], "attributes");
        let service = of_resource
            .filter(|attribute| attribute["key"] == "service.name")
            .find_map(|attribute| attribute["value"]["stringValue"].as_str())
            .unwrap_or_default();
        for span in list(batch, "scopeSpans").flat_map(|scope| list(scope, "spans")) {
            let text = |name: &str| span[name].as_str().unwrap_or_default();
            let failed = span["status"]["code"] == "STATUS_CODE_ERROR";
            spans.push(Span {
                id: text("spanId"),
                parent: text("parentSpanId"),
                name: text("name"),
                service,
                start: text("startTimeUnixNano").parse().unwrap_or_default(),
                end: text("endTimeUnixNano").parse().unwrap_or_default(),
                error: failed.then(|| span["status"]["message"].as_str().unwrap_or_default()),
                attributes: attributes(span),
            });
        }
    }
    spans
}

fn attributes(span: &Value) -> String {
    let pairs = span["attributes"].as_array().into_iter().flatten();
    let pairs = pairs.map(|pair| {
        let value = pair["value"].as_object().and_then(|value| value.values().next());
        let value = value.map_or(String::new(), |v| v.as_str().map_or_else(|| v.to_string(), str::to_owned));
        format!("{}={value}", pair["key"].as_str().unwrap_or_default())
    });
    pairs.collect::<Vec<_>>().join(" ")
}

/// Indexes of the spans with their depths, parents before their children. Spans whose parent is unknown, or that
/// wrongly name each other as parents, stand at the top.
fn order(spans: &[Span<'_>]) -> Vec<(usize, usize)> {
    let known: HashSet<&str> = spans.iter().map(|span| span.id).collect();
    let mut children: HashMap<&str, Vec<usize>> = HashMap::new();
    let mut top = Vec::new();
    for (index, span) in spans.iter().enumerate() {
        match known.contains(span.parent) && span.parent != span.id {
            true => children.entry(span.parent).or_default().push(index),
            false => top.push(index),
        }
    }
    let mut order = Vec::with_capacity(spans.len());
    let mut seen = vec![false; spans.len()];
    // Those in a circle are reached from no other span: they come last.
    for root in top.into_iter().chain(0..spans.len()) {
        let mut waiting = vec![(root, 0)];
        while let Some((index, depth)) = waiting.pop() {
            let (Some(span), Some(seen)) = (spans.get(index), seen.get_mut(index)) else { continue };
            if std::mem::replace(seen, true) {
                continue;
            }
            order.push((index, depth));
            let below = children.get(span.id).into_iter().flatten().rev();
            waiting.extend(below.map(|child| (*child, (depth + 1).min(DEEPEST))));
        }
    }
    order
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn span(id: &str, parent: &str, name: &str, start: u64, end: u64) -> Value {
        json!({"spanId": id, "parentSpanId": parent, "name": name, "status": {},
            "startTimeUnixNano": start.to_string(), "endTimeUnixNano": end.to_string()})
    }

    fn batch(service: &str, spans: &[Value]) -> Value {
        json!({"resource": {"attributes": [{"key": "service.name", "value": {"stringValue": service}}]},
            "scopeSpans": [{"scope": {}, "spans": spans}]})
    }

    #[test]
    fn spans_stand_under_their_parents() {
        let mut query = span("c", "b", "SELECT", 12_000_000, 30_000_000);
        query["status"] = json!({"code": "STATUS_CODE_ERROR", "message": "gone"});
        let trace = json!({"batches": [
            batch("shop", &[span("b", "a", "cart", 10_000_000, 40_000_000), span("a", "", "GET /", 0, 50_000_000)]),
            batch("db", &[query, span("d", "b", "SELECT", 31_000_000, 31_000_500), span("x", "lost", "late", 60_000_000, 1_060_000_000)]),
        ]});
        let shown = render("ab", &trace, false);
        let wanted = "\
trace ab
5 spans, 1 with errors, 1.06 s from 1970-01-01T00:00:00.000000Z

SPAN           SERVICE   START      DURATION   STATUS
GET /          shop      +0         50.0 ms
└─ cart        shop      +10.0 ms   30.0 ms
   ├─ SELECT   db        +12.0 ms   18.0 ms    error: gone
   └─ SELECT   db        +31.0 ms   500 ns
late           db        +60.0 ms   1.00 s
";
        assert_eq!(shown, wanted, "\n{shown}");
    }

    #[test]
    fn spans_in_a_circle_and_deep_chains_are_shown_once() {
        let circle =
            json!({"batches": [batch("s", &[span("a", "b", "a", 0, 1), span("b", "a", "b", 0, 1)])]});
        assert_eq!(render("ab", &circle, false).lines().count(), 6);
        let ids: Vec<String> = (0..5000).map(|n| format!("{n:x}")).collect();
        let chain: Vec<Value> = (0..5000)
            .map(|n| span(&ids[n], if n == 0 { "" } else { &ids[n - 1] }, "s", n as u64, 9000))
            .collect();
        assert_eq!(render("ab", &json!({"batches": [batch("s", &chain)]}), false).lines().count(), 5004);
    }
}
