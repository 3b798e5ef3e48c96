//! Paths and queries.

use std::collections::BTreeMap;

use serde::de::DeserializeOwned;
use serde_json::Value;

use super::{API_VERSION, Call, MAX_JSON, MIN_API_VERSION, answer::Failure};

/// The parts of a path, without the version it may begin with.
pub(super) fn parts(path: &str) -> Result<Vec<String>, Failure> {
    let decode = |part: &str| {
        let bytes = percent_decoded(part);
        String::from_utf8(bytes).map_err(|_| Failure::bad("the path is not UTF-8"))
    };
    let mut parts: Vec<String> =
        path.split('/').filter(|part| !part.is_empty()).map(decode).collect::<Result<_, _>>()?;
    if let Some(version) = parts.first().and_then(|first| first.strip_prefix('v'))
        && let Some(wanted) = number(version)
    {
        if wanted < number(MIN_API_VERSION).unwrap_or_default() {
            return Err(Failure::bad(format!(
                "client version {version} is too old. Minimum supported API version is {MIN_API_VERSION}, please \
                 upgrade your client to a newer version"
            )));
        }
        if wanted > number(API_VERSION).unwrap_or_default() {
            return Err(Failure::bad(format!(
                "client version {version} is too new. Maximum supported API version is {API_VERSION}"
            )));
        }
        parts.remove(0);
    }
    Ok(parts)
}

fn number(version: &str) -> Option<(u32, u32)> {
    let (major, minor) = version.split_once('.')?;
    Some((major.parse().ok()?, minor.parse().ok()?))
}

fn percent_decoded(text: &str) -> Vec<u8> {
    let bytes = text.as_bytes();
    let mut decoded = Vec::with_capacity(bytes.len());
    let mut at = 0;
    while let Some(byte) = bytes.get(at) {
        let hex = (*byte == b'%').then(|| text.get(at + 1..at + 3)).flatten();
        match hex.and_then(|hex| u8::from_str_radix(hex, 16).ok()) {
            Some(value) => {
                decoded.push(value);
                at += 3;
            }
            None => {
                decoded.push(*byte);
                at += 1;
            }
        }
    }
    decoded
}

/// The parameters of a request.
#[derive(Debug, Clone, Default)]
pub(super) struct Query(Vec<(String, String)>);

impl Query {
    pub(super) fn parse(text: Option<&str>) -> Self {
        Self(form_urlencoded::parse(text.unwrap_or_default().as_bytes()).into_owned().collect())
    }

    /// One parameter.
    pub(super) fn of(name: &str, value: &str) -> Self {
        Self(vec![(name.to_owned(), value.to_owned())])
    }

    /// A parameter that is not empty.
    pub(super) fn get(&self, name: &str) -> Option<&str> {
        self.0.iter().find(|(key, _)| key == name).map(|(_, value)| value.as_str()).filter(|v| !v.is_empty())
    }

    /// All values of a parameter that may stand several times.
    pub(super) fn all(&self, name: &str) -> Vec<&str> {
        self.0.iter().filter(|(key, _)| key == name).map(|(_, value)| value.as_str()).collect()
    }

    /// As docker reads truth.
    pub(super) fn flag(&self, name: &str) -> bool {
        let value = self.get(name).unwrap_or_default().trim().to_ascii_lowercase();
        !matches!(value.as_str(), "" | "0" | "no" | "false" | "none")
    }

    /// `filters`: names with their values, as a list or as a mapping to true.
    pub(super) fn filters(&self) -> Result<Filters, Failure> {
        let Some(text) = self.get("filters") else { return Ok(Filters::default()) };
        let bad = || Failure::bad(format!("invalid filter '{text}'"));
        let value: BTreeMap<String, Value> = serde_json::from_str(text).map_err(|_| bad())?;
        let mut filters = BTreeMap::new();
        for (name, values) in value {
            let values = match values {
                Value::Array(all) => all
                    .iter()
                    .map(|v| v.as_str().map(str::to_owned))
                    .collect::<Option<_>>()
                    .ok_or_else(bad)?,
                Value::Object(all) => all.into_iter().map(|(key, _)| key).collect(),
                _ => return Err(bad()),
            };
            filters.insert(name, values);
        }
        Ok(Filters(filters))
    }
}

/// Conditions by name; values of one name are alternatives.
#[derive(Debug, Clone, Default)]
pub(super) struct Filters(BTreeMap<String, Vec<String>>);

impl Filters {
    /// Refuses names that mean nothing here.
    pub(super) fn check(&self, known: &[&str]) -> Result<(), Failure> {
        match self.0.keys().find(|name| !known.contains(&name.as_str())) {
            Some(name) => {
                Err(Failure::bad(format!("invalid filter '{name}': known are {}", known.join(", "))))
            }
            None => Ok(()),
        }
    }

