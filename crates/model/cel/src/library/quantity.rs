//! Quantities: Kubernetes' `pkg/cel/library/quantity.go`.

use wharf_base::Quantity;

use super::{Outcome, Row, no_overload};
use crate::{error::EvalError, value::Value};

pub(super) const ROWS: &[Row] = &[
    ("quantity", "string_to_quantity", "(string) -> quantity", |args| match args {
        [Value::String(text)] => parse(text).map(Value::Quantity).ok_or_else(|| {
            EvalError::new(
                "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'",
            )
        }),
        _ => no_overload(),
    }),
    ("isQuantity", "is_quantity_string", "(string) -> bool", |args| match args {
        [Value::String(text)] => Ok(Value::Bool(parse(text).is_some())),
        _ => no_overload(),
    }),
    ("sign", "quantity_sign", "quantity.() -> int", |args| match args {
        [Value::Quantity(q)] => Ok(Value::Int(q.nanos().signum() as i64)),
        _ => no_overload(),
    }),
    ("isGreaterThan", "quantity_is_greater_than", "quantity.(quantity) -> bool", |args| match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(Value::Bool(a > b)),
        _ => no_overload(),
    }),
    ("isLessThan", "quantity_is_less_than", "quantity.(quantity) -> bool", |args| match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(Value::Bool(a < b)),
        _ => no_overload(),
    }),
    ("compareTo", "quantity_compare_to", "quantity.(quantity) -> int", |args| match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(Value::Int(a.cmp(b) as i64)),
        _ => no_overload(),
    }),
    ("asApproximateFloat", "quantity_get_float", "quantity.() -> double", |args| match args {
        [Value::Quantity(q)] => Ok(Value::Double(q.as_f64())),
        _ => no_overload(),
    }),
    ("asInteger", "quantity_get_int", "quantity.() -> int", |args| match args {
        [Value::Quantity(q)] => {
            integer(*q).map(Value::Int).ok_or_else(|| EvalError::new("cannot convert value to integer"))
        }
        _ => no_overload(),
    }),
    ("isInteger", "quantity_is_integer", "quantity.() -> bool", |args| match args {
        [Value::Quantity(q)] => Ok(Value::Bool(integer(*q).is_some())),
        _ => no_overload(),
    }),
    ("add", "quantity_add", "quantity.(quantity) -> quantity", |args| combine(args, Quantity::plus)),
    ("add", "quantity_add_int", "quantity.(int) -> quantity", |args| combine(args, Quantity::plus)),
    ("sub", "quantity_sub", "quantity.(quantity) -> quantity", |args| combine(args, Quantity::minus)),
    ("sub", "quantity_sub_int", "quantity.(int) -> quantity", |args| combine(args, Quantity::minus)),
];

fn parse(text: &str) -> Option<Quantity> {
    text.parse().ok()
}

/// The whole units, unless there is a fraction. The largest amount stands for all that are larger.
fn integer(quantity: Quantity) -> Option<i64> {
    let whole = quantity.nanos() % 1_000_000_000 == 0;
    (whole && quantity.units().unsigned_abs() < i64::MAX as u64).then(|| quantity.units())
}

fn combine<'a>(args: &[Value<'a>], how: fn(Quantity, Quantity) -> Quantity) -> Outcome<'a> {
    match args {
        [Value::Quantity(a), Value::Quantity(b)] => Ok(Value::Quantity(how(*a, *b))),
        [Value::Quantity(a), Value::Int(b)] => Ok(Value::Quantity(how(*a, Quantity::from_units(*b)))),
        _ => no_overload(),
    }
}
