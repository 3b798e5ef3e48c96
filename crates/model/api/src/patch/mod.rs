//! Patches: JSON merge, JSON, strategic merge and server-side apply.

mod apply;
mod field_set;
mod strategic;

use serde_json::Value;

pub use apply::{Conflict, Manager, Operation, apply, merge_applied, track_update};
pub use field_set::FieldSet;
pub use strategic::strategic_merge;

/// Why a patch cannot be carried out.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum PatchError {
    /// The patch itself is not well-formed.
    #[error("{0}")]
    Malformed(String),
    /// Well-formed, but it does not fit the object (a failed `test`, a path that is not there).
    #[error("{0}")]
    Unprocessable(String),
}

/// Operations a JSON patch may hold, as upstream limits them.
const MAX_OPERATIONS: usize = 10_000;

/// JSON merge patch (RFC 7386).
pub fn merge(target: &mut Value, patch: &Value) {
    json_patch::merge(target, patch);
}

/// JSON patch (RFC 6902); the target is unchanged on an error.
///
/// # Errors
/// When the patch is no list of operations, too long, or an operation fails.
pub fn json(target: &mut Value, patch: Value) -> Result<(), PatchError> {
    let patch: json_patch::Patch = serde_json::from_value(patch)
        .map_err(|e| PatchError::Malformed(format!("error decoding patch: {e}")))?;
    if patch.0.len() > MAX_OPERATIONS {
        let len = patch.0.len();
        return Err(PatchError::Malformed(format!(
            "the JSON patch has {len} operations, more than the {MAX_OPERATIONS} allowed"
        )));
    }
    let refused = |e: json_patch::PatchError| {
        PatchError::Unprocessable(format!(
            "the server rejected our request due to an error in our request: {e}"
        ))
    };
    if !patch.0.iter().any(tests_for_null) {
        return json_patch::patch(target, &patch).map_err(refused);
    }
    let mut patched = target.clone();
    for (index, operation) in patch.0.iter().enumerate() {
        if tests_for_null(operation) && is_missing(&patched, operation.path().as_ref()) {
            continue;
        }
        let done = json_patch::patch(&mut patched, std::slice::from_ref(operation));
        done.map_err(|mut e| {
            e.operation = index;
            refused(e)
        })?;
    }
    *target = patched;
    Ok(())
}

/// A member that is not there is as good as null to such a test: clients ask so whether it is there (upstream's
/// library, beyond RFC 6902 §4.6).
fn tests_for_null(operation: &json_patch::PatchOperation) -> bool {
    matches!(operation, json_patch::PatchOperation::Test(test) if test.value.is_null())
}

/// Whether an object is there without the member that the pointer ends with.
fn is_missing(document: &Value, pointer: &str) -> bool {
    let Some((parent, name)) = pointer.rsplit_once('/') else { return false };
    let name = name.replace("~1", "/").replace("~0", "~");
    document.pointer(parent).and_then(Value::as_object).is_some_and(|parent| !parent.contains_key(&name))
}

#[cfg(test)]
mod tests {
    use serde_json::json;

    use super::*;

    #[test]
    fn a_test_for_null_holds_where_nothing_is() {
        let add = json!({"op": "add", "path": "/metadata/finalizers", "value": ["a"]});
        let absent = |path: &str| json!({"op": "test", "path": path, "value": null});
        let object = json!({"metadata": {"name": "x"}});
        let mut patched = object.clone();
        json(&mut patched, json!([absent("/metadata/finalizers"), add])).unwrap();
        assert_eq!(patched["metadata"]["finalizers"], json!(["a"]));
        let before = patched.clone();
        let refused = json(&mut patched, json!([add, absent("/metadata/finalizers")])).unwrap_err();
        assert!(refused.to_string().contains("operation '/1'"), "{refused}");
        assert_eq!(patched, before, "nothing is half done");
        for there in ["/spec/replicas", "/metadata/name"] {
            json(&mut object.clone(), json!([absent(there)])).unwrap_err();
        }
    }
}
