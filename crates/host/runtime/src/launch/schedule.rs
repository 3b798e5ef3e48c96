//! When and where a process runs: scheduling policy, I/O priority, processors; and which kernel it believes to be on.

use oci_spec::runtime::{
    IOPriorityClass, LinuxPersonalityDomain, LinuxSchedulerFlag as Flag, LinuxSchedulerPolicy as Policy,
    Process, Scheduler, Spec,
};
use rustix::thread::CpuSet;

use crate::{
    error::{Context, Error, Result},
    sys,
};

/// Sets scheduling policy and I/O priority where the specification names them.
pub(super) fn set(process: &Process) -> Result<()> {
    if let Some(scheduler) = process.scheduler() {
        sys::set_scheduler(&attributes(scheduler)?).step("set the scheduling policy", scheduler.policy())?;
    }
    if let Some(priority) = process.io_priority() {
        let class = match priority.class() {
            IOPriorityClass::IoprioClassRt => 1,
            IOPriorityClass::IoprioClassBe => 2,
            IOPriorityClass::IoprioClassIdle => 3,
        };
        let level =
            i32::try_from(priority.priority()).ok().filter(|level| (0..8).contains(level)).ok_or_else(
                || Error::invalid("set the I/O priority", priority.priority(), "it must be between 0 and 7"),
            )?;
        sys::set_io_priority(class << 13 | level)
            .step("set the I/O priority", format_args!("{:?}", priority.class()))?;
    }
    Ok(())
}

fn attributes(scheduler: &Scheduler) -> Result<libc::sched_attr> {
    let policy = match scheduler.policy() {
        Policy::SchedOther => libc::SCHED_OTHER,
        Policy::SchedFifo => libc::SCHED_FIFO,
        Policy::SchedRr => libc::SCHED_RR,
        Policy::SchedBatch => libc::SCHED_BATCH,
        Policy::SchedIdle => libc::SCHED_IDLE,
        Policy::SchedDeadline => libc::SCHED_DEADLINE,
        Policy::SchedIso => {
            return Err(Error::invalid("set the scheduling policy", "SCHED_ISO", "no kernel has it"));
        }
    };
    let flags = scheduler.flags().iter().flatten().map(|flag| match flag {
        Flag::SchedResetOnFork => 0x01,
        Flag::SchedFlagReclaim => 0x02,
        Flag::SchedFlagDLOverrun => 0x04,
        Flag::SchedFlagKeepPolicy => 0x08,
        Flag::SchedFlagKeepParams => 0x10,
        Flag::SchedFlagUtilClampMin => 0x20,
        Flag::SchedFlagUtilClampMax => 0x40,
    });
    Ok(libc::sched_attr {
        size: size_of::<libc::sched_attr>() as u32,
        sched_policy: policy as u32,
        sched_flags: flags.fold(0, |all, flag| all | flag),
        sched_nice: scheduler.nice().unwrap_or(0),
        sched_priority: scheduler.priority().unwrap_or(0).max(0) as u32,
        sched_runtime: scheduler.runtime().unwrap_or(0),
        sched_deadline: scheduler.deadline().unwrap_or(0),
        sched_period: scheduler.period().unwrap_or(0),
    })
}

/// Restricts this process to the processors of a list such as `0-3,7`.
pub(super) fn set_affinity(list: &str) -> Result<()> {
    let bad = || Error::invalid("use the processors", list, "expected numbers and ranges such as 0-3,7");
    let mut set = CpuSet::new();
    for part in list.split(',').map(str::trim).filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        let (first, last): (usize, usize) =
            (first.parse().map_err(|_| bad())?, last.parse().map_err(|_| bad())?);
        if first > last || last >= CpuSet::MAX_CPU {
            return Err(bad());
        }
        (first..=last).for_each(|number| set.set(number));
    }
    if set.count() == 0 {
        Ok(())
    } else {
        rustix::thread::sched_setaffinity(None, &set).step("use the processors", list)
    }
}

/// Sets the execution domain where the specification names one.
pub(super) fn set_personality(spec: &Spec) -> Result<()> {
    let Some(wanted) = spec.linux().as_ref().and_then(|linux| linux.personality().as_ref()) else {
        return Ok(());
    };
    if let Some(flag) = wanted.flags().iter().flatten().next() {
        return Err(Error::invalid("set the personality", flag, "the specification knows no flags yet"));
    }
    let domain = match wanted.domain() {
        LinuxPersonalityDomain::PerLinux => 0,
        LinuxPersonalityDomain::PerLinux32 => 8,
    };
    sys::set_personality(domain).step("set the personality", format_args!("{:?}", wanted.domain()))
}
