//! Calls that stand for trees: `has`, comprehensions, `optMap` and the like
//! (cel-spec, "Macros"; cel-go's extensions for two variables, sorting).

use super::{Parsed, Parser};
use crate::ast::{ACCUMULATOR, Entry, Expr, Fold, Form, Item, Kind, Literal, op};

/// A fault in a macro's arguments: where, and what.
type Fault = (u32, String);

const OVERWRITES: &str = "iteration variable overwrites accumulator variable";
const UNUSED: &str = "#unused";
const SORT_INPUT: &str = "@__sortBy_input__";

impl Parser<'_> {
    /// A call, or what it stands for.
    pub(super) fn call_or_macro(
        &mut self,
        at: usize,
        function: String,
        target: Option<Expr>,
        args: Vec<Expr>,
    ) -> Parsed<Expr> {
        if self.keep || !self.is_macro(&function, target.as_ref(), args.len()) {
            let target = target.map(Box::new);
            return self.node(at, Kind::Call { function, target, args });
        }
        let expanded = match target {
            None => self.has(at, args),
            Some(target) => self.comprehension(at, &function, target, args),
        };
        match expanded? {
            Ok(expr) => Ok(expr),
            Err((at, message)) => self.wrong(at as usize, message),
        }
    }

    fn is_macro(&self, function: &str, target: Option<&Expr>, args: usize) -> bool {
        if target.is_none() {
            return function == "has" && args == 1;
        }
        match function {
            "all" | "exists" | "exists_one" | "existsOne" => args == 2 || args == 3,
            "map" => args == 2 || args == 3,
            "filter" | "optMap" | "optFlatMap" | "sortBy" => args == 2,
            "transformList" | "transformMap" | "transformMapEntry" => args == 3 || args == 4,
            _ => false,
        }
    }

    fn has(&mut self, at: usize, mut args: Vec<Expr>) -> Parsed<Result<Expr, Fault>> {
        let Some(arg) = args.pop() else { return Ok(Err((at as u32, String::new()))) };
        match arg.kind {
            Kind::Select { operand, field, test: false } => {
                Ok(Ok(self.node(at, Kind::Select { operand, field, test: true })?))
            }
            _ => Ok(Err((arg.at, "invalid argument to has() macro".to_owned()))),
        }
    }

    fn comprehension(
        &mut self,
        at: usize,
        function: &str,
        target: Expr,
        mut args: Vec<Expr>,
    ) -> Parsed<Result<Expr, Fault>> {
        let two = function.starts_with("transform")
            || (args.len() == 3 && matches!(function, "all" | "exists" | "exists_one" | "existsOne"));
        let Some(last) = args.pop() else { return Ok(Err((at as u32, String::new()))) };
        let before = args.len();
        let filter = if before > 1 + usize::from(two) { args.pop() } else { None };
        let mut builder = Builder { parser: self, at };
        match function {
            "optMap" | "optFlatMap" => builder.optional(function, target, &args, last),
            "sortBy" => builder.sort_by(target, &args, last),
            _ => {
                let vars = match variables(function, &args, two) {
                    Ok(vars) => vars,
                    Err(fault) => return Ok(Err(fault)),
                };
                let item = args.first().cloned();
                builder.fold(function, target, vars, item, filter, last).map(Ok)
            }
        }
    }
}

/// The names a comprehension binds, from its first arguments.
fn variables(function: &str, args: &[Expr], two: bool) -> Result<(String, Option<String>), Fault> {
    let simple = if matches!(function, "map" | "filter" | "sortBy") {
        "argument is not an identifier"
    } else {
        "argument must be a simple name"
    };
    let mut names = Vec::new();
    for arg in args.iter().take(1 + usize::from(two)) {
        let Kind::Ident(name) = &arg.kind else { return Err((arg.at, simple.to_owned())) };
        if names.contains(name) {
            return Err((arg.at, format!("duplicate variable name: {name}")));
        }
        if name == ACCUMULATOR || name == "__result__" {
            return Err((arg.at, OVERWRITES.to_owned()));
        }
        names.push(name.clone());
    }
    let mut names = names.into_iter();
    Ok((names.next().unwrap_or_default(), names.next()))
}

/// The bytes of a node's own names and text.
fn own_bytes(kind: &Kind) -> usize {
    match kind {
        Kind::Ident(name) | Kind::Select { field: name, .. } | Kind::Call { function: name, .. } => {
            name.len()
        }
        Kind::Literal(Literal::String(text)) => text.len(),
        Kind::Literal(Literal::Bytes(bytes)) => bytes.len(),
        Kind::Struct { name, fields } => name.len() + fields.iter().map(|f| f.name.len()).sum::<usize>(),
        Kind::Fold(fold) => fold.var.len() + fold.var2.as_ref().map_or(0, String::len) + fold.accu.len(),
        Kind::Literal(_) | Kind::List(_) | Kind::Map(_) | Kind::Wrong => 0,
    }
}

