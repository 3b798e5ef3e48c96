//! What serves the interface: its parts, how it begins again after a restart, and what it tells of what happens.

use std::{
    fs,
    os::unix::fs::DirBuilderExt as _,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::{Duration, Instant},
};

use rustix::mount::{UnmountFlags, unmount};
use tokio::sync::broadcast;
use wharf_base::{Clock as _, SystemClock};
use wharf_image::Store;
use wharf_network::PortMapping;
use wharf_node::{Failure as Text, ImagePuller, PodNetwork};
use wharf_runtime::{Cgroup, Event, PodDir, Runtime};

use crate::{
    describe,
    grpc::{Failure, Result},
    log, record,
    record::{ContainerRecord, SandboxRecord},
    streaming::Streams,
    table::{Container, Living, Measured, Sandbox, Table, locked, nanos, sandbox_name},
    v1::{ContainerEventResponse, ContainerEventType},
};

/// The name of the container that holds the process ids of a pod.
pub(crate) const PAUSE: &str = "pause";
/// What the leases of containers' images begin with.
const LEASE: &str = "cri-";
/// How long a shim may take from closing its connections to its end.
const ENDING: Duration = Duration::from_secs(10);
/// Events a slow listener may be behind.
const EVENTS: usize = 1000;

/// Gives sandboxes their network.
pub trait Network: PodNetwork {
    /// Leads ports of this machine to a sandbox, until it is detached.
    ///
    /// # Errors
    /// When a port is taken.
    fn publish(&self, id: &str, ports: Vec<PortMapping>) -> Result<(), Text>;
}

/// What the interface is served with.
#[derive(Clone)]
pub struct Config {
    /// The platform's data folder; sandboxes are kept in `cri/` below it.
    pub data: PathBuf,
    /// Tells this platform's cgroups from those of another on the same machine.
    pub instance: String,
    /// Makes containers.
    pub runtime: Arc<dyn Runtime>,
    /// The images of this machine.
    pub images: Arc<Store>,
    /// Wires sandboxes.
    pub network: Arc<dyn Network>,
    /// Brings images that are not here.
    pub puller: Arc<dyn ImagePuller>,
}

/// The container runtime interface.
pub struct Cri {
    pub(crate) config: Config,
    pub(crate) table: Mutex<Table>,
    pub(crate) streams: Streams,
    pub(crate) events: broadcast::Sender<ContainerEventResponse>,
    pub(crate) usage: Mutex<crate::stats::Cached>,
}

/// The folder of all sandboxes.
fn folder(data: &Path) -> PathBuf {
    data.join("cri")
}

fn sandboxes(data: &Path) -> Vec<String> {
    let entries = fs::read_dir(folder(data)).into_iter().flatten().flatten();
    entries.filter_map(|entry| entry.file_name().into_string().ok()).collect()
}

/// What the sandboxes kept in a platform's data folder are called in its network: nobody else's to take back.
pub fn attached(data: &Path) -> Vec<String> {
    sandboxes(data).iter().map(|id| in_network(id)).collect()
}

/// A sandbox' name in the network, where ids alone are those of containers of `wharf run`.
pub(crate) fn in_network(id: &str) -> String {
    format!("cri-{id}")
}

/// The lease of a container's image.
pub(crate) fn lease(id: &str) -> String {
    format!("{LEASE}{id}")
}

pub(crate) fn now() -> i64 {
    nanos(SystemClock.now())
}

