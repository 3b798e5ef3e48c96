//! The form of a backup: all keys of a state as of one revision, and files that belong to it.
//!
//! Eight bytes `WHARFBAK` and four with the version of the form; then records of one byte for the
//! kind, four with the length of what follows, and that. The first record is the head; keys come in
//! order, then files; the last record is the SHA-256 of every byte before it, in hexadecimal digits, and nothing
//! follows.
//! Numbers are big-endian. Nothing here holds more than one record in memory.

use std::io::{Read, Write};

use bytes::Bytes;
use wharf_base::Hasher;

use crate::{KeyValue, Revision};

const MAGIC: &[u8; 8] = b"WHARFBAK";
const VERSION: u32 = 1;
/// Bytes of a record at the most.
const MAX_RECORD: u32 = 64 << 20;
/// Bytes of a file's name at the most.
const MAX_NAME: usize = 255;

const HEAD: u8 = 1;
const KEY: u8 = 2;
const FILE: u8 = 3;
const END: u8 = 4;

/// What a backup is of.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Head {
    /// The revision all keys are at.
    pub revision: Revision,
    /// When it was taken, in milliseconds since 1970.
    pub taken: u64,
}

/// One thing in a backup.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum Record {
    /// A key of the state.
    Key(KeyValue),
    /// A file, by a name without folders.
    File {
        /// Its name.
        name: String,
        /// Its content.
        content: Bytes,
    },
}

/// Why a backup cannot be read or written.
#[derive(Debug, thiserror::Error)]
pub enum BackupError {
    /// It is something else.
    #[error("this is no backup of wharf")]
    Foreign,
    /// A later version wrote it.
    #[error("the backup has form {0}, this program knows form {VERSION}")]
    Later(u32),
    /// It ends before its last record: it was cut off, or is still being written.
    #[error("the backup ends at byte {0}, before its end is told: it is incomplete")]
    CutOff(u64),
    /// It is not what was written.
    #[error("the backup is damaged at byte {at}: {what}")]
    Damaged {
        /// Where, in bytes from its beginning.
        at: u64,
        /// What is wrong there.
        what: &'static str,
    },
    /// What is to be written does not fit.
    #[error("{0} does not fit into a backup")]
    Unfit(String),
    /// The file below.
    #[error(transparent)]
    Io(#[from] std::io::Error),
}

/// Whether a file of the name can be in a backup: it leads nowhere else.
fn is_name(name: &str) -> bool {
    let plain = |byte: u8| byte.is_ascii_alphanumeric() || matches!(byte, b'.' | b'-' | b'_');
    !name.is_empty() && name.len() <= MAX_NAME && !name.starts_with('.') && name.bytes().all(plain)
}

/// Writes a backup.
pub struct Writer<W> {
    to: W,
    hasher: Hasher,
}

impl<W: Write> Writer<W> {
    /// Begins one.
    ///
    /// # Errors
    /// What `to` fails with.
    pub fn new(to: W, head: Head) -> Result<Self, BackupError> {
        let mut this = Self { to, hasher: Hasher::new() };
        this.put(MAGIC)?;
        this.put(&VERSION.to_be_bytes())?;
        this.record(HEAD, &[&head.revision.to_be_bytes(), &head.taken.to_be_bytes()])?;
        Ok(this)
    }

    /// What it writes to.
    pub fn get_mut(&mut self) -> &mut W {
        &mut self.to
    }

    fn put(&mut self, bytes: &[u8]) -> Result<(), BackupError> {
        self.hasher.update(bytes);
        Ok(self.to.write_all(bytes)?)
    }

    fn record(&mut self, kind: u8, parts: &[&[u8]]) -> Result<(), BackupError> {
        let length: usize = parts.iter().map(|part| part.len()).sum();
        let length = u32::try_from(length).ok().filter(|length| *length <= MAX_RECORD);
        let length =
            length.ok_or_else(|| BackupError::Unfit(format!("a record of over {MAX_RECORD} bytes")))?;
        self.put(&[kind])?;
        self.put(&length.to_be_bytes())?;
        parts.iter().try_for_each(|part| self.put(part))
    }

    /// Adds a key, which comes after all before it.
    ///
    /// # Errors
    /// What it is written to fails with; [`BackupError::Unfit`].
    pub fn key(&mut self, key: &KeyValue) -> Result<(), BackupError> {
        let length = u32::try_from(key.key.len()).map_err(|_| BackupError::Unfit("the key".to_owned()))?;
        let (revision, length) = (key.revision.to_be_bytes(), length.to_be_bytes());
        self.record(KEY, &[&revision, &length, &key.key, &key.value])
    }

