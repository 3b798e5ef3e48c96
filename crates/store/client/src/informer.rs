//! A resource kept in memory by list and watch, as client-go's shared informers do.

use std::{
    collections::BTreeMap,
    pin::pin,
    sync::{Arc, Mutex, MutexGuard, PoisonError, RwLock},
    time::Duration,
};

use futures_util::TryStreamExt as _;
use kube::core::WatchEvent;
use serde_json::Value;
use tokio::{
    sync::{mpsc, watch},
    task::JoinHandle,
    time::sleep,
};

use crate::{Client, Error, Gvr, ListParams, Result};

/// An object as it was last seen.
pub type Object = Arc<Value>;

/// What happened to one object.
#[derive(Debug, Clone)]
pub struct Change {
    /// `namespace/name`, or `/name` when cluster-scoped.
    pub key: String,
    /// As it was before; `None` when it is new.
    pub old: Option<Object>,
    /// As it is now; `None` when it is gone.
    pub new: Option<Object>,
}

/// A resource in memory, its objects without `metadata.managedFields`. Cheap to clone; the watch ends with the last clone.
#[derive(Clone)]
pub struct Informer {
    shared: Arc<Shared>,
    _task: Arc<AbortOnDrop>,
}

struct AbortOnDrop(JoinHandle<()>);

impl Drop for AbortOnDrop {
    fn drop(&mut self) {
        self.0.abort();
    }
}

#[derive(Default)]
struct Shared {
    objects: RwLock<BTreeMap<String, Object>>,
    subscribers: Mutex<Vec<mpsc::UnboundedSender<Change>>>,
    /// The newest revision seen; 0 before the first list.
    revision: watch::Sender<u64>,
}

/// `namespace/name` of an object, or `/name` when it has no namespace.
pub fn object_key(object: &Value) -> String {
    let text = |name| object.pointer(name).and_then(Value::as_str).unwrap_or("");
    format!("{}/{}", text("/metadata/namespace"), text("/metadata/name"))
}

/// An object as it is kept: who owns which field is left out, which nobody here asks for and is most of what small
/// objects are.
fn kept(mut object: Value) -> Object {
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        metadata.remove("managedFields");
    }
    Arc::new(object)
}

fn revision(text: &str) -> u64 {
    text.parse().unwrap_or(0)
}

impl Informer {
    /// Starts to list and watch; must be called inside a tokio runtime.
    pub fn start(client: Client, resource: Gvr, params: ListParams) -> Self {
        let shared = Arc::new(Shared::default());
        let task = tokio::spawn(run(client, resource, params, Arc::clone(&shared)));
        Self { shared, _task: Arc::new(AbortOnDrop(task)) }
    }

    /// The object of a key (`namespace/name`).
    pub fn get(&self, key: &str) -> Option<Object> {
        self.shared.objects.read().unwrap_or_else(PoisonError::into_inner).get(key).cloned()
    }

    /// All objects in order of their keys.
    pub fn list(&self) -> Vec<Object> {
        self.shared.objects.read().unwrap_or_else(PoisonError::into_inner).values().cloned().collect()
    }

    /// The objects of one namespace in order of their names.
    pub fn in_namespace(&self, namespace: &str) -> Vec<Object> {
        let (from, to) = (format!("{namespace}/"), format!("{namespace}0"));
        let objects = self.shared.objects.read().unwrap_or_else(PoisonError::into_inner);
        objects.range(from..to).map(|(_, object)| Arc::clone(object)).collect()
    }

    /// Every change from here on, after one `Change` without `old` for each object already known.
    pub fn subscribe(&self) -> mpsc::UnboundedReceiver<Change> {
        let (sender, receiver) = mpsc::unbounded_channel();
        // The list is read under the lock that changes are sent under, so that none is lost or doubled.
        let mut subscribers = self.shared.subscribers();
        for (key, object) in &*self.shared.objects.read().unwrap_or_else(PoisonError::into_inner) {
            // The receiver is ours: it cannot be closed.
            let _ = sender.send(Change { key: key.clone(), old: None, new: Some(Arc::clone(object)) });
        }
        subscribers.push(sender);
        receiver
    }

    /// Waits until the first list is there.
    pub async fn synced(&self) {
        self.seen(1).await;
    }

    /// Waits until everything up to a revision has been seen: the one a write was answered with.
    pub async fn seen(&self, revision: u64) {
        // The sender lives in `self`: it cannot be gone.
        let _ = self.shared.revision.subscribe().wait_for(|seen| *seen >= revision).await;
    }

