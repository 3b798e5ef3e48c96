//! Which Services changed, themselves or their endpoints.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{sync::mpsc::UnboundedReceiver, time::sleep};
use wharf_client::{
    Change, Client, Informer, ListParams, Object,
    action::{ENDPOINT_SLICES, SERVICES},
};
use wharf_control::{
    endpointslice::{EndpointSlice, SERVICE_LABEL},
    meta::read,
};

use super::Service;

/// Changes that come together are handled together.
const COALESCE: Duration = Duration::from_millis(2);

/// Services and their slices in memory.
pub(crate) struct Watch {
    services: Informer,
    slices: Informer,
    service_changes: UnboundedReceiver<Change>,
    slice_changes: UnboundedReceiver<Change>,
    /// Slices by Service.
    index: BTreeMap<String, BTreeSet<String>>,
    dirty: BTreeSet<String>,
}

impl Watch {
    pub(crate) fn start(client: Client) -> Self {
        let services = Informer::start(client.clone(), SERVICES, ListParams::default());
        let slices = Informer::start(client, ENDPOINT_SLICES, ListParams::default());
        let (service_changes, slice_changes) = (services.subscribe(), slices.subscribe());
        let (index, dirty) = (BTreeMap::new(), BTreeSet::new());
        Self { services, slices, service_changes, slice_changes, index, dirty }
    }

    pub(crate) async fn synced(&self) {
        self.services.synced().await;
        self.slices.synced().await;
    }

    /// Takes in what has come, without waiting.
    pub(crate) fn drain(&mut self) -> BTreeSet<String> {
        while let Ok(change) = self.service_changes.try_recv() {
            self.dirty.insert(change.key);
        }
        while let Ok(change) = self.slice_changes.try_recv() {
            self.slice(&change);
        }
        std::mem::take(&mut self.dirty)
    }

    /// Waits for changes; gives the Services concerned. May be dropped while it waits.
    pub(crate) async fn next(&mut self) -> BTreeSet<String> {
        if self.dirty.is_empty() {
            tokio::select! {
                Some(change) = self.service_changes.recv() => { self.dirty.insert(change.key); }
                Some(change) = self.slice_changes.recv() => self.slice(&change),
            }
        }
        sleep(COALESCE).await;
        self.drain()
    }

    /// Counts Services as changed once more.
    pub(crate) fn again(&mut self, keys: BTreeSet<String>) {
        self.dirty.extend(keys);
    }

    fn slice(&mut self, change: &Change) {
        let of = |slice: &Object| {
            let text = |pointer: &str| slice.pointer(pointer).and_then(serde_json::Value::as_str);
            let label = slice.get("metadata")?.get("labels")?.get(SERVICE_LABEL)?.as_str()?;
            Some(format!("{}/{label}", text("/metadata/namespace")?))
        };
        let (old, new) = (change.old.as_ref().and_then(of), change.new.as_ref().and_then(of));
        if let Some(service) = old.filter(|old| Some(old) != new.as_ref()) {
            if let Some(slices) = self.index.get_mut(&service) {
                slices.remove(&change.key);
                if slices.is_empty() {
                    self.index.remove(&service);
                }
            }
            self.dirty.insert(service);
        }
        if let Some(service) = new {
            self.index.entry(service.clone()).or_default().insert(change.key.clone());
            self.dirty.insert(service);
        }
    }

    /// All Services there are.
    pub(crate) fn keys(&self) -> Vec<String> {
        self.services.list().iter().map(|service| wharf_client::object_key(service)).collect()
    }

    /// A Service; one that cannot be read is told and left out.
    pub(crate) fn service(&self, key: &str) -> Option<Service> {
        let object = self.services.get(key)?;
        read(&object)
            .inspect_err(|error| tracing::warn!(service = key, %error, "Service cannot be read"))
            .ok()
    }

    /// Its slices.
    pub(crate) fn slices(&self, key: &str) -> Vec<EndpointSlice> {
        let keys = self.index.get(key).into_iter().flatten();
        let objects = keys.filter_map(|key| self.slices.get(key));
        let told = |error: &serde_json::Error| {
            tracing::warn!(service = key, %error, "EndpointSlice cannot be read");
        };
        objects.filter_map(|object| read(&object).inspect_err(told).ok()).collect()
    }
}
