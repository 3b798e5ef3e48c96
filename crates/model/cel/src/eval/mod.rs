//! Evaluation of programs.

mod fold;
mod path;
mod work;

use std::sync::Arc;

use crate::{
    cost::{LIST_CREATE, MAP_CREATE, PER_CALL_LIMIT, STRUCT_CREATE, call::Rule},
    error::EvalError,
    library::{dispatch, regex},
    plan::{Call, Construct, Item, Node},
    value::{Map, OwnedMap, Struct, Value},
};

type Outcome<'p> = Result<Value<'p>, EvalError>;

/// One evaluation of a program.
pub(crate) struct Evaluation<'p> {
    globals: Vec<Option<Outcome<'p>>>,
    names: &'p [String],
    locals: Vec<Value<'p>>,
    patterns: regex::Found,
    work: work::Work,
    spent: u64,
}

impl<'p> Evaluation<'p> {
    pub(crate) fn new(names: &'p [String], globals: Vec<Option<Outcome<'p>>>, locals: usize) -> Self {
        let locals = vec![Value::Null; locals];
        Self {
            globals,
            names,
            locals,
            patterns: regex::Found::default(),
            work: work::Work::default(),
            spent: 0,
        }
    }

    pub(crate) fn spent(&self) -> u64 {
        self.spent
    }

    fn charge(&mut self, cost: u64) -> Result<(), EvalError> {
        self.spent = self.spent.saturating_add(cost);
        if self.spent > PER_CALL_LIMIT { Err(EvalError::cost_limit()) } else { Ok(()) }
    }

