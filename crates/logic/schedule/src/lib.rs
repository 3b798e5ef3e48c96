//! Pods and nodes to bindings, as a pure function.
//!
//! [`NodeTable`] holds the nodes and the sums over their pods and is kept up to date one change at a
//! time; [`schedule`] finds the node for one pod; [`Queue`] says which pod is next. This room knows
//! nothing of clients, clocks or tasks. The runner:
//!
//! 1. feeds nodes (`set_node`, `remove_node`) and bound pods (`place`, `remove_pod` once they have ended)
//!    from its caches, and tells the queue what changed (`Queue::wake`);
//! 2. pops a pod, calls `schedule`, counts it with `place` at once, and writes the binding;
//! 3. on a failed binding takes it off again with `remove_pod` and gives it back with `Queue::failed`;
//!    on [`Unschedulable`] writes the `PodScheduled` condition with its text and parks the pod with
//!    `Queue::unschedulable` and `Unschedulable::wakes`.
//!
//! Pods with scheduling gates, and pods of other schedulers, are not put into the queue.

mod amounts;
mod filter;
mod intern;
mod model;
mod prepared;
mod queue;
mod schedule;
mod score;
mod table;
mod topology;

pub use model::{
    Affinity, Container, LabelSelector, Labels, NodeAffinity, NodeMeta, NodeModel, NodeSelector, NodeSpec,
    NodeStatus, NodeTerm, Owner, PodAffinity, PodMeta, PodModel, PodSpec, PodTerm, Port, PreferredTerm,
    Requirement, ResourceList, Resources, SchedulingGate, SpreadConstraint, Taint, Toleration,
};
pub use queue::{Queue, Wakes};
pub use schedule::{Unschedulable, schedule};
pub use table::{NodeId, NodeTable};

#[cfg(test)]
mod tests;
