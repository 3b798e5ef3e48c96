//! The default system call filter, in the spirit of Docker's and containerd's: what programs need is allowed, what administers the
//! machine fails with EPERM, and what this table does not know fails with ENOSYS, so that a C library falls back.
//!
//! Two filters do this, since each has one answer besides "allow": the later one refuses the known administrative calls, the
//! earlier one allows the known harmless calls. `clone3`, whose flags lie behind a pointer no filter can follow, is in neither.

mod table;

use std::{collections::BTreeMap, io};

use seccompiler::{
    BpfProgram, SeccompAction, SeccompCmpArgLen, SeccompCmpOp, SeccompCondition, SeccompFilter, SeccompRule,
    TargetArch,
};

/// Any of these in `clone`'s flags makes a namespace.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

type Rules = BTreeMap<i64, Vec<SeccompRule>>;

/// The programs of the default profile, in the order in which they are installed.
pub(crate) fn default_profile() -> io::Result<[BpfProgram; 2]> {
    let allowed =
        compile(allowed().map_err(bad)?, SeccompAction::Errno(libc::ENOSYS as u32), SeccompAction::Allow)?;
    let refused: Rules = table::REFUSED.iter().map(|call| (*call, Vec::new())).collect();
    let refused = compile(refused, SeccompAction::Allow, SeccompAction::Errno(libc::EPERM as u32))?;
    Ok([allowed, refused])
}

fn allowed() -> Result<Rules, seccompiler::BackendError> {
    let mut rules: Rules = table::ALLOWED.iter().map(|call| (*call, Vec::new())).collect();
    // No new namespaces. On s390 the flags are the second argument; there is no target for it here.
    let no_namespace =
        SeccompCondition::new(0, SeccompCmpArgLen::Qword, SeccompCmpOp::MaskedEq(NAMESPACES), 0)?;
    rules.insert(libc::SYS_clone, vec![SeccompRule::new(vec![no_namespace])?]);
    // AF_VSOCK reaches the hypervisor and is not separated by network namespaces.
    let not_vsock =
        SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Ne, libc::AF_VSOCK as u64)?;
    rules.insert(libc::SYS_socket, vec![SeccompRule::new(vec![not_vsock])?]);
    let personality = |value| {
        let same = SeccompCondition::new(0, SeccompCmpArgLen::Dword, SeccompCmpOp::Eq, value)?;
        SeccompRule::new(vec![same])
    };
    // Linux, Linux with UNAME26, either with 32-bit addresses, and the question.
    let values = [0, 0x2_0000, 0x8, 0x2_0008, 0xffff_ffff];
    rules.insert(libc::SYS_personality, values.into_iter().map(personality).collect::<Result<_, _>>()?);
    Ok(rules)
}

fn compile(rules: Rules, otherwise: SeccompAction, matched: SeccompAction) -> io::Result<BpfProgram> {
    let arch = TargetArch::try_from(std::env::consts::ARCH).map_err(bad)?;
    SeccompFilter::new(rules, otherwise, matched, arch).and_then(TryInto::try_into).map_err(bad)
}

fn bad(error: impl std::fmt::Display) -> io::Error {
    io::Error::other(error.to_string())
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn no_call_is_both_allowed_and_refused() {
        for call in table::REFUSED {
            assert!(!table::ALLOWED.contains(call), "{call}");
        }
        assert!(!table::ALLOWED.contains(&libc::SYS_clone3));
    }

    #[test]
    fn fits_into_the_kernels_limit() {
        for program in default_profile().unwrap() {
            assert!(program.len() < 4096, "{}", program.len());
        }
    }
}
