//! Which types may stand for which: assignability with variables (cel-spec, "Gradual Type Checking").

use std::collections::HashMap;

use crate::types::Type;

/// What is known of variables so far.
#[derive(Debug, Default)]
pub(super) struct Bindings {
    bound: HashMap<u32, Type>,
    next: u32,
    /// What the variables bound by the attempt at hand were bound to before.
    undo: Vec<(u32, Option<Type>)>,
}

/// How many parts a type may have: `{x: x}` within itself doubles it.
const MAX_PARTS: usize = 1000;

impl Bindings {
    pub(super) fn fresh(&mut self) -> Type {
        self.next += 1;
        Type::Var(self.next - 1)
    }

    /// The type with a fresh variable for each parameter of a signature.
    pub(super) fn instantiate(&mut self, ty: &Type, params: &mut HashMap<&'static str, Type>) -> Type {
        match ty {
            Type::Param(name) => params.entry(name).or_insert_with(|| self.fresh()).clone(),
            other => other.with_parts(|part| self.instantiate(part, params)),
        }
    }

    /// The type with what is known of its variables; those still free become dyn when `finally`.
    pub(super) fn resolve(&self, ty: &Type, finally: bool) -> Type {
        match self.last(ty) {
            Type::Var(_) if finally => Type::Dyn,
            free @ Type::Var(_) => free.clone(),
            other => other.with_parts(|part| self.resolve(part, finally)),
        }
    }

    /// What variables bound to one another lead to: a type, or the variable that is still free. They may be
    /// as many as the expression is long.
    fn last<'t>(&'t self, mut ty: &'t Type) -> &'t Type {
        while let Some(bound) = self.binding(ty) {
            ty = bound;
        }
        ty
    }

    fn binding(&self, ty: &Type) -> Option<&Type> {
        if let Type::Var(n) = ty { self.bound.get(n) } else { None }
    }

    /// The last of variables bound to one another, which may be bound to a type.
    fn last_variable(&self, mut ty: Type) -> Type {
        while let Some(Type::Var(n)) = self.binding(&ty) {
            ty = Type::Var(*n);
        }
        ty
    }

    /// Whether all of one list may stand for all of the other; bindings are kept only if so.
    pub(super) fn assign_all(&mut self, from: &[Type], to: &[Type]) -> bool {
        if from.len() != to.len() {
            return false;
        }
        self.undo.clear();
        let fits = from.iter().zip(to).all(|(a, b)| self.unify(a, b));
        if !fits {
            while let Some((variable, before)) = self.undo.pop() {
                match before {
                    Some(ty) => self.bound.insert(variable, ty),
                    None => self.bound.remove(&variable),
                };
            }
        }
        fits
    }

    fn set(&mut self, variable: u32, ty: Type) {
        let before = self.bound.insert(variable, ty);
        self.undo.push((variable, before));
    }

    /// The type has more parts than any may have.
    pub(super) fn is_too_large(&self, ty: &Type) -> bool {
        let mut left = MAX_PARTS;
        let mut open = vec![ty];
        while let Some(ty) = open.pop() {
            if left == 0 {
                return true;
            }
            left -= 1;
            match ty {
                Type::Var(n) => open.extend(self.bound.get(n)),
                other => open.extend(other.parts()),
            }
        }
        false
    }

    pub(super) fn assign(&mut self, from: &Type, to: &Type) -> bool {
        self.assign_all(std::slice::from_ref(from), std::slice::from_ref(to))
    }

    fn unify(&mut self, a: &Type, b: &Type) -> bool {
        match (a, b) {
            (Type::Var(_), _) | (_, Type::Var(_)) => {
                let (a, b) = (self.last_variable(a.clone()), self.last_variable(b.clone()));
                self.unify_last(&a, &b)
            }
            _ => self.unify_last(a, b),
        }
    }

    /// Unifies what is not bound to another variable.
    fn unify_last(&mut self, a: &Type, b: &Type) -> bool {
        if let (Type::Var(m), Type::Var(n)) = (a, b)
            && !self.bound.contains_key(m)
            && !self.bound.contains_key(n)
        {
            // The younger to the older: many bound one after the other all lead to the first at once.
            if m != n {
                self.set(*m.max(n), Type::Var(*m.min(n)));
            }
            return true;
        }
        if let Type::Var(n) = b {
            let known = self.bound.contains_key(n);
            if self.bind(a, *n) {
                return true;
            }
            if known {
                return false;
            }
        }
        if let Type::Var(n) = a {
            return self.bind(b, *n);
        }
        if a.is_dyn_or_error() || b.is_dyn_or_error() {
            return true;
        }
        match (a, b) {
            (Type::Null, other) | (other, Type::Null) => nullable(other),
            (Type::Type(_), Type::Type(_)) => true,
            _ => {
                let (left, right) = (a.parts(), b.parts());
                a.same_head(b) && left.into_iter().zip(right).all(|(a, b)| self.unify(a, b))
            }
        }
    }

    /// Takes `ty` for the variable, or what both have in common if it is bound already.
    fn bind(&mut self, ty: &Type, variable: u32) -> bool {
        if matches!(ty, Type::Var(n) if *n == variable) {
            return true;
        }
        let Some(bound) = self.bound.get(&variable).cloned() else {
            let free = !self.occurs(variable, ty);
            if free {
                self.set(variable, ty.clone());
            }
            return free;
        };
        if *ty == bound {
            return true;
        }
        if !self.unify(ty, &bound) {
            return false;
        }
        let general = most_general(ty, &bound);
        if !self.occurs(variable, &general) {
            self.set(variable, general);
        }
        true
    }

    fn occurs(&self, variable: u32, within: &Type) -> bool {
        let mut open = vec![within];
        while let Some(ty) = open.pop() {
            match ty {
                Type::Var(n) if *n == variable => return true,
                Type::Var(n) => open.extend(self.bound.get(n)),
                other => open.extend(other.parts()),
            }
        }
        false
    }
}

/// `null` may stand for a value of the type.
fn nullable(ty: &Type) -> bool {
    matches!(
        ty,
        Type::Null | Type::Optional(_) | Type::Object(_) | Type::Opaque(_) | Type::Duration | Type::Timestamp
    )
}

/// Of two types that unify, the one that says less.
pub(super) fn most_general(a: &Type, b: &Type) -> Type {
    if less_specific(a, b) { a.clone() } else { b.clone() }
}

fn less_specific(a: &Type, b: &Type) -> bool {
    match (a, b) {
        (Type::Dyn | Type::Var(_), _) => true,
        (_, Type::Dyn | Type::Var(_)) => false,
        (Type::Type(_), Type::Type(_)) => true,
        _ => a.same_head(b) && a.parts().into_iter().zip(b.parts()).all(|(a, b)| less_specific(a, b)),
    }
}
