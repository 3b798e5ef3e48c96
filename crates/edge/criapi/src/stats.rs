//! What containers and sandboxes use.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt as _,
    path::Path,
    time::{Duration, Instant},
};

use wharf_runtime::{Cgroup, Stats};

use crate::{
    cri::{Cri, now},
    describe,
    grpc::Result,
    table::{Container, Sandbox, locked},
    v1::{
        ContainerStats, ContainerStatsRequest, ContainerStatsResponse, CpuUsage, FilesystemIdentifier,
        FilesystemUsage, ImageFsInfoRequest, ImageFsInfoResponse, LinuxPodSandboxStats,
        ListContainerStatsRequest, ListContainerStatsResponse, ListPodSandboxStatsRequest,
        ListPodSandboxStatsResponse, MemoryUsage, NamespaceMode, NetworkInterfaceUsage, NetworkUsage,
        PodSandboxStats, PodSandboxStatsRequest, PodSandboxStatsResponse, ProcessUsage, UInt64Value,
    },
};

/// How long a count of files is good for.
const COUNTED: Duration = Duration::from_secs(10);
/// Use of processors is told over no less than this.
const WINDOW: Duration = Duration::from_millis(100);

/// What the file systems had when they were last counted.
pub(crate) type Cached = Option<(Instant, ImageFsInfoResponse)>;

fn some(value: u64) -> Option<UInt64Value> {
    Some(UInt64Value { value })
}

/// Bytes and inodes of a tree on its own file system. Hard links count once.
fn count(path: &Path, seen: &mut HashSet<(u64, u64)>, sum: &mut (u64, u64)) {
    let Ok(meta) = fs::symlink_metadata(path) else { return };
    if meta.nlink() > 1 && !meta.is_dir() && !seen.insert((meta.dev(), meta.ino())) {
        return;
    }
    sum.0 += meta.blocks() * 512;
    sum.1 += 1;
    if meta.is_dir() {
        fs::read_dir(path).into_iter().flatten().flatten().for_each(|entry| count(&entry.path(), seen, sum));
    }
}

fn usage(path: &Path) -> FilesystemUsage {
    let mut sum = (0, 0);
    count(path, &mut HashSet::new(), &mut sum);
    FilesystemUsage {
        timestamp: now(),
        fs_id: Some(FilesystemIdentifier { mountpoint: path.to_string_lossy().into_owned() }),
        used_bytes: some(sum.0),
        inodes_used: some(sum.1),
    }
}

fn cpu(stats: &Stats, nanocores: Option<u64>) -> CpuUsage {
    CpuUsage {
        timestamp: now(),
        usage_core_nano_seconds: some(stats.cpu_usage_ns),
        usage_nano_cores: nanocores.and_then(some),
        psi: None,
    }
}

fn memory(stats: &Stats) -> MemoryUsage {
    let left = stats.memory_limit.map(|limit| limit.saturating_sub(stats.memory_working_set));
    MemoryUsage {
        timestamp: now(),
        working_set_bytes: some(stats.memory_working_set),
        available_bytes: left.and_then(some),
        usage_bytes: some(stats.memory_usage),
        ..MemoryUsage::default()
    }
}

/// Use per second since the last look, and that this was one.
fn nanocores(container: &Container, used: u64) -> Option<u64> {
    let mut measured = locked(&container.measured);
    let now = Instant::now();
    let Some((since, before)) = measured.cpu else {
        measured.cpu = Some((now, used));
        return None;
    };
    let passed = now.duration_since(since);
    if passed < WINDOW {
        return None;
    }
    measured.cpu = Some((now, used));
    let rate = u128::from(used.saturating_sub(before)) * 1_000_000_000 / passed.as_nanos().max(1);
    u64::try_from(rate).ok()
}

fn writable_layer(container: &Container) -> FilesystemUsage {
    let known = locked(&container.measured).files.clone();
    if let Some((when, usage)) = known
        && when.elapsed() < COUNTED
    {
        return usage;
    }
    let usage = usage(&container.sandbox.dir().container(&container.id).join("upper"));
    locked(&container.measured).files = Some((Instant::now(), usage.clone()));
    usage
}

fn container_stats(container: &Container) -> ContainerStats {
    let mut all = ContainerStats {
        attributes: Some(describe::attributes(container)),
        writable_layer: Some(writable_layer(container)),
        ..ContainerStats::default()
    };
    // One that has ended uses nothing.
    let stats = match container.has_ended() {
        true => None,
        false => wharf_runtime::stats(&container.status()).ok(),
    };
    if let Some(stats) = stats {
        all.cpu = Some(cpu(&stats, nanocores(container, stats.cpu_usage_ns)));
        all.memory = Some(memory(&stats));
    }
    all
}

