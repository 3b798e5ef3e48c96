//! The functions of templates: Go's own, and those docker adds.

use std::cmp::Ordering;

use serde_json::Value as Json;

use super::compare::{equal, ordered};
use super::sink::Sink;
use super::value::{Held, Value, are_texts};
use super::{escape, verbs};

#[derive(Debug)]
pub(super) struct Function {
    pub(super) name: &'static str,
    pub(super) parameters: &'static [Kind],
    /// The type of further arguments, if there may be any.
    pub(super) rest: Option<Kind>,
    pub(super) apply: Apply,
}

#[derive(Clone, Copy, Debug)]
pub(super) enum Apply {
    /// The first argument that is false, or the last one; those behind it are not evaluated.
    And,
    /// The first argument that is true, or the last one.
    Or,
    Plain(Plain),
}

/// Takes the arguments and the bytes that its result may have.
type Plain = for<'a, 'v> fn(&'a [Value<'v>], usize) -> Made<'v>;
pub(super) type Made<'v> = Result<Value<'v>, String>;

/// What a parameter takes.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Any,
    Text,
    Int,
}

impl Kind {
    pub(super) fn name(self) -> &'static str {
        match self {
            Kind::Any => "interface {}",
            Kind::Text => "string",
            Kind::Int => "int",
        }
    }
}

impl Function {
    /// What the argument at an index must be.
    pub(super) fn kind(&self, index: usize) -> Kind {
        self.parameters.get(index).copied().or(self.rest).unwrap_or(Kind::Any)
    }
}

pub(super) fn find(name: &str) -> Option<&'static Function> {
    FUNCTIONS.iter().find(|function| function.name == name)
}

const ANY: &[Kind] = &[Kind::Any];
const TWO: &[Kind] = &[Kind::Any, Kind::Any];
const TEXT: &[Kind] = &[Kind::Text];

static FUNCTIONS: &[Function] = &[
    Function { name: "and", parameters: ANY, rest: Some(Kind::Any), apply: Apply::And },
    Function { name: "or", parameters: ANY, rest: Some(Kind::Any), apply: Apply::Or },
    plain("not", ANY, None, |values, _| Ok(Value::Bool(!first(values).truth()))),
    plain("len", ANY, None, |values, _| len(&first(values))),
    plain("index", ANY, Some(Kind::Any), |values, _| index(values)),
    plain("slice", ANY, Some(Kind::Any), |values, _| slice(values)),
    plain("print", &[], Some(Kind::Any), |values, room| {
        written(room, |sink| {
            verbs::print(sink, values);
            Ok(())
        })
    }),
    plain("println", &[], Some(Kind::Any), |values, room| {
        written(room, |sink| {
            verbs::println(sink, values);
            Ok(())
        })
    }),
    plain("printf", TEXT, Some(Kind::Any), |values, room| {
        let (format, rest) = (text(values, 0), values.get(1..).unwrap_or_default());
        written(room, |sink| verbs::printf(sink, format, rest))
    }),
    plain("html", &[], Some(Kind::Any), |values, room| escaped(values, room, escape::html)),
    plain("js", &[], Some(Kind::Any), |values, room| escaped(values, room, escape::js)),
    plain("urlquery", &[], Some(Kind::Any), |values, room| escaped(values, room, escape::url_query)),
    plain("eq", ANY, Some(Kind::Any), |values, room| equal(values, room).map(Value::Bool)),
    plain("ne", TWO, None, |values, room| equal(values, room).map(|equal| Value::Bool(!equal))),
    plain("lt", TWO, None, |values, _| ordered(values, Ordering::is_lt)),
    plain("le", TWO, None, |values, _| ordered(values, Ordering::is_le)),
    plain("gt", TWO, None, |values, _| ordered(values, Ordering::is_gt)),
    plain("ge", TWO, None, |values, _| ordered(values, Ordering::is_ge)),
    plain("json", ANY, None, |values, room| {
        written(room, |sink| {
            escape::json_value(sink, &first(values));
            Ok(())
        })
    }),
    plain("split", &[Kind::Text, Kind::Text], None, |values, room| {
        split(text(values, 0), text(values, 1), room)
    }),
    plain("join", &[Kind::Any, Kind::Text], None, |values, room| join(&first(values), text(values, 1), room)),
    plain("title", TEXT, None, |values, _| Ok(Value::text(title(text(values, 0))))),
    plain("lower", TEXT, None, |values, _| {
        Ok(Value::text(text(values, 0).chars().map(lower).collect::<String>()))
    }),
    plain("upper", TEXT, None, |values, _| {
        Ok(Value::text(text(values, 0).chars().map(upper).collect::<String>()))
    }),
    plain("pad", &[Kind::Text, Kind::Int, Kind::Int], None, pad),
    plain("truncate", &[Kind::Text, Kind::Int], None, truncate),
];

