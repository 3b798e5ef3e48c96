//! What the agent is given: the machine's name, the API, images, and the two things others do for it.

use std::{
    collections::BTreeMap,
    fmt,
    future::Future,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    pin::Pin,
    sync::Arc,
};

use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};
use wharf_client::Client;
use wharf_runtime::Runtime;

/// What the agent runs on.
#[derive(Clone)]
pub struct NodeConfig {
    /// The node's name in the API.
    pub name: String,
    /// The API.
    pub client: Client,
    /// The images of this machine.
    pub images: Arc<wharf_image::Store>,
    /// The platform's data folder; pods are kept in `pods/` below it.
    pub data: PathBuf,
    /// Tells this platform's cgroups from those of another on the same machine: letters and digits.
    pub instance: String,
    /// Makes containers.
    pub runtime: Arc<dyn Runtime>,
    /// Wires pods.
    pub network: Arc<dyn PodNetwork>,
    /// Brings images that are not here.
    pub puller: Arc<dyn ImagePuller>,
    /// Speaks TLS, for probes.
    pub secure: Arc<dyn SecureConnect>,
    /// The cluster's DNS server; pods use the machine's resolver without one.
    pub dns: Option<IpAddr>,
    /// The cluster's domain, `cluster.local`.
    pub cluster_domain: String,
    /// Where programs in pods find the API: `KUBERNETES_SERVICE_HOST` and `_PORT`.
    pub api_address: SocketAddr,
    /// The machine's own address; found by its default route when absent.
    pub address: Option<IpAddr>,
    /// Further labels of the node.
    pub labels: BTreeMap<String, String>,
}

/// Why something others did for the agent failed, for people.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Failure(pub String);

impl Failure {
    /// Of any error, with all its causes.
    pub fn of(error: &dyn std::error::Error) -> Self {
        let mut text = error.to_string();
        let mut next = error.source();
        while let Some(cause) = next {
            text = format!("{text}: {cause}");
            next = cause.source();
        }
        Self(text)
    }
}

impl fmt::Display for Failure {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl std::error::Error for Failure {}

/// Gives pods their network. Calls block; the agent makes them on threads of their own.
pub trait PodNetwork: Send + Sync {
    /// Wires the network namespace of a pod and gives its address. Called again for the same pod after a restart of the agent or
    /// of the sandbox; what is there is kept or replaced.
    ///
    /// # Errors
    /// When the pod has no network thereafter.
    fn attach(&self, pod_uid: &str, namespace: &Path) -> Result<IpAddr, Failure>;

    /// Takes back what `attach` gave. Succeeds when there is nothing.
    ///
    /// # Errors
    /// When something stays behind.
    fn detach(&self, pod_uid: &str) -> Result<(), Failure>;
}

/// Credentials of a registry: the content of a `kubernetes.io/dockerconfigjson` or `kubernetes.io/dockercfg` Secret.
#[derive(Clone, PartialEq, Eq)]
pub struct PullSecret {
    /// The Secret's name.
    pub name: String,
    /// `config.json` as `docker login` writes it.
    pub docker_config: Vec<u8>,
}

impl fmt::Debug for PullSecret {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "PullSecret({})", self.name)
    }
}

/// What is read from and written to.
pub trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}

/// A connection that becomes a secure one.
pub type Securing<'a> = Pin<Box<dyn Future<Output = std::io::Result<Box<dyn Stream>>> + Send + 'a>>;

/// Speaks TLS over connections, with any certificate: probes only ask whether something answers.
pub trait SecureConnect: Send + Sync {
    /// Makes the connection to a host of this name or address a secure one.
    fn secure<'a>(&'a self, connection: TcpStream, host: &'a str) -> Securing<'a>;
}

/// A pull under way.
pub type Pull<'a> = Pin<Box<dyn Future<Output = Result<(), Failure>> + Send + 'a>>;

/// Brings images into the store.
pub trait ImagePuller: Send + Sync {
    /// Sees to it that the store has the newest image of this name. Succeeds without a transfer when the store's own is the one.
    fn pull<'a>(&'a self, reference: &'a str, secrets: &'a [PullSecret]) -> Pull<'a>;
}
