//! Which objects lead to which node: by pods bound to it, volumes of their claims, and objects that name the node.
//!
//! It follows the watch caches' events when a node asks, so that it costs nothing where no node does, and no question
//! looks through all pods.

use std::{
    collections::{HashMap, HashSet},
    sync::{Mutex, PoisonError},
};

use serde_json::Value;

use super::references::{Reference, Referred, references, volume_secrets};
use crate::storage::{Entry, Storage};

/// What a node may come to read.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Kind {
    Pod,
    Account,
    Secret,
    ConfigMap,
    Claim,
    ResourceClaim,
    Volume,
    Attachment,
    Slice,
}

/// What the graph is made of. The order is that of [`State::seen`].
const SOURCES: [&str; 4] =
    ["pods", "persistentvolumes", "volumeattachments.storage.k8s.io", "resourceslices.resource.k8s.io"];
const PODS: usize = 0;
const VOLUMES: usize = 1;
const ATTACHMENTS: usize = 2;

#[derive(Default)]
pub(super) struct Graph {
    state: Mutex<State>,
}

#[derive(Default)]
pub(super) struct State {
    /// Revision up to which each source is in; nothing before the first question.
    seen: [Option<u64>; 4],
    /// Pods bound to a node, by key.
    pods: HashMap<String, Pod>,
    /// How many pods of each node refer to an object of this key.
    holders: HashMap<(Referred, String), HashMap<String, usize>>,
    /// Volumes with a claim, by name.
    volumes: HashMap<String, Volume>,
    /// Names of the volumes that need a secret of this key.
    of_secret: HashMap<String, HashSet<String>>,
    /// Nodes that attachments and slices name themselves, by name.
    attachments: HashMap<String, String>,
    slices: HashMap<String, String>,
}

struct Pod {
    node: String,
    references: Vec<(Referred, String)>,
}

struct Volume {
    claim: String,
    secrets: Vec<String>,
}

impl Graph {
    /// Whether an object leads to a node, as of everything written by now.
    pub(super) fn reaches(
        &self,
        storage: &Storage,
        node: &str,
        kind: Kind,
        namespace: &str,
        name: &str,
    ) -> bool {
        let mut state = self.state.lock().unwrap_or_else(PoisonError::into_inner);
        state.follow(storage);
        state.reaches(node, kind, namespace, name)
    }
}

impl State {
    fn follow(&mut self, storage: &Storage) {
        for (source, qualified) in SOURCES.iter().enumerate() {
            let cache = storage.cache(qualified);
            let newest = *cache.subscribe().borrow();
            if self.seen[source].is_some_and(|seen| seen >= newest) {
                continue;
            }
            let events = self.seen[source].and_then(|seen| cache.events_after(seen));
            if let Some((events, revision)) = events {
                for event in events {
                    self.apply(source, &event.entry, event.deleted);
                }
                self.seen[source] = Some(revision);
                continue;
            }
            let snapshot = cache.snapshot();
            self.clear(source);
            snapshot.entries.values().for_each(|entry| self.apply(source, entry, false));
            self.seen[source] = Some(snapshot.revision);
        }
    }

    fn clear(&mut self, source: usize) {
        match source {
            PODS => (self.pods, self.holders) = Default::default(),
            VOLUMES => (self.volumes, self.of_secret) = Default::default(),
            ATTACHMENTS => self.attachments.clear(),
            _ => self.slices.clear(),
        }
    }

    fn apply(&mut self, source: usize, entry: &Entry, deleted: bool) {
        let object = if deleted { Value::Null } else { entry.object() };
        match source {
            PODS => self.pod(&entry.key, &object),
            VOLUMES => self.volume(entry.name(), &object),
            ATTACHMENTS => named(&mut self.attachments, entry.name(), &object),
            _ => named(&mut self.slices, entry.name(), &object),
        }
    }

