//! Reads a tar stream entry by entry, with a bound on everything a hostile stream could make large.
//!
//! The `tar` crate reads the 512-byte header; long names, pax records and the walk from entry to entry
//! are done here, because a crafted extension header must not be read into memory without a limit.

use std::io::{self, Read};

use tar::{EntryType, Header};

use crate::error::{Error, Result, is_full};

const BLOCK: u64 = 512;
const MAX_EXTENSION: u64 = 1 << 20;
const MAX_PATH: usize = 4095;
const XATTR_PREFIX: &str = "SCHILY.xattr.";

/// What an entry is.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum TarKind {
    /// A regular file.
    File,
    /// A folder.
    Dir,
    /// A symbolic link to [`TarEntry::link`].
    Symlink,
    /// Another name of the entry [`TarEntry::link`].
    HardLink,
    /// A character device.
    CharDevice,
    /// A block device.
    BlockDevice,
    /// A named pipe.
    Fifo,
}

/// One entry of a tar stream.
#[derive(Debug, Clone, PartialEq)]
pub struct TarEntry {
    /// Its path as written in the stream.
    pub path: Vec<u8>,
    /// Target of a symbolic or hard link.
    pub link: Vec<u8>,
    /// What it is.
    pub kind: TarKind,
    /// Permission bits with set-uid, set-gid and sticky.
    pub mode: u32,
    /// Owner.
    pub uid: u32,
    /// Group.
    pub gid: u32,
    /// Modification time: seconds and nanoseconds since the epoch.
    pub mtime: (i64, u32),
    /// Bytes of content.
    pub size: u64,
    /// Device number.
    pub device: (u32, u32),
    /// Extended attributes.
    pub xattrs: Vec<(String, Vec<u8>)>,
}

impl TarEntry {
    /// An entry without content.
    pub fn new(path: impl Into<Vec<u8>>, kind: TarKind, mode: u32) -> Self {
        Self {
            path: path.into(),
            link: Vec::new(),
            kind,
            mode,
            uid: 0,
            gid: 0,
            mtime: (0, 0),
            size: 0,
            device: (0, 0),
            xattrs: Vec::new(),
        }
    }

    /// The path for messages.
    pub fn name(&self) -> String {
        String::from_utf8_lossy(&self.path).chars().take(200).collect()
    }

    /// What the system refused; `what` ends the sentence "the entry …". A full disk is no fault of the entry.
    pub(crate) fn refused(&self, what: impl std::fmt::Display, error: impl Into<io::Error>) -> Error {
        let source = error.into();
        match is_full(&source) {
            true => Error::Io { action: "write", path: self.name().into(), source },
            false => self.error(format!("{what}: {source}")),
        }
    }

    pub(crate) fn error(&self, problem: impl Into<String>) -> Error {
        Error::Entry { entry: self.name(), problem: problem.into() }
    }
}

/// Reads a tar stream. After [`TarReader::next_entry`], reading yields that entry's content.
pub struct TarReader<R> {
    inner: R,
    content: u64,
    padding: u64,
}

impl<R: Read> TarReader<R> {
    /// A reader at the start of a stream.
    pub fn new(inner: R) -> Self {
        Self { inner, content: 0, padding: 0 }
    }

    /// The stream behind this reader.
    pub fn into_inner(self) -> R {
        self.inner
    }

    /// The next entry, or `None` at the end of the archive.
    pub fn next_entry(&mut self) -> Result<Option<TarEntry>> {
        let mut extra = Extensions::default();
        loop {
            self.skip_content()?;
            let Some(header) = self.header()? else {
                return if extra.any {
                    Err(Error::Layer("ends after an extension header".into()))
                } else {
                    Ok(None)
                };
            };
            let size = header.entry_size().map_err(broken)?;
            match header.entry_type() {
                EntryType::GNULongName => extra.path = Some(trimmed(self.extension(size)?)),
                EntryType::GNULongLink => extra.link = Some(trimmed(self.extension(size)?)),
                EntryType::XHeader => {
                    let records = self.extension(size)?;
                    extra.add_pax(&records)?;
                }
                EntryType::XGlobalHeader => {
                    self.extension(size)?;
                    continue;
                }
                kind => return self.entry(&header, kind, extra).map(Some),
            }
            extra.any = true;
        }
    }

    fn header(&mut self) -> Result<Option<Header>> {
        let mut header = Header::new_old();
        if !self.block(header.as_mut_bytes())? {
            return Ok(None);
        }
        // Two blocks of zeros end an archive; one alone is taken as the end too, as tar itself does.
        if header.as_bytes().iter().all(|b| *b == 0) {
            return Ok(None);
        }
        let bytes = header.as_bytes();
        let sum = bytes[..148].iter().chain(&bytes[156..]).map(|b| u32::from(*b)).sum::<u32>() + 8 * 32;
        if header.cksum().ok() != Some(sum) {
            return Err(Error::Layer("has a tar header with a wrong checksum".into()));
        }
        Ok(Some(header))
    }

