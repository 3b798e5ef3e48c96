//! The system calls rustix has no safe form of. All `unsafe` of the room that is not a descriptor hand-over lives here.

use std::{
    ffi::{CStr, CString},
    io,
    os::fd::{AsRawFd, BorrowedFd, FromRawFd, OwnedFd},
    ptr,
};

use rustix::process::Pid;
use wharf_base::is_of_machine;

/// `libc` has it in a type too small for it.
const CLONE_INTO_CGROUP: u64 = 0x2_0000_0000;

/// Which side of [`clone`] is running.
pub(crate) enum Cloned {
    /// The new process.
    Child,
    /// The caller, with the child's id and a descriptor that names it for good.
    Parent(Pid, OwnedFd),
}

/// `clone3` as a fork with new namespaces (or CLONE_PARENT), a pidfd, and on cgroup v2 the child born in `cgroup`.
///
/// # Safety
/// The calling process must have a single thread: the child goes on with a copy of this one's memory and may take locks.
pub(crate) unsafe fn clone(namespaces: i32, cgroup: Option<BorrowedFd<'_>>) -> io::Result<Cloned> {
    let mut pidfd: i32 = -1;
    // SAFETY: clone_args is plain data, for which zeroes are valid.
    let mut args: libc::clone_args = unsafe { std::mem::zeroed() };
    args.flags = (namespaces | libc::CLONE_PIDFD) as u64;
    args.pidfd = ptr::from_mut(&mut pidfd) as u64;
    // A child of the caller's parent takes over what the caller itself sends.
    args.exit_signal = if namespaces & libc::CLONE_PARENT == 0 { libc::SIGCHLD as u64 } else { 0 };
    if let Some(cgroup) = cgroup {
        args.flags |= CLONE_INTO_CGROUP;
        args.cgroup = cgroup.as_raw_fd() as u64;
    }
    // SAFETY: `args` is a valid clone_args of the size given and outlives the call; no stack is passed, so that the child
    // continues on a copy of this one as after fork.
    let pid = unsafe { libc::syscall(libc::SYS_clone3, ptr::from_ref(&args), size_of::<libc::clone_args>()) };
    match pid {
        0 => Ok(Cloned::Child),
        // SAFETY: the kernel has just stored an open descriptor that nobody else owns.
        pid if pid > 0 => match Pid::from_raw(pid as i32) {
            Some(pid) => Ok(Cloned::Parent(pid, unsafe { OwnedFd::from_raw_fd(pidfd) })),
            None => Err(io::Error::from_raw_os_error(libc::ESRCH)),
        },
        _ => Err(io::Error::last_os_error()),
    }
}

/// `mount_setattr` on what `fd` names, and on all below it when `recursive`.
pub(crate) fn mount_setattr(
    fd: BorrowedFd<'_>,
    recursive: bool,
    set: u64,
    clear: u64,
    propagation: u64,
) -> io::Result<()> {
    set_attributes(
        fd,
        recursive,
        libc::mount_attr { attr_set: set, attr_clr: clear, propagation, userns_fd: 0 },
    )
}

/// Shows the owners of files on the detached mount `fd`, and on all below it when `recursive`, as `users` maps them.
pub(crate) fn mount_map_users(fd: BorrowedFd<'_>, recursive: bool, users: BorrowedFd<'_>) -> io::Result<()> {
    let userns_fd = users.as_raw_fd() as u64;
    let attr = libc::mount_attr { attr_set: libc::MOUNT_ATTR_IDMAP, attr_clr: 0, propagation: 0, userns_fd };
    set_attributes(fd, recursive, attr)
}

fn set_attributes(fd: BorrowedFd<'_>, recursive: bool, attr: libc::mount_attr) -> io::Result<()> {
    let flags = libc::AT_EMPTY_PATH | if recursive { libc::AT_RECURSIVE } else { 0 };
    // SAFETY: the path is a NUL-terminated string and `attr` a mount_attr of the size given; both outlive the call.
    check(unsafe {
        libc::syscall(
            libc::SYS_mount_setattr,
            fd.as_raw_fd(),
            c"".as_ptr(),
            flags,
            ptr::from_ref(&attr),
            size_of::<libc::mount_attr>(),
        )
    })
}

/// Leaves the namespaces of `flags` for fresh ones.
pub(crate) fn unshare(flags: i32) -> io::Result<()> {
    // SAFETY: takes plain flags. CLONE_FILES, which could break descriptor ownership, is never among them.
    check(i64::from(unsafe { libc::unshare(flags) }))
}

/// Enters the namespaces of `flags` that `fd` (a namespace file or a pidfd) names.
pub(crate) fn setns(fd: BorrowedFd<'_>, flags: i32) -> io::Result<()> {
    // SAFETY: takes an open descriptor and plain flags.
    check(i64::from(unsafe { libc::setns(fd.as_raw_fd(), flags) }))
}

