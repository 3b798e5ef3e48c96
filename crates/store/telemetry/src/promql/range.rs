//! Functions of the samples of a range.

use crate::metrics::Point;

/// The samples of one series in one range.
pub(crate) struct Window<'a> {
    /// In order of time, without staleness markers; never empty.
    pub(crate) points: &'a [Point],
    /// The step's time.
    pub(crate) ts: i64,
    /// The range is open here.
    pub(crate) from: i64,
    /// The range is closed here.
    pub(crate) to: i64,
    /// Scalar arguments in order.
    pub(crate) params: &'a [f64],
    pub(crate) anchored: bool,
    pub(crate) smoothed: bool,
}

type Answer = Result<Option<f64>, String>;

impl Window<'_> {
    fn seconds(&self) -> f64 {
        (self.to - self.from) as f64 / 1000.0
    }

    fn param(&self, at: usize) -> f64 {
        self.params.get(at).copied().unwrap_or(f64::NAN)
    }

    fn ends(&self) -> Option<(Point, Point)> {
        Some((*self.points.first()?, *self.points.last()?))
    }
}

/// One step of a compensated sum.
pub(crate) fn kahan(add: f64, sum: f64, c: f64) -> (f64, f64) {
    let t = sum + add;
    if t.is_infinite() {
        return (t, 0.0);
    }
    let c = if sum.abs() >= add.abs() { c + ((sum - t) + add) } else { c + ((add - t) + sum) };
    (t, c)
}

pub(crate) fn rate(w: &Window<'_>) -> Answer {
    Ok(extrapolated(w, true).map(|v| v.0 * (v.1 / w.seconds())))
}

pub(crate) fn increase(w: &Window<'_>) -> Answer {
    Ok(extrapolated(w, true).map(|v| v.0 * v.1))
}

pub(crate) fn delta(w: &Window<'_>) -> Answer {
    Ok(extrapolated(w, false).map(|v| v.0 * v.1))
}

/// The change between first and last sample and the factor that stretches it over the range.
fn extrapolated(w: &Window<'_>, counter: bool) -> Option<(f64, f64)> {
    if w.anchored || w.smoothed {
        return extended(w, counter).map(|v| (v, 1.0));
    }
    let (first, last) = w.ends()?;
    if w.points.len() < 2 {
        return None;
    }
    let mut result = last.v - first.v;
    if counter {
        for pair in w.points.windows(2) {
            if let [before, after] = pair
                && after.v < before.v
            {
                result += before.v;
            }
        }
    }
    let mut to_start = (first.t - w.from) as f64 / 1000.0;
    let mut to_end = (w.to - last.t) as f64 / 1000.0;
    let sampled = (last.t - first.t) as f64 / 1000.0;
    let average = sampled / (w.points.len() - 1) as f64;
    let threshold = average * 1.1;
    if to_start >= threshold {
        to_start = average / 2.0;
    }
    if counter && result > 0.0 && first.v >= 0.0 {
        // A counter was never below zero: the line must not be drawn beyond that point.
        to_start = to_start.min(sampled * (first.v / result));
    }
    if to_end >= threshold {
        to_end = average / 2.0;
    }
    let factor = if sampled == 0.0 { 1.0 } else { (sampled + to_start + to_end) / sampled };
    Some((result, factor))
}

/// The value at a time between two samples; a reset is a start from zero.
pub(crate) fn interpolate(a: Point, b: Point, t: i64, counter: bool) -> f64 {
    let from = if counter && b.v < a.v { 0.0 } else { a.v };
    from + (b.v - from) * (t - a.t) as f64 / (b.t - a.t) as f64
}

/// First and last sample that matter for both ends of a range that may reach over them.
fn ends_of(points: &[Point], from: i64, to: i64, smoothed: bool) -> (usize, usize) {
    let last = points.len() - 1;
    let first = points.get(..last).map_or(0, |p| p.partition_point(|p| p.t <= from)).saturating_sub(1);
    let last =
        if smoothed { points.get(..last).map_or(0, |p| p.partition_point(|p| p.t < to)) } else { last };
    (first, last)
}

fn left_value(points: &[Point], first: usize, from: i64, smoothed: bool, counter: bool) -> Option<f64> {
    let point = *points.get(first)?;
    match points.get(first + 1) {
        Some(next) if smoothed && point.t < from => Some(interpolate(point, *next, from, counter)),
        _ => Some(point.v),
    }
}

fn right_value(points: &[Point], last: usize, to: i64, smoothed: bool, counter: bool) -> Option<f64> {
    let point = *points.get(last)?;
    match last.checked_sub(1).and_then(|at| points.get(at)) {
        Some(before) if smoothed && point.t > to => Some(interpolate(*before, point, to, counter)),
        _ => Some(point.v),
    }
}

