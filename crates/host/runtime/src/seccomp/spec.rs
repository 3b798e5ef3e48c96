//! The filter of a specification (`linux.seccomp`).
//!
//! Of several rules for one call the first that applies decides; one that only repeats the default says nothing. A call that is newer
//! than every call the profile names fails with ENOSYS where the profile would refuse it, so that programs fall back to an older one.

use std::{
    collections::{BTreeMap, HashMap},
    io,
};

use oci_spec::runtime::{
    Arch, LinuxSeccomp, LinuxSeccompAction as Action, LinuxSeccompArg, LinuxSeccompFilterFlag as Flag,
    LinuxSeccompOperator as Operator,
};

use super::{
    Filter, errno,
    filter::{Architecture, Compare, Condition, Leaf, Rule, compile},
    names::{self, Isa},
    ranges,
};

/// The actions a specification may name.
pub(crate) fn actions() -> [&'static str; 9] {
    [
        "SCMP_ACT_KILL",
        "SCMP_ACT_KILL_THREAD",
        "SCMP_ACT_KILL_PROCESS",
        "SCMP_ACT_TRAP",
        "SCMP_ACT_ERRNO",
        "SCMP_ACT_NOTIFY",
        "SCMP_ACT_TRACE",
        "SCMP_ACT_LOG",
        "SCMP_ACT_ALLOW",
    ]
}

/// The comparisons a specification may name.
pub(crate) fn operators() -> [&'static str; 7] {
    [
        "SCMP_CMP_NE",
        "SCMP_CMP_LT",
        "SCMP_CMP_LE",
        "SCMP_CMP_EQ",
        "SCMP_CMP_GE",
        "SCMP_CMP_GT",
        "SCMP_CMP_MASKED_EQ",
    ]
}

/// Compiles the filter of a specification.
pub(crate) fn from_spec(seccomp: &LinuxSeccomp) -> io::Result<Filter> {
    let flags = flags(seccomp)?;
    let default = action(seccomp.default_action(), seccomp.default_errno_ret());
    let architectures: io::Result<Vec<Architecture>> = groups(seccomp)
        .into_iter()
        .map(|(audit, isas)| architecture(seccomp, audit, &isas, default))
        .collect();
    let program = compile(&architectures?)?;
    Ok(Filter { program, flags, warnings: warnings(seccomp) })
}

fn flags(seccomp: &LinuxSeccomp) -> io::Result<libc::c_ulong> {
    let asks = asks(seccomp)?;
    let mut flags = if asks { libc::SECCOMP_FILTER_FLAG_NEW_LISTENER } else { 0 };
    for flag in seccomp.flags().iter().flatten() {
        flags |= match flag {
            Flag::SeccompFilterFlagLog => libc::SECCOMP_FILTER_FLAG_LOG,
            // Says nothing about a process with one thread, and the kernel does not take it with a listener.
            Flag::SeccompFilterFlagTsync if asks => 0,
            Flag::SeccompFilterFlagTsync => libc::SECCOMP_FILTER_FLAG_TSYNC,
            Flag::SeccompFilterFlagSpecAllow => libc::SECCOMP_FILTER_FLAG_SPEC_ALLOW,
            Flag::SeccompFilterFlagWaitKillableRecv if asks => libc::SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV,
            Flag::SeccompFilterFlagWaitKillableRecv => {
                return Err(invalid("SECCOMP_FILTER_FLAG_WAIT_KILLABLE_RECV goes only with SCMP_ACT_NOTIFY"));
            }
        };
    }
    Ok(flags)
}

/// Whether an agent is asked about calls.
fn asks(seccomp: &LinuxSeccomp) -> io::Result<bool> {
    let asked = |action: Action| action == Action::ScmpActNotify;
    if asked(seccomp.default_action()) {
        return Err(invalid(
            "SCMP_ACT_NOTIFY cannot be the default: the agent would be asked about its own start",
        ));
    }
    let mut named = seccomp.syscalls().iter().flatten().filter(|group| asked(group.action())).peekable();
    if named.peek().is_none() {
        return Ok(false);
    }
    if seccomp.listener_path().is_none() {
        return Err(invalid("SCMP_ACT_NOTIFY needs a 'listenerPath', where an agent answers"));
    }
    if let Some(name) =
        named.flat_map(|group| group.names()).find(|name| *name == "sendmsg" || *name == "recvfrom")
    {
        return Err(invalid(&format!(
            "SCMP_ACT_NOTIFY cannot be about '{name}', by which the agent is told"
        )));
    }
    Ok(true)
}

