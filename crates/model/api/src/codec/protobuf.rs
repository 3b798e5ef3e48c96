//! Kubernetes' protobuf encoding, driven by the schema's field numbers.
//!
//! Source: `generated.proto` of the published API packages; the envelope is that of
//! `k8s.io/apimachinery/pkg/runtime/serializer/protobuf`: four magic bytes, then `runtime.Unknown`.
//!
//! Go writes every field that is no pointer, zero or not, and JSON leaves such zeros out. A zero is
//! therefore dropped on decoding, unless the field is a pointer in Go or must always be there.

use base64::{Engine, engine::general_purpose::STANDARD};
use serde_json::{Map, Value};
use wharf_base::Timestamp;

use super::DecodeError;
use crate::schema::{Field, Kind, Type, TypeRef, builtin};

const MAGIC: &[u8] = b"k8s\0";
const MAX_DEPTH: usize = 100;
const SCHEMA_PROPS: &str = "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";

/// The outer message of every encoded object (`runtime.Unknown`).
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Envelope<'a> {
    /// `apiVersion` of the object.
    pub api_version: String,
    /// `kind` of the object.
    pub kind: String,
    /// The object's own message.
    pub raw: &'a [u8],
}

/// Splits an encoded object into its type and its message.
///
/// # Errors
/// When the magic bytes are missing or the envelope is broken.
pub fn decode_envelope(bytes: &[u8]) -> Result<Envelope<'_>, DecodeError> {
    let body = bytes.strip_prefix(MAGIC).ok_or_else(|| {
        DecodeError::Syntax(
            "provided data does not appear to be a protobuf message: it does not start with 'k8s\\0'".into(),
        )
    })?;
    let mut envelope = Envelope { api_version: String::new(), kind: String::new(), raw: &[] };
    let mut reader = Reader(body);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Bytes(meta)) => {
                let mut meta = Reader(meta);
                while let Some((number, wire)) = meta.next()? {
                    match (number, wire) {
                        (1, Wire::Bytes(text)) => envelope.api_version = utf8(text)?,
                        (2, Wire::Bytes(text)) => envelope.kind = utf8(text)?,
                        _ => {}
                    }
                }
            }
            (2, Wire::Bytes(raw)) => envelope.raw = raw,
            _ => {}
        }
    }
    Ok(envelope)
}

/// Wraps a message as [`decode_envelope`] reads it.
pub fn encode_envelope(api_version: &str, kind: &str, raw: &[u8]) -> Vec<u8> {
    let mut meta = Vec::new();
    put_bytes(&mut meta, 1, api_version.as_bytes());
    put_bytes(&mut meta, 2, kind.as_bytes());
    let mut out = Vec::with_capacity(raw.len() + meta.len() + 20);
    out.extend_from_slice(MAGIC);
    put_bytes(&mut out, 1, &meta);
    put_bytes(&mut out, 2, raw);
    put_bytes(&mut out, 3, b"");
    put_bytes(&mut out, 4, b"");
    out
}

/// One frame of a protobuf watch: its length in four bytes, then a `metav1.WatchEvent` whose object
/// is in its envelope.
pub fn encode_watch_event(event: &str, object: &[u8]) -> Vec<u8> {
    let mut raw = Vec::with_capacity(object.len() + 8);
    put_bytes(&mut raw, 1, object);
    let mut message = Vec::with_capacity(raw.len() + 16);
    put_bytes(&mut message, 1, event.as_bytes());
    put_bytes(&mut message, 2, &raw);
    let mut frame = (message.len() as u32).to_be_bytes().to_vec();
    frame.append(&mut message);
    frame
}

/// The message of an object; what has no field number is left out.
pub fn encode_message(object: &Value, ty: &Type) -> Vec<u8> {
    let mut out = Vec::new();
    if let Value::Object(map) = object {
        let fields: Vec<&Field> = ty.fields.iter().filter(|f| map.contains_key(&f.name)).collect();
        put_fields(&mut out, map, &fields, 0);
    }
    out
}

fn put_fields(out: &mut Vec<u8>, object: &Map<String, Value>, fields: &[&Field], depth: usize) {
    let mut inlined: Vec<u32> = Vec::new();
    for field in fields {
        match field.tags.len().checked_sub(depth) {
            Some(1) => {
                if let Some(value) = object.get(&field.name) {
                    put_field(out, field.tags[depth], &field.kind, value);
                }
            }
            Some(2..) if !inlined.contains(&field.tags[depth]) => inlined.push(field.tags[depth]),
            _ => {}
        }
    }
    for tag in inlined {
        let inner: Vec<&Field> =
            fields.iter().copied().filter(|f| f.tags.len() > depth + 1 && f.tags[depth] == tag).collect();
        let mut message = Vec::new();
        put_fields(&mut message, object, &inner, depth + 1);
        put_bytes(out, tag, &message);
    }
}

