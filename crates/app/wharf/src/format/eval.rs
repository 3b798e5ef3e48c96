//! Walks a template over a value.

use std::fmt::Display;

use serde_json::Value as Json;

use super::sink::Sink;
use super::tree::{Branch, Command, Operand, OperandKind, Pipe, Statement};
use super::value::{Held, Item, Value, are_texts};
use super::{MAX_MADE, MAX_STEPS, MAX_TEXT, Missing, Template, verbs};

/// The text of a template for a value, or the error with its place.
pub(super) fn render(template: &Template, value: &Json) -> Result<String, String> {
    let dot = Item::plain(Value::of(value));
    let mut run = Run {
        template,
        out: Sink::new(MAX_TEXT),
        variables: vec![("$", dot.clone())],
        at: 0,
        node: &"",
        steps: MAX_STEPS,
        room: MAX_MADE,
    };
    run.statements(&template.body, &dot)?;
    run.out.finish()
}

fn located(template: &Template, at: usize, node: &dyn Display, wrong: &str) -> String {
    let before = template.text.get(..at).unwrap_or_default();
    let line = 1 + before.matches('\n').count();
    let column = before.rsplit('\n').next().map_or(0, str::len);
    format!("template: :{line}:{column}: executing \"\" at <{node}>: {wrong}")
}

pub(super) struct Run<'v> {
    template: &'v Template,
    out: Sink,
    /// Innermost last.
    variables: Vec<(&'v str, Item<'v>)>,
    /// Where the part stands that is being evaluated, and the part, for errors.
    at: usize,
    node: &'v dyn Display,
    steps: u64,
    /// Bytes that functions may still make.
    pub(super) room: usize,
}

/// How the walk goes on behind a statement.
#[derive(PartialEq, Eq)]
enum Flow {
    Next,
    Break,
    Continue,
}

pub(super) type Done<T> = Result<T, String>;

impl<'v> Run<'v> {
    pub(super) fn fail<T>(&self, wrong: &str) -> Done<T> {
        Err(located(self.template, self.at, self.node, wrong))
    }

    pub(super) fn at(&mut self, at: usize, node: &'v dyn Display) {
        (self.at, self.node) = (at, node);
    }

    /// Counts work, and ends what never ends.
    pub(super) fn step(&mut self, work: usize) -> Done<()> {
        match self.steps.checked_sub(work as u64) {
            Some(left) => self.steps = left,
            None => return self.fail("the template takes too many steps"),
        }
        Ok(())
    }

    fn statements(&mut self, list: &'v [Statement], dot: &Item<'v>) -> Done<Flow> {
        for statement in list {
            let flow = self.statement(statement, dot)?;
            if flow != Flow::Next {
                return Ok(flow);
            }
        }
        Ok(Flow::Next)
    }

    fn statement(&mut self, statement: &'v Statement, dot: &Item<'v>) -> Done<Flow> {
        self.step(1)?;
        match statement {
            Statement::Text(text) => self.out.push(text),
            Statement::Action(pipe) => {
                let value = self.pipe(pipe, dot)?;
                if pipe.variables.is_empty() {
                    self.at(pipe.at, pipe);
                    verbs::display(&mut self.out, &value);
                }
            }
            Statement::Branch(branch) => return self.branch(branch, dot),
            Statement::Range { pipe, body, otherwise } => {
                let known = self.variables.len();
                let flow = self.range(pipe, body, otherwise, dot)?;
                self.variables.truncate(known);
                return Ok(flow);
            }
            Statement::Break => return Ok(Flow::Break),
            Statement::Continue => return Ok(Flow::Continue),
        }
        if self.out.is_full() {
            return self.fail(&format!("the output is longer than {MAX_TEXT} bytes"));
        }
        Ok(Flow::Next)
    }

    fn branch(&mut self, branch: &'v Branch, dot: &Item<'v>) -> Done<Flow> {
        let known = self.variables.len();
        for (pipe, body) in &branch.arms {
            let value = self.pipe(pipe, dot)?;
            if value.truth() {
                let inner = if branch.with { Item::plain(value) } else { dot.clone() };
                let flow = self.statements(body, &inner)?;
                self.variables.truncate(known);
                return Ok(flow);
            }
        }
        let flow = self.statements(&branch.otherwise, dot)?;
        self.variables.truncate(known);
        Ok(flow)
    }

