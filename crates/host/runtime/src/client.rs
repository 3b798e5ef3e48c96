//! The caller's side: makes pods, finds them again, and talks to their shims.

use std::{
    os::{
        fd::{AsFd, BorrowedFd, OwnedFd},
        unix::{net::UnixStream, process::CommandExt},
    },
    path::{Path, PathBuf},
    process::{Child, Command, Stdio},
    sync::Mutex,
};

use crate::{
    config::{ContainerConfig, ExecConfig, SandboxConfig, Size},
    error::{Context, Error, Result},
    pod_dir::{PodDir, check_name, private_folder, write_json},
    processes, program, recover,
    rootless::FOLDER,
    runtime::{Runtime, Sandbox, SignalTo},
    shim,
    status::{Event, Exit, Stats, Status},
    sys,
    wire::{Channel, Request, Response},
};

/// The runtime built into wharf: one shim per pod. By default shims run the one a release carries inside, or else this program, which
/// must call [`crate::shim_entry`] first.
#[derive(Debug, Clone, Default)]
pub struct ShimRuntime {
    program: Option<PathBuf>,
}

/// Shims this process has started. They outlive it; while it lives, it must take their exit status.
static SHIMS: Mutex<Vec<Child>> = Mutex::new(Vec::new());

impl ShimRuntime {
    /// Shims run `program`, which must call [`crate::shim_entry`] first.
    pub fn new(program: impl Into<PathBuf>) -> Self {
        Self { program: Some(program.into()) }
    }

    fn spawn(&self, dir: &PodDir, config: &SandboxConfig) -> Result<(Channel, i32)> {
        collect_ended();
        let (ours, theirs) = UnixStream::pair().step("make", "a socket pair")?;
        let theirs = OwnedFd::from(theirs);
        let programs = self.program.clone().map_or_else(program::usual, |program| vec![program]);
        let mut started = Err(Error::state("start the shim", dir.path().display(), "no program is given"));
        for program in &programs {
            // Where the machine does not let one be run, the next may do.
            started = run(program, dir, config, &theirs);
            if started.is_ok() {
                break;
            }
        }
        drop(theirs);
        SHIMS.lock().unwrap_or_else(|poisoned| poisoned.into_inner()).push(started?);
        let mut channel = Channel::new(ours.into());
        match channel.receive::<Response>() {
            Ok(Some((Response::Hello { pid }, _))) => Ok((channel, pid)),
            Ok(Some((Response::Error(error), _))) => Err(error),
            _ => {
                let said = std::fs::read_to_string(dir.path().join("shim.log")).unwrap_or_default();
                let said = said.trim();
                let why = if said.is_empty() { "it ended before it was ready" } else { said };
                Err(Error::state("start the shim", dir.path().display(), why))
            }
        }
    }
}

/// Runs `program` as the shim of a pod, connected to `line`.
fn run(program: &Path, dir: &PodDir, config: &SandboxConfig, line: &OwnedFd) -> Result<Child> {
    let sealed = program::sealed(program)?;
    let log = std::fs::File::create(dir.path().join("shim.log")).step("write", "the shim's log")?;
    // What runs at the end finds the folder of a person who is not root by it.
    let own_folder = sys::in_user_namespace().then(|| std::env::var_os(FOLDER)).flatten();
    Command::new(program::path_of(&sealed))
        .arg0(shim::ARGV0)
        .arg(dir.path())
        .env_clear()
        .envs(own_folder.map(|folder| (FOLDER, folder)))
        .stdin(line.try_clone().step("copy", "the shim's line")?)
        .stdout(program::for_the_end(&config.at_end)?)
        .stderr(Stdio::from(log))
        .spawn()
        .step("start the shim", program.display())
}

/// Takes the exit status of shims that have ended, so that they do not stay as zombies.
fn collect_ended() {
    let mut shims = SHIMS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    shims.retain_mut(|child| !matches!(child.try_wait(), Ok(Some(_)) | Err(_)));
}

/// Waits until the shim of this id, which has been told to end, is gone.
fn wait_for_end(pid: i32) {
    let mut shims = SHIMS.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
    if let Some(index) = shims.iter().position(|child| child.id() as i32 == pid) {
        // Its socket has closed: it is at its end.
        let _ = shims.swap_remove(index).wait();
    }
}

impl Runtime for ShimRuntime {
    fn create(&self, folder: &Path, config: &SandboxConfig) -> Result<Box<dyn Sandbox>> {
        let dir = PodDir::at(folder);
        private_folder(&folder.join("containers"))?;
        if dir.has_shim() {
            return Err(Error::new(
                crate::ErrorKind::Exists,
                "create the pod in",
                folder.display(),
                "it has a shim already",
            ));
        }
        write_json(&folder.join("pod.json"), config)?;
        let (channel, pid) = self.spawn(&dir, config)?;
        Ok(Box::new(ShimSandbox { dir, pid, channel: Mutex::new(channel) }))
    }

