//! The audit log's file: lines are written by a thread of its own, in order, and nothing that was taken on is lost while
//! the process lives.
//!
//! When the file cannot be written, the lines wait and it is tried again; once the queue is full, requests that would
//! have to be written down wait, too, and are then refused before anything of them is done.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::unix::fs::OpenOptionsExt,
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use tokio::sync::{mpsc, oneshot};
use wharf_base::{Clock, SystemClock, Timestamp};

/// Lines that wait at the most.
const QUEUE: usize = 10_000;
/// Lines written in one go.
const BATCH: usize = 256;
/// How soon a file that could not be written is tried again.
const AGAIN: Duration = Duration::from_secs(1);

/// Where the log is kept, and how much of it.
#[derive(Debug, Clone)]
pub struct LogOptions {
    /// The file; `-` is the standard output.
    pub path: PathBuf,
    /// Days after which an old file goes; never at 0.
    pub max_age_days: u64,
    /// Old files that are kept; all at 0.
    pub max_backups: usize,
    /// Megabytes after which a new file is begun; never at 0.
    pub max_megabytes: u64,
}

pub(super) enum Entry {
    Line(String),
    /// Answered once everything before it is written.
    Flush(oneshot::Sender<()>),
}

/// The sending side.
pub(super) struct Log {
    pub(super) sender: mpsc::Sender<Entry>,
    failures: Arc<AtomicU64>,
}

impl Log {
    pub(super) fn open(options: LogOptions) -> io::Result<Self> {
        let file = Rotated::open(options)?;
        let (sender, lines) = mpsc::channel(QUEUE);
        let failures = Arc::new(AtomicU64::new(0));
        let writer = Writer { file, failures: Arc::clone(&failures) };
        thread::Builder::new().name("audit-log".into()).spawn(move || writer.run(lines))?;
        Ok(Self { sender, failures })
    }

    /// How often the file could not be written.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Waits until everything taken on by now is written.
    pub(super) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.sender.send(Entry::Flush(done)).await.is_ok() {
            // The thread ends only with the queue.
            let _ = written.await;
        }
    }
}

struct Writer {
    file: Rotated,
    failures: Arc<AtomicU64>,
}

impl Writer {
    fn run(mut self, mut lines: mpsc::Receiver<Entry>) {
        let mut some = Vec::with_capacity(BATCH);
        loop {
            if lines.blocking_recv_many(&mut some, BATCH) == 0 {
                return;
            }
            let mut text = Vec::new();
            let mut waiting = Vec::new();
            for entry in some.drain(..) {
                match entry {
                    Entry::Line(line) => {
                        text.extend_from_slice(line.as_bytes());
                        text.push(b'\n');
                    }
                    Entry::Flush(done) => waiting.push(done),
                }
            }
            self.write(&text);
            for done in waiting {
                // Whoever asked may have gone.
                let _ = done.send(());
            }
        }
    }

    fn write(&mut self, text: &[u8]) {
        let mut written = 0;
        let mut told = false;
        while let Some(rest) = text.get(written..).filter(|rest| !rest.is_empty()) {
            match self.file.write(rest) {
                Ok(n) => written += n,
                Err(error) => {
                    self.failures.fetch_add(1, Ordering::Relaxed);
                    if !told {
                        let path = self.file.options.path.display();
                        tracing::error!(%path, %error, "the audit log cannot be written; requests wait for it, and are refused once too much waits");
                        told = true;
                    }
                    thread::sleep(AGAIN);
                }
            }
        }
        if told {
            tracing::info!("the audit log is written again");
        }
    }
}

/// A file that is put aside when it is large, and old ones with it that go in time.
struct Rotated {
    options: LogOptions,
    /// None for the standard output, and while a new one could not be begun.
    file: Option<File>,
    size: u64,
}

fn is_output(path: &Path) -> bool {
    path.as_os_str() == "-"
}

impl Rotated {
    fn open(options: LogOptions) -> io::Result<Self> {
        let mut log = Self { options, file: None, size: 0 };
        if !is_output(&log.options.path) {
            log.begin()?;
        }
        Ok(log)
    }

