//! Log lines by stream: append, keep, query.
//!
//! What is appended stands in a write-ahead log before [`Logs::append`] returns, so it outlives the process; after
//! [`Logs::sync`] it outlives the machine. [`Logs::tick`] seals what is in memory into files of compressed blocks and
//! removes what is too old.

mod head;
pub mod logql;
mod query;
mod segment;

use std::{
    collections::BTreeSet,
    fs, io,
    path::{Path, PathBuf},
    sync::{Arc, PoisonError, RwLock},
    time::Duration,
};

pub use query::{Direction, Query, StreamEntries};

use crate::metrics::{Labels, Matcher, MetricsError, wal::Wal};
use head::Head;
use segment::Segment;

/// How much is kept.
#[derive(Debug, Clone)]
pub struct Options {
    /// Lines older than this are removed.
    pub retention: Duration,
    /// The oldest lines are removed beyond so many bytes on disk.
    pub max_bytes: u64,
    /// Bytes in memory before they are sealed.
    pub head_bytes: usize,
    /// Time in memory before they are sealed.
    pub head_age: Duration,
    /// Streams in memory at the most.
    pub max_streams: usize,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(14 * 86_400),
            max_bytes: 10 << 30,
            head_bytes: 16 << 20,
            head_age: Duration::from_secs(1800),
            max_streams: 100_000,
        }
    }
}

/// One line.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Entry {
    /// Nanoseconds since the Unix epoch.
    pub at: i64,
    /// The line, without its end.
    pub line: Arc<str>,
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum LogsError {
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
    /// Too many streams.
    #[error("the limit of {0} log streams in memory is reached; drop labels with many values")]
    TooManyStreams(usize),
}

impl LogsError {
    fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.to_owned(), source }
    }
}

/// The store.
pub struct Logs {
    dir: PathBuf,
    options: Options,
    wal: Wal,
    state: RwLock<State>,
    problems: Vec<String>,
}

#[derive(Default)]
struct State {
    head: Head,
    /// Being sealed: still asked, no longer appended to.
    sealing: Option<Arc<Head>>,
    /// Oldest first.
    segments: Vec<Arc<Segment>>,
}

impl Logs {
    /// Opens the store in a folder, making it when it is new. Files that are damaged are left alone and named in
    /// [`Logs::problems`].
    ///
    /// # Errors
    /// When the folder cannot be read or written.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Arc<Self>, LogsError> {
        let dir = dir.as_ref().to_owned();
        fs::create_dir_all(&dir).map_err(|e| LogsError::io("make", &dir, e))?;
        let (mut segments, mut problems) = (Vec::new(), Vec::new());
        for path in Segment::files(&dir).map_err(|e| LogsError::io("list", &dir, e))? {
            match Segment::open(&path) {
                Ok(segment) => segments.push(Arc::new(segment)),
                Err(error) => problems.push(error.to_string()),
            }
        }
        let journal = dir.join("wal");
        // A crash between sealing and trimming the log would double lines.
        if let Some(newest) = segments.iter().map(|s| s.number()).max() {
            Wal::discard_before(&journal, newest)?;
        }
        let mut head = Head::default();
        let (wal, report) = Wal::open(&journal, |record| head.replay(record))?;
        problems.extend(report.damage);
        let state = RwLock::new(State { head, sealing: None, segments });
        Ok(Arc::new(Self { dir, options, wal, state, problems }))
    }

    /// Files that could not be read when the store was opened.
    pub fn problems(&self) -> &[String] {
        &self.problems
    }

    /// Appends lines to a stream.
    ///
    /// # Errors
    /// When the log cannot be written, or there are too many streams. Nothing is appended then.
    pub fn append(&self, labels: &Labels, entries: &[Entry]) -> Result<(), LogsError> {
        if entries.is_empty() {
            return Ok(());
        }
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        if state.head.streams() >= self.options.max_streams && !state.head.knows(labels) {
            return Err(LogsError::TooManyStreams(self.options.max_streams));
        }
        // Logged under the lock: sealing must find in memory exactly what the log holds.
        self.wal.log(&head::record(labels, entries))?;
        state.head.append(labels, entries);
        Ok(())
    }

    /// Returns once everything appended is on disk.
    ///
    /// # Errors
    /// When the disk refuses.
    pub fn sync(&self) -> Result<(), LogsError> {
        Ok(self.wal.sync()?)
    }

    /// Seals and removes what is due. To be called every few seconds with the time in nanoseconds.
    ///
    /// # Errors
    /// When files cannot be written or removed; what is in memory stays there.
    pub fn tick(&self, now: i64) -> Result<(), LogsError> {
        let due = {
            let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
            state.head.bytes() >= self.options.head_bytes || state.head.age(now) >= self.options.head_age
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
    pub fn seal(&self) -> Result<(), LogsError> {
        let (head, number) = {
            let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
            if state.sealing.is_some() || state.head.is_empty() {
                return Ok(());
            }
            let number = self.wal.cut()?;
            let head = Arc::new(std::mem::take(&mut state.head));
            state.sealing = Some(Arc::clone(&head));
            (head, number)
        };
        let written = Segment::write(&self.dir, number, &head);
        let mut state = self.state.write().unwrap_or_else(PoisonError::into_inner);
        state.sealing = None;
        match written {
            Ok(segment) => state.segments.push(Arc::new(segment)),
            Err(error) => {
                // Back to memory; the log still holds it.
                let newer = std::mem::take(&mut state.head);
                state.head = Arc::unwrap_or_clone(head);
                state.head.join(newer);
                return Err(LogsError::io("write", &self.dir, error));
            }
        }
        drop(state);
        self.wal.checkpoint(number, std::iter::empty())?;
        Ok(())
    }

    fn expire(&self, now: i64) -> Result<(), LogsError> {
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
            fs::remove_file(segment.path()).map_err(|e| LogsError::io("remove", segment.path(), e))?;
        }
        Ok(())
    }

    /// The label sets of streams with lines in a span of time that pass all matchers.
    pub fn series(&self, matchers: &[Matcher], from: i64, to: i64) -> BTreeSet<Labels> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let passes = |labels: &Labels| matchers.iter().all(|m| m.accepts(labels));
        let mut found = BTreeSet::new();
        for head in state.sealing.as_deref().into_iter().chain([&state.head]) {
            found.extend(head.labels_between(from, to).filter(|l| passes(l)).cloned());
        }
        for segment in state.segments.iter().filter(|s| s.newest() >= from && s.oldest() < to) {
            found.extend(segment.labels_between(from, to).filter(|l| passes(l)).cloned());
        }
        found
    }

    /// The newest time of any line of a stream; to go on after a restart where it ended.
    pub fn newest(&self, labels: &Labels) -> Option<i64> {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        let heads =
            state.sealing.as_deref().into_iter().chain([&state.head]).filter_map(|h| h.newest(labels));
        let sealed = state.segments.iter().filter_map(|s| s.newest_of(labels));
        heads.chain(sealed).max()
    }

    /// Bytes on disk.
    pub fn bytes(&self) -> u64 {
        let state = self.state.read().unwrap_or_else(PoisonError::into_inner);
        state.segments.iter().map(|s| s.bytes()).sum::<u64>() + self.wal.bytes()
    }
}

#[cfg(test)]
mod tests;
