//! An immutable file of samples of a time range, with its own index, read by position.
//!
//! Layout: columns, then pages of series, symbols and postings (each compressed and checksummed), then a footer that
//! says where they are. A file gets its final name only when it is whole and on disk.

use std::collections::{BTreeMap, HashMap};
use std::fs::{self, File};
use std::io::{self, Write};
use std::os::unix::fs::FileExt;
use std::path::{Path, PathBuf};
use std::sync::{Arc, OnceLock};

use super::MetricsError;
use super::chunk::{self, Effort, Point, put_text, put_varint, take_text, take_varint, unzigzag, zigzag};
use super::head::{intersect, union};
use super::labels::{Labels, Str};
use super::matcher::Matcher;
use super::wal::sync_dir;

const MAGIC: &[u8; 8] = b"WHARFMB1";
const TRAILER: u64 = 24;
const PAGE: usize = 256;
/// More samples than this in one chunk make reading a little range dear.
const CHUNK: usize = 1000;
const SECTION_LIMIT: u64 = 1 << 30;

/// Where compressed bytes are.
#[derive(Clone, Copy, Default)]
struct Place {
    at: u64,
    len: u64,
}

impl Place {
    fn put(self, out: &mut Vec<u8>) {
        put_varint(out, self.at);
        put_varint(out, self.len);
    }

    fn take(bytes: &mut &[u8]) -> Result<Self, chunk::DamagedColumn> {
        Ok(Self { at: take_varint(bytes)?, len: take_varint(bytes)? })
    }
}

/// One chunk of one series in a block.
#[derive(Clone, Copy)]
pub(crate) struct ChunkPlace {
    from: i64,
    to: i64,
    times: Place,
    values: Place,
    checksum: u32,
}

pub(crate) struct Block {
    pub(crate) path: PathBuf,
    pub(crate) from: i64,
    /// First millisecond that is not in the block any more.
    pub(crate) to: i64,
    pub(crate) samples: u64,
    pub(crate) bytes: u64,
    file: File,
    pages: Vec<Place>,
    symbols_at: Place,
    names: BTreeMap<String, Place>,
    symbols: OnceLock<Vec<Str>>,
    series: u32,
}

impl Block {
    pub(crate) fn open(path: &Path) -> Result<Self, MetricsError> {
        let io = |source| MetricsError::io("open", path, source);
        let file = File::open(path).map_err(io)?;
        let bytes = file.metadata().map_err(io)?.len();
        let bad = |what: &str| MetricsError::damaged(path, what);
        if bytes < TRAILER + 8 {
            return Err(bad("it is too short"));
        }
        let mut trailer = [0; TRAILER as usize];
        file.read_exact_at(&mut trailer, bytes - TRAILER).map_err(io)?;
        if &trailer[16..] != MAGIC {
            return Err(bad("its end is missing"));
        }
        let number = |range: std::ops::Range<usize>| {
            trailer.get(range).map_or(0, |b| b.iter().rev().fold(0u64, |n, byte| n << 8 | u64::from(*byte)))
        };
        let footer = section(&file, path, Place { at: number(0..8), len: number(8..16) })?;
        Self::parse(path, file, bytes, &footer).map_err(|e| bad(&e.to_string()))
    }

    fn parse(path: &Path, file: File, bytes: u64, mut footer: &[u8]) -> Result<Self, chunk::DamagedColumn> {
        let rest = &mut footer;
        let from = unzigzag(take_varint(rest)?);
        let to = unzigzag(take_varint(rest)?);
        let samples = take_varint(rest)?;
        let series = take_varint(rest)? as u32;
        let symbols_at = Place::take(rest)?;
        let pages = (0..take_varint(rest)?).map(|_| Place::take(rest)).collect::<Result<_, _>>()?;
        let mut names = BTreeMap::new();
        for _ in 0..take_varint(rest)? {
            let name = take_text(rest)?.to_string();
            names.insert(name, Place::take(rest)?);
        }
        let symbols = OnceLock::new();
        Ok(Self {
            path: path.into(),
            from,
            to,
            samples,
            bytes,
            file,
            pages,
            symbols_at,
            names,
            symbols,
            series,
        })
    }

