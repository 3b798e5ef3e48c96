//! The nodes and what is on them, kept up to date one change at a time.

use std::collections::HashMap;

use crate::{
    amounts::Amounts,
    intern::{Id, Interner},
    model::{Labels, NodeModel, PodModel, PodTerm},
    prepared::{HostPort, NodeTaint, OwnerKey, Prepared},
    score::Candidate,
};

/// A node's place in the table; good until the node is removed.
#[derive(Clone, Copy, Debug, PartialEq, Eq, Hash, PartialOrd, Ord)]
pub struct NodeId(pub(crate) u32);

/// A node and the sums over its pods.
#[derive(Clone, Debug, Default)]
pub(crate) struct Node {
    pub(crate) name: Id,
    /// False: only pods speak of it.
    pub(crate) present: bool,
    pub(crate) unschedulable: bool,
    pub(crate) allocatable: Amounts,
    pub(crate) max_pods: i64,
    pub(crate) requested: Amounts,
    pub(crate) weight: (i64, i64),
    pub(crate) pods: i64,
    /// Sorted by key.
    pub(crate) labels: Vec<(Id, Id)>,
    pub(crate) taints: Vec<NodeTaint>,
    pub(crate) ports: Vec<HostPort>,
    /// Pods by controller.
    pub(crate) owners: Vec<(OwnerKey, u32)>,
}

/// A pod on a node.
#[derive(Clone, Debug)]
pub(crate) struct Placed {
    pub(crate) node: u32,
    pub(crate) namespace: String,
    pub(crate) labels: Labels,
    /// Neighbours it does not bear.
    pub(crate) avoids: Vec<PodTerm>,
    amounts: Amounts,
    weight: (i64, i64),
    ports: Vec<HostPort>,
    owner: Option<OwnerKey>,
}

/// All nodes with their pods.
#[derive(Clone, Debug, Default)]
pub struct NodeTable {
    pub(crate) interner: Interner,
    pub(crate) nodes: Vec<Node>,
    by_name: HashMap<String, u32>,
    free: Vec<u32>,
    pub(crate) pods: HashMap<String, Placed>,
    /// Pods on nodes with neighbours they do not bear.
    pub(crate) avoiding: usize,
    pub(crate) present: usize,
    /// Where the next search starts.
    pub(crate) start: usize,
    pub(crate) scratch: Vec<Candidate>,
}

impl NodeTable {
    /// A table without nodes.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of nodes.
    pub fn len(&self) -> usize {
        self.present
    }

    /// Whether there are no nodes.
    pub fn is_empty(&self) -> bool {
        self.present == 0
    }

    /// The name of a node.
    pub fn name(&self, node: NodeId) -> &str {
        self.nodes.get(node.0 as usize).map_or("", |node| self.interner.text(node.name))
    }

    /// Adds a node, or takes over what has changed about it. Its pods stay.
    pub fn set_node(&mut self, model: &NodeModel) {
        let slot = self.slot(&model.metadata.name);
        let mut list = model.status.capacity.clone();
        list.extend(model.status.allocatable.iter().map(|(name, amount)| (name.clone(), *amount)));
        let interner = &mut self.interner;
        let labels = model.metadata.labels.iter();
        let mut labels: Vec<(Id, Id)> = labels.map(|(k, v)| (interner.id(k), interner.id(v))).collect();
        labels.sort_unstable();
        let taints = model.spec.taints.iter();
        let taints = taints.filter_map(|taint| NodeTaint::read(taint, interner)).collect();
        let allocatable = Amounts::read(&list, interner);
        let Some(node) = self.nodes.get_mut(slot as usize) else { return };
        self.present += usize::from(!node.present);
        node.present = true;
        node.unschedulable = model.spec.unschedulable;
        node.allocatable = allocatable;
        node.max_pods = list.get("pods").map_or(0, |pods| pods.units());
        node.labels = labels;
        node.taints = taints;
    }

