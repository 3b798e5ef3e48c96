//! Declarations of data: what the checker may expect of JSON, how evaluation reads it, and how large it
//! can become. Whoever has schemas (OpenAPI, a custom resource) describes them with these.

use std::{collections::BTreeMap, sync::Arc};

use crate::{escape::escape, types::Type};

/// What a piece of JSON holds.
#[derive(Debug, Clone, PartialEq)]
pub struct Decl {
    /// What it is.
    pub kind: DeclKind,
    /// `null` is a value of it.
    pub nullable: bool,
    /// The most characters, elements or entries there can be; estimates of cost go by it.
    pub max_size: Option<u64>,
    /// The length of the longest text there can be, when all are known (`enum`).
    pub longest_value: Option<u64>,
}

/// Kinds of data.
#[derive(Debug, Clone, PartialEq)]
pub enum DeclKind {
    /// Any JSON: integers are int, other numbers double.
    Dyn,
    /// `true` or `false`
    Bool,
    /// A whole number.
    Int,
    /// A number, whole or not.
    Double,
    /// Text.
    String,
    /// Base64 text of bytes (`format: byte`).
    Bytes,
    /// A moment in RFC 3339 (`format: date-time`).
    Timestamp,
    /// A day (`format: date`).
    Date,
    /// A span in Go's form, such as `1h30m` (`format: duration`).
    Duration,
    /// Text or a whole number (`x-kubernetes-int-or-string`).
    IntOrString,
    /// A list.
    List(Arc<ListDecl>),
    /// A map from text to values of one kind.
    Map(Arc<Decl>),
    /// An object with fields.
    Object(Arc<ObjectDecl>),
}

/// A list: its elements, and when two lists are equal (`x-kubernetes-list-type`).
#[derive(Debug, Clone, PartialEq)]
pub struct ListDecl {
    /// What the elements are.
    pub items: Decl,
    /// How the list is compared and added to.
    pub topology: Topology,
}

/// `x-kubernetes-list-type`
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub enum Topology {
    /// Order counts.
    #[default]
    Atomic,
    /// Distinct scalars in any order.
    Set,
    /// Objects identified by these JSON names of their fields, in any order.
    Map(Vec<String>),
}

/// An object's fields.
#[derive(Debug, Clone, PartialEq, Default)]
pub struct ObjectDecl {
    /// The type's name; two objects of one name are one type.
    pub name: String,
    /// Fields by the name expressions use, see [`escape`](crate::escape).
    fields: BTreeMap<String, FieldDecl>,
    /// Any field may be named, and is of any type (`Object{..}` of mutations).
    open: bool,
}

/// A field of an object.
#[derive(Debug, Clone, PartialEq)]
pub struct FieldDecl {
    /// The name in JSON.
    pub json: String,
    /// What it holds.
    pub decl: Decl,
    /// It must be present; counts for the smallest size.
    pub required: bool,
}

/// Any JSON.
pub(crate) static DYN: Decl =
    Decl { kind: DeclKind::Dyn, nullable: true, max_size: None, longest_value: None };

/// What any field of an open object is.
static ANY_FIELD: FieldDecl = FieldDecl {
    json: String::new(),
    decl: Decl { kind: DeclKind::Dyn, nullable: true, max_size: None, longest_value: None },
    required: false,
};

impl Decl {
    /// Data of this kind, not nullable, without a known bound of its size.
    pub const fn new(kind: DeclKind) -> Self {
        Self { kind, nullable: false, max_size: None, longest_value: None }
    }

    /// A list whose order counts.
    pub fn list(items: Self) -> Self {
        Self::list_of(items, Topology::Atomic)
    }

    /// A list of this topology.
    pub fn list_of(items: Self, topology: Topology) -> Self {
        Self::new(DeclKind::List(Arc::new(ListDecl { items, topology })))
    }

    /// A map from text.
    pub fn map(values: Self) -> Self {
        Self::new(DeclKind::Map(Arc::new(values)))
    }

    /// An object.
    pub fn object(decl: ObjectDecl) -> Self {
        Self::new(DeclKind::Object(Arc::new(decl)))
    }

