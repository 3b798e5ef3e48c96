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
pub(super) fn validate(tree: &Tree, checked: &Checked, patterns: &mut regex::Patterns, issues: &mut Issues) {
    let mut open = vec![(&tree.root, false)];
    while let Some((expr, exempt)) = open.pop() {
        if !exempt {
            homogeneous(expr, checked, issues);
        }
        let format = matches!(&expr.kind, Kind::Call { function, .. } if function == "format");
        if let Kind::Call { target, args, .. } = &expr.kind
            && let Some(Ref::Call { function, overloads, .. }) = checked.refs.get(&expr.id)
        {
            let all: Vec<&Expr> = target.as_deref().into_iter().chain(args).collect();
            call(function, &all, patterns, issues);
            if *function == "format" && overloads.iter().any(|o| o.id == "string_format") {
                template(expr, &all, checked, issues);
            }
        }
        open.extend(children(expr).into_iter().map(|child| (child, exempt || format)));
    }
}

/// Lists and maps are of elements of one type, which Kubernetes wants of all but arguments of `format`.
fn homogeneous(expr: &Expr, checked: &Checked, issues: &mut Issues) {
    let ty = |expr: &Expr, optional: bool| {
        let ty = checked.types.get(expr.id as usize).cloned().unwrap_or(Type::Dyn);
        match ty {
            Type::Optional(of) if optional => (*of).clone(),
            ty => ty,
        }
    };
    match &expr.kind {
        Kind::List(items) => {
            let types = items.iter().map(|item| (item.value.at, ty(&item.value, item.optional))).collect();
            one_type(types, issues);
        }
        Kind::Map(entries) => {
            one_type(entries.iter().map(|entry| (entry.key.at, ty(&entry.key, false))).collect(), issues);
            let values = entries.iter().map(|entry| (entry.value.at, ty(&entry.value, entry.optional)));
            one_type(values.collect(), issues);
        }
        _ => {}
    }
}

fn one_type(types: Vec<(u32, Type)>, issues: &mut Issues) {
    let Some((_, first)) = types.first() else { return };
    if let Some((at, other)) = types.iter().find(|(_, ty)| ty != first) {
        issues.report(*at, format!("expected type '{first}' but found '{other}'"));
    }
}

fn text(expr: &Expr) -> Option<&str> {
    match &expr.kind {
        Kind::Literal(Literal::String(text)) => Some(text),
        _ => None,
    }
}

fn call(function: &str, args: &[&Expr], patterns: &mut regex::Patterns, issues: &mut Issues) {
    match (function, args) {
        ("duration", [arg]) if text(arg).is_some_and(|text| Duration::parse(text).is_none()) => {
            issues.report(arg.at, "invalid duration argument");
        }
        ("timestamp", [arg]) if text(arg).is_some_and(|text| Timestamp::parse(text).is_none()) => {
            issues.report(arg.at, "invalid timestamp argument");
        }
        ("timestamp", [Expr { kind: Kind::Literal(Literal::Int(seconds)), at, .. }])
            if Timestamp::new(*seconds, 0).is_none() =>
        {
            issues.report(*at, "invalid timestamp argument");
        }
        ("matches", [.., arg]) if text(arg).is_some_and(|pattern| patterns.compile(pattern).is_err()) => {
            issues.report(arg.at, "invalid matches argument");
        }
        ("find" | "findAll", [_, pattern, ..]) => {
            if let Some(Err(error)) = text(pattern).map(|pattern| patterns.compile(pattern)) {
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
