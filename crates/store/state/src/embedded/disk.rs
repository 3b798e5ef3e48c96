//! The file below the engine.

use std::{fs::File, io, ops::Bound};

use redb::{BackendError, DatabaseError, StorageBackend, backends::FileBackend};
use rustix::fs::{FallocateFlags, fallocate};

/// A file whose space is taken when it grows, so that a full disk is met before a transaction is
/// being committed and never while one is undone.
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
        if len > now {
            match fallocate(&self.file, FallocateFlags::empty(), now, len - now) {
                // The file system cannot; growing without is what every program does there.
                Ok(()) | Err(rustix::io::Errno::OPNOTSUPP) => {}
                Err(error) => {
                    // A part of it may have been given.
                    self.engine.set_len(now)?;
                    return Err(error.into());
                }
            }
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
