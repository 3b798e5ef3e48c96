//! Values against the schema of their definition.

use std::collections::HashSet;

use serde_json::{Map, Value};

use super::{Earlier, merge};
use crate::{schema::Merge, status::Cause};

/// Violations kept per object.
const MAX_CAUSES: usize = 100;

/// Checks a value against a schema: types, and the rules of values. What is as it was in `old` is not judged again.
pub fn validate(object: &Value, old: Option<&Value>, schema: &Value) -> Vec<Cause> {
    let mut causes = Vec::new();
    check(object, old, schema, "", &mut causes);
    causes
}

fn cause(causes: &mut Vec<Cause>, reason: &str, field: &str, message: String) {
    if causes.len() < MAX_CAUSES {
        causes.push(Cause { reason: reason.to_owned(), field: field.to_owned(), message });
    }
}

fn check(value: &Value, old: Option<&Value>, schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    if (value.is_null() && schema["nullable"] == true) || old == Some(value) {
        return;
    }
    if let Some(wanted) = other_type(value, schema) {
        let found = type_name(value);
        let message =
            format!("Invalid value: \"{found}\": {path} in body must be of type {wanted}: \"{found}\"");
        return cause(causes, "FieldValueTypeInvalid", path, message);
    }
    if let Some(allowed) = schema["enum"].as_array()
        && !allowed.contains(value)
    {
        let list: Vec<String> = allowed.iter().map(Value::to_string).collect();
        let message = format!("Unsupported value: {value}: supported values: {}", list.join(", "));
        cause(causes, "FieldValueNotSupported", path, message);
    }
    combined(value, schema, path, causes);
    match value {
        Value::Object(object) => check_object(object, old, schema, path, causes),
        Value::Array(items) => check_list(items, old, value, schema, path, causes),
        Value::String(text) => {
            let length = text.chars().count() as f64;
            bounds(length, schema, ("minLength", "maxLength"), path, "chars long", value, causes);
            if let Some(pattern) = schema["pattern"].as_str()
                && regex_lite::Regex::new(pattern).is_ok_and(|regex| !regex.is_match(text))
            {
                let message = format!("Invalid value: {value}: {path} in body should match '{pattern}'");
                cause(causes, "FieldValueInvalid", path, message);
            }
            if let Some(format) = schema["format"].as_str()
                && !has_format(text, format)
            {
                let message =
                    format!("Invalid value: {value}: {path} in body must be of type {format}: {value}");
                cause(causes, "FieldValueInvalid", path, message);
            }
        }
        Value::Number(number) => {
            let number = number.as_f64().unwrap_or_default();
            bounds(number, schema, ("minimum", "maximum"), path, "", value, causes);
            if schema["format"] == "int32" && (number < i32::MIN.into() || number > i32::MAX.into()) {
                let message =
                    format!("Invalid value: {value}: {path} in body must be of type int32: {value}");
                cause(causes, "FieldValueInvalid", path, message);
            }
            if let Some(factor) = schema["multipleOf"].as_f64()
                && factor > 0.0
                && (number / factor).fract() != 0.0
            {
                let message =
                    format!("Invalid value: {value}: {path} in body should be a multiple of {factor}");
                cause(causes, "FieldValueInvalid", path, message);
            }
        }
        _ => {}
    }
}

/// The type a schema wants, when the value has another.
fn other_type<'a>(value: &Value, schema: &'a Value) -> Option<&'a str> {
    let is_integer = value.as_f64().is_some_and(|number| number.fract() == 0.0);
    if schema["x-kubernetes-int-or-string"] == true {
        return (!is_integer && !value.is_string()).then_some("integer,string");
    }
    let wanted = schema["type"].as_str()?;
    let has = match wanted {
        "integer" => is_integer,
        "number" => value.is_number(),
        "string" => value.is_string(),
        "boolean" => value.is_boolean(),
        "array" => value.is_array(),
        "object" => value.is_object(),
        _ => true,
    };
    (!has).then_some(wanted)
}

fn type_name(value: &Value) -> &'static str {
    match value {
        Value::Null => "null",
        Value::Bool(_) => "boolean",
        Value::Number(number) if number.is_f64() => "number",
        Value::Number(_) => "integer",
        Value::String(_) => "string",
        Value::Array(_) => "array",
        Value::Object(_) => "object",
    }
}

