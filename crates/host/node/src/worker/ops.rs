//! The work itself: sandbox, start, stop, removal. Each runs beside the worker and reports back.

use std::{
    fs, io,
    net::IpAddr,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use tokio::{
    sync::watch,
    task::spawn_blocking,
    time::{Instant, sleep_until, timeout},
};
use wharf_base::{Clock, SystemClock, Timestamp, random_hex};
use wharf_runtime::{Cgroup, ErrorKind, PodDir, Sandbox, SignalTo};

use super::{
    exec::Target,
    recover::{START_ERROR, log_path},
};
use crate::{
    agent::Shared,
    config::Failure,
    env::{self, Facts},
    etc,
    events::Level,
    images,
    model::{Container, Pod},
    probe,
    resources::{container_limits, pod_cgroup, pod_limits, unlimited},
    spec::{self, Run, STOP_SIGNAL, in_force, run_name},
    step::{Reason, Termination},
    volumes::{self, Tokens, Upkeep, Volumes, container_mounts},
};

/// A pod ready for its containers.
pub(crate) struct Ready {
    pub(crate) sandbox: Arc<dyn Sandbox>,
    pub(crate) ip: Option<IpAddr>,
    pub(crate) volumes: Volumes,
    pub(crate) upkeep: Upkeep,
    pub(crate) tokens: Tokens,
}

fn sandbox_failed(why: impl std::fmt::Display) -> Reason {
    Reason::new("FailedCreatePodSandBox", format!("Failed to create pod sandbox: {why}"))
}

async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T, Reason> + Send + 'static,
) -> Result<T, Reason> {
    spawn_blocking(work).await.unwrap_or_else(|_| Err(sandbox_failed("the work was broken off")))
}

/// Makes sandbox, network and volumes; takes what is there already.
pub(crate) async fn set_up(
    shared: Arc<Shared>,
    pod: Arc<Pod>,
    folder: PathBuf,
    living: Option<Arc<dyn Sandbox>>,
    mut tokens: Tokens,
) -> Result<Ready, Reason> {
    let made = {
        let (shared, pod, folder) = (Arc::clone(&shared), Arc::clone(&pod), folder.clone());
        blocking(move || make_sandbox(&shared, &pod, &folder, living))
    };
    let (sandbox, ip) = made.await?;
    let facts = Facts { pod: &pod, ip, host_ip: shared.address, machine: &shared.machine };
    match volumes::prepare(&shared, &facts, &folder, &mut tokens).await {
        Ok((volumes, upkeep)) => Ok(Ready { sandbox, ip, volumes, upkeep, tokens }),
        // The sandbox stays for the next try: it is found by the folder.
        Err(reason) => Err(reason),
    }
}

/// Brings the files of a pod's volumes up to date.
pub(crate) async fn refresh(place: Place, mut tokens: Tokens) -> Result<Ready, Reason> {
    let shared = &place.shared;
    let facts = Facts { pod: &place.pod, ip: place.ip, host_ip: shared.address, machine: &shared.machine };
    let (volumes, upkeep) = volumes::prepare(shared, &facts, &place.folder, &mut tokens).await?;
    Ok(Ready { sandbox: place.sandbox, ip: place.ip, volumes, upkeep, tokens })
}

fn make_sandbox(
    shared: &Shared,
    pod: &Pod,
    folder: &Path,
    living: Option<Arc<dyn Sandbox>>,
) -> Result<(Arc<dyn Sandbox>, Option<IpAddr>), Reason> {
    let config = &shared.config;
    let io = |error: io::Error| sandbox_failed(error);
    fs::DirBuilder::new().recursive(true).mode(0o700).create(folder).map_err(io)?;
    let is_new = living.is_none();
    let sandbox: Arc<dyn Sandbox> = match living {
        Some(sandbox) => sandbox,
        None => {
            let wanted = spec::sandbox(pod, &config.instance, &config.cluster_domain);
            let made = match config.runtime.create(folder, &wanted) {
                Err(error) if error.kind == ErrorKind::Exists => config.runtime.open(folder),
                other => other,
            };
            Arc::from(made.map_err(sandbox_failed)?)
        }
    };
    let ip = match pod.spec.host_network {
        true => Some(shared.address),
        false => {
            let attached = config.network.attach(&pod.metadata.uid, &sandbox.network_namespace());
            let attached = attached.map_err(|failure| {
                // A new pod without network must not stay half made; what runs already goes on.
                if is_new {
                    let _ = sandbox.shutdown();
                }
                sandbox_failed(format_args!("the network: {failure}"))
            })?;
            Some(attached)
        }
    };
    write_etc(shared, pod, folder, ip).map_err(io)?;
    Ok((sandbox, ip))
}