fn put_field(out: &mut Vec<u8>, tag: u32, kind: &Kind, value: &Value) {
    match (kind, value) {
        (_, Value::Null) => {}
        (Kind::List(item), Value::Array(items)) => items.iter().for_each(|i| put_field(out, tag, item, i)),
        (Kind::Map(inner), Value::Object(entries)) => {
            for (key, value) in entries {
                let mut entry = Vec::new();
                put_bytes(&mut entry, 1, key.as_bytes());
                match inner.as_ref() {
                    // A list cannot be a map value in protobuf: it travels in a message of its own.
                    list @ Kind::List(_) => {
                        let mut wrapper = Vec::new();
                        put_field(&mut wrapper, 1, list, value);
                        put_bytes(&mut entry, 2, &wrapper);
                    }
                    inner => put_field(&mut entry, 2, inner, value),
                }
                put_bytes(out, tag, &entry);
            }
        }
        (Kind::Bool, Value::Bool(b)) => put_varint_field(out, tag, u64::from(*b)),
        (Kind::I32 | Kind::I64, Value::Number(n)) => {
            put_varint_field(out, tag, n.as_i64().unwrap_or_default() as u64);
        }
        (Kind::F64, Value::Number(n)) => {
            put_varint(out, u64::from(tag) << 3 | 1);
            out.extend_from_slice(&n.as_f64().unwrap_or_default().to_le_bytes());
        }
        (Kind::Str, Value::String(text)) => put_bytes(out, tag, text.as_bytes()),
        (Kind::Bytes, Value::String(text)) => {
            let compact: String = text.chars().filter(|c| !c.is_whitespace()).collect();
            put_bytes(out, tag, &STANDARD.decode(compact).unwrap_or_default());
        }
        _ => put_bytes(out, tag, &nested(kind, value)),
    }
}

/// Kinds that are messages of their own.
fn nested(kind: &Kind, value: &Value) -> Vec<u8> {
    let mut message = Vec::new();
    match (kind, value) {
        (Kind::Object(ty), value) => return encode_message(value, ty),
        (Kind::Time | Kind::MicroTime, Value::String(text)) => {
            if let Ok(time) = text.parse::<Timestamp>() {
                put_varint_field(&mut message, 1, time.as_second() as u64);
                put_varint_field(&mut message, 2, time.subsec_nanos() as u64);
            }
        }
        (Kind::Quantity, Value::String(text)) => put_bytes(&mut message, 1, text.as_bytes()),
        (Kind::IntOrString, Value::String(text)) => {
            put_varint_field(&mut message, 1, 1);
            put_varint_field(&mut message, 2, 0);
            put_bytes(&mut message, 3, text.as_bytes());
        }
        (Kind::IntOrString, value) => {
            put_varint_field(&mut message, 1, 0);
            put_varint_field(&mut message, 2, value.as_i64().unwrap_or_default() as u64);
            put_bytes(&mut message, 3, b"");
        }
        (Kind::SchemaOrBool, Value::Bool(b)) => put_varint_field(&mut message, 1, u64::from(*b)),
        (Kind::SchemaOrBool, schema) => {
            put_varint_field(&mut message, 1, 1);
            put_bytes(&mut message, 2, &schema_props(schema));
        }
        (Kind::SchemaOrArray, Value::Array(schemas)) => {
            schemas.iter().for_each(|s| put_bytes(&mut message, 2, &schema_props(s)));
        }
        (Kind::SchemaOrStrings, Value::Array(names)) => {
            names.iter().filter_map(Value::as_str).for_each(|n| put_bytes(&mut message, 2, n.as_bytes()));
        }
        (Kind::SchemaOrArray | Kind::SchemaOrStrings, schema) => {
            put_bytes(&mut message, 1, &schema_props(schema));
        }
        (_, any) => put_bytes(&mut message, 1, any.to_string().as_bytes()),
    }
    message
}

fn schema_props(schema: &Value) -> Vec<u8> {
    builtin().named(SCHEMA_PROPS).map(|ty| encode_message(schema, &ty)).unwrap_or_default()
}

fn put_varint(out: &mut Vec<u8>, mut n: u64) {
    while n >= 0x80 {
        out.push(n as u8 | 0x80);
        n >>= 7;
    }
    out.push(n as u8);
}

