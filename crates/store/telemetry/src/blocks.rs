//! Immutable files of compressed blocks with an index at the end: what logs and traces are sealed into.
//!
//! ```text
//! magic · block … block · footer (zstd of JSON) · footer length (u32) · crc32 of the footer (u32) · magic
//! ```

use std::{
    fs::{self, File},
    io::{self, BufWriter, Write as _},
    os::unix::fs::FileExt as _,
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize, de::DeserializeOwned};

const MAGIC: &[u8; 8] = b"wharfbk1";
const TAIL: u64 = 16;
/// Bytes of a block or footer at the most, once decompressed.
const MAX_PLAIN: usize = 256 << 20;

/// Where a block lies.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub(crate) struct Place {
    at: u64,
    len: u32,
    plain: u32,
    sum: u32,
}

/// A file being written; it gets its name only when it is whole and on disk.
pub(crate) struct BlockWriter {
    path: PathBuf,
    temporary: PathBuf,
    out: BufWriter<File>,
    at: u64,
    level: i32,
}

impl BlockWriter {
    pub(crate) fn create(path: &Path, level: i32) -> io::Result<Self> {
        let temporary = path.with_extension("tmp");
        let mut out = BufWriter::with_capacity(1 << 20, File::create(&temporary)?);
        out.write_all(MAGIC)?;
        Ok(Self { path: path.to_owned(), temporary, out, at: MAGIC.len() as u64, level })
    }

    pub(crate) fn add(&mut self, plain: &[u8]) -> io::Result<Place> {
        let packed = zstd::bulk::compress(plain, self.level)?;
        let place = Place {
            at: self.at,
            len: packed.len() as u32,
            plain: plain.len() as u32,
            sum: crc32fast::hash(&packed),
        };
        self.out.write_all(&packed)?;
        self.at += packed.len() as u64;
        Ok(place)
    }

    pub(crate) fn finish(mut self, footer: &impl Serialize) -> io::Result<()> {
        let packed = zstd::bulk::compress(&serde_json::to_vec(footer)?, 3)?;
        self.out.write_all(&packed)?;
        self.out.write_all(&(packed.len() as u32).to_le_bytes())?;
        self.out.write_all(&crc32fast::hash(&packed).to_le_bytes())?;
        self.out.write_all(MAGIC)?;
        let file = self.out.into_inner().map_err(io::IntoInnerError::into_error)?;
        file.sync_all()?;
        fs::rename(&self.temporary, &self.path)?;
        crate::metrics::wal::sync_dir(self.path.parent().unwrap_or(Path::new(".")))
    }
}

/// A file that is whole.
pub(crate) struct BlockFile {
    path: PathBuf,
    file: File,
    bytes: u64,
}

fn damaged(path: &Path, what: &str) -> io::Error {
    let text = format!("{} is damaged: {what}; move it away to go on without it", path.display());
    io::Error::new(io::ErrorKind::InvalidData, text)
}

impl BlockFile {
    /// Opens a file and reads its footer.
    pub(crate) fn open<F: DeserializeOwned>(path: &Path) -> io::Result<(Self, F)> {
        let file = File::open(path)?;
        let bytes = file.metadata()?.len();
        let mut tail = [0; TAIL as usize];
        let from = bytes.checked_sub(TAIL).ok_or_else(|| damaged(path, "it is too short"))?;
        file.read_exact_at(&mut tail, from)?;
        let [l0, l1, l2, l3, s0, s1, s2, s3, magic @ ..] = tail;
        if magic != *MAGIC {
            return Err(damaged(path, "its end is missing"));
        }
        let (len, sum) = (u32::from_le_bytes([l0, l1, l2, l3]), u32::from_le_bytes([s0, s1, s2, s3]));
        let at = from.checked_sub(u64::from(len)).ok_or_else(|| damaged(path, "its index is cut off"))?;
        let mut packed = vec![0; len as usize];
        file.read_exact_at(&mut packed, at)?;
        if crc32fast::hash(&packed) != sum {
            return Err(damaged(path, "the checksum of its index does not match"));
        }
        let plain = zstd::bulk::decompress(&packed, MAX_PLAIN)?;
        let footer = serde_json::from_slice(&plain).map_err(|e| damaged(path, &e.to_string()))?;
        Ok((Self { path: path.to_owned(), file, bytes }, footer))
    }

