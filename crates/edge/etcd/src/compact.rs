//! etcd keeps every revision until somebody compacts its history. Whoever uses it does so in turn, by one key: what was
//! the newest revision at one compaction is the oldest after the next, as kube-apiserver does it.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use wharf_state::Revision;

use crate::{
    grpc::{Failure, Grpc, code},
    txn::{revision_of, signed},
    v3::{
        CompactionRequest, CompactionResponse, Compare, CompareTarget, PutRequest, RangeRequest, Request,
        RequestOp, Response, TargetUnion, TxnRequest, TxnResponse,
    },
};

/// What one server knows of compactions: how often there was one, and the revision of the last it saw.
#[derive(Debug, Default, Clone, Copy, PartialEq, Eq)]
struct Turn {
    count: i64,
    revision: Revision,
}

/// Compacts every `interval`, or sees that somebody else did.
pub(crate) async fn run(grpc: Arc<Grpc>, key: Bytes, interval: Duration) {
    let mut turn = Turn::default();
    loop {
        tokio::time::sleep(interval).await;
        match compact(&grpc, &key, turn).await {
            Ok(next) => turn = next,
            Err(failure) => {
                tracing::warn!(
                    error = failure.message,
                    "the state's history was not compacted; it is tried again"
                );
            }
        }
    }
}

async fn compact(grpc: &Grpc, key: &Bytes, turn: Turn) -> Result<Turn, Failure> {
    let answer: TxnResponse = grpc.unary("/etcdserverpb.KV/Txn", &claim(key, turn)).await?;
    let next = next(turn, &answer);
    if !answer.succeeded || turn.revision == 0 {
        return Ok(next);
    }
    let request = CompactionRequest { revision: signed(turn.revision) };
    match grpc.unary::<CompactionResponse>("/etcdserverpb.KV/Compact", &request).await {
        Err(failure) if failure.code != Some(code::OUT_OF_RANGE) => Err(failure),
        // Somebody went further already.
        _ => Ok(next),
    }
}

/// Claims the turn after `turn`, unless it was claimed.
fn claim(key: &Bytes, turn: Turn) -> TxnRequest {
    let value = turn.revision.to_string().into();
    let put = Request::Put(PutRequest { key: key.clone(), value, lease: 0 });
    let get = Request::Range(RangeRequest { key: key.clone(), ..RangeRequest::default() });
    TxnRequest {
        compare: vec![Compare {
            target: CompareTarget::Version.into(),
            key: key.clone(),
            target_union: Some(TargetUnion::Version(turn.count)),
        }],
        success: vec![RequestOp { request: Some(put) }],
        failure: vec![RequestOp { request: Some(get) }],
    }
}

fn next(turn: Turn, answer: &TxnResponse) -> Turn {
    let revision = revision_of(answer.header.as_ref());
    if answer.succeeded {
        return Turn { count: turn.count + 1, revision };
    }
    let found = answer.responses.iter().find_map(|one| match &one.response {
        Some(Response::Range(found)) => found.kvs.first(),
        _ => None,
    });
    Turn { count: found.map_or(0, |kv| kv.version), revision }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v3::{KeyValue, RangeResponse, ResponseHeader, ResponseOp};

    #[test]
    fn whoever_comes_second_waits_for_the_next_turn() {
        let header = |revision| Some(ResponseHeader { cluster_id: 1, revision });
        let won = TxnResponse { header: header(50), succeeded: true, responses: Vec::new() };
        assert_eq!(next(Turn { count: 3, revision: 20 }, &won), Turn { count: 4, revision: 50 });
        let kv = KeyValue { version: 9, ..KeyValue::default() };
        let found = RangeResponse { kvs: vec![kv], ..RangeResponse::default() };
        let responses = vec![ResponseOp { response: Some(Response::Range(found)) }];
        let lost = TxnResponse { header: header(60), succeeded: false, responses };
        assert_eq!(next(Turn { count: 3, revision: 20 }, &lost), Turn { count: 9, revision: 60 });
    }
}
