//! Mirroring of Endpoints: see `wharf_control::endpointslicemirroring`.

use std::sync::Arc;

use wharf_client::{
    Change, Object, Result,
    action::{ENDPOINT_SLICES, ENDPOINTS, SERVICES},
};
use wharf_control::{
    Step,
    endpoints::Endpoints,
    endpointslice::{EndpointSlice, MANAGED_BY, SERVICE_LABEL},
    endpointslicemirroring::{CONTROLLER, View, step},
    service::Service,
};

use super::{
    cache::{Typed, refs},
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct Mirrors {
    services: Arc<Typed<Service>>,
    endpoints: Arc<Typed<Endpoints>>,
    slices: Arc<Typed<EndpointSlice>>,
}

impl Mirrors {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            services: shared.informers.typed(SERVICES),
            endpoints: shared.informers.typed(ENDPOINTS),
            slices: shared.informers.typed(ENDPOINT_SLICES),
        }
    }

    /// The names a slice is or was the mirror of.
    fn of_slice(&self, change: &Change) -> Vec<String> {
        if !keys::both(change).any(managed) {
            return Vec::new();
        }
        let names = keys::both(change).filter_map(|slice| keys::labels(slice).remove(SERVICE_LABEL));
        names.map(|name| format!("{}/{name}", keys::namespace(&change.key))).collect()
    }
}

fn managed(slice: &Object) -> bool {
    keys::labels(slice).get(MANAGED_BY).is_some_and(|manager| manager == CONTROLLER)
}

impl Controller for Mirrors {
    const NAME: &'static str = "endpoint-slice-mirroring-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.services.informer, |_, change| keys::own(change)),
            Watch::new(&self.endpoints.informer, |_, change| keys::own(change)),
            Watch::new(&self.slices.informer, Self::of_slice),
        ]
    }

    async fn step(&self, key: &str, _: Seen<'_>) -> Result<Step> {
        let (service, endpoints) = (self.services.get(key), self.endpoints.get(key));
        let mut slices = self.slices.in_namespace(keys::namespace(key));
        slices.retain(|slice| {
            slice.metadata.labels.get(SERVICE_LABEL).is_some_and(|name| name == keys::name(key))
        });
        let (service, endpoints) = (service.as_deref(), endpoints.as_deref());
        Ok(step(&View { service, endpoints, slices: &refs(&slices) }))
    }
}