fn invalid(why: &str) -> io::Error {
    io::Error::new(io::ErrorKind::InvalidInput, why)
}

fn action(action: Action, number: Option<u32>) -> u32 {
    let data = |base: u32| base | number.unwrap_or(libc::EPERM as u32) & libc::SECCOMP_RET_DATA;
    match action {
        Action::ScmpActKill | Action::ScmpActKillThread => libc::SECCOMP_RET_KILL_THREAD,
        Action::ScmpActKillProcess => libc::SECCOMP_RET_KILL_PROCESS,
        Action::ScmpActTrap => libc::SECCOMP_RET_TRAP,
        Action::ScmpActErrno => data(libc::SECCOMP_RET_ERRNO),
        Action::ScmpActTrace => data(libc::SECCOMP_RET_TRACE),
        Action::ScmpActLog => libc::SECCOMP_RET_LOG,
        Action::ScmpActAllow => libc::SECCOMP_RET_ALLOW,
        Action::ScmpActNotify => libc::SECCOMP_RET_USER_NOTIF,
    }
}

/// The architectures asked for whose programs can run here, by the kernel's number. The machine's own always is.
fn groups(seccomp: &LinuxSeccomp) -> BTreeMap<u32, Vec<Isa>> {
    let mut isas = vec![Isa::NATIVE];
    for arch in seccomp.architectures().iter().flatten() {
        let isa = match arch {
            Arch::ScmpArchX86 if Isa::NATIVE == Isa::X86_64 => Isa::X86,
            Arch::ScmpArchX32 if Isa::NATIVE == Isa::X86_64 => Isa::X32,
            // Those of other machines never run here; 32-bit programs of ARM are ended.
            _ => continue,
        };
        if !isas.contains(&isa) {
            isas.push(isa);
        }
    }
    let mut groups: BTreeMap<u32, Vec<Isa>> = BTreeMap::new();
    isas.into_iter().for_each(|isa| groups.entry(isa.audit()).or_default().push(isa));
    groups
}

fn architecture(seccomp: &LinuxSeccomp, audit: u32, isas: &[Isa], default: u32) -> io::Result<Architecture> {
    let mut all = Vec::new();
    for isa in isas {
        let base = if *isa == Isa::X32 { 0x4000_0000 } else { 0 };
        let calls = calls(seccomp, &isa.numbers(), default)?;
        let newest = calls.keys().next_back().map_or(u32::MAX, |newest| newest + 1);
        let leaf = |otherwise| Leaf { rules: Vec::new(), otherwise };
        let mut part = ranges(calls, &leaf(default));
        if let Some(first) = part.first_mut() {
            first.0 = first.0.max(base);
        }
        if let (true, Some(last)) = (refuses(default) && newest != u32::MAX, part.last_mut()) {
            *last = (newest, leaf(errno(libc::ENOSYS)));
        }
        all.extend(part);
    }
    if audit == Isa::X86_64.audit() && !isas.contains(&Isa::X32) {
        // x32's calls would otherwise pass for calls of x86-64 that nobody has named.
        all.push((0x4000_0000, Leaf { rules: Vec::new(), otherwise: libc::SECCOMP_RET_KILL_PROCESS }));
    }
    Ok(Architecture { audit, calls: all })
}

fn refuses(action: u32) -> bool {
    matches!(
        action & libc::SECCOMP_RET_ACTION_FULL,
        libc::SECCOMP_RET_KILL_PROCESS | libc::SECCOMP_RET_KILL_THREAD | libc::SECCOMP_RET_ERRNO
    )
}

fn calls(
    seccomp: &LinuxSeccomp,
    numbers: &HashMap<&str, u32>,
    default: u32,
) -> io::Result<BTreeMap<u32, Leaf>> {
    let mut calls: BTreeMap<u32, Leaf> = BTreeMap::new();
    for group in seccomp.syscalls().iter().flatten() {
        let action = action(group.action(), group.errno_ret());
        let rules = rules(group.args().as_deref().unwrap_or_default(), action)?;
        for number in group.names().iter().filter_map(|name| numbers.get(name.as_str())) {
            let leaf = calls.entry(*number).or_insert_with(|| Leaf { rules: Vec::new(), otherwise: default });
            if action != default {
                leaf.rules.extend(rules.iter().cloned());
            }
        }
    }
    Ok(calls)
}

