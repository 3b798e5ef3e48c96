//! What a caller asks for and gets.

use std::{
    collections::{BTreeMap, HashSet},
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use wharf_base::Digest;
use wharf_image::{Descriptor, Platform, Reference, Store};
use wharf_runtime::Runtime;

use super::{
    check::{self, CheckReport},
    executor,
    transfer::{CachePlace, CacheTarget},
};
use crate::{
    attest::{Attestations, Bill},
    cache::{FileDigests, Records},
    cdi::SPEC_DIRS,
    dockerfile::Network,
    error::Result,
    progress::{Cancel, Progress, StepId},
    remote::{Downloads, Fetch},
    workspace::Workspace,
};

/// Brings an image that is not in the store, for a platform.
pub type Pull = Arc<dyn Fn(&Reference, &Platform) -> Result<(), wharf_base::Hinted> + Send + Sync>;

/// Connects steps to a network.
pub trait StepNetwork: Send + Sync {
    /// Connects the step's pod `id`, whose network namespace is at `namespace`.
    fn attach(&self, id: &str, namespace: &Path) -> Result<(), wharf_base::Hinted>;
    /// Takes back what [`StepNetwork::attach`] gave.
    fn detach(&self, id: &str);
    /// What the step reads as /etc/resolv.conf.
    fn resolver(&self) -> Vec<u8>;
}

/// Builds images. Several may work in one folder at the same time, in one process or in several.
pub struct Builder {
    pub(crate) images: Arc<Store>,
    pub(crate) workspace: Workspace,
    pub(crate) records: Records,
    pub(crate) files: FileDigests,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) pull: Option<Pull>,
    pub(crate) bill: Option<Bill>,
    pub(crate) device_dirs: Vec<PathBuf>,
    pub(crate) fetch: Option<Fetch>,
    pub(crate) network: Option<Arc<dyn StepNetwork>>,
    pub(crate) downloads: Downloads,
}

/// Where the Dockerfile comes from.
#[derive(Debug, Clone)]
pub enum DockerfileSource {
    /// A path inside the context, such as `Dockerfile`.
    InContext(String),
    /// A file on this machine. Its own ignore file `NAME.dockerignore` beside it counts.
    File(PathBuf),
    /// The text itself.
    Text(String),
}

/// The files a build may copy.
pub enum Context {
    /// A folder on this machine.
    Folder(PathBuf),
    /// A tar stream, plain or compressed with gzip or zstd.
    Tar(Mutex<Box<dyn Read + Send>>),
    /// A git repository, a tar archive or a Dockerfile at this address.
    Remote(String),
    /// None.
    Empty,
}

impl Context {
    /// The context in a tar stream.
    pub fn tar(stream: impl Read + Send + 'static) -> Self {
        Self::Tar(Mutex::new(Box::new(stream)))
    }
}

/// A secret of `RUN --mount=type=secret`.
#[derive(Debug, Clone)]
pub enum Secret {
    /// The content of a file, read when it is needed.
    File(PathBuf),
    /// The content itself.
    Value(Vec<u8>),
}

/// `--build-context`: files or an image that the Dockerfile names.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum NamedContext {
    /// A folder of this machine.
    Folder(PathBuf),
    /// An image.
    Image(String),
    /// A git repository or a tar archive at this address.
    Remote(String),
    /// An image in a folder in OCI layout.
    Layout(PathBuf),
}

/// What steps may do that could harm the machine; only the caller of the build can allow it, never the Dockerfile.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Allowed {
    /// `RUN --security=insecure`.
    pub insecure: bool,
    /// `RUN --network=host`.
    pub host_network: bool,
    /// `RUN --device`.
    pub devices: AllowedDevices,
}

/// Which devices steps may use besides those their CDI files allow to every build.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct AllowedDevices {
    /// All that are registered.
    pub all: bool,
    /// These, by what `RUN --device` calls them; with the device that is meant where that is another.
    pub names: BTreeMap<String, Option<String>>,
}

/// A build.
pub struct BuildRequest {
    /// The Dockerfile.
    pub dockerfile: DockerfileSource,
    /// The build context.
    pub context: Context,
    /// The platforms to build for; this machine's where there is none.
    pub platforms: Vec<Platform>,
    /// What is attested of the image.
    pub attestations: Attestations,
    /// Values of `ARG`s.
    pub args: BTreeMap<String, String>,
    /// The stage to build, by name or number; the last where absent.
    pub target: Option<String>,
    /// Names the image gets.
    pub tags: Vec<Reference>,
    /// Labels the image gets besides its own.
    pub labels: BTreeMap<String, String>,
    /// Asks for newer base images even where they are here.
    pub pull: bool,
    /// Runs every step, whatever the cache knows.
    pub no_cache: bool,
    /// Stages whose steps run, whatever the cache knows.
    pub no_cache_stages: Vec<String>,
    /// Secrets by id.
    pub secrets: BTreeMap<String, Secret>,
    /// Sockets of ssh agents by id.
    pub ssh: BTreeMap<String, PathBuf>,
    /// Contexts by name: they stand before stages and images of that name.
    pub contexts: BTreeMap<String, NamedContext>,
    /// What dangerous steps may do.
    pub allowed: Allowed,
    /// Lines of every step's /etc/hosts: name and address.
    pub hosts: Vec<(String, String)>,
    /// Size of every step's /dev/shm in bytes.
    pub shm_bytes: Option<u64>,
    /// Caches that other builds wrote. One that is not there is told and passed over.
    pub cache_from: Vec<CachePlace>,
    /// Puts the results the image is made of into its own configuration.
    pub cache_inline: bool,
    /// Where the results of this build go besides the own cache.
    pub cache_to: Vec<CacheTarget>,
    /// Annotations of the manifest.
    pub annotations: BTreeMap<String, String>,
    /// The network of `RUN` steps that do not ask for one: [`Network::Host`], or loopback only.
    pub network: Network,
    /// Clamps the times of files and stamps the image, in seconds since 1970, so that builds are reproducible.
    pub source_date_epoch: Option<i64>,
    /// How many steps may run at once; the number of processors where zero.
    pub workers: usize,
    /// Ends the build from another thread.
    pub cancel: Cancel,
}

