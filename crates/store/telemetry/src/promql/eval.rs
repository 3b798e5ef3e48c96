//! Evaluation: each expression becomes the matrix of its values at all steps.

use std::time::Instant;

use super::annotations::Annotations;
use super::ast::*;
use super::functions::Action;
use super::prepare::{Times, prepare};
use super::range::{Window, extend, interpolate};
use super::series::{Matrix, Series, merge_same, nameless};
use super::{Query, QueryError, QueryOptions, QueryResult, QueryValue, ResultSeries, Source, Span};
use crate::metrics::{Labels, Matcher, Point, is_stale};

pub(crate) struct Evaluator<'a> {
    pub(crate) source: &'a dyn Source,
    pub(crate) start: i64,
    pub(crate) end: i64,
    pub(crate) step: i64,
    pub(crate) options: &'a QueryOptions,
    pub(crate) notes: &'a mut Annotations,
    samples: usize,
}

/// The series of a range argument.
struct Ranged {
    series: Matrix,
    range: i64,
    offset: i64,
    at: Option<i64>,
    anchored: bool,
    smoothed: bool,
    name: bool,
}

pub(crate) fn instant(
    query: &Query,
    source: &dyn Source,
    time: i64,
    options: &QueryOptions,
) -> Result<QueryResult, QueryError> {
    let times = Times { start: time, end: time, step: 0 };
    let expr = prepare(query.expr.clone(), times)?;
    let mut notes = Annotations::default();
    let mut ev =
        Evaluator { source, start: time, end: time, step: 1, options, notes: &mut notes, samples: 0 };
    let value = match query.value_type() {
        ValueType::String => match expr.bare() {
            Expr::String { value, .. } => QueryValue::String(time, value.clone()),
            _ => QueryValue::String(time, String::new()),
        },
        ValueType::Scalar => {
            let matrix = ev.eval(&expr)?;
            let v = matrix.first().and_then(|s| s.points.first()).map_or(f64::NAN, |p| p.v);
            QueryValue::Scalar(Point { t: time, v })
        }
        ValueType::Vector => {
            let matrix = ev.eval(&expr)?;
            let matrix = ev.clean(matrix)?;
            let sample = |s: Series| Some((s.labels, Point { t: time, v: s.points.first()?.v }));
            QueryValue::Vector(matrix.into_iter().filter_map(sample).collect())
        }
        ValueType::Matrix => {
            let matrix = ev.top_range(&expr)?;
            QueryValue::Matrix(sorted(ev.clean(matrix)?))
        }
    };
    let (warnings, infos) = notes.texts(&query.text);
    Ok(QueryResult { value, warnings, infos })
}

pub(crate) fn range(
    query: &Query,
    source: &dyn Source,
    (start, end, step): (i64, i64, i64),
    options: &QueryOptions,
) -> Result<QueryResult, QueryError> {
    if !matches!(query.value_type(), ValueType::Scalar | ValueType::Vector) {
        return Err(QueryError::Execution(format!(
            "invalid expression type {} for range query, must be Scalar or instant Vector",
            crate::metrics::quote(query.value_type().documented())
        )));
    }
    if step <= 0 {
        return Err(QueryError::Execution("the step of a range query must be above zero".into()));
    }
    let expr = prepare(query.expr.clone(), Times { start, end, step })?;
    let mut notes = Annotations::default();
    let mut ev = Evaluator { source, start, end, step, options, notes: &mut notes, samples: 0 };
    let matrix = if end < start { Matrix::new() } else { ev.eval(&expr)? };
    let value = QueryValue::Matrix(sorted(ev.clean(matrix)?));
    let (warnings, infos) = notes.texts(&query.text);
    Ok(QueryResult { value, warnings, infos })
}

fn sorted(matrix: Matrix) -> Vec<ResultSeries> {
    let mut out: Vec<ResultSeries> =
        matrix.into_iter().map(|s| ResultSeries { labels: s.labels, points: s.points }).collect();
    out.sort_by(|a, b| a.labels.cmp(&b.labels));
    out
}

impl<'a> Evaluator<'a> {
    pub(crate) fn times(&self) -> impl Iterator<Item = i64> + use<> {
        let (start, end, step) = (self.start, self.end, self.step);
        (0..=((end - start) / step).max(0)).map(move |i| start + i * step)
    }

    pub(crate) fn steps(&self) -> usize {
        ((self.end - self.start) / self.step) as usize + 1
    }

