//! Values: borrowed from JSON as far as possible, owned where evaluation made them.

mod compare;
mod json;
mod list;
mod map;
mod time;
pub(crate) mod view;
pub(crate) mod weight;

use std::{borrow::Borrow, fmt, ops::Deref, sync::Arc};

use wharf_base::Quantity;

use crate::{
    decl::Decl,
    error::EvalError,
    library::{authz::Check, named_format::NamedFormat, net::Cidr, semver::Semver, url::Url},
    types::{Opaque, Type},
};

pub use list::List;
pub(crate) use list::position;
pub use map::{Known, Map};
pub(crate) use map::{OwnedMap, Struct, key_text};
pub(crate) use time::nanos_of_day_text;
pub use time::{Duration, Timestamp};

/// What an expression evaluates to.
#[derive(Debug, Clone, Default)]
pub enum Value<'a> {
    /// `null`
    #[default]
    Null,
    /// `true` or `false`
    Bool(bool),
    /// Signed integer.
    Int(i64),
    /// Unsigned integer.
    Uint(u64),
    /// Double.
    Double(f64),
    /// Text.
    String(Text<'a>),
    /// Bytes.
    Bytes(Arc<[u8]>),
    /// A moment.
    Timestamp(Timestamp),
    /// A span of time.
    Duration(Duration),
    /// A list.
    List(List<'a>),
    /// A map or an object.
    Map(Map<'a>),
    /// A type.
    Type(Arc<Type>),
    /// A value or none.
    Optional(Option<Arc<Value<'a>>>),
    /// A Kubernetes quantity.
    Quantity(Quantity),
    /// A URL.
    Url(Arc<Url>),
    /// An IP address.
    Ip(std::net::IpAddr),
    /// A network.
    Cidr(Cidr),
    /// A format strings are validated by.
    Format(&'static NamedFormat),
    /// A semantic version.
    Semver(Arc<Semver>),
    /// A question to the authorizer, as far as it is put together, or its answer.
    Check(Arc<Check<'a>>),
}

/// Text, borrowed or shared.
#[derive(Clone)]
pub enum Text<'a> {
    /// Of the data or the program.
    Borrowed(&'a str),
    /// Made by the evaluation.
    Shared(Arc<str>),
}

impl Deref for Text<'_> {
    type Target = str;

    fn deref(&self) -> &str {
        match self {
            Self::Borrowed(text) => text,
            Self::Shared(text) => text,
        }
    }
}

impl fmt::Debug for Text<'_> {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Debug::fmt(&**self, f)
    }
}

impl Borrow<str> for Text<'_> {
    fn borrow(&self) -> &str {
        self
    }
}

impl PartialEq for Text<'_> {
    fn eq(&self, other: &Self) -> bool {
        **self == **other
    }
}

impl Eq for Text<'_> {}

impl std::hash::Hash for Text<'_> {
    fn hash<H: std::hash::Hasher>(&self, state: &mut H) {
        (**self).hash(state);
    }
}

impl<'a> Value<'a> {
    /// A piece of JSON as its declaration says; lists and maps are not looked into before they are asked for.
    ///
    /// # Errors
    /// When the JSON is not what the declaration says.
    pub fn data(json: &'a serde_json::Value, decl: &'a Decl) -> Result<Self, EvalError> {
        view::read(json, decl)
    }

    /// Any piece of JSON: whole numbers are int, others double.
    pub fn any(json: &'a serde_json::Value) -> Self {
        view::any(json)
    }

    /// Text that lives as long as the data.
    pub fn text(text: &'a str) -> Self {
        Self::String(Text::Borrowed(text))
    }

    /// Text made by the evaluation.
    pub fn string(text: impl Into<Arc<str>>) -> Self {
        Self::String(Text::Shared(text.into()))
    }

    /// Fields evaluated before: what the variables of an admission policy are.
    pub fn fields(known: Vec<Known<'a>>) -> Self {
        Self::Map(Map::Known(Arc::new(known)))
    }

    /// A list of values.
    pub fn list(values: Vec<Value<'a>>) -> Self {
        Self::List(List::from(values))
    }

    /// An optional with a value.
    pub fn some(value: Value<'a>) -> Self {
        Self::Optional(Some(Arc::new(value)))
    }

    /// The text of a string.
    pub fn as_str(&self) -> Option<&str> {
        match self {
            Self::String(text) => Some(text),
            _ => None,
        }
    }

    /// The truth value of a bool.
    pub fn as_bool(&self) -> Option<bool> {
        match self {
            Self::Bool(b) => Some(*b),
            _ => None,
        }
    }

    /// The type, without the types of parts: those are not known of values.
    pub fn ty(&self) -> Type {
        match self {
            Self::Null => Type::Null,
            Self::Bool(_) => Type::Bool,
            Self::Int(_) => Type::Int,
            Self::Uint(_) => Type::Uint,
            Self::Double(_) => Type::Double,
            Self::String(_) => Type::String,
            Self::Bytes(_) => Type::Bytes,
            Self::Timestamp(_) => Type::Timestamp,
            Self::Duration(_) => Type::Duration,
            Self::List(_) => Type::list(Type::Dyn),
            Self::Map(Map::Struct(object)) => Type::Object(object.decl.clone()),
            Self::Map(_) => Type::map(Type::Dyn, Type::Dyn),
            Self::Type(_) => Type::Type(Arc::new(Type::Dyn)),
            Self::Optional(_) => Type::optional(Type::Dyn),
            Self::Quantity(_) => Type::Opaque(Opaque::Quantity),
            Self::Url(_) => Type::Opaque(Opaque::Url),
            Self::Ip(_) => Type::Opaque(Opaque::Ip),
            Self::Cidr(_) => Type::Opaque(Opaque::Cidr),
            Self::Format(_) => Type::Opaque(Opaque::Format),
            Self::Semver(_) => Type::Opaque(Opaque::Semver),
            Self::Check(check) => Type::Opaque(check.opaque()),
        }
    }

    /// The size as cost goes by it: of texts, lists and maps their length, of everything else one.
    pub(crate) fn size(&self) -> u64 {
        match self {
            Self::String(text) => text.chars().count() as u64,
            Self::Bytes(bytes) => bytes.len() as u64,
            Self::List(list) => list.len() as u64,
            Self::Map(map) => map.len() as u64,
            Self::Optional(Some(value)) => value.size(),
            Self::Ip(ip) => {
                if ip.is_ipv4() {
                    4
                } else {
                    16
                }
            }
            Self::Cidr(cidr) => cidr.size(),
            _ => 1,
        }
    }

    /// No value, or one that says nothing: zero, empty, false.
    pub(crate) fn is_zero(&self) -> bool {
        match self {
            Self::Null | Self::Optional(None) => true,
            Self::Bool(b) => !b,
            Self::Int(i) => *i == 0,
            Self::Uint(u) => *u == 0,
            Self::Double(d) => *d == 0.0,
            Self::String(text) => text.is_empty(),
            Self::Bytes(bytes) => bytes.is_empty(),
            Self::List(list) => list.is_empty(),
            Self::Map(map) => map.is_empty(),
            Self::Duration(d) => d.0 == 0,
            Self::Timestamp(t) => t.is_zero(),
            _ => false,
        }
    }
}