/// Whether this process is in a user namespace that is not the machine's: there it can make no device, and an overlay keeps its notes
/// where every owner of a file may (`userxattr`).
pub fn in_user_namespace() -> bool {
    static INSIDE: std::sync::OnceLock<bool> = std::sync::OnceLock::new();
    // Kernels without user namespaces have no such file.
    let read = || std::fs::read_to_string("/proc/self/uid_map").is_ok_and(|map| !is_of_machine(&map));
    *INSIDE.get_or_init(read)
}

/// Takes the pages of this program that are as in its file out of this process: they count as its memory as long as nobody else runs
/// the program. Those it runs on come back by themselves, from the page cache.
pub(crate) fn give_back_program() {
    unsafe extern "C" fn each(info: *mut libc::dl_phdr_info, _size: usize, _data: *mut libc::c_void) -> i32 {
        // SAFETY: the linker passes a description that is valid during the call.
        let (start, headers) = unsafe {
            let info = &*info;
            (info.dlpi_addr, std::slice::from_raw_parts(info.dlpi_phdr, info.dlpi_phnum.into()))
        };
        let page = rustix::param::page_size() as u64;
        for header in headers.iter().filter(|h| h.p_type == libc::PT_LOAD && h.p_flags & libc::PF_W == 0) {
            let begin = (start + header.p_vaddr).next_multiple_of(page);
            let end = (start + header.p_vaddr + header.p_memsz) / page * page;
            if begin < end {
                // SAFETY: the whole pages of a segment that is never written: what is read there stays the same.
                unsafe {
                    libc::madvise(begin as *mut libc::c_void, (end - begin) as usize, libc::MADV_DONTNEED)
                };
            }
        }
        // The first is the program; the others are libraries, which are everybody's.
        1
    }
    // SAFETY: the function needs no data.
    unsafe { libc::dl_iterate_phdr(Some(each), ptr::null_mut()) };
}

/// Marks every descriptor from `first` on to be closed at `execve`.
pub(crate) fn close_on_exec_from(first: u32) -> io::Result<()> {
    // SAFETY: only sets a flag on descriptors.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, libc::CLOSE_RANGE_CLOEXEC) })
}

/// The kind of namespace an open namespace file names, as a flag of `clone`.
pub(crate) fn namespace_kind(fd: BorrowedFd<'_>) -> io::Result<i32> {
    const NS_GET_NSTYPE: libc::c_ulong = 0xb703;
    // SAFETY: the call takes no argument.
    let kind = unsafe { libc::ioctl(fd.as_raw_fd(), NS_GET_NSTYPE as _) };
    check(i64::from(kind)).map(|()| kind)
}

/// Installs a compiled filter for good. Gives the descriptor the kernel asks through, when `flags` wants one.
pub(crate) fn load_seccomp(
    program: &[libc::sock_filter],
    flags: libc::c_ulong,
) -> io::Result<Option<OwnedFd>> {
    let program = libc::sock_fprog {
        len: u16::try_from(program.len()).map_err(|_| io::Error::from_raw_os_error(libc::E2BIG))?,
        filter: program.as_ptr().cast_mut(),
    };
    // SAFETY: `program` points to `len` instructions that outlive the call; the kernel copies them.
    let fd = unsafe {
        libc::syscall(libc::SYS_seccomp, libc::SECCOMP_SET_MODE_FILTER, flags, ptr::from_ref(&program))
    };
    check(fd)?;
    let listens = flags & libc::SECCOMP_FILTER_FLAG_NEW_LISTENER != 0;
    // SAFETY: with that flag the result is a new descriptor nobody else owns.
    Ok(listens.then(|| unsafe { OwnedFd::from_raw_fd(fd as i32) }))
}

/// Replaces the process. Returns only an error.
pub(crate) fn execve(program: &CStr, argv: &[CString], env: &[CString]) -> io::Error {
    let pointers = |list: &[CString]| -> Vec<*const libc::c_char> {
        list.iter().map(|s| s.as_ptr()).chain([ptr::null()]).collect()
    };
    let (argv, env) = (pointers(argv), pointers(env));
    // SAFETY: both lists end with a null pointer and their strings outlive the call.
    unsafe { libc::execve(program.as_ptr(), argv.as_ptr(), env.as_ptr()) };
    io::Error::last_os_error()
}

/// Ends this process at once, without running anything else of it.
pub(crate) fn exit_now(code: i32) -> ! {
    // SAFETY: always sound; skipping exit handlers is what a forked child must do.
    unsafe { libc::_exit(code) }
}

