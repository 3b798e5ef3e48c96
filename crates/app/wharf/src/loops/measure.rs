//! What loops ask the metrics store. A trait, so that loops run against any store that speaks PromQL.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use wharf_base::Timestamp;
use wharf_scale::pods::Usage;

/// A series at one time.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Sample {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) value: f64,
}

/// A series over time, in milliseconds since the epoch.
#[derive(Clone, Debug, PartialEq)]
pub(crate) struct Series {
    pub(crate) labels: BTreeMap<String, String>,
    pub(crate) points: Vec<(i64, f64)>,
}

/// A metrics store.
pub(crate) trait Measure: Send + Sync + 'static {
    /// The value of a query now. Blocks.
    fn now(&self, query: &str) -> Result<Vec<Sample>, String>;

    /// The raw samples of a selector from a time on. Blocks.
    fn since(&self, selector: &str, from: Timestamp) -> Result<Vec<Series>, String>;
}

/// Runs a query away from the asynchronous threads.
pub(crate) async fn ask<T: Send + 'static>(
    measure: &Arc<dyn Measure>,
    query: impl FnOnce(&dyn Measure) -> Result<T, String> + Send + 'static,
) -> Result<T, String> {
    let measure = Arc::clone(measure);
    match tokio::task::spawn_blocking(move || query(&*measure)).await {
        Ok(result) => result,
        Err(error) => Err(error.to_string()),
    }
}

/// Looked back over for the use of processors.
const WINDOW: Duration = Duration::from_secs(15);

/// What the pods of a namespace use of `cpu` or `memory`, by pod, in thousandths.
pub(crate) fn usage(
    measure: &dyn Measure,
    namespace: &str,
    resource: &str,
    now: Timestamp,
) -> Result<BTreeMap<String, Usage>, String> {
    let query = match resource {
        "cpu" => format!(
            "sum by (pod, container) (rate(container_cpu_usage_seconds_total{{namespace={namespace:?}}}[{}s]))",
            WINDOW.as_secs()
        ),
        "memory" => {
            format!("sum by (pod, container) (container_memory_working_set_bytes{{namespace={namespace:?}}})")
        }
        other => return Err(format!("nothing is measured of the resource {other:?}; cpu and memory are")),
    };
    let mut usage: BTreeMap<String, Usage> = BTreeMap::new();
    for sample in measure.now(&query)? {
        let label = |name: &str| sample.labels.get(name).cloned().unwrap_or_default();
        let pod = usage.entry(label("pod")).or_default();
        pod.containers.insert(label("container"), (sample.value * 1000.0).round() as i64);
        (pod.at, pod.window) = (Some(now), WINDOW);
    }
    Ok(usage)
}
