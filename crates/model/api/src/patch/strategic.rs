//! Strategic merge patch: lists merge by the key their schema names.
//!
//! Source: Kubernetes' "strategic merge patch" API convention, with its directives `$patch`,
//! `$retainKeys`, `$setElementOrder/LIST` and `$deleteFromPrimitiveList/LIST`.

use std::cmp::Ordering;

use serde_json::{Map, Value};

use super::PatchError;
use crate::schema::{Field, Kind, Type};

const ORDER: &str = "$setElementOrder/";
const DELETE_ITEMS: &str = "$deleteFromPrimitiveList/";

/// Merges `patch` into `target`, an object of type `ty`; the target is unchanged on an error.
///
/// # Errors
/// When a directive is unknown or in the wrong place, or a list item lacks its merge key.
pub fn strategic_merge(target: &mut Value, patch: &Value, ty: &Type) -> Result<(), PatchError> {
    let (Value::Object(object), Value::Object(patch)) = (&*target, patch) else {
        return Err(malformed("a strategic merge patch is an object"));
    };
    *target = Value::Object(object_merge(object.clone(), patch, Some(ty))?);
    Ok(())
}

fn malformed(message: impl Into<String>) -> PatchError {
    PatchError::Malformed(message.into())
}

fn object_merge(
    mut object: Map<String, Value>,
    patch: &Map<String, Value>,
    ty: Option<&Type>,
) -> Result<Map<String, Value>, PatchError> {
    match directive(patch)? {
        Some("replace") => return Ok(strip(patch)),
        Some("delete") => return Ok(Map::new()),
        _ => {}
    }
    if let Some(Value::Array(keep)) = patch.get("$retainKeys") {
        object.retain(|name, _| keep.iter().any(|k| k == name));
    }
    for (name, value) in patch {
        if let Some(list) = name.strip_prefix(DELETE_ITEMS) {
            delete_items(&mut object, list, value);
        } else if !name.starts_with('$') {
            let field = ty.and_then(|ty| ty.field(name));
            member_merge(&mut object, name, value, field.map(|f| (f, &f.kind)), ty)?;
        }
    }
    for (name, order) in patch.iter().filter_map(|(n, v)| Some((n.strip_prefix(ORDER)?, v))) {
        let key = ty.and_then(|ty| ty.field(name)).and_then(|f| f.patch_key.as_deref()).unwrap_or_default();
        if let (Some(Value::Array(items)), Value::Array(order)) = (object.get_mut(name), order) {
            set_order(items, order, key);
        }
    }
    Ok(object)
}

fn directive(patch: &Map<String, Value>) -> Result<Option<&str>, PatchError> {
    match patch.get("$patch") {
        None => Ok(None),
        Some(Value::String(d)) if matches!(d.as_str(), "replace" | "delete" | "merge") => Ok(Some(d)),
        Some(other) => Err(malformed(format!("invalid value for $patch: {other}"))),
    }
}

fn member_merge(
    object: &mut Map<String, Value>,
    name: &str,
    patch: &Value,
    field: Option<(&Field, &Kind)>,
    owner: Option<&Type>,
) -> Result<(), PatchError> {
    let ty = match field {
        Some((_, Kind::Object(ty))) => Some(&**ty),
        // A patch of an object nested in free-form JSON merges without a schema.
        _ => None,
    };
    let merges = field.and_then(|(f, _)| f.patch_key.as_deref());
    let new = match (object.remove(name), patch) {
        (_, Value::Null) => return Ok(()),
        (Some(Value::Object(old)), Value::Object(patch)) => {
            let deleted = directive(patch)? == Some("delete");
            let merged = match field {
                Some((field, Kind::Map(kind))) => map_merge(old, patch, field, kind, owner)?,
                _ => object_merge(old, patch, ty)?,
            };
            if deleted && merged.is_empty() {
                return Ok(());
            }
            Value::Object(merged)
        }
        (Some(Value::Array(old)), Value::Array(patch)) if merges.is_some() => {
            Value::Array(list_merge(old, patch, merges.unwrap_or_default(), item_type(field))?)
        }
        (_, Value::Array(patch)) => Value::Array(strip_items(patch)),
        (_, Value::Object(patch)) => {
            if directive(patch)? == Some("delete") {
                return Ok(());
            }
            Value::Object(strip(patch))
        }
        (_, scalar) => scalar.clone(),
    };
    object.insert(name.to_owned(), new);
    Ok(())
}

