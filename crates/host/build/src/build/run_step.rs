//! `RUN`: a throw-away container on the stage's layers, whose changes become a layer.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::{AsFd, OwnedFd},
    path::{Path, PathBuf},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use wharf_base::random_hex;
use wharf_image::{FREE_SPACE, Platform, View};
use wharf_runtime::{
    ContainerConfig, Network as PodNetwork, RootFs, Sandbox, SandboxConfig, Seccomp, Share, SignalTo,
    SpecOptions, Stdin, WhenIdle, oci,
};

use super::{
    emulation::{Runs, runs},
    mask::Mask,
    platform::is_same,
    run_mounts::{Ready, bind},
    settings::PROXY_ARGS,
    stage::StageRun,
    stubs::Stubs,
};
use crate::{
    attest::Op,
    cdi::{Granted, Registry, Request},
    dockerfile::{Network, Run},
    error::{Error, ErrorKind, IoContext, Result},
    progress::{Progress, StepId},
    workspace::{Temp, end_pod},
};

const NAME: &str = "run";
const HOSTNAME: &str = "buildstep";
/// A longer line is told in pieces.
const MAX_LINE: usize = 16 << 10;
const KILL: i32 = 9;

/// What a step runs.
struct Program {
    args: Vec<String>,
    /// A heredoc with an interpreter of its own: its name and content.
    script: Option<(String, String)>,
}