const fn plain(
    name: &'static str,
    parameters: &'static [Kind],
    rest: Option<Kind>,
    apply: Plain,
) -> Function {
    Function { name, parameters, rest, apply: Apply::Plain(apply) }
}

pub(super) fn first<'v>(values: &[Value<'v>]) -> Value<'v> {
    values.first().cloned().unwrap_or(Value::Missing)
}

/// The argument at an index that has been checked to be a text.
fn text<'a>(values: &'a [Value<'_>], index: usize) -> &'a str {
    match values.get(index) {
        Some(Value::Text(text)) => text,
        _ => "",
    }
}

fn int(values: &[Value<'_>], index: usize) -> i64 {
    match values.get(index) {
        Some(Value::Int(number)) => *number,
        _ => 0,
    }
}

fn written<'v>(room: usize, write: impl FnOnce(&mut Sink) -> Result<(), String>) -> Made<'v> {
    let mut sink = Sink::new(room);
    write(&mut sink)?;
    sink.finish().map(Value::text)
}

fn escaped<'v>(values: &[Value<'v>], room: usize, escape: fn(&mut Sink, &str)) -> Made<'v> {
    let shown = |value: &Value<'v>| if value.is_nil() { Value::text("<no value>") } else { value.clone() };
    let mut plain = Sink::new(room);
    verbs::print(&mut plain, &values.iter().map(shown).collect::<Vec<_>>());
    let plain = plain.finish()?;
    written(room, |sink| {
        escape(sink, &plain);
        Ok(())
    })
}

fn len<'v>(value: &Value<'v>) -> Made<'v> {
    match value {
        Value::Text(_) | Value::List(_) | Value::Map(_) => Ok(Value::int(value.size())),
        Value::Missing | Value::Nil => Err("len of nil pointer".into()),
        other => Err(format!("len of type {}", other.type_name())),
    }
}

fn index<'v>(values: &[Value<'v>]) -> Made<'v> {
    let mut item = first(values);
    if item.is_nil() {
        return Err("index of untyped nil".into());
    }
    for key in values.iter().skip(1) {
        item = match &item {
            Value::Missing | Value::Nil => return Err("index of nil pointer".into()),
            Value::Text(text) => {
                let byte = text.as_bytes().get(position(key, text.len())?);
                Value::Uint((*byte.ok_or("reflect: string index out of range")?).into(), 8)
            }
            Value::List(items) => Value::element(items, position(key, items.len())?)
                .ok_or("reflect: slice index out of range")?,
            Value::Map(map) => match key {
                Value::Text(key) => match map.get(&**key) {
                    Some(value) => Value::of(value),
                    None if are_texts(map.values()) => Value::Text(Held::Given("")),
                    None => Value::Missing,
                },
                Value::Missing | Value::Nil => return Err("value is nil; should be of type string".into()),
                key => return Err(format!("value has type {}; should be string", key.type_name())),
            },
            other => return Err(format!("can't index item of type {}", other.type_name())),
        };
    }
    Ok(item)
}

/// An index into something of a length; the length itself is one, for `slice`.
fn position(key: &Value<'_>, length: usize) -> Result<usize, String> {
    let (found, shown) = match key {
        Value::Int(number) => (usize::try_from(*number), number.to_string()),
        Value::Uint(number, _) => (usize::try_from(*number), number.to_string()),
        Value::Missing | Value::Nil => return Err("cannot index slice/array with nil".into()),
        key => return Err(format!("cannot index slice/array with type {}", key.type_name())),
    };
    found.ok().filter(|index| *index <= length).ok_or(format!("index out of range: {shown}"))
}

