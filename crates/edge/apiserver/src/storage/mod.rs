//! Objects between the store and the requests: entries, one watch cache per resource, writes.

mod cache;
mod entry;

use std::{
    collections::HashMap,
    sync::{
        Arc, RwLock,
        atomic::{AtomicU64, Ordering},
    },
};

use bytes::Bytes;
use serde_json::Value;
use wharf_api::status::Status;
use wharf_state::{Change, Error, Expect, KeyValue, Snapshot as StateSnapshot, Store, Subscriber, Write};

pub(crate) use cache::{Cache, Event, EventKind, Snapshot, json_frame};
pub(crate) use entry::{Entry, encode};

/// All stored objects.
pub(crate) struct Storage {
    store: Arc<dyn Store>,
    caches: Arc<Caches>,
}

#[derive(Default)]
struct Caches {
    by_resource: RwLock<HashMap<String, Arc<Cache>>>,
    revision: AtomicU64,
}

impl Caches {
    fn of(&self, qualified: &str) -> Arc<Cache> {
        if let Some(cache) = read(&self.by_resource).get(qualified) {
            return Arc::clone(cache);
        }
        let mut all = self.by_resource.write().unwrap_or_else(std::sync::PoisonError::into_inner);
        let make = || Arc::new(Cache::new(qualified, self.revision.load(Ordering::Acquire)));
        Arc::clone(all.entry(qualified.to_owned()).or_insert_with(make))
    }

    /// Called on the store's thread, in order of revision.
    fn take(&self, changes: &[Change]) {
        let mut by_resource: Vec<(&str, Vec<(&str, &Change)>)> = Vec::new();
        for change in changes {
            let Some((qualified, key)) = split_key(&change.key) else { continue };
            match by_resource.iter_mut().find(|(known, _)| *known == qualified) {
                Some((_, list)) => list.push((key, change)),
                None => by_resource.push((qualified, vec![(key, change)])),
            }
        }
        for (qualified, changes) in by_resource {
            self.of(qualified).apply(&changes);
        }
        if let Some(last) = changes.last() {
            self.revision.store(last.revision, Ordering::Release);
        }
        read(&self.by_resource)
            .values()
            .for_each(|cache| cache.advance(self.revision.load(Ordering::Acquire)));
    }
}

/// What the store tells goes into the caches.
struct Feed(Arc<Caches>);

impl Subscriber for Feed {
    fn load(&mut self, keys: Vec<KeyValue>) {
        for object in keys {
            if let Some((qualified, key)) = split_key(&object.key) {
                self.0.of(qualified).load(key, &object.value, object.revision);
            }
        }
    }

    fn loaded(&mut self, revision: u64) {
        self.0.revision.store(revision, Ordering::Release);
        read(&self.0.by_resource).values().for_each(|cache| cache.loaded(revision));
    }

    fn apply(&mut self, changes: &[Change]) {
        self.0.take(changes);
    }
}

fn read<T>(lock: &RwLock<T>) -> std::sync::RwLockReadGuard<'_, T> {
    lock.read().unwrap_or_else(std::sync::PoisonError::into_inner)
}

/// `deployments.apps/default/web` as resource and `default/web`; cluster-scoped ones have an empty namespace.
fn split_key(key: &[u8]) -> Option<(&str, &str)> {
    std::str::from_utf8(key).ok()?.split_once('/')
}

impl Storage {
    /// Loads every object of `store` into the caches.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub(crate) async fn open(store: Arc<dyn Store>) -> Result<Self, Error> {
        let caches = Arc::<Caches>::default();
        store.subscribe(Box::new(Feed(Arc::clone(&caches)))).await?;
        Ok(Self { store, caches })
    }

    /// The cache of a resource, by its qualified name (`deployments.apps`).
    pub(crate) fn cache(&self, qualified: &str) -> Arc<Cache> {
        self.caches.of(qualified)
    }

    /// The revision everything is at.
    pub(crate) fn revision(&self) -> u64 {
        self.caches.revision.load(Ordering::Acquire)
    }

    /// The object of a key (`default/web`).
    pub(crate) fn get(&self, qualified: &str, key: &str) -> Option<Arc<Entry>> {
        self.cache(qualified).get(key)
    }

    /// All that is stored, as it is now.
    pub(crate) async fn whole(&self) -> Result<StateSnapshot, Error> {
        self.store.snapshot().await
    }

    /// Writes objects in one transaction and gives their entries as stored.
    pub(crate) async fn commit(&self, writes: Vec<Put>) -> Result<Vec<Arc<Entry>>, Error> {
        let mut encoded = Vec::with_capacity(writes.len());
        for put in &writes {
            let value = put.object.as_ref().map(encode);
            let key = Bytes::from(format!("{}/{}", put.qualified, put.key));
            encoded.push(Write { key, value, expect: put.expect });
        }
        let values: Vec<Option<Bytes>> = encoded.iter().map(|w| w.value.clone()).collect();
        let revision = self.store.commit(encoded).await?;
        let entries = writes.iter().zip(values).filter_map(|(put, value)| {
            let value = value?;
            // The cache has it by now, unless somebody was faster with the next change.
            let cached = self.get(&put.qualified, &put.key).filter(|entry| entry.revision == revision);
            cached.or_else(|| Some(Arc::new(Entry::new(&put.qualified, &put.key, &value, revision)?)))
        });
        Ok(entries.collect())
    }
}

/// One object to write, or to delete when there is none.
#[derive(Debug, Clone)]
pub(crate) struct Put {
    pub qualified: String,
    pub key: String,
    pub object: Option<Value>,
    pub expect: Expect,
}

/// A store failure that is not a conflict, as clients see it.
pub(crate) fn storage_failure(error: &Error) -> Status {
    match error {
        Error::Refused { .. } => Status::new(413, "RequestEntityTooLarge", error.to_string()),
        // Whoever asked has to look whether it was written, as after upstream's.
        Error::Unknown { .. } => {
            tracing::error!(%error, "state store failed");
            Status::new(504, "Timeout", error.to_string())
        }
        Error::Storage { .. } | Error::Damaged { .. } => {
            tracing::error!(%error, "state store failed");
            Status::new(500, "InternalError", error.to_string())
        }
        other => Status::internal(other),
    }
}
