//! The audit log's file: lines are written by a thread of its own, in order, and nothing that was taken on is lost while
//! the process lives.
//!
//! When the file cannot be written, the lines wait and it is tried again. What waits is bounded by its bytes: a request
//! takes room for its lines before anything of it is done, or is refused, and takes more for a long line once it is
//! known. Room is given back when a line is in the file.

use std::{
    fs::{self, File, OpenOptions},
    io::{self, Write},
    os::{fd::AsFd, unix::fs::OpenOptionsExt},
    path::{Path, PathBuf},
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    thread,
    time::{Duration, SystemTime},
};

use tokio::sync::{OwnedSemaphorePermit, Semaphore, mpsc, oneshot};
use wharf_base::{Clock, SystemClock, Timestamp};

/// Bytes of lines that wait at the most, and of those that may still come of requests on their way.
const BYTES: u32 = 64 << 20;
/// Bytes a line is thought to have until it is known: few have more without objects.
pub(super) const LINE: usize = 4 << 10;
/// How long a request waits for room.
const PATIENCE: Duration = Duration::from_secs(10);
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

enum Entry {
    /// The room is given back when the line is written.
    Line(String, Room),
    /// Answered once everything before it is written.
    Flush(oneshot::Sender<()>),
}

/// Bytes of the log that are kept for lines.
pub(super) type Room = OwnedSemaphorePermit;

/// The sending side.
pub(super) struct Log {
    sender: mpsc::UnboundedSender<Entry>,
    room: Arc<Semaphore>,
    bytes: u32,
    patience: Duration,
    failures: Arc<AtomicU64>,
}

impl Log {
    pub(super) fn open(options: LogOptions) -> io::Result<Self> {
        Self::with_room(options, BYTES, PATIENCE)
    }

    fn with_room(options: LogOptions, bytes: u32, patience: Duration) -> io::Result<Self> {
        let file = Rotated::open(options)?;
        // What is sent holds room.
        let (sender, lines) = mpsc::unbounded_channel();
        let failures = Arc::new(AtomicU64::new(0));
        let writer = Writer { file, failures: Arc::clone(&failures) };
        thread::Builder::new().name("audit-log".into()).spawn(move || writer.run(lines))?;
        let room = Arc::new(Semaphore::new(bytes as usize));
        Ok(Self { sender, room, bytes, patience, failures })
    }

    /// A line of more bytes than may wait gets in when it is alone.
    fn limited(&self, bytes: usize) -> u32 {
        u32::try_from(bytes).unwrap_or(u32::MAX).min(self.bytes)
    }

    /// Waits for room, but not for ever.
    pub(super) async fn reserve(&self, bytes: usize) -> Option<Room> {
        let room = Arc::clone(&self.room).acquire_many_owned(self.limited(bytes));
        tokio::time::timeout(self.patience, room).await.ok()?.ok()
    }

    /// Room, if there is some now.
    pub(super) fn try_reserve(&self, bytes: usize) -> Option<Room> {
        Arc::clone(&self.room).try_acquire_many_owned(self.limited(bytes)).ok()
    }

    /// Takes a line on; what it has room for and does not need is given back.
    pub(super) fn put(&self, line: String, mut room: Room) {
        let spare = room.num_permits().saturating_sub(line.len());
        drop(room.split(spare));
        // The log's thread does not end before the server.
        let _ = self.sender.send(Entry::Line(line, room));
    }

    /// Takes a line on as soon as there is room for it, however long that takes.
    pub(super) fn put_later(&self, line: String) {
        if let Some(room) = self.try_reserve(line.len()) {
            return self.put(line, room);
        }
        let (sender, bytes) = (self.sender.clone(), self.limited(line.len()));
        let room = Arc::clone(&self.room).acquire_many_owned(bytes);
        if let Ok(runtime) = tokio::runtime::Handle::try_current() {
            runtime.spawn(async move { room.await.map(|room| sender.send(Entry::Line(line, room))) });
        }
    }

    /// How often the file could not be written.
    pub(super) fn failures(&self) -> u64 {
        self.failures.load(Ordering::Relaxed)
    }