fn put_varint_field(out: &mut Vec<u8>, tag: u32, n: u64) {
    put_varint(out, u64::from(tag) << 3);
    put_varint(out, n);
}

/// Appends a length-delimited field: how the items of a list are laid one after the other.
pub fn put_bytes(out: &mut Vec<u8>, tag: u32, bytes: &[u8]) {
    put_varint(out, u64::from(tag) << 3 | 2);
    put_varint(out, bytes.len() as u64);
    out.extend_from_slice(bytes);
}

/// Decodes the message of an object of type `ty`.
///
/// # Errors
/// When the bytes are no protobuf, text is no UTF-8, or messages nest too deep.
pub fn decode_message(bytes: &[u8], ty: &Type) -> Result<Value, DecodeError> {
    message(bytes, ty, MAX_DEPTH).map(Value::Object)
}

fn message(bytes: &[u8], ty: &Type, depth: usize) -> Result<Map<String, Value>, DecodeError> {
    let mut object = Map::new();
    fields(&mut object, bytes, ty, &mut Vec::new(), depth)?;
    Ok(object)
}

/// Reads the fields below a path of field numbers into the object that JSON inlines them into.
fn fields(
    object: &mut Map<String, Value>,
    bytes: &[u8],
    ty: &Type,
    path: &mut Vec<u32>,
    depth: usize,
) -> Result<(), DecodeError> {
    let depth =
        depth.checked_sub(1).ok_or_else(|| DecodeError::Limit("messages are nested too deep".into()))?;
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        path.push(number);
        let exact = ty.fields.iter().find(|f| f.tags == *path);
        match (exact, &wire) {
            (Some(field), _) => field_value(object, field, wire, depth)?,
            (None, Wire::Bytes(inner)) if ty.fields.iter().any(|f| f.tags.starts_with(path)) => {
                fields(object, inner, ty, path, depth)?;
            }
            // A number the schema does not know is of a newer version: skipped, as protobuf asks.
            _ => {}
        }
        path.pop();
    }
    Ok(())
}

fn field_value(
    object: &mut Map<String, Value>,
    field: &Field,
    wire: Wire<'_>,
    depth: usize,
) -> Result<(), DecodeError> {
    match &field.kind {
        Kind::List(item) => {
            let list = object.entry(field.name.as_str()).or_insert_with(|| Value::Array(Vec::new()));
            if let Value::Array(items) = list {
                list_items(items, item, wire, depth)?;
            }
        }
        Kind::Map(inner) => {
            let map = object.entry(field.name.as_str()).or_insert_with(|| Value::Object(Map::new()));
            if let (Value::Object(entries), Wire::Bytes(entry)) = (map, wire) {
                let (key, value) = map_entry(inner, entry, depth)?;
                entries.insert(key, value);
            }
        }
        kind => {
            let value = scalar(kind, wire, depth)?;
            let meant = field.optional || field.required;
            if value.is_null() || (is_zero(&value) && !meant) {
                object.remove(&field.name);
            } else {
                object.insert(field.name.clone(), value);
            }
        }
    }
    Ok(())
}

fn is_zero(value: &Value) -> bool {
    match value {
        Value::Bool(b) => !b,
        Value::Number(n) => n.as_f64() == Some(0.0),
        Value::String(text) => text.is_empty(),
        _ => false,
    }
}

fn list_items(items: &mut Vec<Value>, kind: &Kind, wire: Wire<'_>, depth: usize) -> Result<(), DecodeError> {
    // Packed form of numbers: one field with all of them.
    if let (Kind::I32 | Kind::I64 | Kind::Bool, Wire::Bytes(packed)) = (kind, &wire) {
        let mut reader = Reader(packed);
        while !reader.0.is_empty() {
            let n = reader.varint()?;
            items.push(scalar(kind, Wire::Varint(n), depth)?);
        }
        return Ok(());
    }
    items.push(scalar(kind, wire, depth)?);
    Ok(())
}

fn map_entry(kind: &Kind, entry: &[u8], depth: usize) -> Result<(String, Value), DecodeError> {
    let (mut key, mut value) = (String::new(), Value::Null);
    let mut reader = Reader(entry);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire, kind) {
            (1, Wire::Bytes(text), _) => key = utf8(text)?,
            (2, Wire::Bytes(wrapper), Kind::List(item)) => {
                let mut items = Vec::new();
                let mut wrapper = Reader(wrapper);
                while let Some((_, wire)) = wrapper.next()? {
                    list_items(&mut items, item, wire, depth)?;
                }
                value = items.into();
            }
            (2, wire, _) => value = scalar(kind, wire, depth)?,
            _ => {}
        }
    }
    if value.is_null() {
        value = match kind {
            Kind::Object(_) => Map::new().into(),
            Kind::List(_) => Vec::<Value>::new().into(),
            _ => "".into(),
        };
    }
    Ok((key, value))
}

