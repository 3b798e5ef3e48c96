//! This machine as a node: pod network, DNS, node agent, and the adapters between them.

use std::{
    collections::BTreeSet,
    fs::File,
    net::{IpAddr, Ipv4Addr, SocketAddr, SocketAddrV4},
    path::{Path, PathBuf},
    sync::Arc,
    time::Duration,
};

use anyhow::{Context, Result};
use serde_json::{Value, json};
use tokio::runtime::Handle;
use wharf_base::HintExt;
use wharf_client::Client;
use wharf_control::{
    action::{ENDPOINT_SLICES, ENDPOINTS},
    hash::Fnv,
};
use wharf_engine::networks;
use wharf_engineapi::client as registry;
use wharf_image::{Reference, Store};
use wharf_network::{
    DnsConfig, DnsServer, Forwarding, Ipv4Net, Known, NetworkConfig, PodNetwork, Private, Protocol,
    ServicePortRule, ServiceProxy,
};
use wharf_node::{Failure, ImagePuller, NodeAgent, NodeConfig, Pull, PullSecret};
use wharf_runtime::ShimRuntime;

use super::{Endpoints, ports};
use crate::commands::containers::engine;

/// The network pods of all instances on a machine take theirs from.
const PODS: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 244, 0, 0), 16);
/// The network all instances on a machine take their service addresses from, a /16 each.
const SERVICES: (Ipv4Addr, u8) = (Ipv4Addr::new(10, 96, 0, 0), 12);
/// How often ended containers of `wharf run` are looked for.
const CONTAINERS: Duration = Duration::from_secs(2);
const DOMAIN: &str = "cluster.local";

/// A short name for a data folder, to tell its links, rules and cgroups from another's.
pub(crate) fn instance(data: &Path) -> String {
    let mut hash = Fnv::new();
    hash.bytes(data.as_os_str().as_encoded_bytes());
    hash.name().chars().take(8).collect()
}

/// The machine's part of the platform.
pub(crate) struct Host {
    agent: Arc<NodeAgent>,
    network: Arc<PodNetwork>,
    services: ServiceProxy,
    dns: DnsServer,
    data: PathBuf,
}

/// Where the network of a data folder keeps what it must not forget.
pub(crate) fn network_folder(data: &Path) -> PathBuf {
    data.join("network")
}

/// Takes back what containers of `wharf run` had, once they have ended.
pub(crate) async fn release_containers(data: PathBuf) {
    let mut again = tokio::time::interval(CONTAINERS);
    loop {
        again.tick().await;
        let data = data.clone();
        let released = tokio::task::spawn_blocking(move || {
            crate::commands::build::release_steps(&data);
            engine(&data).bridge().release_ended()
        });
        let released = released.await;
        if let Ok(Err(error)) = released {
            tracing::warn!(error = format!("{error:#}"), "an ended container keeps its address");
        }
    }
}

/// The network before anything uses it.
pub(crate) async fn open_network(data: &Path) -> Result<Arc<PodNetwork>> {
    if !rustix::process::geteuid().is_root() {
        let refused: Result<()> =
            Err(anyhow::anyhow!("running pods needs root: it makes namespaces, cgroups, packet rules"));
        refused.hint(|| "run it with sudo, or without a node: wharf up --role control-plane".to_owned())?;
    }
    let opened = PodNetwork::open(network_config(data)).await;
    Ok(Arc::new(opened.context("the pod network cannot be made")?))
}

/// Names containers of user-defined networks know each other by.
fn private(data: &Path) -> Private {
    let engine = engine(data);
    Private(Arc::new(move |source, name| match engine.addresses_of(source, name) {
        Ok(known) => known,
        Err(error) => {
            tracing::warn!(%error, name, "a name of a container cannot be looked up");
            Known::default()
        }
    }))
}

/// The network of a data folder, which pods and containers share.
pub(crate) fn network_config(data: &Path) -> NetworkConfig {
    NetworkConfig {
        instance: instance(data),
        data: network_folder(data),
        pods: Ipv4Net::new(PODS.0, PODS.1),
        services: Ipv4Net::new(SERVICES.0, SERVICES.1),
        outside: crate::commands::rootless::relay(),
    }
}

