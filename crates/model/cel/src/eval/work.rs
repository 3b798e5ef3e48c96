//! Work cost does not count: cost is what upstream charges, where going through the parts of parts is free
//! and an evaluation is cut off by the clock. Here it is counted, and what comes to too much is refused as if
//! it had cost too much.

use super::{Evaluation, Outcome};
use crate::{
    error::EvalError,
    value::{Value, weight::HEAVIEST},
};

/// How many parts of values one evaluation may go through.
const MOST_STEPS: u64 = 2 * HEAVIEST;
/// How many bytes of texts and lists it may make.
const MOST_BYTES: u64 = 4 * crate::library::LARGEST_RESULT as u64;

#[derive(Debug, Default)]
pub(super) struct Work {
    steps: u64,
    bytes: u64,
}

impl<'p> Evaluation<'p> {
    /// Counts parts gone through.
    pub(super) fn toil(&mut self, steps: u64) -> Result<(), EvalError> {
        self.work.steps = self.work.steps.saturating_add(steps);
        if self.work.steps > MOST_STEPS { Err(EvalError::cost_limit()) } else { Ok(()) }
    }

    /// Counts what a result has brought about, unless it is part of what was there before.
    pub(super) fn made(&mut self, value: Value<'p>) -> Outcome<'p> {
        if let Some(made) = value.made() {
            self.grown(0, made.weight)?;
            self.work.bytes = self.work.bytes.saturating_add(made.bytes);
            if self.work.bytes > MOST_BYTES {
                return Err(EvalError::cost_limit());
            }
        }
        Ok(value)
    }

    /// Counts what has been added to a value.
    pub(super) fn grown(&mut self, before: u64, weight: u64) -> Result<(), EvalError> {
        if weight > HEAVIEST {
            return Err(EvalError::cost_limit());
        }
        self.toil(weight.saturating_sub(before))
    }
}

/// What a call goes through at most, besides what it makes.
pub(super) fn of_call(function: &str, args: &[Value<'_>]) -> u64 {
    let own = args.iter().map(Value::own_weight).fold(0, u64::saturating_add);
    let walked = match (function, args) {
        ("_==_" | "_!=_", [a, b]) => compared(a, b),
        ("@in", [value, Value::List(list)]) => {
            list.len() as u64 + searched(value, list.len(), || list.weight())
        }
        ("indexOf" | "lastIndexOf", [Value::List(list), value]) => {
            value.weight().saturating_add(list.weight())
        }
        ("isSorted" | "sum" | "max" | "min" | "flatten" | "join", [list, ..]) => list.weight(),
        ("format", [_, list]) => list.weight(),
        ("distinct" | "sort", [list]) => pairs(list, list),
        ("@sortByAssociatedKeys", [_, keys]) => pairs(keys, keys),
        ("sets.contains" | "sets.equivalent" | "sets.intersects", [a, b]) => pairs(a, b),
        _ => 0,
    };
    own.saturating_add(walked)
}

/// Both, unless they differ at first sight.
fn compared(a: &Value<'_>, b: &Value<'_>) -> u64 {
    let alike = match (a, b) {
        (Value::List(a), Value::List(b)) => a.len() == b.len(),
        (Value::Map(a), Value::Map(b)) => a.len() == b.len(),
        (Value::Optional(Some(_)), Value::Optional(Some(_))) => true,
        _ => false,
    };
    if alike { a.weight().saturating_add(b.weight()) } else { 1 }
}

/// Looking for a value among others: only what has parts may be compared with all theirs.
fn searched(value: &Value<'_>, len: usize, weight: impl Fn() -> u64) -> u64 {
    if matches!(value, Value::List(_) | Value::Map(_) | Value::Optional(_)) {
        weight().saturating_add(value.weight().saturating_mul(len.min(1) as u64))
    } else {
        0
    }
}

/// Every element of one list with every one of another; where either has only scalars, cost counts it.
fn pairs(a: &Value<'_>, b: &Value<'_>) -> u64 {
    let (Value::List(a), Value::List(b)) = (a, b) else { return 1 };
    let (all_a, all_b) = (a.weight(), b.weight());
    let (n, m) = (a.len() as u64, b.len() as u64);
    if all_a == n + 1 || all_b == m + 1 {
        return n.saturating_add(m);
    }
    n.saturating_mul(all_b).min(m.saturating_mul(all_a))
}
