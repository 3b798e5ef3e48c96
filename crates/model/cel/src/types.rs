//! Types of expressions, as the checker sees them (cel-spec, "Gradual Type Checking").

use std::{fmt, sync::Arc};

use crate::decl::ObjectDecl;

/// The type of an expression.
#[derive(Debug, Clone)]
pub enum Type {
    /// Any type; found out when evaluated.
    Dyn,
    /// Of an expression with a fault.
    Error,
    /// `null`
    Null,
    /// `true` or `false`
    Bool,
    /// 64-bit signed integer.
    Int,
    /// 64-bit unsigned integer.
    Uint,
    /// IEEE 754 double.
    Double,
    /// Unicode text.
    String,
    /// Sequence of bytes.
    Bytes,
    /// A moment.
    Timestamp,
    /// A span of time.
    Duration,
    /// A list of elements of one type.
    List(Arc<Type>),
    /// A map from keys of one type to values of one type.
    Map(Arc<(Type, Type)>),
    /// A value or none.
    Optional(Arc<Type>),
    /// A type as a value.
    Type(Arc<Type>),
    /// An object with declared fields.
    Object(Arc<ObjectDecl>),
    /// A type of Kubernetes' libraries.
    Opaque(Opaque),
    /// A parameter of a function's signature.
    Param(&'static str),
    /// Not known yet: a variable of unification.
    Var(u32),
}

/// Types that only Kubernetes' libraries make values of.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Hash)]
pub enum Opaque {
    /// `resource.Quantity`
    Quantity,
    /// A URL.
    Url,
    /// An IP address.
    Ip,
    /// A network: an address and a prefix length.
    Cidr,
    /// A named format that strings are validated by.
    Format,
    /// A semantic version.
    Semver,
    /// Who made the request, to ask what they may do.
    Authorizer,
    /// A path to be checked.
    PathCheck,
    /// A group of resources to be checked.
    GroupCheck,
    /// Resources to be checked.
    ResourceCheck,
    /// What the authorizer said.
    Decision,
}

impl Opaque {
    /// All of them.
    pub(crate) const ALL: [Self; 11] = [
        Self::Quantity,
        Self::Url,
        Self::Ip,
        Self::Cidr,
        Self::Format,
        Self::Semver,
        Self::Authorizer,
        Self::PathCheck,
        Self::GroupCheck,
        Self::ResourceCheck,
        Self::Decision,
    ];

    /// The name expressions and messages use.
    pub fn name(self) -> &'static str {
        match self {
            Self::Quantity => "kubernetes.Quantity",
            Self::Url => "kubernetes.URL",
            Self::Ip => "net.IP",
            Self::Cidr => "net.CIDR",
            Self::Format => "kubernetes.NamedFormat",
            Self::Semver => "kubernetes.Semver",
            Self::Authorizer => "kubernetes.authorization.Authorizer",
            Self::PathCheck => "kubernetes.authorization.PathCheck",
            Self::GroupCheck => "kubernetes.authorization.GroupCheck",
            Self::ResourceCheck => "kubernetes.authorization.ResourceCheck",
            Self::Decision => "kubernetes.authorization.Decision",
        }
    }
}

impl Type {
    /// A list of this type.
    pub fn list(of: Self) -> Self {
        Self::List(Arc::new(of))
    }

    /// A map of these types.
    pub fn map(key: Self, value: Self) -> Self {
        Self::Map(Arc::new((key, value)))
    }

    /// An optional of this type.
    pub fn optional(of: Self) -> Self {
        Self::Optional(Arc::new(of))
    }

    /// The parts in parentheses of the type's name.
    pub(crate) fn parts(&self) -> Vec<&Self> {
        match self {
            Self::List(of) | Self::Optional(of) | Self::Type(of) => vec![of],
            Self::Map(of) => vec![&of.0, &of.1],
            _ => Vec::new(),
        }
    }

    /// The same type of other parts.
    pub(crate) fn with_parts(&self, mut part: impl FnMut(&Self) -> Self) -> Self {
        match self {
            Self::List(of) => Self::list(part(of)),
            Self::Optional(of) => Self::optional(part(of)),
            Self::Type(of) => Self::Type(Arc::new(part(of))),
            Self::Map(of) => Self::map(part(&of.0), part(&of.1)),
            other => other.clone(),
        }
    }

    pub(crate) fn is_dyn_or_error(&self) -> bool {
        matches!(self, Self::Dyn | Self::Error)
    }

    /// Both are made by the same constructor and, if they have names, are of one name.
    pub(crate) fn same_head(&self, other: &Self) -> bool {
        match (self, other) {
            (Self::Object(a), Self::Object(b)) => Arc::ptr_eq(a, b) || a.name == b.name,
            (Self::Opaque(a), Self::Opaque(b)) => a == b,
            (Self::Param(a), Self::Param(b)) => a == b,
            (Self::Var(a), Self::Var(b)) => a == b,
            _ => std::mem::discriminant(self) == std::mem::discriminant(other),
        }
    }

    /// The name without parts: what `type()` gives for values of the type.
    pub(crate) fn head(&self) -> &str {
        match self {
            Self::Dyn => "dyn",
            Self::Error => "!error!",
            Self::Null => "null_type",
            Self::Bool => "bool",
            Self::Int => "int",
            Self::Uint => "uint",
            Self::Double => "double",
            Self::String => "string",
            Self::Bytes => "bytes",
            Self::Timestamp => "google.protobuf.Timestamp",
            Self::Duration => "google.protobuf.Duration",
            Self::List(_) => "list",
            Self::Map(_) => "map",
            Self::Optional(_) => "optional_type",
            Self::Type(_) => "type",
            Self::Object(decl) => &decl.name,
            Self::Opaque(opaque) => opaque.name(),
            Self::Param(name) => name,
            Self::Var(_) => "dyn",
        }
    }
}

impl PartialEq for Type {
    fn eq(&self, other: &Self) -> bool {
        self.same_head(other) && self.parts() == other.parts()
    }
}

impl fmt::Display for Type {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        match self {
            Self::Null => return f.write_str("null"),
            Self::Timestamp => return f.write_str("timestamp"),
            Self::Duration => return f.write_str("duration"),
            Self::Var(n) => return write!(f, "_var{n}"),
            _ => f.write_str(self.head())?,
        }
        let parts = self.parts();
        if parts.is_empty() || matches!(self, Self::Type(of) if **of == Self::Dyn) {
            return Ok(());
        }
        for (i, part) in parts.into_iter().enumerate() {
            write!(f, "{}{part}", if i == 0 { "(" } else { ", " })?;
        }
        f.write_str(")")
    }
}
