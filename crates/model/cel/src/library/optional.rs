//! Values that may be missing: cel-go's optional types.

use super::{Outcome, Row, no_overload};
use crate::{error::EvalError, value::Value};

pub(super) const ROWS: &[Row] = &[
    ("optional.of", "optional_of", "(A) -> optional(A)", |args| match args {
        [value] => Ok(Value::some(value.clone())),
        _ => no_overload(),
    }),
    ("optional.ofNonZeroValue", "optional_ofNonZeroValue", "(A) -> optional(A)", |args| match args {
        [value] if value.is_zero() => Ok(Value::Optional(None)),
        [value] => Ok(Value::some(value.clone())),
        _ => no_overload(),
    }),
    ("optional.none", "optional_none", "() -> optional(A)", |_| Ok(Value::Optional(None))),
    ("value", "optional_value", "optional(A).() -> A", |args| match args {
        [Value::Optional(Some(value))] => Ok((**value).clone()),
        [Value::Optional(None)] => Err(EvalError::new("optional.none() dereference")),
        _ => no_overload(),
    }),
    ("hasValue", "optional_hasValue", "optional(A).() -> bool", |args| match args {
        [Value::Optional(value)] => Ok(Value::Bool(value.is_some())),
        _ => no_overload(),
    }),
    // Evaluated on their own: the right side only if it is needed.
    ("or", "optional_or_optional", "optional(A).(optional(A)) -> optional(A)", |_| no_overload()),
    ("orValue", "optional_orValue_value", "optional(A).(A) -> A", |_| no_overload()),
    ("first", "list_first", "list(A).() -> optional(A)", |args| end(args, false)),
    ("last", "list_last", "list(A).() -> optional(A)", |args| end(args, true)),
    ("optional.unwrap", "optional_unwrap", "(list(optional(A))) -> list(A)", unwrap),
    ("unwrapOpt", "optional_unwrapOpt", "list(optional(A)).() -> list(A)", unwrap),
];

fn end<'a>(args: &[Value<'a>], last: bool) -> Outcome<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let at = if last { list.len().saturating_sub(1) } else { 0 };
    match list.get(at) {
        Some(value) => Ok(Value::some(value?)),
        None => Ok(Value::Optional(None)),
    }
}

fn unwrap<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut values = Vec::new();
    for item in list.iter() {
        match item? {
            Value::Optional(Some(value)) => values.push((*value).clone()),
            Value::Optional(None) => {}
            other => return Err(EvalError::new(format!("value {} is not optional", other.ty().head()))),
        }
    }
    Ok(Value::list(values))
}
