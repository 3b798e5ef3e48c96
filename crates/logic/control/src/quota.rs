//! ResourceQuotas: what the objects of a namespace use, and the status that says so.
//!
//! The same words serve admission, which refuses an object before it is stored: [`resource_of`] tells
//! which resource a name in `hard` counts, [`usage`] what one object uses, [`matches_scopes`] whether a
//! quota speaks of the object at all, [`exceeded`] what would be too much.

mod objects;
pub mod pod;
mod scope;

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_base::{Quantity, Timestamp};

use crate::{
    action::{RESOURCE_QUOTAS, Step},
    meta::{Meta, null_default, read},
};

pub use pod::{Pod, unspecified};

/// Amounts by the names quotas use, such as `requests.cpu` and `count/deployments.apps`.
pub type Amounts = BTreeMap<String, Quantity>;

/// `v1.ResourceQuota`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ResourceQuota {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: QuotaSpec,
    /// What was last reported.
    pub status: QuotaStatus,
}

/// `v1.ResourceQuotaSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct QuotaSpec {
    /// The most there may be.
    #[serde(deserialize_with = "null_default")]
    pub hard: Amounts,
    /// Scopes objects must all be in.
    #[serde(deserialize_with = "null_default")]
    pub scopes: Vec<String>,
    /// The same with operators.
    pub scope_selector: Option<ScopeSelector>,
}

/// `v1.ScopeSelector`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScopeSelector {
    /// Requirements; all must hold.
    #[serde(deserialize_with = "null_default")]
    pub match_expressions: Vec<ScopeRequirement>,
}

/// `v1.ScopedResourceSelectorRequirement`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct ScopeRequirement {
    /// Such as `PriorityClass`.
    pub scope_name: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values of `In` and `NotIn`.
    #[serde(deserialize_with = "null_default")]
    pub values: Vec<String>,
}

/// `v1.ResourceQuotaStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct QuotaStatus {
    /// The limits `used` was counted for.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Amounts::is_empty")]
    pub hard: Amounts,
    /// What is used.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Amounts::is_empty")]
    pub used: Amounts,
}

/// A resource by group (empty for the core group) and plural name.
#[derive(Clone, Copy, Debug, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Resource<'a> {
    /// API group.
    pub group: &'a str,
    /// Plural name.
    pub name: &'a str,
}

impl<'a> Resource<'a> {
    /// A resource of a group.
    pub const fn new(group: &'a str, name: &'a str) -> Self {
        Self { group, name }
    }

    /// `count/NAME.GROUP`: its objects, however they are.
    pub fn count_name(self) -> String {
        match self.group {
            "" => format!("count/{}", self.name),
            group => format!("count/{}.{group}", self.name),
        }
    }
}

/// `v1` Pods.
pub const PODS: Resource<'static> = Resource::new("", "pods");
/// Services.
pub const SERVICES: Resource<'static> = Resource::new("", "services");
/// PersistentVolumeClaims.
pub const CLAIMS: Resource<'static> = Resource::new("", "persistentvolumeclaims");
/// Core resources whose plain name counts their objects too.
const PLAIN: [&str; 4] = ["configmaps", "secrets", "resourcequotas", "replicationcontrollers"];

/// The resource whose objects a name in `hard` counts; nothing when there is no such name.
pub fn resource_of(name: &str) -> Option<Resource<'_>> {
    if let Some(counted) = name.strip_prefix("count/") {
        let (resource, group) = counted.split_once('.').unwrap_or((counted, ""));
        return Some(Resource::new(group, resource));
    }
    if PLAIN.contains(&name) {
        return Some(Resource::new("", name));
    }
    if objects::counts_services(name) {
        return Some(SERVICES);
    }
    if objects::counts_claims(name) {
        return Some(CLAIMS);
    }
    pod::counts_pods(name).then_some(PODS)
}

/// What one object uses, under every name a quota may give it.
pub fn usage(resource: Resource<'_>, object: &Value, now: Timestamp) -> Amounts {
    match resource {
        PODS => read::<Pod>(object).map_or_else(|_| counted(PODS), |pod| pod.usage(now)),
        SERVICES => objects::service(object),
        CLAIMS => objects::claim(object),
        other => counted(other),
    }
}

/// What the containers of a pod, or it as a whole, ask for, and what they may use.
pub fn asked(pod: &Value) -> (Amounts, Amounts) {
    read::<Pod>(pod).map(|pod| pod.asked()).unwrap_or_default()
}

/// One object of a resource, where only their number counts.
fn counted(resource: Resource<'_>) -> Amounts {
    let mut amounts = Amounts::from([(resource.count_name(), ONE)]);
    if resource.group.is_empty() && PLAIN.contains(&resource.name) {
        amounts.insert(resource.name.to_owned(), ONE);
    }
    amounts
}

