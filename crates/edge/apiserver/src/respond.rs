//! Answers: content negotiation, objects, lists, tables, statuses.

use std::sync::Arc;

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, StatusCode, header};
use serde_json::{Map, Value, json};
use wharf_api::{
    codec::{Format, encode_envelope, encode_json, encode_message},
    crd,
    resource::{Backing, Resource},
    schema::builtin,
    status::Status,
    table,
};
use wharf_base::Timestamp;
use wharf_http::{Body, full};

use crate::{audit, storage::Entry};

/// In which shape objects are wanted.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum View {
    /// As they are.
    Object,
    /// `meta.k8s.io` Table.
    Table,
    /// Only their metadata.
    Metadata,
}

/// What the client accepts.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) struct Accept {
    pub format: Format,
    pub view: View,
}

impl Accept {
    /// The first entry of `Accept` that can be served.
    pub(crate) fn of(headers: &HeaderMap, resource: Option<&Resource>) -> Result<Self, Status> {
        let text = headers.get(header::ACCEPT).and_then(|v| v.to_str().ok()).unwrap_or("*/*");
        let custom = resource.is_some_and(|r| r.custom.is_some());
        let listed = resource.is_none_or(|r| r.backing != Backing::Review);
        for entry in text.split(',') {
            let mut parts = entry.split(';').map(str::trim);
            let format = match parts.next().unwrap_or_default() {
                "application/json" | "*/*" | "application/*" | "" => Format::Json,
                "application/yaml" => Format::Yaml,
                // Custom resources have no protobuf form.
                "application/vnd.kubernetes.protobuf" if !custom => Format::Protobuf,
                _ => continue,
            };
            let params: Vec<&str> = parts.collect();
            let wanted = params.iter().find_map(|p| p.strip_prefix("as="));
            let view = match wanted {
                None => View::Object,
                // What is not stored has no rows and no metadata.
                Some(_) if !listed => continue,
                Some("Table") if params.contains(&"v=v1") && format == Format::Json => View::Table,
                Some("PartialObjectMetadata" | "PartialObjectMetadataList") if format == Format::Json => {
                    View::Metadata
                }
                Some(_) => continue,
            };
            return Ok(Self { format, view });
        }
        Err(Status::new(
            406,
            "NotAcceptable",
            "only the following media types are accepted: application/json, application/yaml, application/vnd.kubernetes.protobuf",
        ))
    }
}

pub(crate) fn response(code: u16, content_type: &'static str, body: impl Into<Bytes>) -> Response<Body> {
    let body: Bytes = body.into();
    let mut response = Response::new(full(body));
    *response.status_mut() = StatusCode::from_u16(code).unwrap_or(StatusCode::INTERNAL_SERVER_ERROR);
    let headers = response.headers_mut();
    headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(content_type));
    headers.insert(header::CACHE_CONTROL, HeaderValue::from_static("no-cache, private"));
    response
}

/// A plain JSON answer, for discovery and the like.
pub(crate) fn json_response(code: u16, value: &Value) -> Response<Body> {
    response(code, "application/json", encode_json(value))
}

/// A failure.
pub(crate) fn failure(status: &Status) -> Response<Body> {
    let object = status.to_json();
    audit::note(|record| record.status(&object));
    let mut response = json_response(status.code, &object);
    if status.code == 429 {
        response.headers_mut().insert(header::RETRY_AFTER, HeaderValue::from_static("1"));
    }
    response
}

/// One object in the form the resource serves it in.
pub(crate) fn object(
    code: u16,
    accept: Accept,
    resource: &Resource,
    entry: &Entry,
    now: Timestamp,
) -> Response<Body> {
    let content_type = accept.format.content_type();
    audit::note(|record| record.response_object(|| entry.object()));
    match (accept.view, accept.format) {
        (View::Object, Format::Json) => response(code, content_type, entry.bytes.clone()),
        (View::Object, Format::Protobuf) => response(code, content_type, entry.enveloped(resource)),
        _ => value(code, accept, resource, entry.object(), now),
    }
}