    /// Removes a node. Pods still bound to it are remembered until they are removed.
    pub fn remove_node(&mut self, name: &str) {
        let Some(slot) = self.by_name.get(name).copied() else { return };
        if let Some(node) = self.nodes.get_mut(slot as usize) {
            self.present -= usize::from(node.present);
            node.present = false;
        }
        self.reclaim(slot);
    }

    /// Counts a pod on a node: one that is bound, or one that was just decided. A pod that is counted
    /// already is counted anew. Pods that have ended are removed instead.
    pub fn place(&mut self, pod: &PodModel, node: &str) {
        self.remove_pod(&pod.metadata.uid);
        let slot = self.slot(node);
        let prepared = Prepared::read(pod, &mut self.interner);
        let placed = Placed {
            node: slot,
            namespace: pod.metadata.namespace.clone(),
            labels: pod.metadata.labels.clone(),
            avoids: pod.spec.affinity.pod_anti_affinity.required.clone(),
            amounts: prepared.amounts,
            weight: prepared.weight,
            ports: prepared.ports,
            owner: prepared.owner,
        };
        if let Some(node) = self.nodes.get_mut(slot as usize) {
            node.add(&placed);
        }
        self.avoiding += usize::from(!placed.avoids.is_empty());
        self.pods.insert(pod.metadata.uid.clone(), placed);
    }

    /// Stops counting a pod: it was deleted, has ended, or its binding failed.
    pub fn remove_pod(&mut self, uid: &str) {
        let Some(placed) = self.pods.remove(uid) else { return };
        self.avoiding -= usize::from(!placed.avoids.is_empty());
        if let Some(node) = self.nodes.get_mut(placed.node as usize) {
            node.subtract(&placed);
        }
        self.reclaim(placed.node);
    }

    /// The slot of a name, made when there is none.
    fn slot(&mut self, name: &str) -> u32 {
        if let Some(slot) = self.by_name.get(name) {
            return *slot;
        }
        let node = Node { name: self.interner.id(name), ..Node::default() };
        let slot = match self.free.pop() {
            Some(slot) => slot,
            None => {
                self.nodes.push(Node::default());
                (self.nodes.len() - 1) as u32
            }
        };
        self.nodes[slot as usize] = node;
        self.by_name.insert(name.to_owned(), slot);
        slot
    }

    /// Frees a slot nothing speaks of any more.
    fn reclaim(&mut self, slot: u32) {
        let Some(node) = self.nodes.get_mut(slot as usize) else { return };
        if node.present || node.pods > 0 {
            return;
        }
        self.by_name.remove(self.interner.text(node.name));
        *node = Node::default();
        self.free.push(slot);
    }
}

impl Node {
    fn add(&mut self, pod: &Placed) {
        self.requested.add(&pod.amounts);
        self.weight = (self.weight.0 + pod.weight.0, self.weight.1 + pod.weight.1);
        self.pods += 1;
        self.ports.extend_from_slice(&pod.ports);
        let Some(owner) = pod.owner else { return };
        match self.owners.iter_mut().find(|(id, _)| *id == owner) {
            Some((_, count)) => *count += 1,
            None => self.owners.push((owner, 1)),
        }
    }

    fn subtract(&mut self, pod: &Placed) {
        self.requested.subtract(&pod.amounts);
        self.weight = (self.weight.0 - pod.weight.0, self.weight.1 - pod.weight.1);
        self.pods -= 1;
        for port in &pod.ports {
            if let Some(at) = self.ports.iter().position(|taken| taken == port) {
                self.ports.swap_remove(at);
            }
        }
        let Some(at) = self.owners.iter().position(|(id, _)| Some(*id) == pod.owner) else { return };
        self.owners[at].1 -= 1;
        if self.owners[at].1 == 0 {
            self.owners.swap_remove(at);
        }
    }

    /// Pods of one controller on it.
    pub(crate) fn of_owner(&self, owner: OwnerKey) -> u32 {
        self.owners.iter().find(|(id, _)| *id == owner).map_or(0, |(_, count)| *count)
    }
}
