//! One container of the pod, from its description to its exit status.

use std::{
    fs,
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::fs::{DirBuilderExt, MetadataExt, PermissionsExt},
    },
    path::{Path, PathBuf},
    rc::Rc,
    time::Instant,
};

use oci_spec::runtime::Process;
use rustix::{event::PollFlags, pipe::PipeFlags, process::WaitStatus};
use wharf_base::{Clock, SystemClock};

use super::{Polled, code_of, output::Output};
use crate::{
    cgroup::{Cgroup, Denied, Doors, Watch, has_cgroups},
    config::{ContainerConfig, ExecConfig, Size, Stdin},
    error::{Context, Error, Result},
    launch::{self, Agent, Launch, Launched, Namespaces, Owner, Plan, TerminalPlan, Told, When},
    log::{LogWriter, Stream},
    pod_dir::write_json,
    prepare::{self, Shares},
    processes::began,
    seccomp::Filter,
    status::{Event, Exit, Phase, Status},
    sys,
};

pub(super) struct Container {
    pub(super) config: ContainerConfig,
    folder: PathBuf,
    cgroup: Cgroup,
    doors: Doors,
    status: Status,
    launched: Option<Launched>,
    terminal: Option<OwnedFd>,
    input: Option<OwnedFd>,
    outputs: Vec<Output>,
    log: Option<LogWriter>,
    filter: Option<Rc<Filter>>,
    /// Of what the kernel denies it, while it runs.
    watch: Option<Watch>,
    /// What has not been told of it yet.
    news: Vec<Event>,
    /// Its last hooks have run.
    stopped: bool,
    /// Its end has been told to those who wait.
    pub(super) announced: bool,
}

/// The program's ends of its standard streams, and ours.
struct Streams {
    theirs: [Option<OwnedFd>; 3],
    input: Option<OwnedFd>,
    outputs: Vec<Output>,
}

impl Container {
    /// Sets everything up, and leaves nothing behind when that fails.
    pub(super) fn create(
        config: ContainerConfig,
        folder: PathBuf,
        filter: Option<Rc<Filter>>,
        shares: Shares,
    ) -> Result<Self> {
        let process = prepare::check(&config.name, &config.spec, Owner::Pod, shares)?;
        told(&config, &folder.to_string_lossy()).check()?;
        let cgroup = prepare::cgroup(&config.spec)?;
        cgroup.create(&prepare::resources(&config.spec))?;
        let made = Self::build(config, process, folder.clone(), &cgroup, filter);
        if made.is_err() {
            cgroup.remove_quietly();
            clear(&folder);
        }
        made
    }

    fn build(
        config: ContainerConfig,
        process: Process,
        folder: PathBuf,
        cgroup: &Cgroup,
        filter: Option<Rc<Filter>>,
    ) -> Result<Self> {
        make_layers(&config, &folder)?;
        let log = match config.log.clone() {
            Some(log) => {
                let path = log.path.clone();
                Some(LogWriter::open(log).step("open the log", path.display())?)
            }
            None => None,
        };
        let terminal = process.terminal().unwrap_or(false).then(|| TerminalPlan {
            size: process.console_size().map(|size| Size {
                rows: size.height().min(9999) as u16,
                columns: size.width().min(9999) as u16,
            }),
        });
        let mut streams = if terminal.is_some() { no_streams() } else { pipes(config.stdin)? };
        let doors = cgroup.doors()?;
        let plan = Plan { process, user: config.user.clone(), terminal };
        let bundle = folder.to_string_lossy();
        let mut launched = launch::launch(Launch {
            config: &config,
            process: plan,
            into: launch::Into::New { folder: &folder },
            doors: &doors,
            stdio: streams.theirs,
            keep: 0,
            start: None,
            seccomp: filter.as_deref(),
            namespaces: &Namespaces::of(&config.spec, Owner::Pod)?,
            told: config.spec.hooks().is_some().then(|| told(&config, &bundle)),
        })?;
        let terminal = launched.terminal.take();
        if let Some(terminal) = &terminal {
            streams.outputs.push(terminal_output(terminal)?);
        }
        let status = Status {
            name: config.name.clone(),
            phase: Phase::Created,
            pid: Some(launched.pid.as_raw_nonzero().get()),
            began: (!has_cgroups()).then(|| began(launched.pid.as_raw_nonzero().get())).flatten(),
            cgroup: cgroup.path().to_owned(),
            created_at: SystemClock.now(),
            started_at: None,
            exit: None,
            warnings: launched.warnings.clone(),
            oom_kills: 0,
            forks_refused: 0,
        };
        let container = Self {
            config,
            folder,
            cgroup: cgroup.clone(),
            doors,
            status,
            launched: Some(launched),
            terminal,
            input: streams.input,
            outputs: streams.outputs,
            log,
            filter,
            watch: None,
            news: Vec::new(),
            announced: false,
            stopped: false,
        };
        container.save().inspect_err(|_| container.abandon())?;
        Ok(container)
    }

