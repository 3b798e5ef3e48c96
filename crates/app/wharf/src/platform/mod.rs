//! The running platform: every part made, connected, started and stopped in order.

mod ci;
pub(crate) mod client;
mod collect;
mod cri;
mod definitions;
mod host;
mod identity;
mod kubelet;
mod ports;
mod registry;
mod scrape;
mod security;
mod state;
mod telemetry;
mod usage;
mod web;

use std::{
    fs::{File, OpenOptions},
    net::{IpAddr, SocketAddr, SocketAddrV4},
    os::unix::fs::{DirBuilderExt, OpenOptionsExt},
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use rustix::fs::{FlockOperation, flock};
use serde_json::json;
use tokio::{runtime::Handle, sync::watch, task::JoinSet};
use wharf_apiserver::{ApiServer, Audit, Config, Ranges};
use wharf_base::{HintExt, SystemClock};
use wharf_build::Builder;
use wharf_ci::{Ci, sandbox::Containers, services::Services};
use wharf_client::{Client, Informer, ListParams, action::PODS};
use wharf_criapi::Cri;
use wharf_engineapi::docker::Docker;
use wharf_gitserver::{GitServer, Repositories};
use wharf_http::{Handler, Listener, tls_config};
use wharf_image::Store as Images;
use wharf_network::{Ipv4Net, PodNetwork};
use wharf_proxy::{Proxy, ProxyConfig};
use wharf_runtime::ShimRuntime;
use wharf_telemetryapi::{loki::Loki, otlp::Otlp, prometheus::Prometheus, tempo::Tempo};

use crate::{
    commands::{build, containers::engine, restore},
    loops::{self, Loops, measure::Measure},
};

use host::{Host, Wiring};
use telemetry::{OwnMetrics, Telemetry};

pub(crate) use host::network_config;
use host::open_network;
pub(crate) use identity::Identities;
pub(crate) use ports::Ports;
pub(crate) use registry::RegistryOptions;
pub(crate) use security::SecurityOptions;
pub(crate) use state::{CLAIM, StateOptions};

/// How long the audit log may take to be written at the end.
const AUDIT_WITHIN: std::time::Duration = std::time::Duration::from_secs(10);
/// Spans of requests waiting to be kept.
const SPANS: usize = 4096;
/// Bytes of one git push at the most.
const MAX_PUSH: u64 = 2 << 30;

/// `--role`.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, clap::ValueEnum)]
pub(crate) enum Role {
    /// Control plane and node on this machine.
    #[default]
    All,
    /// No pods run here.
    ControlPlane,
}

/// A platform that serves.
pub(crate) struct Platform {
    /// Addresses others use.
    pub endpoints: Endpoints,
    tasks: JoinSet<()>,
    background: JoinSet<()>,
    loops: Loops,
    proxy: Arc<Proxy>,
    host: Option<Host>,
    ci: Option<Arc<Ci>>,
    cri: Option<Arc<Cri>>,
    audit: Option<Arc<Audit>>,
    stop: watch::Sender<bool>,
    /// Of the machine's ports.
    _lease: Option<JoinSet<()>>,
    _lock: File,
}

/// Where the parts of the platform are found.
#[derive(Debug, Clone)]
pub(crate) struct Endpoints {
    pub api: SocketAddr,
    pub registry: SocketAddr,
    /// The same registry over TLS, for other machines.
    pub registry_tls: Option<SocketAddr>,
    pub console: SocketAddr,
    pub ingress_http: SocketAddr,
    pub ingress_https: SocketAddr,
    pub otlp_grpc: SocketAddr,
    pub otlp_http: SocketAddr,
    /// The Docker Engine API, where there is a node.
    pub docker: Option<PathBuf>,
    /// The container runtime interface, where there is a node.
    pub cri: Option<PathBuf>,
}

impl Endpoints {
    /// Names and URLs, in the order people want them.
    pub(crate) fn rows(&self) -> Vec<(&'static str, String)> {
        let mut rows = vec![
            ("api", format!("https://{}", self.api)),
            ("registry", format!("http://{}", self.registry)),
            ("console", format!("http://{}", self.console)),
            ("ingress_http", format!("http://{}", self.ingress_http)),
            ("ingress_https", format!("https://{}", self.ingress_https)),
            ("otlp_grpc", format!("http://{}", self.otlp_grpc)),
            ("otlp_http", format!("http://{}", self.otlp_http)),
        ];
        rows.extend(self.registry_tls.map(|address| ("registry_tls", format!("https://{address}"))));
        for (name, socket) in [("docker", &self.docker), ("cri", &self.cri)] {
            rows.extend(socket.as_ref().map(|path| (name, format!("unix://{}", path.display()))));
        }
        rows
    }

    /// The addresses that are served.
    fn tcp(&self) -> Vec<SocketAddrV4> {
        let all = [
            Some(self.api),
            Some(self.registry),
            self.registry_tls,
            Some(self.console),
            Some(self.ingress_http),
            Some(self.ingress_https),
            Some(self.otlp_grpc),
            Some(self.otlp_http),
        ];
        let of_four = |address| match address {
            SocketAddr::V4(address) => Some(address),
            SocketAddr::V6(_) => None,
        };
        all.into_iter().flatten().filter_map(of_four).collect()
    }

    /// The form of `endpoints.json`.
    fn to_json(&self) -> serde_json::Value {
        self.rows().into_iter().map(|(name, url)| (name.to_owned(), json!(url))).collect()
    }
}

/// Writes a file that only its owner reads, whole or not at all; it is there from now on, also after a loss of power.
pub(crate) fn write_private(path: &Path, content: &[u8]) -> Result<()> {
    use std::io::Write;
    let temporary = path.with_extension("new");
    let mut file = OpenOptions::new().write(true).create(true).truncate(true).mode(0o600).open(&temporary)?;
    file.write_all(content)?;
    file.sync_all()?;
    std::fs::rename(&temporary, path)
        .and_then(|()| path.parent().map_or(Ok(()), |folder| File::open(folder)?.sync_all()))
        .with_context(|| format!("cannot write {}", path.display()))
}

/// Makes the folder of a platform, for its owner alone.
pub(crate) fn make_data_folder(data: &Path) -> Result<()> {
    let made = std::fs::DirBuilder::new().recursive(true).mode(0o700).create(data);
    made.with_context(|| format!("cannot make the data folder {}", data.display()))
}

/// One platform per folder: the lock lives as long as the file is open.
pub(crate) fn lock(data: &Path) -> Result<File> {
    let path = data.join("lock");
    let file = OpenOptions::new().write(true).create(true).truncate(false).mode(0o600).open(&path)?;
    flock(&file, FlockOperation::NonBlockingLockExclusive)
        .map_err(|e| anyhow::anyhow!("another wharf runs on {}: {e}", data.display()))
        .hint(|| "stop it, or choose another folder with --data".to_owned())?;
    Ok(file)
}

/// What the parts are made from.
struct Parts {
    data: PathBuf,
    ports: Ports,
    identities: Identities,
    /// The network of service addresses.
    services: Ipv4Net,
    server: Arc<ApiServer>,
    audit: Option<Arc<Audit>>,
    client: Client,
    images: Arc<Images>,
    telemetry: Telemetry,
    /// Nothing without a node.
    network: Option<Arc<PodNetwork>>,
}

impl Platform {
    /// Starts everything on `data`; returns once all of it answers.
    pub(crate) async fn start(
        data: PathBuf,
        ports: Ports,
        role: Role,
        options: &RegistryOptions,
        state: &StateOptions,
        security: &SecurityOptions,
    ) -> Result<Self> {
        make_data_folder(&data)?;
        let lock = lock(&data)?;
        restore::finish(&data)?;
        let parts = Parts::open(data, ports, role, state, security).await?;
        let (stop, stopping) = watch::channel(false);
        let mut listeners = Listeners { tasks: JoinSet::new(), stopping };
        let api = parts.serve_api(&mut listeners).await?;
        definitions::install(&parts.client).await.context("the platform's own kinds cannot be installed")?;

        let mut background = JoinSet::new();
        let proxy = parts.start_proxy(&mut background).await?;
        let addresses = proxy.addresses();
        let otlp = Otlp {
            metrics: Arc::clone(&parts.telemetry.metrics),
            logs: Arc::clone(&parts.telemetry.logs),
            traces: Arc::clone(&parts.telemetry.traces),
        };
        let (http, grpc) = (otlp.clone(), otlp);
        let otlp_http = handler(move |request| {
            let otlp = http.clone();
            async move { otlp.http(request).await }
        });
        let otlp_grpc = handler(move |request| {
            let otlp = grpc.clone();
            async move { otlp.grpc(request).await }
        });
        let registry = Arc::new(options.open(Arc::clone(&parts.images))?);
        let registry = handler(move |request| {
            let registry = Arc::clone(&registry);
            async move { registry.handle(request).await }
        });
        let outside = options.listener(&parts.identities).await?;
        let console = Listener::tcp(ports.local(ports::CONSOLE), None).await?;
        let mut endpoints = Endpoints {
            api,
            registry: listeners.serve(ports.local(ports::REGISTRY), Arc::clone(&registry)).await?,
            registry_tls: outside.as_ref().and_then(Listener::address),
            console: console.address().context("the console's listener has no address")?,
            ingress_http: addresses.http,
            ingress_https: addresses.https,
            otlp_grpc: listeners.serve(ports.local(ports::OTLP_GRPC), otlp_grpc).await?,
            otlp_http: listeners.serve(ports.local(ports::OTLP_HTTP), otlp_http).await?,
            docker: parts.serve_docker(&mut listeners),
            cri: None,
        };
        if let Some(listener) = outside {
            listeners.tasks.spawn(listener.serve(registry, listeners.stopping.clone()));
        }
        let lease = ports::keep(format!("{}/platform", host::instance(&parts.data)), endpoints.tcp()).await?;
        parts.images.serve_as(&[endpoints.registry.to_string()])?;

        let measure: Arc<dyn Measure> = Arc::new(OwnMetrics(Arc::clone(&parts.telemetry.metrics)));
        let authority = parts.identities.signer();
        let loops = loops::start(parts.client.clone(), Arc::new(SystemClock), authority, &measure);
        let host = parts.start_host(&endpoints).await?;
        parts.serve_pods(&mut listeners).await;
        // After the host has put the network in order.
        let (socket, cri) = parts.serve_cri(&mut listeners).await.unzip();
        endpoints.cri = socket;
        let ci = parts.start_ci(&endpoints).await?;
        let web = parts.web(ci.as_ref())?;
        if let Some(git) = web.git.clone() {
            background.spawn(async move { git.recover().await });
        }
        listeners.tasks.spawn(console.serve(web.handler(), listeners.stopping.clone()));
        parts.observe(&mut background, host.as_ref(), &proxy);

        let kubeconfig = parts.data.join("kubeconfig");
        parts.identities.write_kubeconfig(&kubeconfig, &format!("https://{api}"))?;
        let text = format!("{:#}\n", endpoints.to_json());
        write_private(&parts.data.join("endpoints.json"), text.as_bytes())?;
        Ok(Self {
            endpoints,
            tasks: listeners.tasks,
            background,
            loops,
            proxy,
            host,
            ci,
            cri,
            audit: parts.audit.clone(),
            stop,
            _lease: lease,
            _lock: lock,
        })
    }

    /// Stops serving; what runs in containers goes on, unless it is to be drained.
    pub(crate) async fn stop(mut self, drain: bool) {
        if let Some(ci) = &self.ci {
            ci.stop().await;
        }
        // Draining needs the loops no more: new pods in the place of the old ones would never end.
        self.loops.stop().await;
        if let Some(cri) = self.cri.take().filter(|_| drain) {
            // A panic in it has been told.
            let _ = tokio::task::spawn_blocking(move || cri.drain()).await;
        }
        if let Some(host) = self.host.take() {
            host.stop(drain).await;
        }
        self.background.shutdown().await;
        if let Some(proxy) = Arc::into_inner(self.proxy) {
            proxy.stop().await;
        }
        self.stop.send_replace(true);
        while self.tasks.join_next().await.is_some() {}
        if let Some(audit) = &self.audit {
            let flushed = tokio::time::timeout(AUDIT_WITHIN, audit.flush()).await;
            if flushed.is_err() {
                tracing::error!("the audit log cannot be written: what waited to be is lost");
            }
        }
    }
}

/// Listeners that serve until the platform stops.
struct Listeners {
    tasks: JoinSet<()>,
    stopping: watch::Receiver<bool>,
}

impl Listeners {
    async fn serve(&mut self, address: SocketAddr, handler: Handler) -> Result<SocketAddr> {
        let listener = Listener::tcp(address, None).await?;
        let address = listener.address().context("a listener has no address")?;
        self.tasks.spawn(listener.serve(handler, self.stopping.clone()));
        Ok(address)
    }
}

fn handler<F>(answer: impl Fn(http::Request<wharf_http::Body>) -> F + Send + Sync + 'static) -> Handler
where
    F: Future<Output = http::Response<wharf_http::Body>> + Send + 'static,
{
    Arc::new(move |request| Box::pin(answer(request)))
}

impl Parts {
    async fn open(
        data: PathBuf,
        ports: Ports,
        role: Role,
        state: &StateOptions,
        security: &SecurityOptions,
    ) -> Result<Self> {
        let identities = Identities::open(&data.join("pki"))?;
        let (store, security) = security.open(state.open(&data).await?)?;
        let audit = security.audit.clone();
        let network = match role {
            Role::All => {
                let joining = engine(&data).bridge().lock()?;
                let network = open_network(&data).await?;
                drop(joining);
                Some(network)
            }
            Role::ControlPlane => None,
        };
        let services = match &network {
            Some(network) => network.service_range(),
            None => network_config(&data).services()?,
        };
        let config = Config {
            store,
            clock: Arc::new(SystemClock),
            signing_key: identities.signing_key()?,
            ranges: Ranges::new(services.address(), services.prefix(), 30000..=32767),
            authority: identities.authority().to_owned(),
            front_proxy: Some(identities.front_proxy()?),
        };
        let server = ApiServer::open_with(config, security).await?;
        let telemetry = Telemetry::open(&data)?;
        let images = Arc::new(Images::open(data.join("images")).context("the image store cannot be opened")?);
        let client = client::in_process(&server, "wharf");
        Ok(Self { data, ports, identities, services, server, audit, client, images, telemetry, network })
    }

    async fn serve_api(&self, listeners: &mut Listeners) -> Result<SocketAddr> {
        self.serve_api_at(self.ports.local(ports::API), listeners).await
    }

    async fn serve_api_at(&self, address: SocketAddr, listeners: &mut Listeners) -> Result<SocketAddr> {
        let inside = host::api_address(self.services).to_string();
        let mut names = vec!["localhost".to_owned(), "127.0.0.1".to_owned(), inside];
        names.extend(self.network.as_ref().map(|network| network.gateway().to_string()));
        let names: Vec<&str> = names.iter().map(String::as_str).collect();
        let certificate = self.identities.server(&names)?;
        let authority = Some(self.identities.authority());
        let tls = tls_config(&certificate.certificate, &certificate.key, authority)?;
        let listener = Listener::tcp(address, Some(tls)).await?;
        let address = listener.address().context("the API listener has no address")?;
        let server = Arc::clone(&self.server);
        let api = handler(move |request| Arc::clone(&server).handle(request));
        listeners.tasks.spawn(listener.serve(api, listeners.stopping.clone()));
        Ok(address)
    }

    /// The API under an address that pods reach, and where it is as endpoints of its Service.
    async fn serve_pods(&self, listeners: &mut Listeners) {
        let Some(network) = &self.network else { return };
        let gateway = SocketAddr::from((network.gateway(), ports::API));
        let served = match self.serve_api_at(gateway, listeners).await {
            Ok(_) => host::announce_api(&self.client, gateway).await,
            Err(error) => Err(error),
        };
        if let Err(error) = served {
            let error = format!("{error:#}");
            tracing::warn!(error, %gateway, "Service kubernetes has no endpoints, its address works all the same");
        }
    }

    async fn start_proxy(&self, background: &mut JoinSet<()>) -> Result<Arc<Proxy>> {
        let (sender, spans) = tokio::sync::mpsc::channel(SPANS);
        let (http, https) = (self.ports.local(ports::INGRESS_HTTP), self.ports.local(ports::INGRESS_HTTPS));
        let certificate = self.identities.server(&["localhost", "127.0.0.1"])?;
        let mut config = ProxyConfig::new(self.client.clone(), http, https, certificate);
        config.publish = self.network.as_ref().map(|network| IpAddr::V4(network.gateway()));
        config.spans = Some(sender);
        background.spawn(self.telemetry.clone().take_spans(spans));
        Ok(Arc::new(Proxy::start(config).await?))
    }

    fn builder(&self) -> Result<Arc<Builder>> {
        Ok(Arc::new(build::builder(&self.data, Arc::clone(&self.images))?))
    }

    /// The Docker Engine API on a socket of the data folder, for whoever may enter that.
    fn serve_docker(&self, listeners: &mut Listeners) -> Option<PathBuf> {
        self.network.as_ref()?;
        let path = self.data.join("docker.sock");
        let listener = match Listener::unix(&path) {
            Ok(listener) => listener,
            // Such as a path longer than sockets may have. Everything else works without.
            Err(error) => {
                tracing::warn!(%error, "there is no Docker Engine API");
                return None;
            }
        };
        let docker = Docker::start(engine(&self.data), Arc::clone(&self.images), self.builder().ok());
        let handler = handler(move |request| {
            let docker = docker.clone();
            async move { docker.handle(request).await }
        });
        listeners.tasks.spawn(listener.serve(handler, listeners.stopping.clone()));
        Some(path)
    }

    async fn start_host(&self, endpoints: &Endpoints) -> Result<Option<Host>> {
        let Some(network) = &self.network else { return Ok(None) };
        let network = Arc::clone(network);
        let host = Host::start(&self.data, &self.client, &self.images, network, endpoints).await?;
        self.server.connect_kubelet(Arc::new(kubelet::LocalKubelet(Arc::clone(host.agent()))));
        Ok(Some(host))
    }

    async fn start_ci(&self, endpoints: &Endpoints) -> Result<Option<Arc<Ci>>> {
        let Some(network) = &self.network else { return Ok(None) };
        let runtime = Arc::new(ShimRuntime::default());
        let builder = self.builder()?;
        let jobs = ci::Jobs(Wiring { network: Arc::clone(network), handle: Handle::current() });
        let cgroup = format!("wharf-{}/ci", host::instance(&self.data));
        let sandboxes = Containers::new(runtime, self.data.join("images"), cgroup, Some(Arc::new(jobs)));
        let services = Services {
            pull: Some(Arc::new(host::Puller { images: Arc::clone(&self.images) })),
            build: Some(Arc::new(ci::Images { images: Arc::clone(&self.images), builder })),
            scan: Some(Arc::new(ci::Advisories {
                images: Arc::clone(&self.images),
                folder: self.data.join("osv"),
            })),
            ingress: Some(format!("http://{}:{}", network.gateway(), ports::INGRESS_HTTP)),
        };
        let ci = Ci::start(wharf_ci::Config {
            data: self.data.clone(),
            client: self.client.clone(),
            repositories: Repositories::open(self.data.join("git"))?,
            sandboxes: Arc::new(sandboxes),
            services,
            git_url: format!("http://{}/git", endpoints.console),
            jobs_at_once: std::thread::available_parallelism().map_or(2, usize::from),
        })
        .await
        .context("pipelines cannot start")?;
        Ok(Some(ci))
    }

    fn web(&self, ci: Option<&Arc<Ci>>) -> Result<web::Web> {
        let git = match ci {
            None => None,
            Some(ci) => Some(GitServer::new(wharf_gitserver::Config {
                repositories: Repositories::open(self.data.join("git"))?,
                prefix: "/git/".into(),
                create_on_push: true,
                max_push: MAX_PUSH,
                hook: ci.hook(),
            })),
        };
        let targets = self.telemetry.targets.clone();
        Ok(web::Web {
            console: web::console(self.client.clone(), &self.telemetry, ci.map(|ci| ci.logs())),
            git,
            prometheus: Prometheus::new(
                Arc::clone(&self.telemetry.metrics),
                Default::default(),
                Some(Arc::new(move |name| (name == "targets").then(|| targets.data()))),
            ),
            loki: Loki::new(Arc::clone(&self.telemetry.logs)),
            tempo: Tempo::new(Arc::clone(&self.telemetry.traces)),
        })
    }

    /// Starts what brings signals in.
    fn observe(&self, background: &mut JoinSet<()>, host: Option<&Host>, proxy: &Arc<Proxy>) {
        let (metrics, node) = (&self.telemetry.metrics, host::node_name());
        let agent = host.map(|host| Arc::clone(host.agent()));
        background.spawn(self.telemetry.clone().keep());
        background.spawn(scrape::own(Arc::clone(metrics), agent, Arc::clone(proxy), node.clone()));
        let pods = Informer::start(self.client.clone(), PODS, ListParams::default());
        background.spawn(scrape::pods(Arc::clone(metrics), pods.clone(), self.telemetry.targets.clone()));
        let metrics_source = Arc::new(OwnMetrics(Arc::clone(metrics)));
        self.server.connect_metrics(Arc::new(usage::Usage { metrics: metrics_source, pods: pods.clone() }));
        if host.is_some() {
            let (logs, folder) = (Arc::clone(&self.telemetry.logs), self.data.join("pods"));
            background.spawn(host::release_containers(self.data.clone()));
            background.spawn(collect::run(logs, pods, folder, node));
        }
    }
}
