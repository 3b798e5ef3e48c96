//! What the server itself changes and refuses beyond a kind's own rules.
//!
//! Source: Kubernetes' built-in admission plugins NamespaceLifecycle, ServiceAccount, Priority,
//! DefaultTolerationSeconds and RBAC's escalation check.

use serde_json::{Value, json};
use wharf_api::{meta, resource::Resource, status::Status};

use crate::{ApiServer, Context, auth::Attributes, unheeded};

/// Namespaces that cannot be deleted.
const IMMORTAL: [&str; 3] = ["default", "kube-system", "kube-public"];

/// Kinds that are stored and given out but that nothing acts on yet: whoever makes one is told.
const WITHOUT_EFFECT: &[(&str, &str, &str)] = &[
    ("", "limitranges", "limits are not enforced"),
    ("", "resourcequotas", "quotas are not enforced"),
    ("", "persistentvolumeclaims", "no volume is provisioned"),
    ("", "persistentvolumes", "no volume is bound"),
    ("networking.k8s.io", "networkpolicies", "traffic is not filtered"),
    ("node.k8s.io", "runtimeclasses", "every pod runs under the built-in runtime"),
    ("admissionregistration.k8s.io", "mutatingwebhookconfigurations", "webhooks are not called"),
    ("admissionregistration.k8s.io", "validatingwebhookconfigurations", "webhooks are not called"),
];

pub(crate) fn create(
    server: &ApiServer,
    context: &mut Context,
    resource: &Resource,
    object: &mut Value,
) -> Result<(), Status> {
    let gvk = &resource.gvk;
    if resource.namespaced {
        namespace_accepts(server, resource, object)?;
    }
    let plural = resource.plural.as_str();
    if let Some((_, _, why)) =
        WITHOUT_EFFECT.iter().find(|(group, name, _)| *group == gvk.group && *name == plural)
    {
        context.warnings.push(format!("{}: stored, but {why}", resource.qualified()));
    }
    context.warnings.extend(unheeded::sentences(resource, object));
    match (gvk.group.as_str(), plural) {
        ("", "pods") => pod(server, object)?,
        ("rbac.authorization.k8s.io", _) => rbac(server, context, resource, object)?,
        ("apiextensions.k8s.io", "customresourcedefinitions") => definition_warnings(context, object),
        _ => {}
    }
    Ok(())
}

pub(crate) fn update(
    server: &ApiServer,
    context: &mut Context,
    resource: &Resource,
    subresource: &str,
    new: &mut Value,
    old: &Value,
) -> Result<(), Status> {
    let gvk = &resource.gvk;
    if subresource.is_empty() && new["spec"] != old["spec"] {
        context.warnings.extend(unheeded::sentences(resource, new));
    }
    match (gvk.group.as_str(), resource.plural.as_str()) {
        ("rbac.authorization.k8s.io", _)
            if new["rules"] != old["rules"] || new["subjects"] != old["subjects"] =>
        {
            rbac(server, context, resource, new)
        }
        ("apiextensions.k8s.io", "customresourcedefinitions") if subresource.is_empty() => {
            definition_warnings(context, new);
            Ok(())
        }
        _ => Ok(()),
    }
}

pub(crate) fn delete(resource: &Resource, object: &Value) -> Result<(), Status> {
    let name = meta::name(object);
    if resource.plural == "namespaces" && resource.gvk.group.is_empty() && IMMORTAL.contains(&name) {
        return Err(Status::forbidden(format!(
            "namespaces {name:?} is forbidden: this namespace may not be deleted"
        ))
        .about("namespaces", name));
    }
    Ok(())
}

/// New objects need a namespace that is there and stays.
fn namespace_accepts(server: &ApiServer, resource: &Resource, object: &Value) -> Result<(), Status> {
    let namespace = meta::namespace(object);
    let Some(entry) = server.storage.get("namespaces", &format!("/{namespace}")) else {
        return Err(Status::not_found("namespaces", namespace));
    };
    if !meta::is_deleting(&entry.object()) {
        return Ok(());
    }
    let (qualified, name) = (resource.qualified(), meta::name(object));
    let mut status = Status::forbidden(format!(
        "{qualified} {name:?} is forbidden: unable to create new content in namespace {namespace} because it is being terminated"
    ))
    .about(&qualified, name);
    status.details["causes"] = json!([{"reason": "NamespaceTerminating", "field": "metadata.namespace",
        "message": format!("namespace {namespace} is being terminated")}]);
    Err(status)
}

fn pod(server: &ApiServer, object: &mut Value) -> Result<(), Status> {
    service_account(server, object)?;
    priority(server, object)?;
    default_tolerations(object);
    Ok(())
}

fn service_account(server: &ApiServer, object: &mut Value) -> Result<(), Status> {
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

/// Nobody grants what they do not hold, unless they may `escalate` or `bind`.
fn rbac(server: &ApiServer, context: &Context, resource: &Resource, object: &Value) -> Result<(), Status> {
    let namespace = meta::namespace(object);
    let is_binding = resource.plural.ends_with("bindings");
    let (verb, role_resource, role_name) = if is_binding {
        let kind = object["roleRef"]["kind"].as_str().unwrap_or_default();
        let plural = if kind == "ClusterRole" { "clusterroles" } else { "roles" };
        ("bind", plural, object["roleRef"]["name"].as_str().unwrap_or_default())
    } else {
        ("escalate", resource.plural.as_str(), meta::name(object))
    };
    let asked = Attributes {
        verb,
        group: &resource.gvk.group,
        resource: role_resource,
        namespace,
        name: role_name,
        ..Attributes::default()
    };
    if server.authorizer.allows(&server.storage, &context.identity, &asked) {
        return Ok(());
    }
    let rules = if is_binding {
        let scope = if role_resource == "roles" { namespace } else { "" };
        let qualified = format!("{role_resource}.{}", resource.gvk.group);
        let role = server.storage.get(&qualified, &format!("{scope}/{role_name}"));
        role.ok_or_else(|| Status::not_found(&qualified, role_name))?.object()["rules"].clone()
    } else {
        object["rules"].clone()
    };
    let rules = rules.as_array().cloned().unwrap_or_default();
    if server.authorizer.escalates(&server.storage, &context.identity, namespace, &rules) {
        let (qualified, name) = (resource.qualified(), meta::name(object));
        return Err(Status::forbidden(format!(
            "{qualified} {name:?} is forbidden: user {:?} (groups={:?}) is attempting to grant RBAC permissions not currently held",
            context.identity.user, context.identity.groups
        ))
        .about(&qualified, name));
    }
    Ok(())
}

fn definition_warnings(context: &mut Context, definition: &Value) {
    let resources = wharf_api::crd::resources(definition);
    for custom in resources.iter().filter_map(|r| r.custom.as_ref()) {
        context.warnings.extend(custom.warnings.iter().cloned());
    }
    context.warnings.sort();
    context.warnings.dedup();
}