    fn open(&self, folder: &Path) -> Result<Box<dyn Sandbox>> {
        let dir = PodDir::at(folder);
        let channel = connect(&dir)?;
        let pid = dir.shim_pid().ok_or_else(|| Error::gone(folder.display()))?;
        Ok(Box::new(ShimSandbox { dir, pid, channel: Mutex::new(channel) }))
    }

    fn clean_up(&self, folder: &Path) -> Result<Vec<String>> {
        collect_ended();
        recover::clean_up(&PodDir::at(folder))
    }
}

fn connect(dir: &PodDir) -> Result<Channel> {
    dir.with_socket(|path| UnixStream::connect(path))
        .map(|stream| Channel::new(stream.into()))
        .map_err(|error| Error { errno: error.raw_os_error(), ..Error::gone(dir.path().display()) })
}

/// A pod held by a shim.
pub struct ShimSandbox {
    dir: PodDir,
    pid: i32,
    channel: Mutex<Channel>,
}

impl ShimSandbox {
    fn call(&self, request: &Request) -> Result<(Response, Vec<OwnedFd>)> {
        let mut channel = self.channel.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        ask(&mut channel, &self.dir, request, Vec::new())
    }

    fn tell(&self, request: &Request) -> Result<()> {
        self.call(request).map(drop)
    }
}

fn ask(
    channel: &mut Channel,
    dir: &PodDir,
    request: &Request,
    fds: Vec<OwnedFd>,
) -> Result<(Response, Vec<OwnedFd>)> {
    let gone = |_| Error::gone(dir.path().display());
    channel.send(request, fds).map_err(gone)?;
    hear(channel, dir)
}

fn hear(channel: &mut Channel, dir: &PodDir) -> Result<(Response, Vec<OwnedFd>)> {
    match channel.receive::<Response>() {
        Ok(Some((Response::Error(error), _))) => Err(error),
        Ok(Some(answer)) => Ok(answer),
        _ => Err(Error::gone(dir.path().display())),
    }
}

fn unexpected<T>(response: &Response) -> Result<T> {
    Err(Error::state("talk to the shim", "", format_args!("unexpected answer {response:?}")))
}

/// Hands given descriptors out again in their places.
fn in_places(given: [bool; 3], fds: Vec<OwnedFd>) -> [Option<OwnedFd>; 3] {
    let mut fds = fds.into_iter();
    given.map(|given| if given { fds.next() } else { None })
}

impl Sandbox for ShimSandbox {
    fn dir(&self) -> &PodDir {
        &self.dir
    }

    fn pid(&self) -> i32 {
        self.pid
    }

    fn create_container(&self, config: &ContainerConfig) -> Result<Status> {
        check_name(&config.name)?;
        let folder = self.dir.container(&config.name);
        if folder.join("config.json").exists() {
            return Err(Error::new(
                crate::ErrorKind::Exists,
                "create container",
                &config.name,
                "the pod has one of this name",
            ));
        }
        private_folder(&folder)?;
        write_json(&folder.join("config.json"), config)?;
        let created =
            self.call(&Request::Create { name: config.name.clone() }).and_then(|answer| match answer {
                (Response::Status(status), _) => Ok(*status),
                // A shim of an earlier version.
                _ => self.status(&config.name),
            });
        if created.is_err() {
            // Nothing of a container that never was stays.
            let _ = std::fs::remove_dir_all(&folder);
        }
        created
    }

    fn start(&self, name: &str) -> Result<()> {
        self.tell(&Request::Start { name: name.to_owned() })
    }

    fn kill(&self, name: &str, signal: i32, to: SignalTo) -> Result<()> {
        self.tell(&Request::Kill { name: name.to_owned(), signal, all: to == SignalTo::All })
    }

    fn exec(&self, name: &str, config: &ExecConfig, stdio: [Option<OwnedFd>; 3]) -> Result<Exec> {
        let mut channel = connect(&self.dir)?;
        let given = [stdio[0].is_some(), stdio[1].is_some(), stdio[2].is_some()];
        let request = Request::Exec { name: name.to_owned(), config: Box::new(config.clone()), stdio: given };
        let (answer, mut fds) =
            ask(&mut channel, &self.dir, &request, stdio.into_iter().flatten().collect())?;
        match answer {
            Response::Started { pid } => {
                Ok(Exec { pid, terminal: fds.pop(), ending: Ending { channel, dir: self.dir.clone() } })
            }
            other => unexpected(&other),
        }
    }

