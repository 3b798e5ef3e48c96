//! What is compiled from the objects of resources, made anew when they change.

use std::sync::{Arc, PoisonError, RwLock};

use crate::storage::{Snapshot, Storage};

/// A value made of all objects of one resource, or of several.
pub(crate) struct Derived<T, const N: usize = 1> {
    qualified: [&'static str; N],
    current: RwLock<Option<([u64; N], Arc<T>)>>,
}

impl<T> Derived<T> {
    /// Of the resource with this qualified name.
    pub(crate) const fn of(qualified: &'static str) -> Self {
        Self::of_all([qualified])
    }

    /// The value for the objects stored now.
    pub(crate) fn get(&self, storage: &Storage, make: impl FnOnce(&Snapshot) -> T) -> Arc<T> {
        self.of_now(storage, |[snapshot]| make(&snapshot))
    }
}

impl<T, const N: usize> Derived<T, N> {
    /// Of the resources with these qualified names.
    pub(crate) const fn of_all(qualified: [&'static str; N]) -> Self {
        Self { qualified, current: RwLock::new(None) }
    }

    /// The value for the objects stored now. It is made by one at a time, and never of older objects than before.
    pub(crate) fn of_now(&self, storage: &Storage, make: impl FnOnce([Snapshot; N]) -> T) -> Arc<T> {
        let caches = self.qualified.map(|name| storage.cache(name));
        let newest = || caches.each_ref().map(|cache| *cache.subscribe().borrow());
        let made = |current: &Option<([u64; N], Arc<T>)>| {
            let (revisions, value) = current.as_ref()?;
            (*revisions == newest()).then(|| Arc::clone(value))
        };
        if let Some(value) = made(&self.current.read().unwrap_or_else(PoisonError::into_inner)) {
            return value;
        }
        let mut current = self.current.write().unwrap_or_else(PoisonError::into_inner);
        if let Some(value) = made(&current) {
            return value;
        }
        // Taken before the snapshots, which may then be newer: it is made once more, not kept too long.
        let revisions = newest();
        let value = Arc::new(make(caches.each_ref().map(|cache| cache.snapshot())));
        *current = Some((revisions, Arc::clone(&value)));
        value
    }
}
