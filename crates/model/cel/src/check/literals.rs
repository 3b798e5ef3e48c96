//! Constant arguments that could never be right: durations, timestamps, regular expressions, formats.

use super::{Checked, Ref};
use crate::{
    ast::{Expr, Kind, Literal, children},
    issues::Issues,
    library::{convert, format, regex},
    parse::Tree,
    types::Type,
    value::{Duration, Timestamp},
};

/// Reports constants no evaluation could use.
pub(super) fn validate(tree: &Tree, checked: &Checked, issues: &mut Issues) {
    let mut open = vec![&tree.root];
    while let Some(expr) = open.pop() {
        if let Kind::Call { target, args, .. } = &expr.kind
            && let Some(Ref::Call { function, overloads, .. }) = checked.refs.get(&expr.id)
        {
            let all: Vec<&Expr> = target.as_deref().into_iter().chain(args).collect();
            call(function, &all, issues);
            if *function == "format" && overloads.iter().any(|o| o.id == "string_format") {
                template(expr, &all, checked, issues);
            }
        }
        open.extend(children(expr));
    }
}

fn text(expr: &Expr) -> Option<&str> {
    match &expr.kind {
        Kind::Literal(Literal::String(text)) => Some(text),
        _ => None,
    }
}

fn call(function: &str, args: &[&Expr], issues: &mut Issues) {
    match (function, args) {
        ("duration", [arg]) if text(arg).is_some_and(|text| Duration::parse(text).is_none()) => {
            issues.report(arg.at, "invalid duration argument");
        }
        ("timestamp", [arg]) if text(arg).is_some_and(|text| Timestamp::parse(text).is_none()) => {
            issues.report(arg.at, "invalid timestamp argument");
        }
        ("matches", [.., arg]) if text(arg).is_some_and(|pattern| regex::compile(pattern).is_err()) => {
            issues.report(arg.at, "invalid matches argument");
        }
        ("find" | "findAll", [_, pattern, ..]) => {
            if let Some(Err(error)) = text(pattern).map(regex::compile) {
                issues.report(pattern.at, error);
            }
        }
        // Conversions of constants are made once, so what cannot be converted shows at once.
        ("int" | "uint" | "double" | "bool" | "bytes" | "string", [arg]) => {
            if let Some(text) = text(arg)
                && let Err(error) = convert::constant(function, text)
            {
                issues.report(arg.at, error.to_string());
            }
        }
        _ => {}
    }
}

/// `'...'.format([..])` of constants: as many arguments as verbs, each of a type its verb prints.
fn template(expr: &Expr, all: &[&Expr], checked: &Checked, issues: &mut Issues) {
    let [target, Expr { kind: Kind::List(items), .. }] = all else { return };
    let Some(template) = text(target) else { return };
    let types: Vec<Type> = items
        .iter()
        .map(|item| checked.types.get(item.value.id as usize).cloned().unwrap_or(Type::Dyn))
        .collect();
    if let Err((argument, message)) = format::check(template, &types) {
        let at = argument.and_then(|i| items.get(i)).map_or(expr.at, |item| item.value.at);
        issues.report(at, message);
    }
}
