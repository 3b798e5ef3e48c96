//! Discovery: which groups, versions and resources there are, in the legacy and the aggregated form.

use std::sync::Arc;

use http::{HeaderMap, HeaderValue, Response, header};
use serde_json::{Value, json};
use wharf_api::{codec::encode_json, resource::Resource, status::Status};
use wharf_http::Body;

use crate::{
    ApiServer, Context,
    aggregation::{Remote, remotes},
    registry::Index,
    respond::{json_response, response},
};

const AGGREGATED: &str = "application/json;g=apidiscovery.k8s.io;v=v2;as=APIGroupDiscoveryList";

pub(crate) async fn answer(
    server: &ApiServer,
    context: &Context,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let index = &context.index;
    let parts: Vec<&str> = context.info.path.split('/').filter(|p| !p.is_empty()).collect();
    match parts[..] {
        ["api"] if wants_aggregated(headers) => Ok(aggregated(index, &[], true)),
        ["apis"] if wants_aggregated(headers) => Ok(aggregated(index, &remotes(server).await, false)),
        ["api"] => Ok(json_response(
            200,
            &json!({"kind": "APIVersions", "versions": ["v1"],
            "serverAddressByClientCIDRs": []}),
        )),
        ["apis"] => Ok(json_response(
            200,
            &json!({"kind": "APIGroupList", "apiVersion": "v1",
            "groups": all_groups(server, index)}),
        )),
        ["apis", name] => {
            let found = all_groups(server, index).into_iter().find(|group| group["name"] == name);
            let mut group = found.ok_or_else(Status::no_such_path)?;
            group["kind"] = "APIGroup".into();
            group["apiVersion"] = "v1".into();
            Ok(json_response(200, &group))
        }
        ["api", version] => resources(index, "", version),
        ["apis", group, version] => resources(index, group, version),
        [] => Ok(json_response(200, &json!({"paths": paths(index)}))),
        _ => Err(Status::no_such_path()),
    }
}

fn wants_aggregated(headers: &HeaderMap) -> bool {
    let accept = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or_default();
    accept.split(',').any(|entry| {
        entry.contains("g=apidiscovery.k8s.io") && entry.contains("v=v2;") || entry.trim().ends_with("v=v2")
    })
}

fn paths(index: &Index) -> Vec<String> {
    let mut paths = vec!["/api".to_owned(), "/api/v1".into(), "/apis".into()];
    for (group, versions) in index.groups.iter().filter(|(g, _)| !g.is_empty()) {
        paths.push(format!("/apis/{group}"));
        paths.extend(versions.iter().map(|(v, _)| format!("/apis/{group}/{v}")));
    }
    paths.extend(
        ["/healthz", "/livez", "/metrics", "/openapi/v2", "/openapi/v3", "/readyz", "/version"]
            .map(String::from),
    );
    paths
}

/// Groups with their versions, the preferred one first: the server's own, then those of other servers.
fn all_groups(server: &ApiServer, index: &Index) -> Vec<Value> {
    let mut groups: Vec<(String, Vec<String>)> = Vec::new();
    for (name, versions) in index.groups.iter().filter(|(name, _)| !name.is_empty()) {
        groups.push((name.clone(), versions.iter().map(|(v, _)| v.clone()).collect()));
    }
    for other in server.services.all(server).iter() {
        match groups.iter_mut().find(|(name, _)| *name == other.group) {
            Some((_, versions)) if versions.contains(&other.version) => {}
            Some((_, versions)) => versions.push(other.version.clone()),
            None => groups.push((other.group.clone(), vec![other.version.clone()])),
        }
    }
    groups.iter().map(|(name, versions)| group(name, versions)).collect()
}

fn group(name: &str, versions: &[String]) -> Value {
    let version = |v: &String| json!({"groupVersion": format!("{name}/{v}"), "version": v});
    let versions: Vec<Value> = versions.iter().map(version).collect();
    json!({"name": name, "preferredVersion": versions.first(), "versions": versions})
}

fn resources(index: &Index, group: &str, version: &str) -> Result<Response<Body>, Status> {
    let versions = index.groups.get(group).ok_or_else(Status::no_such_path)?;
    let (_, resources) = versions.iter().find(|(v, _)| v == version).ok_or_else(Status::no_such_path)?;
    let mut list = Vec::new();
    for resource in resources {
        let mut entry = json!({"name": resource.plural, "singularName": resource.singular,
            "namespaced": resource.namespaced, "kind": resource.gvk.kind, "verbs": resource.verbs()});
        if !resource.short.is_empty() {
            entry["shortNames"] = json!(resource.short);
        }
        if !resource.categories.is_empty() {
            entry["categories"] = json!(resource.categories);
        }
        list.push(entry);
        for name in &resource.subresources {
            let sub = subresource(resource, name);
            let mut entry = json!({"name": format!("{}/{name}", resource.plural), "singularName": "",
                "namespaced": resource.namespaced, "kind": sub.kind, "verbs": sub.verbs});
            if !sub.group.is_empty() {
                entry["group"] = sub.group.into();
                entry["version"] = sub.version.into();
            }
            list.push(entry);
        }
    }
    let group_version = if group.is_empty() { version.to_owned() } else { format!("{group}/{version}") };
    let list = json!({"kind": "APIResourceList", "apiVersion": "v1", "groupVersion": group_version, "resources": list});
    Ok(json_response(200, &list))
}

