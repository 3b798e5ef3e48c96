//! Structural schemas: what the schema of a custom resource must be like, so that its objects can be pruned, defaulted
//! and merged.

use serde_json::Value;

use super::error::{FieldError, Reason};
use super::field::{Errors, Field};
use crate::crd;

const TYPES: [&str; 6] = ["array", "boolean", "integer", "number", "object", "string"];
const LIST_TYPES: [&str; 3] = ["atomic", "map", "set"];
const MAP_TYPES: [&str; 2] = ["atomic", "granular"];
/// Where values are described by what they have in common with others.
const JUNCTORS: [&str; 3] = ["allOf", "anyOf", "oneOf"];

/// Where a schema stands in the one around it.
#[derive(Clone, Copy, PartialEq, Eq)]
enum Place {
    Root,
    Property,
    Item,
}

/// The schema of a version.
pub(super) fn structural(schema: &Field<'_>, errors: &mut Errors) {
    check(schema, Place::Root, errors);
}

fn check(schema: &Field<'_>, place: Place, errors: &mut Errors) {
    let before = errors.len();
    for (key, why) in [
        ("$ref", "$ref is not supported"),
        ("$schema", "$schema is not supported"),
        ("id", "id is not supported"),
        ("definitions", "definitions is not supported"),
        ("dependencies", "dependencies is not supported"),
        ("patternProperties", "patternProperties is not supported"),
        ("additionalItems", "additionalItems is not supported"),
    ] {
        if schema.child(key).is_set() {
            errors.push(schema.child(key).forbidden(why));
        }
    }
    if schema.flag_at("/uniqueItems") {
        let why = "uniqueItems cannot be set to true since the runtime complexity becomes quadratic";
        errors.push(schema.child("uniqueItems").forbidden(why));
    }
    kind(schema, place, errors);
    members(schema, errors);
    topology(schema, errors);
    pattern(schema, errors);
    for junctor in JUNCTORS {
        for inner in schema.child(junctor).items() {
            values_only(&inner, schema, errors);
        }
    }
    let not = schema.child("not");
    if not.is_set() {
        values_only(&not, schema, errors);
    }
    // A default is compared with a schema that is one.
    if errors.len() == before {
        default(schema, errors);
    }
}

fn kind(schema: &Field<'_>, place: Place, errors: &mut Errors) {
    let ty = schema.child("type");
    let is_int_or_string = schema.flag_at("/x-kubernetes-int-or-string");
    let is_free = schema.flag_at("/x-kubernetes-preserve-unknown-fields");
    match (ty.text(), place) {
        ("", Place::Root) => errors.push(ty.required("must not be empty at the root")),
        ("", _) if is_int_or_string || is_free => {}
        ("", Place::Property) => errors.push(ty.required("must not be empty for specified object fields")),
        ("", Place::Item) => errors.push(ty.required("must not be empty for specified array items")),
        (text, _) if !TYPES.contains(&text) => errors.push(ty.not_supported(&TYPES)),
        (_, _) if is_int_or_string => {
            errors.push(ty.invalid("must be empty if x-kubernetes-int-or-string is true"));
        }
        (text, Place::Root) if text != "object" => errors.push(ty.invalid("must be object at the root")),
        (text, _) if text != "object" && schema.flag_at("/x-kubernetes-embedded-resource") => {
            errors.push(ty.invalid("must be object if x-kubernetes-embedded-resource is true"));
        }
        _ => {}
    }
}

/// What is inside: fields, entries, elements.
fn members(schema: &Field<'_>, errors: &mut Errors) {
    let ty = schema.text_at("/type");
    let (properties, additional) = (schema.child("properties"), schema.child("additionalProperties"));
    let items = schema.child("items");
    for (field, wanted) in [(&properties, "object"), (&additional, "object"), (&items, "array")] {
        if field.is_set() && TYPES.contains(&ty) && ty != wanted {
            errors.push(field.forbidden(format!("must not be set if type is {ty}: {wanted}s have it")));
        }
    }
    if !properties.is_empty() && additional.is_set() {
        errors.push(additional.forbidden("additionalProperties and properties are mutual exclusive"));
    }
    if additional.value() == false {
        errors.push(additional.forbidden("additionalProperties cannot be set to false"));
    }
    for (name, _) in properties.entries() {
        check(&properties.key(name), Place::Property, errors);
    }
    if additional.value().is_object() {
        check(&additional, Place::Property, errors);
    }
    match items.value() {
        Value::Null if ty == "array" => errors.push(items.required("must be specified")),
        Value::Array(_) => errors.push(items.forbidden("items must be a schema object and not an array")),
        Value::Object(_) => check(&items, Place::Item, errors),
        _ => {}
    }
}

