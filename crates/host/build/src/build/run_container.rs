//! The container of a `RUN` step: started, its output passed on, ended whatever happens.

use std::{
    collections::BTreeMap,
    os::fd::{AsFd, OwnedFd},
    path::PathBuf,
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use wharf_base::random_hex;
use wharf_image::FREE_SPACE;
use wharf_runtime::{
    ContainerConfig, Network as PodNetwork, RootFs, Sandbox, SandboxConfig, Seccomp, Share, SignalTo,
    SpecOptions, Stdin, WhenIdle, oci,
};

use super::{mask::Mask, stage::StageRun};
use crate::{
    cdi::Granted,
    dockerfile::Network,
    error::{Error, ErrorKind, IoContext, Result},
    progress::{Progress, StepId},
    workspace::{Temp, end_pod},
};

/// The container's name in its pod.
pub(super) const NAME: &str = "run";
pub(super) const HOSTNAME: &str = "buildstep";
/// A longer line is told in pieces.
const MAX_LINE: usize = 16 << 10;
const KILL: i32 = 9;

/// A step's container.
pub(super) struct Container<'a> {
    pub(super) stage: &'a StageRun<'a>,
    pub(super) temp: &'a Temp,
    pub(super) step: StepId,
    pub(super) lower: Vec<PathBuf>,
    pub(super) network: Network,
    pub(super) insecure: bool,
    pub(super) devices: &'a Granted,
    pub(super) mask: &'a Mask,
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
    /// Runs the step's program to its end.
    pub(super) fn run(&self, args: &[String], env: Vec<String>, mounts: Vec<oci::Mount>) -> Result<()> {
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
            false => error.hint(hint_of(exit.code)),
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
            users: None,
            cgroup: None,
            sysctls: BTreeMap::new(),
            // A build that is killed can end nothing itself.
            when_idle: WhenIdle::WithCaller,
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

/// What to do about a program that ended with this code.
fn hint_of(code: i32) -> String {
    match code {
        126 => "a program of it cannot be executed: make it executable (chmod +x), and build it for this platform".into(),
        127 => "a program of it is not in the image: install it in a RUN step before, or correct its name".into(),
        129..=159 => format!("it was killed by signal {}: look at what it printed above", code - 128),
        _ => "it says why in its output above; to try it by hand, build the file up to the line before, and open a shell \
              in that image with 'wharf run -it IMAGE sh'"
            .into(),
    }
}
