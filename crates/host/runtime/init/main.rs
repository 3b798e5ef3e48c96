//! `init`: the first process of a container that asks for one (`docker run --init`). It starts the container's program, passes signals on
//! to it, takes the exit status of orphans, and ends as the program does.
//!
//! As `init -- PROGRAM ARGUMENTS`. It runs inside images of every kind, so that it needs nothing of them: no library, no loader.
//! `build.rs` compiles it alone; a few kilobytes.

#![no_std]
#![no_main]

use core::{arch::asm, panic::PanicInfo, ptr};

#[cfg(target_arch = "x86_64")]
mod number {
    pub const WRITE: usize = 1;
    pub const PROCMASK: usize = 14;
    pub const EXECVE: usize = 59;
    pub const EXIT: usize = 231;
    pub const WAIT4: usize = 61;
    pub const KILL: usize = 62;
    pub const SIGTIMEDWAIT: usize = 128;
    pub const SETPGID: usize = 109;
    pub const IOCTL: usize = 16;
    pub const CLONE: usize = 56;
}

#[cfg(target_arch = "aarch64")]
mod number {
    pub const WRITE: usize = 64;
    pub const PROCMASK: usize = 135;
    pub const EXECVE: usize = 221;
    pub const EXIT: usize = 94;
    pub const WAIT4: usize = 260;
    pub const KILL: usize = 129;
    pub const SIGTIMEDWAIT: usize = 137;
    pub const SETPGID: usize = 154;
    pub const IOCTL: usize = 29;
    pub const CLONE: usize = 220;
}

const SIGCHLD: usize = 17;
const SIGTTIN: i32 = 21;
const SIGTTOU: i32 = 22;
const SIG_BLOCK: usize = 0;
const SIG_SETMASK: usize = 2;
const WNOHANG: usize = 1;
const TIOCSPGRP: usize = 0x5410;
const ENOENT: isize = -2;
const EACCES: isize = -13;
const ENOTDIR: isize = -20;
/// Bytes of a signal mask.
const MASK: usize = 8;
const PATH_MAX: usize = 4096;

/// A system call.
///
/// # Safety
/// The arguments must be what the call expects: pointers valid for what it reads and writes.
#[cfg(target_arch = "x86_64")]
unsafe fn call(number: usize, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel changes rcx and r11 only, and memory as the caller vouches for.
    unsafe {
        asm!("syscall", inlateout("rax") number as isize => result, in("rdi") a, in("rsi") b, in("rdx") c, in("r10") d,
            in("r8") e, lateout("rcx") _, lateout("r11") _, options(nostack));
    }
    result
}

/// A system call.
///
/// # Safety
/// The arguments must be what the call expects: pointers valid for what it reads and writes.
#[cfg(target_arch = "aarch64")]
unsafe fn call(number: usize, a: usize, b: usize, c: usize, d: usize, e: usize) -> isize {
    let result: isize;
    // SAFETY: the kernel changes x0 only, and memory as the caller vouches for.
    unsafe {
        asm!("svc 0", in("x8") number, inlateout("x0") a => result, in("x1") b, in("x2") c, in("x3") d, in("x4") e,
            options(nostack));
    }
    result
}

// The stack as the kernel sets it up is the only argument.
#[cfg(target_arch = "x86_64")]
core::arch::global_asm!(".globl _start", "_start:", "mov rdi, rsp", "and rsp, -16", "call {run}", "ud2", run = sym run);
#[cfg(target_arch = "aarch64")]
core::arch::global_asm!(".globl _start", "_start:", "mov x0, sp", "bl {run}", "brk 0", run = sym run);

type Text = *const u8;

