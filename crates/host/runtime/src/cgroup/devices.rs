//! Which devices a container may use: the rules of both versions of the kernel's interface.

use std::{os::fd::AsFd, path::Path};

use oci_spec::runtime::{LinuxDeviceCgroup, LinuxDeviceType, LinuxResources};
use rustix::fs::{Mode, OFlags};

use crate::{
    error::{Context, Result},
    sys,
};

const MAKE: u32 = 1;
const READ: u32 = 2;
const WRITE: u32 = 4;
const ALL: u32 = MAKE | READ | WRITE;

/// Block or character devices, by the kernel's numbers.
const BLOCK: u32 = 1;
const CHARACTER: u32 = 2;

/// One rule. What is absent fits everything.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Rule {
    pub(super) allow: bool,
    kind: Option<u32>,
    major: Option<u32>,
    minor: Option<u32>,
    access: u32,
}

const fn allow(kind: u32, major: Option<u32>, minor: Option<u32>, access: u32) -> Rule {
    Rule { allow: true, kind: Some(kind), major, minor, access }
}

/// What every container may use: to make any node, and to open the harmless ones.
const STANDARD: [Rule; 10] = [
    allow(CHARACTER, None, None, MAKE),
    allow(BLOCK, None, None, MAKE),
    allow(CHARACTER, Some(1), Some(3), ALL),
    allow(CHARACTER, Some(1), Some(5), ALL),
    allow(CHARACTER, Some(1), Some(7), ALL),
    allow(CHARACTER, Some(1), Some(8), ALL),
    allow(CHARACTER, Some(1), Some(9), ALL),
    allow(CHARACTER, Some(5), Some(0), ALL),
    allow(CHARACTER, Some(5), Some(2), ALL),
    allow(CHARACTER, Some(136), None, ALL),
];

/// Whether what no rule is about is allowed, and the rules, of which the last that fits decides.
#[derive(Debug, PartialEq, Eq)]
pub(super) struct Rules {
    pub(super) everything: bool,
    pub(super) rules: Vec<Rule>,
}

impl Rules {
    /// The standard ones and then those of `resources`, in order.
    pub(super) fn of(resources: &LinuxResources) -> Self {
        let mut all = Self { everything: false, rules: STANDARD.to_vec() };
        for given in resources.devices().iter().flatten() {
            let rule = Rule::of(given);
            if rule.is_about_all() {
                all.everything = rule.allow;
                all.rules = if rule.allow { Vec::new() } else { STANDARD.to_vec() };
            } else {
                all.rules.push(rule);
            }
        }
        all
    }
}

impl Rule {
    fn of(given: &LinuxDeviceCgroup) -> Self {
        let number = |number: Option<i64>| number.and_then(|number| u32::try_from(number).ok());
        let access = given.access().as_deref().filter(|access| !access.is_empty()).unwrap_or("rwm");
        Self {
            allow: given.allow(),
            kind: match given.typ() {
                Some(LinuxDeviceType::B) => Some(BLOCK),
                Some(LinuxDeviceType::C | LinuxDeviceType::U) => Some(CHARACTER),
                _ => None,
            },
            major: number(given.major()),
            minor: number(given.minor()),
            access: [('m', MAKE), ('r', READ), ('w', WRITE)]
                .into_iter()
                .filter(|(letter, _)| access.contains(*letter))
                .fold(0, |all, (_, bit)| all | bit),
        }
    }

    fn is_about_all(&self) -> bool {
        self.kind.is_none() && self.major.is_none() && self.minor.is_none() && self.access == ALL
    }

    /// As version 1 reads it. It knows no rule for both kinds but the one about everything.
    pub(super) fn texts(&self) -> Vec<String> {
        let number = |number: Option<u32>| number.map_or_else(|| "*".to_owned(), |number| number.to_string());
        let access: String = [('r', READ), ('w', WRITE), ('m', MAKE)]
            .into_iter()
            .filter(|(_, bit)| self.access & bit != 0)
            .map(|(letter, _)| letter)
            .collect();
        let kinds: &[u32] = match self.kind {
            Some(BLOCK) => &[BLOCK],
            Some(_) => &[CHARACTER],
            None => &[BLOCK, CHARACTER],
        };
        kinds
            .iter()
            .map(|kind| {
                let letter = if *kind == BLOCK { 'b' } else { 'c' };
                format!("{letter} {}:{} {access}", number(self.major), number(self.minor))
            })
            .collect()
    }
}

/// Guards the devices of a cgroup of version 2 by a program the kernel asks.
pub(super) fn guard(folder: &Path, rules: &Rules) -> Result<()> {
    if rules.everything && rules.rules.is_empty() {
        return Ok(());
    }
    let flags = OFlags::RDONLY | OFlags::DIRECTORY | OFlags::CLOEXEC;
    let cgroup = rustix::fs::open(folder, flags, Mode::empty()).step("open the cgroup", folder.display())?;
    sys::guard_devices(cgroup.as_fd(), &program(rules)).step("guard the devices of", folder.display())
}

