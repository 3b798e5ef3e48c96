//! A transaction in etcd's words, and its answer in the store's.

use bytes::{BufMut as _, Bytes, BytesMut};
use wharf_state::{Error, Expect, Revision, Write};

use crate::{
    grpc::{Failure, code},
    owner::{Owner, unchanged},
    v3::{
        DeleteRangeRequest, PutRequest, RangeRequest, Request, RequestOp, Response, ResponseHeader,
        TxnRequest, TxnResponse,
    },
};

/// The key of etcd for one of the store.
pub(crate) fn full(prefix: &[u8], key: &[u8]) -> Bytes {
    let mut full = BytesMut::with_capacity(prefix.len() + key.len());
    full.put_slice(prefix);
    full.put_slice(key);
    full.freeze()
}

/// The key after all that begin with `prefix`.
pub(crate) fn end_of(prefix: &[u8]) -> Bytes {
    let mut end = prefix.to_vec();
    while let Some(last) = end.pop() {
        if last < u8::MAX {
            end.push(last + 1);
            return end.into();
        }
    }
    // To the end of all keys.
    Bytes::from_static(b"\0")
}

/// A revision in etcd's form.
pub(crate) fn signed(revision: Revision) -> i64 {
    i64::try_from(revision).unwrap_or(i64::MAX)
}

/// A revision of etcd's.
pub(crate) fn unsigned(revision: i64) -> Revision {
    Revision::try_from(revision).unwrap_or(0)
}

/// The revision an answer was made at.
pub(crate) fn revision_of(header: Option<&ResponseHeader>) -> Revision {
    header.map_or(0, |header| unsigned(header.revision))
}

/// Writes when all is as expected, and otherwise looks what is not.
pub(crate) fn request(prefix: &[u8], owner: Option<&Owner>, writes: &[Write]) -> TxnRequest {
    let mut request = TxnRequest {
        compare: owner.map(Owner::condition).into_iter().collect(),
        success: Vec::new(),
        failure: owner.map(Owner::look).into_iter().collect(),
    };
    for write in writes {
        let key = full(prefix, &write.key);
        let expected = match write.expect {
            Expect::Any => None,
            Expect::Absent => Some(0),
            Expect::At(revision) => Some(signed(revision)),
        };
        request.compare.extend(expected.map(|revision| unchanged(&key, revision)));
        let look = RangeRequest { key: key.clone(), keys_only: true, ..RangeRequest::default() };
        request.failure.push(RequestOp { request: Some(Request::Range(look)) });
        let change = match &write.value {
            Some(value) => Request::Put(PutRequest { key, value: value.clone(), lease: 0 }),
            None => Request::DeleteRange(DeleteRangeRequest { key }),
        };
        request.success.push(RequestOp { request: Some(change) });
    }
    request
}

/// What came of a transaction.
#[derive(Debug, Clone, PartialEq, Eq)]
pub(crate) struct Committed {
    pub revision: Revision,
    /// Whether the watch will bring something.
    pub changed: bool,
}

/// Reads the answer; nothing when it is none to these writes.
pub(crate) fn outcome(
    owner: Option<&Owner>,
    writes: &[Write],
    response: &TxnResponse,
) -> Option<Result<Committed, Error>> {
    let revision = revision_of(response.header.as_ref());
    let mut responses = &response.responses[..];
    if let Some(owner) = owner.filter(|_| !response.succeeded) {
        let (first, rest) = responses.split_first()?;
        if !owner.holds(first.response.as_ref()) {
            let reason = "another platform has taken it over".to_owned();
            return Some(Err(Error::Storage { doing: "write", place: "etcd".to_owned(), reason }));
        }
        responses = rest;
    }
    if responses.len() != writes.len() || revision == 0 {
        return None;
    }
    if response.succeeded {
        let changed = responses.iter().any(|one| match &one.response {
            Some(Response::Put(_)) => true,
            Some(Response::DeleteRange(gone)) => gone.deleted > 0,
            _ => false,
        });
        return Some(Ok(Committed { revision, changed }));
    }
    for (index, (write, one)) in writes.iter().zip(responses).enumerate() {
        let Some(Response::Range(found)) = &one.response else { return None };
        let current = found.kvs.first().map(|kv| unsigned(kv.mod_revision));
        if !write.expect.holds(current) {
            return Some(Err(Error::Conflict { write: index, current }));
        }
    }
    None
}

