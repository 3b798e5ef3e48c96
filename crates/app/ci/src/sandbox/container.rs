//! A sandbox as a container of its own.

use std::{
    fs,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::Context as _;
use futures_util::future::BoxFuture;
use rustix::pipe::{PipeFlags, pipe_with};
use tokio::{sync::mpsc, task::spawn_blocking};
use wharf_base::Hinted;
use wharf_runtime::{
    ContainerConfig, ErrorKind, ExecConfig, LogConfig, Network, RootFs, Runtime, Sandbox, SandboxConfig,
    Seccomp, SpecOptions, Stdin, WhenIdle, mount,
};

use super::{Cancel, Command, JobNetwork, JobSandbox, Line, SandboxSpec, Sandboxes, WORKSPACE, relay};

/// The one container of a sandbox.
const MAIN: &str = "main";
const PATH: &str = "/usr/local/sbin:/usr/local/bin:/usr/sbin:/usr/bin:/sbin:/bin";

/// Makes containers for jobs.
#[derive(Clone)]
pub struct Containers {
    runtime: Arc<dyn Runtime>,
    /// The data folder, which holds the images.
    data: PathBuf,
    /// Its containers' cgroups are below this one.
    cgroup: String,
    network: Option<Arc<dyn JobNetwork>>,
}

impl Containers {
    /// Containers of the images of `data`. Without a network they have only `lo`.
    pub fn new(
        runtime: Arc<dyn Runtime>,
        data: impl Into<PathBuf>,
        cgroup: impl Into<String>,
        network: Option<Arc<dyn JobNetwork>>,
    ) -> Self {
        Self { runtime, data: data.into(), cgroup: cgroup.into(), network }
    }

    fn start_blocking(&self, spec: &SandboxSpec) -> anyhow::Result<Arc<dyn JobSandbox>> {
        let started = self.start_held(spec);
        if started.is_err() {
            release_image(&self.data, &spec.id)?;
        }
        started
    }

    fn start_held(&self, spec: &SandboxSpec) -> anyhow::Result<Arc<dyn JobSandbox>> {
        // The folder is there first: by it the lease of an interrupted job is found again.
        fs::create_dir_all(&spec.folder).with_context(|| format!("cannot make {}", spec.folder.display()))?;
        let image = wharf_image::Store::open(&self.data)?
            .hold(&spec.image, &lease(&spec.id))
            .with_context(|| format!("cannot use the image {}", spec.image))?;
        let sandbox = self.runtime.create(
            &spec.folder,
            &SandboxConfig {
                id: spec.id.clone(),
                hostname: Some("job".into()),
                network: Network::New,
                ipc: wharf_runtime::Share::Own,
                uts: wharf_runtime::Share::Own,
                users: None,
                cgroup: None,
                sysctls: Default::default(),
                when_idle: WhenIdle::Stay,
                at_end: Vec::new(),
                labels: Default::default(),
            },
        )?;
        match self.fill(spec, &image, &*sandbox) {
            Ok(path) => Ok(Arc::new(JobContainer {
                sandbox: Arc::from(sandbox),
                id: spec.id.clone(),
                images: self.data.clone(),
                network: self.network.clone(),
                path,
            })),
            Err(error) => {
                sandbox.shutdown()?;
                self.detach(&spec.id)?;
                Err(error)
            }
        }
    }

    fn detach(&self, id: &str) -> anyhow::Result<()> {
        self.network.as_ref().map_or(Ok(()), |network| network.detach(id))
    }

    /// Starts the container that keeps the sandbox alive; gives its `PATH`.
    fn fill(
        &self,
        spec: &SandboxSpec,
        image: &wharf_image::ResolvedImage,
        sandbox: &dyn Sandbox,
    ) -> anyhow::Result<String> {
        let files = match &self.network {
            Some(network) => network.attach(&spec.id, &sandbox.network_namespace())?,
            None => super::NetworkFiles::default(),
        };
        let settings = &image.config.config;
        let mut env = vec![format!("PATH={PATH}"), "HOSTNAME=job".to_owned()];
        env.extend(settings.env.iter().cloned());
        env.extend(spec.env.iter().cloned());
        let path = env.iter().rev().find_map(|entry| entry.strip_prefix("PATH=")).unwrap_or(PATH).to_owned();
        let mut mounts = Vec::new();
        let etc = spec.folder.join("etc");
        fs::create_dir_all(&etc)?;
        let hosts = format!("127.0.0.1\tlocalhost job\n::1\tlocalhost\n{}", files.hosts);
        for (name, text) in
            [("hosts", hosts), ("hostname", "job\n".into()), ("resolv.conf", files.resolv_conf)]
        {
            let file = etc.join(name);
            fs::write(&file, text).with_context(|| format!("cannot write {}", file.display()))?;
            mounts.push(bind(&file, &format!("/etc/{name}"))?);
        }
        for (source, place) in &spec.mounts {
            mounts.push(bind(source, place)?);
        }
        let options = SpecOptions {
            // Waits for an input that never comes: `exec` runs what is to be run beside it.
            args: ["sh", "-c", "read _"].map(str::to_owned).to_vec(),
            env,
            cwd: WORKSPACE.into(),
            mounts,
            cgroup: format!("{}/{}", self.cgroup, spec.id),
            ..SpecOptions::default()
        };
        let config = ContainerConfig {
            name: MAIN.into(),
            spec: options.build()?,
            root: RootFs { lower: image.lower_dirs.clone(), volatile: true },
            // As on hosted runners a job is root in its container, or the files it shares would not be its own.
            user: None,
            groups: Vec::new(),
            seccomp: Seccomp::Default,
            stdin: Stdin::Open,
            log: Some(LogConfig::new(spec.folder.join("container.log"))),
            labels: Default::default(),
        };
        let started = sandbox.create_container(&config).and_then(|_| sandbox.start(MAIN));
        started.map_err(|error| match error.kind {
            ErrorKind::NoProgram => anyhow::Error::from(Hinted::new(
                format!("the image {} has no 'sh', which jobs need", spec.image),
                "choose another 'container:', or add a shell to the image",
            )),
            _ => error.into(),
        })?;
        Ok(path)
    }
}

fn bind(source: &Path, place: &str) -> anyhow::Result<wharf_runtime::oci::Mount> {
    Ok(mount(place, "bind", &source.to_string_lossy(), &["rbind", "rprivate"])?)
}

impl Sandboxes for Containers {
    fn start(&self, spec: SandboxSpec) -> BoxFuture<'_, anyhow::Result<Arc<dyn JobSandbox>>> {
        let containers = self.clone();
        Box::pin(async move { spawn_blocking(move || containers.start_blocking(&spec)).await? })
    }

    fn clean_up(&self, id: &str, folder: &Path) -> anyhow::Result<()> {
        match self.runtime.open(folder) {
            Ok(sandbox) => sandbox.shutdown()?,
            Err(_) => {
                self.runtime.clean_up(folder)?;
            }
        }
        self.detach(id)?;
        release_image(&self.data, id)
    }

    fn find_image(&self, image: &str) -> Result<(), wharf_image::Error> {
        wharf_image::Store::open(&self.data)?.find(image).map(drop)
    }
}