fn write_etc(shared: &Shared, pod: &Pod, folder: &Path, ip: Option<IpAddr>) -> io::Result<()> {
    let (config, etc) = (&shared.config, folder.join("etc"));
    fs::create_dir_all(&etc)?;
    let of_machine = |path: &str| fs::read_to_string(path).unwrap_or_default();
    let hosts = match pod.spec.host_network {
        true => of_machine("/etc/hosts") + &etc::aliases(pod),
        false => etc::hosts(pod, ip, &config.cluster_domain),
    };
    let hostname = hostname(shared, pod);
    let resolver = etc::resolver(pod, config.dns, &config.cluster_domain, &of_machine("/etc/resolv.conf"));
    for (name, text) in [("hosts", hosts), ("hostname", hostname + "\n"), ("resolv.conf", resolver)] {
        let file = etc.join(name);
        // Containers hold the file itself: it is written in place, and only when it differs.
        if fs::read_to_string(&file).ok().as_ref() != Some(&text) {
            fs::write(file, text)?;
        }
    }
    Ok(())
}

/// The name a pod's programs see: the machine's own on its network.
fn hostname(shared: &Shared, pod: &Pod) -> String {
    if pod.spec.host_network { shared.machine.hostname.clone() } else { pod.hostname() }
}

/// What a container is started in.
#[derive(Clone)]
pub(crate) struct Place {
    pub(crate) shared: Arc<Shared>,
    pub(crate) pod: Arc<Pod>,
    pub(crate) folder: PathBuf,
    pub(crate) sandbox: Arc<dyn Sandbox>,
    pub(crate) ip: Option<IpAddr>,
}

/// A started container.
#[derive(Debug)]
pub(crate) struct Started {
    pub(crate) id: String,
    pub(crate) image_id: String,
    pub(crate) since: Timestamp,
}

/// Why a container does not run.
#[derive(Debug)]
pub(crate) enum Unstarted {
    /// It can be tried again.
    Retry(Reason),
    /// Its program could not be started: a run that has ended.
    Ended(Box<Termination>),
}

impl From<Reason> for Unstarted {
    fn from(reason: Reason) -> Self {
        Self::Retry(reason)
    }
}

impl Place {
    fn note(&self, container: &Container, level: Level, reason: &str, message: impl Into<String>) {
        self.shared.events.pod(&self.pod.metadata, Some(&container.name), level, reason, message);
    }

    /// The run of a container, to be asked something.
    pub(crate) fn target(&self, container: &Container, attempt: u32) -> Target {
        Target {
            sandbox: Arc::clone(&self.sandbox),
            run: run_name(&container.name, attempt),
            container: container.clone(),
            ip: self.ip,
            secure: Arc::clone(&self.shared.config.secure),
        }
    }

    /// Makes one run of a container and starts its program.
    pub(crate) async fn start(
        &self,
        container: &Container,
        attempt: u32,
        volumes: &Volumes,
        target: Option<&str>,
    ) -> Result<Started, Unstarted> {
        if let Some(reason) = spec::unsupported(&self.pod) {
            return Err(reason.into());
        }
        let (shared, pod) = (&self.shared, &self.pod);
        let image = images::ensure(shared, pod, container).await?;
        let lease = lease_name(&pod.metadata.uid, &container.name);
        shared.config.images.lease(&lease, &[image.manifest]).map_err(|error| {
            Reason::new("CreateContainerError", format!("the image cannot be held: {}", Failure::of(&error)))
        })?;
        let facts = Facts { pod, ip: self.ip, host_ip: shared.address, machine: &shared.machine };
        let env = env::resolve(&shared.config, &shared.objects, &facts, container).await?;
        let id = random_hex(32);
        let image_id = image.id.to_string();
        let place = self.clone();
        let (container, volumes) = (container.clone(), volumes.clone());
        let pids = self.pids_of(&container, target)?;
        let made = blocking(move || {
            let mounts = container_mounts(&volumes, &container, attempt, &env, &place.folder)?;
            let run = Run {
                pod: &place.pod,
                container: &container,
                attempt,
                id: id.clone(),
                image_id: image_id.clone(),
                image: &image.config.config,
                layers: image.lower_dirs,
                env,
                mounts: mounts.mounts,
                log: log_path(&place.folder, &container.name, attempt),
                cgroup: pod_cgroup(&place.shared.config.instance, &place.pod),
                machine_memory: place.shared.machine.memory,
                hostname: hostname(&place.shared, &place.pod),
                pids,
            };
            let config = run.config()?;
            Ok(place.run(&container, &config, id, image_id))
        });
        made.await?
    }

