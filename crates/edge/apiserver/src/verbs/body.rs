//! Request bodies to objects: format, type, field validation.

use http::{HeaderMap, header};
use serde_json::Value;
use wharf_api::{
    codec::{DecodeError, decode_envelope, decode_json, decode_message, decode_value, yaml_with_duplicates},
    resource::Resource,
    schema::{Gvk, Type, builtin},
    status::Status,
};

use crate::{Context, audit};

/// In which form a body comes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum BodyKind {
    Json,
    Yaml,
    Protobuf,
}

impl BodyKind {
    pub(crate) fn of(headers: &HeaderMap) -> Result<Self, Status> {
        let text =
            headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok()).unwrap_or("application/json");
        match text.split(';').next().unwrap_or_default().trim() {
            "application/json" | "" => Ok(Self::Json),
            "application/yaml" => Ok(Self::Yaml),
            "application/vnd.kubernetes.protobuf" => Ok(Self::Protobuf),
            other => Err(Status::unsupported_media_type(format!(
                "the body of the request was in an unknown format - accepted media types include: application/json, application/yaml, application/vnd.kubernetes.protobuf; it was {other}"
            ))),
        }
    }
}

fn syntax(error: &DecodeError) -> Status {
    Status::bad_request(error.to_string())
}

/// Decodes a body as an object of the resource, honouring `fieldValidation`.
pub(crate) fn decode_body(
    context: &mut Context,
    resource: &Resource,
    kind: BodyKind,
    body: &[u8],
) -> Result<Value, Status> {
    let (object, strict) = typed(kind, body, &resource.ty).map_err(|error| {
        let Gvk { version, kind, .. } = &resource.gvk;
        match error {
            DecodeError::Type { message, .. } => Status::bad_request(format!(
                "{kind} in version {version:?} cannot be handled as a {kind}: {message}"
            )),
            other => syntax(&other),
        }
    })?;
    check_kind(&object, resource)?;
    let object = with_kind(object, resource);
    audit::note(|record| record.request_object(&object));
    field_validation(context, resource, strict)?;
    Ok(object)
}

/// Decodes a body of another built-in kind (options, scales, reviews).
pub(crate) fn decode_other(kind: BodyKind, body: &[u8], ty: &Type) -> Result<Value, Status> {
    let (object, _) = typed(kind, body, ty).map_err(|e| syntax(&e))?;
    audit::note(|record| record.request_object(&object));
    Ok(object)
}

fn typed(kind: BodyKind, body: &[u8], ty: &Type) -> Result<(Value, Vec<String>), DecodeError> {
    let decoded = match kind {
        BodyKind::Json => decode_json(body, ty)?,
        BodyKind::Yaml => {
            let text =
                std::str::from_utf8(body).map_err(|_| DecodeError::Syntax("the body is not UTF-8".into()))?;
            let (value, twice) = yaml_with_duplicates(text)?;
            let mut decoded = decode_value(value, ty)?;
            decoded.strict.splice(0..0, twice);
            decoded
        }
        BodyKind::Protobuf => {
            let envelope = decode_envelope(body)?;
            let mut object = decode_message(envelope.raw, ty)?;
            if let Value::Object(map) = &mut object {
                for (name, text) in [("apiVersion", envelope.api_version), ("kind", envelope.kind)] {
                    if !text.is_empty() {
                        map.insert(name.into(), text.into());
                    }
                }
            }
            return Ok((object, Vec::new()));
        }
    };
    Ok((decoded.object, decoded.strict))
}

fn check_kind(object: &Value, resource: &Resource) -> Result<(), Status> {
    let text = |name: &str| object[name].as_str().unwrap_or_default();
    let (kind, api_version) = (text("kind"), text("apiVersion"));
    let expected = resource.gvk.api_version();
    if (!kind.is_empty() && kind != resource.gvk.kind) || (!api_version.is_empty() && api_version != expected)
    {
        return Err(Status::bad_request(format!(
            "{kind} in version {api_version:?} cannot be handled as a {}: the object provided is unrecognized (must be of type {}/{})",
            resource.gvk.kind, expected, resource.gvk.kind
        )));
    }
    Ok(())
}

fn with_kind(mut object: Value, resource: &Resource) -> Value {
    if let Value::Object(map) = &mut object {
        map.insert("apiVersion".into(), resource.gvk.api_version().into());
        map.insert("kind".into(), resource.gvk.kind.as_str().into());
    }
    object
}

/// Refuses, warns of or passes over unknown and duplicate fields.
pub(crate) fn field_validation(
    context: &mut Context,
    resource: &Resource,
    strict: Vec<String>,
) -> Result<(), Status> {
    match context.info.param("fieldValidation") {
        Some("Ignore") => Ok(()),
        None | Some("" | "Warn") => {
            context.warnings.extend(strict);
            Ok(())
        }
        Some("Strict") if strict.is_empty() => Ok(()),
        Some("Strict") => Err(Status::bad_request(format!(
            "{0} in version {1:?} cannot be handled as a {0}: strict decoding error: {2}",
            resource.gvk.kind,
            resource.gvk.version,
            strict.join(", ")
        ))),
        Some(other) => Err(Status::new(
            422,
            "Invalid",
            format!(
                "fieldValidation: Unsupported value: {other:?}: supported values: \"Ignore\", \"Strict\", \"Warn\""
            ),
        )),
    }
}

/// The type of options bodies (`metav1.DeleteOptions`).
pub(super) fn meta_type(name: &str) -> Result<wharf_api::schema::TypeRef, Status> {
    let full = format!("apimachinery.pkg.apis.meta.v1.{name}");
    builtin().named(&full).ok_or_else(|| Status::internal(format!("the schema has no {full}")))
}
