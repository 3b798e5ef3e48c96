//! Trees back to source text.

use std::fmt::Write as _;

use super::parse_with;
use crate::{
    ast::{Expr, Kind, Literal, op},
    issues::Issues,
};

/// The expression written anew, with every operation in parentheses: parsing it again gives the same tree.
///
/// # Errors
/// When `source` is no expression.
pub(super) fn reprint(source: &str) -> Result<String, Issues> {
    let tree = parse_with(source, true)?;
    let mut out = String::new();
    write(&mut out, &tree.root);
    Ok(out)
}

fn write(out: &mut String, expr: &Expr) {
    match &expr.kind {
        Kind::Literal(value) => literal(out, value),
        Kind::Ident(name) => out.push_str(name),
        Kind::Select { operand, field, .. } => {
            write(out, operand);
            let _ = write!(out, ".{}", quoted(field));
        }
        Kind::Call { function, target, args } => call(out, function, target.as_deref(), args),
        Kind::List(items) => {
            sequence(out, "[", "]", items, |out, item| {
                optional(out, item.optional);
                write(out, &item.value);
            });
        }
        Kind::Map(entries) => sequence(out, "{", "}", entries, |out, entry| {
            optional(out, entry.optional);
            write(out, &entry.key);
            out.push_str(": ");
            write(out, &entry.value);
        }),
        Kind::Struct { name, fields } => {
            out.push_str(name);
            sequence(out, "{", "}", fields, |out, field| {
                optional(out, field.optional);
                let _ = write!(out, "{}: ", quoted(&field.name));
                write(out, &field.value);
            });
        }
        Kind::Fold(_) | Kind::Wrong => {}
    }
}

fn optional(out: &mut String, optional: bool) {
    out.push_str(if optional { "?" } else { "" });
}

fn quoted(field: &str) -> String {
    let plain = |c: char| c.is_ascii_alphanumeric() || c == '_';
    let word = field.starts_with(|c: char| c.is_ascii_alphabetic() || c == '_');
    if word && field.chars().all(plain) && !["in", "true", "false", "null"].contains(&field) {
        field.to_owned()
    } else {
        format!("`{field}`")
    }
}

fn sequence<T>(out: &mut String, open: &str, close: &str, items: &[T], each: impl Fn(&mut String, &T)) {
    out.push_str(open);
    for (i, item) in items.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        each(out, item);
    }
    out.push_str(close);
}

fn call(out: &mut String, function: &str, target: Option<&Expr>, args: &[Expr]) {
    match (function, target, args) {
        (op::CONDITIONAL, None, [condition, then, otherwise]) => {
            out.push('(');
            write(out, condition);
            out.push_str(" ? ");
            write(out, then);
            out.push_str(" : ");
            write(out, otherwise);
            out.push(')');
        }
        (op::INDEX | op::OPT_INDEX, None, [operand, index]) => {
            write(out, operand);
            out.push_str(if function == op::INDEX { "[" } else { "[?" });
            write(out, index);
            out.push(']');
        }
        (op::OPT_SELECT, None, [operand, Expr { kind: Kind::Literal(Literal::String(field)), .. }]) => {
            write(out, operand);
            let _ = write!(out, ".?{}", quoted(field));
        }
        (op::NOT | op::NEGATE, None, [operand]) => {
            out.push_str(if function == op::NOT { "(!(" } else { "(-(" });
            write(out, operand);
            out.push_str("))");
        }
        (_, None, [left, right]) if function.starts_with('_') || function == op::IN => {
            let sign = if function == op::IN { "in" } else { function.trim_matches('_') };
            out.push('(');
            write(out, left);
            let _ = write!(out, " {sign} ");
            write(out, right);
            out.push(')');
        }
        _ => {
            if let Some(target) = target {
                write(out, target);
                out.push('.');
            }
            out.push_str(function);
            sequence(out, "(", ")", args, write);
        }
    }
}

fn literal(out: &mut String, value: &Literal) {
    let _ = match value {
        Literal::Null => write!(out, "null"),
        Literal::Bool(b) => write!(out, "{b}"),
        // In parentheses, or a sign before it would become its own.
        Literal::Int(i) if *i < 0 => write!(out, "({i})"),
        Literal::Int(i) => write!(out, "{i}"),
        Literal::Uint(u) => write!(out, "{u}u"),
        Literal::Double(d) if d.is_sign_negative() => write!(out, "({d:?})"),
        Literal::Double(d) => write!(out, "{d:?}"),
        Literal::String(s) => write!(out, "{}", quote(s)),
        Literal::Bytes(bytes) => {
            out.push_str("b\"");
            for b in bytes.iter() {
                let _ = write!(out, "\\x{b:02x}");
            }
            write!(out, "\"")
        }
    };
}

fn quote(text: &str) -> String {
    let mut out = String::from("\"");
    for c in text.chars() {
        match c {
            '"' | '\\' => out.extend(['\\', c]),
            c if c.is_control() => {
                let _ = write!(out, "\\U{:08x}", u32::from(c));
            }
            c => out.push(c),
        }
    }
    out.push('"');
    out
}
