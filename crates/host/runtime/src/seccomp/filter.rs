//! System call filters as the kernel's small programs: for every architecture a search tree over the numbers of its calls, at whose
//! leaves the arguments are looked at where a rule asks for it.

use std::io;

/// Instructions the kernel takes at most.
const LIMIT: usize = 4096;

/// Where the kernel's `seccomp_data` has the call's number, the architecture, and the arguments of 64 bits each.
const NUMBER: u32 = 0;
const ARCHITECTURE: u32 = 4;
const ARGUMENTS: u32 = 16;

const LOAD: u16 = (libc::BPF_LD | libc::BPF_W | libc::BPF_ABS) as u16;
const RETURN: u16 = (libc::BPF_RET | libc::BPF_K) as u16;
const AND: u16 = (libc::BPF_ALU | libc::BPF_AND | libc::BPF_K) as u16;
const GO: u16 = (libc::BPF_JMP | libc::BPF_JA) as u16;
const EQUAL: u16 = (libc::BPF_JMP | libc::BPF_JEQ | libc::BPF_K) as u16;
const GREATER: u16 = (libc::BPF_JMP | libc::BPF_JGT | libc::BPF_K) as u16;
const AT_LEAST: u16 = (libc::BPF_JMP | libc::BPF_JGE | libc::BPF_K) as u16;

/// A jump to where a rule does not apply, until that place is known.
const FAIL: u8 = u8::MAX;

pub(crate) type Program = Vec<libc::sock_filter>;

/// How an argument is compared with a value.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) enum Compare {
    Equal,
    NotEqual,
    Less,
    AtMost,
    Greater,
    AtLeast,
    /// With only the bits of this mask.
    Masked(u64),
}

/// One condition on an argument.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub(super) struct Condition {
    pub(super) argument: u32,
    pub(super) compare: Compare,
    pub(super) value: u64,
}

/// What happens to a call all of whose conditions hold.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Rule {
    pub(super) conditions: Vec<Condition>,
    pub(super) action: u32,
}

/// The rules of one architecture, by the calls' numbers.
pub(super) struct Architecture {
    /// The kernel's `AUDIT_ARCH`.
    pub(super) audit: u32,
    /// From each number up to the next: the rules in order. The first that applies decides. Begins at 0 and is sorted.
    pub(super) calls: Vec<(u32, Leaf)>,
}

/// The rules of a call, and what happens when none applies.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub(super) struct Leaf {
    pub(super) rules: Vec<Rule>,
    pub(super) otherwise: u32,
}

/// Compiles. Calls of an architecture that is not named end the process.
pub(super) fn compile(architectures: &[Architecture]) -> io::Result<Program> {
    let mut program = vec![plain(LOAD, ARCHITECTURE)];
    for architecture in architectures {
        let mut body = vec![plain(LOAD, NUMBER)];
        body.extend(tree(&merged(&architecture.calls)));
        program.push(jump(EQUAL, architecture.audit, 1, 0));
        program.push(plain(GO, body.len() as u32));
        program.extend(body);
    }
    program.push(plain(RETURN, libc::SECCOMP_RET_KILL_PROCESS));
    if program.len() > LIMIT {
        let error = format!("it comes to {} instructions; the kernel takes {LIMIT}", program.len());
        return Err(io::Error::new(io::ErrorKind::InvalidInput, error));
    }
    Ok(program)
}

/// Neighbours with the same rules are one range.
fn merged(calls: &[(u32, Leaf)]) -> Vec<&(u32, Leaf)> {
    let mut ranges: Vec<&(u32, Leaf)> = Vec::with_capacity(calls.len());
    for call in calls {
        if ranges.last().is_none_or(|last| last.1 != call.1) {
            ranges.push(call);
        }
    }
    ranges
}

fn tree(ranges: &[&(u32, Leaf)]) -> Program {
    match ranges {
        [] => Vec::new(),
        [(_, only)] => leaf(only),
        _ => {
            let (low, high) = ranges.split_at(ranges.len() / 2);
            let (left, right) = (tree(low), tree(high));
            let middle = high.first().map_or(0, |range| range.0);
            let mut program = match u8::try_from(left.len()) {
                Ok(skip) => vec![jump(AT_LEAST, middle, skip, 0)],
                // Conditional jumps reach no farther than 255 instructions.
                Err(_) => vec![jump(AT_LEAST, middle, 0, 1), plain(GO, left.len() as u32)],
            };
            program.extend(left);
            program.extend(right);
            program
        }
    }
}

fn leaf(leaf: &Leaf) -> Program {
    let mut program = Vec::new();
    for rule in &leaf.rules {
        let mut body: Program = rule.conditions.iter().flat_map(condition).collect();
        body.push(plain(RETURN, rule.action));
        let end = body.len();
        for (index, instruction) in body.iter_mut().enumerate() {
            // At most six conditions of eight instructions: never as far as the mark itself.
            let rest = (end - index - 1) as u8;
            for target in [&mut instruction.jt, &mut instruction.jf] {
                if *target == FAIL {
                    *target = rest;
                }
            }
        }
        program.extend(body);
        if rule.conditions.is_empty() {
            return program;
        }
    }
    program.push(plain(RETURN, leaf.otherwise));
    program
}

