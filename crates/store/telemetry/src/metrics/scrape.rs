//! One scrape target: its text in, its series kept, its vanished series marked.

use std::collections::HashMap;
use std::time::Duration;

use super::exposition::{Format, Line, ParseError, parse, parse_series};
use super::labels::{FastHash, Labels, METRIC_NAME, Str};
use super::{Exemplar, Metadata, Metrics, MetricsError, SeriesRef, stale};

/// How a target is read.
#[derive(Debug, Clone)]
pub struct ScrapeOptions {
    /// On a conflict the scraped label wins; else it is renamed to `exported_NAME`.
    pub honor_labels: bool,
    /// Times in the text are taken; else all samples get the scrape's time.
    pub honor_timestamps: bool,
    /// More samples than this fail the scrape; 0 is no limit.
    pub sample_limit: usize,
    /// More labels on a sample than this fail the scrape; 0 is no limit.
    pub label_limit: usize,
}

impl Default for ScrapeOptions {
    fn default() -> Self {
        Self { honor_labels: false, honor_timestamps: true, sample_limit: 200_000, label_limit: 100 }
    }
}

/// What a scrape brought.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct ScrapeStats {
    /// Samples in the text.
    pub scraped: usize,
    /// Samples kept.
    pub added: usize,
    /// Series not seen in the scrape before.
    pub series_added: usize,
    /// Series marked as gone.
    pub vanished: usize,
    /// Samples the store refused.
    pub refused: usize,
}