    pub(crate) fn is_range(&self) -> bool {
        self.start != self.end
    }

    pub(crate) fn check(&self) -> Result<(), QueryError> {
        if self.options.deadline.is_some_and(|deadline| Instant::now() > deadline) {
            return Err(QueryError::Timeout);
        }
        let canceled = self.options.canceled.as_ref();
        if canceled.is_some_and(|flag| flag.load(std::sync::atomic::Ordering::Relaxed)) {
            return Err(QueryError::Canceled);
        }
        Ok(())
    }

    /// Counts samples held in memory.
    fn count(&mut self, samples: usize) -> Result<(), QueryError> {
        self.samples += samples;
        if self.samples > self.options.max_samples { Err(QueryError::TooManySamples) } else { Ok(()) }
    }

    /// Drops names at once, unless that is for the end.
    pub(crate) fn dropped(&self, labels: &Labels) -> Labels {
        if self.options.delayed_name_removal { labels.clone() } else { nameless(labels) }
    }

    fn clean(&self, mut matrix: Matrix) -> Result<Matrix, QueryError> {
        for series in matrix.iter_mut().filter(|s| s.drop_name) {
            series.labels = nameless(&series.labels);
        }
        merge_same(matrix)
    }

    /// Same labels are an error now, unless names go at the end.
    pub(crate) fn settle(&self, matrix: Matrix) -> Result<Matrix, QueryError> {
        if self.options.delayed_name_removal { Ok(matrix) } else { merge_same(matrix) }
    }