/// Why a write failed, and above all whether it may have gone through all the same.
pub(crate) fn failed(place: String, failure: &Failure) -> Error {
    let message = failure.message.clone();
    let storage = |reason: String| Error::Storage { doing: "write", place: place.clone(), reason };
    match failure.code {
        None if failure.unsent => storage(message),
        Some(code::INVALID_ARGUMENT) => Error::Refused { reason: message },
        Some(code::RESOURCE_EXHAUSTED) if message.contains("larger than") => {
            Error::Refused { reason: message }
        }
        Some(code::RESOURCE_EXHAUSTED) if message.contains("space exceeded") => storage(format!(
            "its database is full ({message}): compact and defragment it with etcdctl, or raise \
             --quota-backend-bytes, and disarm the alarm"
        )),
        Some(
            code::RESOURCE_EXHAUSTED
            | code::PERMISSION_DENIED
            | code::UNAUTHENTICATED
            | code::UNIMPLEMENTED
            | code::DATA_LOSS,
        ) => storage(message),
        _ => Error::Unknown { place, reason: message },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v3::{DeleteRangeResponse, KeyValue, PutResponse, RangeResponse, ResponseOp};

    fn write(key: &'static str, value: Option<&'static str>, expect: Expect) -> Write {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        Write { key: bytes(key), value: value.map(bytes), expect }
    }

    fn response(succeeded: bool, responses: Vec<Response>) -> TxnResponse {
        let responses = responses.into_iter().map(|one| ResponseOp { response: Some(one) }).collect();
        TxnResponse { header: Some(ResponseHeader { cluster_id: 1, revision: 7 }), succeeded, responses }
    }

    fn found(mod_revision: i64) -> Response {
        let kvs = (mod_revision > 0).then(|| KeyValue { mod_revision, ..KeyValue::default() });
        Response::Range(RangeResponse { kvs: kvs.into_iter().collect(), ..RangeResponse::default() })
    }

    #[test]
    fn answers_are_read() {
        let writes = [write("a", Some("1"), Expect::Absent), write("b", None, Expect::Any)];
        let put = || Response::Put(PutResponse {});
        let gone = |deleted| Response::DeleteRange(DeleteRangeResponse { deleted });
        let done = outcome(None, &writes, &response(true, vec![put(), gone(0)])).unwrap().unwrap();
        assert_eq!(done, Committed { revision: 7, changed: true });
        let nothing = outcome(None, &writes[1..], &response(true, vec![gone(0)])).unwrap().unwrap();
        assert_eq!(nothing, Committed { revision: 7, changed: false });
        let conflict =
            outcome(None, &writes, &response(false, vec![found(3), found(0)])).unwrap().unwrap_err();
        assert!(matches!(conflict, Error::Conflict { write: 0, current: Some(3) }), "{conflict}");
        assert!(outcome(None, &writes, &response(false, vec![found(0), found(0)])).is_none());
        assert!(outcome(None, &writes, &response(true, vec![put()])).is_none());
    }

    #[test]
    fn only_what_is_certain_is_called_failed() {
        let said = |code: Option<u32>, unsent: bool, message: &str| {
            failed("etcd at x".to_owned(), &Failure { code, unsent, message: message.to_owned() })
        };
        assert!(matches!(said(None, true, "refused"), Error::Storage { .. }));
        assert!(matches!(said(None, false, "reset"), Error::Unknown { .. }));
        assert!(matches!(said(Some(14), false, "etcdserver: leader changed"), Error::Unknown { .. }));
        assert!(matches!(said(Some(4), false, "deadline"), Error::Unknown { .. }));
        assert!(matches!(said(Some(3), false, "etcdserver: request is too large"), Error::Refused { .. }));
        let full = said(Some(8), false, "etcdserver: mvcc: database space exceeded").to_string();
        assert!(full.contains("its database is full") && full.contains("defragment"), "{full}");
    }

    #[test]
    fn a_prefix_ends_before_the_next_one() {
        assert_eq!(end_of(b"/wharf/"), "/wharf0");
        assert_eq!(end_of(b"a\xff"), "b");
        assert_eq!(end_of(b"\xff"), "\0");
    }
}