/// # Safety
/// `stack` is where the kernel put the number of arguments, these, and the environment, each list with a null at its end.
unsafe extern "C" fn run(stack: *const usize) -> ! {
    // SAFETY: as the kernel lays them out; the index stays within the lists, whose ends are looked for.
    unsafe {
        let count = *stack;
        let arguments = stack.add(1).cast::<Text>();
        let environment = arguments.add(count + 1);
        let mut program = arguments.add(if count > 0 { 1 } else { 0 });
        if !(*program).is_null() && is_dashes(*program) {
            program = program.add(1);
        }
        if (*program).is_null() {
            end(127, b"init: no program is given\n");
        }
        let all: u64 = !0;
        let mut before: u64 = 0;
        call(number::PROCMASK, SIG_BLOCK, &raw const all as usize, &raw mut before as usize, MASK, 0);
        let child = call(number::CLONE, SIGCHLD, 0, 0, 0, 0);
        if child == 0 {
            become_program(program, environment, &before);
        }
        if child < 0 {
            end(1, b"init: cannot start a process\n");
        }
        look_after(child, &all)
    }
}

/// The child's part: a process group of its own that has the terminal, if there is one, then the program.
///
/// # Safety
/// `program` and `environment` are lists of texts that end with a null.
unsafe fn become_program(program: *const Text, environment: *const Text, mask: &u64) -> ! {
    // SAFETY: calls with values, or with the caller's lists; the group lives in this frame.
    unsafe {
        call(number::SETPGID, 0, 0, 0, 0, 0);
        // Its own number is what the kernel takes for 0; all signals are blocked still, so that this does not stop it.
        let group: i32 = own_group();
        call(number::IOCTL, 0, TIOCSPGRP, &raw const group as usize, 0, 0);
        call(number::PROCMASK, SIG_SETMASK, ptr::from_ref(mask) as usize, 0, MASK, 0);
        let error = execute(program, environment);
        let mut length = 0;
        // Read so, or it becomes a call of the C library's, which is not there.
        while ptr::read_volatile((*program).add(length)) != 0 {
            length += 1;
        }
        call(number::WRITE, 2, *program as usize, length, 0, 0);
        match error {
            ENOENT | ENOTDIR => end(127, b": the program is not there\n"),
            _ => end(126, b": the program cannot be started\n"),
        }
    }
}

fn own_group() -> i32 {
    #[cfg(target_arch = "x86_64")]
    const GETPID: usize = 39;
    #[cfg(target_arch = "aarch64")]
    const GETPID: usize = 172;
    // SAFETY: it takes nothing.
    (unsafe { call(GETPID, 0, 0, 0, 0, 0) }) as i32
}

/// Runs the program, looked for in PATH unless it is a path. Returns only when it cannot.
///
/// # Safety
/// `program` and `environment` are lists of texts that end with a null.
unsafe fn execute(program: *const Text, environment: *const Text) -> isize {
    // SAFETY: texts end with a zero; what is written to `path` is bounded by its length.
    unsafe {
        let name = *program;
        let length = length_of(name);
        let is_path = (0..length).any(|at| *name.add(at) == b'/');
        let folders = if is_path { ptr::null() } else { value_of(environment, b"PATH=") };
        if folders.is_null() {
            return call(number::EXECVE, name as usize, program as usize, environment as usize, 0, 0);
        }
        let (mut folder, mut error, mut path) = (folders, ENOENT, [0_u8; PATH_MAX]);
        loop {
            let mut size = 0;
            while *folder.add(size) != 0 && *folder.add(size) != b':' {
                size += 1;
            }
            if size + length + 2 <= PATH_MAX {
                let mut at = 0;
                for index in 0..size {
                    path[at] = *folder.add(index);
                    at += 1;
                }
                if size > 0 {
                    path[at] = b'/';
                    at += 1;
                }
                for index in 0..=length {
                    path[at] = *name.add(index);
                    at += 1;
                }
                let why = call(
                    number::EXECVE,
                    path.as_ptr() as usize,
                    program as usize,
                    environment as usize,
                    0,
                    0,
                );
                match why {
                    ENOENT | ENOTDIR => {}
                    EACCES => error = EACCES,
                    other => return other,
                }
            }
            if *folder.add(size) == 0 {
                return error;
            }
            folder = folder.add(size + 1);
        }
    }
}

