//! The functions of expressions.

use super::{
    Value,
    eval::{EvalError, Evaluated, Evaluator, equal, too_much},
    value::upper,
};

/// A function call whose arguments have values. The parser has checked name and count.
pub(super) struct Call<'a> {
    pub(super) name: &'a str,
    pub(super) args: &'a [Value],
}

pub(super) fn call(evaluator: &mut Evaluator<'_>, call: Call<'_>) -> Evaluated {
    let status = evaluator.env.status;
    match (call.name, call.args) {
        ("always", _) => Ok(Value::Bool(true)),
        ("success", _) => Ok(Value::Bool(status.success)),
        ("failure", _) => Ok(Value::Bool(status.failure)),
        ("cancelled", _) => Ok(Value::Bool(status.cancelled)),
        ("case", args) => case(args),
        ("contains", [search, item]) => Ok(Value::Bool(contains(search, item))),
        ("startswith", [text, start]) => {
            Ok(Value::Bool(edge(text, start, |text, start| text.starts_with(start))))
        }
        ("endswith", [text, end]) => Ok(Value::Bool(edge(text, end, |text, end| text.ends_with(end)))),
        ("format", [format, values @ ..]) => {
            let text = format_text(&format.to_text(), values)?;
            evaluator.made(text)
        }
        ("join", [list, rest @ ..]) => {
            let text = join(list, rest.first());
            evaluator.made(text)
        }
        ("tojson", [value]) => {
            let text = value.to_pretty_json();
            evaluator.made(text)
        }
        ("fromjson", [text]) => from_json(&text.to_text()),
        ("hashfiles", args) => {
            let patterns: Vec<String> = args.iter().map(Value::to_text).collect();
            (evaluator.env.hash_files)(&patterns).map(Value::from).map_err(EvalError::from)
        }
        (other, args) => Err(format!("'{other}' cannot be called with {} arguments", args.len()).into()),
    }
}

fn case(args: &[Value]) -> Evaluated {
    let Some((default, pairs)) = args.split_last() else { return Ok(Value::Null) };
    for pair in pairs.chunks(2) {
        match pair {
            [Value::Bool(true), value] => return Ok(value.clone()),
            [Value::Bool(false), _] => {}
            [other, ..] => {
                let kind = other.kind();
                let message = format!("a condition of 'case' must be true or false, not a {kind}");
                return Err(EvalError::new(message, "compare the value with something, as in VALUE == 'x'"));
            }
            [] => {}
        }
    }
    Ok(default.clone())
}

fn contains(search: &Value, item: &Value) -> bool {
    match search {
        Value::Array { items, .. } => items.iter().any(|found| equal(item, found)),
        text if text.is_primitive() && item.is_primitive() => {
            text.to_text().to_lowercase().contains(&item.to_text().to_lowercase())
        }
        _ => false,
    }
}

fn edge(text: &Value, wanted: &Value, at: fn(&str, &str) -> bool) -> bool {
    text.is_primitive() && wanted.is_primitive() && at(&upper(&text.to_text()), &upper(&wanted.to_text()))
}

fn join(list: &Value, separator: Option<&Value>) -> String {
    match list {
        Value::Array { items, .. } => {
            let separator = separator.filter(|s| s.is_primitive()).map_or(",".into(), Value::to_text);
            items.iter().map(Value::to_text).collect::<Vec<_>>().join(&separator)
        }
        Value::Object(_) => String::new(),
        primitive => primitive.to_text(),
    }
}

fn from_json(text: &str) -> Evaluated {
    if text.trim().is_empty() {
        let hint =
            "the output or variable it reads may be unset: give a default, as in fromJSON(VALUE || '[]')";
        return Err(EvalError::new("fromJSON was given an empty text", hint));
    }
    serde_json::from_str(text).map_err(|error| {
        let message = format!("fromJSON was given no valid JSON: {error}: '{}'", shorten(text));
        EvalError::new(
            message,
            "JSON has double quotes around keys and texts, and no comma at the end of a list",
        )
    })
}

/// `{0}` is replaced by the first value, `{{` and `}}` are braces.
fn format_text(format: &str, values: &[Value]) -> Result<String, EvalError> {
    let invalid = || {
        let message = format!("the format '{}' is not valid", shorten(format));
        EvalError::new(message, "name the values '{0}', '{1}', …, and write braces twice: '{{' and '}}'")
    };
    let mut out = String::with_capacity(format.len());
    let mut rest = format;
    while let Some(at) = rest.find(['{', '}']) {
        out.push_str(&rest[..at]);
        let brace = &rest[at..=at];
        rest = &rest[at + 1..];
        if let Some(after) = rest.strip_prefix(brace) {
            out.push_str(brace);
            rest = after;
            continue;
        }
        if brace == "}" {
            return Err(invalid());
        }
        let (inner, after) = rest.split_once('}').ok_or_else(invalid)?;
        let digits = inner.len() - inner.trim_start_matches(|c: char| c.is_ascii_digit()).len();
        let index: usize = inner[..digits].parse().map_err(|_| invalid())?;
        let missing = || {
            let message = format!("the format '{}' names more values than are given", shorten(format));
            EvalError::new(
                message,
                format!("values are counted from '{{0}}', and {} are given", values.len()),
            )
        };
        out.push_str(&values.get(index).ok_or_else(missing)?.to_text());
        if out.len() > super::MAX_MEMORY {
            return Err(too_much());
        }
        rest = after;
    }
    out.push_str(rest);
    Ok(out)
}

fn shorten(text: &str) -> String {
    text.chars().take(80).collect()
}