    /// The process ids a container looks into, by the path of their namespace.
    fn pids_of(&self, container: &Container, target: Option<&str>) -> Result<Option<PathBuf>, Reason> {
        if container.target_container_name.is_empty() {
            return Ok(None);
        }
        let pid = target.and_then(|run| self.sandbox.status(run).ok()?.pid);
        let pid = pid.ok_or_else(|| {
            let message = format!("the target container {} does not run", container.target_container_name);
            Reason::new("CreateContainerError", message)
        })?;
        Ok(Some(PathBuf::from(format!("/proc/{pid}/ns/pid"))))
    }

    /// Gives running containers, and the pod as a whole, the resources their specification asks for.
    pub(crate) async fn resize(&self, containers: &[(Container, u32)]) -> Result<(), Failure> {
        let (place, containers) = (self.clone(), containers.to_vec());
        let work = move || place.resize_now(&containers).map_err(|error| Failure::of(&error));
        spawn_blocking(work).await.unwrap_or_else(|_| Err(Failure("the work was broken off".to_owned())))
    }

    /// The pod is never smaller than a container in it: it grows before them and shrinks after them. Blocks.
    fn resize_now(&self, containers: &[(Container, u32)]) -> wharf_runtime::Result<()> {
        let whole = Cgroup::at(&pod_cgroup(&self.shared.config.instance, &self.pod))?;
        let limits = in_force(pod_limits(&self.pod));
        let grown = whole.update(&unlimited(&limits));
        for (container, attempt) in containers {
            let status = self.sandbox.status(&run_name(&container.name, *attempt))?;
            Cgroup::at(&status.cgroup)?.update(&in_force(container_limits(container)))?;
        }
        grown?;
        whole.update(&limits)
    }

    /// Creates and starts. Blocks.
    fn run(
        &self,
        container: &Container,
        config: &wharf_runtime::ContainerConfig,
        id: String,
        image_id: String,
    ) -> Result<Started, Unstarted> {
        let created_at = SystemClock.now();
        let cannot_start = |error: &wharf_runtime::Error| {
            self.note(container, Level::Warning, "Failed", format!("Error: {error}"));
            Unstarted::Ended(Box::new(Termination {
                id: id.clone(),
                code: 128,
                signal: None,
                reason: START_ERROR.to_owned(),
                message: error.to_string(),
                started: Some(created_at),
                finished: SystemClock.now(),
            }))
        };
        let status = match self.sandbox.create_container(config) {
            // Made by an agent that died before it started it.
            Err(error) if error.kind == ErrorKind::Exists => {
                let again = self.sandbox.kill(&config.name, 9, SignalTo::All);
                let again = again.and_then(|()| self.sandbox.wait(&config.name).map(drop));
                again
                    .and_then(|()| self.sandbox.delete(&config.name))
                    .and_then(|()| self.sandbox.create_container(config))
            }
            other => other,
        };
        let status = status.map_err(|error| match error.kind {
            ErrorKind::NoProgram | ErrorKind::NotExecutable => cannot_start(&error),
            _ => {
                self.note(container, Level::Warning, "Failed", format!("Error: {error}"));
                Unstarted::Retry(Reason::new("CreateContainerError", error.to_string()))
            }
        })?;
        for warning in &status.warnings {
            tracing::info!(pod = %self.pod.metadata.name, container = %container.name, warning, "container warning");
        }
        self.note(container, Level::Normal, "Created", format!("Created container: {}", container.name));
        self.sandbox.start(&config.name).map_err(|error| cannot_start(&error))?;
        self.note(container, Level::Normal, "Started", format!("Started container {}", container.name));
        Ok(Started { id, image_id, since: SystemClock.now() })
    }

    /// Runs the hook after the start, if there is one.
    pub(crate) async fn post_start(&self, container: &Container, attempt: u32) -> Result<(), String> {
        let Some(hook) = &container.lifecycle.post_start else { return Ok(()) };
        let ran = probe::run(&self.target(container, attempt), hook, HOOK_LIMIT).await;
        if let Err(why) = &ran {
            self.note(
                container,
                Level::Warning,
                "FailedPostStartHook",
                format!("PostStartHook failed: {why}"),
            );
        }
        ran
    }