impl Cri {
    /// Finds what there is and begins to listen to it. Blocks. `streams` serves exec, attach and port-forward.
    ///
    /// # Errors
    /// When the folder cannot be used.
    pub fn open(config: Config, streams: Streams) -> Result<Arc<Self>> {
        let base = folder(&config.data);
        fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&base)
            .map_err(|error| Failure::internal(format_args!("cannot make {}: {error}", base.display())))?;
        let cri = Arc::new(Self {
            config,
            table: Mutex::default(),
            streams,
            events: broadcast::channel(EVENTS).0,
            usage: Mutex::default(),
        });
        for id in sandboxes(&cri.config.data) {
            cri.recover(&id);
        }
        cri.sweep_leases();
        Ok(cri)
    }

    pub(crate) fn folder_of(&self, id: &str) -> PathBuf {
        folder(&self.config.data).join(id)
    }

    /// The cgroup of a sandbox that names none.
    pub(crate) fn own_cgroup(&self, id: &str) -> String {
        format!("wharf-{}/cri/{id}", self.config.instance)
    }

    fn recover(self: &Arc<Self>, id: &str) {
        let folder = self.folder_of(id);
        let Some(record) = record::read::<SandboxRecord>(&folder.join("sandbox.pb")) else {
            tracing::info!(sandbox = id, "a half-made sandbox is removed");
            self.discard(id);
            return;
        };
        let living: Option<Living> = match self.config.runtime.open(&folder) {
            Ok(living) => Some(Arc::from(living)),
            Err(_) => {
                if let Err(error) = self.clean_up(&folder) {
                    tracing::warn!(sandbox = id, %error, "what a sandbox had cannot be cleaned up");
                }
                None
            }
        };
        if let Some(living) = &living {
            log::go_on(living.pid());
        }
        let sandbox = Arc::new(Sandbox {
            id: id.to_owned(),
            folder,
            record: Mutex::new(record),
            living: Mutex::new(living.clone()),
            turn: Mutex::default(),
        });
        self.recover_containers(&sandbox, living.as_ref());
        {
            let mut table = locked(&self.table);
            let metadata = sandbox.config().metadata.unwrap_or_default();
            let _ = table.reserve(&sandbox_name(&metadata), id);
            table.sandboxes.insert(id.to_owned(), Arc::clone(&sandbox));
        }
        if let Some(living) = living {
            self.listen(&sandbox, living);
        }
    }

    fn recover_containers(&self, sandbox: &Arc<Sandbox>, living: Option<&Living>) {
        let entries = fs::read_dir(sandbox.folder.join("records")).into_iter().flatten().flatten();
        for path in entries.map(|entry| entry.path()) {
            let Some(id) = path.file_stem().and_then(|name| name.to_str()) else { continue };
            let status = match living {
                Some(living) => living.status(id),
                None => sandbox.dir().status(id),
            };
            let record = record::read::<ContainerRecord>(&path);
            let (Ok(status), Some(record)) = (status, record) else {
                // Its container was never made, or is gone already.
                let _ = fs::remove_dir_all(sandbox.dir().container(id));
                let _ = fs::remove_file(&path);
                continue;
            };
            let name = record.config.clone().unwrap_or_default().metadata.unwrap_or_default();
            let container = Container {
                id: id.to_owned(),
                sandbox: Arc::clone(sandbox),
                record: Mutex::new(record),
                status: Mutex::new(status),
                measured: Mutex::new(Measured::default()),
            };
            let mut table = locked(&self.table);
            let _ = table.reserve(&format!("{}/{}_{}", sandbox.id, name.name, name.attempt), id);
            table.containers.insert(id.to_owned(), Arc::new(container));
        }
    }

    /// Gives back images held for containers that are no more.
    fn sweep_leases(&self) {
        let leases = self.config.images.leases().unwrap_or_default();
        let table = locked(&self.table);
        for name in &leases {
            let id = name.strip_prefix(LEASE).and_then(|rest| rest.split('.').next());
            if id.is_some_and(|id| !table.containers.contains_key(id)) {
                let _ = self.config.images.release(name);
            }
        }
    }

    /// Takes back everything a sandbox has, without a look at its containers.
    pub(crate) fn discard(&self, id: &str) {
        let folder = self.folder_of(id);
        if let Ok(living) = self.config.runtime.open(&folder) {
            let _ = living.shutdown();
        }
        if let Err(error) = self.give_back(id).and_then(|()| remove(&folder)) {
            tracing::warn!(sandbox = id, %error, "something of a sandbox stays behind");
        }
        locked(&self.table).release(id);
    }

    /// Gives back network, mounts and cgroups of a sandbox whose shim is gone. There may be none.
    pub(crate) fn give_back(&self, id: &str) -> Result<()> {
        let folder = self.folder_of(id);
        self.clean_up(&folder)?;
        self.config.network.detach(&in_network(id)).map_err(Failure::internal)?;
        unmount_shm(&folder)?;
        let own = PodDir::at(&folder).config().ok().and_then(|config| config.cgroup);
        match own {
            Some(cgroup) => Ok(Cgroup::at(&cgroup.path)?.remove()?),
            None => Ok(()),
        }
    }

    /// Follows what happens in a sandbox on a thread of its own, until its shim is gone.
    pub(crate) fn listen(self: &Arc<Self>, sandbox: &Arc<Sandbox>, living: Living) {
        let (cri, sandbox) = (Arc::clone(self), Arc::clone(sandbox));
        let name = format!("cri-{}", sandbox.id.get(..8).unwrap_or_default());
        let follow = move || {
            let pid = living.pid();
            if let Ok(mut events) = living.events() {
                // What ended before the connection stood is asked for.
                for status in living.list().unwrap_or_default() {
                    if let Some(exit) = status.exit {
                        cri.container_ended(&status.name, exit);
                    }
                }
                drop(living);
                while let Ok(Some(event)) = events.wait() {
                    if let Event::Exited { name, exit } = event {
                        cri.container_ended(&name, exit);
                    }
                }
            }
            cri.shim_gone(&sandbox, pid);
        };
        if let Err(error) = std::thread::Builder::new().name(name).stack_size(256 << 10).spawn(follow) {
            tracing::error!(%error, "a sandbox cannot be listened to");
        }
    }

    pub(crate) fn container_ended(&self, id: &str, exit: wharf_runtime::Exit) {
        let Some(container) = locked(&self.table).containers.get(id).cloned() else { return };
        if container.ended(exit) {
            self.tell(ContainerEventType::Stopped, &container.sandbox, id);
        }
    }

    /// Ends what a shim has left. One that has closed its connections holds its lock for a moment longer.
    fn clean_up(&self, folder: &Path) -> Result<()> {
        let (dir, limit) = (PodDir::at(folder), Instant::now() + ENDING);
        while dir.has_shim() && Instant::now() < limit {
            std::thread::sleep(Duration::from_millis(1));
        }
        self.config.runtime.clean_up(folder)?;
        Ok(())
    }

    /// A shim that was killed takes its containers with it; one that only cut the connection is listened to again.
    fn shim_gone(self: &Arc<Self>, sandbox: &Arc<Sandbox>, pid: i32) {
        let meant = |living: &Option<Living>| living.as_ref().is_some_and(|living| living.pid() == pid);
        if meant(&locked(&sandbox.living))
            && let Ok(living) = self.config.runtime.open(&sandbox.folder)
        {
            return self.listen(sandbox, Arc::from(living));
        }
        {
            let mut living = locked(&sandbox.living);
            if !meant(&living) {
                // It was told to end.
                return;
            }
            *living = None;
        }
        tracing::warn!(sandbox = sandbox.id, "the shim of a sandbox is gone; its containers ended with it");
        if let Err(error) = self.clean_up(&sandbox.folder) {
            tracing::warn!(sandbox = sandbox.id, %error, "what a sandbox had cannot be cleaned up");
        }
        let containers = locked(&self.table).containers_of(&sandbox.id);
        for container in containers {
            if let Some(exit) = sandbox.dir().status(&container.id).ok().and_then(|status| status.exit) {
                self.container_ended(&container.id, exit);
            }
        }
        self.tell(ContainerEventType::Stopped, sandbox, &sandbox.id);
    }

    /// Tells those who listen what happened to a container, or to a sandbox by its own id.
    pub(crate) fn tell(&self, kind: ContainerEventType, sandbox: &Sandbox, id: &str) {
        if self.events.receiver_count() == 0 {
            return;
        }
        let containers = locked(&self.table).containers_of(&sandbox.id);
        // Nobody may listen any more.
        let _ = self.events.send(ContainerEventResponse {
            container_id: id.to_owned(),
            container_event_type: kind as i32,
            created_at: now(),
            pod_sandbox_status: Some(describe::sandbox_status(sandbox)),
            containers_statuses: containers.iter().map(|one| describe::container_status(one)).collect(),
        });
    }

    /// Stops and removes every sandbox. Blocks.
    pub fn drain(&self) {
        let ids: Vec<String> = locked(&self.table).sandboxes.keys().cloned().collect();
        for id in ids {
            if let Err(error) = self.remove_sandbox(&id) {
                tracing::error!(sandbox = id, %error, "a sandbox could not be removed");
            }
        }
        for path in [format!("wharf-{}/cri", self.config.instance), format!("wharf-{}", self.config.instance)]
        {
            remove_empty(&path);
        }
    }
}

/// Removes a folder that may not be there.
pub(crate) fn remove(folder: &Path) -> Result<()> {
    match fs::remove_dir_all(folder) {
        Err(error) if error.kind() != std::io::ErrorKind::NotFound => {
            Err(Failure::internal(format_args!("cannot remove {}: {error}", folder.display())))
        }
        _ => Ok(()),
    }
}

/// Unmounts the shared memory of a sandbox, if it has any.
fn unmount_shm(folder: &Path) -> Result<()> {
    use rustix::io::Errno;
    match unmount(folder.join("shm"), UnmountFlags::DETACH) {
        Ok(()) | Err(Errno::INVAL | Errno::NOENT) => Ok(()),
        Err(error) => {
            Err(Failure::internal(format_args!("cannot unmount {}/shm: {error}", folder.display())))
        }
    }
}

/// Removes a cgroup that has no others in it.
fn remove_empty(path: &str) {
    let root = Path::new("/sys/fs/cgroup");
    let hierarchies = fs::read_dir(root).into_iter().flatten().flatten().map(|entry| entry.path());
    for hierarchy in hierarchies.chain([root.to_owned()]) {
        // One with others in it stays, and so does one that is not there.
        let _ = fs::remove_dir(hierarchy.join(path));
    }
}
