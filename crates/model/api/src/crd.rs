//! CustomResourceDefinitions compiled to [`Resource`]s: structural schema to [`Type`], validation,
//! printer columns, scale paths.
//!
//! CEL rules (`x-kubernetes-validations`) and conversion webhooks are not evaluated;
//! [`Custom::warnings`] names them so that whoever creates such a definition is told.

use std::sync::Arc;

use serde_json::{Map, Value};

use crate::{
    meta,
    resource::{Backing, Resource},
    schema::{Field, Gvk, Kind, Merge, Type, TypeRef, builtin},
    status::Cause,
};

const OBJECT_META: &str = "apimachinery.pkg.apis.meta.v1.ObjectMeta";
/// Nesting of a schema beyond which it is not compiled.
const MAX_DEPTH: usize = 64;

/// What a definition's version adds to a [`Resource`].
#[derive(Debug, Default)]
pub struct Custom {
    /// Columns of the version's tables, besides the name.
    pub columns: Vec<CustomColumn>,
    /// Paths of the scale subresource.
    pub scale: Option<ScalePaths>,
    /// The version's OpenAPI v3 schema.
    pub schema: Value,
    /// What the definition asks for and this server does not do.
    pub warnings: Vec<String>,
}

/// A printer column of a definition.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CustomColumn {
    /// Heading.
    pub name: String,
    /// `string`, `integer`, `number`, `boolean` or `date`.
    pub type_: String,
    /// OpenAPI format.
    pub format: String,
    /// Simple JSONPath of the cell, such as `.spec.replicas`.
    pub json_path: String,
    /// Above 0 only in wide output.
    pub priority: i64,
}

/// Where the scale subresource finds its numbers.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct ScalePaths {
    /// Path of the wanted number.
    pub spec: String,
    /// Path of the present number.
    pub status: String,
    /// Path of the selector in its text form.
    pub selector: Option<String>,
}

/// The resources of every served version of a definition.
pub fn resources(definition: &Value) -> Vec<Resource> {
    let spec = &definition["spec"];
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let texts = |v: &Value| v.as_array().into_iter().flatten().map(text).collect::<Vec<_>>();
    let versions: Vec<&Value> = spec["versions"].as_array().into_iter().flatten().collect();
    let storage_version =
        versions.iter().find(|v| v["storage"] == true).map(|v| text(&v["name"])).unwrap_or_default();
    let names = &spec["names"];
    let kind = text(&names["kind"]);
    let or = |given: String, otherwise: String| if given.is_empty() { otherwise } else { given };
    let served = versions.iter().filter(|v| v["served"] == true);
    served
        .map(|version| {
            let custom = custom(version, spec);
            let mut subresources = Vec::new();
            if version.pointer("/subresources/status").is_some() {
                subresources.push("status".to_owned());
            }
            if custom.scale.is_some() {
                subresources.push("scale".to_owned());
            }
            Resource {
                gvk: Gvk::new(text(&spec["group"]), text(&version["name"]), kind.clone()),
                plural: text(&names["plural"]),
                singular: or(text(&names["singular"]), kind.to_lowercase()),
                list_kind: or(text(&names["listKind"]), format!("{kind}List")),
                namespaced: spec["scope"] == "Namespaced",
                short: texts(&names["shortNames"]),
                categories: texts(&names["categories"]),
                subresources,
                storage_version: storage_version.clone(),
                backing: Backing::Stored,
                ty: TypeRef::Own(Arc::new(root_type(&custom.schema))),
                custom: Some(Arc::new(custom)),
            }
        })
        .collect()
}

fn custom(version: &Value, spec: &Value) -> Custom {
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let schema = version.pointer("/schema/openAPIV3Schema").cloned().unwrap_or_default();
    let columns = version["additionalPrinterColumns"].as_array().into_iter().flatten();
    let columns = columns.map(|c| CustomColumn {
        name: text(&c["name"]),
        type_: text(&c["type"]),
        format: text(&c["format"]),
        json_path: text(&c["jsonPath"]),
        priority: c["priority"].as_i64().unwrap_or_default(),
    });
    let mut columns: Vec<CustomColumn> = columns.collect();
    if columns.is_empty() {
        columns.push(CustomColumn {
            name: "Age".into(),
            type_: "date".into(),
            format: String::new(),
            json_path: ".metadata.creationTimestamp".into(),
            priority: 0,
        });
    }
    let scale = version.pointer("/subresources/scale").map(|s| ScalePaths {
        spec: text(&s["specReplicasPath"]),
        status: text(&s["statusReplicasPath"]),
        selector: s["labelSelectorPath"].as_str().map(str::to_owned),
    });
    let mut warnings = Vec::new();
    if mentions(&schema, "x-kubernetes-validations", MAX_DEPTH) {
        warnings.push("x-kubernetes-validations: CEL rules are not evaluated".to_owned());
    }
    if spec.pointer("/conversion/strategy").is_some_and(|s| s == "Webhook") {
        warnings.push(
            "spec.conversion: webhooks are not called; versions are converted as if strategy were None"
                .to_owned(),
        );
    }
    Custom { columns, scale, schema, warnings }
}

