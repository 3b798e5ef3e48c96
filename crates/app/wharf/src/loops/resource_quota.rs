//! ResourceQuotas: see `wharf_control::quota`.
//!
//! Pods, Services and claims are always watched. Whatever else a quota counts is looked up in discovery
//! and watched from then on, custom resources too.

use std::{
    collections::{BTreeMap, BTreeSet},
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::Duration,
};

use tokio::{
    sync::{Notify, mpsc},
    task::{AbortHandle, JoinSet},
    time::interval,
};
use wharf_client::{
    Change, Client, Informer, Object, Result,
    action::{CUSTOM_RESOURCE_DEFINITIONS, PERSISTENT_VOLUME_CLAIMS, PODS, RESOURCE_QUOTAS, SERVICES},
};
use wharf_control::{
    Step,
    quota::{self, Objects, Resource, ResourceQuota, View, resource_of, step},
};

use super::{
    cache::{Informers, Typed, refs},
    discovery::discover,
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

/// How often resources that were not there are looked for again.
const REDISCOVER: Duration = Duration::from_secs(30);

/// Group and plural name.
type Id = (String, String);

pub(crate) struct ResourceQuotas {
    client: Client,
    informers: Informers,
    quotas: Arc<Typed<ResourceQuota>>,
    pods: Arc<Typed<quota::Pod>>,
    services: Informer,
    claims: Informer,
    definitions: Informer,
    counted: Mutex<Counted>,
    /// A quota names a resource nobody has looked for.
    asked: Notify,
}

/// The resources that quotas count besides those always watched.
#[derive(Default)]
struct Counted {
    watched: BTreeMap<Id, Watched>,
    /// Looked for in vain.
    missing: BTreeSet<Id>,
}

struct Watched {
    informer: Informer,
    feed: AbortHandle,
}

impl Drop for Watched {
    fn drop(&mut self) {
        self.feed.abort();
    }
}

/// What a watched resource tells.
enum News {
    Synced,
    Changed(Change),
}

fn id(resource: Resource<'_>) -> Id {
    (resource.group.to_owned(), resource.name.to_owned())
}

fn resource(id: &Id) -> Resource<'_> {
    Resource::new(&id.0, &id.1)
}

fn names(quota: &ResourceQuota, resource: Resource<'_>) -> bool {
    quota.spec.hard.keys().any(|name| resource_of(name) == Some(resource))
}

/// The resources a quota counts, each once.
fn resources(quota: &ResourceQuota) -> BTreeSet<Resource<'_>> {
    quota.spec.hard.keys().filter_map(|name| resource_of(name)).collect()
}

fn key(quota: &ResourceQuota) -> String {
    format!("{}/{}", quota.metadata.namespace, quota.metadata.name)
}