fn extended(w: &Window<'_>, counter: bool) -> Option<f64> {
    let points = w.points;
    let (mut first, last) = ends_of(points, w.from, w.to, w.smoothed);
    if points.get(last)?.t <= w.from || (w.smoothed && points.get(first)?.t > w.to) {
        return None;
    }
    let left = left_value(points, first, w.from, w.smoothed, counter)?;
    let right = right_value(points, last, w.to, w.smoothed, counter)?;
    let mut result = right - left;
    if counter {
        // Only samples inside the range: both ends know of resets on their own.
        first += usize::from(points.get(first)?.t <= w.from);
        let end = last + usize::from(points.get(last)?.t < w.to);
        let mut before = left;
        for point in points.get(first..end.max(first)).unwrap_or(&[]) {
            if point.v < before {
                result += before;
            }
            before = point.v;
        }
        if right < before {
            result += before;
        }
    }
    Some(result)
}

/// The samples of a range with values at both of its ends.
pub(crate) fn extend(points: &[Point], from: i64, to: i64, smoothed: bool) -> Vec<Point> {
    if points.is_empty() {
        return Vec::new();
    }
    let (first, last) = ends_of(points, from, to, smoothed);
    if points.get(last).is_none_or(|p| p.t <= from) {
        return Vec::new();
    }
    let left = left_value(points, first, from, smoothed, false).unwrap_or(f64::NAN);
    let right = right_value(points, last, to, smoothed, false).unwrap_or(f64::NAN);
    let mut out = vec![Point { t: from, v: left }];
    let inside = points.get(first..=last).unwrap_or(&[]).iter();
    out.extend(
        inside
            .enumerate()
            .filter(|(i, p)| !((*i == 0 && p.t <= from) || (first + i == last && p.t >= to)))
            .map(|(_, p)| *p),
    );
    out.push(Point { t: to, v: right });
    out
}

/// Where an anchored range begins: at the last sample before it, if there is one.
fn anchored_points<'a>(w: &Window<'a>) -> Option<&'a [Point]> {
    if !w.anchored {
        return Some(w.points);
    }
    let inside = w.points.partition_point(|p| p.t <= w.from);
    if inside >= w.points.len() {
        return None;
    }
    w.points.get(inside.saturating_sub(1)..)
}

pub(crate) fn changes(w: &Window<'_>) -> Answer {
    let differs = |a: f64, b: f64| a != b && !(a.is_nan() && b.is_nan());
    Ok(anchored_points(w).map(|points| points.windows(2).filter(|p| differs(p[0].v, p[1].v)).count() as f64))
}

pub(crate) fn resets(w: &Window<'_>) -> Answer {
    Ok(anchored_points(w).map(|points| points.windows(2).filter(|p| p[1].v < p[0].v).count() as f64))
}

pub(crate) fn irate(w: &Window<'_>) -> Answer {
    Ok(instant(w, true))
}

pub(crate) fn idelta(w: &Window<'_>) -> Answer {
    Ok(instant(w, false))
}

fn instant(w: &Window<'_>, counter: bool) -> Option<f64> {
    let [.., before, last] = w.points else { return None };
    let took = last.t - before.t;
    if took == 0 {
        return None;
    }
    let change = if counter && last.v < before.v { last.v } else { last.v - before.v };
    Some(if counter { change / (took as f64 / 1000.0) } else { change })
}

pub(crate) fn sum(w: &Window<'_>) -> Answer {
    let (sum, c) = w.points.iter().fold((0.0, 0.0), |(sum, c), p| kahan(p.v, sum, c));
    Ok(Some(if sum.is_infinite() { sum } else { sum + c }))
}

/// A mean that stays finite when the sum would not.
#[derive(Clone, Copy, Default)]
pub(crate) struct Mean {
    sum: f64,
    c: f64,
    mean: f64,
    count: f64,
    incremental: bool,
}

impl Mean {
    pub(crate) fn add(&mut self, v: f64) {
        self.count += 1.0;
        if self.count == 1.0 {
            self.sum = v;
            return;
        }
        if !self.incremental {
            let (sum, c) = kahan(v, self.sum, self.c);
            if !sum.is_infinite() {
                (self.sum, self.c) = (sum, c);
                return;
            }
            self.incremental = true;
            self.mean = self.sum / (self.count - 1.0);
            self.c /= self.count - 1.0;
        }
        let q = (self.count - 1.0) / self.count;
        (self.mean, self.c) = kahan(v / self.count, q * self.mean, q * self.c);
    }

    pub(crate) fn value(&self) -> f64 {
        if self.incremental { self.mean + self.c } else { self.sum / self.count + self.c / self.count }
    }
}

pub(crate) fn avg(w: &Window<'_>) -> Answer {
    let mut mean = Mean::default();
    w.points.iter().for_each(|p| mean.add(p.v));
    Ok(Some(mean.value()))
}

fn best(w: &Window<'_>, better: fn(f64, f64) -> bool) -> Option<Point> {
    let mut best = *w.points.first()?;
    for point in w.points {
        if better(point.v, best.v) || best.v.is_nan() {
            best = *point;
        }
    }
    Some(best)
}

pub(crate) fn max(w: &Window<'_>) -> Answer {
    Ok(best(w, |new, old| new > old).map(|p| p.v))
}

