//! Which version a template is.

use serde_json::Value;
use wharf_control::replicaset::ReplicaSet;

use super::HASH_LABEL;

/// The hash of the version whose ReplicaSet has exactly this template. Whoever goes back to a revision takes the template
/// from its ReplicaSet, where it has defaults that the Rollout's did not have, so that its own hash is another one.
pub(super) fn known_hash(template: &Value, sets: &[&ReplicaSet]) -> Option<String> {
    let wanted = bare(template);
    let set = sets.iter().rev().find(|set| bare(&set.spec.template) == wanted)?;
    set.metadata.labels.get(HASH_LABEL).cloned()
}

/// A template without the label of its version and without what says nothing.
fn bare(template: &Value) -> Value {
    fn prune(value: &mut Value) {
        match value {
            Value::Object(map) => {
                map.values_mut().for_each(prune);
                map.retain(|_, value| {
                    !value.is_null() && value.as_object().is_none_or(|map| !map.is_empty())
                });
            }
            Value::Array(items) => items.iter_mut().for_each(prune),
            _ => {}
        }
    }
    let mut template = template.clone();
    if let Some(labels) = template.pointer_mut("/metadata/labels").and_then(Value::as_object_mut) {
        labels.remove(HASH_LABEL);
    }
    prune(&mut template);
    template
}