    fn begin(&mut self) -> io::Result<()> {
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.options.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Writes the first of some whole lines, or all; they stand in one file.
    fn write(&mut self, lines: &[u8]) -> io::Result<usize> {
        if is_output(&self.options.path) {
            let mut out = io::stdout().lock();
            out.write_all(lines)?;
            out.flush()?;
            return Ok(lines.len());
        }
        let limit = self.options.max_megabytes << 20;
        if limit > 0 && self.size > 0 && self.size + lines.len() as u64 > limit {
            self.put_aside()?;
        }
        if self.file.is_none() {
            self.begin()?;
        }
        let Some(file) = &mut self.file else { return Ok(0) };
        let n = file.write(lines)?;
        self.size += n as u64;
        if n == 0 { Err(io::ErrorKind::WriteZero.into()) } else { Ok(n) }
    }

    fn put_aside(&mut self) -> io::Result<()> {
        self.file = None;
        let now = SystemClock.now();
        match fs::rename(&self.options.path, backup(&self.options.path, now)) {
            // It was put aside already, and no new one could be begun.
            Err(error) if error.kind() != io::ErrorKind::NotFound => return Err(error),
            _ => self.begin()?,
        }
        self.forget();
        Ok(())
    }

    /// Takes away files that are too old or too many. What cannot be taken away stays until the next time.
    fn forget(&self) {
        let mut old = backups(&self.options.path);
        old.sort();
        let keep = self.options.max_backups;
        let many = if keep == 0 { 0 } else { old.len().saturating_sub(keep) };
        let life = Duration::from_secs(self.options.max_age_days * 86_400);
        let is_old = |path: &PathBuf| {
            let modified =
                fs::metadata(path).and_then(|data| data.modified()).unwrap_or(SystemTime::UNIX_EPOCH);
            !life.is_zero() && modified.elapsed().is_ok_and(|age| age > life)
        };
        for (i, path) in old.iter().enumerate() {
            if (i < many || is_old(path))
                && let Err(error) = fs::remove_file(path)
            {
                tracing::warn!(path = %path.display(), %error, "an old audit log cannot be removed");
            }
        }
    }
}

/// `audit.log` put aside: `audit-2030-01-02T03-04-05.678.log`.
fn backup(path: &Path, now: Timestamp) -> PathBuf {
    let (stem, extension) = parts(path);
    // Colons are no part of names everywhere; milliseconds keep names apart.
    let time: String = now.to_micro().replace(':', "-").chars().take(23).collect();
    path.with_file_name(format!("{stem}-{time}{extension}"))
}

fn parts(path: &Path) -> (String, String) {
    let text = |part: Option<&std::ffi::OsStr>| part.map(|p| p.to_string_lossy().into_owned());
    let extension = text(path.extension()).map(|e| format!(".{e}")).unwrap_or_default();
    (text(path.file_stem()).unwrap_or_default(), extension)
}

fn backups(path: &Path) -> Vec<PathBuf> {
    let (stem, extension) = parts(path);
    let folder = path.parent().filter(|p| !p.as_os_str().is_empty()).unwrap_or(Path::new("."));
    let is_one = |path: &PathBuf| {
        let name = path.file_name().map(|n| n.to_string_lossy().into_owned()).unwrap_or_default();
        let time = name.strip_prefix(&format!("{stem}-")).and_then(|rest| rest.strip_suffix(&extension));
        time.is_some_and(|time| time.len() == 23 && time.as_bytes().get(10) == Some(&b'T'))
    };
    let entries = fs::read_dir(folder).into_iter().flatten().filter_map(Result::ok);
    entries.map(|entry| entry.path()).filter(is_one).collect()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn files_are_put_aside_and_go() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let options = LogOptions { path: path.clone(), max_age_days: 0, max_backups: 2, max_megabytes: 1 };
        let mut log = Rotated::open(options).unwrap();
        let lines = vec![b'x'; 600 << 10];
        for _ in 0..5 {
            assert_eq!(log.write(&lines).unwrap(), lines.len());
            // Names are kept apart by milliseconds.
            let before = SystemClock.now().as_millis();
            while SystemClock.now().as_millis() <= before {
                std::hint::spin_loop();
            }
        }
        assert_eq!(backups(&path).len(), 2, "of four only two are kept");
        assert_eq!(fs::metadata(&path).unwrap().len(), 600 << 10);
        fs::write(folder.path().join("audit-other.log"), "").unwrap();
        assert_eq!(backups(&path).len(), 2);
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_cannot_be_written_waits() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("logs");
        fs::create_dir(&path).unwrap();
        let options =
            LogOptions { path: path.join("a.log"), max_age_days: 0, max_backups: 0, max_megabytes: 1 };
        let log = Log::open(options).unwrap();
        let line = "x".repeat(700 << 10);
        log.sender.send(Entry::Line(line.clone())).await.ok().unwrap();
        log.flush().await;
        // The next file cannot be begun: its folder is gone.
        let away = folder.path().join("away");
        fs::rename(&path, &away).unwrap();
        log.sender.send(Entry::Line(line)).await.ok().unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while log.failures() == 0 {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        fs::rename(&away, &path).unwrap();
        tokio::time::timeout(Duration::from_secs(20), log.flush()).await.unwrap();
        let size: u64 = fs::read_dir(&path).unwrap().map(|e| e.unwrap().metadata().unwrap().len()).sum();
        assert_eq!(size, 2 * ((700 << 10) + 1), "nothing is lost");
    }
}
