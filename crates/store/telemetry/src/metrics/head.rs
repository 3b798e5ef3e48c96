//! The series in memory: their newest samples and the index that finds them.

use std::collections::{BTreeMap, HashMap};
use std::sync::atomic::{AtomicI64, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, RwLock};

use super::chunk::{self, DamagedColumn, Effort, Point};
use super::labels::{FastHash, Interner, Labels, Str};
use super::matcher::Matcher;
use super::{locked, read, write};

/// Samples are staged raw up to this many, then packed.
const STAGED: usize = 120;

/// Why a sample was not kept.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Refused {
    /// Older than the newest sample of its series.
    OutOfOrder,
    /// Same time as a kept sample, another value.
    Duplicate,
    /// Older than all that memory still holds.
    TooOld,
    /// Further in the future than clocks may differ.
    TooNew,
}

/// One series in memory.
pub(crate) struct Series {
    pub(crate) id: u32,
    pub(crate) labels: Labels,
    pub(crate) data: Mutex<SeriesData>,
}

/// The newest samples of a series.
#[derive(Default)]
pub(crate) struct SeriesData {
    packed: Vec<Packed>,
    /// Time of the first staged sample; the others are kept as distances in 32 bits.
    base: i64,
    times: Vec<u32>,
    values: Vec<f64>,
    last: Option<Point>,
    /// Taken out of the index: whoever still holds it must look the series up again.
    pub(crate) gone: bool,
}

struct Packed {
    from: i64,
    to: i64,
    times: Box<[u8]>,
    values: Box<[u8]>,
}

impl SeriesData {
    /// Adds a sample; true when it is new, false when exactly this one is there already.
    pub(crate) fn push(&mut self, point: Point) -> Result<bool, Refused> {
        if let Some(last) = self.last
            && point.t <= last.t
        {
            return self.repeat(point);
        }
        let distance = u32::try_from(point.t.saturating_sub(self.base));
        if self.times.len() >= STAGED || (distance.is_err() && !self.times.is_empty()) {
            self.pack();
        }
        if self.times.is_empty() {
            self.base = point.t;
        }
        grow(&mut self.times);
        grow(&mut self.values);
        self.times.push((point.t - self.base) as u32);
        self.values.push(point.v);
        self.last = Some(point);
        Ok(true)
    }

    fn repeat(&self, point: Point) -> Result<bool, Refused> {
        let Ok(distance) = u32::try_from(point.t - self.base) else { return Err(Refused::OutOfOrder) };
        let known = match self.times.binary_search(&distance) {
            Ok(at) => self.values.get(at).copied(),
            Err(_) => return Err(Refused::OutOfOrder),
        };
        if known.is_some_and(|v| v.to_bits() == point.v.to_bits()) {
            Ok(false)
        } else {
            Err(Refused::Duplicate)
        }
    }

    fn pack(&mut self) {
        let times: Vec<i64> = self.times.iter().map(|d| self.base + i64::from(*d)).collect();
        let (Some(&from), Some(&to)) = (times.first(), times.last()) else { return };
        self.packed.push(Packed {
            from,
            to,
            times: chunk::encode_times(&times, Effort::Quick).into(),
            values: chunk::encode_values(&self.values, Effort::Quick).into(),
        });
        self.times.clear();
        self.values.clear();
    }

    /// Appends the samples within both ends.
    pub(crate) fn read(&self, from: i64, to: i64, out: &mut Vec<Point>) -> Result<(), DamagedColumn> {
        let (mut times, mut values) = (Vec::new(), Vec::new());
        for packed in self.packed.iter().filter(|p| p.from <= to && p.to >= from) {
            times.clear();
            values.clear();
            chunk::decode_times(&packed.times, &mut times)?;
            chunk::decode_values(&packed.values, &mut values)?;
            let points = times.iter().zip(&values).map(|(&t, &v)| Point { t, v });
            out.extend(points.filter(|p| (from..=to).contains(&p.t)));
        }
        let staged =
            self.times.iter().zip(&self.values).map(|(&d, &v)| Point { t: self.base + i64::from(d), v });
        out.extend(staged.filter(|p| (from..=to).contains(&p.t)));
        Ok(())
    }

    /// Is any sample within both ends?
    pub(crate) fn covers(&self, from: i64, to: i64) -> bool {
        self.span().is_some_and(|(first, last)| first <= to && last >= from)
    }

    fn span(&self) -> Option<(i64, i64)> {
        let first = self.packed.first().map(|p| p.from).or((!self.times.is_empty()).then_some(self.base))?;
        Some((first, self.last?.t))
    }

