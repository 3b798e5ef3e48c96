//! Nodes that have fallen silent: see `wharf_control::node_lifecycle`.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
};

use serde_json::Value;
use wharf_base::{Clock, Timestamp};
use wharf_client::{
    Change, Informer, Object, Result,
    action::{LEASES, NODES, PODS},
};
use wharf_control::{
    Step, condition,
    node_lifecycle::{Node, View, step},
    pod::Pod,
};

use super::{
    cache::Typed,
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

/// Where nodes renew their Leases.
const LEASE_NAMESPACE: &str = "kube-node-lease";

pub(crate) struct NodeLifecycle {
    nodes: Arc<Typed<Node>>,
    pods: Arc<Typed<Pod>>,
    leases: Informer,
    clock: Arc<dyn Clock>,
    /// When nodes were last heard of, by this clock.
    heard: Mutex<HashMap<String, Timestamp>>,
}

impl NodeLifecycle {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            nodes: shared.informers.typed(NODES),
            pods: shared.informers.typed(PODS),
            leases: shared.informers.of(&LEASES),
            clock: Arc::clone(&shared.clock),
            heard: Mutex::default(),
        }
    }

    fn heard(&self) -> MutexGuard<'_, HashMap<String, Timestamp>> {
        self.heard.lock().unwrap_or_else(PoisonError::into_inner)
    }

    /// When a node was last heard of.
    pub(super) fn heard_of(&self, node: &str) -> Option<Timestamp> {
        self.heard().get(node).copied()
    }

    fn hear(&self, node: &str) {
        self.heard().insert(node.to_owned(), self.clock.now());
    }

    pub(super) fn of_node(&self, change: &Change) -> Vec<String> {
        let name = keys::name(&change.key);
        match &change.new {
            None => drop(self.heard().remove(name)),
            Some(new) => {
                // What this loop itself writes leaves the heartbeats as they are.
                if change.old.as_ref().is_none_or(|old| heartbeats(old) != heartbeats(new)) {
                    self.hear(name);
                }
            }
        }
        keys::own(change)
    }

    /// A renewed Lease is heard; the node is looked at again when its silence would be over.
    pub(super) fn of_lease(&self, change: &Change) -> Vec<String> {
        let renewed = keys::differs(change, &["/spec/renewTime"]);
        if keys::namespace(&change.key) == LEASE_NAMESPACE && change.new.is_some() && renewed {
            self.hear(keys::name(&change.key));
        }
        Vec::new()
    }

    /// Pods only matter on nodes that are not well.
    fn of_pod(&self, change: &Change) -> Vec<String> {
        let Some(new) = &change.new else { return Vec::new() };
        let node = keys::text(new, "/spec/nodeName");
        let same = !keys::differs(change, &["/spec/nodeName", "/spec/tolerations", "/status/conditions"]);
        if node.is_empty() || same {
            return Vec::new();
        }
        let key = format!("/{node}");
        let well = |node: &Node| {
            condition::holds(&node.status.conditions, "Ready")
                && node.spec.taints.iter().all(|taint| taint.effect != "NoExecute")
        };
        match self.nodes.get(&key) {
            Some(node) if !well(&node) => vec![key],
            _ => Vec::new(),
        }
    }
}

fn heartbeats(node: &Object) -> Vec<&str> {
    let conditions = node.pointer("/status/conditions").and_then(Value::as_array).into_iter().flatten();
    conditions.map(|condition| keys::text(condition, "/lastHeartbeatTime")).collect()
}

impl Controller for NodeLifecycle {
    const NAME: &'static str = "node-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.nodes.informer, Self::of_node),
            Watch::new(&self.leases, Self::of_lease),
            Watch::new(&self.pods.informer, Self::of_pod),
        ]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(node) = self.nodes.get(key) else { return Ok(Step::idle()) };
        let name = keys::name(key);
        let heard = self.heard_of(name).unwrap_or(seen.now);
        let pods = self.pods.all();
        let on_it: Vec<&Pod> =
            pods.iter().map(Arc::as_ref).filter(|pod| pod.spec.node_name == name).collect();
        Ok(step(&View { node: &node, heard, pods: &on_it }, seen.now))
    }
}