pub(crate) fn min(w: &Window<'_>) -> Answer {
    Ok(best(w, |new, old| new < old).map(|p| p.v))
}

pub(crate) fn ts_of_max(w: &Window<'_>) -> Answer {
    Ok(best(w, |new, old| new >= old).map(|p| p.t as f64 / 1000.0))
}

pub(crate) fn ts_of_min(w: &Window<'_>) -> Answer {
    Ok(best(w, |new, old| new <= old).map(|p| p.t as f64 / 1000.0))
}

/// Sorts with NaN first, as Prometheus' heaps do.
pub(crate) fn by_value(a: &f64, b: &f64) -> std::cmp::Ordering {
    b.is_nan().cmp(&a.is_nan()).then(a.partial_cmp(b).unwrap_or(std::cmp::Ordering::Equal))
}

pub(crate) fn quantile(q: f64, values: &mut [f64]) -> f64 {
    if values.is_empty() || q.is_nan() {
        return f64::NAN;
    }
    if q < 0.0 {
        return f64::NEG_INFINITY;
    }
    if q > 1.0 {
        return f64::INFINITY;
    }
    values.sort_by(by_value);
    let last = values.len() - 1;
    let rank = q * last as f64;
    let lower = (rank.floor() as usize).min(last);
    let upper = (lower + 1).min(last);
    let weight = rank - rank.floor();
    let at = |i: usize| values.get(i).copied().unwrap_or(f64::NAN);
    at(lower) * (1.0 - weight) + at(upper) * weight
}

pub(crate) fn quantile_over_time(w: &Window<'_>) -> Answer {
    let mut values: Vec<f64> = w.points.iter().map(|p| p.v).collect();
    Ok(Some(quantile(w.param(0), &mut values)))
}

pub(crate) fn mad(w: &Window<'_>) -> Answer {
    let mut values: Vec<f64> = w.points.iter().map(|p| p.v).collect();
    if values.iter().any(|v| v.is_nan()) {
        return Ok(Some(f64::NAN));
    }
    let median = quantile(0.5, &mut values);
    values.iter_mut().for_each(|v| *v = (*v - median).abs());
    Ok(Some(quantile(0.5, &mut values)))
}

pub(crate) fn variance(points: &[Point]) -> f64 {
    let (mut count, mut mean, mut c_mean, mut aux, mut c_aux) = (0.0, 0.0, 0.0, 0.0, 0.0);
    for point in points {
        count += 1.0;
        let delta = point.v - (mean + c_mean);
        (mean, c_mean) = kahan(delta / count, mean, c_mean);
        (aux, c_aux) = kahan(delta * (point.v - (mean + c_mean)), aux, c_aux);
    }
    (aux + c_aux) / count
}

/// Slope and value at `zero` of the line through the points.
fn regression(points: &[Point], zero: i64) -> (f64, f64) {
    let first = points.first().map_or(f64::NAN, |p| p.v);
    if points.iter().all(|p| p.v == first) {
        return if first.is_infinite() { (f64::NAN, f64::NAN) } else { (0.0, first) };
    }
    let n = points.len() as f64;
    let total = |term: fn(f64, f64) -> f64| {
        let (sum, c) = points
            .iter()
            .fold((0.0, 0.0), |(sum, c), p| kahan(term((p.t - zero) as f64 / 1000.0, p.v), sum, c));
        sum + c
    };
    let (x, y, xy, x2) = (total(|x, _| x), total(|_, y| y), total(|x, y| x * y), total(|x, _| x * x));
    let slope = (xy - x * y / n) / (x2 - x * x / n);
    (slope, y / n - slope * x / n)
}

pub(crate) fn deriv(w: &Window<'_>) -> Answer {
    let Some(first) = w.points.first().filter(|_| w.points.len() > 1) else { return Ok(None) };
    Ok(Some(regression(w.points, first.t).0))
}

pub(crate) fn predict_linear(w: &Window<'_>) -> Answer {
    if w.points.len() < 2 {
        return Ok(None);
    }
    let (slope, intercept) = regression(w.points, w.ts);
    Ok(Some(slope * w.param(0) + intercept))
}

pub(crate) fn smoothing(w: &Window<'_>) -> Answer {
    let (sf, tf) = (w.param(0), w.param(1));
    for (what, factor) in [("smoothing", sf), ("trend", tf)] {
        if factor <= 0.0 || factor >= 1.0 {
            let short = if what == "smoothing" { "sf" } else { "tf" };
            return Err(format!("invalid {what} factor. Expected: 0 < {short} < 1, got: {factor:.6}"));
        }
    }
    let [first, second, ..] = w.points else { return Ok(None) };
    let (mut before, mut now, mut trend) = (0.0, first.v, second.v - first.v);
    for (i, point) in w.points.iter().enumerate().skip(1) {
        if i > 1 {
            trend = tf * (now - before) + (1.0 - tf) * trend;
        }
        let next = sf * point.v + (1.0 - sf) * (now + trend);
        (before, now) = (now, next);
    }
    Ok(Some(now))
}