/// One instruction of the kernel's extended filters.
fn instruction(code: u8, target: u8, source: u8, offset: i16, value: i32) -> u64 {
    let [low, high] = offset.to_le_bytes();
    let [a, b, c, d] = value.to_le_bytes();
    u64::from_ne_bytes([code, target | source << 4, low, high, a, b, c, d])
}

/// The program: asked with kind and access, major and minor number. The rules are tried from the last to the first.
fn program(rules: &Rules) -> Vec<u64> {
    const LOAD: u8 = 0x61;
    const MOVE: u8 = 0xb4;
    const COPY: u8 = 0xbc;
    const AND: u8 = 0x54;
    const SHIFT: u8 = 0x74;
    const UNEQUAL: u8 = 0x56;
    const UNEQUAL_TO: u8 = 0x5e;
    const EQUAL: u8 = 0x16;
    const EXIT: u8 = 0x95;
    // 2: kind, 3: access, 4: major, 5: minor.
    let mut program = vec![
        instruction(LOAD, 2, 1, 0, 0),
        instruction(COPY, 3, 2, 0, 0),
        instruction(AND, 2, 0, 0, 0xffff),
        instruction(SHIFT, 3, 0, 0, 16),
        instruction(LOAD, 4, 1, 4, 0),
        instruction(LOAD, 5, 1, 8, 0),
    ];
    for rule in rules.rules.iter().rev() {
        // Code, registers and value; jumps lead behind the rule.
        let mut tests = Vec::new();
        let known = [(2, rule.kind), (4, rule.major), (5, rule.minor)];
        known.iter().for_each(|(register, value)| {
            tests.extend(value.map(|value| (UNEQUAL, *register, 0, value as i32)));
        });
        if rule.access != ALL {
            tests.push((COPY, 6, 3, 0));
            tests.push((AND, 6, 0, rule.access as i32));
            // Allowed is what is wholly named; refused what is named in part.
            tests.push(if rule.allow { (UNEQUAL_TO, 6, 3, 0) } else { (EQUAL, 6, 0, 0) });
        }
        let length = tests.len() + 2;
        for (index, (code, target, source, value)) in tests.into_iter().enumerate() {
            let jumps = matches!(code, UNEQUAL | UNEQUAL_TO | EQUAL);
            let offset = if jumps { (length - index - 1) as i16 } else { 0 };
            program.push(instruction(code, target, source, offset, value));
        }
        program.push(instruction(MOVE, 0, 0, 0, i32::from(rule.allow)));
        program.push(instruction(EXIT, 0, 0, 0, 0));
    }
    program.push(instruction(MOVE, 0, 0, 0, i32::from(rules.everything)));
    program.push(instruction(EXIT, 0, 0, 0, 0));
    program
}

#[cfg(test)]
mod tests {
    use super::*;

    fn rules(text: &str) -> Rules {
        Rules::of(&serde_json::from_str(text).unwrap())
    }

    #[test]
    fn the_last_word_about_everything_counts() {
        let all = rules(
            r#"{"devices":[{"allow":false,"access":"rwm"},{"allow":true,"type":"c","major":10,"minor":229,"access":"rw"}]}"#,
        );
        assert!(!all.everything);
        assert_eq!(all.rules.last().unwrap().texts(), ["c 10:229 rw"]);
        assert_eq!(all.rules.len(), STANDARD.len() + 1);
        let open = rules(r#"{"devices":[{"allow":false},{"allow":true},{"allow":false,"major":8}]}"#);
        assert!(open.everything);
        assert_eq!(open.rules.iter().flat_map(Rule::texts).collect::<Vec<_>>(), ["b 8:* rwm", "c 8:* rwm"]);
    }

    /// On version 2, or beside version 1 where its hierarchy is mounted.
    #[test]
    fn the_kernel_asks_the_program() {
        let root = ["/sys/fs/cgroup/unified", "/sys/fs/cgroup"].map(Path::new);
        let Some(root) = root.into_iter().find(|root| root.join("cgroup.controllers").exists()) else {
            return;
        };
        let folder = root.join(format!("wharf-devices-{}", std::process::id()));
        std::fs::create_dir(&folder).unwrap();
        let all = rules(
            r#"{"devices":[{"allow":true,"type":"c","major":1,"minor":11,"access":"r"},{"allow":false,"type":"c","major":1,"minor":5,"access":"w"}]}"#,
        );
        let script = format!(
            "echo 0 > {0}/cgroup.procs || exit 9; \
             head -c1 /dev/null; r() {{ (exec 3<$1) 2>/dev/null && echo $1 r; }}; w() {{ (exec 3>$1) 2>/dev/null && echo $1 w; }}; \
             r /dev/null; w /dev/null; r /dev/zero; w /dev/zero; r /dev/kmsg; w /dev/kmsg; r /dev/mem; r /dev/vda; true",
            folder.display()
        );
        let guarded = guard(&folder, &all);
        let output = std::process::Command::new("/bin/sh").args(["-c", &script]).output().unwrap();
        std::fs::remove_dir(&folder).unwrap();
        guarded.unwrap();
        let said = String::from_utf8_lossy(&output.stdout);
        assert_eq!(said, "/dev/null r\n/dev/null w\n/dev/zero r\n/dev/kmsg r\n", "{output:?}");
    }
}
