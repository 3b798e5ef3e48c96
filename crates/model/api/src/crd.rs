//! CustomResourceDefinitions compiled to [`Resource`]s: structural schema to [`Type`], validation,
//! printer columns, scale paths.
//!
//! Patterns with Unicode classes are not evaluated;
//! [`warnings`] names them so that whoever creates such a definition is told.

mod check;
mod inline;
mod rules;

use std::{
    collections::{BTreeSet, HashMap},
    sync::Arc,
};

use serde_json::Value;

use crate::{
    meta,
    resource::{Backing, Resource},
    schema::{Field, Gvk, Kind, Merge, Type, TypeRef, builtin},
};

pub(crate) use check::pattern_error;
pub use check::validate;
pub use inline::inline_builtin;
pub use rules::{RuleError, Rules, declaration};

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
    /// The rules of the schema.
    pub rules: Rules,
    /// JSON paths of the fields objects can be selected by.
    pub selectable: Vec<String>,
    /// Who converts between versions; versions differ in their name alone when there is nobody.
    pub converter: Option<Value>,
    /// Differs when stored objects have to be read differently.
    pub form: u64,
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
    let stored_version =
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
            let gvk = Gvk::new(text(&spec["group"]), text(&version["name"]), kind.clone());
            Resource {
                stored: Gvk { version: stored_version.clone(), ..gvk.clone() },
                gvk,
                plural: text(&names["plural"]),
                singular: or(text(&names["singular"]), kind.to_lowercase()),
                list_kind: or(text(&names["listKind"]), format!("{kind}List")),
                namespaced: spec["scope"] == "Namespaced",
                short: texts(&names["shortNames"]),
                categories: texts(&names["categories"]),
                subresources,
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
    let webhook = spec.pointer("/conversion/strategy").is_some_and(|s| s == "Webhook");
    let converter = webhook.then(|| spec["conversion"]["webhook"].clone());
    let selectable = version["selectableFields"].as_array().into_iter().flatten();
    let selectable = selectable.map(|field| text(&field["jsonPath"])).collect();
    let form = form_of(&text(&version["name"]), &schema, &spec["conversion"]);
    let (rules, _) = Rules::compile(&schema);
    Custom { columns, scale, schema, rules, selectable, converter, form }
}

/// What a definition asks for and this server does not do.
pub fn warnings(definition: &Value) -> BTreeSet<String> {
    let mut warnings = BTreeSet::new();
    for version in definition["spec"]["versions"].as_array().into_iter().flatten() {
        if let Some(schema) = version.pointer("/schema/openAPIV3Schema") {
            unchecked_patterns(schema, MAX_DEPTH, &mut warnings);
        }
    }
    warnings
}

/// The items of an older list by their keys, for lists whose items have keys; no others can be told from one another.
struct Earlier<'a> {
    keys: Vec<String>,
    by_key: HashMap<Vec<&'a Value>, &'a Value>,
}

impl<'a> Earlier<'a> {
    fn of(merge: &Merge, old: Option<&'a Value>) -> Self {
        let keys = match merge {
            Merge::Keys(keys) => keys.clone(),
            _ => Vec::new(),
        };
        let mut by_key = HashMap::new();
        let items = old.and_then(Value::as_array).filter(|_| !keys.is_empty());
        for item in items.into_iter().flatten() {
            by_key.entry(keys.iter().map(|key| &item[key]).collect()).or_insert(item);
        }
        Self { keys, by_key }
    }

    /// What this item was.
    fn form_of(&self, item: &Value) -> Option<&'a Value> {
        self.by_key.get(&self.keys.iter().map(|key| &item[key]).collect::<Vec<_>>()).copied()
    }
}

fn form_of(version: &str, schema: &Value, conversion: &Value) -> u64 {
    use std::hash::{DefaultHasher, Hash, Hasher};
    let mut hasher = DefaultHasher::new();
    (version, schema.to_string(), conversion.to_string()).hash(&mut hasher);
    hasher.finish()
}

