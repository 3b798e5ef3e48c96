//! The texts that several tables share: ages, labels, selectors, containers, shortened lists.

use serde_json::Value;
use wharf_base::{Quantity, Timestamp};

use super::tree;
pub(super) use crate::selector::written as selector;

/// A span of time the way kubectl prints it: two figures of precision that shrink with size.
pub(super) fn human_duration(millis: i64) -> String {
    const HOUR: i64 = 60;
    const DAY: i64 = 24;
    const YEAR: i64 = 365;
    let seconds = millis / 1000;
    match seconds {
        ..-1 => return "<invalid>".to_owned(),
        -1 => return "0s".to_owned(),
        0..120 => return format!("{seconds}s"),
        _ => {}
    }
    let minutes = seconds / 60;
    if minutes < 10 {
        return two(minutes, "m", seconds % 60, "s");
    }
    if minutes < 3 * HOUR {
        return format!("{minutes}m");
    }
    let hours = minutes / HOUR;
    if hours < 8 {
        return two(hours, "h", minutes % HOUR, "m");
    }
    if hours < 2 * DAY {
        return format!("{hours}h");
    }
    let days = hours / DAY;
    if days < 8 {
        return two(days, "d", hours % DAY, "h");
    }
    if days < 2 * YEAR {
        return format!("{days}d");
    }
    if days < 8 * YEAR {
        return two(days / YEAR, "y", days % YEAR, "d");
    }
    format!("{}y", days / YEAR)
}

/// A large and a small unit; the small one is left out when it is zero.
fn two(large: i64, large_unit: &str, small: i64, small_unit: &str) -> String {
    if small == 0 {
        format!("{large}{large_unit}")
    } else {
        format!("{large}{large_unit}{small}{small_unit}")
    }
}

/// The time between `then` and `now`.
pub(super) fn since(then: Option<Timestamp>, now: Timestamp) -> String {
    match then {
        Some(then) => human_duration(now.as_millis().saturating_sub(then.as_millis())),
        None => "<unknown>".to_owned(),
    }
}

/// `k=v,k=v` in key order, or `<none>`.
pub(super) fn labels(value: &Value, pointer: &str) -> String {
    let pairs: Vec<String> =
        tree::entries(value, pointer).map(|(key, value)| format!("{key}={}", tree::scalar(value))).collect();
    or_none(pairs.join(","))
}

/// The text, or `<none>` when it is empty.
pub(super) fn or_none(text: String) -> String {
    if text.is_empty() { "<none>".to_owned() } else { text }
}

/// A label selector, `<none>` when it is empty, `<error>` when it cannot be written.
pub(super) fn selector_or_none(value: &Value) -> String {
    selector(value).map_or_else(|| "<error>".to_owned(), or_none)
}

/// Names and images of the containers of a pod spec, each joined with commas.
pub(super) fn containers(pod_spec: &Value) -> [Value; 2] {
    ["/name", "/image"].map(|field| {
        let texts: Vec<&str> = tree::list(pod_spec, "/containers")
            .iter()
            .map(|container| tree::text(container, field))
            .collect();
        Value::String(texts.join(","))
    })
}

/// The first `shown` items; what is left over is counted.
pub(super) fn shortened(items: &[String], shown: usize, separator: &str, empty: &str) -> String {
    if items.is_empty() {
        return empty.to_owned();
    }
    let text = items.iter().take(shown).map(String::as_str).collect::<Vec<_>>().join(separator);
    if items.len() <= shown { text } else { format!("{text} + {} more...", items.len() - shown) }
}

/// A quantity in canonical form; `0` where there is none.
pub(super) fn quantity(value: &Value) -> String {
    if value.is_null() {
        return "0".to_owned();
    }
    let given = tree::scalar(value);
    given.parse::<Quantity>().map_or(given, |quantity| quantity.to_string())
}

/// The status of the condition of a type; empty where there is none.
pub(super) fn condition<'a>(value: &'a Value, pointer: &str, type_: &str) -> &'a str {
    tree::find(tree::list(value, pointer), "type", type_).map_or("", |found| tree::text(found, "/status"))
}
