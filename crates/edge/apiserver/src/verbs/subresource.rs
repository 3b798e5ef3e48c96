//! Subresources: status, scale, binding, eviction, finalize, token; streams go to `crate::streams`.

use std::{sync::Arc, time::Duration};

use http::{Request, Response};
use serde_json::{Value, json};
use wharf_api::{
    crd, meta,
    resource::Resource,
    schema::{Gvk, builtin},
    status::Status,
};
use wharf_http::Body;

use super::{
    BodyKind, Change, WriteOptions, decode_body, decode_other, eviction,
    patch::patch_with,
    read,
    update::{check_name, write_change},
};
use crate::{
    ApiServer, Context,
    admission::{self, Operation},
    auth::{ISSUER, TokenSubject},
    proxy, read_body,
    respond::{self, Accept},
    streams,
};

/// Tokens live an hour unless asked otherwise, and never under ten minutes or over a day, as upstream's bounds.
const TOKEN_LIFE: Duration = Duration::from_secs(3600);
const TOKEN_LIFE_MIN: u64 = 600;
const TOKEN_LIFE_MAX: u64 = 86_400;

pub(crate) async fn subresource(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let info = &context.info;
    match (info.subresource.as_str(), info.verb) {
        ("status" | "approval" | "ephemeralcontainers" | "resize", "get") => {
            read::get(server, context, resource, request.headers()).await
        }
        ("status", "update") => update_part(server, context, resource, request, "status").await,
        ("status", "patch") => patch_with(server, context, resource, request, "status").await,
        ("approval", "update") => update_part(server, context, resource, request, "approval").await,
        ("approval", "patch") => patch_with(server, context, resource, request, "approval").await,
        ("ephemeralcontainers", "update") => {
            update_part(server, context, resource, request, "ephemeralcontainers").await
        }
        ("ephemeralcontainers", "patch") => {
            patch_with(server, context, resource, request, "ephemeralcontainers").await
        }
        ("resize", "update") => update_part(server, context, resource, request, "resize").await,
        ("resize", "patch") => patch_with(server, context, resource, request, "resize").await,
        ("scale", _) => scale(server, context, resource, request).await,
        ("finalize", "update") => finalize(server, context, resource, request).await,
        ("binding", "create") => bind(server, context, resource, request).await,
        ("eviction", "create") => eviction::evict(server, context, resource, request).await,
        ("token", "create") => token(server, context, resource, request).await,
        ("log", "get") => streams::log(server, context, request).await,
        ("exec" | "attach", "get" | "create") => streams::exec(server, context, resource, request).await,
        ("portforward", "get" | "create") => streams::port_forward(server, context, resource, request).await,
        ("proxy", _) => proxy::answer(server, context, resource, request).await,
        _ => Err(Status::method_not_allowed()),
    }
}

/// An update of the part that the subresource is.
async fn update_part(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
    subresource: &'static str,
) -> Result<Response<Body>, Status> {
    let accept = Accept::of(request.headers(), Some(resource))?;
    let kind = BodyKind::of(request.headers())?;
    let body = read_body(request).await?;
    let object = decode_body(context, resource, kind, &body)?;
    check_name(context, resource, &object)?;
    let options = WriteOptions { dry_run: context.info.dry_run()?, subresource };
    let change = |_: &Value| Ok(Change::Updated(object.clone()));
    let entry = write_change(server, context, resource, &options, change).await?;
    Ok(respond::object(200, accept, resource, &entry, server.now()))
}

async fn finalize(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accept = Accept::of(request.headers(), Some(resource))?;
    let kind = BodyKind::of(request.headers())?;
    let body = read_body(request).await?;
    let object = decode_body(context, resource, kind, &body)?;
    check_name(context, resource, &object)?;
    let finalizers = object.pointer("/spec/finalizers").cloned().unwrap_or_else(|| json!([]));
    let revision = meta::resource_version(&object).to_owned();
    let options = WriteOptions { subresource: "finalize", ..WriteOptions::default() };
    let entry = write_change(server, context, resource, &options, |old| {
        let mut new = old.clone();
        meta::member_mut(&mut new, "spec").insert("finalizers".into(), finalizers.clone());
        meta::metadata_mut(&mut new).insert("resourceVersion".into(), revision.as_str().into());
        Ok(Change::Updated(new))
    })
    .await?;
    Ok(respond::object(200, accept, resource, &entry, server.now()))
}