/// One object that is not stored as such (a scale, a review, a dry run).
pub(crate) fn value(
    code: u16,
    accept: Accept,
    resource: &Resource,
    object: Value,
    now: Timestamp,
) -> Response<Body> {
    audit::note(|record| record.response_object(|| object.clone()));
    match accept.view {
        View::Table => {
            let rows = vec![row(resource, &object, now, IncludeObject::Metadata)];
            json_response(code, &table_of(resource, rows, object["metadata"].clone(), true))
        }
        View::Metadata => json_response(code, &metadata_of(&object)),
        View::Object => plain(code, accept.format, &object),
    }
}

/// An object of any built-in kind in a format.
pub(crate) fn plain(code: u16, format: Format, object: &Value) -> Response<Body> {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    audit::note(|record| match text("kind") {
        "Status" => record.status(object),
        _ => record.response_object(|| object.clone()),
    });
    match format {
        Format::Json => json_response(code, object),
        Format::Yaml => response(code, format.content_type(), wharf_api::codec::value_to_yaml(object)),
        Format::Protobuf => {
            let (group, version) = text("apiVersion").split_once('/').unwrap_or(("", text("apiVersion")));
            match builtin().of_kind(&wharf_api::schema::Gvk::new(group, version, text("kind"))) {
                Some(ty) => {
                    let message = encode_message(object, &ty);
                    response(
                        code,
                        format.content_type(),
                        encode_envelope(text("apiVersion"), text("kind"), &message),
                    )
                }
                None => json_response(code, object),
            }
        }
    }
}

/// What a list says about itself.
pub(crate) struct ListMeta {
    pub revision: u64,
    pub next: Option<String>,
    pub remaining: Option<usize>,
}

impl ListMeta {
    fn json(&self) -> Value {
        let mut meta = json!({"resourceVersion": self.revision.to_string()});
        if let Some(next) = &self.next {
            meta["continue"] = next.as_str().into();
        }
        if let Some(remaining) = self.remaining {
            meta["remainingItemCount"] = remaining.into();
        }
        meta
    }
}

/// A list of objects in the form the resource serves them in, spliced from their bytes where those are sent.
pub(crate) fn list(
    accept: Accept,
    resource: &Resource,
    entries: &[Arc<Entry>],
    meta: &ListMeta,
    now: Timestamp,
    include: IncludeObject,
) -> Response<Body> {
    let objects = || entries.iter().map(|e| e.object());
    let whole = || {
        let items: Vec<Value> = objects().collect();
        json!({"kind": resource.list_kind, "apiVersion": resource.gvk.api_version(), "metadata": meta.json(),
            "items": items})
    };
    audit::note(|record| record.response_object(whole));
    match (accept.view, accept.format) {
        (View::Object, Format::Json) => {
            let mut body = list_head(resource, &meta.json());
            body.reserve(entries.iter().map(|e| e.bytes.len() + 1).sum());
            for (i, entry) in entries.iter().enumerate() {
                if i > 0 {
                    body.push(b',');
                }
                body.extend_from_slice(&entry.bytes);
            }
            body.extend_from_slice(b"]}");
            response(200, "application/json", body)
        }
        (View::Object, Format::Protobuf) => {
            let list_meta = builtin().named("apimachinery.pkg.apis.meta.v1.ListMeta");
            let mut message = Vec::new();
            let meta = list_meta.map(|ty| encode_message(&meta.json(), &ty)).unwrap_or_default();
            wharf_api::codec::put_bytes(&mut message, 1, &meta);
            entries.iter().for_each(|e| wharf_api::codec::put_bytes(&mut message, 2, e.message(resource)));
            let body = encode_envelope(&resource.gvk.api_version(), &resource.list_kind, &message);
            response(200, accept.format.content_type(), body)
        }
        (View::Table, _) => {
            let rows = objects().map(|o| row(resource, &o, now, include)).collect();
            json_response(200, &table_of(resource, rows, meta.json(), true))
        }
        (View::Metadata, _) => {
            let items: Vec<Value> = objects().map(|o| metadata_of(&o)).collect();
            json_response(
                200,
                &json!({"kind": "PartialObjectMetadataList", "apiVersion": "meta.k8s.io/v1",
                "metadata": meta.json(), "items": items}),
            )
        }
        (View::Object, format) => plain(200, format, &whole()),
    }
}

