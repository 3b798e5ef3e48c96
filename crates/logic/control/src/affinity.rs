//! Which nodes a pod may be on by its node selector and required node affinity.

use serde_json::Value;

use crate::{
    meta::{Labels, Meta},
    selector::Requirement,
};

/// Whether the node selector and required node affinity of a pod spec allow a node.
pub(crate) fn allows(spec: &Value, node: &Meta) -> bool {
    let selector = spec.get("nodeSelector").and_then(Value::as_object).into_iter().flatten();
    let selected =
        selector.into_iter().all(|(key, value)| node.labels.get(key).map(String::as_str) == value.as_str());
    let terms = spec.get("affinity").and_then(required_terms);
    selected && terms.is_none_or(|terms| terms.iter().any(|term| fits(term, node)))
}

/// The node whose name an affinity requires.
pub(crate) fn required_node(affinity: &Value) -> Option<&str> {
    let fields = required_terms(affinity)?.iter().filter_map(|term| term.get("matchFields")?.as_array());
    let by_name = fields.flatten().find(|field| {
        let text = |key: &str| field.get(key).and_then(Value::as_str);
        text("key") == Some(NAME_FIELD) && text("operator") == Some("In")
    });
    match by_name?.get("values")?.as_array()?.as_slice() {
        [name] => name.as_str(),
        _ => None,
    }
}

/// The only field of nodes a term may ask for.
pub(crate) const NAME_FIELD: &str = "metadata.name";

fn required_terms(affinity: &Value) -> Option<&Vec<Value>> {
    let required = affinity.pointer("/nodeAffinity/requiredDuringSchedulingIgnoredDuringExecution")?;
    required.get("nodeSelectorTerms")?.as_array()
}

/// Whether a node has all a term asks for; a term that asks for nothing fits none.
fn fits(term: &Value, node: &Meta) -> bool {
    let list = |field: &str| term.get(field).and_then(Value::as_array).map_or(&[][..], Vec::as_slice);
    let (expressions, fields) = (list("matchExpressions"), list("matchFields"));
    let name = Labels::from([(NAME_FIELD.to_owned(), node.name.clone())]);
    (!expressions.is_empty() || !fields.is_empty())
        && expressions.iter().all(|expression| holds(expression, &node.labels))
        && fields.iter().all(|field| holds(field, &name))
}

fn holds(requirement: &Value, labels: &Labels) -> bool {
    let Ok(requirement) = crate::meta::read::<Requirement>(requirement) else { return false };
    let number = |text: &String| text.parse::<i64>().ok();
    let compared = || {
        let label = number(labels.get(&requirement.key)?)?;
        Some(label.cmp(&number(requirement.values.first()?)?))
    };
    match requirement.operator.as_str() {
        "Gt" => compared().is_some_and(std::cmp::Ordering::is_gt),
        "Lt" => compared().is_some_and(std::cmp::Ordering::is_lt),
        _ => requirement.matches(labels),
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::read;
    use serde_json::json;

    fn check(spec: Value, expect: bool) {
        let node = read(&json!({"name": "n", "labels": {"color": "blue", "cores": "8"}})).unwrap();
        assert_eq!(allows(&spec, &node), expect, "{spec}");
    }

    fn affinity(terms: Value) -> Value {
        let required = json!({"nodeSelectorTerms": terms});
        json!({"affinity": {"nodeAffinity": {"requiredDuringSchedulingIgnoredDuringExecution": required}}})
    }

    #[test]
    fn selectors_and_terms() {
        check(json!({}), true);
        check(json!({"nodeSelector": {"color": "blue"}}), true);
        check(json!({"nodeSelector": {"color": "green"}}), false);
        let color = |value: &str| json!({"matchExpressions": [{"key": "color", "operator": "In", "values": [value]}]});
        check(affinity(json!([color("green"), color("blue")])), true);
        check(affinity(json!([color("green")])), false);
        check(affinity(json!([{}])), false);
        let cores = |operator: &str, than: &str| {
            affinity(
                json!([{"matchExpressions": [{"key": "cores", "operator": operator, "values": [than]}]}]),
            )
        };
        check(cores("Gt", "7"), true);
        check(cores("Gt", "8"), false);
        check(cores("Lt", "9"), true);
        check(cores("Lt", "x"), false);
        let name = |name: &str| {
            affinity(json!([{"matchFields": [{"key": "metadata.name", "operator": "In", "values": [name]}]}]))
        };
        check(name("n"), true);
        check(name("m"), false);
        assert_eq!(required_node(&name("m")["affinity"]), Some("m"));
        assert_eq!(required_node(&affinity(json!([color("blue")]))["affinity"]), None);
    }
}
