//! Maps and objects.

use std::{collections::HashMap, sync::Arc};

use super::{Text, Value, view, weight};
use crate::{
    decl::{DYN, Decl, ObjectDecl},
    error::EvalError,
};

/// A map of data, an object, or what evaluation made.
#[derive(Debug, Clone)]
pub enum Map<'a> {
    /// JSON whose values are all of one declaration.
    Data(&'a serde_json::Map<String, serde_json::Value>, &'a Decl),
    /// JSON with declared fields.
    Object(&'a serde_json::Map<String, serde_json::Value>, &'a ObjectDecl),
    /// Made by the evaluation.
    Made(Arc<OwnedMap<'a>>),
    /// An object constructed by the expression.
    Struct(Arc<Struct<'a>>),
    /// Fields evaluated before, some of which may have no value.
    Known(Arc<Vec<Known<'a>>>),
}

/// A name with what it was evaluated to.
pub type Known<'a> = (Arc<str>, Result<Value<'a>, EvalError>);

/// An object under construction: fields by the names expressions use.
#[derive(Debug)]
pub struct Struct<'a> {
    pub(crate) decl: Arc<ObjectDecl>,
    pub(crate) fields: Vec<(Arc<str>, Value<'a>)>,
    pub(super) weight: u64,
}

impl<'a> Struct<'a> {
    pub(crate) fn new(decl: Arc<ObjectDecl>, fields: Vec<(Arc<str>, Value<'a>)>) -> Self {
        let weight = weight::sum(fields.iter().map(|(_, value)| value.weight()));
        Self { decl, fields, weight }
    }

    /// Reports objects whose type is not named after the way to them (`Object.spec` at `.spec`).
    fn misnamed(&self, path: &str, faults: &mut Vec<String>) {
        if self.decl.name != path {
            faults.push(format!(
                "unexpected type name {:?}, expected {path:?}, which matches field name path from root Object type",
                self.decl.name
            ));
        }
        for (name, value) in &self.fields {
            misnamed(value, &format!("{path}.{name}"), faults);
        }
    }
}

fn misnamed(value: &Value<'_>, path: &str, faults: &mut Vec<String>) {
    match value {
        Value::Map(Map::Struct(object)) => object.misnamed(path, faults),
        Value::Map(map @ Map::Made(_)) => {
            map.entries()
                .iter()
                .filter_map(|(_, value)| value.as_ref().ok())
                .for_each(|v| misnamed(v, path, faults));
        }
        Value::List(list) => list.iter().filter_map(Result::ok).for_each(|v| misnamed(&v, path, faults)),
        _ => {}
    }
}

impl Value<'_> {
    /// Faults in the type names of constructed objects: `Object{spec: Object.status{}}` must not be.
    pub fn misnamed_objects(&self) -> Vec<String> {
        let mut faults = Vec::new();
        misnamed(self, "Object", &mut faults);
        faults
    }
}

/// A map made by the evaluation: entries in order of insertion.
#[derive(Debug, Clone, Default)]
pub struct OwnedMap<'a> {
    entries: Vec<(Value<'a>, Value<'a>)>,
    index: HashMap<Key<'a>, usize>,
    weight: u64,
}

/// A key, the same for numbers that are equal.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
enum Key<'a> {
    Bool(bool),
    Int(i64),
    Large(u64),
    String(Text<'a>),
}

impl<'a> Key<'a> {
    fn of(value: &Value<'a>) -> Option<Self> {
        Some(match value {
            Value::Bool(b) => Self::Bool(*b),
            Value::Int(i) => Self::Int(*i),
            Value::Uint(u) => i64::try_from(*u).map_or(Self::Large(*u), Self::Int),
            Value::Double(d) if d.fract() == 0.0 && *d >= -(2f64.powi(63)) && *d < 2f64.powi(63) => {
                Self::Int(*d as i64)
            }
            Value::Double(d) if d.fract() == 0.0 && *d >= 2f64.powi(63) && *d < 2f64.powi(64) => {
                Self::Large(*d as u64)
            }
            Value::String(text) => Self::String(text.clone()),
            _ => return None,
        })
    }
}

impl<'a> OwnedMap<'a> {
    /// Adds an entry.
    ///
    /// # Errors
    /// When the key is there already, or of a type that cannot be a key.
    pub(crate) fn insert(&mut self, key: Value<'a>, value: Value<'a>) -> Result<(), EvalError> {
        let Some(hashed) = Key::of(&key).filter(|_| !matches!(key, Value::Double(_))) else {
            return Err(EvalError::new(format!("unsupported key type: {}", key.ty().head())));
        };
        if self.index.contains_key(&hashed) {
            return Err(EvalError::new(format!("insert failed: key {} already exists", key_text(&key))));
        }
        self.index.insert(hashed, self.entries.len());
        self.weight = self.weight.saturating_add(key.weight()).saturating_add(value.weight());
        self.entries.push((key, value));
        Ok(())
    }

    /// Sets an entry, whether or not it is there.
    pub(crate) fn set(&mut self, key: Value<'a>, value: Value<'a>) -> Result<(), EvalError> {
        if let Some(slot) =
            Key::of(&key).and_then(|k| self.index.get(&k)).and_then(|i| self.entries.get_mut(*i))
        {
            self.weight = self.weight.saturating_add(value.weight());
            slot.1 = value;
            return Ok(());
        }
        self.insert(key, value)
    }

    pub(crate) fn weight(&self) -> u64 {
        self.weight.saturating_add(1)
    }