fn list_head(resource: &Resource, meta: &Value) -> Vec<u8> {
    format!(
        r#"{{"kind":"{}","apiVersion":"{}","metadata":{meta},"items":["#,
        resource.list_kind,
        resource.gvk.api_version()
    )
    .into_bytes()
}

/// What a table's rows carry besides their cells.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum IncludeObject {
    None,
    Metadata,
    Object,
}

impl IncludeObject {
    pub(crate) fn of(param: Option<&str>) -> Result<Self, Status> {
        match param {
            None | Some("" | "Metadata") => Ok(Self::Metadata),
            Some("None") => Ok(Self::None),
            Some("Object") => Ok(Self::Object),
            Some(other) => Err(Status::bad_request(format!(
                "includeObject: Invalid value: {other:?}: must be 'Metadata', 'Object', 'None', or empty"
            ))),
        }
    }
}

/// Only what every object has.
pub(crate) fn metadata_of(object: &Value) -> Value {
    json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": object["metadata"]})
}

/// A table; `columns` only in the first of a watch.
pub(crate) fn table_of(resource: &Resource, rows: Vec<Value>, meta: Value, columns: bool) -> Value {
    let columns = if columns { columns_of(resource) } else { Vec::new() };
    let mut list = Map::new();
    for name in ["resourceVersion", "continue", "remainingItemCount"] {
        if let Some(value) = meta.get(name) {
            list.insert(name.into(), value.clone());
        }
    }
    json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": list, "columnDefinitions": columns, "rows": rows})
}

fn columns_of(resource: &Resource) -> Vec<Value> {
    let column = |name: &str, type_: &str, format: &str, description: &str, priority: i64| json!({"name": name, "type": type_, "format": format, "description": description, "priority": priority});
    match &resource.custom {
        Some(custom) => {
            let mut columns = vec![column("Name", "string", "name", "Name of the object", 0)];
            columns
                .extend(custom.columns.iter().map(|c| column(&c.name, &c.type_, &c.format, "", c.priority)));
            columns
        }
        None => table::columns(&resource.gvk.group, &resource.plural)
            .iter()
            .map(|c| column(c.name, c.type_, c.format, c.description, i64::from(c.priority)))
            .collect(),
    }
}

/// One row of a table.
pub(crate) fn row(resource: &Resource, object: &Value, now: Timestamp, include: IncludeObject) -> Value {
    let cells = match &resource.custom {
        Some(custom) => custom_cells(custom, object, now),
        None => table::cells(&resource.gvk.group, &resource.plural, object, now),
    };
    let mut row = json!({"cells": cells});
    match include {
        IncludeObject::None => {}
        IncludeObject::Metadata => row["object"] = metadata_of(object),
        IncludeObject::Object => row["object"] = object.clone(),
    }
    let conditions = table::row_conditions(&resource.gvk.group, &resource.plural, object);
    if !conditions.is_empty() {
        row["conditions"] = conditions.into();
    }
    row
}

fn custom_cells(custom: &crd::Custom, object: &Value, now: Timestamp) -> Vec<Value> {
    let mut cells = vec![object["metadata"]["name"].clone()];
    for column in &custom.columns {
        let value = crd::read_path(object, &column.json_path);
        cells.push(match (column.type_.as_str(), value) {
            ("date", Some(Value::String(text))) => match text.parse::<Timestamp>() {
                Ok(time) => table::age(time, now).into(),
                Err(_) => "<invalid>".into(),
            },
            ("date", _) => "<unknown>".into(),
            (_, Some(value)) if !value.is_object() && !value.is_array() => value.clone(),
            (_, Some(value)) => value.to_string().into(),
            (_, None) => Value::Null,
        });
    }
    cells
}