const ONE: Quantity = Quantity::from_units(1);

/// Whether the scopes of a quota let it speak of an object. Without scopes it speaks of every one.
pub fn matches_scopes(spec: &QuotaSpec, resource: Resource<'_>, object: &Value) -> bool {
    match resource {
        _ if !scope::scoped(spec) => true,
        PODS => read::<Pod>(object).is_ok_and(|pod| scope::matches_pod(spec, &pod)),
        CLAIMS => scope::matches_claim(spec, object),
        _ => false,
    }
}

/// Adds amounts to others.
pub fn add(to: &mut Amounts, amounts: &Amounts) {
    for (name, amount) in amounts {
        let sum = to.get(name).copied().unwrap_or(Quantity::ZERO).plus(*amount);
        to.insert(name.clone(), sum);
    }
}

/// What is more than before; nothing for what is not.
pub fn increase(before: &Amounts, after: &Amounts) -> Amounts {
    let more = |(name, amount): (&String, &Quantity)| {
        let grown = amount.minus(before.get(name).copied().unwrap_or(Quantity::ZERO));
        (grown > Quantity::ZERO).then(|| (name.clone(), grown))
    };
    after.iter().filter_map(more).collect()
}

/// The names under which `asked`, on top of `used`, would be more than `hard` allows. What is not asked
/// for is never too much, whatever is used already.
pub fn exceeded<'a>(hard: &'a Amounts, used: &Amounts, asked: &Amounts) -> Vec<&'a str> {
    let too_much = |(name, limit): &(&String, &Quantity)| {
        let asked = asked.get(*name).copied().unwrap_or(Quantity::ZERO);
        let used = used.get(*name).copied().unwrap_or(Quantity::ZERO);
        asked > Quantity::ZERO && used.plus(asked) > **limit
    };
    hard.iter().filter(too_much).map(|(name, _)| name.as_str()).collect()
}

/// The objects of one resource in the namespace of a quota.
#[derive(Clone, Copy, Debug)]
pub enum Objects<'a> {
    /// Pods, which are read once and counted often.
    Pods(&'a [&'a Pod]),
    /// Everything else.
    Of(Resource<'a>, &'a [&'a Value]),
}

impl Objects<'_> {
    fn resource(&self) -> Resource<'_> {
        match self {
            Self::Pods(_) => PODS,
            Self::Of(resource, _) => *resource,
        }
    }

    fn used(&self, spec: &QuotaSpec, now: Timestamp) -> Amounts {
        let mut sum = Amounts::new();
        match self {
            Self::Pods(pods) => {
                let meant = |pod: &&&Pod| !scope::scoped(spec) || scope::matches_pod(spec, pod);
                pods.iter().filter(meant).for_each(|pod| add(&mut sum, &pod.usage(now)));
            }
            Self::Of(resource, objects) => {
                let meant = |object: &&&Value| matches_scopes(spec, *resource, object);
                objects.iter().filter(meant).for_each(|object| add(&mut sum, &usage(*resource, object, now)));
            }
        }
        sum
    }

    /// When the next pod on its way out stops to count, however long it still takes.
    fn next_change(&self, now: Timestamp) -> Option<Duration> {
        let Self::Pods(pods) = self else { return None };
        pods.iter().filter_map(|pod| pod.counts_for(now)).min()
    }
}

/// What a decision about one ResourceQuota sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The quota.
    pub quota: &'a ResourceQuota,
    /// The objects of its namespace, of each resource it counts. What a resource that is not here uses
    /// stays as it was reported.
    pub objects: &'a [Objects<'a>],
}

/// Decides about one ResourceQuota.
pub fn step(view: &View<'_>, now: Timestamp) -> Step {
    let quota = view.quota;
    let mut used = quota.status.used.clone();
    used.retain(|name, _| quota.spec.hard.contains_key(name));
    for objects in view.objects {
        let found = objects.used(&quota.spec, now);
        let names = quota.spec.hard.keys().filter(|name| resource_of(name) == Some(objects.resource()));
        for name in names {
            used.insert(name.clone(), found.get(name).copied().unwrap_or(Quantity::ZERO));
        }
    }
    let status = QuotaStatus { hard: quota.spec.hard.clone(), used };
    let mut step = Step::idle();
    step.actions.extend(quota.metadata.status_update(RESOURCE_QUOTAS, &quota.status, &status));
    step.requeue_after = view.objects.iter().filter_map(|objects| objects.next_change(now)).min();
    step
}

#[cfg(test)]
mod tests;
