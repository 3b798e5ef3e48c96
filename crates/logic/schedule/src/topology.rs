//! Places in relation to other pods: required affinity and anti-affinity, and spread constraints that
//! bind. Worked out once per pod from the pods on nodes, so that each node is a few look-ups.
//!
//! The cost of a pod with such rules grows with the number of pods; pods without pay only while others
//! with anti-affinity are about.

use std::collections::{HashMap, HashSet};

use crate::{
    intern::Id,
    model::{Labels, PodModel, PodTerm, SpreadConstraint},
    prepared::{Prepared, label},
    table::{Node, NodeTable, Placed},
};

/// A value of a node label: a place.
type Place = (Id, Id);

/// Why a node is not the right place.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(crate) enum Obstacle {
    /// A pod there does not bear this one.
    Existing,
    /// This one does not bear a pod there.
    Anti,
    /// A neighbour wanted is not there.
    Affinity,
    /// There would be too many there.
    Skew,
    /// The node has no such place.
    MissingLabel,
}

/// The rules for one pod, worked out.
#[derive(Debug, Default)]
pub(crate) struct Topology {
    /// Places of pods that do not bear this one.
    existing: HashSet<Place>,
    /// Places of pods this one does not bear.
    avoided: HashSet<Place>,
    avoided_keys: Vec<Id>,
    /// Keys of the neighbours wanted, and places that have them.
    wanted_keys: Vec<Id>,
    wanted: HashSet<Place>,
    /// Nobody matches yet and the pod matches itself: it may be the first anywhere.
    first: bool,
    spread: Vec<Spread>,
}

#[derive(Debug)]
struct Spread {
    key: Id,
    max_skew: i64,
    own: i64,
    least: i64,
    counts: HashMap<Id, i64>,
}

impl Topology {
    /// The rules for a pod; nothing when there are none.
    pub(crate) fn new(pod: &PodModel, prepared: &Prepared, table: &NodeTable) -> Option<Self> {
        let affinity = &pod.spec.affinity;
        let spreads = || {
            pod.spec.topology_spread_constraints.iter().filter(|c| c.when_unsatisfiable == "DoNotSchedule")
        };
        let ruled = !affinity.pod_affinity.required.is_empty()
            || !affinity.pod_anti_affinity.required.is_empty()
            || spreads().next().is_some();
        if !ruled && table.avoiding == 0 {
            return None;
        }
        let mut topology = Self::default();
        topology.read_existing(pod, table);
        topology.read_avoided(pod, &affinity.pod_anti_affinity.required, table);
        topology.read_wanted(pod, &affinity.pod_affinity.required, table);
        for constraint in spreads() {
            topology.spread.push(Spread::new(pod, constraint, prepared, table));
        }
        Some(topology)
    }

    fn read_existing(&mut self, pod: &PodModel, table: &NodeTable) {
        if table.avoiding == 0 {
            return;
        }
        for placed in table.pods.values().filter(|placed| !placed.avoids.is_empty()) {
            for term in &placed.avoids {
                if means(term, &placed.namespace, &pod.metadata.namespace, &pod.metadata.labels) {
                    self.existing.extend(place(placed, &term.topology_key, table));
                }
            }
        }
    }

    fn read_avoided(&mut self, pod: &PodModel, terms: &[PodTerm], table: &NodeTable) {
        for term in terms {
            self.avoided_keys.push(table.interner.find(&term.topology_key));
            for placed in table.pods.values() {
                if means(term, &pod.metadata.namespace, &placed.namespace, &placed.labels) {
                    self.avoided.extend(place(placed, &term.topology_key, table));
                }
            }
        }
    }