struct JobContainer {
    sandbox: Arc<dyn Sandbox>,
    id: String,
    images: PathBuf,
    network: Option<Arc<dyn JobNetwork>>,
    path: String,
}

/// The lease a job has on its image: what is collected meanwhile must not be its files.
fn lease(id: &str) -> String {
    format!("job-{id}")
}

fn release_image(images: &Path, id: &str) -> anyhow::Result<()> {
    Ok(wharf_image::Store::open(images)?.release(&lease(id))?)
}

impl JobSandbox for JobContainer {
    fn exec(
        &self,
        command: Command,
        lines: mpsc::Sender<Line>,
        mut cancel: Cancel,
    ) -> BoxFuture<'_, anyhow::Result<i32>> {
        let sandbox = Arc::clone(&self.sandbox);
        Box::pin(async move {
            let (stop, stopper) = pipe_with(PipeFlags::CLOEXEC)?;
            let mut work = spawn_blocking(move || run(&*sandbox, command, &stop, &lines));
            tokio::select! {
                done = &mut work => return done?,
                _ = cancel.stopped() => drop(stopper),
            }
            work.await?
        })
    }

    fn pause(&self) -> anyhow::Result<()> {
        Ok(self.sandbox.pause(MAIN)?)
    }

    fn resume(&self) -> anyhow::Result<()> {
        Ok(self.sandbox.unpause(MAIN)?)
    }

    fn path_variable(&self) -> String {
        self.path.clone()
    }

    fn stop(&self) -> BoxFuture<'_, anyhow::Result<()>> {
        let (sandbox, network, id) = (Arc::clone(&self.sandbox), self.network.clone(), self.id.clone());
        let images = self.images.clone();
        Box::pin(async move {
            spawn_blocking(move || {
                // The network goes first: its end of the wire would vanish with the namespace.
                let detached = network.map_or(Ok(()), |network| network.detach(&id));
                sandbox.shutdown()?;
                release_image(&images, &id)?;
                detached
            })
            .await?
        })
    }
}

fn run(
    sandbox: &dyn Sandbox,
    command: Command,
    stop: &std::os::fd::OwnedFd,
    lines: &mpsc::Sender<Line>,
) -> anyhow::Result<i32> {
    let (output, output_in) = pipe_with(PipeFlags::CLOEXEC)?;
    let (error, error_in) = pipe_with(PipeFlags::CLOEXEC)?;
    let config =
        ExecConfig { args: command.args, env: command.env, cwd: Some(command.cwd), ..ExecConfig::default() };
    let exec = sandbox.exec(MAIN, &config, [None, Some(output_in), Some(error_in)])?;
    relay::follow(exec, [output, error], stop, lines)
}
