//! Lists.

use std::sync::Arc;

use super::{Value, view};
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
    Made(Arc<Vec<Value<'a>>>),
}

static ATOMIC: Topology = Topology::Atomic;

impl<'a> From<Vec<Value<'a>>> for List<'a> {
    fn from(values: Vec<Value<'a>>) -> Self {
        Self { items: Items::Made(Arc::new(values)), topology: &ATOMIC }
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
            Items::Made(values) => values.len(),
        }
    }

    /// There are none.
    pub fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The element, if there is one.
    pub fn get(&self, i: usize) -> Option<Result<Value<'a>, EvalError>> {
        match &self.items {
            Items::Data(items, decl) => items.get(i).map(|item| view::read(item, decl)),
            Items::Made(values) => values.get(i).cloned().map(Ok),
        }
    }

    /// The elements in order.
    pub fn iter(&self) -> impl Iterator<Item = Result<Value<'a>, EvalError>> + '_ {
        (0..self.len()).map_while(|i| self.get(i))
    }

    /// With an element more; in place if nobody else holds the list.
    pub(crate) fn push(&mut self, value: Value<'a>) -> Result<(), EvalError> {
        if let Items::Data(..) = self.items {
            self.items = Items::Made(Arc::new(self.iter().collect::<Result<_, _>>()?));
        }
        if let Items::Made(values) = &mut self.items {
            Arc::make_mut(values).push(value);
        }
        Ok(())
    }

    /// `a + b`: appended, or merged when the list is a set or has keys.
    pub(crate) fn plus(&self, other: &Self) -> Result<Self, EvalError> {
        let mut values: Vec<_> = self.iter().collect::<Result<_, _>>()?;
        for value in other.iter() {
            let value = value?;
            match self.twin(&values, &value)? {
                Some(i) if matches!(self.topology, Topology::Map(_)) => {
                    if let Some(slot) = values.get_mut(i) {
                        *slot = value;
                    }
                }
                Some(_) => {}
                None => values.push(value),
            }
        }
        Ok(Self { items: Items::Made(Arc::new(values)), topology: self.topology })
    }

    /// The place of the value that is the same element by this list's topology.
    fn twin(&self, values: &[Value<'a>], value: &Value<'a>) -> Result<Option<usize>, EvalError> {
        match self.topology {
            Topology::Atomic => Ok(None),
            Topology::Set => Ok(values.iter().position(|v| v.equals(value))),
            Topology::Map(keys) => {
                let key = identity(value, keys);
                Ok(values.iter().position(|v| same_identity(&identity(v, keys), &key)))
            }
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
        let values = |list: &Self| list.iter().collect::<Result<Vec<_>, _>>();
        let (Ok(left), Ok(right)) = (values(self), values(other)) else { return false };
        match self.topology {
            Topology::Atomic => left.iter().zip(&right).all(|(a, b)| a.equals(b)),
            Topology::Set => right.iter().all(|b| left.iter().any(|a| a.equals(b))),
            Topology::Map(keys) => right.iter().all(|b| {
                let key = identity(b, keys);
                left.iter()
                    .rev()
                    .find(|a| same_identity(&identity(a, keys), &key))
                    .is_some_and(|a| a.equals(b))
            }),
        }
    }
}

/// The values of an element's keys.
fn identity<'a>(element: &Value<'a>, keys: &[String]) -> Vec<Option<Value<'a>>> {
    let Value::Map(map) = element else { return Vec::new() };
    keys.iter().map(|key| map.json_field(key).and_then(Result::ok)).collect()
}

fn same_identity(a: &[Option<Value<'_>>], b: &[Option<Value<'_>>]) -> bool {
    let same = |(a, b): (&Option<Value<'_>>, &Option<Value<'_>>)| match (a, b) {
        (Some(a), Some(b)) => a.equals(b),
        (None, None) => true,
        _ => false,
    };
    a.len() == b.len() && a.iter().zip(b).all(same)
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