impl Host {
    /// Starts network and node agent.
    pub(crate) async fn start(
        data: &Path,
        client: &Client,
        images: &Arc<Store>,
        network: Arc<PodNetwork>,
        endpoints: &Endpoints,
    ) -> Result<Self> {
        let pods = data.join("pods");
        let living: BTreeSet<String> = std::fs::read_dir(&pods)
            .into_iter()
            .flatten()
            .filter_map(|entry| entry.ok()?.file_name().into_string().ok())
            .chain(engine(data).bridge().living()?)
            .chain(wharf_criapi::attached(data))
            .collect();
        let networks = networks::all(data).into_iter().map(|network| network.bridge.id).collect();
        network.recover(&living, &networks).await.context("the pod network cannot be put in order")?;
        if let [first, ..] = network.neighbours().await?.as_slice() {
            tracing::warn!(
                gateway = first,
                "another wharf has a network on this machine: a node port that Services of both have leads to one of the two"
            );
        }
        for (name, rules) in platform_rules(&network, endpoints) {
            network
                .services()
                .set_platform(name, rules)
                .await
                .context("the platform's addresses cannot be set")?;
        }
        let services = ServiceProxy::start(client.clone(), network.services().clone());
        let dns = DnsServer::start(
            client.clone(),
            DnsConfig {
                address: SocketAddrV4::new(network.gateway(), 53),
                domain: DOMAIN.to_owned(),
                networks: vec![network.range(), network.service_range()],
                service_address: network.dns(),
                forwarding: Forwarding::File("/etc/resolv.conf".into()),
                private: Some(private(data)),
            },
        )
        .await
        .context("cluster DNS cannot start")?;
        let agent = NodeAgent::start(NodeConfig {
            name: node_name(),
            client: client.clone(),
            images: Arc::clone(images),
            data: data.to_owned(),
            instance: instance(data),
            runtime: Arc::new(ShimRuntime::default()),
            network: Arc::new(Wiring { network: Arc::clone(&network), handle: Handle::current() }),
            puller: Arc::new(Puller { images: Arc::clone(images) }),
            secure: Arc::new(Secure),
            dns: Some(IpAddr::V4(network.dns())),
            cluster_domain: DOMAIN.to_owned(),
            api_address: SocketAddr::from((api_address(network.service_range()), 443)),
            address: Some(IpAddr::V4(network.gateway())),
            labels: Default::default(),
        })
        .context("the node agent cannot start")?;
        Ok(Self { agent: Arc::new(agent), network, services, dns, data: data.to_owned() })
    }

    pub(crate) fn agent(&self) -> &Arc<NodeAgent> {
        &self.agent
    }

    /// Stops; pods go on, unless they are to be drained.
    pub(crate) async fn stop(self, drain: bool) {
        match drain {
            true => self.agent.drain().await,
            false => self.agent.shutdown().await,
        }
        let Self { network, data, services, dns, .. } = self;
        drop((services, dns));
        if drain && let Err(error) = remove_network(&network, &data).await {
            tracing::error!(error = format!("{error:#}"), "the pod network could not be removed whole");
        }
    }
}

/// Containers of `wharf run` are not the platform's to end: the last of them takes the network with it.
async fn remove_network(network: &PodNetwork, data: &Path) -> Result<()> {
    let engine = engine(data);
    let _joining = engine.bridge().lock()?;
    let containers = engine.bridge().living()?;
    if containers.is_empty() {
        wharf_engine::remove_empty_group();
        return Ok(network.remove_all().await?);
    }
    tracing::info!(containers = containers.len(), "the network stays for containers of wharf run");
    Ok(network.services().replace(Default::default()).await?)
}

/// The machine's name, as Kubernetes wants it: lower case.
pub(crate) fn node_name() -> String {
    let name = rustix::system::uname().nodename().to_string_lossy().to_lowercase();
    if name.is_empty() { "node".to_owned() } else { name }
}

/// Where pods find the API: the first address of services.
pub(crate) fn api_address(services: Ipv4Net) -> Ipv4Addr {
    services.nth(1).unwrap_or(services.address())
}

/// Says where the API is, by the objects that every cluster has for that.
pub(crate) async fn announce_api(client: &Client, address: SocketAddr) -> Result<()> {
    let metadata = |labels: Value| json!({"name": "kubernetes", "namespace": "default", "labels": labels});
    let (ip, port) = (address.ip().to_string(), address.port());
    let endpoints = json!({"apiVersion": "v1", "kind": "Endpoints",
        "metadata": metadata(json!({"endpointslice.kubernetes.io/skip-mirror": "true"})),
        "subsets": [{"addresses": [{"ip": ip}], "ports": [{"name": "https", "port": port, "protocol": "TCP"}]}]});
    let slice = json!({"apiVersion": "discovery.k8s.io/v1", "kind": "EndpointSlice", "addressType": "IPv4",
        "metadata": metadata(json!({"kubernetes.io/service-name": "kubernetes"})),
        "endpoints": [{"addresses": [ip], "conditions": {"ready": true}}],
        "ports": [{"name": "https", "port": port, "protocol": "TCP"}]});
    client.apply(&ENDPOINTS, "wharf", &endpoints).await?;
    client.apply(&ENDPOINT_SLICES, "wharf", &slice).await?;
    Ok(())
}

