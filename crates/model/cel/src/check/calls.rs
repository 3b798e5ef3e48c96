//! Calls: which of a function's overloads fit the arguments.

use std::collections::HashMap;

use super::{Checker, Ref};
use crate::{
    ast::{Expr, Kind, Literal, op, qualified_name},
    library::Overload,
    types::Type,
};

impl Checker<'_> {
    pub(super) fn call(&mut self, expr: &Expr, function: &str, target: Option<&Expr>, args: &[Expr]) -> Type {
        if function == op::OPT_SELECT
            && let [operand, Expr { kind: Kind::Literal(Literal::String(field)), .. }] = args
        {
            return self.field(expr.at, operand, field, true);
        }
        for arg in args {
            self.check(arg);
        }
        let Some(target) = target else {
            let name = function.strip_prefix('.').unwrap_or(function);
            return match self.env.function(name) {
                Some(overloads) => self.resolve(expr, name, overloads, None, args, false),
                None => self.undeclared(expr.at, function),
            };
        };
        let qualified = qualified_name(target).map(|prefix| format!("{prefix}.{function}"));
        if let Some(name) = qualified
            && let Some(overloads) = self.env.function(name.trim_start_matches('.'))
        {
            return self.resolve(expr, &name, overloads, None, args, true);
        }
        self.check(target);
        match self.env.function(function) {
            Some(overloads) => self.resolve(expr, function, overloads, Some(target), args, false),
            None => self.undeclared(expr.at, function),
        }
    }

    fn resolve(
        &mut self,
        expr: &Expr,
        name: &str,
        overloads: &[&'static Overload],
        target: Option<&Expr>,
        args: &[Expr],
        qualified: bool,
    ) -> Type {
        let types: Vec<Type> = target.into_iter().chain(args).map(|arg| self.type_of(arg)).collect();
        if matches!(name, op::AND | op::OR) {
            return self.logical(expr, overloads, args);
        }
        let mut fitting = Vec::new();
        let mut result: Option<Type> = None;
        for overload in overloads.iter().filter(|o| o.member == target.is_some()) {
            let mut params = HashMap::new();
            let mut instance = |ty: &Type| self.bindings.instantiate(ty, &mut params);
            let expected: Vec<Type> = overload.args.iter().map(&mut instance).collect();
            let returned = instance(&overload.result);
            if !self.bindings.assign_all(&types, &expected) {
                continue;
            }
            fitting.push(*overload);
            let returned = self.bindings.resolve(&returned, false);
            result = Some(match result {
                None => returned,
                Some(Type::Dyn) => Type::Dyn,
                Some(before) if before == returned => before,
                Some(_) => Type::Dyn,
            });
        }
        let Some(result) = result else { return self.no_overload(expr, name, &types, target.is_some()) };
        let function = fitting.first().map_or("", |overload| overload.function);
        self.refs.insert(expr.id, Ref::Call { function, overloads: fitting, qualified });
        result
    }

    fn logical(&mut self, expr: &Expr, overloads: &[&'static Overload], args: &[Expr]) -> Type {
        let mut fits = true;
        for arg in args {
            let found = self.type_of(arg);
            if !self.bindings.assign(&found, &Type::Bool) {
                self.mismatch(arg.at, &Type::Bool, &found);
                fits = false;
            }
        }
        let function = overloads.first().map_or("", |overload| overload.function);
        self.refs.insert(expr.id, Ref::Call { function, overloads: overloads.to_vec(), qualified: false });
        if fits { Type::Bool } else { Type::Error }
    }

    fn no_overload(&mut self, expr: &Expr, name: &str, types: &[Type], member: bool) -> Type {
        let names: Vec<String> = types.iter().map(|ty| self.bindings.resolve(ty, true).to_string()).collect();
        let signature = match names.split_first() {
            Some((target, args)) if member => format!("{target}.({})", args.join(", ")),
            _ => format!("({})", names.join(", ")),
        };
        let message = format!("found no matching overload for '{name}' applied to '{signature}'");
        self.issues.report(expr.at, message);
        Type::Error
    }
}