impl ResourceQuotas {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            client: shared.client.clone(),
            informers: shared.informers.clone(),
            quotas: shared.informers.typed(RESOURCE_QUOTAS),
            pods: shared.informers.typed(PODS),
            services: shared.informers.of(&SERVICES),
            claims: shared.informers.of(&PERSISTENT_VOLUME_CLAIMS),
            definitions: shared.informers.of(&CUSTOM_RESOURCE_DEFINITIONS),
            counted: Mutex::default(),
            asked: Notify::new(),
        }
    }

    fn counted(&self) -> MutexGuard<'_, Counted> {
        self.counted.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// The quotas of a namespace that count a resource.
    fn counting(&self, resource: Resource<'_>, namespace: &str) -> Vec<String> {
        let quotas = self.quotas.in_namespace(namespace);
        quotas.iter().filter(|quota| names(quota, resource)).map(|quota| key(quota)).collect()
    }

    fn of_pod(&self, change: &Change) -> Vec<String> {
        let read = |pod: &Option<Object>| self.pods.read(pod.as_ref()?);
        match (read(&change.old), read(&change.new)) {
            (Some(old), Some(new)) if old.counts_as(&new) => Vec::new(),
            _ => self.counting(quota::PODS, keys::namespace(&change.key)),
        }
    }

    fn of_service(&self, change: &Change) -> Vec<String> {
        self.of_change(change, quota::SERVICES, &["/spec"])
    }

    fn of_claim(&self, change: &Change) -> Vec<String> {
        self.of_change(change, quota::CLAIMS, &["/spec", "/status"])
    }

    fn of_change(&self, change: &Change, resource: Resource<'_>, counted: &[&str]) -> Vec<String> {
        match keys::differs(change, counted) {
            true => self.counting(resource, keys::namespace(&change.key)),
            false => Vec::new(),
        }
    }

    /// The informer of a resource that can be counted now.
    fn informer(&self, resource: Resource<'_>) -> Option<Informer> {
        match resource {
            quota::SERVICES => return Some(self.services.clone()),
            quota::CLAIMS => return Some(self.claims.clone()),
            _ => {}
        }
        let counted = self.counted();
        let id = id(resource);
        if !counted.watched.contains_key(&id) && !counted.missing.contains(&id) {
            self.asked.notify_one();
        }
        let watched = counted.watched.get(&id).map(|watched| watched.informer.clone());
        watched.filter(|informer| informer.revision() > 0)
    }

    /// Every resource quotas name that needs a watch of its own.
    fn wanted(&self) -> BTreeSet<Id> {
        let quotas = self.quotas.all();
        let fixed = [quota::PODS, quota::SERVICES, quota::CLAIMS];
        let named = quotas.iter().flat_map(|quota| resources(quota));
        named.filter(|resource| !fixed.contains(resource)).map(id).collect()
    }

    /// Watches what quotas name and is there, and nothing else.
    async fn rediscover(&self, feeds: &mut JoinSet<()>, sender: &mpsc::UnboundedSender<(Id, News)>) {
        let wanted = self.wanted();
        if wanted.is_empty() {
            self.counted().watched.clear();
            return;
        }
        let found = match discover(&self.client).await {
            Ok(found) => found,
            Err(error) => return tracing::debug!(%error, "quotas count the resources they know"),
        };
        let mut counted = self.counted();
        let mut present = BTreeMap::new();
        for found in found.into_iter().filter(|found| found.namespaced && found.can(&["list", "watch"])) {
            present.insert(
                (found.resource.group.to_string(), found.resource.resource.to_string()),
                found.resource,
            );
        }
        counted.watched.retain(|id, _| wanted.contains(id) && present.contains_key(id));
        counted.missing = wanted.iter().filter(|id| !present.contains_key(*id)).cloned().collect();
        for id in wanted {
            let Some(gvr) = present.get(&id).filter(|_| !counted.watched.contains_key(&id)) else { continue };
            let informer = self.informers.of(gvr);
            let feed = feeds.spawn(feed(id.clone(), informer.clone(), sender.clone()));
            counted.watched.insert(id, Watched { informer, feed });
        }
    }

    fn told(&self, id: &Id, news: &News) -> Vec<String> {
        match news {
            News::Synced => {
                let quotas = self.quotas.all();
                quotas.iter().filter(|quota| names(quota, resource(id))).map(|quota| key(quota)).collect()
            }
            // Only how many there are counts.
            News::Changed(Change { old: Some(_), new: Some(_), .. }) => Vec::new(),
            News::Changed(change) => self.counting(resource(id), keys::namespace(&change.key)),
        }
    }
}

/// Passes on what happens to one resource, once all there is has been seen.
async fn feed(id: Id, informer: Informer, sender: mpsc::UnboundedSender<(Id, News)>) {
    informer.synced().await;
    let mut changes = informer.subscribe();
    while changes.try_recv().is_ok() {}
    let _ = sender.send((id.clone(), News::Synced));
    while let Some(change) = changes.recv().await {
        let _ = sender.send((id.clone(), News::Changed(change)));
    }
}

impl Controller for ResourceQuotas {
    const NAME: &'static str = "resourcequota-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.quotas.informer, |_, change| keys::own(change)),
            Watch::new(&self.pods.informer, Self::of_pod),
            Watch::new(&self.services, Self::of_service),
            Watch::new(&self.claims, Self::of_claim),
        ]
    }

    async fn also(&self, ask: &(dyn Fn(String) + Send + Sync)) {
        let (sender, mut news) = mpsc::unbounded_channel();
        let mut feeds = JoinSet::new();
        let mut definitions = self.definitions.subscribe();
        let mut again = interval(REDISCOVER);
        loop {
            tokio::select! {
                Some((id, news)) = news.recv() => {
                    self.told(&id, &news).into_iter().for_each(ask);
                    continue;
                }
                Some(_) = definitions.recv() => while definitions.try_recv().is_ok() {},
                () = self.asked.notified() => {}
                _ = again.tick() => {}
            }
            while feeds.try_join_next().is_some() {}
            self.rediscover(&mut feeds, &sender).await;
        }
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(quota) = self.quotas.get(key) else { return Ok(Step::idle()) };
        let namespace = keys::namespace(key);
        let pods = if names(&quota, quota::PODS) { self.pods.in_namespace(namespace) } else { Vec::new() };
        let pods = refs(&pods);
        let others: Vec<(Resource<'_>, Vec<Object>)> = resources(&quota)
            .into_iter()
            .filter(|resource| *resource != quota::PODS)
            .filter_map(|resource| Some((resource, self.informer(resource)?.in_namespace(namespace))))
            .collect();
        let others: Vec<_> = others.iter().map(|(resource, objects)| (*resource, refs(objects))).collect();
        let mut objects = vec![Objects::Pods(&pods)];
        objects.extend(others.iter().map(|(resource, objects)| Objects::Of(*resource, objects)));
        Ok(step(&View { quota: &quota, objects: &objects }, seen.now))
    }
}
