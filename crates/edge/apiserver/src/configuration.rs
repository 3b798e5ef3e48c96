//! Files that say how the server is set up, read field by field, so that an error names the place.

use serde_json::Value;
use wharf_api::codec::yaml_with_duplicates;

/// Bytes of a file at the most.
const MAX: usize = 1 << 20;

/// Something in a file that is not as it must be.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{at}: {what}")]
pub struct ConfigError {
    /// The field, as `jwt[0].issuer.url`.
    pub at: String,
    /// What is wrong with it.
    pub what: String,
}

impl ConfigError {
    pub(crate) fn new(at: impl Into<String>, what: impl Into<String>) -> Self {
        Self { at: at.into(), what: what.into() }
    }
}

/// A document in YAML or JSON of a kind, in one of these versions.
pub(crate) fn document(text: &str, kind: &str, versions: &[&str]) -> Result<Value, ConfigError> {
    if text.len() > MAX {
        return Err(ConfigError::new("file", format!("has {} bytes, more than {MAX}", text.len())));
    }
    let (value, twice) =
        yaml_with_duplicates(text).map_err(|error| ConfigError::new("file", error.to_string()))?;
    if let Some(twice) = twice.into_iter().next() {
        return Err(ConfigError::new("file", twice));
    }
    if value["kind"] != kind {
        return Err(ConfigError::new("kind", format!("is {}, not {kind:?}", value["kind"])));
    }
    let version = value["apiVersion"].as_str().unwrap_or_default();
    if !versions.contains(&version) {
        let known = versions.join(", ");
        return Err(ConfigError::new(
            "apiVersion",
            format!("{version:?} is not known here; it must be {known}"),
        ));
    }
    Ok(value)
}

/// A part of a document, with where it stands.
#[derive(Clone)]
pub(crate) struct Part<'a> {
    pub value: &'a Value,
    pub at: String,
}

static NOTHING: Value = Value::Null;

impl<'a> Part<'a> {
    pub(crate) fn whole(value: &'a Value) -> Self {
        Self { value, at: String::new() }
    }

    /// The place of a field.
    pub(crate) fn place(&self, name: &str) -> String {
        if self.at.is_empty() { name.to_owned() } else { format!("{}.{name}", self.at) }
    }

    pub(crate) fn error(&self, name: &str, what: impl Into<String>) -> ConfigError {
        ConfigError::new(self.place(name), what)
    }

    /// Refuses fields nobody knows.
    pub(crate) fn fields(&self, known: &[&str]) -> Result<(), ConfigError> {
        let map = match self.value {
            Value::Object(map) => map,
            Value::Null => return Ok(()),
            _ => return Err(ConfigError::new(&self.at, "must be an object")),
        };
        match map.keys().find(|name| !known.contains(&name.as_str())) {
            None => Ok(()),
            Some(name) => {
                Err(self.error(name, format!("unknown field; known here are {}", known.join(", "))))
            }
        }
    }

    /// A field; null when it is not there.
    pub(crate) fn part(&self, name: &str) -> Part<'a> {
        Part { value: self.value.get(name).unwrap_or(&NOTHING), at: self.place(name) }
    }

    pub(crate) fn is_there(&self) -> bool {
        !self.value.is_null()
    }

    fn read<T>(
        &self,
        name: &str,
        what: &str,
        read: impl FnOnce(&'a Value) -> Option<T>,
    ) -> Result<Option<T>, ConfigError> {
        let part = self.part(name);
        match part.value {
            Value::Null => Ok(None),
            value => {
                read(value).map(Some).ok_or_else(|| ConfigError::new(part.at, format!("must be {what}")))
            }
        }
    }

    /// A text; empty when it is not there.
    pub(crate) fn text(&self, name: &str) -> Result<&'a str, ConfigError> {
        Ok(self.read(name, "a text", Value::as_str)?.unwrap_or_default())
    }

    pub(crate) fn flag(&self, name: &str) -> Result<Option<bool>, ConfigError> {
        self.read(name, "true or false", Value::as_bool)
    }

    /// The elements of a list; none when it is not there.
    pub(crate) fn items(&self, name: &str) -> Result<Vec<Part<'a>>, ConfigError> {
        let list = self.read(name, "a list", Value::as_array)?;
        let place = self.place(name);
        let part = |(i, value)| Part { value, at: format!("{place}[{i}]") };
        Ok(list.into_iter().flatten().enumerate().map(part).collect())
    }

    /// A list of texts.
    pub(crate) fn texts(&self, name: &str) -> Result<Vec<String>, ConfigError> {
        let text = |part: Part<'a>| match part.value.as_str() {
            Some(text) => Ok(text.to_owned()),
            None => Err(ConfigError::new(part.at, "must be a text")),
        };
        self.items(name)?.into_iter().map(text).collect()
    }
}
