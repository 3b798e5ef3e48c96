//! Before evaluation: functions of the query's own times, computed durations, parts that are the same at every step.

use super::QueryError;
use super::ast::*;
use super::functions::Action;

/// The times a query is asked for, in milliseconds.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Times {
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) step: i64,
}

/// Calls `each` with every expression, outermost first.
pub(crate) fn walk<'a>(expr: &'a Expr, each: &mut impl FnMut(&'a Expr)) {
    each(expr);
    match expr {
        Expr::Paren(inner, _) | Expr::Invariant(inner) | Expr::Unary { expr: inner, .. } => walk(inner, each),
        Expr::Subquery(sub) => walk(&sub.expr, each),
        Expr::Aggregate(aggregate) => {
            walk(&aggregate.expr, each);
            aggregate.param.iter().for_each(|param| walk(param, each));
        }
        Expr::Binary(binary) => {
            walk(&binary.left, each);
            walk(&binary.right, each);
        }
        Expr::Call(call) => call.args.iter().for_each(|arg| walk(arg, each)),
        Expr::Number { .. } | Expr::String { .. } | Expr::Vector(_) | Expr::Matrix(_) => {}
    }
}

/// Makes an expression ready to be evaluated.
pub(crate) fn prepare(expr: Expr, times: Times) -> Result<Expr, QueryError> {
    let mut expr = expr;
    resolve(&mut expr, times)?;
    let (_, wrap) = mark(&mut expr);
    Ok(if wrap { Expr::Invariant(Box::new(expr)) } else { expr })
}

fn resolve(expr: &mut Expr, times: Times) -> Result<(), QueryError> {
    match expr {
        Expr::Number { .. } | Expr::String { .. } => {}
        Expr::Vector(selector) => resolve_selector(selector, times)?,
        Expr::Matrix(range) => {
            resolve_selector(&mut range.selector, times)?;
            fix(&mut range.range, false, times)?;
        }
        Expr::Subquery(sub) => {
            resolve(&mut sub.expr, times)?;
            fix(&mut sub.range, false, times)?;
            fix(&mut sub.offset, true, times)?;
            if let Some(step) = &mut sub.step {
                fix(step, false, times)?;
            }
            resolve_at(&mut sub.at, times);
        }
        Expr::Paren(inner, _) | Expr::Invariant(inner) | Expr::Unary { expr: inner, .. } => {
            resolve(inner, times)?
        }
        Expr::Aggregate(aggregate) => {
            resolve(&mut aggregate.expr, times)?;
            aggregate.param.iter_mut().try_for_each(|param| resolve(param, times))?;
        }
        Expr::Binary(binary) => {
            resolve(&mut binary.left, times)?;
            resolve(&mut binary.right, times)?;
        }
        Expr::Call(call) => {
            call.args.iter_mut().try_for_each(|arg| resolve(arg, times))?;
            let ms = match call.function.name {
                "start" => times.start,
                "end" => times.end,
                "step" => times.step,
                "range" => times.end - times.start,
                _ => return Ok(()),
            };
            *expr = Expr::Number { value: ms as f64 / 1000.0, duration: false, span: call.span };
        }
    }
    Ok(())
}

fn resolve_selector(selector: &mut Selector, times: Times) -> Result<(), QueryError> {
    fix(&mut selector.offset, true, times)?;
    resolve_at(&mut selector.at, times);
    Ok(())
}

fn resolve_at(at: &mut Option<At>, times: Times) {
    *at = at.map(|at| match at {
        At::Start => At::Time(times.start),
        At::End => At::Time(times.end),
        At::Time(t) => At::Time(t),
    });
}

fn fix(length: &mut Length, may_be_negative: bool, times: Times) -> Result<(), QueryError> {
    let Length::Computed(expr) = length else { return Ok(()) };
    let fail =
        |what: &str| Err(QueryError::Execution(format!("{}:{}: {what}", expr.span.start, expr.span.end)));
    let seconds = duration(expr, times)?;
    if !seconds.is_finite() {
        return fail("duration is NaN or infinite");
    }
    if seconds <= 0.0 && !may_be_negative {
        return fail("duration must be greater than 0");
    }
    if seconds.abs() > i64::MAX as f64 / 1e9 {
        return fail("duration is out of range");
    }
    *length = Length::Fixed((seconds * 1000.0) as i64);
    Ok(())
}

