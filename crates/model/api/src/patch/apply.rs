//! Server-side apply: who owns which field, what a new intent changes, and what it conflicts with.
//!
//! Source: KEP-555 and the semantics of structured-merge-diff's `merge.Updater`.

use serde_json::{Map, Value, json};

use super::field_set::{FieldSet, Shape, compare, item_element, set_of};
use crate::schema::Type;

/// Who writes, as recorded in `metadata.managedFields`.
#[derive(Debug, Clone)]
pub struct Manager<'a> {
    /// Field manager's name.
    pub name: &'a str,
    /// `apiVersion` of the written object.
    pub api_version: &'a str,
    /// Subresource written through, or empty.
    pub subresource: &'a str,
    /// Now, in the form of `metav1.Time`.
    pub time: &'a str,
}

/// How a manager came to own fields.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Operation {
    /// By server-side apply.
    Apply,
    /// By any other write.
    Update,
}

impl Operation {
    fn name(self) -> &'static str {
        match self {
            Self::Apply => "Apply",
            Self::Update => "Update",
        }
    }
}

/// A field that the applied intent sets and another manager owns with another value.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Conflict {
    /// The other manager, as messages name it.
    pub manager: String,
    /// The field, `.spec.replicas`.
    pub path: String,
}

/// Update managers kept per object before the oldest are merged, as upstream.
const MAX_UPDATE_MANAGERS: usize = 10;

struct Entry {
    manager: String,
    operation: String,
    api_version: String,
    subresource: String,
    time: Option<Value>,
    set: FieldSet,
}

impl Entry {
    fn is(&self, who: &Manager<'_>, operation: Operation) -> bool {
        self.manager == who.name
            && self.operation == operation.name()
            && self.subresource == who.subresource
            && (operation == Operation::Apply || self.api_version == who.api_version)
    }

    fn described(&self) -> String {
        let mut text = format!("{:?}", self.manager);
        if !self.subresource.is_empty() {
            text.push_str(&format!(" with subresource {:?}", self.subresource));
        }
        if self.operation == "Update" {
            text.push_str(&format!(" using {}", self.api_version));
        }
        text
    }
}

fn read_entries(object: &Value) -> Vec<Entry> {
    let entries = object.pointer("/metadata/managedFields").and_then(Value::as_array);
    let text = |v: &Value| v.as_str().unwrap_or_default().to_owned();
    let read = |entry: &Value| Entry {
        manager: text(&entry["manager"]),
        operation: text(&entry["operation"]),
        api_version: text(&entry["apiVersion"]),
        subresource: text(&entry["subresource"]),
        time: entry.get("time").cloned(),
        set: FieldSet::from_json(&entry["fieldsV1"]),
    };
    entries.into_iter().flatten().map(read).collect()
}

fn write_entries(object: &mut Value, mut entries: Vec<Entry>) {
    entries.retain(|e| !e.set.is_empty());
    cap_updates(&mut entries);
    let list: Vec<Value> = entries.into_iter().map(entry_json).collect();
    if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
        if list.is_empty() {
            metadata.remove("managedFields");
        } else {
            metadata.insert("managedFields".into(), list.into());
        }
    }
}

fn cap_updates(entries: &mut Vec<Entry>) {
    while entries.iter().filter(|e| e.operation == "Update").count() > MAX_UPDATE_MANAGERS {
        let mut updates = (0..entries.len()).filter(|i| entries[*i].operation == "Update");
        let (Some(first), Some(second)) = (updates.next(), updates.next()) else { return };
        let old = entries.remove(second);
        entries[first].set.union(&old.set);
        entries[first].manager = "ancient-changes".into();
        entries[first].time = old.time;
    }
}

fn entry_json(entry: Entry) -> Value {
    let mut value = json!({
        "manager": entry.manager,
        "operation": entry.operation,
        "apiVersion": entry.api_version,
        "fieldsType": "FieldsV1",
        "fieldsV1": entry.set.to_json(),
    });
    if let Some(time) = entry.time {
        value["time"] = time;
    }
    if !entry.subresource.is_empty() {
        value["subresource"] = entry.subresource.into();
    }
    value
}

/// Paths the server owns: never anybody's.
fn strip_owned_by_server(set: &mut FieldSet) {
    for name in ["f:apiVersion", "f:kind"] {
        set.children.remove(name);
    }
    let metadata = [
        "name",
        "namespace",
        "creationTimestamp",
        "selfLink",
        "uid",
        "generation",
        "managedFields",
        "resourceVersion",
        "deletionTimestamp",
        "deletionGracePeriodSeconds",
    ];
    if let Some(meta) = set.children.get_mut("f:metadata") {
        meta.member = false;
        for name in metadata {
            meta.children.remove(&format!("f:{name}"));
        }
        if meta.is_empty() {
            set.children.remove("f:metadata");
        }
    }
    set.member = false;
}