    /// Forgets samples before this time, which are safe in a block.
    fn forget_before(&mut self, time: i64) {
        let mut kept = Vec::new();
        // A packed chunk that reaches over the edge is opened, so that no sample stands in head and block at once.
        let packed = std::mem::take(&mut self.packed);
        let (mut times, mut values) = (Vec::new(), Vec::new());
        for chunk in packed.into_iter().filter(|p| p.to >= time) {
            if chunk.from >= time {
                kept.push(chunk);
                continue;
            }
            let opened = chunk::decode_times(&chunk.times, &mut times).is_ok()
                && chunk::decode_values(&chunk.values, &mut values).is_ok();
            let at = times.partition_point(|t| *t < time);
            if let (true, Some(times), Some(values)) = (opened, times.get(at..), values.get(at..))
                && let (Some(&from), Some(&to)) = (times.first(), times.last())
            {
                kept.push(Packed {
                    from,
                    to,
                    times: chunk::encode_times(times, Effort::Quick).into(),
                    values: chunk::encode_values(values, Effort::Quick).into(),
                });
            }
        }
        self.packed = kept;
        let base = self.base;
        let at = self.times.partition_point(|d| base + i64::from(*d) < time);
        if at > 0 {
            self.times.drain(..at);
            self.values.drain(..at);
            let shift = self.times.first().copied().unwrap_or(0);
            self.times.iter_mut().for_each(|d| *d -= shift);
            self.base += i64::from(shift);
            self.times.shrink_to_fit();
            self.values.shrink_to_fit();
        }
    }
}

/// Small steps: doubling would leave half of the staged memory unused.
fn grow<T>(list: &mut Vec<T>) {
    if list.len() == list.capacity() {
        list.reserve_exact((list.len() / 4).clamp(4, 24));
    }
}

#[derive(Default)]
pub(crate) struct Index {
    strings: Interner,
    pub(crate) by_id: HashMap<u32, Arc<Series>, FastHash>,
    by_labels: HashMap<u64, Vec<u32>, FastHash>,
    postings: BTreeMap<Str, BTreeMap<Str, Vec<u32>>>,
    next: u32,
}

impl Index {
    pub(crate) fn find(&self, labels: &Labels) -> Option<&Arc<Series>> {
        let ids = self.by_labels.get(&labels.fingerprint())?;
        ids.iter().filter_map(|id| self.by_id.get(id)).find(|series| series.labels == *labels)
    }

    /// The series of these labels; the second is true when it was made now.
    pub(crate) fn find_or_add(&mut self, labels: &Labels, id: Option<u32>) -> (Arc<Series>, bool) {
        if let Some(known) = self.find(labels) {
            return (known.clone(), false);
        }
        let id = id.unwrap_or(self.next);
        self.next = self.next.max(id + 1);
        let pairs: Vec<(Str, Str)> =
            labels.iter().map(|(n, v)| (self.strings.intern(n), self.strings.intern(v))).collect();
        for (name, value) in &pairs {
            let list = self.postings.entry(name.clone()).or_default().entry(value.clone()).or_default();
            match list.last() {
                Some(last) if *last > id => {
                    let at = list.partition_point(|known| *known < id);
                    list.insert(at, id);
                }
                _ => list.push(id),
            }
        }
        let labels = Labels::new(pairs);
        self.by_labels.entry(labels.fingerprint()).or_default().push(id);
        let series = Arc::new(Series { id, labels, data: Mutex::default() });
        self.by_id.insert(id, series.clone());
        (series, true)
    }

    /// The series that pass all matchers, in order of id.
    pub(crate) fn select(&self, matchers: &[Matcher]) -> Vec<Arc<Series>> {
        let mut found: Option<Vec<u32>> = None;
        let mut late = Vec::new();
        for matcher in matchers {
            // Matchers that accept the absent label cannot use the index; they filter at the end.
            if matcher.matches("") {
                late.push(matcher);
                continue;
            }
            let ids = self.ids(matcher);
            found = Some(match found {
                None => ids,
                Some(known) => intersect(&known, &ids),
            });
        }
        let pass = |series: &&Arc<Series>| late.iter().all(|m| m.accepts(&series.labels));
        match found {
            Some(ids) => ids.iter().filter_map(|id| self.by_id.get(id)).filter(pass).cloned().collect(),
            None => {
                let mut all: Vec<_> = self.by_id.values().filter(pass).cloned().collect();
                all.sort_by_key(|series| series.id);
                all
            }
        }
    }

    fn ids(&self, matcher: &Matcher) -> Vec<u32> {
        let Some(values) = self.postings.get(matcher.name.as_str()) else { return Vec::new() };
        if let Some(only) = matcher.values() {
            return union(only.iter().filter_map(|value| values.get(*value)));
        }
        union(values.iter().filter(|(value, _)| matcher.matches(value)).map(|(_, ids)| ids))
    }