fn duration(expr: &DurationExpr, times: Times) -> Result<f64, QueryError> {
    let arg = |at: usize| expr.args.get(at).map_or(Ok(f64::NAN), |arg| duration(arg, times));
    let fail =
        |what: &str| Err(QueryError::Execution(format!("{}:{}: {what}", expr.span.start, expr.span.end)));
    Ok(match expr.op {
        DurationOp::Number(seconds, _) => seconds,
        DurationOp::Step => times.step as f64 / 1000.0,
        DurationOp::Range => (times.end - times.start) as f64 / 1000.0,
        DurationOp::Min => arg(0)?.min(arg(1)?),
        DurationOp::Max => arg(0)?.max(arg(1)?),
        DurationOp::Plus | DurationOp::Paren => arg(0)?,
        DurationOp::Minus => -arg(0)?,
        DurationOp::Binary(op) => {
            let (left, right) = (arg(0)?, arg(1)?);
            match op {
                '+' => left + right,
                '-' => left - right,
                '*' => left * right,
                '/' if right == 0.0 => return fail("division by zero"),
                '%' if right == 0.0 => return fail("modulo by zero"),
                '/' => left / right,
                '%' => left % right,
                _ => left.powf(right),
            }
        }
    })
}

/// Functions whose answer depends on the step's time even when their input does not.
fn depends_on_time(call: &Call) -> bool {
    const NAMES: [&str; 6] =
        ["timestamp", "predict_linear", "time", "sort_by_label", "sort_by_label_desc", "info"];
    match call.function.action {
        Action::Date(_) => true,
        _ => NAMES[..3].contains(&call.function.name),
    }
}

/// Wraps the largest parts that are the same at every step. Says whether this one is, and whether it needs wrapping.
fn mark(expr: &mut Expr) -> (bool, bool) {
    match expr {
        Expr::Number { .. } | Expr::String { .. } => (true, false),
        Expr::Vector(selector) => (selector.at.is_some(), selector.at.is_some()),
        Expr::Matrix(range) => (range.selector.at.is_some(), false),
        Expr::Subquery(sub) => {
            if mark(&mut sub.expr).0 {
                wrap(&mut sub.expr);
            }
            (sub.at.is_some(), false)
        }
        Expr::Paren(inner, _) | Expr::Invariant(inner) | Expr::Unary { expr: inner, .. } => mark(inner),
        Expr::Aggregate(aggregate) => {
            let inner = mark(&mut aggregate.expr);
            let steady = aggregate.param.as_mut().is_none_or(|param| mark(param).0);
            if steady {
                return inner;
            }
            if inner.1 {
                wrap(&mut aggregate.expr);
            }
            (false, false)
        }
        Expr::Binary(binary) => {
            let (left, wrap_left) = mark(&mut binary.left);
            let (right, wrap_right) = mark(&mut binary.right);
            if left && right {
                return (true, true);
            }
            if wrap_left {
                wrap(&mut binary.left);
            }
            if wrap_right {
                wrap(&mut binary.right);
            }
            (false, false)
        }
        Expr::Call(call) => {
            let marks: Vec<(bool, bool)> = call.args.iter_mut().map(mark).collect();
            let all = marks.iter().all(|(same, _)| *same);
            // timestamp(metric @ t) is the sample's own time.
            let own_time = call.function.name == "timestamp"
                && call.args.iter().all(|arg| matches!(arg.bare(), Expr::Vector(s) if s.at.is_some()));
            if (all && !depends_on_time(call)) || own_time {
                return (true, true);
            }
            for (arg, (_, wrap_it)) in call.args.iter_mut().zip(marks) {
                if wrap_it {
                    wrap(arg);
                }
            }
            (false, false)
        }
    }
}

fn wrap(expr: &mut Expr) {
    let inner = std::mem::replace(expr, Expr::String { value: String::new(), span: Default::default() });
    *expr =
        if matches!(inner, Expr::Number { .. } | Expr::String { .. } | Expr::Matrix(_) | Expr::Subquery(_)) {
            inner
        } else {
            Expr::Invariant(Box::new(inner))
        };
}
