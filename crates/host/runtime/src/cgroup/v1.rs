//! cgroup version 1: one hierarchy per controller.

use std::{
    fs,
    io::{ErrorKind as Io, Write},
    path::{Path, PathBuf},
};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};

use super::{ROOT, keyed, limit_of, number};
use crate::{
    error::{Context, Result},
    status::Stats,
};

/// Every controller that may be used.
const ALL: [&str; 8] = ["cpu", "cpuacct", "memory", "pids", "devices", "freezer", "cpuset", "blkio"];

/// The devices every container may use: to make any node, and to open the harmless ones.
const DEVICES: [&str; 10] = [
    "c *:* m",
    "b *:* m",
    "c 1:3 rwm",
    "c 1:5 rwm",
    "c 1:7 rwm",
    "c 1:8 rwm",
    "c 1:9 rwm",
    "c 5:0 rwm",
    "c 5:2 rwm",
    "c 136:* rwm",
];

/// The controllers a container joins: those that account and guard, and those for which a limit was asked. Each costs a folder
/// to make, enter and remove.
pub(super) fn wanted(resources: &LinuxResources) -> impl Iterator<Item = &'static str> {
    let cpuset = resources.cpu().as_ref().is_some_and(|cpu| cpu.cpus().is_some() || cpu.mems().is_some());
    let blkio = resources.block_io().is_some();
    ALL.into_iter().filter(move |name| match *name {
        "cpuset" => cpuset,
        "blkio" => blkio,
        name => Path::new(ROOT).join(name).exists(),
    })
}

/// The controller whose file `name` is.
pub(super) fn controller_of(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

pub(super) fn folder(controller: &str, path: &str) -> PathBuf {
    Path::new(ROOT).join(controller).join(path)
}

pub(super) fn existing(path: &str) -> Vec<(&'static str, PathBuf)> {
    ALL.into_iter().map(|name| (name, folder(name, path))).filter(|(_, folder)| folder.exists()).collect()
}

/// Makes the folder. False when it was there.
pub(super) fn make(controller: &str, path: &str) -> Result<bool> {
    let target = folder(controller, path);
    match fs::create_dir(&target) {
        Ok(()) if controller != "cpuset" => return Ok(true),
        Err(error) if error.kind() == Io::AlreadyExists => return Ok(false),
        Ok(()) => {}
        Err(error) if error.kind() == Io::NotFound => {
            fs::create_dir_all(&target).step("create the cgroup", target.display())?;
        }
        Err(error) => return Err(error).step("create the cgroup", target.display()),
    }
    if controller == "cpuset" {
        inherit_cpuset(path)?;
    }
    Ok(true)
}

/// A new cpuset has no processors and no memory, and takes no process until it has: copies its parent's on every level.
fn inherit_cpuset(path: &str) -> Result<()> {
    let mut current = PathBuf::from(ROOT).join("cpuset");
    for part in path.split('/') {
        let parent = current.clone();
        current.push(part);
        for file in ["cpuset.cpus", "cpuset.mems"] {
            let target = current.join(file);
            if fs::read_to_string(&target).is_ok_and(|text| text.trim().is_empty()) {
                fs::read(parent.join(file))
                    .and_then(|value| fs::write(&target, value))
                    .step("inherit the processors of the parent cgroup", target.display())?;
            }
        }
    }
    Ok(())
}

/// The files to write for the limits asked, in an order the kernel accepts.
pub(super) fn settings(resources: &LinuxResources) -> Vec<(&'static str, String)> {
    let mut files = Vec::new();
    let mut set = |file, value: Option<String>| files.extend(value.map(|value| (file, value)));
    if let Some(memory) = resources.memory() {
        set("memory.limit_in_bytes", memory.limit().map(|n| n.to_string()));
        set("memory.memsw.limit_in_bytes", memory.swap().map(|n| n.to_string()));
        set("memory.soft_limit_in_bytes", memory.reservation().map(|n| n.to_string()));
        set("memory.swappiness", memory.swappiness().map(|n| n.to_string()));
    }
    if let Some(cpu) = resources.cpu() {
        set("cpu.shares", cpu.shares().filter(|n| *n > 0).map(|n| n.to_string()));
        set("cpu.cfs_period_us", cpu.period().filter(|n| *n > 0).map(|n| n.to_string()));
        set("cpu.cfs_quota_us", cpu.quota().map(|n| n.to_string()));
        set("cpuset.cpus", cpu.cpus().clone());
        set("cpuset.mems", cpu.mems().clone());
    }
    if let Some(pids) = resources.pids() {
        set("pids.max", Some(if pids.limit() > 0 { pids.limit().to_string() } else { "max".into() }));
    }
    if let Some(block) = resources.block_io() {
        set("blkio.weight", block.weight().map(|n| n.to_string()));
    }
    files
}

/// Allows the standard devices and those of `resources`; nothing else.
pub(super) fn limit_devices(path: &str, resources: &LinuxResources) -> Result<()> {
    let folder = folder("devices", path);
    if !folder.exists() {
        return Ok(());
    }
    let rules = resources.devices().as_deref().unwrap_or_default();
    let everything = rules.iter().any(|rule| rule.allow() && matches_all(rule));
    if everything {
        return Ok(());
    }
    write_rules(&folder.join("devices.deny"), &["a".to_owned()])?;
    let standard = DEVICES.iter().map(|rule| (*rule).to_owned());
    let allowed = rules.iter().filter(|rule| rule.allow()).map(rule_text);
    write_rules(&folder.join("devices.allow"), &standard.chain(allowed).collect::<Vec<_>>())?;
    let denied: Vec<String> =
        rules.iter().filter(|rule| !rule.allow() && !matches_all(rule)).map(rule_text).collect();
    if denied.is_empty() { Ok(()) } else { write_rules(&folder.join("devices.deny"), &denied) }
}

/// The kernel reads one rule per call.
fn write_rules(path: &Path, rules: &[String]) -> Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path).step("open", path.display())?;
    rules.iter().try_for_each(|rule| {
        file.write_all(rule.as_bytes()).step("set a device rule", format_args!("{} = {rule}", path.display()))
    })
}

fn matches_all(rule: &LinuxDeviceCgroup) -> bool {
    matches!(rule.typ(), None | Some(LinuxDeviceType::A)) && rule.major().is_none() && rule.minor().is_none()
}

fn rule_text(rule: &LinuxDeviceCgroup) -> String {
    let kind = match rule.typ() {
        Some(LinuxDeviceType::B) => "b",
        Some(LinuxDeviceType::C | LinuxDeviceType::U) => "c",
        _ => "a",
    };
    let number = |n: Option<i64>| n.filter(|n| *n >= 0).map_or_else(|| "*".to_owned(), |n| n.to_string());
    let access = rule.access().as_deref().unwrap_or("rwm");
    format!("{kind} {}:{} {access}", number(rule.major()), number(rule.minor()))
}

pub(super) fn stats(read: impl Fn(&str) -> String) -> Stats {
    let usage = number(&read("memory.usage_in_bytes"));
    let memory = read("memory.stat");
    Stats {
        cpu_usage_ns: number(&read("cpuacct.usage")),
        cpu_throttled_periods: keyed(&read("cpu.stat"), "nr_throttled"),
        memory_usage: usage,
        memory_working_set: usage.saturating_sub(keyed(&memory, "total_inactive_file")),
        memory_peak: number(&read("memory.max_usage_in_bytes")),
        memory_limit: limit_of(&read("memory.limit_in_bytes")),
        pids: number(&read("pids.current")),
        oom_kills: keyed(&read("memory.oom_control"), "oom_kill"),
    }
}
