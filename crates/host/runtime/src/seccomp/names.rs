//! Numbers of system calls by name, for each architecture whose programs this machine can run.

use std::collections::HashMap;

/// Name and numbers, one call a line. Facts of the kernel's own headers.
const TABLE: &str = include_str!("syscalls.tbl");

/// Set in the numbers of x32's calls.
const X32: u32 = 0x4000_0000;

/// An architecture of programs, as filters name them.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Isa {
    X86_64,
    X86,
    X32,
    Aarch64,
}

impl Isa {
    /// The one this program was built for.
    pub(super) const NATIVE: Self = if cfg!(target_arch = "aarch64") { Self::Aarch64 } else { Self::X86_64 };

    /// The kernel's number of it. x32 shares that of x86-64.
    pub(super) fn audit(self) -> u32 {
        match self {
            Self::X86_64 | Self::X32 => 0xc000_003e,
            Self::X86 => 0x4000_0003,
            Self::Aarch64 => 0xc000_00b7,
        }
    }

    fn number(self, columns: [&str; 4]) -> Option<u32> {
        let [x86_64, x86, x32, aarch64] = columns;
        match self {
            Self::X86_64 => x86_64.parse().ok(),
            Self::X86 => x86.parse().ok(),
            Self::X32 => x32.parse::<u32>().ok().map(|number| number | X32),
            Self::Aarch64 => aarch64.parse().ok(),
        }
    }

    /// Every call it has, by name.
    pub(super) fn numbers(self) -> HashMap<&'static str, u32> {
        rows().filter_map(|(name, columns)| Some((name, self.number(columns)?))).collect()
    }
}

/// Whether any architecture has a call of this name.
pub(super) fn is_known(name: &str) -> bool {
    rows().any(|(known, _)| known == name)
}

fn rows() -> impl Iterator<Item = (&'static str, [&'static str; 4])> {
    TABLE.lines().filter(|line| !line.starts_with('#')).filter_map(|line| {
        let mut columns = line.split(' ');
        let name = columns.next()?;
        Some((name, [columns.next()?, columns.next()?, columns.next()?, columns.next()?]))
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn numbers_are_the_kernels() {
        let native = Isa::NATIVE.numbers();
        for (name, number) in [
            ("read", libc::SYS_read),
            ("openat", libc::SYS_openat),
            ("clone3", libc::SYS_clone3),
            ("mseal", libc::SYS_mseal),
            ("personality", libc::SYS_personality),
        ] {
            assert_eq!(native[name], number as u32, "{name}");
        }
        assert_eq!(Isa::X86.numbers()["socketcall"], 102);
        assert_eq!(Isa::X32.numbers()["execve"], X32 + 520);
        assert!(is_known("socketcall") && !is_known("fly"));
    }
}
