//! Building of programs.

use std::sync::Arc;

use super::{Body, Call, Construct, Fold, Item, Node, Path, Root, Step, StepKind};
use crate::{
    ast::{self, Expr, Form, Kind, Literal, op},
    check::{Checked, Ref},
    cost::{call::rule, estimate::estimate},
    env::Env,
    library::{Overload, dispatch, regex},
    parse::Tree,
    program::Program,
    types::Type,
    value::{List, Map, OwnedMap, Text, Value},
};

/// The program of a checked tree.
pub(crate) fn plan(source: &str, tree: &Tree, mut checked: Checked, env: &Env) -> Program {
    let patterns = std::mem::take(&mut checked.patterns);
    let mut planner =
        Planner { checked: &checked, scopes: Vec::new(), locals: 0, globals: Vec::new(), patterns };
    let node = planner.node(&tree.root);
    let (globals, locals) = (planner.globals, planner.locals);
    let result = checked.types.get(tree.root.id as usize).cloned().unwrap_or(Type::Dyn);
    let estimate = estimate(tree, &checked, &env.decls());
    Program { source: source.to_owned(), node, globals, locals, result, estimate }
}

struct Planner<'c> {
    checked: &'c Checked,
    /// Names of comprehensions and their slots, the innermost last.
    scopes: Vec<(String, usize)>,
    locals: usize,
    globals: Vec<String>,
    patterns: regex::Patterns,
}