/// Goes on behind itself when the condition holds. Numbers are compared in halves, the high one first.
fn condition(condition: &Condition) -> Program {
    let (low_at, high_at) = if cfg!(target_endian = "big") { (4, 0) } else { (0, 4) };
    let at = ARGUMENTS + 8 * condition.argument;
    let load = |offset| plain(LOAD, at + offset);
    let (high, low) = ((condition.value >> 32) as u32, condition.value as u32);
    match condition.compare {
        Compare::Equal => {
            vec![load(high_at), jump(EQUAL, high, 0, FAIL), load(low_at), jump(EQUAL, low, 0, FAIL)]
        }
        Compare::NotEqual => {
            vec![load(high_at), jump(EQUAL, high, 0, 2), load(low_at), jump(EQUAL, low, FAIL, 0)]
        }
        Compare::Greater | Compare::AtLeast => {
            let last = if condition.compare == Compare::Greater { GREATER } else { AT_LEAST };
            vec![
                load(high_at),
                jump(GREATER, high, 3, 0),
                jump(EQUAL, high, 0, FAIL),
                load(low_at),
                jump(last, low, 0, FAIL),
            ]
        }
        Compare::Less | Compare::AtMost => {
            let last = if condition.compare == Compare::Less { AT_LEAST } else { GREATER };
            vec![
                load(high_at),
                jump(GREATER, high, FAIL, 0),
                jump(EQUAL, high, 0, 2),
                load(low_at),
                jump(last, low, FAIL, 0),
            ]
        }
        Compare::Masked(mask) => {
            let (mask_high, mask_low) = ((mask >> 32) as u32, mask as u32);
            vec![
                load(high_at),
                plain(AND, mask_high),
                jump(EQUAL, high & mask_high, 0, FAIL),
                load(low_at),
                plain(AND, mask_low),
                jump(EQUAL, low & mask_low, 0, FAIL),
            ]
        }
    }
}

fn plain(code: u16, k: u32) -> libc::sock_filter {
    libc::sock_filter { code, jt: 0, jf: 0, k }
}

fn jump(code: u16, k: u32, jt: u8, jf: u8) -> libc::sock_filter {
    libc::sock_filter { code, jt, jf, k }
}

/// Runs a program as the kernel would: for tests of everything that compiles one.
#[cfg(test)]
pub(super) fn run(program: &[libc::sock_filter], arch: u32, number: u32, arguments: [u64; 6]) -> u32 {
    let mut data = Vec::new();
    data.extend(number.to_ne_bytes());
    data.extend(arch.to_ne_bytes());
    data.extend([0; 8]);
    arguments.iter().for_each(|argument| data.extend(argument.to_ne_bytes()));
    let (mut at, mut value) = (0, 0u32);
    loop {
        let instruction = program[at];
        at += 1;
        let test = match instruction.code {
            LOAD => {
                let from = instruction.k as usize;
                value = u32::from_ne_bytes(data[from..from + 4].try_into().unwrap());
                continue;
            }
            AND => {
                value &= instruction.k;
                continue;
            }
            GO => {
                at += instruction.k as usize;
                continue;
            }
            RETURN => return instruction.k,
            EQUAL => value == instruction.k,
            GREATER => value > instruction.k,
            AT_LEAST => value >= instruction.k,
            code => panic!("unknown instruction {code}"),
        };
        at += usize::from(if test { instruction.jt } else { instruction.jf });
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn arguments_are_compared_in_full() {
        let values = [0u64, 1, 5, 6, 7, 0xffff_ffff, 0x1_0000_0000, 0x1_0000_0006, 0x6_0000_0000, u64::MAX];
        type Holds = fn(u64, u64) -> bool;
        let cases: [(Compare, Holds); 7] = [
            (Compare::Equal, |a, b| a == b),
            (Compare::NotEqual, |a, b| a != b),
            (Compare::Less, |a, b| a < b),
            (Compare::AtMost, |a, b| a <= b),
            (Compare::Greater, |a, b| a > b),
            (Compare::AtLeast, |a, b| a >= b),
            (Compare::Masked(0x1_0000_0005), |a, b| a & 0x1_0000_0005 == b & 0x1_0000_0005),
        ];
        for (compare, holds) in cases {
            for value in values {
                let rule = Rule { conditions: vec![Condition { argument: 2, compare, value }], action: 1 };
                let leaf = Leaf { rules: vec![rule], otherwise: 2 };
                let program = compile(&[Architecture { audit: 9, calls: vec![(0, leaf)] }]).unwrap();
                for given in values {
                    let expected = if holds(given, value) { 1 } else { 2 };
                    let got = run(&program, 9, 3, [0, 0, given, 0, 0, 0]);
                    assert_eq!(got, expected, "{given:#x} {compare:?} {value:#x}");
                }
            }
        }
    }

    #[test]
    fn finds_every_call_in_a_large_tree() {
        // Each with two conditional rules, so that jumps are longer than 255.
        let leaf = |number: u32| {
            let rule = |value, action| Rule {
                conditions: vec![Condition { argument: 0, compare: Compare::Equal, value }],
                action,
            };
            Leaf { rules: vec![rule(1, number * 2), rule(2, number * 2 + 1)], otherwise: 7 }
        };
        let calls: Vec<_> = (0..300).map(|number| (number * 3, leaf(number))).collect();
        let program = compile(&[Architecture { audit: 9, calls }]).unwrap();
        for number in 0..900 {
            for (argument, expected) in [(1, number / 3 * 2), (2, number / 3 * 2 + 1), (3, 7)] {
                assert_eq!(run(&program, 9, number, [argument, 0, 0, 0, 0, 0]), expected);
            }
        }
        assert_eq!(run(&program, 8, 0, [0; 6]), libc::SECCOMP_RET_KILL_PROCESS);
    }

    #[test]
    fn refuses_what_the_kernel_would_not_take() {
        let calls = (0..5000).map(|n| (n, Leaf { rules: Vec::new(), otherwise: n })).collect();
        assert!(compile(&[Architecture { audit: 9, calls }]).is_err());
    }
}
