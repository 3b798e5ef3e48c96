//! JSON, decoded along the schema in one pass: unknown fields are pruned and named, duplicates are
//! named, `null` is dropped, quantities and times come out in canonical form.

use std::{cell::RefCell, fmt};

use serde::de::{DeserializeSeed, Deserializer, IgnoredAny, MapAccess, SeqAccess, Visitor};
use serde_json::{Map, Number, Value};
use wharf_base::{Quantity, Timestamp};

use super::DecodeError;
use crate::schema::{Kind, Type, TypeRef, builtin};

/// An object decoded against its schema.
#[derive(Debug, Clone, PartialEq)]
pub struct Decoded {
    /// The object with unknown fields dropped.
    pub object: Value,
    /// What strict field validation refuses: `unknown field "spec.foo"`, `duplicate field "spec.bar"`.
    pub strict: Vec<String>,
}

/// How many strict errors are kept: enough to be useful, bounded against hostile bodies.
const MAX_STRICT: usize = 100;

/// Decodes JSON bytes as an object of type `ty`.
///
/// # Errors
/// When the bytes are no JSON or a value has the wrong type.
pub fn decode_json(body: &[u8], ty: &Type) -> Result<Decoded, DecodeError> {
    let mut deserializer = serde_json::Deserializer::from_slice(body);
    let walk = Walk::new();
    let object = walk.object(ty).deserialize(&mut deserializer).map_err(|e| walk.error(&e))?;
    deserializer.end().map_err(|e| walk.error(&e))?;
    Ok(walk.finish(object))
}

/// Checks and prunes a value tree as [`decode_json`] does bytes.
///
/// # Errors
/// When a value has the wrong type.
pub fn decode_value(value: Value, ty: &Type) -> Result<Decoded, DecodeError> {
    let walk = Walk::new();
    let object = walk.object(ty).deserialize(value).map_err(|e| walk.error(&e))?;
    Ok(walk.finish(object))
}

/// The bytes of a value; keys are sorted, so equal objects have equal bytes.
pub fn encode_json(value: &Value) -> Vec<u8> {
    serde_json::to_vec(value).unwrap_or_default()
}

enum Segment {
    Field(String),
    Index(usize),
}

/// State of one decoding: where it is, and what it found.
struct Walk {
    path: RefCell<Vec<Segment>>,
    strict: RefCell<Vec<String>>,
    mismatch: RefCell<Option<DecodeError>>,
}

impl Walk {
    fn new() -> Self {
        Self { path: RefCell::default(), strict: RefCell::default(), mismatch: RefCell::default() }
    }

    fn object<'a>(&'a self, ty: &'a Type) -> Node<'a> {
        Node { walk: self, what: What::Object(ty), nullable: false, owner: &ty.name }
    }

    fn finish(self, object: Value) -> Decoded {
        Decoded { object, strict: self.strict.into_inner() }
    }

    fn error(&self, error: &serde_json::Error) -> DecodeError {
        self.mismatch.borrow_mut().take().unwrap_or_else(|| DecodeError::Syntax(error.to_string()))
    }

    fn dotted(&self) -> String {
        let mut text = String::new();
        for segment in self.path.borrow().iter() {
            match segment {
                Segment::Field(name) if text.is_empty() => text.push_str(name),
                Segment::Field(name) => text.push_str(&format!(".{name}")),
                Segment::Index(i) => text.push_str(&format!("[{i}]")),
            }
        }
        text
    }

    fn note(&self, what: &str, field: &str) {
        if self.strict.borrow().len() < MAX_STRICT {
            let at = self.dotted();
            let dot = if at.is_empty() { "" } else { "." };
            self.strict.borrow_mut().push(format!("{what} field \"{at}{dot}{field}\""));
        }
    }

    fn within<T>(&self, segment: Segment, run: impl FnOnce() -> T) -> T {
        self.path.borrow_mut().push(segment);
        let result = run();
        self.path.borrow_mut().pop();
        result
    }
}

#[derive(Clone, Copy)]
enum What<'a> {
    Object(&'a Type),
    Kind(&'a Kind),
}

/// One position of the tree to decode.
struct Node<'a> {
    walk: &'a Walk,
    what: What<'a>,
    nullable: bool,
    /// Name of the type the position belongs to, for messages.
    owner: &'a str,
}