struct Builder<'p, 's> {
    parser: &'p mut Parser<'s>,
    at: usize,
}

impl Builder<'_, '_> {
    fn node(&mut self, kind: Kind) -> Parsed<Expr> {
        self.parser.node(self.at, kind)
    }

    fn ident(&mut self, name: &str) -> Parsed<Expr> {
        self.node(Kind::Ident(name.to_owned()))
    }

    fn accu(&mut self) -> Parsed<Expr> {
        self.ident(ACCUMULATOR)
    }

    fn literal(&mut self, value: Literal) -> Parsed<Expr> {
        self.node(Kind::Literal(value))
    }

    fn call(&mut self, function: &str, args: Vec<Expr>) -> Parsed<Expr> {
        self.parser.call(self.at, function, args)
    }

    fn method(&mut self, target: Expr, function: &str, args: Vec<Expr>) -> Parsed<Expr> {
        self.node(Kind::Call { function: function.to_owned(), target: Some(Box::new(target)), args })
    }

    fn list(&mut self, values: Vec<Expr>) -> Parsed<Expr> {
        self.node(Kind::List(values.into_iter().map(|value| Item { value, optional: false }).collect()))
    }

    /// A loop over `range`; `item` is the first variable, `last` the predicate or what elements become.
    fn fold(
        &mut self,
        function: &str,
        range: Expr,
        vars: (String, Option<String>),
        item: Option<Expr>,
        filter: Option<Expr>,
        last: Expr,
    ) -> Parsed<Expr> {
        match function {
            "all" => self.quantifier(range, vars, last, Form::All),
            "exists" => self.quantifier(range, vars, last, Form::Exists),
            "exists_one" | "existsOne" => self.exactly_one(range, vars, last),
            "transformMap" => {
                let (accu, key) = (self.accu()?, self.ident(&vars.0)?);
                let step = self.call(op::MAP_INSERT, vec![accu, key, last])?;
                self.inserting(range, vars, filter, step)
            }
            "transformMapEntry" => {
                let accu = self.accu()?;
                let step = self.call(op::MAP_INSERT, vec![accu, last])?;
                self.inserting(range, vars, filter, step)
            }
            "filter" => {
                let item = match item {
                    Some(item) => item,
                    None => self.ident(&vars.0)?,
                };
                self.appending(range, vars, Some(last), item)
            }
            _ => self.appending(range, vars, filter, last),
        }
    }

    /// Collects a list of what `item` comes to.
    fn appending(
        &mut self,
        range: Expr,
        vars: (String, Option<String>),
        filter: Option<Expr>,
        item: Expr,
    ) -> Parsed<Expr> {
        let step = self.append(item)?;
        let step = self.filtered(filter, step)?;
        let init = self.list(Vec::new())?;
        self.collecting(range, vars, init, step)
    }

    fn append(&mut self, value: Expr) -> Parsed<Expr> {
        let (accu, list) = (self.accu()?, self.list(vec![value])?);
        self.call(op::ADD, vec![accu, list])
    }

    fn filtered(&mut self, filter: Option<Expr>, step: Expr) -> Parsed<Expr> {
        let Some(filter) = filter else { return Ok(step) };
        let accu = self.accu()?;
        self.call(op::CONDITIONAL, vec![filter, step, accu])
    }

    fn inserting(
        &mut self,
        range: Expr,
        vars: (String, Option<String>),
        filter: Option<Expr>,
        step: Expr,
    ) -> Parsed<Expr> {
        let step = self.filtered(filter, step)?;
        let init = self.node(Kind::Map(Vec::<Entry>::new()))?;
        self.collecting(range, vars, init, step)
    }

    fn collecting(
        &mut self,
        range: Expr,
        (var, var2): (String, Option<String>),
        init: Expr,
        step: Expr,
    ) -> Parsed<Expr> {
        let condition = self.literal(Literal::Bool(true))?;
        let result = self.accu()?;
        let (accu, form) = (ACCUMULATOR.to_owned(), Form::General);
        self.node(Kind::Fold(Box::new(Fold { range, var, var2, accu, init, condition, step, result, form })))
    }

    fn quantifier(
        &mut self,
        range: Expr,
        (var, var2): (String, Option<String>),
        predicate: Expr,
        form: Form,
    ) -> Parsed<Expr> {
        let all = form == Form::All;
        let init = self.literal(Literal::Bool(all))?;
        let accu = self.accu()?;
        let open = if all { accu } else { self.call(op::NOT, vec![accu])? };
        let condition = self.call(op::NOT_STRICTLY_FALSE, vec![open])?;
        let accu = self.accu()?;
        let step = self.call(if all { op::AND } else { op::OR }, vec![accu, predicate])?;
        let result = self.accu()?;
        let accu = ACCUMULATOR.to_owned();
        self.node(Kind::Fold(Box::new(Fold { range, var, var2, accu, init, condition, step, result, form })))
    }

