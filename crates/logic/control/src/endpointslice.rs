//! EndpointSlices: the pods behind a Service, in slices of at most a hundred.
//!
//! An endpoint stays in the slice it is in, so that one pod's change rewrites one slice. Names are
//! stable: `<service>-<hash of family, ports and ordinal>`.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value, json};

use crate::{
    action::{Action, ENDPOINT_SLICES, Step},
    hash::Fnv,
    meta::{Labels, Meta, merge_diff, null_default, to_value},
    pod::Pod,
    service::{EndpointPort, Service, TargetRef, address_of, target_of},
};

/// Most endpoints in one slice.
pub const MAX_ENDPOINTS: usize = 100;
/// Names the Service of a slice.
pub const SERVICE_LABEL: &str = "kubernetes.io/service-name";
/// Names who manages a slice.
pub const MANAGED_BY: &str = "endpointslice.kubernetes.io/managed-by";
/// The name of this controller, as upstream's.
pub const CONTROLLER: &str = "endpointslice-controller.k8s.io";

/// `discovery.k8s.io/v1.EndpointSlice`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointSlice {
    /// Metadata.
    pub metadata: Meta,
    /// `IPv4`, `IPv6` or `FQDN`.
    pub address_type: String,
    /// Endpoints.
    #[serde(deserialize_with = "null_default")]
    pub endpoints: Vec<Endpoint>,
    /// Ports all of them have.
    #[serde(deserialize_with = "null_default")]
    pub ports: Vec<EndpointPort>,
}

/// `discovery.k8s.io/v1.Endpoint`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Endpoint {
    /// Addresses; one for a pod.
    #[serde(deserialize_with = "null_default")]
    pub addresses: Vec<String>,
    /// State.
    #[serde(deserialize_with = "null_default")]
    pub conditions: EndpointConditions,
    /// Host name under the Service's domain.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub hostname: Option<String>,
    /// Node of the pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub node_name: Option<String>,
    /// Zone of the node.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub zone: Option<String>,
    /// The pod.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub target_ref: Option<TargetRef>,
}

/// `discovery.k8s.io/v1.EndpointConditions`.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct EndpointConditions {
    /// May receive new traffic.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub ready: Option<bool>,
    /// Answers, even when on its way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub serving: Option<bool>,
    /// On its way out.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub terminating: Option<bool>,
}

/// What a decision about the slices of one Service sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The Service.
    pub service: &'a Service,
    /// The pods of its namespace; those it does not select do no harm.
    pub pods: &'a [&'a Pod],
    /// The slices of its namespace labelled with its name; those of other managers do no harm.
    pub slices: &'a [&'a EndpointSlice],
    /// Zones by node name, where known.
    pub zones: &'a BTreeMap<String, String>,
}

/// Decides about the slices of one Service.
pub fn step(view: &View<'_>) -> Step {
    let service = view.service;
    if !service.selects_pods() || service.metadata.deleting() {
        return Step::idle();
    }
    let mut actions = Vec::new();
    let ours: Vec<&EndpointSlice> =
        view.slices.iter().copied().filter(|slice| is_ours(service, slice)).collect();
    let families = service.families();
    for family in &families {
        let of_family = ours.iter().copied().filter(|slice| slice.address_type == *family).collect();
        reconcile_family(view, family, of_family, &mut actions);
    }
    let gone = ours.iter().filter(|slice| !families.contains(&slice.address_type.as_str()));
    actions.extend(gone.map(|slice| delete(slice)));
    Step::of(actions)
}

fn is_ours(service: &Service, slice: &EndpointSlice) -> bool {
    let labels = &slice.metadata.labels;
    labels.get(SERVICE_LABEL) == Some(&service.metadata.name)
        && labels.get(MANAGED_BY).is_some_and(|manager| manager == CONTROLLER)
        && !slice.metadata.deleting()
}

/// Endpoints that share their ports, keyed so that each is found again in the present slices.
type Wanted = BTreeMap<(String, String), Endpoint>;

fn reconcile_family(view: &View<'_>, family: &str, slices: Vec<&EndpointSlice>, actions: &mut Vec<Action>) {
    let mut groups = desired(view, family);
    // A Service without endpoints has one empty slice, which tells clients that it is known.
    let placeholder = groups.is_empty();
    if placeholder {
        groups.insert(Vec::new(), Wanted::new());
    }
    let mut names: Vec<String> = slices.iter().map(|slice| slice.metadata.name.clone()).collect();
    let gone = slices.iter().filter(|slice| !groups.contains_key(&slice.ports));
    let deletes: Vec<Action> = gone.map(|slice| delete(slice)).collect();
    for (ports, wanted) in groups {
        let present = slices.iter().copied().filter(|slice| slice.ports == ports).collect();
        reconcile_group(view.service, family, &ports, wanted, present, placeholder, &mut names, actions);
    }
    actions.extend(deletes);
}

/// The endpoints of a family, by their ports.
fn desired(view: &View<'_>, family: &str) -> BTreeMap<Vec<EndpointPort>, Wanted> {
    let mut groups: BTreeMap<Vec<EndpointPort>, Wanted> = BTreeMap::new();
    for pod in view.pods.iter().filter(|pod| view.service.selects(pod)) {
        let Some(address) = address_of(pod, family) else { continue };
        let key = (address.to_owned(), pod.metadata.uid.clone());
        let ports = view.service.ports_on(pod);
        groups.entry(ports).or_default().insert(key, endpoint(view, pod, address));
    }
    groups
}

