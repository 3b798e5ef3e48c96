//! Clients that work at once, and what they were told.

use std::sync::{
    Arc, Mutex, PoisonError,
    atomic::{AtomicBool, AtomicU64, Ordering},
};

use bytes::Bytes;

use super::{Call, History, Outcome, Random, Seen, snapshot};
use crate::{Error, Expect, KeyValue, Revision, Store, Write};

/// How much is done.
#[derive(Debug, Clone, Copy)]
pub struct Workload {
    /// Clients at once.
    pub clients: u64,
    /// Calls of each, at the most.
    pub calls: usize,
    /// What they do follows from it.
    pub seed: u64,
}

/// Keeps what happens to a store.
#[derive(Clone)]
pub struct Recorder {
    store: Arc<dyn Store>,
    seen: Seen,
    clock: Arc<AtomicU64>,
    calls: Arc<Mutex<Vec<Call>>>,
    stop: Arc<AtomicBool>,
}

impl std::fmt::Debug for Recorder {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Recorder").field("calls", &self.calls).finish_non_exhaustive()
    }
}

impl Recorder {
    /// Begins to watch a store.
    pub async fn start(store: Arc<dyn Store>) -> Self {
        let seen = Seen::default();
        store.subscribe(Box::new(seen.clone())).await.unwrap();
        Self { store, seen, clock: Arc::default(), calls: Arc::default(), stop: Arc::default() }
    }

    /// What the subscriber saw.
    pub fn seen(&self) -> &Seen {
        &self.seen
    }

    /// Transactions acknowledged so far.
    pub fn acknowledged(&self) -> usize {
        let calls = self.calls.lock().unwrap_or_else(PoisonError::into_inner);
        calls.iter().filter(|call| matches!(call.outcome, Outcome::Wrote(_))).count()
    }

    /// Has the clients make no more calls.
    pub fn stop(&self) {
        self.stop.store(true, Ordering::Relaxed);
    }

    /// Runs clients until each has made its calls.
    pub async fn work(&self, workload: Workload) {
        let clients: Vec<_> = (0..workload.clients)
            .map(|client| {
                let (this, random) = (self.clone(), Random(workload.seed * 1000 + client + 1));
                tokio::spawn(async move { this.client(client, workload.calls, random).await })
            })
            .collect();
        for client in clients {
            client.await.unwrap();
        }
    }

    async fn client(&self, client: u64, calls: usize, mut random: Random) {
        for number in 0..calls {
            if self.stop.load(Ordering::Relaxed) {
                return;
            }
            if random.below(12) == 0 {
                self.read().await;
            } else {
                let known = self.known();
                self.commit(random_writes(&mut random, &known, &format!("{client}/{number}"))).await;
            }
        }
    }

    /// Keys as the subscriber knows them, of which clients know as much as informers would.
    fn known(&self) -> Vec<(Bytes, Revision)> {
        let given = self.seen.get();
        let recent = given.changes.iter().rev().take(8);
        recent.map(|change| (change.key.clone(), change.revision)).collect()
    }

    async fn read(&self) {
        let began = self.clock.fetch_add(1, Ordering::SeqCst);
        let outcome = match snapshot(&*self.store).await {
            Ok((revision, keys)) => Outcome::Read(revision, keys),
            Err(_) => Outcome::Refused,
        };
        self.note(began, Vec::new(), outcome);
    }

    /// Commits and notes what came of it.
    pub async fn commit(&self, writes: Vec<Write>) {
        let began = self.clock.fetch_add(1, Ordering::SeqCst);
        let outcome = match self.store.commit(writes.clone()).await {
            Ok(revision) => Outcome::Wrote(revision),
            Err(Error::Conflict { write, current }) => Outcome::Conflict { write, current },
            Err(Error::Unknown { .. }) => Outcome::Unknown,
            Err(_) => Outcome::Refused,
        };
        self.note(began, writes, outcome);
    }

    fn note(&self, began: u64, writes: Vec<Write>, outcome: Outcome) {
        let seen = self.seen.get().revision();
        let ended = self.clock.fetch_add(1, Ordering::SeqCst);
        let call = Call { began, ended, seen, writes, outcome };
        self.calls.lock().unwrap_or_else(PoisonError::into_inner).push(call);
    }

    /// The whole history, with what `store` has at the end.
    pub async fn finish(&self, store: &dyn Store) -> History {
        let end: (Revision, Vec<KeyValue>) = snapshot(store).await.unwrap();
        let given = self.seen.get();
        History {
            start: (given.at.unwrap(), given.loaded.clone()),
            calls: self.calls.lock().unwrap_or_else(PoisonError::into_inner).clone(),
            feed: given.changes.clone(),
            end,
        }
    }
}

/// A transaction of up to three writes of few keys, with all sorts of expectations.
pub fn random_writes(random: &mut Random, known: &[(Bytes, Revision)], mark: &str) -> Vec<Write> {
    let mut writes: Vec<Write> = Vec::new();
    for number in 0..=random.below(3) {
        let key = Bytes::from(format!("key-{}", random.below(6)));
        if writes.iter().any(|write| write.key == key) {
            continue;
        }
        let newest = known.iter().find(|(other, _)| *other == key).map(|(_, revision)| *revision);
        let expect = match random.below(4) {
            0 => Expect::Absent,
            1 => Expect::Any,
            _ => newest.map_or(Expect::Absent, Expect::At),
        };
        let value = (random.below(4) > 0).then(|| Bytes::from(format!("{mark}/{number}")));
        writes.push(Write { key, value, expect });
    }
    writes
}
