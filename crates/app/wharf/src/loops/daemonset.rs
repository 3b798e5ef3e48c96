//! DaemonSets: see `wharf_control::daemonset`.

use std::sync::{Arc, Mutex, PoisonError};

use wharf_client::{
    Change, Result,
    action::{CONTROLLER_REVISIONS, DAEMON_SETS, NODES, PODS},
};
use wharf_control::{
    Step,
    daemonset::{Backoffs, DaemonSet, View, step},
    history::ControllerRevision,
    node_lifecycle::Node,
    pod::Pod,
};

use super::{
    cache::{Typed, refs},
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct DaemonSets {
    daemon_sets: Arc<Typed<DaemonSet>>,
    revisions: Arc<Typed<ControllerRevision>>,
    nodes: Arc<Typed<Node>>,
    pods: Arc<Typed<Pod>>,
    backoffs: Mutex<Backoffs>,
}

impl DaemonSets {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            daemon_sets: shared.informers.typed(DAEMON_SETS),
            revisions: shared.informers.typed(CONTROLLER_REVISIONS),
            nodes: shared.informers.typed(NODES),
            pods: shared.informers.typed(PODS),
            backoffs: Mutex::default(),
        }
    }

    /// Its DaemonSet, or those that may adopt it.
    fn of_dependent(&self, change: &Change) -> Vec<String> {
        let mut concerned = keys::controllers(change, "DaemonSet");
        for object in change.new.iter().filter(|object| keys::unmanaged(object)) {
            let labels = keys::labels(object);
            for set in self.daemon_sets.in_namespace(keys::namespace(&change.key)) {
                if set.spec.selector.as_ref().is_some_and(|selector| selector.matches(&labels)) {
                    concerned.push(key(&set));
                }
            }
        }
        concerned
    }

    /// All of them, when a node has become another place.
    fn of_node(&self, change: &Change) -> Vec<String> {
        if !keys::differs(change, &["/metadata/labels", "/spec/taints", "/spec/unschedulable"]) {
            return Vec::new();
        }
        self.daemon_sets.all().iter().map(|set| key(set)).collect()
    }
}

fn key(set: &DaemonSet) -> String {
    format!("{}/{}", set.metadata.namespace, set.metadata.name)
}

impl Controller for DaemonSets {
    const NAME: &'static str = "daemonset-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.daemon_sets.informer, |_, change| keys::own(change)),
            Watch::new(&self.revisions.informer, Self::of_dependent),
            Watch::new(&self.pods.informer, Self::of_dependent),
            Watch::new(&self.nodes.informer, Self::of_node),
        ]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(set) = self.daemon_sets.get(key) else { return Ok(Step::idle()) };
        let namespace = keys::namespace(key);
        let mut pods = self.pods.in_namespace(namespace);
        pods.retain(|pod| pod.metadata.controller().is_none_or(|owner| owner.uid == set.metadata.uid));
        let (nodes, revisions) = (self.nodes.all(), self.revisions.in_namespace(namespace));
        let view = View {
            daemon_set: &set,
            nodes: &refs(&nodes),
            pods: &refs(&pods),
            revisions: &refs(&revisions),
            failure: seen.failure,
        };
        let mut backoffs = self.backoffs.lock().unwrap_or_else(PoisonError::into_inner);
        Ok(step(&view, &mut backoffs, seen.now))
    }
}