    fn attach(&self, name: &str) -> Result<[Option<OwnedFd>; 3]> {
        match self.call(&Request::Attach { name: name.to_owned() })? {
            (Response::Streams { stdio }, fds) => Ok(in_places(stdio, fds)),
            (other, _) => unexpected(&other),
        }
    }

    fn resize(&self, name: &str, size: Size) -> Result<()> {
        self.tell(&Request::Resize { name: name.to_owned(), size })
    }

    fn pause(&self, name: &str) -> Result<()> {
        self.tell(&Request::Freeze { name: name.to_owned(), frozen: true })
    }

    fn unpause(&self, name: &str) -> Result<()> {
        self.tell(&Request::Freeze { name: name.to_owned(), frozen: false })
    }

    fn status(&self, name: &str) -> Result<Status> {
        match self.call(&Request::Status { name: name.to_owned() })? {
            (Response::Status(status), _) => Ok(*status),
            (other, _) => unexpected(&other),
        }
    }

    fn list(&self) -> Result<Vec<Status>> {
        match self.call(&Request::List)? {
            (Response::List(all), _) => Ok(all),
            (other, _) => unexpected(&other),
        }
    }

    fn watch(&self, name: &str) -> Result<Ending> {
        let mut channel = connect(&self.dir)?;
        channel
            .send(&Request::Wait { name: name.to_owned() }, Vec::new())
            .map_err(|_| Error::gone(self.dir.path().display()))?;
        Ok(Ending { channel, dir: self.dir.clone() })
    }

    fn events(&self) -> Result<Events> {
        let mut channel = connect(&self.dir)?;
        ask(&mut channel, &self.dir, &Request::Subscribe, Vec::new())?;
        Ok(Events { channel, dir: self.dir.clone() })
    }

    fn stats(&self, name: &str) -> Result<Stats> {
        processes::stats(&self.dir.status(name)?)
    }

    fn delete(&self, name: &str) -> Result<()> {
        self.tell(&Request::Delete { name: name.to_owned() })
    }

    fn shutdown(&self) -> Result<()> {
        match self.tell(&Request::Shutdown) {
            Err(error) if error.kind == crate::ErrorKind::ShimGone => {}
            other => other?,
        }
        let mut channel = self.channel.lock().unwrap_or_else(|poisoned| poisoned.into_inner());
        // The end of the connection is the end of the shim's work.
        while let Ok(Some(_)) = channel.receive::<Response>() {}
        wait_for_end(self.pid);
        Ok(())
    }
}

/// The end of a program, to come. Readable through [`AsFd`] once it is there.
pub struct Ending {
    channel: Channel,
    dir: PodDir,
}

impl Ending {
    /// Waits for it.
    pub fn wait(&mut self) -> Result<Exit> {
        match hear(&mut self.channel, &self.dir)? {
            (Response::Exit(exit), _) => Ok(exit),
            (other, _) => unexpected(&other),
        }
    }
}

impl AsFd for Ending {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}

/// A further process in a container.
pub struct Exec {
    /// Its process id, as seen from the machine.
    pub pid: i32,
    terminal: Option<OwnedFd>,
    ending: Ending,
}

impl Exec {
    /// The outer side of its terminal: to read from, write to, and resize with [`Exec::resize`].
    pub fn terminal(&self) -> Option<BorrowedFd<'_>> {
        self.terminal.as_ref().map(AsFd::as_fd)
    }

    /// Sets the size of its terminal.
    pub fn resize(&self, size: Size) -> Result<()> {
        self.terminal.as_ref().map_or(Ok(()), |terminal| crate::launch::resize(terminal.as_fd(), size))
    }

    /// Waits for its end.
    pub fn wait(&mut self) -> Result<Exit> {
        self.ending.wait()
    }

    /// Its end, to come.
    pub fn ending(&mut self) -> &mut Ending {
        &mut self.ending
    }
}

/// What happens in a pod from now on. Readable through [`AsFd`] when there is something.
pub struct Events {
    channel: Channel,
    dir: PodDir,
}

impl Events {
    /// Waits for the next event. Nothing once the shim has ended.
    pub fn wait(&mut self) -> Result<Option<Event>> {
        match hear(&mut self.channel, &self.dir) {
            Ok((Response::Event(event), _)) => Ok(Some(event)),
            Ok((other, _)) => unexpected(&other),
            Err(error) if error.kind == crate::ErrorKind::ShimGone => Ok(None),
            Err(error) => Err(error),
        }
    }
}

impl AsFd for Events {
    fn as_fd(&self) -> BorrowedFd<'_> {
        self.channel.as_fd()
    }
}