fn mentions(value: &Value, key: &str, depth: usize) -> bool {
    let Some(depth) = depth.checked_sub(1) else { return false };
    match value {
        Value::Object(map) => map.contains_key(key) || map.values().any(|v| mentions(v, key, depth)),
        Value::Array(items) => items.iter().any(|v| mentions(v, key, depth)),
        _ => false,
    }
}

fn field(name: &str, kind: Kind) -> Field {
    Field {
        name: name.to_owned(),
        tags: Vec::new(),
        kind,
        required: false,
        merge: Merge::Normal,
        patch_key: None,
        retain_keys: false,
        default: None,
        nullable: false,
    }
}

fn root_type(schema: &Value) -> Type {
    let mut ty = object_type(schema, MAX_DEPTH);
    if schema.is_null() {
        ty.preserve_unknown = true;
    }
    ty.fields.retain(|f| !matches!(f.name.as_str(), "apiVersion" | "kind" | "metadata"));
    ty.fields.extend([field("apiVersion", Kind::Str), field("kind", Kind::Str)]);
    let metadata = builtin().named(OBJECT_META).map_or(Kind::Raw, Kind::Object);
    ty.fields.push(field("metadata", metadata));
    ty.fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    ty
}

fn object_type(schema: &Value, depth: usize) -> Type {
    let mut ty = Type {
        preserve_unknown: schema["x-kubernetes-preserve-unknown-fields"] == true,
        atomic: schema["x-kubernetes-map-type"] == "atomic",
        ..Type::default()
    };
    if schema["x-kubernetes-embedded-resource"] == true {
        ty.fields.extend([field("apiVersion", Kind::Str), field("kind", Kind::Str)]);
        ty.fields.push(field("metadata", builtin().named(OBJECT_META).map_or(Kind::Raw, Kind::Object)));
    }
    for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
        if ty.fields.iter().any(|f| f.name == *name) {
            continue;
        }
        let mut field = field(name, kind(schema, depth));
        field.nullable = schema["nullable"] == true;
        field.default = schema.get("default").cloned();
        field.merge = merge(schema);
        ty.fields.push(field);
    }
    ty.fields.sort_unstable_by(|a, b| a.name.cmp(&b.name));
    ty
}

fn merge(schema: &Value) -> Merge {
    let atomic_map = schema["x-kubernetes-map-type"] == "atomic";
    match schema["x-kubernetes-list-type"].as_str() {
        Some("atomic") => Merge::Atomic,
        Some("set") => Merge::Set,
        Some("map") => {
            let keys = schema["x-kubernetes-list-map-keys"].as_array().into_iter().flatten();
            Merge::Keys(keys.filter_map(|k| k.as_str().map(str::to_owned)).collect())
        }
        _ if atomic_map => Merge::Atomic,
        _ => Merge::Normal,
    }
}

fn kind(schema: &Value, depth: usize) -> Kind {
    let Some(depth) = depth.checked_sub(1) else { return Kind::Json };
    if schema["x-kubernetes-int-or-string"] == true {
        return Kind::IntOrString;
    }
    match schema["type"].as_str() {
        Some("string") => Kind::Str,
        Some("boolean") => Kind::Bool,
        Some("integer") if schema["format"] == "int32" => Kind::I32,
        Some("integer") => Kind::I64,
        Some("number") => Kind::F64,
        Some("array") => Kind::List(Box::new(kind(&schema["items"], depth))),
        Some("object") => match &schema["additionalProperties"] {
            Value::Object(values) => Kind::Map(Box::new(kind(&Value::Object(values.clone()), depth))),
            Value::Bool(true) => Kind::Json,
            _ => Kind::Object(TypeRef::Own(Arc::new(object_type(schema, depth)))),
        },
        _ => Kind::Json,
    }
}

