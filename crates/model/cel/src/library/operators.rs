//! Operators (cel-spec, "List of Standard Definitions").

use std::cmp::Ordering;

use super::{Outcome, Row, bounded, bounded_list, no_overload};
use crate::{
    error::EvalError,
    value::{Map, Value},
};

pub(super) const ROWS: &[Row] = &[
    // `?:`, `&&`, `||` and indexes are evaluated on their own; these rows are for the checker.
    ("_?_:_", "conditional", "(bool, A, A) -> A", never),
    ("_&&_", "logical_and", "(bool, bool) -> bool", never),
    ("_||_", "logical_or", "(bool, bool) -> bool", never),
    ("_[_]", "index_list", "(list(A), int) -> A", never),
    ("_[_]", "index_map", "(map(A, B), A) -> B", never),
    ("_[_]", "optional_list_index_int", "(optional(list(A)), int) -> optional(A)", never),
    ("_[_]", "optional_map_index_value", "(optional(map(A, B)), A) -> optional(B)", never),
    ("_[?_]", "list_optindex_optional_int", "(list(A), int) -> optional(A)", never),
    ("_[?_]", "optional_list_optindex_optional_int", "(optional(list(A)), int) -> optional(A)", never),
    ("_[?_]", "map_optindex_optional_value", "(map(A, B), A) -> optional(B)", never),
    ("_[?_]", "optional_map_optindex_optional_value", "(optional(map(A, B)), A) -> optional(B)", never),
    ("@not_strictly_false", "not_strictly_false", "(bool) -> bool", never),
    ("!_", "logical_not", "(bool) -> bool", not),
    ("_==_", "equals", "(A, A) -> bool", |a| Ok(Value::Bool(two(a)?.0.equals(two(a)?.1)))),
    ("_!=_", "not_equals", "(A, A) -> bool", |a| Ok(Value::Bool(!two(a)?.0.equals(two(a)?.1)))),
    ("_+_", "add_bytes", "(bytes, bytes) -> bytes", add),
    ("_+_", "add_double", "(double, double) -> double", add),
    ("_+_", "add_duration_duration", "(duration, duration) -> duration", add),
    ("_+_", "add_duration_timestamp", "(duration, timestamp) -> timestamp", add),
    ("_+_", "add_timestamp_duration", "(timestamp, duration) -> timestamp", add),
    ("_+_", "add_int64", "(int, int) -> int", add),
    ("_+_", "add_list", "(list(A), list(A)) -> list(A)", add),
    ("_+_", "add_string", "(string, string) -> string", add),
    ("_+_", "add_uint64", "(uint, uint) -> uint", add),
    ("_-_", "subtract_double", "(double, double) -> double", subtract),
    ("_-_", "subtract_duration_duration", "(duration, duration) -> duration", subtract),
    ("_-_", "subtract_int64", "(int, int) -> int", subtract),
    ("_-_", "subtract_timestamp_duration", "(timestamp, duration) -> timestamp", subtract),
    ("_-_", "subtract_timestamp_timestamp", "(timestamp, timestamp) -> duration", subtract),
    ("_-_", "subtract_uint64", "(uint, uint) -> uint", subtract),
    ("_*_", "multiply_double", "(double, double) -> double", multiply),
    ("_*_", "multiply_int64", "(int, int) -> int", multiply),
    ("_*_", "multiply_uint64", "(uint, uint) -> uint", multiply),
    ("_/_", "divide_double", "(double, double) -> double", divide),
    ("_/_", "divide_int64", "(int, int) -> int", divide),
    ("_/_", "divide_uint64", "(uint, uint) -> uint", divide),
    ("_%_", "modulo_int64", "(int, int) -> int", modulo),
    ("_%_", "modulo_uint64", "(uint, uint) -> uint", modulo),
    ("-_", "negate_double", "(double) -> double", negate),
    ("-_", "negate_int64", "(int) -> int", negate),
    ("_<_", "less_{C}", "({C}, {C}) -> bool", less),
    ("_<_", "less_int64_double", "(int, double) -> bool", less),
    ("_<_", "less_int64_uint64", "(int, uint) -> bool", less),
    ("_<_", "less_uint64_double", "(uint, double) -> bool", less),
    ("_<_", "less_uint64_int64", "(uint, int) -> bool", less),
    ("_<_", "less_double_int64", "(double, int) -> bool", less),
    ("_<_", "less_double_uint64", "(double, uint) -> bool", less),
    ("_<=_", "less_equals_{C}", "({C}, {C}) -> bool", less_equals),
    ("_<=_", "less_equals_int64_double", "(int, double) -> bool", less_equals),
    ("_<=_", "less_equals_int64_uint64", "(int, uint) -> bool", less_equals),
    ("_<=_", "less_equals_uint64_double", "(uint, double) -> bool", less_equals),
    ("_<=_", "less_equals_uint64_int64", "(uint, int) -> bool", less_equals),
    ("_<=_", "less_equals_double_int64", "(double, int) -> bool", less_equals),
    ("_<=_", "less_equals_double_uint64", "(double, uint) -> bool", less_equals),
    ("_>_", "greater_{C}", "({C}, {C}) -> bool", greater),
    ("_>_", "greater_int64_double", "(int, double) -> bool", greater),
    ("_>_", "greater_int64_uint64", "(int, uint) -> bool", greater),
    ("_>_", "greater_uint64_double", "(uint, double) -> bool", greater),
    ("_>_", "greater_uint64_int64", "(uint, int) -> bool", greater),
    ("_>_", "greater_double_int64", "(double, int) -> bool", greater),
    ("_>_", "greater_double_uint64", "(double, uint) -> bool", greater),
    ("_>=_", "greater_equals_{C}", "({C}, {C}) -> bool", greater_equals),
    ("_>=_", "greater_equals_int64_double", "(int, double) -> bool", greater_equals),
    ("_>=_", "greater_equals_int64_uint64", "(int, uint) -> bool", greater_equals),
    ("_>=_", "greater_equals_uint64_double", "(uint, double) -> bool", greater_equals),
    ("_>=_", "greater_equals_uint64_int64", "(uint, int) -> bool", greater_equals),
    ("_>=_", "greater_equals_double_int64", "(double, int) -> bool", greater_equals),
    ("_>=_", "greater_equals_double_uint64", "(double, uint) -> bool", greater_equals),
    ("@in", "in_list", "(A, list(A)) -> bool", contained),
    ("@in", "in_map", "(A, map(A, B)) -> bool", contained),
    ("size", "size_bytes", "(bytes) -> int", size),
    ("size", "bytes_size", "bytes.() -> int", size),
    ("size", "size_list", "(list(A)) -> int", size),
    ("size", "list_size", "list(A).() -> int", size),
    ("size", "size_map", "(map(A, B)) -> int", size),
    ("size", "map_size", "map(A, B).() -> int", size),
    ("size", "size_string", "(string) -> int", size),
    ("size", "string_size", "string.() -> int", size),
    ("cel.@mapInsert", "@mapInsert_key_value", "(map(A, B), A, B) -> map(A, B)", insert),
    ("cel.@mapInsert", "@mapInsert_map_map", "(map(A, B), map(A, B)) -> map(A, B)", insert),
];

