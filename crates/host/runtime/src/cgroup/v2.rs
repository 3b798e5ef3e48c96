//! cgroup version 2: one hierarchy. Device rules are a program the kernel asks.

use std::{
    fs,
    io::ErrorKind as Io,
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxBlockIo, LinuxResources};

use super::{ROOT, Setting, devices, keyed, limit_of, number, watch::Denied};
use crate::{
    error::{Context, Result},
    status::{BlockIo, Stats},
};

const CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];

/// Guards the devices. Whoever is not root cannot, and cannot make device nodes either.
pub(super) fn limit_devices(path: &str, resources: &LinuxResources) -> Result<()> {
    if !rustix::process::geteuid().is_root() {
        return Ok(());
    }
    devices::guard(&Path::new(ROOT).join(path), &devices::Rules::of(resources))
}

/// Makes the folder and hands the controllers down to it on every level. False when it was there.
pub(super) fn make(path: &str, resources: &LinuxResources) -> Result<bool> {
    let more = [
        ("hugetlb", resources.hugepage_limits().as_ref().is_some_and(|all| !all.is_empty())),
        ("rdma", resources.rdma().as_ref().is_some_and(|all| !all.is_empty())),
    ];
    let more: Vec<&str> = more.into_iter().filter(|(_, asked)| *asked).map(|(name, _)| name).collect();
    let mut current = PathBuf::from(ROOT);
    let mut made = false;
    for part in path.split('/') {
        hand_down(&current, &more);
        current.push(part);
        made = match fs::create_dir(&current) {
            Ok(()) => true,
            Err(error) if error.kind() == Io::AlreadyExists => false,
            Err(error) => return Err(error).step("create the cgroup", current.display()),
        };
    }
    Ok(made)
}

