//! The containers of a data folder: found by name and id, put in order when their shim was killed.

use std::{
    fs, io,
    path::{Path, PathBuf},
};

use wharf_base::{Clock as _, ContainerId, SystemClock, closest};
use wharf_image::Store;
use wharf_network::NetworkConfig;
use wharf_runtime::{
    ErrorKind as RuntimeError, Phase, PodDir, Runtime as _, Sandbox, SandboxConfig, ShimRuntime, Status,
};

use crate::{
    MAIN,
    bridge::Bridge,
    disk::{keep_folder, keep_json, write_json},
    error::{Error, IoContext as _, Result},
    image::{self, Image, leaseholder},
    names, networks,
    ports::Publish,
    spec::{Record, Spec},
};

/// The file of the ports a container has now, with those that were chosen for it.
pub(crate) const PORTS: &str = "ports";

/// How often a folder is removed in which somebody writes meanwhile.
const REMOVALS: usize = 100;

/// What an engine works with.
#[derive(Debug, Clone)]
pub struct EngineConfig {
    /// The data folder.
    pub data: PathBuf,
    /// The network of containers.
    pub network: NetworkConfig,
    /// The program that takes back what an ended container had; `--bridged` where it had an address, id and name are added.
    pub at_end: Vec<String>,
}

/// The containers of a data folder.
#[derive(Debug, Clone)]
pub struct Engine {
    pub(crate) root: PathBuf,
    pub(crate) config: EngineConfig,
    pub(crate) bridge: Bridge,
    /// Makes them.
    pub runtime: ShimRuntime,
}

/// One container.
#[derive(Debug, Clone)]
pub struct Container {
    /// Its id.
    pub id: ContainerId,
    /// Its folder.
    pub dir: PodDir,
    /// What it was asked to be.
    pub record: Record,
    /// Its pod, as it was started the last time.
    pub pod: Option<SandboxConfig>,
    /// How it is.
    pub status: Status,
}

impl Engine {
    /// The containers of a data folder, which need not exist.
    pub fn new(config: EngineConfig) -> Self {
        let bridge = Bridge::new(&config.data, config.network.clone());
        Self { root: config.data.join("containers"), bridge, config, runtime: ShimRuntime::default() }
    }

    /// The data folder.
    pub fn data(&self) -> &Path {
        &self.config.data
    }

    /// Their network.
    pub fn bridge(&self) -> &Bridge {
        &self.bridge
    }

    /// Opens the image store.
    ///
    /// # Errors
    /// When it cannot be opened.
    pub fn images(&self) -> Result<Store> {
        Ok(Store::open(self.data().join("images"))?)
    }

    /// The folder of a container.
    pub fn folder(&self, id: &ContainerId) -> PathBuf {
        self.root.join(id.as_str())
    }

    /// Makes a container that does not run yet. Its image is kept as long as it is there.
    ///
    /// # Errors
    /// When the name is taken, there is no such image, or the disk is full. Nothing is left then.
    pub fn create(
        &self,
        mut spec: Spec,
        name: Option<&str>,
        docker: Option<serde_json::Value>,
    ) -> Result<(Record, Image)> {
        let own = networks::of_container(&spec.network).is_none();
        if own && !matches!(spec.network.as_str(), networks::HOST | networks::NONE) {
            let network = match networks::is_predefined(&spec.network) {
                true => spec.network.clone(),
                false => networks::find(self.data(), &spec.network)?.name,
            };
            spec.endpoints.entry(network).or_default();
        }
        self.check_endpoints(&spec)?;
        let id = ContainerId::random();
        let folder = self.folder(&id);
        // The folder is there first: a name or a lease without one is nobody's.
        fs::create_dir_all(&folder).at("make the folder", &folder)?;
        let made = names::reserve(&self.root, &id, name).and_then(|name| {
            let image = match &spec.rootfs {
                Some(folder) => image::from_directory(folder)?,
                None => image::hold(self.data(), &spec.image, &id, spec.auto_remove)?,
            };
            let record = Record {
                id: id.clone(),
                name,
                created_at: SystemClock.now(),
                image_id: image.id.clone(),
                spec,
                docker,
                error: None,
                stopped: false,
                restarts: 0,
            };
            self.write(&record)?;
            if !record.spec.auto_remove {
                keep_folder(&self.root)?;
                names::keep(&self.root)?;
            }
            self.fill_volumes(&record, &image)?;
            Ok((record, image))
        });
        if made.is_err() {
            self.forget(&id, "")?;
        }
        made
    }

