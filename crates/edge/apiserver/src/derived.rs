//! What is compiled from the objects of a resource, made anew when they change.

use std::sync::{Arc, PoisonError, RwLock};

use crate::storage::{Snapshot, Storage};

/// A value made of all objects of one resource.
pub(crate) struct Derived<T> {
    qualified: &'static str,
    current: RwLock<Option<(u64, Arc<T>)>>,
}

impl<T> Derived<T> {
    /// Of the resource with this qualified name.
    pub(crate) const fn of(qualified: &'static str) -> Self {
        Self { qualified, current: RwLock::new(None) }
    }

    /// The value for the objects stored now.
    pub(crate) fn get(&self, storage: &Storage, make: impl FnOnce(&Snapshot) -> T) -> Arc<T> {
        let cache = storage.cache(self.qualified);
        let newest = *cache.subscribe().borrow();
        if let Some((revision, value)) = &*self.current.read().unwrap_or_else(PoisonError::into_inner)
            && *revision == newest
        {
            return Arc::clone(value);
        }
        let value = Arc::new(make(&cache.snapshot()));
        *self.current.write().unwrap_or_else(PoisonError::into_inner) = Some((newest, Arc::clone(&value)));
        value
    }
}
