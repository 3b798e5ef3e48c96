//! What every namespace has: see `wharf_control::namespace_defaults`.

use std::sync::Arc;

use wharf_client::{
    Change, Result,
    action::{CONFIG_MAPS, NAMESPACES, SERVICE_ACCOUNTS},
};
use wharf_control::{
    Step,
    namespace::Namespace,
    namespace_defaults::{ConfigMap, ROOT_CA, View, step},
};

use super::{
    cache::Typed,
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct NamespaceDefaults {
    namespaces: Arc<Typed<Namespace>>,
    accounts: wharf_client::Informer,
    config_maps: wharf_client::Informer,
    authority: String,
}

impl NamespaceDefaults {
    /// `authority`: the cluster's root certificates in PEM.
    pub(crate) fn new(shared: &Shared, authority: &str) -> Self {
        Self {
            namespaces: shared.informers.typed(NAMESPACES),
            accounts: shared.informers.of(&SERVICE_ACCOUNTS),
            config_maps: shared.informers.of(&CONFIG_MAPS),
            authority: authority.to_owned(),
        }
    }
}

/// The namespace of an object of this name.
fn namespace_of(change: &Change, name: &str) -> Vec<String> {
    match keys::name(&change.key) == name {
        true => vec![format!("/{}", keys::namespace(&change.key))],
        false => Vec::new(),
    }
}

impl Controller for NamespaceDefaults {
    const NAME: &'static str = "root-ca-certificate-publisher";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.namespaces.informer, |_, change| keys::own(change)),
            Watch::new(&self.accounts, |_, change| namespace_of(change, "default")),
            Watch::new(&self.config_maps, |_, change| namespace_of(change, ROOT_CA)),
        ]
    }

    async fn step(&self, key: &str, _: Seen<'_>) -> Result<Step> {
        let Some(namespace) = self.namespaces.get(key) else { return Ok(Step::idle()) };
        let name = keys::name(key);
        let root_ca = self.config_maps.get(&format!("{name}/{ROOT_CA}"));
        let root_ca: Option<ConfigMap> =
            root_ca.as_deref().and_then(|object| wharf_control::read(object).ok());
        Ok(step(&View {
            namespace: &namespace.metadata,
            has_default_account: self.accounts.get(&format!("{name}/default")).is_some(),
            root_ca: root_ca.as_ref(),
            ca_bundle: &self.authority,
        }))
    }
}
