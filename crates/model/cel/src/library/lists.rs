//! Lists: Kubernetes' own functions (`pkg/cel/library/lists.go`) and cel-go's `ext.Lists`, version 3.

use std::cmp::Ordering;

use super::{Outcome, Row, bounded_list, no_overload, operators::add};
use crate::{
    error::EvalError,
    value::{List, Value},
};

pub(super) const ROWS: &[Row] = &[
    ("isSorted", "list_{C}_is_sorted_bool", "list({C}).() -> bool", is_sorted),
    ("sum", "list_int_sum_int", "list(int).() -> int", |a| sum(a, Value::Int(0))),
    ("sum", "list_uint_sum_uint", "list(uint).() -> uint", |a| sum(a, Value::Uint(0))),
    ("sum", "list_double_sum_double", "list(double).() -> double", |a| sum(a, Value::Double(0.0))),
    ("sum", "list_duration_sum_duration", "list(duration).() -> duration", |a| {
        sum(a, Value::Duration(crate::value::Duration(0)))
    }),
    ("max", "list_{C}_max_{C}", "list({C}).() -> {C}", |a| extreme(a, "max", Ordering::Less)),
    ("min", "list_{C}_min_{C}", "list({C}).() -> {C}", |a| extreme(a, "min", Ordering::Greater)),
    ("indexOf", "list_a_index_of_int", "list(A).(A) -> int", |a| position(a, false)),
    ("lastIndexOf", "list_a_last_index_of_int", "list(A).(A) -> int", |a| position(a, true)),
];

pub(super) const EXTENSION_ROWS: &[Row] = &[
    ("slice", "list_slice", "list(A).(int, int) -> list(A)", slice),
    ("flatten", "list_flatten", "list(list(A)).() -> list(A)", flatten),
    ("flatten", "list_flatten_int", "list(dyn).(int) -> list(dyn)", flatten),
    ("sort", "list_{C}_sort", "list({C}).() -> list({C})", sort),
    ("@sortByAssociatedKeys", "list_{C}_sortByAssociatedKeys", "list(A).(list({C})) -> list(A)", sort),
    ("lists.range", "lists_range", "(int) -> list(int)", range),
    ("reverse", "list_reverse", "list(A).() -> list(A)", reverse),
    ("distinct", "list_distinct", "list(A).() -> list(A)", distinct),
];

fn values<'a>(list: &List<'a>) -> Result<Vec<Value<'a>>, EvalError> {
    list.iter().collect()
}

fn is_sorted<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    for pair in values(list)?.windows(2) {
        if let [a, b] = pair
            && a.order(b)?.is_gt()
        {
            return Ok(Value::Bool(false));
        }
    }
    Ok(Value::Bool(true))
}

fn sum<'a>(args: &[Value<'a>], zero: Value<'a>) -> Outcome<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    list.iter().try_fold(zero, |total, value| add(&[total, value?]))
}

fn extreme<'a>(args: &[Value<'a>], name: &str, replaced: Ordering) -> Outcome<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut best: Option<Value<'a>> = None;
    for value in list.iter() {
        let value = value?;
        let better = match &best {
            None => true,
            Some(best) => best.order(&value)? == replaced,
        };
        if better {
            best = Some(value);
        }
    }
    best.ok_or_else(|| EvalError::new(format!("{name} called on empty list")))
}

fn position<'a>(args: &[Value<'a>], last: bool) -> Outcome<'a> {
    let [Value::List(list), wanted] = args else { return no_overload() };
    let values = values(list)?;
    let found = if last {
        values.iter().rposition(|v| v.equals(wanted))
    } else {
        values.iter().position(|v| v.equals(wanted))
    };
    Ok(Value::Int(found.map_or(-1, |i| i as i64)))
}

fn slice<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(list), Value::Int(start), Value::Int(end)] = args else { return no_overload() };
    let refused = |why: String| Err(EvalError::new(format!("cannot slice({start}, {end}), {why}")));
    let (Ok(from), Ok(to)) = (usize::try_from(*start), usize::try_from(*end)) else {
        return refused("negative indexes not supported".to_owned());
    };
    if from > to {
        return refused("start index must be less than or equal to end index".to_owned());
    }
    if to > list.len() {
        return refused(format!("list is length {}", list.len()));
    }
    Ok(Value::list((from..to).filter_map(|i| list.get(i)).collect::<Result<_, _>>()?))
}

fn flatten<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (list, depth) = match args {
        [Value::List(list)] => (list, 1),
        [Value::List(list), Value::Int(depth)] => (list, *depth),
        _ => return no_overload(),
    };
    if depth < 0 {
        return Err(EvalError::new("level must be non-negative"));
    }
    // Lists within lists, each with how many levels may still be opened; a stack instead of recursion.
    let mut flat = Vec::new();
    let mut open = vec![(list.clone(), 0, depth)];
    while let Some((list, next, depth)) = open.pop() {
        let Some(value) = list.get(next) else { continue };
        open.push((list, next + 1, depth));
        match value? {
            Value::List(inner) if depth > 0 => open.push((inner, 0, depth - 1)),
            value => flat.push(value),
        }
        bounded_list(flat.len())?;
    }
    Ok(Value::list(flat))
}

fn sort<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (list, keys) = match args {
        [Value::List(list)] => (list, list),
        [Value::List(list), Value::List(keys)] => (list, keys),
        _ => return no_overload(),
    };
    if list.len() != keys.len() {
        return Err(EvalError::new(format!(
            "@sortByAssociatedKeys() expected a list of the same size as the associated keys list, but got {} and {} elements respectively",
            list.len(),
            keys.len()
        )));
    }
    let keys = values(keys)?;
    if let Some(first) = keys.first() {
        let comparable = first.order(first).is_ok() || matches!(first, Value::Double(_));
        if !comparable {
            return Err(EvalError::new("list elements must be comparable"));
        }
        if keys.iter().any(|key| !key.ty().same_head(&first.ty())) {
            return Err(EvalError::new("list elements must have the same type"));
        }
    }
    let mut pairs: Vec<_> = keys.into_iter().zip(values(list)?).collect();
    pairs.sort_by(|(a, _), (b, _)| a.order(b).unwrap_or(Ordering::Equal));
    Ok(Value::list(pairs.into_iter().map(|(_, value)| value).collect()))
}

fn range<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::Int(n)] = args else { return no_overload() };
    bounded_list(usize::try_from(*n).unwrap_or(0))?;
    Ok(Value::list((0..*n).map(Value::Int).collect()))
}

fn reverse<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut values = values(list)?;
    values.reverse();
    Ok(Value::list(values))
}

fn distinct<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::List(list)] = args else { return no_overload() };
    let mut unique: Vec<Value<'a>> = Vec::new();
    for value in list.iter() {
        let value = value?;
        if !unique.iter().any(|other| other.equals(&value)) {
            unique.push(value);
        }
    }
    Ok(Value::list(unique))
}
