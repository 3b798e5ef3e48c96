//! A disk in memory that breaks when it is told to.

use std::{
    io,
    path::Path,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use redb::{Builder, StorageBackend};

use super::super::file::{File, Opener};
use crate::testsuite::Random;

const SECTOR: usize = 512;

/// Something that was asked of the disk and not flushed yet.
#[derive(Debug, Clone)]
enum Waiting {
    Write(usize, Vec<u8>),
    Length(usize),
}

#[derive(Debug, Default)]
struct Inner {
    /// What is there, whatever happens.
    flushed: Vec<u8>,
    waiting: Vec<Waiting>,
    /// What is read.
    now: Vec<u8>,
    /// Writes, changes of length and flushes so far.
    operations: usize,
    faults: Faults,
}

/// What goes wrong.
#[derive(Debug, Default, Clone, Copy)]
pub(super) struct Faults {
    /// The power goes at this operation, and nothing works from there on.
    pub cut_at: Option<usize>,
    /// This operation fails, and those after it work.
    pub fail_at: Option<usize>,
    /// Bytes of the disk.
    pub size: Option<usize>,
}

/// The disk. Clones are the same.
#[derive(Debug, Clone, Default)]
pub(super) struct Disk(Arc<Mutex<Inner>>);

fn apply(bytes: &mut Vec<u8>, waiting: &Waiting) {
    match waiting {
        Waiting::Length(length) => bytes.resize(*length, 0),
        Waiting::Write(at, data) => {
            if bytes.len() < at + data.len() {
                bytes.resize(at + data.len(), 0);
            }
            bytes[*at..at + data.len()].copy_from_slice(data);
        }
    }
}

impl Disk {
    pub(super) fn of(bytes: Vec<u8>) -> Self {
        Self(Arc::new(Mutex::new(Inner { flushed: bytes.clone(), now: bytes, ..Inner::default() })))
    }

    fn inner(&self) -> MutexGuard<'_, Inner> {
        self.0.lock().unwrap_or_else(PoisonError::into_inner)
    }

    pub(super) fn file(&self) -> File {
        let disk = self.clone();
        let opener: Opener =
            Box::new(move |builder: &mut Builder, _: &Path| builder.create_with_backend(disk.clone()));
        File::on(opener)
    }

    pub(super) fn operations(&self) -> usize {
        self.inner().operations
    }

    pub(super) fn bytes(&self) -> Vec<u8> {
        self.inner().now.clone()
    }

    pub(super) fn set(&self, faults: Faults) {
        self.inner().faults = faults;
    }

    /// What may be on the disk when the power goes now: of what was not flushed some, each sector for itself.
    pub(super) fn cut(&self, random: &mut Random) -> Self {
        let inner = self.inner();
        let mut bytes = inner.flushed.clone();
        for waiting in &inner.waiting {
            match (waiting, random.below(4)) {
                (_, 0) => {}
                (Waiting::Write(at, data), 1) => {
                    for (number, sector) in data.chunks(SECTOR).enumerate() {
                        if random.below(2) == 0 {
                            apply(&mut bytes, &Waiting::Write(at + number * SECTOR, sector.to_vec()));
                        }
                    }
                }
                (waiting, _) => apply(&mut bytes, waiting),
            }
        }
        Self::of(bytes)
    }

    /// Counts an operation, which may be one that fails.
    fn operate(&self) -> io::Result<MutexGuard<'_, Inner>> {
        let mut inner = self.inner();
        inner.operations += 1;
        let Faults { cut_at, fail_at, .. } = inner.faults;
        if cut_at.is_some_and(|at| inner.operations >= at) {
            return Err(io::Error::other("the power is off"));
        }
        if fail_at == Some(inner.operations) {
            return Err(io::Error::from_raw_os_error(5));
        }
        Ok(inner)
    }
}

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        Ok(self.inner().now.len() as u64)
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        let inner = self.inner();
        if inner.faults.cut_at.is_some_and(|at| inner.operations >= at) {
            return Err(io::Error::other("the power is off"));
        }
        let offset = usize::try_from(offset).map_err(io::Error::other)?;
        let found = offset.checked_add(out.len()).and_then(|end| inner.now.get(offset..end));
        out.copy_from_slice(found.ok_or(io::ErrorKind::UnexpectedEof)?);
        Ok(())
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let mut inner = self.operate()?;
        let length = usize::try_from(len).map_err(io::Error::other)?;
        if inner.faults.size.is_some_and(|size| length > size) {
            return Err(io::Error::from_raw_os_error(28));
        }
        let waiting = Waiting::Length(length);
        apply(&mut inner.now, &waiting);
        inner.waiting.push(waiting);
        Ok(())
    }

    fn sync_data(&self) -> io::Result<()> {
        let mut inner = self.operate()?;
        inner.flushed = inner.now.clone();
        inner.waiting.clear();
        Ok(())
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        let mut inner = self.operate()?;
        let waiting = Waiting::Write(usize::try_from(offset).map_err(io::Error::other)?, data.to_vec());
        apply(&mut inner.now, &waiting);
        inner.waiting.push(waiting);
        Ok(())
    }
}
