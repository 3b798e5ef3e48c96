//! Just enough of ZIP to read the archives OSV publishes: stored and deflated entries, many of them.

use std::{fs::File, io::Read, os::unix::fs::FileExt, path::Path};

use flate2::read::DeflateDecoder;

const END: u64 = 22;
const MAX_COMMENT: u64 = 65_535;
const MAX_DIRECTORY: u64 = 512 << 20;
const MAX_ENTRIES: u64 = 2_000_000;

/// Calls `each` with the name and content of every entry whose name `wanted` accepts, up to `limit` bytes
/// each; an entry that cannot be read comes as its error.
pub(crate) fn entries(
    path: &Path,
    limit: u64,
    wanted: impl Fn(&str) -> bool,
    mut each: impl FnMut(&str, Result<Vec<u8>, String>),
) -> Result<(), String> {
    let file = File::open(path).map_err(|e| e.to_string())?;
    let (count, size, at) = directory(&file).ok_or("is no ZIP archive, or a broken one")?;
    if size > MAX_DIRECTORY || count > MAX_ENTRIES {
        return Err("has too many entries".into());
    }
    let directory = part(&file, at, size).ok_or("has a broken list of entries")?;
    let mut rest = directory.as_slice();
    for _ in 0..count {
        let (entry, next) = Entry::read(rest).ok_or("has a broken list of entries")?;
        rest = next;
        if wanted(&entry.name) {
            each(&entry.name, entry.content(&file, limit));
        }
    }
    Ok(())
}

/// Number of entries, and size and place of the list of them.
fn directory(file: &File) -> Option<(u64, u64, u64)> {
    let length = file.metadata().ok()?.len();
    let tail_at = length.saturating_sub(END + MAX_COMMENT);
    let tail = part(file, tail_at, length - tail_at)?;
    let end = tail.windows(4).rposition(|window| window == b"PK\x05\x06")?;
    let record = tail.get(end..).filter(|record| record.len() as u64 >= END)?;
    let plain = (number(record, 10, 2)?, number(record, 12, 4)?, number(record, 16, 4)?);
    if plain.0 != 0xffff && plain.2 != 0xffff_ffff {
        return Some(plain);
    }
    // ZIP64: a locator before the end record leads to a larger one.
    let locator = tail.get(end.checked_sub(20)?..end)?;
    if locator.get(..4)? != b"PK\x06\x07" {
        return Some(plain);
    }
    let record = part(file, number(locator, 8, 8)?, 56)?;
    (record.get(..4)? == b"PK\x06\x06").then_some(())?;
    Some((number(&record, 32, 8)?, number(&record, 40, 8)?, number(&record, 48, 8)?))
}

struct Entry {
    name: String,
    method: u64,
    size: u64,
    at: u64,
}

impl Entry {
    fn read(bytes: &[u8]) -> Option<(Self, &[u8])> {
        (bytes.get(..4)? == b"PK\x01\x02").then_some(())?;
        let (name, extra, comment) = (number(bytes, 28, 2)?, number(bytes, 30, 2)?, number(bytes, 32, 2)?);
        let text = bytes.get(46..46 + name as usize)?;
        let entry = Self {
            name: String::from_utf8_lossy(text).into_owned(),
            method: number(bytes, 10, 2)?,
            size: number(bytes, 20, 4)?,
            at: number(bytes, 42, 4)?,
        };
        Some((entry, bytes.get(46 + (name + extra + comment) as usize..)?))
    }

    fn content(&self, file: &File, limit: u64) -> Result<Vec<u8>, String> {
        let head = part(file, self.at, 30).filter(|head| head.starts_with(b"PK\x03\x04"));
        let skip = head.and_then(|head| Some(30 + number(&head, 26, 2)? + number(&head, 28, 2)?));
        let skip = skip.ok_or("has a broken header")?;
        if self.size > limit {
            return Err(format!("is larger than {limit} bytes"));
        }
        let packed = part(file, self.at + skip, self.size).ok_or("ends early")?;
        match self.method {
            0 => Ok(packed),
            8 => {
                let mut bytes = Vec::new();
                let inflated = DeflateDecoder::new(&packed[..]).take(limit + 1).read_to_end(&mut bytes);
                inflated.map_err(|e| format!("cannot be unpacked: {e}"))?;
                if bytes.len() as u64 > limit {
                    Err(format!("is larger than {limit} bytes"))
                } else {
                    Ok(bytes)
                }
            }
            other => Err(format!("uses the compression method {other}, which is not supported")),
        }
    }
}

fn part(file: &File, at: u64, size: u64) -> Option<Vec<u8>> {
    if at.checked_add(size)? > file.metadata().ok()?.len() {
        return None;
    }
    let mut bytes = vec![0; usize::try_from(size).ok()?];
    file.read_exact_at(&mut bytes, at).ok()?;
    Some(bytes)
}

/// A little-endian number of `size` bytes.
fn number(bytes: &[u8], at: usize, size: usize) -> Option<u64> {
    let bytes = bytes.get(at..at + size)?;
    Some(bytes.iter().rev().fold(0, |value, byte| value << 8 | u64::from(*byte)))
}

#[cfg(test)]
mod tests {
    use std::io::Write;

    use super::*;

    fn entry(name: &str, content: &[u8]) -> (Vec<u8>, Vec<u8>) {
        let mut packed = flate2::write::DeflateEncoder::new(Vec::new(), flate2::Compression::fast());
        packed.write_all(content).unwrap();
        let packed = packed.finish().unwrap();
        let (size, name_size) = ((packed.len() as u32).to_le_bytes(), (name.len() as u16).to_le_bytes());
        let local = [
            b"PK\x03\x04".as_slice(),
            &[0; 14],
            &size,
            &[0; 4],
            &name_size,
            &[0; 2],
            name.as_bytes(),
            &packed,
        ];
        let central = [
            b"PK\x01\x02".as_slice(),
            &[0; 6],
            &[8, 0],
            &[0; 8],
            &size,
            &[0; 4],
            &name_size,
            &[0; 16],
            name.as_bytes(),
        ];
        (local.concat(), central.concat())
    }

    #[test]
    fn reads_deflated_entries_and_refuses_junk() {
        let dir = tempfile::tempdir().unwrap();
        let path = dir.path().join("all.zip");
        let (local, central) = entry("a.json", b"{\"id\": 1}");
        let end = [
            b"PK\x05\x06".as_slice(),
            &[0, 0, 0, 0, 1, 0, 1, 0],
            &(central.len() as u32).to_le_bytes(),
            &(local.len() as u32).to_le_bytes(),
            &[0, 0],
        ];
        let whole = [local.as_slice(), &central, &end.concat()].concat();
        std::fs::write(&path, &whole).unwrap();
        let mut found = Vec::new();
        entries(
            &path,
            100,
            |name| name.ends_with(".json"),
            |name, content| {
                found.push((name.to_owned(), content.unwrap()));
            },
        )
        .unwrap();
        assert_eq!(found, [("a.json".to_owned(), b"{\"id\": 1}".to_vec())]);
        entries(&path, 5, |_| true, |_, content| assert!(content.unwrap_err().contains("larger"))).unwrap();
        for cut in 0..whole.len() {
            std::fs::write(&path, &whole[..cut]).unwrap();
            assert!(entries(&path, 100, |_| true, |_, _| {}).is_err(), "cut at {cut}");
        }
    }
}