impl Planner<'_> {
    fn node(&mut self, expr: &Expr) -> Node {
        match &expr.kind {
            Kind::Literal(value) => Node::Const(constant(value)),
            Kind::Ident(_) => self.named(expr).unwrap_or(Node::Const(Value::Null)),
            Kind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { fields, .. } => self.construct(expr, fields),
            Kind::Fold(fold) => self.fold(expr, fold),
            Kind::Wrong => Node::Const(Value::Null),
        }
    }

    /// What the checker found a name to be.
    fn named(&mut self, expr: &Expr) -> Option<Node> {
        let root = match self.checked.refs.get(&expr.id)? {
            Ref::Variable(name) => Root::Global(self.global(name)),
            Ref::Local(name) => {
                let (_, slot) = self.scopes.iter().rev().find(|(n, _)| n == name)?;
                Root::Local(*slot)
            }
            Ref::Type(ty) => return Some(Node::Const(Value::Type(Arc::new(ty.clone())))),
            Ref::Call { .. } => return None,
        };
        Some(Node::Path(Box::new(Path { root, steps: Vec::new(), at: expr.at })))
    }

    fn global(&mut self, name: &str) -> usize {
        let known = self.globals.iter().position(|n| n == name);
        known.unwrap_or_else(|| {
            self.globals.push(name.to_owned());
            self.globals.len() - 1
        })
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool) -> Node {
        if let Some(node) = self.named(expr) {
            return node;
        }
        let mut path = self.path(operand);
        path.steps.push(Step { kind: field_step(field), optional: false, at: expr.at });
        if test { Node::Has(path) } else { Node::Path(path) }
    }

    /// The operand as a path to go on from.
    fn path(&mut self, operand: &Expr) -> Box<Path> {
        let at = operand.at;
        let root = match self.node(operand) {
            Node::Path(path) => return path,
            Node::Conditional(parts) => Root::Conditional(parts),
            other => Root::Node(other),
        };
        Box::new(Path { root, steps: Vec::new(), at })
    }

    fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Node {
        match (function, args) {
            (op::AND, [a, b]) => return Node::And(Box::new([self.node(a), self.node(b)])),
            (op::OR, [a, b]) => return Node::Or(Box::new([self.node(a), self.node(b)])),
            (op::CONDITIONAL, [c, a, b]) => {
                return Node::Conditional(Box::new([self.node(c), self.node(a), self.node(b)]));
            }
            (op::INDEX | op::OPT_INDEX, [operand, index]) => {
                let mut path = self.path(operand);
                let kind = StepKind::Index(self.node(index));
                path.steps.push(Step { kind, optional: function == op::OPT_INDEX, at: expr.at });
                return Node::Path(path);
            }
            (op::OPT_SELECT, [operand, Expr { kind: Kind::Literal(Literal::String(field)), .. }]) => {
                let mut path = self.path(operand);
                path.steps.push(Step { kind: field_step(field), optional: true, at: expr.at });
                return Node::Path(path);
            }
            _ => {}
        }
        let Some(Ref::Call { function, overloads, qualified }) = self.checked.refs.get(&expr.id) else {
            return Node::Const(Value::Null);
        };
        let target = target.filter(|_| !qualified);
        let nodes: Vec<Node> = target.into_iter().chain(args).map(|arg| self.node(arg)).collect();
        self.invoke(expr, function, overloads.clone(), nodes)
    }

    fn invoke(
        &mut self,
        expr: &Expr,
        function: &'static str,
        overloads: Vec<&'static Overload>,
        mut args: Vec<Node>,
    ) -> Node {
        let only = if let [only] = overloads.as_slice() { Some(only.id.as_str()) } else { None };
        if matches!(only, Some("optional_or_optional" | "optional_orValue_value"))
            && let Some([a, b]) = two(&mut args)
        {
            return Node::OptionalOr { sides: Box::new([a, b]), value: function == "orValue" };
        }
        if only == Some("in_list") {
            match args.as_slice() {
                [_, Node::Const(Value::List(list))] if list.is_empty() => {
                    return Node::Const(Value::Bool(false));
                }
                [_, Node::Const(Value::List(list))]
                    if list.iter().all(|v| v.is_ok_and(|v| primitive(&v))) =>
                {
                    if let Some([value, Node::Const(list)]) = two(&mut args) {
                        return Node::Member(Box::new((value, list)));
                    }
                }
                _ => {}
            }
        }
        if let (true, [Node::Const(value)]) = (is_conversion(function), args.as_slice())
            && let Ok(made) = dispatch(&overloads, std::slice::from_ref(value))
        {
            return Node::Const(made);
        }
        let regex = match (function, args.get(1)) {
            ("matches" | "find" | "findAll", Some(Node::Const(Value::String(pattern)))) => {
                self.patterns.compile(pattern).ok().flatten()
            }
            _ => None,
        };
        let rule = rule(function, only);
        Node::Call(Box::new(Call { overloads, args, rule, at: expr.at, regex }))
    }

    fn list(&mut self, items: &[ast::Item]) -> Node {
        let items: Vec<Item> =
            items.iter().map(|i| Item { node: self.node(&i.value), optional: i.optional }).collect();
        let constant = |item: &Item| match &item.node {
            Node::Const(value) if !item.optional => Some(value.clone()),
            _ => None,
        };
        match items.iter().map(constant).collect::<Option<Vec<_>>>() {
            Some(values) => Node::Const(Value::List(List::from(values))),
            None => Node::List(items),
        }
    }

    fn map(&mut self, entries: &[ast::Entry]) -> Node {
        let nodes: Vec<_> =
            entries.iter().map(|e| (self.node(&e.key), self.node(&e.value), e.optional)).collect();
        constant_map(&nodes).map_or(Node::Map(nodes), Node::Const)
    }

    fn construct(&mut self, expr: &Expr, fields: &[ast::Field]) -> Node {
        let Some(Ref::Type(Type::Object(decl))) = self.checked.refs.get(&expr.id) else {
            return Node::Const(Value::Null);
        };
        let decl = decl.clone();
        let fields = fields.iter().map(|f| (Arc::from(f.name.as_str()), self.node(&f.value), f.optional));
        let fields = fields.collect();
        Node::Struct(Box::new(Construct { decl, fields }))
    }

    fn fold(&mut self, expr: &Expr, fold: &ast::Fold) -> Node {
        let range = self.node(&fold.range);
        let init = self.node(&fold.init);
        let outer = self.scopes.len();
        let accu = self.slot(&fold.accu);
        let var = self.slot(&fold.var);
        let var2 = fold.var2.as_ref().map(|name| self.slot(name));
        let predicate = match (&fold.step.kind, fold.form) {
            (Kind::Call { args, .. }, Form::All | Form::Exists) => args.get(1),
            _ => None,
        };
        let body = if let Some(predicate) = predicate {
            Body::Quantifier { predicate: self.node(predicate), all: fold.form == Form::All }
        } else if fold.form == Form::Bind {
            self.scopes.truncate(outer + 1);
            Body::Bind { init, result: self.node(&fold.result) }
        } else {
            let step = self.node(&fold.step);
            let step = in_place(step, accu);
            self.scopes.truncate(outer + 1);
            Body::Collect { init, step, result: self.node(&fold.result) }
        };
        self.scopes.truncate(outer);
        Node::Fold(Box::new(Fold { range, var, var2, accu, body, at: expr.at }))
    }

    fn slot(&mut self, name: &str) -> usize {
        let slot = self.scopes.len();
        self.scopes.push((name.to_owned(), slot));
        self.locals = self.locals.max(slot + 1);
        slot
    }
}

