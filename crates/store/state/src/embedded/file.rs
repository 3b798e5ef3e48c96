//! Keys in a redb file: how they lie in it, and what one transaction does to them.

use std::{
    fs::OpenOptions,
    io::ErrorKind,
    os::unix::fs::OpenOptionsExt as _,
    panic::{AssertUnwindSafe, catch_unwind},
    path::{Path, PathBuf},
};

use bytes::Bytes;
use redb::{
    Builder, Database, DatabaseError, Durability, ReadTransaction, ReadableDatabase, ReadableTable, Table,
    TableDefinition, WriteTransaction,
};

use super::disk::Disk;
use crate::{Change, Error, KeyValue, Revision, Write};

/// Key to eight bytes of revision and the value.
const KEYS: TableDefinition<'_, &[u8], &[u8]> = TableDefinition::new("keys");
/// Single numbers: the revision.
const META: TableDefinition<'_, &str, u64> = TableDefinition::new("meta");
/// Changes, as earlier versions kept them; nobody read them.
const LOG: TableDefinition<'_, (u64, u32), &[u8]> = TableDefinition::new("log");
const REVISION: &str = "revision";
const FORMAT: &str = "format";
const FORMAT_VERSION: u64 = 1;

/// Keys read at once.
const PIECE: usize = 1000;
/// The bytes of values after which a piece ends.
const PIECE_BYTES: usize = 1 << 20;

type Engine<T> = Result<T, redb::Error>;
/// Opens the engine on what lies below: a file, or what a test puts there.
pub(super) type Opener = Box<dyn Fn(&mut Builder, &Path) -> Result<Database, DatabaseError> + Send>;

/// Where the state lies and how it is opened.
pub(super) struct File {
    path: PathBuf,
    cache_bytes: usize,
    opener: Opener,
}

/// Runs a call of the engine, which may panic over a file that was changed by somebody else.
fn contained<T>(call: impl FnOnce() -> Engine<T>) -> Engine<T> {
    catch_unwind(AssertUnwindSafe(call)).unwrap_or_else(|panic| {
        let text = panic.downcast_ref::<String>().map(String::as_str);
        let text = text.or_else(|| panic.downcast_ref::<&str>().copied()).unwrap_or("the engine failed");
        Err(redb::Error::Corrupted(text.to_owned()))
    })
}

/// Closes the file after a failure, whatever the engine thinks of it.
pub(super) fn close(database: Option<Database>) {
    // What it failed with is known by now.
    drop(contained(|| {
        drop(database);
        Ok(())
    }));
}

impl File {
    pub(super) fn new(path: &Path, cache_bytes: usize) -> Self {
        let opener = |builder: &mut Builder, path: &Path| {
            let mut options = OpenOptions::new();
            let file = options.read(true).write(true).create(true).truncate(false).mode(0o600).open(path)?;
            builder.create_with_backend(Disk::new(file)?)
        };
        Self { path: path.to_owned(), cache_bytes, opener: Box::new(opener) }
    }

    #[cfg(test)]
    pub(super) fn on(opener: Opener) -> Self {
        Self { path: PathBuf::new(), cache_bytes: 1 << 20, opener }
    }

    pub(super) fn place(&self) -> String {
        self.path.display().to_string()
    }

    /// An error of the engine in this room's words.
    pub(super) fn failed(&self, doing: &'static str, error: &redb::Error) -> Error {
        let damaged = |reason: String| Error::Damaged { place: self.place(), reason };
        match error {
            redb::Error::Corrupted(reason) => damaged(reason.clone()),
            redb::Error::Io(error)
                if matches!(error.kind(), ErrorKind::InvalidData | ErrorKind::UnexpectedEof) =>
            {
                damaged(error.to_string())
            }
            other => Error::Storage { doing, place: self.place(), reason: other.to_string() },
        }
    }

    /// Lets the kernel forget what it holds of the file: after a failed flush it calls pages clean that are not on the disk
    /// (fsync(2)), and what is opened then must be what is there.
    pub(super) fn drop_cached(&self) {
        if let Ok(file) = std::fs::File::open(&self.path) {
            // Where it cannot be asked, the check of the pages is all there is.
            let _ = rustix::fs::fadvise(&file, 0, None, rustix::fs::Advice::DontNeed);
        }
    }

    /// Opens the file, or makes it, and checks every page of it.
    pub(super) fn open(&self) -> Result<Database, Error> {
        let opened = contained(|| self.open_or_make()).map_err(|error| self.failed("open", &error))?;
        opened.map_err(|format| {
            let reason = format!("it has format {format}, this program knows format {FORMAT_VERSION}");
            Error::Storage { doing: "open", place: self.place(), reason }
        })
    }

