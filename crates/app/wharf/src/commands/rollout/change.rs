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

/// How a rollout is let go on.
#[derive(Debug, Clone, Copy, PartialEq)]
pub(super) enum Promotion {
    /// Out of its pause, or past the step it is at.
    Next,
    SkipStep,
    SkipAllSteps,
    Full,
}

fn status(fields: Value) -> Writes {
    Writes { status: Some(json!({"status": fields})), spec: None }
}

/// The rollout goes on.
pub(super) fn promote(rollout: &Rollout, how: Promotion) -> Result<Writes, Hinted> {
    let steps = rollout.spec.strategy.canary.as_ref().map_or(0, |canary| canary.steps.len() as i64);
    if matches!(how, Promotion::SkipStep | Promotion::SkipAllSteps) && steps == 0 {
        return Err(Hinted::new("the rollout has no steps to skip", "promote it without these options"));
    }
    let next = (rollout.status.current_step_index.unwrap_or(0) + 1).min(steps);
    Ok(match how {
        // The analysis of a step that is left must not be taken for that of the next.
        Promotion::SkipStep => status(to_step(next)),
        Promotion::SkipAllSteps => status(to_step(steps)),
        Promotion::Full if rollout.status.current_pod_hash == rollout.status.stable_rs => Writes::default(),
        Promotion::Full => status(json!({"promoteFull": true})),
        Promotion::Next => {
            let paused = rollout.spec.paused || !rollout.status.pause_conditions.is_empty();
            let mut writes = match paused {
                true if rollout.status.pause_conditions.is_empty() => Writes::default(),
                true => status(json!({"pauseConditions": null})),
                false if steps == 0 => Writes::default(),
                false => {
                    let mut fields = to_step(next);
                    fields["pauseConditions"] = Value::Null;
                    status(fields)
                }
            };
            writes.spec = rollout.spec.paused.then(|| json!({"spec": {"paused": false}}));
            writes
        }
    })
}

fn to_step(index: i64) -> Value {
    json!({"currentStepIndex": index, "canary": {"currentStepAnalysisRunStatus": null}})
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