    fn section(&self, place: Place) -> Result<Vec<u8>, MetricsError> {
        section(&self.file, &self.path, place)
    }

    fn bad(&self, what: impl ToString) -> MetricsError {
        MetricsError::damaged(&self.path, &what.to_string())
    }

    fn symbols(&self) -> Result<&[Str], MetricsError> {
        if let Some(known) = self.symbols.get() {
            return Ok(known);
        }
        let bytes = self.section(self.symbols_at)?;
        let (mut rest, mut list) = (&bytes[..], Vec::new());
        while !rest.is_empty() {
            list.push(Str::from(take_text(&mut rest).map_err(|e| self.bad(e))?));
        }
        Ok(self.symbols.get_or_init(|| list))
    }

    fn symbol(&self, number: u64) -> Result<&Str, MetricsError> {
        self.symbols()?.get(number as usize).ok_or_else(|| self.bad("a symbol is missing"))
    }

    /// Values of a label and the series that have them.
    fn postings(&self, name: &str) -> Result<Vec<(Str, Vec<u32>)>, MetricsError> {
        let Some(place) = self.names.get(name) else { return Ok(Vec::new()) };
        let bytes = self.section(*place)?;
        let (mut rest, mut out) = (&bytes[..], Vec::new());
        let number = |rest: &mut &[u8]| take_varint(rest).map_err(|e| self.bad(e));
        while !rest.is_empty() {
            let value = self.symbol(number(&mut rest)?)?.clone();
            let count = number(&mut rest)?;
            let (mut ids, mut id) = (Vec::new(), 0);
            for _ in 0..count {
                id += number(&mut rest)? as u32;
                ids.push(id);
            }
            out.push((value, ids));
        }
        Ok(out)
    }

    pub(crate) fn label_names(&self) -> impl Iterator<Item = &str> {
        self.names.keys().map(String::as_str)
    }

    pub(crate) fn label_values(&self, name: &str) -> Result<Vec<Str>, MetricsError> {
        Ok(self.postings(name)?.into_iter().map(|(value, _)| value).collect())
    }

    /// The series that pass all matchers, with their chunks in the range.
    pub(crate) fn select(
        &self,
        matchers: &[Matcher],
        from: i64,
        to: i64,
    ) -> Result<Vec<(Labels, Vec<ChunkPlace>)>, MetricsError> {
        let mut found: Option<Vec<u32>> = None;
        let mut late = Vec::new();
        for matcher in matchers {
            if matcher.matches("") {
                late.push(matcher);
                continue;
            }
            let postings = self.postings(&matcher.name)?;
            let ids = union(postings.iter().filter(|(value, _)| matcher.matches(value)).map(|(_, ids)| ids));
            found = Some(match found {
                None => ids,
                Some(known) => intersect(&known, &ids),
            });
        }
        let ids = found.unwrap_or_else(|| (0..self.series).collect());
        let mut out = Vec::with_capacity(ids.len());
        for group in ids.chunk_by(|a, b| *a as usize / PAGE == *b as usize / PAGE) {
            let page = group.first().map_or(0, |id| *id as usize / PAGE);
            for (labels, chunks) in
                self.page(page, |at| group.binary_search(&((page * PAGE + at) as u32)).is_ok())?
            {
                if late.iter().all(|m| m.accepts(&labels)) {
                    let chunks: Vec<_> =
                        chunks.into_iter().filter(|c| c.from <= to && c.to >= from).collect();
                    if !chunks.is_empty() {
                        out.push((labels, chunks));
                    }
                }
            }
        }
        Ok(out)
    }

