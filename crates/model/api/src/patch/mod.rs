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
    json_patch::patch(target, &patch).map_err(|e| {
        PatchError::Unprocessable(format!(
            "the server rejected our request due to an error in our request: {e}"
        ))
    })
}
