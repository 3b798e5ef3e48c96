//! The way in: batches, appenders that remember their series, and the records of both in the log.

use std::collections::{BTreeMap, HashMap};
use std::sync::Arc;
use std::sync::atomic::Ordering::Relaxed;

use super::chunk::{DamagedColumn, Point, put_text, put_varint, take_text, take_varint, unzigzag, zigzag};
use super::head::{Head, PushError, Refused, Series};
use super::labels::Labels;
use super::{Exemplar, Metadata, Metrics, MetricsError, locked, now_ms, read, write};

const SERIES: u8 = 1;
const SAMPLES: u8 = 2;
const METADATA: u8 = 3;

/// What became of a batch.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
pub struct Appended {
    /// Samples kept.
    pub added: u64,
    /// Samples that were there already, exactly.
    pub repeated: u64,
    /// Samples older than the newest of their series.
    pub out_of_order: u64,
    /// Samples at the time of a kept one with another value.
    pub duplicate: u64,
    /// Samples from before what memory holds.
    pub too_old: u64,
    /// Samples too far in the future.
    pub too_new: u64,
}

impl Appended {
    /// How many were refused.
    pub fn refused(&self) -> u64 {
        self.out_of_order + self.duplicate + self.too_old + self.too_new
    }
}

/// A remembered series: appending to it needs no look-up.
#[derive(Clone)]
pub struct SeriesRef(Arc<Series>);

impl SeriesRef {
    /// The series' labels.
    pub fn labels(&self) -> &Labels {
        &self.0.labels
    }
}

/// Collects one batch; nothing is in the log before [`Appender::commit`].
pub struct Appender<'a> {
    metrics: &'a Metrics,
    newest_allowed: i64,
    batch: Vec<(u32, Point)>,
    done: Appended,
}

impl Metrics {
    /// Starts a batch.
    pub fn appender(&self) -> Appender<'_> {
        let newest_allowed = now_ms().saturating_add(self.options.max_future.as_millis() as i64);
        Appender { metrics: self, newest_allowed, batch: Vec::new(), done: Appended::default() }
    }

    /// Appends a batch; the samples outlive the process when it returns.
    pub fn append(&self, samples: &[(Labels, i64, f64)]) -> Result<Appended, MetricsError> {
        let mut appender = self.appender();
        for (labels, t, v) in samples {
            appender.add(labels, *t, *v)?;
        }
        appender.commit()
    }

    /// Waits until everything appended before is on disk.
    pub fn sync(&self) -> Result<(), MetricsError> {
        self.wal.sync()
    }

    /// Remembers what a metric means.
    pub fn set_metadata(&self, metric: &str, metadata: &Metadata) -> Result<(), MetricsError> {
        if read(&self.metadata).get(metric) == Some(metadata) {
            return Ok(());
        }
        write(&self.metadata).insert(metric.to_string(), metadata.clone());
        self.log(&metadata_record(metric, metadata))
    }

    /// Remembers an exemplar, forgetting the oldest when there are too many.
    pub fn add_exemplar(&self, exemplar: Exemplar) {
        let mut ring = locked(&self.exemplars);
        if ring.iter().rev().take(64).any(|known| *known == exemplar) || self.options.exemplars == 0 {
            return;
        }
        if ring.len() >= self.options.exemplars {
            ring.pop_front();
        }
        ring.push_back(exemplar);
    }

    fn log(&self, record: &[u8]) -> Result<(), MetricsError> {
        self.wal.log(record)?;
        self.unsynced.store(true, Relaxed);
        Ok(())
    }

    /// The remembered series of these labels, made when it is new.
    pub fn series_ref(&self, labels: &Labels) -> Result<SeriesRef, MetricsError> {
        if let Some(known) = read(&self.head.index).find(labels) {
            return Ok(SeriesRef(known.clone()));
        }
        let mut index = write(&self.head.index);
        if index.find(labels).is_none() && index.by_id.len() >= self.options.max_series {
            return Err(MetricsError::TooManySeries(self.options.max_series));
        }
        let (series, new) = index.find_or_add(labels, None);
        if new {
            // Logged under the lock: no sample of it can come before it in the log.
            self.log(&series_record(&series))?;
        }
        Ok(SeriesRef(series))
    }
}

