//! Structural schemas of built-in types, for definitions that have them inside.

use serde_json::{Map, Value, json};

use super::MAX_DEPTH;
use crate::schema::{Kind, Type, builtin};

/// Puts the structural schema of a built-in type in the place of every `$ref: NAME`, as in
/// `$ref: api.core.v1.PodTemplateSpec`. Gives the first name that is no built-in type.
///
/// # Errors
/// The name.
pub fn inline_builtin(schema: &mut Value) -> Result<(), String> {
    match schema {
        Value::Object(object) => {
            if let Some(name) = object.get("$ref").and_then(Value::as_str) {
                let ty = builtin().named(name).ok_or_else(|| name.to_owned())?;
                *schema = type_schema(&ty, MAX_DEPTH);
                return Ok(());
            }
            object.values_mut().try_for_each(inline_builtin)
        }
        Value::Array(items) => items.iter_mut().try_for_each(inline_builtin),
        _ => Ok(()),
    }
}

fn type_schema(ty: &Type, depth: usize) -> Value {
    let Some(depth) = depth.checked_sub(1) else { return free_schema() };
    let properties = ty.fields.iter().map(|field| (field.name.clone(), kind_schema(&field.kind, depth)));
    let mut schema = json!({"type": "object", "properties": properties.collect::<Map<_, _>>()});
    let required: Vec<&str> = ty.fields.iter().filter(|f| f.required).map(|f| f.name.as_str()).collect();
    if !required.is_empty() {
        schema["required"] = json!(required);
    }
    if ty.atomic {
        schema["x-kubernetes-map-type"] = "atomic".into();
    }
    schema
}

fn free_schema() -> Value {
    json!({"x-kubernetes-preserve-unknown-fields": true})
}

fn kind_schema(kind: &Kind, depth: usize) -> Value {
    match kind {
        Kind::Str | Kind::Bytes => json!({"type": "string"}),
        Kind::Bool => json!({"type": "boolean"}),
        Kind::I32 => json!({"type": "integer", "format": "int32"}),
        Kind::I64 => json!({"type": "integer", "format": "int64"}),
        Kind::F64 => json!({"type": "number"}),
        Kind::Time | Kind::MicroTime => json!({"type": "string", "format": "date-time"}),
        Kind::IntOrString => json!({"x-kubernetes-int-or-string": true}),
        Kind::List(item) => json!({"type": "array", "items": kind_schema(item, depth)}),
        Kind::Map(value) => json!({"type": "object", "additionalProperties": kind_schema(value, depth)}),
        Kind::Object(ty) => type_schema(ty, depth),
        // A quantity may be a number with a fraction, which no structural schema says beside texts.
        _ => free_schema(),
    }
}
