//! ClusterRoles that are the sum of others: see `wharf_control::aggregation`.

use std::sync::Arc;

use wharf_client::{Change, Result, action::CLUSTER_ROLES};
use wharf_control::{
    Step,
    aggregation::{ClusterRole, View, step},
};

use super::{
    cache::{Typed, refs},
    keys,
    runner::{Controller, Seen, Shared, Watch},
};

pub(crate) struct Aggregations {
    roles: Arc<Typed<ClusterRole>>,
}

impl Aggregations {
    pub(crate) fn new(shared: &Shared) -> Self {
        Self { roles: shared.informers.typed(CLUSTER_ROLES) }
    }

    /// Every sum: what has changed may be a part of it.
    fn concerned(&self, change: &Change) -> Vec<String> {
        if !keys::differs(change, &["/metadata/labels", "/rules", "/aggregationRule"]) {
            return Vec::new();
        }
        let mut roles = self.roles.all();
        roles.retain(|role| role.aggregation_rule.is_some());
        roles.iter().map(|role| format!("/{}", role.metadata.name)).collect()
    }
}

impl Controller for Aggregations {
    const NAME: &'static str = "clusterrole-aggregation-controller";

    fn watches(&self) -> Vec<Watch<Self>> {
        vec![Watch::new(&self.roles.informer, Self::concerned)]
    }

    async fn step(&self, key: &str, _: Seen<'_>) -> Result<Step> {
        let Some(role) = self.roles.get(key) else { return Ok(Step::idle()) };
        let all = self.roles.all();
        Ok(step(&View { role: &role, all: &refs(&all) }))
    }
}
