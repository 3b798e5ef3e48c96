//! Formats of names and texts: Kubernetes' `pkg/cel/library/format.go`.

use base64::Engine as _;

use super::{Outcome, Row, no_overload, url::Url};
use crate::value::{Timestamp, Value, nanos_of_day_text};

pub(super) const ROWS: &[Row] = &[
    ("validate", "format-validate", "format.(string) -> optional(list(string))", validate),
    ("format.named", "format-named", "(string) -> optional(format)", |args| match args {
        [Value::String(name)] => Ok(match FORMATS.iter().find(|format| *format.function == **name) {
            Some(format) => Value::some(Value::Format(format)),
            None => Value::Optional(None),
        }),
        _ => no_overload(),
    }),
    ("format.dns1123Label", "format.dns1123Label", "() -> format", |_| constant(0)),
    ("format.dns1123Subdomain", "format.dns1123Subdomain", "() -> format", |_| constant(1)),
    ("format.dns1035Label", "format.dns1035Label", "() -> format", |_| constant(2)),
    ("format.qualifiedName", "format.qualifiedName", "() -> format", |_| constant(3)),
    ("format.dns1123LabelPrefix", "format.dns1123LabelPrefix", "() -> format", |_| constant(4)),
    ("format.dns1123SubdomainPrefix", "format.dns1123SubdomainPrefix", "() -> format", |_| constant(5)),
    ("format.dns1035LabelPrefix", "format.dns1035LabelPrefix", "() -> format", |_| constant(6)),
    ("format.labelValue", "format.labelValue", "() -> format", |_| constant(7)),
    ("format.uri", "format.uri", "() -> format", |_| constant(8)),
    ("format.uuid", "format.uuid", "() -> format", |_| constant(9)),
    ("format.byte", "format.byte", "() -> format", |_| constant(10)),
    ("format.date", "format.date", "() -> format", |_| constant(11)),
    ("format.datetime", "format.datetime", "() -> format", |_| constant(12)),
];

/// A format strings can be validated by.
#[derive(Debug)]
pub struct NamedFormat {
    function: &'static str,
    faults: fn(&str) -> Vec<String>,
    /// How long a regular expression of it would be; cost goes by it.
    pub(crate) regex_size: u64,
}

static FORMATS: [NamedFormat; 13] = [
    format("dns1123Label", |s| dns_label(s, false), 30),
    format("dns1123Subdomain", |s| dns_subdomain(s, false), 60),
    format("dns1035Label", |s| dns_1035_label(s, false), 30),
    format("qualifiedName", qualified_name, 60),
    format("dns1123LabelPrefix", |s| dns_label(s, true), 30),
    format("dns1123SubdomainPrefix", |s| dns_subdomain(s, true), 60),
    format("dns1035LabelPrefix", |s| dns_1035_label(s, true), 30),
    format("labelValue", label_value, 40),
    format(
        "uri",
        |s| Url::parse(s).err().map(|why| format!("parse {s:?}: {why}")).into_iter().collect(),
        1103,
    ),
    format("uuid", |s| unless(uuid(s), "does not match the UUID format"), 79),
    format("byte", |s| unless(base64(s), "invalid base64"), 84),
    format("date", |s| unless(nanos_of_day_text(s).is_some(), "invalid date"), 75),
    format("datetime", |s| unless(Timestamp::parse(s).is_some(), "invalid datetime"), 75),
];

const fn format(function: &'static str, faults: fn(&str) -> Vec<String>, regex_size: u64) -> NamedFormat {
    NamedFormat { function, faults, regex_size }
}

fn constant<'a>(i: usize) -> Outcome<'a> {
    FORMATS.get(i).map_or_else(no_overload, |format| Ok(Value::Format(format)))
}

fn validate<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::Format(format), Value::String(text)] = args else { return no_overload() };
    let faults = (format.faults)(text);
    if faults.is_empty() {
        return Ok(Value::Optional(None));
    }
    Ok(Value::some(Value::list(faults.into_iter().map(Value::string).collect())))
}

fn unless(right: bool, message: &str) -> Vec<String> {
    if right { Vec::new() } else { vec![message.to_owned()] }
}

const LABEL: &str = "[a-z0-9]([-a-z0-9]*[a-z0-9])?";
const OLD_LABEL: &str = "[a-z]([-a-z0-9]*[a-z0-9])?";
const NAME: &str = "([A-Za-z0-9][-A-Za-z0-9_.]*)?[A-Za-z0-9]";

/// Length and form of a name: `form` says whether it has it, `message` what it should be like.
fn name(text: &str, longest: usize, form: bool, message: impl FnOnce() -> String) -> Vec<String> {
    let mut faults = unless(text.len() <= longest, &format!("must be no more than {longest} bytes"));
    if !form {
        faults.push(message());
    }
    faults
}

