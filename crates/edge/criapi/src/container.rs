//! Containers: made, started, stopped, removed, told of.

use std::{
    collections::BTreeMap,
    fs,
    os::fd::AsFd as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::{
    event::{PollFd, PollFlags, Timespec, poll},
    io::Errno,
};
use serde_json::json;
use wharf_base::random_hex;
use wharf_image::ResolvedImage;
use wharf_runtime::{Cgroup, Ending, ErrorKind, Exit, Phase, SignalTo};

use crate::{
    cri::{Cri, PAUSE, lease, remove},
    describe,
    grpc::{Code, Failure, Result},
    host, images, log, record,
    record::ContainerRecord,
    resources, sandbox,
    sandbox::KILLED,
    signals,
    spec::{self, Filter, Given, Profile},
    table::{Container, Living, Measured, Sandbox, locked},
    user,
    v1::{
        ContainerConfig, ContainerEventType, ContainerState, ContainerStatusRequest, ContainerStatusResponse,
        CreateContainerRequest, CreateContainerResponse, ListContainersRequest, ListContainersResponse,
        NamespaceMode, RemoveContainerRequest, RemoveContainerResponse, ReopenContainerLogRequest,
        ReopenContainerLogResponse, StartContainerRequest, StartContainerResponse, StopContainerRequest,
        StopContainerResponse, UpdateContainerResourcesRequest, UpdateContainerResourcesResponse,
    },
};

/// After this a killed container is killed once more: a process in the kernel may take its time.
const KILL_AGAIN: Duration = Duration::from_secs(2);
const KILL: i32 = 9;

/// Waits for an end at most until `deadline`.
pub(crate) fn wait_until(ending: &mut Ending, deadline: Option<Instant>) -> Result<Option<Exit>> {
    loop {
        let left = deadline.map(|deadline| deadline.saturating_duration_since(Instant::now()));
        let pause = left
            .map(|left| Timespec { tv_sec: left.as_secs() as i64, tv_nsec: i64::from(left.subsec_nanos()) });
        let ready = poll(&mut [PollFd::from_borrowed_fd(ending.as_fd(), PollFlags::IN)], pause.as_ref());
        match ready {
            Ok(0) => return Ok(None),
            Ok(_) => return Ok(Some(ending.wait()?)),
            Err(Errno::INTR) => {}
            Err(error) => return Err(Failure::internal(error)),
        }
    }
}

/// Ends all processes of a container and waits until they are gone.
pub(crate) fn kill_and_wait(living: &Living, id: &str) -> Result<Exit> {
    let mut ending = living.watch(id)?;
    let limit = Instant::now() + KILLED;
    loop {
        // It may have ended meanwhile; then that is what is heard.
        let _ = living.kill(id, KILL, SignalTo::All);
        if let Some(exit) = wait_until(&mut ending, Some(Instant::now() + KILL_AGAIN))? {
            return Ok(exit);
        }
        if Instant::now() > limit {
            return Err(Failure::new(
                Code::DeadlineExceeded,
                format_args!("the container {id} does not die"),
            ));
        }
    }
}

/// Where a container's log goes.
fn log_path(sandbox: &crate::v1::PodSandboxConfig, config: &ContainerConfig) -> Option<PathBuf> {
    let wanted = !sandbox.log_directory.is_empty() && !config.log_path.is_empty();
    wanted.then(|| Path::new(&sandbox.log_directory).join(&config.log_path))
}

impl Cri {
    pub(crate) fn create_container(
        self: &Arc<Self>,
        request: CreateContainerRequest,
    ) -> Result<CreateContainerResponse> {
        let sandbox = locked(&self.table).sandbox(&request.pod_sandbox_id)?;
        let config = request.config.ok_or_else(|| Failure::invalid("the container has no config"))?;
        let metadata =
            config.metadata.clone().ok_or_else(|| Failure::invalid("the container has no metadata"))?;
        spec::check(&config)?;
        let _turn = locked(&sandbox.turn);
        let living = sandbox.ready()?;
        let id = random_hex(32);
        let name = format!("{}/{}_{}", sandbox.id, metadata.name, metadata.attempt);
        locked(&self.table).reserve(&name, &id)?;
        match self.make_container(&id, config, &sandbox, &living) {
            Ok(container) => {
                locked(&self.table).containers.insert(id.clone(), Arc::new(container));
                self.tell(ContainerEventType::Created, &sandbox, &id);
                Ok(CreateContainerResponse { container_id: id })
            }
            Err(failure) => {
                self.release_images(&id);
                let _ = fs::remove_file(sandbox.folder.join("records").join(format!("{id}.pb")));
                locked(&self.table).release(&id);
                Err(failure)
            }
        }
    }

    fn make_container(
        &self,
        id: &str,
        mut config: ContainerConfig,
        sandbox: &Arc<Sandbox>,
        living: &Living,
    ) -> Result<Container> {
        let pod = sandbox.config();
        let name = config.image.as_ref().map(|image| image.image.as_str()).unwrap_or_default();
        if name.is_empty() {
            return Err(Failure::invalid("the container names no image"));
        }
        let image = self.config.images.hold(name, &lease(id))?;
        let security = spec::security(&config);
        if security.privileged && !is_privileged(&pod) {
            return Err(Failure::invalid("a privileged container needs a privileged sandbox"));
        }
        let users = |options: Option<&crate::v1::NamespaceOption>| {
            spec::users(options.and_then(|options| options.userns_options.as_ref()))
        };
        if users(security.namespace_options.as_ref())? != users(Some(&describe::namespaces(&pod)))? {
            return Err(Failure::invalid("userns_options of the container are not those of its sandbox"));
        }
        let defaults = &image.config.config;
        let stop_signal = signals::stop_signal(config.stop_signal, defaults.stop_signal.as_deref())
            .ok_or_else(|| Failure::invalid(format_args!("there is no signal {}", config.stop_signal)))?;
        let user = user::resolve(&security, &defaults.user, &user::Files::of_layers(&image.lower_dirs)?)?;
        let image_ref = images::reference_of(&self.config.images, &image.id)?;
        let asked = config.linux.clone().unwrap_or_default().resources.unwrap_or_default();
        let log = log_path(&pod, &config);
        let given = self.given(id, &mut config, sandbox, living, image)?;
        let given = Given {
            user: user.clone(),
            resources: resources::limits(&asked, host::limits_huge_pages())?,
            log: log.clone(),
            ..given
        };
        let mut record = ContainerRecord {
            image_id: given.image.id.to_string(),
            image_ref,
            log_path: log.as_ref().map_or_else(String::new, |path| path.to_string_lossy().into_owned()),
            log_inode: Vec::new(),
            resources: Some(asked),
            user: Some(user),
            stop_signal,
            start_error: String::new(),
            config: Some(config.clone()),
        };
        let wanted = spec::build(&config, given)?;
        let path = sandbox.folder.join("records").join(format!("{id}.pb"));
        record::write(&path, &record).map_err(Failure::internal)?;
        let status = living.create_container(&wanted)?;
        for warning in &status.warnings {
            tracing::info!(container = id, warning, "container warning");
        }
        if let Some(log) = &log {
            record.log_inode = log::inode(log).map_err(Failure::internal)?;
            if let Err(error) = record::write(&path, &record) {
                let _ = living.delete(id);
                return Err(Failure::internal(error));
            }
        }
        Ok(Container {
            id: id.to_owned(),
            sandbox: Arc::clone(sandbox),
            record: Mutex::new(record),
            status: Mutex::new(status),
            measured: Mutex::new(Measured::default()),
        })
    }

    /// Looks up what a container is given of this machine, its pod and other images.
    fn given(
        &self,
        id: &str,
        config: &mut ContainerConfig,
        sandbox: &Sandbox,
        living: &Living,
        image: ResolvedImage,
    ) -> Result<Given> {
        let (pod, security) = (sandbox.config(), spec::security(config));
        let mut mounts = Vec::new();
        for (index, asked) in config.mounts.iter_mut().enumerate() {
            match asked.image.as_mut().filter(|image| !image.image.is_empty()) {
                Some(wanted) => {
                    let held = self.config.images.hold(&wanted.image, &format!("{}.{index}", lease(id)))?;
                    wanted.image_ref = held.id.to_string();
                    mounts.push(host::image_mount(asked, &held)?);
                }
                None => mounts.push(host::bind(asked)?),
            }
        }
        let (mut devices, mut rules) = (Vec::new(), Vec::new());
        if security.privileged {
            devices = host::all_devices();
        }
        for asked in &config.devices {
            let (nodes, allowed) = host::devices(asked)?;
            devices.retain(|device| !nodes.iter().any(|node| node.path() == device.path()));
            devices.extend(nodes);
            rules.extend(allowed);
        }
        Ok(Given {
            id: id.to_owned(),
            image,
            user: Default::default(),
            cgroup: sandbox.record().cgroup,
            folder: sandbox.folder.clone(),
            shm: sandbox::shm(&sandbox.folder, &pod),
            hostname: sandbox::hostname(&pod),
            pids: self.pids(&security.namespace_options.clone().unwrap_or_default(), sandbox, living)?,
            mounts,
            devices,
            rules,
            resources: Default::default(),
            seccomp: match spec::profile(&security)? {
                Profile::Default => Filter::Default,
                Profile::Unconfined => Filter::Unconfined,
                Profile::File(path) => Filter::Own(Box::new(host::seccomp_profile(&path)?)),
            },
            log: None,
        })
    }

    /// The process ids a container shares with others, by the path of their namespace.
    fn pids(
        &self,
        options: &crate::v1::NamespaceOption,
        sandbox: &Sandbox,
        living: &Living,
    ) -> Result<Option<PathBuf>> {
        let holder = match options.pid() {
            NamespaceMode::Container | NamespaceMode::Node => return Ok(None),
            NamespaceMode::Pod => living.status(PAUSE).ok().and_then(|status| status.pid),
            NamespaceMode::Target => {
                let target = locked(&self.table).container(&options.target_id)?;
                if target.sandbox.id != sandbox.id {
                    return Err(Failure::invalid("the target_id is of another sandbox"));
                }
                target.running()?.status(&target.id)?.pid
            }
        };
        let pid = holder.ok_or_else(|| Failure::invalid("the sandbox does not share its process ids"))?;
        Ok(Some(PathBuf::from(format!("/proc/{pid}/ns/pid"))))
    }

    fn release_images(&self, id: &str) {
        let own = lease(id);
        let leases = self.config.images.leases().unwrap_or_default();
        for name in leases.iter().filter(|name| **name == own || name.starts_with(&format!("{own}."))) {
            if let Err(error) = self.config.images.release(name) {
                tracing::warn!(%error, "an image is held for a container that is gone");
            }
        }
    }

    pub(crate) fn start_container(&self, request: StartContainerRequest) -> Result<StartContainerResponse> {
        let container = locked(&self.table).container(&request.container_id)?;
        let living = container.sandbox.ready()?;
        if container.state() != ContainerState::Created {
            return Err(Failure::state(format_args!(
                "the container {} has been started before",
                container.id
            )));
        }
        if let Err(error) = living.start(&container.id) {
            if error.kind != ErrorKind::State {
                container.change(|record| record.start_error = error.to_string())?;
            }
            return Err(error.into());
        }
        let fresh = living.status(&container.id)?;
        {
            let mut status = locked(&container.status);
            status.started_at = fresh.started_at;
            // Its end may have been heard of meanwhile.
            if status.phase == Phase::Created {
                (status.phase, status.pid) = (Phase::Running, fresh.pid);
            }
        }
        self.tell(ContainerEventType::Started, &container.sandbox, &container.id);
        Ok(StartContainerResponse {})
    }

    pub(crate) fn stop_container(&self, request: StopContainerRequest) -> Result<StopContainerResponse> {
        let found = locked(&self.table).container(&request.container_id);
        match found {
            Ok(container) => self.stop(&container, request.timeout)?,
            Err(failure) if failure.code == Code::NotFound => {}
            Err(failure) => return Err(failure),
        }
        Ok(StopContainerResponse {})
    }

    /// Asks a container to end, for so many seconds, and then ends it.
    fn stop(&self, container: &Container, seconds: i64) -> Result<()> {
        let Some(living) = container.sandbox.living().filter(|_| !container.has_ended()) else {
            return Ok(());
        };
        let patience = Duration::from_secs(u64::try_from(seconds).unwrap_or(0));
        let mut exit = None;
        if !patience.is_zero() && container.state() == ContainerState::Running {
            let mut ending = living.watch(&container.id)?;
            let signal = container.record().stop_signal;
            // It may have ended meanwhile.
            let _ = living.kill(&container.id, signal, SignalTo::First);
            exit = wait_until(&mut ending, Instant::now().checked_add(patience))?;
        }
        let exit = match exit {
            Some(exit) => exit,
            None => kill_and_wait(&living, &container.id)?,
        };
        self.container_ended(&container.id, exit);
        Ok(())
    }

    pub(crate) fn remove_container(
        &self,
        request: RemoveContainerRequest,
    ) -> Result<RemoveContainerResponse> {
        let found = locked(&self.table).container(&request.container_id);
        match found {
            Ok(container) => {
                let _turn = locked(&container.sandbox.turn);
                self.remove(&container)?;
            }
            Err(failure) if failure.code == Code::NotFound => {}
            Err(failure) => return Err(failure),
        }
        Ok(RemoveContainerResponse {})
    }

    /// Removes a container, ending it first.
    pub(crate) fn remove(&self, container: &Container) -> Result<()> {
        self.stop(container, 0)?;
        let gone = match container.sandbox.living() {
            Some(living) => living.delete(&container.id),
            None => Ok(()),
        };
        match gone {
            Err(error) if !matches!(error.kind, ErrorKind::NotFound | ErrorKind::ShimGone) => {
                return Err(error.into());
            }
            _ => remove(&container.sandbox.dir().container(&container.id))?,
        }
        match fs::remove_file(container.record_path()) {
            Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
                return Err(Failure::internal(error));
            }
            _ => {}
        }
        self.release_images(&container.id);
        let was_there = {
            let mut table = locked(&self.table);
            table.release(&container.id);
            table.containers.remove(&container.id).is_some()
        };
        if was_there {
            self.tell(ContainerEventType::Deleted, &container.sandbox, &container.id);
        }
        Ok(())
    }

    pub(crate) fn container_status(
        &self,
        request: ContainerStatusRequest,
    ) -> Result<ContainerStatusResponse> {
        let container = locked(&self.table).container(&request.container_id)?;
        let mut info = BTreeMap::new();
        if request.verbose {
            let status = container.status();
            let facts = json!({ "sandboxID": container.sandbox.id, "pid": status.pid, "cgroup": status.cgroup,
                "warnings": status.warnings });
            info.insert("info".to_owned(), facts.to_string());
        }
        Ok(ContainerStatusResponse { status: Some(describe::container_status(&container)), info })
    }

    pub(crate) fn list_containers(&self, request: ListContainersRequest) -> Result<ListContainersResponse> {
        let filter = request.filter.unwrap_or_default();
        Ok(ListContainersResponse { containers: describe::containers(&locked(&self.table), &filter) })
    }

    pub(crate) fn update_container_resources(
        &self,
        request: UpdateContainerResourcesRequest,
    ) -> Result<UpdateContainerResourcesResponse> {
        let container = locked(&self.table).container(&request.container_id)?;
        let asked = request.linux.ok_or_else(|| Failure::invalid("no limits are given"))?;
        if container.has_ended() {
            return Err(Failure::state(format_args!("the container {} has ended", container.id)));
        }
        let status = container.status();
        Cgroup::at(&status.cgroup)?.update(&resources::limits(&asked, host::limits_huge_pages())?)?;
        let before = container.record().resources.unwrap_or_default();
        if let (Some(pid), true) =
            (status.pid, asked.oom_score_adj != 0 && asked.oom_score_adj != before.oom_score_adj)
        {
            fs::write(format!("/proc/{pid}/oom_score_adj"), asked.oom_score_adj.to_string()).map_err(
                |error| {
                    Failure::internal(format_args!(
                        "oom_score_adj cannot be set to {}: {error}",
                        asked.oom_score_adj
                    ))
                },
            )?;
        }
        container.change(|record| {
            record.resources = Some(resources::updated(record.resources.as_ref(), &asked));
            record.config.get_or_insert_default().annotations.extend(request.annotations);
        })?;
        Ok(UpdateContainerResourcesResponse {})
    }

    pub(crate) fn reopen_container_log(
        &self,
        request: ReopenContainerLogRequest,
    ) -> Result<ReopenContainerLogResponse> {
        let container = locked(&self.table).container(&request.container_id)?;
        let living = container.running()?;
        let record = container.record();
        if record.log_path.is_empty() {
            return Err(Failure::state(format_args!("the container {} has no log", container.id)));
        }
        let _turn = locked(&container.sandbox.turn);
        log::reopen(living.pid(), Path::new(&record.log_path), &record.log_inode)
            .map_err(|error| Failure::internal(format_args!("the log {}: {error}", record.log_path)))?;
        Ok(ReopenContainerLogResponse {})
    }
}

fn is_privileged(pod: &crate::v1::PodSandboxConfig) -> bool {
    let security = pod.linux.as_ref().and_then(|linux| linux.security_context.as_ref());
    security.is_some_and(|security| security.privileged)
}