fn interface(traffic: wharf_runtime::Traffic) -> NetworkInterfaceUsage {
    NetworkInterfaceUsage {
        name: traffic.interface,
        rx_bytes: some(traffic.received.bytes),
        rx_errors: some(traffic.received.errors),
        tx_bytes: some(traffic.sent.bytes),
        tx_errors: some(traffic.sent.errors),
    }
}

impl Cri {
    fn sandbox_stats(&self, sandbox: &Sandbox) -> PodSandboxStats {
        let containers = locked(&self.table).containers_of(&sandbox.id);
        let running = containers.iter().filter(|container| !container.has_ended());
        let mut linux = LinuxPodSandboxStats {
            containers: running.map(|container| container_stats(container)).collect(),
            ..LinuxPodSandboxStats::default()
        };
        let record = sandbox.record();
        if let Some(living) = sandbox.living() {
            let on_machine = describe::namespaces(&sandbox.config()).network() == NamespaceMode::Node;
            if let Ok(stats) = Cgroup::at(&record.cgroup).and_then(|cgroup| cgroup.stats()) {
                linux.cpu = Some(cpu(&stats, None));
                linux.memory = Some(memory(&stats));
                linux.process = Some(ProcessUsage { timestamp: now(), process_count: some(stats.pids) });
            }
            let traffic = wharf_runtime::traffic(living.pid());
            if !on_machine && !traffic.is_empty() {
                let mut found: Vec<_> = traffic.into_iter().map(interface).collect();
                let default_interface = (!found.is_empty()).then(|| found.remove(0));
                linux.network = Some(NetworkUsage { timestamp: now(), default_interface, interfaces: found });
            }
        }
        PodSandboxStats { attributes: Some(describe::sandbox_attributes(sandbox)), linux: Some(linux) }
    }

    pub(crate) fn container_stats(&self, request: ContainerStatsRequest) -> Result<ContainerStatsResponse> {
        let container = locked(&self.table).container(&request.container_id)?;
        Ok(ContainerStatsResponse { stats: Some(container_stats(&container)) })
    }

    pub(crate) fn list_container_stats(
        &self,
        request: ListContainerStatsRequest,
    ) -> Result<ListContainerStatsResponse> {
        let filter = describe::of_stats(request.filter.unwrap_or_default());
        let found = {
            let table = locked(&self.table);
            let items = describe::containers(&table, &filter);
            items.iter().filter_map(|item| table.containers.get(&item.id).cloned()).collect::<Vec<_>>()
        };
        Ok(ListContainerStatsResponse { stats: found.iter().map(|one| container_stats(one)).collect() })
    }

    pub(crate) fn pod_sandbox_stats(
        &self,
        request: PodSandboxStatsRequest,
    ) -> Result<PodSandboxStatsResponse> {
        let sandbox = locked(&self.table).sandbox(&request.pod_sandbox_id)?;
        sandbox.ready()?;
        Ok(PodSandboxStatsResponse { stats: Some(self.sandbox_stats(&sandbox)) })
    }

    pub(crate) fn list_pod_sandbox_stats(
        &self,
        request: ListPodSandboxStatsRequest,
    ) -> Result<ListPodSandboxStatsResponse> {
        let filter = describe::of_sandbox_stats(request.filter.unwrap_or_default());
        let found = {
            let table = locked(&self.table);
            let items = describe::sandboxes(&table, &filter);
            items.iter().filter_map(|item| table.sandboxes.get(&item.id).cloned()).collect::<Vec<_>>()
        };
        let ready = found.iter().filter(|sandbox| sandbox.ready().is_ok());
        Ok(ListPodSandboxStatsResponse { stats: ready.map(|sandbox| self.sandbox_stats(sandbox)).collect() })
    }

    pub(crate) fn image_fs_info(&self, _: ImageFsInfoRequest) -> Result<ImageFsInfoResponse> {
        if let Some((when, known)) = &*locked(&self.usage)
            && when.elapsed() < COUNTED
        {
            return Ok(known.clone());
        }
        let found = ImageFsInfoResponse {
            image_filesystems: vec![usage(self.config.images.data_dir())],
            container_filesystems: vec![usage(&self.config.data.join("cri"))],
        };
        *locked(&self.usage) = Some((Instant::now(), found.clone()));
        Ok(found)
    }
}
