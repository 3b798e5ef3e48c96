//! What a platform has in the kernel: processes, mounts, cgroups, links, packet rules.

use std::{fs, path::Path, process::Command};

use rustix::process::{Pid, Signal, kill_process};

use super::output_of;

/// Where to look for one platform's things; those of others on this machine do not count.
pub struct Traces {
    folder: String,
    /// What its links, cgroups and tables have in their names.
    instance: String,
}

impl Traces {
    pub fn of(data: &Path) -> Self {
        let mut hash = wharf_control::hash::Fnv::new();
        hash.bytes(data.as_os_str().as_encoded_bytes());
        let instance = hash.name().chars().take(8).collect();
        Self { folder: data.to_str().unwrap().to_owned(), instance }
    }

    /// All there is, in words.
    pub fn found(&self) -> Vec<String> {
        let processes = self.processes().into_iter().map(|(pid, name)| format!("process {pid} {name}"));
        let all =
            processes.chain(self.mounts()).chain(self.cgroups()).chain(self.links()).chain(self.tables());
        all.collect()
    }

    /// Processes in its cgroups, or with its folder on their command line, except tests and their tools. They hold its
    /// network namespaces.
    pub fn processes(&self) -> Vec<(i32, String)> {
        let group = format!("/wharf-{}", self.instance);
        let of = |pid: i32| {
            let read = |file: &str| fs::read(format!("/proc/{pid}/{file}")).unwrap_or_default();
            let command = String::from_utf8_lossy(&read("cmdline")).replace('\0', " ");
            let shim = command.starts_with("wharf-shim") && command.contains(&self.folder);
            let inside = String::from_utf8_lossy(&read("cgroup")).contains(&group);
            (shim || inside).then_some((pid, command))
        };
        let entries = fs::read_dir("/proc").unwrap().flatten();
        entries.filter_map(|entry| of(entry.file_name().to_str()?.parse().ok()?)).collect()
    }

    fn mounts(&self) -> Vec<String> {
        let mounts = fs::read_to_string("/proc/self/mountinfo").unwrap();
        // The folder itself may be a disk of its own.
        let is_disk = |line: &str| line.split(' ').nth(4) == Some(self.folder.as_str());
        let mine = mounts.lines().filter(|line| line.contains(&self.folder) && !is_disk(line));
        mine.map(|line| format!("mount {line}")).collect()
    }

    fn cgroups(&self) -> Vec<String> {
        let hierarchies = fs::read_dir("/sys/fs/cgroup").unwrap().flatten();
        let all = hierarchies.map(|entry| entry.path().join(format!("wharf-{}", self.instance)));
        all.filter(|path| path.exists()).map(|path| format!("cgroup {}", path.display())).collect()
    }

    /// Links of pods, and the bridge.
    pub fn links(&self) -> Vec<String> {
        let names = fs::read_dir("/sys/class/net").unwrap().flatten();
        let names = names.filter_map(|entry| entry.file_name().into_string().ok());
        names.filter(|name| name.contains(&self.instance)).map(|name| format!("link {name}")).collect()
    }

    /// Pods' links only.
    pub fn pod_links(&self) -> Vec<String> {
        self.links().into_iter().filter(|name| name.starts_with("link wv-")).collect()
    }

    fn tables(&self) -> Vec<String> {
        let tables = output_of(Command::new("nft").args(["list", "tables"]));
        let mine = tables.lines().filter(|line| line.contains(&self.instance));
        mine.map(str::to_owned).collect()
    }

    /// Lines of its packet rules that name a port.
    pub fn rules_with(&self, port: u16) -> Vec<String> {
        let tables = self.tables().into_iter().map(|table| table.trim_start_matches("table ").to_owned());
        let rules = tables.map(|table| output_of(Command::new("nft").arg(format!("list table {table}"))));
        let of = |rules: String| {
            rules
                .lines()
                .filter(|line| line.contains(&port.to_string()))
                .map(str::to_owned)
                .collect::<Vec<_>>()
        };
        rules.flat_map(of).collect()
    }

    /// Ends what still runs after everything else failed.
    pub fn end(&self) {
        for (pid, _) in self.processes() {
            let _ = Pid::from_raw(pid).map(|pid| kill_process(pid, Signal::KILL));
        }
    }
}
