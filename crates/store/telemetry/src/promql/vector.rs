//! Functions with an evaluation of their own.

use super::QueryError;
use super::ast::*;
use super::eval::Evaluator;
use super::series::{Builder, Cursor, Matrix, Series, merge_same};
use crate::metrics::{Labels, METRIC_NAME, MatchOp, Point};

/// The text of a string argument.
pub(crate) fn text(expr: &Expr) -> String {
    match expr.bare() {
        Expr::String { value, .. } => value.clone(),
        _ => String::new(),
    }
}

fn texts(args: &[Expr]) -> Vec<String> {
    args.iter().map(text).collect()
}

/// What `absent` says of a selector that found nothing: the labels its matchers ask for.
pub(crate) fn absent_labels(expr: &Expr) -> Labels {
    let matchers = match expr.bare() {
        Expr::Vector(selector) => &selector.matchers,
        Expr::Matrix(range) => &range.selector.matchers,
        _ => return Labels::default(),
    };
    let mut labels = Labels::default();
    let mut seen: Vec<&str> = Vec::new();
    for matcher in matchers.iter().filter(|m| m.name != METRIC_NAME) {
        let fresh = !seen.contains(&matcher.name.as_str());
        if matcher.op == MatchOp::Equal && fresh {
            labels = labels.with(&matcher.name, &matcher.value);
            seen.push(&matcher.name);
        } else {
            labels = labels.with(&matcher.name, "");
        }
    }
    labels
}

