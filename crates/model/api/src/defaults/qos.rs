//! The quality-of-service class of a pod.

use std::collections::BTreeMap;

use serde_json::Value;
use wharf_base::Quantity;

use crate::table::tree;

/// Amounts of CPU and memory.
type Amounts = BTreeMap<&'static str, Quantity>;

/// `Guaranteed` when every container's requests equal its limits, `BestEffort` when there are none, else
/// `Burstable`. Resources of the pod as a whole, if any, count instead of the containers'.
pub(super) fn class(pod: &Value) -> &'static str {
    let (mut requests, mut limits) = (Amounts::new(), Amounts::new());
    let mut is_limited = true;
    for resources in all_resources(pod) {
        add(&mut requests, tree::at(resources, "/requests"));
        is_limited &= add(&mut limits, tree::at(resources, "/limits")) == 2;
    }
    if requests.is_empty() && limits.is_empty() {
        "BestEffort"
    } else if is_limited && requests == limits {
        "Guaranteed"
    } else {
        "Burstable"
    }
}

/// The resources that count: the pod's own, or those of each container.
fn all_resources(pod: &Value) -> Vec<&Value> {
    let own = tree::at(pod, "/spec/resources");
    if !own.is_null() {
        return vec![own];
    }
    ["/spec/containers", "/spec/initContainers"]
        .iter()
        .flat_map(|list| tree::list(pod, list))
        .map(|container| tree::at(container, "/resources"))
        .collect()
}

/// Adds CPU and memory above zero; says how many of the two there are.
fn add(total: &mut Amounts, amounts: &Value) -> usize {
    let mut found = 0;
    for name in ["cpu", "memory"] {
        let amount = amounts.get(name).and_then(|amount| tree::scalar(amount).parse::<Quantity>().ok());
        if let Some(amount) = amount.filter(|amount| *amount > Quantity::ZERO) {
            found += 1;
            let sum = total.entry(name).or_insert(Quantity::ZERO);
            *sum = sum.plus(amount);
        }
    }
    found
}
