//! Sets of field paths, in the form of `metadata.managedFields` (`FieldsV1`).
//!
//! Source: Kubernetes' server-side apply and structured-merge-diff's `fieldpath` serialisation:
//! `f:NAME` a field or map key, `k:{…}` a list item by its keys, `v:…` a member of a set, `.` the
//! container itself.

use std::collections::BTreeMap;

use serde_json::{Map, Value};

use crate::schema::{Kind, Merge, Type};

/// A set of paths as a tree.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct FieldSet {
    /// The path that leads here is itself in the set.
    pub member: bool,
    /// What lies below, by serialised path element.
    pub children: BTreeMap<String, FieldSet>,
}

/// Nesting beyond which an outside `fieldsV1` is cut off.
const MAX_DEPTH: usize = 64;

impl FieldSet {
    /// The set of one path: where it is rooted.
    pub fn leaf() -> Self {
        Self { member: true, children: BTreeMap::new() }
    }

    /// Holds no path.
    pub fn is_empty(&self) -> bool {
        !self.member && self.children.values().all(Self::is_empty)
    }

    /// Reads `FieldsV1`.
    pub fn from_json(value: &Value) -> Self {
        let mut set = Self::read(value, MAX_DEPTH);
        if value.as_object().is_none_or(Map::is_empty) {
            set.member = false;
        }
        set
    }

    fn read(value: &Value, depth: usize) -> Self {
        let empty = Map::new();
        let object = value.as_object().unwrap_or(&empty);
        if object.is_empty() || depth == 0 {
            return Self::leaf();
        }
        let children = object.iter().filter(|(name, _)| *name != ".");
        Self {
            member: object.contains_key("."),
            children: children.map(|(name, inner)| (name.clone(), Self::read(inner, depth - 1))).collect(),
        }
    }

    /// Writes `FieldsV1`.
    pub fn to_json(&self) -> Value {
        let mut object = Map::new();
        if self.member && !self.children.is_empty() {
            object.insert(".".into(), Map::new().into());
        }
        for (name, child) in self.children.iter().filter(|(_, c)| !c.is_empty()) {
            object.insert(name.clone(), child.to_json());
        }
        object.into()
    }

    /// Adds every path of `other`.
    pub fn union(&mut self, other: &Self) {
        self.member |= other.member;
        for (name, child) in &other.children {
            self.children.entry(name.clone()).or_default().union(child);
        }
    }

    /// Removes every path of `other`.
    pub fn subtract(&mut self, other: &Self) {
        self.member &= !other.member;
        for (name, child) in &other.children {
            if let Some(mine) = self.children.get_mut(name) {
                mine.subtract(child);
                if mine.is_empty() {
                    self.children.remove(name);
                }
            }
        }
    }

    /// Removes every path of `other` and all below it.
    pub fn subtract_trees(&mut self, other: &Self) {
        if other.member {
            *self = Self::default();
            return;
        }
        for (name, child) in &other.children {
            if let Some(mine) = self.children.get_mut(name) {
                mine.subtract_trees(child);
                if mine.is_empty() {
                    self.children.remove(name);
                }
            }
        }
    }

    /// The paths in both.
    #[must_use]
    pub fn intersection(&self, other: &Self) -> Self {
        let both = self.children.iter().filter_map(|(name, child)| {
            let common = child.intersection(other.children.get(name)?);
            (!common.is_empty()).then(|| (name.clone(), common))
        });
        Self { member: self.member && other.member, children: both.collect() }
    }

    /// The paths as people read them: `.spec.containers[name="c"].image`.
    pub fn paths(&self) -> Vec<String> {
        let mut paths = Vec::new();
        self.collect("", &mut paths);
        paths
    }

    fn collect(&self, at: &str, paths: &mut Vec<String>) {
        if self.member {
            paths.push(at.to_owned());
        }
        for (name, child) in &self.children {
            child.collect(&format!("{at}{}", readable(name)), paths);
        }
    }
}

fn readable(element: &str) -> String {
    match element.split_once(':') {
        Some(("f", name)) => format!(".{name}"),
        Some(("k", keys)) => match serde_json::from_str::<Map<String, Value>>(keys) {
            Ok(keys) => {
                let keys: Vec<String> = keys.iter().map(|(name, value)| format!("{name}={value}")).collect();
                format!("[{}]", keys.join(","))
            }
            Err(_) => format!("[{keys}]"),
        },
        Some(("v", value)) => format!("[={value}]"),
        _ => format!("[{element}]"),
    }
}