    fn abandon(&self) {
        if let Some(launched) = &self.launched {
            launched.abandon();
        }
    }

    fn save(&self) -> Result<()> {
        write_json(&self.folder.join("state.json"), &self.status)
    }

    pub(super) fn status(&self) -> &Status {
        &self.status
    }

    pub(super) fn pid(&self) -> Option<i32> {
        self.status.pid
    }

    fn running(&mut self, step: &str) -> Result<&mut Launched> {
        let name = &self.status.name;
        match (&self.status.phase, &mut self.launched) {
            (Phase::Running | Phase::Paused, Some(launched)) => Ok(launched),
            _ => Err(Error::state(step, name, "the container does not run")),
        }
    }

    /// Starts its program. A program that cannot be started ends the container.
    pub(super) fn start(&mut self) -> Result<()> {
        let Some(launched) = self.launched.as_mut().filter(|_| self.status.phase == Phase::Created) else {
            return Err(Error::state("start", &self.status.name, "the container has been started before"));
        };
        let bundle = self.folder.to_string_lossy();
        let pid = launched.pid.as_raw_nonzero().get();
        launched.go(&Agent::of(&self.config.spec, told(&self.config, &bundle), pid))?;
        self.status.phase = Phase::Running;
        self.status.started_at = Some(SystemClock.now());
        self.save()?;
        let bundle = self.folder.to_string_lossy();
        told(&self.config, &bundle)
            .run(When::Poststart, "running", self.status.pid)
            .inspect_err(|_| self.kill_everything())
    }

    /// Runs what is to run once the container is no more.
    pub(super) fn run_last_hooks(&mut self) {
        if !std::mem::replace(&mut self.stopped, true) {
            // The specification wants a warning at most, and there is nobody left to warn.
            let _ =
                told(&self.config, &self.folder.to_string_lossy()).run_all(When::Poststop, "stopped", None);
        }
    }

    pub(super) fn kill(&mut self, signal: i32, all: bool) -> Result<()> {
        let name = self.status.name.clone();
        let Some(launched) = &self.launched else {
            return Err(Error::state("signal", name, "the container does not run"));
        };
        if all && has_cgroups() {
            self.cgroup.signal_all(signal);
            return Ok(());
        }
        sys::pidfd_signal(launched.pidfd.as_fd(), signal).step("signal", name)?;
        if signal == libc::SIGKILL && self.status.phase == Phase::Paused {
            // A frozen process dies only once it thaws.
            self.cgroup.freeze(false)?;
        }
        Ok(())
    }

    pub(super) fn freeze(&mut self, frozen: bool) -> Result<()> {
        let (from, to) =
            if frozen { (Phase::Running, Phase::Paused) } else { (Phase::Paused, Phase::Running) };
        if self.status.phase != from {
            let (step, why) = if frozen {
                ("pause", "the container does not run")
            } else {
                ("unpause", "the container is not paused")
            };
            return Err(Error::state(step, &self.status.name, why));
        }
        self.cgroup.freeze(frozen)?;
        self.status.phase = to;
        self.save()
    }

    pub(super) fn resize(&self, size: Size) -> Result<()> {
        match &self.terminal {
            Some(terminal) => launch::resize(terminal.as_fd(), size),
            None => Err(Error::state("resize the terminal of", &self.status.name, "the container has none")),
        }
    }

    /// Starts one more process. Gives it with the outer side of its terminal.
    pub(super) fn exec(
        &mut self,
        wanted: &ExecConfig,
        stdio: [Option<OwnedFd>; 3],
    ) -> Result<(Launched, Option<OwnedFd>)> {
        if self.status.phase == Phase::Paused {
            return Err(Error::state("run a command in", &self.status.name, "the container is paused"));
        }
        let process = super::exec::process(&self.config, wanted)?;
        let user = wanted.user.clone().or_else(|| self.config.user.clone());
        let terminal = wanted.terminal.map(|size| TerminalPlan { size: Some(size) });
        let init = self.running("run a command in")?.pidfd.try_clone().step("copy", "the process handle")?;
        self.cgroup.renew(&mut self.doors)?;
        let mut launched = launch::launch(Launch {
            config: &self.config,
            process: Plan { process, user, terminal },
            into: launch::Into::Running { init: init.as_fd() },
            doors: &self.doors,
            stdio,
            keep: 0,
            start: None,
            seccomp: if wanted.privileged { None } else { self.filter.as_deref() },
            namespaces: &Namespaces::named(&self.config.spec, Owner::Pod),
            told: None,
        })?;
        let bundle = self.folder.to_string_lossy();
        let pid = launched.pid.as_raw_nonzero().get();
        if let Err(error) = launched.go(&Agent::of(&self.config.spec, told(&self.config, &bundle), pid)) {
            launched.abandon();
            return Err(error);
        }
        let terminal = launched.terminal.take();
        Ok((launched, terminal))
    }

