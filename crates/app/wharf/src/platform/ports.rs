//! Which TCP ports the platform listens on.

use std::{
    net::{Ipv4Addr, SocketAddr, SocketAddrV4, TcpListener},
    time::Duration,
};

use anyhow::Result;
use tokio::task::JoinSet;
use wharf_base::HintExt as _;
use wharf_network::Lease;

use crate::commands::rootless;

/// `--ports`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Ports {
    /// The documented ports.
    #[default]
    Default,
    /// Whatever is free; DIR/endpoints.json tells.
    Auto,
}

/// Between two tries to have ports again.
const AGAIN: Duration = Duration::from_millis(500);
/// After so many it is told that they fail.
const PATIENCE: u32 = 10;

/// The Kubernetes API.
pub(crate) const API: u16 = 6443;
/// The image registry.
pub(crate) const REGISTRY: u16 = 5000;
/// The web page, git, and the query APIs.
pub(crate) const CONSOLE: u16 = 7070;
/// Ingress over HTTP.
pub(crate) const INGRESS_HTTP: u16 = 8080;
/// Ingress over HTTPS.
pub(crate) const INGRESS_HTTPS: u16 = 8443;
/// OTLP over gRPC.
pub(crate) const OTLP_GRPC: u16 = 4317;
/// OTLP over HTTP.
pub(crate) const OTLP_HTTP: u16 = 4318;

/// All of them.
const ALL: [u16; 7] = [API, REGISTRY, CONSOLE, INGRESS_HTTP, INGRESS_HTTPS, OTLP_GRPC, OTLP_HTTP];

impl Ports {
    /// Documented ports that something else listens on.
    pub(crate) async fn taken() -> Vec<u16> {
        let mut taken = Vec::new();
        for port in ALL {
            let here = TcpListener::bind(Self::Default.local(port)).is_ok();
            let address = SocketAddrV4::new(Ipv4Addr::LOCALHOST, port);
            if !here || lease("ports that are looked for", &[address]).await.is_err() {
                taken.push(port);
            }
        }
        taken
    }

    /// An address on this machine only.
    pub(crate) fn local(self, port: u16) -> SocketAddr {
        let port = match self {
            Self::Default => port,
            Self::Auto => 0,
        };
        SocketAddr::from(([127, 0, 0, 1], port))
    }
}

/// Has the machine's ports lead to the same ones here, where this is a network of somebody who is not root. They are given back when
/// what is given is dropped.
async fn lease(name: &str, addresses: &[SocketAddrV4]) -> Result<Option<Lease>> {
    let Some(relay) = rootless::relay() else { return Ok(None) };
    let leased = wharf_network::lease(&relay, name, addresses).await;
    Ok(Some(leased.hint(|| "stop what uses it, or use other ports with --ports auto".to_owned())?))
}

/// As [`lease`], for as long as what is given lives: once more whenever who holds them has been killed.
pub(crate) async fn keep(name: String, addresses: Vec<SocketAddrV4>) -> Result<Option<JoinSet<()>>> {
    let Some(mut leased) = lease(&name, &addresses).await? else { return Ok(None) };
    let mut task = JoinSet::new();
    task.spawn(async move {
        loop {
            leased.lost().await;
            tracing::warn!(
                "the process that holds your namespaces has ended: ports of the machine lead nowhere"
            );
            let mut tries = 0_u32;
            leased = loop {
                match lease(&name, &addresses).await {
                    Ok(Some(again)) => break again,
                    Ok(None) => return,
                    // Another takes its place in a moment.
                    Err(error) if tries == PATIENCE => {
                        tracing::warn!("ports cannot be had again yet: {error:#}")
                    }
                    Err(_) => {}
                }
                tries = tries.saturating_add(1);
                tokio::time::sleep(AGAIN).await;
            };
            tracing::warn!("ports of the machine lead here again");
        }
    });
    Ok(Some(task))
}
