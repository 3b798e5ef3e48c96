//! cgroup version 1: one hierarchy per controller.

use std::{
    collections::BTreeMap,
    fs,
    io::{ErrorKind as Io, Write},
    path::{Path, PathBuf},
    sync::OnceLock,
};

use oci_spec::runtime::{LinuxBlockIo, LinuxCpu, LinuxMemory, LinuxResources};

use super::{
    ROOT, Setting,
    devices::{Rule, Rules},
    keyed, limit_of, number,
    watch::Denied,
};
use crate::{
    error::{Context, Result},
    status::{BlockIo, Stats},
};

/// Every controller that may be used.
const ALL: [&str; 12] = [
    "cpu", "cpuacct", "memory", "pids", "devices", "freezer", "cpuset", "blkio", "hugetlb", "net_cls",
    "net_prio", "rdma",
];

/// Those this machine has, looked up once.
fn mounted() -> &'static [&'static str] {
    static MOUNTED: OnceLock<Vec<&'static str>> = OnceLock::new();
    MOUNTED.get_or_init(|| {
        let found: Vec<_> =
            fs::read_dir(ROOT).into_iter().flatten().flatten().map(|entry| entry.file_name()).collect();
        ALL.into_iter().filter(|name| found.iter().any(|found| found == name)).collect()
    })
}

/// Whether groups may be made in the hierarchy every container is to be in.
pub(super) fn is_ours() -> bool {
    let first = mounted().first().copied().unwrap_or_default();
    super::is_ours(&Path::new(ROOT).join(first))
}

/// The controllers a container joins: those that account and guard, and those for which a limit was asked. Each costs a folder
/// to make, enter and remove.
pub(super) fn wanted(resources: &LinuxResources) -> impl Iterator<Item = &'static str> {
    let asked = asked(resources);
    ALL.into_iter().filter(move |name| match *name {
        "cpu" | "cpuacct" | "memory" | "pids" | "devices" | "freezer" => mounted().contains(name),
        name => asked.contains(&name),
    })
}

/// The controllers that are joined only for a limit.
fn asked(resources: &LinuxResources) -> Vec<&'static str> {
    let cpu = resources.cpu().as_ref();
    let network = resources.network().as_ref();
    [
        ("cpuset", cpu.is_some_and(|cpu| given(cpu.cpus()) || given(cpu.mems()))),
        ("blkio", resources.block_io().as_ref().is_some_and(|block| *block != LinuxBlockIo::default())),
        ("hugetlb", resources.hugepage_limits().as_ref().is_some_and(|all| !all.is_empty())),
        ("net_cls", network.is_some_and(|network| network.class_id().is_some())),
        (
            "net_prio",
            network.is_some_and(|network| network.priorities().as_ref().is_some_and(|all| !all.is_empty())),
        ),
        ("rdma", resources.rdma().as_ref().is_some_and(|all| !all.is_empty())),
    ]
    .into_iter()
    .filter_map(|(name, asked)| asked.then_some(name))
    .collect()
}

fn given(text: &Option<String>) -> bool {
    text.as_deref().is_some_and(|text| !text.is_empty())
}

/// The first limit whose controller this machine does not have.
pub(super) fn missing(resources: &LinuxResources) -> Option<&'static str> {
    asked(resources).into_iter().find(|name| !mounted().contains(name))
}

/// The controller whose file `name` is.
pub(super) fn controller_of(name: &str) -> &str {
    name.split('.').next().unwrap_or(name)
}

pub(super) fn folder(controller: &str, path: &str) -> PathBuf {
    Path::new(ROOT).join(controller).join(path)
}

pub(super) fn existing(path: &str) -> Vec<(&'static str, PathBuf)> {
    mounted().iter().map(|name| (*name, folder(name, path))).filter(|(_, folder)| folder.exists()).collect()
}

