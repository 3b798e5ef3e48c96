//! What the loader needs to know of an ELF file: interpreter, needed libraries, where they are looked for.

use std::{fs::File, io, os::unix::fs::FileExt, path::Path};

const MAX_HEADERS: usize = 256;
const MAX_DYNAMIC: u64 = 256 << 10;
const MAX_STRING: usize = 4096;

/// A dynamic or static program or library.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(super) struct Elf {
    /// Processor number of the header.
    pub(super) machine: u16,
    /// The loader, for programs.
    pub(super) interpreter: Option<String>,
    /// `DT_NEEDED`, in order.
    pub(super) needed: Vec<String>,
    /// `DT_RPATH`, which counts only without `DT_RUNPATH`.
    pub(super) rpath: Vec<String>,
    /// `DT_RUNPATH`.
    pub(super) runpath: Vec<String>,
}

struct Segment {
    kind: u32,
    offset: u64,
    address: u64,
    size: u64,
}

/// Reads a file; `None` when it is no ELF file, an error in words when it is one that cannot be used.
pub(super) fn read(path: &Path) -> io::Result<Option<Result<Elf, &'static str>>> {
    let file = File::open(path)?;
    let mut magic = [0; 4];
    match file.read_exact_at(&mut magic, 0) {
        Ok(()) if magic == *b"\x7fELF" => {}
        Ok(()) => return Ok(None),
        Err(error) if error.kind() == io::ErrorKind::UnexpectedEof => return Ok(None),
        Err(error) => return Err(error),
    }
    match parse(&file) {
        Ok(elf) => Ok(Some(elf)),
        // An offset beyond what the kernel takes is as one beyond the end.
        Err(error) if matches!(error.kind(), io::ErrorKind::UnexpectedEof | io::ErrorKind::InvalidInput) => {
            Ok(Some(Err("is cut off")))
        }
        Err(error) => Err(error),
    }
}

fn bytes<const N: usize>(file: &File, at: u64) -> io::Result<[u8; N]> {
    let mut buffer = [0; N];
    file.read_exact_at(&mut buffer, at)?;
    Ok(buffer)
}

fn u16_at(raw: &[u8], at: usize) -> u16 {
    raw.get(at..at + 2).and_then(|b| b.try_into().ok()).map_or(0, u16::from_le_bytes)
}

fn u32_at(raw: &[u8], at: usize) -> u32 {
    raw.get(at..at + 4).and_then(|b| b.try_into().ok()).map_or(0, u32::from_le_bytes)
}

fn u64_at(raw: &[u8], at: usize) -> u64 {
    raw.get(at..at + 8).and_then(|b| b.try_into().ok()).map_or(0, u64::from_le_bytes)
}

fn parse(file: &File) -> io::Result<Result<Elf, &'static str>> {
    let header: [u8; 64] = bytes(file, 0)?;
    if header.get(4..6) != Some(&[2, 1]) {
        return Ok(Err("is no 64-bit little-endian program"));
    }
    let (start, size, count) = (u64_at(&header, 32), u16_at(&header, 54), usize::from(u16_at(&header, 56)));
    if count > MAX_HEADERS || (count > 0 && size != 56) {
        return Ok(Err("has too many or odd program headers"));
    }
    let mut segments = Vec::new();
    for number in 0..count as u64 {
        let Some(at) = start.checked_add(number * 56) else { return Ok(Err("has a bad header")) };
        let raw: [u8; 56] = bytes(file, at)?;
        segments.push(Segment {
            kind: u32_at(&raw, 0),
            offset: u64_at(&raw, 8),
            address: u64_at(&raw, 16),
            size: u64_at(&raw, 32),
        });
    }
    let mut elf = Elf { machine: u16_at(&header, 18), ..Elf::default() };
    for segment in &segments {
        match segment.kind {
            3 => match string(file, segment.offset)? {
                Some(text) => elf.interpreter = Some(text),
                None => return Ok(Err("names no usable interpreter")),
            },
            2 => match dynamic(file, segment, &segments, &mut elf)? {
                Ok(()) => {}
                Err(problem) => return Ok(Err(problem)),
            },
            _ => {}
        }
    }
    Ok(Ok(elf))
}