/// All conditions of one rule must hold, unless two are on the same argument: then each stands for itself.
fn rules(args: &[LinuxSeccompArg], action: u32) -> io::Result<Vec<Rule>> {
    let conditions = args.iter().map(condition).collect::<io::Result<Vec<Condition>>>()?;
    let repeated = conditions
        .iter()
        .enumerate()
        .any(|(index, one)| conditions.iter().skip(index + 1).any(|other| other.argument == one.argument));
    Ok(if repeated {
        conditions.into_iter().map(|one| Rule { conditions: vec![one], action }).collect()
    } else {
        vec![Rule { conditions, action }]
    })
}

fn condition(arg: &LinuxSeccompArg) -> io::Result<Condition> {
    let argument = u32::try_from(arg.index()).ok().filter(|index| *index < 6).ok_or_else(|| {
        io::Error::new(io::ErrorKind::InvalidInput, format!("a system call has no argument {}", arg.index()))
    })?;
    let (compare, value) = match arg.op() {
        Operator::ScmpCmpNe => (Compare::NotEqual, arg.value()),
        Operator::ScmpCmpLt => (Compare::Less, arg.value()),
        Operator::ScmpCmpLe => (Compare::AtMost, arg.value()),
        Operator::ScmpCmpEq => (Compare::Equal, arg.value()),
        Operator::ScmpCmpGe => (Compare::AtLeast, arg.value()),
        Operator::ScmpCmpGt => (Compare::Greater, arg.value()),
        Operator::ScmpCmpMaskedEq => (Compare::Masked(arg.value()), arg.value_two().unwrap_or(0)),
    };
    Ok(Condition { argument, compare, value })
}

/// A rule that is to refuse a call by a name no architecture knows does not do what its author wants.
fn warnings(seccomp: &LinuxSeccomp) -> Vec<String> {
    let restricting =
        seccomp.syscalls().iter().flatten().filter(|group| group.action() != Action::ScmpActAllow);
    restricting
        .flat_map(|group| group.names())
        .filter(|name| !names::is_known(name))
        .map(|name| format!("the system call filter names '{name}', which no kernel known here has"))
        .collect()
}

#[cfg(test)]
mod tests {
    use super::{super::filter::run, *};

    fn parse(text: &str) -> io::Result<Filter> {
        from_spec(&serde_json::from_str(text).unwrap())
    }

    fn answer(filter: &Filter, isa: Isa, name: &str, arguments: [u64; 6]) -> u32 {
        run(&filter.program, isa.audit(), isa.numbers()[name], arguments)
    }

    const NONE: [u64; 6] = [0; 6];

