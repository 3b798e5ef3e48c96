//! Spans by trace: append, keep, find.
//!
//! As with logs, what is appended stands in a write-ahead log before [`Traces::append`] returns, and is sealed later into
//! files of compressed blocks, here in order of trace id.

mod search;
mod segment;
mod span;

use std::{
    collections::{BTreeMap, BTreeSet},
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock, RwLockReadGuard},
    time::Duration,
};

pub use search::{Search, Summary};
pub use span::{Event, Kind, Span, SpanId, StatusCode, TraceId};

use crate::metrics::{MetricsError, wal::Wal};
use segment::Segment;

/// How much is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Spans older than this are removed.
    pub retention: Duration,
    /// The oldest spans are removed beyond so many bytes on disk.
    pub max_bytes: u64,
    /// Spans in memory before they are sealed.
    pub head_spans: usize,
    /// Time in memory before they are sealed.
    pub head_age: Duration,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(7 * 86_400),
            max_bytes: 5 << 30,
            head_spans: 20_000,
            head_age: Duration::from_secs(1800),
        }
    }
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum TracesError {
    /// The write-ahead log.
    #[error(transparent)]
    Journal(#[from] MetricsError),
    /// A file of blocks.
    #[error("cannot {what} {}: {source}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
}

impl TracesError {
    fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }
}

type Head = BTreeMap<TraceId, Vec<Arc<Span>>>;

/// The store.
pub struct Traces {
    dir: PathBuf,
    options: Options,
    wal: Wal,
    state: RwLock<State>,
    problems: Vec<String>,
}

#[derive(Default)]
struct State {
    head: Head,
    spans: usize,
    oldest: Option<i64>,
    sealing: Option<Arc<Head>>,
    segments: Vec<Arc<Segment>>,
}

impl State {
    fn add(&mut self, span: Span) {
        self.oldest = Some(self.oldest.map_or(span.start, |oldest| oldest.min(span.start)));
        self.spans += 1;
        self.head.entry(span.trace_id).or_default().push(Arc::new(span));
    }

    fn heads(&self) -> impl Iterator<Item = &Head> {
        self.sealing.as_deref().into_iter().chain([&self.head])
    }
}

impl Traces {
    /// Opens the store in a folder, making it when it is new. Files that are damaged are left alone and named in
    /// [`Traces::problems`].
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Arc<Self>, TracesError> {
        let dir = dir.as_ref().to_owned();
        fs::create_dir_all(&dir).map_err(|e| TracesError::io("make", &dir, e))?;
        let (mut state, mut problems) = (State::default(), Vec::new());
        for path in Segment::files(&dir).map_err(|e| TracesError::io("list", &dir, e))? {
            match Segment::open(&path) {
                Ok(segment) => state.segments.push(Arc::new(segment)),
                Err(error) => problems.push(error.to_string()),
            }
        }
        let journal = dir.join("wal");
        if let Some(newest) = state.segments.iter().map(|s| s.number()).max() {
            Wal::discard_before(&journal, newest)?;
        }
        let (wal, report) = Wal::open(&journal, |record| {
            // A record that passed its checksum was written by us.
            span::decode(record, |span| state.add(span));
        })?;
        problems.extend(report.damage);
        Ok(Arc::new(Self { dir, options, wal, state: RwLock::new(state), problems }))
    }