/// Makes the folders that are wanted only for a limit and are not there yet, of a cgroup that is.
pub(super) fn make_late(path: &str, resources: &LinuxResources) -> Result<Vec<PathBuf>> {
    if existing(path).is_empty() {
        return Ok(Vec::new());
    }
    let mut made = Vec::new();
    for controller in asked(resources) {
        if make(controller, path)? {
            made.push(folder(controller, path));
        }
    }
    Ok(made)
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

/// The files to write for the limits asked, in an order the kernel accepts for a new cgroup.
pub(super) fn settings(resources: &LinuxResources) -> Vec<Setting> {
    let mut files = Vec::new();
    if let Some(memory) = resources.memory() {
        memory_settings(memory, &mut files);
    }
    if let Some(cpu) = resources.cpu() {
        cpu_settings(cpu, &mut files);
    }
    let mut set =
        |file: &'static str, value: Option<String>| files.extend(value.map(|value| (file.into(), value)));
    if let Some(pids) = resources.pids() {
        set("pids.max", Some(if pids.limit() > 0 { pids.limit().to_string() } else { "max".into() }));
    }
    if let Some(network) = resources.network() {
        set("net_cls.classid", network.class_id().map(|class| class.to_string()));
        for priority in network.priorities().iter().flatten() {
            set("net_prio.ifpriomap", Some(format!("{} {}", priority.name(), priority.priority())));
        }
    }
    if let Some(block) = resources.block_io() {
        block_settings(block, &mut files);
    }
    for limit in resources.hugepage_limits().iter().flatten() {
        let file = format!("hugetlb.{}.limit_in_bytes", limit.page_size());
        files.push((file.into(), limit.limit().to_string()));
    }
    files.extend(super::rdma_settings(resources));
    files
}

fn memory_settings(memory: &LinuxMemory, files: &mut Vec<Setting>) {
    let mut set = |file: &'static str, value: Option<i64>| {
        // As everywhere, 0 stands for no word about it.
        files.extend(value.filter(|value| *value != 0).map(|value| (file.into(), value.to_string())));
    };
    set("memory.limit_in_bytes", memory.limit());
    set("memory.memsw.limit_in_bytes", memory.swap());
    set("memory.soft_limit_in_bytes", memory.reservation());
    set("memory.kmem.tcp.limit_in_bytes", memory.kernel_tcp());
    set("memory.oom_control", memory.disable_oom_killer().filter(|off| *off).map(|_| 1));
    files.extend(memory.swappiness().map(|value| ("memory.swappiness".into(), value.to_string())));
}

fn cpu_settings(cpu: &LinuxCpu, files: &mut Vec<Setting>) {
    let mut set =
        |file: &'static str, value: Option<String>| files.extend(value.map(|value| (file.into(), value)));
    set("cpu.shares", cpu.shares().filter(|n| *n > 0).map(|n| n.to_string()));
    set("cpu.cfs_period_us", cpu.period().filter(|n| *n > 0).map(|n| n.to_string()));
    set("cpu.cfs_quota_us", cpu.quota().filter(|n| *n != 0).map(|n| n.to_string()));
    set("cpu.cfs_burst_us", cpu.burst().map(|n| n.to_string()));
    set("cpu.rt_period_us", cpu.realtime_period().filter(|n| *n > 0).map(|n| n.to_string()));
    set("cpu.rt_runtime_us", cpu.realtime_runtime().filter(|n| *n != 0).map(|n| n.to_string()));
    set("cpu.idle", cpu.idle().map(|n| n.to_string()));
    set("cpuset.cpus", cpu.cpus().clone().filter(|list| !list.is_empty()));
    set("cpuset.mems", cpu.mems().clone().filter(|list| !list.is_empty()));
}

fn block_settings(block: &LinuxBlockIo, files: &mut Vec<Setting>) {
    // Of the kernel's two schedulers that know weights it has at most one.
    let bfq = !Path::new(ROOT).join("blkio/blkio.weight").exists();
    let named = |old: &'static str, new: &'static str| if bfq { new } else { old };
    let mut set =
        |file: &'static str, value: Option<String>| files.extend(value.map(|value| (file.into(), value)));
    let weight = |weight: Option<u16>| weight.filter(|weight| *weight > 0).map(|weight| weight.to_string());
    set(named("blkio.weight", "blkio.bfq.weight"), weight(block.weight()));
    set("blkio.leaf_weight", weight(block.leaf_weight()));
    for device in block.weight_device().iter().flatten() {
        let of = |weight: Option<u16>| {
            weight.map(|weight| format!("{}:{} {weight}", device.major(), device.minor()))
        };
        set(named("blkio.weight_device", "blkio.bfq.weight_device"), of(device.weight()));
        set("blkio.leaf_weight_device", of(device.leaf_weight()));
    }
    for (file, devices) in [
        ("blkio.throttle.read_bps_device", block.throttle_read_bps_device()),
        ("blkio.throttle.write_bps_device", block.throttle_write_bps_device()),
        ("blkio.throttle.read_iops_device", block.throttle_read_iops_device()),
        ("blkio.throttle.write_iops_device", block.throttle_write_iops_device()),
    ] {
        for device in devices.iter().flatten() {
            set(file, Some(format!("{}:{} {}", device.major(), device.minor(), device.rate())));
        }
    }
}

