//! What a caller asks for and gets.

use std::{
    collections::{BTreeMap, HashSet},
    io::Read,
    path::{Path, PathBuf},
    sync::{Arc, Mutex},
    time::Duration,
};

use wharf_base::Digest;
use wharf_image::{Descriptor, Reference, Store};
use wharf_runtime::Runtime;

use super::executor;
use crate::{
    cache::{FileDigests, Records},
    dockerfile::Network,
    error::Result,
    progress::{Cancel, Progress, StepId},
    workspace::Workspace,
};

/// Brings an image that is not in the store.
pub type Pull = Arc<dyn Fn(&Reference) -> Result<(), wharf_base::Hinted> + Send + Sync>;

/// Builds images. Several may work in one folder at the same time, in one process or in several.
pub struct Builder {
    pub(crate) images: Arc<Store>,
    pub(crate) workspace: Workspace,
    pub(crate) records: Records,
    pub(crate) files: FileDigests,
    pub(crate) runtime: Arc<dyn Runtime>,
    pub(crate) pull: Option<Pull>,
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

/// A build.
pub struct BuildRequest {
    /// The Dockerfile.
    pub dockerfile: DockerfileSource,
    /// The build context.
    pub context: Context,
    /// Values of `ARG`s.
    pub args: BTreeMap<String, String>,
    /// The stage to build, by name or number; the last where absent.
    pub target: Option<String>,
    /// Names the image gets.
    pub tags: Vec<Reference>,
    /// Labels the image gets besides its own.
    pub labels: BTreeMap<String, String>,
    /// Runs every step, whatever the cache knows.
    pub no_cache: bool,
    /// Secrets by id.
    pub secrets: BTreeMap<String, Secret>,
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
            args: BTreeMap::new(),
            target: None,
            tags: Vec::new(),
            labels: BTreeMap::new(),
            no_cache: false,
            secrets: BTreeMap::new(),
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

/// A finished build.
#[derive(Debug, Clone)]
pub struct BuildResult {
    /// The image's id: the digest of its configuration.
    pub id: Digest,
    /// Its manifest.
    pub manifest: Descriptor,
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
            workspace,
            runtime,
            pull: None,
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

    /// Builds. Blocks until the image stands, the build fails or it is cancelled.
    pub fn build(
        &self,
        request: BuildRequest,
        progress: impl Fn(Progress) + Send + Sync,
    ) -> Result<BuildResult> {
        executor::build(self, request, &progress)
    }

    /// Blobs and layers the cache needs, for [`wharf_image::GcOptions::keep`].
    pub fn kept(&self) -> Result<HashSet<Digest>> {
        Ok(self.records.kept()?.into_iter().collect())
    }

    /// Forgets results nobody has used for `age`; how many. Their layers go with the next garbage collection.
    pub fn prune(&self, age: Duration) -> Result<usize> {
        self.records.prune(age)
    }
}
