//! Namespace deletion: see `wharf_control::namespace`.

use std::{collections::BTreeMap, sync::Arc};

use serde_json::Value;
use wharf_client::{
    Client, ListParams, Result,
    action::{NAMESPACES, PODS},
};
use wharf_control::{
    Step,
    namespace::{Namespace, Remaining, View, step},
};

use super::{
    cache::Typed,
    discovery::{Found, discover},
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct Namespaces {
    client: Client,
    namespaces: Arc<Typed<Namespace>>,
}

impl Namespaces {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { client: shared.client.clone(), namespaces: shared.informers.typed(NAMESPACES) }
    }

    /// What is left in a namespace, and what could not be found out.
    async fn remaining(&self, name: &str) -> (Vec<Remaining>, Option<String>) {
        let found = match discover(&self.client).await {
            Ok(found) => found,
            Err(error) => return (Vec::new(), Some(error.to_string())),
        };
        let mut remaining = Vec::new();
        let mut failure = None;
        let can = |found: &&Found| found.namespaced && found.can(&["list", "deletecollection"]);
        for found in found.iter().filter(can) {
            match self.client.list(&found.resource, &ListParams::namespace(name)).await {
                Ok(list) if list.items.is_empty() => {}
                Ok(list) => remaining.push(count(found, &list.items)),
                // A resource that has gone meanwhile has nothing left.
                Err(error) if error.is_not_found() => {}
                // While it is not known whether pods are left, nothing goes before them.
                Err(error) if found.resource == PODS => return (Vec::new(), Some(format!("pods: {error}"))),
                Err(error) => failure = Some(format!("{}: {error}", found.resource.resource)),
            }
        }
        (remaining, failure)
    }
}

fn count(found: &Found, items: &[Value]) -> Remaining {
    let mut finalizers = BTreeMap::new();
    for item in items {
        let names = item.pointer("/metadata/finalizers").and_then(Value::as_array).into_iter().flatten();
        for name in names.filter_map(Value::as_str) {
            *finalizers.entry(name.to_owned()).or_default() += 1;
        }
    }
    Remaining { resource: found.resource.clone(), count: items.len(), finalizers }
}

impl Controller for Namespaces {
    const NAME: &'static str = "namespace-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![Watch::new(&self.namespaces.informer, |_, change| keys::own(change))]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(object) = self.namespaces.informer.get(key) else { return Ok(Step::idle()) };
        let Some(namespace) = self.namespaces.read(&object) else { return Ok(Step::idle()) };
        let (remaining, failure) = match namespace.metadata.deleting() {
            true => self.remaining(keys::name(key)).await,
            false => (Vec::new(), None),
        };
        let view = View {
            namespace: &namespace,
            object: &object,
            remaining: &remaining,
            failure: failure.as_deref(),
        };
        Ok(step(&view, seen.now))
    }
}
