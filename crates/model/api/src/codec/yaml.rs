//! YAML 1.2 as the API server reads and writes it: a JSON value in another coat.

use serde_json::Value;

use super::DecodeError;

/// The one document of `text` as a JSON value.
///
/// # Errors
/// When the text is no YAML, or holds several documents.
pub fn yaml_to_value(text: &str) -> Result<Value, DecodeError> {
    serde_saphyr::from_str(text).map_err(|e| DecodeError::Syntax(first_line(&e.to_string())))
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
