//! Types of expressions, and which declaration each name and call means.

mod aggregate;
mod calls;
mod literals;
mod unify;

use std::{collections::HashMap, sync::Arc};

use crate::{
    ast::{Expr, Fold, Kind, Literal, qualified_name},
    env::Env,
    issues::Issues,
    library::{Overload, regex::Patterns},
    parse::Tree,
    types::Type,
};
use unify::Bindings;

/// What checking found out about a tree, by the ids of its nodes.
#[derive(Debug)]
pub(crate) struct Checked {
    pub(crate) types: Vec<Type>,
    pub(crate) refs: HashMap<u32, Ref>,
    pub(crate) patterns: Patterns,
}

/// What a node of the tree refers to.
#[derive(Debug, Clone)]
pub(crate) enum Ref {
    /// A variable of the environment.
    Variable(String),
    /// A variable of a comprehension.
    Local(String),
    /// A type by its name.
    Type(Type),
    /// A call: the overloads its arguments may be for. Of a qualified function the target is its prefix.
    Call { function: &'static str, overloads: Vec<&'static Overload>, qualified: bool },
}

/// Checks the tree against the environment.
pub(crate) fn check(source: &str, tree: &Tree, env: &Env) -> Result<Checked, Issues> {
    let mut checker = Checker {
        env,
        issues: Issues::new(source),
        types: vec![Type::Dyn; tree.ids as usize],
        refs: HashMap::new(),
        bindings: Bindings::default(),
        scopes: Vec::new(),
    };
    checker.check(&tree.root);
    if !checker.issues.is_empty() {
        return Err(checker.issues);
    }
    let bindings = &checker.bindings;
    let types = checker.types.iter().map(|ty| bindings.resolve(ty, true)).collect();
    let mut patterns = Patterns::default();
    let checked = Checked { types, refs: checker.refs, patterns: Patterns::default() };
    literals::validate(tree, &checked, &mut patterns, &mut checker.issues);
    let checked = Checked { patterns, ..checked };
    if checker.issues.is_empty() { Ok(checked) } else { Err(checker.issues) }
}

struct Checker<'e> {
    env: &'e Env,
    issues: Issues,
    types: Vec<Type>,
    refs: HashMap<u32, Ref>,
    bindings: Bindings,
    /// Variables of comprehensions, the innermost last.
    scopes: Vec<(String, Type)>,
}

