//! OpenAPI documents made from the schema: v3 by group and version, v2 of all.
//!
//! They carry types, list keys, group-version-kinds, and what fields mean.

mod v2;

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex},
};

use bytes::Bytes;
use http::{HeaderMap, HeaderValue, Response, header};
use serde_json::{Map, Value, json};
use wharf_api::{
    codec::encode_json,
    resource::{Backing, Resource},
    schema::{Field, Gvk, Kind, Merge, Type},
    status::Status,
};
use wharf_base::Digest;
use wharf_http::Body;

use crate::{Context, registry::Index, respond};

type Made = HashMap<String, (Bytes, String)>;

/// Names of documents that no path below `openapi/v3/` has.
const V2: &str = "/v2";
const V2_PROTOBUF: &str = "/v2 as protobuf";
const JSON: &str = "application/json";
/// What clients ask for, and what they are told they got.
const PROTOBUF: [&str; 2] = [
    "application/com.github.proto-openapi.spec.v2@v1.0+protobuf",
    "application/com.github.proto-openapi.spec.v2.v1.0+protobuf",
];

/// The documents made so far, for the index they were made from.
#[derive(Default)]
pub(crate) struct Documents {
    made: Mutex<(Option<Arc<Index>>, Made)>,
}

impl Documents {
    pub(crate) fn answer(&self, context: &Context, headers: &HeaderMap) -> Result<Response<Body>, Status> {
        let path = context.info.path.trim_matches('/');
        let header = |name| headers.get(name).and_then(|v: &HeaderValue| v.to_str().ok());
        let rest = path.strip_prefix("openapi/v3").map(|rest| rest.trim_start_matches('/'));
        let protobuf = header(header::ACCEPT).is_some_and(|types| PROTOBUF.iter().any(|t| types.contains(t)));
        let (path, media) = match (path, rest) {
            ("openapi/v2", _) if protobuf => (V2_PROTOBUF, PROTOBUF[1]),
            ("openapi/v2", _) => (V2, JSON),
            (_, Some("")) => return Ok(respond::json_response(200, &self.root(&context.index))),
            (_, Some(rest)) => (rest, JSON),
            _ => return Err(Status::no_such_path()),
        };
        let (document, etag) = self.document(&context.index, path).ok_or_else(Status::no_such_path)?;
        let quoted = format!("\"{etag}\"");
        let mut response = match header(header::IF_NONE_MATCH) == Some(&quoted) {
            true => respond::response(304, media, Bytes::new()),
            false => respond::response(200, media, document),
        };
        if let Ok(value) = HeaderValue::from_str(&quoted) {
            response.headers_mut().insert(header::ETAG, value);
        }
        // A URL with the document's hash never changes its content.
        if context.info.param("hash") == Some(&etag) {
            let forever = HeaderValue::from_static("public, max-age=31536000, immutable");
            response.headers_mut().insert(header::CACHE_CONTROL, forever);
        }
        Ok(response)
    }

    fn root(&self, index: &Arc<Index>) -> Value {
        let mut paths = Map::new();
        for (group, versions) in &index.groups {
            for (version, _) in versions {
                let path = if group.is_empty() {
                    format!("api/{version}")
                } else {
                    format!("apis/{group}/{version}")
                };
                if let Some((_, etag)) = self.document(index, &path) {
                    let url = format!("/openapi/v3/{path}?hash={etag}");
                    paths.insert(path, json!({"serverRelativeURL": url}));
                }
            }
        }
        json!({"paths": paths})
    }

    fn document(&self, index: &Arc<Index>, path: &str) -> Option<(Bytes, String)> {
        let mut made = self.made.lock().unwrap_or_else(std::sync::PoisonError::into_inner);
        if !made.0.as_ref().is_some_and(|known| Arc::ptr_eq(known, index)) {
            *made = (Some(Arc::clone(index)), Made::new());
        }
        if let Some(document) = made.1.get(path) {
            return Some(document.clone());
        }
        let document: Bytes = write(index, path)?.into();
        let etag = Digest::of(&document).hex()[..32].to_uppercase();
        made.1.insert(path.to_owned(), (document.clone(), etag.clone()));
        Some((document, etag))
    }
}

/// A document by its path below `openapi/v3/`, or one of v2.
fn write(index: &Index, path: &str) -> Option<Vec<u8>> {
    let (group, version) = match path.split('/').collect::<Vec<_>>()[..] {
        ["api", version] => ("", version),
        ["apis", group, version] => (group, version),
        _ if path == V2 || path == V2_PROTOBUF => {
            let all = index.groups.values().flatten().flat_map(|(_, resources)| resources);
            let document = v2::from_v3(&make(all));
            return Some(if path == V2 { encode_json(&document) } else { v2::encode(&document) });
        }
        _ => return None,
    };
    let (_, resources) = index.groups.get(group)?.iter().find(|(v, _)| v == version)?;
    Some(encode_json(&make(resources)))
}