    fn range(
        &mut self,
        pipe: &'v Pipe,
        body: &'v [Statement],
        otherwise: &'v [Statement],
        dot: &Item<'v>,
    ) -> Done<Flow> {
        let value = self.pipe(pipe, dot)?;
        let rounds = match &value {
            Value::Missing | Value::Nil => 0,
            Value::Int(_) | Value::Uint(..) if pipe.variables.len() > 1 => {
                let wrong = "to iterate over more than one variable";
                return self.fail(&format!("can't use {} {wrong}", self.shown(&value)?));
            }
            Value::Int(count) => u64::try_from(*count).unwrap_or(0),
            Value::Uint(count, _) => *count,
            Value::List(items) => items.len() as u64,
            Value::Map(map) => map.len() as u64,
            other => return self.fail(&format!("range can't iterate over {}", self.shown(other)?)),
        };
        if rounds == 0 {
            return self.statements(otherwise, dot);
        }
        let entries = Entries::of(&value);
        self.step(value.size() / 64)?;
        for round in 0..rounds {
            self.step(1)?;
            let (key, element) = entries.entry(round);
            if self.round(pipe, key, element, body)? == Flow::Break {
                break;
            }
        }
        Ok(Flow::Next)
    }

    fn shown(&self, value: &Value<'v>) -> Done<String> {
        verbs::by_verb(value, 'v', self.room).or_else(|wrong| self.fail(&wrong))
    }

    fn round(
        &mut self,
        pipe: &'v Pipe,
        key: Value<'v>,
        element: Item<'v>,
        body: &'v [Statement],
    ) -> Done<Flow> {
        let known = self.variables.len();
        match pipe.variables.as_slice() {
            [index, name] => {
                self.range_variable(pipe, 2, index, Item::plain(key))?;
                self.range_variable(pipe, 1, name, element.clone())?;
            }
            [name] => self.range_variable(pipe, 1, name, element.clone())?,
            _ => {}
        }
        let flow = self.statements(body, &element)?;
        self.variables.truncate(known);
        Ok(flow)
    }

    /// Gives a variable of `range` its next value; those it began are the last ones known.
    fn range_variable(&mut self, pipe: &Pipe, from_end: usize, name: &str, item: Item<'v>) -> Done<()> {
        if pipe.assign {
            return self.assign(name, item);
        }
        let index = self.variables.len().checked_sub(from_end);
        if let Some(variable) = index.and_then(|index| self.variables.get_mut(index)) {
            variable.1 = item;
        }
        Ok(())
    }

    fn assign(&mut self, name: &str, item: Item<'v>) -> Done<()> {
        match self.variables.iter_mut().rfind(|(known, _)| *known == name) {
            Some(variable) => variable.1 = item,
            None => return self.fail(&format!("undefined variable: {name}")),
        }
        Ok(())
    }