    /// Fills a block; false at a clean end of the stream.
    fn block(&mut self, block: &mut [u8; 512]) -> Result<bool> {
        let mut filled = 0;
        while filled < block.len() {
            match self.inner.read(&mut block[filled..]) {
                Ok(0) if filled == 0 => return Ok(false),
                Ok(0) => return Err(Error::Layer("ends in the middle of a tar header".into())),
                Ok(n) => filled += n,
                Err(e) if e.kind() == io::ErrorKind::Interrupted => {}
                Err(e) => return Err(broken(e)),
            }
        }
        Ok(true)
    }

    fn extension(&mut self, size: u64) -> Result<Vec<u8>> {
        if size > MAX_EXTENSION {
            return Err(Error::Layer(format!(
                "has an extension header of {size} bytes, more than {MAX_EXTENSION}"
            )));
        }
        self.start_content(size);
        let mut bytes = Vec::new();
        self.read_to_end(&mut bytes).map_err(broken)?;
        Ok(bytes)
    }

    fn start_content(&mut self, size: u64) {
        self.content = size;
        self.padding = size.next_multiple_of(BLOCK).saturating_sub(size);
    }

    fn skip_content(&mut self) -> Result<()> {
        let rest = self.content.saturating_add(self.padding);
        let skipped = io::copy(&mut self.inner.by_ref().take(rest), &mut io::sink()).map_err(broken)?;
        // An archive may lack the padding of its very last entry.
        if skipped < self.content {
            return Err(Error::Layer("ends in the middle of a file".into()));
        }
        (self.content, self.padding) = (0, 0);
        Ok(())
    }

    fn entry(&mut self, header: &Header, kind: EntryType, extra: Extensions) -> Result<TarEntry> {
        let path = extra.path.unwrap_or_else(|| header.path_bytes().into_owned());
        let link =
            extra.link.or_else(|| header.link_name_bytes().map(|l| l.into_owned())).unwrap_or_default();
        let mut entry = TarEntry::new(path, TarKind::File, 0);
        if entry.path.len() > MAX_PATH || link.len() > MAX_PATH {
            return Err(entry.error(format!("has a path longer than {MAX_PATH} bytes")));
        }
        entry.link = link;
        entry.kind = match kind {
            EntryType::Regular | EntryType::Continuous if entry.path.ends_with(b"/") => TarKind::Dir,
            EntryType::Regular | EntryType::Continuous => TarKind::File,
            EntryType::Directory => TarKind::Dir,
            EntryType::Symlink => TarKind::Symlink,
            EntryType::Link => TarKind::HardLink,
            EntryType::Char => TarKind::CharDevice,
            EntryType::Block => TarKind::BlockDevice,
            EntryType::Fifo => TarKind::Fifo,
            EntryType::GNUSparse => {
                return Err(entry.error("is a sparse file in GNU's form, which layers do not use"));
            }
            other => {
                return Err(entry.error(format!("has the unknown tar type {:?}", other.as_byte() as char)));
            }
        };
        let fits =
            |n: u64, entry: &TarEntry| u32::try_from(n).map_err(|_| entry.error("has an owner out of range"));
        entry.uid = fits(extra.uid.map_or_else(|| header.uid().map_err(broken), Ok)?, &entry)?;
        entry.gid = fits(extra.gid.map_or_else(|| header.gid().map_err(broken), Ok)?, &entry)?;
        entry.mode = header.mode().map_err(broken)? & 0o7777;
        entry.mtime = match extra.mtime {
            Some(mtime) => mtime,
            None => (header.mtime().map_err(broken)?.min(i64::MAX as u64) as i64, 0),
        };
        if matches!(entry.kind, TarKind::CharDevice | TarKind::BlockDevice) {
            let number = |n: io::Result<Option<u32>>| n.map(Option::unwrap_or_default).map_err(broken);
            entry.device = (number(header.device_major())?, number(header.device_minor())?);
        }
        entry.xattrs = extra.xattrs;
        let size = extra.size.map_or_else(|| header.entry_size().map_err(broken), Ok)?;
        // Some writers give links and folders a size without content; only files have content.
        if entry.kind == TarKind::File {
            entry.size = size;
        }
        self.start_content(entry.size);
        Ok(entry)
    }
}

impl<R: Read> Read for TarReader<R> {
    fn read(&mut self, buf: &mut [u8]) -> io::Result<usize> {
        let most = buf.len().min(usize::try_from(self.content).unwrap_or(usize::MAX));
        let n = self.inner.read(&mut buf[..most])?;
        if n == 0 && most > 0 {
            return Err(io::Error::new(
                io::ErrorKind::UnexpectedEof,
                "the layer ends in the middle of a file",
            ));
        }
        self.content -= n as u64;
        Ok(n)
    }
}

