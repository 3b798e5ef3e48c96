//! The OpenAPI v2 document: the v3 ones put together and rewritten, as JSON and as protobuf.
//!
//! kubectl asks for it before it sends a `List`, and checks what it sends against it where a server does not.
//! Source of the field numbers: gnostic's OpenAPIv2.proto.

use serde_json::{Map, Value, json};

/// Rewrites a v3 document.
pub(super) fn from_v3(v3: &Value) -> Value {
    let empty = Map::new();
    let of = |value: &Value, rewrite: fn(&Value) -> Value| -> Map<String, Value> {
        let entries = value.as_object().unwrap_or(&empty).iter();
        entries.map(|(name, value)| (name.clone(), rewrite(value))).collect()
    };
    json!({"swagger": "2.0", "info": v3["info"], "paths": of(&v3["paths"], path),
        "definitions": of(&v3["components"]["schemas"], schema)})
}

fn path(item: &Value) -> Value {
    let operations = item.as_object().into_iter().flatten();
    operations.map(|(method, value)| (method.clone(), operation(value))).collect()
}

fn operation(v3: &Value) -> Value {
    let mut v2 = v3.clone();
    let parameters = v3["parameters"].as_array().into_iter().flatten();
    v2["parameters"] = parameters
        .map(|parameter| {
            json!({"name": parameter["name"], "in": parameter["in"], "type": parameter["schema"]["type"]})
        })
        .collect();
    let answer = schema(&v3["responses"]["200"]["content"]["application/json"]["schema"]);
    v2["responses"] = json!({"200": {"description": "OK", "schema": answer}});
    v2
}

fn schema(v3: &Value) -> Value {
    // A reference with siblings, as v3 needs it.
    if let Some(wrapped) = v3.pointer("/allOf/0") {
        return schema(wrapped);
    }
    if let Some(reference) = v3["$ref"].as_str() {
        return json!({"$ref": reference.replace("#/components/schemas/", "#/definitions/")});
    }
    let mut v2 = Map::new();
    for (key, value) in v3.as_object().into_iter().flatten() {
        match (key.as_str(), value) {
            // Quantities and numbers that may be names: v2 has one type only, and all clients know the format.
            ("oneOf", _) => {
                v2.insert("type".into(), "string".into());
            }
            ("anyOf" | "allOf" | "not" | "nullable", _) => {}
            ("properties", Value::Object(properties)) => {
                let rewritten = properties.iter().map(|(name, value)| (name.clone(), schema(value)));
                v2.insert(key.clone(), rewritten.collect());
            }
            ("items" | "additionalProperties", Value::Object(_)) => {
                v2.insert(key.clone(), schema(value));
            }
            _ => {
                v2.insert(key.clone(), value.clone());
            }
        }
    }
    if v2.get(FREE) == Some(&Value::Bool(true)) {
        free(&mut v2);
    }
    Value::Object(v2)
}

const FREE: &str = "x-kubernetes-preserve-unknown-fields";
const KINDS: &str = "x-kubernetes-group-version-kind";

/// Clients of v2 refuse fields that are not described where some are, so none are; a kind of its own remains an object.
fn free(v2: &mut Map<String, Value>) {
    let is_kind = v2.contains_key(KINDS);
    v2.retain(|key, _| match key.as_str() {
        "properties" | "items" | "additionalProperties" | "required" => false,
        "type" | KINDS | "description" => is_kind || key != "type",
        _ => !is_kind,
    });
}

/// A protobuf message as it is written.
#[derive(Default)]
struct Message(Vec<u8>);

impl Message {
    fn varint(&mut self, mut value: u64) {
        while value >= 0x80 {
            self.0.push((value & 0x7f) as u8 | 0x80);
            value >>= 7;
        }
        self.0.push(value as u8);
    }

    fn bytes(&mut self, field: u64, bytes: &[u8]) {
        self.varint(field << 3 | 2);
        self.varint(bytes.len() as u64);
        self.0.extend_from_slice(bytes);
    }

    fn text(&mut self, field: u64, value: &Value) {
        if let Some(text) = value.as_str().filter(|text| !text.is_empty()) {
            self.bytes(field, text.as_bytes());
        }
    }

    fn truth(&mut self, field: u64, value: bool) {
        self.varint(field << 3);
        self.varint(u64::from(value));
    }

    fn message(&mut self, field: u64, message: Self) {
        self.bytes(field, &message.0);
    }

    /// Entries of a map: messages of a name and a value.
    fn named(&mut self, field: u64, value: &Value, write: fn(&Value) -> Self) {
        for (name, value) in value.as_object().into_iter().flatten() {
            self.entry(field, name, write(value));
        }
    }

    fn entry(&mut self, field: u64, name: &str, value: Self) {
        let mut entry = Self::default();
        entry.bytes(1, name.as_bytes());
        entry.message(2, value);
        self.message(field, entry);
    }

    /// The keys that begin with `x-`.
    fn extensions(&mut self, field: u64, of: &Value) {
        for (name, value) in of.as_object().into_iter().flatten().filter(|(name, _)| name.starts_with("x-")) {
            self.entry(field, name, any(value));
        }
    }
}

/// Any value: its text as YAML, which JSON is.
fn any(value: &Value) -> Message {
    let mut message = Message::default();
    message.bytes(2, value.to_string().as_bytes());
    message
}