    /// Joins its streams: input, output, error.
    pub(super) fn attach(&mut self) -> Result<[Option<OwnedFd>; 3]> {
        if self.launched.is_none() {
            return Err(Error::state("attach to", &self.status.name, "the container does not run"));
        }
        let copy = |fd: &OwnedFd| fd.try_clone().step("copy", "a standard stream");
        let input = match (&self.terminal, self.config.stdin) {
            (Some(terminal), _) => Some(copy(terminal)?),
            // The input ends when the one attached closes it.
            (None, Stdin::Once) => self.input.take(),
            (None, _) => self.input.as_ref().map(copy).transpose()?,
        };
        let mut streams = self.outputs.iter_mut().map(Output::attach);
        Ok([input, streams.next().flatten(), streams.next().flatten()])
    }

    pub(super) fn outputs_to_read(&self) -> impl Iterator<Item = Polled<'_>> {
        self.outputs.iter().enumerate().filter_map(|(index, output)| output.to_read().map(|fd| (index, fd)))
    }

    pub(super) fn sinks_to_write(&self) -> impl Iterator<Item = BorrowedFd<'_>> {
        self.outputs.iter().flat_map(Output::to_write)
    }

    pub(super) fn read_output(&mut self, index: usize) {
        if let Some(output) = self.outputs.get_mut(index) {
            output.read(&mut self.log);
        }
    }

    pub(super) fn flush_sinks(&mut self) {
        self.outputs.iter_mut().for_each(Output::flush);
    }

    /// Begins to watch what the kernel denies it. Not on the way of its start: the kernel counts from the beginning.
    pub(super) fn watch(&mut self) {
        if self.status.phase == Phase::Running && self.watch.is_none() {
            self.watch = Some(Watch::of(&self.cgroup));
            self.look(false);
        }
    }

    pub(super) fn notices(&self) -> impl Iterator<Item = (BorrowedFd<'_>, PollFlags)> {
        self.watch.iter().flat_map(Watch::notices)
    }

    /// When to look for what the kernel has denied it.
    pub(super) fn due(&self) -> Option<Instant> {
        self.watch.as_ref().and_then(Watch::due)
    }

    /// Looks for what the kernel has denied it.
    pub(super) fn look(&mut self, noticed: bool) {
        if let Some(watch) = &mut self.watch {
            let denied = watch.look(noticed, Instant::now());
            self.count(denied, noticed && denied.stopped);
        }
    }

    fn count(&mut self, denied: Denied, stopped: bool) {
        let (status, name) = (&mut self.status, || self.config.name.clone());
        let before = self.news.len();
        if denied.oom_kills > status.oom_kills || stopped {
            self.news.push(Event::OutOfMemory { name: name(), kills: denied.oom_kills });
        }
        if denied.forks > status.forks_refused {
            self.news.push(Event::ForkRefused { name: name(), times: denied.forks });
        }
        (status.oom_kills, status.forks_refused) = (denied.oom_kills, denied.forks);
        if self.news.len() > before {
            // Told all the same when the disk is full.
            let _ = self.save();
        }
    }

    /// What has happened to it, to be told.
    pub(super) fn take_news(&mut self) -> Vec<Event> {
        std::mem::take(&mut self.news)
    }

    /// Its first process has ended: writes down how, and gives its cgroup back.
    pub(super) fn ended(&mut self, status: WaitStatus) {
        let (code, signal) = code_of(status);
        self.watch = None;
        self.count(self.cgroup.denied(), false);
        let exit = Exit {
            code,
            signal,
            oom_killed: self.status.oom_kills > 0,
            finished_at: SystemClock.now(),
            reason: None,
        };
        // First of all: everything below can be done again by others.
        let _ = write_json(&self.folder.join("exit.json"), &exit);
        self.status.exit = Some(exit);
        self.status.pid = None;
        self.status.phase = Phase::Exited;
        self.launched = None;
        self.input = None;
        let _ = self.save();
        // What a process that shares the machine's process ids has left behind goes too.
        self.cgroup.remove_quietly();
    }

    /// Reads what an ended container has left in its pipes. True once all is read and passed on.
    pub(super) fn drain(&mut self) -> bool {
        for output in &mut self.outputs {
            while output.to_read().is_some() && output.read(&mut self.log) {}
            if output.to_read().is_some() {
                // Nothing more comes: all writers are dead, or strangers who kept the pipe.
                output.close(&mut self.log);
            }
        }
        self.outputs.iter().all(Output::is_over)
    }

    /// Ended, and all has been told.
    pub(super) fn is_over(&self) -> bool {
        self.status.phase == Phase::Exited && self.announced
    }

    /// Ends all its processes, if it has any.
    pub(super) fn kill_everything(&self) {
        if let Some(launched) = &self.launched {
            // The first process takes the others of its process ids with it, which is the only way where there are no cgroups.
            let _ = sys::pidfd_signal(launched.pidfd.as_fd(), libc::SIGKILL);
            self.cgroup.signal_all(libc::SIGKILL);
        }
    }

    /// Ends it without waiting for its program's consent.
    pub(super) fn destroy(&mut self) {
        if let Some(launched) = self.launched.take() {
            self.cgroup.signal_all(libc::SIGKILL);
            launched.abandon();
        }
        self.cgroup.remove_quietly();
    }

    /// Removes what it has on disk.
    pub(super) fn remove_files(&self) -> Result<()> {
        fs::remove_dir_all(&self.folder).step("remove", self.folder.display())
    }
}

