//! Lists, maps and objects under construction.

use super::{Checker, Ref, unify::most_general, unwrap_optional};
use crate::{
    ast::{Entry, Expr, Field, Item},
    types::Type,
};

impl Checker<'_> {
    pub(super) fn list(&mut self, items: &[Item]) -> Type {
        let mut element: Option<Type> = None;
        for item in items {
            self.check(&item.value);
            let ty = self.given(&item.value, item.optional);
            element = Some(self.join(element, ty));
        }
        Type::list(element.unwrap_or_else(|| self.bindings.fresh()))
    }

    pub(super) fn map(&mut self, entries: &[Entry]) -> Type {
        let (mut key, mut value): (Option<Type>, Option<Type>) = (None, None);
        for entry in entries {
            let ty = self.check(&entry.key);
            key = Some(self.join(key, ty));
            self.check(&entry.value);
            let ty = self.given(&entry.value, entry.optional);
            value = Some(self.join(value, ty));
        }
        let key = key.unwrap_or_else(|| self.bindings.fresh());
        let value = value.unwrap_or_else(|| self.bindings.fresh());
        Type::map(key, value)
    }

    /// The type of an element, of an optional one what it may hold.
    fn given(&mut self, expr: &Expr, optional: bool) -> Type {
        let ty = self.type_of(expr);
        if !optional {
            return ty;
        }
        let (inner, is_optional) = unwrap_optional(&self.bindings.resolve(&ty, false));
        if !is_optional && inner != Type::Dyn {
            self.mismatch(expr.at, &Type::optional(ty.clone()), &ty);
        }
        inner
    }

    /// What elements of both types have in common.
    fn join(&mut self, previous: Option<Type>, current: Type) -> Type {
        let Some(previous) = previous else { return current };
        if self.bindings.assign(&previous, &current) {
            return most_general(&previous, &current);
        }
        Type::Dyn
    }

    pub(super) fn structure(&mut self, expr: &Expr, name: &str, fields: &[Field]) -> Type {
        let Some((ty, reference)) = self.lookup(name) else { return self.undeclared(expr.at, name) };
        let decl = match &reference {
            Ref::Type(Type::Object(decl)) => decl.clone(),
            Ref::Type(other) => {
                self.issues.report(expr.at, format!("'{}' is not a message type", other.head()));
                return Type::Error;
            }
            _ => {
                self.issues.report(expr.at, format!("'{ty}' is not a type"));
                return Type::Error;
            }
        };
        for field in fields {
            self.check(&field.value);
            let found = self.given(&field.value, field.optional);
            let Some(declared) = decl.get(&field.name) else {
                self.issues.report(field.at, format!("undefined field '{}'", field.name));
                continue;
            };
            let expected = declared.decl.ty();
            if !self.bindings.assign(&expected, &found) {
                let found = self.bindings.resolve(&found, false);
                let message = format!(
                    "expected type of field '{}' is '{expected}' but provided type is '{found}'",
                    field.name
                );
                self.issues.report(field.at, message);
            }
        }
        let ty = Type::Object(decl);
        self.refs.insert(expr.id, reference);
        ty
    }
}