    /// The value of a pipeline, which its variables get too.
    pub(super) fn pipe(&mut self, pipe: &'v Pipe, dot: &Item<'v>) -> Done<Value<'v>> {
        self.at(pipe.at, pipe);
        let mut last = None;
        for command in &pipe.commands {
            self.step(1)?;
            last = Some(Item::plain(self.command(command, dot, last)?));
        }
        let item = last.unwrap_or(Item::plain(Value::Missing));
        for name in &pipe.variables {
            if pipe.assign {
                self.assign(name, item.clone())?;
            } else {
                self.variables.push((name, item.clone()));
            }
        }
        Ok(item.value)
    }

    fn command(&mut self, command: &'v Command, dot: &Item<'v>, last: Option<Item<'v>>) -> Done<Value<'v>> {
        let first = &command.first;
        let given = !command.arguments.is_empty() || last.is_some();
        let item = match &first.kind {
            OperandKind::Function(function) => {
                self.at(first.at, first);
                return self.call(function, (command.at, command), &command.arguments, dot, last);
            }
            OperandKind::Fields(_) | OperandKind::Chain(..) => self.operand(first, dot, given)?,
            OperandKind::Variable(_, names) if !names.is_empty() => self.operand(first, dot, given)?,
            OperandKind::Variable(..) => {
                let item = self.operand(first, dot, false)?;
                self.without_arguments(first, given)?;
                item
            }
            kind => {
                if !matches!(kind, OperandKind::Pipe(_)) {
                    self.at(first.at, first);
                }
                self.without_arguments(first, given)?;
                if matches!(kind, OperandKind::Nil) {
                    return self.fail("nil is not a command");
                }
                self.operand(first, dot, false)?
            }
        };
        Ok(item.value)
    }

    fn without_arguments(&self, operand: &Operand, given: bool) -> Done<()> {
        if given { self.fail(&format!("can't give argument to non-function {operand}")) } else { Ok(()) }
    }

    /// The value of an operand; `given` says whether it got arguments, which a field cannot take.
    pub(super) fn operand(&mut self, operand: &'v Operand, dot: &Item<'v>, given: bool) -> Done<Item<'v>> {
        match &operand.kind {
            OperandKind::Pipe(pipe) => return self.pipe(pipe, dot).map(Item::plain),
            _ => self.at(operand.at, operand),
        }
        let value = match &operand.kind {
            OperandKind::Dot => return Ok(dot.clone()),
            OperandKind::Nil | OperandKind::Pipe(_) => Value::Nil,
            OperandKind::Bool(value) => Value::Bool(*value),
            OperandKind::Text(_, text) => Value::Text(Held::Given(text)),
            OperandKind::Number(number) => match (number.float, number.whole) {
                (Some(float), _) => Value::Float(float),
                (None, Some(whole)) => Value::Int(whole),
                (None, None) => return self.fail(&format!("{} overflows int", number.written)),
            },
            OperandKind::Function(function) => self.call(function, (operand.at, operand), &[], dot, None)?,
            OperandKind::Fields(names) => return self.fields(dot.clone(), names, given),
            OperandKind::Variable(name, names) => {
                let known = self.variables.iter().rfind(|(known, _)| known == name);
                let Some((_, item)) = known else { return self.fail(&format!("undefined variable: {name}")) };
                let item = item.clone();
                return self.fields(item, names, given);
            }
            OperandKind::Chain(inner, names) => {
                let item = self.operand(inner, dot, false)?;
                return self.fields(item, names, given);
            }
        };
        Ok(Item::plain(value))
    }

    fn fields(&mut self, mut item: Item<'v>, names: &'v [String], given: bool) -> Done<Item<'v>> {
        for (index, name) in names.iter().enumerate() {
            item = self.field(item, name, given && index + 1 == names.len())?;
        }
        Ok(item)
    }

    fn field(&mut self, item: Item<'v>, name: &str, given: bool) -> Done<Item<'v>> {
        let strict = self.template.missing == Missing::Error;
        let named = super::literal::quote(name, false);
        match item.value {
            Value::Nil if item.boxed => self.fail(&format!("nil pointer evaluating interface {{}}.{name}")),
            Value::Missing | Value::Nil if strict => {
                self.fail(&format!("nil data; no entry for key {named}"))
            }
            Value::Missing | Value::Nil => Ok(Item::plain(Value::Missing)),
            Value::Map(_) if given => self.fail(&format!("{name} is not a method but has arguments")),
            Value::Map(map) => match map.get(name) {
                Some(Json::String(text)) => {
                    self.step(map.len() / 64)?;
                    let value = Value::Text(Held::Given(text));
                    Ok(Item { value, boxed: !are_texts(map.values()) })
                }
                Some(value) => Ok(Item { value: Value::of(value), boxed: true }),
                None if strict => self.fail(&format!("map has no entry for key {named}")),
                None => Ok(Item::plain(Value::Missing)),
            },
            value => {
                let kind = if item.boxed { "interface {}" } else { value.type_name() };
                self.fail(&format!("can't evaluate field {name} in type {kind}"))
            }
        }
    }
}

/// What `range` goes over: keys and elements.
enum Entries<'a, 'v> {
    /// Up to a number, which has this size in bits if it has no sign.
    Count(Option<u8>),
    List(&'a Held<'v, [Json]>, bool),
    Map(Vec<(&'v str, &'v Json)>, bool),
}

impl<'a, 'v> Entries<'a, 'v> {
    fn of(value: &'a Value<'v>) -> Entries<'a, 'v> {
        match value {
            Value::List(items) => Entries::List(items, !are_texts(items.iter())),
            Value::Map(map) => Entries::Map(super::value::sorted(map), !are_texts(map.values())),
            Value::Uint(_, bits) => Entries::Count(Some(*bits)),
            _ => Entries::Count(None),
        }
    }

    fn entry(&self, round: u64) -> (Value<'v>, Item<'v>) {
        let index = usize::try_from(round).unwrap_or(usize::MAX);
        let nothing = || (Value::Missing, Item::plain(Value::Missing));
        match self {
            Entries::Count(None) => (Value::Missing, Item::plain(Value::int(index))),
            Entries::Count(Some(bits)) => (Value::Missing, Item::plain(Value::Uint(round, *bits))),
            Entries::List(items, boxed) => {
                let Some(value) = Value::element(items, index) else { return nothing() };
                (Value::int(index), Item { value, boxed: *boxed })
            }
            Entries::Map(entries, boxed) => {
                let Some((key, value)) = entries.get(index) else { return nothing() };
                (Value::Text(Held::Given(key)), Item { value: Value::of(value), boxed: *boxed })
            }
        }
    }
}
