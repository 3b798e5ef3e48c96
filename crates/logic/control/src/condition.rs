//! Status conditions, in the shape all workload resources share.

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wharf_base::Timestamp;

use crate::meta::null_default;

/// One condition. Resources differ in which of the times they have; fields not named here are kept.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Condition {
    /// What is spoken of, such as `Available`.
    #[serde(rename = "type")]
    pub kind: String,
    /// `True`, `False` or `Unknown`.
    pub status: String,
    /// One CamelCase word.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub reason: String,
    /// For people.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "String::is_empty")]
    pub message: String,
    /// When it was last renewed (Deployments).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_update_time: Option<Timestamp>,
    /// When `status` last changed.
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_transition_time: Option<Timestamp>,
    /// When it was last probed (Jobs).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_probe_time: Option<Timestamp>,
    /// When the subject last reported (Nodes).
    #[serde(skip_serializing_if = "Option::is_none")]
    pub last_heartbeat_time: Option<Timestamp>,
    /// Everything else.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Condition {
    /// A condition that holds since `now`.
    pub fn new(kind: &str, status: &str, reason: &str, message: impl Into<String>, now: Timestamp) -> Self {
        Self {
            kind: kind.to_owned(),
            status: status.to_owned(),
            reason: reason.to_owned(),
            message: message.into(),
            last_transition_time: Some(now.truncated()),
            ..Self::default()
        }
    }

    /// Whether its status is `True`.
    pub fn is_true(&self) -> bool {
        self.status == "True"
    }
}

/// The condition of this type.
pub fn find<'a>(conditions: &'a [Condition], kind: &str) -> Option<&'a Condition> {
    conditions.iter().find(|condition| condition.kind == kind)
}

/// Whether the condition of this type is `True`.
pub fn holds(conditions: &[Condition], kind: &str) -> bool {
    find(conditions, kind).is_some_and(Condition::is_true)
}

/// Puts a condition in place of the one of its type. One with the same status and reason stays as it
/// is; one with the same status keeps its time of transition.
pub fn set(conditions: &mut Vec<Condition>, mut condition: Condition) {
    if let Some(present) = find(conditions, &condition.kind) {
        if present.status == condition.status && present.reason == condition.reason {
            return;
        }
        if present.status == condition.status {
            condition.last_transition_time = present.last_transition_time;
        }
    }
    replace(conditions, condition);
}

/// Puts a condition in place of the one of its type, or at the end.
pub fn replace(conditions: &mut Vec<Condition>, condition: Condition) {
    remove(conditions, &condition.kind);
    conditions.push(condition);
}

/// Removes the condition of this type.
pub fn remove(conditions: &mut Vec<Condition>, kind: &str) {
    conditions.retain(|condition| condition.kind != kind);
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn transition_time_follows_the_status_only() {
        let at = |s| Timestamp::from_unix(s, 0);
        let mut conditions = vec![Condition::new("Ready", "True", "A", "", at(1))];
        set(&mut conditions, Condition::new("Ready", "True", "A", "other words", at(2)));
        assert_eq!(conditions[0].message, "");
        set(&mut conditions, Condition::new("Ready", "True", "B", "", at(3)));
        assert_eq!((conditions[0].reason.as_str(), conditions[0].last_transition_time), ("B", Some(at(1))));
        set(&mut conditions, Condition::new("Ready", "False", "B", "", at(4)));
        assert_eq!(conditions[0].last_transition_time, Some(at(4)));
        assert_eq!(conditions.len(), 1);
    }

    #[test]
    fn unknown_fields_are_kept() {
        let text = r#"{"type":"Ready","status":"True","observedGeneration":7}"#;
        let condition: Condition = serde_json::from_str(text).unwrap();
        assert_eq!(serde_json::to_value(&condition).unwrap(), serde_json::from_str::<Value>(text).unwrap());
    }
}