    /// The database, or which other format it has.
    fn open_or_make(&self) -> Engine<Result<Database, u64>> {
        let mut builder = Builder::new();
        builder.set_cache_size(self.cache_bytes).set_check_integrity_on_open(true);
        let (database, format) = match std::fs::metadata(&self.path) {
            Err(error) if error.kind() == ErrorKind::NotFound && !self.path.as_os_str().is_empty() => {
                self.make(&mut builder)?
            }
            Ok(file) if file.len() == 0 => return Err(redb::Error::Corrupted("it is empty".to_owned())),
            _ => {
                let database = (self.opener)(&mut builder, &self.path)?;
                let format = prepare(&database)?;
                (database, format)
            }
        };
        Ok(if format == FORMAT_VERSION { Ok(database) } else { Err(format) })
    }

    /// Makes the file under another name, so that one cut short is never met under its own.
    fn make(&self, builder: &mut Builder) -> Engine<(Database, u64)> {
        let draft = self.path.with_extension("new");
        match std::fs::remove_file(&draft) {
            Err(error) if error.kind() != ErrorKind::NotFound => return Err(error.into()),
            _ => {}
        }
        let database = (self.opener)(builder, &draft)?;
        let format = prepare(&database)?;
        std::fs::rename(&draft, &self.path)?;
        let folder = self.path.parent().filter(|folder| !folder.as_os_str().is_empty());
        std::fs::File::open(folder.unwrap_or(Path::new(".")))?.sync_all()?;
        Ok((database, format))
    }

    /// Reads from `database`.
    pub(super) fn read<T>(
        &self,
        database: &Database,
        read: impl FnOnce(&ReadTransaction) -> Engine<T>,
    ) -> Result<T, Error> {
        contained(|| read(&database.begin_read()?)).map_err(|error| self.failed("read", &error))
    }
}

/// Makes the tables of a new file; gives the format.
fn prepare(database: &Database) -> Engine<u64> {
    let transaction = database.begin_write()?;
    let known = transaction.open_table(META)?.get(FORMAT)?.map(|format| format.value());
    match known {
        None => {
            transaction.open_table(KEYS)?;
            transaction.open_table(META)?.insert(FORMAT, FORMAT_VERSION)?;
            transaction.open_table(META)?.insert(REVISION, 0)?;
            transaction.commit()?;
        }
        Some(FORMAT_VERSION) if transaction.delete_table(LOG)? => transaction.commit()?,
        Some(_) => transaction.abort()?,
    }
    Ok(known.unwrap_or(FORMAT_VERSION))
}

/// The revision the file is at.
pub(super) fn revision(transaction: &ReadTransaction) -> Engine<Revision> {
    Ok(transaction.open_table(META)?.get(REVISION)?.map_or(0, |revision| revision.value()))
}

/// Gives all keys in order, in pieces, until `take` says that it is enough.
pub(super) fn each_piece(
    transaction: &ReadTransaction,
    take: impl FnMut(Vec<KeyValue>) -> bool,
) -> Engine<()> {
    contained(|| read_pieces(transaction, take))
}

fn read_pieces(transaction: &ReadTransaction, mut take: impl FnMut(Vec<KeyValue>) -> bool) -> Engine<()> {
    let (mut piece, mut bytes) = (Vec::new(), 0);
    for entry in transaction.open_table(KEYS)?.iter()? {
        let (key, stored) = entry?;
        let (revision, value) = stored.value().split_first_chunk().ok_or_else(|| {
            redb::Error::Corrupted(format!("the value of {} is cut off", key.value().escape_ascii()))
        })?;
        bytes += value.len();
        piece.push(KeyValue {
            key: Bytes::copy_from_slice(key.value()),
            value: Bytes::copy_from_slice(value),
            revision: Revision::from_be_bytes(*revision),
        });
        if piece.len() == PIECE || bytes >= PIECE_BYTES {
            bytes = 0;
            if !take(std::mem::take(&mut piece)) {
                return Ok(());
            }
        }
    }
    if !piece.is_empty() {
        take(piece);
    }
    Ok(())
}

/// What a group of transactions came to.
#[derive(Debug)]
pub(super) struct Outcome {
    /// The revision after it.
    pub revision: Revision,
    pub changes: Vec<Change>,
    /// By transaction.
    pub results: Vec<Result<Revision, Error>>,
}

