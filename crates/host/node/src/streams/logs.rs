//! Logs of containers, from the files the shim writes.

use std::{
    fs::File,
    io::{self, BufRead, BufReader, Read},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use bytes::Bytes;
use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    fs::inotify,
};
use tokio::sync::mpsc;
use wharf_runtime::{LogLine, log_files};

use super::{LogOptions, LogStream, Result, StreamError, choose};
use crate::{agent::NodeAgent, worker::PodHandle, worker::recover::log_path};

impl NodeAgent {
    /// The log of a container.
    ///
    /// # Errors
    /// When there is no such pod, container or run.
    pub fn logs(&self, namespace: &str, pod: &str, options: LogOptions) -> Result<LogStream> {
        let handle = self.pod(namespace, pod)?;
        let view = handle.view();
        let container = choose(&view, options.container.as_deref())?;
        let (name, folder) = (container.name.clone(), self.shared.pod_folder(&handle.uid));
        let path = |attempt: u32| log_path(&folder, &name, attempt);
        let attempt = match (options.previous, container.attempt.checked_sub(1)) {
            (false, before) => {
                // A run that could not be made has no log: the one before it tells more.
                before.filter(|_| !path(container.attempt).exists()).unwrap_or(container.attempt)
            }
            (true, Some(before)) => before,
            (true, None) => {
                let message = format!("previous terminated container {name:?} in pod {pod:?} not found");
                return Err(StreamError::BadRequest(message));
            }
        };
        if !container.began && !path(attempt).exists() {
            let why = match container.waits.as_str() {
                "ErrImagePull" => "image can't be pulled",
                other => other,
            };
            let message = format!("container {name:?} in pod {pod:?} is waiting to start: {why}");
            return Err(StreamError::BadRequest(message));
        }
        let live = options.follow && !options.previous;
        let reader = Reader {
            path: path(attempt),
            follows: live.then_some((handle, name, attempt)),
            options,
            open: [false; 2],
            left: u64::MAX,
        };
        let (sender, receiver) = mpsc::channel(16);
        // A follower may wait for long: not on the threads others need.
        std::thread::Builder::new()
            .name("logs".to_owned())
            .stack_size(256 << 10)
            .spawn(move || reader.run(&sender))
            .map_err(StreamError::failed)?;
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        });
        Ok(Box::pin(stream))
    }
}

struct Reader {
    path: PathBuf,
    options: LogOptions,
    /// The run whose end ends the log.
    follows: Option<(Arc<PodHandle>, String, u32)>,
    /// Whether a line of a stream goes on.
    open: [bool; 2],
    left: u64,
}

type Sender = mpsc::Sender<io::Result<Bytes>>;

/// Bytes sent at once.
const CHUNK: usize = 32 << 10;
/// The longest entry that is read: the shim cuts lines far below.
const MAX_ENTRY: u64 = 1 << 20;
/// How often a follower looks whether the container still runs, in nanoseconds.
const LOOK: i64 = 200_000_000;

impl Reader {
    fn run(mut self, sender: &Sender) {
        self.left = self.options.limit_bytes.unwrap_or(u64::MAX);
        if let Err(error) = self.send_all(sender) {
            // Nobody may listen any more.
            let _ = sender.blocking_send(Err(error));
        }
    }

    fn send_all(&mut self, sender: &Sender) -> io::Result<()> {
        // Watched before it is read, so that nothing is missed in between.
        let watch = match (&self.follows, self.path.parent()) {
            (Some(_), Some(folder)) => {
                let watch = inotify::init(inotify::CreateFlags::CLOEXEC | inotify::CreateFlags::NONBLOCK)?;
                let wanted =
                    inotify::WatchFlags::MODIFY | inotify::WatchFlags::CREATE | inotify::WatchFlags::MOVED_TO;
                inotify::add_watch(&watch, folder, wanted)?;
                Some(watch)
            }
            _ => None,
        };
        let mut files = log_files(&self.path);
        let newest = files.pop();
        let mut skip = self.lines_to_skip(&files, newest.as_deref())?;
        let mut chunk = Vec::new();
        for file in &files {
            let mut file = BufReader::new(File::open(file)?);
            if !self.pass_on(&mut file, &mut chunk, &mut skip, sender)? {
                return Ok(());
            }
        }
        let Some(newest) = newest else { return Ok(()) };
        let mut file = BufReader::new(File::open(&newest)?);
        if !self.pass_on(&mut file, &mut chunk, &mut skip, sender)? {
            return Ok(());
        }
        let Some(watch) = watch else { return Ok(()) };
        loop {
            let alive = self.is_alive();
            if sender.is_closed() || !self.pass_on(&mut file, &mut chunk, &mut skip, sender)? {
                return Ok(());
            }
            if let Some(next) = rotated(&newest, file.get_ref())? {
                self.pass_on(&mut file, &mut chunk, &mut skip, sender)?;
                file = BufReader::new(next);
                continue;
            }
            // What was written before its end has been read above.
            if !alive {
                return Ok(());
            }
            let pause = Timespec { tv_sec: 0, tv_nsec: LOOK };
            let _ = poll(&mut [PollFd::new(&watch, PollFlags::IN)], Some(&pause));
            let mut events = [0; 4096];
            while rustix::io::read(&watch, &mut events).is_ok_and(|n| n > 0) {}
        }
    }

    fn is_alive(&self) -> bool {
        self.follows.as_ref().is_some_and(|(handle, name, attempt)| {
            let view = handle.view();
            let found = view.containers.iter().find(|container| container.name == *name);
            found.is_some_and(|container| container.attempt == *attempt && container.running)
                && !handle.sender.is_closed()
        })
    }