/// How lists and maps are merged.
fn topology(schema: &Field<'_>, errors: &mut Errors) {
    let ty = schema.child("type");
    let (list_type, map_type) =
        (schema.child("x-kubernetes-list-type"), schema.child("x-kubernetes-map-type"));
    let keys = schema.child("x-kubernetes-list-map-keys");
    if list_type.is_set() && ty.text() != "array" {
        errors.push(ty.invalid("must be array if x-kubernetes-list-type is specified"));
    }
    if list_type.is_set() && !LIST_TYPES.contains(&list_type.text()) {
        errors.push(list_type.not_supported(&LIST_TYPES));
    }
    if map_type.is_set() && ty.text() != "object" {
        errors.push(ty.invalid("must be object if x-kubernetes-map-type is specified"));
    }
    if map_type.is_set() && !MAP_TYPES.contains(&map_type.text()) {
        errors.push(map_type.not_supported(&MAP_TYPES));
    }
    if list_type.text() != "map" {
        if !keys.is_empty() {
            let why = "must be map if x-kubernetes-list-map-keys is non-empty";
            errors.push(list_type.invalid(why));
        }
        return;
    }
    if keys.is_empty() {
        errors.push(keys.required("must not be empty if x-kubernetes-list-type is map"));
    }
    let items = schema.child("items");
    if items.text_at("/type") != "object" {
        let ty = items.child("type");
        errors.push(ty.invalid("must be object if parent array's x-kubernetes-list-type is map"));
        return;
    }
    let required = items.list_at("/required");
    for key in keys.items() {
        let property = items.value().get("properties").and_then(|p| p.get(key.text()));
        match property {
            None => errors.push(key.invalid("entries must all be names of item properties")),
            Some(property) if property.get("default").is_none() && !required.contains(key.value()) => {
                let (properties, name) = (items.child("properties"), key.text());
                let place = properties.key(name);
                let default = place.child("default");
                errors.push(default.required(format!(
                    "this property is in x-kubernetes-list-map-keys, so it must have a default or be a required property: {name}"
                )));
            }
            Some(_) => {}
        }
    }
}

fn pattern(schema: &Field<'_>, errors: &mut Errors) {
    let pattern = schema.child("pattern");
    if let Some(why) = crd::pattern_error(pattern.text()) {
        errors.push(pattern.invalid(format!("must be a valid regular expression, but isn't: {why}")));
    }
}

/// Below `allOf` and its like values are narrowed; what they are is said outside.
fn values_only(inner: &Field<'_>, outer: &Field<'_>, errors: &mut Errors) {
    let both = outer.flag_at("/x-kubernetes-int-or-string");
    for key in [
        "type",
        "additionalProperties",
        "default",
        "description",
        "nullable",
        "title",
        "x-kubernetes-preserve-unknown-fields",
        "x-kubernetes-embedded-resource",
        "x-kubernetes-int-or-string",
        "x-kubernetes-list-type",
        "x-kubernetes-list-map-keys",
        "x-kubernetes-map-type",
    ] {
        let field = inner.child(key);
        // The usual way to write that a value is a number or a text.
        let is_usual = both && key == "type" && matches!(field.text(), "integer" | "string");
        if field.is_set() && !is_usual {
            errors.push(field.forbidden("must be empty to be structural"));
        }
    }
    let properties = inner.child("properties");
    for (name, _) in properties.entries() {
        let place = properties.key(name);
        if outer.value().get("properties").and_then(|known| known.get(name)).is_none() {
            let known = outer.child("properties");
            errors.push(known.key(name).required(format!("because it is defined in {}", place.path())));
        } else {
            values_only(&place, &outer.child("properties").key(name), errors);
        }
    }
    let items = inner.child("items");
    if items.value().is_object() {
        values_only(&items, &outer.child("items"), errors);
    }
    for junctor in JUNCTORS {
        for deeper in inner.child(junctor).items() {
            values_only(&deeper, outer, errors);
        }
    }
    let not = inner.child("not");
    if not.is_set() {
        values_only(&not, outer, errors);
    }
    pattern(inner, errors);
}

fn default(schema: &Field<'_>, errors: &mut Errors) {
    let default = schema.child("default");
    if !default.is_set() {
        return;
    }
    for cause in crd::validate(default.value(), None, schema.value()) {
        let why = cause.message.split_once(" in body ").map_or(cause.message.as_str(), |(_, why)| why);
        let dot = if cause.field.is_empty() { "" } else { "." };
        errors.push(FieldError {
            reason: Reason::Invalid,
            field: format!("{}{dot}{}", default.path(), cause.field),
            value: default.value().clone(),
            message: why.to_owned(),
        });
    }
}
