//! Series of samples: append, keep, select.
//!
//! New samples live in memory ([`head`]) and in a write-ahead log ([`wal`]); those of a past time range are moved
//! to an immutable, compressed file ([`block`]); old blocks are joined and, past retention, removed.
//!
//! What survives: a sample whose append returned survives the death of the process (it was handed to the kernel).
//! It survives the death of the machine once [`Metrics::sync`] returned, else after [`Options::fsync_interval`] at
//! the latest. Remote write acknowledges after `sync`; scrapes do not wait, so a power cut may cost them the last
//! interval. Exemplars are kept in memory only.

use std::collections::{BTreeMap, HashMap};
use std::path::{Path, PathBuf};
use std::sync::atomic::{AtomicBool, AtomicU64, Ordering::Relaxed};
use std::sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock, RwLockReadGuard, RwLockWriteGuard};
use std::time::{Duration, SystemTime, UNIX_EPOCH};
use std::{fs, io};

mod append;
mod block;
mod chunk;
pub mod exposition;
mod head;
mod keep;
mod labels;
mod matcher;
mod scrape;
mod select;
#[cfg(test)]
mod tests;
pub(crate) mod wal;

pub use append::{Appended, Appender, SeriesRef};
pub use chunk::{Point, STALE_BITS, is_stale, stale};
pub use head::Refused;
pub use labels::{Fast, FastHash, Labels, METRIC_NAME, Str, is_label_name, is_metric_name, quote};
pub(crate) use matcher::anchored;
pub use matcher::{MatchOp, Matcher};
pub use scrape::{ScrapeCache, ScrapeOptions, ScrapeStats};
pub use select::{Exemplar, SelectedSeries, SeriesSet};
pub use wal::ReplayReport;

use block::Block;
use head::Head;
use wal::Wal;

/// How the store keeps what it is given.
#[derive(Debug, Clone)]
pub struct Options {
    /// Samples older than this are removed, block by block.
    pub retention: Duration,
    /// Oldest blocks are removed while all of them take more than this; 0 is no limit.
    pub max_bytes: u64,
    /// Samples stay in memory for this long, then go to a block of this length.
    pub block_range: Duration,
    /// How long a sample that nobody waits for may stay out of the disk.
    pub fsync_interval: Duration,
    /// Samples further in the future than this are refused.
    pub max_future: Duration,
    /// How many exemplars are remembered.
    pub exemplars: usize,
    /// How many series may be in memory; appends that would make more are refused.
    pub max_series: usize,
    /// Keep house in an own thread; without it, call [`Metrics::maintain`].
    pub background: bool,
}

impl Default for Options {
    fn default() -> Self {
        Self {
            retention: Duration::from_secs(15 * 24 * 3600),
            max_bytes: 0,
            block_range: Duration::from_secs(2 * 3600),
            fsync_interval: Duration::from_secs(1),
            max_future: Duration::from_secs(3600),
            exemplars: 10_000,
            max_series: 5_000_000,
            background: true,
        }
    }
}

/// Why the store could not do something.
#[derive(Debug, thiserror::Error)]
pub enum MetricsError {
    /// The file system refused.
    #[error("cannot {what} {}", path.display())]
    Io {
        /// What was tried.
        what: &'static str,
        /// On which file or folder.
        path: PathBuf,
        /// The system's answer.
        source: io::Error,
    },
    /// A file is not what was written.
    #[error("{} is damaged: {what}; move it away to go on without it", path.display())]
    Damaged {
        /// The file.
        path: PathBuf,
        /// What is wrong.
        what: String,
    },
    /// Too many series.
    #[error("the limit of {0} series in memory is reached; drop labels with many values or raise the limit")]
    TooManySeries(usize),
}

impl MetricsError {
    fn io(what: &'static str, path: &Path, source: io::Error) -> Self {
        Self::Io { what, path: path.into(), source }
    }

    fn damaged(path: &Path, what: &str) -> Self {
        Self::Damaged { path: path.into(), what: what.into() }
    }
}

/// What is known of a metric besides its samples.
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub struct Metadata {
    /// `counter`, `gauge`, `histogram`, `summary`, `info`, `stateset` or `unknown`.
    pub kind: String,
    /// What it means.
    pub help: String,
    /// Its unit, "" when none was given.
    pub unit: String,
}

