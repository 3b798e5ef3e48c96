//! Bootstrap tokens: see `wharf_control::bootstrap_token`.

use wharf_apiserver::detached_signature;
use wharf_client::{
    Change, Informer, ListParams, Result,
    action::{CONFIG_MAPS, SECRETS},
};
use wharf_control::{
    Step,
    bootstrap_token::{CLUSTER_INFO, NAMESPACE, TYPE, Token, View, clean, sign},
    namespace_defaults::ConfigMap,
};

use super::{
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

/// The Secrets that are tokens, and no others.
fn tokens(shared: &Shared) -> Informer {
    let params = ListParams { fields: format!("type={TYPE}"), ..ListParams::namespace(NAMESPACE) };
    Informer::start(shared.client.clone(), SECRETS, params)
}

/// Deletes tokens whose time is over.
pub(crate) struct Cleaner {
    tokens: Informer,
}

impl Cleaner {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { tokens: tokens(shared) }
    }
}

impl Controller for Cleaner {
    const NAME: &'static str = "token-cleaner-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![Watch::new(&self.tokens, |_, change| keys::own(change))]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        Ok(self.tokens.get(key).map_or_else(Step::idle, |secret| clean(&secret, seen.now)))
    }
}

/// Signs `kube-public/cluster-info`.
pub(crate) struct Signer {
    tokens: Informer,
    config_maps: Informer,
}

impl Signer {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { tokens: tokens(shared), config_maps: shared.informers.of(&CONFIG_MAPS) }
    }
}

fn cluster_info() -> String {
    let (namespace, name) = CLUSTER_INFO;
    format!("{namespace}/{name}")
}

fn is_signed(change: &Change) -> Vec<String> {
    let key = cluster_info();
    if change.key == key { vec![key] } else { Vec::new() }
}

impl Controller for Signer {
    const NAME: &'static str = "bootstrap-signer-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![
            Watch::new(&self.config_maps, |_, change| is_signed(change)),
            Watch::new(&self.tokens, |_, _| vec![cluster_info()]),
        ]
    }

    async fn step(&self, key: &str, seen: Seen<'_>) -> Result<Step> {
        let Some(object) = self.config_maps.get(key) else { return Ok(Step::idle()) };
        let Ok(cluster_info) = wharf_control::read::<ConfigMap>(&object) else { return Ok(Step::idle()) };
        let tokens: Vec<Token> = self.tokens.list().iter().filter_map(|secret| Token::read(secret)).collect();
        let view = View { cluster_info: &cluster_info, tokens: &tokens, sign: &detached_signature };
        Ok(sign(&view, seen.now))
    }
}