impl StageRun<'_> {
    /// Runs the step; true when its result was there.
    pub(crate) fn run(&mut self, run: &Run, step: StepId) -> Result<bool> {
        self.check_allowed(run)?;
        let program = self.program(run)?;
        let network = match run.network {
            Network::Default => self.build.request.network,
            chosen => chosen,
        };
        let args = self.args_with_values();
        self.note_run(&program, &args, network, run.insecure);
        let mut key = self.build.key("run-1");
        key.digest(&self.state.key).texts(program.args.iter().map(String::as_str));
        key.texts(self.state.config.env.iter().map(String::as_str)).texts(args.iter().map(String::as_str));
        key.text(&self.state.config.working_dir).text(&self.state.config.user).text(&format!("{network:?}"));
        if run.insecure {
            key.text("insecure");
        }
        let devices = run.devices.iter().map(|text| Request::parse(text)).collect::<Result<Vec<_>>>()?;
        let registry = match devices.is_empty() {
            true => Registry::default(),
            false => Registry::read(&self.build.builder.device_dirs),
        };
        // Also where the result is known: what a build may do does not depend on its cache.
        let devices = self.devices(&registry, &devices)?;
        if !run.devices.is_empty() {
            key.text("devices").texts(devices.iter().map(String::as_str));
        }
        if !is_same(&self.state.platform, &Platform::host()) {
            key.text("platform").text(&self.state.platform.to_string());
        }
        for (name, address) in &self.build.request.hosts {
            key.text(name).text(address);
        }
        key.texts(program.script.iter().map(|(_, content)| content.as_str()));
        let wanted = self.wanted_mounts(&run.mounts, &mut key)?;
        let key = key.key();
        let created_by = created_by(&args, &program.args);
        if let Some(record) = self.cached(&key) {
            self.state.take(&record, created_by);
            return Ok(true);
        }
        let turn = self.turn(&key)?;
        if turn.waited
            && let Some(record) = self.cached(&key)
        {
            self.state.take(&record, created_by);
            return Ok(true);
        }
        let interpreter = match runs(&self.state.platform)? {
            Runs::Anywhere => None,
            Runs::With(path) => Some(path),
        };
        let _slot = self.build.slot();
        self.build.check()?;
        let temp = self.build.builder.workspace.temp()?;
        let mut ready = self.ready_mounts(&wanted, &temp)?;
        let devices = Granted::of(&registry, &devices)?;
        ready.env.extend(devices.env.iter().cloned());
        let env = self.environment(&args, &ready);
        ready.mounts.extend(devices.mounts.iter().cloned());
        self.add_files(&program, network, &temp, &mut ready)?;
        if let Some(path) = &interpreter {
            ready.mounts.push(bind(&path.to_string_lossy(), path, true)?);
        }
        let lower = self.folders_of(&self.state)?;
        let stubs = Stubs::before(&View::overlay(&lower)?, &ready.mounts)?;
        let mounts = std::mem::take(&mut ready.mounts);
        let container = Container {
            stage: self,
            temp: &temp,
            step,
            lower,
            network,
            insecure: run.insecure,
            devices: &devices,
            mask: &ready.mask,
        };
        ready.mask.over(container.run(&program.args, env, mounts))?;
        drop(ready);
        let changes = temp.pod().join("containers").join(NAME).join("upper");
        stubs.remove(&changes)?;
        let scratch = self.build.builder.images.scratch()?;
        take_over(&changes, &scratch.upper())?;
        let layer = self.commit(scratch)?;
        self.keep(&[key], layer.as_ref(), key, created_by)?;
        Ok(false)
    }

    fn note_run(&self, program: &Program, args: &[String], network: Network, insecure: bool) {
        self.build.note_network(network);
        let env = [self.state.config.env.clone(), args.to_vec()].concat();
        self.doing.borrow_mut().op = Some(Op::Exec {
            args: program.args.clone(),
            env,
            cwd: self.state.config.working_dir.clone(),
            user: self.state.config.user.clone(),
            network: match network {
                Network::Default => "UNSET",
                Network::None => "NONE",
                Network::Host => "HOST",
            },
            insecure,
        });
    }

    /// What only the caller of the build can allow.
    fn check_allowed(&self, run: &Run) -> Result<()> {
        let (allowed, wanted) = (&self.build.request.allowed, self.build.request.network);
        if run.insecure && !allowed.insecure {
            return Err(Error::invalid("RUN --security=insecure is not allowed in this build")
                .hint("if you trust this Dockerfile as you trust root, add --allow security.insecure"));
        }
        if run.network == Network::Host && wanted != Network::Host && !allowed.host_network {
            return Err(Error::invalid("RUN --network=host is not allowed in this build")
                .hint("if the step may use the network of this machine, add --allow network.host"));
        }
        Ok(())
    }

    fn program(&self, run: &Run) -> Result<Program> {
        let command = &run.command;
        if command.exec {
            return Ok(Program { args: command.args.clone(), script: None });
        }
        let text = command.args.concat();
        let words = [self.state.shell(), vec![text.clone()]].concat();
        match command.heredocs.as_slice() {
            [] => Ok(Program { args: words, script: None }),
            // The heredoc is the whole command: a script for the shell, or with an interpreter of its own.
            [only] if text.split_whitespace().count() == 1 && text.starts_with("<<") => {
                if only.content.starts_with("#!") {
                    let path = format!("/dev/pipes/{}", only.name);
                    return Ok(Program {
                        args: vec![path],
                        script: Some((only.name.clone(), only.content.clone())),
                    });
                }
                Ok(Program { args: [self.state.shell(), vec![only.content.clone()]].concat(), script: None })
            }
            // The shell reads its heredocs itself.
            several => {
                let mut full = text;
                for heredoc in several {
                    full.push_str(&format!("\n{}{}", heredoc.content, heredoc.name));
                }
                Ok(Program { args: [self.state.shell(), vec![full]].concat(), script: None })
            }
        }
    }

    /// Declared build arguments that have a value and that no `ENV` stands before.
    fn args_with_values(&self) -> Vec<String> {
        let with_value = self.state.args.iter().filter_map(|(name, value)| Some((name, value.as_ref()?)));
        with_value
            .filter(|(name, _)| self.state.variable(name).is_none())
            .map(|(name, value)| format!("{name}={value}"))
            .collect()
    }

    fn environment(&self, args: &[String], ready: &Ready) -> Vec<String> {
        let mut env = self.state.config.env.clone();
        env.extend(args.iter().cloned());
        // Proxies are the machine's business: given to the step, but no part of its key or of the image.
        for name in PROXY_ARGS {
            if let Some(value) =
                self.build.request.args.get(name).filter(|_| self.state.value(name).is_none())
            {
                env.push(format!("{name}={value}"));
            }
        }
        env.extend(ready.env.iter().cloned());
        env.push(format!("HOSTNAME={HOSTNAME}"));
        env
    }

    /// Files every container has from outside, and the script of a heredoc.
    fn add_files(&self, program: &Program, network: Network, temp: &Temp, ready: &mut Ready) -> Result<()> {
        let put = |name: &str, content: &[u8]| -> Result<PathBuf> {
            let path = temp.path().join(name);
            fs::write(&path, content).at("write", &path)?;
            Ok(path)
        };
        let mut hosts = format!("127.0.0.1 localhost {HOSTNAME}\n::1 localhost ip6-localhost ip6-loopback\n");
        for (name, address) in &self.build.request.hosts {
            hosts.push_str(&format!("{address} {name}\n"));
        }
        ready.mounts.push(bind("/etc/hosts", &put("hosts", hosts.as_bytes())?, true)?);
        let resolver = match network {
            Network::Host => fs::read("/etc/resolv.conf").unwrap_or_default(),
            Network::Default => {
                self.build.builder.network.as_ref().map_or_else(Vec::new, |net| net.resolver())
            }
            Network::None => Vec::new(),
        };
        ready.mounts.push(bind("/etc/resolv.conf", &put("resolv.conf", &resolver)?, true)?);
        if let Some((name, content)) = &program.script {
            let path = put("script", content.as_bytes())?;
            let mode = std::os::unix::fs::PermissionsExt::from_mode(0o755);
            fs::set_permissions(&path, mode).at("set the mode of", &path)?;
            ready.mounts.push(bind(&format!("/dev/pipes/{name}"), &path, true)?);
        }
        Ok(())
    }
}