    fn child(&mut self, start: i64, end: i64, step: i64) -> Evaluator<'_> {
        let Self { source, options, samples, .. } = *self;
        Evaluator { source, start, end, step, options, notes: self.notes, samples }
    }

    pub(crate) fn eval(&mut self, expr: &Expr) -> Result<Matrix, QueryError> {
        self.check()?;
        let before = self.samples;
        let matrix = self.eval_inner(expr)?;
        self.samples = before;
        self.count(matrix.iter().map(|s| s.points.len()).sum())?;
        Ok(matrix)
    }

    fn eval_inner(&mut self, expr: &Expr) -> Result<Matrix, QueryError> {
        match expr {
            Expr::Number { value, .. } => Ok(self.constant(*value)),
            Expr::String { .. } => Ok(Matrix::new()),
            Expr::Vector(selector) => self.selector(selector, false),
            Expr::Paren(inner, _) => self.eval(inner),
            Expr::Unary { minus, expr, .. } => self.unary(*minus, expr),
            Expr::Aggregate(aggregate) => self.aggregate(aggregate),
            Expr::Binary(binary) => self.binary(binary),
            Expr::Call(call) => self.call(call),
            Expr::Invariant(inner) => self.invariant(inner),
            Expr::Matrix(_) | Expr::Subquery(_) => {
                Err(QueryError::Execution("a range vector stands where an instant vector is needed".into()))
            }
        }
    }

    pub(crate) fn scalar(&self, mut value: impl FnMut(i64) -> f64) -> Matrix {
        let points = self.times().map(|t| Point { t, v: value(t) }).collect();
        vec![Series { labels: Labels::default(), points, drop_name: false }]
    }

    fn constant(&self, value: f64) -> Matrix {
        self.scalar(|_| value)
    }

    /// The values of a scalar expression at all steps.
    pub(crate) fn scalar_values(&mut self, expr: &Expr) -> Result<Vec<f64>, QueryError> {
        let matrix = self.eval(expr)?;
        Ok(matrix.into_iter().next().map(|s| s.points.iter().map(|p| p.v).collect()).unwrap_or_default())
    }

    fn unary(&mut self, minus: bool, expr: &Expr) -> Result<Matrix, QueryError> {
        let matrix = self.eval(expr)?;
        if !minus {
            return Ok(matrix);
        }
        let negated = matrix.into_iter().map(|mut series| {
            series.points.iter_mut().for_each(|p| p.v = -p.v);
            series.labels = self.dropped(&series.labels);
            series.drop_name = true;
            series
        });
        let negated = negated.collect();
        self.settle(negated)
    }

    fn invariant(&mut self, inner: &Expr) -> Result<Matrix, QueryError> {
        let (start, step) = (self.start, self.step);
        let mut matrix = self.child(start, start, step).eval(inner)?;
        let times: Vec<i64> = self.times().collect();
        for series in &mut matrix {
            if let Some(v) = series.points.first().map(|p| p.v) {
                series.points = times.iter().map(|t| Point { t: *t, v }).collect();
            }
        }
        Ok(matrix)
    }

    /// Reads series with their samples without staleness markers.
    fn load(
        &mut self,
        matchers: &[Matcher],
        ends: (i64, i64),
        keep_stale: bool,
        out: &mut Matrix,
    ) -> Result<(), QueryError> {
        let source = self.source;
        source.each(matchers, ends, &mut |labels, points| {
            self.check()?;
            if !keep_stale {
                points.retain(|p| !is_stale(p.v));
            }
            self.count(points.len())?;
            if !points.is_empty() {
                out.push(Series { labels: labels.clone(), points: std::mem::take(points), drop_name: false });
            }
            Ok(())
        })
    }

    /// An instant selector; `own_times` gives the samples' times, in seconds, for their values.
    pub(crate) fn selector(&mut self, selector: &Selector, own_times: bool) -> Result<Matrix, QueryError> {
        let lookback = self.options.lookback.as_millis() as i64;
        let offset = selector.offset.ms();
        let at = match selector.at {
            Some(At::Time(t)) => Some(t),
            _ => None,
        };
        let (first, last) = (at.unwrap_or(self.start) - offset, at.unwrap_or(self.end) - offset);
        if selector.smoothed {
            return self.smoothed(selector, (first, last), at, lookback);
        }
        let ends = (first - lookback + 1, last);
        let mut out = Matrix::new();
        let (times, source) = (self.times().collect::<Vec<_>>(), self.source);
        source.each(&selector.matchers, ends, &mut |labels, points| {
            self.check()?;
            let mut found = Vec::new();
            let mut next = 0;
            for &t in &times {
                let time = at.unwrap_or(t) - offset;
                while points.get(next).is_some_and(|p| p.t <= time) {
                    next += 1;
                }
                let Some(point) = next.checked_sub(1).and_then(|at| points.get(at)) else { continue };
                if point.t > time - lookback && !is_stale(point.v) {
                    found.push(Point { t, v: if own_times { point.t as f64 / 1000.0 } else { point.v } });
                }
            }
            self.count(found.len())?;
            if !found.is_empty() {
                out.push(Series { labels: labels.clone(), points: found, drop_name: false });
            }
            Ok(())
        })?;
        Ok(out)
    }

    fn smoothed(
        &mut self,
        selector: &Selector,
        (first, last): (i64, i64),
        at: Option<i64>,
        lookback: i64,
    ) -> Result<Matrix, QueryError> {
        let mut loaded = Matrix::new();
        self.load(&selector.matchers, (first - lookback + 1, last + lookback), false, &mut loaded)?;
        let offset = selector.offset.ms();
        for series in &mut loaded {
            let points = std::mem::take(&mut series.points);
            series.points = self
                .times()
                .filter_map(|t| {
                    let time = at.unwrap_or(t) - offset;
                    let from = points.partition_point(|p| p.t <= time - lookback);
                    let to = points.partition_point(|p| p.t <= time + lookback);
                    let near = points.get(from..to)?;
                    let i = near.partition_point(|p| p.t < time);
                    let before = i.checked_sub(1).and_then(|at| near.get(at));
                    let v = match (before, near.get(i)) {
                        (_, Some(exact)) if exact.t == time => exact.v,
                        (Some(a), Some(b)) => interpolate(*a, *b, time, false),
                        (Some(a), None) => a.v,
                        (None, _) => return None,
                    };
                    Some(Point { t, v })
                })
                .collect();
        }
        loaded.retain(|s| !s.points.is_empty());
        Ok(loaded)
    }

    fn ranged(&mut self, expr: &Expr) -> Result<Ranged, QueryError> {
        let lookback = self.options.lookback.as_millis() as i64;
        match expr.bare() {
            Expr::Matrix(matrix) => {
                let selector = &matrix.selector;
                let (range, offset) = (matrix.range.ms(), selector.offset.ms());
                let at = match selector.at {
                    Some(At::Time(t)) => Some(t),
                    _ => None,
                };
                let (first, last) = (at.unwrap_or(self.start) - offset, at.unwrap_or(self.end) - offset);
                let before = if selector.anchored || selector.smoothed { lookback } else { 0 };
                let after = if selector.smoothed { lookback } else { 0 };
                let mut series = Matrix::new();
                let ends = (first - range - before + 1, last + after);
                self.load(&selector.matchers, ends, false, &mut series)?;
                let (anchored, smoothed) = (selector.anchored, selector.smoothed);
                Ok(Ranged { series, range, offset, at, anchored, smoothed, name: true })
            }
            Expr::Subquery(sub) => {
                let series = self.subquery(sub)?;
                let at = match sub.at {
                    Some(At::Time(t)) => Some(t),
                    _ => None,
                };
                let (range, offset) = (sub.range.ms(), sub.offset.ms());
                Ok(Ranged { series, range, offset, at, anchored: false, smoothed: false, name: true })
            }
            _ => Err(QueryError::Execution("a range vector is needed here".into())),
        }
    }

    fn subquery(&mut self, sub: &Subquery) -> Result<Matrix, QueryError> {
        let (range, offset) = (sub.range.ms(), sub.offset.ms());
        let default = self.options.default_step.as_millis() as i64;
        let step = sub.step.as_ref().map_or(default, Length::ms).max(1);
        let last_step = self.start + (self.end - self.start) / self.step * self.step;
        let (first, last) = match sub.at {
            Some(At::Time(t)) => (t - offset, t - offset),
            _ => (self.start - offset, last_step - offset),
        };
        // The first multiple of the step inside the range, which is open at its start.
        let start = ((first - range).div_euclid(step) + 1) * step;
        if last < start {
            return Ok(Matrix::new());
        }
        self.child(start, last, step).eval(&sub.expr)
    }

    /// A range vector as the whole answer.
    fn top_range(&mut self, expr: &Expr) -> Result<Matrix, QueryError> {
        let ranged = self.ranged(expr)?;
        if matches!(expr.bare(), Expr::Subquery(_)) {
            return Ok(ranged.series);
        }
        let to = ranged.at.unwrap_or(self.start) - ranged.offset;
        let from = to - ranged.range;
        let mut series = ranged.series;
        if ranged.anchored || ranged.smoothed {
            for one in &mut series {
                one.points = extend(&one.points, from, to, ranged.smoothed);
            }
            series.retain(|s| !s.points.is_empty());
        }
        Ok(series)
    }

    fn call(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        match call.function.action {
            Action::Each(f) => {
                let matrix = self.argument(call, 0)?;
                self.each(matrix, |_, v| f(v))
            }
            Action::Date(f) if call.args.is_empty() => Ok(self.scalar(|t| f(t.div_euclid(1000)))),
            Action::Date(f) => {
                let matrix = self.argument(call, 0)?;
                self.each(matrix, |_, v| f(v as i64))
            }
            Action::NativeOnly => self.argument(call, 0).map(|_| Matrix::new()),
            Action::Range(f) => self.over_range(call, f),
            Action::Special => self.special(call),
        }
    }

    pub(crate) fn argument(&mut self, call: &Call, at: usize) -> Result<Matrix, QueryError> {
        match call.args.get(at) {
            Some(expr) => self.eval(expr),
            None => Ok(Matrix::new()),
        }
    }

    /// A function of each value; the number of the step comes with it.
    pub(crate) fn each(&self, matrix: Matrix, f: impl Fn(usize, f64) -> f64) -> Result<Matrix, QueryError> {
        let mapped = matrix.into_iter().map(|mut series| {
            for point in &mut series.points {
                point.v = f(((point.t - self.start) / self.step) as usize, point.v);
            }
            series.labels = self.dropped(&series.labels);
            series.drop_name = true;
            series
        });
        let mapped = mapped.collect();
        self.settle(mapped)
    }

    fn over_range(
        &mut self,
        call: &Call,
        f: fn(&Window<'_>) -> Result<Option<f64>, String>,
    ) -> Result<Matrix, QueryError> {
        let name = call.function.name;
        let at = call.args.iter().position(|arg| arg.value_type() == ValueType::Matrix).unwrap_or(0);
        let Some(arg) = call.args.get(at) else { return Ok(Matrix::new()) };
        let mut params = Vec::new();
        for (i, other) in call.args.iter().enumerate().filter(|(i, _)| *i != at) {
            let values = self.scalar_values(other)?;
            self.quantile_note(name, &values, call.args.get(i).map_or(call.span, Expr::span));
            params.push(values);
        }
        let ranged = self.ranged(arg)?;
        check_extended(&ranged, name)?;
        let keep_name = matches!(name, "last_over_time" | "first_over_time") && ranged.name;
        let times: Vec<i64> = self.times().collect();
        let mut out = Matrix::with_capacity(ranged.series.len());
        for series in &ranged.series {
            self.check()?;
            let points = self.windows(series, &ranged, &times, &params, f)?;
            if points.is_empty() {
                continue;
            }
            if matches!(name, "rate" | "increase") {
                self.counter_note(series, arg.span());
            }
            let drop_name = !keep_name || series.drop_name;
            let labels = if drop_name { self.dropped(&series.labels) } else { series.labels.clone() };
            self.count(points.len())?;
            out.push(Series { labels, points, drop_name });
        }
        if name == "absent_over_time" {
            return Ok(self.absent_over(out, arg));
        }
        self.settle(out)
    }

    /// A series' value at each step, both ends of the range moving forward only.
    fn windows(
        &self,
        series: &Series,
        ranged: &Ranged,
        times: &[i64],
        params: &[Vec<f64>],
        f: fn(&Window<'_>) -> Result<Option<f64>, String>,
    ) -> Result<Vec<Point>, QueryError> {
        let lookback = self.options.lookback.as_millis() as i64;
        let before = if ranged.anchored || ranged.smoothed { lookback } else { 0 };
        let after = if ranged.smoothed { lookback } else { 0 };
        let (mut low, mut high) = (0, 0);
        let mut out = Vec::new();
        let mut scalars = vec![0.0; params.len()];
        for (step, &ts) in times.iter().enumerate() {
            let to = ranged.at.unwrap_or(ts) - ranged.offset;
            let from = to - ranged.range;
            while series.points.get(high).is_some_and(|p| p.t <= to + after) {
                high += 1;
            }
            while low < high && series.points.get(low).is_some_and(|p| p.t <= from - before) {
                low += 1;
            }
            let points = series.points.get(low..high).unwrap_or(&[]);
            if points.is_empty() {
                continue;
            }
            for (slot, values) in scalars.iter_mut().zip(params) {
                *slot = values.get(step).copied().unwrap_or(f64::NAN);
            }
            let (anchored, smoothed) = (ranged.anchored, ranged.smoothed);
            let window = Window { points, ts, from, to, params: &scalars, anchored, smoothed };
            if let Some(v) = f(&window).map_err(QueryError::Execution)? {
                out.push(Point { t: ts, v });
            }
        }
        Ok(out)
    }

    fn counter_note(&mut self, series: &Series, span: Span) {
        let name = series.labels.name();
        let counters = ["_total", "_sum", "_count", "_bucket"];
        if !name.is_empty() && !counters.iter().any(|suffix| name.ends_with(suffix)) {
            let what = "metric might not be a counter, name does not end in _total/_sum/_count/_bucket:";
            self.notes.info(span, format!("{what} {}", crate::metrics::quote(name)));
        }
    }

    pub(crate) fn quantile_note(&mut self, function: &str, values: &[f64], span: Span) {
        if !function.contains("quantile") {
            return;
        }
        if let Some(bad) = values.iter().find(|q| !(0.0..=1.0).contains(*q)) {
            let shown = super::print::short(*bad);
            self.notes.warn(span, format!("quantile value should be between 0 and 1, got {shown}"));
        }
    }

    fn absent_over(&self, present: Matrix, arg: &Expr) -> Matrix {
        let seen: std::collections::HashSet<i64> =
            present.iter().flat_map(|s| s.points.iter().map(|p| p.t)).collect();
        let points: Vec<Point> =
            self.times().filter(|t| !seen.contains(t)).map(|t| Point { t, v: 1.0 }).collect();
        if points.is_empty() {
            return Matrix::new();
        }
        vec![Series { labels: super::vector::absent_labels(arg), points, drop_name: true }]
    }
}

fn check_extended(ranged: &Ranged, name: &str) -> Result<(), QueryError> {
    let anchored = ["changes", "delta", "increase", "rate", "resets"];
    let smoothed = ["delta", "increase", "rate"];
    let (word, allowed) = match (ranged.anchored, ranged.smoothed) {
        (true, _) => ("anchored", &anchored[..]),
        (_, true) => ("smoothed", &smoothed[..]),
        _ => return Ok(()),
    };
    if allowed.contains(&name) {
        return Ok(());
    }
    let list = allowed.join(", ");
    Err(QueryError::Execution(format!("{word} modifier can only be used with: {list} - not with {name}")))
}
