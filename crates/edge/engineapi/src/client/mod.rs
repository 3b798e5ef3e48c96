//! The client of other registries: images in and out, with the credentials docker has.
//!
//! Content goes straight between the connection and the image store, every digest is checked while it
//! streams, and a download that breaks goes on where it stopped, even in another process. Manifests are
//! kept and sent as the bytes they are. Registries on this machine are spoken to in plain HTTP, all others
//! through TLS; folders of `hosts.toml` and certificates say otherwise, and name mirrors ([`hosts`]).

mod auth;
pub mod hosts;
mod progress;
mod pull;
mod push;
mod remote;
pub mod trust;
mod trusted;

use std::{
    collections::HashMap,
    path::PathBuf,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use http::{HeaderValue, Method};
use wharf_image::{Error, Reference};

pub use auth::{Credential, DockerConfig};
pub use progress::{Progress, Silent, Step};
pub(crate) use pull::Arriving;

use hosts::{Capability, Folders, Host};
use remote::{Ask, Remote};
use trusted::Policies;

/// A server that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// Blobs in flight at once.
const PARALLEL: usize = 4;
/// What the folders say of a registry is read anew after this.
const FRESH: Duration = Duration::from_secs(30);
/// Tokens remembered at once.
const MAX_TOKENS: usize = 1024;
/// Attempts of one blob.
const ATTEMPTS: usize = 5;

type Result<T> = std::result::Result<T, Error>;

/// A client of registries. Cheap to clone; clones share connections and tokens.
#[derive(Clone)]
pub struct Client {
    http: wharf_http::client::Client,
    credentials: Credentials,
    folders: Arc<Folders>,
    policies: Policies,
    /// Layers are not unpacked.
    packed: bool,
    /// The servers of each registry that was asked for.
    hosts: Arc<Mutex<HashMap<String, (Instant, Hosts)>>>,
    /// What worked last, by server and repository.
    authorization: Arc<Mutex<HashMap<(String, String), HeaderValue>>>,
}

type Hosts = Arc<Vec<Arc<Host>>>;

/// Where credentials come from.
#[derive(Clone)]
enum Credentials {
    Given(Arc<DockerConfig>),
    /// The file docker uses, as it is when a registry asks.
    OfUser,
}

impl Credentials {
    fn find(&self, host: &str) -> std::result::Result<Option<Credential>, String> {
        match self {
            Self::Given(config) => Ok(config.credential(host)),
            Self::OfUser => Ok(DockerConfig::load()?.credential(host)),
        }
    }
}

impl Default for Client {
    fn default() -> Self {
        Self::new()
    }
}

impl Client {
    /// A client without credentials.
    pub fn new() -> Self {
        Self::with_credentials(DockerConfig::default())
    }

    /// A client with these credentials.
    pub fn with_credentials(credentials: DockerConfig) -> Self {
        Self::of(Credentials::Given(Arc::new(credentials)))
    }

    /// A client with what `docker login` has stored for this user, now or by the time it is needed.
    pub fn of_user() -> Self {
        Self::of(Credentials::OfUser)
    }

    fn of(credentials: Credentials) -> Self {
        let (folders, policies) = Default::default();
        let (hosts, authorization) = Default::default();
        Self { http: hosts::plain(), credentials, folders, policies, packed: false, hosts, authorization }
    }

    /// The same client, with what these folders say of registries instead of what the machine's say.
    pub fn with_folders(mut self, folders: Folders) -> Self {
        self.folders = Arc::new(folders);
        self.hosts = Arc::default();
        self
    }

    /// The same client, which leaves the layers of what it pulls packed: whoever uses them first unpacks them.
    pub fn leaving_packed(mut self) -> Self {
        self.packed = true;
        self
    }

    /// The same client, which uses only images that the policy in this file accepts (containers-policy.json(5)).
    pub fn with_policy(mut self, file: impl Into<PathBuf>) -> Self {
        self.policies = Policies::File(file.into());
        self
    }

    /// Tries the credentials for a registry: whether it lets one in with them.
    ///
    /// # Errors
    /// When it does not, or cannot be reached.
    pub async fn log_in(&self, domain: &str) -> Result<()> {
        let host = self.hosts(domain).await?.iter().find(|host| !host.mirror).cloned();
        let host = host.ok_or_else(|| hosts::lacks(domain, Capability::Resolve))?;
        let remote = Remote { client: self, domain, repository: "", host };
        let mut ask = Ask::new(Method::GET, remote.url(""));
        let response = remote.send(&mut ask).await?;
        match response.status().is_success() {
            true => Ok(()),
            false => {
                let said = remote::said(response).await;
                Err(remote.error(format!("it does not let this user in ({said})")))
            }
        }
    }

    /// The servers of a registry, in the order they are asked.
    async fn hosts(&self, domain: &str) -> Result<Hosts> {
        let known = || self.hosts.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some((_, found)) = known().get(domain).filter(|(since, _)| since.elapsed() < FRESH) {
            return Ok(Arc::clone(found));
        }
        let (folders, http, name) = (Arc::clone(&self.folders), self.http.clone(), domain.to_owned());
        let found = tokio::task::spawn_blocking(move || folders.hosts(&name, &http)).await;
        let found = found.unwrap_or_else(|e| {
            Err(Error::Remote { host: domain.to_owned(), problem: format!("its servers are unknown: {e}") })
        })?;
        let found: Hosts = Arc::new(found.into_iter().map(Arc::new).collect());
        let mut known = known();
        known.retain(|_, (since, _)| since.elapsed() < FRESH);
        known.insert(domain.to_owned(), (Instant::now(), Arc::clone(&found)));
        Ok(found)
    }

    /// The repository of a name at every server that can do this, at least one.
    async fn remotes<'a>(&'a self, name: &'a Reference, able: Capability) -> Result<Vec<Remote<'a>>> {
        let (domain, repository) = (name.domain(), name.path());
        let hosts = self.hosts(domain).await?;
        let able_hosts = hosts.iter().filter(|host| host.can(able)).cloned();
        let remotes: Vec<_> =
            able_hosts.map(|host| Remote { client: self, domain, repository, host }).collect();
        match remotes.is_empty() {
            true => Err(hosts::lacks(domain, able)),
            false => Ok(remotes),
        }
    }
}