    /// Waits until `test` holds; it is asked again after every change.
    pub async fn until(&self, mut test: impl FnMut(&Self) -> bool + Send) {
        let mut revision = self.shared.revision.subscribe();
        // The sender lives in `self`: it cannot be gone.
        while !test(self) && revision.changed().await.is_ok() {}
    }

    /// The newest revision seen; 0 before the first list.
    pub fn revision(&self) -> u64 {
        *self.shared.revision.borrow()
    }
}

impl Shared {
    fn subscribers(&self) -> MutexGuard<'_, Vec<mpsc::UnboundedSender<Change>>> {
        self.subscribers.lock().unwrap_or_else(PoisonError::into_inner)
    }

    fn set(&self, key: String, new: Option<Object>) {
        let mut subscribers = self.subscribers();
        let old = {
            let mut objects = self.objects.write().unwrap_or_else(PoisonError::into_inner);
            match &new {
                Some(object) => objects.insert(key.clone(), Arc::clone(object)),
                None => objects.remove(&key),
            }
        };
        if old.is_none() && new.is_none() {
            return;
        }
        let change = Change { key, old, new };
        subscribers.retain(|subscriber| subscriber.send(change.clone()).is_ok());
    }

    fn saw(&self, seen: u64) {
        self.revision.send_modify(|newest| *newest = seen.max(*newest));
    }

    /// Puts a whole list in the place of what is known; only what differs is told.
    fn replace(&self, items: Vec<Value>) {
        let mut gone: BTreeMap<String, Object> =
            self.objects.read().unwrap_or_else(PoisonError::into_inner).clone();
        for item in items {
            let key = object_key(&item);
            let same = |old: &Object| {
                old.pointer("/metadata/resourceVersion") == item.pointer("/metadata/resourceVersion")
            };
            if !gone.remove(&key).as_ref().is_some_and(same) {
                self.set(key, Some(kept(item)));
            }
        }
        for key in gone.into_keys() {
            self.set(key, None);
        }
    }
}

async fn run(client: Client, resource: Gvr, params: ListParams, shared: Arc<Shared>) {
    let mut pause = Duration::from_millis(50);
    loop {
        match list_and_watch(&client, &resource, &params, &shared).await {
            Ok(()) => pause = Duration::from_millis(50),
            Err(error) => {
                tracing::debug!(resource = %resource.resource, %error, "watch interrupted");
                sleep(pause).await;
                pause = (pause * 2).min(Duration::from_secs(10));
            }
        }
    }
}

/// Lists once, then watches until the server no longer keeps what is needed to go on.
async fn list_and_watch(client: &Client, resource: &Gvr, params: &ListParams, shared: &Shared) -> Result<()> {
    let list = client.list(resource, params).await?;
    shared.replace(list.items);
    let mut at = list.resource_version;
    shared.saw(revision(&at).max(1));
    loop {
        let started = tokio::time::Instant::now();
        match follow(client, resource, params, shared, &mut at).await {
            Err(error) if error.is_expired() => return Ok(()),
            Err(error) => return Err(error),
            // A server that ends every watch at once must not be asked in a tight loop.
            Ok(()) if started.elapsed() < Duration::from_secs(1) => sleep(Duration::from_millis(200)).await,
            Ok(()) => {}
        }
    }
}

async fn follow(
    client: &Client,
    resource: &Gvr,
    params: &ListParams,
    shared: &Shared,
    at: &mut String,
) -> Result<()> {
    let mut events = pin!(client.watch(resource, params, at).await?);
    while let Some(event) = events.try_next().await? {
        let (object, gone) = match event {
            WatchEvent::Added(object) | WatchEvent::Modified(object) => (object, false),
            WatchEvent::Deleted(object) => (object, true),
            WatchEvent::Bookmark(bookmark) => {
                *at = bookmark.metadata.resource_version;
                shared.saw(revision(at));
                continue;
            }
            WatchEvent::Error(status) => return Err(Error::from(kube::Error::Api(status))),
        };
        if let Some(version) = object.pointer("/metadata/resourceVersion").and_then(Value::as_str) {
            version.clone_into(at);
        }
        let key = object_key(&object);
        shared.set(key, (!gone).then(|| kept(object)));
        shared.saw(revision(at));
    }
    Ok(())
}