/// `live` with what `config` says, by the topologies of the type: what server-side apply makes of them, whoever owns
/// what.
pub fn merge_applied(live: &Value, config: &Value, ty: &Type) -> Value {
    merge(live, config, Shape::Struct(ty))
}

/// Applies the intent `config` to `live` (an empty object when it does not exist yet).
///
/// # Errors
/// The conflicts with other managers, unless `force` takes the fields over.
pub fn apply(
    live: &Value,
    config: &Value,
    ty: &Type,
    who: &Manager<'_>,
    force: bool,
) -> Result<Value, Vec<Conflict>> {
    let shape = Shape::Struct(ty);
    let mut entries = read_entries(live);
    let mut wanted = set_of(config, shape);
    strip_owned_by_server(&mut wanted);
    let mut merged = merge(live, config, shape);
    let (mut changed, _) = compare(live, &merged, shape);
    strip_owned_by_server(&mut changed);

    let mine = entries.iter().position(|e| e.is(who, Operation::Apply));
    let mut conflicts = Vec::new();
    for (_, entry) in entries.iter_mut().enumerate().filter(|(i, _)| Some(*i) != mine) {
        let contested = entry.set.intersection(&changed);
        if contested.is_empty() {
            continue;
        }
        if force {
            entry.set.subtract(&contested);
        } else {
            let manager = entry.described();
            conflicts.extend(
                contested.paths().into_iter().map(|path| Conflict { manager: manager.clone(), path }),
            );
        }
    }
    if !conflicts.is_empty() {
        return Err(conflicts);
    }

    let previous = mine.map(|i| entries.remove(i));
    if let Some(previous) = &previous {
        let mut keep = wanted.clone();
        entries.iter().for_each(|e| keep.union(&e.set));
        prune(&mut merged, &previous.set, &keep, shape);
    }
    let unchanged = previous.as_ref().is_some_and(|p| p.set == wanted && p.api_version == who.api_version);
    let same_time = previous.and_then(|p| p.time).filter(|_| unchanged && changed.is_empty());
    entries.push(entry_of(who, Operation::Apply, wanted, same_time));
    write_entries(&mut merged, entries);
    Ok(merged)
}

fn entry_of(who: &Manager<'_>, operation: Operation, set: FieldSet, time: Option<Value>) -> Entry {
    Entry {
        manager: who.name.to_owned(),
        operation: operation.name().to_owned(),
        api_version: who.api_version.to_owned(),
        subresource: who.subresource.to_owned(),
        time: Some(time.unwrap_or_else(|| who.time.into())),
        set,
    }
}

/// Records in `new` what an ordinary write from `old` to it changes hands of.
pub fn track_update(old: &Value, new: &mut Value, ty: &Type, who: &Manager<'_>) {
    // A list set to [] by the writer resets ownership; otherwise what it sent is kept.
    let reset = new.pointer("/metadata/managedFields").and_then(Value::as_array).is_some_and(Vec::is_empty);
    let mut entries =
        if new.pointer("/metadata/managedFields").is_some() { read_entries(new) } else { read_entries(old) };
    if reset {
        entries.clear();
    }
    let (mut changed, mut removed) = compare(old, new, Shape::Struct(ty));
    strip_owned_by_server(&mut changed);
    strip_owned_by_server(&mut removed);
    for entry in &mut entries {
        entry.set.subtract_trees(&removed);
        if !entry.is(who, Operation::Update) {
            entry.set.subtract(&changed);
        }
    }
    if !changed.is_empty() {
        match entries.iter_mut().find(|e| e.is(who, Operation::Update)) {
            Some(entry) => {
                entry.set.union(&changed);
                entry.time = Some(who.time.into());
            }
            None => entries.push(entry_of(who, Operation::Update, changed, None)),
        }
    }
    write_entries(new, entries);
}

/// `config` laid over `live`.
fn merge(live: &Value, config: &Value, shape: Shape<'_>) -> Value {
    match (shape, live, config) {
        (Shape::Struct(_) | Shape::Map(_) | Shape::Free, Value::Object(live), Value::Object(config)) => {
            let mut merged = live.clone();
            for (name, value) in config {
                let inner = match live.get(name) {
                    Some(before) => merge(before, value, shape.member(name)),
                    None => value.clone(),
                };
                merged.insert(name.clone(), inner);
            }
            merged.into()
        }
        (Shape::Keyed(..) | Shape::Set, Value::Array(live), Value::Array(config)) => {
            let mut merged = live.clone();
            for item in config {
                let element = item_element(item, shape);
                match merged.iter_mut().find(|m| item_element(m, shape) == element) {
                    Some(before) => *before = merge(before, item, shape.item()),
                    None => merged.push(item.clone()),
                }
            }
            merged.into()
        }
        _ => config.clone(),
    }
}

