//! Deployments: see `wharf_control::deployment`.

use std::sync::Arc;

use wharf_client::{
    Change, Result,
    action::{DEPLOYMENTS, PODS, REPLICA_SETS},
};
use wharf_control::{
    Step,
    deployment::{Deployment, View, step},
    pod::Pod,
    replicaset::ReplicaSet,
};

use super::{
    cache::{Typed, refs},
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct Deployments {
    deployments: Arc<Typed<Deployment>>,
    replica_sets: Arc<Typed<ReplicaSet>>,
    pods: Arc<Typed<Pod>>,
}

impl Deployments {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            deployments: shared.informers.typed(DEPLOYMENTS),
            replica_sets: shared.informers.typed(REPLICA_SETS),
            pods: shared.informers.typed(PODS),
        }
    }

    /// Its Deployment, or those that may adopt it.
    fn of_replica_set(&self, change: &Change) -> Vec<String> {
        let mut concerned = keys::controllers(change, "Deployment");
        for object in change.new.iter().filter(|object| keys::unmanaged(object)) {
            let labels = keys::labels(object);
            for deployment in self.deployments.in_namespace(keys::namespace(&change.key)) {
                if deployment.spec.selector.as_ref().is_some_and(|selector| selector.matches(&labels)) {
                    concerned.push(format!("{}/{}", deployment.metadata.namespace, deployment.metadata.name));
                }
            }
        }
        concerned
    }

    /// `Recreate` waits for the end of old pods; nothing else of a pod matters here.
    fn of_pod(&self, change: &Change) -> Vec<String> {
        if !keys::differs(change, &["/status/phase"]) || change.old.is_none() {
            return Vec::new();
        }
        let sets = keys::controllers(change, "ReplicaSet").into_iter();
        let sets = sets.filter_map(|key| self.replica_sets.informer.get(&key));
        let owners = sets.filter_map(|set| keys::controller(&set, "Deployment"));
        let recreates =
            |key: &String| self.deployments.get(key).is_some_and(|d| d.spec.strategy.kind == "Recreate");
        owners.filter(recreates).collect()
    }

    /// The pods of its ReplicaSets, for the strategy that reads them.
    fn pods_of(&self, deployment: &Deployment, sets: &[Arc<ReplicaSet>]) -> Vec<Arc<Pod>> {
        if deployment.spec.strategy.kind != "Recreate" {
            return Vec::new();
        }
        let owned = |set: &&Arc<ReplicaSet>| set.metadata.controlled_by(&deployment.metadata.uid);
        let sets: Vec<&str> = sets.iter().filter(owned).map(|set| set.metadata.uid.as_str()).collect();
        let mut pods = self.pods.in_namespace(&deployment.metadata.namespace);
        pods.retain(|pod| pod.metadata.controller().is_some_and(|owner| sets.contains(&owner.uid.as_str())));
        pods
    }
}

impl Controller for Deployments {
    const NAME: &'static str = "deployment-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.deployments.informer, |_, change| keys::own(change)),
            Watch::new(&self.replica_sets.informer, Self::of_replica_set),
            Watch::new(&self.pods.informer, Self::of_pod),
        ]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(deployment) = self.deployments.get(key) else { return Ok(Step::idle()) };
        let sets = self.replica_sets.in_namespace(keys::namespace(key));
        let pods = self.pods_of(&deployment, &sets);
        let view = View {
            deployment: &deployment,
            replica_sets: &refs(&sets),
            pods: &refs(&pods),
            failure: seen.failure,
        };
        Ok(step(&view, seen.now))
    }
}