/// Why a `pattern` is no regular expression. Unicode classes and what is too big to be tried are regular
/// expressions all the same, though they are not checked.
pub(crate) fn pattern_error(pattern: &str) -> Option<String> {
    let error = regex_lite::Regex::new(pattern).err()?.to_string();
    (!is_beyond(pattern, &error)).then_some(error)
}

fn is_beyond(pattern: &str, error: &str) -> bool {
    pattern.contains(r"\p") || pattern.contains(r"\P") || error.contains("limit")
}

/// Formats that are checked; every other holds.
fn has_format(text: &str, format: &str) -> bool {
    match format {
        "date-time" => text.parse::<wharf_base::Timestamp>().is_ok(),
        "ipv4" => text.parse::<std::net::Ipv4Addr>().is_ok(),
        "ipv6" => text.parse::<std::net::Ipv6Addr>().is_ok(),
        _ => true,
    }
}

/// `allOf`, `anyOf`, `oneOf` and `not`.
fn combined(value: &Value, schema: &Value, path: &str, causes: &mut Vec<Cause>) {
    let list = |name: &str| schema[name].as_array().map(Vec::as_slice).unwrap_or_default();
    let wrong = |schema: &Value| {
        let mut causes = Vec::new();
        check(value, None, schema, path, &mut causes);
        causes
    };
    let say = |causes: &mut Vec<Cause>, what: &str| {
        let message = format!("Invalid value: {}: {path:?} must {what}", short(value));
        cause(causes, "FieldValueInvalid", path, message);
    };
    list("allOf").iter().for_each(|inner| check(value, None, inner, path, causes));
    let any = list("anyOf");
    let outcomes: Vec<_> = any.iter().map(wrong).collect();
    if !any.is_empty() && outcomes.iter().all(|causes| !causes.is_empty()) {
        say(causes, "validate at least one schema (anyOf)");
        causes.extend(outcomes.into_iter().min_by_key(Vec::len).into_iter().flatten());
    }
    let one = list("oneOf");
    match one.iter().filter(|inner| wrong(inner).is_empty()).count() {
        _ if one.is_empty() => {}
        0 => say(causes, "validate one and only one schema (oneOf). Found none valid"),
        1 => {}
        valid => {
            say(
                causes,
                &format!("validate one and only one schema (oneOf). Found {valid} valid alternatives"),
            );
        }
    }
    if schema["not"].is_object() && wrong(&schema["not"]).is_empty() {
        say(causes, "not validate the schema (not)");
    }
}

/// A value in a message: scalars as they are, others by their type.
fn short(value: &Value) -> String {
    match value {
        Value::Object(_) | Value::Array(_) => format!("{:?}", type_name(value)),
        scalar => scalar.to_string(),
    }
}

fn check_list(
    items: &[Value],
    old: Option<&Value>,
    value: &Value,
    schema: &Value,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    bounds(items.len() as f64, schema, ("minItems", "maxItems"), path, "items", value, causes);
    let merge = merge(schema);
    let earlier = Earlier::of(&merge, old);
    for (i, item) in items.iter().enumerate() {
        check(item, earlier.form_of(item), &schema["items"], &format!("{path}[{i}]"), causes);
    }
    let key = |item: &Value| match &merge {
        Merge::Set => item.clone(),
        Merge::Keys(names) => {
            Value::Object(names.iter().map(|name| (name.clone(), item[name].clone())).collect())
        }
        _ => Value::Null,
    };
    if matches!(merge, Merge::Set | Merge::Keys(_)) {
        let mut seen = HashSet::new();
        for (i, key) in items.iter().map(key).enumerate() {
            if let Some(twice) = seen.replace(key) {
                let said = format!("Duplicate value: {twice}");
                cause(causes, "FieldValueDuplicate", &format!("{path}[{i}]"), said);
            }
        }
    }
}

fn check_object(
    object: &Map<String, Value>,
    old: Option<&Value>,
    schema: &Value,
    path: &str,
    causes: &mut Vec<Cause>,
) {
    let count = object.len() as f64;
    for (limit, is_beyond, word) in [
        ("minProperties", schema["minProperties"].as_f64().is_some_and(|limit| count < limit), "least"),
        ("maxProperties", schema["maxProperties"].as_f64().is_some_and(|limit| count > limit), "most"),
    ] {
        if is_beyond {
            let limit = &schema[limit];
            let message =
                format!("Invalid value: {count}: {path} in body should have at {word} {limit} properties");
            cause(causes, "FieldValueInvalid", path, message);
        }
    }
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
            check(inner, old.and_then(|old| old.get(name)), schema, &at(name), causes);
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