fn make<'a>(resources: impl IntoIterator<Item = &'a Arc<Resource>>) -> Value {
    let (mut schemas, mut paths) = (Map::new(), Map::new());
    for resource in resources {
        let name = definition_name(resource);
        let mut wanted = BTreeSet::new();
        let mut schema = object_schema(&resource.ty, &mut wanted);
        if let Some(custom) = &resource.custom {
            // What the author wrote, descriptions included, tells more than the compiled type.
            if custom.schema.is_object() {
                for (key, value) in custom.schema.as_object().into_iter().flatten() {
                    if key != "properties" {
                        schema[key] = value.clone();
                    }
                }
                for (key, value) in custom.schema["properties"].as_object().into_iter().flatten() {
                    if key != "metadata" {
                        schema["properties"][key] = value.clone();
                    }
                }
            }
            for (name, text) in STANDARD {
                if schema["properties"][*name].is_object() {
                    schema["properties"][*name]["description"] = (*text).into();
                }
            }
            schema["x-kubernetes-group-version-kind"] = json!([gvk_json(&resource.gvk)]);
        }
        schemas.insert(name.clone(), schema);
        add_wanted(&mut schemas, wanted);
        add_paths(&mut paths, resource, &name);
    }
    json!({"openapi": "3.0.0", "info": {"title": "Kubernetes", "version": "v1.36.0"},
        "paths": paths, "components": {"schemas": schemas}})
}

/// What `kubectl explain` says of the fields every object has, where no schema of the author's speaks of them.
const STANDARD: &[(&str, &str)] = &[
    ("apiVersion", "APIVersion defines which version of the schema the object is written in: GROUP/VERSION."),
    ("kind", "Kind is what the object is, in CamelCase. It cannot be changed."),
    (
        "metadata",
        "Standard object's metadata: name, namespace, labels, annotations and what the server keeps.",
    ),
];

fn add_wanted(schemas: &mut Map<String, Value>, mut wanted: BTreeSet<String>) {
    while let Some(name) = wanted.pop_first() {
        let full = format!("io.k8s.{name}");
        if schemas.contains_key(&full) {
            continue;
        }
        let Some(ty) = wharf_api::schema::builtin().named(&name) else { continue };
        let schema = object_schema(&ty, &mut wanted);
        schemas.insert(full, schema);
    }
}

/// `io.k8s.api.apps.v1.Deployment`, or for custom resources the reversed group.
fn definition_name(resource: &Resource) -> String {
    let Gvk { group, version, kind } = &resource.gvk;
    if resource.custom.is_none() {
        return format!("io.k8s.{}", resource.ty.name);
    }
    let reversed: Vec<&str> = group.rsplit('.').collect();
    format!("{}.{version}.{kind}", reversed.join("."))
}

fn gvk_json(gvk: &Gvk) -> Value {
    json!({"group": gvk.group, "version": gvk.version, "kind": gvk.kind})
}

fn object_schema(ty: &Type, wanted: &mut BTreeSet<String>) -> Value {
    let mut properties = Map::new();
    for field in &ty.fields {
        let mut schema = field_schema(field, wanted);
        if let Some(text) = wharf_explain::of_field(&ty.name, &field.name) {
            schema["description"] = text.into();
        }
        properties.insert(field.name.clone(), schema);
    }
    let mut schema = json!({"type": "object", "properties": properties});
    if let Some(text) = wharf_explain::of_type(&ty.name) {
        schema["description"] = text.into();
    }
    let required: Vec<&str> = ty.fields.iter().filter(|f| f.required).map(|f| f.name.as_str()).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if !ty.kinds.is_empty() {
        schema["x-kubernetes-group-version-kind"] = ty.kinds.iter().map(gvk_json).collect();
    }
    if ty.preserve_unknown {
        schema["x-kubernetes-preserve-unknown-fields"] = true.into();
    }
    if ty.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    schema
}

