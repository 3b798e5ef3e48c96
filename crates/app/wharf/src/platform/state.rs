//! Where objects are kept.

use std::{
    fs,
    io::ErrorKind,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result, bail};
use wharf_base::{HintExt, Hinted, random_hex};
use wharf_etcd::{Config, Etcd, Tls};
use wharf_state::{Embedded, Options, Store};

use super::write_private;
use crate::commands::backup;

/// By what name the platform claims its prefix of an etcd; there as long as its state is in one.
pub(crate) const CLAIM: &str = "store-owner";

/// `wharf up`'s options for the state.
#[derive(Debug, Clone, Default, clap::Args)]
#[command(next_help_heading = "State")]
pub(crate) struct StateOptions {
    /// Where objects are kept: 'embedded', which is the data folder, or an etcd, 3.4 or later:
    /// etcd://HOST[:PORT],...[/PREFIX] [default: embedded]
    #[arg(long = "store", value_name = "STORE", value_parser = parse)]
    store: Option<Kept>,
    /// Speak TLS with etcd, which has a certificate of this authority (PEM)
    #[arg(long = "etcd-cafile", value_name = "FILE", requires = "store")]
    etcd_authority: Option<PathBuf>,
    /// Certificate that etcd knows the platform by (PEM)
    #[arg(long = "etcd-certfile", value_name = "FILE", requires = "etcd_authority", requires = "etcd_key")]
    etcd_certificate: Option<PathBuf>,
    /// Private key of that certificate (PEM)
    #[arg(long = "etcd-keyfile", value_name = "FILE", requires = "etcd_certificate")]
    etcd_key: Option<PathBuf>,
}

/// `--store`.
#[derive(Debug, Clone)]
enum Kept {
    Embedded,
    Etcd(Config),
}

fn parse(text: &str) -> Result<Kept, String> {
    match text {
        "embedded" => Ok(Kept::Embedded),
        address if address.contains("://") => {
            address.parse().map(Kept::Etcd).map_err(|e: wharf_etcd::AddressError| e.to_string())
        }
        _ => Err("it is either 'embedded' or etcd://HOST:2379".to_owned()),
    }
}

impl StateOptions {
    /// The store over a platform's folder.
    pub(super) async fn open(&self, data: &Path) -> Result<Arc<dyn Store>> {
        let (own, claim) = (data.join("state.redb"), data.join(CLAIM));
        match &self.store {
            // It would start without any object, and end all pods.
            None if claim.exists() => {
                let error = format!("the state of the platform in {} is in an etcd", data.display());
                let hint =
                    "name it with --store etcd://HOST:2379, or say --store embedded to have none of it";
                Err(Hinted::new(error, hint).into())
            }
            None | Some(Kept::Embedded) => {
                let store = embedded(own, self.etcd_authority.is_some()).await?;
                if claim.exists() {
                    fs::remove_file(&claim).with_context(|| format!("cannot remove {}", claim.display()))?;
                }
                Ok(store)
            }
            Some(Kept::Etcd(config)) => {
                if own.exists() {
                    tracing::warn!(path = %own.display(), "the state is in etcd; this file is not used");
                }
                self.etcd(config, data).await
            }
        }
    }

    async fn etcd(&self, config: &Config, data: &Path) -> Result<Arc<dyn Store>> {
        let mut config = config.clone();
        let name = name_of(data)?;
        config.owner = Some(name.clone());
        if let Some(authority) = &self.etcd_authority {
            let identity = self.etcd_certificate.as_ref().zip(self.etcd_key.as_ref());
            let identity =
                identity.map(|(certificate, key)| Ok::<_, anyhow::Error>((read(certificate)?, read(key)?)));
            config.tls = Some(Tls { authority: Some(read(authority)?), identity: identity.transpose()? });
        }
        let opened = Etcd::open(&config).await;
        let hint = "start etcd, or correct --store and the --etcd options; each platform needs a prefix of its own, as in \
                    etcd://HOST:2379/PREFIX";
        let store = opened.hint(|| hint.to_owned())?;
        write_private(&data.join(CLAIM), name.as_bytes())?;
        Ok(Arc::new(store))
    }
}

async fn embedded(path: PathBuf, secured: bool) -> Result<Arc<dyn Store>> {
    if secured {
        bail!("--etcd-cafile goes with --store etcd://HOST:2379 only");
    }
    let opened = tokio::task::spawn_blocking(move || Embedded::open(&path, Options::default())).await?;
    Ok(Arc::new(opened.map_err(backup::damaged)?))
}

/// By what name a platform claims its state: the same at every start, and nobody else's.
fn name_of(data: &Path) -> Result<String> {
    let path = data.join(CLAIM);
    match fs::read_to_string(&path) {
        Ok(name) => Ok(name),
        Err(error) if error.kind() == ErrorKind::NotFound => {
            let host = rustix::system::uname().nodename().to_string_lossy().into_owned();
            Ok(format!("the platform {} of {host} ({})", data.display(), random_hex(4)))
        }
        Err(error) => Err(error).with_context(|| format!("cannot read {}", path.display())),
    }
}

fn read(path: &Path) -> Result<String> {
    fs::read_to_string(path).with_context(|| format!("cannot read {}", path.display()))
}
