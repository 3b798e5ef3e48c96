//! Traces by service, name, attributes, duration and time.

use std::{collections::BTreeMap, sync::Arc};

use super::{Span, StatusCode, TraceId, Traces, TracesError};

/// What is wanted; empty fields ask for nothing.
#[derive(Debug, Clone, Default)]
pub struct Search {
    /// A span of this service.
    pub service: String,
    /// A span of this name.
    pub name: String,
    /// A span with these attributes.
    pub attributes: Vec<(String, String)>,
    /// A span that failed.
    pub failed: bool,
    /// A span that took at least so many nanoseconds.
    pub min_duration: Option<u64>,
    /// A span that took at most so many nanoseconds.
    pub max_duration: Option<u64>,
    /// Started from this time on, in nanoseconds since the epoch.
    pub from: i64,
    /// Started before this time.
    pub to: i64,
    /// Traces at the most.
    pub limit: usize,
}

/// A trace in short.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Summary {
    /// The trace.
    pub trace_id: TraceId,
    /// Service of its first span.
    pub root_service: String,
    /// Name of its first span.
    pub root_name: String,
    /// When it began, in nanoseconds since the epoch.
    pub start: i64,
    /// From its beginning to its last end, in nanoseconds.
    pub duration: u64,
    /// Spans.
    pub spans: usize,
    /// Failed spans.
    pub failed: usize,
}

impl Search {
    fn accepts(&self, span: &Span) -> bool {
        span.start >= self.from
            && span.start < self.to
            && (self.service.is_empty() || span.service == self.service)
            && (self.name.is_empty() || span.name == self.name)
            && (!self.failed || span.status == StatusCode::Error)
            && self.min_duration.is_none_or(|least| span.duration >= least)
            && self.max_duration.is_none_or(|most| span.duration <= most)
            && self.attributes.iter().all(|(name, value)| span.attribute(name) == Some(value))
    }
}

impl Traces {
    /// The newest traces with a span that fits, the newest first.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn search(&self, search: &Search) -> Result<Vec<Summary>, TracesError> {
        let mut newest: BTreeMap<TraceId, i64> = BTreeMap::new();
        let mut note = |span: &Span| {
            if search.accepts(span) {
                let start = newest.entry(span.trace_id).or_insert(span.start);
                *start = span.start.max(*start);
            }
        };
        {
            let state = self.state();
            for span in state.heads().flat_map(|head| head.values().flatten()) {
                note(span);
            }
            for segment in state.segments.iter().rev() {
                for block in segment.blocks() {
                    let fits = block.newest >= search.from
                        && block.oldest < search.to
                        && (search.service.is_empty() || block.services.contains(&search.service));
                    if fits {
                        segment
                            .each(block, |span| note(&span))
                            .map_err(|e| TracesError::io("read", segment.path(), e))?;
                    }
                }
            }
        }
        let mut found: Vec<(i64, TraceId)> = newest.into_iter().map(|(id, start)| (start, id)).collect();
        found.sort_unstable_by(|a, b| b.cmp(a));
        found.truncate(search.limit);
        found.into_iter().map(|(_, id)| Ok(summary(id, &self.trace(id)?))).collect()
    }
}

fn summary(trace_id: TraceId, spans: &[Arc<Span>]) -> Summary {
    let start = spans.iter().map(|s| s.start).min().unwrap_or(0);
    let end = spans.iter().map(|s| s.start.saturating_add_unsigned(s.duration)).max().unwrap_or(start);
    let known = |id| spans.iter().any(|s| s.span_id == id);
    let root = spans.iter().find(|s| !known(s.parent)).or(spans.first());
    Summary {
        trace_id,
        root_service: root.map(|s| s.service.clone()).unwrap_or_default(),
        root_name: root.map(|s| s.name.clone()).unwrap_or_default(),
        start,
        duration: end.abs_diff(start),
        spans: spans.len(),
        failed: spans.iter().filter(|s| s.status == StatusCode::Error).count(),
    }
}
