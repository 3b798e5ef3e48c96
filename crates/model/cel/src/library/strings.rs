//! Texts: the language's own functions and cel-go's extension `ext.Strings`, version 2.

use super::{Outcome, Row, bounded, no_overload};
use crate::{error::EvalError, value::Value};

pub(super) const ROWS: &[Row] = &[
    ("contains", "contains_string", "string.(string) -> bool", |a| test(a, |s, t| s.contains(t))),
    ("startsWith", "starts_with_string", "string.(string) -> bool", |a| test(a, |s, t| s.starts_with(t))),
    ("endsWith", "ends_with_string", "string.(string) -> bool", |a| test(a, |s, t| s.ends_with(t))),
    ("charAt", "string_char_at_int", "string.(int) -> string", char_at),
    ("indexOf", "string_index_of_string", "string.(string) -> int", index_of),
    ("indexOf", "string_index_of_string_int", "string.(string, int) -> int", index_of),
    ("lastIndexOf", "string_last_index_of_string", "string.(string) -> int", last_index_of),
    ("lastIndexOf", "string_last_index_of_string_int", "string.(string, int) -> int", last_index_of),
    ("lowerAscii", "string_lower_ascii", "string.() -> string", |a| map(a, str::to_ascii_lowercase)),
    ("upperAscii", "string_upper_ascii", "string.() -> string", |a| map(a, str::to_ascii_uppercase)),
    ("trim", "string_trim", "string.() -> string", |a| map(a, |s| s.trim().to_owned())),
    ("replace", "string_replace_string_string", "string.(string, string) -> string", replace),
    ("replace", "string_replace_string_string_int", "string.(string, string, int) -> string", replace),
    ("split", "string_split_string", "string.(string) -> list(string)", split),
    ("split", "string_split_string_int", "string.(string, int) -> list(string)", split),
    ("substring", "string_substring_int", "string.(int) -> string", substring),
    ("substring", "string_substring_int_int", "string.(int, int) -> string", substring),
    ("join", "list_join", "list(string).() -> string", join),
    ("join", "list_join_string", "list(string).(string) -> string", join),
    ("strings.quote", "strings_quote", "(string) -> string", |a| map(a, quote)),
    ("jsonpatch.escapeKey", "string_jsonpatch_escapeKey_string", "(string) -> string", |a| {
        map(a, |key| key.replace('~', "~0").replace('/', "~1"))
    }),
];

fn test<'a>(args: &[Value<'a>], holds: fn(&str, &str) -> bool) -> Outcome<'a> {
    match args {
        [Value::String(text), Value::String(part)] => Ok(Value::Bool(holds(text, part))),
        _ => no_overload(),
    }
}

fn map<'a>(args: &[Value<'a>], change: fn(&str) -> String) -> Outcome<'a> {
    match args {
        [Value::String(text)] => Ok(Value::string(change(text))),
        _ => no_overload(),
    }
}

fn out_of_range(index: i64) -> EvalError {
    EvalError::new(format!("index out of range: {index}"))
}

/// An index that is not before the text.
fn index(i: i64) -> Result<usize, EvalError> {
    usize::try_from(i).map_err(|_| out_of_range(i))
}

fn char_at<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::String(text), Value::Int(i)] = args else { return no_overload() };
    let at = index(*i)?;
    match text.chars().nth(at) {
        Some(c) => Ok(Value::string(c.to_string())),
        None if text.chars().count() == at => Ok(Value::text("")),
        None => Err(out_of_range(*i)),
    }
}

fn chars(text: &str) -> Vec<char> {
    text.chars().collect()
}

fn index_of<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (text, part, offset) = match args {
        [Value::String(text), Value::String(part)] => (text, part, 0),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, *offset),
        _ => return no_overload(),
    };
    if part.is_empty() {
        return Ok(Value::Int(offset));
    }
    let skipped = index(offset)?;
    let Some((start, _)) = text.char_indices().nth(skipped) else { return Ok(Value::Int(-1)) };
    let found = text.get(start..).and_then(|rest| Some((rest, rest.find(&**part)?)));
    Ok(Value::Int(found.map_or(-1, |(rest, at)| {
        let before = rest.get(..at).unwrap_or_default().chars().count();
        (skipped + before) as i64
    })))
}

