//! Endpoints: see `wharf_control::endpoints`.

use std::sync::Arc;

use wharf_client::{
    Result,
    action::{ENDPOINTS, PODS, SERVICES},
};
use wharf_control::{
    Step,
    endpoints::{Endpoints, View, orphaned, step},
    pod::Pod,
    service::Service,
};

use super::{
    cache::{Typed, refs},
    endpointslice::services_of,
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct EndpointsLoop {
    services: Arc<Typed<Service>>,
    pods: Arc<Typed<Pod>>,
    endpoints: Arc<Typed<Endpoints>>,
}

impl EndpointsLoop {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            services: shared.informers.typed(SERVICES),
            pods: shared.informers.typed(PODS),
            endpoints: shared.informers.typed(ENDPOINTS),
        }
    }
}

impl Controller for EndpointsLoop {
    const NAME: &'static str = "endpoint-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.services.informer, |_, change| keys::own(change)),
            Watch::new(&self.pods.informer, |this, change| services_of(&this.services, change)),
            Watch::new(&self.endpoints.informer, |_, change| keys::own(change)),
        ]
    }

    async fn step(&self, key: &str, _: Seen<'_>) -> Result<Step> {
        let endpoints = self.endpoints.get(key);
        let Some(service) = self.services.get(key) else {
            return Ok(endpoints.map_or_else(Step::idle, |endpoints| orphaned(&endpoints)));
        };
        let pods = self.pods.in_namespace(keys::namespace(key));
        Ok(step(&View { service: &service, pods: &refs(&pods), endpoints: endpoints.as_deref() }))
    }
}
