//! Conversions between types (cel-spec, "Types and Conversions").

use std::sync::Arc;

use super::{Outcome, Row, no_overload};
use crate::{
    error::EvalError,
    types::Type,
    value::{Duration, Timestamp, Value},
};

pub(super) const ROWS: &[Row] = &[
    ("type", "type", "(A) -> type(A)", |args| match args {
        [value] => Ok(Value::Type(Arc::new(value.ty()))),
        _ => no_overload(),
    }),
    ("dyn", "to_dyn", "(A) -> dyn", same),
    ("bool", "bool_to_bool", "(bool) -> bool", same),
    ("bool", "string_to_bool", "(string) -> bool", bool),
    ("bytes", "bytes_to_bytes", "(bytes) -> bytes", same),
    ("bytes", "string_to_bytes", "(string) -> bytes", bytes),
    ("double", "double_to_double", "(double) -> double", same),
    ("double", "int64_to_double", "(int) -> double", double),
    ("double", "string_to_double", "(string) -> double", double),
    ("double", "uint64_to_double", "(uint) -> double", double),
    ("duration", "duration_to_duration", "(duration) -> duration", same),
    ("duration", "int64_to_duration", "(int) -> duration", duration),
    ("duration", "string_to_duration", "(string) -> duration", duration),
    ("int", "int64_to_int64", "(int) -> int", same),
    ("int", "double_to_int64", "(double) -> int", int),
    ("int", "duration_to_int64", "(duration) -> int", int),
    ("int", "string_to_int64", "(string) -> int", int),
    ("int", "timestamp_to_int64", "(timestamp) -> int", int),
    ("int", "uint64_to_int64", "(uint) -> int", int),
    ("string", "string_to_string", "(string) -> string", same),
    ("string", "bool_to_string", "(bool) -> string", one_string),
    ("string", "bytes_to_string", "(bytes) -> string", one_string),
    ("string", "double_to_string", "(double) -> string", one_string),
    ("string", "duration_to_string", "(duration) -> string", one_string),
    ("string", "int64_to_string", "(int) -> string", one_string),
    ("string", "timestamp_to_string", "(timestamp) -> string", one_string),
    ("string", "uint64_to_string", "(uint) -> string", one_string),
    ("string", "ip_to_string", "(ip) -> string", one_string),
    ("string", "cidr_to_string", "(cidr) -> string", one_string),
    ("timestamp", "timestamp_to_timestamp", "(timestamp) -> timestamp", same),
    ("timestamp", "int64_to_timestamp", "(int) -> timestamp", timestamp),
    ("timestamp", "string_to_timestamp", "(string) -> timestamp", timestamp),
    ("uint", "uint64_to_uint64", "(uint) -> uint", same),
    ("uint", "double_to_uint64", "(double) -> uint", uint),
    ("uint", "int64_to_uint64", "(int) -> uint", uint),
    ("uint", "string_to_uint64", "(string) -> uint", uint),
];

fn same<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [value] => Ok(value.clone()),
        _ => no_overload(),
    }
}

/// Tries the conversion of a constant text.
pub(crate) fn constant(function: &str, text: &str) -> Result<(), EvalError> {
    let args = [Value::text(text)];
    match function {
        "bool" => bool(&args),
        "int" => int(&args),
        "uint" => uint(&args),
        "double" => double(&args),
        _ => return Ok(()),
    }
    .map(drop)
}

fn syntax(function: &str, text: &str) -> EvalError {
    EvalError::new(format!("strconv.{function}: parsing {text:?}: invalid syntax"))
}

fn bool<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::String(text)] => match &**text {
            "1" | "t" | "T" | "TRUE" | "true" | "True" => Ok(Value::Bool(true)),
            "0" | "f" | "F" | "FALSE" | "false" | "False" => Ok(Value::Bool(false)),
            _ => Err(syntax("ParseBool", text)),
        },
        _ => no_overload(),
    }
}

fn bytes<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::String(text)] => Ok(Value::Bytes(text.as_bytes().into())),
        _ => no_overload(),
    }
}

