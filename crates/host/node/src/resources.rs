//! Requests and limits as the kernel's cgroups take them.

use wharf_base::Quantity;
use wharf_runtime::oci::{LinuxCpu, LinuxCpuBuilder, LinuxMemoryBuilder, LinuxResources};

use crate::model::{Container, Pod, Resources};

/// The kernel's period of CPU limits, in microseconds.
const PERIOD: u64 = 100_000;
/// The least quota the kernel takes.
const MIN_QUOTA: i64 = 1000;
/// The least weight of a cgroup.
const MIN_SHARES: i64 = 2;

/// How much a pod is promised (`status.qosClass`).
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Qos {
    Guaranteed,
    Burstable,
    BestEffort,
}

impl Qos {
    /// The class of a pod: the server's word, or by its containers' resources.
    pub(crate) fn of(pod: &Pod) -> Self {
        match pod.status.qos_class.as_str() {
            "Guaranteed" => return Self::Guaranteed,
            "Burstable" => return Self::Burstable,
            "BestEffort" => return Self::BestEffort,
            _ => {}
        }
        let some = |container: &Container| {
            let Resources { limits, requests } = &container.resources;
            ["cpu", "memory"].iter().any(|name| limits.contains_key(*name) || requests.contains_key(*name))
        };
        let full = |container: &Container| {
            let Resources { limits, requests } = &container.resources;
            ["cpu", "memory"].iter().all(|name| {
                let limit = limits.get(*name);
                limit.is_some() && requests.get(*name).is_none_or(|request| Some(request) == limit)
            })
        };
        if !pod.own_containers().any(some) {
            Self::BestEffort
        } else if pod.own_containers().all(full) {
            Self::Guaranteed
        } else {
            Self::Burstable
        }
    }

    /// As `status.qosClass` has it.
    pub(crate) fn word(self) -> &'static str {
        match self {
            Self::Guaranteed => "Guaranteed",
            Self::Burstable => "Burstable",
            Self::BestEffort => "BestEffort",
        }
    }
}

/// The cgroup of a pod, below the root of the hierarchy.
pub(crate) fn pod_cgroup(instance: &str, pod: &Pod) -> String {
    let class = match Qos::of(pod) {
        Qos::Guaranteed => "",
        Qos::Burstable => "burstable/",
        Qos::BestEffort => "besteffort/",
    };
    format!("{}/{class}pod{}", root_cgroup(instance), pod.metadata.uid)
}

/// The cgroup all pods of this platform are below.
pub(crate) fn root_cgroup(instance: &str) -> String {
    format!("wharf-{instance}/kubepods")
}

/// How willingly the kernel kills a container for want of memory (the kubelet's rule).
pub(crate) fn oom_score(pod: &Pod, container: &Container, machine_memory: i64) -> i32 {
    const NODE_CRITICAL: i64 = 2_000_001_000;
    if pod.spec.priority.unwrap_or(0) >= NODE_CRITICAL {
        return -997;
    }
    match Qos::of(pod) {
        Qos::Guaranteed => -997,
        Qos::BestEffort => 1000,
        Qos::Burstable => {
            let request = amount(container, "memory").map_or(0, Quantity::units);
            let share = (i128::from(request) * 1000 / i128::from(machine_memory.max(1))) as i64;
            (1000 - share).clamp(3, 999) as i32
        }
    }
}

/// What a container is promised of a resource: its request, or its limit where there is none.
fn amount(container: &Container, name: &str) -> Option<Quantity> {
    let Resources { limits, requests } = &container.resources;
    requests.get(name).or_else(|| limits.get(name)).copied()
}

/// A container's limits.
pub(crate) fn container_limits(container: &Container) -> LinuxResources {
    let shares = shares(amount(container, "cpu").map_or(0, Quantity::milli));
    let quota = container.resources.limits.get("cpu").map(|cpu| quota(cpu.milli()));
    let memory = container.resources.limits.get("memory").map(|memory| memory.units());
    build(shares, quota, memory)
}