/// Fills in the defaults of the schema, at every place whose parent is there.
pub fn apply_defaults(value: &mut Value, schema: &Value) {
    match value {
        Value::Object(object) => {
            for (name, schema) in schema["properties"].as_object().into_iter().flatten() {
                if let Some(default) = schema.get("default") {
                    let missing = match object.get(name) {
                        None => true,
                        Some(value) => value.is_null() && schema["nullable"] != true,
                    };
                    if missing {
                        object.insert(name.clone(), default.clone());
                    }
                }
                if let Some(inner) = object.get_mut(name) {
                    apply_defaults(inner, schema);
                }
            }
            if let values @ Value::Object(_) = &schema["additionalProperties"] {
                object.values_mut().for_each(|inner| apply_defaults(inner, values));
            }
        }
        Value::Array(items) => items.iter_mut().for_each(|item| apply_defaults(item, &schema["items"])),
        _ => {}
    }
}

/// Violations kept per object.
const MAX_CAUSES: usize = 100;

/// Checks a value against the value rules of a schema (its types were checked on decoding).
pub fn validate(object: &Value, schema: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    check(object, schema, "", &mut causes);
    causes
}

fn cause(causes: &mut Vec<Cause>, reason: &str, field: &str, message: String) {
    if causes.len() < MAX_CAUSES {
        causes.push(Cause { reason: reason.to_owned(), field: field.to_owned(), message });
    }
}

fn check(value: &Value, schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let list: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
        cause(causes, "FieldValueNotSupported", path, message);
    }
    match value {
        Value::Object(object) => check_object(object, schema, path, causes),
        Value::Array(items) => {
            bounds(items.len() as f64, schema, ("minItems", "maxItems"), path, "items", value, causes);
            for (i, item) in items.iter().enumerate() {
                check(item, &schema["items"], &format!("{path}[{i}]"), causes);
            }
        }
        Value::String(text) => {
            bounds(
                text.chars().count() as f64,
                schema,
                ("minLength", "maxLength"),
                path,
                "chars long",
                value,
                causes,
            );
            if let Some(pattern) = schema["pattern"].as_str()
                && regex_lite::Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text))
            {
                let message = format!("Invalid value: {value}: {path} in body should match '{pattern}'");
                cause(causes, "FieldValueInvalid", path, message);
            }
        }
        Value::Number(number) => {
            bounds(
                number.as_f64().unwrap_or_default(),
                schema,
                ("minimum", "maximum"),
                path,
                "",
                value,
                causes,
            );
        }
        _ => {}
    }
}

fn check_object(object: &Map<String, Value>, schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    let at = |name: &str| if path.is_empty() { name.to_owned() } else { format!("{path}.{name}") };
    for name in schema["required"].as_array().into_iter().flatten().filter_map(Value::as_str) {
        if !object.contains_key(name) {
            cause(causes, "FieldValueRequired", &at(name), "Required value".into());
        }
    }
    for (name, inner) in object {
        let schema = match schema["properties"].get(name) {
            Some(schema) => schema,
            None => &schema["additionalProperties"],
        };
        if schema.is_object() && !(path.is_empty() && name == "metadata") && !inner.is_null() {
            check(inner, schema, &at(name), causes);
        }
    }
}

fn bounds(
    size: f64,
    schema: &Value,
    (min, max): (&str, &str),
    path: &str,
    unit: &str,
    value: &Value,
    causes: &mut Vec<Cause>,
) {
    let space = if unit.is_empty() { "" } else { " " };
    if let Some(limit) = schema[min].as_f64()
        && (size < limit || (schema["exclusiveMinimum"] == true && min == "minimum" && size == limit))
    {
        let message =
            format!("Invalid value: {value}: {path} in body should be at least {limit}{space}{unit}");
        let greater = message.replace("at least", "greater than or equal to");
        cause(causes, "FieldValueInvalid", path, if unit.is_empty() { greater } else { message });
    }
    if let Some(limit) = schema[max].as_f64()
        && (size > limit || (schema["exclusiveMaximum"] == true && max == "maximum" && size == limit))
    {
        let message =
            format!("Invalid value: {value}: {path} in body should be at most {limit}{space}{unit}");
        let less = message.replace("at most", "less than or equal to");
        cause(causes, "FieldValueInvalid", path, if unit.is_empty() { less } else { message });
    }
}

