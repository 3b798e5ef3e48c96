//! Structural schemas, written as OpenAPI, to declarations: what whoever has custom resources does.

use serde_json::Value as Json;

use crate::{Decl, DeclKind, ObjectDecl, Topology};

/// The declaration of a schema; none for data of no known kind, which expressions cannot name.
pub(super) fn decl(schema: &Json) -> Option<Decl> {
    let mut decl = Decl::new(kind(schema)?);
    decl.nullable = schema["nullable"] == true;
    decl.max_size = ["maxLength", "maxItems", "maxProperties"].iter().find_map(|key| schema[key].as_u64());
    decl.longest_value = schema["longest"].as_u64();
    Some(decl)
}

fn kind(schema: &Json) -> Option<DeclKind> {
    if schema["x-int-or-string"] == true {
        return Some(DeclKind::IntOrString);
    }
    Some(match (schema["type"].as_str()?, schema["format"].as_str().unwrap_or_default()) {
        ("boolean", _) => DeclKind::Bool,
        ("integer", _) => DeclKind::Int,
        ("number", _) => DeclKind::Double,
        ("string", "byte") => DeclKind::Bytes,
        ("string", "date") => DeclKind::Date,
        ("string", "date-time") => DeclKind::Timestamp,
        ("string", "duration") => DeclKind::Duration,
        ("string", _) => DeclKind::String,
        ("array", _) => return list(schema),
        ("object", _) => return object(schema),
        _ => return None,
    })
}

fn list(schema: &Json) -> Option<DeclKind> {
    let keys = schema["x-list-keys"].as_array().into_iter().flatten();
    let topology = match schema["x-list-type"].as_str() {
        Some("set") => Topology::Set,
        Some("map") => Topology::Map(keys.filter_map(|key| key.as_str().map(str::to_owned)).collect()),
        _ => Topology::Atomic,
    };
    Some(Decl::list_of(decl(&schema["items"])?, topology).kind)
}

fn object(schema: &Json) -> Option<DeclKind> {
    if schema["additionalProperties"].is_object() {
        return Some(Decl::map(decl(&schema["additionalProperties"])?).kind);
    }
    // Types without a name of their own are told apart by what they are.
    let mut object = ObjectDecl::new(format!("object{:x}", hash(&schema.to_string())));
    if schema["x-embedded"] == true {
        let text = || Decl::new(DeclKind::String);
        let meta = ObjectDecl::new("meta").field("name", text()).field("generateName", text());
        object =
            object.field("apiVersion", text()).field("kind", text()).field("metadata", Decl::object(meta));
    }
    for (name, property) in schema["properties"].as_object().into_iter().flatten() {
        // Metadata that has both fields stays as it was declared.
        let names =
            property["properties"]["name"].is_object() && property["properties"]["generateName"].is_object();
        let replaced = name == "metadata" && schema["x-embedded"] == true && !names;
        let required = schema["required"].as_array().is_some_and(|list| list.iter().any(|r| r == name));
        if let Some(decl) = decl(property).filter(|_| !replaced) {
            object = if required { object.required(name, decl) } else { object.field(name, decl) };
        }
    }
    Some(Decl::object(object).kind)
}

fn hash(text: &str) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    text.hash(&mut hasher);
    hasher.finish()
}