/// Makes the terminal on descriptor `fd` the controlling one.
pub(crate) fn set_controlling_terminal(fd: BorrowedFd<'_>) -> io::Result<()> {
    // SAFETY: TIOCSCTTY takes an integer.
    check(i64::from(unsafe { libc::ioctl(fd.as_raw_fd(), libc::TIOCSCTTY, 0) }))
}

/// Blocks all signals, and gives a descriptor that becomes readable when a child ends.
pub(crate) fn child_signal_fd() -> io::Result<OwnedFd> {
    // SAFETY: the sets are initialised by sigfillset and sigemptyset before they are read.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigfillset(&mut set);
        check(i64::from(libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut())))?;
        libc::sigemptyset(&mut set);
        libc::sigaddset(&mut set, libc::SIGCHLD);
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(i64::from(fd))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Blocks `signals`, and gives a descriptor to read them from.
pub(crate) fn signal_fd(signals: &[i32]) -> io::Result<OwnedFd> {
    // SAFETY: the set is initialised by sigemptyset before it is read; the descriptor is new and has no other owner.
    unsafe {
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        for signal in signals {
            libc::sigaddset(&mut set, *signal);
        }
        check(i64::from(libc::sigprocmask(libc::SIG_BLOCK, &set, ptr::null_mut())))?;
        let fd = libc::signalfd(-1, &set, libc::SFD_CLOEXEC | libc::SFD_NONBLOCK);
        check(i64::from(fd))?;
        Ok(OwnedFd::from_raw_fd(fd))
    }
}

/// Gives a new program the signal state a program expects: nothing blocked, nothing ignored.
pub(crate) fn reset_signals() {
    // The kernel's own structure: handler, flags, restorer, mask. All zero is the default action. The C library would refuse the two
    // signals it keeps for itself, which its posix_spawn leaves ignored.
    let default = [0u64; 4];
    // SAFETY: default actions run no code of ours; `default` is as large as the kernel reads; the set is initialised before it is read.
    unsafe {
        for signal in 1..=64 {
            libc::syscall(libc::SYS_rt_sigaction, signal, default.as_ptr(), ptr::null::<u64>(), 8);
        }
        let mut set: libc::sigset_t = std::mem::zeroed();
        libc::sigemptyset(&mut set);
        libc::sigprocmask(libc::SIG_SETMASK, &set, ptr::null_mut());
    }
}

/// Makes writing to a pipe nobody reads fail instead of ending the program.
pub(crate) fn ignore_broken_pipes() {
    // SAFETY: to ignore a signal runs no code of ours.
    unsafe { libc::signal(libc::SIGPIPE, libc::SIG_IGN) };
}

/// Takes over one of the shim's standard streams, in which it is given what it starts with.
pub(crate) fn take_standard(number: i32) -> OwnedFd {
    // SAFETY: called once for each at the start of the shim, which never uses them otherwise; what is there is moved away and the
    // number pointed to /dev/null by the caller.
    unsafe { OwnedFd::from_raw_fd(libc::fcntl(number, libc::F_DUPFD_CLOEXEC, 3)) }
}

/// Brings the loopback interface of the current network namespace up.
pub(crate) fn loopback_up() -> io::Result<()> {
    let socket = rustix::net::socket(rustix::net::AddressFamily::INET, rustix::net::SocketType::DGRAM, None)?;
    // SAFETY: ifreq is plain data, for which zeroes are valid.
    let mut request: libc::ifreq = unsafe { std::mem::zeroed() };
    request.ifr_name[0] = b'l' as libc::c_char;
    request.ifr_name[1] = b'o' as libc::c_char;
    request.ifr_ifru.ifru_flags = (libc::IFF_UP | libc::IFF_RUNNING) as libc::c_short;
    // SAFETY: SIOCSIFFLAGS reads one ifreq, which outlives the call.
    check(i64::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::SIOCSIFFLAGS, &request) }))
}

/// Whether the peer of a stream socket of this machine has read all that was sent (unix(7), `SIOCOUTQ`).
///
/// # Errors
/// When it is no such socket.
pub fn peer_has_read(socket: BorrowedFd<'_>) -> io::Result<bool> {
    let mut unread: libc::c_int = 0;
    // SAFETY: the call writes one number, which outlives it.
    check(i64::from(unsafe { libc::ioctl(socket.as_raw_fd(), libc::TIOCOUTQ, &raw mut unread) }))?;
    Ok(unread == 0)
}

/// Sends `signal` to the process `pidfd` names; 0 only asks whether it is there.
pub(crate) fn pidfd_signal(pidfd: BorrowedFd<'_>, signal: i32) -> io::Result<()> {
    // SAFETY: takes a descriptor, a number, no siginfo and no flags.
    check(unsafe {
        libc::syscall(
            libc::SYS_pidfd_send_signal,
            pidfd.as_raw_fd(),
            signal,
            ptr::null::<libc::siginfo_t>(),
            0,
        )
    })
}

