//! Evaluation: pure, bounded in depth by the parser and in size here.

use std::cmp::Ordering;

use super::{
    BinaryOp, Expr, LogicalOp, MAX_MEMORY, Object, Value,
    functions::{self, Call},
    value::upper,
};

/// How things went so far, for the status functions.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default)]
pub struct Status {
    /// Nothing failed, was skipped or cancelled.
    pub success: bool,
    /// Something failed.
    pub failure: bool,
    /// It was cancelled.
    pub cancelled: bool,
}

/// What an expression sees.
pub struct Env<'a> {
    /// Contexts by name.
    pub contexts: &'a Object,
    /// For `success()` and the like.
    pub status: Status,
    /// `hashFiles(patterns)`.
    pub hash_files: &'a dyn Fn(&[String]) -> Result<String, String>,
}

/// Why an expression has no value.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{message}")]
pub struct EvalError {
    /// What is wrong.
    pub message: String,
    /// What to do.
    pub hint: Option<String>,
}

impl EvalError {
    pub(crate) fn new(message: impl Into<String>, hint: impl Into<String>) -> Self {
        Self { message: message.into(), hint: Some(hint.into()) }
    }
}

impl From<String> for EvalError {
    fn from(message: String) -> Self {
        Self { message, hint: None }
    }
}

/// A text grew too large.
pub(super) fn too_much() -> EvalError {
    let message = format!("the expression makes more than {MAX_MEMORY} bytes of text");
    EvalError::new(message, "keep large values in files, and pass them between jobs as artifacts")
}

pub(super) type Evaluated<T = Value> = Result<T, EvalError>;

/// The value of an expression.
///
/// # Errors
/// When a function is given what it cannot take, or the texts made grow beyond the limit.
pub fn evaluate(expression: &Expr, env: &Env<'_>) -> Evaluated {
    Evaluator { env, memory: 0 }.value(expression)
}

pub(super) struct Evaluator<'a> {
    pub(super) env: &'a Env<'a>,
    memory: usize,
}

impl Evaluator<'_> {
    /// Counts what was made, two bytes a character as upstream does.
    pub(super) fn made(&mut self, text: String) -> Evaluated {
        self.memory += 26 + 2 * text.len();
        if self.memory > MAX_MEMORY {
            return Err(too_much());
        }
        Ok(text.into())
    }

    fn value(&mut self, expression: &Expr) -> Evaluated {
        match expression {
            Expr::Literal(value) => Ok(value.clone()),
            Expr::Context(name) => Ok(self.env.contexts.get(name).cloned().unwrap_or_default()),
            Expr::Index(base, index) => {
                let index = self.value(index)?;
                Ok(part(&self.value(base)?, &index))
            }
            Expr::Star(base) => Ok(all_parts(&self.value(base)?)),
            Expr::Not(inner) => Ok(Value::Bool(!self.value(inner)?.truthy())),
            Expr::Binary(op, left, right) => {
                let (left, right) = (self.value(left)?, self.value(right)?);
                Ok(Value::Bool(compare(*op, &left, &right)))
            }
            Expr::Logical(op, parts) => self.logical(*op, parts),
            Expr::Call(name, args) => {
                let args = args.iter().map(|arg| self.value(arg)).collect::<Evaluated<Vec<_>>>()?;
                functions::call(self, Call { name, args: &args })
            }
        }
    }

    fn logical(&mut self, op: LogicalOp, parts: &[Expr]) -> Evaluated {
        let mut last = Value::Null;
        for part in parts {
            last = self.value(part)?;
            if last.truthy() == (op == LogicalOp::Or) {
                break;
            }
        }
        Ok(last)
    }
}

/// A whole number that can index a list.
fn place(index: &Value) -> Option<usize> {
    let number = index.to_number();
    // Beyond 2^53 no list reaches.
    (number.is_finite() && (0.0..9e15).contains(&number)).then_some(number as usize)
}

fn part(base: &Value, index: &Value) -> Value {
    match base {
        Value::Array { items, filtered: false } => {
            place(index).and_then(|place| items.get(place)).cloned().unwrap_or_default()
        }
        Value::Array { items, filtered: true } => {
            Value::filtered(items.iter().filter_map(|item| part_of_item(item, index)).collect())
        }
        Value::Object(object) if index.is_primitive() => {
            object.get(&index.to_text()).cloned().unwrap_or_default()
        }
        _ => Value::Null,
    }
}

fn part_of_item(item: &Value, index: &Value) -> Option<Value> {
    match item {
        Value::Object(object) if index.is_primitive() => object.get(&index.to_text()).cloned(),
        Value::Array { items, .. } => place(index).and_then(|place| items.get(place)).cloned(),
        _ => None,
    }
}

fn all_parts(base: &Value) -> Value {
    let parts = |value: &Value| match value {
        Value::Array { items, .. } => items.to_vec(),
        Value::Object(object) => object.iter().map(|(_, value)| value.clone()).collect(),
        _ => Vec::new(),
    };
    match base {
        Value::Array { items, filtered: true } => Value::filtered(items.iter().flat_map(parts).collect()),
        other => Value::filtered(parts(other)),
    }
}

fn compare(op: BinaryOp, left: &Value, right: &Value) -> bool {
    let order = ordering(left, right);
    match op {
        BinaryOp::Equal => equal(left, right),
        BinaryOp::NotEqual => !equal(left, right),
        BinaryOp::Greater => order == Some(Ordering::Greater),
        BinaryOp::GreaterEqual => order == Some(Ordering::Greater) || equal(left, right),
        BinaryOp::Less => order == Some(Ordering::Less),
        BinaryOp::LessEqual => order == Some(Ordering::Less) || equal(left, right),
    }
}

/// Loose equality: kinds that differ are compared as numbers, texts regardless of case, lists and mappings by identity.
pub(super) fn equal(left: &Value, right: &Value) -> bool {
    match (left, right) {
        (Value::Array { items: a, .. }, Value::Array { items: b, .. }) => std::sync::Arc::ptr_eq(a, b),
        (Value::Object(a), Value::Object(b)) => std::sync::Arc::ptr_eq(a, b),
        _ => ordering(left, right) == Some(Ordering::Equal),
    }
}

fn ordering(left: &Value, right: &Value) -> Option<Ordering> {
    match (left, right) {
        (Value::Null, Value::Null) => Some(Ordering::Equal),
        (Value::String(a), Value::String(b)) => Some(upper(a).encode_utf16().cmp(upper(b).encode_utf16())),
        (Value::Bool(a), Value::Bool(b)) => Some(a.cmp(b)),
        (Value::Array { .. } | Value::Object(_), _) | (_, Value::Array { .. } | Value::Object(_)) => None,
        _ => left.to_number().partial_cmp(&right.to_number()),
    }
}
