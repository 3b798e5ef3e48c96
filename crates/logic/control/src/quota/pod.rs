//! What pods use.

use std::{
    collections::{BTreeMap, BTreeSet},
    time::Duration,
};

use serde::Deserialize;
use serde_json::Value;
use wharf_base::{Quantity, Timestamp};

use super::{Amounts, ONE, PODS, add};
use crate::meta::{Meta, null_default};

/// Names of pods and of what all of them have.
const NAMES: [&str; 10] = [
    "pods",
    "cpu",
    "memory",
    "ephemeral-storage",
    "requests.cpu",
    "requests.memory",
    "requests.ephemeral-storage",
    "limits.cpu",
    "limits.memory",
    "limits.ephemeral-storage",
];
/// Names of which each container must say how much it wants, once a quota has them.
const TO_SPECIFY: [&str; 6] =
    ["cpu", "memory", "requests.cpu", "requests.memory", "limits.cpu", "limits.memory"];
const COMPUTE: [&str; 3] = ["cpu", "memory", "ephemeral-storage"];
const HUGE_PAGES: &str = "hugepages-";
const DEVICE_CLASS: &str = "deviceclass.resource.kubernetes.io/";

/// `v1.Pod`, as far as quotas count it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
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
    /// How long it may run; with it, a pod is in the scope `Terminating`.
    pub active_deadline_seconds: Option<i64>,
    /// Its class of priority.
    #[serde(deserialize_with = "null_default")]
    pub priority_class_name: String,
    /// Affinities.
    #[serde(deserialize_with = "null_default")]
    pub affinity: Value,
    /// What the runtime needs on top.
    #[serde(deserialize_with = "null_default")]
    pub overhead: Amounts,
    /// Requests and limits of the whole pod.
    #[serde(deserialize_with = "null_default")]
    pub resources: Resources,
    /// Containers.
    #[serde(deserialize_with = "null_default")]
    pub containers: Vec<Container>,
    /// Init containers, sidecars among them.
    #[serde(deserialize_with = "null_default")]
    pub init_containers: Vec<Container>,
}

/// `v1.Container`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Container {
    /// Name.
    pub name: String,
    /// `Always` makes an init container a sidecar.
    #[serde(deserialize_with = "null_default")]
    pub restart_policy: String,
    /// Requests and limits.
    #[serde(deserialize_with = "null_default")]
    pub resources: Resources,
}

/// `v1.ResourceRequirements`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Resources {
    /// What is set aside.
    #[serde(deserialize_with = "null_default")]
    pub requests: Amounts,
    /// The most that may be used.
    #[serde(deserialize_with = "null_default")]
    pub limits: Amounts,
}

/// `v1.PodStatus`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct PodStatus {
    /// Phase.
    #[serde(deserialize_with = "null_default")]
    pub phase: String,
    /// `BestEffort`, `Burstable` or `Guaranteed`; empty before it is stored.
    #[serde(deserialize_with = "null_default")]
    pub qos_class: String,
    /// What containers have, while it is being changed.
    #[serde(deserialize_with = "null_default")]
    pub container_statuses: Vec<ContainerStatus>,
    /// The same of init containers.
    #[serde(deserialize_with = "null_default")]
    pub init_container_statuses: Vec<ContainerStatus>,
}

/// `v1.ContainerStatus`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ContainerStatus {
    /// Name of the container.
    pub name: String,
    /// What the node has set aside for it.
    #[serde(deserialize_with = "null_default")]
    pub allocated_resources: Amounts,
    /// What it has.
    pub resources: Option<Resources>,
}

pub(super) fn counts_pods(name: &str) -> bool {
    let requested = name.strip_prefix("requests.");
    NAMES.contains(&name)
        || requested.unwrap_or(name).starts_with(HUGE_PAGES)
        || requested.is_some_and(|requested| !native(requested) || requested.starts_with(DEVICE_CLASS))
}

/// Whether a resource is Kubernetes' own.
fn native(name: &str) -> bool {
    !name.contains('/') || name.contains("kubernetes.io/")
}

