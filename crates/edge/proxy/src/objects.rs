//! API objects as the proxy reads them.

use std::collections::{BTreeMap, HashMap};

use serde::{Deserialize, Deserializer};
use serde_json::Value;
use wharf_client::Gvr;
use wharf_control::{LabelSelector, Meta, endpointslice::EndpointSlice, read, service::Service};

/// Ingresses.
pub(crate) const INGRESSES: Gvr = Gvr::fixed("networking.k8s.io", "v1", "ingresses");
/// IngressClasses.
pub(crate) const INGRESS_CLASSES: Gvr = Gvr::fixed("networking.k8s.io", "v1", "ingressclasses");
/// Secrets.
pub(crate) const SECRETS: Gvr = Gvr::fixed("", "v1", "secrets");
/// Rollouts.
pub(crate) const ROLLOUTS: Gvr = Gvr::fixed("argoproj.io", "v1alpha1", "rollouts");

/// Reads an explicit null as the default, as Kubernetes does.
fn null<'de, D: Deserializer<'de>, T: Deserialize<'de> + Default>(from: D) -> Result<T, D::Error> {
    Ok(Option::deserialize(from)?.unwrap_or_default())
}

/// `networking.k8s.io/v1.Ingress`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Ingress {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: IngressSpec,
}

/// `networking.k8s.io/v1.IngressSpec`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IngressSpec {
    /// Its class.
    pub ingress_class_name: Option<String>,
    /// For requests that no rule matches.
    pub default_backend: Option<IngressBackend>,
    /// Certificates.
    #[serde(deserialize_with = "null")]
    pub tls: Vec<IngressTls>,
    /// Rules.
    #[serde(deserialize_with = "null")]
    pub rules: Vec<IngressRule>,
}

/// `networking.k8s.io/v1.IngressTLS`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct IngressTls {
    /// Names served; those of the rules when empty.
    #[serde(deserialize_with = "null")]
    pub hosts: Vec<String>,
    /// Secret with the certificate; the default certificate when empty.
    #[serde(deserialize_with = "null")]
    pub secret_name: String,
}

/// `networking.k8s.io/v1.IngressRule`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct IngressRule {
    /// Host, with a star for its first label; every host when empty.
    #[serde(deserialize_with = "null")]
    pub host: String,
    /// Paths.
    #[serde(deserialize_with = "null")]
    pub http: Http,
}

/// `networking.k8s.io/v1.HTTPIngressRuleValue`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Http {
    /// Paths.
    #[serde(deserialize_with = "null")]
    pub paths: Vec<HttpPath>,
}

/// `networking.k8s.io/v1.HTTPIngressPath`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct HttpPath {
    /// Path.
    #[serde(deserialize_with = "null")]
    pub path: String,
    /// `Exact`, `Prefix` or `ImplementationSpecific`.
    #[serde(deserialize_with = "null")]
    pub path_type: String,
    /// Where to.
    pub backend: IngressBackend,
}

/// `networking.k8s.io/v1.IngressBackend`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct IngressBackend {
    /// A Service of the same namespace.
    pub service: Option<ServiceBackend>,
    /// Another object, which the proxy does not serve.
    pub resource: Option<Value>,
}

/// `networking.k8s.io/v1.IngressServiceBackend`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct ServiceBackend {
    /// Name.
    pub name: String,
    /// Port.
    #[serde(deserialize_with = "null")]
    pub port: BackendPort,
}

/// `networking.k8s.io/v1.ServiceBackendPort`: one of the two is set.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct BackendPort {
    /// Name of a port of the Service.
    #[serde(deserialize_with = "null")]
    pub name: String,
    /// Number of a port of the Service.
    #[serde(deserialize_with = "null")]
    pub number: i64,
}

/// `networking.k8s.io/v1.IngressClass`.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct IngressClass {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: IngressClassSpec,
}

/// `networking.k8s.io/v1.IngressClassSpec`, in part.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct IngressClassSpec {
    /// Who serves it.
    #[serde(deserialize_with = "null")]
    pub controller: String,
}

/// What a pod adds to its endpoint.
#[derive(Debug, Clone, Default, PartialEq)]
pub(crate) struct PodFacts {
    /// Labels.
    pub labels: BTreeMap<String, String>,
    /// Whether it is on its way out: known here before its endpoint says so.
    pub leaving: bool,
}

impl PodFacts {
    /// The version it runs.
    pub(crate) fn version(&self) -> &str {
        let label = |name| self.labels.get(name).map(String::as_str);
        label(ROLLOUT_HASH).or_else(|| label("pod-template-hash")).unwrap_or("")
    }
}

/// Label that tells the versions of a Rollout apart.
pub(crate) const ROLLOUT_HASH: &str = "rollouts-pod-template-hash";

/// `argoproj.io/v1alpha1.Rollout`, in part.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct Rollout {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: RolloutSpec,
    /// Where it is.
    #[serde(deserialize_with = "null")]
    pub status: RolloutStatus,
}

/// `RolloutSpec`, in part.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct RolloutSpec {
    /// Its pods.
    pub selector: Option<LabelSelector>,
}

