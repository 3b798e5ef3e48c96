//! Calls of functions: their arguments are counted, evaluated and checked for their types.

use std::fmt::Display;

use super::eval::{Done, Run};
use super::functions::{Apply, Function, Kind};
use super::tree::{Operand, OperandKind};
use super::value::{Item, Value};

impl<'v> Run<'v> {
    /// The value of a function; `last` is what a pipeline adds to the arguments, `whole` the call for errors.
    pub(super) fn call<C: Display>(
        &mut self,
        function: &Function,
        whole: (usize, &'v C),
        arguments: &'v [Operand],
        dot: &Item<'v>,
        last: Option<Item<'v>>,
    ) -> Done<Value<'v>> {
        self.count(function, arguments.len(), usize::from(last.is_some()))?;
        let until = match function.apply {
            Apply::And => Some(false),
            Apply::Or => Some(true),
            Apply::Plain(_) => None,
        };
        let mut values = Vec::with_capacity(arguments.len() + 1);
        for (index, argument) in arguments.iter().enumerate() {
            let value = self.argument(argument, function.kind(index), dot)?;
            self.step(1 + value.size() / 64)?;
            if until == Some(value.truth()) {
                return Ok(value);
            }
            values.push(value);
        }
        if let Some(item) = last {
            self.step(1 + item.value.size() / 64)?;
            values.push(self.checked(item, function.kind(arguments.len()))?);
        }
        let Apply::Plain(apply) = function.apply else { return Ok(values.pop().unwrap_or(Value::Missing)) };
        match apply(&values, self.room) {
            Ok(value) => {
                self.room = self.room.saturating_sub(value.made());
                Ok(value)
            }
            Err(wrong) => {
                self.at(whole.0, whole.1);
                self.fail(&format!("error calling {}: {wrong}", function.name))
            }
        }
    }

    fn count(&self, function: &Function, written: usize, added: usize) -> Done<()> {
        let (name, fixed, given) = (function.name, function.parameters.len(), written + added);
        if function.rest.is_some() {
            if given < fixed {
                return self
                    .fail(&format!("wrong number of args for {name}: want at least {fixed} got {written}"));
            }
        } else if given != fixed {
            return self.fail(&format!("wrong number of args for {name}: want {fixed} got {given}"));
        }
        Ok(())
    }

    fn argument(&mut self, operand: &'v Operand, kind: Kind, dot: &Item<'v>) -> Done<Value<'v>> {
        self.at(operand.at, operand);
        let constant = match &operand.kind {
            OperandKind::Nil if kind != Kind::Any => {
                return self.fail(&format!("cannot assign nil to {}", kind.name()));
            }
            OperandKind::Bool(_) => true,
            OperandKind::Text(..) => kind != Kind::Text,
            OperandKind::Number(number) => match (kind, number.whole) {
                (Kind::Int, Some(whole)) => return Ok(Value::Int(whole)),
                _ => true,
            },
            _ => false,
        };
        if constant && kind != Kind::Any {
            let expected = if kind == Kind::Int { "integer" } else { "string" };
            return self.fail(&format!("expected {expected}; found {operand}"));
        }
        let item = self.operand(operand, dot, false)?;
        self.checked(item, kind)
    }

    fn checked(&self, item: Item<'v>, kind: Kind) -> Done<Value<'v>> {
        match (kind, &item.value) {
            (Kind::Any, _) | (Kind::Text, Value::Text(_)) | (Kind::Int, Value::Int(_)) => {
                return Ok(item.value);
            }
            (_, Value::Missing | Value::Nil) if !item.boxed => {
                return self.fail(&format!("invalid value; expected {}", kind.name()));
            }
            _ => {}
        }
        let got = if item.value.is_nil() { "interface {}" } else { item.value.type_name() };
        self.fail(&format!("wrong type for value; expected {}; got {got}", kind.name()))
    }
}