fn like(message: &str, pattern: &str, examples: &[&str]) -> String {
    let examples: Vec<String> = examples.iter().map(|example| format!("'{example}', ")).collect();
    format!("{message} (e.g. {}regex used for validation is '{pattern}')", examples.join(" or "))
}

/// A prefix may end in a dash: the two last characters count as one letter, as upstream has it.
fn whole(text: &str, prefix: bool) -> String {
    match text.strip_suffix('-') {
        Some(start) if prefix && text.len() > 1 => {
            let kept = start.char_indices().next_back().map_or("", |(i, _)| &start[..i]);
            format!("{kept}a")
        }
        _ => text.to_owned(),
    }
}

fn is_label(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(|b| b.is_ascii_lowercase() || b.is_ascii_digit());
    let bytes = text.as_bytes();
    let inner = |b: &u8| b.is_ascii_lowercase() || b.is_ascii_digit() || *b == b'-';
    edge(bytes.first()) && edge(bytes.last()) && bytes.iter().all(inner)
}

/// Faults of a DNS label (RFC 1123).
pub(super) fn dns_label(text: &str, prefix: bool) -> Vec<String> {
    let text = whole(text, prefix);
    name(&text, 63, is_label(&text), || {
        let message = "a lowercase RFC 1123 label must consist of lower case alphanumeric characters or '-', and must start and end with an alphanumeric character";
        like(message, LABEL, &["my-name", "123-abc"])
    })
}

/// Faults of a DNS subdomain (RFC 1123).
pub(super) fn dns_subdomain(text: &str, prefix: bool) -> Vec<String> {
    let text = whole(text, prefix);
    name(&text, 253, text.split('.').all(is_label), || {
        let message = "a lowercase RFC 1123 subdomain must consist of lower case alphanumeric characters, '-' or '.', and must start and end with an alphanumeric character";
        like(message, &format!("{LABEL}(\\.{LABEL})*"), &["example.com"])
    })
}

fn dns_1035_label(text: &str, prefix: bool) -> Vec<String> {
    let text = whole(text, prefix);
    let form = is_label(&text) && text.starts_with(|c: char| c.is_ascii_lowercase());
    name(&text, 63, form, || {
        let message = "a DNS-1035 label must consist of lower case alphanumeric characters or '-', start with an alphabetic character, and end with an alphanumeric character";
        like(message, OLD_LABEL, &["my-name", "abc-123"])
    })
}

fn is_name(text: &str) -> bool {
    let edge = |b: Option<&u8>| b.is_some_and(u8::is_ascii_alphanumeric);
    let bytes = text.as_bytes();
    edge(bytes.first())
        && edge(bytes.last())
        && bytes.iter().all(|b| b.is_ascii_alphanumeric() || b"-_.".contains(b))
}

fn qualified_name(text: &str) -> Vec<String> {
    let message = "must consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
    let parts: Vec<&str> = text.split('/').collect();
    let mut faults = Vec::new();
    let local = match parts.as_slice() {
        [local] => *local,
        [prefix, local] => {
            if prefix.is_empty() {
                faults.push("prefix part must be non-empty".to_owned());
            } else {
                faults.extend(
                    dns_subdomain(prefix, false).into_iter().map(|fault| format!("prefix part {fault}")),
                );
            }
            *local
        }
        _ => {
            let message = format!("a valid label key {message}");
            let examples = ["MyName", "my.name", "123-abc"];
            let hint = " with an optional DNS subdomain prefix and '/' (e.g. 'example.com/MyName')";
            return vec![format!("{}{hint}", like(&message, NAME, &examples))];
        }
    };
    if local.is_empty() {
        faults.push("name part must be non-empty".to_owned());
    } else if local.len() > 63 {
        faults.push("name part must be no more than 63 bytes".to_owned());
    }
    if !is_name(local) {
        faults.push(like(&format!("name part {message}"), NAME, &["MyName", "my.name", "123-abc"]));
    }
    faults
}

fn label_value(text: &str) -> Vec<String> {
    name(text, 63, text.is_empty() || is_name(text), || {
        let message = "a valid label must be an empty string or consist of alphanumeric characters, '-', '_' or '.', and must start and end with an alphanumeric character";
        like(message, &format!("({NAME})?"), &["MyValue", "my_value", "12345"])
    })
}

/// 32 hexadecimal digits; a dash may stand after the 8th, 12th, 16th and 20th.
fn uuid(text: &str) -> bool {
    let mut digits = 0;
    let mut dash = false;
    for b in text.bytes() {
        if b == b'-' {
            if dash || !matches!(digits, 8 | 12 | 16 | 20) {
                return false;
            }
            dash = true;
        } else if b.is_ascii_hexdigit() {
            digits += 1;
            dash = false;
        } else {
            return false;
        }
    }
    digits == 32 && !dash
}

fn base64(text: &str) -> bool {
    !text.is_empty() && base64::engine::general_purpose::STANDARD.decode(text).is_ok()
}
