//! The shim: one small process per pod, with one thread, that holds the pod's namespaces, starts its containers, keeps their logs and
//! exit statuses, and answers whoever connects. It outlives the daemon.

mod container;
mod exec;
mod output;
mod serve;

use std::{
    collections::BTreeMap,
    ffi::OsStr,
    os::fd::{AsFd, BorrowedFd, OwnedFd},
    path::Path,
    process::Command,
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec},
    fs::{Mode, OFlags},
    io::Errno,
    net::{AddressFamily, SocketAddrUnix, SocketFlags, SocketType, accept_with, bind, listen, socket_with},
    process::{WaitOptions, WaitStatus},
};

use crate::{
    cgroup::Cgroup,
    config::{Network, SandboxConfig, Share, WhenIdle},
    error::{Context, Error, Result},
    pod_dir::{PodDir, ShimFile, write_json},
    prepare::Kept,
    program, sys,
    wire::{Channel, Response},
};
use container::Container;
use exec::Exec;
use serve::Connection;

/// The name under which a program is run again to be a shim. No command line of a person's begins with it.
pub(crate) const ARGV0: &str = "wharf-shim";

/// Nothing happens for so long when there is more than a pause.
const REST: Duration = Duration::from_secs(1);

/// Becomes the shim if this process was started as one, and then does not return. To be called first in `main`, before threads.
pub fn entry() -> bool {
    let mut args = std::env::args_os();
    let (Some(name), Some(folder), None) = (args.next(), args.next(), args.next()) else { return false };
    if name != OsStr::new(ARGV0) {
        return false;
    }
    std::process::exit(run(Path::new(&folder)))
}

fn run(folder: &Path) -> i32 {
    // What whoever called it happened to have open would stay open, and locked, for the container's life.
    let _ = sys::close_from(3);
    let mut first = Channel::new(sys::take_standard(0));
    match start(PodDir::at(folder), sys::take_standard(1)) {
        Ok(mut shim) => {
            first.queue(&Response::Hello { pid: std::process::id() as i32 }, Vec::new());
            shim.adopt(first);
            shim.serve();
            0
        }
        Err(error) => {
            // The caller may be gone; then there is nobody to tell.
            let _ = first.send(&Response::Error(error), Vec::new());
            1
        }
    }
}

struct Shim {
    dir: PodDir,
    config: SandboxConfig,
    listener: OwnedFd,
    ended_children: OwnedFd,
    connections: Vec<Connection>,
    containers: BTreeMap<String, Container>,
    execs: Vec<Exec>,
    /// The default system call filter, compiled once.
    filter: Kept,
    stopping: bool,
    /// Nothing has happened since it gave its program's memory back.
    rests: bool,
    /// What is needed for what runs at the end.
    outside: Option<Outside>,
    /// The pod's own user namespace.
    users: Option<OwnedFd>,
    /// Held for life: how others see that this shim lives.
    _lock: OwnedFd,
}

/// What this process was started with, kept for what runs at the end.
struct Outside {
    network: OwnedFd,
    /// Whoever made the pod.
    program: OwnedFd,
}

fn start(dir: PodDir, program: OwnedFd) -> Result<Shim> {
    let null = rustix::fs::open("/dev/null", OFlags::RDWR | OFlags::CLOEXEC, Mode::empty())
        .step("open", "/dev/null")?;
    for number in [0, 1] {
        sys::put_at(null.as_fd(), number).step("replace standard stream", number)?;
    }
    let ended_children = sys::child_signal_fd().step("watch for", "ended processes")?;
    rustix::process::setsid().step("begin", "a session")?;
    rustix::process::set_child_subreaper(Some(rustix::process::getpid()))
        .step("become", "the reaper of orphans")?;
    rustix::process::chdir("/").step("enter", "/")?;
    // It keeps no secrets in its name: the pod's id tells people whose it is.
    let config = dir.config()?;
    let lock = dir
        .lock()?
        .ok_or_else(|| Error::state("start the shim", dir.path().display(), "another one lives"))?;
    let made = match &config.cgroup {
        Some(pod) => {
            let cgroup = Cgroup::at(&pod.path)?;
            cgroup.create(&pod.resources)?;
            Some(cgroup)
        }
        None => None,
    };
    let outside = match config.at_end.is_empty() {
        true => None,
        false => {
            let flags = OFlags::RDONLY | OFlags::CLOEXEC;
            let network = rustix::fs::open("/proc/self/ns/net", flags, Mode::empty())
                .step("open", "/proc/self/ns/net")?;
            Some(Outside { network, program })
        }
    };
    let entered =
        enter_namespaces(&config).and_then(|users| listen_in(&dir).map(|listener| (users, listener)));
    if let (Err(_), Some(cgroup)) = (&entered, made) {
        cgroup.remove_quietly();
    }
    let (users, listener) = entered?;
    write_json(&dir.path().join("shim.json"), &ShimFile { pid: std::process::id() as i32 })?;
    Ok(Shim {
        dir,
        config,
        listener,
        ended_children,
        connections: Vec::new(),
        containers: BTreeMap::new(),
        execs: Vec::new(),
        filter: None,
        stopping: false,
        rests: false,
        outside,
        users,
        _lock: lock,
    })
}

