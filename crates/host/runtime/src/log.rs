//! Container logs in the CRI format: `2006-01-02T15:04:05.000000000Z stdout F text`, with `P` for a piece of a line that goes on.

use std::{
    fs::{self, File},
    io::{self, Write},
    path::{Path, PathBuf},
    str::FromStr,
};

use serde::{Deserialize, Serialize};
use wharf_base::{Clock, SystemClock, Timestamp};

use crate::config::LogConfig;

/// Which of its two outputs a program wrote to.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Stream {
    /// Standard output.
    Stdout,
    /// Standard error.
    Stderr,
}

impl Stream {
    fn word(self) -> &'static str {
        match self {
            Self::Stdout => "stdout",
            Self::Stderr => "stderr",
        }
    }
}

/// Longer lines are cut into pieces of this, as the kubelet expects.
const MAX_LINE: usize = 16 << 10;

/// Writes a log and begins a new file when one is full.
pub(crate) struct LogWriter {
    config: LogConfig,
    file: File,
    size: u64,
    /// What each stream has written since its last line end.
    open: [Vec<u8>; 2],
    buffer: Vec<u8>,
}

impl LogWriter {
    pub(crate) fn open(config: LogConfig) -> io::Result<Self> {
        if let Some(parent) = config.path.parent() {
            fs::create_dir_all(parent)?;
        }
        let file = append_to(&config.path)?;
        let size = file.metadata()?.len();
        Ok(Self { config, file, size, open: [Vec::new(), Vec::new()], buffer: Vec::new() })
    }

    /// Adds what a stream wrote. Whole lines go to the file at once.
    pub(crate) fn write(&mut self, stream: Stream, mut bytes: &[u8]) -> io::Result<()> {
        let now = SystemClock.now().to_nano();
        while !bytes.is_empty() {
            let open = &mut self.open[stream as usize];
            let room = MAX_LINE - open.len();
            let window = &bytes[..bytes.len().min(room)];
            match window.iter().position(|byte| *byte == b'\n') {
                Some(end) => {
                    entry(&mut self.buffer, &now, stream, b'F', &[open, &window[..end]]);
                    open.clear();
                    bytes = &bytes[end + 1..];
                }
                None if window.len() == room => {
                    entry(&mut self.buffer, &now, stream, b'P', &[open, window]);
                    open.clear();
                    bytes = &bytes[room..];
                }
                None => {
                    open.extend_from_slice(window);
                    bytes = &[];
                }
            }
        }
        self.put()
    }

    /// Writes what has no line end. The stream is over.
    pub(crate) fn end(&mut self, stream: Stream) -> io::Result<()> {
        let rest = std::mem::take(&mut self.open[stream as usize]);
        if rest.is_empty() {
            return Ok(());
        }
        entry(&mut self.buffer, &SystemClock.now().to_nano(), stream, b'P', &[&rest]);
        self.put()
    }

    fn put(&mut self) -> io::Result<()> {
        if self.buffer.is_empty() {
            return Ok(());
        }
        if self.size > 0 && self.size + self.buffer.len() as u64 > self.config.max_bytes {
            self.rotate()?;
        }
        let written = self.file.write_all(&self.buffer);
        self.size += self.buffer.len() as u64;
        // What does not fit on a full disk is lost: the program must not stand still for it.
        self.buffer.clear();
        written
    }

    fn rotate(&mut self) -> io::Result<()> {
        let old = |index: u32| PathBuf::from(format!("{}.{index}", self.config.path.display()));
        let kept = self.config.max_files.max(1) - 1;
        for index in (1..kept).rev() {
            ignore_missing(fs::rename(old(index), old(index + 1)))?;
        }
        if kept > 0 {
            ignore_missing(fs::rename(&self.config.path, old(1)))?;
        } else {
            ignore_missing(fs::remove_file(&self.config.path))?;
        }
        self.file = append_to(&self.config.path)?;
        self.size = 0;
        Ok(())
    }
}

fn append_to(path: &Path) -> io::Result<File> {
    fs::OpenOptions::new().append(true).create(true).open(path)
}

