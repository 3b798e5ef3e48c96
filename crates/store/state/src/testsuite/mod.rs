//! What every store must do. [`conformance!`](crate::conformance) makes tests of it.

#![allow(clippy::unwrap_used)] // a test, which panics where others give errors

mod cases;
mod check;
mod history;

use std::sync::{Arc, Mutex, MutexGuard, PoisonError};

use bytes::Bytes;
use tokio::runtime::Runtime;

use crate::{Change, Error, Expect, KeyValue, Revision, Store, Subscriber, Write};

pub use cases::*;
pub use check::{Call, History, Outcome, check};
pub use history::{Recorder, Workload, random_writes};

/// A store under test with all it stands on, which goes with it.
pub trait Instance {
    /// The store.
    fn store(&self) -> Arc<dyn Store>;

    /// The store closed and opened again.
    fn reopen(self: Box<Self>) -> Box<dyn Instance>;
}

/// Makes an instance without keys.
pub type Fresh<'a> = &'a dyn Fn(&Runtime) -> Box<dyn Instance>;

/// Makes a test of each case of the suite; `$fresh` is a function as [`Fresh`](crate::testsuite::Fresh).
#[macro_export]
macro_rules! conformance {
    ($fresh:path) => {
        $crate::conformance!(@ $fresh:
            expectations_guard_writes
            a_transaction_is_whole_or_nothing
            keys_are_any_bytes_in_order
            what_changes_nothing_is_no_change
            a_key_occurs_once
            everything_acknowledged_is_there_after_reopening
            a_subscriber_that_comes_late_misses_nothing
            a_snapshot_is_of_one_moment
            many_keys_are_loaded_and_read_whole
            histories_are_linearizable
        );
    };
    (@ $fresh:path: $($case:ident)*) => {
        $(
            #[test]
            fn $case() {
                $crate::testsuite::$case(&$fresh);
            }
        )*
    };
}

/// A write that puts.
pub fn put(key: &str, value: &str, expect: Expect) -> Write {
    Write {
        key: Bytes::copy_from_slice(key.as_bytes()),
        value: Some(Bytes::copy_from_slice(value.as_bytes())),
        expect,
    }
}

/// A write that deletes.
pub fn delete(key: &str, expect: Expect) -> Write {
    Write { key: Bytes::copy_from_slice(key.as_bytes()), value: None, expect }
}

/// All keys, and the revision they are at.
pub async fn snapshot(store: &dyn Store) -> Result<(Revision, Vec<KeyValue>), Error> {
    let mut snapshot = store.snapshot().await?;
    let mut keys = Vec::new();
    while let Some(piece) = snapshot.next().await? {
        keys.extend(piece);
    }
    Ok((snapshot.revision, keys))
}

/// What a subscriber was given.
#[derive(Debug, Clone, Default)]
pub struct Seen {
    inner: Arc<Mutex<Given>>,
}

/// Inside of [`Seen`].
#[derive(Debug, Default)]
pub struct Given {
    /// Keys of the beginning.
    pub loaded: Vec<KeyValue>,
    /// What they were at; nothing before all were there.
    pub at: Option<Revision>,
    /// All changes.
    pub changes: Vec<Change>,
}

impl Seen {
    /// A look at it.
    pub fn get(&self) -> MutexGuard<'_, Given> {
        self.inner.lock().unwrap_or_else(PoisonError::into_inner)
    }
}

impl Given {
    /// The newest revision that was told of.
    pub fn revision(&self) -> Revision {
        self.changes.last().map_or(self.at.unwrap_or(0), |change| change.revision)
    }
}

impl Subscriber for Seen {
    fn load(&mut self, keys: Vec<KeyValue>) {
        let mut given = self.get();
        assert_eq!(given.at, None, "keys after all were loaded");
        given.loaded.extend(keys);
    }

    fn loaded(&mut self, revision: Revision) {
        assert_eq!(self.get().at.replace(revision), None, "loaded twice");
    }

    fn apply(&mut self, changes: &[Change]) {
        let mut given = self.get();
        let mut last = given.revision();
        assert!(given.at.is_some() && !changes.is_empty());
        for (index, change) in changes.iter().enumerate() {
            let next = change.revision > last || (index > 0 && change.revision == last);
            assert!(next, "revision {} after {last}", change.revision);
            last = change.revision;
        }
        given.changes.extend_from_slice(changes);
    }
}

/// xorshift64*, so that a seed says all.
#[derive(Debug)]
pub struct Random(pub u64);

impl Random {
    /// A number below `limit`.
    pub fn below(&mut self, limit: usize) -> usize {
        self.0 ^= self.0 >> 12;
        self.0 ^= self.0 << 25;
        self.0 ^= self.0 >> 27;
        (self.0.wrapping_mul(0x2545_f491_4f6c_dd1d) >> 11) as usize % limit
    }
}
