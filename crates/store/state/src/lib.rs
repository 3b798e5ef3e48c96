//! Versioned keys with compare-and-swap transactions and an ordered feed of changes.
//!
//! Keys are ordered bytes; one revision counts the transactions. Nothing is acknowledged before it
//! is on disk, and every subscriber has seen a change before the writer hears of it. A store keeps
//! what keys are now and no history: who follows it keeps as much of the past as is asked of them.
//! This room does not know what keys or values mean.

pub mod backup;
mod embedded;
#[cfg(feature = "testsuite")]
pub mod testsuite;

use std::{future::Future, pin::Pin};

use bytes::Bytes;

pub use embedded::{Content, Embedded, Options, content_of, write_file};

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

impl Expect {
    /// Whether a key that was last written by `current`, or is not there, is as expected.
    pub fn holds(self, current: Option<Revision>) -> bool {
        match self {
            Self::Any => true,
            Self::Absent => current.is_none(),
            Self::At(revision) => current == Some(revision),
        }
    }
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

impl Write {
    /// Refuses what is no transaction: a key must occur once.
    ///
    /// # Errors
    /// [`Error::Refused`].
    pub fn check(writes: &[Self]) -> Result<(), Error> {
        let mut keys = std::collections::HashSet::with_capacity(writes.len());
        match writes.iter().find(|write| !keys.insert(&write.key)) {
            None => Ok(()),
            Some(again) => {
                Err(Error::Refused { reason: format!("the key {} occurs twice", again.key.escape_ascii()) })
            }
        }
    }
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
    /// The store takes no such transaction; nothing was written.
    #[error("the state store refuses the transaction: {reason}")]
    Refused {
        /// Why, with the limit.
        reason: String,
    },
    /// The store cannot be read or written. Nothing of the transaction is kept.
    #[error("cannot {doing} the state in {place}: {reason}")]
    Storage {
        /// What was being done.
        doing: &'static str,
        /// The file or the server.
        place: String,
        /// The engine's words.
        reason: String,
    },
    /// The file is not what was written to it.
    #[error("the state file {place} is damaged: {reason}")]
    Damaged {
        /// The file.
        place: String,
        /// The engine's words.
        reason: String,
    },
    /// Nobody knows whether the transaction went through.
    #[error("{place} did not tell whether the state was written: {reason}")]
    Unknown {
        /// The file or the server.
        place: String,
        /// What happened.
        reason: String,
    },
    /// The store was closed.
    #[error("the store is closed")]
    Closed,
}

/// A future of the store's.
pub type Pending<T> = Pin<Box<dyn Future<Output = Result<T, Error>> + Send>>;

/// Takes in what a store holds and then every change.
pub trait Subscriber: Send + 'static {
    /// Some of the keys there are at the beginning, in order. Called as often as it takes.
    fn load(&mut self, keys: Vec<KeyValue>);

    /// All keys were loaded, as they are at `revision`. Changes follow, and no more keys.
    fn loaded(&mut self, revision: Revision);

    /// Changes in order of revision, all of a transaction at once, before their writers are told.
    ///
    /// Where a store lost sight of some (etcd compacted them while it could not be reached), one
    /// change stands for all that happened to its key meanwhile.
    fn apply(&mut self, changes: &[Change]);
}

/// All keys as of one revision, as a backup takes them.
#[derive(Debug)]
pub struct Snapshot {
    /// The revision everything is at.
    pub revision: Revision,
    pieces: tokio::sync::mpsc::Receiver<Piece>,
}

/// Some of a snapshot's keys in order, or none after the last: a snapshot that ends without that was cut short.
pub type Piece = Result<Option<Vec<KeyValue>>, Error>;

impl Snapshot {
    /// Of what comes through a channel.
    pub const fn new(revision: Revision, pieces: tokio::sync::mpsc::Receiver<Piece>) -> Self {
        Self { revision, pieces }
    }

    /// The next keys; none after the last.
    ///
    /// # Errors
    /// When the rest cannot be read.
    pub async fn next(&mut self) -> Piece {
        self.pieces.recv().await.unwrap_or_else(Self::cut_short)
    }

    /// As [`Snapshot::next`], for those who wait.
    ///
    /// # Errors
    /// As there.
    pub fn blocking_next(&mut self) -> Piece {
        self.pieces.blocking_recv().unwrap_or_else(Self::cut_short)
    }

    fn cut_short() -> Piece {
        let reason = "the reading of it ended early".to_owned();
        Err(Error::Storage { doing: "read", place: "a snapshot".into(), reason })
    }
}

/// A store of versioned keys. Every implementation runs the suite in `testsuite`.
pub trait Store: Send + Sync + 'static {
    /// Gives `subscriber` all there is and from there on every change; resolves once it is loaded.
    ///
    /// Fails when the store cannot be read.
    fn subscribe(&self, subscriber: Box<dyn Subscriber>) -> Pending<()>;

    /// Writes all or nothing; resolves to the transaction's revision once it is durable and seen by
    /// every subscriber. A key may occur once. Deleting what is not there is no change; a
    /// transaction that changes nothing resolves to the revision it found.
    fn commit(&self, writes: Vec<Write>) -> Pending<Revision>;

    /// Reads all keys as of now, beside those who write.
    ///
    /// Fails when the store cannot be read.
    fn snapshot(&self) -> Pending<Snapshot>;
}