/// How a position of the tree is owned.
#[derive(Clone, Copy)]
pub(super) enum Shape<'a> {
    /// As a whole.
    Leaf,
    /// Field by field.
    Struct(&'a Type),
    /// Key by key; values of this kind.
    Map(&'a Kind),
    /// Key by key, guessed from the value where no schema says more.
    Free,
    /// Items by keys.
    Keyed(&'a Kind, &'a [String]),
    /// Members.
    Set,
}

impl<'a> Shape<'a> {
    pub(super) fn of(kind: &'a Kind, merge: &'a Merge) -> Self {
        match (kind, merge) {
            (_, Merge::Atomic) => Self::Leaf,
            (Kind::Object(ty), _) if ty.atomic => Self::Leaf,
            (Kind::Object(ty), _) => Self::Struct(ty),
            (Kind::Map(value), _) => Self::Map(value),
            (Kind::List(item), Merge::Keys(keys)) => Self::Keyed(item, keys),
            (Kind::List(_), Merge::Set) => Self::Set,
            (Kind::Json | Kind::Raw, _) => Self::Free,
            _ => Self::Leaf,
        }
    }

    /// The shape of the member `name` of an object.
    pub(super) fn member(self, name: &str) -> Self {
        match self {
            Self::Struct(ty) => match ty.field(name) {
                Some(field) => Self::of(&field.kind, &field.merge),
                None => Self::Free,
            },
            Self::Map(kind) => Self::of(kind, &Merge::Normal),
            _ => Self::Free,
        }
    }

    pub(super) fn item(self) -> Self {
        match self {
            Self::Keyed(kind, _) => Self::of(kind, &Merge::Normal),
            _ => Self::Leaf,
        }
    }
}

/// The path element of an item of a keyed list; an absent key has its schema's default.
pub(super) fn item_element(item: &Value, shape: Shape<'_>) -> String {
    match shape {
        Shape::Keyed(kind, keys) => {
            let default = |key: &str| match kind {
                Kind::Object(ty) => ty.field(key).and_then(|f| f.default.clone()),
                _ => None,
            };
            let named = keys.iter().filter_map(|key| {
                let value = item.get(key).cloned().or_else(|| default(key))?;
                Some((key.clone(), value))
            });
            format!("k:{}", Value::Object(named.collect()))
        }
        _ => format!("v:{item}"),
    }
}

/// Every path of `value`.
pub(super) fn set_of(value: &Value, shape: Shape<'_>) -> FieldSet {
    let mut set = FieldSet::default();
    match (shape, value) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Free, Value::Object(object)) if !object.is_empty() => {
            for (name, inner) in object {
                set.children.insert(format!("f:{name}"), set_of(inner, shape.member(name)));
            }
        }
        (Shape::Keyed(..) | Shape::Set, Value::Array(items)) if !items.is_empty() => {
            for item in items {
                let mut child = set_of(item, shape.item());
                child.member = true;
                set.children.insert(item_element(item, shape), child);
            }
        }
        _ => set.member = true,
    }
    set
}

/// Paths that `new` adds or changes, and paths that only `old` has.
pub(super) fn compare(old: &Value, new: &Value, shape: Shape<'_>) -> (FieldSet, FieldSet) {
    let (mut changed, mut removed) = (FieldSet::default(), FieldSet::default());
    if old == new {
        return (changed, removed);
    }
    match (shape, old, new) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Free, Value::Object(old), Value::Object(new)) => {
            for (name, value) in new {
                let (c, r) = match old.get(name) {
                    Some(before) => compare(before, value, shape.member(name)),
                    None => (set_of(value, shape.member(name)), FieldSet::default()),
                };
                changed.children.insert(format!("f:{name}"), c);
                removed.children.insert(format!("f:{name}"), r);
            }
            for (name, value) in old.iter().filter(|(name, _)| !new.contains_key(*name)) {
                removed.children.insert(format!("f:{name}"), tree_of(value, shape.member(name)));
            }
        }
        (Shape::Keyed(..) | Shape::Set, Value::Array(old), Value::Array(new)) => {
            let find = |items: &[Value], element: &str| {
                items.iter().find(|i| item_element(i, shape) == element).cloned()
            };
            for item in new {
                let element = item_element(item, shape);
                let (c, r) = match find(old, &element) {
                    Some(before) => compare(&before, item, shape.item()),
                    None => (tree_of(item, shape.item()), FieldSet::default()),
                };
                changed.children.insert(element.clone(), c);
                removed.children.insert(element, r);
            }
            for item in old {
                let element = item_element(item, shape);
                if find(new, &element).is_none() {
                    removed.children.insert(element, tree_of(item, shape.item()));
                }
            }
        }
        _ => changed = set_of(new, shape),
    }
    changed.children.retain(|_, c| !c.is_empty());
    removed.children.retain(|_, c| !c.is_empty());
    (changed, removed)
}

fn tree_of(value: &Value, shape: Shape<'_>) -> FieldSet {
    let mut set = set_of(value, shape);
    set.member = true;
    set
}
