//! What a pod gets from its account, its priority class and the cluster.
//!
//! Source: Kubernetes' admission plugins ServiceAccount, Priority and DefaultTolerationSeconds.

use serde_json::{Value, json};
use wharf_api::{meta, status::Status};

use crate::{
    ApiServer,
    auth::node::{Referred, references},
};

/// Fills in what a new pod gets from its namespace and the cluster.
pub(super) fn create(server: &ApiServer, object: &mut Value) -> Result<(), Status> {
    service_account(server, object)?;
    priority(server, object)?;
    default_tolerations(object);
    Ok(())
}

/// Fills in what a changed pod leaves out and keeps nevertheless.
pub(super) fn update(object: &mut Value, old: &Value) {
    default_tolerations(object);
    let spec = meta::member_mut(object, "spec");
    for name in ["priority", "preemptionPolicy"] {
        if spec.get(name).is_none_or(Value::is_null)
            && let Some(kept) = old["spec"].get(name)
        {
            spec.insert(name.to_owned(), kept.clone());
        }
    }
}

fn service_account(server: &ApiServer, object: &mut Value) -> Result<(), Status> {
    // What a node runs by itself has no account.
    if object["metadata"]["annotations"].get(wharf_api::validate::MIRROR).is_some() {
        return mirror_pod(object);
    }
    let (namespace, pod_name) = (meta::namespace(object).to_owned(), meta::name(object).to_owned());
    let spec = meta::member_mut(object, "spec");
    let named = spec.get("serviceAccountName").and_then(Value::as_str).unwrap_or_default();
    let name = if named.is_empty() { "default" } else { named }.to_owned();
    let Some(account) = server.storage.get("serviceaccounts", &format!("{namespace}/{name}")) else {
        return Err(Status::forbidden(format!(
            "pods {pod_name:?} is forbidden: error looking up service account {namespace}/{name}: serviceaccount {name:?} not found"
        ))
        .about("pods", &pod_name));
    };
    let account = account.object();
    spec.insert("serviceAccountName".into(), name.as_str().into());
    spec.insert("serviceAccount".into(), name.as_str().into());
    if let (None, Some(secrets)) = (spec.get("imagePullSecrets"), account.get("imagePullSecrets")) {
        spec.insert("imagePullSecrets".into(), secrets.clone());
    }
    let mount =
        spec.get("automountServiceAccountToken").or_else(|| account.get("automountServiceAccountToken"));
    if mount.and_then(Value::as_bool) != Some(false) {
        mount_token(object);
    }
    Ok(())
}

/// Mirror pods stand for what a node runs whatever the API says, and so cannot be given anything of it.
fn mirror_pod(pod: &Value) -> Result<(), Status> {
    let name = meta::name(pod);
    let why = match references(pod).first() {
        Some((Referred::Account, _)) => "a mirror pod may not reference service accounts",
        Some((Referred::Secret, _)) => "a mirror pod may not reference secrets",
        _ if tokens(pod) => "a mirror pod may not use ServiceAccountToken volume projections",
        _ => return Ok(()),
    };
    Err(Status::forbidden(format!("pods {name:?} is forbidden: {why}")).about("pods", name))
}

fn tokens(pod: &Value) -> bool {
    let volumes = pod["spec"]["volumes"].as_array().into_iter().flatten();
    let mut sources =
        volumes.flat_map(|volume| volume["projected"]["sources"].as_array().into_iter().flatten());
    sources.any(|source| source["serviceAccountToken"].is_object())
}

const TOKEN_PATH: &str = "/var/run/secrets/kubernetes.io/serviceaccount";

/// Adds the projected token volume to containers that mount nothing at its path.
fn mount_token(object: &mut Value) {
    let volume = format!("kube-api-access-{}", wharf_base::random_suffix(5));
    let mut used = false;
    for list in ["initContainers", "containers"] {
        let containers = meta::member_mut(object, "spec").get_mut(list).and_then(Value::as_array_mut);
        for container in containers.into_iter().flatten() {
            let Value::Object(container) = container else { continue };
            let mounts = container.entry("volumeMounts").or_insert_with(|| json!([]));
            let Value::Array(mounts) = mounts else { continue };
            if mounts.iter().all(|m| m["mountPath"] != TOKEN_PATH) {
                mounts.push(json!({"name": volume, "readOnly": true, "mountPath": TOKEN_PATH}));
                used = true;
            }
        }
    }
    if !used {
        return;
    }
    let volumes = meta::member_mut(object, "spec").entry("volumes").or_insert_with(|| json!([]));
    if let Value::Array(volumes) = volumes {
        volumes.push(json!({"name": volume, "projected": {"defaultMode": 420, "sources": [
            {"serviceAccountToken": {"expirationSeconds": 3607, "path": "token"}},
            {"configMap": {"name": "kube-root-ca.crt", "items": [{"key": "ca.crt", "path": "ca.crt"}]}},
            {"downwardAPI": {"items": [{"path": "namespace", "fieldRef": {"apiVersion": "v1", "fieldPath": "metadata.namespace"}}]}},
        ]}}));
    }
}

fn priority(server: &ApiServer, object: &mut Value) -> Result<(), Status> {
    let name = object["spec"]["priorityClassName"].as_str().unwrap_or_default().to_owned();
    let classes = server.storage.cache("priorityclasses.scheduling.k8s.io").snapshot();
    let class = if name.is_empty() {
        classes.entries.values().map(|e| e.object()).find(|c| c["globalDefault"] == true)
    } else {
        let found = classes.entries.get(format!("/{name}").as_str()).map(|e| e.object());
        if found.is_none() {
            return Err(Status::forbidden(format!(
                "pods {:?} is forbidden: no PriorityClass with name {name} was found",
                meta::name(object)
            )));
        }
        found
    };
    let spec = meta::member_mut(object, "spec");
    let value = class.as_ref().and_then(|c| c["value"].as_i64()).unwrap_or(0);
    spec.insert("priority".into(), value.into());
    let policy =
        class.as_ref().and_then(|c| c["preemptionPolicy"].as_str()).unwrap_or("PreemptLowerPriority");
    spec.insert("preemptionPolicy".into(), policy.into());
    if let Some(class) = class {
        spec.insert("priorityClassName".into(), meta::name(&class).into());
    }
    Ok(())
}

/// Pods stay five minutes on a node that went away, unless they say otherwise.
fn default_tolerations(object: &mut Value) {
    let list = meta::member_mut(object, "spec").entry("tolerations").or_insert_with(|| json!([]));
    let Value::Array(tolerations) = list else { return };
    for key in ["node.kubernetes.io/not-ready", "node.kubernetes.io/unreachable"] {
        let tolerated = tolerations.iter().any(|t| {
            let covers_key = t["key"] == key || t["key"].as_str().unwrap_or_default().is_empty();
            let covers_effect = matches!(t["effect"].as_str(), None | Some("" | "NoExecute"));
            covers_key && covers_effect
        });
        if !tolerated {
            tolerations.push(
                json!({"key": key, "operator": "Exists", "effect": "NoExecute", "tolerationSeconds": 300}),
            );
        }
    }
}