fn last_index_of<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (text, part, offset) = match args {
        [Value::String(text), Value::String(part)] => (text, part, None),
        [Value::String(text), Value::String(part), Value::Int(offset)] => (text, part, Some(*offset)),
        _ => return no_overload(),
    };
    let length = text.chars().count();
    if part.is_empty() {
        return Ok(Value::Int(offset.unwrap_or(length as i64)));
    }
    let last = match offset {
        Some(offset) => index(offset)?,
        None => length.saturating_sub(1),
    };
    if last >= length {
        return Ok(Value::Int(-1));
    }
    // The part may begin at `last`, so what is searched ends where it would end then.
    let end = last + part.chars().count();
    let end = text.char_indices().nth(end).map_or(text.len(), |(i, _)| i);
    let found = text.get(..end).and_then(|head| head.rfind(&**part));
    let before = found.and_then(|at| text.get(..at)).map(|head| head.chars().count());
    Ok(Value::Int(before.map_or(-1, |i| i as i64)))
}

fn replace<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (text, old, new, limit) = match args {
        [Value::String(text), Value::String(old), Value::String(new)] => (text, old, new, -1),
        [Value::String(text), Value::String(old), Value::String(new), Value::Int(n)] => (text, old, new, *n),
        _ => return no_overload(),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let places = text.matches(&**old).count().min(limit);
    bounded(text.len().saturating_add(places.saturating_mul(new.len())))?;
    Ok(Value::string(text.replacen(&**old, new, limit)))
}

fn split<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (text, separator, limit) = match args {
        [Value::String(text), Value::String(separator)] => (text, separator, -1),
        [Value::String(text), Value::String(separator), Value::Int(n)] => (text, separator, *n),
        _ => return no_overload(),
    };
    let limit = usize::try_from(limit).unwrap_or(usize::MAX);
    let parts: Vec<String> = if limit == 0 {
        Vec::new()
    } else if separator.is_empty() {
        letters(text, limit)
    } else {
        text.splitn(limit, &**separator).map(str::to_owned).collect()
    };
    Ok(Value::list(parts.into_iter().map(Value::string).collect()))
}

/// Single characters, the last part with all that are left.
fn letters(text: &str, limit: usize) -> Vec<String> {
    let mut parts = Vec::new();
    let mut rest = text;
    while let Some(c) = rest.chars().next() {
        if parts.len() + 1 == limit {
            parts.push(rest.to_owned());
            break;
        }
        parts.push(c.to_string());
        rest = rest.get(c.len_utf8()..).unwrap_or_default();
    }
    parts
}

fn substring<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (text, start, end) = match args {
        [Value::String(text), Value::Int(start)] => (text, *start, None),
        [Value::String(text), Value::Int(start), Value::Int(end)] => (text, *start, Some(*end)),
        _ => return no_overload(),
    };
    if let Some(end) = end.filter(|end| start > *end) {
        return Err(EvalError::new(format!("invalid substring range. start: {start}, end: {end}")));
    }
    let chars = chars(text);
    let limit = |i: i64| index(i).ok().filter(|i| *i <= chars.len()).ok_or_else(|| out_of_range(i));
    let from = limit(start)?;
    let to = end.map_or(Ok(chars.len()), limit)?;
    Ok(Value::string(chars.get(from..to).unwrap_or_default().iter().collect::<String>()))
}

fn join<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (list, separator) = match args {
        [Value::List(list)] => (list, ""),
        [Value::List(list), Value::String(separator)] => (list, &**separator),
        _ => return no_overload(),
    };
    let mut out = String::new();
    for (i, item) in list.iter().enumerate() {
        let item = item?;
        let Value::String(text) = &item else {
            return Err(EvalError::new(format!("join: invalid input: {}", item.ty().head())));
        };
        bounded(out.len() + separator.len() + text.len())?;
        out.push_str(if i > 0 { separator } else { "" });
        out.push_str(text);
    }
    Ok(Value::string(out))
}

/// The text as a literal.
pub(super) fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '\u{7}' => out.push_str("\\a"),
            '\u{8}' => out.push_str("\\b"),
            '\u{c}' => out.push_str("\\f"),
            '\n' => out.push_str("\\n"),
            '\r' => out.push_str("\\r"),
            '\t' => out.push_str("\\t"),
            '\u{b}' => out.push_str("\\v"),
            '\\' => out.push_str("\\\\"),
            '"' => out.push_str("\\\""),
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
