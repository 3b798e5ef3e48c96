//! patch: JSON, JSON merge, strategic merge, server-side apply.

use std::sync::Arc;

use http::{Request, Response, header};
use serde_json::{Value, json};
use wharf_api::{
    codec::{DecodeError, decode_value, yaml_with_duplicates},
    meta,
    patch::{self, Conflict, Manager, PatchError},
    resource::Resource,
    status::Status,
};
use wharf_http::Body;

use super::{
    Change, WriteOptions,
    body::field_validation,
    update::{check_name, create_applied, write_change},
};
use crate::{
    ApiServer, Context, audit, read_body,
    respond::{self, Accept},
};

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum PatchType {
    Json,
    Merge,
    Strategic,
    Apply,
}

impl PatchType {
    fn of(request: &Request<Body>) -> Result<Self, Status> {
        let text =
            request.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or_default();
        match text.split(';').next().unwrap_or_default().trim() {
            "application/json-patch+json" => Ok(Self::Json),
            "application/merge-patch+json" => Ok(Self::Merge),
            "application/strategic-merge-patch+json" => Ok(Self::Strategic),
            "application/apply-patch+yaml" => Ok(Self::Apply),
            other => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json-patch+json, application/merge-patch+json, application/strategic-merge-patch+json, application/apply-patch+yaml; it was {other:?}"
            ))),
        }
    }
}

pub(super) async fn patch(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    patch_with(server, context, resource, request, "").await
}

/// Patches through a subresource (`status`, or the object itself when empty).
pub(super) async fn patch_with(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
    subresource: &'static str,
) -> Result<Response<Body>, Status> {
    let accept = Accept::of(request.headers(), Some(resource))?;
    let kind = PatchType::of(&request)?;
    let body = read_body(request).await?;
    let options = WriteOptions { dry_run: context.info.dry_run()?, subresource };
    if kind == PatchType::Apply {
        return apply(server, context, resource, accept, &body, &options).await;
    }
    if kind == PatchType::Strategic && resource.custom.is_some() {
        return Err(Status::unsupported_media_type(
            "strategic merge patch is not supported for custom resources; use application/merge-patch+json",
        ));
    }
    let patch: Value = serde_json::from_slice(&body)
        .map_err(|e| Status::bad_request(format!("error decoding patch: {e}")))?;
    audit::note(|record| record.request_object(&patch));
    let refuses_unknown = context.info.param("fieldValidation") == Some("Strict");
    let mut strict = Vec::new();
    let pinned = names_version(kind, &patch);
    let entry = write_change(server, context, resource, &options, |old| {
        let mut new = old.clone();
        run(kind, &mut new, &patch, resource)?;
        if !pinned {
            // The version it was made from is not one the client insists on.
            meta::metadata_mut(&mut new).remove("resourceVersion");
        }
        let decoded =
            decode_value(new, &resource.ty).map_err(|e| Status::new(422, "Invalid", e.to_string()))?;
        strict = decoded.strict;
        if refuses_unknown && !strict.is_empty() {
            return Err(Status::bad_request(format!("strict decoding error: {}", strict.join(", "))));
        }
        Ok(Change::Updated(decoded.object))
    })
    .await?;
    field_validation(context, resource, strict)?;
    Ok(respond::object(200, accept, resource, &entry, server.now()))
}

/// Whether a patch speaks of the version it is for; otherwise it applies to whatever is there.
fn names_version(kind: PatchType, patch: &Value) -> bool {
    const VERSION: &str = "/metadata/resourceVersion";
    match kind {
        PatchType::Json => {
            let mut operations = patch.as_array().into_iter().flatten();
            operations
                .any(|operation| operation["path"].as_str().is_some_and(|path| VERSION.starts_with(path)))
        }
        _ => patch.pointer(VERSION).is_some(),
    }
}

fn run(kind: PatchType, object: &mut Value, patch: &Value, resource: &Resource) -> Result<(), Status> {
    let result = match kind {
        PatchType::Json => patch::json(object, patch.clone()),
        PatchType::Strategic => patch::strategic_merge(object, patch, &resource.ty),
        PatchType::Merge | PatchType::Apply if patch.is_object() => {
            patch::merge(object, patch);
            Ok(())
        }
        PatchType::Merge | PatchType::Apply => {
            Err(PatchError::Malformed("a merge patch is an object".into()))
        }
    };
    result.map_err(|error| match error {
        PatchError::Malformed(message) => Status::bad_request(message),
        PatchError::Unprocessable(message) => Status::new(422, "Invalid", message),
    })
}

