//! Warnings and infos of an evaluation.

use std::collections::BTreeMap;

use super::Span;

/// At most this many of each kind are shown.
const SHOWN: usize = 10;

/// Collected notes; the same note at the same place counts once.
#[derive(Debug, Default)]
pub(crate) struct Annotations {
    notes: BTreeMap<(bool, String, Span), Option<Forced>>,
}

/// How buckets were corrected.
#[derive(Debug, Clone, Copy)]
pub(crate) struct Forced {
    pub(crate) from: i64,
    pub(crate) to: i64,
    pub(crate) min_bucket: f64,
    pub(crate) max_bucket: f64,
    pub(crate) max_diff: f64,
    pub(crate) count: u64,
}

impl Annotations {
    pub(crate) fn warn(&mut self, span: Span, what: impl Into<String>) {
        self.notes.entry((true, what.into(), span)).or_default();
    }

    pub(crate) fn info(&mut self, span: Span, what: impl Into<String>) {
        self.notes.entry((false, what.into(), span)).or_default();
    }

    pub(crate) fn forced(&mut self, span: Span, metric: &str, new: Forced) {
        let what = named(
            "input to histogram_quantile needed to be fixed for monotonicity (see \
             https://prometheus.io/docs/prometheus/latest/querying/functions/#histogram_quantile)",
            metric,
        );
        let slot = self.notes.entry((false, what, span)).or_default();
        *slot = Some(match *slot {
            None => new,
            Some(old) => Forced {
                from: old.from.min(new.from),
                to: old.to.max(new.to),
                min_bucket: old.min_bucket.min(new.min_bucket),
                max_bucket: old.max_bucket.max(new.max_bucket),
                max_diff: old.max_diff.max(new.max_diff),
                count: old.count + new.count,
            },
        });
    }

    /// Warnings and infos with their places.
    pub(crate) fn texts(&self, query: &str) -> (Vec<String>, Vec<String>) {
        let (mut warnings, mut infos) = (Vec::new(), Vec::new());
        for ((warning, what, span), forced) in &self.notes {
            let kind = if *warning { "warning" } else { "info" };
            let detail = forced.map_or(String::new(), |f| {
                format!(
                    ", from buckets {} to {}, with a max diff of {}, over {} samples from {} to {}",
                    super::print::short(f.min_bucket),
                    super::print::short(f.max_bucket),
                    super::print::two_digits(f.max_diff),
                    f.count,
                    super::calendar::rfc3339(f.from),
                    super::calendar::rfc3339(f.to),
                )
            });
            let text = format!("PromQL {kind}: {what}{detail} ({})", span.place(query));
            if *warning { &mut warnings } else { &mut infos }.push(text);
        }
        (capped(warnings, "warning"), capped(infos, "info"))
    }
}

fn capped(mut texts: Vec<String>, kind: &str) -> Vec<String> {
    if texts.len() > SHOWN {
        let more = texts.len() - SHOWN;
        texts.truncate(SHOWN);
        texts.push(format!("{more} more {kind} annotations omitted"));
    }
    texts
}

/// With the metric's name, when it is known.
pub(crate) fn named(what: &str, metric: &str) -> String {
    if metric.is_empty() {
        what.to_string()
    } else {
        format!("{what} for metric name {}", crate::metrics::quote(metric))
    }
}
