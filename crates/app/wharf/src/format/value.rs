//! Values of a rendering: those of the JSON and those which functions make.

use std::ops::Deref;
use std::rc::Rc;

use serde_json::{Map, Value as Json};

/// Something of the document or template, or made by a function.
#[derive(Debug)]
pub(super) enum Held<'v, T: ?Sized> {
    Given(&'v T),
    Made(Rc<T>),
}

impl<T: ?Sized> Clone for Held<'_, T> {
    fn clone(&self) -> Self {
        match self {
            Held::Given(given) => Held::Given(given),
            Held::Made(made) => Held::Made(made.clone()),
        }
    }
}

impl<T: ?Sized> Deref for Held<'_, T> {
    type Target = T;

    fn deref(&self) -> &T {
        match self {
            Held::Given(given) => given,
            Held::Made(made) => made,
        }
    }
}

#[derive(Clone, Debug)]
pub(super) enum Value<'v> {
    /// A key that is not there.
    Missing,
    Nil,
    Bool(bool),
    Int(i64),
    /// With its size in bits.
    Uint(u64, u8),
    Float(f64),
    Text(Held<'v, str>),
    List(Held<'v, [Json]>),
    Map(&'v Map<String, Json>),
}

/// A value at a place which holds it.
#[derive(Clone, Debug)]
pub(super) struct Item<'v> {
    pub(super) value: Value<'v>,
    /// Whether the place takes any type, which errors name in place of the value's own.
    pub(super) boxed: bool,
}

impl<'v> Item<'v> {
    pub(super) fn plain(value: Value<'v>) -> Item<'v> {
        Item { value, boxed: false }
    }
}

impl<'v> Value<'v> {
    pub(super) fn of(json: &'v Json) -> Value<'v> {
        match json {
            Json::Null => Value::Nil,
            Json::Bool(value) => Value::Bool(*value),
            Json::Number(number) => match (number.as_i64(), number.as_u64()) {
                (Some(value), _) => Value::Int(value),
                (None, Some(value)) => Value::Uint(value, 64),
                (None, None) => Value::Float(number.as_f64().unwrap_or_default()),
            },
            Json::String(text) => Value::Text(Held::Given(text)),
            Json::Array(items) => Value::List(Held::Given(items)),
            Json::Object(map) => Value::Map(map),
        }
    }

    pub(super) fn text(text: impl Into<Rc<str>>) -> Value<'v> {
        Value::Text(Held::Made(text.into()))
    }

    pub(super) fn int(number: usize) -> Value<'v> {
        Value::Int(i64::try_from(number).unwrap_or(i64::MAX))
    }

    /// An element of a list.
    pub(super) fn element(list: &Held<'v, [Json]>, index: usize) -> Option<Value<'v>> {
        match list {
            Held::Given(items) => items.get(index).map(Value::of),
            // Functions make lists of texts only.
            Held::Made(items) => items.get(index).and_then(Json::as_str).map(Value::text),
        }
    }

    pub(super) fn is_nil(&self) -> bool {
        matches!(self, Value::Missing | Value::Nil)
    }

    /// Go's truth: not the zero of its type.
    pub(super) fn truth(&self) -> bool {
        match self {
            Value::Missing | Value::Nil => false,
            Value::Bool(value) => *value,
            Value::Int(value) => *value != 0,
            Value::Uint(value, _) => *value != 0,
            Value::Float(value) => *value != 0.0,
            Value::Text(text) => !text.is_empty(),
            Value::List(items) => !items.is_empty(),
            Value::Map(map) => !map.is_empty(),
        }
    }

    /// The name of its type in Go.
    pub(super) fn type_name(&self) -> &'static str {
        match self {
            Value::Missing | Value::Nil => "<nil>",
            Value::Bool(_) => "bool",
            Value::Int(_) => "int",
            Value::Uint(_, 8) => "uint8",
            Value::Uint(..) => "uint64",
            Value::Float(_) => "float64",
            Value::Text(_) => "string",
            Value::List(items) if are_texts(items.iter()) => "[]string",
            Value::List(_) => "[]interface {}",
            Value::Map(map) if are_texts(map.values()) => "map[string]string",
            Value::Map(_) => "map[string]interface {}",
        }
    }

    /// How much there is to look at.
    pub(super) fn size(&self) -> usize {
        match self {
            Value::Text(text) => text.len(),
            Value::List(items) => items.len(),
            Value::Map(map) => map.len(),
            _ => 1,
        }
    }

    /// The bytes that were made for it.
    pub(super) fn made(&self) -> usize {
        match self {
            Value::Text(Held::Made(text)) => text.len(),
            Value::List(Held::Made(items)) => {
                items.iter().map(|item| size_of::<Json>() + item.as_str().map_or(0, str::len)).sum()
            }
            _ => 0,
        }
    }
}

/// Whether a list or map holds strings alone.
pub(super) fn are_texts<'j>(mut items: impl Iterator<Item = &'j Json>) -> bool {
    items.all(Json::is_string)
}

/// The entries of a map in the order of their keys, whatever order the document had.
pub(super) fn sorted(map: &Map<String, Json>) -> Vec<(&str, &Json)> {
    let mut entries: Vec<_> = map.iter().map(|(key, value)| (key.as_str(), value)).collect();
    entries.sort_unstable_by_key(|(key, _)| *key);
    entries
}
