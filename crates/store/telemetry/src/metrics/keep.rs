//! Keeping house: fsync, moving samples to blocks, joining blocks, retention.

use std::path::{Path, PathBuf};
use std::sync::atomic::Ordering::Relaxed;
use std::sync::{Arc, Weak};
use std::time::{Duration, Instant};
use std::{fs, thread};

use super::append::{metadata_record, samples_record, series_record};
use super::block::{self, Block};
use super::{Metrics, MetricsError, Point, locked, now_ms, read, write};

/// A block is joined with its neighbours into ones of these many ranges.
const LEVELS: [i64; 2] = [4, 16];
/// A query older than this does not hold up memory any longer.
const QUERY_PATIENCE: Duration = Duration::from_secs(150);
const RECORD_SAMPLES: usize = 100_000;

/// Opens all blocks; one that is replaced by a joined one is removed, a damaged one is named and left alone.
pub(crate) fn open_blocks(dir: &Path) -> Result<(Vec<Arc<Block>>, Vec<String>), MetricsError> {
    let (mut blocks, mut problems) = (Vec::new(), Vec::new());
    let io = |source| MetricsError::io("list", dir, source);
    for entry in fs::read_dir(dir).map_err(io)? {
        let path = entry.map_err(io)?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some("tmp") => {
                fs::remove_file(&path).map_err(|source| MetricsError::io("remove", &path, source))?
            }
            Some("block") => match Block::open(&path) {
                Ok(block) => blocks.push(Arc::new(block)),
                Err(error) => problems.push(format!("{error}; its samples are missing")),
            },
            _ => {}
        }
    }
    // Longest first, so that a block within another one is what a crash left of a join.
    blocks.sort_by_key(|b| (b.from, -b.to));
    let mut kept: Vec<Arc<Block>> = Vec::new();
    for block in blocks {
        if kept.last().is_some_and(|known| known.to >= block.to) {
            let _ = fs::remove_file(&block.path);
        } else {
            kept.push(block);
        }
    }
    Ok((kept, problems))
}

pub(crate) fn start(metrics: &Arc<Metrics>) -> Result<(), MetricsError> {
    let weak = Arc::downgrade(metrics);
    let interval = metrics.options.fsync_interval;
    let dir = metrics.dir.clone();
    let spawn = |name: &str, run: fn(Weak<Metrics>, Duration)| {
        let weak = weak.clone();
        thread::Builder::new()
            .name(name.into())
            .spawn(move || run(weak, interval))
            .map(drop)
            .map_err(|source| MetricsError::io("start a thread for", &dir, source))
    };
    spawn("metrics-fsync", |weak, interval| {
        loop {
            thread::sleep(interval);
            let Some(metrics) = weak.upgrade() else { return };
            if metrics.unsynced.swap(false, Relaxed)
                && let Err(error) = metrics.sync()
            {
                metrics.unsynced.store(true, Relaxed);
                metrics.problem(error.to_string());
            }
        }
    })?;
    spawn("metrics-keep", |weak, _| {
        loop {
            // Short naps, so that a dropped store is let go soon.
            for _ in 0..30 {
                thread::sleep(Duration::from_millis(500));
                if weak.strong_count() == 0 {
                    return;
                }
            }
            let Some(metrics) = weak.upgrade() else { return };
            if let Err(error) = metrics.maintain(now_ms()) {
                metrics.problem(error.to_string());
            }
        }
    })
}

impl Metrics {
    /// Moves past ranges from memory to blocks, joins blocks and applies retention.
    pub fn maintain(&self, now: i64) -> Result<(), MetricsError> {
        let _one = locked(&self.keeping);
        let range = (self.options.block_range.as_millis() as i64).max(1);
        // Half a range of slack: late samples and range queries of the recent past stay in memory.
        while let Some(oldest) = self.head.oldest() {
            let end = oldest.div_euclid(range).saturating_add(1).saturating_mul(range);
            if self.head.newest.load(Relaxed).min(now) < end.saturating_add(range / 2) {
                break;
            }
            self.flush(end)?;
        }
        self.join(range)?;
        self.retain(now)
    }

    /// Moves everything before `end` to a block.
    pub fn flush_before(&self, end: i64) -> Result<(), MetricsError> {
        let _one = locked(&self.keeping);
        self.flush(end)
    }

