//! The selector of a metric as PromQL.

use std::fmt::Write as _;

use wharf_control::LabelSelector;

/// The matchers of a selector, each after a comma.
pub fn matchers(selector: &LabelSelector) -> String {
    let mut text = String::new();
    for (name, value) in &selector.match_labels {
        // Writing to a String cannot fail.
        let _ = write!(text, ",{name}={value:?}");
    }
    for requirement in &selector.match_expressions {
        let (operator, value) = match requirement.operator.as_str() {
            "In" => ("=~", any_of(&requirement.values)),
            "NotIn" => ("!~", any_of(&requirement.values)),
            "Exists" => ("!=", String::new()),
            _ => ("=", String::new()),
        };
        let _ = write!(text, ",{}{operator}{value:?}", requirement.key);
    }
    text
}

/// A regular expression that is one of these values.
fn any_of(values: &[String]) -> String {
    let escaped = values.iter().map(|value| {
        let special = |c: char| r"\.+*?()|[]{}^$".contains(c);
        value.chars().fold(String::new(), |mut text, c| {
            text.extend(special(c).then_some('\\').into_iter().chain([c]));
            text
        })
    });
    escaped.collect::<Vec<_>>().join("|")
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    fn check(selector: serde_json::Value, expect: &str) {
        let parsed = wharf_control::read(&selector).unwrap();
        assert_eq!(matchers(&parsed), expect, "{selector}");
    }

    #[test]
    fn every_requirement_becomes_a_matcher() {
        check(json!({}), "");
        check(json!({"matchLabels": {"queue": "a", "tier": "b"}}), r#",queue="a",tier="b""#);
        check(
            json!({"matchLabels": {"queue": "a"}, "matchExpressions": [
                {"key": "zone", "operator": "In", "values": ["eu", "us.1"]},
                {"key": "kind", "operator": "NotIn", "values": ["test"]},
                {"key": "owner", "operator": "Exists"},
                {"key": "old", "operator": "DoesNotExist"}]}),
            r#",queue="a",zone=~"eu|us\\.1",kind!~"test",owner!="",old="""#,
        );
    }
}