    fn exactly_one(
        &mut self,
        range: Expr,
        (var, var2): (String, Option<String>),
        predicate: Expr,
    ) -> Parsed<Expr> {
        let init = self.literal(Literal::Int(0))?;
        let condition = self.literal(Literal::Bool(true))?;
        let (accu, one) = (self.accu()?, self.literal(Literal::Int(1))?);
        let more = self.call(op::ADD, vec![accu, one])?;
        let step = self.filtered(Some(predicate), more)?;
        let (accu, one) = (self.accu()?, self.literal(Literal::Int(1))?);
        let result = self.call(op::EQUALS, vec![accu, one])?;
        let (accu, form) = (ACCUMULATOR.to_owned(), Form::General);
        self.node(Kind::Fold(Box::new(Fold { range, var, var2, accu, init, condition, step, result, form })))
    }

    /// A name for a value within an expression.
    fn binding(&mut self, name: &str, value: Expr, body: Expr) -> Parsed<Expr> {
        let range = self.list(Vec::new())?;
        let condition = self.literal(Literal::Bool(false))?;
        let step = self.ident(name)?;
        self.node(Kind::Fold(Box::new(Fold {
            range,
            var: UNUSED.to_owned(),
            var2: None,
            accu: name.to_owned(),
            init: value,
            condition,
            step,
            result: body,
            form: Form::Bind,
        })))
    }

    fn optional(
        &mut self,
        function: &str,
        target: Expr,
        args: &[Expr],
        body: Expr,
    ) -> Parsed<Result<Expr, Fault>> {
        let name = match args.first().map(|arg| (&arg.kind, arg.at)) {
            Some((Kind::Ident(name), _)) => name,
            Some((_, at)) => {
                return Ok(Err((at, format!("{function}() variable name must be a simple identifier"))));
            }
            None => return Ok(Err((self.at as u32, String::new()))),
        };
        let again = self.copy(&target)?;
        let value = self.method(again, "value", Vec::new())?;
        let mut mapped = self.binding(name, value, body)?;
        if function == "optMap" {
            let optional = self.ident("optional")?;
            mapped = self.method(optional, "of", vec![mapped])?;
        }
        let present = self.method(target, "hasValue", Vec::new())?;
        let optional = self.ident("optional")?;
        let none = self.method(optional, "none", Vec::new())?;
        self.call(op::CONDITIONAL, vec![present, mapped, none]).map(Ok)
    }

    fn sort_by(&mut self, target: Expr, args: &[Expr], key: Expr) -> Parsed<Result<Expr, Fault>> {
        if matches!(target.kind, Kind::Literal(_) | Kind::Map(_) | Kind::Struct { .. }) {
            let message =
                "sortBy can only be applied to a list, identifier, comprehension, call or select expression";
            return Ok(Err((target.at, message.to_owned())));
        }
        let vars = match variables("sortBy", args, false) {
            Ok(vars) => vars,
            Err(fault) => return Ok(Err(fault)),
        };
        let input = self.ident(SORT_INPUT)?;
        let keys = self.fold("map", input, vars, None, None, key)?;
        let input = self.ident(SORT_INPUT)?;
        let sorted = self.method(input, "@sortByAssociatedKeys", vec![keys])?;
        self.binding(SORT_INPUT, target, sorted).map(Ok)
    }

    /// The same tree with ids of its own.
    fn copy(&mut self, expr: &Expr) -> Parsed<Expr> {
        let mut copy = expr.clone();
        self.renumber(&mut copy)?;
        Ok(copy)
    }

    fn renumber(&mut self, expr: &mut Expr) -> Parsed<()> {
        expr.id = self.node(Kind::Wrong)?.id;
        self.parser.repeat(self.at, own_bytes(&expr.kind))?;
        match &mut expr.kind {
            Kind::Literal(_) | Kind::Ident(_) | Kind::Wrong => {}
            Kind::Select { operand, .. } => self.renumber(operand)?,
            Kind::Call { target, args, .. } => {
                for part in target.iter_mut().map(|t| &mut **t).chain(args) {
                    self.renumber(part)?;
                }
            }
            Kind::List(items) => {
                for item in items {
                    self.renumber(&mut item.value)?;
                }
            }
            Kind::Map(entries) => {
                for entry in entries {
                    self.renumber(&mut entry.key)?;
                    self.renumber(&mut entry.value)?;
                }
            }
            Kind::Struct { fields, .. } => {
                for field in fields {
                    self.renumber(&mut field.value)?;
                }
            }
            Kind::Fold(fold) => {
                let Fold { range, init, condition, step, result, .. } = &mut **fold;
                for part in [range, init, condition, step, result] {
                    self.renumber(part)?;
                }
            }
        }
        Ok(())
    }
}