impl Appender<'_> {
    /// Adds a sample of the series with these labels and returns its reference.
    pub fn add(&mut self, labels: &Labels, t: i64, v: f64) -> Result<SeriesRef, MetricsError> {
        let mut series = self.metrics.series_ref(labels)?;
        self.add_to(&mut series, t, v)?;
        Ok(series)
    }

    /// Adds a sample of a remembered series; the reference is renewed when memory had let the series go.
    pub fn add_to(&mut self, series: &mut SeriesRef, t: i64, v: f64) -> Result<(), MetricsError> {
        let point = Point { t, v };
        if t > self.newest_allowed {
            self.refuse(Refused::TooNew);
            return Ok(());
        }
        for _ in 0..8 {
            match self.metrics.head.push(&series.0, point) {
                Ok(true) => {
                    self.done.added += 1;
                    self.batch.push((series.0.id, point));
                }
                Ok(false) => {
                    // It may be in memory of an append whose log record failed: log it again.
                    self.done.repeated += 1;
                    self.batch.push((series.0.id, point));
                }
                Err(PushError::Refused(why)) => self.refuse(why),
                Err(PushError::Gone) => {
                    *series = self.metrics.series_ref(&series.0.labels)?;
                    continue;
                }
            }
            return Ok(());
        }
        self.refuse(Refused::TooOld);
        Ok(())
    }

    fn refuse(&mut self, why: Refused) {
        let (count, at) = match why {
            Refused::OutOfOrder => (&mut self.done.out_of_order, 0),
            Refused::Duplicate => (&mut self.done.duplicate, 1),
            Refused::TooOld => (&mut self.done.too_old, 2),
            Refused::TooNew => (&mut self.done.too_new, 3),
        };
        *count += 1;
        if let Some(total) = self.metrics.refused.get(at) {
            total.fetch_add(1, Relaxed);
        }
    }

    /// Writes the batch to the log.
    pub fn commit(self) -> Result<Appended, MetricsError> {
        if !self.batch.is_empty() {
            self.metrics.log(&samples_record(&self.batch))?;
        }
        Ok(self.done)
    }
}

pub(crate) fn series_record(series: &Series) -> Vec<u8> {
    let mut out = vec![SERIES];
    put_varint(&mut out, series.id.into());
    put_varint(&mut out, series.labels.len() as u64);
    for (name, value) in series.labels.iter() {
        put_text(&mut out, name);
        put_text(&mut out, value);
    }
    out
}

pub(crate) fn samples_record(batch: &[(u32, Point)]) -> Vec<u8> {
    let mut out = Vec::with_capacity(batch.len() * 12 + 16);
    out.push(SAMPLES);
    let (mut id, mut t) = (0i64, 0i64);
    for (series, point) in batch {
        put_varint(&mut out, zigzag(i64::from(*series) - id));
        put_varint(&mut out, zigzag(point.t.wrapping_sub(t)));
        out.extend(point.v.to_le_bytes());
        (id, t) = (i64::from(*series), point.t);
    }
    out
}

pub(crate) fn metadata_record(metric: &str, metadata: &Metadata) -> Vec<u8> {
    let mut out = vec![METADATA];
    for text in [metric, &metadata.kind, &metadata.help, &metadata.unit] {
        put_text(&mut out, text);
    }
    out
}

/// Rebuilds memory from log records.
#[derive(Default)]
pub(crate) struct Replay {
    series: HashMap<u32, Arc<Series>>,
    pub(crate) metadata: BTreeMap<String, Metadata>,
    unknown: u64,
    unreadable: u64,
}

impl Replay {
    pub(crate) fn apply(&mut self, head: &Head, record: &[u8]) {
        let Some((&kind, rest)) = record.split_first() else { return };
        let outcome = match kind {
            SERIES => self.series(head, rest),
            SAMPLES => self.samples(head, rest),
            METADATA => self.meta(rest),
            _ => {
                self.unreadable += 1;
                Ok(())
            }
        };
        self.unreadable += u64::from(outcome.is_err());
    }

    fn series(&mut self, head: &Head, mut rest: &[u8]) -> Result<(), DamagedColumn> {
        let rest = &mut rest;
        let id = take_varint(rest)? as u32;
        let mut pairs = Vec::new();
        for _ in 0..take_varint(rest)? {
            pairs.push((take_text(rest)?.into(), take_text(rest)?.into()));
        }
        let (series, _) = write(&head.index).find_or_add(&Labels::new(pairs), Some(id));
        self.series.insert(id, series);
        Ok(())
    }

    fn samples(&mut self, head: &Head, mut rest: &[u8]) -> Result<(), DamagedColumn> {
        let floor = head.floor.load(Relaxed);
        let (mut id, mut t) = (0i64, 0i64);
        while !rest.is_empty() {
            id += unzigzag(take_varint(&mut rest)?);
            t = t.wrapping_add(unzigzag(take_varint(&mut rest)?));
            let Some((value, after)) = rest.split_first_chunk::<8>() else {
                return take_varint(&mut &[][..]).map(drop);
            };
            rest = after;
            let point = Point { t, v: f64::from_le_bytes(*value) };
            match self.series.get(&(id as u32)) {
                // Samples refused now were refused or repeated then as well.
                Some(series) => drop(head.push(series, point)),
                None => self.unknown += u64::from(t >= floor),
            }
        }
        Ok(())
    }

    fn meta(&mut self, mut rest: &[u8]) -> Result<(), DamagedColumn> {
        let rest = &mut rest;
        let mut text = || take_text(rest).map(str::to_string);
        let (metric, kind, help, unit) = (text()?, text()?, text()?, text()?);
        self.metadata.insert(metric, Metadata { kind, help, unit });
        Ok(())
    }

    pub(crate) fn problems(&self) -> Vec<String> {
        let mut out = Vec::new();
        if self.unknown > 0 {
            out.push(format!(
                "{} samples of the log belong to no known series and were left out",
                self.unknown
            ));
        }
        if self.unreadable > 0 {
            out.push(format!(
                "{} records of the log could not be understood and were left out",
                self.unreadable
            ));
        }
        out
    }
}