impl BuildRequest {
    /// A build of `context` with the Dockerfile in it.
    pub fn new(context: Context) -> Self {
        Self {
            dockerfile: DockerfileSource::InContext("Dockerfile".into()),
            context,
            platforms: Vec::new(),
            attestations: Attestations::default(),
            args: BTreeMap::new(),
            target: None,
            tags: Vec::new(),
            labels: BTreeMap::new(),
            pull: false,
            no_cache: false,
            no_cache_stages: Vec::new(),
            secrets: BTreeMap::new(),
            ssh: BTreeMap::new(),
            contexts: BTreeMap::new(),
            allowed: Allowed::default(),
            hosts: Vec::new(),
            shm_bytes: None,
            cache_from: Vec::new(),
            cache_inline: false,
            cache_to: Vec::new(),
            annotations: BTreeMap::new(),
            network: Network::Default,
            source_date_epoch: None,
            workers: 0,
            cancel: Cancel::default(),
        }
    }
}

/// What became of one step.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct StepReport {
    /// Its number.
    pub step: StepId,
    /// As people read it.
    pub name: String,
    /// Whether its result was there already.
    pub cached: bool,
    /// How long it took.
    pub elapsed: Duration,
}

/// The image of one platform.
#[derive(Debug, Clone)]
pub struct Image {
    /// The platform it was asked for.
    pub platform: Platform,
    /// Its manifest.
    pub manifest: Descriptor,
    /// The digest of its configuration.
    pub id: Digest,
    /// What is attested of it: in-toto statements with the types of their predicates.
    pub statements: Vec<(String, Vec<u8>)>,
}

/// A finished build.
#[derive(Debug, Clone)]
pub struct BuildResult {
    /// The image's id: the digest of its configuration; of several, that for this machine or the first.
    pub id: Digest,
    /// Its manifest, or an index of several images or of an image and what is attested of it.
    pub manifest: Descriptor,
    /// The images by platform, as asked for.
    pub images: Vec<Image>,
    /// Its steps in order.
    pub steps: Vec<StepReport>,
    /// Remarks: odd lines, arguments nobody uses.
    pub warnings: Vec<String>,
}

impl Builder {
    /// Opens the builder whose cache lies in `cache_dir`, best on the file system of `images`. Sweeps what killed builds left.
    pub fn open(images: Arc<Store>, cache_dir: impl AsRef<Path>, runtime: Arc<dyn Runtime>) -> Result<Self> {
        let workspace = Workspace::open(cache_dir.as_ref())?;
        workspace.sweep(&*runtime)?;
        Ok(Self {
            images,
            records: Records::new(workspace.records()),
            files: FileDigests::open(workspace.files()),
            downloads: Downloads::new(workspace.downloads()),
            workspace,
            runtime,
            pull: None,
            bill: None,
            device_dirs: SPEC_DIRS.map(PathBuf::from).to_vec(),
            fetch: None,
            network: None,
        })
    }

    /// Ends and removes what killed builds left in `cache_dir`, as opening it does, where there is such a folder.
    pub fn sweep(cache_dir: impl AsRef<Path>, runtime: &dyn Runtime) -> Result<()> {
        match cache_dir.as_ref().exists() {
            true => Workspace::open(cache_dir.as_ref())?.sweep(runtime),
            false => Ok(()),
        }
    }

    /// Lets builds bring images that are not in the store.
    pub fn with_pull(mut self, pull: Pull) -> Self {
        self.pull = Some(pull);
        self
    }

    /// Finds devices registered in these folders; in [`SPEC_DIRS`] otherwise.
    pub fn with_devices(mut self, folders: Vec<PathBuf>) -> Self {
        self.device_dirs = folders;
        self
    }

    /// Lets builds attest what packages their images have.
    pub fn with_bill(mut self, bill: Bill) -> Self {
        self.bill = Some(bill);
        self
    }

    /// The store it builds into.
    pub fn images(&self) -> &Arc<Store> {
        &self.images
    }

    /// Lets builds fetch files over HTTP.
    pub fn with_fetch(mut self, fetch: Fetch) -> Self {
        self.fetch = Some(fetch);
        self
    }

    /// Connects steps that ask for no network in particular.
    pub fn with_network(mut self, network: Arc<dyn StepNetwork>) -> Self {
        self.network = Some(network);
        self
    }

    /// Builds. Blocks until the image stands, the build fails or it is cancelled.
    pub fn build(
        &self,
        request: BuildRequest,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<BuildResult> {
        executor::build(self, request, &progress)
    }

    /// Reads the Dockerfile of a build and checks it. Builds nothing.
    pub fn check(&self, request: BuildRequest) -> Result<CheckReport> {
        check::check(self, request)
    }

    /// Blobs and layers the cache needs, for [`wharf_image::GcOptions::keep`].
    pub fn kept(&self) -> Result<HashSet<Digest>> {
        Ok(self.records.kept()?.into_iter().collect())
    }

    /// Forgets results nobody has used for `age`; how many. Their layers go with the next garbage collection.
    pub fn prune(&self, age: Duration) -> Result<usize> {
        self.downloads.prune(age)?;
        self.records.prune(age)
    }
}