impl<'a> Node<'a> {
    fn child(&self, kind: &'a Kind, nullable: bool) -> Self {
        Self { walk: self.walk, what: What::Kind(kind), nullable, owner: self.owner }
    }

    fn mismatch<E: serde::de::Error>(&self, found: &str) -> E {
        let owner = self.owner.rsplit('.').next().unwrap_or_default();
        let at = self.walk.dotted();
        let message = match (at.is_empty(), go_name(self.what)) {
            (true, name) => format!("json: cannot unmarshal {found} into Go value of type {name}"),
            (false, name) => {
                format!("json: cannot unmarshal {found} into Go struct field {owner}.{at} of type {name}")
            }
        };
        self.say(DecodeError::Type {
            message,
            plain: format!(".{at}: expected {}, got {found}", self.expected()),
        })
    }

    /// What belongs here, in the words of server-side apply.
    fn expected(&self) -> &'static str {
        match self.what {
            What::Kind(Kind::Str | Kind::Bytes | Kind::Time | Kind::MicroTime) => "string",
            What::Kind(Kind::Bool) => "boolean",
            What::Kind(Kind::I32 | Kind::I64 | Kind::F64) => "numeric (int or float)",
            What::Kind(Kind::Quantity | Kind::IntOrString) => "string or numeric",
            What::Kind(Kind::List(_)) => "list",
            _ => "map",
        }
    }

    /// Whether a value of a wrong type is kept as it is. In custom resources it is: their schema, which
    /// [`crate::crd::validate`] compares them with, says what is wrong with all of it at once.
    fn keeps_wrong_types(&self) -> bool {
        let inside = !self.walk.path.borrow().is_empty();
        let builtin = matches!(self.what, What::Kind(Kind::Object(TypeRef::Builtin(_))));
        self.owner.is_empty() && inside && !builtin
    }

    fn scalar<E: serde::de::Error>(&self, value: Value, found: &str) -> Result<Value, E> {
        if self.keeps_wrong_types() { Ok(value) } else { Err(self.mismatch(found)) }
    }

    /// The value has the right type and is no value of its kind.
    fn fail<E: serde::de::Error>(&self, message: String) -> E {
        let at = self.walk.dotted();
        self.say(DecodeError::Type {
            message: format!("{at}: {message}"),
            plain: format!(".{at}: {message}"),
        })
    }

    fn say<E: serde::de::Error>(&self, error: DecodeError) -> E {
        self.walk.mismatch.borrow_mut().get_or_insert(error);
        E::custom("wrong type")
    }

    /// The kind here, with positions that hold any JSON told apart.
    fn is_free(&self) -> bool {
        matches!(self.what, What::Kind(Kind::Raw | Kind::Fields | Kind::Json))
    }

    fn schema_or(&self) -> Option<&'static Type> {
        matches!(self.what, What::Kind(Kind::SchemaOrBool | Kind::SchemaOrArray | Kind::SchemaOrStrings))
            .then(json_schema_props)
    }
}

fn json_schema_props() -> &'static Type {
    const NAME: &str = "apiextensions-apiserver.pkg.apis.apiextensions.v1.JSONSchemaProps";
    let index = builtin().types().binary_search_by(|t| t.name.as_str().cmp(NAME));
    static EMPTY: Type = Type {
        name: String::new(),
        kinds: Vec::new(),
        fields: Vec::new(),
        preserve_unknown: true,
        atomic: false,
    };
    index.map_or(&EMPTY, |i| &builtin().types()[i])
}

fn go_name(what: What<'_>) -> String {
    match what {
        What::Object(ty) => go_type(&ty.name),
        What::Kind(kind) => match kind {
            Kind::Str | Kind::Bytes => "string".into(),
            Kind::Bool => "bool".into(),
            Kind::I32 => "int32".into(),
            Kind::I64 => "int64".into(),
            Kind::F64 => "float64".into(),
            Kind::Time => "v1.Time".into(),
            Kind::MicroTime => "v1.MicroTime".into(),
            Kind::Quantity => "resource.Quantity".into(),
            Kind::IntOrString => "intstr.IntOrString".into(),
            Kind::Object(ty) => go_type(&ty.name),
            Kind::List(item) => format!("[]{}", go_name(What::Kind(item))),
            Kind::Map(value) => format!("map[string]{}", go_name(What::Kind(value))),
            _ => "object".into(),
        },
    }
}

