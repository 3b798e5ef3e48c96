//! Writes tar streams whose bytes depend on their content only.

use std::io::{self, Read, Write};

use tar::{EntryType, Header};

use super::read::{TarEntry, TarKind};

/// Writes a tar stream in the pax form.
pub struct TarWriter<W> {
    out: W,
}

impl<W: Write> TarWriter<W> {
    /// A writer at the start of a stream.
    pub fn new(out: W) -> Self {
        Self { out }
    }

    /// Adds an entry with `entry.size` bytes of `content`.
    pub fn append(&mut self, entry: &TarEntry, content: impl Read) -> io::Result<()> {
        let mut header = Header::new_ustar();
        let mut pax = Pax::default();
        header.set_entry_type(entry_type(entry.kind));
        header.set_mode(entry.mode);
        fill_name(&mut header.as_mut_bytes()[..100], &entry.path, "path", &mut pax);
        fill_name(&mut header.as_mut_bytes()[157..257], &entry.link, "linkpath", &mut pax);
        // Octal fields hold 7 or 11 digits.
        header.set_uid(pax.number("uid", entry.uid.into(), 1 << 21));
        header.set_gid(pax.number("gid", entry.gid.into(), 1 << 21));
        header.set_size(pax.number("size", entry.size, 1 << 33));
        match u64::try_from(entry.mtime.0) {
            Ok(seconds) => header.set_mtime(pax.number("mtime", seconds, 1 << 33)),
            Err(_) => {
                header.set_mtime(0);
                pax.add("mtime", entry.mtime.0.to_string().as_bytes());
            }
        }
        if matches!(entry.kind, TarKind::CharDevice | TarKind::BlockDevice) {
            header.set_device_major(entry.device.0)?;
            header.set_device_minor(entry.device.1)?;
        }
        let mut xattrs: Vec<_> = entry.xattrs.iter().collect();
        xattrs.sort();
        for (name, value) in xattrs {
            pax.add(&format!("SCHILY.xattr.{name}"), value);
        }
        if !pax.records.is_empty() {
            self.extension(&pax.records)?;
        }
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        let copied = io::copy(&mut content.take(entry.size), &mut self.out)?;
        if copied != entry.size {
            return Err(io::Error::other(format!("'{}' became shorter while it was read", entry.name())));
        }
        self.pad(entry.size)
    }

    /// Ends the stream.
    pub fn finish(mut self) -> io::Result<W> {
        self.out.write_all(&[0; 1024])?;
        Ok(self.out)
    }

    fn extension(&mut self, records: &[u8]) -> io::Result<()> {
        let mut header = Header::new_ustar();
        header.set_entry_type(EntryType::XHeader);
        header.set_mode(0o644);
        header.set_uid(0);
        header.set_gid(0);
        header.set_mtime(0);
        header.as_mut_bytes()[..13].copy_from_slice(b"PaxHeaders.0/");
        header.set_size(records.len() as u64);
        header.set_cksum();
        self.out.write_all(header.as_bytes())?;
        self.out.write_all(records)?;
        self.pad(records.len() as u64)
    }

    fn pad(&mut self, size: u64) -> io::Result<()> {
        let missing = (size.next_multiple_of(512) - size) as usize;
        self.out.write_all(&[0; 512][..missing])
    }
}

fn entry_type(kind: TarKind) -> EntryType {
    match kind {
        TarKind::File => EntryType::Regular,
        TarKind::Dir => EntryType::Directory,
        TarKind::Symlink => EntryType::Symlink,
        TarKind::HardLink => EntryType::Link,
        TarKind::CharDevice => EntryType::Char,
        TarKind::BlockDevice => EntryType::Block,
        TarKind::Fifo => EntryType::Fifo,
    }
}

/// Puts a name in its 100-byte field, and in full into a pax record when the field is too small.
fn fill_name(field: &mut [u8], name: &[u8], key: &str, pax: &mut Pax) {
    let fits = name.len().min(field.len());
    field[..fits].copy_from_slice(&name[..fits]);
    if name.len() > field.len() || !name.is_ascii() {
        pax.add(key, name);
    }
}

#[derive(Default)]
struct Pax {
    records: Vec<u8>,
}

impl Pax {
    fn add(&mut self, key: &str, value: &[u8]) {
        // The length counts its own digits.
        let rest = key.len() + value.len() + 3;
        let mut length = rest;
        while length != rest + length.to_string().len() {
            length = rest + length.to_string().len();
        }
        self.records.extend_from_slice(format!("{length} {key}=").as_bytes());
        self.records.extend_from_slice(value);
        self.records.push(b'\n');
    }

    /// The number for the header field: itself, or zero when only a pax record can hold it.
    fn number(&mut self, key: &str, value: u64, limit: u64) -> u64 {
        if value < limit {
            return value;
        }
        self.add(key, value.to_string().as_bytes());
        0
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::layer::TarReader;

    #[test]
    fn a_reader_sees_what_was_written() {
        let long = [b"d/".repeat(120), b"file".to_vec()].concat();
        let mut entries = vec![
            TarEntry { uid: 3_000_000, mtime: (-5, 0), ..TarEntry::new("a/", TarKind::Dir, 0o1777) },
            TarEntry {
                size: 700,
                xattrs: vec![("user.x".into(), b"\0\n=".to_vec())],
                ..TarEntry::new(long, TarKind::File, 0o4755)
            },
            TarEntry { link: b"\xc3\xa9".to_vec(), ..TarEntry::new("s", TarKind::Symlink, 0o777) },
            TarEntry { device: (1, 3), ..TarEntry::new("null", TarKind::CharDevice, 0o666) },
        ];
        entries[3].mtime = (1 << 40, 0);
        let mut writer = TarWriter::new(Vec::new());
        for entry in &entries {
            writer.append(entry, io::repeat(7)).unwrap();
        }
        let bytes = writer.finish().unwrap();
        assert_eq!(bytes.len() % 512, 0);
        let mut reader = TarReader::new(&bytes[..]);
        for entry in &entries {
            assert_eq!(reader.next_entry().unwrap().as_ref(), Some(entry));
        }
        assert_eq!(reader.next_entry().unwrap(), None);
    }
}