fn never<'a>(_: &[Value<'a>]) -> Outcome<'a> {
    no_overload()
}

pub(super) fn two<'v, 'a>(args: &'v [Value<'a>]) -> Result<(&'v Value<'a>, &'v Value<'a>), EvalError> {
    match args {
        [a, b] => Ok((a, b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn overflow(what: &str) -> EvalError {
    EvalError::new(format!("{what} overflow"))
}

fn int<'a>(result: Option<i64>) -> Outcome<'a> {
    result.map(Value::Int).ok_or_else(|| overflow("integer"))
}

fn uint<'a>(result: Option<u64>) -> Outcome<'a> {
    result.map(Value::Uint).ok_or_else(|| overflow("unsigned integer"))
}

fn not<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Bool(b)] => Ok(Value::Bool(!b)),
        _ => no_overload(),
    }
}

pub(super) fn add<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    use Value::{Bytes, Double, Duration, Int, List, String, Timestamp, Uint};
    match args {
        [Int(a), Int(b)] => int(a.checked_add(*b)),
        [Uint(a), Uint(b)] => uint(a.checked_add(*b)),
        [Double(a), Double(b)] => Ok(Double(a + b)),
        [String(a), String(b)] => {
            bounded(a.len() + b.len())?;
            Ok(Value::string(format!("{}{}", &**a, &**b)))
        }
        [Bytes(a), Bytes(b)] => {
            bounded(a.len() + b.len())?;
            Ok(Bytes(a.iter().chain(b.iter()).copied().collect()))
        }
        [List(a), List(b)] => {
            bounded_list(a.len() + b.len())?;
            Ok(List(a.plus(b)?))
        }
        [Duration(a), Duration(b)] => Ok(Duration(a.plus(*b)?)),
        [Timestamp(t), Duration(d)] | [Duration(d), Timestamp(t)] => Ok(Timestamp(t.plus(d.0.into())?)),
        _ => no_overload(),
    }
}