/// The namespaces every container of the pod shares are the shim's own: a container's first process inherits them. But for that of
/// users, which this gives: the shim stays the machine's root.
fn enter_namespaces(config: &SandboxConfig) -> Result<Option<OwnedFd>> {
    let mut flags = 0;
    if config.ipc == Share::Own {
        flags |= libc::CLONE_NEWIPC;
    }
    if config.uts == Share::Own {
        flags |= libc::CLONE_NEWUTS;
    }
    match &config.network {
        Network::New => flags |= libc::CLONE_NEWNET,
        Network::Path(path) => {
            let namespace = std::fs::File::open(path).step("open the network namespace", path.display())?;
            sys::setns(namespace.as_fd(), libc::CLONE_NEWNET)
                .step("enter the network namespace", path.display())?;
        }
        Network::Host => {}
    }
    let users = match &config.users {
        Some(users) => Some(crate::launch::enter_owned(users, flags)?),
        None => {
            sys::unshare(flags).step("unshare", "the namespaces of the pod")?;
            None
        }
    };
    if config.network == Network::New {
        sys::loopback_up().step("bring up", "the loopback interface")?;
    }
    if let Some(name) = &config.hostname {
        if config.uts == Share::Host {
            return Err(Error::invalid("set the host name", name, "the pod has the machine's own"));
        }
        rustix::system::sethostname(name.as_bytes()).step("set the host name", name)?;
    }
    crate::launch::write_own_sysctls(config.sysctls.iter())?;
    Ok(users)
}

fn listen_in(dir: &PodDir) -> Result<OwnedFd> {
    let flags = SocketFlags::CLOEXEC | SocketFlags::NONBLOCK;
    let socket =
        socket_with(AddressFamily::UNIX, SocketType::STREAM, flags, None).step("make", "a socket")?;
    dir.with_socket(|path| {
        match std::fs::remove_file(path) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => return Err(error),
            _ => {}
        }
        bind(&socket, &SocketAddrUnix::new(path)?)?;
        Ok(listen(&socket, 64)?)
    })
    .step("listen in", dir.path().display())?;
    Ok(socket)
}

/// What a ready descriptor belongs to.
enum Source {
    Children,
    Listener,
    Connection(usize),
    Output { container: String, index: usize },
    Sink { container: String },
    Notice { container: String },
}

impl Shim {
    fn adopt(&mut self, channel: Channel) {
        // A connection that can block must not hold up the pod.
        if rustix::io::ioctl_fionbio(channel.as_fd(), true).is_ok() {
            self.connections.push(Connection::new(channel));
        }
    }

    fn serve(&mut self) {
        loop {
            self.settle();
            if self.is_over() {
                break;
            }
            let found = self.wait();
            if found.is_empty() && !self.rests {
                // Most shims do nothing for hours; what they need of their program again comes from the page cache.
                sys::give_back_program();
                self.rests = true;
            }
            self.rests &= found.is_empty();
            for (source, ready) in found {
                self.act(source, ready);
            }
            self.look_where_due();
            let left_alone = self.connections.is_empty() && !self.stopping;
            if left_alone && self.config.when_idle == WhenIdle::WithCaller {
                self.end_everything();
            }
        }
        self.leave();
    }

    /// Waits until something is ready.
    fn wait(&self) -> Vec<(Source, PollFlags)> {
        let mut sources = vec![Source::Children, Source::Listener];
        let mut polled = vec![
            PollFd::new(&self.ended_children, PollFlags::IN),
            PollFd::new(&self.listener, PollFlags::IN),
        ];
        for (index, connection) in self.connections.iter().enumerate() {
            sources.push(Source::Connection(index));
            polled.push(PollFd::from_borrowed_fd(connection.as_fd(), connection.interest()));
        }
        for (name, container) in &self.containers {
            for (index, fd) in container.outputs_to_read() {
                sources.push(Source::Output { container: name.clone(), index });
                polled.push(PollFd::from_borrowed_fd(fd, PollFlags::IN));
            }
            for fd in container.sinks_to_write() {
                sources.push(Source::Sink { container: name.clone() });
                polled.push(PollFd::from_borrowed_fd(fd, PollFlags::OUT));
            }
            for (fd, flags) in container.notices() {
                sources.push(Source::Notice { container: name.clone() });
                polled.push(PollFd::from_borrowed_fd(fd, flags));
            }
        }
        match rustix::event::poll(&mut polled, self.timeout().as_ref()) {
            Ok(_) | Err(Errno::INTR) => {}
            // Out of kernel memory: nothing to do but to try again.
            Err(_) => std::thread::sleep(Duration::from_millis(10)),
        }
        let ready: Vec<PollFlags> = polled.iter().map(PollFd::revents).collect();
        // Connections last, from the back: one that is closed moves those behind it.
        let mut found: Vec<_> =
            sources.into_iter().zip(ready).filter(|(_, flags)| !flags.is_empty()).collect();
        found.sort_by_key(|(source, _)| match source {
            Source::Children => 0,
            Source::Connection(index) => usize::MAX - index,
            _ => 1,
        });
        found
    }