/// The value a simple JSONPath (`.spec.replicas`, `.status.conditions[?(@.type=="Ready")].status`) finds.
pub fn read_path<'a>(object: &'a Value, path: &str) -> Option<&'a Value> {
    let mut at = object;
    for segment in split_path(path) {
        at = match segment.strip_prefix('[').and_then(|s| s.strip_suffix(']')) {
            None => at.get(segment)?,
            Some(index) => match index.strip_prefix("?(@.").and_then(|f| f.strip_suffix(')')) {
                Some(filter) => {
                    let (key, wanted) = filter.split_once("==")?;
                    let wanted = wanted.trim().trim_matches(['"', '\'']);
                    at.as_array()?.iter().find(|i| i[key.trim()].as_str() == Some(wanted))?
                }
                None => match index.trim_matches(['"', '\'']) {
                    key if key.len() < index.len() => at.get(key)?,
                    number => at.get(number.parse::<usize>().ok()?)?,
                },
            },
        };
    }
    Some(at)
}

fn split_path(path: &str) -> Vec<&str> {
    let (mut segments, mut start, mut inside) = (Vec::new(), 0, false);
    for (i, c) in path.char_indices() {
        let cut = match c {
            '[' if !inside => {
                inside = true;
                true
            }
            ']' => {
                inside = false;
                false
            }
            '.' => !inside,
            _ => false,
        };
        if cut {
            segments.push(&path[start..i]);
            start = i + usize::from(c == '.');
        }
    }
    segments.push(&path[start..]);
    segments.into_iter().filter(|s| !s.is_empty()).collect()
}

/// Writes `value` at a plain dotted path, making objects on the way.
pub fn write_path(object: &mut Value, path: &str, value: Value) {
    let segments = split_path(path);
    let Some((last, parents)) = segments.split_last() else { return };
    let mut at = object;
    for parent in parents {
        meta::member_mut(at, parent);
        let Some(next) = at.get_mut(parent) else { return };
        at = next;
    }
    if let Value::Object(map) = at {
        map.insert((*last).to_owned(), value);
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::codec::decode_value;

    fn definition() -> Value {
        json!({"spec": {"group": "demo.io", "scope": "Namespaced", "names": {"plural": "widgets", "kind": "Widget"},
            "versions": [{"name": "v1", "served": true, "storage": true, "subresources": {"status": {}, "scale":
                {"specReplicasPath": ".spec.replicas", "statusReplicasPath": ".status.replicas"}},
              "schema": {"openAPIV3Schema": {"type": "object", "properties": {"spec": {"type": "object",
                "required": ["size"], "properties": {
                  "size": {"type": "integer", "minimum": 1, "maximum": 5},
                  "replicas": {"type": "integer", "format": "int32", "default": 1},
                  "mode": {"type": "string", "enum": ["a", "b"]},
                  "free": {"type": "object", "x-kubernetes-preserve-unknown-fields": true}}}}}}}]}})
    }

    #[test]
    fn a_definition_prunes_defaults_and_validates() {
        let resource = resources(&definition()).remove(0);
        assert_eq!(
            (resource.qualified().as_str(), resource.list_kind.as_str()),
            ("widgets.demo.io", "WidgetList")
        );
        assert!(resource.has("scale"));
        let body = json!({"kind": "Widget", "metadata": {"name": "w", "foo": 1}, "spec": {"size": 9, "mode": "c", "free": {"x": 1}, "no": 1}});
        let mut decoded = decode_value(body, &resource.ty).unwrap();
        assert_eq!(decoded.strict, [r#"unknown field "metadata.foo""#, r#"unknown field "spec.no""#]);
        let custom = resource.custom.unwrap();
        apply_defaults(&mut decoded.object, &custom.schema);
        assert_eq!(decoded.object["spec"], json!({"size": 9, "mode": "c", "free": {"x": 1}, "replicas": 1}));
        let messages: Vec<String> = validate(&decoded.object, &custom.schema)
            .into_iter()
            .map(|c| format!("{}: {}", c.field, c.message))
            .collect();
        assert_eq!(
            messages,
            [
                r#"spec.mode: Unsupported value: "c": supported values: "a", "b""#,
                "spec.size: Invalid value: 9: spec.size in body should be less than or equal to 5"
            ]
        );
    }

    #[test]
    fn paths_read_and_write() {
        let mut object = json!({"status": {"conditions": [{"type": "Ready", "status": "True"}]}});
        assert_eq!(
            read_path(&object, r#".status.conditions[?(@.type=="Ready")].status"#),
            Some(&json!("True"))
        );
        assert_eq!(read_path(&object, ".status.conditions[0].type"), Some(&json!("Ready")));
        assert_eq!(read_path(&object, ".spec.x"), None);
        write_path(&mut object, ".spec.replicas", 3.into());
        assert_eq!(object["spec"]["replicas"], 3);
    }
}
