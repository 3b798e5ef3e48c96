//! The write-ahead log: numbered segments of checksummed records, and a checkpoint that replaces old ones.
//!
//! A record reaches the file with one `write` before the append returns, so it outlives the process. It reaches
//! the disk with the next group fsync: at once for callers of [`Wal::sync`], else within the interval.

use std::fs::{self, File, OpenOptions};
use std::io::{self, Read, Write};
use std::path::{Path, PathBuf};
use std::sync::{Condvar, Mutex};

use super::{MetricsError, locked};

const SEGMENT_BYTES: u64 = 64 << 20;
const RECORD_LIMIT: usize = 128 << 20;
const HEADER: usize = 8;

/// What replay found wrong.
#[derive(Debug, Default, Clone, PartialEq, Eq)]
pub struct ReplayReport {
    /// Bytes of a last record that was cut by a crash; that is normal.
    pub torn_bytes: u64,
    /// Damage elsewhere: each names file and place. Records behind it in that segment are lost.
    pub damage: Vec<String>,
}

pub(crate) struct Wal {
    dir: PathBuf,
    writer: Mutex<Writer>,
    sync: Mutex<SyncState>,
    synced: Condvar,
}

struct Writer {
    segment: u64,
    file: File,
    bytes: u64,
    /// How many records were written since start.
    written: u64,
}

#[derive(Default)]
struct SyncState {
    done: u64,
    running: bool,
}

fn segment_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.seg"))
}

fn checkpoint_path(dir: &Path, number: u64) -> PathBuf {
    dir.join(format!("{number:08}.checkpoint"))
}

/// Numbers of the files with this extension, in order.
fn numbered(dir: &Path, extension: &str) -> io::Result<Vec<u64>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        if path.extension().is_some_and(|e| e == extension)
            && let Some(number) = path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok())
        {
            found.push(number);
        }
    }
    found.sort_unstable();
    Ok(found)
}

pub(crate) fn sync_dir(dir: &Path) -> io::Result<()> {
    File::open(dir)?.sync_all()
}

impl Wal {
    /// Replays what is there into `apply`, then opens a fresh segment.
    pub(crate) fn open(
        dir: &Path,
        mut apply: impl FnMut(&[u8]),
    ) -> Result<(Self, ReplayReport), MetricsError> {
        let io = |source| MetricsError::io("open the log in", dir, source);
        fs::create_dir_all(dir).map_err(io)?;
        let mut report = ReplayReport::default();
        let mut from = 0;
        if let Some(&number) = numbered(dir, "checkpoint").map_err(io)?.last() {
            replay(&checkpoint_path(dir, number), false, &mut report, &mut apply)?;
            from = number;
        }
        let segments: Vec<u64> =
            numbered(dir, "seg").map_err(io)?.into_iter().filter(|n| *n >= from).collect();
        for (i, &number) in segments.iter().enumerate() {
            replay(&segment_path(dir, number), i + 1 == segments.len(), &mut report, &mut apply)?;
        }
        let next = segments.last().copied().unwrap_or(from) + 1;
        let file = create(dir, next).map_err(io)?;
        let writer = Mutex::new(Writer { segment: next, file, bytes: 0, written: 0 });
        let wal = Self { dir: dir.into(), writer, sync: Mutex::default(), synced: Condvar::new() };
        Ok((wal, report))
    }

    /// Writes one record; it outlives the process from here on.
    pub(crate) fn log(&self, payload: &[u8]) -> Result<u64, MetricsError> {
        let mut writer = locked(&self.writer);
        let io = |source| MetricsError::io("write the log in", &self.dir, source);
        if writer.bytes > SEGMENT_BYTES {
            self.rotate(&mut writer).map_err(io)?;
        }
        let record = frame(payload);
        if let Err(error) = writer.file.write_all(&record) {
            // A half-written record would hide all that follow: cut it off again.
            let _ = writer.file.set_len(writer.bytes);
            return Err(io(error));
        }
        writer.bytes += record.len() as u64;
        writer.written += 1;
        Ok(writer.written)
    }