fn broken(e: io::Error) -> Error {
    Error::Layer(format!("cannot be read: {e}"))
}

fn trimmed(mut bytes: Vec<u8>) -> Vec<u8> {
    if let Some(end) = bytes.iter().position(|b| *b == 0) {
        bytes.truncate(end);
    }
    bytes
}

/// What the extension headers before an entry say about it.
#[derive(Default)]
struct Extensions {
    any: bool,
    path: Option<Vec<u8>>,
    link: Option<Vec<u8>>,
    size: Option<u64>,
    uid: Option<u64>,
    gid: Option<u64>,
    mtime: Option<(i64, u32)>,
    xattrs: Vec<(String, Vec<u8>)>,
}

impl Extensions {
    /// Adds pax records: `LENGTH KEY=VALUE\n`, where LENGTH counts the whole record.
    fn add_pax(&mut self, mut rest: &[u8]) -> Result<()> {
        let malformed = || Error::Layer("has a malformed pax record".into());
        while !rest.is_empty() && rest[0] != 0 {
            let space = rest.iter().position(|b| *b == b' ').ok_or_else(malformed)?;
            let length: usize = ascii(&rest[..space]).ok_or_else(malformed)?;
            if length <= space + 2 || length > rest.len() || rest[length - 1] != b'\n' {
                return Err(malformed());
            }
            let record = &rest[space + 1..length - 1];
            let equals = record.iter().position(|b| *b == b'=').ok_or_else(malformed)?;
            let key = std::str::from_utf8(&record[..equals]).map_err(|_| malformed())?;
            self.record(key, &record[equals + 1..]).ok_or_else(malformed)??;
            rest = &rest[length..];
        }
        Ok(())
    }

    fn record(&mut self, key: &str, value: &[u8]) -> Option<Result<()>> {
        match key {
            "path" => self.path = Some(value.to_owned()),
            "linkpath" => self.link = Some(value.to_owned()),
            "size" => self.size = Some(ascii(value)?),
            "uid" => self.uid = Some(ascii(value)?),
            "gid" => self.gid = Some(ascii(value)?),
            "mtime" => self.mtime = Some(pax_time(value)?),
            _ if key.starts_with("GNU.sparse.") => {
                return Some(Err(Error::Layer(
                    "has a sparse file in GNU's form, which layers do not use".into(),
                )));
            }
            _ => {
                if let Some(name) = key.strip_prefix(XATTR_PREFIX) {
                    self.xattrs.push((name.to_owned(), value.to_owned()));
                }
            }
        }
        Some(Ok(()))
    }
}

fn ascii<T: std::str::FromStr>(bytes: &[u8]) -> Option<T> {
    std::str::from_utf8(bytes).ok()?.parse().ok()
}

/// `-?SECONDS[.FRACTION]` to whole seconds and nanoseconds.
fn pax_time(value: &[u8]) -> Option<(i64, u32)> {
    let text = std::str::from_utf8(value).ok()?;
    let (seconds, fraction) = text.split_once('.').unwrap_or((text, ""));
    let seconds: i64 = seconds.parse().ok()?;
    if !fraction.bytes().all(|b| b.is_ascii_digit()) {
        return None;
    }
    let nanos: u32 = format!("{:0<9.9}", fraction).parse().ok()?;
    if text.starts_with('-') && nanos > 0 {
        return Some((seconds.checked_sub(1)?, 1_000_000_000 - nanos));
    }
    Some((seconds, nanos))
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_pax_times() {
        for (text, time) in [
            ("5", Some((5, 0))),
            ("5.25", Some((5, 250_000_000))),
            ("-1.5", Some((-2, 500_000_000))),
            ("x", None),
            ("1.x", None),
        ] {
            assert_eq!(pax_time(text.as_bytes()), time, "{text}");
        }
    }

    #[test]
    fn refuses_malformed_pax_records() {
        for bad in ["9", "99 a=b\n", "5 a=b", "3 a\n", "6 size=\n", "0 a=b\n", "11 size=abc\n", "4 =\n5"] {
            assert!(Extensions::default().add_pax(bad.as_bytes()).is_err(), "{bad:?}");
        }
        let mut fine = Extensions::default();
        fine.add_pax(b"30 SCHILY.xattr.user.name=a\nb\n").unwrap();
        assert_eq!(fine.xattrs, [("user.name".to_owned(), b"a\nb".to_vec())]);
    }

    #[test]
    fn a_huge_extension_header_is_refused_unread() {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_size(1 << 33);
        header.set_cksum();
        let stream = header.as_bytes().chain(io::repeat(b'x'));
        let said = TarReader::new(stream).next_entry().unwrap_err().to_string();
        assert!(said.contains("extension header of 8589934592 bytes"), "{said}");
    }
}
