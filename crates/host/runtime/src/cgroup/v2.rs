//! cgroup version 2: one hierarchy. Device rules would need a BPF program here and are not enforced: containers have no way to
//! make a device node all the same unless they are given CAP_MKNOD.

use std::{
    fs,
    io::ErrorKind as Io,
    path::{Path, PathBuf},
};

use oci_spec::runtime::LinuxResources;

use super::{ROOT, keyed, limit_of, number};
use crate::{
    error::{Context, Result},
    status::Stats,
};

const CONTROLLERS: [&str; 5] = ["cpu", "memory", "pids", "io", "cpuset"];

/// Makes the folder and hands the controllers down to it on every level. False when it was there.
pub(super) fn make(path: &str) -> Result<bool> {
    let mut current = PathBuf::from(ROOT);
    let mut made = false;
    for part in path.split('/') {
        hand_down(&current);
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
fn hand_down(folder: &Path) {
    let enabled = fs::read_to_string(folder.join("cgroup.subtree_control")).unwrap_or_default();
    for controller in CONTROLLERS {
        if !enabled.split_whitespace().any(|name| name == controller) {
            let _ = fs::write(folder.join("cgroup.subtree_control"), format!("+{controller}"));
        }
    }
}

/// The files to write for the limits asked.
pub(super) fn settings(resources: &LinuxResources) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    let mut set = |file, value: Option<String>| files.extend(value.map(|value| (file, value)));
    if let Some(memory) = resources.memory() {
        set("memory.max", memory.limit().map(or_max));
        set("memory.swap.max", swap_alone(memory.limit(), memory.swap()));
        set("memory.low", memory.reservation().map(or_max));
    }
    if let Some(cpu) = resources.cpu() {
        set("cpu.weight", cpu.shares().filter(|n| *n > 0).map(|n| weight(n).to_string()));
        let period = cpu.period().filter(|n| *n > 0).unwrap_or(100_000);
        let quota = cpu.quota().map(|quota| format!("{} {period}", or_max(quota)));
        set("cpu.max", quota.or_else(|| cpu.period().map(|period| format!("max {period}"))));
        set("cpuset.cpus", cpu.cpus().clone());
        set("cpuset.mems", cpu.mems().clone());
    }
    if let Some(pids) = resources.pids() {
        set("pids.max", Some(or_max(pids.limit())));
    }
    if let Some(block) = resources.block_io() {
        set(
            "io.weight",
            block.weight().map(|weight| (1 + (u32::from(weight) - 10) * 9999 / 990).to_string()),
        );
    }
    files
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
        cpu_throttled_periods: keyed(&cpu, "nr_throttled"),
        memory_usage: usage,
        memory_working_set: usage.saturating_sub(keyed(&read("memory.stat"), "inactive_file")),
        memory_peak: number(&read("memory.peak")),
        memory_limit: limit_of(&read("memory.max")),
        pids: number(&read("pids.current")),
        oom_kills: keyed(&read("memory.events"), "oom_kill"),
    }
}