    /// Returns once everything logged before is on disk; concurrent callers share one fsync.
    pub(crate) fn sync(&self) -> Result<(), MetricsError> {
        let target = locked(&self.writer).written;
        let mut state = locked(&self.sync);
        loop {
            if state.done >= target {
                return Ok(());
            }
            if !state.running {
                break;
            }
            state = self.synced.wait(state).unwrap_or_else(std::sync::PoisonError::into_inner);
        }
        state.running = true;
        drop(state);
        let outcome = self.sync_now();
        let mut state = locked(&self.sync);
        state.running = false;
        if let Ok(reached) = &outcome {
            state.done = state.done.max(*reached);
        }
        self.synced.notify_all();
        outcome.map(drop).map_err(|source| MetricsError::io("fsync the log in", &self.dir, source))
    }

    fn sync_now(&self) -> io::Result<u64> {
        let (file, written) = {
            let writer = locked(&self.writer);
            (writer.file.try_clone()?, writer.written)
        };
        file.sync_data()?;
        Ok(written)
    }

    /// Starts a new segment and returns its number: records of before are all in older ones.
    pub(crate) fn cut(&self) -> Result<u64, MetricsError> {
        let mut writer = locked(&self.writer);
        self.rotate(&mut writer)
            .map_err(|source| MetricsError::io("rotate the log in", &self.dir, source))?;
        Ok(writer.segment)
    }

    fn rotate(&self, writer: &mut Writer) -> io::Result<()> {
        writer.file.sync_data()?;
        let next = writer.segment + 1;
        writer.file = create(&self.dir, next)?;
        writer.segment = next;
        writer.bytes = 0;
        Ok(())
    }

    /// Replaces all segments below `number` by these records.
    pub(crate) fn checkpoint(
        &self,
        number: u64,
        records: impl Iterator<Item = Vec<u8>>,
    ) -> Result<(), MetricsError> {
        let io = |source| MetricsError::io("write a checkpoint of the log in", &self.dir, source);
        let temporary = self.dir.join("checkpoint.tmp");
        let mut out = io::BufWriter::with_capacity(1 << 20, File::create(&temporary).map_err(io)?);
        for record in records {
            out.write_all(&frame(&record)).map_err(io)?;
        }
        let file = out.into_inner().map_err(|e| io(e.into_error()))?;
        file.sync_all().map_err(io)?;
        fs::rename(&temporary, checkpoint_path(&self.dir, number)).map_err(io)?;
        sync_dir(&self.dir).map_err(io)?;
        for old in numbered(&self.dir, "seg").map_err(io)?.into_iter().filter(|n| *n < number) {
            fs::remove_file(segment_path(&self.dir, old)).map_err(io)?;
        }
        for old in numbered(&self.dir, "checkpoint").map_err(io)?.into_iter().filter(|n| *n < number) {
            fs::remove_file(checkpoint_path(&self.dir, old)).map_err(io)?;
        }
        Ok(())
    }

    /// Leaves out everything logged before segment `number` at the next [`Wal::open`]: another file holds it since.
    pub(crate) fn discard_before(dir: &Path, number: u64) -> Result<(), MetricsError> {
        let io = |source| MetricsError::io("write a checkpoint of the log in", dir, source);
        fs::create_dir_all(dir).map_err(io)?;
        if numbered(dir, "checkpoint").map_err(io)?.last().is_some_and(|newest| *newest >= number) {
            return Ok(());
        }
        File::create(checkpoint_path(dir, number)).and_then(|file| file.sync_all()).map_err(io)?;
        sync_dir(dir).map_err(io)
    }

    pub(crate) fn bytes(&self) -> u64 {
        fs::read_dir(&self.dir)
            .map_or(0, |entries| entries.filter_map(|e| e.ok()?.metadata().ok()).map(|m| m.len()).sum())
    }
}

fn create(dir: &Path, number: u64) -> io::Result<File> {
    let file = OpenOptions::new().create_new(true).append(true).open(segment_path(dir, number))?;
    sync_dir(dir)?;
    Ok(file)
}

fn frame(payload: &[u8]) -> Vec<u8> {
    let mut record = Vec::with_capacity(HEADER + payload.len());
    record.extend((payload.len() as u32).to_le_bytes());
    record.extend(crc32fast::hash(payload).to_le_bytes());
    record.extend(payload);
    record
}

