//! Object metadata as the controllers read it, and who owns whom.

use std::collections::BTreeMap;

use serde::{Deserialize, Deserializer, Serialize, de::DeserializeOwned};
use serde_json::{Map, Value};
use wharf_base::Timestamp;

use crate::action::{Action, Event, Gvr, ObjectRef, PatchKind};

/// Labels or annotations.
pub type Labels = BTreeMap<String, String>;

/// `metav1.ObjectMeta`, as far as decisions need it.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Meta {
    /// Name within the namespace.
    pub name: String,
    /// Namespace; empty for cluster-scoped objects.
    pub namespace: String,
    /// Identity over time.
    pub uid: String,
    /// Labels.
    #[serde(deserialize_with = "null_default")]
    pub labels: Labels,
    /// Annotations.
    #[serde(deserialize_with = "null_default")]
    pub annotations: Labels,
    /// Owners.
    #[serde(deserialize_with = "null_default")]
    pub owner_references: Vec<OwnerReference>,
    /// Names that must go before the object can.
    #[serde(deserialize_with = "null_default")]
    pub finalizers: Vec<String>,
    /// Set once deletion was asked for.
    pub deletion_timestamp: Option<Timestamp>,
    /// Seconds the deletion may take.
    pub deletion_grace_period_seconds: Option<i64>,
    /// Counts changes of the spec.
    pub generation: i64,
    /// When the object was created.
    pub creation_timestamp: Option<Timestamp>,
    /// The version that was read.
    pub resource_version: String,
}

/// `metav1.OwnerReference`.
#[derive(Clone, Debug, Default, PartialEq, Eq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct OwnerReference {
    /// `apiVersion` of the owner.
    pub api_version: String,
    /// Kind of the owner.
    pub kind: String,
    /// Name of the owner, in the dependent's namespace or cluster-scoped.
    pub name: String,
    /// Uid of the owner.
    pub uid: String,
    /// Whether the owner manages the object; at most one does.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub controller: Option<bool>,
    /// Whether the owner's foreground deletion waits for the object.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub block_owner_deletion: Option<bool>,
}

impl Meta {
    /// The owner that manages this object.
    pub fn controller(&self) -> Option<&OwnerReference> {
        self.owner_references.iter().find(|owner| owner.controller == Some(true))
    }

    /// Whether the object with this uid manages this one.
    pub fn controlled_by(&self, uid: &str) -> bool {
        self.controller().is_some_and(|owner| owner.uid == uid)
    }

    /// Whether deletion was asked for.
    pub fn deleting(&self) -> bool {
        self.deletion_timestamp.is_some()
    }

    /// Whether `finalizer` holds the object.
    pub fn has_finalizer(&self, finalizer: &str) -> bool {
        self.finalizers.iter().any(|f| f == finalizer)
    }

    /// This object as Events name it.
    pub fn object_ref(&self, api_version: &str, kind: &str) -> ObjectRef {
        ObjectRef {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            resource_version: self.resource_version.clone(),
        }
    }

    /// This object as its dependents name it when it manages them.
    pub fn controller_ref(&self, api_version: &str, kind: &str) -> OwnerReference {
        OwnerReference {
            api_version: api_version.to_owned(),
            kind: kind.to_owned(),
            name: self.name.clone(),
            uid: self.uid.clone(),
            controller: Some(true),
            block_owner_deletion: Some(true),
        }
    }

    /// Deletes the object this was read from, in whatever version, and says so once that was done.
    pub fn delete(&self, resource: Gvr, announce: Option<Event>) -> Action {
        Action::Delete {
            resource,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            uid: Some(self.uid.clone()),
            resource_version: None,
            propagation: None,
            grace: None,
            announce: announce.map(Box::new),
        }
    }

    /// A merge patch of the object this was read from, which fails when the object has changed since.
    /// `body` is an object; its `metadata` may hold more.
    pub fn locked_patch(&self, resource: Gvr, body: Value) -> Action {
        Action::Patch {
            resource,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            kind: PatchKind::Merge,
            body: self.locked(body),
        }
    }