fn dynamic(
    file: &File,
    segment: &Segment,
    all: &[Segment],
    elf: &mut Elf,
) -> io::Result<Result<(), &'static str>> {
    if segment.size > MAX_DYNAMIC {
        return Ok(Err("has a dynamic section beyond all measure"));
    }
    let mut raw = vec![0; segment.size as usize];
    file.read_exact_at(&mut raw, segment.offset)?;
    let entries: Vec<(u64, u64)> =
        raw.chunks_exact(16).map(|e| (u64_at(e, 0), u64_at(e, 8))).take_while(|(tag, _)| *tag != 0).collect();
    let value = |tag: u64| entries.iter().find(|(t, _)| *t == tag).map(|(_, value)| *value);
    let Some(table) = value(5) else { return Ok(Ok(())) };
    let loaded = all.iter().filter(|s| s.kind == 1);
    let mut holders = loaded.filter(|s| (s.address..s.address.saturating_add(s.size)).contains(&table));
    let Some(table) = holders.next().and_then(|s| (table - s.address).checked_add(s.offset)) else {
        return Ok(Err("has its names outside of the file"));
    };
    for (tag, value) in &entries {
        if !matches!(tag, 1 | 15 | 29) {
            continue;
        }
        let Some(at) = table.checked_add(*value) else { return Ok(Err("has a bad name")) };
        let Some(text) = string(file, at)? else { return Ok(Err("has a bad name")) };
        let folders = || text.split(':').filter(|folder| !folder.is_empty()).map(str::to_owned);
        match tag {
            1 => elf.needed.push(text),
            15 => elf.rpath.extend(folders()),
            _ => elf.runpath.extend(folders()),
        }
    }
    Ok(Ok(()))
}

/// The text that ends with a zero byte at `at`.
fn string(file: &File, at: u64) -> io::Result<Option<String>> {
    let mut raw = vec![0; MAX_STRING];
    let mut filled = 0;
    while let Some(rest) = raw.get_mut(filled..).filter(|rest| !rest.is_empty()) {
        match file.read_at(rest, at.saturating_add(filled as u64))? {
            0 => break,
            count => filled += count,
        }
    }
    let text =
        raw.get(..filled).and_then(|raw| raw.split(|b| *b == 0).next().filter(|t| t.len() < raw.len()));
    Ok(text.and_then(|text| String::from_utf8(text.to_vec()).ok()))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(content: &[u8]) -> Option<Result<Elf, &'static str>> {
        let file = tempfile::NamedTempFile::new().unwrap();
        std::fs::write(file.path(), content).unwrap();
        read(file.path()).unwrap()
    }

    #[test]
    fn reads_this_program() {
        let elf = read(Path::new("/proc/self/exe")).unwrap().unwrap().unwrap();
        assert!(elf.interpreter.is_some_and(|path| path.starts_with("/lib")));
        assert!(elf.needed.iter().any(|name| name.starts_with("libc.so")), "{:?}", elf.needed);
    }

    #[test]
    fn refuses_what_is_broken() {
        assert_eq!(check(b"#!/bin/sh\n"), None);
        assert_eq!(check(b""), None);
        assert_eq!(check(b"\x7fELF\x02\x01"), Some(Err("is cut off")));
        let mut header = [0u8; 64];
        header[..6].copy_from_slice(b"\x7fELF\x02\x01");
        assert_eq!(check(&header), Some(Ok(Elf::default())));
        header[4] = 1;
        assert!(matches!(check(&header), Some(Err(_))));
        header[4] = 2;
        header[54] = 56;
        header[56] = 255;
        assert_eq!(check(&header), Some(Err("is cut off")));
    }

    proptest::proptest! {
        #[test]
        fn never_panics(noise in proptest::collection::vec((0usize..600, proptest::num::u8::ANY), 0..40)) {
            let mut program = std::fs::read("/proc/self/exe").unwrap();
            program.truncate(64 << 10);
            for (at, value) in noise {
                program[at] = value;
            }
            let _ = check(&program);
        }
    }
}
