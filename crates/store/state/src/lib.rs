//! Versioned keys with compare-and-swap transactions and an ordered feed of changes.
//!
//! Keys are ordered bytes; one revision counts every transaction. Nothing is acknowledged before it
//! is on disk, and every subscriber has seen a change before the writer hears of it. This room does
//! not know what keys or values mean.

mod embedded;

use std::{future::Future, path::PathBuf, pin::Pin};

use bytes::Bytes;

pub use embedded::{Embedded, Options};

/// Counts transactions; 0 is before the first.
pub type Revision = u64;

/// A key with its value as it was last written.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct KeyValue {
    /// The key.
    pub key: Bytes,
    /// The value.
    pub value: Bytes,
    /// Revision of the transaction that wrote the value.
    pub revision: Revision,
}

/// What a key must look like for a transaction to go through.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Expect {
    /// Anything.
    Any,
    /// The key is not there.
    Absent,
    /// The key was last written by this revision.
    At(Revision),
}

/// One write of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Write {
    /// The key to write.
    pub key: Bytes,
    /// The new value, or `None` to delete the key.
    pub value: Option<Bytes>,
    /// What the key must look like before.
    pub expect: Expect,
}

/// One write as it happened.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Change {
    /// The key.
    pub key: Bytes,
    /// The new value, or `None` when deleted.
    pub value: Option<Bytes>,
    /// The transaction's revision.
    pub revision: Revision,
}

/// Why a transaction did not go through, or the store cannot be used.
#[derive(Debug, Clone, thiserror::Error)]
pub enum Error {
    /// A key was not as expected; nothing was written.
    #[error("the key changed: it is now at revision {current:?}")]
    Conflict {
        /// Which write of the transaction, from 0.
        write: usize,
        /// The key's revision now, `None` when it is not there.
        current: Option<Revision>,
    },
    /// The changes since a revision are no longer kept.
    #[error("changes since revision {asked} are gone: the oldest kept is {oldest}")]
    Compacted {
        /// Revision asked for.
        asked: Revision,
        /// Oldest revision whose change is kept.
        oldest: Revision,
    },
    /// The file cannot be read or written. Nothing of the transaction is kept.
    #[error("cannot {doing} the state file {path}: {reason}")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// The file.
        path: PathBuf,
        /// The engine's words.
        reason: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A future of the store's.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// Gets every change in order of revision, before its writer is told.
pub type Subscriber = Box<dyn FnMut(&[Change]) + Send>;

/// A store of versioned keys. The conformance tests in `tests/` hold for every implementation.
pub trait Store: Send + Sync + 'static {
    /// Every key that starts with `prefix`, in order, with the revision this is true at.
    ///
    /// # Errors
    /// When the store cannot be read.
    fn load(&self, prefix: &[u8]) -> Result<(Revision, Vec<KeyValue>), Error>;

    /// The kept changes after revision `since`, in order.
    ///
    /// # Errors
    /// [`Error::Compacted`] when some of them are gone.
    fn changes(&self, since: Revision) -> Result<Vec<Change>, Error>;

    /// Writes all or nothing; resolves to the new revision once it is durable and seen by every
    /// subscriber.
    fn commit(&self, writes: Vec<Write>) -> Pending<Revision>;

    /// Feeds `subscriber` with every change from here on.
    fn subscribe(&self, subscriber: Subscriber);
}
