//! The first process of a pod whose containers share their process ids: it waits, and lets the kernel take the exit status of orphans.
//!
//! Its root has nothing but itself, since whoever shares its process ids may look into it.

/// Where it lies in its root.
pub(crate) const PATH: &str = "/pause";

#[cfg(target_arch = "x86_64")]
const MACHINE: u16 = 62;
/// `rt_sigaction(SIGCHLD, {SIG_IGN})`, then `pause()` for ever.
#[cfg(target_arch = "x86_64")]
const CODE: &[u8] = &[
    0x31, 0xc0, // xor eax, eax
    0x50, 0x50, 0x50, // push rax, three times: mask, restorer, flags
    0x6a, 0x01, // push 1: SIG_IGN
    0xbf, 17, 0, 0, 0, // mov edi, SIGCHLD
    0x48, 0x89, 0xe6, // mov rsi, rsp
    0x31, 0xd2, // xor edx, edx
    0x41, 0xba, 8, 0, 0, 0, // mov r10d, 8
    0xb8, 13, 0, 0, 0, // mov eax, rt_sigaction
    0x0f, 0x05, // syscall
    0xb8, 34, 0, 0, 0, // mov eax, pause
    0x0f, 0x05, // syscall
    0xeb, 0xf7, // jmp to mov eax, pause
];

#[cfg(target_arch = "aarch64")]
const MACHINE: u16 = 183;
/// `rt_sigaction(SIGCHLD, {SIG_IGN})`, then `ppoll(NULL, 0, NULL, NULL)` for ever.
#[cfg(target_arch = "aarch64")]
const CODE: &[u8] = &[
    0xff, 0x83, 0x00, 0xd1, // sub sp, sp, 32
    0x20, 0x00, 0x80, 0xd2, // mov x0, SIG_IGN
    0xe0, 0x03, 0x00, 0xf9, // str x0, [sp]
    0xff, 0x07, 0x00, 0xf9, // str xzr, [sp, 8]
    0xff, 0x0b, 0x00, 0xf9, // str xzr, [sp, 16]
    0xff, 0x0f, 0x00, 0xf9, // str xzr, [sp, 24]
    0x20, 0x02, 0x80, 0xd2, // mov x0, SIGCHLD
    0xe1, 0x03, 0x00, 0x91, // mov x1, sp
    0x02, 0x00, 0x80, 0xd2, // mov x2, 0
    0x03, 0x01, 0x80, 0xd2, // mov x3, 8
    0xc8, 0x10, 0x80, 0xd2, // mov x8, rt_sigaction
    0x01, 0x00, 0x00, 0xd4, // svc 0
    0x00, 0x00, 0x80, 0xd2, // mov x0, 0
    0x01, 0x00, 0x80, 0xd2, // mov x1, 0
    0x02, 0x00, 0x80, 0xd2, // mov x2, 0
    0x03, 0x00, 0x80, 0xd2, // mov x3, 0
    0x28, 0x09, 0x80, 0xd2, // mov x8, ppoll
    0x01, 0x00, 0x00, 0xd4, // svc 0
    0xfa, 0xff, 0xff, 0x17, // b to mov x0, 0
];

/// Where the kernel puts it.
const BASE: u64 = 0x40_0000;
const HEADERS: u64 = 64 + 56;

/// The program: an executable of one segment that needs no library.
pub(crate) fn program() -> Vec<u8> {
    let mut file = b"\x7fELF\x02\x01\x01".to_vec();
    file.resize(16, 0);
    let half = |file: &mut Vec<u8>, values: &[u16]| {
        values.iter().for_each(|value| file.extend_from_slice(&value.to_le_bytes()));
    };
    let word = |file: &mut Vec<u8>, values: &[u32]| {
        values.iter().for_each(|value| file.extend_from_slice(&value.to_le_bytes()));
    };
    let double = |file: &mut Vec<u8>, values: &[u64]| {
        values.iter().for_each(|value| file.extend_from_slice(&value.to_le_bytes()));
    };
    let length = HEADERS + CODE.len() as u64;
    // Executable, machine; version; entry, program headers, section headers; flags; sizes and counts.
    half(&mut file, &[2, MACHINE]);
    word(&mut file, &[1]);
    double(&mut file, &[BASE + HEADERS, 64, 0]);
    word(&mut file, &[0]);
    half(&mut file, &[64, 56, 1, 64, 0, 0]);
    // To be loaded, readable and executable; offset, addresses, sizes, alignment.
    word(&mut file, &[1, 5]);
    double(&mut file, &[0, BASE, BASE, length, length, 0x1_0000]);
    file.extend_from_slice(CODE);
    file
}

#[cfg(test)]
mod tests {
    use std::{os::unix::fs::PermissionsExt as _, process::Command};

    use super::*;

    #[test]
    fn it_runs_and_waits() {
        let folder = tempfile::tempdir().unwrap();
        let (draft, path) = (folder.path().join("draft"), folder.path().join("pause"));
        std::fs::write(&draft, program()).unwrap();
        // Written by a process of its own: a child that another test starts just then would still have it open.
        assert!(Command::new("cp").args([&draft, &path]).status().unwrap().success());
        std::fs::set_permissions(&path, std::fs::Permissions::from_mode(0o755)).unwrap();
        let mut child = Command::new(&path).spawn().unwrap();
        let ignored = format!("/proc/{}/status", child.id());
        let deadline = std::time::Instant::now() + std::time::Duration::from_secs(30);
        // Bit 16 is SIGCHLD.
        let ignores = || {
            let status = std::fs::read_to_string(&ignored).unwrap();
            let line = status.lines().find_map(|line| line.strip_prefix("SigIgn:")).unwrap_or("0").trim();
            u64::from_str_radix(line, 16).unwrap() & 1 << 16 != 0
        };
        while !ignores() {
            assert_eq!(child.try_wait().unwrap(), None, "it ended");
            assert!(std::time::Instant::now() < deadline, "it does not ignore SIGCHLD");
        }
        child.kill().unwrap();
        child.wait().unwrap();
    }
}