    /// Writes down what is known of a container.
    ///
    /// # Errors
    /// When the disk is full.
    pub fn write(&self, record: &Record) -> Result<()> {
        let path = self.folder(&record.id).join("container.json");
        // One that removes itself is gone after a loss of power as it would be after its end.
        match record.spec.auto_remove {
            true => write_json(&path, record),
            false => keep_json(&path, record),
        }
    }

    /// Changes what is known of a container.
    ///
    /// # Errors
    /// When it is gone, or the disk is full.
    pub fn change(&self, id: &ContainerId, change: impl FnOnce(&mut Record)) -> Result<Record> {
        let _lock = names::locked(&self.root)?;
        let mut record = self.record(id)?;
        let before = record.clone();
        change(&mut record);
        if record != before {
            self.write(&record)?;
        }
        Ok(record)
    }

    pub(crate) fn record(&self, id: &ContainerId) -> Result<Record> {
        let path = self.folder(id).join("container.json");
        let bytes = fs::read(&path).map_err(|error| match error.kind() {
            io::ErrorKind::NotFound => Error::not_found(format!("no such container: {id}")),
            _ => Error::host(format!("cannot read {}: {error}", path.display())),
        })?;
        serde_json::from_slice(&bytes)
            .map_err(|error| Error::host(format!("{} cannot be read: {error}", path.display())))
    }

    /// Removes what is on disk of a container that does not run.
    ///
    /// # Errors
    /// When a file cannot be removed.
    pub fn forget(&self, id: &ContainerId, name: &str) -> Result<()> {
        let folder = self.folder(id);
        // Whoever puts an ended container in order may write there meanwhile, once.
        for attempt in 0.. {
            match fs::remove_dir_all(&folder) {
                Err(error) if error.kind() == io::ErrorKind::DirectoryNotEmpty && attempt < REMOVALS => {}
                Err(error) if error.kind() != io::ErrorKind::NotFound => {
                    return Err(error).at("remove", &folder);
                }
                _ => break,
            }
        }
        if !name.is_empty() {
            names::release(&self.root, id, name)?;
        }
        image::release(self.data(), id)
    }

    /// Ends leases of containers that are gone: those that remove themselves leave theirs.
    ///
    /// # Errors
    /// When the store cannot be read.
    pub fn sweep_leases(&self, images: &Store) -> Result<()> {
        for lease in images.leases()? {
            // Its folder is made before its lease.
            if leaseholder(&lease).is_some_and(|id| !self.folder(&id).exists()) {
                images.release(&lease)?;
            }
        }
        Ok(())
    }