    /// Waits until everything taken on by now is written.
    pub(super) async fn flush(&self) {
        let (done, written) = oneshot::channel();
        if self.sender.send(Entry::Flush(done)).is_ok() {
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
    fn run(mut self, mut lines: mpsc::UnboundedReceiver<Entry>) {
        let mut some = Vec::with_capacity(BATCH);
        loop {
            if lines.blocking_recv_many(&mut some, BATCH) == 0 {
                return;
            }
            let mut text = Vec::new();
            let (mut rooms, mut waiting) = (Vec::new(), Vec::new());
            for entry in some.drain(..) {
                match entry {
                    Entry::Line(line, room) => {
                        text.extend_from_slice(line.as_bytes());
                        text.push(b'\n');
                        rooms.push(room);
                    }
                    Entry::Flush(done) => waiting.push(done),
                }
            }
            self.write(&text);
            drop(rooms);
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
            // What is begun goes on in the same file, or a line would stand in two.
            let ready = if written == 0 { self.file.make_room(rest.len()) } else { Ok(()) };
            match ready.and_then(|()| self.file.write(rest)) {
                Ok(n) => written += n,
                Err(error) if error.kind() == io::ErrorKind::Interrupted => {}
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
    /// None while a new one could not be begun.
    file: Option<File>,
    size: u64,
}

fn is_output(path: &Path) -> bool {
    path.as_os_str() == "-"
}

impl Rotated {
    fn open(options: LogOptions) -> io::Result<Self> {
        let mut log = Self { options, file: None, size: 0 };
        log.begin()?;
        Ok(log)
    }

    fn begin(&mut self) -> io::Result<()> {
        if is_output(&self.options.path) {
            // Without a buffer, so that it is known how much of a line is out.
            self.file = Some(File::from(io::stdout().as_fd().try_clone_to_owned()?));
            return Ok(());
        }
        let file = OpenOptions::new().create(true).append(true).mode(0o600).open(&self.options.path)?;
        self.size = file.metadata()?.len();
        self.file = Some(file);
        Ok(())
    }

    /// Begins a new file where lines of so many bytes would make this one too large; they stand in one file.
    fn make_room(&mut self, bytes: usize) -> io::Result<()> {
        let limit = self.options.max_megabytes.saturating_mul(1 << 20);
        let is_full = limit > 0 && self.size > 0 && self.size.saturating_add(bytes as u64) > limit;
        if is_full && !is_output(&self.options.path) { self.put_aside() } else { Ok(()) }
    }

    /// Writes the first of some bytes, or all.
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        if self.file.is_none() {
            self.begin()?;
        }
        let Some(file) = &mut self.file else { return Ok(0) };
        let n = file.write(bytes)?;
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
        let life = Duration::from_secs(self.options.max_age_days.saturating_mul(86_400));
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
            log.make_room(lines.len()).unwrap();
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
        let room = log.reserve(line.len()).await.unwrap();
        log.put(line.clone(), room);
        log.flush().await;
        // The next file cannot be begun: its folder is gone.
        let away = folder.path().join("away");
        fs::rename(&path, &away).unwrap();
        let room = log.reserve(line.len()).await.unwrap();
        log.put(line, room);
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

    /// Whose file cannot be begun until `mend` is called, with a line before that is written.
    struct Broken {
        _folder: tempfile::TempDir,
        path: PathBuf,
        away: PathBuf,
        log: Log,
    }

    impl Broken {
        async fn start(bytes: u32) -> Self {
            let folder = tempfile::tempdir().unwrap();
            let (path, away) = (folder.path().join("logs"), folder.path().join("away"));
            fs::create_dir(&path).unwrap();
            let file = path.join("a.log");
            let options = LogOptions { path: file, max_age_days: u64::MAX, max_backups: 0, max_megabytes: 1 };
            let log = Log::with_room(options, bytes, Duration::from_millis(20)).unwrap();
            // Of more bytes than there is room for: it gets in alone.
            let line = "x".repeat(1 << 20);
            let room = log.reserve(line.len()).await.unwrap();
            log.put(line, room);
            log.flush().await;
            fs::rename(&path, &away).unwrap();
            Self { _folder: folder, path, away, log }
        }

        fn lines(&self) -> Vec<String> {
            let files = fs::read_dir(&self.path).unwrap().map(|file| file.unwrap().path());
            let text: String = files.map(|file| fs::read_to_string(file).unwrap()).collect();
            text.lines().map(str::to_owned).collect()
        }
    }

    #[tokio::test(flavor = "multi_thread")]
    async fn what_waits_is_bounded_by_its_bytes() {
        let broken = Broken::start(10_000).await;
        let log = &broken.log;
        let room = log.reserve(8_000).await.unwrap();
        log.put("y".repeat(6_000), room);
        assert!(log.reserve(4_001).await.is_none(), "nobody waits for ever");
        assert!(log.try_reserve(4_000).is_some(), "what a line did not need is given back");
        log.put_later("z".repeat(5_000));
        fs::rename(&broken.away, &broken.path).unwrap();
        let deadline = std::time::Instant::now() + Duration::from_secs(20);
        while broken.lines().len() < 3 {
            assert!(std::time::Instant::now() < deadline);
            tokio::time::sleep(Duration::from_millis(10)).await;
        }
        let mut lines = broken.lines();
        lines.sort_by_key(String::len);
        assert_eq!(lines.iter().map(String::len).collect::<Vec<_>>(), [5_000, 6_000, 1 << 20]);
    }

    #[test]
    fn a_line_stands_in_one_file() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("audit.log");
        let options = LogOptions { path: path.clone(), max_age_days: 0, max_backups: 0, max_megabytes: 1 };
        let mut log = Rotated::open(options).unwrap();
        let line = vec![b'x'; 3 << 20];
        // As a disk that takes only a part of it.
        let (first, rest) = line.split_at(2 << 20);
        log.make_room(line.len()).unwrap();
        log.write(first).unwrap();
        log.write(rest).unwrap();
        assert_eq!(fs::metadata(&path).unwrap().len(), 3 << 20);
        log.make_room(4).unwrap();
        log.write(b"next").unwrap();
        assert_eq!(fs::read(&path).unwrap(), b"next");
        assert_eq!(backups(&path).len(), 1);
    }
}