/// Removes from `value` what `gone` names and `keep` does not.
fn prune(value: &mut Value, gone: &FieldSet, keep: &FieldSet, shape: Shape<'_>) {
    let nothing = FieldSet::default();
    match value {
        Value::Object(object) => {
            for (element, child) in &gone.children {
                let Some(name) = element.strip_prefix("f:") else { continue };
                let kept = keep.children.get(element).unwrap_or(&nothing);
                if prune_member(object, name, child, kept, shape.member(name)) {
                    object.remove(name);
                }
            }
        }
        Value::Array(items) => items.retain_mut(|item| {
            let element = item_element(item, shape);
            let Some(child) = gone.children.get(&element) else { return true };
            match keep.children.get(&element) {
                None if child.member => false,
                kept => {
                    prune(item, child, kept.unwrap_or(&nothing), shape.item());
                    true
                }
            }
        }),
        _ => {}
    }
}

/// Whether the whole member goes.
fn prune_member(
    object: &mut Map<String, Value>,
    name: &str,
    gone: &FieldSet,
    keep: &FieldSet,
    shape: Shape<'_>,
) -> bool {
    let Some(value) = object.get_mut(name) else { return false };
    if gone.member && keep.is_empty() {
        return true;
    }
    prune(value, gone, keep, shape);
    let emptied = value.as_object().is_some_and(Map::is_empty) || value.as_array().is_some_and(Vec::is_empty);
    emptied && !keep.member && keep.is_empty() && !gone.children.is_empty()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::schema::{Gvk, TypeRef, builtin};

    fn deployment() -> TypeRef {
        builtin().of_kind(&Gvk::new("apps", "v1", "Deployment")).unwrap()
    }

    fn who(name: &str) -> Manager<'_> {
        Manager { name, api_version: "apps/v1", subresource: "", time: "2026-01-01T00:00:00Z" }
    }

    fn intent(replicas: Option<i32>, image: &str) -> Value {
        let mut object = json!({"apiVersion": "apps/v1", "kind": "Deployment", "metadata": {"name": "web"},
            "spec": {"template": {"spec": {"containers": [{"name": "c", "image": image}]}}}});
        if let Some(n) = replicas {
            object["spec"]["replicas"] = n.into();
        }
        object
    }

    #[test]
    fn fields_left_out_of_a_new_intent_go_and_others_stay() {
        let ty = deployment();
        let first = apply(&json!({}), &intent(Some(2), "a"), &ty, &who("ci"), false).unwrap();
        assert_eq!(
            first["metadata"]["managedFields"][0]["fieldsV1"],
            json!({"f:spec": {"f:replicas": {}, "f:template": {"f:spec": {"f:containers":
                {"k:{\"name\":\"c\"}": {".": {}, "f:image": {}, "f:name": {}}}}}}})
        );
        let second = apply(&first, &intent(None, "b"), &ty, &who("ci"), false).unwrap();
        assert_eq!(second["spec"], intent(None, "b")["spec"]);
    }

    #[test]
    fn another_managers_field_conflicts_until_forced() {
        let ty = deployment();
        let first = apply(&json!({}), &intent(Some(2), "a"), &ty, &who("ci"), false).unwrap();
        let conflicts = apply(&first, &intent(Some(3), "a"), &ty, &who("ops"), false).unwrap_err();
        assert_eq!(conflicts, [Conflict { manager: "\"ci\"".into(), path: ".spec.replicas".into() }]);
        let forced = apply(&first, &intent(Some(3), "a"), &ty, &who("ops"), true).unwrap();
        assert_eq!(forced["spec"]["replicas"], 3);
        // The loser no longer owns it, so leaving it out changes nothing.
        let later = apply(&forced, &intent(None, "a"), &ty, &who("ci"), false).unwrap();
        assert_eq!(later["spec"]["replicas"], 3);
    }

    #[test]
    fn equal_values_are_shared_without_conflict() {
        let ty = deployment();
        let first = apply(&json!({}), &intent(Some(2), "a"), &ty, &who("ci"), false).unwrap();
        let both = apply(&first, &intent(Some(2), "a"), &ty, &who("ops"), false).unwrap();
        let one = apply(&both, &intent(None, "a"), &ty, &who("ci"), false).unwrap();
        assert_eq!(one["spec"]["replicas"], 2, "the other manager still wants it");
    }

    #[test]
    fn an_update_takes_the_fields_it_changes() {
        let ty = deployment();
        let old = apply(&json!({}), &intent(Some(2), "a"), &ty, &who("ci"), false).unwrap();
        let mut new = old.clone();
        new["spec"]["replicas"] = 5.into();
        track_update(&old, &mut new, &ty, &who("kubectl-scale"));
        let fields = new["metadata"]["managedFields"].as_array().unwrap();
        assert_eq!(fields.len(), 2);
        assert_eq!(fields[1]["fieldsV1"], json!({"f:spec": {"f:replicas": {}}}));
        let conflicts = apply(&new, &intent(Some(2), "a"), &ty, &who("ci"), false).unwrap_err();
        assert_eq!(conflicts[0].manager, "\"kubectl-scale\" using apps/v1");
    }
}