fn scalar(kind: &Kind, wire: Wire<'_>, depth: usize) -> Result<Value, DecodeError> {
    Ok(match (kind, wire) {
        (Kind::Str, Wire::Bytes(text)) => utf8(text)?.into(),
        (Kind::Bytes, Wire::Bytes(bytes)) => STANDARD.encode(bytes).into(),
        (Kind::Bool, Wire::Varint(n)) => (n != 0).into(),
        (Kind::I32, Wire::Varint(n)) => (n as i32).into(),
        (Kind::I64, Wire::Varint(n)) => (n as i64).into(),
        (Kind::F64, Wire::Fixed64(n)) => f64::from_bits(n).into(),
        (Kind::Object(ty), Wire::Bytes(bytes)) => message(bytes, ty, depth)?.into(),
        (kind, Wire::Bytes(bytes)) => special(kind, bytes, depth)?,
        _ => return Err(DecodeError::Syntax("a field has another wire type than its number says".into())),
    })
}

/// Kinds whose JSON form is not that of their message.
fn special(kind: &Kind, bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
    let (mut first, mut second) = (0, 0);
    let mut texts: Vec<(u32, &[u8])> = Vec::new();
    let mut reader = Reader(bytes);
    while let Some((number, wire)) = reader.next()? {
        match (number, wire) {
            (1, Wire::Varint(n)) => first = n,
            (2, Wire::Varint(n)) => second = n,
            (number, Wire::Bytes(bytes)) => texts.push((number, bytes)),
            _ => {}
        }
    }
    let text = |number| texts.iter().find(|(n, _)| *n == number).map(|(_, bytes)| *bytes);
    let time = Timestamp::from_unix(first as i64, (second as i32).clamp(0, 999_999_999));
    Ok(match kind {
        Kind::Time | Kind::MicroTime if bytes.is_empty() => Value::Null,
        Kind::Time => time.to_string().into(),
        Kind::MicroTime => time.to_micro().into(),
        Kind::Quantity => match utf8(text(1).unwrap_or_default())?.parse::<wharf_base::Quantity>() {
            Ok(quantity) => quantity.to_string().into(),
            Err(_) if text(1).unwrap_or_default().is_empty() => "0".into(),
            Err(error) => {
                let message = error.to_string();
                return Err(DecodeError::Type { plain: message.clone(), message });
            }
        },
        Kind::IntOrString if first == 1 => utf8(text(3).unwrap_or_default())?.into(),
        Kind::IntOrString => (second as i32).into(),
        Kind::SchemaOrBool => match text(2) {
            Some(schema) => schema_from(schema, depth)?,
            None => (first != 0).into(),
        },
        Kind::SchemaOrArray | Kind::SchemaOrStrings => match text(1) {
            Some(schema) => schema_from(schema, depth)?,
            None => Value::Array(
                texts
                    .iter()
                    .map(|(_, bytes)| match kind {
                        Kind::SchemaOrArray => schema_from(bytes, depth),
                        _ => utf8(bytes).map(Value::from),
                    })
                    .collect::<Result<_, _>>()?,
            ),
        },
        _ => match text(1) {
            Some(json) => serde_json::from_slice(json).map_err(|e| DecodeError::Syntax(e.to_string()))?,
            None => Map::new().into(),
        },
    })
}

fn schema_from(bytes: &[u8], depth: usize) -> Result<Value, DecodeError> {
    match builtin().named(SCHEMA_PROPS) {
        Some(TypeRef::Builtin(i)) => message(bytes, &builtin().types()[i as usize], depth).map(Value::Object),
        _ => Ok(Value::Null),
    }
}

fn utf8(bytes: &[u8]) -> Result<String, DecodeError> {
    String::from_utf8(bytes.to_vec()).map_err(|_| DecodeError::Syntax("a text field is not UTF-8".into()))
}

enum Wire<'a> {
    Varint(u64),
    Fixed64(u64),
    Bytes(&'a [u8]),
    Fixed32,
}

struct Reader<'a>(&'a [u8]);

