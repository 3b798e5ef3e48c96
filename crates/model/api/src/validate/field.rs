//! A place in an object: its value, and the way there. The path is written out only for an error.

use std::fmt::Write;

use serde_json::{Value, json};

use super::error::{FieldError, Reason};
use crate::table::tree;

/// What is wrong with an object so far.
pub(super) type Errors = Vec<FieldError>;

static NULL: Value = Value::Null;

/// A place in an object.
#[derive(Clone, Copy)]
pub(super) struct Field<'a> {
    value: &'a Value,
    parent: Option<&'a Field<'a>>,
    step: Step<'a>,
}

/// The last step to a place.
#[derive(Clone, Copy)]
enum Step<'a> {
    Root,
    Child(&'a str),
    Index(usize),
    Key(&'a str),
}

impl<'a> Field<'a> {
    /// The whole object.
    pub(super) fn root(value: &'a Value) -> Self {
        Self { value, parent: None, step: Step::Root }
    }

    /// The field of a name; its value is null when it is missing.
    pub(super) fn child<'b>(&'b self, name: &'b str) -> Field<'b> {
        let value = self.value.get(name).unwrap_or(&NULL);
        Field { value, parent: Some(self), step: Step::Child(name) }
    }

    /// The entry of a map.
    pub(super) fn key<'b>(&'b self, key: &'b str) -> Field<'b> {
        let value = self.value.get(key).unwrap_or(&NULL);
        Field { value, parent: Some(self), step: Step::Key(key) }
    }

    /// The elements of a list; none when this is no list.
    pub(super) fn items<'b>(&'b self) -> impl Iterator<Item = Field<'b>> {
        let items = self.value.as_array().map(Vec::as_slice).unwrap_or_default();
        items.iter().enumerate().map(move |(index, value)| Field {
            value,
            parent: Some(self),
            step: Step::Index(index),
        })
    }

    /// The entries of a map; none when this is no map.
    pub(super) fn entries<'b>(&'b self) -> impl Iterator<Item = (&'b str, Field<'b>)> {
        tree::entries(self.value, "")
            .map(move |(key, value)| (key, Field { value, parent: Some(self), step: Step::Key(key) }))
    }

    /// The value here.
    pub(super) fn value(&self) -> &'a Value {
        self.value
    }

    /// The value at a JSON pointer from here.
    pub(super) fn at(&self, pointer: &str) -> &'a Value {
        tree::at(self.value, pointer)
    }

    /// Whether there is a value here.
    pub(super) fn is_set(&self) -> bool {
        !self.value.is_null()
    }

    /// Whether there is a value at a JSON pointer from here.
    pub(super) fn has(&self, pointer: &str) -> bool {
        tree::has(self.value, pointer)
    }

    /// The text here; empty where there is none.
    pub(super) fn text(&self) -> &'a str {
        self.value.as_str().unwrap_or_default()
    }

    /// The text at a JSON pointer from here.
    pub(super) fn text_at(&self, pointer: &str) -> &'a str {
        tree::text(self.value, pointer)
    }

    /// The number at a JSON pointer from here; zero where there is none.
    pub(super) fn int_at(&self, pointer: &str) -> i64 {
        tree::int(self.value, pointer)
    }

    /// The truth value at a JSON pointer from here.
    pub(super) fn flag_at(&self, pointer: &str) -> bool {
        tree::flag(self.value, pointer)
    }

    /// The list at a JSON pointer from here.
    pub(super) fn list_at(&self, pointer: &str) -> &'a [Value] {
        tree::list(self.value, pointer)
    }

    /// How many elements or entries are here.
    pub(super) fn len(&self) -> usize {
        self.value.as_array().map_or_else(|| tree::count(self.value, ""), Vec::len)
    }

    /// Whether there is not one element or entry here.
    pub(super) fn is_empty(&self) -> bool {
        self.len() == 0
    }

    /// The path in the form of error messages.
    pub(super) fn path(&self) -> String {
        let mut path = String::new();
        self.write_path(&mut path);
        path
    }

    fn write_path(&self, path: &mut String) {
        if let Some(parent) = self.parent {
            parent.write_path(path);
        }
        match self.step {
            Step::Root => {}
            Step::Child(name) => {
                if !path.is_empty() {
                    path.push('.');
                }
                path.push_str(name);
            }
            Step::Index(index) => {
                // Writing to a String cannot fail.
                let _ = write!(path, "[{index}]");
            }
            Step::Key(key) => {
                let _ = write!(path, "[{key}]");
            }
        }
    }

    fn error(&self, reason: Reason, value: Value, message: impl Into<String>) -> FieldError {
        FieldError { reason, field: self.path(), value, message: message.into() }
    }

    /// The value here for a message: the empty text where there is none.
    fn shown(&self) -> Value {
        if self.value.is_null() { json!("") } else { self.value.clone() }
    }

    /// A value is missing.
    pub(super) fn required(&self, message: impl Into<String>) -> FieldError {
        self.error(Reason::Required, Value::Null, message)
    }

    /// The value here is wrong.
    pub(super) fn invalid(&self, message: impl Into<String>) -> FieldError {
        self.error(Reason::Invalid, self.shown(), message)
    }

    /// A value that belongs here is wrong.
    pub(super) fn invalid_as(&self, value: impl Into<Value>, message: impl Into<String>) -> FieldError {
        self.error(Reason::Invalid, value.into(), message)
    }

    /// The value here is there twice.
    pub(super) fn duplicate(&self) -> FieldError {
        self.error(Reason::Duplicate, self.shown(), "")
    }

    /// A value that belongs here is there twice.
    pub(super) fn duplicate_as(&self, value: impl Into<Value>) -> FieldError {
        self.error(Reason::Duplicate, value.into(), "")
    }

    /// The value here is none of those supported.
    pub(super) fn not_supported(&self, supported: &[&str]) -> FieldError {
        let quoted: Vec<String> = supported.iter().map(|value| format!("\"{value}\"")).collect();
        self.error(Reason::NotSupported, self.shown(), format!("supported values: {}", quoted.join(", ")))
    }

    /// There may be no value here.
    pub(super) fn forbidden(&self, message: impl Into<String>) -> FieldError {
        self.error(Reason::Forbidden, Value::Null, message)
    }

    /// What is here has too many bytes.
    pub(super) fn too_long(&self, limit: usize) -> FieldError {
        self.error(Reason::TooLong, Value::Null, format!("may not be more than {limit} bytes"))
    }

    /// The list here has too many elements.
    pub(super) fn too_many(&self, limit: usize) -> FieldError {
        self.error(Reason::TooMany, json!(self.len()), format!("must have at most {limit} items"))
    }

    /// What the value here names does not exist.
    pub(super) fn not_found(&self) -> FieldError {
        self.error(Reason::NotFound, self.shown(), "")
    }
}