fn go_type(name: &str) -> String {
    let mut parts = name.rsplit('.');
    match (parts.next(), parts.next()) {
        (Some(kind), Some(version)) => format!("{version}.{kind}"),
        _ => "object".into(),
    }
}

impl<'de> DeserializeSeed<'de> for Node<'_> {
    type Value = Value;

    fn deserialize<D: Deserializer<'de>>(self, deserializer: D) -> Result<Value, D::Error> {
        deserializer.deserialize_any(self)
    }
}

impl<'de> Visitor<'de> for Node<'_> {
    type Value = Value;

    fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str("a JSON value")
    }

    fn visit_unit<E: serde::de::Error>(self) -> Result<Value, E> {
        Ok(Value::Null)
    }

    fn visit_bool<E: serde::de::Error>(self, b: bool) -> Result<Value, E> {
        match self.what {
            What::Kind(Kind::Bool | Kind::SchemaOrBool) => Ok(Value::Bool(b)),
            _ if self.is_free() => Ok(Value::Bool(b)),
            _ => self.scalar(Value::Bool(b), "bool"),
        }
    }

    fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Value, E> {
        match self.what {
            What::Kind(Kind::I32 | Kind::IntOrString) if i32::try_from(n).is_err() => {
                self.scalar(n.into(), &format!("number {n}"))
            }
            What::Kind(Kind::I32 | Kind::IntOrString | Kind::I64) => Ok(n.into()),
            What::Kind(Kind::F64) => Ok(Number::from_f64(n as f64).map_or(Value::Null, Value::Number)),
            What::Kind(Kind::Quantity) => Ok(Quantity::from_units(n).to_string().into()),
            _ if self.is_free() => Ok(n.into()),
            _ => self.scalar(n.into(), "number"),
        }
    }

    fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Value, E> {
        match i64::try_from(n) {
            Ok(n) => self.visit_i64(n),
            Err(_) if self.is_free() => Ok(n.into()),
            Err(_) => self.scalar(n.into(), &format!("number {n}")),
        }
    }

    fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<Value, E> {
        match self.what {
            What::Kind(Kind::F64) => Ok(n.into()),
            What::Kind(Kind::Quantity) => n
                .to_string()
                .parse::<Quantity>()
                .map(|q| q.to_string().into())
                .map_err(|e| self.fail(e.to_string())),
            _ if self.is_free() => Ok(n.into()),
            _ => self.scalar(n.into(), &format!("number {n}")),
        }
    }

    fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Value, E> {
        self.visit_string(text.to_owned())
    }

    fn visit_string<E: serde::de::Error>(self, text: String) -> Result<Value, E> {
        match self.what {
            What::Kind(Kind::Str | Kind::IntOrString) => Ok(text.into()),
            What::Kind(Kind::Bytes) => match base64_error(&text) {
                None => Ok(text.into()),
                Some(at) => Err(self.fail(format!("illegal base64 data at input byte {at}"))),
            },
            What::Kind(Kind::Time) => match text.parse::<Timestamp>() {
                Ok(time) => Ok(time.to_string().into()),
                Err(error) => Err(self.fail(error.to_string())),
            },
            What::Kind(Kind::MicroTime) => match text.parse::<Timestamp>() {
                Ok(time) => Ok(time.to_micro().into()),
                Err(error) => Err(self.fail(error.to_string())),
            },
            What::Kind(Kind::Quantity) => match text.parse::<Quantity>() {
                Ok(quantity) => Ok(quantity.to_string().into()),
                Err(_) => Err(self.fail(
                    "quantities must match the regular expression '^([+-]?[0-9.]+)([eEinumkKMGTP]*[-+]?[0-9]*)$'"
                        .into(),
                )),
            },
            _ if self.is_free() => Ok(text.into()),
            _ if self.keeps_wrong_types() => Ok(text.into()),
            _ => Err(self.mismatch("string")),
        }
    }

    fn visit_seq<A: SeqAccess<'de>>(self, mut seq: A) -> Result<Value, A::Error> {
        let is_list = matches!(self.what, What::Kind(Kind::List(_)));
        if self.is_free() || (!is_list && self.keeps_wrong_types()) {
            let mut items = Vec::new();
            while let Some(item) = seq.next_element::<Value>()? {
                items.push(item);
            }
            return Ok(items.into());
        }
        let item_kind = match self.what {
            What::Kind(Kind::List(item)) => item.as_ref(),
            What::Kind(Kind::SchemaOrArray) => &Kind::Json,
            What::Kind(Kind::SchemaOrStrings) => &Kind::Str,
            _ => return Err(self.mismatch("array")),
        };
        let mut items = Vec::new();
        loop {
            let node = self.child(item_kind, true);
            let next = self.walk.within(Segment::Index(items.len()), || seq.next_element_seed(node))?;
            match next {
                Some(Value::Null) => items.push(zero(item_kind)),
                Some(item) => items.push(item),
                None => return Ok(items.into()),
            }
        }
    }

    fn visit_map<A: MapAccess<'de>>(self, map: A) -> Result<Value, A::Error> {
        match self.what {
            What::Object(ty) => self.fields(ty, map),
            What::Kind(Kind::Object(ty)) => {
                Node { walk: self.walk, what: self.what, nullable: self.nullable, owner: &ty.name }
                    .fields(ty, map)
            }
            What::Kind(Kind::Map(value)) => self.entries(value, map),
            _ if self.is_free() => self.entries(&Kind::Json, map),
            _ => match self.schema_or() {
                Some(ty) => self.fields(ty, map),
                None if self.keeps_wrong_types() => self.entries(&Kind::Json, map),
                None => Err(self.mismatch("object")),
            },
        }
    }
}