    /// Adds a file; after the keys.
    ///
    /// # Errors
    /// As [`key`](Self::key).
    pub fn file(&mut self, name: &str, content: &[u8]) -> Result<(), BackupError> {
        if !is_name(name) {
            return Err(BackupError::Unfit(format!("a file named {name:?}")));
        }
        self.record(FILE, &[&[name.len() as u8], name.as_bytes(), content])
    }

    /// Tells the end; gives back what it was written to.
    ///
    /// # Errors
    /// What that fails with.
    pub fn finish(mut self) -> Result<W, BackupError> {
        let digest = std::mem::take(&mut self.hasher).finish();
        self.record(END, &[digest.hex().as_bytes()])?;
        self.to.flush()?;
        Ok(self.to)
    }
}

/// Reads a backup. Only who has read it to its end knows that it is whole.
pub struct Reader<R> {
    from: R,
    at: u64,
    hasher: Hasher,
    head: Head,
    last: Option<Bytes>,
    files: bool,
    ended: bool,
}

impl<R: Read> Reader<R> {
    /// Reads the head.
    ///
    /// # Errors
    /// When it is no backup of a form that is known here.
    pub fn new(from: R) -> Result<Self, BackupError> {
        let head = Head { revision: 0, taken: 0 };
        let mut this =
            Self { from, at: 0, hasher: Hasher::new(), head, last: None, files: false, ended: false };
        match this.take::<8>() {
            Ok(magic) if magic == *MAGIC => {}
            Ok(_) | Err(BackupError::CutOff(_)) => return Err(BackupError::Foreign),
            Err(error) => return Err(error),
        }
        let version = u32::from_be_bytes(this.take()?);
        if version != VERSION {
            return Err(BackupError::Later(version));
        }
        this.hasher.update(MAGIC);
        this.hasher.update(&VERSION.to_be_bytes());
        let (kind, head) = this.record()?;
        let split = || head.split_first_chunk().and_then(|(a, rest)| Some((*a, rest.try_into().ok()?)));
        let Some((revision, taken)) = split().filter(|_| kind == HEAD) else {
            return Err(this.damaged("there is no head"));
        };
        this.head = Head { revision: u64::from_be_bytes(revision), taken: u64::from_be_bytes(taken) };
        Ok(this)
    }

    /// What the backup is of.
    pub fn head(&self) -> Head {
        self.head
    }

    fn damaged(&self, what: &'static str) -> BackupError {
        BackupError::Damaged { at: self.at, what }
    }

    fn take<const N: usize>(&mut self) -> Result<[u8; N], BackupError> {
        let mut bytes = [0; N];
        self.fill(&mut bytes)?;
        Ok(bytes)
    }

    fn fill(&mut self, bytes: &mut [u8]) -> Result<(), BackupError> {
        self.from.read_exact(bytes).map_err(|error| match error.kind() {
            std::io::ErrorKind::UnexpectedEof => BackupError::CutOff(self.at),
            _ => BackupError::Io(error),
        })?;
        self.at += bytes.len() as u64;
        Ok(())
    }

    /// The next record as it stands; its bytes count for the digest unless it is the last.
    fn record(&mut self) -> Result<(u8, Vec<u8>), BackupError> {
        let [kind, length @ ..] = self.take::<5>()?;
        let size = u32::from_be_bytes(length);
        if size > MAX_RECORD {
            return Err(self.damaged("a record is longer than any"));
        }
        // Grows as bytes come: a length that lies takes no memory.
        let mut bytes = Vec::new();
        let read = (&mut self.from).take(size.into()).read_to_end(&mut bytes)?;
        self.at += read as u64;
        if read < size as usize {
            return Err(BackupError::CutOff(self.at));
        }
        if kind != END {
            self.hasher.update(&[kind]);
            self.hasher.update(&length);
            self.hasher.update(&bytes);
        }
        Ok((kind, bytes))
    }

    /// The next key or file; nothing at the end of a backup that is whole.
    ///
    /// # Errors
    /// When it is damaged or incomplete.
    pub fn next_record(&mut self) -> Result<Option<Record>, BackupError> {
        if self.ended {
            return Ok(None);
        }
        let (kind, bytes) = self.record()?;
        match kind {
            KEY => self.key(bytes.into()).map(Some),
            FILE => self.file(bytes.into()).map(Some),
            END => self.end(&bytes).map(|()| None),
            _ => Err(self.damaged("a record is of a kind that there is not")),
        }
    }

