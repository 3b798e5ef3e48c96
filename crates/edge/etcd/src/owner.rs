//! One platform for each prefix.
//!
//! What a platform hands out of its memory, such as addresses of Services, must not be handed out by another one. So the
//! prefix has an owner, by two keys: `owner` says who, and stays; `alive` goes with a lease when nobody renews it. Every
//! transaction is made under the condition that `owner` is still as its platform wrote it: one that was thought dead, and
//! is replaced, writes no more.

use std::{
    sync::{
        Arc,
        atomic::{AtomicI64, Ordering},
    },
    time::Duration,
};

use bytes::Bytes;

use crate::{
    grpc::{Failure, Grpc, encode},
    txn,
    v3::{
        Compare, CompareTarget, LeaseGrantRequest, LeaseGrantResponse, LeaseKeepAliveRequest,
        LeaseKeepAliveResponse, PutRequest, RangeRequest, Request, RequestOp, Response, TargetUnion,
        TxnRequest, TxnResponse,
    },
};

/// How long an owner may be silent, in seconds.
const LIFE: i64 = 15;

/// Who has a prefix: this platform.
#[derive(Debug)]
pub(crate) struct Owner {
    name: Bytes,
    owner: Bytes,
    alive: Bytes,
    /// The revision by which it became the owner.
    since: i64,
    lease: AtomicI64,
}

/// Why a prefix cannot be had.
pub(crate) enum Refused {
    /// Somebody has it.
    Taken(String),
    Failed(Failure),
}

impl From<Failure> for Refused {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

fn get(key: &Bytes) -> RequestOp {
    let request = RangeRequest { key: key.clone(), ..RangeRequest::default() };
    RequestOp { request: Some(Request::Range(request)) }
}

fn put(key: &Bytes, value: &Bytes, lease: i64) -> RequestOp {
    let request = PutRequest { key: key.clone(), value: value.clone(), lease };
    RequestOp { request: Some(Request::Put(request)) }
}

/// The condition that a key was last written by a revision; by 0 when it is not there.
pub(crate) fn unchanged(key: &Bytes, revision: i64) -> Compare {
    Compare {
        target: CompareTarget::Mod.into(),
        key: key.clone(),
        target_union: Some(TargetUnion::ModRevision(revision)),
    }
}

/// The value and revision of the first key that was read.
fn found(answer: &TxnResponse) -> Option<(Bytes, i64)> {
    answer.responses.iter().find_map(|one| match &one.response {
        Some(Response::Range(found)) => found.kvs.first().map(|kv| (kv.value.clone(), kv.mod_revision)),
        _ => None,
    })
}

async fn granted(grpc: &Grpc) -> Result<i64, Failure> {
    let request = LeaseGrantRequest { ttl: LIFE };
    Ok(grpc.unary::<LeaseGrantResponse>("/etcdserverpb.Lease/LeaseGrant", &request).await?.id)
}

impl Owner {
    /// Takes the prefix, unless somebody of another name has it who is alive.
    pub(crate) async fn claim(grpc: &Grpc, prefix: &[u8], name: &str) -> Result<Self, Refused> {
        let (owner, alive) = (txn::full(prefix, b"owner"), txn::full(prefix, b"alive"));
        let name = Bytes::copy_from_slice(name.as_bytes());
        let lease = granted(grpc).await?;
        let mut known = 0;
        // Who had it under the same name is gone: this is that platform, started again.
        for _ in 0..2 {
            let request = TxnRequest {
                compare: vec![unchanged(&alive, known)],
                success: vec![put(&owner, &name, 0), put(&alive, &name, lease)],
                failure: vec![get(&alive)],
            };
            let answer: TxnResponse = grpc.unary("/etcdserverpb.KV/Txn", &request).await?;
            let header = answer.header.as_ref();
            if answer.succeeded {
                let since = header.map_or(0, |header| header.revision);
                return Ok(Self { name, owner, alive, since, lease: AtomicI64::new(lease) });
            }
            match found(&answer) {
                Some((holder, revision)) if holder == name => known = revision,
                Some((holder, _)) => {
                    return Err(Refused::Taken(String::from_utf8_lossy(&holder).into_owned()));
                }
                None => known = 0,
            }
        }
        Err(Refused::Taken("somebody who came at the same moment".to_owned()))
    }

    /// The condition under which this platform writes.
    pub(crate) fn condition(&self) -> Compare {
        unchanged(&self.owner, self.since)
    }

    /// Reads whether the condition holds.
    pub(crate) fn look(&self) -> RequestOp {
        get(&self.owner)
    }

    /// Whether what was looked for is still so.
    pub(crate) fn holds(&self, looked: Option<&Response>) -> bool {
        let Some(Response::Range(found)) = looked else { return false };
        found.kvs.first().is_some_and(|kv| kv.mod_revision == self.since)
    }

    /// Says that it is alive until it is dropped.
    pub(crate) async fn keep(self: Arc<Self>, grpc: Arc<Grpc>) {
        loop {
            tokio::time::sleep(Duration::from_secs(LIFE.unsigned_abs() / 3)).await;
            match self.renew(&grpc).await {
                Ok(true) => {}
                Ok(false) => {
                    tracing::error!(
                        place = grpc.place(),
                        "another platform has taken the state over; nothing is written any more"
                    );
                    return;
                }
                Err(failure) => tracing::warn!(
                    place = grpc.place(),
                    error = failure.message,
                    "cannot renew the claim on the state"
                ),
            }
        }
    }

    /// Renews the lease, or takes another one as long as nobody came between; whether this is still the owner.
    async fn renew(&self, grpc: &Grpc) -> Result<bool, Failure> {
        let request = LeaseKeepAliveRequest { id: self.lease.load(Ordering::Relaxed) };
        let mut answer = grpc.open("/etcdserverpb.Lease/LeaseKeepAlive", encode(&request), false).await?;
        let renewed: Option<LeaseKeepAliveResponse> = answer.next().await?;
        if renewed.is_some_and(|renewed| renewed.ttl > 0) {
            return Ok(true);
        }
        let lease = granted(grpc).await?;
        let request = TxnRequest {
            compare: vec![self.condition()],
            success: vec![put(&self.alive, &self.name, lease)],
            failure: Vec::new(),
        };
        let answer: TxnResponse = grpc.unary("/etcdserverpb.KV/Txn", &request).await?;
        self.lease.store(lease, Ordering::Relaxed);
        Ok(answer.succeeded)
    }
}