fn field_schema(field: &Field, wanted: &mut BTreeSet<String>) -> Value {
    let mut schema = kind_schema(&field.kind, wanted);
    match (&field.merge, &field.kind) {
        (Merge::Atomic, Kind::List(_)) => schema["x-kubernetes-list-type"] = "atomic".into(),
        (Merge::Atomic, _) => schema["x-kubernetes-map-type"] = "atomic".into(),
        (Merge::Set, _) => schema["x-kubernetes-list-type"] = "set".into(),
        (Merge::Keys(keys), _) => {
            schema["x-kubernetes-list-type"] = "map".into();
            schema["x-kubernetes-list-map-keys"] = json!(keys);
        }
        (Merge::Normal, _) => {}
    }
    if let Some(key) = &field.patch_key {
        let strategy = if field.retain_keys { "merge,retainKeys" } else { "merge" };
        schema["x-kubernetes-patch-strategy"] = strategy.into();
        if !key.is_empty() {
            schema["x-kubernetes-patch-merge-key"] = key.as_str().into();
        }
    }
    if let Some(default) = &field.default {
        schema["default"] = default.clone();
    }
    schema
}

fn kind_schema(kind: &Kind, wanted: &mut BTreeSet<String>) -> Value {
    match kind {
        Kind::Str => json!({"type": "string"}),
        Kind::Bytes => json!({"type": "string", "format": "byte"}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::I32 => json!({"type": "integer", "format": "int32"}),
        Kind::I64 => json!({"type": "integer", "format": "int64"}),
        Kind::F64 => json!({"type": "number", "format": "double"}),
        Kind::Time | Kind::MicroTime => json!({"type": "string", "format": "date-time"}),
        Kind::Quantity => json!({"oneOf": [{"type": "string"}, {"type": "number"}]}),
        Kind::IntOrString => {
            json!({"oneOf": [{"type": "integer"}, {"type": "string"}], "format": "int-or-string"})
        }
        Kind::Raw | Kind::Fields => json!({"type": "object"}),
        Kind::Json | Kind::SchemaOrBool | Kind::SchemaOrArray | Kind::SchemaOrStrings => json!({}),
        Kind::List(item) => json!({"type": "array", "items": kind_schema(item, wanted)}),
        Kind::Map(value) => json!({"type": "object", "additionalProperties": kind_schema(value, wanted)}),
        Kind::Object(ty) if ty.name.is_empty() => object_schema(ty, wanted),
        Kind::Object(ty) => {
            wanted.insert(ty.name.clone());
            // A reference takes no siblings in OpenAPI 3.0, hence the wrapping.
            json!({"allOf": [{"$ref": format!("#/components/schemas/io.k8s.{}", ty.name)}], "default": {}})
        }
    }
}

/// The paths clients look for: which kind a resource has, and that `fieldValidation` is understood.
fn add_paths(paths: &mut Map<String, Value>, resource: &Resource, definition: &str) {
    let Gvk { group, version, .. } = &resource.gvk;
    let root = if group.is_empty() { format!("/api/{version}") } else { format!("/apis/{group}/{version}") };
    let scope = if resource.namespaced { "/namespaces/{namespace}" } else { "" };
    let collection = format!("{root}{scope}/{}", resource.plural);
    let schema = json!({"$ref": format!("#/components/schemas/{definition}")});
    let operation = |action: &str, params: &[&str]| {
        let parameters: Vec<Value> = params
            .iter()
            .map(|name| json!({"name": name, "in": "query", "schema": {"type": "string"}}))
            .collect();
        json!({"operationId": format!("{action}{}{}", resource.gvk.kind, resource.plural), "parameters": parameters,
            "responses": {"200": {"description": "OK", "content": {"application/json": {"schema": schema}}}},
            "x-kubernetes-action": action, "x-kubernetes-group-version-kind": gvk_json(&resource.gvk)})
    };
    let write = ["dryRun", "fieldManager", "fieldValidation"];
    let list = ["labelSelector", "fieldSelector", "limit", "continue", "resourceVersion", "watch"];
    match resource.backing {
        Backing::Stored => {}
        Backing::Review => {
            paths.insert(collection, json!({"post": operation("post", &write)}));
            return;
        }
        Backing::Measured => {
            paths.insert(format!("{collection}/{{name}}"), json!({"get": operation("get", &[])}));
            paths.insert(collection, json!({"get": operation("list", &["labelSelector", "fieldSelector"])}));
            return;
        }
    }
    paths.insert(
        collection.clone(),
        json!({"get": operation("list", &list), "post": operation("post", &write),
        "delete": operation("deletecollection", &list)}),
    );
    paths.insert(
        format!("{collection}/{{name}}"),
        json!({"get": operation("get", &[]), "put": operation("put", &write),
        "patch": operation("patch", &["dryRun", "fieldManager", "fieldValidation", "force"]),
        "delete": operation("delete", &["dryRun", "gracePeriodSeconds", "propagationPolicy"])}),
    );
}