    pub(crate) fn read(&self, place: Place) -> io::Result<Vec<u8>> {
        let mut packed = vec![0; place.len as usize];
        self.file.read_exact_at(&mut packed, place.at)?;
        if crc32fast::hash(&packed) != place.sum {
            return Err(damaged(&self.path, "the checksum of a block does not match"));
        }
        zstd::bulk::decompress(&packed, (place.plain as usize).min(MAX_PLAIN))
    }

    pub(crate) fn bytes(&self) -> u64 {
        self.bytes
    }

    pub(crate) fn path(&self) -> &Path {
        &self.path
    }

    /// The number it is named by.
    pub(crate) fn number(&self) -> u64 {
        self.path.file_stem().and_then(|s| s.to_str()).and_then(|s| s.parse().ok()).unwrap_or(0)
    }
}

/// The files of a folder with this extension, oldest first.
pub(crate) fn files(dir: &Path, extension: &str) -> io::Result<Vec<PathBuf>> {
    let mut files = Vec::new();
    for entry in fs::read_dir(dir)? {
        let path = entry?.path();
        match path.extension().and_then(|e| e.to_str()) {
            Some(found) if found == extension => files.push(path),
            // Left by a crash in the middle of sealing.
            Some("tmp") => fs::remove_file(path)?,
            _ => {}
        }
    }
    files.sort();
    Ok(files)
}

/// Appends a number in seven-bit groups, the lowest first (LEB128).
pub(crate) fn put(out: &mut Vec<u8>, mut number: u64) {
    while number >= 0x80 {
        out.push(number as u8 | 0x80);
        number >>= 7;
    }
    out.push(number as u8);
}

/// Appends a text with its length.
pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put(out, text.len() as u64);
    out.extend_from_slice(text.as_bytes());
}

/// Takes a number off the front; nothing when the bytes end or the number is too long.
pub(crate) fn take(bytes: &mut &[u8]) -> Option<u64> {
    let mut number = 0;
    for shift in (0..64).step_by(7) {
        let (byte, rest) = bytes.split_first()?;
        *bytes = rest;
        number |= u64::from(byte & 0x7f) << shift;
        if byte & 0x80 == 0 {
            return Some(number);
        }
    }
    None
}

/// Takes a text off the front.
pub(crate) fn take_text<'a>(bytes: &mut &'a [u8]) -> Option<&'a str> {
    let len = usize::try_from(take(bytes)?).ok()?;
    let (text, rest) = bytes.split_at_checked(len)?;
    *bytes = rest;
    std::str::from_utf8(text).ok()
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn blocks_come_back_and_damage_is_seen() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("1.logs");
        let mut writer = BlockWriter::create(&path, 1).unwrap();
        let places = [writer.add(b"one").unwrap(), writer.add(&[7; 100_000]).unwrap()];
        writer.finish(&places).unwrap();
        let (file, read): (BlockFile, Vec<Place>) = BlockFile::open(&path).unwrap();
        assert_eq!(read, places);
        assert_eq!(
            (file.read(read[0]).unwrap(), file.read(read[1]).unwrap().len()),
            (b"one".to_vec(), 100_000)
        );
        let mut bytes = fs::read(&path).unwrap();
        bytes[9] ^= 1;
        fs::write(&path, &bytes).unwrap();
        let (file, read): (BlockFile, Vec<Place>) = BlockFile::open(&path).unwrap();
        assert!(file.read(read[0]).unwrap_err().to_string().contains("checksum of a block"));
        fs::write(&path, &bytes[..bytes.len() - 1]).unwrap();
        assert!(BlockFile::open::<Vec<Place>>(&path).is_err());
    }

    #[test]
    fn numbers_and_texts() {
        let mut bytes = Vec::new();
        for n in [0, 127, 128, 1 << 40, u64::MAX] {
            put(&mut bytes, n);
        }
        put_text(&mut bytes, "é");
        let mut rest = bytes.as_slice();
        for n in [0, 127, 128, 1 << 40, u64::MAX] {
            assert_eq!(take(&mut rest), Some(n));
        }
        assert_eq!((take_text(&mut rest), take(&mut rest)), (Some("é"), None));
    }
}
