//! The run-time schema: what every codec, patch, prune and OpenAPI document is driven by.
//!
//! Built-in kinds come from one committed table ([`table`]); custom resources compile their
//! structural schema to the same [`Type`]s, so nothing downstream tells the two apart.

mod table;

use std::{collections::HashMap, ops::Deref, sync::Arc};

use serde_json::Value;

pub use table::{TableError, builtin, parse};

/// An object type: its fields in order of name.
#[derive(Debug, Default, Clone)]
pub struct Type {
    /// The OpenAPI definition's name without `io.k8s.`, e.g. `api.core.v1.Pod`; empty for custom resources.
    pub name: String,
    /// Group, version and kind when objects of this type are top-level resources.
    pub kinds: Vec<Gvk>,
    /// The fields, sorted by name.
    pub fields: Vec<Field>,
    /// Fields the schema does not name are kept (`x-kubernetes-preserve-unknown-fields`).
    pub preserve_unknown: bool,
    /// Server-side apply owns and replaces objects of this type as a whole.
    pub atomic: bool,
}

/// Group, version and kind of a resource; the core group is the empty text.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Gvk {
    /// API group, empty for core.
    pub group: String,
    /// Version within the group, such as `v1`.
    pub version: String,
    /// Kind in CamelCase.
    pub kind: String,
}

impl Gvk {
    /// The three parts.
    pub fn new(group: impl Into<String>, version: impl Into<String>, kind: impl Into<String>) -> Self {
        Self { group: group.into(), version: version.into(), kind: kind.into() }
    }

    /// `group/version`, or the version alone for core.
    pub fn api_version(&self) -> String {
        if self.group.is_empty() { self.version.clone() } else { format!("{}/{}", self.group, self.version) }
    }
}

/// One field of a [`Type`].
#[derive(Debug, Clone)]
pub struct Field {
    /// The JSON name.
    pub name: String,
    /// Protobuf field numbers from the message inwards; several where JSON inlines a message. Empty
    /// for fields that have no number (`apiVersion` and `kind` travel in the envelope).
    pub tags: Vec<u32>,
    /// What the field holds.
    pub kind: Kind,
    /// The field must be present.
    pub required: bool,
    /// How server-side apply and strategic merge treat a list or map.
    pub merge: Merge,
    /// Key of `x-kubernetes-patch-merge-key`; `Some("")` for lists of scalars that merge.
    pub patch_key: Option<String>,
    /// `retainKeys` patch strategy.
    pub retain_keys: bool,
    /// Value to fill in when absent.
    pub default: Option<Value>,
    /// A zero, `false` or empty text is a value of its own: a pointer in Go, where other fields cannot tell.
    pub optional: bool,
    /// `null` is a value of its own (custom resources with `nullable: true`).
    pub nullable: bool,
}

/// Topology of a list or map for server-side apply (`x-kubernetes-list-type`, `x-kubernetes-map-type`).
#[derive(Debug, Clone, PartialEq, Eq, Default)]
pub enum Merge {
    /// Structs and maps merge by field; lists are replaced.
    #[default]
    Normal,
    /// Replaced as a whole.
    Atomic,
    /// A list of distinct scalars.
    Set,
    /// A list of objects identified by these keys.
    Keys(Vec<String>),
}

/// What a field, list item or map value holds.
#[derive(Debug, Clone)]
pub enum Kind {
    /// UTF-8 text.
    Str,
    /// Truth value.
    Bool,
    /// 32-bit signed integer.
    I32,
    /// 64-bit signed integer.
    I64,
    /// Double.
    F64,
    /// Base64 text in JSON, bytes in protobuf.
    Bytes,
    /// `metav1.Time`, RFC 3339 with seconds.
    Time,
    /// `metav1.MicroTime`, RFC 3339 with microseconds.
    MicroTime,
    /// `resource.Quantity`.
    Quantity,
    /// `intstr.IntOrString`.
    IntOrString,
    /// Any JSON object (`runtime.RawExtension`).
    Raw,
    /// `metav1.FieldsV1`.
    Fields,
    /// Any JSON value (`apiextensions.JSON`).
    Json,
    /// `JSONSchemaPropsOrBool`.
    SchemaOrBool,
    /// `JSONSchemaPropsOrArray`.
    SchemaOrArray,
    /// `JSONSchemaPropsOrStringArray`.
    SchemaOrStrings,
    /// A typed object.
    Object(TypeRef),
    /// A list.
    List(Box<Kind>),
    /// A map from text.
    Map(Box<Kind>),
}

/// A reference to a [`Type`]: an entry of the built-in table, or one a custom resource owns.
#[derive(Debug, Clone)]
pub enum TypeRef {
    /// Index into the built-in [`Schema`].
    Builtin(u32),
    /// Compiled from a custom resource's schema.
    Own(Arc<Type>),
}

impl Deref for TypeRef {
    type Target = Type;

    fn deref(&self) -> &Type {
        match self {
            Self::Builtin(index) => &builtin().types[*index as usize],
            Self::Own(ty) => ty,
        }
    }
}

impl Type {
    /// The field of this JSON name.
    pub fn field(&self, name: &str) -> Option<&Field> {
        self.fields.binary_search_by(|f| f.name.as_str().cmp(name)).ok().map(|i| &self.fields[i])
    }
}

/// All built-in types.
#[derive(Debug, Default)]
pub struct Schema {
    types: Vec<Type>,
    by_name: HashMap<String, u32>,
    by_kind: HashMap<Gvk, u32>,
}

impl Schema {
    /// The type of this short definition name (`api.core.v1.Pod`).
    pub fn named(&self, name: &str) -> Option<TypeRef> {
        self.by_name.get(name).map(|i| TypeRef::Builtin(*i))
    }

    /// The type of a kind.
    pub fn of_kind(&self, gvk: &Gvk) -> Option<TypeRef> {
        self.by_kind.get(gvk).map(|i| TypeRef::Builtin(*i))
    }

    /// Every type, in order of name.
    pub fn types(&self) -> &[Type] {
        &self.types
    }
}