/// What pods reach under fixed addresses though it listens on this machine's loopback, on whatever port.
fn platform_rules(network: &PodNetwork, endpoints: &Endpoints) -> Vec<(&'static str, Vec<ServicePortRule>)> {
    let (gateway, kubernetes) = (network.gateway(), api_address(network.service_range()));
    let rule = |name: &str, address: Ipv4Addr, port: u16, to: SocketAddr| {
        let SocketAddr::V4(to) = to else { return Vec::new() };
        vec![ServicePortRule {
            name: name.to_owned(),
            cluster_ips: vec![address],
            port,
            protocol: Protocol::Tcp,
            node_port: None,
            external_ips: Vec::new(),
            session_affinity: None,
            backends: vec![(to, 1)],
        }]
    };
    vec![
        ("kubernetes", rule("https", kubernetes, 443, endpoints.api)),
        ("registry", rule("registry", gateway, ports::REGISTRY, endpoints.registry)),
        ("ingress-http", rule("http", gateway, ports::INGRESS_HTTP, endpoints.ingress_http)),
        ("ingress-https", rule("https", gateway, ports::INGRESS_HTTPS, endpoints.ingress_https)),
        ("otlp-grpc", rule("otlp-grpc", gateway, ports::OTLP_GRPC, endpoints.otlp_grpc)),
        ("otlp-http", rule("otlp-http", gateway, ports::OTLP_HTTP, endpoints.otlp_http)),
    ]
}

/// The pod network for callers that block.
pub(crate) struct Wiring {
    pub(crate) network: Arc<PodNetwork>,
    pub(crate) handle: Handle,
}

impl wharf_node::PodNetwork for Wiring {
    fn attach(&self, pod_uid: &str, namespace: &Path) -> Result<IpAddr, Failure> {
        let file = File::open(namespace).map_err(|e| Failure(format!("{}: {e}", namespace.display())))?;
        let attached = self.handle.block_on(self.network.attach(pod_uid, &file));
        attached.map(IpAddr::V4).map_err(|e| Failure::of(&e))
    }

    fn detach(&self, pod_uid: &str) -> Result<(), Failure> {
        self.handle.block_on(self.network.detach(pod_uid)).map_err(|e| Failure::of(&e))
    }
}

/// Speaks TLS for the node's probes.
struct Secure;

impl wharf_node::SecureConnect for Secure {
    fn secure<'a>(&'a self, connection: tokio::net::TcpStream, host: &'a str) -> wharf_node::Securing<'a> {
        Box::pin(async move {
            let secure = wharf_http::client::to_anybody(connection, host).await?;
            Ok(Box::new(secure) as Box<dyn wharf_node::Stream>)
        })
    }
}

/// Brings images from registries.
pub(crate) struct Puller {
    pub(crate) images: Arc<Store>,
}

impl Puller {
    /// Brings an image with the first of these that its registry takes.
    pub(crate) async fn with_credentials(
        &self,
        reference: &str,
        credentials: Vec<registry::DockerConfig>,
    ) -> Result<(), Failure> {
        let name: Reference = reference.parse().map_err(|e: wharf_image::Error| Failure::of(&e))?;
        if name.domain() == "docker.io" {
            // What the platform's own registry has is here already.
            let (images, wanted) = (Arc::clone(&self.images), name.clone());
            let there = move || {
                let adopt = || {
                    images.adopt(&wanted).unwrap_or_else(|error| {
                        tracing::warn!(image = %wanted, %error, "the own registry's image cannot be used");
                        false
                    })
                };
                images.lookup(&wanted).is_ok() || adopt()
            };
            if tokio::task::spawn_blocking(there).await.map_err(|e| Failure::of(&e))? {
                return Ok(());
            }
        }
        let mut last = Failure(String::new());
        for credentials in credentials {
            let client = registry::Client::with_credentials(credentials);
            match client.pull(&self.images, &name, &registry::Silent).await {
                Ok(_) => return Ok(()),
                Err(error) => last = Failure::of(&error),
            }
        }
        Err(last)
    }
}

impl ImagePuller for Puller {
    fn pull<'a>(&'a self, reference: &'a str, secrets: &'a [PullSecret]) -> Pull<'a> {
        Box::pin(async move {
            let credentials = secrets
                .iter()
                .filter_map(|secret| registry::DockerConfig::parse(&secret.docker_config).ok())
                .chain([registry::DockerConfig::default()])
                .collect();
            self.with_credentials(reference, credentials).await
        })
    }
}