fn endpoint(view: &View<'_>, pod: &Pod, address: &str) -> Endpoint {
    let (serving, terminating) = (pod.ready(), pod.metadata.deleting());
    let ready = view.service.spec.publish_not_ready_addresses || (serving && !terminating);
    let node = Some(pod.spec.node_name.clone()).filter(|node| !node.is_empty());
    Endpoint {
        addresses: vec![address.to_owned()],
        conditions: EndpointConditions {
            ready: Some(ready),
            serving: Some(serving),
            terminating: Some(terminating),
        },
        hostname: view.service.hostname_of(pod),
        zone: node.as_ref().and_then(|node| view.zones.get(node).cloned()),
        node_name: node,
        target_ref: Some(target_of(pod)),
    }
}

/// One slice as it will be.
struct Filled<'a> {
    present: &'a EndpointSlice,
    endpoints: Vec<Endpoint>,
}

impl Filled<'_> {
    fn changed(&self) -> bool {
        self.endpoints != self.present.endpoints
    }
}

#[allow(clippy::too_many_arguments)] // one group of one family of one Service: all of it is needed
fn reconcile_group(
    service: &Service,
    family: &str,
    ports: &[EndpointPort],
    mut wanted: Wanted,
    present: Vec<&EndpointSlice>,
    keep_one: bool,
    names: &mut Vec<String>,
    actions: &mut Vec<Action>,
) {
    let mut filled: Vec<Filled<'_>> = present.into_iter().map(|slice| keep(slice, &mut wanted)).collect();
    let mut rest: Vec<Endpoint> = wanted.into_values().collect();
    // Room is taken first where a slice is written anyway, then where most is filled already.
    filled.sort_by_key(|slice| {
        (!slice.changed(), std::cmp::Reverse(slice.endpoints.len()), slice.present.metadata.name.clone())
    });
    for slice in &mut filled {
        let room = MAX_ENDPOINTS.saturating_sub(slice.endpoints.len()).min(rest.len());
        slice.endpoints.extend(rest.drain(..room));
    }
    let labels =
        service.labels_with(&[(SERVICE_LABEL, service.metadata.name.as_str()), (MANAGED_BY, CONTROLLER)]);
    let mut kept = 0;
    for slice in &filled {
        if slice.endpoints.is_empty() && !(keep_one && kept == 0) {
            actions.push(delete(slice.present));
        } else {
            kept += 1;
            actions.extend(update(slice, &labels));
        }
    }
    while !rest.is_empty() || (keep_one && kept == 0) {
        kept += 1;
        let chunk = rest.drain(..rest.len().min(MAX_ENDPOINTS)).collect();
        actions.push(create(service, family, ports, chunk, &labels, names));
    }
}

/// What stays of a slice: its endpoints that are still wanted, in their present state.
fn keep<'a>(slice: &'a EndpointSlice, wanted: &mut Wanted) -> Filled<'a> {
    let mut endpoints = Vec::with_capacity(slice.endpoints.len());
    for endpoint in &slice.endpoints {
        let address = endpoint.addresses.first().cloned().unwrap_or_default();
        let uid = endpoint.target_ref.as_ref().map(|target| target.uid.clone()).unwrap_or_default();
        endpoints.extend(wanted.remove(&(address, uid)));
    }
    Filled { present: slice, endpoints }
}

fn update(slice: &Filled<'_>, labels: &Labels) -> Option<Action> {
    let mut body = Map::new();
    if slice.changed() {
        body.insert("endpoints".to_owned(), json!(slice.endpoints));
    }
    if let Some(difference) = merge_diff(&to_value(&slice.present.metadata.labels), &to_value(labels)) {
        body.insert("metadata".to_owned(), json!({"labels": difference}));
    }
    (!body.is_empty()).then(|| slice.present.metadata.locked_patch(ENDPOINT_SLICES, Value::Object(body)))
}

fn create(
    service: &Service,
    family: &str,
    ports: &[EndpointPort],
    endpoints: Vec<Endpoint>,
    labels: &Labels,
    names: &mut Vec<String>,
) -> Action {
    let name = free_name(service, family, ports, names);
    names.push(name.clone());
    Action::Create {
        resource: ENDPOINT_SLICES,
        namespace: service.metadata.namespace.clone(),
        object: json!({
            "apiVersion": "discovery.k8s.io/v1",
            "kind": "EndpointSlice",
            "metadata": {
                "name": name,
                "namespace": service.metadata.namespace,
                "labels": labels,
                "ownerReferences": [service.metadata.controller_ref("v1", "Service")],
            },
            "addressType": family,
            "endpoints": endpoints,
            "ports": ports,
        }),
        announce: None,
    }
}

/// The first name for these ports that no slice of the Service has.
fn free_name(service: &Service, family: &str, ports: &[EndpointPort], names: &[String]) -> String {
    let mut base = Fnv::new();
    base.text(&service.metadata.uid);
    base.text(family);
    base.value(&json!(ports));
    let mut ordinal: u64 = 0;
    loop {
        let mut hash = base;
        hash.bytes(&ordinal.to_le_bytes());
        let name = format!("{}-{}", service.metadata.name, hash.name());
        if !names.contains(&name) {
            return name;
        }
        ordinal += 1;
    }
}

fn delete(slice: &EndpointSlice) -> Action {
    slice.metadata.delete(ENDPOINT_SLICES, None)
}

#[cfg(test)]
mod tests;