/// Passes signals on until the child has ended, then ends as it did.
fn look_after(child: isize, all: &u64) -> ! {
    loop {
        // SAFETY: the mask is there; what the signal brings is not asked for.
        let signal = unsafe { call(number::SIGTIMEDWAIT, ptr::from_ref(all) as usize, 0, 0, MASK, 0) };
        match signal {
            17 => reap(child),
            signal if signal <= 0 || signal == SIGTTIN as isize || signal == SIGTTOU as isize => {}
            // SAFETY: numbers only; it may have gone.
            signal => unsafe {
                call(number::KILL, child as usize, signal as usize, 0, 0, 0);
            },
        }
    }
}

/// Takes the exit status of all that have ended.
fn reap(child: isize) {
    loop {
        let mut status: i32 = 0;
        // SAFETY: the status lives in this frame.
        let ended = unsafe { call(number::WAIT4, usize::MAX, &raw mut status as usize, WNOHANG, 0, 0) };
        if ended <= 0 {
            return;
        }
        if ended == child {
            let signal = status & 0x7f;
            end(if signal == 0 { (status >> 8) & 0xff } else { 128 + signal }, b"");
        }
    }
}

/// # Safety
/// `text` ends with a zero.
unsafe fn length_of(text: Text) -> usize {
    let mut length = 0;
    // SAFETY: as the caller vouches for; volatile, or it would become a call of C's strlen.
    while unsafe { ptr::read_volatile(text.add(length)) } != 0 {
        length += 1;
    }
    length
}

/// # Safety
/// `text` ends with a zero.
unsafe fn is_dashes(text: Text) -> bool {
    // SAFETY: read one after the other, not beyond the zero.
    unsafe { *text == b'-' && *text.add(1) == b'-' && *text.add(2) == 0 }
}

/// What stands behind `name` in the environment; null when nothing does.
///
/// # Safety
/// `environment` is a list of texts that ends with a null.
unsafe fn value_of(environment: *const Text, name: &[u8]) -> Text {
    // SAFETY: as the caller vouches for; a comparison ends at the zero of a shorter text.
    unsafe {
        let mut at = environment;
        while !(*at).is_null() {
            let mut same = 0;
            while same < name.len() && *(*at).add(same) == name[same] {
                same += 1;
            }
            if same == name.len() {
                return (*at).add(same);
            }
            at = at.add(1);
        }
        ptr::null()
    }
}

fn end(code: i32, why: &[u8]) -> ! {
    // SAFETY: bytes that are there, and a number; the last call does not return.
    unsafe {
        call(number::WRITE, 2, why.as_ptr() as usize, why.len(), 0, 0);
        loop {
            call(number::EXIT, code as usize, 0, 0, 0, 0);
        }
    }
}

#[panic_handler]
fn panicked(_: &PanicInfo<'_>) -> ! {
    end(126, b"init: it has a mistake\n")
}

/// The compiled core library names it; nothing here unwinds.
#[unsafe(no_mangle)]
extern "C" fn rust_eh_personality() {}

/// The compiler may ask for it to fill memory.
///
/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memset(to: *mut u8, byte: i32, length: usize) -> *mut u8 {
    let mut at = 0;
    while at < length {
        // SAFETY: within what the caller vouches for; volatile, or it would become a call of itself.
        unsafe { ptr::write_volatile(to.add(at), byte as u8) };
        at += 1;
    }
    to
}

/// The compiler may ask for it to copy memory.
///
/// # Safety
/// As C's.
#[unsafe(no_mangle)]
unsafe extern "C" fn memcpy(to: *mut u8, from: *const u8, length: usize) -> *mut u8 {
    let mut at = 0;
    while at < length {
        // SAFETY: as above.
        unsafe { ptr::write_volatile(to.add(at), ptr::read(from.add(at))) };
        at += 1;
    }
    to
}
