//! Aggregations over series.

use std::collections::HashMap;

use super::QueryError;
use super::ast::*;
use super::eval::Evaluator;
use super::print::plain;
use super::range::{Mean, by_value, kahan, quantile};
use super::series::{Builder, Cursor, Matrix, Series};
use crate::metrics::{FastHash, Labels, METRIC_NAME, Point};

/// One group's state at one step.
#[derive(Clone, Copy, Default)]
struct Cell {
    seen: bool,
    value: f64,
    c: f64,
    mean: Mean,
    count: f64,
}

impl Cell {
    fn add(&mut self, op: Aggregator, v: f64) {
        let first = !self.seen;
        self.seen = true;
        self.count += 1.0;
        match op {
            Aggregator::Sum if first => self.value = v,
            Aggregator::Sum => (self.value, self.c) = kahan(v, self.value, self.c),
            Aggregator::Avg => self.mean.add(v),
            Aggregator::Max if first || self.value < v || self.value.is_nan() => self.value = v,
            Aggregator::Min if first || self.value > v || self.value.is_nan() => self.value = v,
            Aggregator::Group => self.value = 1.0,
            Aggregator::Stddev | Aggregator::Stdvar => {
                if first {
                    // `c` holds the mean, `value` the squares.
                    self.c = v;
                    self.value = if v.is_finite() { 0.0 } else { f64::NAN };
                } else {
                    let delta = v - self.c;
                    self.c += delta / self.count;
                    self.value += delta * (v - self.c);
                }
            }
            _ => {}
        }
    }

    fn result(&self, op: Aggregator) -> f64 {
        match op {
            Aggregator::Sum => self.value + self.c,
            Aggregator::Avg => self.mean.value(),
            Aggregator::Count => self.count,
            Aggregator::Stdvar => self.value / self.count,
            Aggregator::Stddev => (self.value / self.count).sqrt(),
            _ => self.value,
        }
    }
}

struct Groups {
    labels: Vec<Labels>,
    /// The group of each series.
    of: Vec<usize>,
    drop_name: Vec<bool>,
}

fn group_labels(labels: &Labels, aggregate: &Aggregate) -> Labels {
    let listed = |name: &str| aggregate.grouping.iter().any(|g| g == name);
    if aggregate.without {
        labels.filter(|name| name != METRIC_NAME && !listed(name))
    } else if aggregate.grouping.is_empty() {
        Labels::default()
    } else {
        labels.filter(listed)
    }
}

fn groups(matrix: &[Series], aggregate: &Aggregate) -> Groups {
    let mut index: HashMap<Labels, usize, FastHash> = HashMap::default();
    let mut out = Groups { labels: Vec::new(), of: Vec::with_capacity(matrix.len()), drop_name: Vec::new() };
    for series in matrix {
        let labels = group_labels(&series.labels, aggregate);
        let at = match index.get(&labels) {
            Some(at) => *at,
            None => {
                index.insert(labels.clone(), out.labels.len());
                out.labels.push(labels);
                out.drop_name.push(false);
                out.labels.len() - 1
            }
        };
        if let Some(flag) = out.drop_name.get_mut(at) {
            *flag |= series.drop_name;
        }
        out.of.push(at);
    }
    out
}

