//! Quantiles and fractions of classic histograms.

use std::collections::HashMap;

use super::QueryError;
use super::annotations::{Forced, named};
use super::ast::Call;
use super::eval::Evaluator;
use super::series::{Builder, Cursor, Matrix, Series};
use crate::metrics::{FastHash, Labels, METRIC_NAME, Point, quote};

/// Differences smaller than this, relatively, come from floating point and not from the counters.
const SMALL: f64 = 1e-12;

#[derive(Debug, Clone, Copy, PartialEq)]
pub(crate) struct Bucket {
    pub(crate) upper: f64,
    pub(crate) count: f64,
}

/// What was corrected: smallest and largest bucket and largest difference.
type Correction = Option<(f64, f64, f64)>;

pub(crate) fn almost_equal(a: f64, b: f64, tolerance: f64) -> bool {
    if a == b || (a.is_nan() && b.is_nan()) {
        return true;
    }
    let (sum, difference) = (a.abs() + b.abs(), (a - b).abs());
    if a == 0.0 || b == 0.0 || sum < f64::MIN_POSITIVE {
        return difference < tolerance * f64::MIN_POSITIVE;
    }
    difference / sum.min(f64::MAX) < tolerance
}

/// Sorts by bound and adds up buckets of the same one.
fn tidy(buckets: &mut Vec<Bucket>) {
    buckets.sort_by(|a, b| a.upper.total_cmp(&b.upper));
    buckets.dedup_by(|b, a| {
        let same = a.upper == b.upper;
        if same {
            a.count += b.count;
        }
        same
    });
}

fn make_monotonic(buckets: &mut [Bucket]) -> Correction {
    let mut forced: Correction = None;
    let mut before = buckets.first().map_or(0.0, |b| b.count);
    for bucket in buckets.iter_mut().skip(1) {
        let count = bucket.count;
        if count == before {
            continue;
        }
        if almost_equal(before, count, SMALL) {
            bucket.count = before;
        } else if count < before {
            bucket.count = before;
            let (low, high, diff) = forced.unwrap_or((f64::INFINITY, f64::NEG_INFINITY, 0.0));
            forced = Some((low.min(bucket.upper), high.max(bucket.upper), diff.max(before - count)));
        } else {
            before = count;
        }
    }
    forced
}

pub(crate) fn bucket_quantile(q: f64, buckets: &mut Vec<Bucket>) -> (f64, Correction) {
    if q.is_nan() {
        return (f64::NAN, None);
    }
    if q < 0.0 {
        return (f64::NEG_INFINITY, None);
    }
    if q > 1.0 {
        return (f64::INFINITY, None);
    }
    tidy(buckets);
    if buckets.last().is_none_or(|b| b.upper != f64::INFINITY) {
        return (f64::NAN, None);
    }
    let forced = make_monotonic(buckets);
    let (Some(total), true) = (buckets.last().map(|b| b.count), buckets.len() > 1) else {
        return (f64::NAN, forced);
    };
    if total == 0.0 {
        return (f64::NAN, forced);
    }
    let mut rank = q * total;
    let last = buckets.len() - 1;
    let upper = |at: usize| buckets.get(at).map_or(f64::NAN, |b| b.upper);
    // Counts may be NaN: such a bucket does not reach any rank.
    let at = buckets.iter().take(last).position(|b| b.count >= rank).unwrap_or(last);
    if at == last {
        return (upper(last - 1), forced);
    }
    if at == 0 && upper(0) <= 0.0 {
        return (upper(0), forced);
    }
    let (mut start, mut count) = (0.0, buckets.get(at).map_or(f64::NAN, |b| b.count));
    if let Some(before) = at.checked_sub(1).and_then(|at| buckets.get(at)) {
        start = before.upper;
        count -= before.count;
        rank -= before.count;
    }
    (start + (upper(at) - start) * (rank / count), forced)
}

pub(crate) fn bucket_fraction(lower: f64, upper: f64, buckets: &mut Vec<Bucket>) -> f64 {
    tidy(buckets);
    let Some(last) = buckets.last().copied().filter(|b| b.upper == f64::INFINITY) else { return f64::NAN };
    let total = last.count;
    if total == 0.0 || total.is_nan() || lower.is_nan() || upper.is_nan() {
        return f64::NAN;
    }
    if lower >= upper {
        return 0.0;
    }
    let below = |v: f64| {
        let mut rank = 0.0;
        let mut start = if buckets.first().is_some_and(|b| b.upper <= 0.0) { f64::NEG_INFINITY } else { 0.0 };
        for bucket in buckets.iter() {
            if start >= v {
                return rank;
            }
            if start < v && bucket.upper > v {
                // Within the first or last bucket there is no line to follow.
                if start == f64::NEG_INFINITY {
                    return bucket.count;
                }
                if bucket.upper == f64::INFINITY {
                    return rank;
                }
                return rank + (bucket.count - rank) * (v - start) / (bucket.upper - start);
            }
            rank = bucket.count;
            start = bucket.upper;
        }
        total
    };
    (below(upper).min(total) - below(lower).min(total)) / total
}

/// One histogram: its labels without `le`, and which series are its buckets.
struct Histogram {
    labels: Labels,
    name: String,
}

struct Histograms {
    list: Vec<Histogram>,
    /// For each series its histogram and bound.
    of: Vec<Option<(usize, f64)>>,
}

