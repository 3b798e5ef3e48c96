//! Label selectors (`metav1.LabelSelector`).

use serde::{Deserialize, Serialize};

use crate::meta::{Labels, null_default};

/// Labels that must be equal, and further requirements; all must hold.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct LabelSelector {
    /// Labels with these exact values.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Labels::is_empty")]
    pub match_labels: Labels,
    /// Requirements with an operator.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub match_expressions: Vec<Requirement>,
}

/// One requirement on one label.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Requirement {
    /// The label.
    pub key: String,
    /// `In`, `NotIn`, `Exists` or `DoesNotExist`.
    pub operator: String,
    /// Values of `In` and `NotIn`.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub values: Vec<String>,
}

impl LabelSelector {
    /// Whether it asks for nothing, and so matches everything.
    pub fn is_empty(&self) -> bool {
        self.match_labels.is_empty() && self.match_expressions.is_empty()
    }

    /// Whether an object with these labels is selected.
    pub fn matches(&self, labels: &Labels) -> bool {
        contains(labels, &self.match_labels) && self.match_expressions.iter().all(|r| r.matches(labels))
    }
}

impl Requirement {
    /// Whether labels satisfy it. An operator that does not exist is satisfied by nothing.
    pub fn matches(&self, labels: &Labels) -> bool {
        let value = labels.get(&self.key);
        match self.operator.as_str() {
            "In" => value.is_some_and(|v| self.values.contains(v)),
            "NotIn" => value.is_none_or(|v| !self.values.contains(v)),
            "Exists" => value.is_some(),
            "DoesNotExist" => value.is_none(),
            _ => false,
        }
    }
}

/// Whether `labels` has every pair of `wanted`.
pub(crate) fn contains(labels: &Labels, wanted: &Labels) -> bool {
    wanted.iter().all(|(key, value)| labels.get(key) == Some(value))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(selector: serde_json::Value, labels: &[(&str, &str)], expect: bool) {
        let labels = labels.iter().map(|(k, v)| ((*k).to_owned(), (*v).to_owned())).collect();
        let parsed: LabelSelector = serde_json::from_value(selector.clone()).unwrap();
        assert_eq!(parsed.matches(&labels), expect, "{selector} on {labels:?}");
    }

    #[test]
    fn requirements_are_joined_by_and() {
        check(json!({}), &[], true);
        check(json!({"matchLabels": {"a": "1"}}), &[("a", "1"), ("b", "2")], true);
        check(json!({"matchLabels": {"a": "1"}}), &[("a", "2")], false);
        let expressions = json!({"matchLabels": {"a": "1"}, "matchExpressions": [
            {"key": "b", "operator": "In", "values": ["x", "y"]},
            {"key": "c", "operator": "DoesNotExist"},
            {"key": "d", "operator": "NotIn", "values": ["z"]}]});
        check(expressions.clone(), &[("a", "1"), ("b", "y")], true);
        check(expressions.clone(), &[("a", "1"), ("b", "y"), ("d", "z")], false);
        check(expressions, &[("a", "1"), ("b", "y"), ("c", "")], false);
        check(json!({"matchExpressions": [{"key": "a", "operator": "Near"}]}), &[("a", "1")], false);
    }
}