    fn key(&mut self, bytes: Bytes) -> Result<Record, BackupError> {
        let parts = || {
            let (revision, rest) = bytes.split_first_chunk()?;
            let (length, _) = rest.split_first_chunk()?;
            let (from, length) = (12, usize::try_from(u32::from_be_bytes(*length)).ok()?);
            (bytes.len() - from >= length).then(|| {
                let (key, value) = (bytes.slice(from..from + length), bytes.slice(from + length..));
                KeyValue { key, value, revision: u64::from_be_bytes(*revision) }
            })
        };
        let key = parts().ok_or_else(|| self.damaged("a key is cut off"))?;
        if self.files || self.last.as_ref().is_some_and(|last| *last >= key.key) {
            return Err(self.damaged("the keys are not in order"));
        }
        if key.revision > self.head.revision {
            return Err(self.damaged("a key is newer than the whole"));
        }
        self.last = Some(key.key.clone());
        Ok(Record::Key(key))
    }

    fn file(&mut self, bytes: Bytes) -> Result<Record, BackupError> {
        self.files = true;
        let parts = || {
            let (length, rest) = bytes.split_first()?;
            let name = std::str::from_utf8(rest.get(..usize::from(*length))?).ok()?;
            Some((name.to_owned(), bytes.slice(1 + name.len()..)))
        };
        match parts().filter(|(name, _)| is_name(name)) {
            Some((name, content)) => Ok(Record::File { name, content }),
            None => Err(self.damaged("a file has no name that files may have")),
        }
    }

    fn end(&mut self, digest: &[u8]) -> Result<(), BackupError> {
        if std::mem::take(&mut self.hasher).finish().hex().as_bytes() != digest {
            return Err(self.damaged("its content is not what its checksum says"));
        }
        if self.from.read(&mut [0])? != 0 {
            return Err(self.damaged("something follows its end"));
        }
        self.ended = true;
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn kv(key: &'static str, value: &'static str, revision: Revision) -> KeyValue {
        KeyValue { key: key.as_bytes().into(), value: value.as_bytes().into(), revision }
    }

    fn written(keys: &[KeyValue], files: &[(&str, &[u8])]) -> Vec<u8> {
        let mut writer = Writer::new(Vec::new(), Head { revision: 9, taken: 7 }).unwrap();
        keys.iter().for_each(|key| writer.key(key).unwrap());
        files.iter().for_each(|(name, content)| writer.file(name, content).unwrap());
        writer.finish().unwrap()
    }

    fn read(bytes: &[u8]) -> Result<(Head, Vec<Record>), BackupError> {
        let mut reader = Reader::new(bytes)?;
        let mut records = Vec::new();
        while let Some(record) = reader.next_record()? {
            records.push(record);
        }
        assert!(reader.next_record()?.is_none());
        Ok((reader.head(), records))
    }

    #[test]
    fn what_was_written_is_read() {
        let keys = [kv("a", "1", 3), kv("b", "", 9)];
        let bytes = written(&keys, &[("ca.key", b"secret")]);
        let (head, records) = read(&bytes).unwrap();
        assert_eq!(head, Head { revision: 9, taken: 7 });
        let file = Record::File { name: "ca.key".into(), content: "secret".into() };
        assert_eq!(records, [Record::Key(keys[0].clone()), Record::Key(keys[1].clone()), file]);
        assert!(read(&written(&[], &[])).unwrap().1.is_empty());
    }

    #[test]
    fn every_change_and_every_cut_is_noticed() {
        let bytes = written(&[kv("a", "1", 3), kv("b", "2", 9)], &[("ca.key", b"secret")]);
        for at in 0..bytes.len() {
            assert!(read(&bytes[..at]).is_err(), "cut at {at}");
            for bit in 0..8 {
                let mut changed = bytes.clone();
                changed[at] ^= 1 << bit;
                assert!(read(&changed).is_err(), "bit {bit} of byte {at}");
            }
        }
        assert!(read(&[&bytes[..], b"x"].concat()).is_err());
    }

    #[test]
    fn what_is_wrong_is_said() {
        let said = |bytes: &[u8]| read(bytes).unwrap_err().to_string();
        assert_eq!(said(b"PK"), "this is no backup of wharf");
        assert_eq!(said(b"WHARFBAK\0\0\0\x02"), "the backup has form 2, this program knows form 1");
        let unordered = written(&[kv("b", "1", 3), kv("a", "2", 9)], &[]);
        assert!(said(&unordered).contains("not in order"));
        assert!(said(&written(&[kv("b", "1", 10)], &[])).contains("newer than the whole"));
        let mut long = b"WHARFBAK\0\0\0\x01\x01".to_vec();
        long.extend_from_slice(&u32::MAX.to_be_bytes());
        assert!(said(&long).contains("longer than any"));
        let mut writer = Writer::new(Vec::new(), Head { revision: 1, taken: 1 }).unwrap();
        for name in ["", "../x", ".hidden", "a/b", "a\0"] {
            assert!(matches!(writer.file(name, b""), Err(BackupError::Unfit(_))), "{name:?}");
        }
    }
}
