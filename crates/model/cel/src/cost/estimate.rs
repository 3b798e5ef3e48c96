//! What an expression may cost at worst, before it is evaluated (cel-go, `checker/cost.go`): sizes come
//! from literals and from what declarations bound.

use std::{collections::HashMap, sync::Arc};

use super::{LIST_CREATE, MAP_CREATE, STRUCT_CREATE, estimate_call, range::Range};
use crate::{
    ast::{Expr, Fold, Form, Kind, Literal, op},
    check::{Checked, Ref},
    decl::{Decl, DeclKind},
    parse::Tree,
    types::Type,
};

/// Sizes of what is in a list or map.
#[derive(Debug, Clone, Copy)]
pub(super) struct Entries {
    list: bool,
    key: Range,
    value: Range,
}

impl Entries {
    fn union(a: Option<Self>, b: Option<Self>) -> Option<Self> {
        let (a, b) = (a?, b?);
        Some(Self { list: a.list, key: a.key.union(b.key), value: a.value.union(b.value) })
    }
}

/// A variable of a comprehension.
#[derive(Debug, Clone)]
struct Local<'t> {
    name: &'t str,
    place: Option<Place<'t>>,
    size: Option<Range>,
    entries: Option<Entries>,
}

/// What of the declared data an expression is.
#[derive(Debug, Clone, Copy)]
pub(super) enum Place<'t> {
    At(&'t Decl),
    /// A key of a map, for which nothing is declared.
    Key,
    /// Below the data, but not declared.
    Nowhere,
}

impl<'t> Place<'t> {
    pub(super) fn items(self) -> Self {
        match self {
            Self::At(Decl { kind: DeclKind::List(list), .. }) => Self::At(&list.items),
            _ => Self::Nowhere,
        }
    }

    fn values(self) -> Self {
        match self {
            Self::At(Decl { kind: DeclKind::Map(values), .. }) => Self::At(values),
            _ => Self::Nowhere,
        }
    }

    fn keys(self) -> Self {
        match self {
            Self::At(Decl { kind: DeclKind::Map(_), .. }) => Self::Key,
            _ => Self::Nowhere,
        }
    }

    fn field(self, name: &str) -> Self {
        match self {
            Self::At(Decl { kind: DeclKind::Object(object), .. }) => {
                object.get(name).map_or(Self::Nowhere, |field| Self::At(&field.decl))
            }
            _ => Self::Nowhere,
        }
    }

    pub(super) fn size(self) -> Option<Range> {
        let max = match self {
            Self::At(decl) => decl.max_elements(),
            Self::Key => 0,
            Self::Nowhere => return None,
        };
        Some(Range { min: 0, max })
    }
}

/// An argument of a call: its type, where it is in the data, its size if that is known.
#[derive(Debug)]
pub(super) struct Arg<'t> {
    pub(super) expr: &'t Expr,
    pub(super) ty: &'t Type,
    pub(super) place: Option<Place<'t>>,
    pub(super) size: Option<Range>,
}

impl Arg<'_> {
    pub(super) fn size_or_unknown(&self) -> Range {
        self.size.unwrap_or(Range::UNKNOWN)
    }
}

/// Estimates the cost of a checked expression.
pub(crate) fn estimate(tree: &Tree, checked: &Checked, decls: &[(String, Arc<Decl>)]) -> Range {
    let mut estimator = Estimator {
        checked,
        decls,
        locals: Vec::new(),
        places: HashMap::new(),
        sizes: HashMap::new(),
        entries: HashMap::new(),
    };
    estimator.cost(&tree.root)
}

struct Estimator<'t> {
    checked: &'t Checked,
    decls: &'t [(String, Arc<Decl>)],
    locals: Vec<Local<'t>>,
    places: HashMap<u32, Place<'t>>,
    sizes: HashMap<u32, Range>,
    entries: HashMap<u32, Entries>,
}

static UNTYPED: Type = Type::Dyn;

