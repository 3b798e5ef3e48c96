//! Lists.

use std::{collections::HashMap, sync::Arc};

use super::{Value, view, weight};
use crate::{
    decl::{DYN, Decl, Topology},
    error::EvalError,
};

/// A list of data, or one evaluation made.
#[derive(Debug, Clone)]
pub struct List<'a> {
    items: Items<'a>,
    topology: &'a Topology,
}

#[derive(Debug, Clone)]
enum Items<'a> {
    Data(&'a [serde_json::Value], &'a Decl),
    Made(Arc<Made<'a>>),
}

#[derive(Debug, Clone)]
struct Made<'a> {
    values: Vec<Value<'a>>,
    weight: u64,
}

impl<'a> Items<'a> {
    fn made(values: Vec<Value<'a>>) -> Self {
        let weight = weight::sum(values.iter().map(Value::weight));
        Self::Made(Arc::new(Made { values, weight }))
    }
}

static ATOMIC: Topology = Topology::Atomic;

impl<'a> From<Vec<Value<'a>>> for List<'a> {
    fn from(values: Vec<Value<'a>>) -> Self {
        Self { items: Items::made(values), topology: &ATOMIC }
    }
}

impl<'a> List<'a> {
    pub(crate) fn data(items: &'a [serde_json::Value], decl: &'a Decl, topology: &'a Topology) -> Self {
        Self { items: Items::Data(items, decl), topology }
    }

    pub(crate) fn any(items: &'a [serde_json::Value]) -> Self {
        Self::data(items, &DYN, &ATOMIC)
    }

    /// How many elements there are.
    pub fn len(&self) -> usize {
        match &self.items {
            Items::Data(items, _) => items.len(),
            Items::Made(made) => made.values.len(),
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// See [`Value::weight`].
    pub(crate) fn weight(&self) -> u64 {
        match &self.items {
            Items::Data(items, _) => weight::of_json(items.iter(), items.len()),
            Items::Made(made) => made.weight,
        }
    }

    /// The elements if evaluation made the list and nobody else holds it.
    pub(super) fn unshared(&self) -> Option<&[Value<'a>]> {
        match &self.items {
            Items::Made(made) if Arc::strong_count(made) == 1 => Some(&made.values),
            _ => None,
        }
    }

    /// The element, if there is one.
    pub fn get(&self, i: usize) -> Option<Result<Value<'a>, EvalError>> {
        match &self.items {
            Items::Data(items, decl) => items.get(i).map(|item| view::read(item, decl)),
            Items::Made(made) => made.values.get(i).cloned().map(Ok),
        }
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).map_while(|i| self.get(i))
    }

    /// With an element more; in place if nobody else holds the list.
    pub(crate) fn push(&mut self, value: Value<'a>) -> Result<(), EvalError> {
        if let Items::Data(..) = self.items {
            self.items = Items::made(self.iter().collect::<Result<_, _>>()?);
        }
        if let Items::Made(made) = &mut self.items {
            let made = Arc::make_mut(made);
            made.weight = made.weight.saturating_add(value.weight());
            made.values.push(value);
        }
        Ok(())
    }

    /// `a + b`: appended, or merged when the list is a set or has keys.
    pub(crate) fn plus(&self, other: &Self) -> Result<Self, EvalError> {
        let mut values: Vec<_> = self.iter().collect::<Result<_, _>>()?;
        let mut places: HashMap<String, usize> =
            values.iter().enumerate().filter_map(|(i, value)| Some((self.identity(value)?, i))).collect();
        for value in other.iter() {
            let value = value?;
            let identity = self.identity(&value);
            match identity.as_ref().and_then(|identity| places.get(identity)) {
                Some(i) => {
                    if let (Topology::Map(_), Some(slot)) = (self.topology, values.get_mut(*i)) {
                        *slot = value;
                    }
                }
                None => {
                    places.extend(identity.map(|identity| (identity, values.len())));
                    values.push(value);
                }
            }
        }
        Ok(Self { items: Items::made(values), topology: self.topology })
    }

    /// What makes an element the same as another by the topology; none if only its place does.
    fn identity(&self, value: &Value<'a>) -> Option<String> {
        match (self.topology, value) {
            (Topology::Atomic, _) => None,
            (Topology::Set, _) => Some(text_of(value)),
            (Topology::Map(keys), Value::Map(map)) => {
                let texts = keys.iter().map(|key| match map.json_field(key) {
                    Some(Ok(value)) => text_of(&value),
                    _ => String::new(),
                });
                Some(texts.collect::<Vec<_>>().join("\u{0}"))
            }
            (Topology::Map(_), _) => Some(text_of(value)),
        }
    }

    pub(crate) fn contains(&self, value: &Value<'a>) -> Result<bool, EvalError> {
        for item in self.iter() {
            if item?.equals(value) {
                return Ok(true);
            }
        }
        Ok(false)
    }

    pub(crate) fn equals(&self, other: &Self) -> bool {
        if self.len() != other.len() {
            return false;
        }
        if *self.topology == Topology::Atomic {
            return self.iter().zip(other.iter()).all(|pair| matches!(pair, (Ok(a), Ok(b)) if a.equals(&b)));
        }
        let values = |list: &Self| list.iter().collect::<Result<Vec<_>, _>>();
        let (Ok(left), Ok(right)) = (values(self), values(other)) else { return false };
        let places: HashMap<_, _> = left.iter().map(|value| (self.identity(value), value)).collect();
        right.iter().all(|b| places.get(&self.identity(b)).is_some_and(|a| a.equals(b)))
    }
}

/// A text that is the same for equal values, also for numbers of different types.
fn text_of(value: &Value<'_>) -> String {
    match value {
        Value::Double(d) if d.fract() == 0.0 && d.abs() < 2f64.powi(63) => format!("{}", *d as i64),
        other => other.to_json().map_or_else(|_| other.ty().to_string(), |json| json.to_string()),
    }
}

/// A number as an index: whole, whatever its type.
pub(crate) fn position(index: &Value<'_>) -> Result<i64, EvalError> {
    match index {
        Value::Int(i) => Ok(*i),
        Value::Uint(u) => Ok(i64::try_from(*u).unwrap_or(i64::MAX)),
        Value::Double(d) if d.fract() == 0.0 => Ok(*d as i64),
        Value::Double(d) => Err(EvalError::new(format!("unsupported index value {d} in list"))),
        other => Err(EvalError::new(format!("unsupported index type '{}' in list", other.ty().head()))),
    }
}