    fn page(
        &self,
        page: usize,
        keep: impl Fn(usize) -> bool,
    ) -> Result<Vec<(Labels, Vec<ChunkPlace>)>, MetricsError> {
        let place = *self.pages.get(page).ok_or_else(|| self.bad("a page is missing"))?;
        let bytes = self.section(place)?;
        let (mut rest, mut out, mut at) = (&bytes[..], Vec::new(), 0);
        let number = |rest: &mut &[u8]| take_varint(rest).map_err(|e| self.bad(e));
        while !rest.is_empty() {
            let kept = keep(at);
            at += 1;
            let mut pairs = Vec::new();
            for _ in 0..number(&mut rest)? {
                let (name, value) = (number(&mut rest)?, number(&mut rest)?);
                if kept {
                    pairs.push((self.symbol(name)?.clone(), self.symbol(value)?.clone()));
                }
            }
            let mut chunks = Vec::new();
            for _ in 0..number(&mut rest)? {
                let from = self.from + number(&mut rest)? as i64;
                let to = from + number(&mut rest)? as i64;
                let times = Place::take(&mut rest).map_err(|e| self.bad(e))?;
                let values = Place::take(&mut rest).map_err(|e| self.bad(e))?;
                let checksum = number(&mut rest)? as u32;
                chunks.push(ChunkPlace { from, to, times, values, checksum });
            }
            if kept {
                out.push((Labels::new(pairs), chunks));
            }
        }
        Ok(out)
    }

    /// Every series, page by page, in order of labels.
    fn each(&self) -> impl Iterator<Item = Result<(Labels, Vec<ChunkPlace>), MetricsError>> + '_ {
        (0..self.pages.len()).flat_map(|page| match self.page(page, |_| true) {
            Ok(series) => series.into_iter().map(Ok).collect(),
            Err(error) => vec![Err(error)],
        })
    }

    /// Appends the samples of a chunk within both ends.
    pub(crate) fn read(
        &self,
        place: &ChunkPlace,
        from: i64,
        to: i64,
        out: &mut Vec<Point>,
    ) -> Result<(), MetricsError> {
        let fetch = |place: Place| {
            if place.len > SECTION_LIMIT {
                return Err(self.bad("a column's length"));
            }
            let mut bytes = vec![0; place.len as usize];
            self.file
                .read_exact_at(&mut bytes, place.at)
                .map_err(|source| MetricsError::io("read", &self.path, source))?;
            Ok(bytes)
        };
        let (times, values) = (fetch(place.times)?, fetch(place.values)?);
        if checksum(&times, &values) != place.checksum {
            return Err(self.bad(format!("a column's checksum at byte {}", place.values.at)));
        }
        let (mut t, mut v) = (Vec::new(), Vec::new());
        chunk::decode_times(&times, &mut t).map_err(|e| self.bad(e))?;
        chunk::decode_values(&values, &mut v).map_err(|e| self.bad(e))?;
        let points = t.iter().zip(&v).map(|(&t, &v)| Point { t, v });
        out.extend(points.filter(|p| (from..=to).contains(&p.t)));
        Ok(())
    }
}

fn checksum(times: &[u8], values: &[u8]) -> u32 {
    let mut hasher = crc32fast::Hasher::new();
    hasher.update(times);
    hasher.update(values);
    hasher.finalize()
}

fn section(file: &File, path: &Path, place: Place) -> Result<Vec<u8>, MetricsError> {
    if place.len < 4 || place.len > SECTION_LIMIT {
        return Err(MetricsError::damaged(path, "a section's length"));
    }
    let mut bytes = vec![0; place.len as usize];
    file.read_exact_at(&mut bytes, place.at).map_err(|source| MetricsError::io("read", path, source))?;
    let (body, sum) = bytes.split_at(bytes.len() - 4);
    if crc32fast::hash(body).to_le_bytes() != sum {
        return Err(MetricsError::damaged(path, &format!("a section's checksum at byte {}", place.at)));
    }
    zstd::stream::decode_all(body).map_err(|e| MetricsError::damaged(path, &e.to_string()))
}

/// Writes a block series by series, in order of labels.
pub(crate) struct Writer {
    path: PathBuf,
    temporary: PathBuf,
    out: io::BufWriter<File>,
    at: u64,
    from: i64,
    to: i64,
    samples: u64,
    series: u32,
    page: Vec<u8>,
    pages: Vec<Place>,
    symbols: HashMap<Str, u32>,
    symbol_list: Vec<Str>,
    postings: BTreeMap<Str, BTreeMap<Str, Vec<u32>>>,
    /// Series of one target share their timestamps: an equal column is written once.
    times: HashMap<Vec<u8>, Place>,
}

