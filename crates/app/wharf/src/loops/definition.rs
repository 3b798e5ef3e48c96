//! CustomResourceDefinitions: see `wharf_control::definition`.

use std::sync::Arc;

use wharf_client::{Client, ListParams, Result, action::CUSTOM_RESOURCE_DEFINITIONS};
use wharf_control::{
    Step,
    definition::{Definition, View, namespace_of, resource, step},
};

use super::{
    cache::{Typed, refs},
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct Definitions {
    client: Client,
    definitions: Arc<Typed<Definition>>,
}

impl Definitions {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self {
            client: shared.client.clone(),
            definitions: shared.informers.typed(CUSTOM_RESOURCE_DEFINITIONS),
        }
    }

    /// The namespaces with objects of a definition.
    async fn remaining(&self, definition: &Definition) -> Result<Vec<String>> {
        let Some(resource) = resource(definition) else { return Ok(Vec::new()) };
        let list = match self.client.list(&resource, &ListParams::default()).await {
            Err(error) if error.is_not_found() => return Ok(Vec::new()),
            result => result?,
        };
        let mut namespaces: Vec<String> = list.items.iter().map(namespace_of).collect();
        namespaces.sort();
        namespaces.dedup();
        Ok(namespaces)
    }

    /// Also those whose names it may have taken.
    fn concerned(&self, change: &wharf_client::Change) -> Vec<String> {
        let mut concerned = keys::own(change);
        if change.new.is_none() {
            concerned.extend(self.definitions.informer.list().iter().map(|d| wharf_client::object_key(d)));
        }
        concerned
    }
}

impl Controller for Definitions {
    const NAME: &'static str = "customresourcedefinition-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![Watch::new(&self.definitions.informer, Self::concerned)]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(definition) = self.definitions.get(key) else { return Ok(Step::idle()) };
        let remaining = match definition.metadata.deleting() {
            true => self.remaining(&definition).await?,
            false => Vec::new(),
        };
        let all = self.definitions.all();
        Ok(step(&View { definition: &definition, all: &refs(&all), remaining: &remaining }, seen.now))
    }
}
