//! Pods as the controllers read them: phase, readiness, age, restarts, and whom to delete first.

use std::{cmp::Ordering, collections::BTreeMap, time::Duration};

use serde::Deserialize;
use serde_json::Value;
use wharf_base::Timestamp;

use crate::{
    condition::{self, Condition},
    intstr::IntOrString,
    meta::{Meta, null_default},
};

/// `v1.Pod`, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Pod {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: PodSpec,
    /// What is.
    pub status: PodStatus,
}

/// `v1.PodSpec`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node it is bound to; empty before.
    #[serde(deserialize_with = "null_default")]
    pub node_name: String,
    /// `Always`, `OnFailure` or `Never`.
    #[serde(deserialize_with = "null_default")]
    pub restart_policy: String,
    /// Host name, where one was asked for.
    #[serde(deserialize_with = "null_default")]
    pub hostname: String,
    /// The headless Service whose domain the host name is in.
    #[serde(deserialize_with = "null_default")]
    pub subdomain: String,
    /// Taints it accepts.
    #[serde(deserialize_with = "null_default")]
    pub tolerations: Vec<Toleration>,
    /// Containers.
    #[serde(deserialize_with = "null_default")]
    pub containers: Vec<Container>,
    /// Init containers; those with restart policy `Always` run beside the others.
    #[serde(deserialize_with = "null_default")]
    pub init_containers: Vec<Container>,
    /// Affinities.
    #[serde(deserialize_with = "null_default")]
    pub affinity: Value,
}

/// `v1.Container`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Name within the pod.
    pub name: String,
    /// Declared ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<ContainerPort>,
    /// `Always` makes an init container a sidecar.
    #[serde(deserialize_with = "null_default")]
    pub restart_policy: String,
}

/// `v1.ContainerPort`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerPort {
    /// Name Services may refer to.
    #[serde(deserialize_with = "null_default")]
    pub name: String,
    /// Number inside the pod.
    pub container_port: i64,
    /// `TCP` when absent.
    #[serde(deserialize_with = "null_default")]
    pub protocol: String,
}

/// `v1.Toleration`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Taint key; empty with operator `Exists` means every taint.
    #[serde(deserialize_with = "null_default")]
    pub key: String,
    /// `Equal` (when absent) or `Exists`.
    #[serde(deserialize_with = "null_default")]
    pub operator: String,
    /// Value for `Equal`.
    #[serde(deserialize_with = "null_default")]
    pub value: String,
    /// Effect; empty means every effect.
    #[serde(deserialize_with = "null_default")]
    pub effect: String,
    /// How long a NoExecute taint is tolerated; for ever when absent.
    pub toleration_seconds: Option<i64>,
}

/// `v1.PodStatus`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// `Pending`, `Running`, `Succeeded`, `Failed` or `Unknown`.
    #[serde(deserialize_with = "null_default")]
    pub phase: String,
    /// Conditions.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
    /// First address.
    #[serde(rename = "podIP", deserialize_with = "null_default")]
    pub pod_ip: String,
    /// All addresses.
    #[serde(rename = "podIPs", deserialize_with = "null_default")]
    pub pod_ips: Vec<PodIp>,
    /// When the node accepted it.
    pub start_time: Option<Timestamp>,
    /// State of the containers.
    #[serde(deserialize_with = "null_default")]
    pub container_statuses: Vec<ContainerStatus>,
    /// State of the init containers.
    #[serde(deserialize_with = "null_default")]
    pub init_container_statuses: Vec<ContainerStatus>,
}

/// One address of a pod.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(default)]
pub struct PodIp {
    /// The address.
    pub ip: String,
}

/// `v1.ContainerStatus`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Name of the container.
    pub name: String,
    /// How often it was started again.
    pub restart_count: i64,
    /// `waiting`, `running` or `terminated`, with details.
    #[serde(deserialize_with = "null_default")]
    pub state: BTreeMap<String, Value>,
}

impl ContainerStatus {
    /// Exit code, once it has ended for good.
    pub fn exit_code(&self) -> Option<i64> {
        self.state.get("terminated")?.get("exitCode")?.as_i64()
    }

    /// When it ended.
    pub fn finished_at(&self) -> Option<Timestamp> {
        self.state.get("terminated")?.get("finishedAt")?.as_str()?.parse().ok()
    }
}

/// Lowers or raises the place of a pod among those to delete.
const DELETION_COST: &str = "controller.kubernetes.io/pod-deletion-cost";

impl Pod {
    /// Whether it has ended, well or not.
    pub fn ended(&self) -> bool {
        matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
    }

    /// Whether it counts as a replica: neither ended nor being deleted.
    pub fn active(&self) -> bool {
        !self.ended() && !self.metadata.deleting()
    }