    /// A pod as it is now; null when it is gone.
    pub(super) fn pod(&mut self, key: &str, pod: &Value) {
        if let Some(gone) = self.pods.remove(key) {
            for reference in gone.references {
                self.release(reference, &gone.node);
            }
        }
        let Some(node) = pod["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) else { return };
        // No node gives itself rights by a mirror pod.
        let mirror = pod["metadata"]["annotations"].get(wharf_api::validate::MIRROR).is_some();
        let found: Vec<Reference> = if mirror { Vec::new() } else { references(pod) };
        let namespace = key.split_once('/').map_or("", |(namespace, _)| namespace);
        let references: Vec<_> =
            found.into_iter().map(|(kind, name)| (kind, format!("{namespace}/{name}"))).collect();
        for reference in &references {
            let nodes = self.holders.entry(reference.clone()).or_default();
            *nodes.entry(node.to_owned()).or_default() += 1;
        }
        self.pods.insert(key.to_owned(), Pod { node: node.to_owned(), references });
    }

    fn release(&mut self, reference: (Referred, String), node: &str) {
        let Some(nodes) = self.holders.get_mut(&reference) else { return };
        if let Some(count) = nodes.get_mut(node) {
            *count -= 1;
            if *count == 0 {
                nodes.remove(node);
            }
        }
        if nodes.is_empty() {
            self.holders.remove(&reference);
        }
    }

    /// A volume as it is now; null when it is gone.
    pub(super) fn volume(&mut self, name: &str, volume: &Value) {
        if let Some(gone) = self.volumes.remove(name) {
            for secret in gone.secrets {
                if let Some(volumes) = self.of_secret.get_mut(&secret) {
                    volumes.remove(name);
                    if volumes.is_empty() {
                        self.of_secret.remove(&secret);
                    }
                }
            }
        }
        let claim = &volume["spec"]["claimRef"];
        let (Some(namespace), Some(claimed)) = (claim["namespace"].as_str(), claim["name"].as_str()) else {
            return;
        };
        let secrets = volume_secrets(volume);
        for secret in &secrets {
            self.of_secret.entry(secret.clone()).or_default().insert(name.to_owned());
        }
        self.volumes.insert(name.to_owned(), Volume { claim: format!("{namespace}/{claimed}"), secrets });
    }

    pub(super) fn reaches(&self, node: &str, kind: Kind, namespace: &str, name: &str) -> bool {
        let held = |kind: Referred| self.held(kind, format!("{namespace}/{name}"), node);
        let names = |map: &HashMap<String, String>| map.get(name).is_some_and(|named| named == node);
        match kind {
            Kind::Pod => self.pods.get(&format!("{namespace}/{name}")).is_some_and(|pod| pod.node == node),
            Kind::Account => held(Referred::Account),
            Kind::ConfigMap => held(Referred::ConfigMap),
            Kind::Claim => held(Referred::Claim),
            Kind::ResourceClaim => held(Referred::ResourceClaim),
            Kind::Secret => {
                let volumes = self.of_secret.get(&format!("{namespace}/{name}"));
                held(Referred::Secret) || volumes.into_iter().flatten().any(|v| self.mounts(v, node))
            }
            Kind::Volume => self.mounts(name, node),
            Kind::Attachment => names(&self.attachments),
            Kind::Slice => names(&self.slices),
        }
    }

    fn held(&self, kind: Referred, key: String, node: &str) -> bool {
        self.holders.get(&(kind, key)).is_some_and(|nodes| nodes.contains_key(node))
    }

    /// Whether a pod of the node uses the claim of a volume.
    fn mounts(&self, volume: &str, node: &str) -> bool {
        let claim = self.volumes.get(volume).map(|volume| volume.claim.clone());
        claim.is_some_and(|claim| self.held(Referred::Claim, claim, node))
    }

    /// Objects that are referred to.
    #[cfg(test)]
    pub(super) fn len(&self) -> usize {
        self.pods.len() + self.holders.len() + self.volumes.len() + self.of_secret.len()
    }
}

fn named(map: &mut HashMap<String, String>, name: &str, object: &Value) {
    match object["spec"]["nodeName"].as_str().filter(|node| !node.is_empty()) {
        Some(node) => map.insert(name.to_owned(), node.to_owned()),
        None => map.remove(name),
    };
}
