//! `RUN`: a throw-away container on the stage's layers, whose changes become a layer.

use std::{
    collections::BTreeSet,
    fs,
    path::{Path, PathBuf},
};

use wharf_image::{Layer, Platform, View};

use super::{
    emulation::{Runs, runs},
    platform::is_same,
    run_container::{Container, HOSTNAME, NAME},
    run_mounts::{Ready, Wanted, bind},
    settings::PROXY_ARGS,
    stage::StageRun,
    stubs::Stubs,
};
use crate::{
    attest::Op,
    cache::KeyMaker,
    cdi::{Granted, Registry, Request},
    dockerfile::{Network, Run},
    error::{Error, IoContext, Result},
    progress::StepId,
    workspace::Temp,
};

/// What a step runs.
struct Program {
    args: Vec<String>,
    /// A heredoc with an interpreter of its own: its name and content.
    script: Option<(String, String)>,
}

/// A step with everything put in.
struct Job {
    program: Program,
    network: Network,
    /// Build arguments it sees.
    args: Vec<String>,
    registry: Registry,
    /// The devices it gets, by their full names.
    devices: BTreeSet<String>,
}

impl StageRun<'_> {
    /// Runs the step; true when its result was there.
    pub(crate) fn run(&mut self, run: &Run, step: StepId) -> Result<bool> {
        let job = self.run_job(run)?;
        self.note_run(&job, run.insecure);
        let mut key = self.run_key(run, &job);
        let wanted = self.wanted_mounts(&run.mounts, &mut key)?;
        let key = key.key();
        let created_by = created_by(&job.args, &job.program.args);
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
        let runs = runs(&self.state.platform)?;
        let _slot = self.build.slot();
        self.build.check()?;
        let layer = self.execute(run, step, &job, (&wanted, &runs))?;
        self.keep(&[key], layer.as_ref(), key, created_by)?;
        Ok(false)
    }

    /// What the step is, with all it may do allowed. That is asked also where the result is known: what a build may do
    /// does not depend on its cache.
    fn run_job(&self, run: &Run) -> Result<Job> {
        self.check_allowed(run)?;
        let network = match run.network {
            Network::Default => self.build.request.network,
            chosen => chosen,
        };
        let wanted = run.devices.iter().map(|text| Request::parse(text)).collect::<Result<Vec<_>>>()?;
        let registry = match wanted.is_empty() {
            true => Registry::default(),
            false => Registry::read(&self.build.builder.device_dirs),
        };
        let devices = self.devices(&registry, &wanted)?;
        Ok(Job { program: self.program(run)?, network, args: self.args_with_values(), registry, devices })
    }

    /// What the step's result depends on, but for its mounts.
    fn run_key(&self, run: &Run, job: &Job) -> KeyMaker {
        let Job { program, network, args, devices, .. } = job;
        let mut key = self.build.key("run-1");
        key.digest(&self.state.key).texts(program.args.iter().map(String::as_str));
        key.texts(self.state.config.env.iter().map(String::as_str)).texts(args.iter().map(String::as_str));
        key.text(&self.state.config.working_dir).text(&self.state.config.user).text(&format!("{network:?}"));
        if run.insecure {
            key.text("insecure");
        }
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
        key
    }

    /// Runs the step's container and makes a layer of what it changed.
    fn execute(
        &self,
        run: &Run,
        step: StepId,
        job: &Job,
        (wanted, runs): (&[Wanted], &Runs),
    ) -> Result<Option<Layer>> {
        let temp = self.build.builder.workspace.temp()?;
        let mut ready = self.ready_mounts(wanted, &temp)?;
        let devices = Granted::of(&job.registry, &job.devices)?;
        ready.env.extend(devices.env.iter().cloned());
        let env = self.environment(&job.args, &ready);
        ready.mounts.extend(devices.mounts.iter().cloned());
        self.add_files(&job.program, job.network, &temp, &mut ready)?;
        if let Runs::With(interpreter) = runs {
            ready.mounts.push(bind(&interpreter.to_string_lossy(), interpreter, true)?);
        }
        let lower = self.folders_of(&self.state)?;
        let stubs = Stubs::before(&View::overlay(&lower)?, &ready.mounts)?;
        let mounts = std::mem::take(&mut ready.mounts);
        let container = Container {
            stage: self,
            temp: &temp,
            step,
            lower,
            network: job.network,
            insecure: run.insecure,
            devices: &devices,
            mask: &ready.mask,
        };
        ready.mask.over(container.run(&job.program.args, env, mounts))?;
        drop(ready);
        let changes = temp.pod().join("containers").join(NAME).join("upper");
        stubs.remove(&changes)?;
        let scratch = self.build.builder.images.scratch()?;
        take_over(&changes, &scratch.upper())?;
        self.commit(scratch)
    }

    fn note_run(&self, job: &Job, insecure: bool) {
        self.build.note_network(job.network);
        let env = [self.state.config.env.clone(), job.args.clone()].concat();
        self.doing.borrow_mut().op = Some(Op::Exec {
            args: job.program.args.clone(),
            env,
            cwd: self.state.config.working_dir.clone(),
            user: self.state.config.user.clone(),
            network: match job.network {
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
