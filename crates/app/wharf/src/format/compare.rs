//! `eq`, `lt` and their like: numbers with numbers, texts with texts.

use std::cmp::Ordering;

use super::functions::{Made, first};
use super::value::Value;
use super::verbs;

/// `eq`: whether the first argument is equal to any of the others.
pub(super) fn equal(values: &[Value<'_>], room: usize) -> Result<bool, String> {
    let (one, others) = (first(values), values.get(1..).unwrap_or_default());
    if others.is_empty() {
        return Err("missing argument for comparison".into());
    }
    for other in others {
        let same = match (&one, other) {
            (Value::Missing | Value::Nil, other) => other.is_nil(),
            (_, Value::Missing | Value::Nil) => false,
            (Value::Bool(one), Value::Bool(other)) => one == other,
            (Value::List(_), Value::List(_)) | (Value::Map(_), Value::Map(_)) => {
                let shown = verbs::by_verb(other, 's', room)?;
                return Err(format!("non-comparable type {shown}: {}", other.type_name()));
            }
            (Value::List(_), Value::Map(_)) | (Value::Map(_), Value::List(_)) => {
                let (left, right) = (verbs::by_verb(&one, 's', room)?, verbs::by_verb(other, 'v', room)?);
                let (kind, other) = (one.type_name(), other.type_name());
                return Err(format!("non-comparable types {left}: {kind}, {other}: {right}"));
            }
            (one, other) => compared(one, other)?.is_some_and(Ordering::is_eq),
        };
        if same {
            return Ok(true);
        }
    }
    Ok(false)
}

/// How two numbers or texts stand to each other; floats compare with floats only.
fn compared(one: &Value<'_>, other: &Value<'_>) -> Result<Option<Ordering>, String> {
    let whole = |value: &Value<'_>| match value {
        Value::Int(number) => Some(i128::from(*number)),
        Value::Uint(number, _) => Some(i128::from(*number)),
        _ => None,
    };
    match (one, other) {
        (Value::Text(one), Value::Text(other)) => Ok(Some(one.cmp(other))),
        (Value::Float(one), Value::Float(other)) => Ok(one.partial_cmp(other)),
        _ => match (whole(one), whole(other)) {
            (Some(one), Some(other)) => Ok(Some(one.cmp(&other))),
            _ => {
                let (one, other) = (one.type_name(), other.type_name());
                Err(format!("incompatible types for comparison: {one} and {other}"))
            }
        },
    }
}

/// `lt` and its like.
pub(super) fn ordered<'v>(values: &[Value<'v>], wanted: fn(Ordering) -> bool) -> Made<'v> {
    let (one, other) = (first(values), values.get(1).cloned().unwrap_or(Value::Missing));
    let basic =
        |value: &Value<'_>| !matches!(value, Value::Missing | Value::Nil | Value::List(_) | Value::Map(_));
    let bools = matches!((&one, &other), (Value::Bool(_), Value::Bool(_)));
    if bools || !basic(&one) || !basic(&other) {
        return Err("invalid type for comparison".into());
    }
    Ok(Value::Bool(compared(&one, &other)?.is_some_and(wanted)))
}
