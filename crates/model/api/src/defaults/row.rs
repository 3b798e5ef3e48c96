//! Rows of the default tables: a path pattern and the value that is missing there.

use serde_json::{Map, Value};
use wharf_base::Quantity;

use crate::table::tree;

/// A default: where, and what.
///
/// The path's parts are keys; `name[]` goes through every element of a list, `name+` makes the object when it is
/// missing. All other parts must be there for the row to count. The last part is the key that is set.
pub(super) struct Row(pub(super) &'static str, pub(super) Fixed);

/// A value that does not depend on anything.
#[derive(Clone, Copy)]
pub(super) enum Fixed {
    /// A text; the empty text counts as missing.
    Text(&'static str),
    /// A number; only no number counts as missing.
    Int(i64),
    /// A number; zero counts as missing too.
    NonZero(i64),
    Truth(bool),
    /// An empty object.
    Object,
}

impl Fixed {
    fn value(self) -> Value {
        match self {
            Self::Text(text) => Value::from(text),
            Self::Int(number) | Self::NonZero(number) => Value::from(number),
            Self::Truth(truth) => Value::from(truth),
            Self::Object => Value::Object(Map::new()),
        }
    }

    fn is_missing(self, present: Option<&Value>) -> bool {
        match (self, present) {
            (_, None | Some(Value::Null)) => true,
            (Self::Text(text), Some(Value::String(present))) => present.is_empty() && !text.is_empty(),
            (Self::NonZero(_), Some(present)) => present.as_i64() == Some(0),
            _ => false,
        }
    }
}

/// Applies every row.
pub(super) fn apply(rows: &[Row], object: &mut Value) {
    for Row(path, fixed) in rows {
        visit(object, path, &mut |parent, key| {
            if fixed.is_missing(parent.get(key)) {
                tree::set(parent, key, fixed.value());
            }
        });
    }
}

/// Calls `act` with the parent and the key of every place a path leads to.
pub(super) fn visit(value: &mut Value, path: &str, act: &mut dyn FnMut(&mut Value, &str)) {
    let Some((part, rest)) = path.split_once('.') else {
        if value.is_object() {
            act(value, path);
        }
        return;
    };
    if let Some(name) = part.strip_suffix("[]") {
        let items = value.get_mut(name).and_then(Value::as_array_mut);
        for item in items.into_iter().flatten() {
            visit(item, rest, act);
        }
        return;
    }
    let name = part.strip_suffix('+').unwrap_or(part);
    if name.len() < part.len() {
        tree::set_missing(value, name, Value::Object(Map::new()));
    }
    if let Some(child) = value.get_mut(name) {
        visit(child, rest, act);
    }
}

/// Writes the quantities a path leads to in canonical form: one quantity, or an object of quantities.
pub(super) fn canonical_quantities(object: &mut Value, path: &str) {
    visit(object, path, &mut |parent, key| match parent.get_mut(key) {
        Some(Value::Object(quantities)) => quantities.values_mut().for_each(canonical),
        Some(quantity) => canonical(quantity),
        None => {}
    });
}

/// Texts and numbers that are quantities become canonical; everything else stays for validation to refuse.
fn canonical(value: &mut Value) {
    if matches!(value, Value::String(_) | Value::Number(_))
        && let Ok(quantity) = tree::scalar(value).parse::<Quantity>()
    {
        *value = Value::String(quantity.to_string());
    }
}
