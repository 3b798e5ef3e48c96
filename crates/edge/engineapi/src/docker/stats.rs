//! `GET /containers/ID/stats`: what a container uses.

use serde_json::{Value, json};
use wharf_base::Timestamp;
use wharf_engine::Container;
use wharf_runtime::{BlockIo, Stats, Traffic};

/// What is measured of a running container at one time.
pub(super) struct Figures {
    pub(super) stats: Stats,
    /// Of a network that is its own, or of a container it shares one with.
    traffic: Vec<Traffic>,
    blocks: Vec<BlockIo>,
}

impl Figures {
    pub(super) fn of(container: &Container, stats: Stats) -> Self {
        let on_machine = container.record.spec.network == wharf_engine::networks::HOST;
        let pid = container.status.pid.filter(|_| !on_machine);
        Self {
            stats,
            traffic: pid.map(wharf_runtime::traffic).unwrap_or_default(),
            blocks: wharf_runtime::block_io(&container.status),
        }
    }
}

/// Figures of one container, with those before for the use of processors.
pub(super) fn stats(
    container: &Container,
    figures: Option<&Figures>,
    now: Timestamp,
    before: Option<&(Stats, Timestamp)>,
) -> Value {
    let machine = rustix::system::sysinfo();
    let memory = (machine.totalram as u64).saturating_mul(machine.mem_unit.into());
    let processors = std::thread::available_parallelism().map_or(1, usize::from) as u64;
    let never = "0001-01-01T00:00:00Z".to_owned();
    // What all processors could have done since a fixed time: differences are what counts.
    let system = |at: Timestamp| {
        u64::try_from(at.since(Timestamp::from_unix(0, 0)).as_nanos())
            .unwrap_or(u64::MAX)
            .saturating_mul(processors)
            % (1 << 62)
    };
    let cpu = |stats: &Stats, at: Timestamp| {
        json!({
            "cpu_usage": { "total_usage": stats.cpu_usage_ns, "usage_in_kernelmode": stats.cpu_system_ns,
                "usage_in_usermode": stats.cpu_user_ns },
            "system_cpu_usage": system(at), "online_cpus": processors,
            "throttling_data": { "periods": stats.cpu_periods, "throttled_periods": stats.cpu_throttled_periods,
                "throttled_time": stats.cpu_throttled_ns },
        })
    };
    let empty =
        json!({ "cpu_usage": { "total_usage": 0, "usage_in_kernelmode": 0, "usage_in_usermode": 0 } });
    let Some(Figures { stats, traffic, blocks }) = figures else {
        return json!({
            "read": never, "preread": never, "id": container.id, "name": format!("/{}", container.name()), "cpu_stats": empty,
            "precpu_stats": empty, "memory_stats": {}, "pids_stats": {}, "blkio_stats": {}, "num_procs": 0, "storage_stats": {},
        });
    };
    let limit = stats.memory_limit.map_or(memory, |limit| limit.min(memory));
    let inactive = stats.memory_usage.saturating_sub(stats.memory_working_set);
    let mut text = json!({
        "read": now.to_nano(), "preread": before.map_or(never, |(_, at)| at.to_nano()), "id": container.id,
        "name": format!("/{}", container.name()),
        "cpu_stats": cpu(stats, now), "precpu_stats": before.map_or(empty, |(stats, at)| cpu(stats, *at)),
        "memory_stats": {
            "usage": stats.memory_usage, "max_usage": stats.memory_peak, "limit": limit, "failcnt": stats.oom_kills,
            "stats": { "total_inactive_file": inactive, "inactive_file": inactive },
        },
        "pids_stats": { "current": stats.pids }, "num_procs": 0, "storage_stats": {},
        "blkio_stats": {
            "io_service_bytes_recursive": by_device(blocks, |io| [io.read, io.written]),
            "io_serviced_recursive": by_device(blocks, |io| [io.reads, io.writes]),
        },
    });
    if !traffic.is_empty() {
        text["networks"] = traffic.iter().map(interface).collect::<serde_json::Map<_, _>>().into();
    }
    text
}

fn by_device(blocks: &[BlockIo], counts: fn(&BlockIo) -> [u64; 2]) -> Value {
    let of = |io: &BlockIo| {
        let entry = |(op, value)| json!({ "major": io.major, "minor": io.minor, "op": op, "value": value });
        ["read", "write"].into_iter().zip(counts(io)).map(entry).collect::<Vec<_>>()
    };
    // As docker says that nothing is known.
    if blocks.is_empty() { Value::Null } else { blocks.iter().flat_map(of).collect() }
}

fn interface(traffic: &Traffic) -> (String, Value) {
    let Traffic { interface, received, sent } = traffic;
    let figures = json!({
        "rx_bytes": received.bytes, "rx_packets": received.packets, "rx_errors": received.errors, "rx_dropped": received.dropped,
        "tx_bytes": sent.bytes, "tx_packets": sent.packets, "tx_errors": sent.errors, "tx_dropped": sent.dropped,
    });
    (interface.clone(), figures)
}