/// Where a resource keeps the numbers of its scale.
fn scale_paths(resource: &Resource) -> crd::ScalePaths {
    let builtin =
        crd::ScalePaths { spec: ".spec.replicas".into(), status: ".status.replicas".into(), selector: None };
    resource.custom.as_ref().and_then(|c| c.scale.clone()).unwrap_or(builtin)
}

fn scale_of(resource: &Resource, object: &Value) -> Value {
    let paths = scale_paths(resource);
    let number = |path: &str| crd::read_path(object, path).and_then(Value::as_i64).unwrap_or(0);
    let metadata = &object["metadata"];
    let mut status = json!({"replicas": number(&paths.status)});
    let selector = match &paths.selector {
        Some(path) => crd::read_path(object, path).and_then(Value::as_str).map(str::to_owned),
        None => Some(selector_text(&object["spec"]["selector"])),
    };
    if let Some(selector) = selector.filter(|s| !s.is_empty()) {
        status["selector"] = selector.into();
    }
    json!({"kind": "Scale", "apiVersion": "autoscaling/v1",
        "metadata": {"name": metadata["name"], "namespace": metadata["namespace"], "uid": metadata["uid"],
            "resourceVersion": metadata["resourceVersion"], "creationTimestamp": metadata["creationTimestamp"]},
        "spec": {"replicas": number(&paths.spec)}, "status": status})
}

/// A `metav1.LabelSelector` in its query form.
fn selector_text(selector: &Value) -> String {
    let mut parts = Vec::new();
    let labels =
        selector.get("matchLabels").or(Some(selector).filter(|s| s.get("matchExpressions").is_none()));
    for (key, value) in labels.and_then(Value::as_object).into_iter().flatten() {
        parts.push(format!("{key}={}", value.as_str().unwrap_or_default()));
    }
    for expression in selector["matchExpressions"].as_array().into_iter().flatten() {
        let key = expression["key"].as_str().unwrap_or_default();
        let values = expression["values"].as_array().into_iter().flatten().filter_map(Value::as_str);
        let values = values.collect::<Vec<_>>().join(",");
        parts.push(match expression["operator"].as_str() {
            Some("In") => format!("{key} in ({values})"),
            Some("NotIn") => format!("{key} notin ({values})"),
            Some("DoesNotExist") => format!("!{key}"),
            _ => key.to_owned(),
        });
    }
    parts.join(",")
}

async fn scale(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accept = Accept::of(request.headers(), None)?;
    let key = ApiServer::key(resource, &context.info);
    let missing = || Status::not_found(&resource.qualified(), &context.info.name);
    let entry = server.storage.get(&resource.storage_key(), &key).ok_or_else(missing)?;
    let current = server.served_one(resource, entry).await?.object();
    let scale = scale_of(resource, &current);
    if context.info.verb == "get" {
        return Ok(respond::plain(200, accept.format, &scale));
    }
    let mut wanted = wanted_scale(context, request, &scale).await?;
    let asked = (Operation::Update, Gvk::new("autoscaling", "v1", "Scale"));
    admission::subresource(server, context, resource, asked, &mut wanted, Some(&scale)).await?;
    let replicas = wanted["spec"]["replicas"].as_i64().unwrap_or(0);
    if replicas < 0 {
        return Err(Status::new(
            422,
            "Invalid",
            format!(
                "Scale.autoscaling {:?} is invalid: spec.replicas: Invalid value: {replicas}: must be greater than or equal to 0",
                context.info.name
            ),
        ));
    }
    let revision = match context.info.verb {
        "update" => meta::resource_version(&wanted).to_owned(),
        _ => String::new(),
    };
    let path = scale_paths(resource).spec;
    let options = WriteOptions { dry_run: context.info.dry_run()?, subresource: "scale" };
    let entry = write_change(server, context, resource, &options, |old| {
        let mut new = old.clone();
        crd::write_path(&mut new, &path, replicas.into());
        meta::metadata_mut(&mut new).insert("resourceVersion".into(), revision.as_str().into());
        Ok(Change::Updated(new))
    })
    .await?;
    Ok(respond::plain(200, accept.format, &scale_of(resource, &entry.object())))
}