    /// Refuses values of `name` that mean nothing.
    pub(super) fn check_values(&self, name: &str, known: &[&str]) -> Result<(), Failure> {
        match self.values(name).iter().find(|value| !known.contains(&value.as_str())) {
            Some(value) => Err(Failure::bad(format!("invalid filter '{name}={value}'"))),
            None => Ok(()),
        }
    }

    /// The values of `name`.
    pub(super) fn values(&self, name: &str) -> &[String] {
        self.0.get(name).map(Vec::as_slice).unwrap_or_default()
    }

    /// Whether one of the values of `name` fits; true without any.
    pub(super) fn fits(&self, name: &str, fits: impl Fn(&str) -> bool) -> bool {
        self.0.get(name).is_none_or(|values| values.iter().any(|value| fits(value)))
    }

    /// Whether all labels asked for are there: `KEY` or `KEY=VALUE`.
    pub(super) fn labels(&self, labels: &BTreeMap<String, String>) -> bool {
        let has = |wanted: &String| match wanted.split_once('=') {
            Some((key, value)) => labels.get(key).is_some_and(|own| own == value),
            None => labels.contains_key(wanted),
        };
        let unwanted = self.0.get("label!").is_none_or(|all| !all.iter().any(has));
        self.0.get("label").is_none_or(|all| all.iter().all(has)) && unwanted
    }

    /// Whether there is a condition of this name.
    pub(super) fn has(&self, name: &str) -> bool {
        self.0.contains_key(name)
    }
}

impl Call {
    /// The body as JSON; nothing of an empty one.
    pub(super) async fn json<T: DeserializeOwned + Default>(&mut self) -> Result<T, Failure> {
        let body = std::mem::replace(&mut self.body, wharf_http::empty());
        let bytes =
            wharf_http::collect(body, MAX_JSON).await.map_err(|error| Failure::bad(error.to_string()))?;
        if bytes.is_empty() {
            return Ok(T::default());
        }
        let value: Value =
            serde_json::from_slice(&bytes).map_err(|error| Failure::bad(format!("invalid JSON: {error}")))?;
        T::deserialize(without_nothing(&value))
            .map_err(|error| Failure::bad(format!("invalid JSON: {error}")))
    }
}

/// Names whose values may be nothing and mean something by that.
const MAY_BE_NOTHING: [&str; 4] = ["PortBindings", "EndpointsConfig", "ExposedPorts", "Volumes"];

/// Without the fields that are null: to clients they are not there.
pub(super) fn without_nothing(value: &Value) -> Value {
    match value {
        Value::Object(fields) => {
            let given = fields.iter().filter(|(_, value)| !value.is_null());
            let cleaned = given.map(|(name, value)| match MAY_BE_NOTHING.contains(&name.as_str()) {
                true => (name.clone(), value.clone()),
                false => (name.clone(), without_nothing(value)),
            });
            Value::Object(cleaned.collect())
        }
        Value::Array(all) => all.iter().map(without_nothing).collect(),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn paths_are_taken_apart() {
        let read = |path: &str| parts(path).map_err(|failure| failure.message().to_owned());
        assert_eq!(read("/v1.47/containers/a%2Fb/json").unwrap(), ["containers", "a/b", "json"]);
        assert_eq!(read("/_ping").unwrap(), ["_ping"]);
        assert!(read("/v1.12/info").unwrap_err().contains("too old"));
        assert!(read("/v1.99/info").unwrap_err().contains("too new"));
        assert_eq!(read("/volumes/x%").unwrap(), ["volumes", "x%"]);
    }

    #[test]
    fn filters_come_in_two_forms() {
        let query = |text: &str| {
            let encoded: String =
                form_urlencoded::Serializer::new(String::new()).append_pair("filters", text).finish();
            Query::parse(Some(&encoded)).filters()
        };
        for text in [r#"{"name":["a","b"]}"#, r#"{"name":{"a":true,"b":true}}"#] {
            let filters = query(text).unwrap();
            assert!(filters.fits("name", |name| name == "b") && filters.fits("other", |_| false));
            assert!(!filters.fits("name", |name| name == "c") && filters.check(&["id"]).is_err());
        }
        assert!(query("[]").is_err() && query(r#"{"name":3}"#).is_err());
        let labels = BTreeMap::from([("a".to_owned(), "1".to_owned())]);
        assert!(query(r#"{"label":["a"]}"#).unwrap().labels(&labels));
        assert!(!query(r#"{"label":["a=2"]}"#).unwrap().labels(&labels));
    }
}
