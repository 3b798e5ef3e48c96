//! Pods as an autoscaler reads them, and what they use.

use std::{collections::BTreeMap, time::Duration};

use serde_json::Value;
use wharf_base::{Quantity, Timestamp};
use wharf_control::pod::Pod;

/// Within this time after its start a pod's readiness decides whether its processor use counts.
const INITIALIZATION: Duration = Duration::from_secs(300);
/// A pod that was never ready for so long after its start is not ready yet.
const READINESS_DELAY: Duration = Duration::from_secs(30);

/// One pod of a target.
#[derive(Clone, Debug, PartialEq)]
pub struct ScaledPod {
    /// The pod.
    pub pod: Pod,
    /// Requests in thousandths by container and resource.
    pub requests: BTreeMap<String, BTreeMap<String, i64>>,
}

impl ScaledPod {
    /// Reads a pod; nothing when it is no pod.
    pub fn read(object: &Value) -> Option<Self> {
        let pod = wharf_control::read(object).ok()?;
        let mut requests = BTreeMap::new();
        let sidecars = object.pointer("/spec/initContainers").and_then(Value::as_array).into_iter().flatten();
        let sidecars = sidecars.filter(|c| c["restartPolicy"] == "Always");
        let containers = object.pointer("/spec/containers").and_then(Value::as_array).into_iter().flatten();
        for container in containers.chain(sidecars) {
            let of = |kind: &str| container.pointer(kind).and_then(Value::as_object).into_iter().flatten();
            let mut amounts = BTreeMap::new();
            // The API fills requests from limits.
            for (resource, amount) in of("/resources/limits").chain(of("/resources/requests")) {
                if let Some(quantity) = amount.as_str().and_then(|text| text.parse::<Quantity>().ok()) {
                    amounts.insert(resource.clone(), quantity.milli());
                }
            }
            requests.insert(container["name"].as_str().unwrap_or_default().to_owned(), amounts);
        }
        Some(Self { pod, requests })
    }

    /// What is requested of a resource, by one container or all, in thousandths.
    ///
    /// # Errors
    /// When a container requests nothing of it.
    pub fn requested(&self, resource: &str, container: Option<&str>) -> Result<i64, String> {
        let mut total = 0;
        for (name, amounts) in self.requests.iter().filter(|(name, _)| container.is_none_or(|c| c == *name)) {
            total += amounts.get(resource).filter(|n| **n > 0).ok_or_else(|| {
                format!(
                    "missing request for {resource} in container {name} of Pod {}",
                    self.pod.metadata.name
                )
            })?;
        }
        Ok(total)
    }
}

/// What one pod uses, in thousandths of the resource's unit, by container.
#[derive(Clone, Debug, Default, PartialEq)]
pub struct Usage {
    /// By container.
    pub containers: BTreeMap<String, i64>,
    /// When it was measured.
    pub at: Option<Timestamp>,
    /// Over which time.
    pub window: Duration,
}

impl Usage {
    /// Of one container or all.
    pub fn of(&self, container: Option<&str>) -> i64 {
        self.containers.iter().filter(|(name, _)| container.is_none_or(|c| c == *name)).map(|(_, n)| n).sum()
    }
}

/// The pods of a target by what is known of them.
#[derive(Debug, Default)]
pub(crate) struct Groups<'a> {
    /// Ready, with a number.
    pub ready: Vec<(&'a ScaledPod, i64)>,
    /// Not ready yet.
    pub unready: Vec<&'a ScaledPod>,
    /// Without a number.
    pub missing: Vec<&'a ScaledPod>,
}

pub(crate) fn group<'a>(
    pods: &'a [ScaledPod],
    resource: &str,
    usage: &BTreeMap<String, Usage>,
    container: Option<&str>,
    now: Timestamp,
) -> Groups<'a> {
    let mut groups = Groups::default();
    for scaled in pods {
        let pod = &scaled.pod;
        if pod.metadata.deleting() || pod.ended() {
            continue;
        }
        if pod.status.phase == "Pending" {
            groups.unready.push(scaled);
            continue;
        }
        let Some(used) = usage.get(&pod.metadata.name) else {
            groups.missing.push(scaled);
            continue;
        };
        if resource == "cpu" && starting(pod, used, now) {
            groups.unready.push(scaled);
        } else {
            groups.ready.push((scaled, used.of(container)));
        }
    }
    groups
}

/// Whether a pod's processor use is that of its start.
fn starting(pod: &Pod, used: &Usage, now: Timestamp) -> bool {
    let ready = wharf_control::condition::find(&pod.status.conditions, "Ready");
    let (Some(ready), Some(started)) = (ready, pod.status.start_time) else { return true };
    let changed = ready.last_transition_time.unwrap_or(started);
    if now < started.plus(INITIALIZATION) {
        return !ready.is_true() || used.at.is_some_and(|at| at < changed.plus(used.window));
    }
    !ready.is_true() && changed < started.plus(READINESS_DELAY)
}