/// Allows what the rules allow; nothing else.
pub(super) fn limit_devices(path: &str, resources: &LinuxResources) -> Result<()> {
    let folder = folder("devices", path);
    if !folder.exists() {
        return Ok(());
    }
    let Rules { everything, rules } = Rules::of(resources);
    // A new cgroup allows what its parent does.
    if !everything {
        write_rules(&folder.join("devices.deny"), &["a".to_owned()])?;
    }
    for same in rules.chunk_by(|one, next| one.allow == next.allow) {
        let file = if same.first().is_some_and(|rule| rule.allow) { "devices.allow" } else { "devices.deny" };
        let texts: Vec<String> = same.iter().flat_map(Rule::texts).collect();
        write_rules(&folder.join(file), &texts)?;
    }
    Ok(())
}

/// The kernel reads one rule per call.
fn write_rules(path: &Path, rules: &[String]) -> Result<()> {
    let mut file = fs::OpenOptions::new().write(true).open(path).step("open", path.display())?;
    rules.iter().try_for_each(|rule| {
        file.write_all(rule.as_bytes()).step("set a device rule", format_args!("{} = {rule}", path.display()))
    })
}

pub(super) fn stats(read: impl Fn(&str) -> String) -> Stats {
    let usage = number(&read("memory.usage_in_bytes"));
    let (memory, cpu) = (read("memory.stat"), read("cpu.stat"));
    Stats {
        cpu_usage_ns: number(&read("cpuacct.usage")),
        cpu_user_ns: number(&read("cpuacct.usage_user")),
        cpu_system_ns: number(&read("cpuacct.usage_sys")),
        cpu_periods: keyed(&cpu, "nr_periods"),
        cpu_throttled_ns: keyed(&cpu, "throttled_time"),
        cpu_throttled_periods: keyed(&cpu, "nr_throttled"),
        memory_usage: usage,
        memory_working_set: usage.saturating_sub(keyed(&memory, "total_inactive_file")),
        memory_peak: number(&read("memory.max_usage_in_bytes")),
        memory_limit: limit_of(&read("memory.limit_in_bytes")),
        pids: number(&read("pids.current")),
        oom_kills: keyed(&read("memory.oom_control"), "oom_kill"),
        forks_refused: keyed(&read("pids.events"), "max"),
    }
}

/// What `blkio.throttle.io_service_bytes` and `io_serviced` say: `8:0 Read 1`.
pub(super) fn block_io(bytes: &str, counts: &str) -> Vec<BlockIo> {
    let mut all: BTreeMap<(u64, u64), BlockIo> = BTreeMap::new();
    for (text, counted) in [(bytes, false), (counts, true)] {
        for line in text.lines() {
            let words: Vec<&str> = line.split_whitespace().collect();
            let [device, kind, value] = words[..] else { continue };
            let Some((Ok(major), Ok(minor))) =
                device.split_once(':').map(|(major, minor)| (major.parse(), minor.parse()))
            else {
                continue;
            };
            let io = all.entry((major, minor)).or_insert(BlockIo { major, minor, ..BlockIo::default() });
            match (kind, counted) {
                ("Read", false) => io.read = number(value),
                ("Write", false) => io.written = number(value),
                ("Read", true) => io.reads = number(value),
                ("Write", true) => io.writes = number(value),
                _ => {}
            }
        }
    }
    all.into_values().collect()
}

pub(super) fn denied(read: impl Fn(&str) -> String) -> Denied {
    let memory = read("memory.oom_control");
    Denied {
        oom_kills: keyed(&memory, "oom_kill"),
        forks: keyed(&read("pids.events"), "max"),
        stopped: keyed(&memory, "under_oom") == 1 && keyed(&memory, "oom_kill_disable") == 1,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn traffic_of_devices_is_read() {
        let bytes =
            "8:0 Read 10\n8:0 Write 20\n8:0 Sync 30\n8:0 Total 30\n9:1 Read 1\nTotal 31\nx:0 Read 1\n";
        let first = BlockIo { major: 8, minor: 0, read: 10, written: 20, reads: 1, writes: 2 };
        let second = BlockIo { major: 9, minor: 1, read: 1, ..BlockIo::default() };
        assert_eq!(block_io(bytes, "8:0 Read 1\n8:0 Write 2\n"), [first, second]);
        assert_eq!(block_io("", ""), []);
    }
}