fn ignore_missing(result: io::Result<()>) -> io::Result<()> {
    match result {
        Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(()),
        other => other,
    }
}

fn entry(buffer: &mut Vec<u8>, time: &str, stream: Stream, tag: u8, parts: &[&[u8]]) {
    buffer.extend_from_slice(time.as_bytes());
    buffer.push(b' ');
    buffer.extend_from_slice(stream.word().as_bytes());
    buffer.extend_from_slice(&[b' ', tag, b' ']);
    parts.iter().for_each(|part| buffer.extend_from_slice(part));
    buffer.push(b'\n');
}

/// One entry of a log.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct LogLine<'a> {
    /// When it was written.
    pub time: Timestamp,
    /// To which output.
    pub stream: Stream,
    /// Whether the line ends here; otherwise the next entry of the stream goes on with it.
    pub complete: bool,
    /// The text, without the line end.
    pub text: &'a [u8],
}

impl<'a> LogLine<'a> {
    /// Reads one entry, with or without its line end. Nothing when it is not one.
    pub fn parse(line: &'a [u8]) -> Option<Self> {
        let line = line.strip_suffix(b"\n").unwrap_or(line);
        let mut parts = line.splitn(4, |byte| *byte == b' ');
        let time = Timestamp::from_str(std::str::from_utf8(parts.next()?).ok()?).ok()?;
        let stream = match parts.next()? {
            b"stdout" => Stream::Stdout,
            b"stderr" => Stream::Stderr,
            _ => return None,
        };
        let complete = match parts.next()?.split(|byte| *byte == b':').next()? {
            b"F" => true,
            b"P" => false,
            _ => return None,
        };
        Some(Self { time, stream, complete, text: parts.next().unwrap_or_default() })
    }
}

/// The files of a log that exist, the oldest first.
pub fn log_files(path: &Path) -> Vec<PathBuf> {
    let old = (1u32..)
        .map(|index| PathBuf::from(format!("{}.{index}", path.display())))
        .take_while(|old| old.exists());
    let mut files: Vec<PathBuf> = old.collect();
    files.reverse();
    files.extend(path.exists().then(|| path.to_owned()));
    files
}

#[cfg(test)]
mod tests {
    use super::*;

    fn writer(folder: &Path, max_bytes: u64) -> LogWriter {
        LogWriter::open(LogConfig { path: folder.join("log"), max_bytes, max_files: 3 }).unwrap()
    }

    #[test]
    fn cuts_lines_and_keeps_pieces_together() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 1 << 30);
        log.write(Stream::Stdout, b"one\ntw").unwrap();
        log.write(Stream::Stderr, b"other\n").unwrap();
        log.write(Stream::Stdout, b"o\n\n").unwrap();
        log.write(Stream::Stdout, &[b'x'; MAX_LINE + 3]).unwrap();
        log.end(Stream::Stdout).unwrap();
        let text = fs::read(folder.path().join("log")).unwrap();
        let lines: Vec<LogLine<'_>> =
            text.split_inclusive(|byte| *byte == b'\n').map(|line| LogLine::parse(line).unwrap()).collect();
        let seen: Vec<_> = lines.iter().map(|line| (line.stream, line.complete, line.text.len())).collect();
        let expected = [
            (Stream::Stdout, true, 3),
            (Stream::Stderr, true, 5),
            (Stream::Stdout, true, 3),
            (Stream::Stdout, true, 0),
            (Stream::Stdout, false, MAX_LINE),
            (Stream::Stdout, false, 3),
        ];
        assert_eq!(seen, expected);
    }

    #[test]
    fn begins_new_files_and_keeps_so_many() {
        let folder = tempfile::tempdir().unwrap();
        let mut log = writer(folder.path(), 200);
        for round in 0..20 {
            log.write(Stream::Stdout, format!("{round} {}\n", "x".repeat(60)).as_bytes()).unwrap();
        }
        let files = log_files(&folder.path().join("log"));
        assert_eq!(files.len(), 3);
        assert!(files.iter().all(|file| fs::metadata(file).unwrap().len() <= 200));
        assert!(fs::read_to_string(&files[2]).unwrap().contains("19 xxx"));
    }
}
