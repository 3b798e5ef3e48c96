//! Pods nobody will miss: see `wharf_control::podgc`.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use wharf_base::Timestamp;
use wharf_client::{
    Client, Result,
    action::{NODES, PODS},
};
use wharf_control::{
    Step,
    pod::Pod,
    podgc::{KEPT, View, step},
};

use super::{
    cache::{Typed, refs},
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

const EVERY: Duration = Duration::from_secs(20);
/// How long a node must be missing before that is believed.
const QUARANTINE: Duration = Duration::from_secs(40);

pub(crate) struct PodGc {
    client: Client,
    pods: Arc<Typed<Pod>>,
    nodes: wharf_client::Informer,
    /// Since when nodes that pods speak of are missing.
    missing: Mutex<HashMap<String, Timestamp>>,
}

impl PodGc {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            client: shared.client.clone(),
            pods: shared.informers.typed(PODS),
            nodes: shared.informers.of(&NODES),
            missing: Mutex::default(),
        }
    }

    fn missing(&self) -> MutexGuard<'_, HashMap<String, Timestamp>> {
        self.missing.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The nodes there are, and those that have not been missing for long enough.
    async fn nodes(&self, pods: &[Arc<Pod>], now: Timestamp) -> Result<BTreeSet<String>> {
        let mut nodes: BTreeSet<String> =
            self.nodes.list().iter().map(|node| keys::text(node, "/metadata/name").to_owned()).collect();
        let spoken_of = pods.iter().map(|pod| pod.spec.node_name.as_str()).filter(|name| !name.is_empty());
        let absent: BTreeSet<String> =
            spoken_of.filter(|name| !nodes.contains(*name)).map(str::to_owned).collect();
        let mut ask = Vec::new();
        {
            let mut missing = self.missing();
            missing.retain(|name, _| absent.contains(name));
            for name in absent {
                let since = *missing.entry(name.clone()).or_insert(now);
                if now.since(since) < QUARANTINE {
                    nodes.insert(name);
                } else {
                    ask.push(name);
                }
            }
        }
        for name in ask {
            if self.client.get(&NODES, "", &name).await?.is_some() {
                nodes.insert(name);
            }
        }
        Ok(nodes)
    }
}

impl Controller for PodGc {
    const NAME: &'static str = "pod-garbage-collector";

    fn watches(&self) -> Vec<Watch<Self>> {
        // Time alone asks for work; the caches only have to be filled.
        vec![Watch::new(&self.pods.informer, |_, _| Vec::new()), Watch::new(&self.nodes, |_, _| Vec::new())]
    }

    fn first_keys(&self) -> Vec<String> {
        vec!["all".to_owned()]
    }

    async fn step(&self, _: &str, seen: Seen<'_>) -> Result<Step> {
        let pods = self.pods.all();
        let nodes = self.nodes(&pods, seen.now).await?;
        let mut decided = step(&View { pods: &refs(&pods), nodes: &nodes, kept: KEPT }, seen.now);
        decided.requeue(EVERY);
        Ok(decided)
    }
}
