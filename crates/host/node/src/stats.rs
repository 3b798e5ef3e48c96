//! What the containers of this node use.

use wharf_control::meta::Labels;
use wharf_runtime::Stats;

use crate::agent::NodeAgent;

/// What one container uses.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ContainerStats {
    /// Pod's namespace.
    pub namespace: String,
    /// Pod's name.
    pub pod: String,
    /// Pod's uid.
    pub uid: String,
    /// Pod's labels.
    pub labels: Labels,
    /// Container.
    pub container: String,
    /// How often it was started again.
    pub restarts: u32,
    /// CPU time used since its start, in nanoseconds.
    pub cpu_nanos: u64,
    /// Periods in which it was held back by its CPU limit.
    pub cpu_throttled_periods: u64,
    /// Memory charged to it, in bytes.
    pub memory_usage: u64,
    /// Memory that cannot be taken back without harm, in bytes.
    pub memory_working_set: u64,
    /// Its memory limit in bytes.
    pub memory_limit: Option<u64>,
    /// Its processes and threads.
    pub pids: u64,
}

impl NodeAgent {
    /// What every running container of this node uses now. Reads cgroup files: call it where blocking is allowed.
    pub fn stats(&self) -> Vec<ContainerStats> {
        let mut all = Vec::new();
        for handle in self.shared.handles() {
            let view = handle.view();
            let Some(sandbox) = &view.sandbox else { continue };
            for container in view.containers.iter().filter(|container| container.running) {
                // It may have ended meanwhile.
                let Ok(stats) = sandbox.stats(&container.run()) else { continue };
                let Stats { cpu_usage_ns, cpu_throttled_periods, memory_usage, memory_working_set, .. } =
                    stats;
                all.push(ContainerStats {
                    namespace: view.namespace.clone(),
                    pod: view.name.clone(),
                    uid: handle.uid.clone(),
                    labels: view.labels.clone(),
                    container: container.name.clone(),
                    restarts: container.attempt,
                    cpu_nanos: cpu_usage_ns,
                    cpu_throttled_periods,
                    memory_usage,
                    memory_working_set,
                    memory_limit: stats.memory_limit,
                    pids: stats.pids,
                });
            }
        }
        all
    }
}
