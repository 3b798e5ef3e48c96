//! The priority levels and FlowSchemas every cluster has, and what keeps them and their conditions as they should be.
//!
//! Source: Kubernetes' mandatory and suggested configuration of API priority and fairness.

use std::sync::{Arc, Weak};

use futures_util::future::join_all;
use serde_json::{Value, json};
use wharf_api::{meta, resource::Resource, status::Status};

use super::{LEVELS, SCHEMAS};
use crate::{
    ApiServer, Context,
    request::RequestInfo,
    verbs::{Change, Creation, WriteOptions, create_object, set_condition, write_change},
};

const GROUP: &str = "flowcontrol.apiserver.k8s.io";
/// Whether the server may set an object right: `true` unless a person says otherwise.
const AUTO_UPDATE: &str = "apf.kubernetes.io/autoupdate-spec";
/// How often it is looked whether all is there, beside when something changes.
const AGAIN: std::time::Duration = std::time::Duration::from_secs(60);

const MASTERS: &str = "system:masters";
const NODES: &str = "system:nodes";
const EVERYBODY: [&str; 2] = ["system:unauthenticated", "system:authenticated"];

fn object(kind: &str, name: &str, spec: Value) -> Value {
    json!({"apiVersion": format!("{GROUP}/v1"), "kind": kind, "spec": spec,
        "metadata": {"name": name, "annotations": {AUTO_UPDATE: "true"}}})
}

fn limited(name: &str, shares: u32, lendable: u32, queuing: Option<(u32, u32)>) -> Value {
    let response = match queuing {
        None => json!({"type": "Reject"}),
        Some((queues, hand)) => {
            json!({"type": "Queue", "queuing": {"queues": queues, "handSize": hand, "queueLengthLimit": 50}})
        }
    };
    let limited =
        json!({"nominalConcurrencyShares": shares, "lendablePercent": lendable, "limitResponse": response});
    object("PriorityLevelConfiguration", name, json!({"type": "Limited", "limited": limited}))
}

/// Priority levels.
pub(super) fn levels() -> Vec<Value> {
    let exempt = json!({"type": "Exempt", "exempt": {"nominalConcurrencyShares": 0, "lendablePercent": 0}});
    vec![
        object("PriorityLevelConfiguration", "exempt", exempt),
        limited("catch-all", 5, 0, None),
        limited("system", 30, 33, Some((64, 6))),
        limited("node-high", 40, 25, Some((64, 6))),
        limited("leader-election", 10, 0, Some((16, 4))),
        limited("workload-high", 40, 50, Some((128, 6))),
        limited("workload-low", 100, 90, Some((128, 6))),
        limited("global-default", 20, 50, Some((128, 6))),
    ]
}

fn groups(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "Group", "group": {"name": name}})).collect()
}

fn users(names: &[&str]) -> Vec<Value> {
    names.iter().map(|name| json!({"kind": "User", "user": {"name": name}})).collect()
}

fn system_accounts() -> Value {
    json!({"kind": "ServiceAccount", "serviceAccount": {"name": "*", "namespace": "kube-system"}})
}

/// Rules for everything, by these.
fn everything(subjects: Vec<Value>) -> Value {
    json!([{"subjects": subjects,
        "resourceRules": [{"verbs": ["*"], "apiGroups": ["*"], "resources": ["*"], "namespaces": ["*"], "clusterScope": true}],
        "nonResourceRules": [{"verbs": ["*"], "nonResourceURLs": ["*"]}]}])
}

fn leases(verbs: &[&str]) -> Value {
    json!({"verbs": verbs, "apiGroups": ["coordination.k8s.io"], "resources": ["leases"], "namespaces": ["*"]})
}

fn schema(name: &str, level: &str, precedence: u32, flows: &str, rules: Value) -> Value {
    let mut spec = json!({"priorityLevelConfiguration": {"name": level}, "matchingPrecedence": precedence, "rules": rules});
    if !flows.is_empty() {
        spec["distinguisherMethod"] = json!({"type": flows});
    }
    object("FlowSchema", name, spec)
}

/// FlowSchemas, in their order.
pub(super) fn schemas() -> Vec<Value> {
    let probes = json!([{"subjects": groups(&EVERYBODY),
        "nonResourceRules": [{"verbs": ["get"], "nonResourceURLs": ["/healthz", "/readyz", "/livez"]}]}]);
    let electing =
        [users(&["system:kube-controller-manager", "system:kube-scheduler"]), vec![system_accounts()]]
            .concat();
    let electing = json!([{"subjects": electing, "resourceRules": [leases(&["get", "create", "update"])]}]);
    let nodes = json!([{"subjects": groups(&[NODES]), "resourceRules": [
        {"verbs": ["*"], "apiGroups": [""], "resources": ["nodes", "nodes/status"], "namespaces": ["*"], "clusterScope": true},
        leases(&["*"])]}]);
    let (by_user, by_namespace) = ("ByUser", "ByNamespace");
    vec![
        schema("exempt", "exempt", 1, "", everything(groups(&[MASTERS]))),
        schema("probes", "exempt", 2, "", probes),
        schema("system-leader-election", "leader-election", 100, by_user, electing),
        schema("system-node-high", "node-high", 400, by_user, nodes),
        schema("system-nodes", "system", 500, by_user, everything(groups(&[NODES]))),
        schema(
            "kube-controller-manager",
            "workload-high",
            800,
            by_namespace,
            everything(users(&["system:kube-controller-manager"])),
        ),
        schema(
            "kube-scheduler",
            "workload-high",
            800,
            by_namespace,
            everything(users(&["system:kube-scheduler"])),
        ),
        schema(
            "kube-system-service-accounts",
            "workload-high",
            900,
            by_namespace,
            everything(vec![system_accounts()]),
        ),
        schema(
            "service-accounts",
            "workload-low",
            9000,
            by_user,
            everything(groups(&["system:serviceaccounts"])),
        ),
        schema("global-default", "global-default", 9900, by_user, everything(groups(&EVERYBODY))),
        schema("catch-all", "catch-all", 10_000, by_user, everything(groups(&EVERYBODY))),
    ]
}

