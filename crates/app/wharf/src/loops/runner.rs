//! Runs a decision: watches, maps changes to keys, decides about each key and applies what was decided.
//!
//! A key is worked on by one worker at a time, and given back only once the watches have shown what was
//! written for it. So a view always shows the loop's own earlier writes, which is what decisions rely on.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use tokio::task::JoinSet;
use wharf_base::{Clock, Timestamp};
use wharf_client::{Change, Client, Error, Informer, Queue, Result};
use wharf_control::{Action, Step, WriteFailure};

use super::{
    apply::{Done, perform},
    cache::Informers,
    recorder::Recorder,
};

/// What every loop stands on. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Shared {
    pub(crate) client: Client,
    pub(crate) clock: Arc<dyn Clock>,
    pub(crate) informers: Informers,
    pub(crate) recorder: Recorder,
}

/// A control loop.
pub(crate) trait Controller: Send + Sync + Sized + 'static {
    /// The component its Events come from.
    const NAME: &'static str;

    /// What it looks at.
    fn watches(&self) -> Vec<Watch<Self>>;

    /// Keys to begin with, besides those of the objects that are there.
    fn first_keys(&self) -> Vec<String> {
        Vec::new()
    }

    /// What else brings keys, where the watches are not all known beforehand. Runs beside them.
    fn also(&self, _ask: &(dyn Fn(String) + Send + Sync)) -> impl Future<Output = ()> + Send {
        std::future::pending()
    }

    /// Decides about one key.
    fn step(&self, key: &str, seen: Seen<'_>) -> impl Future<Output = Result<Step>> + Send;
}

/// A resource, and which keys a change of it concerns.
pub(crate) struct Watch<C> {
    informer: Informer,
    keys: fn(&C, &Change) -> Vec<String>,
}

impl<C> Watch<C> {
    pub(crate) fn new(informer: &Informer, keys: fn(&C, &Change) -> Vec<String>) -> Self {
        Self { informer: informer.clone(), keys }
    }
}

/// What a decision is told besides the caches.
#[derive(Clone, Copy)]
pub(crate) struct Seen<'a> {
    pub(crate) now: Timestamp,
    /// Why the last writes for this key failed, if they did.
    pub(crate) failure: Option<&'a WriteFailure>,
}

struct Runner<C> {
    controller: C,
    shared: Shared,
    queue: Queue<String>,
    failures: Mutex<HashMap<String, WriteFailure>>,
}

/// A write that did not go through.
struct Refused {
    creating: bool,
    error: Error,
}

/// Runs a loop with several workers. Returns only when a part of it has panicked.
pub(crate) async fn run<C: Controller>(controller: C, shared: Shared, workers: usize) {
    let watches = controller.watches();
    for watch in &watches {
        watch.informer.synced().await;
    }
    let runner = Arc::new(Runner { controller, shared, queue: Queue::default(), failures: Mutex::default() });
    runner.controller.first_keys().into_iter().for_each(|key| runner.queue.add(key));
    let mut tasks = JoinSet::new();
    for watch in watches {
        tasks.spawn(feed(Arc::clone(&runner), watch));
    }
    for _ in 0..workers {
        tasks.spawn(work(Arc::clone(&runner)));
    }
    tasks.spawn(also(Arc::clone(&runner)));
    if let Some(Err(error)) = tasks.join_next().await {
        tracing::error!(name = C::NAME, %error, "a control loop has failed");
    }
}

async fn feed<C: Controller>(runner: Arc<Runner<C>>, watch: Watch<C>) {
    let mut changes = watch.informer.subscribe();
    while let Some(change) = changes.recv().await {
        for key in (watch.keys)(&runner.controller, &change) {
            runner.queue.add(key);
        }
    }
}

async fn also<C: Controller>(runner: Arc<Runner<C>>) {
    runner.controller.also(&|key| runner.queue.add(key)).await;
}

async fn work<C: Controller>(runner: Arc<Runner<C>>) {
    loop {
        let key = runner.queue.next().await;
        runner.handle(&key).await;
        runner.queue.done(&key);
    }
}

impl<C: Controller> Runner<C> {
    fn failures(&self) -> MutexGuard<'_, HashMap<String, WriteFailure>> {
        self.failures.lock().unwrap_or_else(PoisonError::into_inner)
    }

    async fn handle(&self, key: &str) {
        let failure = self.failures().get(key).cloned();
        let seen = Seen { now: self.shared.clock.now(), failure: failure.as_ref() };
        let step = match self.controller.step(key, seen).await {
            Ok(step) => step,
            Err(error) => {
                tracing::debug!(name = C::NAME, key, %error, "cannot decide");
                return self.queue.retry(key.to_owned());
            }
        };
        match self.apply(step.actions).await {
            Ok(()) => {
                self.failures().remove(key);
                self.queue.forget(&key.to_owned());
                if let Some(delay) = step.requeue_after {
                    self.queue.add_after(key.to_owned(), delay);
                }
            }
            Err(refused) => self.refused(key, &refused),
        }
    }

    fn refused(&self, key: &str, Refused { creating, error }: &Refused) {
        tracing::debug!(name = C::NAME, key, %error, "a write was refused");
        // An overtaken view is no failure to report: the next one is up to date.
        if !error.is_conflict() {
            let failure = WriteFailure { creating: *creating, message: error.to_string() };
            self.failures().insert(key.to_owned(), failure);
        }
        self.queue.retry(key.to_owned());
    }

    /// Applies actions up to the first batch that fails, and waits until the watches have shown them.
    async fn apply(&self, actions: Vec<Action>) -> Result<(), Refused> {
        let mut written = Vec::new();
        let mut refused = None;
        for batch in Step::batches(actions) {
            for result in self.send(batch).await {
                match result {
                    Ok(Done { written: write, event }) => {
                        written.extend(write);
                        if let Some(event) = event {
                            self.shared.recorder.record(C::NAME, event);
                        }
                    }
                    Err(failure) => refused = refused.or(Some(failure)),
                }
            }
            if refused.is_some() {
                break;
            }
        }
        for write in written {
            write.seen(&self.shared.informers).await;
        }
        refused.map_or(Ok(()), Err)
    }

    /// Sends the members of a batch at once, on all cores.
    async fn send(&self, batch: Vec<Action>) -> Vec<Result<Done, Refused>> {
        if batch.len() == 1 {
            let mut results = Vec::with_capacity(1);
            for action in batch {
                results.push(send_one(self.shared.client.clone(), action).await);
            }
            return results;
        }
        let mut tasks = JoinSet::new();
        for action in batch {
            tasks.spawn(send_one(self.shared.client.clone(), action));
        }
        tasks.join_all().await
    }
}

async fn send_one(client: Client, action: Action) -> Result<Done, Refused> {
    let creating = matches!(action, Action::Create { .. });
    perform(&client, action).await.map_err(|error| Refused { creating, error })
}