impl Evaluator<'_> {
    pub(crate) fn special(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        match call.function.name {
            "time" => Ok(self.scalar(|t| t as f64 / 1000.0)),
            "pi" => Ok(self.scalar(|_| std::f64::consts::PI)),
            "max_of" | "min_of" => self.of_two(call),
            "vector" => self.argument(call, 0),
            "scalar" => self.scalar_of(call),
            "absent" => self.absent(call),
            "timestamp" => self.timestamp(call),
            "clamp" | "clamp_min" | "clamp_max" => self.clamp(call),
            "round" => self.round(call),
            "sort" | "sort_desc" | "sort_by_label" | "sort_by_label_desc" => self.sort(call),
            "label_replace" => self.label_replace(call),
            "label_join" => self.label_join(call),
            "histogram_quantile" => self.histogram_quantile(call),
            "histogram_quantiles" => self.histogram_quantiles(call),
            "histogram_fraction" => self.histogram_fraction(call),
            "info" => self.info(call),
            other => Err(QueryError::Execution(format!("function {other} cannot be evaluated here"))),
        }
    }

    fn scalar_argument(&mut self, call: &Call, at: usize) -> Result<Vec<f64>, QueryError> {
        match call.args.get(at) {
            Some(expr) => self.scalar_values(expr),
            None => Ok(vec![]),
        }
    }

    fn of_two(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let (a, b) = (self.scalar_argument(call, 0)?, self.scalar_argument(call, 1)?);
        let pick: fn(f64, f64) -> f64 = if call.function.name == "max_of" { go_max } else { go_min };
        let mut values = a.iter().zip(&b).map(|(a, b)| pick(*a, *b));
        Ok(self.scalar(|_| values.next().unwrap_or(f64::NAN)))
    }

    fn scalar_of(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let matrix = self.argument(call, 0)?;
        let mut cursor = Cursor::new(&matrix);
        Ok(self.scalar(|t| {
            let mut values = cursor.step(t).map(|(_, _, v)| v);
            // Every cursor must move: the iterator is read to its end.
            let first = values.next();
            let more = values.count();
            if more > 0 { f64::NAN } else { first.unwrap_or(f64::NAN) }
        }))
    }

    fn absent(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let matrix = self.argument(call, 0)?;
        let mut cursor = Cursor::new(&matrix);
        let times: Vec<i64> = self.times().filter(|t| cursor.step(*t).count() == 0).collect();
        if times.is_empty() {
            return Ok(Matrix::new());
        }
        let labels = call.args.first().map(absent_labels).unwrap_or_default();
        let points = times.into_iter().map(|t| Point { t, v: 1.0 }).collect();
        Ok(vec![Series { labels, points, drop_name: false }])
    }

    fn timestamp(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let bare = match call.args.first() {
            Some(Expr::Invariant(inner)) => Some(&**inner),
            other => other,
        };
        let matrix = match bare {
            Some(Expr::Vector(selector)) => self.selector(selector, true)?,
            _ => {
                let mut matrix = self.argument(call, 0)?;
                matrix.iter_mut().flat_map(|s| &mut s.points).for_each(|p| p.v = p.t as f64 / 1000.0);
                matrix
            }
        };
        self.each(matrix, |_, v| v)
    }

    fn clamp(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let matrix = self.argument(call, 0)?;
        let first = self.scalar_argument(call, 1)?;
        let second = self.scalar_argument(call, 2)?;
        let name = call.function.name;
        let at = |list: &[f64], step: usize| list.get(step).copied().unwrap_or(f64::NAN);
        let bounds = |step: usize| match name {
            "clamp" => (at(&first, step), at(&second, step)),
            "clamp_min" => (at(&first, step), f64::INFINITY),
            _ => (f64::NEG_INFINITY, at(&first, step)),
        };
        let (start, step) = (self.start, self.step);
        let mut matrix = matrix;
        for series in &mut matrix {
            series.points.retain(|p| {
                let (low, high) = bounds(((p.t - start) / step) as usize);
                low.is_nan() || high.is_nan() || high >= low
            });
        }
        matrix.retain(|s| !s.points.is_empty());
        self.each(matrix, |step, v| {
            let (low, high) = bounds(step);
            go_max(low, go_min(high, v))
        })
    }

    fn round(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let matrix = self.argument(call, 0)?;
        let nearest = self.scalar_argument(call, 1)?;
        self.each(matrix, |step, v| {
            let inverse =
                1.0 / if call.args.len() > 1 { nearest.get(step).copied().unwrap_or(1.0) } else { 1.0 };
            (v * inverse + 0.5).floor() / inverse
        })
    }

    fn sort(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let mut matrix = self.argument(call, 0)?;
        if self.is_range() {
            self.notes.warn(
                call.span,
                "sort is ineffective for range queries since results are always ordered by labels",
            );
            return Ok(matrix);
        }
        let down = call.function.name.ends_with("_desc");
        if call.function.name.starts_with("sort_by_label") {
            let names = texts(call.args.get(1..).unwrap_or(&[]));
            matrix.sort_by(|a, b| {
                let differ =
                    names.iter().map(|n| natural(a.labels.get(n), b.labels.get(n))).find(|o| o.is_ne());
                let order = differ.unwrap_or_else(|| a.labels.cmp(&b.labels));
                if down { order.reverse() } else { order }
            });
            return Ok(matrix);
        }
        let value = |s: &Series| s.points.first().map_or(f64::NAN, |p| p.v);
        matrix.sort_by(|a, b| {
            let (a, b) = (value(a), value(b));
            // NaN goes to the end in both directions.
            a.is_nan().cmp(&b.is_nan()).then_with(|| {
                let order = a.partial_cmp(&b).unwrap_or(std::cmp::Ordering::Equal);
                if down { order.reverse() } else { order }
            })
        });
        Ok(matrix)
    }

    fn label_replace(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let args = texts(call.args.get(1..).unwrap_or(&[]));
        let [target, replacement, source, pattern] = &args[..] else { return Ok(Matrix::new()) };
        let fail = |what: String| QueryError::Execution(what);
        let regex = crate::metrics::anchored(pattern)
            .map_err(|_| fail(format!("invalid regular expression in label_replace(): {pattern}")))?;
        if target.is_empty() {
            return Err(fail(format!("invalid destination label name in label_replace(): {target}")));
        }
        let mut matrix = self.argument(call, 0)?;
        for series in &mut matrix {
            let Some(found) = regex.captures(series.labels.get(source)) else { continue };
            let mut value = String::new();
            found.expand(replacement, &mut value);
            let labels = series.labels.with(target, &value);
            if target == METRIC_NAME {
                series.drop_name = false;
            }
            series.labels = labels;
        }
        merge_same(matrix)
    }

    fn label_join(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let args = texts(call.args.get(1..).unwrap_or(&[]));
        let [target, separator, sources @ ..] = &args[..] else { return Ok(Matrix::new()) };
        let fail = |what: &str, name: &str| {
            Err(QueryError::Execution(format!("invalid {what} label name in label_join(): {name}")))
        };
        if let Some(bad) = sources.iter().find(|name| name.is_empty()) {
            return fail("source", bad);
        }
        if target.is_empty() {
            return fail("destination", target);
        }
        let mut matrix = self.argument(call, 0)?;
        for series in &mut matrix {
            let values: Vec<&str> = sources.iter().map(|name| series.labels.get(name)).collect();
            let labels = series.labels.with(target, &values.join(separator));
            if target == METRIC_NAME {
                series.drop_name = false;
            }
            series.labels = labels;
        }
        merge_same(matrix)
    }

    pub(crate) fn collect(&self, parts: Vec<(Labels, bool, Point)>) -> Result<Matrix, QueryError> {
        let mut out = Builder::default();
        for (labels, drop_name, point) in parts {
            out.add(labels, drop_name, point)?;
        }
        Ok(out.finish())
    }
}

// Go's Max and Min give NaN when either is NaN.
fn go_max(a: f64, b: f64) -> f64 {
    if a == f64::INFINITY || b == f64::INFINITY {
        f64::INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.max(b)
    }
}

fn go_min(a: f64, b: f64) -> f64 {
    if a == f64::NEG_INFINITY || b == f64::NEG_INFINITY {
        f64::NEG_INFINITY
    } else if a.is_nan() || b.is_nan() {
        f64::NAN
    } else {
        a.min(b)
    }
}

/// Numbers inside of texts compare as numbers.
fn natural(a: &str, b: &str) -> std::cmp::Ordering {
    let parts = |text: &str| -> Vec<String> {
        let mut out: Vec<String> = Vec::new();
        let mut digits = None;
        for c in text.chars() {
            if digits != Some(c.is_ascii_digit()) {
                out.push(String::new());
                digits = Some(c.is_ascii_digit());
            }
            if let Some(last) = out.last_mut() {
                last.push(c);
            }
        }
        out
    };
    let (a, b) = (parts(a), parts(b));
    for (x, y) in a.iter().zip(&b) {
        let order = match (x.parse::<u64>(), y.parse::<u64>()) {
            (Ok(m), Ok(n)) => m.cmp(&n).then(x.len().cmp(&y.len())),
            _ => x.cmp(y),
        };
        if order.is_ne() {
            return order;
        }
    }
    a.len().cmp(&b.len())
}