fn map_merge(
    mut old: Map<String, Value>,
    patch: &Map<String, Value>,
    field: &Field,
    kind: &Kind,
    owner: Option<&Type>,
) -> Result<Map<String, Value>, PatchError> {
    match directive(patch)? {
        Some("replace") => return Ok(strip(patch)),
        Some("delete") => return Ok(Map::new()),
        _ => {}
    }
    for (name, value) in patch.iter().filter(|(n, _)| *n != "$patch" && *n != "$retainKeys") {
        member_merge(&mut old, name, value, Some((field, kind)), owner)?;
    }
    Ok(old)
}

fn item_type<'a>(field: Option<(&'a Field, &'a Kind)>) -> Option<&'a Type> {
    match field {
        Some((_, Kind::List(item))) => match item.as_ref() {
            Kind::Object(ty) => Some(ty),
            _ => None,
        },
        _ => None,
    }
}

fn list_merge(
    mut items: Vec<Value>,
    patch: &[Value],
    key: &str,
    ty: Option<&Type>,
) -> Result<Vec<Value>, PatchError> {
    if key.is_empty() {
        let original = items.clone();
        let missing: Vec<Value> = patch.iter().filter(|p| !items.contains(p)).cloned().collect();
        items.extend(missing);
        return Ok(in_order(items, patch, &original, |item| item));
    }
    let original = items.clone();
    if patch.iter().any(|p| p["$patch"] == "replace") {
        let rest: Vec<Value> = patch.iter().filter(|p| p["$patch"] != "replace").cloned().collect();
        return Ok(strip_items(&rest));
    }
    for item in patch {
        let Value::Object(item) = item else {
            return Err(malformed(format!(
                "an item of a list that merges by '{key}' is not an object: {item}"
            )));
        };
        let id = item.get(key).ok_or_else(|| {
            malformed(format!(
                "map: {} does not contain declared merge key: {key}",
                Value::Object(item.clone())
            ))
        })?;
        let at = items.iter().position(|i| i.get(key) == Some(id));
        if directive(item)? == Some("delete") {
            items.retain(|i| i.get(key) != Some(id));
            continue;
        }
        match at.map(|at| (at, items[at].take())) {
            Some((at, Value::Object(old))) => items[at] = object_merge(old, item, ty)?.into(),
            _ => items.push(Value::Object(strip(item))),
        }
    }
    Ok(in_order(items, patch, &original, |item| &item[key]))
}

/// Items the patch names stand as it has them, others as they stood; where the two say nothing of one another, what
/// the patch names goes first.
fn in_order(
    items: Vec<Value>,
    patch: &[Value],
    original: &[Value],
    id: impl Fn(&Value) -> &Value,
) -> Vec<Value> {
    let place = |list: &[Value], item: &Value| list.iter().position(|other| id(other) == id(item));
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        items.into_iter().partition(|item| place(patch, item).is_some());
    named.sort_by_key(|item| place(patch, item));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    let mut all = Vec::new();
    loop {
        let other_first = match (named.peek(), others.peek()) {
            (None, None) => return all,
            (None, Some(_)) => true,
            (Some(_), None) => false,
            (Some(new), Some(old)) => match (place(original, new), place(original, old)) {
                (Some(new), Some(old)) => old < new,
                _ => false,
            },
        };
        all.extend(if other_first { others.next() } else { named.next() });
    }
}

fn delete_items(object: &mut Map<String, Value>, list: &str, gone: &Value) {
    if let (Some(Value::Array(items)), Value::Array(gone)) = (object.get_mut(list), gone) {
        items.retain(|item| !gone.contains(item));
    }
}

/// Puts the items named in `order` in that order; items only the server has keep their place
/// relative to those that were there before.
fn set_order(items: &mut Vec<Value>, order: &[Value], key: &str) {
    let id = |item: &Value| if key.is_empty() { item.clone() } else { item[key].clone() };
    let wanted: Vec<Value> = order.iter().map(id).collect();
    let before: Vec<Value> = items.iter().map(id).collect();
    let (mut named, others): (Vec<Value>, Vec<Value>) =
        items.drain(..).partition(|item| wanted.contains(&id(item)));
    named.sort_by_key(|item| wanted.iter().position(|w| *w == id(item)));
    let place = |item: &Value| before.iter().position(|b| *b == id(item));
    let (mut named, mut others) = (named.into_iter().peekable(), others.into_iter().peekable());
    while let (Some(n), Some(o)) = (named.peek(), others.peek()) {
        let next = match place(n).cmp(&place(o)) {
            Ordering::Greater => others.next(),
            _ => named.next(),
        };
        items.extend(next);
    }
    items.extend(named.chain(others));
}

