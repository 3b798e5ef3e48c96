//! `metrics.k8s.io/v1beta1`: what nodes and pods use now, measured when it is asked for and never stored.
//!
//! Source: Kubernetes' resource metrics API, which `kubectl top` and autoscalers read.

use std::{sync::Arc, time::Duration};

use http::{HeaderMap, Response};
use serde_json::{Value, json};
use wharf_api::{
    crd,
    resource::{Backing, Resource},
    selector::{FieldSelector, LabelSelector, Labels, SelectorError},
    status::Status,
};
use wharf_base::{Quantity, Timestamp};
use wharf_http::Body;

use crate::{
    ApiServer, Context,
    request::RequestInfo,
    respond::{self, Accept, IncludeObject, View},
};

const GROUP: &str = "metrics.k8s.io";
const VERSION: &str = "v1beta1";

/// What a pod's containers used during a time.
#[derive(Debug, Clone)]
pub struct PodUsage {
    /// Pod's namespace.
    pub namespace: String,
    /// Pod's name.
    pub name: String,
    /// Pod's labels.
    pub labels: Labels,
    /// Name of each container, billionths of a processor it used, and bytes of memory.
    pub containers: Vec<(String, u64, u64)>,
    /// End of the time measured over.
    pub at: Timestamp,
    /// Its length.
    pub window: Duration,
}

/// What a node used during a time.
#[derive(Debug, Clone)]
pub struct NodeUsage {
    /// Node's name.
    pub name: String,
    /// Billionths of a processor.
    pub cpu_nanocores: u64,
    /// Bytes.
    pub memory_bytes: u64,
    /// End of the time measured over.
    pub at: Timestamp,
    /// Its length.
    pub window: Duration,
}

/// Knows what pods and nodes use. May block: it is asked away from the threads that serve requests.
pub trait ResourceMetrics: Send + Sync + 'static {
    /// Every pod that something is known of.
    fn pods(&self) -> Vec<PodUsage>;
    /// Every node that something is known of.
    fn nodes(&self) -> Vec<NodeUsage>;
}

/// The two resources, as discovery and routing know them.
pub(crate) fn resources() -> Vec<Resource> {
    let text = json!({"type": "string"});
    let usage = json!({"type": "object", "additionalProperties": {"x-kubernetes-int-or-string": true}});
    let container = json!({"type": "object", "properties": {"name": text, "usage": usage}});
    let of = |plural: &str, kind: &str, scope: &str, what: (&str, Value), columns: Value| {
        let schema = json!({"type": "object", "properties": {
            "timestamp": {"type": "string", "format": "date-time"}, "window": text, what.0: what.1}});
        // A definition is the shortest way to write down a resource with its schema and columns.
        crd::resources(&json!({"spec": {"group": GROUP, "scope": scope,
            "names": {"plural": plural, "singular": "", "kind": kind},
            "versions": [{"name": VERSION, "served": true, "storage": true,
                "schema": {"openAPIV3Schema": schema}, "additionalPrinterColumns": columns}]}}))
    };
    let column = |name: &str, path: &str| json!({"name": name, "type": "string", "jsonPath": path});
    let nodes = of(
        "nodes",
        "NodeMetrics",
        "Cluster",
        ("usage", usage),
        json!([column("CPU", ".usage.cpu"), column("Memory", ".usage.memory"), column("Window", ".window")]),
    );
    let pods = of(
        "pods",
        "PodMetrics",
        "Namespaced",
        ("containers", json!({"type": "array", "items": container})),
        json!([column("Window", ".window"), {"name": "Age", "type": "date", "jsonPath": ".timestamp"}]),
    );
    let measured = |mut resource: Resource| {
        resource.backing = Backing::Measured;
        resource
    };
    nodes.into_iter().chain(pods).map(measured).collect()
}

/// Answers get and list.
pub(crate) async fn answer(
    server: &ApiServer,
    context: &Context,
    resource: &Resource,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let info = &context.info;
    let accept = Accept::of(headers, Some(resource))?;
    let source = server.metrics_source().ok_or_else(Status::no_such_path)?;
    match info.verb {
        "get" => {
            let found = measure(server, source, resource).await?.into_iter().find(|object| {
                wharf_api::meta::name(object) == info.name
                    && (!resource.namespaced || wharf_api::meta::namespace(object) == info.namespace)
            });
            let object = found.ok_or_else(|| Status::not_found(&resource.qualified(), &info.name))?;
            Ok(respond::value(200, accept, resource, object, server.now()))
        }
        "list" => {
            let selection = Selection::of(info)?;
            let mut items = measure(server, source, resource).await?;
            items.retain(|object| selection.wants(object, info));
            Ok(list(accept, resource, items, IncludeObject::of(info.param("includeObject"))?, server.now()))
        }
        _ => Err(Status::method_not_allowed()),
    }
}

struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
}