impl<'t> Estimator<'t> {
    fn cost(&mut self, expr: &'t Expr) -> Range {
        match &expr.kind {
            Kind::Literal(_) | Kind::Wrong => Range::ZERO,
            Kind::Ident(name) => self.ident(expr, name),
            Kind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(items) => {
                let values: Vec<&Expr> = items.iter().map(|item| &item.value).collect();
                let (cost, value) = self.elements(&values);
                self.entries.insert(expr.id, Entries { list: true, key: Range::exactly(1), value });
                cost.plus(Range::exactly(LIST_CREATE))
            }
            Kind::Map(entries) => {
                let (keys, key) = self.elements(&entries.iter().map(|entry| &entry.key).collect::<Vec<_>>());
                let (values, value) =
                    self.elements(&entries.iter().map(|entry| &entry.value).collect::<Vec<_>>());
                self.entries.insert(expr.id, Entries { list: false, key, value });
                keys.plus(values).plus(Range::exactly(MAP_CREATE))
            }
            Kind::Struct { fields, .. } => {
                let costs = fields.iter().map(|field| self.cost(&field.value));
                costs.fold(Range::exactly(STRUCT_CREATE), Range::plus)
            }
            Kind::Fold(fold) if fold.form == Form::Bind => self.bind(expr, fold),
            Kind::Fold(fold) => self.fold(expr, fold),
        }
    }

    /// The cost of several elements, and the range of their sizes.
    fn elements(&mut self, values: &[&'t Expr]) -> (Range, Range) {
        let mut size = Range { min: if values.is_empty() { 0 } else { u64::MAX }, max: 0 };
        let mut cost = Range::ZERO;
        for value in values {
            cost = cost.plus(self.cost(value));
            size = size.union(self.size(value).unwrap_or(Range::UNKNOWN));
        }
        (cost, size)
    }

    fn ident(&mut self, expr: &'t Expr, name: &str) -> Range {
        let place = match self.local(name) {
            Some(local) => local.place,
            None => self.root(name),
        };
        self.put(expr, place);
        Range::exactly(1)
    }

    fn local(&self, name: &str) -> Option<&Local<'t>> {
        self.locals.iter().rev().find(|local| local.name == name)
    }