/// A patch taken as a value: without directives, nulls and items that only delete.
fn strip(patch: &Map<String, Value>) -> Map<String, Value> {
    patch
        .iter()
        .filter(|(name, value)| !name.starts_with('$') && !value.is_null())
        .filter(|(_, value)| value.get("$patch").is_none_or(|d| d != "delete"))
        .map(|(name, value)| (name.clone(), strip_value(value)))
        .collect()
}

fn strip_items(items: &[Value]) -> Vec<Value> {
    items
        .iter()
        .filter(|i| i.get("$patch").is_none_or(|d| d != "delete" && d != "replace"))
        .map(strip_value)
        .collect()
}

fn strip_value(value: &Value) -> Value {
    match value {
        Value::Object(object) => Value::Object(strip(object)),
        Value::Array(items) => Value::Array(strip_items(items)),
        other => other.clone(),
    }
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;
    use crate::schema::{Gvk, builtin};

    fn check(target: Value, patch: Value, expect: Value) {
        let ty = builtin().of_kind(&Gvk::new("", "v1", "Pod")).unwrap();
        let mut merged = target;
        strategic_merge(&mut merged, &patch, &ty).unwrap();
        assert_eq!(merged, expect);
    }

    fn containers(items: Value) -> Value {
        json!({"spec": {"containers": items}})
    }

    #[test]
    fn lists_merge_by_their_key() {
        check(
            containers(json!([{"name": "a", "image": "1"}, {"name": "b", "image": "1"}])),
            containers(json!([{"name": "b", "image": "2"}, {"name": "c", "image": "3"}])),
            containers(
                json!([{"name": "a", "image": "1"}, {"name": "b", "image": "2"}, {"name": "c", "image": "3"}]),
            ),
        );
    }

    #[test]
    fn directives_delete_replace_retain_and_order() {
        check(
            containers(json!([{"name": "a"}, {"name": "b"}])),
            containers(json!([{"name": "a", "$patch": "delete"}])),
            containers(json!([{"name": "b"}])),
        );
        check(
            containers(json!([{"name": "a"}])),
            containers(json!([{"$patch": "replace"}, {"name": "z"}])),
            containers(json!([{"name": "z"}])),
        );
        check(
            json!({"spec": {"volumes": [{"name": "v", "emptyDir": {}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "$retainKeys": ["name", "hostPath"], "hostPath": {"path": "/"}}]}}),
            json!({"spec": {"volumes": [{"name": "v", "hostPath": {"path": "/"}}]}}),
        );
        check(
            containers(json!([{"name": "a"}, {"name": "x"}, {"name": "b"}])),
            json!({"spec": {"$setElementOrder/containers": [{"name": "b"}, {"name": "c"}, {"name": "a"}], "containers": [{"name": "c", "image": "i"}]}}),
            containers(json!([{"name": "x"}, {"name": "b"}, {"name": "c", "image": "i"}, {"name": "a"}])),
        );
        check(
            json!({"metadata": {"finalizers": ["a", "b"]}}),
            json!({"metadata": {"$deleteFromPrimitiveList/finalizers": ["a"], "finalizers": ["c"]}}),
            json!({"metadata": {"finalizers": ["c", "b"]}}),
        );
    }

    #[test]
    fn null_removes_and_maps_merge() {
        check(
            json!({"metadata": {"labels": {"a": "1", "b": "2"}}}),
            json!({"metadata": {"labels": {"a": null, "c": "3"}}, "spec": null}),
            json!({"metadata": {"labels": {"b": "2", "c": "3"}}}),
        );
        check(
            json!({"metadata": {"labels": {"a": "1"}}}),
            json!({"metadata": {"labels": {"$patch": "replace", "c": "3"}}}),
            json!({"metadata": {"labels": {"c": "3"}}}),
        );
    }

    #[test]
    fn what_a_patch_adds_stands_before_what_it_does_not_name() {
        let containers = |names: &[&str]| {
            let list: Vec<Value> = names.iter().map(|name| json!({"name": name})).collect();
            json!({"spec": {"containers": list}})
        };
        check(containers(&["a", "b"]), containers(&["new"]), containers(&["new", "a", "b"]));
        check(containers(&["a", "b"]), containers(&["b", "new"]), containers(&["a", "b", "new"]));
    }

    #[test]
    fn an_item_without_its_key_is_refused() {
        let ty = builtin().of_kind(&Gvk::new("", "v1", "Pod")).unwrap();
        let mut target = containers(json!([{"name": "a"}]));
        let error = strategic_merge(&mut target, &containers(json!([{"image": "x"}])), &ty).unwrap_err();
        assert!(error.to_string().contains("does not contain declared merge key: name"));
        assert_eq!(target, containers(json!([{"name": "a"}])));
    }
}
