//! Keeps what the server itself says in objects current: an APIService for each group and version of its own, for each
//! of another's whether it answers, and types of admission policies.

use std::{
    collections::BTreeMap,
    sync::{Arc, Weak},
    time::Duration,
};

use futures_util::future::join_all;
use serde_json::{Value, json};
use wharf_api::{meta, resource::Resource};

use super::{API_SERVICES, Service, get};
use crate::{
    ApiServer, Context,
    request::RequestInfo,
    verbs::{self, Change, Creation, WriteOptions, create_object, set_condition, write_change},
};

/// How often servers are asked whether they answer.
const AGAIN: Duration = Duration::from_secs(2);
const PATIENCE: Duration = Duration::from_secs(5);
const MANAGED: &str = "kube-aggregator.kubernetes.io/automanaged";

/// Runs until the server is gone.
pub(crate) async fn keep_current(server: Weak<ApiServer>) {
    let mut again = tokio::time::interval(AGAIN);
    let mut seen = (u64::MAX, u64::MAX);
    loop {
        again.tick().await;
        let Some(server) = server.upgrade() else { return };
        let newest = |name: &str| *server.storage.cache(name).subscribe().borrow();
        let now = (newest("customresourcedefinitions.apiextensions.k8s.io"), newest(API_SERVICES));
        if now != seen {
            own(&server).await;
            seen = (now.0, newest(API_SERVICES));
        }
        crate::admission::type_check::check(&server).await;
        let services = server.services.all(&server);
        // All at once: one that does not answer keeps none waiting.
        let server = &server;
        let looks = services.iter().map(|service| async move {
            let condition = condition_of(server, service).await;
            say(server, &service.name, condition).await;
        });
        join_all(looks).await;
    }
}

fn context(server: &ApiServer, verb: &'static str, name: &str) -> Context {
    let info = RequestInfo { name: name.to_owned(), verb, ..RequestInfo::default() };
    Context::own(server, info, "kube-aggregator")
}

fn resource(context: &Context) -> Option<Arc<Resource>> {
    context.index.find("apiregistration.k8s.io", "v1", "apiservices").cloned()
}

/// Makes what is missing of the server's own, and takes away what its definitions no longer serve.
async fn own(server: &Arc<ApiServer>) {
    let index = server.registry.index(&server.storage);
    let mut wanted = BTreeMap::new();
    for (group, versions) in &index.groups {
        for (version, resources) in versions {
            let custom = resources.iter().all(|r| r.custom.is_some());
            wanted.insert(format!("{version}.{group}"), (group.clone(), version.clone(), custom));
        }
    }
    let present = server.storage.cache(API_SERVICES).snapshot();
    for entry in present.entries.values() {
        let stale = entry.labels.contains_key(MANAGED) && !wanted.contains_key(entry.name());
        if stale {
            let mut context = context(server, "delete", entry.name());
            if let Some(resource) = resource(&context) {
                let options = verbs::DeleteOptions::default();
                drop(verbs::delete_object(server, &mut context, &resource, &entry.key, &options).await);
            }
        }
    }
    for (name, (group, version, custom)) in wanted {
        if present.entries.contains_key(format!("/{name}").as_str()) {
            continue;
        }
        let object = json!({"apiVersion": "apiregistration.k8s.io/v1", "kind": "APIService",
            "metadata": {"name": name, "labels": {MANAGED: if custom { "true" } else { "onstart" }}},
            "spec": {"group": group, "version": version, "versionPriority": if custom { 100 } else { 15 },
                "groupPriorityMinimum": if group.is_empty() { 18000 } else if custom { 1000 } else { 17000 }}});
        let mut context = context(server, "create", &name);
        let Some(resource) = resource(&context) else { continue };
        if let Err(status) = create_object(server, &mut context, &resource, object, Creation::default()).await
        {
            tracing::debug!(name, %status, "APIService cannot be made");
            continue;
        }
        say(server, &name, ("True", "Local", "Local APIServices are always available".into())).await;
    }
}

type Said = (&'static str, &'static str, String);

async fn condition_of(server: &ApiServer, service: &Service) -> Said {
    let key = format!("{}/{}", service.namespace, service.service);
    let place = format!("service/{} in {:?}", service.service, service.namespace);
    let Some(entry) = server.storage.get("services", &key) else {
        return ("False", "ServiceNotFound", format!("{place} is not present"));
    };
    let spec = entry.object()["spec"].take();
    let mut ports = spec["ports"].as_array().into_iter().flatten();
    if spec["type"] != "ExternalName" && !ports.any(|p| p["port"].as_u64() == Some(service.port)) {
        return ("False", "ServicePortError", format!("{place} is not listening on port {}", service.port));
    }
    let path = format!("/apis/{}/{}", service.group, service.version);
    match get(server, service, &path, "application/json", PATIENCE).await {
        Ok(_) => ("True", "Passed", "all checks passed".to_owned()),
        Err(why) => {
            ("False", "FailedDiscoveryCheck", format!("failing or missing response from {path}: {why}"))
        }
    }
}

/// Writes the condition, if it is news.
async fn say(server: &Arc<ApiServer>, name: &str, (status, reason, message): Said) {
    let mut context = context(server, "update", name);
    let Some(resource) = resource(&context) else { return };
    let now = server.now().to_string();
    let options = WriteOptions { subresource: "status", ..WriteOptions::default() };
    let change = |old: &Value| {
        let mut new = old.clone();
        let mut conditions = old["status"]["conditions"].as_array().into_iter().flatten();
        let before = conditions.find(|c| c["type"] == "Available" && c["status"] == status);
        let since = before.map_or_else(|| now.as_str().into(), |c| c["lastTransitionTime"].clone());
        let condition = json!({"type": "Available", "status": status, "reason": reason, "message": message,
            "lastTransitionTime": since});
        set_condition(&mut new, condition);
        meta::metadata_mut(&mut new).remove("resourceVersion");
        Ok(Change::Updated(new))
    };
    if let Err(status) = write_change(server, &mut context, &resource, &options, change).await {
        tracing::debug!(name, %status, "the condition of an APIService cannot be written");
    }
}
