//! What each order to a rollout writes.

use serde_json::{Value, json};
use wharf_base::Hinted;
use wharf_control::replicaset::ReplicaSet;
use wharf_deliver::rollout::{HASH_LABEL, Rollout};

use super::show::revision as revision_of;

/// Merge patches; that of the status goes first.
#[derive(Debug, Default, PartialEq)]
pub(super) struct Writes {
    pub(super) status: Option<Value>,
    pub(super) spec: Option<Value>,
}

fn status(fields: Value) -> Writes {
    Writes { status: Some(json!({"status": fields})), spec: None }
}

/// An aborted rollout stays where it is, whatever it is told but to try again.
pub(super) fn check_promotable(name: &str, rollout: &Rollout) -> Result<(), Hinted> {
    match rollout.status.abort {
        true => Err(Hinted::new(
            format!("the rollout '{name}' is aborted and cannot be promoted"),
            format!("try it again with 'wharf rollout retry {name}', or change its template"),
        )),
        false => Ok(()),
    }
}

/// Out of its pause, or past the step it is at.
pub(super) fn promote(rollout: &Rollout) -> Writes {
    let steps = rollout.spec.strategy.canary.as_ref().map_or(0, |canary| canary.steps.len() as i64);
    let waits = !rollout.status.pause_conditions.is_empty();
    let mut writes = match (waits, rollout.spec.paused) {
        (true, _) => status(json!({"pauseConditions": null})),
        // Held by somebody: it goes on where it is.
        (false, true) => Writes::default(),
        (false, false) if steps == 0 => Writes::default(),
        (false, false) => {
            let next = (rollout.status.current_step_index.unwrap_or(0) + 1).min(steps);
            status(json!({"pauseConditions": null, "currentStepIndex": next}))
        }
    };
    writes.spec = rollout.spec.paused.then(|| json!({"spec": {"paused": false}}));
    writes
}

/// The new version comes in at once.
pub(super) fn promote_fully(rollout: &Rollout) -> Writes {
    match rollout.status.current_pod_hash == rollout.status.stable_rs {
        true => Writes::default(),
        false => status(json!({"promoteFull": true})),
    }
}

pub(super) fn pause() -> Writes {
    Writes { status: None, spec: Some(json!({"spec": {"paused": true}})) }
}

pub(super) fn abort() -> Writes {
    status(json!({"abort": true}))
}

pub(super) fn retry() -> Writes {
    status(json!({"abort": false}))
}

/// The ReplicaSet of a revision, or of the one before the newest.
pub(super) fn revision<'a>(
    name: &str,
    sets: &'a [ReplicaSet],
    wanted: Option<i64>,
) -> Result<&'a ReplicaSet, Hinted> {
    let mut known: Vec<&ReplicaSet> = sets.iter().collect();
    known.sort_by_key(|set| std::cmp::Reverse(revision_of(&set.metadata)));
    let found = match wanted {
        Some(wanted) => known.iter().find(|set| revision_of(&set.metadata) == wanted),
        None => known.get(1),
    };
    found.copied().ok_or_else(|| {
        let numbers: Vec<String> = known.iter().map(|set| revision_of(&set.metadata).to_string()).collect();
        match wanted {
            Some(wanted) => Hinted::new(
                format!("the rollout '{name}' has no revision {wanted}"),
                format!("its revisions are {}", numbers.join(", ")),
            ),
            None => Hinted::new(
                format!("the rollout '{name}' has no earlier revision to go back to"),
                format!("'wharf rollout get {name}' shows its revisions"),
            ),
        }
    })
}

/// The JSON patch that brings a ReplicaSet's template in again; nothing when it is the present one.
pub(super) fn undo(rollout: &Rollout, set: &ReplicaSet) -> Option<Value> {
    let template = bare(&set.spec.template);
    (template != bare(&rollout.spec.template))
        .then(|| json!([{"op": "replace", "path": "/spec/template", "value": template}]))
}

/// A template as a person wrote it: without the label that tells versions apart.
fn bare(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(Value::Object(metadata)) = template.get_mut("metadata") {
        metadata.retain(|_, value| !value.is_null());
        if let Some(Value::Object(labels)) = metadata.get_mut("labels") {
            labels.remove(HASH_LABEL);
        }
    }
    template
}
