//! What expressions evaluate to: series with a sample at some of the steps.

use std::collections::HashMap;

use super::QueryError;
use crate::metrics::{FastHash, Labels, METRIC_NAME, Point};

/// A series of an intermediate result.
#[derive(Debug, Clone, Default)]
pub(crate) struct Series {
    pub(crate) labels: Labels,
    pub(crate) points: Vec<Point>,
    /// Its name goes at the end of the evaluation.
    pub(crate) drop_name: bool,
}

pub(crate) type Matrix = Vec<Series>;

/// Labels that say what a metric is; operations that change its meaning drop them.
pub(crate) fn is_metadata(name: &str) -> bool {
    matches!(name, METRIC_NAME | "__type__" | "__unit__")
}

pub(crate) fn nameless(labels: &Labels) -> Labels {
    labels.filter(|name| !is_metadata(name))
}

pub(crate) const SAME_LABELS: &str = "vector cannot contain metrics with the same labelset";

/// Collects samples into series by labels.
#[derive(Default)]
pub(crate) struct Builder {
    index: HashMap<(Labels, bool), usize, FastHash>,
    series: Matrix,
}

impl Builder {
    /// The place of a series.
    pub(crate) fn place(&mut self, labels: Labels, drop_name: bool) -> usize {
        if let Some(at) = self.index.get(&(labels.clone(), drop_name)) {
            return *at;
        }
        let at = self.series.len();
        self.index.insert((labels.clone(), drop_name), at);
        self.series.push(Series { labels, points: Vec::new(), drop_name });
        at
    }

    pub(crate) fn push(&mut self, at: usize, point: Point) -> Result<(), QueryError> {
        let Some(series) = self.series.get_mut(at) else { return Ok(()) };
        if series.points.last().is_some_and(|last| last.t == point.t) {
            return Err(QueryError::Execution(SAME_LABELS.into()));
        }
        series.points.push(point);
        Ok(())
    }

    pub(crate) fn add(&mut self, labels: Labels, drop_name: bool, point: Point) -> Result<(), QueryError> {
        let at = self.place(labels, drop_name);
        self.push(at, point)
    }

    pub(crate) fn finish(mut self) -> Matrix {
        self.series.retain(|series| !series.points.is_empty());
        self.series
    }
}

/// Joins series of the same labels; samples at the same time are an error.
pub(crate) fn merge_same(matrix: Matrix) -> Result<Matrix, QueryError> {
    let mut index: HashMap<Labels, usize, FastHash> =
        HashMap::with_capacity_and_hasher(matrix.len(), FastHash::default());
    let mut out: Matrix = Vec::with_capacity(matrix.len());
    for series in matrix {
        match index.get(&series.labels).and_then(|at| out.get_mut(*at)) {
            None => {
                index.insert(series.labels.clone(), out.len());
                out.push(series);
            }
            Some(known) => {
                known.points.extend(series.points);
                known.points.sort_by_key(|p| p.t);
                if known.points.windows(2).any(|pair| pair[0].t == pair[1].t) {
                    return Err(QueryError::Execution(SAME_LABELS.into()));
                }
            }
        }
    }
    Ok(out)
}

/// Walks the samples of a matrix step by step.
pub(crate) struct Cursor<'a> {
    matrix: &'a [Series],
    at: Vec<usize>,
}

impl<'a> Cursor<'a> {
    pub(crate) fn new(matrix: &'a [Series]) -> Self {
        Self { matrix, at: vec![0; matrix.len()] }
    }

    /// The samples at a time: number of the series, series, value. Times must not go back.
    pub(crate) fn step(&mut self, t: i64) -> impl Iterator<Item = (usize, &'a Series, f64)> + '_ {
        let matrix = self.matrix;
        matrix.iter().zip(self.at.iter_mut()).enumerate().filter_map(move |(i, (series, at))| {
            while series.points.get(*at).is_some_and(|p| p.t < t) {
                *at += 1;
            }
            let point = series.points.get(*at).filter(|p| p.t == t)?;
            *at += 1;
            Some((i, series, point.v))
        })
    }
}