    /// How long to wait at most: until what the kernel denies a container is to be looked at again, or until it rests.
    fn timeout(&self) -> Option<Timespec> {
        let due = self.containers.values().filter_map(Container::due).min();
        // A millisecond late rather than too early, and then once more.
        let left = due.map(|due| due.saturating_duration_since(Instant::now()) + Duration::from_millis(1));
        let rest = (!self.rests).then_some(REST);
        Timespec::try_from(left.into_iter().chain(rest).min()?).ok()
    }

    fn look_where_due(&mut self) {
        for container in self.containers.values_mut() {
            if container.due().is_some_and(|due| due <= Instant::now()) {
                container.look(false);
            }
        }
    }

    fn act(&mut self, source: Source, ready: PollFlags) {
        match source {
            Source::Children => self.reap(),
            Source::Listener => self.accept(),
            Source::Connection(index) => self.hear(index, ready),
            Source::Output { container, index } => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.read_output(index);
                }
            }
            Source::Notice { container } => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.look(true);
                }
            }
            Source::Sink { container } => {
                if let Some(container) = self.containers.get_mut(&container) {
                    container.flush_sinks();
                }
            }
        }
    }

    fn accept(&mut self) {
        while let Ok(socket) = accept_with(&self.listener, SocketFlags::CLOEXEC | SocketFlags::NONBLOCK) {
            self.connections.push(Connection::new(Channel::new(socket)));
        }
    }

    /// Takes the exit status of every child that has ended, adopted ones included.
    fn reap(&mut self) {
        let mut buffer = [0; 128];
        while rustix::io::read(&self.ended_children, &mut buffer).is_ok_and(|n| n > 0) {}
        while let Ok(Some((pid, status))) = rustix::process::wait(WaitOptions::NOHANG) {
            let pid = pid.as_raw_nonzero().get();
            if let Some(container) =
                self.containers.values_mut().find(|container| container.pid() == Some(pid))
            {
                container.ended(status);
            } else if let Some(exec) = self.execs.iter_mut().find(|exec| exec.pid == pid) {
                exec.ended(status);
            }
        }
    }

    fn is_over(&self) -> bool {
        let idle = self.connections.is_empty() && self.containers.values().all(Container::is_over);
        let flushed = self.connections.iter().all(|connection| !connection.has_outgoing());
        (self.stopping && flushed) || (idle && self.config.when_idle != WhenIdle::Stay)
    }

    fn leave(&mut self) {
        self.containers.values_mut().for_each(Container::run_last_hooks);
        if let Some(pod) = &self.config.cgroup
            && let Ok(cgroup) = Cgroup::at(&pod.path)
        {
            cgroup.remove_quietly();
        }
        // A socket file without a listener only misleads.
        let _ = std::fs::remove_file(self.dir.path().join("shim.sock"));
        if self.config.when_idle == WhenIdle::Remove && !self.stopping {
            let _ = std::fs::remove_dir_all(self.dir.path());
        }
        if !self.stopping {
            self.run_at_end();
        }
    }

    /// Nobody waits for it: this process ends, and what is left undone is the next caller's.
    fn run_at_end(&self) {
        let (Some((program, args)), Some(outside)) = (self.config.at_end.split_first(), &self.outside) else {
            return;
        };
        if sys::setns(outside.network.as_fd(), libc::CLONE_NEWNET).is_ok() {
            sys::reset_signals();
            let mut command = match program == program::OWN {
                true => Command::new(program::path_of(&outside.program)),
                false => Command::new(program),
            };
            let _ = command.args(args).spawn();
        }
    }
}

/// Exit code and signal of an ended process.
fn code_of(status: WaitStatus) -> (i32, Option<i32>) {
    match (status.exit_status(), status.terminating_signal()) {
        (Some(code), _) => (code, None),
        (None, Some(signal)) => (128 + signal, Some(signal)),
        _ => (255, None),
    }
}

/// A borrowed descriptor with what it is polled for.
type Polled<'a> = (usize, BorrowedFd<'a>);