/// Why a scrape brought nothing; `up` is 0 then.
#[derive(Debug, thiserror::Error)]
pub enum ScrapeError {
    /// The text is wrong.
    #[error("the target's text is wrong: {0}")]
    Parse(#[from] ParseError),
    /// The store failed.
    #[error(transparent)]
    Store(#[from] MetricsError),
}

struct Known {
    series: SeriesRef,
    /// The scrape that saw it last.
    seen: u64,
    /// Its samples carry their own times: such series are not marked as gone.
    own_time: bool,
}

/// Remembers a target's series between scrapes, by the text they are written as.
pub struct ScrapeCache {
    target: Labels,
    options: ScrapeOptions,
    known: HashMap<Box<str>, Known, FastHash>,
    reports: Vec<(&'static str, Option<SeriesRef>)>,
    metadata: HashMap<String, Metadata>,
    scrape: u64,
}

const REPORTS: [&str; 5] = [
    "up",
    "scrape_duration_seconds",
    "scrape_samples_scraped",
    "scrape_samples_post_metric_relabeling",
    "scrape_series_added",
];

struct Read<'a> {
    samples: Vec<(&'a str, i64, f64, bool)>,
    exemplars: Vec<(&'a str, Labels, f64, i64)>,
    metadata: HashMap<&'a str, Metadata>,
}

impl ScrapeCache {
    /// For a target with these labels (`job`, `instance`, …).
    pub fn new(target: Labels, options: ScrapeOptions) -> Self {
        let reports = REPORTS.into_iter().map(|name| (name, None)).collect();
        Self { target, options, known: HashMap::default(), reports, metadata: HashMap::new(), scrape: 0 }
    }

    /// Takes a target's answer in: all of it, or nothing when the text is wrong.
    pub fn ingest(
        &mut self,
        metrics: &Metrics,
        text: &str,
        format: Format,
        now: i64,
        took: Duration,
    ) -> Result<ScrapeStats, ScrapeError> {
        match self.take_in(metrics, text, format, now) {
            Ok(stats) => {
                self.report(metrics, now, took, true, stats)?;
                Ok(stats)
            }
            Err(error) => {
                self.failed(metrics, now, took)?;
                Err(error)
            }
        }
    }

    /// The target did not answer: its series are gone, `up` is 0.
    pub fn failed(
        &mut self,
        metrics: &Metrics,
        now: i64,
        took: Duration,
    ) -> Result<ScrapeStats, MetricsError> {
        self.scrape += 1;
        let stats = ScrapeStats { vanished: self.mark_vanished(metrics, now)?, ..ScrapeStats::default() };
        self.report(metrics, now, took, false, stats)?;
        Ok(stats)
    }

    /// The target is no more: everything of it is marked as gone, `up` too.
    pub fn finish(mut self, metrics: &Metrics, now: i64) -> Result<(), MetricsError> {
        self.scrape += 1;
        self.mark_vanished(metrics, now)?;
        let mut appender = metrics.appender();
        for (_, series) in &mut self.reports {
            if let Some(series) = series {
                appender.add_to(series, now, stale())?;
            }
        }
        appender.commit().map(drop)
    }

    fn take_in(
        &mut self,
        metrics: &Metrics,
        text: &str,
        format: Format,
        now: i64,
    ) -> Result<ScrapeStats, ScrapeError> {
        let read = self.read(text, format, now)?;
        let mut fresh: Vec<(&str, Labels)> = Vec::new();
        for (series, ..) in &read.samples {
            if !self.known.contains_key(*series) {
                let labels =
                    self.labels(series).map_err(|what| ParseError { line: line_of(text, series), what })?;
                fresh.push((series, labels));
            }
        }
        // Only now, with the whole text read, does the store see any of it.
        self.scrape += 1;
        let mut stats = ScrapeStats { scraped: read.samples.len(), ..ScrapeStats::default() };
        for (text, labels) in fresh {
            let series = metrics.series_ref(&labels)?;
            stats.series_added += usize::from(!self.known.contains_key(text));
            self.known.insert(text.into(), Known { series, seen: self.scrape, own_time: false });
        }
        let mut appender = metrics.appender();
        for (series, t, v, own_time) in &read.samples {
            let Some(known) = self.known.get_mut(*series) else { continue };
            known.seen = self.scrape;
            known.own_time = *own_time;
            appender.add_to(&mut known.series, *t, *v)?;
        }
        let done = appender.commit()?;
        stats.added = done.added as usize;
        stats.refused = done.refused() as usize;
        for (series, labels, value, t) in read.exemplars {
            if let Some(known) = self.known.get(series) {
                metrics.add_exemplar(Exemplar { series: known.series.labels().clone(), labels, value, t });
            }
        }
        for (name, meta) in read.metadata {
            if self.metadata.get(name) != Some(&meta) {
                metrics.set_metadata(name, &meta)?;
                self.metadata.insert(name.to_string(), meta);
            }
        }
        stats.vanished = self.mark_vanished(metrics, now)?;
        Ok(stats)
    }

    fn read<'a>(&self, text: &'a str, format: Format, now: i64) -> Result<Read<'a>, ParseError> {
        let mut read = Read { samples: Vec::new(), exemplars: Vec::new(), metadata: HashMap::new() };
        let limit = self.options.sample_limit;
        parse(text, format, |line| {
            match line {
                Line::Type(metric, kind) => read.metadata.entry(metric).or_default().kind = kind_of(kind),
                Line::Help(metric, help) => read.metadata.entry(metric).or_default().help = help.into_owned(),
                Line::Unit(metric, unit) => read.metadata.entry(metric).or_default().unit = unit.to_string(),
                Line::Sample(sample) => {
                    if limit > 0 && read.samples.len() >= limit {
                        return Err(format!("more than {limit} samples"));
                    }
                    let own = sample.t.filter(|_| self.options.honor_timestamps);
                    read.samples.push((sample.series, own.unwrap_or(now), sample.value, own.is_some()));
                    if let Some(exemplar) = sample.exemplar {
                        let pairs = exemplar.labels.iter().map(|(n, v)| (Str::from(&**n), Str::from(&**v)));
                        let t = exemplar.t.unwrap_or(own.unwrap_or(now));
                        read.exemplars.push((sample.series, Labels::new(pairs.collect()), exemplar.value, t));
                    }
                }
            }
            Ok(())
        })?;
        Ok(read)
    }

    /// The labels of a series as stored: its own and the target's.
    fn labels(&self, text: &str) -> Result<Labels, String> {
        let scraped = parse_series(text)?;
        let limit = self.options.label_limit;
        if limit > 0 && scraped.len() > limit {
            return Err(format!("more than {limit} labels on a sample"));
        }
        let mut pairs: Vec<(Str, Str)> = Vec::with_capacity(scraped.len() + self.target.len());
        let has = |name: &str| scraped.iter().any(|(n, _)| n == name);
        for (name, value) in &scraped {
            let mut stored = name.to_string();
            if !self.options.honor_labels && name != METRIC_NAME {
                // The prefix is repeated until the name is free.
                while !self.target.get(&stored).is_empty() || (stored != *name && has(&stored)) {
                    stored.insert_str(0, "exported_");
                }
            }
            pairs.push((stored.into(), (&**value).into()));
        }
        for (name, value) in self.target.pairs() {
            if !(self.options.honor_labels && has(name)) {
                pairs.push((name.clone(), value.clone()));
            }
        }
        Ok(Labels::new(pairs))
    }

    fn mark_vanished(&mut self, metrics: &Metrics, now: i64) -> Result<usize, MetricsError> {
        let current = self.scrape;
        let mut gone: Vec<Known> =
            self.known.extract_if(|_, known| known.seen < current).map(|(_, known)| known).collect();
        // The same series may be written in another way now.
        gone.retain(|old| !old.own_time);
        if !gone.is_empty() {
            let alive: std::collections::HashSet<Labels, FastHash> =
                self.known.values().map(|known| known.series.labels().clone()).collect();
            gone.retain(|old| !alive.contains(old.series.labels()));
        }
        let mut appender = metrics.appender();
        for old in &mut gone {
            appender.add_to(&mut old.series, now, stale())?;
        }
        appender.commit()?;
        Ok(gone.len())
    }

    fn report(
        &mut self,
        metrics: &Metrics,
        now: i64,
        took: Duration,
        up: bool,
        stats: ScrapeStats,
    ) -> Result<(), MetricsError> {
        let scraped = stats.scraped as f64;
        let values =
            [f64::from(u8::from(up)), took.as_secs_f64(), scraped, scraped, stats.series_added as f64];
        let mut appender = metrics.appender();
        for ((name, series), value) in self.reports.iter_mut().zip(values) {
            let known = match series {
                Some(known) => known,
                None => series.insert(metrics.series_ref(&self.target.with(METRIC_NAME, name))?),
            };
            appender.add_to(known, now, value)?;
        }
        appender.commit().map(drop)
    }
}

fn kind_of(kind: &str) -> String {
    if kind == "untyped" { "unknown".into() } else { kind.to_string() }
}

/// The line a slice of the text stands in.
fn line_of(text: &str, part: &str) -> usize {
    let at = (part.as_ptr() as usize).saturating_sub(text.as_ptr() as usize).min(text.len());
    text.as_bytes().get(..at).map_or(1, |before| before.iter().filter(|b| **b == b'\n').count() + 1)
}