impl Writer {
    pub(crate) fn create(path: &Path, from: i64, to: i64) -> Result<Self, MetricsError> {
        let temporary = path.with_extension("tmp");
        let io = |source| MetricsError::io("write", &temporary, source);
        let mut out = io::BufWriter::with_capacity(1 << 20, File::create(&temporary).map_err(io)?);
        out.write_all(MAGIC).map_err(io)?;
        Ok(Self {
            path: path.into(),
            out,
            at: MAGIC.len() as u64,
            from,
            to,
            samples: 0,
            series: 0,
            page: Vec::new(),
            pages: Vec::new(),
            symbols: HashMap::new(),
            symbol_list: Vec::new(),
            postings: BTreeMap::new(),
            times: HashMap::new(),
            temporary,
        })
    }

    fn put(&mut self, bytes: &[u8]) -> Result<Place, MetricsError> {
        let place = Place { at: self.at, len: bytes.len() as u64 };
        self.out.write_all(bytes).map_err(|source| MetricsError::io("write", &self.temporary, source))?;
        self.at += place.len;
        Ok(place)
    }

    fn put_section(&mut self, bytes: &[u8]) -> Result<Place, MetricsError> {
        let mut packed = zstd::stream::encode_all(bytes, 3)
            .map_err(|source| MetricsError::io("compress a part of", &self.temporary, source))?;
        packed.extend(crc32fast::hash(&packed).to_le_bytes());
        self.put(&packed)
    }

    fn symbol(&mut self, text: &Str) -> u32 {
        if let Some(known) = self.symbols.get(text) {
            return *known;
        }
        let number = self.symbol_list.len() as u32;
        self.symbol_list.push(text.clone());
        self.symbols.insert(text.clone(), number);
        number
    }

    /// Adds one series; its points are in order of time.
    pub(crate) fn add(&mut self, labels: &Labels, points: &[Point]) -> Result<(), MetricsError> {
        if points.is_empty() {
            return Ok(());
        }
        let mut entry = Vec::new();
        put_varint(&mut entry, labels.len() as u64);
        for (name, value) in labels.pairs() {
            let (n, v) = (self.symbol(name), self.symbol(value));
            put_varint(&mut entry, n.into());
            put_varint(&mut entry, v.into());
            let series = self.series;
            self.postings.entry(name.clone()).or_default().entry(value.clone()).or_default().push(series);
        }
        put_varint(&mut entry, points.chunks(CHUNK).len() as u64);
        for part in points.chunks(CHUNK) {
            self.add_chunk(part, &mut entry)?;
        }
        self.samples += points.len() as u64;
        self.series += 1;
        self.page.extend(entry);
        if (self.series as usize).is_multiple_of(PAGE) {
            self.finish_page()?;
        }
        Ok(())
    }

    fn add_chunk(&mut self, points: &[Point], entry: &mut Vec<u8>) -> Result<(), MetricsError> {
        let (Some(first), Some(last)) = (points.first(), points.last()) else { return Ok(()) };
        let times = chunk::encode_times(&points.iter().map(|p| p.t).collect::<Vec<_>>(), Effort::Thorough);
        let values = chunk::encode_values(&points.iter().map(|p| p.v).collect::<Vec<_>>(), Effort::Thorough);
        let sum = checksum(&times, &values);
        let times_at = match self.times.get(&times) {
            Some(known) => *known,
            None => {
                let place = self.put(&times)?;
                self.times.insert(times, place);
                place
            }
        };
        let values_at = self.put(&values)?;
        put_varint(entry, (first.t - self.from) as u64);
        put_varint(entry, (last.t - first.t) as u64);
        times_at.put(entry);
        values_at.put(entry);
        put_varint(entry, sum.into());
        Ok(())
    }

