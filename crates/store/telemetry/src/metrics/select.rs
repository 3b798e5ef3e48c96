//! The way out: series by matchers, label names and values.

use std::collections::BTreeSet;
use std::sync::Arc;

use super::block::{Block, ChunkPlace};
use super::head::Series;
use super::{Found, Labels, Matcher, Metadata, Metrics, MetricsError, Point, Str, locked, read};

/// A sample that names a trace.
#[derive(Debug, Clone, PartialEq)]
pub struct Exemplar {
    /// The series it belongs to.
    pub series: Labels,
    /// Its own labels, such as `trace_id`.
    pub labels: Labels,
    /// The value.
    pub value: f64,
    /// Milliseconds since the epoch.
    pub t: i64,
}

/// The series a selection found; while it lives, no sample it may read is taken away.
pub struct SeriesSet {
    series: Vec<SelectedSeries>,
    _query: Arc<()>,
}

impl SeriesSet {
    /// All series, in no special order.
    pub fn series(&self) -> &[SelectedSeries] {
        &self.series
    }
}

/// One series, to be read.
pub struct SelectedSeries {
    labels: Labels,
    blocks: Vec<(Arc<Block>, Vec<ChunkPlace>)>,
    head: Option<Arc<Series>>,
}

impl SelectedSeries {
    /// Its labels.
    pub fn labels(&self) -> &Labels {
        &self.labels
    }

    /// Replaces `out` by the samples within both ends, in order of time.
    pub fn read(&self, from: i64, to: i64, out: &mut Vec<Point>) -> Result<(), MetricsError> {
        out.clear();
        for (block, chunks) in &self.blocks {
            for place in chunks {
                block.read(place, from, to, out)?;
            }
        }
        if let Some(series) = &self.head {
            let start = out.len();
            locked(&series.data)
                .read(from, to, out)
                .map_err(|e| MetricsError::damaged("memory".as_ref(), &e.to_string()))?;
            // A flush in progress has samples in a block that are still in memory too.
            if let Some(last) = start.checked_sub(1).and_then(|at| out.get(at)).map(|p| p.t) {
                let at = out.get(start..).map_or(0, |new| new.partition_point(|p| p.t <= last));
                out.drain(start..start + at);
            }
        }
        Ok(())
    }
}

impl Metrics {
    /// The series that pass all matchers and have samples within both ends.
    pub fn select(&self, matchers: &[Matcher], from: i64, to: i64) -> Result<SeriesSet, MetricsError> {
        let query = locked(&self.queries).clone();
        let blocks: Vec<Arc<Block>> =
            read(&self.blocks).iter().filter(|b| b.from <= to && b.to > from).cloned().collect();
        let mut series: Vec<SelectedSeries> = Vec::new();
        let mut found = Found::default();
        for block in blocks {
            for (labels, chunks) in block.select(matchers, from, to)? {
                match found.get(&labels).and_then(|at| series.get_mut(*at)) {
                    Some(known) => known.blocks.push((block.clone(), chunks)),
                    None => {
                        found.insert(labels.clone(), series.len());
                        series.push(SelectedSeries {
                            labels,
                            blocks: vec![(block.clone(), chunks)],
                            head: None,
                        });
                    }
                }
            }
        }
        for head in read(&self.head.index).select(matchers) {
            if !locked(&head.data).covers(from, to) {
                continue;
            }
            match found.get(&head.labels).and_then(|at| series.get_mut(*at)) {
                Some(known) => known.head = Some(head),
                None => series.push(SelectedSeries {
                    labels: head.labels.clone(),
                    blocks: vec![],
                    head: Some(head),
                }),
            }
        }
        Ok(SeriesSet { series, _query: query })
    }

    /// Label sets of the series that pass any of the matcher lists, sorted.
    pub fn series(
        &self,
        selectors: &[Vec<Matcher>],
        from: i64,
        to: i64,
    ) -> Result<Vec<Labels>, MetricsError> {
        let mut all = BTreeSet::new();
        for matchers in selectors {
            all.extend(self.select(matchers, from, to)?.series().iter().map(|s| s.labels.clone()));
        }
        Ok(all.into_iter().collect())
    }

    /// Names of labels in the range; with selectors, only of the series that pass one of them.
    pub fn label_names(
        &self,
        selectors: &[Vec<Matcher>],
        from: i64,
        to: i64,
    ) -> Result<Vec<String>, MetricsError> {
        let mut names = BTreeSet::new();
        if selectors.is_empty() {
            names.extend(self.head.label_names().iter().map(|s| s.to_string()));
            for block in read(&self.blocks).iter().filter(|b| b.from <= to && b.to > from) {
                names.extend(block.label_names().map(str::to_string));
            }
        } else {
            for labels in self.series(selectors, from, to)? {
                names.extend(labels.iter().map(|(name, _)| name.to_string()));
            }
        }
        Ok(names.into_iter().collect())
    }

    /// Values of a label in the range; with selectors, only of the series that pass one of them.
    pub fn label_values(
        &self,
        name: &str,
        selectors: &[Vec<Matcher>],
        from: i64,
        to: i64,
    ) -> Result<Vec<String>, MetricsError> {
        let mut values: BTreeSet<Str> = BTreeSet::new();
        if selectors.is_empty() {
            values.extend(self.head.label_values(name));
            let blocks: Vec<_> =
                read(&self.blocks).iter().filter(|b| b.from <= to && b.to > from).cloned().collect();
            for block in blocks {
                values.extend(block.label_values(name)?);
            }
        } else {
            for labels in self.series(selectors, from, to)? {
                values.extend(labels.value(name).cloned());
            }
        }
        Ok(values.into_iter().map(|s| s.to_string()).collect())
    }

    /// What is known of metrics, by name.
    pub fn metadata(&self) -> Vec<(String, Metadata)> {
        read(&self.metadata).iter().map(|(name, meta)| (name.clone(), meta.clone())).collect()
    }

    /// Exemplars of the series that pass any of the matcher lists.
    pub fn exemplars(&self, selectors: &[Vec<Matcher>], from: i64, to: i64) -> Vec<Exemplar> {
        let ring = locked(&self.exemplars);
        let pass = |e: &&Exemplar| {
            (from..=to).contains(&e.t) && selectors.iter().any(|ms| ms.iter().all(|m| m.accepts(&e.series)))
        };
        ring.iter().filter(pass).cloned().collect()
    }
}