    /// Ends a run: hook, signal, wait until `deadline`, kill.
    pub(crate) async fn stop(&self, container: &Container, attempt: u32, why: &str, mut end: End) {
        self.note(
            container,
            Level::Normal,
            "Killing",
            format!("Stopping container {}: {why}", container.name),
        );
        let run = run_name(&container.name, attempt);
        if let Some(hook) = &container.lifecycle.pre_stop {
            let target = self.target(container, attempt);
            let ran = tokio::select! {
                ran = probe::run(&target, hook, HOOK_LIMIT) => ran,
                () = end.over_or_due() => Ok(()),
            };
            if let Err(why) = ran {
                self.note(
                    container,
                    Level::Warning,
                    "FailedPreStopHook",
                    format!("PreStopHook failed: {why}"),
                );
            }
        }
        if !end.over() && !end.due() {
            let signal = stop_signal(&self.sandbox, &run);
            self.signal(&run, signal, SignalTo::First).await;
            end.over_or_due().await;
        }
        while !end.over() {
            self.signal(&run, 9, SignalTo::All).await;
            // A process in the kernel may take its time to die.
            let _ = timeout(KILL_AGAIN, end.wait_over()).await;
        }
    }

    async fn signal(&self, run: &str, signal: i32, to: SignalTo) {
        let (sandbox, run) = (Arc::clone(&self.sandbox), run.to_owned());
        // The program may have ended meanwhile; then its end is on its way.
        let _ = spawn_blocking(move || sandbox.kill(&run, signal, to)).await;
    }
}

/// The most a hook may take; ends earlier with the container's grace.
const HOOK_LIMIT: Duration = Duration::from_secs(3600);
const KILL_AGAIN: Duration = Duration::from_secs(2);

/// The end of a run, and until when it is waited for. The wait may be shortened.
#[derive(Clone)]
pub(crate) struct End {
    pub(crate) over: watch::Receiver<bool>,
    pub(crate) deadline: watch::Receiver<Instant>,
}

impl End {
    fn over(&self) -> bool {
        // Without a sender the worker is gone, and nobody waits any more.
        *self.over.borrow() || self.over.has_changed().is_err()
    }

    fn due(&self) -> bool {
        *self.deadline.borrow() <= Instant::now()
    }

    async fn wait_over(&mut self) {
        let _ = self.over.wait_for(|over| *over).await;
    }

    async fn over_or_due(&mut self) {
        loop {
            let deadline = *self.deadline.borrow_and_update();
            let mut over = self.over.clone();
            tokio::select! {
                _ = over.wait_for(|over| *over) => return,
                () = sleep_until(deadline) => return,
                changed = self.deadline.changed() => if changed.is_err() { return },
            }
        }
    }
}

fn stop_signal(sandbox: &Arc<dyn Sandbox>, run: &str) -> i32 {
    let config = sandbox.dir().container_config(run).ok();
    let name = config.and_then(|config| config.labels.get(STOP_SIGNAL).cloned()).unwrap_or_default();
    wharf_image::signal_number(&name).unwrap_or(15)
}

fn lease_name(uid: &str, container: &str) -> String {
    format!("pod-{uid}-{container}")
}

fn release_image(shared: &Shared, uid: &str, container: &str) {
    if let Err(error) = shared.config.images.release(&lease_name(uid, container)) {
        tracing::warn!(%error, pod = uid, "an image is still held");
    }
}

/// Gives the images of a pod back.
pub(crate) fn release_images(shared: &Shared, pod: &Pod) {
    pod.all_containers().for_each(|container| release_image(shared, &pod.metadata.uid, &container.name));
}

/// Gives the images back of a pod that is known only by its folder.
pub(crate) fn release_runs(shared: &Shared, uid: &str, folder: &Path) {
    for run in PodDir::at(folder).containers() {
        if let Some((container, _)) = spec::parse_run(&run) {
            release_image(shared, uid, container);
        }
    }
}

/// Ends a pod's sandbox and takes back network and mounts. Logs and exit statuses stay. Blocks.
pub(crate) fn release(
    shared: &Shared,
    uid: &str,
    folder: &Path,
    sandbox: Option<&dyn Sandbox>,
) -> Result<(), Failure> {
    let runtime = &shared.config.runtime;
    if let Some(sandbox) = sandbox {
        sandbox.shutdown().map_err(|error| Failure::of(&error))?;
    }
    if folder.exists() {
        if let (None, Ok(found)) = (sandbox, runtime.open(folder)) {
            found.shutdown().map_err(|error| Failure::of(&error))?;
        }
        runtime.clean_up(folder).map_err(|error| Failure::of(&error))?;
        volumes::unmount_all(folder).map_err(|error| Failure::of(&error))?;
    }
    shared.config.network.detach(uid)
}

/// Removes what is left of a pod on disk. Blocks.
pub(crate) fn remove_files(folder: &Path) -> io::Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != io::ErrorKind::NotFound => Err(error),
        _ => Ok(()),
    }
}