    /// Whether it is on its way out but still there.
    pub fn terminating(&self) -> bool {
        !self.ended() && self.metadata.deleting()
    }

    /// Whether it may receive traffic.
    pub fn ready(&self) -> bool {
        condition::holds(&self.status.conditions, "Ready")
    }

    /// Since when it is ready; nothing when it is not.
    pub fn ready_since(&self) -> Option<Timestamp> {
        let ready = condition::find(&self.status.conditions, "Ready").filter(|c| c.is_true())?;
        ready.last_transition_time
    }

    /// How long until it has been ready for `min_ready_seconds`: zero when it is available, nothing
    /// when it is not ready.
    pub fn available_in(&self, min_ready_seconds: i64, now: Timestamp) -> Option<Duration> {
        if !self.ready() {
            return None;
        }
        let wait = Duration::from_secs(u64::try_from(min_ready_seconds).unwrap_or(0));
        if wait.is_zero() {
            return Some(Duration::ZERO);
        }
        // Without a time of transition the wait cannot be shown to be over.
        Some(self.ready_since().map_or(wait, |since| since.plus(wait).since(now)))
    }

    /// The most restarts of any of its containers.
    pub fn restarts(&self) -> i64 {
        self.status.container_statuses.iter().map(|c| c.restart_count).max().unwrap_or(0)
    }

    /// All restarts of its containers and init containers.
    pub fn total_restarts(&self) -> i64 {
        let all = self.status.container_statuses.iter().chain(&self.status.init_container_statuses);
        all.map(|c| c.restart_count).sum()
    }

    /// The annotation that says how dear its deletion is; 0 when absent or odd.
    fn deletion_cost(&self) -> i64 {
        self.metadata.annotations.get(DELETION_COST).and_then(|cost| cost.parse().ok()).unwrap_or(0)
    }

    /// The port a Service's target port means here: a number as it is, a name looked up among the
    /// containers and sidecars.
    pub fn port(&self, target: &IntOrString, protocol: &str) -> Option<i64> {
        let name = match target {
            IntOrString::Int(number) => return Some(*number),
            IntOrString::Text(name) => name,
        };
        let sidecars = self.spec.init_containers.iter().filter(|c| c.restart_policy == "Always");
        let ports = self.spec.containers.iter().chain(sidecars).flat_map(|c| &c.ports);
        let same_protocol = |port: &&ContainerPort| {
            port.protocol == protocol || (port.protocol.is_empty() && protocol == "TCP")
        };
        ports.filter(same_protocol).find(|port| port.name == *name).map(|port| port.container_port)
    }
}

/// Sorts pods so that those to delete come first: not bound to a node; pending before unknown before
/// running; not ready; lower deletion cost; sharing a node with more pods of `related`; ready for a
/// shorter time; more restarts; younger; then by uid.
pub(crate) fn sort_for_deletion(pods: &mut [&Pod], related: &[&Pod]) {
    let mut on_node: BTreeMap<&str, usize> = BTreeMap::new();
    for pod in related.iter().filter(|pod| pod.active()) {
        *on_node.entry(pod.spec.node_name.as_str()).or_default() += 1;
    }
    let crowd = |pod: &Pod| on_node.get(pod.spec.node_name.as_str()).copied().unwrap_or(0);
    pods.sort_by(|a, b| deletion_order(a, b, crowd(a), crowd(b)));
}

fn deletion_order(a: &Pod, b: &Pod, crowd_a: usize, crowd_b: usize) -> Ordering {
    let bound = |pod: &Pod| !pod.spec.node_name.is_empty();
    let phase = |pod: &Pod| match pod.status.phase.as_str() {
        "" | "Pending" => 0,
        "Unknown" => 1,
        _ => 2,
    };
    bound(a)
        .cmp(&bound(b))
        .then_with(|| phase(a).cmp(&phase(b)))
        .then_with(|| a.ready().cmp(&b.ready()))
        .then_with(|| a.deletion_cost().cmp(&b.deletion_cost()))
        .then_with(|| crowd_b.cmp(&crowd_a))
        .then_with(|| younger_first(a.ready_since(), b.ready_since()))
        .then_with(|| b.restarts().cmp(&a.restarts()))
        .then_with(|| younger_first(a.metadata.creation_timestamp, b.metadata.creation_timestamp))
        .then_with(|| a.metadata.uid.cmp(&b.metadata.uid))
}

/// The later time first, an absent one before all.
fn younger_first(a: Option<Timestamp>, b: Option<Timestamp>) -> Ordering {
    match (a, b) {
        (Some(a), Some(b)) => b.cmp(&a),
        (a, b) => a.is_some().cmp(&b.is_some()),
    }
}