    /// Files that could not be read when the store was opened.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    fn state(&self) -> RwLockReadGuard<'_, State> {
        self.state.read().unwrap_or_else(PoisonError::into_inner)
    }

    /// Appends spans.
    ///
    /// # Errors
    /// When the log cannot be written; nothing is appended then.
    pub fn append(&self, spans: Vec<Span>) -> Result<(), TracesError> {
        if spans.is_empty() {
            return Ok(());
        }
        let record = span::encode(spans.iter());
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        self.wal.log(&record)?;
        spans.into_iter().for_each(|span| state.add(span));
        Ok(())
    }

    /// Returns once everything appended is on disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> Result<(), TracesError> {
        Ok(self.wal.sync()?)
    }

    /// Seals and removes what is due. To be called every few seconds with the time in nanoseconds.
    ///
    /// # Errors
    /// When files cannot be written or removed; what is in memory stays there.
    pub fn tick(&self, now: i64) -> Result<(), TracesError> {
        let due = {
            let state = self.state();
            let age = now.saturating_sub(state.oldest.unwrap_or(now));
            state.spans >= self.options.head_spans
                || age >= i64::try_from(self.options.head_age.as_nanos()).unwrap_or(i64::MAX)
        };
        if due {
            self.seal()?;
        }
        self.expire(now)
    }

    /// Seals everything in memory now.
    ///
    /// # Errors
    /// When the file cannot be written; nothing is lost then.
    pub fn seal(&self) -> Result<(), TracesError> {
        let (head, number) = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if state.sealing.is_some() || state.head.is_empty() {
                return Ok(());
            }
            let number = self.wal.cut()?;
            let head = Arc::new(std::mem::take(&mut state.head));
            (state.spans, state.oldest) = (0, None);
            state.sealing = Some(Arc::clone(&head));
            (head, number)
        };
        let written = Segment::write(&self.dir, number, &head);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.sealing = None;
        match written {
            Ok(segment) => state.segments.push(Arc::new(segment)),
            Err(error) => {
                for span in head.values().flatten() {
                    state.add(Span::clone(span));
                }
                return Err(TracesError::io("write", &self.dir, error));
            }
        }
        drop(state);
        self.wal.checkpoint(number, std::iter::empty())?;
        Ok(())
    }

    fn expire(&self, now: i64) -> Result<(), TracesError> {
        let oldest = now.saturating_sub(i64::try_from(self.options.retention.as_nanos()).unwrap_or(i64::MAX));
        let gone: Vec<Arc<Segment>> = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            let mut bytes: u64 = state.segments.iter().map(|s| s.bytes()).sum();
            let old = state.segments.iter().take_while(|segment| {
                let remove = segment.newest() < oldest || bytes > self.options.max_bytes;
                bytes -= if remove { segment.bytes() } else { 0 };
                remove
            });
            let count = old.count();
            state.segments.drain(..count).collect()
        };
        for segment in gone {
            fs::remove_file(segment.path()).map_err(|e| TracesError::io("remove", segment.path(), e))?;
        }
        Ok(())
    }

    /// The spans of a trace in order of time; none when it is not known.
    ///
    /// # Errors
    /// When a file cannot be read.
    pub fn trace(&self, id: TraceId) -> Result<Vec<Arc<Span>>, TracesError> {
        let state = self.state();
        let mut spans: Vec<Arc<Span>> = Vec::new();
        for head in state.heads() {
            spans.extend(head.get(&id).into_iter().flatten().cloned());
        }
        for segment in &state.segments {
            let found = segment.trace(id).map_err(|e| TracesError::io("read", segment.path(), e))?;
            spans.extend(found.into_iter().map(Arc::new));
        }
        spans.sort_by_key(|span| (span.start, span.span_id));
        // An exporter that was not answered sends again.
        spans.dedup_by_key(|span| span.span_id);
        Ok(spans)
    }

    /// The names of all services with spans.
    pub fn services(&self) -> BTreeSet<String> {
        let state = self.state();
        let mut names = BTreeSet::new();
        for span in state.heads().flat_map(|head| head.values().flatten()) {
            if !names.contains(&span.service) {
                names.insert(span.service.clone());
            }
        }
        names.extend(state.segments.iter().flat_map(|s| s.services()).cloned());
        names
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        self.state().segments.iter().map(|s| s.bytes()).sum::<u64>() + self.wal.bytes()
    }
}

#[cfg(test)]
mod tests;
