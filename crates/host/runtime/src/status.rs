//! What a caller is told: phases, exits, use of resources, events.

use serde::{Deserialize, Serialize};
use wharf_base::Timestamp;

/// Where a container is in its life: created → running ⇄ paused → exited.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Phase {
    /// Everything is set up; its program has not been started.
    Created,
    /// Its program runs.
    Running,
    /// Its processes are frozen.
    Paused,
    /// Its program has ended.
    Exited,
}

/// A container as it is now. The same text is kept as `state.json` in its folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Status {
    /// The container's name.
    pub name: String,
    /// Where it is in its life.
    pub phase: Phase,
    /// Its first process, as seen from the machine; absent once it has ended.
    pub pid: Option<i32>,
    /// When that began, in ticks since the machine did: the number may be another's later. Told where nothing else names its processes.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub began: Option<u64>,
    /// Its cgroup below the root of the hierarchy.
    pub cgroup: String,
    /// When it was created.
    pub created_at: Timestamp,
    /// When its program was started.
    pub started_at: Option<Timestamp>,
    /// How it ended.
    pub exit: Option<Exit>,
    /// What could not be done as asked but did not prevent the start.
    #[serde(default)]
    pub warnings: Vec<String>,
    /// How often the kernel has killed one of its processes for want of memory, the first or another.
    #[serde(default)]
    pub oom_kills: u64,
    /// How often it could not make a process or thread because it had as many as it may.
    #[serde(default)]
    pub forks_refused: u64,
}

/// How a program ended. The same text is kept as `exit.json` in the container's folder.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct Exit {
    /// Its exit code; 128 and the signal when a signal ended it; 255 when nobody saw the end.
    pub code: i32,
    /// The signal that ended it.
    pub signal: Option<i32>,
    /// Whether the kernel killed one of its processes for want of memory.
    pub oom_killed: bool,
    /// When it ended.
    #[serde(with = "nanos")]
    pub finished_at: Timestamp,
    /// Why, when it was not the program's own doing.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub reason: Option<String>,
}

/// Resources used by a cgroup since its creation, and now.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, Serialize, Deserialize)]
pub struct Stats {
    /// CPU time used, in nanoseconds.
    pub cpu_usage_ns: u64,
    /// The part of it that programs used.
    #[serde(default)]
    pub cpu_user_ns: u64,
    /// The part of it that the kernel used for them.
    #[serde(default)]
    pub cpu_system_ns: u64,
    /// Periods of its CPU limit.
    #[serde(default)]
    pub cpu_periods: u64,
    /// How long it was held back by its CPU limit, in nanoseconds.
    #[serde(default)]
    pub cpu_throttled_ns: u64,
    /// Periods in which it was held back by its CPU limit.
    pub cpu_throttled_periods: u64,
    /// Memory charged to it.
    pub memory_usage: u64,
    /// Memory that cannot be taken back without harm: usage less inactive file pages.
    pub memory_working_set: u64,
    /// The most memory it has used.
    pub memory_peak: u64,
    /// Its memory limit; absent without one.
    pub memory_limit: Option<u64>,
    /// Its processes and threads.
    pub pids: u64,
    /// How often the kernel has killed one of its processes for want of memory.
    pub oom_kills: u64,
    /// How often it could not make a process or thread because it had as many as it may.
    #[serde(default)]
    pub forks_refused: u64,
}

/// What a cgroup has read from and written to one block device.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct BlockIo {
    /// The device's major number.
    pub major: u64,
    /// The device's minor number.
    pub minor: u64,
    /// Bytes read.
    pub read: u64,
    /// Bytes written.
    pub written: u64,
    /// Reads.
    pub reads: u64,
    /// Writes.
    pub writes: u64,
}

/// Something that happened in a pod.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
#[serde(rename_all = "snake_case")]
pub enum Event {
    /// A container's program was started.
    Started {
        /// The container.
        name: String,
    },
    /// A container has used up the memory it may have. Not more than ten times a second; the number counts on.
    OutOfMemory {
        /// The container.
        name: String,
        /// How many of its processes the kernel has killed for that; none more when it is set to stop them instead.
        kills: u64,
    },
    /// A container could not make a process or thread because it had as many as it may. Not more than ten times a second; the
    /// number counts on.
    ForkRefused {
        /// The container.
        name: String,
        /// How often that happened.
        times: u64,
    },
    /// A container's program ended.
    Exited {
        /// The container.
        name: String,
        /// How.
        exit: Exit,
    },
}

/// Times to the nanosecond, which [`Timestamp`]'s own text leaves out.
mod nanos {
    use serde::{Deserialize, Deserializer, Serializer};
    use wharf_base::Timestamp;

    pub(super) fn serialize<S: Serializer>(time: &Timestamp, s: S) -> Result<S::Ok, S::Error> {
        s.serialize_str(&time.to_nano())
    }

    pub(super) fn deserialize<'de, D: Deserializer<'de>>(d: D) -> Result<Timestamp, D::Error> {
        Timestamp::deserialize(d)
    }
}