impl Checker<'_> {
    fn check(&mut self, expr: &Expr) -> Type {
        let mut ty = match &expr.kind {
            Kind::Literal(value) => literal(value),
            Kind::Ident(name) => self.ident(expr, name),
            Kind::Select { operand, field, test } => self.select(expr, operand, field, *test),
            Kind::Call { function, target, args } => self.call(expr, function, target.as_deref(), args),
            Kind::List(items) => self.list(items),
            Kind::Map(entries) => self.map(entries),
            Kind::Struct { name, fields } => self.structure(expr, name, fields),
            Kind::Fold(fold) => self.fold(fold),
            Kind::Wrong => Type::Error,
        };
        if self.bindings.is_too_large(&ty) {
            self.issues.report(expr.at, "type of expression is too large");
            ty = Type::Error;
        }
        if let Some(slot) = self.types.get_mut(expr.id as usize) {
            *slot = ty.clone();
        }
        ty
    }

    fn ident(&mut self, expr: &Expr, name: &str) -> Type {
        match self.lookup(name) {
            Some((ty, reference)) => {
                self.refs.insert(expr.id, reference);
                ty
            }
            None => self.undeclared(expr.at, name),
        }
    }

    fn undeclared(&mut self, at: u32, name: &str) -> Type {
        self.issues.report(at, format!("undeclared reference to '{name}' (in container '')"));
        Type::Error
    }

    fn lookup(&self, name: &str) -> Option<(Type, Ref)> {
        let absolute = name.strip_prefix('.');
        if absolute.is_none()
            && let Some((_, ty)) = self.scopes.iter().rev().find(|(n, _)| n == name)
        {
            return Some((ty.clone(), Ref::Local(name.to_owned())));
        }
        let name = absolute.unwrap_or(name);
        if let Some(ty) = self.env.variable(name) {
            return Some((ty.clone(), Ref::Variable(name.to_owned())));
        }
        let named = self.env.named_type(name)?;
        Some((Type::Type(Arc::new(named.clone())), Ref::Type(named)))
    }

    fn select(&mut self, expr: &Expr, operand: &Expr, field: &str, test: bool) -> Type {
        if let Some(name) = qualified_name(expr)
            && let Some((ty, reference)) = self.lookup(&name)
        {
            self.refs.insert(expr.id, reference);
            return ty;
        }
        let ty = self.field(expr.at, operand, field, false);
        if test { Type::Bool } else { ty }
    }

    /// The type of a field. Of an optional the field is optional too.
    fn field(&mut self, at: u32, operand: &Expr, field: &str, optional: bool) -> Type {
        let operand = self.check(operand);
        let operand = self.bindings.resolve(&operand, false);
        let (target, was_optional) = unwrap_optional(&operand);
        let ty = match &target {
            Type::Map(of) => of.1.clone(),
            Type::Object(decl) => match decl.get(field) {
                Some(field) => field.decl.ty(),
                None => {
                    self.issues.report(at, format!("undefined field '{field}'"));
                    Type::Error
                }
            },
            // Upstream declares most of these as objects it then knows no fields of.
            Type::Opaque(opaque) if !matches!(opaque, crate::Opaque::Ip | crate::Opaque::Cidr) => {
                self.issues.report(at, format!("unexpected failed resolution of '{}'", opaque.name()));
                Type::Error
            }
            Type::Var(_) => {
                self.bindings.assign(&Type::Dyn, &target);
                Type::Dyn
            }
            other => {
                if !other.is_dyn_or_error() {
                    let message = format!("type '{other}' does not support field selection");
                    self.issues.report(at, message);
                }
                Type::Dyn
            }
        };
        let ty = self.bindings.resolve(&ty, false);
        if was_optional || optional { Type::optional(ty) } else { ty }
    }

    fn fold(&mut self, fold: &Fold) -> Type {
        let range = self.check(&fold.range);
        let accu = self.check(&fold.init);
        let range = self.bindings.resolve(&range, false);
        let two = fold.var2.is_some();
        let (first, second) = match &range {
            Type::List(of) if two => (Type::Int, (**of).clone()),
            Type::List(of) => ((**of).clone(), Type::Dyn),
            Type::Map(of) => (of.0.clone(), of.1.clone()),
            Type::Dyn | Type::Error | Type::Var(_) => {
                self.bindings.assign(&Type::Dyn, &range);
                (Type::Dyn, Type::Dyn)
            }
            other => {
                let message = format!(
                    "expression of type '{other}' cannot be range of a comprehension (must be list, map, or dynamic)"
                );
                self.issues.report(fold.range.at, message);
                (Type::Error, Type::Error)
            }
        };
        let outer = self.scopes.len();
        self.scopes.push((fold.accu.clone(), accu.clone()));
        self.scopes.push((fold.var.clone(), first));
        if let Some(var2) = &fold.var2 {
            self.scopes.push((var2.clone(), second));
        }
        self.check(&fold.condition);
        self.assert(&fold.condition, &Type::Bool);
        self.check(&fold.step);
        self.assert(&fold.step, &accu);
        self.scopes.truncate(outer + 1);
        let result = self.check(&fold.result);
        self.scopes.truncate(outer);
        self.bindings.resolve(&result, false)
    }

    fn assert(&mut self, expr: &Expr, expected: &Type) {
        let found = self.type_of(expr);
        if !self.bindings.assign(expected, &found) {
            self.mismatch(expr.at, expected, &found);
        }
    }

    fn mismatch(&mut self, at: u32, expected: &Type, found: &Type) {
        let expected = self.bindings.resolve(expected, false);
        let found = self.bindings.resolve(found, false);
        self.issues.report(at, format!("expected type '{expected}' but found '{found}'"));
    }

    fn type_of(&self, expr: &Expr) -> Type {
        self.types.get(expr.id as usize).cloned().unwrap_or(Type::Error)
    }
}

fn literal(value: &Literal) -> Type {
    match value {
        Literal::Null => Type::Null,
        Literal::Bool(_) => Type::Bool,
        Literal::Int(_) => Type::Int,
        Literal::Uint(_) => Type::Uint,
        Literal::Double(_) => Type::Double,
        Literal::String(_) => Type::String,
        Literal::Bytes(_) => Type::Bytes,
    }
}

fn unwrap_optional(ty: &Type) -> (Type, bool) {
    match ty {
        Type::Optional(of) => ((**of).clone(), true),
        other => (other.clone(), false),
    }
}