    pub(crate) fn eval(&mut self, node: &'p Node) -> Outcome<'p> {
        match node {
            Node::Const(value) => Ok(value.clone()),
            Node::Path(path) => self.path(path, false),
            Node::Has(path) => self.has(path),
            Node::And(sides) => self.logical(sides, false),
            Node::Or(sides) => self.logical(sides, true),
            Node::Conditional(parts) => self.conditional(parts),
            Node::Call(call) => self.call(call),
            Node::Member(member) => self.member(&member.0, &member.1),
            Node::List(items) => self.list(items),
            Node::Map(entries) => self.map(entries),
            Node::Struct(construct) => self.construct(construct),
            Node::Fold(fold) => self.fold(fold),
            Node::OptionalOr { sides, value } => self.optional_or(sides, *value),
            Node::Append { accu, item } => self.append(*accu, item),
            Node::Insert { accu, entry } => self.insert(*accu, entry),
        }
    }

    /// `&&` and `||`: the side that decides is enough, also when the other fails.
    fn logical(&mut self, sides: &'p [Node; 2], decisive: bool) -> Outcome<'p> {
        let left = self.eval(&sides[0]);
        match &left {
            Ok(Value::Bool(b)) if *b == decisive => return left,
            Err(error) if error.is_final() => return left,
            _ => {}
        }
        let right = self.eval(&sides[1]);
        match (&left, &right) {
            (_, Ok(Value::Bool(b))) if *b == decisive => right,
            (_, Err(error)) if error.is_final() => right,
            (Err(_), _) => left,
            (Ok(Value::Bool(_)), Ok(Value::Bool(_)) | Err(_)) => right,
            _ => Err(EvalError::no_such_overload()),
        }
    }

    fn conditional(&mut self, parts: &'p [Node; 3]) -> Outcome<'p> {
        let branch = match self.eval(&parts[0])? {
            Value::Bool(true) => &parts[1],
            Value::Bool(false) => &parts[2],
            _ => return Err(EvalError::no_such_overload()),
        };
        match branch {
            Node::Path(path) => self.path(path, true),
            other => self.eval(other),
        }
    }

    fn call(&mut self, call: &'p Call) -> Outcome<'p> {
        let args = self.args(call)?;
        self.toil(work::of_call(call.function(), &args))?;
        // What is too dear is not begun: some functions take time by the square of their arguments.
        let before = call.rule.known_before();
        if before {
            self.charge(call.rule.cost(&args, &Value::Null))?;
        }
        let result = match (&call.regex, call.rule) {
            (Some(compiled), _) => regex::run(compiled, call.function(), &args),
            (None, Rule::Pattern) => self.search(call, &args),
            _ => dispatch(&call.overloads, &args),
        };
        if !before {
            self.charge(call.rule.cost(&args, result.as_ref().unwrap_or(&Value::Null)))?;
        }
        self.made(result.map_err(|error| named(error, call, &args).located(call.at))?)
    }

    /// The arguments. Of two both are evaluated, and the call paid for, also when one fails.
    fn args(&mut self, call: &'p Call) -> Result<Vec<Value<'p>>, EvalError> {
        let mut failure = None;
        let mut args = Vec::with_capacity(call.args.len());
        for arg in &call.args {
            match self.eval(arg) {
                Ok(value) => args.push(value),
                Err(error) if error.is_final() || call.args.len() > 2 => return Err(error),
                Err(error) => {
                    failure.get_or_insert(error);
                    args.push(Value::Null);
                }
            }
        }
        let Some(failure) = failure else { return Ok(args) };
        self.charge(call.rule.cost(&args, &Value::Null))?;
        Err(failure)
    }

    /// A search by a pattern that is no constant, or was not compiled ahead.
    fn search(&mut self, call: &Call, args: &[Value<'p>]) -> Outcome<'p> {
        let Some(Value::String(pattern)) = args.get(1) else { return Err(EvalError::no_such_overload()) };
        regex::run(self.patterns.compile(pattern)?, call.function(), args)
    }

    fn member(&mut self, node: &'p Node, list: &'p Value<'static>) -> Outcome<'p> {
        let value = self.eval(node)?;
        match list {
            Value::List(list) => {
                self.toil(list.len() as u64)?;
                Ok(Value::Bool(list.contains(&value)?))
            }
            _ => Err(EvalError::no_such_overload()),
        }
    }

    fn list(&mut self, items: &'p [Item]) -> Outcome<'p> {
        let mut values = Vec::with_capacity(items.len());
        for item in items {
            let value = self.eval(&item.node)?;
            if let Some(value) = given(value, item.optional)? {
                values.push(value);
            }
        }
        self.charge(LIST_CREATE)?;
        self.made(Value::list(values))
    }

    fn map(&mut self, entries: &'p [(Node, Node, bool)]) -> Outcome<'p> {
        let mut map = OwnedMap::default();
        for (key, value, optional) in entries {
            let key = self.eval(key)?;
            let value = self.eval(value)?;
            if let Some(value) = given(value, *optional)? {
                map.set(key, value)?;
            }
        }
        self.charge(MAP_CREATE)?;
        self.made(Value::Map(Map::made(map)))
    }

    fn construct(&mut self, construct: &'p Construct) -> Outcome<'p> {
        let mut fields: Vec<(Arc<str>, Value<'p>)> = Vec::with_capacity(construct.fields.len());
        for (name, node, optional) in &construct.fields {
            let value = self.eval(node)?;
            if let Some(value) = given(value, *optional)? {
                fields.push((name.clone(), value));
            }
        }
        self.charge(STRUCT_CREATE)?;
        self.made(Value::Map(Map::Struct(Arc::new(Struct::new(construct.decl.clone(), fields)))))
    }

    fn optional_or(&mut self, sides: &'p [Node; 2], value: bool) -> Outcome<'p> {
        match self.eval(&sides[0])? {
            Value::Optional(None) => self.eval(&sides[1]),
            Value::Optional(Some(inner)) if value => Ok((*inner).clone()),
            other => Ok(other),
        }
    }
}

/// With the function and the types of its arguments, when it has no overload for them.
fn named(error: EvalError, call: &Call, args: &[Value<'_>]) -> EvalError {
    let function = call.function();
    if error != EvalError::no_such_overload() || !function.starts_with(|c: char| c.is_ascii_alphabetic()) {
        return error;
    }
    let types: Vec<String> = args.iter().map(|arg| arg.ty().head().to_owned()).collect();
    EvalError::new(format!("no such overload: {function}({})", types.join(", ")))
}

/// What an optional element comes to: its value, or nothing.
fn given(value: Value<'_>, optional: bool) -> Result<Option<Value<'_>>, EvalError> {
    match value {
        Value::Optional(inner) if optional => Ok(inner.map(|inner| (*inner).clone())),
        _ if optional => Err(EvalError::new("cannot initialize optional element from non-optional value")),
        value => Ok(Some(value)),
    }
}
