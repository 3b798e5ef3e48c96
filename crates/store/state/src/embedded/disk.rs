//! The file below the engine.

use std::{fs::File, io, ops::Bound};

use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};
use rustix::fs::{FallocateFlags, fallocate};

/// Bytes that must be there when a file grows. The engine doubles it, for which there may be no room, and not be any need.
const RESERVE: u64 = 16 << 20;

/// A file whose space is taken when it grows, so that a full disk is met before a transaction is being committed, and
/// not while one is undone.
#[derive(Debug)]
pub(super) struct Disk {
    file: File,
    engine: FileBackend,
}

impl Disk {
    pub(super) fn new(file: File) -> Result<Self, DatabaseError> {
        let engine = FileBackend::new(file.try_clone()?)?;
        Ok(Self { file, engine })
    }

    /// Takes space at the end of the file.
    fn take(&self, from: u64, length: u64) -> rustix::io::Result<()> {
        if length == 0 {
            return Ok(());
        }
        match fallocate(&self.file, FallocateFlags::empty(), from, length) {
            // The file system cannot; growing without is what every program does there.
            Err(rustix::io::Errno::OPNOTSUPP) => Ok(()),
            taken => taken,
        }
    }
}

type Lock<T> = Result<T, BackendError>;

impl StorageBackend for Disk {
    fn len(&self) -> io::Result<u64> {
        self.engine.len()
    }

    fn read(&self, offset: u64, out: &mut [u8]) -> io::Result<()> {
        self.engine.read(offset, out)
    }

    fn set_len(&self, len: u64) -> io::Result<()> {
        let now = self.engine.len()?;
        let growth = len.saturating_sub(now);
        let taken = match self.take(now, growth) {
            Err(rustix::io::Errno::NOSPC) if growth > RESERVE => self.take(now, RESERVE),
            taken => taken,
        };
        if let Err(error) = taken {
            // A part of it may have been given.
            self.engine.set_len(now.min(len))?;
            return Err(error.into());
        }
        self.engine.set_len(len)
    }

    fn sync_data(&self) -> io::Result<()> {
        self.engine.sync_data()
    }

    fn write(&self, offset: u64, data: &[u8]) -> io::Result<()> {
        self.engine.write(offset, data)
    }

    fn close(&self) -> io::Result<()> {
        self.engine.close()
    }

    fn try_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Lock<bool> {
        self.engine.try_lock_range(start, end)
    }

    fn try_lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Lock<bool> {
        self.engine.try_lock_shared_range(start, end)
    }

    fn lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Lock<()> {
        self.engine.lock_range(start, end)
    }

    fn lock_shared_range(&self, start: Bound<u64>, end: Bound<u64>) -> Lock<()> {
        self.engine.lock_shared_range(start, end)
    }

    fn unlock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Lock<()> {
        self.engine.unlock_range(start, end)
    }

    fn query_lock_range(&self, start: Bound<u64>, end: Bound<u64>) -> Lock<bool> {
        self.engine.query_lock_range(start, end)
    }
}