    /// A merge patch of this very version through its status subresource, which counts no generation.
    pub fn locked_status_patch(&self, resource: Gvr, body: Value) -> Action {
        Action::UpdateStatus {
            resource,
            namespace: self.namespace.clone(),
            name: self.name.clone(),
            patch: self.locked(body),
        }
    }

    /// `body` with this object's uid and resource version as preconditions.
    fn locked(&self, mut body: Value) -> Value {
        if let Value::Object(fields) = &mut body {
            let metadata = fields.entry("metadata").or_insert_with(|| Value::Object(Map::new()));
            if let Value::Object(metadata) = metadata {
                metadata.insert("uid".to_owned(), Value::from(self.uid.as_str()));
                metadata.insert("resourceVersion".to_owned(), Value::from(self.resource_version.as_str()));
            }
        }
        body
    }

    /// The write that turns status `old` into `new`, or nothing when they are equal. Only the
    /// changed fields are sent, so fields unknown to the model stay.
    pub fn status_update<S: Serialize>(&self, resource: Gvr, old: &S, new: &S) -> Option<Action> {
        let status = merge_diff(&to_value(old), &to_value(new))?;
        let mut body = Map::new();
        body.insert("status".to_owned(), status);
        Some(self.locked_status_patch(resource, Value::Object(body)))
    }
}

/// Reads a model out of an object; the error names the field.
pub fn read<T: DeserializeOwned>(object: &Value) -> Result<T, serde_json::Error> {
    T::deserialize(object)
}

/// `value` as JSON; models serialize without failing, null stands for the impossible.
pub fn to_value<S: Serialize>(value: &S) -> Value {
    serde_json::to_value(value).unwrap_or(Value::Null)
}

/// Reads an explicit null as the default, as Kubernetes does.
pub fn null_default<'de, D, T>(deserializer: D) -> Result<T, D::Error>
where
    D: Deserializer<'de>,
    T: Default + Deserialize<'de>,
{
    Ok(Option::<T>::deserialize(deserializer)?.unwrap_or_default())
}

/// For fields that Kubernetes leaves out when they are zero.
#[allow(clippy::trivially_copy_pass_by_ref)] // the signature serde calls
pub(crate) fn is_zero(number: &i64) -> bool {
    *number == 0
}

/// The JSON merge patch (RFC 7386) that makes `old` into `new`; nothing when they are equal.
pub fn merge_diff(old: &Value, new: &Value) -> Option<Value> {
    if old == new {
        return None;
    }
    let (Value::Object(old), Value::Object(new)) = (old, new) else {
        return Some(new.clone());
    };
    let mut patch = Map::new();
    for key in old.keys().filter(|key| !new.contains_key(*key)) {
        patch.insert(key.clone(), Value::Null);
    }
    for (key, value) in new {
        if let Some(difference) = merge_diff(old.get(key).unwrap_or(&Value::Null), value) {
            patch.insert(key.clone(), difference);
        }
    }
    Some(Value::Object(patch))
}

#[cfg(test)]
mod tests {
    use super::*;
    use serde_json::json;

    fn check(old: Value, new: Value, expect: Option<Value>) {
        assert_eq!(merge_diff(&old, &new), expect, "{old} -> {new}");
    }

    #[test]
    fn merge_diff_is_minimal() {
        check(json!({"a": 1}), json!({"a": 1}), None);
        check(json!({"a": 1}), json!({"a": 2}), Some(json!({"a": 2})));
        check(json!({"a": 1, "b": 2}), json!({"b": 2}), Some(json!({"a": null})));
        check(json!({"a": {"x": 1, "y": 2}}), json!({"a": {"x": 1}}), Some(json!({"a": {"y": null}})));
        check(json!({"a": [1]}), json!({"a": [1, 2]}), Some(json!({"a": [1, 2]})));
        check(Value::Null, json!({"a": 1}), Some(json!({"a": 1})));
    }

    #[test]
    fn nulls_read_as_defaults() {
        let meta: Meta =
            read(&json!({"name": "x", "labels": null, "creationTimestamp": null, "finalizers": null}))
                .unwrap();
        assert_eq!(meta, Meta { name: "x".into(), ..Meta::default() });
    }
}
