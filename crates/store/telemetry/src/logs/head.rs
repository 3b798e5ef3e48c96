//! Lines in memory by stream, and their form in the write-ahead log.

use std::{collections::HashMap, sync::Arc, time::Duration};

use super::Entry;
use crate::{
    blocks::{put, put_text, take, take_text},
    metrics::{FastHash, Labels},
};

/// Lines in memory.
#[derive(Clone, Default)]
pub(super) struct Head {
    streams: HashMap<Labels, Stream, FastHash>,
    bytes: usize,
    oldest: Option<i64>,
}

#[derive(Clone, Default)]
pub(super) struct Stream {
    /// In order of arrival, which is nearly that of time.
    pub(super) entries: Vec<Entry>,
    sorted: bool,
    min: i64,
    max: i64,
}

/// A record of the log: one stream's labels and lines.
pub(super) fn record(labels: &Labels, entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(64 + entries.iter().map(|e| e.line.len() + 12).sum::<usize>());
    put(&mut out, labels.len() as u64);
    for (name, value) in labels.iter() {
        put_text(&mut out, name);
        put_text(&mut out, value);
    }
    for entry in entries {
        put(&mut out, entry.at as u64);
        put_text(&mut out, &entry.line);
    }
    out
}

fn read_record(mut bytes: &[u8]) -> Option<(Labels, Vec<Entry>)> {
    let count = take(&mut bytes)?;
    let mut pairs = Vec::new();
    for _ in 0..count {
        pairs.push((take_text(&mut bytes)?, take_text(&mut bytes)?));
    }
    let mut entries = Vec::new();
    while !bytes.is_empty() {
        entries.push(Entry { at: take(&mut bytes)? as i64, line: take_text(&mut bytes)?.into() });
    }
    Some((Labels::from_pairs(pairs), entries))
}

impl Head {
    pub(super) fn replay(&mut self, bytes: &[u8]) {
        // A record that passed its checksum was written by us.
        if let Some((labels, entries)) = read_record(bytes) {
            self.append(&labels, &entries);
        }
    }

    pub(super) fn append(&mut self, labels: &Labels, entries: &[Entry]) {
        let stream = self.streams.entry(labels.clone()).or_insert_with(|| Stream {
            sorted: true,
            min: i64::MAX,
            max: i64::MIN,
            ..Stream::default()
        });
        for entry in entries {
            stream.sorted &= entry.at >= stream.max;
            stream.min = stream.min.min(entry.at);
            stream.max = stream.max.max(entry.at);
            self.bytes += entry.line.len() + size_of::<Entry>();
        }
        let first = entries.iter().map(|e| e.at).min();
        self.oldest = match (self.oldest, first) {
            (Some(oldest), Some(first)) => Some(oldest.min(first)),
            (oldest, first) => oldest.or(first),
        };
        stream.entries.extend_from_slice(entries);
    }

    pub(super) fn join(&mut self, newer: Self) {
        for (labels, stream) in newer.streams {
            self.append(&labels, &stream.entries);
        }
    }

    pub(super) fn streams(&self) -> usize {
        self.streams.len()
    }

    pub(super) fn knows(&self, labels: &Labels) -> bool {
        self.streams.contains_key(labels)
    }

    pub(super) fn is_empty(&self) -> bool {
        self.streams.is_empty()
    }

    pub(super) fn bytes(&self) -> usize {
        self.bytes
    }

    /// How old the oldest line is.
    pub(super) fn age(&self, now: i64) -> Duration {
        let oldest = self.oldest.unwrap_or(now);
        Duration::from_nanos(u64::try_from(now.saturating_sub(oldest)).unwrap_or(0))
    }

    pub(super) fn newest(&self, labels: &Labels) -> Option<i64> {
        self.streams.get(labels).map(|s| s.max)
    }

    pub(super) fn labels_between(&self, from: i64, to: i64) -> impl Iterator<Item = &Labels> {
        self.streams.iter().filter(move |(_, s)| s.max >= from && s.min < to).map(|(labels, _)| labels)
    }

    /// Streams with their lines in order of time.
    pub(super) fn sorted(&self) -> Vec<(&Labels, Vec<Entry>)> {
        let mut all: Vec<_> = self.streams.iter().map(|(labels, s)| (labels, s.in_order())).collect();
        all.sort_by(|a, b| a.0.cmp(b.0));
        all
    }

    /// Streams that pass, with a span of time in common.
    pub(super) fn matching<'a>(
        &'a self,
        passes: &'a impl Fn(&Labels) -> bool,
        from: i64,
        to: i64,
    ) -> impl Iterator<Item = (&'a Labels, &'a Stream)> {
        self.streams.iter().filter(move |(labels, s)| s.max >= from && s.min < to && passes(labels))
    }
}

impl Stream {
    pub(super) fn in_order(&self) -> Vec<Entry> {
        let mut entries = self.entries.clone();
        if !self.sorted {
            entries.sort_by_key(|e| e.at);
        }
        entries
    }

    pub(super) fn span(&self) -> (i64, i64) {
        (self.min, self.max)
    }
}

/// The lines of a block: times as differences, then lengths, then the text at one piece, which compresses best.
pub(super) fn encode(entries: &[Entry]) -> Vec<u8> {
    let mut out = Vec::with_capacity(entries.iter().map(|e| e.line.len() + 6).sum());
    put(&mut out, entries.len() as u64);
    let mut before = 0;
    for entry in entries {
        put(&mut out, entry.at.wrapping_sub(before) as u64);
        before = entry.at;
    }
    for entry in entries {
        put(&mut out, entry.line.len() as u64);
    }
    for entry in entries {
        out.extend_from_slice(entry.line.as_bytes());
    }
    out
}

/// Calls `each` with time and line of every entry of a block; `None` when the block is not what was written.
pub(super) fn decode(bytes: &[u8], mut each: impl FnMut(i64, &str)) -> Option<()> {
    let mut rest = bytes;
    let count = usize::try_from(take(&mut rest)?).ok().filter(|n| *n <= bytes.len())?;
    let mut times = Vec::with_capacity(count);
    let mut at = 0_i64;
    for _ in 0..count {
        at = at.wrapping_add(take(&mut rest)? as i64);
        times.push(at);
    }
    let mut lengths = Vec::with_capacity(count);
    for _ in 0..count {
        lengths.push(usize::try_from(take(&mut rest)?).ok()?);
    }
    let mut text = std::str::from_utf8(rest).ok()?;
    for (at, length) in times.into_iter().zip(lengths) {
        let (line, following) = text.split_at_checked(length)?;
        each(at, line);
        text = following;
    }
    Some(())
}

impl Entry {
    /// A line at a time in nanoseconds since the epoch.
    pub fn new(at: i64, line: impl Into<Arc<str>>) -> Self {
        Self { at, line: line.into() }
    }
}
