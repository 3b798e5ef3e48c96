//! All keys as of one revision, read in pages.

use std::sync::Arc;

use bytes::Bytes;
use wharf_state::{Error, KeyValue, Revision};

use crate::{
    grpc::{Failure, Grpc, code},
    txn::{end_of, revision_of, signed, unsigned},
    v3::{RangeRequest, RangeResponse},
};

/// Keys of a page.
const PAGE: i64 = 1000;

/// Reads page after page.
pub(crate) struct Pages {
    grpc: Arc<Grpc>,
    prefix: Bytes,
    next: Option<Bytes>,
    /// What everything is read at; 0 before the first page.
    revision: Revision,
    limit: i64,
}

impl Pages {
    pub(crate) fn new(grpc: Arc<Grpc>, prefix: Bytes) -> Self {
        Self { grpc, next: Some(prefix.clone()), prefix, revision: 0, limit: PAGE }
    }

    /// The revision of what was read.
    pub(crate) fn revision(&self) -> Revision {
        self.revision
    }

    /// The next keys, without the prefix; nothing at the end.
    pub(crate) async fn next(&mut self) -> Result<Option<Vec<KeyValue>>, Failure> {
        let Some(from) = self.next.clone() else { return Ok(None) };
        let found = self.read(from).await?;
        if self.revision == 0 {
            self.revision = revision_of(found.header.as_ref());
        }
        let last = found.kvs.last().map(|kv| kv.key.clone());
        self.next = last.filter(|_| found.more).map(|key| [&key[..], b"\0"].concat().into());
        let own = |key: Bytes| key.starts_with(&self.prefix).then(|| key.slice(self.prefix.len()..));
        let keys = found.kvs.into_iter().filter_map(|kv| {
            Some(KeyValue { key: own(kv.key)?, value: kv.value, revision: unsigned(kv.mod_revision) })
        });
        Ok(Some(keys.collect()))
    }

    /// A page, as large as one message may be.
    async fn read(&mut self, key: Bytes) -> Result<RangeResponse, Failure> {
        loop {
            let request = RangeRequest {
                key: key.clone(),
                range_end: end_of(&self.prefix),
                limit: self.limit,
                revision: signed(self.revision),
                keys_only: false,
            };
            match self.grpc.unary("/etcdserverpb.KV/Range", &request).await {
                Err(failure) if failure.code == Some(code::RESOURCE_EXHAUSTED) && self.limit > 1 => {
                    // Zero would be no limit at all.
                    self.limit = (self.limit / 4).max(1);
                }
                answered => return answered,
            }
        }
    }

    pub(crate) fn failed(&self, failure: &Failure) -> Error {
        Error::Storage { doing: "read", place: self.grpc.place(), reason: failure.message.clone() }
    }
}