/// The limits of a pod as a whole: sums, where every container has one.
pub(crate) fn pod_limits(pod: &Pod) -> LinuxResources {
    let limit = |name: &str, of: fn(Quantity) -> i64| -> Option<i64> {
        let sum = pod
            .lasting_containers()
            .map(|c| c.resources.limits.get(name).copied().map(of))
            .sum::<Option<i64>>()?;
        let alone = pod.spec.init_containers.iter().filter(|container| !container.is_sidecar());
        alone
            .map(|c| c.resources.limits.get(name).copied().map(of))
            .try_fold(sum, |most, one| Some(most.max(one?)))
    };
    let requested = pod.lasting_containers().map(|c| amount(c, "cpu").map_or(0, Quantity::milli)).sum();
    build(shares(requested), limit("cpu", Quantity::milli).map(quota), limit("memory", Quantity::units))
}

/// The same limits, lifted: what a pod has while its containers change.
pub(crate) fn unlimited(limits: &LinuxResources) -> LinuxResources {
    let mut lifted = limits.clone();
    if let Some(cpu) = lifted.cpu_mut().as_mut().filter(|cpu| cpu.quota().is_some()) {
        cpu.set_quota(Some(-1));
    }
    if let Some(memory) = lifted.memory_mut().as_mut().filter(|memory| memory.limit().is_some()) {
        memory.set_limit(Some(-1));
    }
    lifted
}

/// Only what is a limit.
pub(crate) fn without_weights(mut limits: LinuxResources) -> LinuxResources {
    let cpu = limits.cpu().clone().map(|mut cpu| {
        cpu.set_shares(None);
        cpu
    });
    limits.set_cpu(cpu.filter(|cpu| *cpu != LinuxCpu::default()));
    limits
}

fn shares(milli: i64) -> u64 {
    (milli.saturating_mul(1024) / 1000).clamp(MIN_SHARES, 262_144) as u64
}

fn quota(milli: i64) -> i64 {
    (milli.saturating_mul(PERIOD as i64) / 1000).max(MIN_QUOTA)
}

fn build(shares: u64, quota: Option<i64>, memory: Option<i64>) -> LinuxResources {
    let mut resources = LinuxResources::default();
    let mut cpu = LinuxCpuBuilder::default().shares(shares);
    if let Some(quota) = quota {
        cpu = cpu.quota(quota).period(PERIOD);
    }
    // The builders fail only for fields that must be set, and these have none.
    resources.set_cpu(cpu.build().ok());
    if let Some(memory) = memory.filter(|memory| *memory > 0) {
        resources.set_memory(LinuxMemoryBuilder::default().limit(memory).build().ok());
    }
    // The device rules are the runtime's own.
    resources.set_devices(None);
    resources
}

#[cfg(test)]
mod tests {
    use serde_json::{Value, json};

    use super::*;

    fn pod(resources: &[Value]) -> Pod {
        let containers: Vec<Value> = resources
            .iter()
            .enumerate()
            .map(|(n, r)| json!({"name": n.to_string(), "resources": r}))
            .collect();
        Pod::read(&json!({"metadata": {"uid": "u"}, "spec": {"containers": containers}})).unwrap()
    }

    fn check(
        resources: &[Value],
        qos: Qos,
        score: i32,
        cgroup: &str,
        expected: (u64, Option<i64>, Option<i64>),
    ) {
        let pod = pod(resources);
        assert_eq!(Qos::of(&pod), qos);
        assert_eq!(oom_score(&pod, &pod.spec.containers[0], 1 << 30), score);
        assert_eq!(pod_cgroup("x", &pod), cgroup);
        let limits = pod_limits(&pod);
        let cpu = limits.cpu().clone().unwrap();
        let memory = limits.memory().as_ref().and_then(|memory| memory.limit());
        assert_eq!((cpu.shares().unwrap(), cpu.quota(), memory), expected);
    }

    #[test]
    fn limits_of_pods() {
        check(&[json!({})], Qos::BestEffort, 1000, "wharf-x/kubepods/besteffort/podu", (2, None, None));
        check(
            &[json!({"limits": {"cpu": "500m", "memory": "64Mi"}})],
            Qos::Guaranteed,
            -997,
            "wharf-x/kubepods/podu",
            (512, Some(50_000), Some(64 << 20)),
        );
        check(
            &[
                json!({"requests": {"cpu": "100m", "memory": "512Mi"}, "limits": {"cpu": "1"}}),
                json!({"limits": {"cpu": "1"}}),
            ],
            Qos::Burstable,
            500,
            "wharf-x/kubepods/burstable/podu",
            (1126, Some(200_000), None),
        );
    }
}