fn subtract<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    use Value::{Double, Duration, Int, Timestamp, Uint};
    match args {
        [Int(a), Int(b)] => int(a.checked_sub(*b)),
        [Uint(a), Uint(b)] => uint(a.checked_sub(*b)),
        [Double(a), Double(b)] => Ok(Double(a - b)),
        [Duration(a), Duration(b)] => Ok(Duration(a.minus(*b)?)),
        [Timestamp(t), Duration(d)] => Ok(Timestamp(t.plus(-i128::from(d.0))?)),
        [Timestamp(a), Timestamp(b)] => Ok(Duration(a.since(*b)?)),
        _ => no_overload(),
    }
}

fn multiply<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(a), Value::Int(b)] => int(a.checked_mul(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_mul(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a * b)),
        _ => no_overload(),
    }
}

fn divide<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(EvalError::new("division by zero"))
        }
        [Value::Int(a), Value::Int(b)] => int(a.checked_div(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_div(*b)),
        [Value::Double(a), Value::Double(b)] => Ok(Value::Double(a / b)),
        _ => no_overload(),
    }
}

fn modulo<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(_), Value::Int(0)] | [Value::Uint(_), Value::Uint(0)] => {
            Err(EvalError::new("modulus by zero"))
        }
        [Value::Int(a), Value::Int(b)] => int(a.checked_rem(*b)),
        [Value::Uint(a), Value::Uint(b)] => uint(a.checked_rem(*b)),
        _ => no_overload(),
    }
}

fn negate<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Int(a)] => int(a.checked_neg()),
        [Value::Double(a)] => Ok(Value::Double(-a)),
        _ => no_overload(),
    }
}

fn ordered<'a>(args: &[Value<'a>], wanted: fn(Ordering) -> bool) -> Outcome<'a> {
    let (a, b) = two(args)?;
    Ok(Value::Bool(wanted(a.order(b)?)))
}

fn less<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    ordered(args, Ordering::is_lt)
}

fn less_equals<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    ordered(args, Ordering::is_le)
}

fn greater<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    ordered(args, Ordering::is_gt)
}

fn greater_equals<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    ordered(args, Ordering::is_ge)
}

fn contained<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [value, Value::List(list)] => Ok(Value::Bool(list.contains(value)?)),
        [key, Value::Map(map)] => match map.find(key) {
            None => Ok(Value::Bool(false)),
            Some(found) => found.map(|_| Value::Bool(true)),
        },
        _ => no_overload(),
    }
}

fn size<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [value @ (Value::String(_) | Value::Bytes(_) | Value::List(_) | Value::Map(_))] => {
            Ok(Value::Int(i64::try_from(value.size()).unwrap_or(i64::MAX)))
        }
        _ => no_overload(),
    }
}

fn insert<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let mut made = match args {
        [Value::Map(Map::Made(map)), ..] => (**map).clone(),
        _ => return no_overload(),
    };
    match args {
        [_, key, value] => made.insert(key.clone(), value.clone())?,
        [_, Value::Map(more)] => {
            for (key, value) in more.entries() {
                made.insert(key, value?)?;
            }
        }
        _ => return no_overload(),
    }
    Ok(Value::Map(Map::made(made)))
}