    fn read_wanted(&mut self, pod: &PodModel, terms: &[PodTerm], table: &NodeTable) {
        let own = &pod.metadata.namespace;
        self.wanted_keys = terms.iter().map(|term| table.interner.find(&term.topology_key)).collect();
        if terms.is_empty() {
            return;
        }
        for placed in table.pods.values() {
            if terms.iter().all(|term| means(term, own, &placed.namespace, &placed.labels)) {
                self.wanted.extend(terms.iter().filter_map(|term| place(placed, &term.topology_key, table)));
            }
        }
        self.first =
            self.wanted.is_empty() && terms.iter().all(|term| means(term, own, own, &pod.metadata.labels));
    }

    /// What stands against a node.
    pub(crate) fn obstacle(&self, node: &Node) -> Option<Obstacle> {
        if !self.existing.is_empty() && node.labels.iter().any(|place| self.existing.contains(place)) {
            return Some(Obstacle::Existing);
        }
        let is_avoided = |key: &Id| place_of(node, *key).is_some_and(|place| self.avoided.contains(&place));
        if self.avoided_keys.iter().any(is_avoided) {
            return Some(Obstacle::Anti);
        }
        let is_wanted =
            |key: &Id| place_of(node, *key).is_some_and(|place| self.first || self.wanted.contains(&place));
        if !self.wanted_keys.iter().all(is_wanted) {
            return Some(Obstacle::Affinity);
        }
        self.spread.iter().find_map(|spread| spread.obstacle(node))
    }
}

impl Spread {
    fn new(pod: &PodModel, constraint: &SpreadConstraint, prepared: &Prepared, table: &NodeTable) -> Self {
        let key = table.interner.find(&constraint.topology_key);
        let selects = |labels: &Labels| constraint.label_selector.as_ref().is_some_and(|s| s.matches(labels));
        let eligible =
            |node: &Node| node.present && prepared.selects(&node.labels, node.name, &table.interner);
        let mut counts: HashMap<Id, i64> = HashMap::new();
        for node in table.nodes.iter().filter(|node| eligible(node)) {
            if let Some(value) = label(&node.labels, key) {
                counts.entry(value).or_insert(0);
            }
        }
        for placed in table.pods.values() {
            let node = table.nodes.get(placed.node as usize).filter(|node| eligible(node));
            let value = node.and_then(|node| label(&node.labels, key));
            let counted = placed.namespace == pod.metadata.namespace && selects(&placed.labels);
            if let Some(count) = value.filter(|_| counted).and_then(|value| counts.get_mut(&value)) {
                *count += 1;
            }
        }
        let few = constraint.min_domains.is_some_and(|least| (counts.len() as i64) < least);
        Self {
            key,
            max_skew: constraint.max_skew,
            own: i64::from(selects(&pod.metadata.labels)),
            least: if few { 0 } else { counts.values().copied().min().unwrap_or(0) },
            counts,
        }
    }

    fn obstacle(&self, node: &Node) -> Option<Obstacle> {
        let Some(value) = label(&node.labels, self.key) else { return Some(Obstacle::MissingLabel) };
        let there = self.counts.get(&value).copied().unwrap_or(0);
        (there + self.own - self.least > self.max_skew).then_some(Obstacle::Skew)
    }
}

fn place_of(node: &Node, key: Id) -> Option<Place> {
    label(&node.labels, key).map(|value| (key, value))
}

/// Where a pod is, by a node label.
fn place(placed: &Placed, key: &str, table: &NodeTable) -> Option<Place> {
    let node = table.nodes.get(placed.node as usize).filter(|node| node.present)?;
    place_of(node, table.interner.find(key))
}

/// Whether a term of a pod in namespace `own` means a pod with these labels in `namespace`.
fn means(term: &PodTerm, own: &str, namespace: &str, labels: &Labels) -> bool {
    let listed = term.namespaces.iter().any(|listed| listed == namespace);
    let anywhere = term.namespace_selector.as_ref().is_some_and(|selector| selector.is_empty());
    let by_default = term.namespaces.is_empty() && term.namespace_selector.is_none() && own == namespace;
    (listed || anywhere || by_default) && term.label_selector.as_ref().is_some_and(|s| s.matches(labels))
}
