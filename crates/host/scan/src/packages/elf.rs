//! One named section of an ELF program (64 bits, little-endian), read without loading the rest.

use std::{fs::File, os::unix::fs::FileExt};

const MAX_SECTIONS: usize = 10_000;
const MAX_SECTION: u64 = 8 << 20;

/// The content of the section `name`, if the file is a program that has it.
pub(super) fn section(file: &File, name: &str) -> Option<Vec<u8>> {
    let mut head = [0; 64];
    file.read_exact_at(&mut head, 0).ok()?;
    if head.get(..6)? != b"\x7fELF\x02\x01" {
        return None;
    }
    let table = number(&head, 0x28, 8)?;
    let (size, count) = (number(&head, 0x3a, 2)?, number(&head, 0x3c, 2)? as usize);
    let names = number(&head, 0x3e, 2)? as usize;
    if size != 64 || count > MAX_SECTIONS || names >= count {
        return None;
    }
    let headers = part(file, table, size * count as u64)?;
    let header = |at: usize| headers.get(at * 64..(at + 1) * 64);
    let content = |header: &[u8]| part(file, number(header, 0x18, 8)?, number(header, 0x20, 8)?);
    let strings = content(header(names)?)?;
    for at in 0..count {
        let header = header(at)?;
        let text = strings.get(number(header, 0, 4)? as usize..)?;
        if text.starts_with(name.as_bytes()) && text.get(name.len()) == Some(&0) {
            return content(header);
        }
    }
    None
}

fn part(file: &File, at: u64, size: u64) -> Option<Vec<u8>> {
    if size > MAX_SECTION || at.checked_add(size)? > file.metadata().ok()?.len() {
        return None;
    }
    let mut bytes = vec![0; size as usize];
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
    #[test]
    fn finds_sections_of_this_very_program() {
        let me = std::fs::File::open("/proc/self/exe").unwrap();
        assert!(super::section(&me, ".text").is_some() || super::section(&me, ".dynstr").is_some());
        assert!(super::section(&me, ".dep-none").is_none());
        let other = std::fs::File::open("/proc/self/comm").unwrap();
        assert!(super::section(&other, ".text").is_none());
    }
}
