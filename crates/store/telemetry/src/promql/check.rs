//! Types and arities of a parsed query.

use super::ast::*;
use super::{ParseError, Span};
use crate::metrics::{METRIC_NAME, quote};

/// The first thing that is wrong, in Prometheus' words.
pub(crate) fn check(input: &str, expr: &Expr) -> Result<(), ParseError> {
    Checker { input }.expr(expr)
}

struct Checker<'a> {
    input: &'a str,
}

type Checked = Result<(), ParseError>;

impl Checker<'_> {
    fn fail(&self, span: Span, what: impl Into<String>) -> Checked {
        Err(ParseError::new(self.input, span, what))
    }

    fn expect(&self, expr: &Expr, want: ValueType, context: &str) -> Checked {
        self.expr(expr)?;
        let got = expr.value_type();
        if got == want {
            return Ok(());
        }
        let what = format!("expected type {} in {context}, got {}", want.documented(), got.documented());
        self.fail(expr.span(), what)
    }

    fn expr(&self, expr: &Expr) -> Checked {
        match expr {
            Expr::Number { .. } | Expr::String { .. } => Ok(()),
            Expr::Vector(selector) => self.selector(selector, false),
            Expr::Matrix(range) => self.selector(&range.selector, false),
            Expr::Paren(inner, _) | Expr::Invariant(inner) => self.expr(inner),
            Expr::Unary { expr: inner, .. } => {
                self.expr(inner)?;
                let got = inner.value_type();
                if matches!(got, ValueType::Scalar | ValueType::Vector) {
                    return Ok(());
                }
                self.fail(
                    expr.span(),
                    format!(
                        "unary expression only allowed on expressions of type scalar or instant vector, got {}",
                        quote(got.documented())
                    ),
                )
            }
            Expr::Subquery(sub) => {
                self.expr(&sub.expr)?;
                match sub.expr.value_type() {
                    ValueType::Vector => Ok(()),
                    other => self.fail(
                        expr.span(),
                        format!("subquery is only allowed on instant vector, got {} instead", other.api()),
                    ),
                }
            }
            Expr::Aggregate(aggregate) => self.aggregate(aggregate),
            Expr::Binary(binary) => self.binary(binary, expr.span()),
            Expr::Call(call) => self.call(call),
        }
    }

    fn aggregate(&self, aggregate: &Aggregate) -> Checked {
        self.expect(&aggregate.expr, ValueType::Vector, "aggregation expression")?;
        match &aggregate.param {
            Some(param) if aggregate.op == Aggregator::CountValues => {
                self.expect(param, ValueType::String, "aggregation parameter")
            }
            Some(param) => self.expect(param, ValueType::Scalar, "aggregation parameter"),
            None => Ok(()),
        }
    }

    fn binary(&self, binary: &Binary, span: Span) -> Checked {
        let (left, right) = (binary.left.value_type(), binary.right.value_type());
        self.expr(&binary.left)?;
        self.expr(&binary.right)?;
        let op = binary.op;
        if binary.bool && !op.is_comparison() {
            return self.fail(binary.op_span, "bool modifier can only be used on comparison operators");
        }
        let both = left == ValueType::Scalar && right == ValueType::Scalar;
        if op.is_comparison() && !binary.bool && both {
            return self.fail(binary.op_span, "comparisons between scalars must use BOOL modifier");
        }
        if let Some(matching) = &binary.matching
            && matching.on
            && let Some(twice) = matching.labels.iter().find(|label| matching.include.contains(label))
        {
            let what = format!("label {} must not occur in ON and GROUP clause at once", quote(twice));
            return self.fail(binary.op_span, what);
        }
        for (side, kind) in [(&binary.left, left), (&binary.right, right)] {
            if !matches!(kind, ValueType::Scalar | ValueType::Vector) {
                return self.fail(
                    side.span(),
                    "binary expression must contain only scalar and instant vector types",
                );
            }
        }
        if !op.is_set() {
            return Ok(());
        }
        if left == ValueType::Scalar || right == ValueType::Scalar {
            let what = format!("set operator {} not allowed in binary scalar expression", quote(op.as_str()));
            return self.fail(span, what);
        }
        match &binary.matching {
            Some(m) if matches!(m.card, Card::OneToMany | Card::ManyToOne) => {
                self.fail(span, format!("no grouping allowed for {} operation", quote(op.as_str())))
            }
            Some(m) if m.fill_left.is_some() || m.fill_right.is_some() => {
                self.fail(span, "filling in missing series not allowed for set operators")
            }
            _ => Ok(()),
        }
    }

    fn call(&self, call: &Call) -> Checked {
        let function = call.function;
        let (want, got, name) = (function.args.len(), call.args.len(), quote(function.name));
        if function.variadic == 0 && want != got {
            return self.fail(call.span, format!("expected {want} argument(s) in call to {name}, got {got}"));
        }
        if function.variadic != 0 {
            let least = want - 1;
            if got < least {
                return self.fail(
                    call.span,
                    format!("expected at least {least} argument(s) in call to {name}, got {got}"),
                );
            }
            let most = least + function.variadic.max(0) as usize;
            if function.variadic > 0 && got > most {
                return self.fail(
                    call.span,
                    format!("expected at most {most} argument(s) in call to {name}, got {got}"),
                );
            }
        }
        for (i, arg) in call.args.iter().enumerate() {
            let Some(kind) = function.args.get(i).or(function.args.last()) else { continue };
            if function.name == "info" && i == 1 {
                match arg {
                    Expr::Vector(selector) if selector.name.is_empty() => self.selector(selector, true)?,
                    Expr::Vector(_) => {
                        return self
                            .fail(arg.span(), "expected label selectors only, got vector selector instead");
                    }
                    _ => return self.fail(arg.span(), "expected label selectors only"),
                }
                continue;
            }
            self.expr(arg)?;
            let got = arg.value_type();
            if got != *kind {
                let (want, got) = (kind.documented(), got.documented());
                return self
                    .fail(arg.span(), format!("expected type {want} in call to function {name}, got {got}"));
            }
        }
        Ok(())
    }

    fn selector(&self, selector: &Selector, may_be_empty: bool) -> Checked {
        if !selector.name.is_empty() {
            let given = selector.matchers.split_last().map_or(&[][..], |(_, others)| others);
            return match given.iter().find(|m| m.name == METRIC_NAME) {
                Some(other) => self.fail(
                    selector.span,
                    format!(
                        "metric name must not be set twice: {} or {}",
                        quote(&selector.name),
                        quote(&other.value)
                    ),
                ),
                None => Ok(()),
            };
        }
        if !may_be_empty && selector.matchers.iter().all(|m| m.matches("")) {
            return self.fail(selector.span, "vector selector must contain at least one non-empty matcher");
        }
        Ok(())
    }
}