struct Subresource {
    kind: String,
    group: &'static str,
    version: &'static str,
    verbs: &'static [&'static str],
}

/// What discovery says of a subresource; group and version only where they are not the resource's own.
fn subresource(resource: &Resource, name: &str) -> Subresource {
    const GET_WRITE: &[&str] = &["get", "patch", "update"];
    let of = |kind: &str, group, version, verbs| Subresource { kind: kind.to_owned(), group, version, verbs };
    match name {
        "scale" => of("Scale", "autoscaling", "v1", GET_WRITE),
        "binding" => of("Binding", "", "", &["create"]),
        "eviction" => of("Eviction", "policy", "v1", &["create"]),
        "token" => of("TokenRequest", "authentication.k8s.io", "v1", &["create"]),
        "exec" => of("PodExecOptions", "", "", &["create", "get"]),
        "attach" => of("PodAttachOptions", "", "", &["create", "get"]),
        "portforward" => of("PodPortForwardOptions", "", "", &["create", "get"]),
        "proxy" => of(proxy_options(&resource.gvk.kind), "", "", PROXY),
        "log" => of(&resource.gvk.kind, "", "", &["get"]),
        "finalize" => of(&resource.gvk.kind, "", "", &["update"]),
        _ => of(&resource.gvk.kind, "", "", GET_WRITE),
    }
}

const PROXY: &[&str] = &["create", "delete", "get", "patch", "update"];

/// What the options of a proxied request to this kind are.
pub(crate) fn proxy_options(kind: &str) -> &'static str {
    match kind {
        "Pod" => "PodProxyOptions",
        "Service" => "ServiceProxyOptions",
        _ => "NodeProxyOptions",
    }
}

fn aggregated(index: &Index, others: &[Remote], core: bool) -> Response<Body> {
    let groups = index.groups.iter().filter(|(name, _)| name.is_empty() == core);
    let mut items: Vec<Value> = groups
        .map(|(name, versions)| {
            let versions: Vec<Value> = versions
                .iter()
                .map(|(version, resources)| {
                    let resources: Vec<Value> = resources.iter().map(aggregated_resource).collect();
                    json!({"version": version, "freshness": "Current", "resources": resources})
                })
                .collect();
            json!({"metadata": {"name": name, "creationTimestamp": null}, "versions": versions})
        })
        .collect();
    for Remote { service, resources } in others {
        let freshness = if resources.is_some() { "Current" } else { "Stale" };
        let mut version = json!({"version": service.version, "freshness": freshness});
        if let Some(resources) = resources {
            version["resources"] = resources.clone();
        }
        match items.iter_mut().find(|item| item["metadata"]["name"] == service.group.as_str()) {
            Some(item) => {
                let versions = item["versions"].as_array_mut();
                versions.into_iter().for_each(|list| list.push(version.clone()));
            }
            None => items.push(json!({"metadata": {"name": service.group, "creationTimestamp": null},
                "versions": [version]})),
        }
    }
    let list = json!({"kind": "APIGroupDiscoveryList", "apiVersion": "apidiscovery.k8s.io/v2", "metadata": {}, "items": items});
    let mut answer = response(200, AGGREGATED, encode_json(&list));
    answer.headers_mut().insert(header::VARY, HeaderValue::from_static("Accept"));
    answer
}

fn aggregated_resource(resource: &Arc<Resource>) -> Value {
    let gvk = &resource.gvk;
    let kind =
        |group: &str, version: &str, kind: &str| json!({"group": group, "version": version, "kind": kind});
    let mut entry = json!({"resource": resource.plural, "responseKind": kind(&gvk.group, &gvk.version, &gvk.kind),
        "scope": if resource.namespaced { "Namespaced" } else { "Cluster" },
        "singularResource": resource.singular, "verbs": resource.verbs()});
    if !resource.short.is_empty() {
        entry["shortNames"] = json!(resource.short);
    }
    if !resource.categories.is_empty() {
        entry["categories"] = json!(resource.categories);
    }
    let subresources: Vec<Value> = resource
        .subresources
        .iter()
        .map(|name| {
            let sub = subresource(resource, name);
            let (group, version) = if sub.group.is_empty() {
                (gvk.group.as_str(), gvk.version.as_str())
            } else {
                (sub.group, sub.version)
            };
            json!({"subresource": name, "responseKind": kind(group, version, &sub.kind), "verbs": sub.verbs})
        })
        .collect();
    if !subresources.is_empty() {
        entry["subresources"] = subresources.into();
    }
    entry
}
