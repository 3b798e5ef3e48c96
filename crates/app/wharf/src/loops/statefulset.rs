//! StatefulSets: see `wharf_control::statefulset`.

use std::sync::Arc;

use wharf_client::{
    Change, Result,
    action::{CONTROLLER_REVISIONS, PERSISTENT_VOLUME_CLAIMS, PODS, STATEFUL_SETS},
};
use wharf_control::{
    Step,
    history::ControllerRevision,
    pod::Pod,
    statefulset::{PersistentVolumeClaim, StatefulSet, View, step},
};

use super::{
    cache::{Typed, refs},
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct StatefulSets {
    stateful_sets: Arc<Typed<StatefulSet>>,
    revisions: Arc<Typed<ControllerRevision>>,
    pods: Arc<Typed<Pod>>,
    claims: Arc<Typed<PersistentVolumeClaim>>,
}

impl StatefulSets {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            stateful_sets: shared.informers.typed(STATEFUL_SETS),
            revisions: shared.informers.typed(CONTROLLER_REVISIONS),
            pods: shared.informers.typed(PODS),
            claims: shared.informers.typed(PERSISTENT_VOLUME_CLAIMS),
        }
    }

    /// Its StatefulSet, or those that may adopt it.
    fn of_dependent(&self, change: &Change) -> Vec<String> {
        let mut concerned = keys::controllers(change, "StatefulSet");
        for object in change.new.iter().filter(|object| keys::unmanaged(object)) {
            let labels = keys::labels(object);
            for set in self.stateful_sets.in_namespace(keys::namespace(&change.key)) {
                if set.spec.selector.as_ref().is_some_and(|selector| selector.matches(&labels)) {
                    concerned.push(key(&set));
                }
            }
        }
        concerned
    }

    /// Those that may have a claim of this name.
    fn of_claim(&self, change: &Change) -> Vec<String> {
        if !keys::differs(change, &["/metadata/ownerReferences", "/metadata/deletionTimestamp"]) {
            return Vec::new();
        }
        let mut sets = self.stateful_sets.in_namespace(keys::namespace(&change.key));
        sets.retain(|set| set.may_claim(keys::name(&change.key)));
        sets.iter().map(|set| key(set)).collect()
    }
}

fn key(set: &StatefulSet) -> String {
    format!("{}/{}", set.metadata.namespace, set.metadata.name)
}

impl Controller for StatefulSets {
    const NAME: &'static str = "statefulset-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.stateful_sets.informer, |_, change| keys::own(change)),
            Watch::new(&self.revisions.informer, Self::of_dependent),
            Watch::new(&self.pods.informer, Self::of_dependent),
            Watch::new(&self.claims.informer, Self::of_claim),
        ]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(set) = self.stateful_sets.get(key) else { return Ok(Step::idle()) };
        let namespace = keys::namespace(key);
        let mut pods = self.pods.in_namespace(namespace);
        pods.retain(|pod| pod.metadata.controller().is_none_or(|owner| owner.uid == set.metadata.uid));
        let claims = match set.spec.volume_claim_templates.is_empty() {
            true => Vec::new(),
            false => self.claims.in_namespace(namespace),
        };
        let revisions = self.revisions.in_namespace(namespace);
        let view = View {
            stateful_set: &set,
            pods: &refs(&pods),
            claims: &refs(&claims),
            revisions: &refs(&revisions),
            failure: seen.failure,
        };
        Ok(step(&view, seen.now))
    }
}