impl<'a> Reader<'a> {
    fn next(&mut self) -> Result<Option<(u32, Wire<'a>)>, DecodeError> {
        if self.0.is_empty() {
            return Ok(None);
        }
        let key = self.varint()?;
        let number = u32::try_from(key >> 3).ok().filter(|n| *n > 0).ok_or_else(truncated)?;
        let wire = match key & 7 {
            0 => Wire::Varint(self.varint()?),
            1 => Wire::Fixed64(u64::from_le_bytes(self.take(8)?.try_into().map_err(|_| truncated())?)),
            2 => {
                let len = usize::try_from(self.varint()?).map_err(|_| truncated())?;
                Wire::Bytes(self.take(len)?)
            }
            5 => {
                self.take(4)?;
                Wire::Fixed32
            }
            _ => return Err(truncated()),
        };
        Ok(Some((number, wire)))
    }

    fn varint(&mut self) -> Result<u64, DecodeError> {
        let mut n = 0;
        for shift in (0..70).step_by(7) {
            let byte = self.take(1)?[0];
            n |= u64::from(byte & 0x7f).checked_shl(shift).unwrap_or(0);
            if byte < 0x80 {
                return Ok(n);
            }
        }
        Err(truncated())
    }

    fn take(&mut self, len: usize) -> Result<&'a [u8], DecodeError> {
        let (taken, rest) = self.0.split_at_checked(len).ok_or_else(truncated)?;
        self.0 = rest;
        Ok(taken)
    }
}

fn truncated() -> DecodeError {
    DecodeError::Syntax("the protobuf message is broken or cut short".into())
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Gvk;

    fn check(kind: (&str, &str, &str), object: Value) {
        let ty = builtin().of_kind(&Gvk::new(kind.0, kind.1, kind.2)).unwrap();
        let bytes = encode_message(&object, &ty);
        assert_eq!(decode_message(&bytes, &ty).unwrap(), object);
    }

    #[test]
    fn objects_survive_the_round_trip() {
        check(
            ("apps", "v1", "Deployment"),
            json!({"metadata": {"name": "web", "labels": {"a": "b"}, "creationTimestamp": "2026-01-02T15:04:05Z",
                    "managedFields": [{"manager": "m", "fieldsType": "FieldsV1", "fieldsV1": {"f:spec": {}}}]},
                   "spec": {"replicas": 0, "selector": {"matchLabels": {"a": "b"}},
                    "strategy": {"rollingUpdate": {"maxSurge": "25%", "maxUnavailable": 0}},
                    "template": {"spec": {"containers": [{"name": "c", "image": "i",
                        "env": [{"name": "A", "valueFrom": {"secretKeyRef": {"name": "s", "key": "k"}}}],
                        "livenessProbe": {"httpGet": {"port": "http", "path": "/"}, "periodSeconds": 3},
                        "resources": {"limits": {"cpu": "500m"}}}],
                        "volumes": [{"name": "v", "emptyDir": {}}, {"name": "w", "configMap": {"name": "c", "defaultMode": 420}}]}}}}),
        );
    }

    #[test]
    fn irregular_kinds_survive_the_round_trip() {
        check(("", "v1", "Secret"), json!({"data": {"k": "AAEC/w=="}, "type": "Opaque"}));
        check(
            ("apiextensions.k8s.io", "v1", "CustomResourceDefinition"),
            json!({"spec": {"versions": [{"name": "v1", "schema": {"openAPIV3Schema": {"type": "object",
                "additionalProperties": {"type": "string"}, "default": {"a": [1, null]}, "enum": ["a", 1],
                "items": {"type": "integer"}}}, "subresources": {"status": {}}}]}}),
        );
        check(
            ("authorization.k8s.io", "v1", "SubjectAccessReview"),
            json!({"spec": {"extra": {"scopes": ["a", "b"]}, "groups": ["g"], "user": "u"}}),
        );
        check(
            ("networking.k8s.io", "v1", "Ingress"),
            json!({"spec": {"rules": [{"host": "h", "http": {"paths": [{"path": "/"}]}}]}}),
        );
    }

    #[test]
    fn broken_bytes_are_an_error() {
        let ty = builtin().of_kind(&Gvk::new("", "v1", "Pod")).unwrap();
        for bad in [&[0x0a, 0x05, 0x01][..], &[0xff; 20], &[0x08], &[0x0b]] {
            assert!(decode_message(bad, &ty).is_err());
        }
    }

    #[test]
    fn the_envelope_opens_again() {
        let bytes = encode_envelope("apps/v1", "Deployment", b"abc");
        let opened = decode_envelope(&bytes).unwrap();
        assert_eq!(
            (opened.api_version.as_str(), opened.kind.as_str(), opened.raw),
            ("apps/v1", "Deployment", &b"abc"[..])
        );
        assert!(decode_envelope(b"{}").is_err());
    }
}
