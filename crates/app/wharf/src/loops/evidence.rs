//! The requests of a canary and of the stable fleet, slice by slice, out of the router's counters.

use std::{collections::BTreeMap, time::Duration};

use wharf_base::Timestamp;
use wharf_deliver::sequential::{Counts, Slice};

use super::measure::{Measure, Series};

/// Length of a slice in milliseconds. The first ones may be shorter.
const SLICE: i64 = 1000;
/// Slices at the most: longer trials get longer slices.
const MAX_SLICES: i64 = 600;

/// Longer than the time between two samples of a counter.
const LOOK_BACK: Duration = Duration::from_secs(10);

/// Which requests are looked at.
pub(super) struct Evidence<'a> {
    pub(super) namespace: &'a str,
    /// Hash of the new version.
    pub(super) canary: &'a str,
    /// Hash of the old one.
    pub(super) stable: &'a str,
    /// Since when.
    pub(super) since: Timestamp,
}

impl Evidence<'_> {
    pub(super) fn slices(&self, measure: &dyn Measure) -> Result<Vec<Slice>, String> {
        let selector = |name: &str| {
            format!("{name}{{namespace={:?},version=~\"{}|{}\"}}", self.namespace, self.canary, self.stable)
        };
        // A counter without a sample before the trial began with it, at zero: its first sample counts whole.
        let before = self.since.minus(LOOK_BACK);
        let requests = measure.since(&selector("wharf_http_requests_total"), before)?;
        let buckets = measure.since(&selector("wharf_http_request_duration_seconds_bucket"), before)?;
        let start = self.since.as_millis();
        let newest =
            requests.iter().filter_map(|s| s.points.last()).map(|(at, _)| *at).max().unwrap_or(start);
        let length = ((newest - start) / MAX_SLICES).max(SLICE);
        let thresholds = self.thresholds(&buckets, start);
        let mut table = Table { slices: BTreeMap::new(), thresholds: thresholds.len(), start, length };
        for series in &requests {
            let failed = label(series, "code").starts_with('5');
            let canary = label(series, "version") == self.canary;
            table.add(series, canary, |counts, n| {
                counts.requests += n;
                counts.errors += if failed { n } else { 0.0 };
            });
        }
        for series in &buckets {
            let canary = label(series, "version") == self.canary;
            let bound = label(series, "le");
            for (index, threshold) in thresholds.iter().enumerate() {
                // Slower than the threshold: all of them less those within it.
                let sign = match bound {
                    "+Inf" => 1.0,
                    bound if bound == threshold => -1.0,
                    _ => continue,
                };
                table.add(series, canary, |counts, n| {
                    if let Some(slow) = counts.slow.get_mut(index) {
                        *slow += sign * n;
                    }
                });
            }
        }
        Ok(table.slices.into_values().collect())
    }

    /// Bounds of buckets that about half, a tenth and a hundredth of the old version's requests exceed, each two buckets
    /// further on: a new version may be a little slower.
    fn thresholds(&self, buckets: &[Series], start: i64) -> Vec<String> {
        let mut within: Vec<(f64, String, f64)> = Vec::new();
        for series in buckets.iter().filter(|s| label(s, "version") == self.stable) {
            let bound = label(series, "le");
            let value = bound.parse().unwrap_or(f64::INFINITY);
            let total: f64 = increments(series, start).map(|(_, n)| n).sum();
            match within.iter_mut().find(|(b, ..)| *b == value) {
                Some((.., sum)) => *sum += total,
                None => within.push((value, bound.to_owned(), total)),
            }
        }
        within.sort_by(|a, b| a.0.total_cmp(&b.0));
        let all = within.last().map_or(0.0, |(.., total)| *total);
        let mut chosen = Vec::new();
        for share in [0.5, 0.9, 0.99] {
            let reached = within.iter().position(|(.., total)| all > 0.0 && *total >= share * all);
            let bound = reached.and_then(|at| within.get(at + 2)).filter(|(b, ..)| b.is_finite());
            if let Some((_, bound, _)) = bound
                && !chosen.contains(bound)
            {
                chosen.push(bound.clone());
            }
        }
        chosen
    }
}

struct Table {
    slices: BTreeMap<i64, Slice>,
    thresholds: usize,
    start: i64,
    length: i64,
}

impl Table {
    fn add(&mut self, series: &Series, canary: bool, apply: impl Fn(&mut Counts, f64)) {
        for (at, n) in increments(series, self.start) {
            let slice = self.slices.entry((at - self.start) / self.length).or_insert_with(|| {
                let counts = || Counts { slow: vec![0.0; self.thresholds], ..Counts::default() };
                Slice { canary: counts(), stable: counts() }
            });
            apply(if canary { &mut slice.canary } else { &mut slice.stable }, n);
        }
    }
}

/// By how much a counter grew at each sample after `start`; one that fell began anew.
fn increments(series: &Series, start: i64) -> impl Iterator<Item = (i64, f64)> {
    let first = series.points.first().copied();
    let grown = series.points.windows(2).filter_map(|pair| match pair {
        [(_, before), (at, after)] if after >= before => Some((*at, after - before)),
        [_, (at, after)] => Some((*at, *after)),
        _ => None,
    });
    first.into_iter().chain(grown).filter(move |(at, _)| *at > start)
}

fn label<'a>(series: &'a Series, name: &str) -> &'a str {
    series.labels.get(name).map_or("", String::as_str)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn counters_count_from_the_start_of_the_trial() {
        let grown = |points: &[(i64, f64)]| {
            let series = Series { labels: BTreeMap::new(), points: points.to_vec() };
            increments(&series, 1000).collect::<Vec<_>>()
        };
        // It was there before.
        assert_eq!(grown(&[(500, 7.0), (1500, 9.0), (2500, 9.0)]), [(1500, 2.0), (2500, 0.0)]);
        // It began with the trial: its first request, maybe a failed one, is not lost.
        assert_eq!(grown(&[(1500, 1.0), (2500, 3.0)]), [(1500, 1.0), (2500, 2.0)]);
        // Its pod began anew.
        assert_eq!(grown(&[(900, 5.0), (1500, 2.0)]), [(1500, 2.0)]);
    }
}
