//! What a container said: read from its log files, across rotations, as long as somebody wants more.

use std::{
    collections::VecDeque,
    fs::File,
    io::{self, BufRead as _, BufReader},
    os::unix::fs::MetadataExt as _,
    path::{Path, PathBuf},
};

use wharf_base::Timestamp;
use wharf_runtime::{LogLine, Stream, log_files};

use crate::error::{IoContext as _, Result};

/// What of a log is wanted.
#[derive(Debug, Clone, Default)]
pub struct LogQuery {
    /// Said at this time or later.
    pub since: Option<Timestamp>,
    /// Said before this time.
    pub until: Option<Timestamp>,
    /// Only so many entries from the end of what is there at the beginning.
    pub tail: Option<usize>,
    /// Only entries with this text.
    pub grep: Option<String>,
}

/// Something a container said at once: a line, or a piece of one.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct LogEntry {
    /// When.
    pub time: Timestamp,
    /// Where to.
    pub stream: Stream,
    /// What; the line's end is part of it.
    pub text: Vec<u8>,
}

/// Reads a log.
pub struct LogReader {
    path: PathBuf,
    query: LogQuery,
    /// Files before the current one, the oldest first.
    older: VecDeque<PathBuf>,
    current: Option<Lines>,
    /// The end of what was there at the beginning, where only that is wanted.
    backlog: VecDeque<LogEntry>,
}

impl LogReader {
    /// Reads the log at `path`, which need not exist yet.
    ///
    /// # Errors
    /// When it cannot be read.
    pub fn open(path: &Path, query: LogQuery) -> Result<Self> {
        let older = log_files(path).into_iter().collect();
        let mut reader =
            Self { path: path.to_owned(), query, older, current: None, backlog: VecDeque::new() };
        if let Some(wanted) = reader.query.tail {
            while let Some(entry) = reader.read()? {
                reader.backlog.push_back(entry);
                if reader.backlog.len() > wanted {
                    reader.backlog.pop_front();
                }
            }
        }
        Ok(reader)
    }

    /// The next entry. Nothing at the end of what is there now; ask again for what is said later.
    ///
    /// # Errors
    /// When the log cannot be read.
    pub fn next_entry(&mut self) -> Result<Option<LogEntry>> {
        match self.backlog.pop_front() {
            Some(entry) => Ok(Some(entry)),
            None => self.read(),
        }
    }

    fn read(&mut self) -> Result<Option<LogEntry>> {
        loop {
            if let Some(lines) = &mut self.current {
                while let Some(line) = lines.next_line().at("read", &self.path)? {
                    if let Some(entry) = self.query.wanted(&line) {
                        return Ok(Some(entry));
                    }
                }
            }
            if !self.open_next()? {
                return Ok(None);
            }
        }
    }

    /// Goes on with the file after the current one, if there is one.
    fn open_next(&mut self) -> Result<bool> {
        if let Some(path) = self.older.pop_front() {
            self.current = Some(Lines::open(&path)?);
            return Ok(true);
        }
        let newest = std::fs::metadata(&self.path).ok().map(|found| found.ino());
        if newest.is_none() || newest == self.current.as_ref().map(|lines| lines.inode) {
            return Ok(false);
        }
        // What was written to the old one before the new one began has been read, unless it came just now.
        if let Some(lines) = &mut self.current
            && lines.has_more().at("read", &self.path)?
        {
            return Ok(true);
        }
        self.current = Some(Lines::open(&self.path)?);
        Ok(true)
    }
}

impl LogQuery {
    fn wanted(&self, line: &[u8]) -> Option<LogEntry> {
        let entry = LogLine::parse(line)?;
        let fits = self.since.is_none_or(|since| entry.time >= since)
            && self.until.is_none_or(|until| entry.time < until)
            && self.grep.as_ref().is_none_or(|wanted| contains(entry.text, wanted.as_bytes()));
        fits.then(|| {
            let mut text = entry.text.to_vec();
            text.extend(entry.complete.then_some(b'\n'));
            LogEntry { time: entry.time, stream: entry.stream, text }
        })
    }
}

fn contains(text: &[u8], wanted: &[u8]) -> bool {
    wanted.is_empty() || text.windows(wanted.len()).any(|part| part == wanted)
}

/// Whole lines of a file that may grow.
struct Lines {
    file: BufReader<File>,
    inode: u64,
    open: Vec<u8>,
}

impl Lines {
    fn open(path: &Path) -> Result<Self> {
        let file = File::open(path).at("read", path)?;
        let inode = file.metadata().at("read", path)?.ino();
        Ok(Self { inode, file: BufReader::new(file), open: Vec::new() })
    }

    fn next_line(&mut self) -> io::Result<Option<Vec<u8>>> {
        self.file.read_until(b'\n', &mut self.open)?;
        Ok(self.open.ends_with(b"\n").then(|| std::mem::take(&mut self.open)))
    }

    fn has_more(&mut self) -> io::Result<bool> {
        Ok(!self.file.fill_buf()?.is_empty())
    }
}

#[cfg(test)]
mod tests {
    use std::io::Write as _;

    use super::*;

    fn texts(reader: &mut LogReader) -> Vec<String> {
        let mut texts = Vec::new();
        while let Some(entry) = reader.next_entry().unwrap() {
            texts.push(String::from_utf8(entry.text).unwrap());
        }
        texts
    }

    #[test]
    fn logs_are_read_across_rotations_and_as_they_grow() {
        let folder = tempfile::tempdir().unwrap();
        let path = folder.path().join("log");
        let line =
            |second: u32, text: &str| format!("2026-01-01T00:00:0{second}.000000000Z stdout F {text}\n");
        std::fs::write(folder.path().join("log.1"), line(1, "one")).unwrap();
        std::fs::write(&path, line(2, "two")).unwrap();
        let mut all = LogReader::open(&path, LogQuery::default()).unwrap();
        assert_eq!(texts(&mut all), ["one\n", "two\n"]);
        let mut file = File::options().append(true).open(&path).unwrap();
        file.write_all(line(3, "three").as_bytes()).unwrap();
        assert_eq!(texts(&mut all), ["three\n"]);
        file.write_all(line(4, "four").as_bytes()).unwrap();
        std::fs::rename(&path, folder.path().join("log.1")).unwrap();
        std::fs::write(&path, line(5, "five")).unwrap();
        assert_eq!(texts(&mut all), ["four\n", "five\n"]);
        let tail = LogQuery { tail: Some(1), ..LogQuery::default() };
        assert_eq!(texts(&mut LogReader::open(&path, tail).unwrap()), ["five\n"]);
        let late = LogQuery { since: "2026-01-01T00:00:05Z".parse().ok(), ..LogQuery::default() };
        assert_eq!(texts(&mut LogReader::open(&path, late).unwrap()), ["five\n"]);
        let none = LogQuery { tail: Some(0), ..LogQuery::default() };
        assert_eq!(texts(&mut LogReader::open(&path, none).unwrap()), [""; 0]);
    }
}
