//! Lists as sets: cel-go's `ext.Sets`.

use super::{Outcome, Row, no_overload};
use crate::{
    error::EvalError,
    value::{List, Value},
};

pub(super) const ROWS: &[Row] = &[
    ("sets.contains", "list_sets_contains_list", "(list(A), list(A)) -> bool", |args| match args {
        [Value::List(a), Value::List(b)] => Ok(Value::Bool(contains(a, b)?)),
        _ => no_overload(),
    }),
    ("sets.equivalent", "list_sets_equivalent_list", "(list(A), list(A)) -> bool", |args| match args {
        [Value::List(a), Value::List(b)] => Ok(Value::Bool(contains(a, b)? && contains(b, a)?)),
        _ => no_overload(),
    }),
    ("sets.intersects", "list_sets_intersects_list", "(list(A), list(A)) -> bool", intersects),
];

fn contains<'a>(list: &List<'a>, part: &List<'a>) -> Result<bool, EvalError> {
    for value in part.iter() {
        if !list.contains(&value?)? {
            return Ok(false);
        }
    }
    Ok(true)
}

fn intersects<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(a), Value::List(b)] = args else { return no_overload() };
    for value in a.iter() {
        if b.contains(&value?)? {
            return Ok(Value::Bool(true));
        }
    }
    Ok(Value::Bool(false))
}
