//! Texts made safe for HTML, JavaScript, URLs and JSON.

use serde_json::{Map, Value as Json};

use super::floats;
use super::literal::is_print;
use super::sink::Sink;
use super::value::{Value, sorted};

pub(super) fn html(sink: &mut Sink, text: &str) {
    for c in text.chars() {
        match c {
            '\0' => sink.push("\u{fffd}"),
            '"' => sink.push("&#34;"),
            '\'' => sink.push("&#39;"),
            '&' => sink.push("&amp;"),
            '<' => sink.push("&lt;"),
            '>' => sink.push("&gt;"),
            c => sink.push_char(c),
        }
    }
}

pub(super) fn js(sink: &mut Sink, text: &str) {
    for c in text.chars() {
        match c {
            '\\' | '\'' | '"' => {
                sink.push("\\");
                sink.push_char(c);
            }
            '<' | '>' | '&' | '=' | '\0'..' ' => sink.push(&format!("\\u{:04X}", u32::from(c))),
            c if c.is_ascii() || is_print(c) => sink.push_char(c),
            c => sink.push(&format!("\\u{:04X}", u32::from(c))),
        }
    }
}

pub(super) fn url_query(sink: &mut Sink, text: &str) {
    for byte in text.bytes() {
        match byte {
            b' ' => sink.push("+"),
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' | b'~' => {
                sink.push_char(byte.into())
            }
            byte => sink.push(&format!("%{byte:02X}")),
        }
    }
}

/// JSON on one line, keys in order, as `encoding/json` has it.
pub(super) fn json_value(sink: &mut Sink, value: &Value<'_>) {
    match value {
        Value::Missing | Value::Nil => sink.push("null"),
        Value::Bool(value) => sink.push(if *value { "true" } else { "false" }),
        Value::Int(number) => sink.push(&number.to_string()),
        Value::Uint(number, _) => sink.push(&number.to_string()),
        Value::Float(number) => sink.push(&floats::json(*number)),
        Value::Text(text) => json_text(sink, text),
        Value::List(items) => json_list(sink, items),
        Value::Map(map) => json_map(sink, map),
    }
}

fn json(sink: &mut Sink, value: &Json) {
    if sink.is_full() {
        return;
    }
    match value {
        Json::Null => sink.push("null"),
        Json::Bool(value) => sink.push(if *value { "true" } else { "false" }),
        Json::Number(number) if number.is_f64() => {
            sink.push(&floats::json(number.as_f64().unwrap_or_default()))
        }
        Json::Number(number) => sink.push(&number.to_string()),
        Json::String(text) => json_text(sink, text),
        Json::Array(items) => json_list(sink, items),
        Json::Object(map) => json_map(sink, map),
    }
}

fn json_list(sink: &mut Sink, items: &[Json]) {
    sink.push("[");
    for (index, item) in items.iter().enumerate() {
        sink.push(if index > 0 { "," } else { "" });
        json(sink, item);
    }
    sink.push("]");
}

fn json_map(sink: &mut Sink, map: &Map<String, Json>) {
    sink.push("{");
    for (index, (key, value)) in sorted(map).into_iter().enumerate() {
        sink.push(if index > 0 { "," } else { "" });
        json_text(sink, key);
        sink.push(":");
        json(sink, value);
    }
    sink.push("}");
}

/// A string of JSON. The two line ends of Unicode are escaped too: JavaScript cannot have them.
fn json_text(sink: &mut Sink, text: &str) {
    sink.push("\"");
    for c in text.chars() {
        match c {
            '"' => sink.push("\\\""),
            '\\' => sink.push("\\\\"),
            '\n' => sink.push("\\n"),
            '\r' => sink.push("\\r"),
            '\t' => sink.push("\\t"),
            '\x08' => sink.push("\\b"),
            '\x0c' => sink.push("\\f"),
            '\0'..' ' | '\u{2028}' | '\u{2029}' => sink.push(&format!("\\u{:04x}", u32::from(c))),
            c => sink.push_char(c),
        }
    }
    sink.push("\"");
}
