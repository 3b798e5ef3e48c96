//! ResourceQuotas: what is used is counted in the same transaction that writes what uses it, so that no two writes
//! together get what one alone may have.
//!
//! Source: Kubernetes' admission plugin ResourceQuota.

use std::collections::BTreeMap;

use serde_json::Value;
use wharf_api::status::Status;
use wharf_base::Timestamp;
use wharf_control::quota::{self, Amounts, Resource, ResourceQuota};
use wharf_state::Expect;

use super::{Attributes, Operation};
use crate::{
    ApiServer,
    storage::{Entry, Put},
};

/// What a create or an update uses more than before, as changes of the quotas that count it.
///
/// # Errors
/// 403 when a quota does not allow it.
pub(crate) fn charge(
    server: &ApiServer,
    attributes: &Attributes<'_>,
    object: &Value,
) -> Result<Vec<Put>, Status> {
    let counted = matches!(attributes.operation, Operation::Create | Operation::Update)
        && attributes.resource.namespaced
        && matches!(attributes.subresource, "" | "resize");
    if !counted {
        return Ok(Vec::new());
    }
    let quotas = server.storage.cache("resourcequotas").snapshot();
    let own = quotas.range(&attributes.namespace, None);
    let mut puts = Vec::new();
    for entry in own {
        puts.extend(one(attributes, entry, object, server.now())?);
    }
    Ok(puts)
}

fn one(
    attributes: &Attributes<'_>,
    entry: &Entry,
    object: &Value,
    now: Timestamp,
) -> Result<Option<Put>, Status> {
    let mut stored = entry.object();
    let Ok(quota) = serde_json::from_value::<ResourceQuota>(stored.clone()) else { return Ok(None) };
    let resource = Resource::new(&attributes.resource.gvk.group, &attributes.resource.plural);
    if !quota::matches_scopes(&quota.spec, resource, object) {
        return Ok(None);
    }
    let (hard, used) = (&quota.status.hard, &quota.status.used);
    let before = attributes.old.map(|old| quota::usage(resource, old, now)).unwrap_or_default();
    let mut asked = quota::increase(&before, &quota::usage(resource, object, now));
    asked.retain(|name, _| hard.contains_key(name));
    if attributes.operation == Operation::Create && resource == quota::PODS {
        specified(attributes, entry.name(), hard, object)?;
    }
    if asked.is_empty() {
        return Ok(None);
    }
    let exceeded = quota::exceeded(hard, used, &asked);
    if !exceeded.is_empty() {
        let of = |amounts: &Amounts| {
            let some = exceeded.iter().filter_map(|name| Some(format!("{name}={}", amounts.get(*name)?)));
            some.collect::<Vec<_>>().join(",")
        };
        let why = format!(
            "exceeded quota: {}, requested: {}, used: {}, limited: {}",
            entry.name(),
            of(&asked),
            of(used),
            of(hard)
        );
        return Err(refusal(attributes, &why));
    }
    let mut sum = used.clone();
    quota::add(&mut sum, &asked);
    let sum: BTreeMap<&String, String> =
        sum.iter().map(|(name, amount)| (name, amount.to_string())).collect();
    stored["status"]["used"] = serde_json::to_value(sum).unwrap_or_default();
    Ok(Some(Put {
        qualified: "resourcequotas".into(),
        key: entry.key.to_string(),
        object: Some(stored),
        expect: Expect::At(entry.revision),
    }))
}

/// Under a quota of compute resources every container says what it wants.
fn specified(attributes: &Attributes<'_>, name: &str, hard: &Amounts, pod: &Value) -> Result<(), Status> {
    let Ok(pod) = serde_json::from_value::<quota::Pod>(pod.clone()) else { return Ok(()) };
    let missing = quota::unspecified(hard, &pod);
    if missing.is_empty() {
        return Ok(());
    }
    let each = missing.into_iter().map(|(what, containers)| {
        format!("{what} for: {}", containers.into_iter().collect::<Vec<_>>().join(","))
    });
    let each = each.collect::<Vec<_>>().join("; ");
    Err(refusal(attributes, &format!("failed quota: {name}: must specify {each}")))
}

fn refusal(attributes: &Attributes<'_>, why: &str) -> Status {
    let (qualified, name) = (attributes.resource.qualified(), &attributes.name);
    Status::forbidden(format!("{qualified} {name:?} is forbidden: {why}")).about(&qualified, name)
}