/// Those without which nothing would be fair; nobody may change or be without them.
fn is_mandatory(name: &str) -> bool {
    matches!(name, "exempt" | "catch-all")
}

/// Runs until the server is gone.
pub(crate) async fn keep(server: Weak<ApiServer>) {
    let Some(first) = server.upgrade() else { return };
    let mut changes = [SCHEMAS, LEVELS].map(|name| first.storage.cache(name).subscribe());
    drop(first);
    let mut again = tokio::time::interval(AGAIN);
    loop {
        let [schemas, levels] = &mut changes;
        tokio::select! {
            _ = again.tick() => {}
            Ok(()) = schemas.changed() => {}
            Ok(()) = levels.changed() => {}
        }
        let Some(server) = server.upgrade() else { return };
        make(&server).await;
        tell_dangling(&server).await;
    }
}

/// Makes what is missing, and sets right what nobody has taken over.
pub(crate) async fn make(server: &Arc<ApiServer>) {
    let levels = levels().into_iter().map(|level| ("prioritylevelconfigurations", level));
    let schemas = schemas().into_iter().map(|schema| ("flowschemas", schema));
    // At once, so that the store writes many in one transaction.
    let made = join_all(levels.chain(schemas).map(|(plural, object)| ensure(server, plural, object))).await;
    for status in made.into_iter().filter_map(Result::err) {
        tracing::debug!(%status, "an object of priority and fairness cannot be kept");
    }
}

fn context(
    server: &ApiServer,
    verb: &'static str,
    plural: &str,
    name: &str,
) -> Result<(Context, Arc<Resource>), Status> {
    let info = RequestInfo { name: name.to_owned(), verb, ..RequestInfo::default() };
    let context = Context::own(server, info, "api-priority-and-fairness-config-producer-v1");
    let resource = context.index.find(GROUP, "v1", plural).cloned().ok_or_else(Status::no_such_path)?;
    Ok((context, resource))
}

/// Makes an object that is missing, and sets one right that nobody has taken over.
async fn ensure(server: &Arc<ApiServer>, plural: &str, mut wanted: Value) -> Result<(), Status> {
    let name = meta::name(&wanted).to_owned();
    let Some(entry) = server.storage.get(&format!("{plural}.{GROUP}"), &format!("/{name}")) else {
        let (mut context, resource) = context(server, "create", plural, "")?;
        return match create_object(server, &mut context, &resource, wanted, Creation::default()).await {
            Err(status) if status.reason != "AlreadyExists" => Err(status),
            _ => Ok(()),
        };
    };
    let kind = wanted["kind"].as_str().unwrap_or_default().to_owned();
    wharf_api::defaults::apply(GROUP, "v1", &kind, &mut wanted);
    let present = entry.object();
    let theirs = present["metadata"]["annotations"][AUTO_UPDATE] == "false";
    if present["spec"] == wanted["spec"] || (theirs && !is_mandatory(&name)) || meta::is_deleting(&present) {
        return Ok(());
    }
    let (mut context, resource) = context(server, "update", plural, &name)?;
    let change = |old: &Value| {
        let mut new = old.clone();
        new["spec"] = wanted["spec"].clone();
        meta::metadata_mut(&mut new).remove("resourceVersion");
        Ok(Change::Updated(new))
    };
    write_change(server, &mut context, &resource, &WriteOptions::default(), change).await.map(drop)
}

/// Says of each FlowSchema whether its priority level is there.
async fn tell_dangling(server: &Arc<ApiServer>) {
    let levels = server.storage.cache(LEVELS).snapshot();
    for entry in server.storage.cache(SCHEMAS).snapshot().entries.values() {
        let schema = entry.object();
        let level = schema["spec"]["priorityLevelConfiguration"]["name"].as_str().unwrap_or_default();
        let found = levels.entries.contains_key(format!("/{level}").as_str());
        let (status, reason) = if found { ("False", "Found") } else { ("True", "NotFound") };
        let mut conditions = schema["status"]["conditions"].as_array().into_iter().flatten();
        if conditions.any(|condition| condition["type"] == "Dangling" && condition["status"] == status) {
            continue;
        }
        let and = if found { "and it exists" } else { "but there is no such object" };
        let message =
            format!("This FlowSchema references the PriorityLevelConfiguration object named {level:?} {and}");
        let condition = json!({"type": "Dangling", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": server.now().to_string()});
        if let Err(status) = say(server, entry.name(), condition).await {
            tracing::debug!(name = entry.name(), %status, "the condition of a FlowSchema cannot be written");
        }
    }
}

async fn say(server: &Arc<ApiServer>, name: &str, condition: Value) -> Result<(), Status> {
    let (mut context, resource) = context(server, "update", "flowschemas", name)?;
    let options = WriteOptions { subresource: "status", ..WriteOptions::default() };
    let change = |old: &Value| {
        let mut new = old.clone();
        set_condition(&mut new, condition.clone());
        meta::metadata_mut(&mut new).remove("resourceVersion");
        Ok(Change::Updated(new))
    };
    write_change(server, &mut context, &resource, &options, change).await.map(drop)
}