    fn finish_page(&mut self) -> Result<(), MetricsError> {
        let page = std::mem::take(&mut self.page);
        let place = self.put_section(&page)?;
        self.pages.push(place);
        Ok(())
    }

    /// Completes the file; without a sample there is none.
    pub(crate) fn finish(mut self) -> Result<Option<Block>, MetricsError> {
        if self.samples == 0 {
            let _ = fs::remove_file(&self.temporary);
            return Ok(None);
        }
        if !self.page.is_empty() {
            self.finish_page()?;
        }
        let names = self.put_postings()?;
        let mut symbols = Vec::new();
        self.symbol_list.iter().for_each(|text| put_text(&mut symbols, text));
        let symbols_at = self.put_section(&symbols)?;
        let mut footer = Vec::new();
        put_varint(&mut footer, zigzag(self.from));
        put_varint(&mut footer, zigzag(self.to));
        put_varint(&mut footer, self.samples);
        put_varint(&mut footer, self.series.into());
        symbols_at.put(&mut footer);
        put_varint(&mut footer, self.pages.len() as u64);
        self.pages.iter().for_each(|place| place.put(&mut footer));
        put_varint(&mut footer, names.len() as u64);
        for (name, place) in &names {
            put_text(&mut footer, name);
            place.put(&mut footer);
        }
        let place = self.put_section(&footer)?;
        let mut trailer = Vec::new();
        trailer.extend(place.at.to_le_bytes());
        trailer.extend(place.len.to_le_bytes());
        trailer.extend(MAGIC);
        self.put(&trailer)?;
        self.publish()
    }

    fn put_postings(&mut self) -> Result<Vec<(Str, Place)>, MetricsError> {
        let mut names = Vec::new();
        for (name, values) in std::mem::take(&mut self.postings) {
            let mut bytes = Vec::new();
            for (value, ids) in values {
                put_varint(&mut bytes, self.symbol(&value).into());
                put_varint(&mut bytes, ids.len() as u64);
                let mut before = 0;
                for id in ids {
                    put_varint(&mut bytes, (id - before).into());
                    before = id;
                }
            }
            let place = self.put_section(&bytes)?;
            names.push((name, place));
        }
        Ok(names)
    }

    fn publish(self) -> Result<Option<Block>, MetricsError> {
        let io = |source| MetricsError::io("write", &self.path, source);
        let file = self.out.into_inner().map_err(|e| io(e.into_error()))?;
        file.sync_all().map_err(io)?;
        fs::rename(&self.temporary, &self.path).map_err(io)?;
        if let Some(dir) = self.path.parent() {
            sync_dir(dir).map_err(io)?;
        }
        Block::open(&self.path).map(Some)
    }
}

/// Joins blocks, in order of time, into one.
pub(crate) fn merge(blocks: &[Arc<Block>], path: &Path) -> Result<Option<Block>, MetricsError> {
    let from = blocks.iter().map(|b| b.from).min().unwrap_or(0);
    let to = blocks.iter().map(|b| b.to).max().unwrap_or(0);
    let mut writer = Writer::create(path, from, to)?;
    let mut sources: Vec<_> = blocks.iter().map(|block| block.each().peekable()).collect();
    let mut points = Vec::new();
    loop {
        let mut next: Option<Labels> = None;
        for source in &mut sources {
            match source.peek() {
                Some(Ok((labels, _))) if next.as_ref().is_none_or(|known| labels < known) => {
                    next = Some(labels.clone())
                }
                Some(Err(_)) => {
                    if let Some(Err(error)) = source.next() {
                        return Err(error);
                    }
                }
                _ => {}
            }
        }
        let Some(labels) = next else { break };
        points.clear();
        for (source, block) in sources.iter_mut().zip(blocks) {
            if let Some(Ok((_, chunks))) = source.next_if(|s| matches!(s, Ok((other, _)) if *other == labels))
            {
                for place in &chunks {
                    block.read(place, i64::MIN, i64::MAX, &mut points)?;
                }
            }
        }
        writer.add(&labels, &points)?;
    }
    writer.finish()
}