impl Node<'_> {
    fn entries<'de, A: MapAccess<'de>>(&self, kind: &Kind, mut map: A) -> Result<Value, A::Error> {
        let free = self.is_free();
        let mut object = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let node = Node { walk: self.walk, what: What::Kind(kind), nullable: true, owner: self.owner };
            let value = self.walk.within(Segment::Field(name.clone()), || map.next_value_seed(node))?;
            let value = if value.is_null() && !free { zero(kind) } else { value };
            if object.contains_key(&name) {
                self.walk.note("duplicate", &name);
            }
            object.insert(name, value);
        }
        Ok(object.into())
    }

    fn fields<'de, A: MapAccess<'de>>(&self, ty: &Type, mut map: A) -> Result<Value, A::Error> {
        let mut object = Map::new();
        while let Some(name) = map.next_key::<String>()? {
            let Some(field) = ty.field(&name) else {
                if ty.preserve_unknown {
                    object.insert(name, map.next_value::<Value>()?);
                } else {
                    self.walk.note("unknown", &name);
                    map.next_value::<IgnoredAny>()?;
                }
                continue;
            };
            if object.contains_key(&name) {
                self.walk.note("duplicate", &name);
            }
            let node = Node {
                walk: self.walk,
                what: What::Kind(&field.kind),
                nullable: field.nullable,
                owner: &ty.name,
            };
            let value = self.walk.within(Segment::Field(name.clone()), || map.next_value_seed(node))?;
            if value.is_null() && !field.nullable && !matches!(field.kind, Kind::Json) {
                object.remove(&name);
            } else {
                object.insert(name, value);
            }
        }
        Ok(object.into())
    }
}

/// What Go's decoder makes of `null` as a list item or map value.
fn zero(kind: &Kind) -> Value {
    match kind {
        Kind::Str | Kind::Bytes => "".into(),
        Kind::Bool => false.into(),
        Kind::I32 | Kind::I64 | Kind::IntOrString => 0.into(),
        Kind::F64 => 0.0.into(),
        Kind::Quantity => "0".into(),
        Kind::Object(_) => Map::new().into(),
        _ => Value::Null,
    }
}

