//! How large declared data can become (apiserver, `pkg/cel/common/schemas.go`, `pkg/cel/limits.go`).

use crate::decl::{Decl, DeclKind, ObjectDecl};

/// The largest request there can be, in bytes.
const REQUEST: u64 = 3 * 1024 * 1024;
/// The longest duration or moment in JSON.
const LONGEST_MOMENT: u64 = 32;
/// A day in JSON.
const DAY: u64 = 12;

impl Decl {
    /// The most characters, elements or entries there may be; zero for what has no length.
    pub(crate) fn max_elements(&self) -> u64 {
        match &self.kind {
            DeclKind::IntOrString => self.max_size.map_or(REQUEST - 2, |max| max.saturating_mul(4)),
            // The longest of the values there are, or four bytes for a character.
            DeclKind::String => match (self.max_size, self.longest_value) {
                (Some(max), _) => max.saturating_mul(4),
                (None, Some(longest)) => longest,
                (None, None) => REQUEST - 2,
            },
            DeclKind::Bytes => self.max_size.unwrap_or(REQUEST - 2),
            DeclKind::Timestamp | DeclKind::Duration => LONGEST_MOMENT,
            DeclKind::Date => DAY,
            DeclKind::List(list) => self.max_size.unwrap_or((REQUEST - 2) / (list.items.min_bytes() + 1)),
            DeclKind::Map(values) => self.max_size.unwrap_or((REQUEST - 2) / (values.min_bytes() + 6)),
            DeclKind::Dyn | DeclKind::Bool | DeclKind::Int | DeclKind::Double | DeclKind::Object(_) => 0,
        }
    }

    /// The fewest bytes it takes in JSON.
    pub(crate) fn min_bytes(&self) -> u64 {
        match &self.kind {
            DeclKind::Dyn | DeclKind::IntOrString | DeclKind::Int | DeclKind::Double => 1,
            DeclKind::Bool => 4,
            DeclKind::String | DeclKind::Bytes | DeclKind::List(_) | DeclKind::Map(_) => 2,
            DeclKind::Timestamp => 21,
            DeclKind::Date => DAY,
            DeclKind::Duration => 3,
            DeclKind::Object(object) => object.min_bytes(),
        }
    }

    /// How often it may occur in one request: what a rule's cost is multiplied by when it is below
    /// lists or maps without bounds.
    pub fn max_cardinality(&self) -> u64 {
        REQUEST / (self.min_bytes() + 1)
    }
}

impl ObjectDecl {
    /// The braces and the required fields with their quotes, colons and commas.
    fn min_bytes(&self) -> u64 {
        let required = self.fields().filter(|(_, field)| field.required);
        2 + required.map(|(_, field)| field.json.len() as u64 + field.decl.min_bytes() + 4).sum::<u64>()
    }
}
