//! ReplicaSets: see `wharf_control::replicaset`.

use std::sync::Arc;

use wharf_client::{
    Change, Result,
    action::{PODS, REPLICA_SETS},
};
use wharf_control::{
    Step,
    pod::Pod,
    replicaset::{ReplicaSet, View, step},
};

use super::{
    cache::Typed,
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct ReplicaSets {
    replica_sets: Arc<Typed<ReplicaSet>>,
    pods: Arc<Typed<Pod>>,
}

impl ReplicaSets {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { replica_sets: shared.informers.typed(REPLICA_SETS), pods: shared.informers.typed(PODS) }
    }

    /// Its ReplicaSet, or those that may adopt it.
    fn of_pod(&self, change: &Change) -> Vec<String> {
        let mut concerned = keys::controllers(change, "ReplicaSet");
        for object in change.new.iter().filter(|object| keys::unmanaged(object)) {
            let labels = keys::labels(object);
            for set in self.replica_sets.in_namespace(keys::namespace(&change.key)) {
                if set.spec.selector.as_ref().is_some_and(|selector| selector.matches(&labels)) {
                    concerned.push(format!("{}/{}", set.metadata.namespace, set.metadata.name));
                }
            }
        }
        concerned
    }

    /// The pods of the ReplicaSets that share its owner.
    fn related<'a>(&self, set: &ReplicaSet, pods: &'a [Arc<Pod>]) -> Vec<&'a Pod> {
        let Some(owner) = set.metadata.controller() else { return Vec::new() };
        let mut siblings = self.replica_sets.in_namespace(&set.metadata.namespace);
        siblings.retain(|sibling| sibling.metadata.controlled_by(&owner.uid));
        let uids: Vec<&str> = siblings.iter().map(|sibling| sibling.metadata.uid.as_str()).collect();
        let related =
            |pod: &&Pod| pod.metadata.controller().is_some_and(|owner| uids.contains(&owner.uid.as_str()));
        pods.iter().map(Arc::as_ref).filter(related).collect()
    }
}

impl Controller for ReplicaSets {
    const NAME: &'static str = "replicaset-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.replica_sets.informer, |_, change| keys::own(change)),
            Watch::new(&self.pods.informer, Self::of_pod),
        ]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(set) = self.replica_sets.get(key) else { return Ok(Step::idle()) };
        let pods = self.pods.in_namespace(keys::namespace(key));
        let mine = |pod: &&Pod| pod.metadata.controller().is_none_or(|owner| owner.uid == set.metadata.uid);
        let own: Vec<&Pod> = pods.iter().map(Arc::as_ref).filter(mine).collect();
        let active = own.iter().filter(|pod| pod.active()).count() as i64;
        // Only needed to choose whom to delete.
        let related = if active > set.replicas() { self.related(&set, &pods) } else { Vec::new() };
        let view = View { replica_set: &set, pods: &own, related: &related, failure: seen.failure };
        Ok(step(&view, seen.now))
    }
}
