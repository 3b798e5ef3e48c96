//! Which of the nodes a pod fits on is best. Every part is 0 to 100 and has upstream's weight.

use crate::{
    intern::Interner,
    prepared::{Effect, Prepared},
    table::Node,
};

const LEAST_ALLOCATED: i64 = 1;
const BALANCED: i64 = 1;
const NODE_AFFINITY: i64 = 2;
const TAINTS: i64 = 3;
const SPREAD: i64 = 2;

/// A node the pod fits on, with the parts of its score that are compared to the others'.
#[derive(Clone, Copy, Debug)]
pub(crate) struct Candidate {
    pub(crate) node: u32,
    /// Parts that stand by themselves, weighted.
    absolute: i64,
    preference: i64,
    intolerable: i64,
    siblings: i64,
}

impl Candidate {
    /// Judges one node.
    pub(crate) fn new(slot: u32, node: &Node, pod: &Prepared, interner: &Interner) -> Self {
        let preferred = pod.preferred.iter();
        let preferred = preferred.filter(|(_, term)| term.matches(&node.labels, node.name, interner));
        let soft = node.taints.iter().filter(|taint| taint.effect == Effect::PreferNoSchedule);
        Self {
            node: slot,
            absolute: resources(node, pod),
            preference: preferred.map(|(weight, _)| *weight).sum(),
            intolerable: soft.filter(|taint| !pod.tolerates(taint)).count() as i64,
            siblings: pod.owner.map_or(0, |owner| i64::from(node.of_owner(owner))),
        }
    }
}

/// Free room, and evenness between CPU and memory, once the pod is there.
fn resources(node: &Node, pod: &Prepared) -> i64 {
    let share = |used: i64, has: i64| if has > 0 { (used as f64 / has as f64).min(1.0) } else { 1.0 };
    let cpu = share(node.weight.0 + pod.weight.0, node.allocatable.cpu_milli);
    let memory = share(node.weight.1 + pod.weight.1, node.allocatable.memory);
    let free = (1.0 - f64::midpoint(cpu, memory)) * 100.0;
    let even = (1.0 - (cpu - memory).abs() / 2.0) * 100.0;
    LEAST_ALLOCATED * free as i64 + BALANCED * even as i64
}

/// The best candidate; the first among equals.
pub(crate) fn best(candidates: &[Candidate]) -> Option<u32> {
    let most = |part: fn(&Candidate) -> i64| candidates.iter().map(part).max().unwrap_or(0);
    let preference = most(|c| c.preference);
    let intolerable = most(|c| c.intolerable);
    let siblings = most(|c| c.siblings);
    let share = |value: i64, most: i64| if most > 0 { 100 * value / most } else { 0 };
    let score = |c: &Candidate| {
        c.absolute
            + NODE_AFFINITY * share(c.preference, preference)
            + TAINTS * (100 - share(c.intolerable, intolerable))
            + SPREAD * (100 - share(c.siblings, siblings))
    };
    let mut best: Option<(i64, u32)> = None;
    for candidate in candidates {
        let score = score(candidate);
        if best.is_none_or(|(most, _)| score > most) {
            best = Some((score, candidate.node));
        }
    }
    best.map(|(_, node)| node)
}
