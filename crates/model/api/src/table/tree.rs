//! Reading JSON trees without panics: every read has a fallback, every write checks the shape first.

use serde_json::{Map, Value};
use wharf_base::Timestamp;

static NULL: Value = Value::Null;

/// The value at a JSON pointer; `null` where there is none.
pub(crate) fn at<'a>(value: &'a Value, pointer: &str) -> &'a Value {
    value.pointer(pointer).unwrap_or(&NULL)
}

/// Whether there is a value other than `null` at a JSON pointer.
pub(crate) fn has(value: &Value, pointer: &str) -> bool {
    !at(value, pointer).is_null()
}

/// The text at a JSON pointer; empty where there is none.
pub(crate) fn text<'a>(value: &'a Value, pointer: &str) -> &'a str {
    at(value, pointer).as_str().unwrap_or_default()
}

/// The whole number at a JSON pointer; zero where there is none.
pub(crate) fn int(value: &Value, pointer: &str) -> i64 {
    at(value, pointer).as_i64().unwrap_or_default()
}

/// The truth value at a JSON pointer; false where there is none.
pub(crate) fn flag(value: &Value, pointer: &str) -> bool {
    at(value, pointer).as_bool().unwrap_or_default()
}

/// The list at a JSON pointer; empty where there is none.
pub(crate) fn list<'a>(value: &'a Value, pointer: &str) -> &'a [Value] {
    at(value, pointer).as_array().map(Vec::as_slice).unwrap_or_default()
}

/// The keys and values of the object at a JSON pointer, in key order; none where there is no object.
pub(crate) fn entries<'a>(value: &'a Value, pointer: &str) -> impl Iterator<Item = (&'a str, &'a Value)> {
    at(value, pointer).as_object().into_iter().flatten().map(|(key, value)| (key.as_str(), value))
}

/// How many entries the object at a JSON pointer has.
pub(crate) fn count(value: &Value, pointer: &str) -> usize {
    at(value, pointer).as_object().map_or(0, Map::len)
}

/// The text of a value that is a string, or its JSON where it is another scalar.
pub(crate) fn scalar(value: &Value) -> String {
    match value {
        Value::String(text) => text.clone(),
        Value::Null => String::new(),
        other => other.to_string(),
    }
}

/// The time at a JSON pointer.
pub(crate) fn time(value: &Value, pointer: &str) -> Option<Timestamp> {
    at(value, pointer).as_str().and_then(|text| text.parse().ok())
}

/// The element of a list of objects whose `key` has the text `wanted`.
pub(crate) fn find<'a>(list: &'a [Value], key: &str, wanted: &str) -> Option<&'a Value> {
    list.iter().find(|item| item.get(key).and_then(Value::as_str) == Some(wanted))
}

/// The object at `key`, made if it is missing or null; `None` where `value` or the entry is no object.
pub(crate) fn child_mut<'a>(value: &'a mut Value, key: &str) -> Option<&'a mut Map<String, Value>> {
    let entry = value.as_object_mut()?.entry(key).or_insert(Value::Null);
    if entry.is_null() {
        *entry = Value::Object(Map::new());
    }
    entry.as_object_mut()
}

/// Sets `key` unless it already has a value other than `null`. Nothing happens to a non-object.
pub(crate) fn set_missing(value: &mut Value, key: &str, default: Value) {
    if let Some(map) = value.as_object_mut() {
        let entry = map.entry(key).or_insert(Value::Null);
        if entry.is_null() {
            *entry = default;
        }
    }
}

/// Sets `key` unless it already has a value other than `null` and the empty text.
pub(crate) fn set_empty(value: &mut Value, key: &str, default: Value) {
    if let Some(map) = value.as_object_mut() {
        let entry = map.entry(key).or_insert(Value::Null);
        if entry.is_null() || entry.as_str() == Some("") {
            *entry = default;
        }
    }
}

/// Sets `key` to `content`. Nothing happens to a non-object.
pub(crate) fn set(value: &mut Value, key: &str, content: Value) {
    if let Some(map) = value.as_object_mut() {
        map.insert(key.to_owned(), content);
    }
}

/// Takes `key` out of an object.
pub(crate) fn remove(value: &mut Value, key: &str) -> Option<Value> {
    value.as_object_mut().and_then(|map| map.remove(key))
}
