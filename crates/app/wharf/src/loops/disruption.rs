//! PodDisruptionBudgets: see `wharf_control::disruption`.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use wharf_client::{
    Change, Informer, Object, Result,
    action::{
        DEPLOYMENTS, POD_DISRUPTION_BUDGETS, PODS, REPLICA_SETS, REPLICATION_CONTROLLERS, STATEFUL_SETS,
    },
};
use wharf_control::{
    OwnerReference, Step,
    disruption::{Budget, Scale, View, controllers, renew, step},
    pod::Pod,
};
use wharf_scale::hpa::TargetRef;

use super::{
    cache::Typed,
    keys,
    runner::{Controller, Seen, Shared, Watch},
    scale_target,
};

pub(crate) struct Disruptions {
    budgets: Arc<Typed<Budget>>,
    pods: Arc<Typed<Pod>>,
    deployments: Informer,
    replica_sets: Informer,
    replication_controllers: Informer,
    stateful_sets: Informer,
    /// Everything else with a scale.
    others: scale_target::Targets,
}

impl Disruptions {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            budgets: shared.informers.typed(POD_DISRUPTION_BUDGETS),
            pods: shared.informers.typed(PODS),
            deployments: shared.informers.of(&DEPLOYMENTS),
            replica_sets: shared.informers.of(&REPLICA_SETS),
            replication_controllers: shared.informers.of(&REPLICATION_CONTROLLERS),
            stateful_sets: shared.informers.of(&STATEFUL_SETS),
            others: scale_target::Targets::new(shared.client.clone()),
        }
    }

    /// The budgets that covered or cover a pod.
    fn of_pod(&self, change: &Change) -> Vec<String> {
        const COUNTED: [&str; 4] =
            ["/metadata/labels", "/metadata/deletionTimestamp", "/metadata/ownerReferences", "/status"];
        if !keys::differs(change, &COUNTED) {
            return Vec::new();
        }
        let pods: Vec<Arc<Pod>> = keys::both(change).filter_map(|pod| self.pods.read(pod)).collect();
        let mut budgets = self.budgets.in_namespace(keys::namespace(&change.key));
        budgets.retain(|budget| pods.iter().any(|pod| budget.covers(&pod.metadata)));
        budgets.iter().map(|budget| key(budget)).collect()
    }

    /// Of a controller only the size matters, to the budgets that go by it.
    fn of_controller(&self, change: &Change) -> Vec<String> {
        if !keys::differs(change, &["/spec/replicas"]) {
            return Vec::new();
        }
        let mut budgets = self.budgets.in_namespace(keys::namespace(&change.key));
        budgets.retain(|budget| budget.scales());
        budgets.iter().map(|budget| key(budget)).collect()
    }

    /// The scale behind a controller of pods.
    async fn scale(&self, namespace: &str, owner: &OwnerReference) -> Result<Scale, String> {
        let group = owner.api_version.split_once('/').map_or("", |(group, _)| group);
        let informer = match (group, owner.kind.as_str()) {
            ("", "ReplicationController") => &self.replication_controllers,
            ("apps", "StatefulSet") => &self.stateful_sets,
            ("apps", "ReplicaSet") => return self.replica_set(namespace, owner),
            _ => return self.other(namespace, owner).await,
        };
        scale_of(informer, namespace, owner)
    }

    /// A ReplicaSet stands for the Deployment that manages it.
    fn replica_set(&self, namespace: &str, owner: &OwnerReference) -> Result<Scale, String> {
        let set = object(&self.replica_sets, namespace, owner)?;
        let owners = set.pointer("/metadata/ownerReferences").and_then(Value::as_array);
        let mut owners = owners.into_iter().flatten().filter_map(|o| wharf_control::read(o).ok());
        let above = owners.find(|owner: &OwnerReference| owner.controller == Some(true));
        match above.filter(|above| above.kind == "Deployment") {
            Some(deployment) => scale_of(&self.deployments, namespace, &deployment),
            None => Ok(scale(&set)),
        }
    }

    async fn other(&self, namespace: &str, owner: &OwnerReference) -> Result<Scale, String> {
        let target = TargetRef {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            name: owner.name.clone(),
        };
        let unknown = |why| format!("no scale of {} {}: {why}", owner.kind, owner.name);
        let found = self.others.read(namespace, &target).await.map_err(unknown)?;
        match found.uid == owner.uid {
            true => Ok(Scale { uid: found.uid, replicas: found.asked }),
            false => Err(gone(owner)),
        }
    }
}

fn key(budget: &Budget) -> String {
    format!("{}/{}", budget.metadata.namespace, budget.metadata.name)
}

fn gone(owner: &OwnerReference) -> String {
    format!("{} {} does not exist any more", owner.kind, owner.name)
}

fn object(informer: &Informer, namespace: &str, owner: &OwnerReference) -> Result<Object, String> {
    let found = informer.get(&format!("{namespace}/{}", owner.name));
    found.filter(|found| keys::text(found, "/metadata/uid") == owner.uid).ok_or_else(|| gone(owner))
}

fn scale_of(informer: &Informer, namespace: &str, owner: &OwnerReference) -> Result<Scale, String> {
    object(informer, namespace, owner).map(|found| scale(&found))
}

fn scale(object: &Value) -> Scale {
    let replicas = object.pointer("/spec/replicas").and_then(Value::as_i64).unwrap_or(1);
    Scale { uid: keys::text(object, "/metadata/uid").to_owned(), replicas }
}

impl Controller for Disruptions {
    const NAME: &'static str = "disruption-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.budgets.informer, |_, change| keys::own(change)),
            Watch::new(&self.pods.informer, Self::of_pod),
            Watch::new(&self.deployments, Self::of_controller),
            Watch::new(&self.replica_sets, Self::of_controller),
            Watch::new(&self.replication_controllers, Self::of_controller),
            Watch::new(&self.stateful_sets, Self::of_controller),
        ]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(budget) = self.budgets.get(key) else { return Ok(Step::idle()) };
        let namespace = keys::namespace(key);
        let mut pods = self.pods.in_namespace(namespace);
        pods.retain(|pod| budget.covers(&pod.metadata));
        let pods: Vec<&Pod> = pods.iter().map(Arc::as_ref).collect();
        let mut scales = BTreeMap::new();
        if budget.scales() {
            for owner in controllers(&pods) {
                scales.insert(owner.uid.clone(), self.scale(namespace, owner).await);
            }
        }
        Ok(step(&View { budget: &budget, pods: &pods, scales: &scales }, seen.now))
    }
}

/// Pods that say they are about to be disrupted, and are not.
pub(crate) struct Targets {
    pods: Arc<Typed<Pod>>,
}

impl Targets {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { pods: shared.informers.typed(PODS) }
    }

    fn of_pod(&self, change: &Change) -> Vec<String> {
        let conditions = change.new.as_ref().and_then(|pod| pod.pointer("/status/conditions"));
        let mut conditions = conditions.and_then(Value::as_array).into_iter().flatten();
        let says = conditions.any(|c| keys::text(c, "/type") == "DisruptionTarget");
        if says { keys::own(change) } else { Vec::new() }
    }
}

impl Controller for Targets {
    const NAME: &'static str = "disruption-target-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![Watch::new(&self.pods.informer, Self::of_pod)]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        Ok(self.pods.get(key).map_or_else(Step::idle, |pod| renew(&pod, seen.now)))
    }
}