impl Pod {
    /// What it uses: it is counted as an object as long as it is stored, and with all it asks for until it
    /// has ended.
    pub fn usage(&self, now: Timestamp) -> Amounts {
        let mut amounts = Amounts::from([(PODS.count_name(), ONE)]);
        if self.counts(now) {
            amounts.extend(named(&self.requests(), &self.limits()));
            amounts.insert(PODS.name.to_owned(), ONE);
        }
        amounts
    }

    /// Whether quotas count both alike, as long as no time passes.
    pub fn counts_as(&self, other: &Self) -> bool {
        let (own, others) = (&self.metadata, &other.metadata);
        self.spec == other.spec
            && self.status == other.status
            && own.deletion_timestamp == others.deletion_timestamp
            && own.deletion_grace_period_seconds == others.deletion_grace_period_seconds
    }

    /// One whose node does not end it in time is no longer held against its namespace.
    fn counts(&self, now: Timestamp) -> bool {
        !matches!(self.status.phase.as_str(), "Succeeded" | "Failed")
            && self.gone_by().is_none_or(|gone| now <= gone)
    }

    fn gone_by(&self) -> Option<Timestamp> {
        let grace = u64::try_from(self.metadata.deletion_grace_period_seconds?).unwrap_or(0);
        Some(self.metadata.deletion_timestamp?.plus(Duration::from_secs(grace)))
    }

    /// How long one that is on its way out goes on to count; nothing when time alone changes nothing.
    pub(super) fn counts_for(&self, now: Timestamp) -> Option<Duration> {
        // A moment more: it counts at the very end, too.
        let left = self.gone_by()?.since(now) + Duration::from_millis(10);
        self.counts(now).then_some(left)
    }

    /// Whether it is in the scope `Terminating`.
    pub(super) fn has_deadline(&self) -> bool {
        self.spec.active_deadline_seconds.is_some_and(|seconds| seconds >= 0)
    }

    /// Whether it asks for no processor and no memory.
    pub(super) fn best_effort(&self) -> bool {
        if !self.status.qos_class.is_empty() {
            return self.status.qos_class == "BestEffort";
        }
        let asks = |resources: &Resources| {
            let amounts = resources.requests.iter().chain(&resources.limits);
            amounts
                .into_iter()
                .any(|(name, amount)| matches!(name.as_str(), "cpu" | "memory") && *amount > Quantity::ZERO)
        };
        let containers = self.spec.containers.iter().chain(&self.spec.init_containers);
        !asks(&self.spec.resources) && !containers.into_iter().any(|container| asks(&container.resources))
    }

    /// Whether an affinity looks at pods of other namespaces.
    pub(super) fn reaches_other_namespaces(&self) -> bool {
        let reaches = |term: &Value| {
            let namespaces = term.get("namespaces").and_then(Value::as_array);
            namespaces.is_some_and(|names| !names.is_empty())
                || term.get("namespaceSelector").is_some_and(|selector| !selector.is_null())
        };
        let terms = |affinity: &str, field: &str| {
            let terms = self.spec.affinity.get(affinity).and_then(|affinity| affinity.get(field));
            terms.and_then(Value::as_array).map_or(&[][..], Vec::as_slice)
        };
        ["podAffinity", "podAntiAffinity"].iter().any(|affinity| {
            let required = terms(affinity, "requiredDuringSchedulingIgnoredDuringExecution");
            let preferred = terms(affinity, "preferredDuringSchedulingIgnoredDuringExecution");
            required.iter().chain(preferred.iter().filter_map(|t| t.get("podAffinityTerm"))).any(reaches)
        })
    }

    /// What its containers, or it as a whole, ask for, and what they may use.
    pub(super) fn asked(&self) -> (Amounts, Amounts) {
        (self.own_requests(), self.own_limits())
    }

    /// What it asks for in all.
    fn requests(&self) -> Amounts {
        let mut requests = self.own_requests();
        add(&mut requests, &self.spec.overhead);
        requests
    }

    fn own_requests(&self) -> Amounts {
        let mut requests = self.total(|container, status| {
            let mut requests = container.resources.requests.clone();
            if let Some((status, has)) = status {
                raise(&mut requests, &has.requests);
                raise(&mut requests, &status.allocated_resources);
            }
            requests
        });
        requests.extend(pod_level(&self.spec.resources.requests));
        requests
    }