    fn get(&self, key: &Value<'a>) -> Option<Value<'a>> {
        let at = *self.index.get(&Key::of(key)?)?;
        self.entries.get(at).map(|(_, value)| value.clone())
    }
}

/// A key as messages show it.
pub(crate) fn key_text(key: &Value<'_>) -> String {
    match key {
        Value::String(text) => text.to_string(),
        other => crate::library::convert::string(other).map_or_else(
            |_| other.ty().head().to_owned(),
            |text| text.as_str().unwrap_or_default().to_owned(),
        ),
    }
}

impl<'a> Map<'a> {
    pub(crate) fn any(fields: &'a serde_json::Map<String, serde_json::Value>) -> Self {
        Self::Data(fields, &DYN)
    }

    pub(crate) fn made(map: OwnedMap<'a>) -> Self {
        Self::Made(Arc::new(map))
    }

    /// How many entries there are.
    pub fn len(&self) -> usize {
        match self {
            Self::Data(fields, _) | Self::Object(fields, _) => fields.len(),
            Self::Made(map) => map.entries.len(),
            Self::Struct(object) => object.fields.len(),
            Self::Known(fields) => fields.len(),
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// How many entries there are if evaluation made the map and nobody else holds it.
    pub(super) fn unshared(&self) -> Option<usize> {
        let fresh = match self {
            Self::Made(map) => Arc::strong_count(map) == 1,
            Self::Struct(object) => Arc::strong_count(object) == 1,
            _ => false,
        };
        fresh.then(|| self.len())
    }

    /// The value at a key, if it is there.
    pub(crate) fn find(&self, key: &Value<'a>) -> Option<Result<Value<'a>, EvalError>> {
        match (self, key) {
            (Self::Made(map), _) => map.get(key).map(Ok),
            (_, Value::String(name)) => self.field(name, None),
            _ => None,
        }
    }

    /// The value of a field by the name expressions use; `json` is what the name stands for, if known.
    pub(crate) fn field(&self, name: &str, json: Option<&str>) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Self::Data(fields, decl) => fields.get(name).map(|value| view::read(value, decl)),
            Self::Object(fields, decl) => {
                let unescaped = if json.is_some() { None } else { crate::unescape(name) };
                let json = json.or(unescaped.as_deref())?;
                let value = fields.get(json).filter(|value| !value.is_null())?;
                decl.by_json(json).map(|field| view::read(value, &field.decl))
            }
            Self::Made(map) => {
                let index: &HashMap<Key<'_>, usize> = &map.index;
                let at = *index.get(&Key::String(Text::Borrowed(name)))?;
                map.entries.get(at).map(|(_, value)| Ok(value.clone()))
            }
            Self::Struct(object) => {
                object.fields.iter().find(|(n, _)| **n == *name).map(|(_, value)| Ok(value.clone()))
            }
            Self::Known(fields) => fields.iter().find(|(n, _)| **n == *name).map(|(_, value)| value.clone()),
        }
    }

    /// The value of a field by its JSON name.
    pub(crate) fn json_field(&self, json: &str) -> Option<Result<Value<'a>, EvalError>> {
        match self {
            Self::Object(..) => self.field("", Some(json)),
            _ => self.field(json, None),
        }
    }

    pub(crate) fn at(&self, key: &Value<'a>) -> Result<Value<'a>, EvalError> {
        self.find(key).unwrap_or_else(|| Err(EvalError::no_such_key(&key_text(key))))
    }

    /// The keys, in the order of the data.
    pub(crate) fn keys(&self) -> Vec<Value<'a>> {
        match self {
            Self::Data(fields, _) => fields.keys().map(|key| Value::text(key)).collect(),
            Self::Object(fields, decl) => {
                let known = fields.keys().filter(|key| decl.by_json(key).is_some());
                known.map(|key| crate::escape(key).map_or(Value::text(key), Value::string)).collect()
            }
            Self::Made(map) => map.entries.iter().map(|(key, _)| key.clone()).collect(),
            Self::Struct(object) => {
                object.fields.iter().map(|(name, _)| Value::string(name.clone())).collect()
            }
            Self::Known(fields) => fields.iter().map(|(name, _)| Value::string(Arc::clone(name))).collect(),
        }
    }

    /// Keys with their values.
    pub(crate) fn entries(&self) -> Vec<(Value<'a>, Result<Value<'a>, EvalError>)> {
        let with = |key: Value<'a>| {
            let value = self.at(&key);
            (key, value)
        };
        self.keys().into_iter().map(with).collect()
    }

    pub(crate) fn equals(&self, other: &Self) -> bool {
        if let (Self::Object(a, decl), Self::Object(b, _)) = (self, other) {
            return a.len() == b.len() && a.keys().all(|key| self.same_field(other, key, decl, (a, b)));
        }
        if self.len() != other.len() || matches!(self, Self::Struct(_)) != matches!(other, Self::Struct(_)) {
            return false;
        }
        self.keys().iter().all(|key| match (self.find(key), other.find(key)) {
            (Some(Ok(a)), Some(Ok(b))) => a.equals(&b),
            _ => false,
        })
    }

    /// A declared field by its value, any other by its JSON.
    fn same_field(
        &self,
        other: &Self,
        key: &str,
        decl: &ObjectDecl,
        (a, b): (&serde_json::Map<String, serde_json::Value>, &serde_json::Map<String, serde_json::Value>),
    ) -> bool {
        if decl.by_json(key).is_none() {
            return b.get(key).is_none_or(|b| a.get(key) == Some(b));
        }
        match (self.json_field(key), other.json_field(key)) {
            (Some(Ok(a)), Some(Ok(b))) => a.equals(&b),
            (None, None) => true,
            _ => false,
        }
    }
}