/// How Docker's history tells of a step.
fn created_by(args: &[String], program: &[String]) -> String {
    let args = if args.is_empty() { String::new() } else { format!("|{} {} ", args.len(), args.join(" ")) };
    format!("RUN {args}{}", program.join(" "))
}

/// A step's container.
struct Container<'a> {
    stage: &'a StageRun<'a>,
    temp: &'a Temp,
    step: StepId,
    lower: Vec<PathBuf>,
    network: Network,
    insecure: bool,
    devices: &'a Granted,
    mask: &'a Mask,
}

/// Ends the pod, whatever happens.
struct Pod<'a> {
    container: &'a Container<'a>,
    sandbox: Box<dyn Sandbox>,
    /// The pod's name in the network it is connected to.
    attached: Option<String>,
}

impl Drop for Pod<'_> {
    fn drop(&mut self) {
        if self.sandbox.shutdown().is_err() {
            end_pod(&*self.container.stage.build.builder.runtime, &self.container.temp.pod());
        }
        if let (Some(id), Some(network)) = (&self.attached, &self.container.stage.build.builder.network) {
            network.detach(id);
        }
    }
}

impl Container<'_> {
    fn run(&self, args: &[String], env: Vec<String>, mounts: Vec<oci::Mount>) -> Result<()> {
        let runtime = &self.stage.build.builder.runtime;
        let id = format!("build-{}", random_hex(8));
        let config = self.config(&id, args, env, mounts)?;
        let sandbox = runtime.create(&self.temp.pod(), &self.sandbox(&id))?;
        let mut pod = Pod { container: self, sandbox, attached: None };
        self.connect(&mut pod)?;
        for warning in pod.sandbox.create_container(&config)?.warnings {
            self.tell(true, format!("warning: {warning}"));
        }
        let [_, output, errors] = pod.sandbox.attach(NAME)?;
        let mut ending = pod.sandbox.watch(NAME)?;
        pod.sandbox.start(NAME)?;
        self.follow(&*pod.sandbox, [output, errors])?;
        let exit = ending.wait()?;
        if exit.code == 0 {
            return Ok(());
        }
        let shown: String = args.join(" ").chars().take(300).collect();
        let error = Error::new(
            ErrorKind::Failed { code: exit.code },
            format!("'{shown}' ended with exit code {}", exit.code),
        );
        Err(match exit.oom_killed {
            true => error.hint("it was killed for want of memory"),
            // Its files are still there: they go with the step.
            false if self.is_disk_full() => {
                let folder = self.temp.path().display();
                error.hint(format!("no space is left on the disk of '{folder}'; {FREE_SPACE}"))
            }
            false if exit.code == 127 => error.hint("the program is not in the image"),
            false => error,
        })
    }

    /// Connects the pod to the network of steps that ask for none in particular.
    fn connect(&self, pod: &mut Pod<'_>) -> Result<()> {
        let Some(network) = &self.stage.build.builder.network else { return Ok(()) };
        if self.network != Network::Default {
            return Ok(());
        }
        let id = format!("build-{}", self.temp.name());
        // Also what was attached by half is to be taken back.
        pod.attached = Some(id.clone());
        network.attach(&id, &pod.sandbox.network_namespace()).map_err(|error| {
            Error::host(format!("cannot connect the step to a network: {error}")).hint(
                "build with --network none, or --network host if the steps may use this machine's network",
            )
        })
    }

    fn is_disk_full(&self) -> bool {
        rustix::fs::statvfs(self.temp.path())
            .is_ok_and(|disk| disk.f_bavail.saturating_mul(disk.f_frsize) < 64 << 10)
    }

    fn sandbox(&self, id: &str) -> SandboxConfig {
        let host = self.network == Network::Host;
        SandboxConfig {
            id: id.to_owned(),
            hostname: Some(HOSTNAME.to_owned()),
            network: if host { PodNetwork::Host } else { PodNetwork::New },
            ipc: Share::Own,
            uts: Share::Own,
            cgroup: None,
            sysctls: BTreeMap::new(),
            when_idle: WhenIdle::Exit,
            at_end: Vec::new(),
            labels: BTreeMap::new(),
        }
    }

    fn config(
        &self,
        id: &str,
        args: &[String],
        env: Vec<String>,
        mounts: Vec<oci::Mount>,
    ) -> Result<ContainerConfig> {
        let settings = &self.stage.state.config;
        let devices = self.devices;
        let mut resources = oci::LinuxResources::default();
        if !devices.rules.is_empty() {
            resources.set_devices(Some(devices.rules.clone()));
        }
        let spec = SpecOptions {
            args: args.to_vec(),
            env,
            cwd: settings.working_dir.clone(),
            mounts,
            cgroup: format!("wharf/{id}"),
            privileged: self.insecure,
            shm_bytes: self.stage.build.request.shm_bytes,
            devices: devices.devices.clone(),
            resources,
            ..SpecOptions::default()
        };
        let mut spec = spec.build()?;
        if let Some(hooks) = &devices.hooks {
            spec.set_hooks(Some(hooks.clone()));
        }
        Ok(ContainerConfig {
            name: NAME.to_owned(),
            spec,
            root: RootFs { lower: self.lower.clone(), volatile: true },
            user: Some(settings.user.clone()),
            groups: devices.groups.iter().map(u32::to_string).collect(),
            seccomp: if self.insecure { Seccomp::Unconfined } else { Seccomp::Default },
            stdin: Stdin::Null,
            log: None,
            labels: BTreeMap::new(),
        })
    }

    fn tell(&self, is_error: bool, line: String) {
        (self.stage.build.listener)(Progress::Output {
            step: self.step,
            is_error,
            line: self.mask.cover(line),
        });
    }

    /// Passes the output on until both streams end. A cancelled build ends the step.
    fn follow(&self, sandbox: &dyn Sandbox, outputs: [Option<OwnedFd>; 2]) -> Result<()> {
        let mut streams = outputs.map(|fd| Stream { fd, pending: Vec::new() });
        while streams.iter().any(|stream| stream.fd.is_some()) {
            if self.stage.build.is_over() {
                sandbox.kill(NAME, KILL, SignalTo::All)?;
                return Err(Error::cancelled());
            }
            let mut polled: Vec<PollFd<'_>> = streams
                .iter()
                .filter_map(|s| Some(PollFd::from_borrowed_fd(s.fd.as_ref()?.as_fd(), PollFlags::IN)))
                .collect();
            let tick = Timespec { tv_sec: 0, tv_nsec: 100_000_000 };
            match poll(&mut polled, Some(&tick)) {
                Ok(0) | Err(Errno::INTR) => continue,
                Ok(_) => {}
                Err(error) => return Err(error).at("wait for the output of", "the step"),
            }
            let mut ready = polled.iter().map(|fd| !fd.revents().is_empty()).collect::<Vec<_>>().into_iter();
            for (number, stream) in streams.iter_mut().enumerate() {
                if stream.fd.is_some() && ready.next() == Some(true) {
                    stream.read(&mut |line| self.tell(number == 1, line));
                }
            }
        }
        Ok(())
    }
}

