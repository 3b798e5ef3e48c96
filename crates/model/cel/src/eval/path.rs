//! Ways through data: variables, fields, indexes.

use super::{Evaluation, Outcome};
use crate::{
    error::EvalError,
    plan::{Node, Path, Root, Step, StepKind},
    value::{Map, Value, key_text, position},
};

impl<'p> Evaluation<'p> {
    /// The value a path leads to. A branch of a conditional, or an index, costs one less.
    pub(super) fn path(&mut self, path: &'p Path, inner: bool) -> Outcome<'p> {
        let mut value = self.root(&path.root, path.at)?;
        let mut optional = false;
        for step in &path.steps {
            let (next, was_optional) = unwrapped(value);
            optional |= step.optional || was_optional;
            let Some(next) = next else { return self.arrived(path, inner, Value::Optional(None)) };
            match self.step(step, next, optional) {
                Ok(Some(next)) => value = next,
                Ok(None) => return self.arrived(path, inner, Value::Optional(None)),
                Err(error) if error.is_final() => return Err(error),
                // A way that ends in a failure costs as much as one that does not.
                Err(error) => return self.arrived(path, inner, Value::Null).and(Err(error)),
            }
        }
        let value = match value {
            made @ Value::Optional(_) if path.steps.is_empty() || !optional => made,
            value if optional => Value::some(value),
            value => value,
        };
        self.arrived(path, inner, value)
    }

    fn arrived(&mut self, path: &'p Path, inner: bool, value: Value<'p>) -> Outcome<'p> {
        if !inner && !matches!(path.root, Root::Conditional(_)) {
            self.charge(1)?;
        }
        Ok(value)
    }

    fn root(&mut self, root: &'p Root, at: u32) -> Outcome<'p> {
        match root {
            Root::Global(i) => match self.globals.get(*i).cloned().flatten() {
                Some(value) => value.map_err(|error| error.located(at)),
                None => Err(EvalError::new(format!(
                    "no such attribute(s): {}",
                    self.names.get(*i).map_or("", |n| n)
                ))
                .located(at)),
            },
            Root::Local(i) => Ok(self.locals.get(*i).cloned().unwrap_or_default()),
            Root::Node(node) => self.eval(node),
            Root::Conditional(parts) => self.conditional(parts),
        }
    }

    /// The next value, none if it is optional and not there.
    fn step(
        &mut self,
        step: &'p Step,
        value: Value<'p>,
        optional: bool,
    ) -> Result<Option<Value<'p>>, EvalError> {
        let (found, index) = match &step.kind {
            StepKind::Field(name, json) => (self.field(&value, name, json.as_deref()), None),
            StepKind::Index(node) => {
                let index = match node {
                    Node::Path(path) => self.path(path, true)?,
                    other => self.eval(other)?,
                };
                (element(&value, &index), Some(index))
            }
        };
        if found.is_none() && optional {
            return Ok(None);
        }
        self.charge(1)?;
        let found = found.unwrap_or_else(|| Err(missing(step, &value, index)));
        found.map(Some).map_err(|error| error.located(step.at))
    }

    fn field(&self, value: &Value<'p>, name: &'p str, json: Option<&str>) -> Option<Outcome<'p>> {
        match value {
            Value::Map(map) => {
                if matches!(map, Map::Object(..)) && json.is_none() {
                    return None;
                }
                map.field(name, json)
            }
            Value::List(_) => position(&Value::text(name)).err().map(Err),
            // What has no fields is as if it had not this one.
            _ => None,
        }
    }

    /// `has(a.b.c)`: all steps but the last must lead somewhere.
    pub(super) fn has(&mut self, path: &'p Path) -> Outcome<'p> {
        let mut value = self.root(&path.root, path.at)?;
        let Some((last, before)) = path.steps.split_last() else { return Ok(Value::Bool(true)) };
        let mut optional = false;
        for step in before {
            let (next, was_optional) = unwrapped(value);
            optional |= step.optional || was_optional;
            let Some(next) = next else { return Ok(Value::Bool(false)) };
            match self.step(step, next, optional)? {
                Some(next) => value = next,
                None => return Ok(Value::Bool(false)),
            }
        }
        let (Some(value), _) = unwrapped(value) else { return Ok(Value::Bool(false)) };
        let StepKind::Field(name, json) = &last.kind else { return Err(EvalError::no_such_overload()) };
        let found = self.field(&value, name, json.as_deref());
        self.charge(1)?;
        match found {
            None => Ok(Value::Bool(false)),
            Some(found) => found.map(|_| Value::Bool(true)).map_err(|error| error.located(last.at)),
        }
    }
}

/// What is in an optional, and whether it was one.
fn unwrapped(value: Value<'_>) -> (Option<Value<'_>>, bool) {
    match value {
        Value::Optional(inner) => (inner.map(|inner| (*inner).clone()), true),
        value => (Some(value), false),
    }
}

fn element<'p>(value: &Value<'p>, index: &Value<'p>) -> Option<Outcome<'p>> {
    match value {
        Value::List(list) => match position(index) {
            Ok(i) => usize::try_from(i).ok().and_then(|i| list.get(i)),
            Err(error) => Some(Err(error)),
        },
        Value::Map(map) => map.find(index),
        _ => None,
    }
}

fn missing(step: &Step, value: &Value<'_>, index: Option<Value<'_>>) -> EvalError {
    match (&step.kind, value, index) {
        (StepKind::Field(name, _), ..) => EvalError::no_such_key(name),
        (_, Value::List(_), Some(index)) => EvalError::out_of_bounds(position(&index).unwrap_or_default()),
        (_, _, index) => EvalError::no_such_key(&key_text(&index.unwrap_or_default())),
    }
}