impl Evaluator<'_> {
    pub(crate) fn aggregate(&mut self, aggregate: &Aggregate) -> Result<Matrix, QueryError> {
        let op = aggregate.op;
        if op == Aggregator::CountValues {
            return self.count_values(aggregate);
        }
        let params = match &aggregate.param {
            Some(param) => self.scalar_values(param)?,
            None => vec![],
        };
        let matrix = self.eval(&aggregate.expr)?;
        if let Some(param) = &aggregate.param
            && !self.parameter_matters(op, &params, param)?
        {
            return Ok(Matrix::new());
        }
        let groups = groups(&matrix, aggregate);
        match op {
            Aggregator::Topk | Aggregator::Bottomk | Aggregator::Limitk | Aggregator::LimitRatio => {
                self.pick(op, &matrix, &groups, &params)
            }
            Aggregator::Quantile => self.quantile(&matrix, groups, &params),
            _ => Ok(self.fold(op, &matrix, groups)),
        }
    }

    /// Refuses or comments on a parameter; false when nothing can come out.
    fn parameter_matters(
        &mut self,
        op: Aggregator,
        params: &[f64],
        param: &Expr,
    ) -> Result<bool, QueryError> {
        let max = params.iter().copied().fold(f64::NEG_INFINITY, f64::max);
        let min = params.iter().copied().fold(f64::INFINITY, f64::min);
        let nan = params.iter().any(|v| v.is_nan());
        let fail = |what: String| Err(QueryError::Execution(what));
        match op {
            Aggregator::Topk | Aggregator::Bottomk | Aggregator::Limitk => {
                if max < 1.0 && !nan {
                    return Ok(false);
                }
                if nan {
                    return fail("Parameter value is NaN".into());
                }
                if min <= -(2f64.powi(63)) {
                    return fail(format!("Scalar value {} underflows int64", super::print::short(min)));
                }
                if max >= 2f64.powi(63) {
                    return fail(format!("Scalar value {} overflows int64", super::print::short(max)));
                }
            }
            Aggregator::LimitRatio => {
                if max == 0.0 && min == 0.0 {
                    return Ok(false);
                }
                if nan {
                    return fail("Ratio value is NaN".into());
                }
                for (bad, value, cap) in [(max > 1.0, max, "1"), (min < -1.0, min, "-1")] {
                    if bad {
                        let shown = super::print::short(value);
                        let what =
                            format!("ratio value should be between -1 and 1, got {shown}, capping to {cap}");
                        self.notes.warn(param.span(), what);
                    }
                }
            }
            _ => self.quantile_note("quantile", params, param.span()),
        }
        Ok(true)
    }

    fn step_of(&self, t: i64) -> usize {
        ((t - self.start) / self.step) as usize
    }

    /// Aggregations that take one sample after the other; series by series, so that memory is read in order.
    fn fold(&self, op: Aggregator, matrix: &[Series], groups: Groups) -> Matrix {
        let steps = self.steps();
        let mut cells = vec![Cell::default(); groups.labels.len() * steps];
        for (series, group) in matrix.iter().zip(&groups.of) {
            for point in &series.points {
                if let Some(cell) = cells.get_mut(group * steps + self.step_of(point.t)) {
                    cell.add(op, point.v);
                }
            }
        }
        let rows = cells.chunks(steps).zip(groups.labels).zip(groups.drop_name);
        let series = rows.map(|((row, labels), drop_name)| {
            let points = row.iter().zip(self.times()).filter(|(cell, _)| cell.seen);
            let points = points.map(|(cell, t)| Point { t, v: cell.result(op) }).collect();
            Series { labels, points, drop_name }
        });
        series.filter(|s| !s.points.is_empty()).collect()
    }

    fn quantile(&self, matrix: &[Series], groups: Groups, params: &[f64]) -> Result<Matrix, QueryError> {
        let mut out = Builder::default();
        let mut cursor = Cursor::new(matrix);
        let mut values: Vec<Vec<f64>> = vec![Vec::new(); groups.labels.len()];
        for (t, q) in self.times().zip(params) {
            self.check()?;
            for (i, _, v) in cursor.step(t) {
                if let Some(list) = groups.of.get(i).and_then(|g| values.get_mut(*g)) {
                    list.push(v);
                }
            }
            for ((list, labels), drop_name) in values.iter_mut().zip(&groups.labels).zip(&groups.drop_name) {
                if !list.is_empty() {
                    out.add(labels.clone(), *drop_name, Point { t, v: quantile(*q, list) })?;
                    list.clear();
                }
            }
        }
        Ok(out.finish())
    }

    /// Aggregations whose result are some of the series themselves.
    fn pick(
        &self,
        op: Aggregator,
        matrix: &[Series],
        groups: &Groups,
        params: &[f64],
    ) -> Result<Matrix, QueryError> {
        let mut out = Builder::default();
        let mut cursor = Cursor::new(matrix);
        let mut lists: Vec<Vec<(usize, f64)>> = vec![Vec::new(); groups.labels.len()];
        for (t, param) in self.times().zip(params) {
            self.check()?;
            lists.iter_mut().for_each(Vec::clear);
            for (i, series, v) in cursor.step(t) {
                let Some(list) = groups.of.get(i).and_then(|g| lists.get_mut(*g)) else { continue };
                let taken = match op {
                    Aggregator::LimitRatio => sampled(&series.labels, param.clamp(-1.0, 1.0)),
                    Aggregator::Limitk => (list.len() as f64) < param.trunc(),
                    _ => *param >= 1.0,
                };
                if taken {
                    list.push((i, v));
                }
            }
            for list in &mut lists {
                match op {
                    Aggregator::Topk => list.sort_by(|a, b| nan_last(b.1, a.1, a.1.is_nan(), b.1.is_nan())),
                    Aggregator::Bottomk => {
                        list.sort_by(|a, b| nan_last(a.1, b.1, a.1.is_nan(), b.1.is_nan()))
                    }
                    _ => {}
                }
                if matches!(op, Aggregator::Topk | Aggregator::Bottomk) {
                    list.truncate(param.max(0.0) as usize);
                }
                for (i, v) in list.iter() {
                    if let Some(series) = matrix.get(*i) {
                        out.add(series.labels.clone(), series.drop_name, Point { t, v: *v })?;
                    }
                }
            }
        }
        Ok(out.finish())
    }

    fn count_values(&mut self, aggregate: &Aggregate) -> Result<Matrix, QueryError> {
        let Some(Expr::String { value: label, .. }) = aggregate.param.as_ref().map(Expr::bare) else {
            return Err(QueryError::Execution("count_values needs a label name".into()));
        };
        if label.is_empty() {
            return Err(QueryError::Execution("invalid label name \"\"".into()));
        }
        let matrix = self.eval(&aggregate.expr)?;
        let mut with_label = aggregate.clone();
        if !aggregate.without {
            with_label.grouping.push(label.clone());
        }
        let mut out = Builder::default();
        let mut cursor = Cursor::new(&matrix);
        for t in self.times() {
            self.check()?;
            let mut counts: HashMap<Labels, u64, FastHash> = HashMap::default();
            let mut order = Vec::new();
            for (_, series, v) in cursor.step(t) {
                let labels = group_labels(&series.labels.with(label, &plain(v)), &with_label);
                let count = counts.entry(labels.clone()).or_insert_with(|| {
                    order.push(labels);
                    0
                });
                *count += 1;
            }
            for labels in order {
                let v = counts.get(&labels).copied().unwrap_or(0) as f64;
                out.add(labels, false, Point { t, v })?;
            }
        }
        Ok(out.finish())
    }
}

/// Orders by value with NaN at the end in either direction.
fn nan_last(a: f64, b: f64, first_nan: bool, second_nan: bool) -> std::cmp::Ordering {
    first_nan.cmp(&second_nan).then_with(|| by_value(&a, &b))
}

/// A fixed share of all label sets; a negative ratio gives exactly the others of its complement.
fn sampled(labels: &Labels, ratio: f64) -> bool {
    let offset = labels.fingerprint() as f64 / u64::MAX as f64;
    if ratio >= 0.0 { offset < ratio } else { offset >= 1.0 + ratio }
}
