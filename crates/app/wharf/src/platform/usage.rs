//! What pods and nodes use, for `kubectl top`: out of the metrics store.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use wharf_apiserver::{NodeUsage, PodUsage, ResourceMetrics};
use wharf_base::{Clock as _, SystemClock};
use wharf_client::Informer;

use super::telemetry::OwnMetrics;
use crate::loops::{keys, measure::Measure as _};

/// Looked back over for the use of processors.
const WINDOW: Duration = Duration::from_secs(15);

/// The newest measurements.
pub(crate) struct Usage {
    pub(crate) metrics: Arc<OwnMetrics>,
    pub(crate) pods: Informer,
}

impl Usage {
    fn ask(&self, query: &str) -> Vec<(BTreeMap<String, String>, f64)> {
        let samples = self.metrics.now(query).unwrap_or_else(|error| {
            tracing::warn!(%error, query, "what pods and nodes use cannot be told");
            Vec::new()
        });
        samples.into_iter().map(|s| (s.labels, s.value.max(0.0))).collect()
    }
}

impl ResourceMetrics for Usage {
    fn pods(&self) -> Vec<PodUsage> {
        let seconds = WINDOW.as_secs();
        let cpu = format!(
            "sum by (namespace, pod, container) (rate(container_cpu_usage_seconds_total[{seconds}s]))"
        );
        let memory = "sum by (namespace, pod, container) (container_memory_working_set_bytes)";
        // By pod, then by container: nanocores and bytes.
        let mut used: BTreeMap<(String, String), BTreeMap<String, (u64, u64)>> = BTreeMap::new();
        for (cores, results) in [(true, self.ask(&cpu)), (false, self.ask(memory))] {
            for (labels, value) in results {
                let label = |name: &str| labels.get(name).cloned().unwrap_or_default();
                let pod = used.entry((label("namespace"), label("pod"))).or_default();
                let container = pod.entry(label("container")).or_default();
                match cores {
                    true => container.0 = (value * 1e9) as u64,
                    false => container.1 = value as u64,
                }
            }
        }
        let at = SystemClock.now();
        let known = used.into_iter().filter_map(|((namespace, name), containers)| {
            let object = self.pods.get(&format!("{namespace}/{name}"))?;
            Some(PodUsage {
                namespace,
                name,
                labels: keys::labels(&object),
                containers: containers.into_iter().map(|(name, (cpu, memory))| (name, cpu, memory)).collect(),
                at,
                window: WINDOW,
            })
        });
        known.collect()
    }

    fn nodes(&self) -> Vec<NodeUsage> {
        let seconds = WINDOW.as_secs();
        let cpu =
            format!("sum by (node) (rate(node_cpu_seconds_total{{mode!~\"idle|iowait\"}}[{seconds}s]))");
        let memory =
            "sum by (node) (node_memory_MemTotal_bytes) - sum by (node) (node_memory_MemAvailable_bytes)";
        let memory: BTreeMap<String, f64> = self
            .ask(memory)
            .into_iter()
            .filter_map(|(mut labels, value)| Some((labels.remove("node")?, value)))
            .collect();
        let at = SystemClock.now();
        let nodes = self.ask(&cpu).into_iter().filter_map(|(mut labels, value)| {
            let name = labels.remove("node")?;
            let memory_bytes = memory.get(&name).copied().unwrap_or(0.0) as u64;
            Some(NodeUsage { name, cpu_nanocores: (value * 1e9) as u64, memory_bytes, at, window: WINDOW })
        });
        nodes.collect()
    }
}
