//! Text into HTML: escaping, the frame of every page, and small parts.

use std::fmt::{self, Display, Write as _};

use serde_json::Value;

/// Text escaped for content and for quoted attributes.
pub(crate) struct E<T>(pub(crate) T);

impl<T: AsRef<str>> Display for E<T> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        self.0.as_ref().chars().try_for_each(|c| match c {
            '&' => f.write_str("&amp;"),
            '<' => f.write_str("&lt;"),
            '>' => f.write_str("&gt;"),
            '"' => f.write_str("&quot;"),
            '\'' => f.write_str("&#39;"),
            c => f.write_char(c),
        })
    }
}

/// One element of a path, percent-encoded; safe in an attribute too.
pub(crate) fn encoded(text: &str) -> String {
    let mut out = String::with_capacity(text.len());
    for byte in text.bytes() {
        match byte {
            b'a'..=b'z' | b'A'..=b'Z' | b'0'..=b'9' | b'-' | b'_' | b'.' => out.push(byte as char),
            _ => {
                let _ = write!(out, "%{byte:02X}");
            }
        }
    }
    out
}

/// The reverse of [`encoded`]; what is not well-formed stays as it is.
pub(crate) fn decoded(text: &str) -> String {
    let mut out = Vec::with_capacity(text.len());
    let mut rest = text.as_bytes();
    while let Some((first, after)) = rest.split_first() {
        let pair = after.get(..2).filter(|_| *first == b'%').and_then(|pair| std::str::from_utf8(pair).ok());
        match pair.and_then(|pair| u8::from_str_radix(pair, 16).ok()) {
            Some(byte) => {
                out.push(byte);
                rest = after.get(2..).unwrap_or_default();
            }
            None => {
                out.push(*first);
                rest = after;
            }
        }
    }
    String::from_utf8_lossy(&out).into_owned()
}

/// A text of an object; empty when it is not there.
pub(crate) fn at<'a>(object: &'a Value, pointer: &str) -> &'a str {
    object.pointer(pointer).and_then(Value::as_str).unwrap_or("")
}

/// A number of an object; zero when it is not there.
pub(crate) fn number(object: &Value, pointer: &str) -> i64 {
    object.pointer(pointer).and_then(Value::as_i64).unwrap_or(0)
}

/// The items of a list in an object.
pub(crate) fn items<'a>(object: &'a Value, pointer: &str) -> &'a [Value] {
    object.pointer(pointer).and_then(Value::as_array).map_or(&[], Vec::as_slice)
}

/// A state as a coloured word. The word itself tells, the colour helps.
pub(crate) fn badge(word: &str) -> String {
    let class = match word {
        "Succeeded" | "success" | "Healthy" | "Ready" | "Running" | "Completed" | "Successful" | "True" => {
            "good"
        }
        "Failed" | "failure" | "Degraded" | "NotReady" | "Aborted" | "Evicted" | "OOMKilled"
        | "ErrImagePull" => "bad",
        "Progressing" | "in_progress" | "Pending" | "Paused" | "queued" | "waiting" | "Terminating"
        | "ContainerCreating" | "PodInitializing" => "busy",
        _ if word.ends_with("Error") || word.ends_with("BackOff") => "bad",
        _ if word.starts_with("Init:") => "busy",
        _ => "plain",
    };
    format!("<span class=\"badge {class}\">{}</span>", E(word.replace('_', " ")))
}

/// A time as it is written, which the script shows as an age.
pub(crate) fn time(text: &str) -> String {
    if text.is_empty() {
        return "–".to_owned();
    }
    format!("<time datetime=\"{0}\">{0}</time>", E(text))
}

/// A table, or a sentence when it is empty. Rows are HTML.
pub(crate) fn table(label: &str, heads: &[&str], rows: &[Vec<String>], none: &str) -> String {
    if rows.is_empty() {
        return format!("<p class=\"none\">{none}</p>");
    }
    let mut out = format!("<div class=\"scroll\"><table aria-label=\"{}\"><thead><tr>", E(label));
    for head in heads {
        let _ = write!(out, "<th scope=\"col\">{head}</th>");
    }
    out.push_str("</tr></thead><tbody>");
    for row in rows {
        out.push_str("<tr>");
        for (at, cell) in row.iter().enumerate() {
            let _ = match at {
                0 => write!(out, "<th scope=\"row\">{cell}</th>"),
                _ => write!(out, "<td>{cell}</td>"),
            };
        }
        out.push_str("</tr>");
    }
    out + "</tbody></table></div>"
}

/// The sections, in the order of the story.
const SECTIONS: [(&str, &str); 6] = [
    ("", "Overview"),
    ("runs", "Pipelines"),
    ("rollouts", "Rollouts"),
    ("services", "Services"),
    ("pods", "Pods"),
    ("nodes", "Nodes"),
];

/// A whole page. `live` is replaced by the script when one of the `watched` kinds changes, `still` is left alone.
pub(crate) fn page(section: &str, title: &str, watched: &str, live: &str, still: &str) -> String {
    let mut nav = String::new();
    for (path, name) in SECTIONS {
        let current = if path == section { " aria-current=\"page\"" } else { "" };
        let _ = write!(nav, "<a href=\"/{path}\"{current}>{name}</a>");
    }
    let title = E(title);
    format!(
        "<!doctype html><html lang=\"en\"><head><meta charset=\"utf-8\"><title>{title} · wharf</title>\
         <meta name=\"viewport\" content=\"width=device-width, initial-scale=1\">\
         <meta name=\"color-scheme\" content=\"light dark\"><link rel=\"stylesheet\" href=\"/assets/style.css\">\
         <link rel=\"icon\" type=\"image/svg+xml\" href=\"/assets/icon.svg\">\
         <script src=\"/assets/console.js\" defer></script></head><body>\
         <a class=\"skip\" href=\"#main\">Skip to content</a>\
         <header><a class=\"brand\" href=\"/\">wharf</a><nav aria-label=\"Sections\">{nav}</nav>\
         <span id=\"state\" role=\"status\"></span><button id=\"theme\" type=\"button\" hidden>Theme</button></header>\
         <main id=\"main\" data-watch=\"{watched}\"><h1>{title}</h1><div id=\"live\">{live}</div>{still}</main>\
         </body></html>"
    )
}