/// Figures of the store itself.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Stats {
    /// Series in memory.
    pub series: u64,
    /// Samples taken since start.
    pub samples: u64,
    /// Samples in blocks.
    pub block_samples: u64,
    /// Bytes of all blocks.
    pub block_bytes: u64,
    /// Bytes of the write-ahead log.
    pub log_bytes: u64,
    /// Blocks.
    pub blocks: u64,
    /// Refused samples: out of order, duplicate with another value, too old, too far in the future.
    pub refused: [u64; 4],
    /// What went wrong in the background, newest last.
    pub problems: Vec<String>,
}

/// A store of metrics in one folder.
pub struct Metrics {
    dir: PathBuf,
    options: Options,
    head: Head,
    wal: Wal,
    blocks: RwLock<Vec<Arc<Block>>>,
    metadata: RwLock<BTreeMap<String, Metadata>>,
    exemplars: Mutex<std::collections::VecDeque<Exemplar>>,
    /// Held by every query in progress; a flush waits for the queries that began before it.
    queries: Mutex<Arc<()>>,
    /// One flush, merge or checkpoint at a time.
    keeping: Mutex<()>,
    refused: [AtomicU64; 4],
    problems: Mutex<Vec<String>>,
    unsynced: AtomicBool,
    report: ReplayReport,
}

impl Metrics {
    /// Opens the folder, replays its log and starts keeping house.
    pub fn open(dir: impl AsRef<Path>, options: Options) -> Result<Arc<Self>, MetricsError> {
        let dir = dir.as_ref().to_path_buf();
        let blocks_dir = dir.join("blocks");
        fs::create_dir_all(&blocks_dir).map_err(|source| MetricsError::io("create", &blocks_dir, source))?;
        let (blocks, mut problems) = keep::open_blocks(&blocks_dir)?;
        let head = Head::default();
        head.floor.store(blocks.iter().map(|b| b.to).max().unwrap_or(i64::MIN), Relaxed);
        let mut replay = append::Replay::default();
        let (wal, report) = Wal::open(&dir.join("wal"), |record| replay.apply(&head, record))?;
        problems.extend(report.damage.iter().cloned());
        problems.extend(replay.problems());
        let background = options.background;
        let metrics = Arc::new(Self {
            dir,
            options,
            head,
            wal,
            blocks: RwLock::new(blocks),
            metadata: RwLock::new(replay.metadata),
            exemplars: Mutex::default(),
            queries: Mutex::default(),
            keeping: Mutex::default(),
            refused: Default::default(),
            problems: Mutex::new(problems),
            unsynced: AtomicBool::new(false),
            report,
        });
        if background {
            keep::start(&metrics)?;
        }
        Ok(metrics)
    }

    /// What replay found at start.
    pub fn replay_report(&self) -> &ReplayReport {
        &self.report
    }

    /// Figures of the store.
    pub fn stats(&self) -> Stats {
        let blocks = read(&self.blocks);
        Stats {
            series: read(&self.head.index).by_id.len() as u64,
            samples: self.head.samples.load(Relaxed),
            block_samples: blocks.iter().map(|b| b.samples).sum(),
            block_bytes: blocks.iter().map(|b| b.bytes).sum(),
            log_bytes: self.wal.bytes(),
            blocks: blocks.len() as u64,
            refused: [0, 1, 2, 3].map(|i: usize| self.refused.get(i).map_or(0, |n| n.load(Relaxed))),
            problems: locked(&self.problems).clone(),
        }
    }

    fn problem(&self, text: String) {
        tracing::warn!(problem = %text, "metrics store");
        let mut problems = locked(&self.problems);
        if problems.len() >= 100 {
            problems.remove(0);
        }
        problems.push(text);
    }
}

/// Milliseconds since the epoch.
pub(crate) fn now_ms() -> i64 {
    SystemTime::now().duration_since(UNIX_EPOCH).map_or(0, |d| d.as_millis() as i64)
}

pub(crate) fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn read<T>(lock: &RwLock<T>) -> RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(PoisonError::into_inner)
}

pub(crate) fn write<T>(lock: &RwLock<T>) -> RwLockWriteGuard<'_, T> {
    lock.write().unwrap_or_else(PoisonError::into_inner)
}

type Found = HashMap<Labels, usize, FastHash>;
