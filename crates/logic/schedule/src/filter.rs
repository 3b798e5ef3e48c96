//! Whether a pod can go to a node, and if not, why.

use crate::{
    intern::{Id, Interner},
    prepared::{Effect, NodeTaint, Prepared},
    queue::Wakes,
    table::Node,
    topology::{Obstacle, Topology},
};

/// Why pods do not fit, as a fixed set; extended resources are counted by their ids beside it.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
#[repr(usize)]
pub(crate) enum Reason {
    NodeName,
    Unschedulable,
    Affinity,
    Taint,
    Ports,
    Pods,
    Cpu,
    Memory,
    Ephemeral,
    ExistingAntiAffinity,
    PodAntiAffinity,
    PodAffinity,
    Spread,
    SpreadLabel,
}

impl Reason {
    /// The changes that may remove this obstacle; a new node always may.
    fn wakes(self) -> Wakes {
        match self {
            Self::NodeName => Wakes::NONE,
            Self::Unschedulable | Self::Taint => Wakes::NODE_TAINTS,
            Self::Affinity => Wakes::NODE_LABELS,
            Self::Ports => Wakes::POD_REMOVED,
            Self::Pods | Self::Cpu | Self::Memory | Self::Ephemeral => {
                Wakes::POD_REMOVED.with(Wakes::NODE_CAPACITY)
            }
            Self::ExistingAntiAffinity | Self::PodAntiAffinity => Wakes::POD_REMOVED.with(Wakes::NODE_LABELS),
            Self::PodAffinity => Wakes::POD_PLACED.with(Wakes::NODE_LABELS),
            Self::Spread | Self::SpreadLabel => {
                Wakes::POD_PLACED.with(Wakes::POD_REMOVED).with(Wakes::NODE_LABELS)
            }
        }
    }
}

/// The reasons with the words upstream uses, which tools and tests match.
const REASONS: [(Reason, &str); 14] = [
    (Reason::NodeName, "node(s) didn't match the requested node name"),
    (Reason::Unschedulable, "node(s) were unschedulable"),
    (Reason::Affinity, "node(s) didn't match Pod's node affinity/selector"),
    (Reason::Taint, "node(s) had untolerated taint(s)"),
    (Reason::Ports, "node(s) didn't have free ports for the requested pod ports"),
    (Reason::Pods, "Too many pods"),
    (Reason::Cpu, "Insufficient cpu"),
    (Reason::Memory, "Insufficient memory"),
    (Reason::Ephemeral, "Insufficient ephemeral-storage"),
    (Reason::ExistingAntiAffinity, "node(s) didn't satisfy existing pods anti-affinity rules"),
    (Reason::PodAntiAffinity, "node(s) didn't match pod anti-affinity rules"),
    (Reason::PodAffinity, "node(s) didn't match pod affinity rules"),
    (Reason::Spread, "node(s) didn't match pod topology spread constraints"),
    (Reason::SpreadLabel, "node(s) didn't match pod topology spread constraints (missing required label)"),
];

/// How many nodes each reason excluded.
#[derive(Clone, Debug, Default)]
pub(crate) struct Tally {
    fixed: [u32; REASONS.len()],
    extended: Vec<(Id, u32)>,
}

impl Tally {
    fn count(&mut self, reason: Reason) {
        self.fixed[reason as usize] += 1;
    }

    fn count_extended(&mut self, id: Id) {
        match self.extended.iter_mut().find(|(present, _)| *present == id) {
            Some((_, count)) => *count += 1,
            None => self.extended.push((id, 1)),
        }
    }

    /// The changes that may remove any of the obstacles.
    pub(crate) fn wakes(&self) -> Wakes {
        let met = REASONS.iter().filter(|(reason, _)| self.fixed[*reason as usize] > 0);
        let extended = if self.extended.is_empty() { Wakes::NONE } else { Reason::Cpu.wakes() };
        met.fold(extended, |wakes, (reason, _)| wakes.with(reason.wakes()))
    }

    /// The reasons that excluded any node, in words.
    pub(crate) fn words(&self, interner: &Interner) -> Vec<(String, u32)> {
        let fixed = REASONS.iter().map(|(reason, words)| ((*words).to_owned(), self.fixed[*reason as usize]));
        let extended =
            self.extended.iter().map(|(id, count)| (format!("Insufficient {}", interner.text(*id)), *count));
        fixed.chain(extended).filter(|(_, count)| *count > 0).collect()
    }
}

/// What is the same for every node of one search.
pub(crate) struct Search<'a> {
    pub(crate) pod: &'a Prepared,
    pub(crate) topology: Option<&'a Topology>,
    pub(crate) interner: &'a Interner,
    /// The taint that stands for a cordoned node.
    pub(crate) cordon: NodeTaint,
}

impl Search<'_> {
    /// Whether the pod fits on a node; otherwise the reasons are counted.
    pub(crate) fn fits(&self, node: &Node, tally: &mut Tally) -> bool {
        if let Some(reason) = self.obstacle(node) {
            tally.count(reason);
            return false;
        }
        if !self.resources_fit(node, tally) {
            return false;
        }
        match self.topology.and_then(|topology| topology.obstacle(node)) {
            None => true,
            Some(obstacle) => {
                tally.count(match obstacle {
                    Obstacle::Existing => Reason::ExistingAntiAffinity,
                    Obstacle::Anti => Reason::PodAntiAffinity,
                    Obstacle::Affinity => Reason::PodAffinity,
                    Obstacle::Skew => Reason::Spread,
                    Obstacle::MissingLabel => Reason::SpreadLabel,
                });
                false
            }
        }
    }

    /// The first obstacle that has nothing to do with amounts or other pods' places.
    fn obstacle(&self, node: &Node) -> Option<Reason> {
        let pod = self.pod;
        if node.unschedulable && !pod.tolerates(&self.cordon) {
            return Some(Reason::Unschedulable);
        }
        if pod.node_name.is_some_and(|name| name != node.name) {
            return Some(Reason::NodeName);
        }
        let binds = |taint: &&NodeTaint| taint.effect != Effect::PreferNoSchedule;
        if node.taints.iter().filter(binds).any(|taint| !pod.tolerates(taint)) {
            return Some(Reason::Taint);
        }
        if !pod.selects(&node.labels, node.name, self.interner) {
            return Some(Reason::Affinity);
        }
        let taken = |port| node.ports.iter().any(|other| other.conflicts(port));
        pod.ports.iter().copied().any(taken).then_some(Reason::Ports)
    }

    /// Whether the amounts fit; every one that does not is counted.
    fn resources_fit(&self, node: &Node, tally: &mut Tally) -> bool {
        let (asked, has, used) = (&self.pod.amounts, &node.allocatable, &node.requested);
        let mut fits = true;
        let mut check = |short: bool, reason| {
            if short {
                tally.count(reason);
                fits = false;
            }
        };
        // What is not asked for may be short.
        check(node.pods + 1 > node.max_pods, Reason::Pods);
        check(asked.cpu_milli > 0 && asked.cpu_milli > has.cpu_milli - used.cpu_milli, Reason::Cpu);
        check(asked.memory > 0 && asked.memory > has.memory - used.memory, Reason::Memory);
        check(asked.ephemeral > 0 && asked.ephemeral > has.ephemeral - used.ephemeral, Reason::Ephemeral);
        for (id, amount) in &asked.extended {
            if *amount > 0 && *amount > has.extended(*id) - used.extended(*id) {
                tally.count_extended(*id);
                fits = false;
            }
        }
        fits
    }
}