fn slice<'v>(values: &[Value<'v>]) -> Made<'v> {
    let (item, keys) = (first(values), values.get(1..).unwrap_or_default());
    if item.is_nil() {
        return Err("slice of untyped nil".into());
    }
    if keys.len() > 3 {
        return Err(format!("too many slice indexes: {}", keys.len()));
    }
    let length = match &item {
        Value::Text(_) if keys.len() == 3 => return Err("cannot 3-index slice a string".into()),
        Value::Text(text) => text.len(),
        Value::List(items) => items.len(),
        other => return Err(format!("can't slice item of type {}", other.type_name())),
    };
    let mut bounds = [0, length, length];
    for (bound, key) in bounds.iter_mut().zip(keys) {
        *bound = position(key, length)?;
    }
    let [start, end, capacity] = bounds;
    if let Some((low, high)) = [(start, end), (end, capacity)].into_iter().find(|(low, high)| low > high) {
        return Err(format!("invalid slice index: {low} > {high}"));
    }
    Ok(match item {
        Value::Text(text) => cut(&text, start, end),
        Value::List(Held::Given(items)) => {
            Value::List(Held::Given(items.get(start..end).unwrap_or_default()))
        }
        Value::List(items) => Value::List(Held::Made(items.get(start..end).unwrap_or_default().into())),
        other => other,
    })
}

/// Bytes of a text. Half a character becomes the replacement character.
fn cut<'v>(text: &str, start: usize, end: usize) -> Value<'v> {
    Value::text(String::from_utf8_lossy(text.as_bytes().get(start..end).unwrap_or_default()))
}

fn split<'v>(text: &str, separator: &str, room: usize) -> Made<'v> {
    let parts: Box<dyn Iterator<Item = String>> = if separator.is_empty() {
        Box::new(text.chars().map(String::from))
    } else {
        Box::new(text.split(separator).map(String::from))
    };
    // A part takes some dozens of bytes beside its text.
    let most = room / 256;
    let parts: Vec<Json> = parts.take(most + 1).map(Json::String).collect();
    if parts.len() > most {
        return Err(format!("more than {most} parts"));
    }
    Ok(Value::List(Held::Made(parts.into())))
}

fn join<'v>(value: &Value<'v>, separator: &str, room: usize) -> Made<'v> {
    let mut parts = Vec::new();
    let mut room_left = room;
    let mut add = |value: &Value<'_>| {
        let part = verbs::by_verb(value, 'v', room_left)?;
        room_left = room_left.saturating_sub(part.len() + separator.len());
        parts.push(part);
        Ok::<(), String>(())
    };
    match value {
        Value::Missing | Value::Nil => {}
        Value::List(items) => {
            for index in 0..items.len() {
                add(&Value::element(items, index).unwrap_or(Value::Nil))?;
            }
        }
        Value::Map(map) => {
            map.values().try_for_each(|value| add(&Value::of(value)))?;
            parts.sort_unstable();
        }
        other => return Err(format!("expected slice, got {}", other.type_name())),
    }
    written(room, |sink| {
        for (index, part) in parts.iter().enumerate() {
            sink.push(if index > 0 { separator } else { "" });
            sink.push(part);
        }
        Ok(())
    })
}

/// A character in upper case, where that is one character too.
fn upper(c: char) -> char {
    let mut upper = c.to_uppercase();
    if upper.len() == 1 { upper.next().unwrap_or(c) } else { c }
}

fn lower(c: char) -> char {
    // The first one of several is the letter, the others are its marks.
    c.to_lowercase().next().unwrap_or(c)
}

fn title(text: &str) -> String {
    let mut before = ' ';
    let raise = |c: char| {
        let within =
            before.is_alphanumeric() || before == '_' || !before.is_ascii() && !before.is_whitespace();
        before = c;
        if within { c } else { upper(c) }
    };
    text.chars().map(raise).collect()
}

fn pad<'v>(values: &[Value<'v>], room: usize) -> Made<'v> {
    let source = text(values, 0);
    if source.is_empty() {
        return Ok(first(values));
    }
    let count =
        |index| usize::try_from(int(values, index)).map_err(|_| "strings: negative Repeat count".to_owned());
    let (before, after) = (count(1)?, count(2)?);
    written(room, |sink| {
        sink.repeat(' ', before);
        sink.push(source);
        sink.repeat(' ', after);
        Ok(())
    })
}

fn truncate<'v>(values: &[Value<'v>], _: usize) -> Made<'v> {
    let (source, length) = (text(values, 0), int(values, 1));
    match usize::try_from(length) {
        Ok(length) if length >= source.len() => Ok(first(values)),
        Ok(length) => Ok(cut(source, 0, length)),
        Err(_) => Err(format!("runtime error: slice bounds out of range [:{length}]")),
    }
}
