//! EndpointSlices: see `wharf_control::endpointslice`.

use std::{collections::BTreeMap, sync::Arc};

use wharf_client::{
    Change, Result,
    action::{ENDPOINT_SLICES, NODES, PODS, SERVICES},
};
use wharf_control::{
    Step,
    endpointslice::{EndpointSlice, SERVICE_LABEL, View, step},
    node_lifecycle::Node,
    pod::Pod,
    service::Service,
};

use super::{
    cache::{Typed, refs},
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

const ZONE: &str = "topology.kubernetes.io/zone";

pub(crate) struct EndpointSlices {
    services: Arc<Typed<Service>>,
    pods: Arc<Typed<Pod>>,
    slices: Arc<Typed<EndpointSlice>>,
    nodes: Arc<Typed<Node>>,
}

impl EndpointSlices {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            services: shared.informers.typed(SERVICES),
            pods: shared.informers.typed(PODS),
            slices: shared.informers.typed(ENDPOINT_SLICES),
            nodes: shared.informers.typed(NODES),
        }
    }

    fn of_slice(&self, change: &Change) -> Vec<String> {
        let service = |object: &wharf_client::Object| keys::labels(object).remove(SERVICE_LABEL);
        let names = keys::both(change).filter_map(service);
        names.map(|name| format!("{}/{name}", keys::namespace(&change.key))).collect()
    }

    /// Only a node's zone is in the slices.
    fn of_node(&self, change: &Change) -> Vec<String> {
        let zone = |object: &Option<wharf_client::Object>| {
            object.as_ref().and_then(|object| keys::labels(object).remove(ZONE))
        };
        if zone(&change.old) == zone(&change.new) {
            return Vec::new();
        }
        self.services.informer.list().iter().map(|service| wharf_client::object_key(service)).collect()
    }
}

/// The Services that select a pod, before or after a change that they care for.
pub(super) fn services_of(services: &Typed<Service>, change: &Change) -> Vec<String> {
    let seen = [
        "/metadata/labels",
        "/metadata/deletionTimestamp",
        "/status/podIP",
        "/status/podIPs",
        "/status/phase",
        "/status/conditions",
        "/spec/nodeName",
    ];
    if !keys::differs(change, &seen) {
        return Vec::new();
    }
    let labels: Vec<_> = keys::both(change).map(|pod| keys::labels(pod)).collect();
    let mut concerned = services.in_namespace(keys::namespace(&change.key));
    concerned.retain(|service| {
        let wanted = &service.spec.selector;
        service.selects_pods()
            && labels.iter().any(|labels| wanted.iter().all(|(key, value)| labels.get(key) == Some(value)))
    });
    concerned.iter().map(|s| format!("{}/{}", s.metadata.namespace, s.metadata.name)).collect()
}

impl Controller for EndpointSlices {
    const NAME: &'static str = "endpoint-slice-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.services.informer, |_, change| keys::own(change)),
            Watch::new(&self.pods.informer, |this, change| services_of(&this.services, change)),
            Watch::new(&self.slices.informer, Self::of_slice),
            Watch::new(&self.nodes.informer, Self::of_node),
        ]
    }

    async fn step(&self, key: &str, _: Seen<'_>) -> Result<Step> {
        let Some(service) = self.services.get(key) else { return Ok(Step::idle()) };
        let namespace = keys::namespace(key);
        let pods = self.pods.in_namespace(namespace);
        let mut slices = self.slices.in_namespace(namespace);
        slices.retain(|slice| slice.metadata.labels.get(SERVICE_LABEL) == Some(&service.metadata.name));
        let zone = |node: &Node| {
            Some((
                node.metadata.name.clone(),
                node.metadata.labels.get(ZONE).filter(|z| !z.is_empty())?.clone(),
            ))
        };
        let zones: BTreeMap<String, String> = self.nodes.all().iter().filter_map(|node| zone(node)).collect();
        Ok(step(&View { service: &service, pods: &refs(&pods), slices: &refs(&slices), zones: &zones }))
    }
}
