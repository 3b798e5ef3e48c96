//! Numbers as Prometheus writes them, and queries in a uniform form.

use super::ast::*;
use super::lex::duration_ms;
use crate::metrics::{METRIC_NAME, is_label_name, quote};

fn special(v: f64) -> Option<String> {
    if v.is_nan() {
        Some("NaN".into())
    } else if v.is_infinite() {
        Some(if v > 0.0 { "+Inf" } else { "-Inf" }.into())
    } else {
        None
    }
}

/// Shortest digits without exponent.
pub(crate) fn plain(v: f64) -> String {
    special(v).unwrap_or_else(|| format!("{v}"))
}

/// With an exponent of at least two digits, as Go writes it.
fn exponent(v: f64, digits: Option<usize>) -> String {
    let text = match digits {
        Some(digits) => format!("{v:.digits$e}"),
        None => format!("{v:e}"),
    };
    let (mantissa, exp) = text.split_once('e').unwrap_or((&text, "0"));
    let (sign, exp) = exp.strip_prefix('-').map_or(('+', exp), |exp| ('-', exp));
    format!("{mantissa}e{sign}{exp:0>2}")
}

/// A sample's value in the API: shortest digits, with an exponent when very small or large.
pub fn format_value(v: f64) -> String {
    special(v).unwrap_or_else(|| {
        let size = v.abs();
        if size != 0.0 && !(1e-6..1e21).contains(&size) {
            // The API writes e-7, not e-07.
            let text = exponent(v, None);
            return match text.split_once("e-0") {
                Some((mantissa, digit)) => format!("{mantissa}e-{digit}"),
                None => text,
            };
        }
        format!("{v}")
    })
}

/// Go's `%g`.
pub(crate) fn short(v: f64) -> String {
    special(v).unwrap_or_else(|| {
        let size = v.abs();
        if size != 0.0 && !(1e-4..1e21).contains(&size) { exponent(v, None) } else { format!("{v}") }
    })
}

/// Go's `%.2g`.
pub(crate) fn two_digits(v: f64) -> String {
    special(v).unwrap_or_else(|| {
        if v == 0.0 {
            return "0".into();
        }
        let rounded: f64 = format!("{v:.1e}").parse().unwrap_or(v);
        let size = rounded.abs();
        if !(1e-4..100.0).contains(&size) {
            let text = exponent(rounded, None);
            return text;
        }
        format!("{rounded}")
    })
}

/// A label's value made of a number, as OpenMetrics writes it: always a float.
pub(crate) fn open_metrics(v: f64) -> String {
    let text = short(v);
    if text.contains(['.', 'e', 'N', 'I']) { text } else { format!("{text}.0") }
}

/// A duration with the largest units that fit.
fn duration(ms: i64) -> String {
    if ms == 0 {
        return "0s".into();
    }
    let (sign, mut rest) = if ms < 0 { ("-", ms.unsigned_abs()) } else { ("", ms as u64) };
    let mut out = String::new();
    // Years, weeks and days only when nothing else is needed besides.
    for (unit, size, exact) in [
        ("y", 31_536_000_000, true),
        ("w", 604_800_000, true),
        ("d", 86_400_000, false),
        ("h", 3_600_000, false),
        ("m", 60_000, false),
        ("s", 1000, false),
        ("ms", 1, false),
    ] {
        if rest >= size && (!exact || rest % size == 0) {
            out.push_str(&format!("{}{unit}", rest / size));
            rest %= size;
        }
    }
    debug_assert!(duration_ms(&out).is_ok());
    format!("{sign}{out}")
}

fn length(length: &Length) -> String {
    match length {
        Length::Fixed(ms) => duration(*ms),
        Length::Computed(expr) => duration_expr(expr),
    }
}

fn duration_expr(expr: &DurationExpr) -> String {
    let arg = |at: usize| expr.args.get(at).map(duration_expr).unwrap_or_default();
    match expr.op {
        DurationOp::Number(seconds, true) => duration((seconds * 1000.0).round() as i64),
        DurationOp::Number(seconds, false) => plain(seconds),
        DurationOp::Step => "step()".into(),
        DurationOp::Range => "range()".into(),
        DurationOp::Min => format!("min_of({}, {})", arg(0), arg(1)),
        DurationOp::Max => format!("max_of({}, {})", arg(0), arg(1)),
        DurationOp::Plus => format!("+{}", arg(0)),
        DurationOp::Minus => format!("-{}", arg(0)),
        DurationOp::Paren => format!("({})", arg(0)),
        DurationOp::Binary(op) => format!("{} {op} {}", arg(0), arg(1)),
    }
}

const WIDTH: usize = 100;

/// The query over several lines when it is long.
pub fn pretty(query: &super::Query) -> String {
    Printer.expr(&query.expr, 0)
}

struct Printer;

