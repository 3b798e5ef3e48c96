//! Informers every loop shares, and typed views of what they hold.

use std::{
    any::{Any, TypeId},
    collections::{BTreeMap, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde::de::DeserializeOwned;
use wharf_client::{Client, Gvr, Informer, ListParams, Object};

/// One watch per resource, started when it is first asked for. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Informers {
    client: Client,
    started: Arc<Mutex<BTreeMap<Gvr, Informer>>>,
    typed: Arc<Mutex<HashMap<(TypeId, Gvr), AnyShared>>>,
}

type AnyShared = Arc<dyn Any + Send + Sync>;

fn lock<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}

impl Informers {
    pub(crate) fn new(client: Client) -> Self {
        Self { client, started: Arc::default(), typed: Arc::default() }
    }

    /// All objects of a resource.
    pub(crate) fn of(&self, resource: &Gvr) -> Informer {
        let start = || Informer::start(self.client.clone(), resource.clone(), ListParams::default());
        lock(&self.started).entry(resource.clone()).or_insert_with(start).clone()
    }

    /// The same, read into `T`; loops that read a resource into the same type share the work.
    pub(crate) fn typed<T: DeserializeOwned + Send + Sync + 'static>(&self, resource: Gvr) -> Arc<Typed<T>> {
        let informer = self.of(&resource);
        let mut all = lock(&self.typed);
        let entry = all.entry((TypeId::of::<T>(), resource.clone()));
        let make = || Arc::new(Typed::<T>::new(informer.clone(), resource.clone()));
        let shared = Arc::clone(entry.or_insert_with(|| make()));
        // The key holds the type, so that this never makes a second one.
        shared.downcast().unwrap_or_else(|_| make())
    }

    /// The watch of a resource, if somebody has asked for it.
    pub(crate) fn started(&self, resource: &Gvr) -> Option<Informer> {
        lock(&self.started).get(resource).cloned()
    }

    /// Forgets a resource that no longer exists; its watch ends with its last user.
    pub(crate) fn forget(&self, resource: &Gvr) {
        lock(&self.started).remove(resource);
    }
}

/// An informer whose objects are read into `T`, each version once.
pub(crate) struct Typed<T> {
    pub(crate) informer: Informer,
    resource: Gvr,
    parsed: Mutex<Parsed<T>>,
}

struct Parsed<T> {
    /// By the address of the object, which the entry itself keeps alive.
    by_address: HashMap<usize, (Object, Option<Arc<T>>)>,
    /// Entries after which those of old versions are thrown away.
    limit: usize,
}

impl<T: DeserializeOwned> Typed<T> {
    fn new(informer: Informer, resource: Gvr) -> Self {
        let parsed = Parsed { by_address: HashMap::new(), limit: 256 };
        Self { informer, resource, parsed: Mutex::new(parsed) }
    }

    /// The object of a key (`namespace/name`).
    pub(crate) fn get(&self, key: &str) -> Option<Arc<T>> {
        self.read(&self.informer.get(key)?)
    }

    /// The objects of one namespace.
    pub(crate) fn in_namespace(&self, namespace: &str) -> Vec<Arc<T>> {
        self.read_all(self.informer.in_namespace(namespace))
    }

    /// All objects.
    pub(crate) fn all(&self) -> Vec<Arc<T>> {
        self.read_all(self.informer.list())
    }

    fn read_all(&self, objects: Vec<Object>) -> Vec<Arc<T>> {
        let mut parsed = lock(&self.parsed);
        objects.iter().filter_map(|object| parsed.read(object, &self.resource)).collect()
    }

    /// One object in the typed form; nothing when it does not have that form.
    pub(crate) fn read(&self, object: &Object) -> Option<Arc<T>> {
        lock(&self.parsed).read(object, &self.resource)
    }
}

impl<T: DeserializeOwned> Parsed<T> {
    fn read(&mut self, object: &Object, resource: &Gvr) -> Option<Arc<T>> {
        let address = Arc::as_ptr(object) as usize;
        if let Some((_, value)) = self.by_address.get(&address) {
            return value.clone();
        }
        if self.by_address.len() >= self.limit {
            self.by_address.retain(|_, (object, _)| Arc::strong_count(object) > 1);
            self.limit = (self.by_address.len() * 2).max(256);
        }
        let value = match wharf_control::read(object) {
            Ok(value) => Some(Arc::new(value)),
            Err(error) => {
                let key = wharf_client::object_key(object);
                tracing::warn!(resource = %resource.resource, %key, %error, "object left out: it cannot be read");
                None
            }
        };
        self.by_address.insert(address, (Arc::clone(object), value.clone()));
        value
    }
}

/// The references decisions take.
pub(crate) fn refs<T>(shared: &[Arc<T>]) -> Vec<&T> {
    shared.iter().map(Arc::as_ref).collect()
}