/// How far a group came that failed.
pub(super) enum Failure {
    /// Nothing of it is in the file.
    Before(redb::Error),
    /// It may be in the file, and would have come to this.
    During(redb::Error, Outcome),
}

/// Writes a group of transactions in one of the engine's.
pub(super) fn write(
    database: &Database,
    revision: Revision,
    group: &[&[Write]],
) -> Result<Outcome, Box<Failure>> {
    let prepared = contained(|| {
        let mut transaction = database.begin_write()?;
        transaction.set_durability(Durability::Immediate)?;
        let outcome = apply_all(&transaction, revision, group)?;
        Ok((transaction, outcome))
    });
    let (transaction, outcome) = prepared.map_err(|error| Box::new(Failure::Before(error)))?;
    let end = || -> Engine<()> {
        match outcome.changes.is_empty() {
            true => transaction.abort()?,
            false => transaction.commit()?,
        }
        Ok(())
    };
    match contained(end) {
        Ok(()) => Ok(outcome),
        Err(error) if outcome.changes.is_empty() => Err(Box::new(Failure::Before(error))),
        Err(error) => Err(Box::new(Failure::During(error, outcome))),
    }
}

fn apply_all(transaction: &WriteTransaction, revision: Revision, group: &[&[Write]]) -> Engine<Outcome> {
    let mut outcome = Outcome { revision, changes: Vec::new(), results: Vec::with_capacity(group.len()) };
    let mut keys = transaction.open_table(KEYS)?;
    for writes in group {
        let result = apply(&mut keys, writes, outcome.revision, &mut outcome.changes)?;
        if let Ok(revision) = result {
            outcome.revision = revision;
        }
        outcome.results.push(result);
    }
    if !outcome.changes.is_empty() {
        transaction.open_table(META)?.insert(REVISION, outcome.revision)?;
    }
    Ok(outcome)
}

/// Checks every expectation, then writes; nothing is written when one fails.
fn apply(
    keys: &mut Table<'_, &'static [u8], &'static [u8]>,
    writes: &[Write],
    at: Revision,
    changes: &mut Vec<Change>,
) -> Engine<Result<Revision, Error>> {
    let mut changing = Vec::with_capacity(writes.len());
    for (index, write) in writes.iter().enumerate() {
        let current = keys.get(&write.key[..])?.map(|stored| revision_of(stored.value()));
        if !write.expect.holds(current) {
            return Ok(Err(Error::Conflict { write: index, current }));
        }
        changing.extend((write.value.is_some() || current.is_some()).then_some(write));
    }
    if changing.is_empty() {
        return Ok(Ok(at));
    }
    let revision = at + 1;
    for write in changing {
        match &write.value {
            Some(value) => insert(keys, &write.key, value, revision)?,
            None => drop(keys.remove(&write.key[..])?),
        }
        changes.push(Change { key: write.key.clone(), value: write.value.clone(), revision });
    }
    Ok(Ok(revision))
}

fn insert(
    keys: &mut Table<'_, &'static [u8], &'static [u8]>,
    key: &[u8],
    value: &[u8],
    revision: Revision,
) -> Engine<()> {
    let mut stored = Vec::with_capacity(8 + value.len());
    stored.extend_from_slice(&revision.to_be_bytes());
    stored.extend_from_slice(value);
    keys.insert(key, stored.as_slice())?;
    Ok(())
}

fn revision_of(stored: &[u8]) -> Revision {
    stored.first_chunk().map_or(0, |first| Revision::from_be_bytes(*first))
}

/// Puts keys of elsewhere into a new file, as they are; what they are at becomes `revision`.
pub(super) fn fill(
    database: &Database,
    mut next: impl FnMut() -> Result<Option<Vec<KeyValue>>, Error>,
    revision: Revision,
    failed: impl Fn(&redb::Error) -> Error,
) -> Result<(), Error> {
    while let Some(piece) = next()? {
        let write = || -> Engine<()> {
            let transaction = database.begin_write()?;
            let mut keys = transaction.open_table(KEYS)?;
            for key in &piece {
                insert(&mut keys, &key.key, &key.value, key.revision)?;
            }
            drop(keys);
            transaction.commit()?;
            Ok(())
        };
        contained(write).map_err(|error| failed(&error))?;
    }
    let end = || -> Engine<()> {
        let transaction = database.begin_write()?;
        transaction.open_table(META)?.insert(REVISION, revision)?;
        transaction.commit()?;
        Ok(())
    };
    contained(end).map_err(|error| failed(&error))
}