impl Selection {
    fn of(info: &RequestInfo) -> Result<Self, Status> {
        let bad = |e: SelectorError| Status::bad_request(e.to_string());
        let supported = |path: &str| matches!(path, "metadata.name" | "metadata.namespace");
        let param = |name: &str| info.param(name).unwrap_or_default();
        Ok(Self {
            labels: LabelSelector::parse(param("labelSelector")).map_err(bad)?,
            fields: FieldSelector::parse(param("fieldSelector"), supported).map_err(bad)?,
        })
    }

    fn wants(&self, object: &Value, info: &RequestInfo) -> bool {
        let (name, namespace) = (wharf_api::meta::name(object), wharf_api::meta::namespace(object));
        (info.namespace.is_empty() || namespace == info.namespace)
            && self.labels.matches(&wharf_api::meta::labels(object))
            && self.fields.matches(|path| match path {
                "metadata.name" => Some(name),
                "metadata.namespace" => Some(namespace),
                _ => None,
            })
    }
}

fn list(
    accept: Accept,
    resource: &Resource,
    items: Vec<Value>,
    include: IncludeObject,
    now: Timestamp,
) -> Response<Body> {
    if accept.view == View::Table {
        let rows = items.iter().map(|object| respond::row(resource, object, now, include)).collect();
        return respond::json_response(200, &respond::table_of(resource, rows, json!({}), true));
    }
    let (kind, version, items) = match accept.view {
        View::Metadata => (
            "PartialObjectMetadataList".to_owned(),
            "meta.k8s.io/v1".to_owned(),
            items.iter().map(respond::metadata_of).collect(),
        ),
        _ => (resource.list_kind.clone(), resource.gvk.api_version(), items),
    };
    let list = json!({"kind": kind, "apiVersion": version, "metadata": {}, "items": items});
    respond::plain(200, accept.format, &list)
}

/// All objects of a resource, by namespace and name.
async fn measure(
    server: &ApiServer,
    source: &Arc<dyn ResourceMetrics>,
    resource: &Resource,
) -> Result<Vec<Value>, Status> {
    let (source, namespaced) = (Arc::clone(source), resource.namespaced);
    let measured = tokio::task::spawn_blocking(move || match namespaced {
        true => (source.pods(), Vec::new()),
        false => (Vec::new(), source.nodes()),
    });
    let (pods, nodes) =
        measured.await.map_err(|error| Status::internal(format!("usage cannot be measured: {error}")))?;
    let mut objects: Vec<Value> =
        pods.iter().map(pod).chain(nodes.iter().map(|usage| node(server, usage))).collect();
    let key = |o: &Value| (wharf_api::meta::namespace(o).to_owned(), wharf_api::meta::name(o).to_owned());
    objects.sort_by_cached_key(key);
    Ok(objects)
}

fn pod(usage: &PodUsage) -> Value {
    let containers: Vec<Value> = usage
        .containers
        .iter()
        .map(|(name, cpu, memory)| json!({"name": name, "usage": amounts(*cpu, *memory)}))
        .collect();
    json!({"kind": "PodMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {"name": usage.name, "namespace": usage.namespace, "creationTimestamp": usage.at.truncated(),
            "labels": usage.labels},
        "timestamp": usage.at.truncated(), "window": go_duration(usage.window), "containers": containers})
}

/// Selectors go by the labels of the Node itself.
fn node(server: &ApiServer, usage: &NodeUsage) -> Value {
    let known = server.storage.get("nodes", &format!("/{}", usage.name));
    let labels = known.map(|entry| wharf_api::meta::labels(&entry.object())).unwrap_or_default();
    json!({"kind": "NodeMetrics", "apiVersion": "metrics.k8s.io/v1beta1",
        "metadata": {"name": usage.name, "creationTimestamp": usage.at.truncated(), "labels": labels},
        "timestamp": usage.at.truncated(), "window": go_duration(usage.window),
        "usage": amounts(usage.cpu_nanocores, usage.memory_bytes)})
}

fn amounts(cpu: u64, memory: u64) -> Value {
    let memory = Quantity::from_bytes(i64::try_from(memory).unwrap_or(i64::MAX));
    json!({"cpu": Quantity::from_nanos(cpu.into()).to_string(), "memory": memory.to_string()})
}

/// As Go writes durations, which is how `metav1.Duration` travels: `15s`, `1m0s`, `1.5s`.
fn go_duration(duration: Duration) -> String {
    let (minutes, nanos) = (duration.as_secs() / 60, duration.subsec_nanos());
    let mut seconds = (duration.as_secs() % 60).to_string();
    if nanos > 0 {
        seconds.push_str(format!(".{nanos:09}").trim_end_matches('0'));
    }
    match (minutes / 60, minutes % 60) {
        (0, 0) => format!("{seconds}s"),
        (0, minutes) => format!("{minutes}m{seconds}s"),
        (hours, minutes) => format!("{hours}h{minutes}m{seconds}s"),
    }
}

/// The source of the server, once there is one.
pub(crate) type Source = std::sync::OnceLock<Arc<dyn ResourceMetrics>>;

#[cfg(test)]
mod tests;