    fn flush(&self, end: i64) -> Result<(), MetricsError> {
        self.head.floor.fetch_max(end, Relaxed);
        let segment = self.wal.cut()?;
        let Some(start) = self.head.oldest().filter(|oldest| *oldest < end) else { return Ok(()) };
        let mut writer = block::Writer::create(&self.block_path(start, end), start, end)?;
        let mut points = Vec::new();
        for series in self.head.sorted() {
            points.clear();
            locked(&series.data)
                .read(start, end - 1, &mut points)
                .map_err(|e| MetricsError::damaged("memory".as_ref(), &e.to_string()))?;
            writer.add(&series.labels, &points)?;
        }
        if let Some(block) = writer.finish()? {
            write(&self.blocks).push(Arc::new(block));
        }
        self.wait_for_queries();
        self.head.forget_before(end);
        self.wal.checkpoint(segment, self.snapshot())
    }

    /// Queries that began before the block was there read its samples from memory.
    fn wait_for_queries(&self) {
        let old = std::mem::take(&mut *locked(&self.queries));
        let patience = Instant::now() + QUERY_PATIENCE;
        while Arc::strong_count(&old) > 1 && Instant::now() < patience {
            thread::sleep(Duration::from_millis(5));
        }
    }

    /// All that memory holds, as log records.
    fn snapshot(&self) -> impl Iterator<Item = Vec<u8>> + '_ {
        let metadata: Vec<_> =
            self.metadata().iter().map(|(name, meta)| metadata_record(name, meta)).collect();
        let mut series = self.head.sorted();
        series.sort_by_key(|s| s.id);
        let mut at = 0;
        let samples = std::iter::from_fn(move || {
            let mut records = Vec::new();
            let (mut batch, mut points) = (Vec::new(), Vec::new());
            while batch.len() < RECORD_SAMPLES
                && let Some(one) = series.get(at)
            {
                at += 1;
                records.push(series_record(one));
                points.clear();
                let _ = locked(&one.data).read(i64::MIN, i64::MAX, &mut points);
                batch.extend(points.iter().map(|p: &Point| (one.id, *p)));
            }
            if !batch.is_empty() {
                records.push(samples_record(&batch));
            }
            (!records.is_empty()).then_some(records)
        });
        metadata.into_iter().chain(samples.flatten())
    }

    fn block_path(&self, from: i64, to: i64) -> PathBuf {
        self.dir.join("blocks").join(format!("{from}-{to}.block"))
    }

    /// Joins runs of blocks that fill a longer range.
    fn join(&self, range: i64) -> Result<(), MetricsError> {
        for level in LEVELS {
            let long = range.saturating_mul(level);
            // Long blocks would hold samples far past a short retention.
            if long > self.options.retention.as_millis() as i64 / 8 {
                break;
            }
            loop {
                let blocks = read(&self.blocks).clone();
                let newest = blocks.last().map_or(i64::MIN, |b| b.to);
                let slot = |b: &Arc<Block>| (b.to - 1).div_euclid(long);
                let run = blocks.chunk_by(|a, b| slot(a) == slot(b)).find(|run| {
                    run.len() > 1 && run.first().is_some_and(|b| (slot(b) + 1).saturating_mul(long) <= newest)
                });
                let Some(run) = run else { break };
                self.replace(run)?;
            }
        }
        Ok(())
    }

    fn replace(&self, run: &[Arc<Block>]) -> Result<(), MetricsError> {
        let (Some(first), Some(last)) = (run.first(), run.last()) else { return Ok(()) };
        let joined = block::merge(run, &self.block_path(first.from, last.to))?;
        let mut blocks = write(&self.blocks);
        blocks.retain(|b| !run.iter().any(|old| old.path == b.path));
        blocks.extend(joined.map(Arc::new));
        blocks.sort_by_key(|b| b.from);
        drop(blocks);
        // Queries in progress keep the open files of removed blocks.
        run.iter().for_each(|old| drop(fs::remove_file(&old.path)));
        Ok(())
    }

    /// Removes blocks past the age or over the size; the newest one always stays.
    fn retain(&self, now: i64) -> Result<(), MetricsError> {
        let oldest = now.saturating_sub(self.options.retention.as_millis() as i64);
        let limit = if self.options.max_bytes == 0 { u64::MAX } else { self.options.max_bytes };
        loop {
            let mut blocks = write(&self.blocks);
            let bytes: u64 = blocks.iter().map(|b| b.bytes).sum();
            let Some(first) = blocks.first().cloned() else { return Ok(()) };
            if first.to > oldest && (bytes <= limit || blocks.len() == 1) {
                return Ok(());
            }
            blocks.remove(0);
            drop(blocks);
            fs::remove_file(&first.path).map_err(|source| MetricsError::io("remove", &first.path, source))?;
        }
    }
}