    /// How many lines come before the last ones that are wanted.
    fn lines_to_skip(&self, older: &[PathBuf], newest: Option<&Path>) -> io::Result<u64> {
        let Some(wanted) = self.options.tail_lines else { return Ok(0) };
        let mut all = 0u64;
        for path in older.iter().map(PathBuf::as_path).chain(newest) {
            let mut file = BufReader::new(File::open(path)?);
            let mut entry = Vec::new();
            while read_entry(&mut file, &mut entry)? {
                all += u64::from(self.wants(&entry).is_some_and(|line| line.complete));
                entry.clear();
            }
        }
        Ok(all.saturating_sub(wanted as u64))
    }

    fn wants<'a>(&self, entry: &'a [u8]) -> Option<LogLine<'a>> {
        LogLine::parse(entry).filter(|line| self.options.since.is_none_or(|since| line.time >= since))
    }

    /// Sends what the file has. False when no more is wanted.
    fn pass_on(
        &mut self,
        file: &mut BufReader<File>,
        chunk: &mut Vec<u8>,
        skip: &mut u64,
        sender: &Sender,
    ) -> io::Result<bool> {
        let mut entry = Vec::new();
        loop {
            let whole = read_entry(file, &mut entry)?;
            if !whole {
                // The rest of a half-written entry is read with its beginning next time.
                file.seek_relative(-(entry.len() as i64))?;
            } else if *skip > 0 {
                *skip -= u64::from(self.wants(&entry).is_some_and(|line| line.complete));
            } else {
                self.add(&entry, chunk);
            }
            entry.clear();
            if (chunk.len() >= CHUNK || !whole) && !chunk.is_empty() {
                chunk.truncate(usize::try_from(self.left).unwrap_or(usize::MAX));
                self.left -= chunk.len() as u64;
                if sender.blocking_send(Ok(Bytes::from(std::mem::take(chunk)))).is_err() || self.left == 0 {
                    return Ok(false);
                }
            }
            if !whole {
                return Ok(true);
            }
        }
    }

    fn add(&mut self, entry: &[u8], chunk: &mut Vec<u8>) {
        let Some(line) = self.wants(entry) else { return };
        let open = self.open.get_mut(line.stream as usize);
        let goes_on = open.map(|open| std::mem::replace(open, !line.complete)).unwrap_or(false);
        if self.options.timestamps && !goes_on {
            chunk.extend_from_slice(line.time.to_nano().as_bytes());
            chunk.push(b' ');
        }
        chunk.extend_from_slice(line.text);
        if line.complete {
            chunk.push(b'\n');
        }
    }
}

/// Reads one entry with its line end. False when there is no whole one.
fn read_entry(file: &mut BufReader<File>, entry: &mut Vec<u8>) -> io::Result<bool> {
    Read::by_ref(file).take(MAX_ENTRY).read_until(b'\n', entry)?;
    Ok(entry.last() == Some(&b'\n'))
}

/// The file that has taken the place of the one being read.
fn rotated(path: &Path, open: &File) -> io::Result<Option<File>> {
    let now = match File::open(path) {
        Err(error) if error.kind() == io::ErrorKind::NotFound => return Ok(None),
        other => other?,
    };
    let (a, b) = (now.metadata()?, open.metadata()?);
    Ok(((a.dev(), a.ino()) != (b.dev(), b.ino())).then_some(now))
}

#[cfg(test)]
mod tests {
    use futures_util::StreamExt as _;

    use super::*;

    fn check(options: LogOptions, expected: &str) {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("0.log");
        let old = "2026-01-01T00:00:00.000000000Z stdout F one\n2026-01-01T00:00:01.000000000Z stdout P tw\n";
        let new = "2026-01-01T00:00:02.000000000Z stdout F o\n2026-01-01T00:00:03.000000000Z stderr F three\n2026-01-01T00:00:04.000000000Z std";
        std::fs::write(folder.path().join("0.log.1"), old).unwrap();
        std::fs::write(&path, new).unwrap();
        let reader = Reader { path, options, follows: None, open: [false; 2], left: 0 };
        let (sender, receiver) = mpsc::channel(16);
        reader.run(&sender);
        drop(sender);
        let stream = futures_util::stream::unfold(receiver, |mut receiver| async move {
            receiver.recv().await.map(|chunk| (chunk, receiver))
        });
        let runtime = tokio::runtime::Builder::new_current_thread().build().unwrap();
        let chunks: Vec<_> = runtime.block_on(stream.collect());
        let bytes: Vec<u8> = chunks.into_iter().flat_map(|chunk: io::Result<Bytes>| chunk.unwrap()).collect();
        assert_eq!(String::from_utf8(bytes).unwrap(), expected);
    }

    #[test]
    fn logs_by_option() {
        let plain = LogOptions::default;
        check(plain(), "one\ntwo\nthree\n");
        check(LogOptions { tail_lines: Some(1), ..plain() }, "three\n");
        check(LogOptions { tail_lines: Some(2), ..plain() }, "two\nthree\n");
        check(LogOptions { tail_lines: Some(0), ..plain() }, "");
        check(LogOptions { limit_bytes: Some(6), ..plain() }, "one\ntw");
        check(LogOptions { since: Some("2026-01-01T00:00:03Z".parse().unwrap()), ..plain() }, "three\n");
        let timed = "2026-01-01T00:00:01.000000000Z two\n2026-01-01T00:00:03.000000000Z three\n";
        check(LogOptions { timestamps: true, tail_lines: Some(2), ..plain() }, timed);
    }
}
