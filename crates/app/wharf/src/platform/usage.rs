//! What pods and nodes use, out of the metrics store: what `kubectl top` shows.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use wharf_apiserver::{NodeUsage, PodUsage, ResourceMetrics};
use wharf_base::{Clock as _, SystemClock};
use wharf_client::Informer;

use crate::loops::measure::{Measure, Sample};

/// Looked back over for the use of processors.
const WINDOW: Duration = Duration::from_secs(15);

/// Reads usage from the store.
pub(crate) struct Usage {
    pub(crate) measure: Arc<dyn Measure>,
    /// Every pod.
    pub(crate) pods: Informer,
}

impl Usage {
    fn ask(&self, query: &str) -> Vec<Sample> {
        self.measure.now(query).unwrap_or_else(|error| {
            tracing::error!(query, error, "usage cannot be read from the metrics");
            Vec::new()
        })
    }

    /// Billionths of a processor by these labels.
    fn processors(&self, by: &[&str], counter: &str) -> BTreeMap<Vec<String>, u64> {
        let query = format!("sum by ({}) (rate({counter}[{}s]))", by.join(","), WINDOW.as_secs());
        keyed(&self.ask(&query), by, 1e9)
    }

    fn memory(&self, by: &[&str], gauge: &str) -> BTreeMap<Vec<String>, u64> {
        keyed(&self.ask(&format!("sum by ({}) ({gauge})", by.join(","))), by, 1.0)
    }
}

fn keyed(samples: &[Sample], by: &[&str], scale: f64) -> BTreeMap<Vec<String>, u64> {
    let key = |sample: &Sample| {
        by.iter().map(|name| sample.labels.get(*name).cloned().unwrap_or_default()).collect::<Vec<_>>()
    };
    samples.iter().map(|sample| (key(sample), (sample.value * scale).max(0.0) as u64)).collect()
}

impl ResourceMetrics for Usage {
    fn pods(&self) -> Vec<PodUsage> {
        const BY: [&str; 3] = ["namespace", "pod", "container"];
        let memory = self.memory(&BY, "container_memory_working_set_bytes");
        let at = SystemClock.now();
        let mut pods: BTreeMap<String, PodUsage> = BTreeMap::new();
        for (key, cpu) in self.processors(&BY, "container_cpu_usage_seconds_total") {
            // Either alone is a container that has just begun or ended.
            let (Some(memory), [namespace, name, container]) = (memory.get(&key), key.as_slice()) else {
                continue;
            };
            let object_key = format!("{namespace}/{name}");
            let Some(object) = self.pods.get(&object_key) else { continue };
            let pod = pods.entry(object_key).or_insert_with(|| PodUsage {
                namespace: namespace.clone(),
                name: name.clone(),
                labels: wharf_api::meta::labels(&object),
                containers: Vec::new(),
                at,
                window: WINDOW,
            });
            pod.containers.push((container.clone(), cpu, *memory));
        }
        pods.into_values().collect()
    }

    fn nodes(&self) -> Vec<NodeUsage> {
        const BY: [&str; 1] = ["node"];
        let memory = self.memory(&BY, "node_memory_MemTotal_bytes - node_memory_MemAvailable_bytes");
        let at = SystemClock.now();
        let busy = self.processors(&BY, r#"node_cpu_seconds_total{mode!~"idle|iowait"}"#);
        let node = |(key, cpu_nanocores): (Vec<String>, u64)| {
            let memory_bytes = *memory.get(&key)?;
            Some(NodeUsage { name: key.into_iter().next()?, cpu_nanocores, memory_bytes, at, window: WINDOW })
        };
        busy.into_iter().filter_map(node).collect()
    }
}