    #[test]
    fn actions_and_their_numbers_are_the_kernels() {
        let filter = parse(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","flags":["SECCOMP_FILTER_FLAG_LOG"],"syscalls":[
            {"names":["mkdir","mkdirat"],"action":"SCMP_ACT_ERRNO","errnoRet":13},{"names":["rmdir"],"action":"SCMP_ACT_ERRNO"},
            {"names":["chmod"],"action":"SCMP_ACT_KILL"},{"names":["chown"],"action":"SCMP_ACT_KILL_PROCESS"},
            {"names":["link"],"action":"SCMP_ACT_TRAP"},{"names":["symlink"],"action":"SCMP_ACT_TRACE","errnoRet":7},
            {"names":["unlink","fly"],"action":"SCMP_ACT_LOG"}]}"#,
        )
        .unwrap();
        for (name, expected) in [
            ("read", libc::SECCOMP_RET_ALLOW),
            ("mkdirat", libc::SECCOMP_RET_ERRNO | 13),
            ("rmdir", libc::SECCOMP_RET_ERRNO | 1),
            ("chmod", libc::SECCOMP_RET_KILL_THREAD),
            ("chown", libc::SECCOMP_RET_KILL_PROCESS),
            ("link", libc::SECCOMP_RET_TRAP),
            ("symlink", libc::SECCOMP_RET_TRACE | 7),
            ("unlink", libc::SECCOMP_RET_LOG),
        ] {
            assert_eq!(answer(&filter, Isa::NATIVE, name, NONE), expected, "{name}");
        }
        assert_eq!(filter.flags, libc::SECCOMP_FILTER_FLAG_LOG);
        assert_eq!(filter.warnings.len(), 1, "{:?}", filter.warnings);
    }

    #[test]
    fn conditions_hold_together_and_repeated_ones_each() {
        let filter = parse(
            r#"{"defaultAction":"SCMP_ACT_ERRNO","syscalls":[
            {"names":["dup3"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":1,"op":"SCMP_CMP_EQ"},{"index":1,"value":5,"op":"SCMP_CMP_GT"}]},
            {"names":["personality"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":0,"op":"SCMP_CMP_EQ"},{"index":0,"value":8,"op":"SCMP_CMP_EQ"}]},
            {"names":["clone"],"action":"SCMP_ACT_ALLOW","args":[{"index":0,"value":2114060288,"valueTwo":0,"op":"SCMP_CMP_MASKED_EQ"}]},
            {"names":["clone3"],"action":"SCMP_ACT_ERRNO","errnoRet":38}]}"#,
        )
        .unwrap();
        let allowed = |name: &str, first: u64, second: u64| {
            answer(&filter, Isa::NATIVE, name, [first, second, 0, 0, 0, 0]) == libc::SECCOMP_RET_ALLOW
        };
        assert!(allowed("dup3", 1, 6) && !allowed("dup3", 1, 5) && !allowed("dup3", 2, 6));
        assert!(
            allowed("personality", 0, 0) && allowed("personality", 8, 0) && !allowed("personality", 9, 0)
        );
        assert!(allowed("clone", 17, 0) && !allowed("clone", 0x1000_0000, 0));
        assert_eq!(answer(&filter, Isa::NATIVE, "clone3", NONE), errno(38));
        // Older calls nobody names are refused; newer ones are not there.
        assert_eq!(answer(&filter, Isa::NATIVE, "read", NONE), errno(libc::EPERM));
        assert_eq!(answer(&filter, Isa::NATIVE, "mseal", NONE), errno(libc::ENOSYS));
    }

    #[cfg(target_arch = "x86_64")]
    #[test]
    fn programs_of_other_architectures_run_only_where_asked() {
        let rule = r#""syscalls":[{"names":["read"],"action":"SCMP_ACT_ALLOW"}]"#;
        let native = parse(&format!(r#"{{"defaultAction":"SCMP_ACT_ERRNO",{rule}}}"#)).unwrap();
        let all = parse(&format!(
            r#"{{"defaultAction":"SCMP_ACT_ERRNO","architectures":["SCMP_ARCH_X86_64","SCMP_ARCH_X86","SCMP_ARCH_X32"],{rule}}}"#
        ))
        .unwrap();
        for isa in [Isa::X86, Isa::X32] {
            assert_eq!(answer(&native, isa, "read", NONE), libc::SECCOMP_RET_KILL_PROCESS, "{isa:?}");
            assert_eq!(answer(&all, isa, "read", NONE), libc::SECCOMP_RET_ALLOW, "{isa:?}");
            assert_ne!(answer(&all, isa, "write", NONE), libc::SECCOMP_RET_ALLOW, "{isa:?}");
        }
        assert_eq!(answer(&all, Isa::X86_64, "read", NONE), libc::SECCOMP_RET_ALLOW);
        assert_ne!(answer(&all, Isa::X86_64, "write", NONE), libc::SECCOMP_RET_ALLOW);
    }

    #[test]
    fn what_cannot_be_done_is_refused_by_name() {
        let notify = parse(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_NOTIFY"}]}"#,
        );
        assert!(notify.unwrap_err().to_string().contains("SCMP_ACT_NOTIFY"));
        let seventh = parse(
            r#"{"defaultAction":"SCMP_ACT_ALLOW","syscalls":[{"names":["mount"],"action":"SCMP_ACT_ERRNO","args":[{"index":6,"value":0,"op":"SCMP_CMP_EQ"}]}]}"#,
        );
        assert!(seventh.unwrap_err().to_string().contains("argument 6"));
    }
}
