//! Who may use the registry, and from where.

use std::{
    fs,
    net::{IpAddr, SocketAddr},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, anyhow};
use wharf_base::HintExt;
use wharf_engineapi::{
    client::Client,
    registry::{Access, Registry, Through},
};
use wharf_http::{Issued, Listener, tls_config};
use wharf_image::Store;

use super::Identities;

/// `wharf up`'s options for the registry.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "Registry")]
pub(crate) struct RegistryOptions {
    /// Users of the registry, as 'htpasswd -B' writes them; without it everybody on this machine may use it
    #[arg(long = "registry-htpasswd", value_name = "FILE")]
    htpasswd: Option<PathBuf>,
    /// Serve the registry over TLS on this address too, for other machines
    #[arg(long = "registry-listen", value_name = "IP:PORT", requires = "htpasswd")]
    listen: Option<SocketAddr>,
    /// Certificate of the registry (PEM, with its chain); without it one of the platform's own authority, DIR/pki/ca.crt
    #[arg(long = "registry-cert", value_name = "FILE", requires = "key", requires = "listen")]
    certificate: Option<PathBuf>,
    /// Private key of that certificate (PEM)
    #[arg(long = "registry-key", value_name = "FILE", requires = "certificate")]
    key: Option<PathBuf>,
    /// Bring what the registry is asked for and lacks from the registry of its name, and keep it
    #[arg(long = "registry-pull-through")]
    pull_through: bool,
}

impl RegistryOptions {
    /// The registry over a store, as these options want it.
    pub(super) fn open(&self, images: Arc<Store>) -> Result<Registry> {
        let mut registry = Registry::new(images);
        if let Some(path) = &self.htpasswd {
            let access = Access::open(path);
            registry = registry
                .with_access(access.map_err(|e| anyhow!("the users of the registry are not known: {e}"))?);
        }
        if self.pull_through {
            registry = registry.with_through(Through::new(Client::of_user()));
        }
        Ok(registry)
    }

    /// The listener for other machines.
    pub(super) async fn listener(&self, identities: &Identities) -> Result<Option<Listener>> {
        let Some(address) = self.listen else { return Ok(None) };
        let issued = match (&self.certificate, &self.key) {
            (Some(certificate), Some(key)) => Issued { certificate: read(certificate)?, key: read(key)? },
            _ => identities.registry(&names(address.ip()))?,
        };
        let tls = tls_config(&issued.certificate, &issued.key, None)
            .context("the registry cannot be served over TLS")
            .hint(|| "look at --registry-cert and --registry-key".to_owned())?;
        let listener = Listener::tcp(address, Some(tls)).await.context("the registry cannot listen")?;
        Ok(Some(listener))
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}

/// The names other machines may know this one by.
fn names(listening: IpAddr) -> Vec<String> {
    let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
    let mut names = vec!["localhost".to_owned(), IpAddr::from([127, 0, 0, 1]).to_string()];
    if !host.is_empty() {
        names.push(host);
    }
    if !listening.is_unspecified() && !listening.is_loopback() {
        names.push(listening.to_string());
    }
    names
}