fn replay(
    path: &Path,
    last: bool,
    report: &mut ReplayReport,
    apply: &mut impl FnMut(&[u8]),
) -> Result<(), MetricsError> {
    let io = |source| MetricsError::io("replay", path, source);
    let file = File::open(path).map_err(io)?;
    let size = file.metadata().map_err(io)?.len();
    let mut input = io::BufReader::with_capacity(1 << 20, file);
    let (mut at, mut payload) = (0u64, Vec::new());
    while at < size {
        let wrong = match read_record(&mut input, size - at, &mut payload) {
            Ok(()) => {
                apply(&payload);
                at += (HEADER + payload.len()) as u64;
                continue;
            }
            Err(Broken::Io(source)) => return Err(io(source)),
            Err(Broken::Short) if last => {
                report.torn_bytes = size - at;
                return Ok(());
            }
            Err(Broken::Short) => "a record is cut short",
            // A crash of the machine may leave a last record of the right length with holes.
            Err(Broken::Checksum(end)) if last && at + end == size => {
                report.torn_bytes = size - at;
                return Ok(());
            }
            Err(Broken::Checksum(_)) => "a checksum does not match",
        };
        report.damage.push(format!(
            "{}: {wrong} at byte {at}; {} bytes behind it were left out",
            path.display(),
            size - at
        ));
        return Ok(());
    }
    Ok(())
}

enum Broken {
    Io(io::Error),
    Short,
    Checksum(u64),
}

fn read_record(input: &mut impl Read, left: u64, payload: &mut Vec<u8>) -> Result<(), Broken> {
    let mut header = [0; HEADER];
    if left < HEADER as u64 {
        return Err(Broken::Short);
    }
    input.read_exact(&mut header).map_err(Broken::Io)?;
    let [a, b, c, d, e, f, g, h] = header;
    let (len, sum) = (u32::from_le_bytes([a, b, c, d]) as usize, u32::from_le_bytes([e, f, g, h]));
    if len > RECORD_LIMIT || (len + HEADER) as u64 > left {
        return Err(Broken::Short);
    }
    payload.resize(len, 0);
    input.read_exact(payload).map_err(Broken::Io)?;
    // A run of zeros is what an unwritten page looks like; it is no record.
    if crc32fast::hash(payload) != sum || len == 0 {
        return Err(Broken::Checksum((len + HEADER) as u64));
    }
    Ok(())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn open(dir: &Path) -> (Wal, ReplayReport, Vec<Vec<u8>>) {
        let mut seen = Vec::new();
        let (wal, report) = Wal::open(dir, |r| seen.push(r.to_vec())).unwrap();
        (wal, report, seen)
    }

    #[test]
    fn a_torn_tail_is_cut_and_damage_is_named() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, ..) = open(dir.path());
        (0..5u8).for_each(|i| assert!(wal.log(&[i; 10]).is_ok()));
        wal.sync().unwrap();
        drop(wal);
        let path = segment_path(dir.path(), 1);
        let bytes = fs::read(&path).unwrap();
        fs::write(&path, &bytes[..bytes.len() - 3]).unwrap();
        let (wal, report, seen) = open(dir.path());
        assert_eq!((seen.len(), report.torn_bytes, report.damage.len()), (4, 15, 0));
        wal.log(b"later").unwrap();
        drop(wal);
        let mut bytes = fs::read(&path).unwrap();
        bytes[HEADER + 2] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (_, report, seen) = open(dir.path());
        assert_eq!(seen, [b"later".to_vec()]);
        assert!(report.damage[0].contains("checksum"), "{report:?}");
    }

    #[test]
    fn a_checkpoint_replaces_older_segments() {
        let dir = tempfile::tempdir().unwrap();
        let (wal, ..) = open(dir.path());
        wal.log(b"old").unwrap();
        let number = wal.cut().unwrap();
        wal.log(b"new").unwrap();
        wal.checkpoint(number, [b"kept".to_vec()].into_iter()).unwrap();
        drop(wal);
        let (_, _, seen) = open(dir.path());
        assert_eq!(seen, [b"kept".to_vec(), b"new".to_vec()]);
    }
}
