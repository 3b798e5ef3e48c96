//! Pods and nodes as the scheduler reads them.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer};
use wharf_base::{Quantity, Timestamp};

/// Labels by key.
pub type Labels = BTreeMap<String, String>;
/// Amounts by resource name.
pub type ResourceList = BTreeMap<String, Quantity>;

/// `v1.Pod`, as far as scheduling needs it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodModel {
    /// Metadata.
    pub metadata: PodMeta,
    /// What was asked for.
    pub spec: PodSpec,
}

/// Metadata of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodMeta {
    /// Name.
    pub name: String,
    /// Namespace.
    pub namespace: String,
    /// Identity over time.
    pub uid: String,
    /// Labels.
    #[serde(deserialize_with = "null_default")]
    pub labels: Labels,
    /// Owners; pods of the same controller are spread.
    #[serde(deserialize_with = "null_default")]
    pub owner_references: Vec<Owner>,
    /// When it was created.
    pub creation_timestamp: Option<Timestamp>,
}

/// An owner of a pod.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Owner {
    /// Its uid.
    pub uid: String,
    /// Whether it manages the pod.
    pub controller: Option<bool>,
}

/// `v1.PodSpec`, in part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodSpec {
    /// The node it is bound to; empty before.
    #[serde(deserialize_with = "null_default")]
    pub node_name: String,
    /// Labels the node must have.
    #[serde(deserialize_with = "null_default")]
    pub node_selector: Labels,
    /// Nodes and neighbours it wants or avoids.
    #[serde(deserialize_with = "null_default")]
    pub affinity: Affinity,
    /// Taints it accepts.
    #[serde(deserialize_with = "null_default")]
    pub tolerations: Vec<Toleration>,
    /// Containers.
    #[serde(deserialize_with = "null_default")]
    pub containers: Vec<Container>,
    /// Init containers; those with restart policy `Always` run beside the others.
    #[serde(deserialize_with = "null_default")]
    pub init_containers: Vec<Container>,
    /// What the sandbox itself needs.
    #[serde(deserialize_with = "null_default")]
    pub overhead: ResourceList,
    /// Resources of the pod as a whole.
    #[serde(deserialize_with = "null_default")]
    pub resources: Resources,
    /// How evenly it shall be spread.
    #[serde(deserialize_with = "null_default")]
    pub topology_spread_constraints: Vec<SpreadConstraint>,
    /// The higher, the earlier; 0 when absent.
    pub priority: Option<i64>,
    /// Whose business it is; `default-scheduler` when empty.
    #[serde(deserialize_with = "null_default")]
    pub scheduler_name: String,
    /// While any is left the pod is not considered.
    #[serde(deserialize_with = "null_default")]
    pub scheduling_gates: Vec<SchedulingGate>,
}

/// Something that holds a pod back.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(default)]
pub struct SchedulingGate {
    /// Its name.
    pub name: String,
}

/// `v1.Container`, in part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Resources it asks for.
    #[serde(deserialize_with = "null_default")]
    pub resources: Resources,
    /// Ports.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<Port>,
    /// `Always` makes an init container a sidecar.
    #[serde(deserialize_with = "null_default")]
    pub restart_policy: String,
}

/// `v1.ResourceRequirements`, in part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Resources {
    /// What is reserved. The API fills it from the limits.
    #[serde(deserialize_with = "null_default")]
    pub requests: ResourceList,
}

/// `v1.ContainerPort`, in part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Port {
    /// Port of the node; 0 when none is taken.
    #[serde(deserialize_with = "null_default")]
    pub host_port: i64,
    /// Address of the node; all when empty.
    #[serde(rename = "hostIP", deserialize_with = "null_default")]
    pub host_ip: String,
    /// `TCP` when empty.
    #[serde(deserialize_with = "null_default")]
    pub protocol: String,
}

/// `v1.Toleration`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Toleration {
    /// Taint key; empty with `Exists` means every taint.
    #[serde(deserialize_with = "null_default")]
    pub key: String,
    /// `Equal` (when empty) or `Exists`.
    #[serde(deserialize_with = "null_default")]
    pub operator: String,
    /// Value for `Equal`.
    #[serde(deserialize_with = "null_default")]
    pub value: String,
    /// Effect; every effect when empty.
    #[serde(deserialize_with = "null_default")]
    pub effect: String,
}

/// `v1.Affinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Affinity {
    /// Nodes.
    #[serde(deserialize_with = "null_default")]
    pub node_affinity: NodeAffinity,
    /// Neighbours wanted.
    #[serde(deserialize_with = "null_default")]
    pub pod_affinity: PodAffinity,
    /// Neighbours avoided.
    #[serde(deserialize_with = "null_default")]
    pub pod_anti_affinity: PodAffinity,
}

/// `v1.NodeAffinity`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeAffinity {
    /// One of these terms must match.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution")]
    pub required: Option<NodeSelector>,
    /// Each term that matches counts.
    #[serde(rename = "preferredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_default")]
    pub preferred: Vec<PreferredTerm>,
}

