//! Writes the schema table: facts of the published OpenAPI definitions and protobuf field numbers.
//!
//! The format is read by `wharf_api::schema::table`; its doc describes every column.

use std::{fmt::Write as _, fs};

use anyhow::{Context, Result, bail};
use serde_json::{Map, Value};
use wharf_base::Digest;

use crate::{
    numbers::{NEWER, OPTIONAL},
    protos::{Protos, folded, read},
};

/// Definitions that the codecs know as scalars, with the name the table gives them.
const SCALARS: &[(&str, &str)] = &[
    ("io.k8s.apimachinery.pkg.util.intstr.IntOrString", "intstr"),
    ("io.k8s.apimachinery.pkg.api.resource.Quantity", "quantity"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Time", "time"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.MicroTime", "microtime"),
    ("io.k8s.apimachinery.pkg.runtime.RawExtension", "raw"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.FieldsV1", "fields"),
    ("io.k8s.apimachinery.pkg.apis.meta.v1.Patch", "raw"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSON", "json"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrBool", "schemaorbool"),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrArray", "schemaorarray"),
    (
        "io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaPropsOrStringArray",
        "schemaorstrings",
    ),
    ("io.k8s.apiextensions-apiserver.pkg.apis.apiextensions.v1.CustomResourceSubresourceStatus", "raw"),
];

/// Defaults of fields that are keys of list maps: server-side apply needs them to tell items apart.
/// The package's definitions leave defaults out.
const DEFAULTS: &[(&str, &str, &str)] = &[
    ("api.core.v1.ContainerPort", "protocol", "\"TCP\""),
    ("api.core.v1.ServicePort", "protocol", "\"TCP\""),
];

pub(crate) fn write(definitions: &str, protos: &str, out: &str) -> Result<()> {
    let text = fs::read_to_string(definitions).with_context(|| format!("cannot read {definitions}"))?;
    let root: Value = serde_json::from_str(&text)?;
    let types = root.get("$defs").unwrap_or(&root).as_object().context("no $defs object")?;
    let protos = read(protos)?;
    let mut body = String::new();
    for (name, definition) in types {
        if SCALARS.iter().any(|(n, _)| n == name) {
            continue;
        }
        one_type(&mut body, name, definition, &protos).with_context(|| format!("in {name}"))?;
    }
    fs::write(out, format!("wharf-schema 1 kubernetes v1.36 {}\n{body}", Digest::of(&body)))?;
    Ok(())
}

fn one_type(body: &mut String, name: &str, definition: &Value, protos: &Protos) -> Result<()> {
    writeln!(body, "T {}", short(name))?;
    for gvk in definition["x-kubernetes-group-version-kind"].as_array().into_iter().flatten() {
        let part = |key: &str| gvk[key].as_str().unwrap_or_default();
        writeln!(body, "K {} {} {}", or_dash(part("group")), part("version"), part("kind"))?;
    }
    if definition["x-kubernetes-map-type"] == "atomic" {
        body.push_str("A\n");
    }
    let empty = Map::new();
    let properties = definition["properties"].as_object().unwrap_or(&empty);
    let required: Vec<&str> =
        definition["required"].as_array().into_iter().flatten().filter_map(Value::as_str).collect();
    let message = message_of(protos, name);
    for (field, schema) in properties {
        let kind = kind(schema).with_context(|| format!("in field {field}"))?;
        let newer = NEWER.iter().find(|(t, f, _)| *t == short(name) && f == field);
        let tags = tags(protos, &message, &folded(field), 0).or_else(|| newer.map(|(_, _, n)| n.to_string()));
        let tags = tags.unwrap_or_else(|| "-".into());
        write!(body, "{field} {tags} {kind}")?;
        if required.contains(&field.as_str()) {
            body.push_str(" !");
        }
        attributes(body, schema);
        let optional = OPTIONAL.iter().find(|(t, _)| *t == short(name));
        if optional.is_some_and(|(_, fields)| fields.split(' ').any(|f| f == field)) {
            body.push_str(" ptr");
        }
        if let Some((_, _, default)) = DEFAULTS.iter().find(|(t, f, _)| *t == short(name) && *f == field) {
            write!(body, " default={default}")?;
        }
        body.push('\n');
    }
    Ok(())
}

/// The path of field numbers that leads to a field: more than one where JSON inlines a message.
fn tags(protos: &Protos, message: &str, field: &str, depth: usize) -> Option<String> {
    let fields = protos.get(message)?;
    if let Some(found) = fields.get(field) {
        return Some(found.tag.to_string());
    }
    if depth == 2 {
        return None;
    }
    let mut inlined: Vec<_> = fields.values().filter_map(|f| Some((f.tag, f.message.as_ref()?))).collect();
    inlined.sort_unstable();
    inlined
        .iter()
        .filter(|(tag, _)| is_inlined(message, *tag))
        .find_map(|(tag, inner)| Some(format!("{tag}.{}", tags(protos, inner, field, depth + 1)?)))
}

/// Messages whose JSON form inlines another message, with the number of the inlined field.
fn is_inlined(message: &str, tag: u32) -> bool {
    let name = message.rsplit('.').next().unwrap_or_default();
    matches!(
        (name, tag),
        ("volume", 2)
            | ("persistentvolumespec", 2)
            | ("ephemeralcontainer", 1)
            | ("probe", 1)
            | ("ingressrule", 2)
            | (
                "configmapenvsource"
                    | "configmapkeyselector"
                    | "configmapprojection"
                    | "configmapvolumesource",
                1
            )
            | ("secretenvsource" | "secretkeyselector" | "secretprojection", 1)
            | ("namedrulewithoperations" | "rulewithoperations", 2)
            | ("deviceconfiguration" | "deviceclassconfiguration" | "deviceclaimconfiguration", _)
            | ("deviceallocationconfiguration", _)
    )
}

/// The message that carries a type. A version newer than the published protos has the fields of the
/// version before it, since graduation does not renumber.
fn message_of(protos: &Protos, name: &str) -> String {
    let (package, kind) = short(name).rsplit_once('.').unwrap_or_default();
    let package = package.replace('-', "_");
    let exact = format!("{package}.{}", folded(kind));
    let (group, _) = package.rsplit_once('.').unwrap_or_default();
    let older =
        ["v1", "v1beta2", "v1beta1", "v1alpha2", "v1alpha1"].map(|v| format!("{group}.{v}.{}", folded(kind)));
    std::iter::once(exact.clone()).chain(older).find(|m| protos.contains_key(m)).unwrap_or(exact)
}

/// Drops what every name has in common.
fn short(name: &str) -> &str {
    name.trim_start_matches("io.k8s.")
}

fn or_dash(text: &str) -> &str {
    if text.is_empty() { "-" } else { text }
}

fn kind(schema: &Value) -> Result<String> {
    if let Some(target) = schema["$ref"].as_str() {
        let name = target.trim_start_matches("#/$defs/").trim_start_matches("#/definitions/");
        let scalar = SCALARS.iter().find(|(n, _)| *n == name);
        return Ok(scalar.map_or_else(|| format!("@{}", short(name)), |(_, s)| (*s).to_owned()));
    }
    let ty = match &schema["type"] {
        Value::String(ty) => ty.as_str(),
        Value::Array(types) => {
            types.iter().filter_map(Value::as_str).find(|t| *t != "null").unwrap_or_default()
        }
        _ => "",
    };
    Ok(match (ty, schema["format"].as_str()) {
        ("string", Some("byte")) => "bytes".into(),
        ("string", _) => "str".into(),
        ("boolean", _) => "bool".into(),
        ("integer", Some("int32")) => "i32".into(),
        ("integer", _) => "i64".into(),
        ("number", _) => "f64".into(),
        ("array", _) => format!("[{}", kind(&schema["items"])?),
        ("object", _) if schema["additionalProperties"].is_object() => {
            format!("{{{}", kind(&schema["additionalProperties"])?)
        }
        ("object", _) => "raw".into(),
        other => bail!("unknown type {other:?}"),
    })
}

fn attributes(body: &mut String, schema: &Value) {
    let text = |key: &str| schema[key].as_str().unwrap_or_default();
    match text("x-kubernetes-list-type") {
        "atomic" => body.push_str(" atomic"),
        "set" => body.push_str(" set"),
        "map" => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            let keys: Vec<&str> = keys.filter_map(Value::as_str).collect();
            body.push_str(&format!(" keys={}", keys.join(",")));
        }
        _ => {}
    }
    if text("x-kubernetes-map-type") == "atomic" {
        body.push_str(" atomic");
    }
    let strategy = text("x-kubernetes-patch-strategy");
    if strategy.contains("merge") {
        body.push_str(&format!(" merge={}", text("x-kubernetes-patch-merge-key")));
    }
    if strategy.contains("retainKeys") {
        body.push_str(" retain");
    }
}