    /// The declaration of a variable. Names of types are taken for the object itself, as upstream does.
    fn root(&self, name: &str) -> Option<Place<'t>> {
        let named = |name: &str| self.decls.iter().find(|(n, _)| n == name);
        named(name).or_else(|| named("self")).map(|(_, decl)| Place::At(decl))
    }

    fn put(&mut self, expr: &Expr, place: Option<Place<'t>>) {
        if let Some(place) = place {
            self.places.insert(expr.id, place);
        }
    }

    fn place(&self, expr: &Expr) -> Option<Place<'t>> {
        if let Kind::Ident(name) = &expr.kind
            && let Some(local) = self.local(name)
        {
            return local.place;
        }
        self.places.get(&expr.id).copied()
    }

    /// The place one step below an expression's. What is below no data is taken for the object itself:
    /// upstream cuts the first name off the path it looks up, whatever it is.
    fn below(&self, expr: &Expr, way: impl FnOnce(Place<'t>) -> Place<'t>) -> Option<Place<'t>> {
        self.place(expr).map(way).or_else(|| self.root("self"))
    }

    fn ty(&self, expr: &Expr) -> &'t Type {
        self.checked.types.get(expr.id as usize).unwrap_or(&UNTYPED)
    }

    fn select(&mut self, expr: &'t Expr, operand: &'t Expr, field: &str, test: bool) -> Range {
        if let Some(Ref::Type(_) | Ref::Variable(_)) = self.checked.refs.get(&expr.id) {
            let place = self.root("self");
            self.put(expr, place);
            return Range::exactly(1);
        }
        let cost = self.cost(operand);
        if test {
            return cost;
        }
        let place = self.below(operand, |place| place.field(field));
        self.put(expr, place);
        let selects = matches!(self.ty(operand), Type::Map(_) | Type::Object(_) | Type::Opaque(_));
        cost.plus(Range::exactly(u64::from(selects)))
    }

    fn call(
        &mut self,
        expr: &'t Expr,
        function: &'t str,
        target: Option<&'t Expr>,
        args: &'t [Expr],
    ) -> Range {
        if let ("dyn", [arg]) = (function, args) {
            let cost = self.cost(arg).plus(Range::exactly(1));
            self.copy_sizes(expr, arg);
            return cost;
        }
        let costs: Vec<Range> = args.iter().map(|arg| self.cost(arg)).collect();
        let sum = costs.iter().copied().fold(Range::ZERO, Range::plus);
        if function == op::OPT_SELECT {
            self.measure(expr);
            return sum.plus(Range::exactly(1));
        }
        let Some(Ref::Call { function, overloads, qualified }) = self.checked.refs.get(&expr.id) else {
            return Range::ZERO;
        };
        let arg_nodes: Vec<Arg<'t>> = args.iter().map(|arg| self.arg(arg)).collect();
        let target = target.filter(|_| !qualified);
        let mut total = target.map_or(Range::ZERO, |target| self.cost(target));
        let target = target.map(|target| self.arg(target));
        let mut cost = Range { min: u64::MAX, max: 0 };
        let mut size: Option<Range> = None;
        for overload in overloads {
            let (call, result) =
                self.overload(expr, function, &overload.id, target.as_ref(), &arg_nodes, &costs, sum);
            cost = cost.union(call);
            size = match (size, result) {
                (Some(a), Some(b)) => Some(a.union(b)),
                (a, b) => a.or(b),
            };
            if let ("index_list" | "index_map", Some(container)) = (overload.id.as_str(), args.first()) {
                size = self.entries_of(container).map(|entries| entries.value);
                let way = if overload.id == "index_list" { Place::items } else { Place::values };
                let place = self.below(container, way);
                self.put(expr, place);
            }
            size = size.or_else(|| self.size(expr));
        }
        if let Some(size) = size {
            self.sizes.insert(expr.id, size);
        }
        total = total.plus(cost);
        total
    }

    fn arg(&mut self, expr: &'t Expr) -> Arg<'t> {
        Arg { expr, ty: self.ty(expr), place: self.place(expr), size: self.size(expr) }
    }

    /// The cost of an overload with that of its arguments, and the size of its result.
    #[expect(clippy::too_many_arguments, reason = "what a call is known by")]
    fn overload(
        &mut self,
        expr: &Expr,
        function: &str,
        id: &str,
        target: Option<&Arg<'t>>,
        args: &[Arg<'t>],
        costs: &[Range],
        sum: Range,
    ) -> (Range, Option<Range>) {
        if let Some((cost, size)) = estimate_call::estimate(function, id, target, args) {
            return (cost.plus(sum), size);
        }
        match (id, args, costs) {
            ("logical_and" | "logical_or", _, [left, right]) => {
                (Range { min: left.min, max: left.plus(*right).max }, None)
            }
            ("conditional", [_, then, otherwise], [condition, a, b]) => {
                let size = then.size_or_unknown().union(otherwise.size_or_unknown());
                let entries = Entries::union(self.entries_of(then.expr), self.entries_of(otherwise.expr));
                self.put_entries(expr, entries);
                (condition.plus(a.union(*b)), Some(size))
            }
            ("add_string" | "add_bytes" | "add_list", [a, b], _) => {
                let size = a.size_or_unknown().plus(b.size_or_unknown());
                let entries = Entries::union(self.entries_of(a.expr), self.entries_of(b.expr));
                self.put_entries(expr, entries);
                let cost = if id == "add_list" { Range::exactly(1) } else { size.scaled(super::TRAVERSAL) };
                (cost.plus(sum), Some(size))
            }
            _ => (Range::exactly(1).plus(sum), None),
        }
    }

    fn put_entries(&mut self, expr: &Expr, entries: Option<Entries>) {
        if let Some(entries) = entries {
            self.entries.insert(expr.id, entries);
        }
    }

    fn entries_of(&self, expr: &Expr) -> Option<Entries> {
        if let Some(entries) = self.entries.get(&expr.id) {
            return Some(*entries);
        }
        match &expr.kind {
            Kind::Ident(name) => self.local(name)?.entries,
            _ => None,
        }
    }

    fn copy_sizes(&mut self, to: &Expr, from: &'t Expr) {
        if let Some(size) = self.size(from) {
            self.sizes.insert(to.id, size);
        }
        let entries = self.entries_of(from);
        self.put_entries(to, entries);
    }

    fn measure(&mut self, expr: &'t Expr) {
        if let Some(size) = self.size(expr) {
            self.sizes.insert(expr.id, size);
        }
    }

    /// The size of a value, if anything is known of it.
    fn size(&self, expr: &Expr) -> Option<Range> {
        if let Some(size) = self.sizes.get(&expr.id) {
            return Some(*size);
        }
        literal_size(expr)
            .map(Range::exactly)
            .or_else(|| self.place(expr).and_then(Place::size))
            .or_else(|| is_scalar(self.ty(expr)).then_some(Range::exactly(1)))
            .or_else(|| match &expr.kind {
                Kind::Ident(name) => self.local(name)?.size,
                _ => None,
            })
    }

    fn bind(&mut self, expr: &'t Expr, fold: &'t Fold) -> Range {
        let cost = self.cost(&fold.range).plus(self.cost(&fold.init));
        self.push(&fold.accu, &fold.init);
        let cost = cost.plus(self.cost(&fold.result));
        self.copy_sizes(expr, &fold.result);
        self.locals.pop();
        cost
    }

    /// A name for the value of an expression.
    fn push(&mut self, name: &'t str, expr: &'t Expr) {
        let (place, size, entries) = (self.place(expr), self.size(expr), self.entries_of(expr));
        self.locals.push(Local { name, place, size, entries });
    }

    fn fold(&mut self, expr: &'t Expr, fold: &'t Fold) -> Range {
        let mut cost = self.cost(&fold.range).plus(self.cost(&fold.init));
        let outer = self.locals.len();
        self.push(&fold.accu, &fold.init);
        self.push_variables(fold);
        let round = self.cost(&fold.condition).plus(self.cost(&fold.step));
        self.locals.truncate(outer + 1);
        cost = cost.plus(self.cost(&fold.result));
        self.locals.truncate(outer);
        let rounds = self.size(&fold.range).unwrap_or(Range::UNKNOWN);
        match &fold.init.kind {
            Kind::Literal(_) => {
                if let Some(size) = self.size(&fold.init) {
                    self.sizes.insert(expr.id, size);
                }
            }
            Kind::List(_) | Kind::Map(_) => {
                self.sizes.insert(expr.id, rounds);
                let entries = self.entries_of(&fold.step);
                self.put_entries(expr, entries);
            }
            _ => {}
        }
        cost.plus(rounds.times(round))
    }

    fn push_variables(&mut self, fold: &'t Fold) {
        let entries = self.entries_of(&fold.range);
        let list = entries.map_or(matches!(self.ty(&fold.range), Type::List(_)), |entries| entries.list);
        let key = self.below(&fold.range, |place| if list { Place::Nowhere } else { place.keys() });
        let value = self.below(&fold.range, if list { Place::items } else { Place::values });
        let (key_size, value_size) = (entries.map(|e| e.key), entries.map(|e| e.value));
        let mut local = |name: &'t str, place, size| {
            self.locals.push(Local { name, place, size, entries: None });
        };
        match &fold.var2 {
            Some(var2) => {
                local(&fold.var, key, key_size);
                local(var2, value, value_size);
            }
            None if list => local(&fold.var, value, value_size),
            None => local(&fold.var, key, key_size),
        }
    }
}

fn literal_size(expr: &Expr) -> Option<u64> {
    match &expr.kind {
        Kind::Literal(Literal::String(text)) => Some(text.chars().count() as u64),
        Kind::Literal(Literal::Bytes(bytes)) => Some(bytes.len() as u64),
        Kind::Literal(_) => Some(1),
        Kind::List(items) => Some(items.len() as u64),
        Kind::Map(entries) => Some(entries.len() as u64),
        _ => None,
    }
}

fn is_scalar(ty: &Type) -> bool {
    match ty {
        Type::Bool | Type::Double | Type::Duration | Type::Int | Type::Timestamp | Type::Uint => true,
        Type::Optional(of) => is_scalar(of),
        _ => false,
    }
}