    /// What it may use in all; what is not limited has no entry.
    fn limits(&self) -> Amounts {
        let mut limits = self.own_limits();
        for (name, amount) in &self.spec.overhead {
            if let Some(limit) = limits.get_mut(name).filter(|limit| **limit > Quantity::ZERO) {
                *limit = limit.plus(*amount);
            }
        }
        limits
    }

    fn own_limits(&self) -> Amounts {
        let mut limits = self.total(|container, status| {
            let mut limits = container.resources.limits.clone();
            if let Some((_, has)) = status {
                raise(&mut limits, &has.limits);
            }
            limits
        });
        limits.extend(pod_level(&self.spec.resources.limits));
        limits
    }

    /// Containers and sidecars together, or the most an init container needs beside the sidecars before it.
    fn total(&self, of: impl Fn(&Container, Option<(&ContainerStatus, &Resources)>) -> Amounts) -> Amounts {
        let statuses = self.status.container_statuses.iter().chain(&self.status.init_container_statuses);
        let statuses: BTreeMap<&str, &ContainerStatus> = statuses.map(|s| (s.name.as_str(), s)).collect();
        let status = |container: &Container| {
            let status = statuses.get(container.name.as_str())?;
            Some((*status, status.resources.as_ref()?))
        };
        let mut total = Amounts::new();
        for container in &self.spec.containers {
            add(&mut total, &of(container, status(container)));
        }
        let (mut sidecars, mut most) = (Amounts::new(), Amounts::new());
        for container in &self.spec.init_containers {
            if container.restart_policy == "Always" {
                let own = of(container, status(container));
                add(&mut total, &own);
                add(&mut sidecars, &own);
                raise(&mut most, &sidecars);
            } else {
                let mut own = of(container, None);
                add(&mut own, &sidecars);
                raise(&mut most, &own);
            }
        }
        raise(&mut total, &most);
        total
    }
}

/// The requests or limits of a whole pod, for the resources that may have them.
fn pod_level(amounts: &Amounts) -> impl Iterator<Item = (String, Quantity)> {
    let allowed = |name: &str| matches!(name, "cpu" | "memory") || name.starts_with(HUGE_PAGES);
    amounts.iter().filter(move |(name, _)| allowed(name)).map(|(name, amount)| (name.clone(), *amount))
}

/// Sets each amount to the greater of both.
fn raise(to: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let present = to.entry(name.clone()).or_insert(*amount);
        if *amount > *present {
            *present = *amount;
        }
    }
}

/// Requests and limits under the names quotas have for them.
fn named(requests: &Amounts, limits: &Amounts) -> Amounts {
    let mut amounts = Amounts::new();
    for name in COMPUTE {
        if let Some(amount) = requests.get(name) {
            amounts.insert(name.to_owned(), *amount);
            amounts.insert(format!("requests.{name}"), *amount);
        }
        if let Some(amount) = limits.get(name) {
            amounts.insert(format!("limits.{name}"), *amount);
        }
    }
    for (name, amount) in requests {
        let huge = name.starts_with(HUGE_PAGES);
        if huge {
            amounts.insert(name.clone(), *amount);
        }
        if huge || !native(name) || name.starts_with(DEVICE_CLASS) {
            amounts.insert(format!("requests.{name}"), *amount);
        }
    }
    amounts
}

/// What containers of a pod must still say before it fits under `hard`: for each name the containers that
/// do not, as upstream's `must specify cpu for: a,b` has it. A pod with requests or limits of its own
/// needs none of its containers.
pub fn unspecified(hard: &Amounts, pod: &Pod) -> BTreeMap<&'static str, BTreeSet<String>> {
    let mut missing: BTreeMap<&'static str, BTreeSet<String>> = BTreeMap::new();
    let whole = &pod.spec.resources;
    if pod_level(&whole.requests).chain(pod_level(&whole.limits)).next().is_some() {
        return missing;
    }
    for container in pod.spec.containers.iter().chain(&pod.spec.init_containers) {
        let given = named(&container.resources.requests, &container.resources.limits);
        let wanted = TO_SPECIFY.iter().filter(|name| hard.contains_key(**name));
        for name in wanted.filter(|name| !given.contains_key(**name)) {
            missing.entry(name).or_default().insert(container.name.clone());
        }
    }
    missing
}