    /// All containers, the newest first. Those whose shim was killed are put in order on the way.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn all(&self) -> Result<Vec<Container>> {
        let mut all: Vec<Container> = self.ids()?.iter().filter_map(|id| self.load(id).ok()).collect();
        all.sort_by_key(|container| std::cmp::Reverse(container.record.created_at));
        Ok(all)
    }

    /// The ids of all there are.
    ///
    /// # Errors
    /// When the folder cannot be read.
    pub fn ids(&self) -> Result<Vec<ContainerId>> {
        match fs::read_dir(&self.root) {
            Ok(entries) => {
                Ok(entries.flatten().filter_map(|entry| entry.file_name().to_str()?.parse().ok()).collect())
            }
            Err(error) if error.kind() == io::ErrorKind::NotFound => Ok(Vec::new()),
            Err(error) => Err(error).at("read", &self.root),
        }
    }

    /// A container by its whole id.
    ///
    /// # Errors
    /// When there is none.
    pub fn load(&self, id: &ContainerId) -> Result<Container> {
        let dir = PodDir::at(self.folder(id));
        let record = self.record(id)?;
        let status = match dir.status(MAIN) {
            Ok(status) if status.phase != Phase::Exited && !dir.has_shim() => {
                self.runtime.clean_up(dir.path())?;
                dir.status(MAIN)?
            }
            Ok(status) => status,
            // Never started.
            Err(_) => Status {
                name: MAIN.to_owned(),
                phase: Phase::Created,
                pid: None,
                began: None,
                cgroup: String::new(),
                created_at: record.created_at,
                started_at: None,
                exit: None,
                warnings: Vec::new(),
                oom_kills: 0,
                forks_refused: 0,
            },
        };
        Ok(Container { id: id.clone(), pod: dir.config().ok(), dir, record, status })
    }

    /// The container a person means by its name, its id, or the beginning of its id.
    ///
    /// # Errors
    /// When there is none, or several are meant.
    pub fn find(&self, wanted: &str) -> Result<Container> {
        let wanted = wanted.strip_prefix('/').unwrap_or(wanted);
        if let Some(id) = names::look_up(&self.root, wanted) {
            return self.load(&id);
        }
        let ids = self.ids()?;
        let mut matching = ids.iter().filter(|id| !wanted.is_empty() && id.as_str().starts_with(wanted));
        match (matching.next(), matching.next()) {
            (Some(id), None) => self.load(id),
            (Some(_), Some(_)) => {
                let error = format!("'{wanted}' is the beginning of several container ids");
                Err(Error::invalid(error).hint("give more of the id, or the name"))
            }
            (None, _) => Err(self.unknown(wanted)),
        }
    }

    fn unknown(&self, wanted: &str) -> Error {
        let known = names::all(&self.root);
        let hint = match closest(wanted, known.iter().map(String::as_str)) {
            Some(name) => format!("did you mean '{name}'?"),
            None => "'wharf ps -a' lists all containers".to_owned(),
        };
        Error::not_found(format!("no such container: {wanted}")).hint(hint)
    }

    /// Gives a container another name.
    ///
    /// # Errors
    /// When the name is taken or cannot be one.
    pub fn rename(&self, container: &Container, name: &str) -> Result<()> {
        names::reserve(&self.root, &container.id, Some(name))?;
        names::keep(&self.root)?;
        let old = container.record.name.clone();
        self.change(&container.id, |record| name.clone_into(&mut record.name))?;
        names::release(&self.root, &container.id, &old)
    }
}

impl Container {
    /// Its name.
    pub fn name(&self) -> &str {
        &self.record.name
    }

    /// Its image, as it was named.
    pub fn image(&self) -> &str {
        match &self.record.spec.rootfs {
            Some(folder) => folder.to_str().unwrap_or_default(),
            None => &self.record.spec.image,
        }
    }

    /// Ports of this machine that lead to it; none while it does not run, since they are others' to take.
    pub fn ports(&self) -> Vec<Publish> {
        if !self.is_running() {
            return Vec::new();
        }
        let ports = fs::read_to_string(self.dir.path().join(PORTS)).unwrap_or_default();
        ports.split_whitespace().filter_map(|port| port.parse().ok()).collect()
    }

    /// Whether its program runs.
    pub fn is_running(&self) -> bool {
        matches!(self.status.phase, Phase::Running | Phase::Paused)
    }

    /// Its host name.
    pub(crate) fn hostname(&self) -> String {
        self.record.spec.hostname.clone().unwrap_or_else(|| self.id.short().to_owned())
    }

    /// Its log file.
    pub fn log(&self) -> PathBuf {
        log_of(self.dir.path())
    }

    /// Talks to it.
    ///
    /// # Errors
    /// Says so when it does not run.
    pub fn connect(&self, engine: &Engine) -> Result<Box<dyn Sandbox>> {
        let not_running = || Error::conflict(format!("container {} is not running", self.name()));
        if !self.is_running() {
            let hint = format!("'wharf logs {}' shows what it said", self.name());
            return Err(not_running().hint(hint));
        }
        engine.runtime.open(self.dir.path()).map_err(|error| match error.kind {
            RuntimeError::ShimGone => not_running(),
            _ => error.into(),
        })
    }
}

/// The log file of the container in `folder`.
pub(crate) fn log_of(folder: &Path) -> PathBuf {
    folder.join("log")
}
