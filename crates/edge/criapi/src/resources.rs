//! Limits in the words of the runtime specification.

use std::collections::HashMap;

use wharf_runtime::oci::{
    LinuxCpu, LinuxCpuBuilder, LinuxHugepageLimitBuilder, LinuxMemory, LinuxMemoryBuilder, LinuxResources,
};

use crate::{
    grpc::{Failure, Result},
    v1::LinuxContainerResources,
};

/// The limits asked for. What is zero or empty is not asked for.
///
/// # Errors
/// When one is not possible on this machine, `hugetlb` telling whether it limits huge pages.
pub(crate) fn limits(asked: &LinuxContainerResources, hugetlb: bool) -> Result<LinuxResources> {
    let mut limits = LinuxResources::default();
    // Devices are the container's description's to tell.
    limits.set_devices(None);
    limits.set_cpu(cpu(asked)?);
    limits.set_memory(memory(asked)?);
    if !hugetlb && let Some(limit) = asked.hugepage_limits.iter().find(|limit| limit.limit > 0) {
        return Err(Failure::invalid(format_args!(
            "this machine cannot limit huge pages of {}",
            limit.page_size
        )));
    }
    if hugetlb && !asked.hugepage_limits.is_empty() {
        let pages = asked.hugepage_limits.iter().map(|limit| {
            let bytes = i64::try_from(limit.limit).unwrap_or(i64::MAX);
            LinuxHugepageLimitBuilder::default().page_size(limit.page_size.clone()).limit(bytes).build()
        });
        limits.set_hugepage_limits(Some(pages.collect::<Result<Vec<_>, _>>().map_err(bad)?));
    }
    if !asked.unified.is_empty() {
        let unified: HashMap<String, String> = asked.unified.clone().into_iter().collect();
        limits.set_unified(Some(unified));
    }
    Ok(limits)
}

fn bad(error: impl std::fmt::Display) -> Failure {
    Failure::invalid(format_args!("the limits cannot be used: {error}"))
}

fn cpu(asked: &LinuxContainerResources) -> Result<Option<LinuxCpu>> {
    let mut cpu = LinuxCpuBuilder::default();
    let mut some = false;
    if let (Ok(shares), true) = (u64::try_from(asked.cpu_shares), asked.cpu_shares > 0) {
        (cpu, some) = (cpu.shares(shares), true);
    }
    if asked.cpu_quota != 0 {
        (cpu, some) = (cpu.quota(asked.cpu_quota), true);
    }
    if let (Ok(period), true) = (u64::try_from(asked.cpu_period), asked.cpu_period > 0) {
        (cpu, some) = (cpu.period(period), true);
    }
    if !asked.cpuset_cpus.is_empty() {
        (cpu, some) = (cpu.cpus(asked.cpuset_cpus.clone()), true);
    }
    if !asked.cpuset_mems.is_empty() {
        (cpu, some) = (cpu.mems(asked.cpuset_mems.clone()), true);
    }
    some.then(|| cpu.build()).transpose().map_err(bad)
}

fn memory(asked: &LinuxContainerResources) -> Result<Option<LinuxMemory>> {
    let mut memory = LinuxMemoryBuilder::default();
    let mut some = false;
    if asked.memory_limit_in_bytes != 0 {
        (memory, some) = (memory.limit(asked.memory_limit_in_bytes), true);
    }
    if asked.memory_swap_limit_in_bytes != 0 {
        (memory, some) = (memory.swap(asked.memory_swap_limit_in_bytes), true);
    }
    some.then(|| memory.build()).transpose().map_err(bad)
}

/// What was asked for before, with what is asked for now in its place.
pub(crate) fn updated(
    before: Option<&LinuxContainerResources>,
    now: &LinuxContainerResources,
) -> LinuxContainerResources {
    let mut all = before.cloned().unwrap_or_default();
    let number = |old: &mut i64, new: i64| {
        if new != 0 {
            *old = new;
        }
    };
    number(&mut all.cpu_period, now.cpu_period);
    number(&mut all.cpu_quota, now.cpu_quota);
    number(&mut all.cpu_shares, now.cpu_shares);
    number(&mut all.memory_limit_in_bytes, now.memory_limit_in_bytes);
    number(&mut all.memory_swap_limit_in_bytes, now.memory_swap_limit_in_bytes);
    number(&mut all.oom_score_adj, now.oom_score_adj);
    for (old, new) in [(&mut all.cpuset_cpus, &now.cpuset_cpus), (&mut all.cpuset_mems, &now.cpuset_mems)] {
        if !new.is_empty() {
            old.clone_from(new);
        }
    }
    if !now.hugepage_limits.is_empty() {
        all.hugepage_limits.clone_from(&now.hugepage_limits);
    }
    all.unified.extend(now.unified.clone());
    all
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::v1::HugepageLimit;

    #[test]
    fn only_what_is_asked_for_is_limited() {
        let none = limits(&LinuxContainerResources::default(), false).unwrap();
        assert!(none.cpu().is_none() && none.memory().is_none() && none.hugepage_limits().is_none());
        let asked = LinuxContainerResources {
            cpu_quota: 50_000,
            cpu_period: 100_000,
            memory_limit_in_bytes: 1 << 20,
            ..Default::default()
        };
        let some = limits(&asked, false).unwrap();
        let cpu = some.cpu().clone().unwrap();
        assert_eq!((cpu.quota(), cpu.period(), cpu.shares()), (Some(50_000), Some(100_000), None));
        assert_eq!(some.memory().as_ref().unwrap().limit(), Some(1 << 20));
        let more = LinuxContainerResources { cpu_shares: 512, ..Default::default() };
        let both = updated(Some(&asked), &more);
        assert_eq!((both.cpu_quota, both.cpu_shares, both.memory_limit_in_bytes), (50_000, 512, 1 << 20));
    }

    #[test]
    fn huge_pages_where_the_machine_limits_them() {
        let page = |limit| LinuxContainerResources {
            hugepage_limits: vec![HugepageLimit { page_size: "2MB".to_owned(), limit }],
            ..Default::default()
        };
        assert!(limits(&page(0), false).unwrap().hugepage_limits().is_none());
        assert!(limits(&page(1), false).unwrap_err().message.contains("2MB"));
        assert_eq!(limits(&page(0), true).unwrap().hugepage_limits().as_ref().unwrap().len(), 1);
    }
}
