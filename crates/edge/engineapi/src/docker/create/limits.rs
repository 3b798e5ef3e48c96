//! Limits of a container, checked against each other and against this machine.

use std::collections::BTreeSet;

use serde::Deserialize as _;
use serde_json::Value;
use wharf_engine::Resources;

use super::{super::answer::Failure, HostConfig, Ulimit, some, without_nothing};

/// The limits of `HostConfig`, and of the body of `update`.
pub(in super::super) fn limits(body: &Value) -> Result<Resources, Failure> {
    let host = HostConfig::deserialize(without_nothing(body))
        .map_err(|error| Failure::bad(format!("the limits cannot be read: {error}")))?;
    resources(&host)
}

pub(super) fn resources(host: &HostConfig) -> Result<Resources, Failure> {
    let positive = |value: i64| Some(value).filter(|value| *value > 0);
    let (memory, swap) = (host.memory, host.memory_swap);
    let processors = std::thread::available_parallelism().map_or(1, usize::from);
    let most = i64::try_from(processors).unwrap_or(i64::MAX).saturating_mul(1_000_000_000);
    let mistakes = [
        ((1..6_291_456).contains(&memory), "Minimum memory limit allowed is 6MB"),
        (
            memory > 0 && swap > 0 && swap < memory,
            "Minimum memoryswap limit should be larger than memory limit, see usage",
        ),
        (
            memory == 0 && swap > 0,
            "You should always set the Memory limit when using Memoryswap limit, see usage",
        ),
        (
            memory > 0 && host.memory_reservation > memory,
            "Minimum memory limit can not be less than memory reservation limit, see usage",
        ),
        (
            host.nano_cpus > 0 && host.cpu_quota > 0,
            "Conflicting options: Nano CPUs and CPU Quota cannot both be set.",
        ),
        (
            host.nano_cpus > 0 && host.cpu_period > 0,
            "Conflicting options: Nano CPUs and CPU Period cannot both be set.",
        ),
    ];
    if let Some((_, message)) = mistakes.iter().find(|(wrong, _)| *wrong) {
        return Err(Failure::bad(*message));
    }
    if host.nano_cpus > most {
        return Err(Failure::bad(format!(
            "Range of CPUs is from 0.01 to {processors}.00, as there are only {processors} CPUs available"
        )));
    }
    if host.blkio_weight != 0 && !(10..=1000).contains(&host.blkio_weight) {
        return Err(Failure::bad("Range of blkio weight is from 10 to 1000"));
    }
    for (wanted, file, what) in [
        (&host.cpuset_cpus, "/sys/devices/system/cpu/online", "CPUs"),
        (&host.cpuset_mems, "/sys/devices/system/node/online", "memory nodes"),
    ] {
        check_list(wanted, file, what)?;
    }
    let (quota, period) = match host.nano_cpus {
        0 => (positive(host.cpu_quota), positive(host.cpu_period)),
        nano if nano < 0 => return Err(Failure::bad("NanoCpus must not be negative")),
        nano => (Some((nano / 10_000).max(1000)), Some(100_000)),
    };
    Ok(Resources {
        memory: positive(host.memory),
        memory_reservation: positive(host.memory_reservation),
        memory_swap: match (memory, swap) {
            // As much swap as memory, as docker has it, where the kernel counts it.
            (1.., 0) if swap_is_counted() => Some(memory.saturating_mul(2)),
            (_, 0) => None,
            (_, swap) => Some(swap),
        },
        cpu_quota: quota,
        cpu_period: period.and_then(|period| u64::try_from(period).ok()),
        cpu_shares: u64::try_from(host.cpu_shares).ok().filter(|shares| *shares > 0),
        cpuset_cpus: some(host.cpuset_cpus.clone()),
        cpuset_mems: some(host.cpuset_mems.clone()),
        pids: host.pids_limit.filter(|limit| *limit > 0),
        swappiness: host.memory_swappiness.and_then(|value| u64::try_from(value).ok()),
        oom_kill_disable: host.oom_kill_disable,
        block_weight: Some(host.blkio_weight).filter(|weight| *weight > 0),
    })
}

fn swap_is_counted() -> bool {
    let memory = std::path::Path::new("/sys/fs/cgroup");
    let places = ["memory/memory.memsw.limit_in_bytes", "cgroup.controllers"];
    places.iter().any(|place| memory.join(place).exists()) && std::path::Path::new("/proc/swaps").exists()
}

/// Refuses processors or memory nodes this machine does not have.
fn check_list(wanted: &str, file: &str, what: &str) -> Result<(), Failure> {
    if wanted.is_empty() {
        return Ok(());
    }
    let numbers = numbers(wanted)
        .ok_or_else(|| Failure::bad(format!("Invalid value {wanted} for cpuset: it is like 0-2,4")))?;
    let Ok(there) = std::fs::read_to_string(file) else { return Ok(()) };
    let there = there.trim();
    let online = self::numbers(there).unwrap_or_default();
    match numbers.is_subset(&online) {
        true => Ok(()),
        false => Err(Failure::bad(format!(
            "Requested {what} are not available - requested {wanted}, available: {there}"
        ))),
    }
}

/// The numbers of a list such as `0-2,4`.
fn numbers(list: &str) -> Option<BTreeSet<u16>> {
    let mut all = BTreeSet::new();
    for part in list.split(',').map(str::trim) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        all.extend(first.parse::<u16>().ok()?..=last.parse().ok()?);
    }
    Some(all)
}

pub(super) fn ulimit(limit: &Ulimit) -> (String, u64, u64) {
    // -1 is no limit.
    let number = |value: i64| u64::try_from(value).unwrap_or(u64::MAX);
    (limit.name.clone(), number(limit.soft), number(limit.hard))
}