/// Position of the first byte that is no standard base64, if there is one.
fn base64_error(text: &str) -> Option<usize> {
    use base64::{DecodeError, Engine, engine::general_purpose::STANDARD};
    // Go's decoder passes over line ends inside the text.
    let compact: String = text.chars().filter(|c| !matches!(c, '\n' | '\r')).collect();
    match STANDARD.decode(compact.as_bytes()) {
        Ok(_) => None,
        Err(DecodeError::InvalidByte(at, _) | DecodeError::InvalidLastSymbol(at, _)) => Some(at),
        Err(_) => Some(compact.len()),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::Gvk;

    fn check(kind: (&str, &str, &str), body: Value) -> Result<Decoded, DecodeError> {
        let ty = builtin().of_kind(&Gvk::new(kind.0, kind.1, kind.2)).unwrap();
        let bytes = decode_json(body.to_string().as_bytes(), &ty);
        assert_eq!(bytes, decode_value(body, &ty), "bytes and tree decode alike");
        bytes
    }

    const DEPLOYMENT: (&str, &str, &str) = ("apps", "v1", "Deployment");

    #[test]
    fn prunes_and_names_unknown_fields() {
        let decoded = check(
            DEPLOYMENT,
            json!({"kind": "Deployment", "spec": {"replicas": 2, "foo": {"a": 1}, "template": {"spec": {"containers": [{"name": "c", "imagee": "x"}]}}}}),
        )
        .unwrap();
        assert_eq!(
            decoded.strict,
            [r#"unknown field "spec.foo""#, r#"unknown field "spec.template.spec.containers[0].imagee""#]
        );
        assert_eq!(
            decoded.object,
            json!({"kind": "Deployment", "spec": {"replicas": 2, "template": {"spec": {"containers": [{"name": "c"}]}}}})
        );
    }

    #[test]
    fn names_duplicates_and_keeps_the_last() {
        let ty = builtin().of_kind(&Gvk::new("apps", "v1", "Deployment")).unwrap();
        let decoded = decode_json(br#"{"spec":{"replicas":1,"replicas":2}}"#, &ty).unwrap();
        assert_eq!(decoded.strict, [r#"duplicate field "spec.replicas""#]);
        assert_eq!(decoded.object, json!({"spec": {"replicas": 2}}));
    }

    #[test]
    fn normalises_scalars_and_drops_null() {
        let decoded = check(
            ("", "v1", "Pod"),
            json!({"metadata": {"creationTimestamp": null, "deletionTimestamp": "2026-01-02T15:04:05.9+01:00"},
                   "spec": {"containers": [{"resources": {"limits": {"cpu": 0.5, "memory": "1024Mi"}}}]}}),
        )
        .unwrap();
        assert_eq!(
            decoded.object,
            json!({"metadata": {"deletionTimestamp": "2026-01-02T14:04:05Z"},
                   "spec": {"containers": [{"resources": {"limits": {"cpu": "500m", "memory": "1Gi"}}}]}})
        );
    }

    #[test]
    fn says_which_field_has_the_wrong_type() {
        let message = |body| check(DEPLOYMENT, body).unwrap_err().to_string();
        assert_eq!(
            message(json!({"spec": {"replicas": "2"}})),
            "json: cannot unmarshal string into Go struct field DeploymentSpec.spec.replicas of type int32"
        );
        assert_eq!(message(json!([])), "json: cannot unmarshal array into Go value of type v1.Deployment");
        assert!(message(json!({"spec": {"replicas": 1.5}})).contains("number 1.5"));
        let DecodeError::Type { plain, .. } = check(DEPLOYMENT, json!({"spec": {"paused": 1}})).unwrap_err()
        else {
            panic!("another error")
        };
        assert_eq!(plain, ".spec.paused: expected boolean, got number");
        let amount = json!({"spec": {"containers": [{"resources": {"limits": {"cpu": "1x"}}}]}});
        let message = check(("", "v1", "Pod"), amount).unwrap_err().to_string();
        assert!(
            message.starts_with("spec.containers[0].resources.limits.cpu: quantities must match"),
            "{message}"
        );
    }
}
