//! YAML 1.2 as the API server reads and writes it: a JSON value in another coat.

use serde_json::Value;
use serde_saphyr::{Error, options::DuplicateKeyPolicy};

use super::DecodeError;

/// The one document of `text` as a JSON value.
///
/// # Errors
/// When the text is no YAML, or holds several documents.
pub fn yaml_to_value(text: &str) -> Result<Value, DecodeError> {
    serde_saphyr::from_str(text).map_err(|e| DecodeError::Syntax(first_line(&e.to_string())))
}

/// As [`yaml_to_value`], where a key that is there twice is no error: its last value counts, and the second part says
/// where the first such key is, in the words of the field's other servers.
///
/// # Errors
/// When the text is no YAML, or holds several documents.
pub fn yaml_with_duplicates(text: &str) -> Result<(Value, Vec<String>), DecodeError> {
    let wrong = |error: Error| DecodeError::Syntax(first_line(&error.to_string()));
    let error = match serde_saphyr::from_str(text) {
        Ok(value) => return Ok((value, Vec::new())),
        Err(error) => error,
    };
    let Error::DuplicateMappingKey { key, location } = error.without_snippet() else {
        return Err(wrong(error));
    };
    let named = key.as_deref().unwrap_or_default();
    let said = format!("line {}: key {named:?} already set in map", location.line());
    let options = serde_saphyr::options! { duplicate_keys: DuplicateKeyPolicy::LastWins };
    let value = serde_saphyr::from_str_with_options(text, options).map_err(wrong)?;
    Ok((value, vec![said]))
}

/// Every document of `text`, empty ones left out.
///
/// # Errors
/// When the text is no YAML.
pub fn yaml_to_values(text: &str) -> Result<Vec<Value>, DecodeError> {
    let documents: Vec<Value> =
        serde_saphyr::from_multiple(text).map_err(|e| DecodeError::Syntax(first_line(&e.to_string())))?;
    Ok(documents.into_iter().filter(|d| !d.is_null()).collect())
}

/// A value as a YAML document.
pub fn value_to_yaml(value: &Value) -> String {
    serde_saphyr::to_string(value).unwrap_or_default()
}

/// The library's messages carry a drawn snippet of the input; the first line says it all.
fn first_line(message: &str) -> String {
    message.lines().next().unwrap_or_default().to_owned()
}