fn field_step(field: &str) -> StepKind {
    StepKind::Field(field.into(), crate::unescape(field).map(Into::into))
}

fn two(args: &mut Vec<Node>) -> Option<[Node; 2]> {
    std::mem::take(args).try_into().ok()
}

/// Conversions are made at once of constants, and then cost nothing.
fn is_conversion(function: &str) -> bool {
    matches!(
        function,
        "bool" | "bytes" | "double" | "dyn" | "duration" | "int" | "string" | "timestamp" | "type" | "uint"
    )
}

fn primitive(value: &Value<'_>) -> bool {
    matches!(value, Value::Bool(_) | Value::Int(_) | Value::Uint(_) | Value::Double(_) | Value::String(_))
}

fn constant(value: &Literal) -> Value<'static> {
    match value {
        Literal::Null => Value::Null,
        Literal::Bool(b) => Value::Bool(*b),
        Literal::Int(i) => Value::Int(*i),
        Literal::Uint(u) => Value::Uint(*u),
        Literal::Double(d) => Value::Double(*d),
        Literal::String(text) => Value::String(Text::Shared(text.clone())),
        Literal::Bytes(bytes) => Value::Bytes(bytes.clone()),
    }
}

fn constant_map(nodes: &[(Node, Node, bool)]) -> Option<Value<'static>> {
    let mut map = OwnedMap::default();
    for node in nodes {
        let (Node::Const(key), Node::Const(value), false) = node else { return None };
        map.insert(key.clone(), value.clone()).ok()?;
    }
    Some(Value::Map(Map::made(map)))
}

/// The step of a comprehension that adds to its accumulator, so that it is not copied for each element.
fn in_place(step: Node, accu: usize) -> Node {
    match step {
        Node::Conditional(parts) => {
            let [filter, step, keep] = *parts;
            Node::Conditional(Box::new([filter, in_place(step, accu), keep]))
        }
        Node::Call(call) => adding(*call, accu),
        other => other,
    }
}

fn adding(mut call: Call, accu: usize) -> Node {
    let to_accu = matches!(call.args.first(), Some(Node::Path(path)) if path.steps.is_empty()
        && matches!(path.root, Root::Local(slot) if slot == accu));
    let function = call.overloads.first().map_or("", |overload| overload.function);
    if to_accu && function == op::MAP_INSERT {
        call.args.remove(0);
        return Node::Insert { accu, entry: call.args };
    }
    let single = |node: &Node| match node {
        Node::List(items) => matches!(items.as_slice(), [item] if !item.optional),
        Node::Const(Value::List(list)) => list.len() == 1,
        _ => false,
    };
    if to_accu && function == op::ADD && call.args.get(1).is_some_and(single) {
        let item = match call.args.pop() {
            Some(Node::List(mut items)) => items.pop().map(|item| item.node),
            Some(Node::Const(Value::List(list))) => list.get(0).and_then(Result::ok).map(Node::Const),
            _ => None,
        };
        if let Some(item) = item {
            return Node::Append { accu, item: Box::new(item) };
        }
    }
    Node::Call(Box::new(call))
}
