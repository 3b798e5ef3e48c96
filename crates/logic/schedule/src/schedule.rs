//! One pod to one node.

use std::fmt;

use crate::{
    filter::{Search, Tally},
    model::PodModel,
    prepared::{NodeTaint, Prepared},
    queue::Wakes,
    score::{Candidate, best},
    table::{NodeId, NodeTable},
    topology::Topology,
};

/// No node fits.
#[derive(Clone, Debug, PartialEq, Eq)]
pub struct Unschedulable {
    /// Nodes that were looked at: all of them.
    pub nodes: usize,
    /// Reasons in words, with the number of nodes each excluded. A node may count for several.
    pub reasons: Vec<(String, u32)>,
    /// Changes that may help.
    pub wakes: Wakes,
}

impl fmt::Display for Unschedulable {
    /// The form upstream's Events and conditions have, which tools and tests match.
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        if self.nodes == 0 {
            return f.write_str("no nodes available to schedule pods");
        }
        write!(f, "0/{} nodes are available", self.nodes)?;
        let mut reasons: Vec<String> =
            self.reasons.iter().map(|(words, count)| format!("{count} {words}")).collect();
        reasons.sort_unstable();
        if reasons.is_empty() { f.write_str(".") } else { write!(f, ": {}.", reasons.join(", ")) }
    }
}

impl std::error::Error for Unschedulable {}

/// Nodes that are compared at least, however many there are.
const LEAST_COMPARED: usize = 100;

/// How many fitting nodes are found before the best of them is taken: all of up to 100, then half of
/// them, down to 5 % of very many (the adaptive percentage upstream uses).
fn enough(nodes: usize) -> usize {
    if nodes <= LEAST_COMPARED {
        return nodes;
    }
    let percentage = 50usize.saturating_sub(nodes / 125).max(5);
    (nodes * percentage / 100).max(LEAST_COMPARED)
}

/// Finds the node for a pod. The table is only changed in where the next search starts and in what
/// names it knows: the caller counts the pod on the node with [`NodeTable::place`] at once, and takes
/// it off again when the binding fails.
pub fn schedule(pod: &PodModel, table: &mut NodeTable) -> Result<NodeId, Unschedulable> {
    // First: a pod that tolerates it must find its key known.
    let cordon = NodeTaint::cordon(&mut table.interner);
    let prepared = Prepared::read(pod, &mut table.interner);
    let topology = Topology::new(pod, &prepared, table);
    let mut candidates = std::mem::take(&mut table.scratch);
    candidates.clear();
    let mut tally = Tally::default();
    let search = Search { pod: &prepared, topology: topology.as_ref(), interner: &table.interner, cordon };
    let looked_at = find(&search, table, &mut tally, &mut candidates);
    let chosen = best(&candidates);
    let failure = || Unschedulable {
        nodes: table.present,
        reasons: tally.words(&table.interner),
        wakes: tally.wakes(),
    };
    let result = chosen.map(NodeId).ok_or_else(failure);
    table.scratch = candidates;
    if !table.nodes.is_empty() {
        table.start = (table.start + looked_at) % table.nodes.len();
    }
    result
}

/// Collects fitting nodes from the rotating start on, until there are enough. Returns how many places
/// of the table were looked at.
fn find(search: &Search<'_>, table: &NodeTable, tally: &mut Tally, candidates: &mut Vec<Candidate>) -> usize {
    let count = table.nodes.len();
    let enough = enough(table.present);
    for offset in 0..count {
        let slot = (table.start + offset) % count;
        let node = &table.nodes[slot];
        if node.present && search.fits(node, tally) {
            candidates.push(Candidate::new(slot as u32, node, search.pod, search.interner));
            if candidates.len() >= enough {
                return offset + 1;
            }
        }
    }
    count
}