/// The scale after the request's update or patch.
async fn wanted_scale(context: &Context, request: Request<Body>, scale: &Value) -> Result<Value, Status> {
    let no_type = || Status::internal("the schema has no Scale");
    let ty = builtin().of_kind(&Gvk::new("autoscaling", "v1", "Scale")).ok_or_else(no_type)?;
    if context.info.verb == "update" {
        let kind = BodyKind::of(request.headers())?;
        return decode_other(kind, &read_body(request).await?, &ty);
    }
    let content_type =
        request.headers().get("content-type").and_then(|v| v.to_str().ok()).unwrap_or_default();
    let is_json_patch = content_type.starts_with("application/json-patch+json");
    let body = read_body(request).await?;
    let patch: Value = serde_json::from_slice(&body)
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    let mut scale = scale.clone();
    match is_json_patch {
        true => wharf_api::patch::json(&mut scale, patch).map_err(|e| Status::bad_request(e.to_string()))?,
        false => wharf_api::patch::merge(&mut scale, &patch),
    }
    Ok(scale)
}

async fn bind(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accept = Accept::of(request.headers(), None)?;
    let gvk = Gvk::new("", "v1", "Binding");
    let ty = builtin().of_kind(&gvk).ok_or_else(|| Status::internal("no Binding"))?;
    let kind = BodyKind::of(request.headers())?;
    let mut binding = decode_other(kind, &read_body(request).await?, &ty)?;
    admission::subresource(server, context, resource, (Operation::Create, gvk), &mut binding, None).await?;
    let node = binding["target"]["name"].as_str().unwrap_or_default().to_owned();
    if node.is_empty() {
        return Err(Status::new(422, "Invalid", "Binding \"\" is invalid: target.name: Required value"));
    }
    let now = server.now().to_string();
    let name = context.info.name.clone();
    let uid = meta::text(&binding, "uid").to_owned();
    let options = WriteOptions { dry_run: context.info.dry_run()?, subresource: "binding" };
    write_change(server, context, resource, &options, |old| {
        let bound = old["spec"]["nodeName"].as_str().unwrap_or_default();
        let present = meta::text(old, "uid");
        if !uid.is_empty() && uid != present {
            let why = format!("Precondition failed: UID in precondition: {uid}, UID in object meta: {present}");
            return Err(Status::conflict("pods/binding", &name, &why));
        }
        if meta::is_deleting(old) {
            return Err(Status::conflict("pods/binding", &name, &format!("pod {name} is being deleted, cannot be assigned to a host")));
        }
        if !bound.is_empty() {
            return Err(Status::conflict("pods/binding", &name, &format!("pod {name} is already assigned to node {bound:?}")));
        }
        let mut new = old.clone();
        // Whoever else changes the pod at this moment does no harm: then it is looked at again.
        meta::metadata_mut(&mut new).remove("resourceVersion");
        meta::member_mut(&mut new, "spec").insert("nodeName".into(), node.as_str().into());
        set_condition(&mut new, json!({"type": "PodScheduled", "status": "True", "lastTransitionTime": now, "lastProbeTime": null}));
        Ok(Change::Updated(new))
    })
    .await?;
    let success =
        json!({"kind": "Status", "apiVersion": "v1", "metadata": {}, "status": "Success", "code": 201});
    Ok(respond::plain(201, accept.format, &success))
}

