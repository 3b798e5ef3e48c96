//! Pod templates: when two are the same version, and the short hash that names a version.

use serde_json::{Map, Value};

use crate::hash::Fnv;

/// The label that tells the pods of one version from those of another.
pub const HASH_LABEL: &str = "pod-template-hash";

/// Whether two templates make the same pods. The hash label does not count, a null or an empty set of
/// labels or annotations is an absent one; both are expected with the API's defaults filled in.
pub fn same_template(a: &Value, b: &Value) -> bool {
    same_metadata(a.get("metadata"), b.get("metadata")) && same(a.get("spec"), b.get("spec"))
}

fn same_metadata(a: Option<&Value>, b: Option<&Value>) -> bool {
    let field = |metadata: Option<&Value>, key: &str| metadata.and_then(|m| m.get(key)).cloned();
    let set = |metadata: Option<&Value>, key: &str| {
        let mut set = match field(metadata, key) {
            Some(Value::Object(set)) => set,
            _ => Map::new(),
        };
        if key == "labels" {
            set.remove(HASH_LABEL);
        }
        set
    };
    ["labels", "annotations"].iter().all(|key| set(a, key) == set(b, key))
        && same(a.and_then(|m| m.get("finalizers")), b.and_then(|m| m.get("finalizers")))
}

/// Equality in which a field that is null is absent.
pub(crate) fn same(a: Option<&Value>, b: Option<&Value>) -> bool {
    match (a.filter(|v| !v.is_null()), b.filter(|v| !v.is_null())) {
        (None, None) => true,
        (Some(Value::Object(a)), Some(Value::Object(b))) => {
            a.iter().all(|(key, value)| same(Some(value), b.get(key)))
                && b.iter().all(|(key, value)| a.contains_key(key) || value.is_null())
        }
        (Some(Value::Array(a)), Some(Value::Array(b))) => {
            a.len() == b.len() && a.iter().zip(b).all(|(a, b)| same(Some(a), Some(b)))
        }
        (a, b) => a == b,
    }
}

/// The hash of a template; `collisions` makes another one when the name is taken.
pub fn template_hash(template: &Value, collisions: Option<i64>) -> String {
    let mut hash = Fnv::new();
    hash.value(template);
    if let Some(count) = collisions.filter(|count| *count != 0) {
        hash.bytes(&count.to_le_bytes());
    }
    hash.name()
}

/// The template with the hash among its labels.
pub(super) fn with_hash(template: &Value, hash: &str) -> Value {
    let mut template = template.clone();
    if !template.is_object() {
        template = Value::Object(Map::new());
    }
    insert(&mut template, &["metadata", "labels"], HASH_LABEL, hash);
    template
}

/// Sets `key` in the object at `path`, which is made where it is missing.
pub fn insert(value: &mut Value, path: &[&str], key: &str, text: &str) {
    let Value::Object(fields) = value else { return };
    match path.split_first() {
        None => {
            fields.insert(key.to_owned(), Value::from(text));
        }
        Some((first, rest)) => {
            let inner = fields.entry((*first).to_owned()).or_insert(Value::Null);
            if inner.is_null() {
                *inner = Value::Object(Map::new());
            }
            insert(inner, rest, key, text);
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(a: Value, b: Value, expect: bool) {
        assert_eq!(same_template(&a, &b), expect, "{a} and {b}");
        assert_eq!(same_template(&b, &a), expect, "{b} and {a}");
    }

    #[test]
    fn templates_compare_without_the_hash() {
        let base = json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"image": "a"}]}});
        let hashed = with_hash(&base, "abc");
        assert_eq!(hashed.pointer("/metadata/labels/pod-template-hash"), Some(&json!("abc")));
        check(base.clone(), hashed, true);
        check(
            base.clone(),
            json!({"metadata": {"creationTimestamp": null, "labels": {"app": "x"}, "annotations": {}},
            "spec": {"containers": [{"image": "a", "command": null}]}}),
            true,
        );
        check(
            base.clone(),
            json!({"metadata": {"labels": {"app": "x"}}, "spec": {"containers": [{"image": "b"}]}}),
            false,
        );
        check(
            base,
            json!({"metadata": {"labels": {"app": "y"}}, "spec": {"containers": [{"image": "a"}]}}),
            false,
        );
        check(json!({"spec": {"volumes": [{"emptyDir": {}}]}}), json!({"spec": {"volumes": [{}]}}), false);
    }

    #[test]
    fn hash_changes_with_template_and_collisions() {
        let template = json!({"spec": {"containers": [{"image": "a"}]}});
        let plain = template_hash(&template, None);
        assert_eq!(plain, template_hash(&template, Some(0)));
        assert_ne!(plain, template_hash(&template, Some(1)));
        assert_ne!(plain, template_hash(&json!({"spec": {"containers": [{"image": "b"}]}}), None));
    }
}
