//! JSON as its declaration says it is to be read.

use base64::Engine as _;
use serde_json::Value as Json;

use super::{Duration, List, Map, Timestamp, Value, nanos_of_day_text};
use crate::{
    decl::{Decl, DeclKind},
    error::EvalError,
};

/// The value of a piece of JSON. Lists and maps are not looked into before they are asked for.
///
/// # Errors
/// When the JSON is not what the declaration says.
pub(crate) fn read<'a>(json: &'a Json, decl: &'a Decl) -> Result<Value<'a>, EvalError> {
    if let DeclKind::Dyn = decl.kind {
        return Ok(any(json));
    }
    if json.is_null() {
        return if decl.nullable {
            Ok(Value::Null)
        } else {
            Err(EvalError::new("invalid data, got null for schema with nullable=false"))
        };
    }
    match (&decl.kind, json) {
        (DeclKind::Bool, Json::Bool(b)) => Ok(Value::Bool(*b)),
        (DeclKind::Int, Json::Number(_)) | (DeclKind::IntOrString, Json::Number(_)) => int(json, &decl.kind),
        (DeclKind::Double, Json::Number(n)) => Ok(Value::Double(n.as_f64().unwrap_or(f64::NAN))),
        (DeclKind::String | DeclKind::IntOrString, Json::String(text)) => Ok(Value::text(text)),
        (DeclKind::Bytes, Json::String(text)) => bytes(text),
        // Without a zone the clocks of UTC count.
        (DeclKind::Timestamp, Json::String(text)) => Timestamp::parse(text)
            .or_else(|| Timestamp::parse(&format!("{text}Z")))
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new(format!("Invalid date-time formatted string {text}"))),
        (DeclKind::Date, Json::String(text)) => nanos_of_day_text(text)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new(format!("Invalid date formatted string {text}"))),
        (DeclKind::Duration, Json::String(text)) => Duration::parse(text)
            .or_else(|| Duration::parse_words(text))
            .map(Value::Duration)
            .ok_or_else(|| EvalError::new(format!("Invalid duration {text}"))),
        (DeclKind::List(list), Json::Array(items)) => {
            Ok(Value::List(List::data(items, &list.items, &list.topology)))
        }
        (DeclKind::Map(values), Json::Object(fields)) => Ok(Value::Map(Map::Data(fields, values))),
        (DeclKind::Object(object), Json::Object(fields)) => Ok(Value::Map(Map::Object(fields, object))),
        (kind, _) => Err(unexpected(kind)),
    }
}

/// Any JSON: whole numbers are int, others double.
pub(crate) fn any(json: &Json) -> Value<'_> {
    match json {
        Json::Null => Value::Null,
        Json::Bool(b) => Value::Bool(*b),
        Json::Number(n) => match n.as_i64() {
            Some(i) => Value::Int(i),
            None => Value::Double(n.as_f64().unwrap_or(f64::NAN)),
        },
        Json::String(text) => Value::text(text),
        Json::Array(items) => Value::List(List::any(items)),
        Json::Object(fields) => Value::Map(Map::any(fields)),
    }
}

/// A whole number, also one written with a fraction of zero.
fn int<'a>(json: &Json, kind: &DeclKind) -> Result<Value<'a>, EvalError> {
    let whole = |d: f64| d.fract() == 0.0 && d.abs() < 2f64.powi(63);
    let value = json.as_i64().or_else(|| json.as_f64().filter(|d| whole(*d)).map(|d| d as i64));
    value.map(Value::Int).ok_or_else(|| unexpected(kind))
}

fn bytes(text: &str) -> Result<Value<'_>, EvalError> {
    let decoded = base64::engine::general_purpose::STANDARD.decode(text);
    decoded
        .map(|bytes| Value::Bytes(bytes.into()))
        .map_err(|_| EvalError::new(format!("Invalid byte formatted string {text}")))
}

fn unexpected(kind: &DeclKind) -> EvalError {
    EvalError::new(match kind {
        DeclKind::Bool => "invalid data, expected bool",
        DeclKind::Int => "invalid data, expected int",
        DeclKind::Double => "invalid data, expected float",
        DeclKind::List(_) => "invalid data, expected an array for the provided schema with type=array",
        DeclKind::Map(_) | DeclKind::Object(_) => {
            "invalid data, expected a map for the provided schema with type=object"
        }
        DeclKind::IntOrString => "invalid data, expected XIntOrString value to be either a string or integer",
        _ => "invalid data, expected string",
    })
}
