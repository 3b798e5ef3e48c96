//! What this machine is and has.

use std::{
    fs,
    net::{IpAddr, Ipv4Addr, UdpSocket},
    path::Path,
};

/// Facts that stay while the machine is up.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub(crate) struct Machine {
    pub(crate) cpus: i64,
    /// Bytes.
    pub(crate) memory: i64,
    /// Bytes of the file system the platform's data is on.
    pub(crate) disk: i64,
    pub(crate) hostname: String,
    pub(crate) kernel: String,
    pub(crate) os_image: String,
    pub(crate) machine_id: String,
    pub(crate) system_uuid: String,
    pub(crate) boot_id: String,
}

/// What the machine has left.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub(crate) struct Left {
    /// Bytes of memory.
    pub(crate) memory: i64,
    /// Thousandths of the disk.
    pub(crate) disk_permille: u64,
    /// Thousandths of the process ids.
    pub(crate) pids_permille: u64,
}

fn line(path: &str) -> String {
    fs::read_to_string(path).unwrap_or_default().trim().to_owned()
}

/// A field of `/proc/meminfo`, in bytes.
fn meminfo(field: &str) -> i64 {
    let text = fs::read_to_string("/proc/meminfo").unwrap_or_default();
    let found = text.lines().find_map(|line| line.strip_prefix(field)?.strip_prefix(':'));
    let kib: i64 =
        found.and_then(|rest| rest.split_whitespace().next()).and_then(|n| n.parse().ok()).unwrap_or(0);
    kib * 1024
}

/// Size and free bytes of the file system at `path`.
fn disk(path: &Path) -> (u64, u64) {
    match rustix::fs::statvfs(path) {
        Ok(found) => (found.f_blocks * found.f_frsize, found.f_bavail * found.f_frsize),
        Err(_) => (0, 0),
    }
}

impl Machine {
    /// Looks at this machine; `data` is where the platform keeps its files.
    pub(crate) fn look(data: &Path) -> Self {
        let release = fs::read_to_string("/etc/os-release").unwrap_or_default();
        let name = release.lines().find_map(|line| line.strip_prefix("PRETTY_NAME="));
        let uname = rustix::system::uname();
        Self {
            cpus: std::thread::available_parallelism().map_or(1, |n| n.get() as i64),
            memory: meminfo("MemTotal"),
            disk: disk(data).0 as i64,
            hostname: uname.nodename().to_string_lossy().into_owned(),
            kernel: uname.release().to_string_lossy().into_owned(),
            os_image: name.map_or("Linux", |name| name.trim_matches('"')).to_owned(),
            machine_id: line("/etc/machine-id"),
            system_uuid: line("/sys/class/dmi/id/product_uuid"),
            boot_id: line("/proc/sys/kernel/random/boot_id"),
        }
    }

    /// The processor as Kubernetes and OCI name it.
    pub(crate) fn arch() -> &'static str {
        match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            other => other,
        }
    }
}

impl Left {
    pub(crate) fn look(data: &Path) -> Self {
        let (size, free) = disk(data);
        let number = |text: String| text.parse::<u64>().unwrap_or(0);
        let most = number(line("/proc/sys/kernel/pid_max")).max(1);
        // `1.0 0.5 0.2 RUNNING/ALL LAST`
        let load = line("/proc/loadavg");
        let used = load.split([' ', '/']).nth(4).and_then(|n| n.parse::<u64>().ok()).unwrap_or(0);
        Self {
            memory: meminfo("MemAvailable"),
            disk_permille: (free * 1000).checked_div(size).unwrap_or(1000),
            pids_permille: most.saturating_sub(used) * 1000 / most,
        }
    }
}

/// The address the machine's default route leaves from. Connecting a datagram socket sends nothing.
pub(crate) fn address() -> IpAddr {
    let found = UdpSocket::bind((Ipv4Addr::UNSPECIFIED, 0)).and_then(|socket| {
        socket.connect((Ipv4Addr::new(192, 0, 2, 1), 9))?;
        socket.local_addr()
    });
    found.map_or(IpAddr::V4(Ipv4Addr::LOCALHOST), |address| address.ip())
}
