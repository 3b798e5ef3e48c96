//! Eviction: a deletion that a PodDisruptionBudget may refuse. What it uses of a budget is noted before the pod is
//! deleted, so that evictions at once do not use the same.
//!
//! Source: `policy/v1` Eviction; Kubernetes' API-initiated eviction.

use std::sync::Arc;

use http::{Request, Response};
use serde_json::{Value, json};
use wharf_api::{
    meta,
    resource::Resource,
    schema::{Gvk, builtin},
    selector::LabelSelector,
    status::Status,
};
use wharf_http::Body;
use wharf_state::{Error, Expect};

use super::{
    BodyKind, decode_other,
    delete::{DeleteOptions, delete_object},
    subresource::set_condition,
};
use crate::{
    ApiServer, Context,
    admission::{self, Operation},
    read_body,
    respond::{self, Accept},
    storage::{Entry, Put, storage_failure},
};

const BUDGETS: &str = "poddisruptionbudgets.policy";
/// Evictions at once that overtake one another are tried this often.
const TRIES: usize = 32;

pub(super) async fn evict(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accept = Accept::of(request.headers(), None)?;
    let gvk = Gvk::new("policy", "v1", "Eviction");
    let ty = builtin().of_kind(&gvk).ok_or_else(|| Status::internal("no Eviction"))?;
    let kind = BodyKind::of(request.headers())?;
    let mut eviction = decode_other(kind, &read_body(request).await?, &ty)?;
    admission::subresource(server, context, resource, (Operation::Create, gvk), &mut eviction, None).await?;
    let key = ApiServer::key(resource, &context.info);
    let missing = || Status::not_found("pods", &context.info.name);
    let pod = server.storage.get("pods", &key).ok_or_else(missing)?;
    let options = DeleteOptions::from_object(&eviction["deleteOptions"]);
    let dry_run = options.dry_run() || context.info.dry_run()?;
    if is_guarded(&pod.object()) {
        charge(server, &pod, dry_run).await?;
    }
    if !dry_run {
        mark(server, &key).await?;
        delete_object(server, context, resource, &key, &options).await?;
    }
    let success =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::plain(201, accept.format, &success))
}

/// A pod that does not run, or goes already, disrupts nothing more.
fn is_guarded(pod: &Value) -> bool {
    let phase = pod["status"]["phase"].as_str().unwrap_or_default();
    !meta::is_deleting(pod) && !matches!(phase, "Succeeded" | "Failed" | "Pending")
}

/// The pod says by what it ends, for policies of Jobs; one that is gone by now needs no mark.
async fn mark(server: &ApiServer, key: &str) -> Result<(), Status> {
    for _ in 0..TRIES {
        let Some(entry) = server.storage.get("pods", key) else { return Ok(()) };
        let mut pod = entry.object();
        let now = server.now().to_string();
        let condition = json!({"type": "DisruptionTarget", "status": "True", "lastTransitionTime": now,
            "reason": "EvictionByEvictionAPI", "message": "evicted through the API"});
        set_condition(&mut pod, condition);
        let put = Put {
            qualified: "pods".into(),
            key: entry.key.to_string(),
            object: Some(pod),
            expect: Expect::At(entry.revision),
        };
        match server.storage.commit(vec![put]).await {
            Ok(_) => return Ok(()),
            Err(Error::Conflict { .. }) => {}
            Err(other) => return Err(storage_failure(&other)),
        }
    }
    Err(Status::conflict("pods", key, "the pod changes too often"))
}

/// Takes one disruption from the budget that covers the pod.
async fn charge(server: &ApiServer, pod: &Entry, dry_run: bool) -> Result<(), Status> {
    for _ in 0..TRIES {
        let budgets = server.storage.cache(BUDGETS).snapshot();
        let covers = |entry: &&Arc<Entry>| {
            LabelSelector::from_object(entry.object()["spec"].get("selector")).matches(&pod.labels)
        };
        let covering: Vec<&Arc<Entry>> = budgets.range(pod.namespace(), None).filter(covers).collect();
        let entry = match covering[..] {
            [] => return Ok(()),
            [one] => one,
            _ => {
                return Err(Status::internal(
                    "This pod has more than one PodDisruptionBudget, which the eviction subresource does not support.",
                ));
            }
        };
        let Some(charged) = charged(entry, pod, &server.now().to_string())? else { return Ok(()) };
        if dry_run {
            return Ok(());
        }
        let put = Put {
            qualified: BUDGETS.into(),
            key: entry.key.to_string(),
            object: Some(charged),
            expect: Expect::At(entry.revision),
        };
        match server.storage.commit(vec![put]).await {
            Ok(_) => return Ok(()),
            Err(Error::Conflict { .. }) => {}
            Err(other) => return Err(storage_failure(&other)),
        }
    }
    Err(busy(pod.name(), "the disruption budget changes too often"))
}

/// The budget after the eviction; none when it need not know.
fn charged(entry: &Entry, pod: &Entry, now: &str) -> Result<Option<Value>, Status> {
    let mut budget = entry.object();
    let number = |pointer: &str| budget.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
    let is_ready = |pod: &Value| {
        let conditions = pod["status"]["conditions"].as_array().into_iter().flatten();
        conditions.into_iter().any(|c| c["type"] == "Ready" && c["status"] == "True")
    };
    if !is_ready(&pod.object()) {
        let healthy = number("/status/currentHealthy") >= number("/status/desiredHealthy");
        let spare = number("/status/desiredHealthy") > 0 && healthy;
        if budget["spec"]["unhealthyPodEvictionPolicy"] == "AlwaysAllow" || spare {
            return Ok(None);
        }
    }
    if number("/status/observedGeneration") < number("/metadata/generation") {
        return Err(busy(entry.name(), "is still being processed by the server"));
    }
    let allowed = number("/status/disruptionsAllowed");
    if allowed <= 0 {
        let (healthy, needed) = (number("/status/currentHealthy"), number("/status/desiredHealthy"));
        let name = entry.name();
        return Err(busy(name, &format!("needs {needed} healthy pods and has {healthy} currently")));
    }
    budget["status"]["disruptionsAllowed"] = (allowed - 1).into();
    budget["status"]["disruptedPods"][pod.name()] = now.into();
    Ok(Some(budget))
}

fn busy(budget: &str, why: &str) -> Status {
    let message = "Cannot evict pod as it would violate the pod's disruption budget.";
    let mut status = Status::new(429, "TooManyRequests", message);
    status.details = json!({"causes": [{"reason": "DisruptionBudget",
        "message": format!("The disruption budget {budget} {why}")}]});
    status
}
