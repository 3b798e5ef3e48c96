//! The running platform: every part made, connected, started and stopped in order.

pub(crate) mod client;
mod identity;
#[allow(dead_code, reason = "connected together with the node agent")]
mod kubelet;
mod ports;

use std::{
    fs::{File, OpenOptions},
    net::{Ipv4Addr, SocketAddr},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use serde_json::json;
use tokio::{sync::watch, task::JoinSet};
use wharf_apiserver::{ApiServer, Config, Ranges};
use wharf_base::{HintExt, SystemClock};
use wharf_http::{Handler, Listener, tls_config};
use wharf_state::{Embedded, Options, Store};

use crate::loops::{self, Loops};

pub(crate) use identity::Identities;
pub(crate) use ports::Ports;

/// The network service addresses are taken from.
const SERVICE_NETWORK: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 16);

/// A platform that serves.
pub(crate) struct Platform {
    /// Addresses others use.
    pub endpoints: Endpoints,
    tasks: JoinSet<()>,
    loops: Loops,
    stop: watch::Sender<bool>,
    _lock: File,
}

/// Where the parts of the platform are found.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    pub api: SocketAddr,
}

impl Endpoints {
    /// The form of `endpoints.json`.
    fn to_json(&self) -> serde_json::Value {
        json!({"api": format!("https://{}", self.api)})
    }
}

/// Writes a file that only its owner reads, whole or not at all.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path).with_context(|| format!("cannot write {}", path.display()))
}

/// One platform per folder: the lock lives as long as the file is open.
fn lock(data: &Path) -> Result<File> {
    let path = data.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| anyhow::anyhow!("another wharf runs on {}: {e}", data.display()))
        .hint(|| "stop it, or choose another folder with --data".to_owned())?;
    Ok(file)
}

impl Platform {
    /// Starts everything on `data`; returns once the API answers.
    pub(crate) async fn start(data: PathBuf, ports: Ports) -> Result<Self> {
        std::fs::DirBuilder::new()
            .recursive(true)
            .mode(0o700)
            .create(&data)
            .with_context(|| format!("cannot make the data folder {}", data.display()))?;
        let lock = lock(&data)?;
        let identities = Identities::open(&data.join("pki"))?;
        let state = data.join("state.redb");
        let store: Arc<dyn Store> =
            Arc::new(tokio::task::spawn_blocking(move || Embedded::open(&state, Options::default())).await??);
        let server = ApiServer::open(Config {
            store,
            clock: Arc::new(SystemClock),
            signing_key: identities.signing_key()?,
            ranges: Ranges::new(SERVICE_NETWORK.0, SERVICE_NETWORK.1, 30000..=32767),
            authority: identities.authority().to_owned(),
        })
        .await?;

        let (stop, stopping) = watch::channel(false);
        let mut tasks = JoinSet::new();
        let certificate = identities.server(&["localhost", "127.0.0.1", "10.96.0.1"])?;
        let tls = tls_config(&certificate.certificate, &certificate.key, Some(identities.authority()))?;
        let listener = Listener::tcp(ports.api(), Some(tls)).await?;
        let api = listener.address().context("the API listener has no address")?;
        tasks.spawn(listener.serve(handler(&server), stopping));

        let loops =
            loops::start(client::in_process(&server, "wharf"), Arc::new(SystemClock), identities.authority());
        let endpoints = Endpoints { api };
        identities.write_kubeconfig(&data.join("kubeconfig"), &format!("https://{api}"))?;
        write_private(&data.join("endpoints.json"), format!("{:#}\n", endpoints.to_json()).as_bytes())?;
        Ok(Self { endpoints, tasks, loops, stop, _lock: lock })
    }

    /// Stops serving; what runs in containers goes on.
    pub(crate) async fn stop(mut self) {
        self.loops.stop().await;
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
    }
}

fn handler(server: &Arc<ApiServer>) -> Handler {
    let server = Arc::clone(server);
    Arc::new(move |request| Box::pin(Arc::clone(&server).handle(request)))
}
