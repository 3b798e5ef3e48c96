use serde_json::json;

use super::*;

fn check(schema: Value, new: Value, old: Option<Value>) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"spec": schema}});
    let (rules, errors) = Rules::compile(&schema);
    assert_eq!(errors, []);
    let wrap =
        |spec: Value| json!({"apiVersion": "g/v1", "kind": "K", "metadata": {"name": "a"}, "spec": spec});
    let causes = rules.validate(&wrap(new), old.map(wrap).as_ref());
    causes.into_iter().map(|c| format!("{}: {}", c.field, c.message)).collect()
}

fn range() -> Value {
    json!({"type": "object", "properties": {"min": {"type": "integer"}, "max": {"type": "integer"}},
        "x-kubernetes-validations": [
            {"rule": "self.min <= self.max", "messageExpression": "'min %d is above max'.format([self.min])"},
            {"rule": "self.max >= oldSelf.max", "message": "max may not shrink", "fieldPath": ".max",
                "reason": "FieldValueForbidden"}]})
}

#[test]
fn rules_judge_values_and_changes() {
    assert_eq!(check(range(), json!({"min": 1, "max": 2}), None), [""; 0]);
    assert_eq!(
        check(range(), json!({"min": 3, "max": 2}), None),
        [r#"spec: Invalid value: "object": min 3 is above max"#]
    );
    assert_eq!(
        check(range(), json!({"min": 1, "max": 2}), Some(json!({"min": 1, "max": 5}))),
        ["spec.max: Forbidden: max may not shrink"]
    );
}

#[test]
fn what_was_so_before_is_not_judged_again() {
    let bad = json!({"min": 3, "max": 2});
    assert_eq!(check(range(), bad.clone(), Some(bad)), [""; 0]);
    let list = json!({"type": "array", "x-kubernetes-list-type": "map", "x-kubernetes-list-map-keys": ["k"],
        "items": {"type": "object", "properties": {"k": {"type": "string"}, "n": {"type": "integer"}},
            "x-kubernetes-validations": [{"rule": "self.n > 0"}]}});
    let old = json!([{"k": "a", "n": 0}]);
    let new = json!([{"k": "b", "n": 0}, {"k": "a", "n": 0}]);
    assert_eq!(check(list, new, Some(old)), [r#"spec[0]: Invalid value: "object": failed rule: self.n > 0"#]);
}

#[test]
fn a_rule_may_ask_whether_there_was_a_value() {
    let schema = json!({"type": "string", "maxLength": 10, "x-kubernetes-validations":
        [{"rule": "!oldSelf.hasValue() || oldSelf.value() == self", "optionalOldSelf": true, "message": "fixed"}]});
    assert_eq!(check(schema.clone(), json!("a"), None), [""; 0]);
    assert_eq!(check(schema, json!("a"), Some(json!("b"))), [r#"spec: Invalid value: "string": fixed"#]);
}

#[test]
fn rules_that_cannot_be_used_are_told() {
    let schema = json!({"type": "object", "properties": {"spec": {"type": "object",
        "properties": {"a": {"type": "integer"}, "l": {"type": "array", "items": {"type": "array", "items": {"type": "string"}}}},
        "x-kubernetes-validations": [{"rule": "self.b == 1"}, {"rule": "self.a"},
            {"rule": "self.l.all(x, self.l.all(y, x.all(s, y.exists(t, s == t))))"}]}}});
    let (_, errors) = Rules::compile(&schema);
    let messages: Vec<&str> = errors.iter().map(|e| e.message.as_str()).collect();
    assert!(messages[0].contains("undefined field 'b'"), "{messages:?}");
    assert_eq!(messages[1], "cel expression must evaluate to a bool");
    assert!(
        messages[2].contains("estimated rule cost exceeds budget by factor of more than 100x"),
        "{messages:?}"
    );
    assert_eq!(errors[0].path, "properties[spec].x-kubernetes-validations[0].rule");
}

fn told(schema: Value) -> Vec<String> {
    let schema = json!({"type": "object", "properties": {"spec": schema}});
    let (_, errors) = Rules::compile(&schema);
    errors.into_iter().map(|e| format!("{}: {}", e.path, e.message)).collect()
}

#[test]
fn rules_cost_as_often_as_their_place_occurs() {
    // Looking at each of 10,000 numbers costs some ten thousand; alone that is little.
    let item = |bound: Option<u64>| {
        json!({"type": "array", "maxItems": bound, "items": {"type": "object",
            "properties": {"l": {"type": "array", "maxItems": 10_000, "items": {"type": "integer"}}},
            "x-kubernetes-validations": [{"rule": "self.l.all(x, x > 0)"}]}})
    };
    assert_eq!(told(item(Some(10))), [""; 0]);
    let costs = told(item(Some(500)));
    assert!(
        costs[0].starts_with(
            "properties[spec].items.x-kubernetes-validations[0].rule: estimated rule cost exceeds budget by factor of "
        ),
        "{costs:?}"
    );
    // Of objects without required fields a million fit into a request.
    let mut endless = item(None);
    endless.as_object_mut().unwrap().remove("maxItems");
    assert!(told(endless)[0].contains("factor of more than 100x"), "{costs:?}");
    let map = json!({"type": "object", "maxProperties": 50, "additionalProperties": item(Some(50))});
    assert!(told(map)[0].contains("estimated rule cost exceeds"), "{costs:?}");
}

#[test]
fn rules_of_a_definition_cost_together() {
    let field = || {
        json!({"type": "array", "maxItems": 100, "items": {"type": "object",
            "properties": {"l": {"type": "array", "maxItems": 10_000, "items": {"type": "integer"}}},
            "x-kubernetes-validations": [{"rule": "self.l.all(x, x > 0)"}]}})
    };
    let fields = |n: usize| (0..n).map(|i| (format!("f{i:02}"), field())).collect::<Map<_, _>>();
    assert_eq!(told(json!({"type": "object", "properties": fields(5)})), [""; 0]);
    let costs = told(json!({"type": "object", "properties": fields(20)}));
    assert_eq!(costs.len(), DEAREST + 1, "{costs:?}");
    assert!(costs[0].contains("f00].items.x-kubernetes-validations[0].rule: contributed to"), "{costs:?}");
    assert!(costs[DEAREST].contains("total for entire OpenAPIv3 schema exceeds budget"), "{costs:?}");
}

#[test]
fn expressions_of_messages_cost_as_well() {
    let schema = json!({"type": "object",
        "properties": {"l": {"type": "array", "items": {"type": "string"}}},
        "x-kubernetes-validations": [{"rule": "true", "messageExpression":
            "self.l.map(x, self.l.map(y, x + y)).size() > 0 ? 'a' : 'b'"}]});
    let costs = told(schema);
    assert!(
        costs[0].contains(".messageExpression: estimated messageExpression cost exceeds budget"),
        "{costs:?}"
    );
}