async fn apply(
    server: &Arc<ApiServer>,
    context: &mut Context,
    resource: &Arc<Resource>,
    accept: Accept,
    body: &[u8],
    options: &WriteOptions,
) -> Result<Response<Body>, Status> {
    let manager = match context.info.param("fieldManager") {
        Some(name) if !name.is_empty() => name.to_owned(),
        _ => {
            return Err(Status::new(
                422,
                "Invalid",
                "PatchOptions.meta.k8s.io \"\" is invalid: fieldManager: Required value: is required for apply patch",
            ));
        }
    };
    let text = std::str::from_utf8(body).map_err(|_| Status::bad_request("the body is not UTF-8"))?;
    let (config, twice) =
        yaml_with_duplicates(text).map_err(|e| Status::bad_request(format!("error decoding YAML: {e}")))?;
    field_validation(context, resource, twice)?;
    let decoded = decode_value(config, &resource.ty).map_err(|error| untyped(context, resource, &error))?;
    undeclared(context, resource, &decoded.strict)?;
    let mut config = decoded.object;
    audit::note(|record| record.request_object(&config));
    if config.pointer("/metadata/managedFields").is_some_and(|m| m.as_array().is_none_or(|a| !a.is_empty())) {
        return Err(Status::bad_request("metadata.managedFields must be nil"));
    }
    meta::metadata_mut(&mut config).remove("managedFields");
    if meta::name(&config).is_empty() {
        meta::metadata_mut(&mut config).insert("name".into(), context.info.name.as_str().into());
    }
    check_name(context, resource, &config)?;
    let force = context.info.flag("force");
    let now = server.now().to_string();
    let api_version = resource.gvk.api_version();
    let who =
        Manager { name: &manager, api_version: &api_version, subresource: options.subresource, time: &now };
    let applied =
        |old: &Value| patch::apply(old, &config, &resource.ty, &who, force).map_err(|c| conflicts(&c));
    let key = ApiServer::key(resource, &context.info);
    if server.storage.get(&resource.storage_key(), &key).is_none() {
        if !options.subresource.is_empty() {
            return Err(Status::not_found(&resource.qualified(), &context.info.name));
        }
        let mut object = applied(&json!({"apiVersion": api_version, "kind": resource.gvk.kind}))?;
        if let Value::Object(map) = &mut object {
            map.insert("apiVersion".into(), api_version.as_str().into());
            map.insert("kind".into(), resource.gvk.kind.as_str().into());
        }
        match create_applied(server, context, resource, object, options.dry_run).await {
            // Somebody else made it meanwhile: it is changed instead.
            Err(status) if status.reason == "AlreadyExists" => {}
            created => return Ok(respond::object(201, accept, resource, &*created?, server.now())),
        }
    }
    let entry = write_change(server, context, resource, options, |old| {
        let mut new = applied(old)?;
        if meta::resource_version(&config).is_empty() {
            meta::metadata_mut(&mut new).remove("resourceVersion");
        }
        Ok(Change::Applied(new))
    })
    .await?;
    Ok(respond::object(200, accept, resource, &entry, server.now()))
}

/// Nobody can own a field that the schema does not have.
fn undeclared(context: &Context, resource: &Resource, strict: &[String]) -> Result<(), Status> {
    let paths = strict.iter().filter_map(|said| said.strip_prefix("unknown field \"")?.strip_suffix('"'));
    let said: Vec<String> = paths.map(|path| format!(".{path}: field not declared in schema")).collect();
    match &said[..] {
        [] => Ok(()),
        [one] => Err(no_patch_object(context, resource, one)),
        many => Err(no_patch_object(context, resource, &format!("errors:\n  {}", many.join("\n  ")))),
    }
}

/// The applied configuration is none of this resource.
fn untyped(context: &Context, resource: &Resource, error: &DecodeError) -> Status {
    match error {
        DecodeError::Type { plain, .. } => no_patch_object(context, resource, plain),
        error => Status::bad_request(error.to_string()),
    }
}

fn no_patch_object(context: &Context, resource: &Resource, why: &str) -> Status {
    let (info, gvk) = (&context.info, &resource.gvk);
    let slash = if info.namespace.is_empty() { "" } else { "/" };
    Status::bad_request(format!(
        "failed to create typed patch object ({}{slash}{}; {}, Kind={}): {why}",
        info.namespace,
        info.name,
        gvk.api_version(),
        gvk.kind
    ))
}

fn conflicts(conflicts: &[Conflict]) -> Status {
    let mut managers: Vec<&str> = conflicts.iter().map(|c| c.manager.as_str()).collect();
    managers.sort_unstable();
    managers.dedup();
    let lines: Vec<String> = managers
        .iter()
        .map(|manager| {
            let paths = conflicts.iter().filter(|c| c.manager == *manager).map(|c| format!("- {}", c.path));
            format!("conflicts with {manager}:\n{}", paths.collect::<Vec<_>>().join("\n"))
        })
        .collect();
    let plural = if conflicts.len() == 1 { "conflict" } else { "conflicts" };
    let message = match conflicts {
        [one] => format!("Apply failed with 1 conflict: conflict with {}: {}", one.manager, one.path),
        many => format!("Apply failed with {} {plural}: {}", many.len(), lines.join("\n")),
    };
    let mut status = Status::new(409, "Conflict", message);
    let causes: Vec<Value> = conflicts
        .iter()
        .map(|c| json!({"reason": "FieldManagerConflict", "message": format!("conflict with {}", c.manager), "field": c.path}))
        .collect();
    status.details = json!({"causes": causes});
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(kind: PatchType, patch: Value, expect: bool) {
        assert_eq!(names_version(kind, &patch), expect, "{patch}");
    }

    #[test]
    fn only_a_patch_that_names_a_version_insists_on_it() {
        check(PatchType::Merge, json!({"metadata": {"labels": {"a": "b"}}}), false);
        check(PatchType::Strategic, json!({"metadata": {"resourceVersion": "7"}}), true);
        check(PatchType::Json, json!([{"op": "add", "path": "/metadata/labels", "value": {}}]), false);
        check(
            PatchType::Json,
            json!([{"op": "test", "path": "/metadata/resourceVersion", "value": "7"}]),
            true,
        );
        check(PatchType::Json, json!([{"op": "replace", "path": "/metadata", "value": {}}]), true);
    }
}