/// `v1.NodeSelector`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSelector {
    /// Terms of which one must match.
    #[serde(deserialize_with = "null_default")]
    pub node_selector_terms: Vec<NodeTerm>,
}

/// `v1.NodeSelectorTerm`: all its requirements must hold; without any it matches nothing.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeTerm {
    /// Requirements on labels.
    #[serde(deserialize_with = "null_default")]
    pub match_expressions: Vec<Requirement>,
    /// Requirements on fields; `metadata.name` is the only one.
    #[serde(deserialize_with = "null_default")]
    pub match_fields: Vec<Requirement>,
}

/// `v1.PreferredSchedulingTerm`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PreferredTerm {
    /// 1 to 100.
    pub weight: i64,
    /// What is preferred.
    pub preference: NodeTerm,
}

/// One requirement on a label or a field.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Requirement {
    /// Label or field.
    pub key: String,
    /// `In`, `NotIn`, `Exists`, `DoesNotExist`, and for nodes `Gt`, `Lt`.
    pub operator: String,
    /// Values.
    #[serde(deserialize_with = "null_default")]
    pub values: Vec<String>,
}

/// Required terms of `v1.PodAffinity` or `v1.PodAntiAffinity`; preferred ones are not read.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodAffinity {
    /// All must hold.
    #[serde(rename = "requiredDuringSchedulingIgnoredDuringExecution", deserialize_with = "null_default")]
    pub required: Vec<PodTerm>,
}

/// `v1.PodAffinityTerm`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodTerm {
    /// Which pods are meant; none when absent.
    pub label_selector: Option<LabelSelector>,
    /// Their namespaces; the pod's own when empty and there is no `namespaceSelector`.
    #[serde(deserialize_with = "null_default")]
    pub namespaces: Vec<String>,
    /// Namespaces by label: only the empty selector (every namespace) is known here.
    pub namespace_selector: Option<LabelSelector>,
    /// The node label whose value is the place.
    pub topology_key: String,
}

/// `metav1.LabelSelector`.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels with these values.
    #[serde(deserialize_with = "null_default")]
    pub match_labels: Labels,
    /// Further requirements.
    #[serde(deserialize_with = "null_default")]
    pub match_expressions: Vec<Requirement>,
}

impl LabelSelector {
    /// Whether labels satisfy all of it.
    pub fn matches(&self, labels: &Labels) -> bool {
        self.match_labels.iter().all(|(key, value)| labels.get(key) == Some(value))
            && self.match_expressions.iter().all(|requirement| requirement.matches(labels))
    }

    /// Whether it asks for nothing.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }
}

impl Requirement {
    fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => value.is_some_and(|v| self.values.contains(v)),
            "NotIn" => value.is_none_or(|v| !self.values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

/// `v1.TopologySpreadConstraint`, in part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct SpreadConstraint {
    /// How many more pods one place may have than another.
    pub max_skew: i64,
    /// The node label whose value is the place.
    pub topology_key: String,
    /// `DoNotSchedule` binds; others are not read.
    #[serde(deserialize_with = "null_default")]
    pub when_unsatisfiable: String,
    /// Which pods count.
    pub label_selector: Option<LabelSelector>,
    /// With fewer places than this, the emptiest counts as empty.
    pub min_domains: Option<i64>,
}

/// `v1.Node`, as far as scheduling needs it.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeModel {
    /// Metadata.
    pub metadata: NodeMeta,
    /// What was asked for.
    pub spec: NodeSpec,
    /// What it offers.
    pub status: NodeStatus,
}

/// Metadata of a node.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeMeta {
    /// Name.
    pub name: String,
    /// Labels.
    #[serde(deserialize_with = "null_default")]
    pub labels: Labels,
}

/// `v1.NodeSpec`, in part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeSpec {
    /// Cordoned.
    #[serde(deserialize_with = "null_default")]
    pub unschedulable: bool,
    /// What keeps pods away.
    #[serde(deserialize_with = "null_default")]
    pub taints: Vec<Taint>,
}

/// `v1.Taint`, in part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Taint {
    /// Key.
    pub key: String,
    /// Value.
    #[serde(deserialize_with = "null_default")]
    pub value: String,
    /// `NoSchedule`, `PreferNoSchedule` or `NoExecute`.
    #[serde(deserialize_with = "null_default")]
    pub effect: String,
}

/// `v1.NodeStatus`, in part.
#[derive(Clone, Debug, Default, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct NodeStatus {
    /// What pods may use.
    #[serde(deserialize_with = "null_default")]
    pub allocatable: ResourceList,
    /// What the machine has; used where `allocatable` is absent.
    #[serde(deserialize_with = "null_default")]
    pub capacity: ResourceList,
}

/// Reads an explicit null as the default, as Kubernetes does.
fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}