/// A controller that cannot be handed down shows when a limit of it is set.
fn hand_down(folder: &Path, more: &[&str]) {
    let enabled = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in CONTROLLERS.iter().chain(more) {
        if !enabled.split_whitespace().any(|name| name == *controller) {
            let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// The files to write for the limits asked.
pub(super) fn settings(resources: &LinuxResources) -> Vec<Setting> {
    let mut files: Vec<Setting> = Vec::new();
    let mut set =
        |file: &'static str, value: Option<String>| files.extend(value.map(|value| (file.into(), value)));
    if let Some(memory) = resources.memory() {
        let given = |value: Option<i64>| value.filter(|value| *value != 0);
        set("memory.max", given(memory.limit()).map(or_max));
        set("memory.swap.max", swap_alone(given(memory.limit()), given(memory.swap())));
        set("memory.low", given(memory.reservation()).map(or_max));
    }
    if let Some(cpu) = resources.cpu() {
        set("cpu.weight", cpu.shares().filter(|n| *n > 0).map(|n| weight(n).to_string()));
        let period = cpu.period().filter(|n| *n > 0);
        let quota = cpu.quota().filter(|n| *n != 0);
        let both = quota.map(|quota| format!("{} {}", or_max(quota), period.unwrap_or(100_000)));
        set("cpu.max", both.or_else(|| period.map(|period| format!("max {period}"))));
        set("cpu.max.burst", cpu.burst().map(|n| n.to_string()));
        set("cpu.idle", cpu.idle().map(|n| n.to_string()));
        set("cpuset.cpus", cpu.cpus().clone().filter(|list| !list.is_empty()));
        set("cpuset.mems", cpu.mems().clone().filter(|list| !list.is_empty()));
    }
    if let Some(pids) = resources.pids() {
        set("pids.max", Some(or_max(pids.limit())));
    }
    if let Some(block) = resources.block_io() {
        io_settings(block, &mut files);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        files.push((format!("hugetlb.{}.max", limit.page_size()).into(), limit.limit().to_string()));
    }
    files.extend(super::rdma_settings(resources));
    // Last: whoever names a file of the kernel's own knows best.
    let own = resources.unified().iter().flatten();
    files.extend(own.map(|(file, value)| (file.clone().into(), value.clone())));
    files
}

fn io_settings(block: &LinuxBlockIo, files: &mut Vec<Setting>) {
    let weight = |weight: u16| 1 + u32::from(weight.clamp(10, 1000) - 10) * 9999 / 990;
    if let Some(all) = block.weight().filter(|all| *all > 0) {
        files.push(("io.weight".into(), weight(all).to_string()));
    }
    for device in block.weight_device().iter().flatten() {
        if let Some(own) = device.weight() {
            files
                .push(("io.weight".into(), format!("{}:{} {}", device.major(), device.minor(), weight(own))));
        }
    }
    for (key, devices) in [
        ("rbps", block.throttle_read_bps_device()),
        ("wbps", block.throttle_write_bps_device()),
        ("riops", block.throttle_read_iops_device()),
        ("wiops", block.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            files.push((
                "io.max".into(),
                format!("{}:{} {key}={}", device.major(), device.minor(), device.rate()),
            ));
        }
    }
}

fn or_max(limit: i64) -> String {
    if limit > 0 { limit.to_string() } else { "max".to_owned() }
}

/// Version 1, whose words the specification uses, limits memory and swap together; version 2 swap alone.
fn swap_alone(memory: Option<i64>, both: Option<i64>) -> Option<String> {
    match (memory, both?) {
        (_, both) if both <= 0 => Some("max".to_owned()),
        (Some(memory), both) => Some((both - memory).max(0).to_string()),
        (None, both) => Some(both.to_string()),
    }
}

/// Shares of version 1 (2–262144) as a weight of version 2 (1–10000), as runc and the kubelet convert them.
fn weight(shares: u64) -> u64 {
    1 + (shares.clamp(2, 262_144) - 2) * 9999 / 262_142
}

pub(super) fn stats(read: impl Fn(&str) -> String) -> Stats {
    let usage = number(&read("memory.current"));
    let cpu = read("cpu.stat");
    Stats {
        cpu_usage_ns: keyed(&cpu, "usage_usec") * 1000,
        cpu_user_ns: keyed(&cpu, "user_usec") * 1000,
        cpu_system_ns: keyed(&cpu, "system_usec") * 1000,
        cpu_periods: keyed(&cpu, "nr_periods"),
        cpu_throttled_ns: keyed(&cpu, "throttled_usec") * 1000,
        cpu_throttled_periods: keyed(&cpu, "nr_throttled"),
        memory_usage: usage,
        memory_working_set: usage.saturating_sub(keyed(&read("memory.stat"), "inactive_file")),
        memory_peak: number(&read("memory.peak")),
        memory_limit: limit_of(&read("memory.max")),
        pids: number(&read("pids.current")),
        oom_kills: keyed(&read("memory.events"), "oom_kill"),
        forks_refused: keyed(&read("pids.events"), "max"),
    }
}

/// What `io.stat` says: `8:0 rbytes=1 wbytes=2 rios=3 wios=4 dbytes=0 dios=0`.
pub(super) fn block_io(text: &str) -> Vec<BlockIo> {
    let device = |line: &str| {
        let (name, rest) = line.split_once(' ')?;
        let (major, minor) = name.split_once(':')?;
        let mut io = BlockIo { major: major.parse().ok()?, minor: minor.parse().ok()?, ..BlockIo::default() };
        for (key, value) in rest.split_whitespace().filter_map(|pair| pair.split_once('=')) {
            match key {
                "rbytes" => io.read = number(value),
                "wbytes" => io.written = number(value),
                "rios" => io.reads = number(value),
                "wios" => io.writes = number(value),
                _ => {}
            }
        }
        Some(io)
    };
    text.lines().filter_map(device).collect()
}

pub(super) fn denied(read: impl Fn(&str) -> String) -> Denied {
    Denied {
        oom_kills: keyed(&read("memory.events"), "oom_kill"),
        forks: keyed(&read("pids.events"), "max"),
        ..Denied::default()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_of_devices_is_read() {
        let text = "8:0 rbytes=10 wbytes=20 rios=1 wios=2 dbytes=0 dios=0\n9:1 rbytes=1\nx rbytes=1\n";
        let first = BlockIo { major: 8, minor: 0, read: 10, written: 20, reads: 1, writes: 2 };
        let second = BlockIo { major: 9, minor: 1, read: 1, ..BlockIo::default() };
        assert_eq!(block_io(text), [first, second]);
    }
}
