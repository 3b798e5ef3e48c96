//! Lines by labels, time and text.

use std::{collections::BTreeMap, io, sync::Arc};

use super::{
    Entry, Logs, LogsError,
    head::decode,
    logql::LineFilter,
    segment::{BlockIndex, Segment},
};
use crate::metrics::{Labels, Matcher};

/// Which end of the time comes first.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Direction {
    /// The oldest line first.
    Forward,
    /// The newest line first.
    #[default]
    Backward,
}

/// What is wanted.
#[derive(Debug, Clone, Default)]
pub struct Query {
    /// Which streams.
    pub matchers: Vec<Matcher>,
    /// Which lines.
    pub filters: Vec<LineFilter>,
    /// From this time on, in nanoseconds since the epoch.
    pub from: i64,
    /// Before this time.
    pub to: i64,
    /// Lines at the most.
    pub limit: usize,
    /// Which lines count when there are more.
    pub direction: Direction,
}

/// One stream's lines in the direction asked for.
#[derive(Debug, Clone, PartialEq)]
pub struct StreamEntries {
    /// The stream.
    pub labels: Labels,
    /// Its lines.
    pub entries: Vec<Entry>,
}

/// A piece of a stream: sealed, or in memory.
enum Piece {
    Sealed(Arc<Segment>, BlockIndex),
    Memory(Vec<Entry>),
}

struct Candidate {
    labels: Labels,
    oldest: i64,
    newest: i64,
    piece: Piece,
}

impl Query {
    fn accepts(&self, at: i64, line: &str) -> bool {
        at >= self.from && at < self.to && self.filters.iter().all(|f| f.accepts(line))
    }
}

impl Logs {
    /// The lines that pass, by stream.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn query(&self, query: &Query) -> Result<Vec<StreamEntries>, LogsError> {
        let mut kept: Vec<(Labels, Entry)> = Vec::new();
        self.scan(query, Some(query.limit), |labels, entry| kept.push((labels.clone(), entry)))?;
        // The scan gives whole pieces: the best of them are chosen here.
        kept.sort_by_key(|(_, entry)| entry.at);
        if query.direction == Direction::Backward {
            kept.reverse();
        }
        kept.truncate(query.limit);
        let mut streams: BTreeMap<Labels, Vec<Entry>> = BTreeMap::new();
        for (labels, entry) in kept {
            streams.entry(labels).or_default().push(entry);
        }
        Ok(streams.into_iter().map(|(labels, entries)| StreamEntries { labels, entries }).collect())
    }

    /// Calls `each` with every line that passes, in no certain order.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn for_each(&self, query: &Query, mut each: impl FnMut(&Labels, i64, &str)) -> Result<(), LogsError> {
        for candidate in self.candidates(query) {
            let labels = &candidate.labels;
            candidate.lines(|at, line| {
                if query.accepts(at, line) {
                    each(labels, at, line);
                }
            })?;
        }
        Ok(())
    }

    fn scan(
        &self,
        query: &Query,
        enough: Option<usize>,
        mut each: impl FnMut(&Labels, Entry),
    ) -> Result<(), LogsError> {
        let mut candidates = self.candidates(query);
        let forward = query.direction == Direction::Forward;
        match forward {
            true => candidates.sort_by_key(|c| c.oldest),
            false => candidates.sort_by_key(|c| std::cmp::Reverse(c.newest)),
        }
        // Times found so far; once there are enough of them that no later piece can beat, it is over.
        let mut found: Vec<i64> = Vec::new();
        for candidate in candidates {
            if let Some(enough) = enough.filter(|n| found.len() >= *n) {
                found.sort_unstable();
                let beaten = match forward {
                    true => {
                        found.get(enough.saturating_sub(1)).is_some_and(|worst| candidate.oldest > *worst)
                    }
                    false => found.get(found.len() - enough).is_some_and(|worst| candidate.newest < *worst),
                };
                if beaten {
                    break;
                }
            }
            candidate.lines(|at, line| {
                if query.accepts(at, line) {
                    found.push(at);
                    each(&candidate.labels, Entry::new(at, line));
                }
            })?;
        }
        Ok(())
    }

    fn candidates(&self, query: &Query) -> Vec<Candidate> {
        let state = self.state.read().unwrap_or_else(std::sync::PoisonError::into_inner);
        let passes = |labels: &Labels| query.matchers.iter().all(|m| m.accepts(labels));
        let mut candidates = Vec::new();
        for head in state.sealing.as_deref().into_iter().chain([&state.head]) {
            for (labels, stream) in head.matching(&passes, query.from, query.to) {
                let (oldest, newest) = stream.span();
                let piece = Piece::Memory(stream.in_order());
                candidates.push(Candidate { labels: labels.clone(), oldest, newest, piece });
            }
        }
        for segment in &state.segments {
            if segment.newest() < query.from || segment.oldest() >= query.to {
                continue;
            }
            for (labels, blocks) in segment.streams().filter(|(labels, _)| passes(labels)) {
                let overlapping = blocks.iter().filter(|b| b.newest >= query.from && b.oldest < query.to);
                candidates.extend(overlapping.map(|block| Candidate {
                    labels: labels.clone(),
                    oldest: block.oldest,
                    newest: block.newest,
                    piece: Piece::Sealed(Arc::clone(segment), *block),
                }));
            }
        }
        candidates
    }
}

impl Candidate {
    fn lines(&self, mut each: impl FnMut(i64, &str)) -> Result<(), LogsError> {
        match &self.piece {
            Piece::Memory(entries) => entries.iter().for_each(|e| each(e.at, &e.line)),
            Piece::Sealed(segment, block) => {
                let unreadable = |e: io::Error| LogsError::io("read", segment.path(), e);
                let bytes = segment.read(block).map_err(unreadable)?;
                decode(&bytes, each).ok_or_else(|| {
                    unreadable(io::Error::new(io::ErrorKind::InvalidData, "a block is not what was written"))
                })?;
            }
        }
        Ok(())
    }
}