fn unchecked_patterns(value: &Value, depth: usize, warnings: &mut BTreeSet<String>) {
    let Some(depth) = depth.checked_sub(1) else { return };
    match value {
        Value::Object(map) => {
            if let Some(pattern) = map.get("pattern").and_then(Value::as_str)
                && let Err(error) = regex_lite::Regex::new(pattern)
            {
                warnings.insert(format!("pattern {pattern:?} is not checked: {error}"));
            }
            map.values().for_each(|inner| unchecked_patterns(inner, depth, warnings));
        }
        Value::Array(items) => items.iter().for_each(|inner| unchecked_patterns(inner, depth, warnings)),
        _ => {}
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
        optional: false,
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
        let messages: Vec<String> = validate(&decoded.object, None, &custom.schema)
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

    fn wrong(spec: Value, schema: Value) -> Vec<String> {
        let definition = json!({"spec": {"group": "demo.io", "scope": "Namespaced", "names": {"plural": "widgets",
            "kind": "Widget"}, "versions": [{"name": "v1", "served": true, "storage": true, "schema":
            {"openAPIV3Schema": {"type": "object", "properties": {"spec": schema}}}}]}});
        let resource = resources(&definition).remove(0);
        let decoded = decode_value(json!({"kind": "Widget", "spec": spec}), &resource.ty).unwrap();
        let causes = validate(&decoded.object, None, &resource.custom.unwrap().schema);
        causes.into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
    }

    #[test]
    fn every_value_of_a_wrong_type_is_named_without_the_server_s_own_types() {
        let text = json!({"type": "string"});
        let schema = json!({"type": "object", "properties": {"size": {"type": "integer"}, "on": {"type": "boolean"},
            "list": {"type": "array", "items": text}, "map": {"type": "object", "additionalProperties": text},
            "port": {"x-kubernetes-int-or-string": true}, "inner": {"type": "object", "properties": {"a": text}}}});
        let all =
            json!({"size": "two", "on": "yes", "list": {}, "map": {"k": 1}, "port": true, "inner": [1]});
        assert_eq!(
            wrong(all, schema.clone()),
            [
                r#"spec.inner: Invalid value: "array": spec.inner in body must be of type object: "array""#,
                r#"spec.list: Invalid value: "object": spec.list in body must be of type array: "object""#,
                r#"spec.map.k: Invalid value: "integer": spec.map.k in body must be of type string: "integer""#,
                r#"spec.on: Invalid value: "string": spec.on in body must be of type boolean: "string""#,
                r#"spec.port: Invalid value: "boolean": spec.port in body must be of type integer,string: "boolean""#,
                r#"spec.size: Invalid value: "string": spec.size in body must be of type integer: "string""#,
            ]
        );
        assert_eq!(
            wrong(json!({"size": 1.0, "port": 3_000_000_000_u32, "list": ["a"], "inner": {}}), schema),
            [""; 0]
        );
    }

    #[test]
    fn junctors_and_lists_are_checked() {
        let any = json!({"type": "object", "properties": {"a": {"type": "string"}, "b": {"type": "string"}},
            "anyOf": [{"required": ["a"]}, {"required": ["b"]}], "not": {"required": ["a", "b"]}});
        assert_eq!(wrong(json!({"b": "x"}), any.clone()), [""; 0]);
        assert_eq!(
            wrong(json!({}), any.clone()),
            [
                r#"spec: Invalid value: "object": "spec" must validate at least one schema (anyOf)"#,
                "spec.a: Required value",
            ]
        );
        assert_eq!(
            wrong(json!({"a": "x", "b": "x"}), any),
            [r#"spec: Invalid value: "object": "spec" must not validate the schema (not)"#,]
        );
        let one =
            json!({"x-kubernetes-preserve-unknown-fields": true, "oneOf": [{"minimum": 5}, {"maximum": 7}]});
        assert_eq!(
            wrong(json!(6), one),
            [
                r#"spec: Invalid value: 6: "spec" must validate one and only one schema (oneOf). Found 2 valid alternatives"#,
            ]
        );
        let list = json!({"type": "array", "x-kubernetes-list-type": "set", "items": {"type": "string"}});
        assert_eq!(wrong(json!(["a", "b", "a"]), list), [r#"spec[2]: Duplicate value: "a""#]);
        let time = json!({"type": "string", "format": "date-time"});
        assert_eq!(
            wrong(json!("noon"), time),
            [r#"spec: Invalid value: "noon": spec in body must be of type date-time: "noon""#,]
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