fn double<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(i)] => Ok(Value::Double(*i as f64)),
        [Value::Uint(u)] => Ok(Value::Double(*u as f64)),
        [Value::String(text)] => text.parse().map(Value::Double).map_err(|_| syntax("ParseFloat", text)),
        _ => no_overload(),
    }
}

fn duration<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(i)] => Ok(Value::Duration(Duration(*i))),
        [Value::String(text)] => Duration::parse(text)
            .map(Value::Duration)
            .ok_or_else(|| EvalError::new(format!("time: invalid duration {:?}", &**text))),
        _ => no_overload(),
    }
}

fn timestamp<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(i)] => {
            Timestamp::new(*i, 0).map(Value::Timestamp).ok_or_else(|| EvalError::new("timestamp overflow"))
        }
        [Value::String(text)] => Timestamp::parse(text)
            .map(Value::Timestamp)
            .ok_or_else(|| EvalError::new(format!("parsing time {:?}: no RFC 3339 timestamp", &**text))),
        _ => no_overload(),
    }
}

fn int<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let overflow = || EvalError::new("integer overflow");
    match args {
        [Value::Uint(u)] => i64::try_from(*u).map(Value::Int).map_err(|_| overflow()),
        [Value::Double(d)] if *d > -(2f64.powi(63)) && *d < 2f64.powi(63) => Ok(Value::Int(*d as i64)),
        [Value::Double(_)] => Err(overflow()),
        [Value::Duration(d)] => Ok(Value::Int(d.0)),
        [Value::Timestamp(t)] => Ok(Value::Int(t.seconds())),
        [Value::String(text)] => text.parse().map(Value::Int).map_err(|_| syntax("ParseInt", text)),
        _ => no_overload(),
    }
}

fn uint<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let overflow = || EvalError::new("unsigned integer overflow");
    match args {
        [Value::Int(i)] => u64::try_from(*i).map(Value::Uint).map_err(|_| overflow()),
        [Value::Double(d)] if *d >= 0.0 && *d < 2f64.powi(64) => Ok(Value::Uint(*d as u64)),
        [Value::Double(_)] => Err(overflow()),
        [Value::String(text)] => match text.parse() {
            Ok(value) if !text.starts_with('+') => Ok(Value::Uint(value)),
            _ => Err(syntax("ParseUint", text)),
        },
        _ => no_overload(),
    }
}

fn one_string<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [value] => string(value),
        _ => no_overload(),
    }
}

/// The value as text.
pub(crate) fn string<'a>(value: &Value<'a>) -> Outcome<'a> {
    Ok(Value::string(match value {
        Value::String(_) => return Ok(value.clone()),
        Value::Bool(b) => b.to_string(),
        Value::Int(i) => i.to_string(),
        Value::Uint(u) => u.to_string(),
        Value::Double(d) => double_text(*d),
        Value::Bytes(bytes) => match std::str::from_utf8(bytes) {
            Ok(text) => text.to_owned(),
            Err(_) => return Err(EvalError::new("invalid UTF-8 in bytes, cannot convert to string")),
        },
        Value::Timestamp(moment) => moment.to_string(),
        Value::Duration(span) => span.to_string(),
        Value::Ip(ip) => ip.to_string(),
        Value::Cidr(cidr) => cidr.to_string(),
        Value::Type(ty) => match &**ty {
            Type::Null => "null_type".to_owned(),
            other => other.head().to_owned(),
        },
        _ => return no_overload(),
    }))
}

/// A double in the fewest digits, with an exponent if it is small or has more than six digits before the point, as Go's %g.
pub(crate) fn double_text(d: f64) -> String {
    if d.is_nan() {
        return "NaN".to_owned();
    }
    if d.is_infinite() {
        return if d > 0.0 { "+Inf" } else { "-Inf" }.to_owned();
    }
    let scientific = format!("{d:e}");
    let (digits, exponent) = scientific.split_once('e').unwrap_or((&scientific, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    if (-4..6).contains(&exponent) {
        return d.to_string();
    }
    let sign = if exponent < 0 { '-' } else { '+' };
    format!("{digits}e{sign}{:02}", exponent.abs())
}