impl Printer {
    fn expr(&self, expr: &Expr, level: usize) -> String {
        let indent = "  ".repeat(level);
        let line = one_line(expr);
        if line.len() <= WIDTH {
            return format!("{indent}{line}");
        }
        let deeper = |inner: &Expr| self.expr(inner, level + 1);
        let list = |args: &[Expr]| args.iter().map(deeper).collect::<Vec<_>>().join(",\n");
        match expr {
            Expr::Paren(inner, _) => format!("{indent}(\n{}\n{indent})", deeper(inner)),
            Expr::Call(call) => format!("{indent}{}(\n{}\n{indent})", call.function.name, list(&call.args)),
            Expr::Aggregate(a) => {
                let args: Vec<String> = a.param.iter().chain([&a.expr]).map(deeper).collect();
                format!("{indent}{}(\n{}\n{indent})", aggregate_head(a), args.join(",\n"))
            }
            Expr::Binary(b) => {
                format!("{}\n{indent}{}{}\n{}", deeper(&b.left), b.op.as_str(), matching(b), deeper(&b.right))
            }
            Expr::Unary { minus, expr, .. } => {
                let sign = if *minus { "-" } else { "+" };
                format!("{indent}{sign}{}", self.expr(expr, level).trim_start())
            }
            Expr::Subquery(sub) => format!("{}{}", self.expr(&sub.expr, level), subquery_tail(sub)),
            _ => format!("{indent}{line}"),
        }
    }
}

fn names(list: &[String]) -> String {
    let shown: Vec<String> =
        list.iter().map(|name| if is_label_name(name) { name.clone() } else { quote(name) }).collect();
    shown.join(", ")
}

fn aggregate_head(a: &Aggregate) -> String {
    let op = a.op.as_str();
    match (a.without, a.grouping.is_empty()) {
        (true, _) => format!("{op} without ({}) ", names(&a.grouping)),
        (false, false) => format!("{op} by ({}) ", names(&a.grouping)),
        (false, true) => op.to_string(),
    }
}

fn matching(b: &Binary) -> String {
    let mut out = String::new();
    if b.bool {
        out.push_str(" bool");
    }
    let Some(m) = &b.matching else { return out };
    if m.on || !m.labels.is_empty() {
        out.push_str(&format!(" {} ({})", if m.on { "on" } else { "ignoring" }, names(&m.labels)));
    }
    match m.card {
        Card::ManyToOne => out.push_str(&format!(" group_left ({})", names(&m.include))),
        Card::OneToMany => out.push_str(&format!(" group_right ({})", names(&m.include))),
        _ => {}
    }
    match (m.fill_left, m.fill_right) {
        (Some(a), Some(b)) if a == b => out.push_str(&format!(" fill ({})", plain(a))),
        (left, right) => {
            for (word, value) in [("fill_left", left), ("fill_right", right)] {
                if let Some(value) = value {
                    out.push_str(&format!(" {word} ({})", plain(value)));
                }
            }
        }
    }
    out
}

fn modifiers(offset: &Length, at: Option<At>) -> String {
    let mut out = match at {
        Some(At::Time(t)) => format!(" @ {:.3}", t as f64 / 1000.0),
        Some(At::Start) => " @ start()".into(),
        Some(At::End) => " @ end()".into(),
        None => String::new(),
    };
    if *offset != Length::Fixed(0) {
        out.push_str(&format!(" offset {}", length(offset)));
    }
    out
}

fn extended(s: &Selector) -> &'static str {
    match (s.anchored, s.smoothed) {
        (true, _) => " anchored",
        (_, true) => " smoothed",
        _ => "",
    }
}

fn selector(s: &Selector) -> String {
    let shown = s.matchers.iter().filter(|m| s.name.is_empty() || m.name != METRIC_NAME || m.value != s.name);
    let matchers: Vec<String> = shown.map(ToString::to_string).collect();
    if matchers.is_empty() && !s.name.is_empty() {
        s.name.clone()
    } else {
        format!("{}{{{}}}", s.name, matchers.join(","))
    }
}

fn subquery_tail(sub: &Subquery) -> String {
    let step = sub.step.as_ref().map(length).unwrap_or_default();
    format!("[{}:{step}]{}", length(&sub.range), modifiers(&sub.offset, sub.at))
}

fn one_line(expr: &Expr) -> String {
    match expr {
        Expr::Number { value, duration: true, .. } => duration((value * 1000.0).round() as i64),
        Expr::Number { value, .. } => plain(*value),
        Expr::String { value, .. } => quote(value),
        Expr::Vector(s) => format!("{}{}{}", selector(s), extended(s), modifiers(&s.offset, s.at)),
        Expr::Matrix(m) => {
            let s = &m.selector;
            format!("{}[{}]{}{}", selector(s), length(&m.range), extended(s), modifiers(&s.offset, s.at))
        }
        Expr::Subquery(sub) => format!("{}{}", one_line(&sub.expr), subquery_tail(sub)),
        Expr::Aggregate(a) => {
            let args: Vec<String> = a.param.iter().chain([&a.expr]).map(one_line).collect();
            format!("{}({})", aggregate_head(a), args.join(", "))
        }
        Expr::Binary(b) => {
            format!("{} {}{} {}", one_line(&b.left), b.op.as_str(), matching(b), one_line(&b.right))
        }
        Expr::Call(call) => {
            format!(
                "{}({})",
                call.function.name,
                call.args.iter().map(one_line).collect::<Vec<_>>().join(", ")
            )
        }
        Expr::Paren(inner, _) => format!("({})", one_line(inner)),
        Expr::Unary { minus, expr, .. } => format!("{}{}", if *minus { "-" } else { "+" }, one_line(expr)),
        Expr::Invariant(inner) => one_line(inner),
    }
}