/// One stream of a step's output.
struct Stream {
    fd: Option<OwnedFd>,
    pending: Vec<u8>,
}

impl Stream {
    fn read(&mut self, tell: &mut dyn FnMut(String)) {
        let Some(fd) = &self.fd else { return };
        let mut buffer = [0; 16 << 10];
        match rustix::io::read(fd, &mut buffer) {
            Ok(count @ 1..) => {
                for byte in buffer.iter().take(count) {
                    match byte {
                        b'\n' | b'\r' if self.pending.is_empty() && *byte == b'\r' => {}
                        b'\n' | b'\r' => self.flush(tell),
                        byte => self.pending.push(*byte),
                    }
                    if self.pending.len() >= MAX_LINE {
                        self.flush(tell);
                    }
                }
            }
            Err(Errno::INTR | Errno::AGAIN) => {}
            Ok(_) | Err(_) => {
                if !self.pending.is_empty() {
                    self.flush(tell);
                }
                self.fd = None;
            }
        }
    }

    fn flush(&mut self, tell: &mut dyn FnMut(String)) {
        tell(String::from_utf8_lossy(&self.pending).into_owned());
        self.pending.clear();
    }
}

/// Moves a step's changes to where layers are made.
fn take_over(changes: &Path, upper: &Path) -> Result<()> {
    fs::remove_dir(upper).at("replace", upper)?;
    match fs::rename(changes, upper) {
        Ok(()) => Ok(()),
        Err(error) if error.kind() == std::io::ErrorKind::CrossesDevices => {
            Err(Error::host("the build cache and the image store lie on two file systems")
                .hint("put both into one data folder"))
        }
        Err(error) => Err(error).at("move the changes of the step to", upper),
    }
}