/// `RolloutStatus`, in part.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct RolloutStatus {
    /// Whether it goes back.
    #[serde(deserialize_with = "null")]
    pub abort: bool,
    /// Hash of the version that serves when nothing is rolled out.
    #[serde(rename = "stableRS", deserialize_with = "null")]
    pub stable: String,
    /// Of a canary.
    #[serde(deserialize_with = "null")]
    pub canary: CanaryStatus,
}

/// `CanaryStatus`, in part.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct CanaryStatus {
    /// Shares of the requests.
    pub weights: Option<TrafficWeights>,
}

/// `TrafficWeights`, in part.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(default)]
pub(crate) struct TrafficWeights {
    /// The new version's.
    #[serde(deserialize_with = "null")]
    pub canary: WeightDestination,
    /// The old version's.
    #[serde(deserialize_with = "null")]
    pub stable: WeightDestination,
}

/// `WeightDestination`, in part.
#[derive(Debug, Clone, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub(crate) struct WeightDestination {
    /// Per cent of the requests.
    #[serde(deserialize_with = "null")]
    pub weight: i64,
    /// Hash of the version.
    #[serde(deserialize_with = "null")]
    pub pod_template_hash: String,
}

/// A resource the proxy watches.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Kind {
    /// Ingress.
    Ingress,
    /// IngressClass.
    Class,
    /// Service.
    Service,
    /// EndpointSlice.
    Slice,
    /// Pod.
    Pod,
    /// Rollout.
    Rollout,
    /// Secret of type `kubernetes.io/tls`.
    Secret,
}

/// A Service with what only the proxy reads.
#[derive(Debug, Clone, PartialEq)]
pub(crate) struct ProxiedService {
    /// As the controllers read it.
    pub service: Service,
    /// `ClientIP` asks for what the proxy does not do.
    pub sticky: bool,
}

/// Everything the routing table is made of, by `namespace/name`.
#[derive(Debug, Default)]
pub struct World {
    pub(crate) ingresses: BTreeMap<String, Ingress>,
    pub(crate) classes: BTreeMap<String, IngressClass>,
    pub(crate) services: BTreeMap<String, ProxiedService>,
    pub(crate) slices: BTreeMap<String, EndpointSlice>,
    pub(crate) pods: BTreeMap<String, PodFacts>,
    pub(crate) rollouts: BTreeMap<String, Rollout>,
    pub(crate) secrets: BTreeMap<String, HashMap<String, String>>,
}

impl World {
    /// Takes over one object, or that it is gone; says whether anything changed that matters here.
    pub fn set(&mut self, kind: Kind, key: &str, object: Option<&Value>) -> bool {
        match kind {
            Kind::Ingress => put(&mut self.ingresses, key, object.and_then(readable)),
            Kind::Class => put(&mut self.classes, key, object.and_then(readable)),
            Kind::Service => put(&mut self.services, key, object.and_then(service)),
            Kind::Slice => put(&mut self.slices, key, object.and_then(readable)),
            Kind::Pod => put(&mut self.pods, key, object.and_then(pod)),
            Kind::Rollout => put(&mut self.rollouts, key, object.and_then(readable)),
            Kind::Secret => put(&mut self.secrets, key, object.and_then(secret)),
        }
    }
}

/// Metadata that changes with every write, such as the resource version, does not count as a change.
trait Plain {
    fn plain(&mut self) {}
}

macro_rules! plain {
    ($($kind:ty),*) => { $(impl Plain for $kind {
        fn plain(&mut self) {
            self.metadata.resource_version = String::new();
        }
    })* };
}
plain!(Ingress, IngressClass, EndpointSlice, Rollout);
impl Plain for ProxiedService {
    fn plain(&mut self) {
        self.service.metadata.resource_version = String::new();
    }
}
impl Plain for PodFacts {}
impl Plain for HashMap<String, String> {}

fn put<T: PartialEq + Plain>(map: &mut BTreeMap<String, T>, key: &str, new: Option<T>) -> bool {
    let Some(mut new) = new else { return map.remove(key).is_some() };
    new.plain();
    if map.get(key) == Some(&new) {
        return false;
    }
    map.insert(key.to_owned(), new);
    true
}

fn readable<T: serde::de::DeserializeOwned>(object: &Value) -> Option<T> {
    match read(object) {
        Ok(object) => Some(object),
        Err(error) => {
            let name = wharf_client::object_key(object);
            tracing::warn!(%name, kind = ?object.get("kind"), %error, "an object cannot be read and is left out");
            None
        }
    }
}

fn service(object: &Value) -> Option<ProxiedService> {
    let sticky = object.pointer("/spec/sessionAffinity").and_then(Value::as_str) == Some("ClientIP");
    Some(ProxiedService { service: readable(object)?, sticky })
}

fn pod(object: &Value) -> Option<PodFacts> {
    let meta: Meta = readable(object.get("metadata")?)?;
    Some(PodFacts { leaving: meta.deleting(), labels: meta.labels })
}

fn secret(object: &Value) -> Option<HashMap<String, String>> {
    let data = object.get("data")?.as_object()?;
    Some(data.iter().filter_map(|(key, value)| Some((key.clone(), value.as_str()?.to_owned()))).collect())
}
