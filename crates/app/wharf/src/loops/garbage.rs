//! Garbage collection over every resource there is: see `wharf_control::garbage`.
//!
//! One task owns the graph. Each resource has a task that passes on its changes; discovery is repeated
//! when a CustomResourceDefinition changes, and now and then. Writes run apart and report back.

use std::{
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use serde_json::Value;
use tokio::{
    sync::mpsc,
    task::JoinSet,
    time::{Instant, interval, sleep, timeout},
};
use wharf_client::{
    Change, Client, Gvr, Informer, Result,
    action::{CUSTOM_RESOURCE_DEFINITIONS, ObjectRef},
};
use wharf_control::{Action, Meta, garbage::Graph};

use super::{
    apply::perform,
    discovery::{Found, discover},
    runner::Shared,
};

const REDISCOVER: Duration = Duration::from_secs(30);
/// A resource whose list does not come within this time is not waited for.
const SYNC_WITHIN: Duration = Duration::from_secs(30);
/// Wait after a failed write; doubled with each further one.
const FIRST_BACKOFF: Duration = Duration::from_millis(50);
const LAST_BACKOFF: Duration = Duration::from_secs(60);
/// Writes under way at the same time.
const AT_ONCE: usize = 64;

/// What the tasks around the graph tell it.
enum News {
    Changed(Gvr, Change),
    /// Everything the first list had has been told, or is not waited for any longer.
    Synced(Gvr),
    Owner(String, bool),
    /// A write about the object with this uid has gone through or not.
    Written(String, bool),
    /// Look at it again.
    Touch(String),
}

struct Watched {
    synced: bool,
    informer: Informer,
    feed: tokio::task::AbortHandle,
}

struct Collector {
    shared: Shared,
    graph: Graph,
    watched: BTreeMap<Gvr, Watched>,
    sender: mpsc::UnboundedSender<News>,
    feeds: JoinSet<()>,
    writes: JoinSet<()>,
    waiting: Vec<Action>,
    failures: HashMap<String, u32>,
}

/// Runs the collector. Returns only when its parts are gone.
pub(crate) async fn run(shared: Shared) {
    let (sender, mut news) = mpsc::unbounded_channel();
    let definitions = shared.informers.of(&CUSTOM_RESOURCE_DEFINITIONS);
    definitions.synced().await;
    let mut definitions = definitions.subscribe();
    let mut collector = Collector {
        shared,
        graph: Graph::new(),
        watched: BTreeMap::new(),
        sender,
        feeds: JoinSet::new(),
        writes: JoinSet::new(),
        waiting: Vec::new(),
        failures: HashMap::new(),
    };
    let mut rediscover = interval(REDISCOVER);
    loop {
        tokio::select! {
            Some(first) = news.recv() => {
                collector.take(first);
                while let Ok(more) = news.try_recv() {
                    collector.take(more);
                }
            }
            Some(_) = collector.writes.join_next() => {}
            Some(_) = definitions.recv() => {
                while definitions.try_recv().is_ok() {}
                collector.rediscover().await;
            }
            _ = rediscover.tick() => collector.rediscover().await,
        }
        if collector.watched.values().all(|watched| watched.synced) {
            collector.waiting.extend(collector.graph.step().actions);
        }
        collector.send();
    }
}

impl Collector {
    async fn rediscover(&mut self) {
        let found = match discover(&self.shared.client).await {
            Ok(found) => found,
            Err(error) => {
                return tracing::debug!(%error, "garbage collection goes on with the resources it knows");
            }
        };
        let wanted = |found: &&Found| found.can(&["list", "watch", "delete"]) && !found.is_events();
        let wanted: Vec<Gvr> = found.iter().filter(wanted).map(|found| found.resource.clone()).collect();
        let gone: Vec<Gvr> = self.watched.keys().filter(|known| !wanted.contains(known)).cloned().collect();
        for resource in gone {
            self.drop_resource(&resource);
        }
        for resource in wanted {
            if !self.watched.contains_key(&resource) {
                self.add_resource(resource);
            }
        }
    }

    fn add_resource(&mut self, resource: Gvr) {
        let informer = self.shared.informers.of(&resource);
        let feed = self.feeds.spawn(feed(informer.clone(), resource.clone(), self.sender.clone()));
        self.watched.insert(resource, Watched { synced: false, informer, feed });
    }

    fn drop_resource(&mut self, resource: &Gvr) {
        let Some(watched) = self.watched.remove(resource) else { return };
        watched.feed.abort();
        self.shared.informers.forget(resource);
        for object in watched.informer.list() {
            self.graph.gone(uid(&object));
        }
    }

    fn take(&mut self, news: News) {
        match news {
            News::Changed(resource, change) => self.observe(&resource, &change),
            News::Synced(resource) => {
                if let Some(watched) = self.watched.get_mut(&resource) {
                    watched.synced = true;
                }
            }
            News::Owner(uid, true) => self.graph.owner_present(&uid),
            News::Owner(uid, false) => self.graph.owner_absent(&uid),
            News::Written(uid, true) => drop(self.failures.remove(&uid)),
            News::Written(uid, false) => self.retry(uid),
            News::Touch(uid) => self.graph.touch(&uid),
        }
    }

    fn observe(&mut self, resource: &Gvr, change: &Change) {
        // What a dropped resource has still sent is no longer true.
        if !self.watched.contains_key(resource) {
            return;
        }
        let new = change.new.as_ref();
        let replaced = |old: &&wharf_client::Object| new.is_none_or(|new| uid(old) != uid(new));
        if let Some(old) = change.old.as_ref().filter(replaced) {
            self.failures.remove(uid(old));
            self.graph.gone(uid(old));
        }
        let Some(metadata) = new.and_then(|new| new.get("metadata")) else { return };
        match wharf_control::read::<Meta>(metadata) {
            Ok(meta) => self.graph.observe(resource, &meta),
            Err(error) => tracing::warn!(resource = %resource.resource, key = %change.key, %error,
                "object not collected: its metadata cannot be read"),
        }
    }

    fn retry(&mut self, uid: String) {
        let failures = self.failures.entry(uid.clone()).or_default();
        let wait = FIRST_BACKOFF.saturating_mul(1 << (*failures).min(16)).min(LAST_BACKOFF);
        *failures += 1;
        let sender = self.sender.clone();
        self.feeds.spawn(async move {
            sleep(wait).await;
            let _ = sender.send(News::Touch(uid));
        });
    }

    /// Starts as many of the waiting writes as may run.
    fn send(&mut self) {
        while self.feeds.try_join_next().is_some() {}
        let room = AT_ONCE.saturating_sub(self.writes.len()).min(self.waiting.len());
        for action in self.waiting.drain(..room) {
            let (client, sender) = (self.shared.client.clone(), self.sender.clone());
            match action {
                Action::CheckOwner { owner } => drop(self.feeds.spawn(check_owner(client, owner, sender))),
                action => drop(self.writes.spawn(write(client, action, sender))),
            }
        }
    }
}

fn uid(object: &Value) -> &str {
    object.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or("")
}

/// Passes on the changes of one resource. The receiver lives as long as the collector.
async fn feed(informer: Informer, resource: Gvr, sender: mpsc::UnboundedSender<News>) {
    if timeout(SYNC_WITHIN, informer.synced()).await.is_err() {
        tracing::warn!(resource = %resource.resource, "garbage collection does not wait for this resource: it cannot be listed");
    }
    let mut changes = informer.subscribe();
    while let Ok(change) = changes.try_recv() {
        let _ = sender.send(News::Changed(resource.clone(), change));
    }
    let _ = sender.send(News::Synced(resource.clone()));
    while let Some(change) = changes.recv().await {
        let _ = sender.send(News::Changed(resource.clone(), change));
    }
}

async fn write(client: Client, action: Action, sender: mpsc::UnboundedSender<News>) {
    let subject = match &action {
        Action::Delete { uid, .. } => uid.clone(),
        Action::Patch { body, .. } => Some(uid(body).to_owned()),
        _ => None,
    };
    let result = perform(&client, action).await;
    if let Err(error) = &result {
        tracing::debug!(%error, "garbage not collected yet");
    }
    if let Some(subject) = subject {
        let _ = sender.send(News::Written(subject, result.is_ok()));
    }
}

/// Reads an owner live until there is an answer.
async fn check_owner(client: Client, owner: ObjectRef, sender: mpsc::UnboundedSender<News>) {
    let started = Instant::now();
    let mut wait = FIRST_BACKOFF;
    loop {
        match exists(&client, &owner).await {
            Ok(Some(present)) => {
                let _ = sender.send(News::Owner(owner.uid, present));
                return;
            }
            Ok(None) if started.elapsed() > LAST_BACKOFF => {
                tracing::debug!(kind = %owner.kind, api_version = %owner.api_version, "the resource of an owner is not known");
            }
            Ok(None) => {}
            Err(error) => tracing::debug!(kind = %owner.kind, name = %owner.name, %error, "owner not read"),
        }
        sleep(wait).await;
        wait = (wait * 2).min(LAST_BACKOFF);
    }
}

/// Whether an owner exists; nothing when its kind is not known, which proves nothing.
async fn exists(client: &Client, owner: &ObjectRef) -> Result<Option<bool>> {
    let found = discover(client).await?;
    let (group, _) = owner.api_version.split_once('/').unwrap_or(("", &owner.api_version));
    let Some(found) = found.iter().find(|f| f.resource.group == group && f.kind == owner.kind) else {
        return Ok(None);
    };
    // A namespaced owner of a cluster-scoped dependent is no owner.
    if found.namespaced && owner.namespace.is_empty() {
        return Ok(Some(false));
    }
    let namespace = if found.namespaced { owner.namespace.as_str() } else { "" };
    let object = client.get(&found.resource, namespace, &owner.name).await?;
    Ok(Some(object.is_some_and(|object| uid(&object) == owner.uid)))
}