    /// With `null` allowed.
    #[must_use]
    pub fn nullable(mut self) -> Self {
        self.nullable = true;
        self
    }

    /// With a bound of its size.
    #[must_use]
    pub fn max_size(mut self, max: u64) -> Self {
        self.max_size = Some(max);
        self
    }

    /// With the length of the longest text there can be (`enum`).
    #[must_use]
    pub fn longest_value(mut self, longest: u64) -> Self {
        self.longest_value = Some(longest);
        self
    }

    /// The same with object types named after the way to them from `name`, so that no two are one type:
    /// what upstream gives the schemas of custom resources.
    #[must_use]
    pub fn named(&self, name: &str) -> Self {
        let kind = match &self.kind {
            DeclKind::List(list) => {
                let items = list.items.named(&format!("{name}.@idx"));
                DeclKind::List(Arc::new(ListDecl { items, topology: list.topology.clone() }))
            }
            DeclKind::Map(values) => DeclKind::Map(Arc::new(values.named(&format!("{name}.@elem")))),
            DeclKind::Object(object) => DeclKind::Object(Arc::new(object.named(name))),
            other => other.clone(),
        };
        Self { kind, ..self.clone() }
    }

    /// The type expressions see it as.
    pub fn ty(&self) -> Type {
        match &self.kind {
            DeclKind::Dyn | DeclKind::IntOrString => Type::Dyn,
            DeclKind::Bool => Type::Bool,
            DeclKind::Int => Type::Int,
            DeclKind::Double => Type::Double,
            DeclKind::String => Type::String,
            DeclKind::Bytes => Type::Bytes,
            DeclKind::Timestamp | DeclKind::Date => Type::Timestamp,
            DeclKind::Duration => Type::Duration,
            DeclKind::List(list) => Type::list(list.items.ty()),
            DeclKind::Map(values) => Type::map(Type::String, values.ty()),
            DeclKind::Object(object) => Type::Object(object.clone()),
        }
    }
}

impl ObjectDecl {
    /// An object type without fields yet.
    pub fn new(name: impl Into<String>) -> Self {
        Self { name: name.into(), ..Self::default() }
    }

    /// With a field of this JSON name. One that no expression could name is left out, as upstream does.
    #[must_use]
    pub fn field(self, json: &str, decl: Decl) -> Self {
        self.with(json, decl, false)
    }

    /// With a field that must be present.
    #[must_use]
    pub fn required(self, json: &str, decl: Decl) -> Self {
        self.with(json, decl, true)
    }

    /// An object type of any fields of any type.
    pub fn open(name: impl Into<String>) -> Self {
        Self { name: name.into(), open: true, ..Self::default() }
    }

    fn named(&self, name: &str) -> Self {
        let field = |(key, field): (&String, &FieldDecl)| {
            let decl = field.decl.named(&format!("{name}.{key}"));
            (key.clone(), FieldDecl { decl, ..field.clone() })
        };
        Self { name: name.to_owned(), fields: self.fields.iter().map(field).collect(), open: self.open }
    }

    fn with(mut self, json: &str, decl: Decl, required: bool) -> Self {
        if let Some(name) = escape(json) {
            self.fields.insert(name, FieldDecl { json: json.to_owned(), decl, required });
        }
        self
    }

    /// The field expressions name so.
    pub fn get(&self, name: &str) -> Option<&FieldDecl> {
        // Keywords name their fields as they are, too.
        let keyword = || self.fields.get(&format!("__{name}__")).filter(|field| field.json == name);
        self.fields.get(name).or_else(keyword).or(if self.open { Some(&ANY_FIELD) } else { None })
    }

    /// The field of this JSON name.
    pub fn by_json(&self, json: &str) -> Option<&FieldDecl> {
        if let Some(field) = self.fields.get(json).filter(|field| field.json == json) {
            return Some(field);
        }
        self.fields.get(&escape(json)?)
    }

    /// All fields, by the name expressions use.
    pub fn fields(&self) -> impl Iterator<Item = (&str, &FieldDecl)> {
        self.fields.iter().map(|(name, field)| (name.as_str(), field))
    }
}