/// Puts a condition into `status.conditions`, replacing one of its type.
pub(crate) fn set_condition(object: &mut Value, condition: Value) {
    let conditions = meta::member_mut(object, "status").entry("conditions").or_insert_with(|| json!([]));
    if let Value::Array(list) = conditions {
        list.retain(|c| c["type"] != condition["type"]);
        list.push(condition);
    }
}

async fn token(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accept = Accept::of(request.headers(), None)?;
    let gvk = Gvk::new("authentication.k8s.io", "v1", "TokenRequest");
    let ty = builtin().of_kind(&gvk).ok_or_else(|| Status::internal("no TokenRequest"))?;
    let kind = BodyKind::of(request.headers())?;
    let mut asked = decode_other(kind, &read_body(request).await?, &ty)?;
    admission::subresource(server, context, resource, (Operation::Create, gvk), &mut asked, None).await?;
    let key = ApiServer::key(resource, &context.info);
    let account = server
        .storage
        .get("serviceaccounts", &key)
        .ok_or_else(|| Status::not_found("serviceaccounts", &context.info.name))?;
    let mut audiences: Vec<String> = asked["spec"]["audiences"]
        .as_array()
        .into_iter()
        .flatten()
        .filter_map(|a| a.as_str().map(str::to_owned))
        .collect();
    if audiences.is_empty() {
        audiences.push(ISSUER.to_owned());
    }
    let seconds = match asked["spec"]["expirationSeconds"].as_u64() {
        None => TOKEN_LIFE.as_secs(),
        Some(n) if n < TOKEN_LIFE_MIN => {
            return Err(Status::new(
                422,
                "Invalid",
                format!(
                    "TokenRequest.authentication.k8s.io \"\" is invalid: spec.expirationSeconds: Invalid value: {n}: may not specify a duration less than 10 minutes"
                ),
            ));
        }
        Some(n) => n.min(TOKEN_LIFE_MAX),
    };
    let reference = &asked["spec"]["boundObjectRef"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let subject = TokenSubject {
        namespace: context.info.namespace.clone(),
        account: context.info.name.clone(),
        uid: meta::text(&account.object(), "uid").to_owned(),
        bound: reference
            .is_object()
            .then(|| (text(&reference["kind"]), text(&reference["name"]), text(&reference["uid"]))),
        node: None,
    };
    let subject = TokenSubject { node: node_of(server, &subject), ..subject };
    if let Some(("Pod", pod)) = subject.bound.as_ref().map(|(kind, name, _)| (kind.as_str(), name))
        && let Some(pod) = server.storage.get("pods", &format!("{}/{pod}", subject.namespace))
        && pod.object()["spec"]["serviceAccountName"] != subject.account.as_str()
    {
        return Err(Status::bad_request(format!(
            "cannot bind token for serviceaccount {:?} to pod running with different serviceaccount name.",
            subject.account
        )));
    }
    if !server.token_alive(&subject) {
        return Err(Status::not_found("pods", &text(&reference["name"])));
    }
    let now = server.now();
    let expires = now.plus(Duration::from_secs(seconds));
    let token = server
        .signing_key
        .issue(&subject, &audiences, now, expires)
        .ok_or_else(|| Status::internal("the token cannot be signed"))?;
    asked["spec"]["audiences"] = json!(audiences);
    asked["spec"]["expirationSeconds"] = seconds.into();
    asked["status"] = json!({"token": token, "expirationTimestamp": expires.to_string()});
    meta::metadata_mut(&mut asked).insert("name".into(), context.info.name.as_str().into());
    Ok(respond::plain(201, accept.format, &asked))
}

/// Where the pod runs that a token is bound to.
fn node_of(server: &ApiServer, subject: &TokenSubject) -> Option<(String, String)> {
    let (_, pod, _) = subject.bound.as_ref().filter(|(kind, ..)| kind == "Pod")?;
    let pod = server.storage.get("pods", &format!("{}/{pod}", subject.namespace))?.object();
    let name = pod["spec"]["nodeName"].as_str().filter(|name| !name.is_empty())?;
    let node = server.storage.get("nodes", &format!("/{name}"))?.object();
    Some((name.to_owned(), meta::text(&node, "uid").to_owned()))
}
