//! Which processes a container has and what they use, also where no cgroup knows: then by `/proc` (proc(5)).

use std::{
    collections::{BTreeMap, HashSet},
    ffi::OsString,
    fs,
    path::Path,
};

use crate::{
    cgroup::{Cgroup, has_cgroups},
    error::{Error, Result},
    status::{BlockIo, Stats, Status},
};

/// The ids of a container's processes, as this process sees them. Does not trouble the shim.
///
/// # Errors
/// When the status names no cgroup.
pub fn processes(status: &Status) -> Result<Vec<i32>> {
    if has_cgroups() {
        return Ok(Cgroup::at(&status.cgroup)?.processes());
    }
    Ok(status.pid.map(members).unwrap_or_default())
}

/// What a container uses: as its cgroup accounts for it, or else what its living processes do, with their children that have ended.
/// Does not trouble the shim.
///
/// # Errors
/// When it has ended.
pub fn stats(status: &Status) -> Result<Stats> {
    if has_cgroups() {
        return Cgroup::at(&status.cgroup)?.stats();
    }
    let first = status.pid.ok_or_else(|| Error::not_found(&status.name))?;
    let ticks = rustix::param::clock_ticks_per_second().max(1);
    let uses: Vec<Use> = members(first).into_iter().filter_map(use_of).collect();
    let total = |of: fn(&Use) -> u64| uses.iter().map(of).fold(0, u64::saturating_add);
    let time = |of: fn(&Use) -> u64| total(of).saturating_mul(1_000_000_000 / ticks);
    let memory = total(|one| one.memory);
    Ok(Stats {
        cpu_usage_ns: time(|one| one.user).saturating_add(time(|one| one.system)),
        cpu_user_ns: time(|one| one.user),
        cpu_system_ns: time(|one| one.system),
        memory_usage: memory,
        memory_working_set: memory,
        memory_peak: memory,
        pids: total(|one| one.threads),
        ..Stats::default()
    })
}

/// What a container has read from and written to each block device, where its cgroup is told.
pub fn block_io(status: &Status) -> Vec<BlockIo> {
    Cgroup::at(&status.cgroup).map(|cgroup| cgroup.block_io()).unwrap_or_default()
}

/// A container's processes by its first: all in its own namespace of processes, or else those descended from it.
fn members(first: i32) -> Vec<i32> {
    let Some(space) = space(first) else { return Vec::new() };
    let all = numbers();
    if is_first_of_its_space(first) {
        return all.into_iter().filter(|pid| self::space(*pid).as_ref() == Some(&space)).collect();
    }
    let mut children: BTreeMap<i32, Vec<i32>> = BTreeMap::new();
    for pid in all {
        if let Some(parent) = Fields::of(pid).map(|fields| fields.parent) {
            children.entry(parent).or_default().push(pid);
        }
    }
    let (mut found, mut seen, mut next) = (Vec::new(), HashSet::new(), vec![first]);
    while let Some(pid) = next.pop() {
        // Numbers may be given anew while one looks.
        if seen.insert(pid) {
            found.push(pid);
            next.extend(children.remove(&pid).into_iter().flatten());
        }
    }
    found.sort_unstable();
    found
}

fn numbers() -> Vec<i32> {
    let entries = fs::read_dir("/proc").into_iter().flatten().flatten();
    let mut all: Vec<i32> =
        entries.filter_map(|entry| entry.file_name().to_str().and_then(|name| name.parse().ok())).collect();
    all.sort_unstable();
    all
}

fn space(pid: i32) -> Option<OsString> {
    fs::read_link(format!("/proc/{pid}/ns/pid")).ok().map(Into::into)
}

/// Whether the process has the number 1 for those it lives among.
fn is_first_of_its_space(pid: i32) -> bool {
    let status = fs::read_to_string(format!("/proc/{pid}/status")).unwrap_or_default();
    let numbers = status.lines().find_map(|line| line.strip_prefix("NSpid:"));
    numbers.and_then(|numbers| numbers.split_whitespace().next_back()) == Some("1")
}

/// When a process began, in ticks since the machine did, as long as it lives.
pub(crate) fn began(pid: i32) -> Option<u64> {
    Fields::of(pid).filter(|fields| !fields.ended).map(|fields| fields.began)
}

/// What is looked at of `/proc/PID/stat`.
#[derive(Debug, PartialEq, Eq)]
struct Fields {
    /// Only its parent has not heard of it yet.
    ended: bool,
    parent: i32,
    /// Ticks in the program, also of children that have ended.
    user: u64,
    /// Ticks in the kernel, also of such children.
    system: u64,
    threads: u64,
    /// Ticks since the machine began.
    began: u64,
}

impl Fields {
    fn of(pid: i32) -> Option<Self> {
        Self::read(&fs::read_to_string(format!("/proc/{pid}/stat")).ok()?)
    }

    fn read(text: &str) -> Option<Self> {
        // The name of the program stands in parentheses and may hold any.
        let (_, after) = text.rsplit_once(')')?;
        let fields: Vec<&str> = after.split_ascii_whitespace().collect();
        let number = |index: usize| fields.get(index)?.parse::<u64>().ok();
        Some(Self {
            ended: matches!(*fields.first()?, "Z" | "X"),
            parent: fields.get(1)?.parse().ok()?,
            user: number(11)?.saturating_add(number(13)?),
            system: number(12)?.saturating_add(number(14)?),
            threads: number(17)?,
            began: number(19)?,
        })
    }
}

struct Use {
    user: u64,
    system: u64,
    threads: u64,
    /// Bytes; of what is shared its part.
    memory: u64,
}

fn use_of(pid: i32) -> Option<Use> {
    let Fields { user, system, threads, .. } = Fields::of(pid)?;
    let folder = format!("/proc/{pid}");
    let sized = |file: &str, key: &str| {
        let text = fs::read_to_string(Path::new(&folder).join(file)).ok()?;
        let line = text.lines().find_map(|line| line.strip_prefix(key))?;
        line.split_whitespace().next()?.parse::<u64>().ok().map(|kibibytes| kibibytes << 10)
    };
    // One that is ending has neither.
    let memory = sized("smaps_rollup", "Pss:").or_else(|| sized("status", "VmRSS:")).unwrap_or(0);
    Some(Use { user, system, threads, memory })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_name_may_look_like_fields() {
        let text =
            "42 (a) b (c 7) S 41 1 1 0 -1 4194304 100 200 0 0 10 20 3 4 20 0 5 0 1234 5678 90 1844 1 1 0 0 0";
        let fields = Fields { ended: false, parent: 41, user: 13, system: 24, threads: 5, began: 1234 };
        assert_eq!(Fields::read(text), Some(fields));
        for cut in ["", "42 (a", "42 (a) S", "42 (a) S 41 1 1 0"] {
            assert_eq!(Fields::read(cut), None, "{cut}");
        }
    }

    #[test]
    fn children_are_found_and_what_they_use() {
        let mut child = std::process::Command::new("sleep").arg("60").spawn().unwrap();
        let own = i32::try_from(std::process::id()).unwrap();
        let found = members(own);
        let pid = i32::try_from(child.id()).unwrap();
        assert!(found.contains(&own) && found.contains(&pid), "{found:?}");
        assert!(use_of(own).unwrap().memory > 1 << 16);
        child.kill().unwrap();
        child.wait().unwrap();
        assert!(!members(own).contains(&pid));
    }
}