fn told<'a>(config: &'a ContainerConfig, bundle: &'a str) -> Told<'a> {
    Told {
        hooks: config.spec.hooks().as_ref(),
        id: &config.name,
        bundle,
        annotations: config.spec.annotations().as_ref(),
    }
}

/// The writable layer. Its root looks like the topmost layer's.
fn make_layers(config: &ContainerConfig, folder: &Path) -> Result<()> {
    if config.root.lower.is_empty() {
        return Ok(());
    }
    for name in ["upper", "work", "rootfs"] {
        let path = folder.join(name);
        match fs::DirBuilder::new().mode(0o755).create(&path) {
            // Kept from an earlier run of the same container.
            Err(error) if error.kind() == std::io::ErrorKind::AlreadyExists => {}
            other => other.step("make the folder", path.display())?,
        }
    }
    if let Some(top) = config.root.lower.first() {
        let found = fs::metadata(top).step("open the layer", top.display())?;
        let upper = folder.join("upper");
        fs::set_permissions(&upper, fs::Permissions::from_mode(found.mode() & 0o7777))
            .and_then(|()| {
                let (uid, gid) = launch::outside(&config.spec, found.uid(), found.gid());
                std::os::unix::fs::chown(&upper, Some(uid), Some(gid))
            })
            .step("prepare the folder", upper.display())?;
    }
    Ok(())
}

/// Removes what a failed creation has made, and leaves the description for those who want to know.
fn clear(folder: &Path) {
    for name in ["work", "rootfs", "state.json"] {
        let path = folder.join(name);
        let _ = if path.is_dir() { fs::remove_dir_all(path) } else { fs::remove_file(path) };
    }
}

fn no_streams() -> Streams {
    Streams { theirs: [None, None, None], input: None, outputs: Vec::new() }
}

fn pipes(stdin: Stdin) -> Result<Streams> {
    let pipe = || rustix::pipe::pipe_with(PipeFlags::CLOEXEC).step("make", "a pipe");
    let mut streams = no_streams();
    if stdin != Stdin::Null {
        let (read, write) = pipe()?;
        streams.theirs[0] = Some(read);
        streams.input = Some(write);
    }
    for (index, stream) in [(1, Stream::Stdout), (2, Stream::Stderr)] {
        let (read, write) = pipe()?;
        rustix::io::ioctl_fionbio(&read, true).step("prepare", "a pipe")?;
        streams.theirs[index] = Some(write);
        streams.outputs.push(Output::new(read, stream));
    }
    Ok(streams)
}

/// The copy of the terminal's outer side that is read from. It may not block; the flag is the terminal's, so attached callers see it
/// on theirs too.
fn terminal_output(terminal: &OwnedFd) -> Result<Output> {
    let copy = terminal.try_clone().step("copy", "the terminal")?;
    rustix::io::ioctl_fionbio(&copy, true).step("prepare", "the terminal")?;
    Ok(Output::new(copy, Stream::Stdout))
}