    /// Takes series out.
    fn remove(&mut self, dead: &[Arc<Series>]) {
        for series in dead {
            self.by_id.remove(&series.id);
            let print = series.labels.fingerprint();
            if let Some(ids) = self.by_labels.get_mut(&print) {
                ids.retain(|id| *id != series.id);
                if ids.is_empty() {
                    self.by_labels.remove(&print);
                }
            }
        }
        let touched: std::collections::HashSet<(Str, Str)> =
            dead.iter().flat_map(|series| series.labels.pairs().iter().cloned()).collect();
        let by_id = &self.by_id;
        for (name, value) in touched {
            let Some(values) = self.postings.get_mut(&name) else { continue };
            if let Some(ids) = values.get_mut(&value) {
                ids.retain(|id| by_id.contains_key(id));
                if ids.is_empty() {
                    values.remove(&value);
                }
            }
            if values.is_empty() {
                self.postings.remove(&name);
            }
        }
        self.strings.collect();
    }
}

pub(crate) fn intersect(a: &[u32], b: &[u32]) -> Vec<u32> {
    let (short, long) = if a.len() <= b.len() { (a, b) } else { (b, a) };
    if short.len() * 16 < long.len() {
        return short.iter().copied().filter(|id| long.binary_search(id).is_ok()).collect();
    }
    let (mut out, mut at) = (Vec::with_capacity(short.len()), 0);
    for &id in short {
        while long.get(at).is_some_and(|other| *other < id) {
            at += 1;
        }
        if long.get(at) == Some(&id) {
            out.push(id);
        }
    }
    out
}

pub(crate) fn union<'a>(lists: impl Iterator<Item = &'a Vec<u32>>) -> Vec<u32> {
    let mut all: Vec<u32> = Vec::new();
    let mut several = false;
    for list in lists {
        several |= !all.is_empty();
        all.extend(list);
    }
    if several {
        all.sort_unstable();
        all.dedup();
    }
    all
}

pub(crate) struct Head {
    pub(crate) index: RwLock<Index>,
    /// Samples before this are in blocks and not taken any more.
    pub(crate) floor: AtomicI64,
    pub(crate) newest: AtomicI64,
    pub(crate) samples: AtomicU64,
}

impl Default for Head {
    fn default() -> Self {
        Self {
            index: RwLock::default(),
            floor: AtomicI64::new(i64::MIN),
            newest: AtomicI64::new(i64::MIN),
            samples: AtomicU64::new(0),
        }
    }
}

impl Head {
    /// Puts a sample into its series.
    pub(crate) fn push(&self, series: &Series, point: Point) -> Result<bool, PushError> {
        let mut data = locked(&series.data);
        if data.gone {
            return Err(PushError::Gone);
        }
        if point.t < self.floor.load(Relaxed) {
            return Err(PushError::Refused(Refused::TooOld));
        }
        let new = data.push(point).map_err(PushError::Refused)?;
        if new {
            self.samples.fetch_add(1, Relaxed);
            self.newest.fetch_max(point.t, Relaxed);
        }
        Ok(new)
    }

    /// Time of the first sample still in memory.
    pub(crate) fn oldest(&self) -> Option<i64> {
        let index = read(&self.index);
        index.by_id.values().filter_map(|series| locked(&series.data).span()).map(|(first, _)| first).min()
    }

    /// All series in order of their labels.
    pub(crate) fn sorted(&self) -> Vec<Arc<Series>> {
        let mut all: Vec<_> = read(&self.index).by_id.values().cloned().collect();
        all.sort_by(|a, b| a.labels.cmp(&b.labels));
        all
    }

    /// Forgets samples before `time` and the series that have none left.
    pub(crate) fn forget_before(&self, time: i64) {
        let all: Vec<_> = read(&self.index).by_id.values().cloned().collect();
        let mut empty = Vec::new();
        for series in all {
            let mut data = locked(&series.data);
            data.forget_before(time);
            if data.span().is_none() {
                drop(data);
                empty.push(series);
            }
        }
        if empty.is_empty() {
            return;
        }
        // Marked only under the index's lock: whoever sees the mark finds the series out of the index already.
        let mut index = write(&self.index);
        empty.retain(|series| {
            let mut data = locked(&series.data);
            data.gone = data.span().is_none();
            data.gone
        });
        index.remove(&empty);
    }

    pub(crate) fn label_names(&self) -> Vec<Str> {
        read(&self.index).postings.keys().cloned().collect()
    }

    pub(crate) fn label_values(&self, name: &str) -> Vec<Str> {
        read(&self.index)
            .postings
            .get(name)
            .map(|values| values.keys().cloned().collect())
            .unwrap_or_default()
    }
}

pub(crate) enum PushError {
    Gone,
    Refused(Refused),
}
