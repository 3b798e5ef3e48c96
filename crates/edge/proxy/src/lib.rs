//! The L7 proxy: Ingress routing, weighted backends, retries, golden signals.
//!
//! It watches Ingresses, Services, EndpointSlices, pods and Rollouts, makes a routing table of them with pure functions
//! ([`table_of`]) and serves HTTP and HTTPS by it, straight to the pods. It does not know how addresses get their
//! routes, nor who decides the weights of a Rollout: it reads them from its status, and the next request follows.

mod backend;
mod flight;
mod forward;
mod headers;
mod metrics;
mod objects;
mod publish;
mod routes;
mod table;
#[cfg(test)]
mod tests;
mod trace;
mod watch;

use std::{
    net::{IpAddr, SocketAddr},
    sync::Arc,
    time::Duration,
};

use tokio::{sync::mpsc, task::JoinSet};
use wharf_http::{
    Certificate, Certificates, Handler, Issued, Listener, ServeError,
    client::{Client, ClientConfig},
    tls_config_by_name,
};

pub use backend::{Backend, Endpoint, Gate, Group};
pub use metrics::{Registry, Series, ServiceState, Trouble};
pub use objects::{Kind, World};
pub use routes::{BackendKey, CONTROLLER, PortRef, Warning};
pub use table::{Dirty, Outcome, RouteTable, table_of, update};
pub use trace::{Context, RequestSpan};

use forward::Gateway;

/// Is told how many requests wait for a Service (namespace, name) whenever that changes.
pub type HeldSink = Arc<dyn Fn(&str, &str, usize) + Send + Sync>;

/// Requests on their way get this long to end when the proxy stops.
const DRAIN: Duration = Duration::from_secs(20);
/// When the API does not answer, the proxy serves without routes after this long.
const SYNC: Duration = Duration::from_secs(10);

/// How long and how much.
#[derive(Debug, Clone)]
pub struct Limits {
    /// A request waits this long for the first endpoint of its Service.
    pub longest_hold: Duration,
    /// Requests of one Service that wait at once.
    pub most_held: usize,
    /// For a connection to an endpoint.
    pub connect_timeout: Duration,
    /// For the head of a response, from the last piece of the request on.
    pub response_timeout: Duration,
    /// Whether `X-Forwarded` headers of clients are believed: only behind another proxy that sets them.
    pub trust_forwarded: bool,
}

impl Default for Limits {
    fn default() -> Self {
        Self {
            longest_hold: Duration::from_secs(30),
            most_held: 1000,
            connect_timeout: Duration::from_secs(2),
            response_timeout: Duration::from_secs(60),
            trust_forwarded: false,
        }
    }
}

/// What a proxy is made of.
pub struct ProxyConfig {
    /// The API.
    pub client: wharf_client::Client,
    /// Where to serve HTTP; port 0 takes a free one.
    pub http: SocketAddr,
    /// Where to serve HTTPS.
    pub https: SocketAddr,
    /// Shown to clients that ask for a name no Ingress has a certificate for.
    pub default_certificate: Issued,
    /// Written into the status of Ingresses, if any.
    pub publish: Option<IpAddr>,
    /// Limits.
    pub limits: Limits,
    /// Takes the spans of requests; what finds no room is lost, and counted.
    pub spans: Option<mpsc::Sender<RequestSpan>>,
    /// Is told of requests that wait for a Service to start.
    pub held: Option<HeldSink>,
}

impl ProxyConfig {
    /// With default limits and nobody told.
    pub fn new(
        client: wharf_client::Client,
        http: SocketAddr,
        https: SocketAddr,
        default_certificate: Issued,
    ) -> Self {
        let limits = Limits::default();
        Self { client, http, https, default_certificate, publish: None, limits, spans: None, held: None }
    }
}

/// Where a proxy serves.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Addresses {
    /// HTTP.
    pub http: SocketAddr,
    /// HTTPS.
    pub https: SocketAddr,
}

/// A proxy that serves. Dropped without [`Proxy::stop`], it ends at once.
pub struct Proxy {
    addresses: Addresses,
    gateway: Arc<Gateway>,
    stop: tokio::sync::watch::Sender<bool>,
    tasks: JoinSet<()>,
}

impl Proxy {
    /// Serves; returns once the API's objects are known.
    ///
    /// # Errors
    /// When an address cannot be listened on or the default certificate is not usable.
    pub async fn start(config: ProxyConfig) -> Result<Self, ServeError> {
        let default = &config.default_certificate;
        let certificates = Certificates::new(Certificate::from_pem(&default.certificate, &default.key)?);
        let http = Listener::tcp(config.http, None).await?;
        let https = Listener::tcp(config.https, Some(tls_config_by_name(certificates.clone())?)).await?;
        let addresses = Addresses {
            http: http.address().unwrap_or(config.http),
            https: https.address().unwrap_or(config.https),
        };
        let (stop, stopping) = tokio::sync::watch::channel(false);
        let client = Client::new(ClientConfig {
            connect_timeout: config.limits.connect_timeout,
            response_timeout: config.limits.response_timeout,
            ..ClientConfig::default()
        });
        let gateway = Arc::new(Gateway::new(
            client,
            Arc::default(),
            config.limits,
            config.spans,
            config.held,
            stopping.clone(),
        ));
        let mut tasks = JoinSet::new();
        let (reports, published) = mpsc::channel(16);
        tasks.spawn(publish::run(config.client.clone(), config.publish, published));
        let informers = watch::Informers::start(&config.client);
        if tokio::time::timeout(SYNC, informers.synced()).await.is_err() {
            tracing::warn!("the API has not answered for {} s; serving without routes", SYNC.as_secs());
        }
        tasks.spawn(informers.run(Arc::clone(&gateway), certificates, reports));
        tasks.spawn(http.serve(handler(&gateway, false), stopping.clone()));
        tasks.spawn(https.serve(handler(&gateway, true), stopping));
        Ok(Self { addresses, gateway, stop, tasks })
    }

    /// Where it serves.
    pub fn addresses(&self) -> Addresses {
        self.addresses
    }

    /// Golden signals in Prometheus' text format.
    pub fn metrics(&self) -> String {
        self.gateway.registry.expose()
    }

    /// Takes no more connections, cuts tunnels, lets requests end for a while.
    pub async fn stop(mut self) {
        self.stop.send_replace(true);
        let drained = async {
            while self.gateway.registry.open() > 0 {
                tokio::time::sleep(Duration::from_millis(20)).await;
            }
        };
        if tokio::time::timeout(DRAIN, drained).await.is_err() {
            let left = self.gateway.registry.open();
            tracing::warn!(left, "requests had not ended after {} s", DRAIN.as_secs());
        }
        self.tasks.shutdown().await;
    }
}

fn handler(gateway: &Arc<Gateway>, secure: bool) -> Handler {
    let gateway = Arc::clone(gateway);
    Arc::new(move |request| Box::pin(Arc::clone(&gateway).handle(secure, request)))
}
