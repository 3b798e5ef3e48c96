//! What of root's powers a program keeps.

use oci_spec::runtime::{Capabilities, LinuxCapabilities};
use rustix::thread::{CapabilitySet, CapabilitySets};

use super::Warn;
use crate::error::{Context, Result};

/// Numbers of the capabilities, by place.
pub(crate) const CAPABILITIES: [&str; 41] = [
    "CHOWN",
    "DAC_OVERRIDE",
    "DAC_READ_SEARCH",
    "FOWNER",
    "FSETID",
    "KILL",
    "SETGID",
    "SETUID",
    "SETPCAP",
    "LINUX_IMMUTABLE",
    "NET_BIND_SERVICE",
    "NET_BROADCAST",
    "NET_ADMIN",
    "NET_RAW",
    "IPC_LOCK",
    "IPC_OWNER",
    "SYS_MODULE",
    "SYS_RAWIO",
    "SYS_CHROOT",
    "SYS_PTRACE",
    "SYS_PACCT",
    "SYS_ADMIN",
    "SYS_BOOT",
    "SYS_NICE",
    "SYS_RESOURCE",
    "SYS_TIME",
    "SYS_TTY_CONFIG",
    "MKNOD",
    "LEASE",
    "AUDIT_WRITE",
    "AUDIT_CONTROL",
    "SETFCAP",
    "MAC_OVERRIDE",
    "MAC_ADMIN",
    "SYSLOG",
    "WAKE_ALARM",
    "BLOCK_SUSPEND",
    "AUDIT_READ",
    "PERFMON",
    "BPF",
    "CHECKPOINT_RESTORE",
];

/// A process' capability sets as they are to be, and those it has.
pub(super) struct Sets {
    bounding: u64,
    permitted: u64,
    effective: u64,
    inheritable: u64,
    ambient: u64,
    held: u64,
}

fn bits(set: &Option<Capabilities>) -> u64 {
    set.iter().flatten().filter_map(|one| number(&one.to_string())).fold(0, |all, number| all | 1 << number)
}

fn number(name: &str) -> Option<usize> {
    let name = name.strip_prefix("CAP_").unwrap_or(name);
    CAPABILITIES.iter().position(|known| *known == name)
}

impl Sets {
    /// Those of a specification; none without one.
    pub(super) fn of(wanted: Option<&LinuxCapabilities>) -> Result<Self> {
        let held = rustix::thread::capabilities(None).step("read", "capabilities")?.permitted.bits();
        let of =
            |set: fn(&LinuxCapabilities) -> &Option<Capabilities>| wanted.map_or(0, |all| bits(set(all)));
        Ok(Self {
            bounding: of(LinuxCapabilities::bounding),
            permitted: of(LinuxCapabilities::permitted),
            effective: of(LinuxCapabilities::effective),
            inheritable: of(LinuxCapabilities::inheritable),
            ambient: of(LinuxCapabilities::ambient),
            held,
        })
    }

    /// Tells which of root's the machine does not have. A user other than root keeps only what is ambient.
    pub(super) fn warn(&self, root: bool, warn: &impl Warn) {
        let missing = if root { self.permitted | self.ambient } else { self.ambient } & !self.held;
        let names: Vec<&str> = CAPABILITIES
            .iter()
            .enumerate()
            .filter(|(number, _)| missing & 1 << number != 0)
            .map(|(_, name)| *name)
            .collect();
        if !names.is_empty() {
            warn.warn(&format!("the machine does not have the capabilities {}", names.join(", ")));
        }
    }

    /// No program this process becomes can have more.
    pub(super) fn drop_bounding(&self) -> Result<()> {
        for number in (0..64).take_while(|number| number <= &last_capability()) {
            if self.bounding & 1 << number == 0 {
                let one = CapabilitySet::from_bits_retain(1 << number);
                rustix::thread::remove_capability_from_bounding_set(one)
                    .step("drop the capability", number)?;
            }
        }
        Ok(())
    }

    /// Drops everything else, and installs the filter when it can be: before, while the right to do so is there, or after, when
    /// `no_new_privileges` is all that it takes.
    pub(super) fn drop(
        &self,
        load_filter: impl Fn() -> Result<()>,
        no_new_privileges: bool,
        root: bool,
    ) -> Result<()> {
        if !no_new_privileges {
            if !root {
                self.raise()?;
            }
            load_filter()?;
        }
        let set = |bits: u64| CapabilitySet::from_bits_retain(bits & self.held);
        let sets = CapabilitySets {
            effective: set(self.effective),
            permitted: set(self.permitted),
            inheritable: set(self.inheritable),
        };
        rustix::thread::set_capabilities(None, sets).step("set", "capabilities")?;
        rustix::thread::clear_ambient_capability_set().step("clear", "ambient capabilities")?;
        // The kernel takes only those that are permitted and inheritable.
        let ambient = self.ambient & self.permitted & self.inheritable & self.held;
        for number in (0..64).filter(|number| ambient & 1 << number != 0) {
            let one = CapabilitySet::from_bits_retain(1 << number);
            rustix::thread::configure_capability_in_ambient_set(one, true)
                .step("raise the capability", number)?;
        }
        if no_new_privileges { load_filter() } else { Ok(()) }
    }

    /// What a change of user has put to sleep.
    fn raise(&self) -> Result<()> {
        let all = CapabilitySet::from_bits_retain(self.held);
        let none = CapabilitySet::empty();
        let sets = CapabilitySets { effective: all, permitted: all, inheritable: none };
        rustix::thread::set_capabilities(None, sets).step("set", "capabilities")
    }
}

/// The highest capability this kernel knows: those beyond it cannot be dropped and are not held.
fn last_capability() -> u32 {
    let known = |number: &u32| {
        rustix::thread::capability_is_in_bounding_set(CapabilitySet::from_bits_retain(1 << number)).is_ok()
    };
    (41..63).take_while(known).last().unwrap_or(40)
}
