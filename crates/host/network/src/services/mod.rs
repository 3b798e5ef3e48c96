//! Services of the API, followed and turned into rules.

mod model;
mod watch;

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use tokio::{task::JoinHandle, time::sleep};
use wharf_client::{Change, Client, Gvr, Informer, ListParams, Object, action::PODS};

pub(crate) use model::usable;
pub use model::{Service, Weights, rules_of};
pub(crate) use watch::Watch;

use crate::{ServicePortRule, ServiceRules};

/// How long the weights of rollouts are waited for at the start: a server without rollouts never has them.
const ROLLOUT_PATIENCE: Duration = Duration::from_secs(2);
/// After the kernel refused a change.
const RETRY: Duration = Duration::from_secs(1);

const ROLLOUTS: Gvr = Gvr::fixed("argoproj.io", "v1alpha1", "rollouts");

/// Keeps the kernel's rules as the API wants them, until it is dropped.
pub struct ServiceProxy {
    task: JoinHandle<()>,
}

impl Drop for ServiceProxy {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl ServiceProxy {
    /// Starts to follow Services, EndpointSlices, and the weights of Rollouts; must be called inside a tokio runtime.
    pub fn start(client: Client, rules: ServiceRules) -> Self {
        Self { task: tokio::spawn(run(client, rules)) }
    }
}

/// What decides about the shares of endpoints.
struct Versions {
    pods: Informer,
    rollouts: Informer,
}

async fn run(client: Client, rules: ServiceRules) {
    let all = ListParams::default;
    let versions = Versions {
        pods: Informer::start(client.clone(), PODS, all()),
        rollouts: Informer::start(client.clone(), ROLLOUTS, all()),
    };
    let mut pods = versions.pods.subscribe();
    let mut rollouts = versions.rollouts.subscribe();
    let mut watch = Watch::start(client);
    watch.synced().await;
    versions.pods.synced().await;
    if tokio::time::timeout(ROLLOUT_PATIENCE, versions.rollouts.synced()).await.is_err() {
        tracing::debug!("no rollouts yet: endpoints have equal shares");
    }
    watch.drain();
    let compute = |watch: &Watch, key: &str| desired(watch, &versions, key);
    let everything = |watch: &Watch| -> BTreeMap<String, Vec<ServicePortRule>> {
        watch.keys().into_iter().map(|key| (key.clone(), compute(watch, &key))).collect()
    };
    while let Err(error) = rules.replace(everything(&watch)).await {
        tracing::warn!(%error, "service rules cannot be set; trying again");
        sleep(RETRY).await;
    }
    let mut dirty = BTreeSet::new();
    loop {
        tokio::select! {
            keys = watch.next() => dirty.extend(keys),
            Some(change) = pods.recv() => {
                if relabelled(&change) {
                    dirty.extend(neighbours(&watch, &change.key));
                }
            }
            Some(change) = rollouts.recv() => {
                if reweighted(&change) {
                    dirty.extend(neighbours(&watch, &change.key));
                }
            }
        }
        let changes: Vec<_> = dirty.iter().map(|key| (key.clone(), compute(&watch, key))).collect();
        match rules.apply(changes).await {
            Ok(()) => dirty.clear(),
            Err(error) => {
                tracing::warn!(%error, services = ?dirty, "service rules cannot be changed; trying again");
                sleep(RETRY).await;
                // Keys stay dirty; the next round, which this one starts, takes them along.
                watch.again(std::mem::take(&mut dirty));
            }
        }
    }
}

fn desired(watch: &Watch, versions: &Versions, key: &str) -> Vec<ServicePortRule> {
    let Some(service) = watch.service(key) else { return Vec::new() };
    let namespace = &service.metadata.namespace;
    let rollouts = versions.rollouts.in_namespace(namespace);
    let weights = match rollouts.iter().any(|rollout| model::has_weights(rollout)) {
        true => Weights::of(&rollouts, &versions.pods.in_namespace(namespace)),
        false => Weights::default(),
    };
    rules_of(&service, &watch.slices(key), &weights)
}

/// All Services of the namespace an object is in.
fn neighbours(watch: &Watch, object: &str) -> Vec<String> {
    let namespace = object.split('/').next().unwrap_or_default();
    let prefix = format!("{namespace}/");
    watch.keys().into_iter().filter(|key| key.starts_with(&prefix)).collect()
}

fn relabelled(change: &Change) -> bool {
    let hash =
        |object| Option::as_ref(object).and_then(|pod: &Object| model::template_hash(pod).map(str::to_owned));
    change.new.is_some() && hash(&change.old) != hash(&change.new)
}

fn reweighted(change: &Change) -> bool {
    let weights = |object| Option::as_ref(object).and_then(|object: &Object| model::weights(object).cloned());
    weights(&change.old) != weights(&change.new)
}

#[cfg(test)]
mod tests;
