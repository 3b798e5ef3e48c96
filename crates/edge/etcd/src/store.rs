//! The store.

use std::{sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::{sync::mpsc, task::JoinSet};
use wharf_state::{Error, Pending, Revision, Snapshot, Store, Subscriber, Write};

use crate::{
    Config, compact,
    feed::Feed,
    grpc::{Failure, Grpc},
    owner::{Owner, Refused},
    pages::Pages,
    txn,
    v3::{StatusRequest, StatusResponse, TxnResponse},
};

/// Pages of a snapshot read ahead.
const AHEAD: usize = 2;
/// How long a write that went through may take to come back by the watch.
const SEEN: Duration = Duration::from_secs(30);

/// The state in an etcd. Dropping it ends its watch.
pub struct Etcd {
    grpc: Arc<Grpc>,
    feed: Arc<Feed>,
    prefix: Bytes,
    owner: Option<Arc<Owner>>,
    _tasks: JoinSet<()>,
}

impl Etcd {
    /// Connects, and begins to compact in turn with others.
    ///
    /// # Errors
    /// When no endpoint answers, it is an etcd before 3.4, or somebody else has the prefix.
    pub async fn open(config: &Config) -> Result<Self, Error> {
        let grpc = Grpc::new(config);
        let failed = |reason: String| Error::Storage { doing: "open", place: grpc.place(), reason };
        let status: StatusResponse = grpc
            .unary("/etcdserverpb.Maintenance/Status", &StatusRequest {})
            .await
            .map_err(|failure| failed(failure.message))?;
        if !is_recent(&status.version) {
            return Err(failed(format!("it is etcd {}, and 3.4 or later is needed", status.version)));
        }
        let mut tasks = JoinSet::new();
        let owner = match &config.owner {
            None => None,
            Some(name) => {
                let owner = Owner::claim(&grpc, config.prefix.as_bytes(), name).await;
                let owner = owner.map_err(|refused| match refused {
                    Refused::Failed(failure) => failed(failure.message),
                    Refused::Taken(by) => {
                        failed(format!("{by} keeps its state there under {}", config.prefix))
                    }
                })?;
                let owner = Arc::new(owner);
                tasks.spawn(Arc::clone(&owner).keep(Arc::clone(&grpc)));
                Some(owner)
            }
        };
        let prefix = txn::full(config.prefix.as_bytes(), b"objects/");
        let feed = Feed::new(Arc::clone(&grpc), prefix.clone());
        tasks.spawn(Arc::clone(&feed).run());
        let key = txn::full(config.prefix.as_bytes(), b"compaction");
        tasks.spawn(compact::run(Arc::clone(&grpc), key, config.compaction));
        Ok(Self { grpc, feed, prefix, owner, _tasks: tasks })
    }
}

fn is_recent(version: &str) -> bool {
    let mut numbers = version.split('.').map(|part| part.parse::<u32>().ok());
    let major = numbers.next().flatten();
    let minor = numbers.next().flatten();
    major.zip(minor).is_some_and(|version| version >= (3, 4))
}

async fn commit(
    grpc: &Grpc,
    feed: &Feed,
    owner: Option<&Owner>,
    prefix: &[u8],
    writes: Vec<Write>,
) -> Result<Revision, Error> {
    Write::check(&writes)?;
    let request = txn::request(prefix, owner, &writes);
    let answer: Result<TxnResponse, Failure> = grpc.unary("/etcdserverpb.KV/Txn", &request).await;
    drop(request);
    let answer = answer.map_err(|failure| txn::failed(grpc.place(), &failure))?;
    let unknown = |reason: String| Error::Unknown { place: grpc.place(), reason };
    let Some(outcome) = txn::outcome(owner, &writes, &answer) else {
        return Err(unknown("its answer does not fit the transaction".to_owned()));
    };
    let done = outcome?;
    if done.changed && tokio::time::timeout(SEEN, feed.until_seen(done.revision)).await.is_err() {
        let late = format!("it was written at revision {}, which the watch has not shown yet", done.revision);
        return Err(unknown(late));
    }
    Ok(done.revision)
}

impl Store for Etcd {
    fn subscribe(&self, subscriber: Box<dyn Subscriber>) -> Pending<()> {
        let feed = Arc::clone(&self.feed);
        Box::pin(async move { feed.subscribe(subscriber).await })
    }

    fn commit(&self, writes: Vec<Write>) -> Pending<Revision> {
        let (grpc, feed, owner) = (Arc::clone(&self.grpc), Arc::clone(&self.feed), self.owner.clone());
        let prefix = self.prefix.clone();
        Box::pin(async move { commit(&grpc, &feed, owner.as_deref(), &prefix, writes).await })
    }

    fn snapshot(&self) -> Pending<Snapshot> {
        let mut pages = Pages::new(Arc::clone(&self.grpc), self.prefix.clone());
        Box::pin(async move {
            let first = pages.next().await.map_err(|failure| pages.failed(&failure))?;
            let revision = pages.revision();
            let (sender, keys) = mpsc::channel(AHEAD);
            tokio::spawn(async move {
                let mut piece = Ok(first);
                loop {
                    let last = !matches!(piece, Ok(Some(_)));
                    // Whoever asked may have gone.
                    if sender.send(piece).await.is_err() || last {
                        return;
                    }
                    piece = pages.next().await.map_err(|failure| pages.failed(&failure));
                }
            });
            Ok(Snapshot::new(revision, keys))
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn versions_are_compared_by_their_numbers() {
        for (version, recent) in
            [("3.4.23", true), ("3.10.0", true), ("4.0", true), ("3.3.27", false), ("", false)]
        {
            assert_eq!(is_recent(version), recent, "{version}");
        }
    }
}
