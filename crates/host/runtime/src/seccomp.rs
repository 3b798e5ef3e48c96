//! System call filters: the platform's own profile, and those of a specification.
//!
//! The default profile is in the spirit of Docker's and containerd's: what programs need is allowed, what administers the machine fails
//! with EPERM, and what the table does not know fails with ENOSYS, so that a C library falls back. `clone3`, whose flags lie behind a
//! pointer no filter can follow, is in neither list. Calls that go with a capability are allowed to those who have it.

mod filter;
mod names;
mod spec;
mod table;

use std::{
    collections::{BTreeMap, HashSet},
    io,
};

use oci_spec::runtime::{Capability, Spec};

use filter::{Architecture, Compare, Condition, Leaf, Rule};
pub(crate) use spec::{actions, from_spec, operators};

/// A compiled filter and how it is installed.
#[derive(Debug, Clone)]
pub(crate) struct Filter {
    pub(crate) program: filter::Program,
    /// The kernel's `SECCOMP_FILTER_FLAG_…`.
    pub(crate) flags: libc::c_ulong,
    /// What its author should know.
    pub(crate) warnings: Vec<String>,
}

/// Any of these in `clone`'s flags makes a namespace.
const NAMESPACES: u64 = (libc::CLONE_NEWNS
    | libc::CLONE_NEWCGROUP
    | libc::CLONE_NEWUTS
    | libc::CLONE_NEWIPC
    | libc::CLONE_NEWUSER
    | libc::CLONE_NEWPID
    | libc::CLONE_NEWNET) as u64;

const ALLOW: u32 = libc::SECCOMP_RET_ALLOW;

fn errno(number: i32) -> u32 {
    libc::SECCOMP_RET_ERRNO | number as u32 & libc::SECCOMP_RET_DATA
}

/// What of a container's capabilities counts for the default profile.
pub(crate) fn grants(spec: &Spec) -> HashSet<Capability> {
    let capabilities = spec.process().as_ref().and_then(|process| process.capabilities().as_ref());
    let bounding = capabilities.and_then(|sets| sets.bounding().as_ref());
    let counts = |one: &Capability| table::BY_CAPABILITY.iter().any(|(known, _)| known == one);
    bounding.into_iter().flatten().copied().filter(counts).collect()
}

/// The default profile for a container that has these of the capabilities that count.
pub(crate) fn default_profile(grants: &HashSet<Capability>) -> io::Result<Filter> {
    let mut calls: BTreeMap<u32, Leaf> = BTreeMap::new();
    let unknown = Leaf { rules: Vec::new(), otherwise: errno(libc::ENOSYS) };
    let mut put = |call: i64, rules: Vec<Rule>, otherwise: u32| {
        calls.insert(call as u32, Leaf { rules, otherwise });
    };
    table::ALLOWED.iter().for_each(|call| put(*call, Vec::new(), ALLOW));
    table::REFUSED.iter().for_each(|call| put(*call, Vec::new(), errno(libc::EPERM)));
    for (call, conditions, action, otherwise) in conditional() {
        let rules = conditions.into_iter().map(|one| Rule { conditions: vec![one], action }).collect();
        put(call, rules, otherwise);
    }
    let granted = table::BY_CAPABILITY.iter().filter(|(capability, _)| grants.contains(capability));
    granted.flat_map(|(_, calls)| *calls).for_each(|call| put(*call, Vec::new(), ALLOW));
    let audit = names::Isa::NATIVE.audit();
    let program = filter::compile(&[Architecture { audit, calls: ranges(calls, &unknown) }])?;
    Ok(Filter { program, flags: 0, warnings: Vec::new() })
}

/// Calls whose arguments matter: what happens when one of the conditions holds, and what otherwise.
fn conditional() -> [(i64, Vec<Condition>, u32, u32); 3] {
    let refuse = errno(libc::ENOSYS);
    let first = |compare, value| Condition { argument: 0, compare, value };
    // Linux, Linux with UNAME26, either with 32-bit addresses, and the question.
    let personalities = [0, 0x2_0000, 0x8, 0x2_0008, 0xffff_ffff];
    [
        // No new namespaces. On s390 the flags are the second argument; there is no target for it here.
        (libc::SYS_clone, vec![first(Compare::Masked(NAMESPACES), 0)], ALLOW, refuse),
        // AF_VSOCK reaches the hypervisor and is not separated by network namespaces. The kernel reads 32 bits of it.
        (libc::SYS_socket, vec![first(Compare::Masked(0xffff_ffff), libc::AF_VSOCK as u64)], refuse, ALLOW),
        (
            libc::SYS_personality,
            personalities.map(|value| first(Compare::Masked(0xffff_ffff), value)).to_vec(),
            ALLOW,
            refuse,
        ),
    ]
}

/// The calls with their rules as ranges over all numbers; what lies between has those of `otherwise`.
fn ranges(calls: BTreeMap<u32, Leaf>, otherwise: &Leaf) -> Vec<(u32, Leaf)> {
    let mut ranges = Vec::with_capacity(calls.len() * 2);
    let mut next = 0;
    for (number, leaf) in calls {
        if number > next {
            ranges.push((next, otherwise.clone()));
        }
        ranges.push((number, leaf));
        next = number.saturating_add(1);
    }
    ranges.push((next, otherwise.clone()));
    ranges
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
    fn capabilities_open_their_calls() {
        for (capability, calls) in table::BY_CAPABILITY {
            let filter = default_profile(&[*capability].into()).unwrap();
            for call in *calls {
                let arguments = [libc::CLONE_NEWUSER as u64, 0, 0, 0, 0, 0];
                let answer =
                    filter::run(&filter.program, names::Isa::NATIVE.audit(), *call as u32, arguments);
                assert_eq!(answer, ALLOW, "{capability} {call}");
                let known =
                    table::REFUSED.contains(call) || [libc::SYS_clone, libc::SYS_clone3].contains(call);
                assert!(known, "{call} is allowed to everybody");
            }
        }
    }

    #[test]
    fn the_default_profile_answers_as_the_table_says() {
        let filter = default_profile(&HashSet::new()).unwrap();
        let answer = |call: i64, first: u64| {
            filter::run(&filter.program, names::Isa::NATIVE.audit(), call as u32, [first, 0, 0, 0, 0, 0])
        };
        for call in table::ALLOWED {
            assert_eq!(answer(*call, 0), ALLOW, "{call}");
        }
        for call in table::REFUSED {
            assert_eq!(answer(*call, 0), errno(libc::EPERM), "{call}");
        }
        assert_eq!(answer(libc::SYS_clone3, 0), errno(libc::ENOSYS));
        assert_eq!(answer(9999, 0), errno(libc::ENOSYS));
        assert_eq!(answer(libc::SYS_clone, libc::SIGCHLD as u64), ALLOW);
        assert_ne!(answer(libc::SYS_clone, libc::CLONE_NEWUSER as u64), ALLOW);
        assert_eq!(answer(libc::SYS_socket, libc::AF_INET as u64), ALLOW);
        assert_ne!(answer(libc::SYS_socket, libc::AF_VSOCK as u64), ALLOW);
        assert_ne!(answer(libc::SYS_socket, libc::AF_VSOCK as u64 | 1 << 32), ALLOW);
        assert_eq!(answer(libc::SYS_personality, 8), ALLOW);
        assert_ne!(answer(libc::SYS_personality, 0x4_0000), ALLOW);
        assert!(filter.program.len() < 400, "{}", filter.program.len());
    }
}