/// Encodes a v2 document.
pub(super) fn encode(v2: &Value) -> Vec<u8> {
    let mut document = Message::default();
    document.text(1, &v2["swagger"]);
    let mut info = Message::default();
    info.text(1, &v2["info"]["title"]);
    info.text(2, &v2["info"]["version"]);
    document.message(2, info);
    let mut paths = Message::default();
    paths.named(2, &v2["paths"], encode_path);
    document.message(8, paths);
    let mut definitions = Message::default();
    definitions.named(1, &v2["definitions"], encode_schema);
    document.message(9, definitions);
    document.0
}

fn encode_path(path: &Value) -> Message {
    let mut message = Message::default();
    for (method, field) in [("get", 2), ("put", 3), ("post", 4), ("delete", 5), ("patch", 8)] {
        if path[method].is_object() {
            message.message(field, encode_operation(&path[method]));
        }
    }
    message
}

fn encode_operation(operation: &Value) -> Message {
    let mut message = Message::default();
    message.text(5, &operation["operationId"]);
    for parameter in operation["parameters"].as_array().into_iter().flatten() {
        let mut query = Message::default();
        query.text(2, &parameter["in"]);
        query.text(4, &parameter["name"]);
        query.text(6, &parameter["type"]);
        // ParametersItem, Parameter, NonBodyParameter, QueryParameterSubSchema.
        let nested = [3, 2, 1].into_iter().fold(query, |inner, field| {
            let mut outer = Message::default();
            outer.message(field, inner);
            outer
        });
        message.message(8, nested);
    }
    let mut responses = Message::default();
    responses.named(1, &operation["responses"], encode_response);
    message.message(9, responses);
    message.extensions(13, operation);
    message
}

fn encode_response(response: &Value) -> Message {
    let mut inner = Message::default();
    inner.text(1, &response["description"]);
    let mut item = Message::default();
    item.message(1, encode_schema(&response["schema"]));
    inner.message(2, item);
    let mut message = Message::default();
    message.message(1, inner);
    message
}

fn encode_schema(schema: &Value) -> Message {
    let mut message = Message::default();
    message.text(1, &schema["$ref"]);
    message.text(2, &schema["format"]);
    message.text(4, &schema["description"]);
    if let Some(default) = schema.get("default") {
        message.message(5, any(default));
    }
    for name in schema["required"].as_array().into_iter().flatten() {
        message.text(19, name);
    }
    for value in schema["enum"].as_array().into_iter().flatten() {
        message.message(20, any(value));
    }
    match &schema["additionalProperties"] {
        Value::Bool(allowed) => {
            let mut item = Message::default();
            item.truth(2, *allowed);
            message.message(21, item);
        }
        value @ Value::Object(_) => {
            let mut item = Message::default();
            item.message(1, encode_schema(value));
            message.message(21, item);
        }
        _ => {}
    }
    if schema["type"].is_string() {
        let mut item = Message::default();
        item.text(1, &schema["type"]);
        message.message(22, item);
    }
    if schema["items"].is_object() {
        let mut item = Message::default();
        item.message(1, encode_schema(&schema["items"]));
        message.message(23, item);
    }
    if schema["properties"].is_object() {
        let mut properties = Message::default();
        properties.named(1, &schema["properties"], encode_schema);
        message.message(25, properties);
    }
    message.extensions(31, schema);
    message
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn v3_is_rewritten() {
        let v3 = json!({"info": {"title": "t", "version": "v"}, "paths": {"/api/v1/pods/{name}": {"patch": {
            "parameters": [{"name": "fieldValidation", "in": "query", "schema": {"type": "string"}}],
            "responses": {"200": {"content": {"application/json":
                {"schema": {"$ref": "#/components/schemas/Pod"}}}}},
            "x-kubernetes-group-version-kind": {"kind": "Pod"}}}},
            "components": {"schemas": {"Pod": {"type": "object", "properties": {
                "spec": {"allOf": [{"$ref": "#/components/schemas/Spec"}], "default": {}},
                "size": {"oneOf": [{"type": "string"}, {"type": "number"}]}}}}}});
        let v2 = from_v3(&v3);
        let patch = &v2["paths"]["/api/v1/pods/{name}"]["patch"];
        assert_eq!(
            patch["parameters"],
            json!([{"name": "fieldValidation", "in": "query", "type": "string"}])
        );
        assert_eq!(patch["responses"]["200"]["schema"]["$ref"], "#/definitions/Pod");
        assert_eq!(
            v2["definitions"]["Pod"],
            json!({"type": "object", "properties": {"spec": {"$ref": "#/definitions/Spec"},
                "size": {"type": "string"}}})
        );
    }

    #[test]
    fn messages_are_written_as_gnostics() {
        let schema = json!({"type": "array", "items": {"$ref": "#/definitions/A"}, "x-k": 1});
        let expected = [
            &[0xb2, 0x01, 7, 0x0a, 5][..],
            b"array", // type
            &[0xba, 0x01, 19, 0x0a, 17, 0x0a, 15],
            b"#/definitions/A", // items
            &[0xfa, 0x01, 10, 0x0a, 3],
            b"x-k",
            &[0x12, 3, 0x12, 1],
            b"1", // extension
        ];
        assert_eq!(encode_schema(&schema).0, expected.concat());
    }
}
