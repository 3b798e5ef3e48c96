//! ReplicaSets and ReplicationControllers: see `wharf_control::replicaset`.

use std::sync::Arc;

use serde::de::DeserializeOwned;
use wharf_client::{Change, Result, action::PODS};
use wharf_control::{
    Step,
    pod::Pod,
    replicaset::{Kind, ReplicaSet, ReplicationController, View, step},
};

use super::{
    cache::Typed,
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

/// A kind that keeps a number of pods.
pub(crate) trait Replicates: DeserializeOwned + Send + Sync + 'static {
    const NAME: &'static str;
    const KIND: Kind;

    fn set(&self) -> &ReplicaSet;
}

impl Replicates for ReplicaSet {
    const NAME: &'static str = "replicaset-controller";
    const KIND: Kind = Kind::ReplicaSet;

    fn set(&self) -> &ReplicaSet {
        self
    }
}

impl Replicates for ReplicationController {
    const NAME: &'static str = "replication-controller";
    const KIND: Kind = Kind::ReplicationController;

    fn set(&self) -> &ReplicaSet {
        &self.0
    }
}

pub(crate) struct ReplicaSets<T> {
    sets: Arc<Typed<T>>,
    pods: Arc<Typed<Pod>>,
}

impl<T: Replicates> ReplicaSets<T> {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { sets: shared.informers.typed(T::KIND.resource()), pods: shared.informers.typed(PODS) }
    }

    /// Its set, or those that may adopt it.
    fn of_pod(&self, change: &Change) -> Vec<String> {
        let mut concerned = keys::controllers(change, T::KIND.names().1);
        for object in change.new.iter().filter(|object| keys::unmanaged(object)) {
            let labels = keys::labels(object);
            for set in self.sets.in_namespace(keys::namespace(&change.key)) {
                let set = set.set();
                if set.spec.selector.as_ref().is_some_and(|selector| selector.matches(&labels)) {
                    concerned.push(format!("{}/{}", set.metadata.namespace, set.metadata.name));
                }
            }
        }
        concerned
    }

    /// The pods of the sets that share its owner.
    fn related<'a>(&self, set: &ReplicaSet, pods: &'a [Arc<Pod>]) -> Vec<&'a Pod> {
        let Some(owner) = set.metadata.controller() else { return Vec::new() };
        let mut siblings = self.sets.in_namespace(&set.metadata.namespace);
        siblings.retain(|sibling| sibling.set().metadata.controlled_by(&owner.uid));
        let uids: Vec<&str> = siblings.iter().map(|sibling| sibling.set().metadata.uid.as_str()).collect();
        let related =
            |pod: &&Pod| pod.metadata.controller().is_some_and(|owner| uids.contains(&owner.uid.as_str()));
        pods.iter().map(Arc::as_ref).filter(related).collect()
    }
}

impl<T: Replicates> Controller for ReplicaSets<T> {
    const NAME: &'static str = T::NAME;

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.sets.informer, |_, change| keys::own(change)),
            Watch::new(&self.pods.informer, Self::of_pod),
        ]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(set) = self.sets.get(key) else { return Ok(Step::idle()) };
        let set = set.set();
        let pods = self.pods.in_namespace(keys::namespace(key));
        let mine = |pod: &&Pod| pod.metadata.controller().is_none_or(|owner| owner.uid == set.metadata.uid);
        let own: Vec<&Pod> = pods.iter().map(Arc::as_ref).filter(mine).collect();
        let active = own.iter().filter(|pod| pod.active()).count() as i64;
        // Only needed to choose whom to delete.
        let related = if active > set.replicas() { self.related(set, &pods) } else { Vec::new() };
        let view = View { replica_set: set, pods: &own, related: &related, failure: seen.failure };
        Ok(step(&view, seen.now))
    }
}