pub(crate) fn parse_bound(text: &str) -> Option<f64> {
    match text {
        "+Inf" | "Inf" | "inf" | "+inf" => Some(f64::INFINITY),
        "-Inf" | "-inf" => Some(f64::NEG_INFINITY),
        _ => text.parse().ok(),
    }
}

impl Evaluator<'_> {
    fn histograms(&mut self, matrix: &[Series], span: super::Span) -> Histograms {
        let mut index: HashMap<Labels, usize, FastHash> = HashMap::default();
        let mut out = Histograms { list: Vec::new(), of: Vec::with_capacity(matrix.len()) };
        for series in matrix {
            let le = series.labels.get("le");
            let Some(bound) = parse_bound(le) else {
                let name = if self.options.delayed_name_removal { series.labels.name() } else { "" };
                let what =
                    format!("bucket label \"le\" is missing or has a malformed value of {}", quote(le));
                self.notes.warn(span, named(&what, name));
                out.of.push(None);
                continue;
            };
            let key = series.labels.filter(|name| name != "le");
            let at = *index.entry(key).or_insert_with_key(|key| {
                let labels = if self.options.delayed_name_removal {
                    key.clone()
                } else {
                    super::series::nameless(key)
                };
                out.list.push(Histogram { labels, name: key.get(METRIC_NAME).to_string() });
                out.list.len() - 1
            });
            out.of.push(Some((at, bound)));
        }
        out
    }

    /// Calls `each` with every histogram's buckets at every step.
    fn each_histogram(
        &mut self,
        matrix: &[Series],
        span: super::Span,
        mut each: impl FnMut(&mut Self, usize, i64, &Histogram, &mut Vec<Bucket>) -> Result<(), QueryError>,
    ) -> Result<(), QueryError> {
        let histograms = self.histograms(matrix, span);
        let mut cursor = Cursor::new(matrix);
        let mut buckets: Vec<Vec<Bucket>> = vec![Vec::new(); histograms.list.len()];
        for (step, t) in self.times().enumerate() {
            self.check()?;
            for (i, _, count) in cursor.step(t) {
                if let Some((at, upper)) = histograms.of.get(i).copied().flatten()
                    && let Some(list) = buckets.get_mut(at)
                {
                    list.push(Bucket { upper, count });
                }
            }
            for (histogram, list) in histograms.list.iter().zip(&mut buckets) {
                if !list.is_empty() {
                    each(self, step, t, histogram, list)?;
                    list.clear();
                }
            }
        }
        Ok(())
    }

    pub(crate) fn histogram_quantile(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let [q, vector] = &call.args[..] else { return Ok(Matrix::new()) };
        let qs = self.scalar_values(q)?;
        let matrix = self.eval(vector)?;
        if !matrix.is_empty() {
            self.quantile_note("quantile", &qs, q.span());
        }
        self.quantiles(&matrix, vector.span(), &[(qs, None)])
    }

    pub(crate) fn histogram_quantiles(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let [vector, label, rest @ ..] = &call.args[..] else { return Ok(Matrix::new()) };
        let label = super::vector::text(label);
        let mut all = Vec::new();
        for q in rest {
            let values = self.scalar_values(q)?;
            self.quantile_note("quantile", &values, q.span());
            all.push((values, Some(label.clone())));
        }
        let matrix = self.eval(vector)?;
        self.quantiles(&matrix, vector.span(), &all)
    }

    fn quantiles(
        &mut self,
        matrix: &[Series],
        span: super::Span,
        wanted: &[(Vec<f64>, Option<String>)],
    ) -> Result<Matrix, QueryError> {
        let mut out = Builder::default();
        self.each_histogram(matrix, span, |ev, step, t, histogram, buckets| {
            for (qs, label) in wanted {
                let q = qs.get(step).copied().unwrap_or(f64::NAN);
                let (v, forced) = bucket_quantile(q, &mut buckets.clone());
                if let Some((min_bucket, max_bucket, max_diff)) = forced {
                    let name = if ev.options.delayed_name_removal { histogram.name.as_str() } else { "" };
                    ev.notes.forced(
                        span,
                        name,
                        Forced { from: t, to: t, min_bucket, max_bucket, max_diff, count: 1 },
                    );
                }
                let labels = match label {
                    Some(label) => histogram.labels.with(label, &super::print::open_metrics(q)),
                    None => histogram.labels.clone(),
                };
                out.add(labels, true, Point { t, v })?;
            }
            Ok(())
        })?;
        self.settle(out.finish())
    }

    pub(crate) fn histogram_fraction(&mut self, call: &Call) -> Result<Matrix, QueryError> {
        let [lower, upper, vector] = &call.args[..] else { return Ok(Matrix::new()) };
        let (lowers, uppers) = (self.scalar_values(lower)?, self.scalar_values(upper)?);
        let matrix = self.eval(vector)?;
        let mut out = Builder::default();
        self.each_histogram(&matrix, vector.span(), |_, step, t, histogram, buckets| {
            let at = |list: &[f64]| list.get(step).copied().unwrap_or(f64::NAN);
            let v = bucket_fraction(at(&lowers), at(&uppers), buckets);
            out.add(histogram.labels.clone(), true, Point { t, v })
        })?;
        self.settle(out.finish())
    }
}