/// Sets one resource limit of a process, this one by default.
pub(crate) fn set_limit(pid: Option<Pid>, resource: u32, soft: u64, hard: u64) -> io::Result<()> {
    let limit = libc::rlimit { rlim_cur: soft, rlim_max: hard };
    let pid = pid.map_or(0, |pid| pid.as_raw_nonzero().get());
    // SAFETY: reads one rlimit that outlives the call, and writes none.
    check(i64::from(unsafe { libc::prlimit(pid, resource as _, &limit, ptr::null_mut()) }))
}

/// Sets how this thread is scheduled.
pub(crate) fn set_scheduler(attributes: &libc::sched_attr) -> io::Result<()> {
    // SAFETY: reads one sched_attr, whose size is in it and which outlives the call.
    check(unsafe { libc::syscall(libc::SYS_sched_setattr, 0, ptr::from_ref(attributes), 0) })
}

/// Sets the I/O priority of this process, class and level in the kernel's one number.
pub(crate) fn set_io_priority(value: i32) -> io::Result<()> {
    const PROCESS: i32 = 1;
    // SAFETY: takes plain numbers.
    check(unsafe { libc::syscall(libc::SYS_ioprio_set, PROCESS, 0, value) })
}

/// Sets the execution domain of this process.
pub(crate) fn set_personality(domain: u32) -> io::Result<()> {
    // SAFETY: takes a plain number.
    check(i64::from(unsafe { libc::personality(libc::c_ulong::from(domain)) }))
}

fn check(result: i64) -> io::Result<()> {
    if result < 0 { Err(io::Error::last_os_error()) } else { Ok(()) }
}

/// Makes descriptor `to` a copy of `from`, whatever it was before.
pub(crate) fn put_at(from: BorrowedFd<'_>, to: i32) -> io::Result<()> {
    // SAFETY: used only in a forked child and at the start of the shim, where what `to` was is owned by nobody who still acts on it.
    check(i64::from(unsafe { libc::dup2(from.as_raw_fd(), to) }))
}

/// Closes every descriptor from `first` on, whoever owned it.
pub(crate) fn close_from(first: u32) -> io::Result<()> {
    // SAFETY: used only in a forked child that ends by execve or _exit, and first thing in a program, so that no owner closes a number
    // again.
    check(unsafe { libc::syscall(libc::SYS_close_range, first, u32::MAX, 0) })
}

/// Loads a program that is asked about every use of a device, and attaches it to a cgroup of version 2 for good.
pub(crate) fn guard_devices(cgroup: BorrowedFd<'_>, program: &[u64]) -> io::Result<()> {
    const LOAD: i32 = 5;
    const ATTACH: i32 = 8;
    const PROGRAM: u32 = 15;
    const PLACE: u32 = 6;
    const BESIDE_OTHERS: u32 = 2;
    /// The beginning of the kernel's structure for a new program; the rest is not needed.
    #[repr(C)]
    struct Load {
        kind: u32,
        length: u32,
        instructions: u64,
        license: u64,
        log: [u64; 2],
        kernel: u32,
        flags: u32,
    }
    let load = Load {
        kind: PROGRAM,
        length: program.len() as u32,
        instructions: program.as_ptr() as u64,
        license: c"Apache-2.0".as_ptr() as u64,
        log: [0; 2],
        kernel: 0,
        flags: 0,
    };
    // SAFETY: `load` has the layout the kernel reads, of the size given; what it points to outlives the call.
    let fd = unsafe { libc::syscall(libc::SYS_bpf, LOAD, ptr::from_ref(&load), size_of::<Load>()) };
    check(fd)?;
    // SAFETY: the kernel has just made the descriptor, which nobody else owns.
    let loaded = unsafe { OwnedFd::from_raw_fd(fd as i32) };
    let attach = [cgroup.as_raw_fd() as u32, loaded.as_raw_fd() as u32, PLACE, BESIDE_OTHERS];
    // SAFETY: reads four numbers that outlive the call.
    check(unsafe { libc::syscall(libc::SYS_bpf, ATTACH, attach.as_ptr(), size_of_val(&attach)) })
}

/// Whether descriptor `number` is open.
pub(crate) fn is_open(number: i32) -> bool {
    // SAFETY: only asks for a flag of whatever the number names.
    unsafe { libc::fcntl(number, libc::F_GETFD) >= 0 }
}

/// Descriptor `number`, once [`put_at`] has placed it there.
pub(crate) fn adopt(number: i32) -> OwnedFd {
    // SAFETY: the caller has just placed it and nobody else owns that number.
    unsafe { OwnedFd::from_raw_fd(number) }
}
