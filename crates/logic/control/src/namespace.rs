//! Namespaces under deletion: everything in them goes, pods first, then they themselves.

use std::{collections::BTreeMap, time::Duration};

use serde::{Deserialize, Serialize};
use serde_json::{Value, json};
use wharf_base::Timestamp;

use crate::{
    action::{Action, Gvr, NAMESPACES, PODS, Step},
    condition::{self, Condition},
    meta::{Meta, null_default},
};

/// The finalizer in `spec.finalizers` this controller answers for.
pub const FINALIZER: &str = "kubernetes";
/// How soon what remains is counted again.
const RECHECK: Duration = Duration::from_millis(500);

/// `v1.Namespace`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Namespace {
    /// Metadata.
    pub metadata: Meta,
    /// What holds it.
    pub spec: NamespaceSpec,
    /// What was last reported.
    pub status: NamespaceStatus,
}

/// `v1.NamespaceSpec`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct NamespaceSpec {
    /// Names that must go before the namespace can.
    #[serde(deserialize_with = "null_default")]
    pub finalizers: Vec<String>,
}

/// `v1.NamespaceStatus`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(default)]
pub struct NamespaceStatus {
    /// `Active` or `Terminating`.
    #[serde(deserialize_with = "null_default")]
    pub phase: String,
    /// What the deletion waits for.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub conditions: Vec<Condition>,
}

/// What is left of one resource in the namespace.
#[derive(Clone, Debug, PartialEq)]
pub struct Remaining {
    /// The resource: namespaced and with the verbs `list` and `deletecollection`.
    pub resource: Gvr,
    /// Objects left.
    pub count: usize,
    /// Objects held by each finalizer.
    pub finalizers: BTreeMap<String, usize>,
}

/// What a decision about one namespace sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The namespace.
    pub namespace: &'a Namespace,
    /// The same as it was read, for writing it back whole.
    pub object: &'a Value,
    /// Every namespaced resource with objects left in it. Only needed while it is being deleted.
    pub remaining: &'a [Remaining],
    /// Why the resources could not all be discovered or counted.
    pub failure: Option<&'a str>,
}

/// Decides about one namespace.
pub fn step(view: &View<'_>, now: Timestamp) -> Step {
    let namespace = view.namespace;
    let held = namespace.spec.finalizers.iter().any(|finalizer| finalizer == FINALIZER);
    if !namespace.metadata.deleting() || !held {
        return Step::idle();
    }
    let left: Vec<&Remaining> = view.remaining.iter().filter(|r| r.count > 0).collect();
    if left.is_empty() && view.failure.is_none() {
        return Step::of(vec![finalize(view)]);
    }
    let mut step = Step::of(deletes(&namespace.metadata.name, &left));
    let status = status(view, &left, now);
    step.actions.extend(namespace.metadata.status_update(NAMESPACES, &namespace.status, &status));
    step.requeue(RECHECK);
    step
}

/// Pods go first: they may still use what is beside them.
fn deletes(namespace: &str, left: &[&Remaining]) -> Vec<Action> {
    let pods = left.iter().any(|r| r.resource == PODS);
    let now = left.iter().filter(|r| !pods || r.resource == PODS);
    now.map(|r| Action::DeleteCollection { resource: r.resource.clone(), namespace: namespace.to_owned() })
        .collect()
}

fn finalize(view: &View<'_>) -> Action {
    let finalizers = view.namespace.spec.finalizers.iter().filter(|finalizer| *finalizer != FINALIZER);
    let kept: Vec<&String> = finalizers.collect();
    let mut object = view.object.clone();
    if let Some(fields) = object.as_object_mut() {
        fields.insert("apiVersion".to_owned(), json!("v1"));
        fields.insert("kind".to_owned(), json!("Namespace"));
        fields.insert("spec".to_owned(), json!({"finalizers": kept}));
    }
    Action::Update { resource: NAMESPACES, subresource: Some("finalize"), object }
}

fn status(view: &View<'_>, left: &[&Remaining], now: Timestamp) -> NamespaceStatus {
    let mut conditions = view.namespace.status.conditions.clone();
    let mut note = |kind: &str, trouble: Option<(&str, String)>, fine: (&str, &str)| {
        let condition = match trouble {
            Some((reason, message)) => Condition::new(kind, "True", reason, message, now),
            None => Condition::new(kind, "False", fine.0, fine.1, now),
        };
        let unchanged = condition::find(&conditions, kind).is_some_and(|present| {
            (&present.status, &present.reason, &present.message)
                == (&condition.status, &condition.reason, &condition.message)
        });
        if !unchanged {
            condition::remove(&mut conditions, kind);
            conditions.push(condition);
        }
    };
    let failure = view.failure.map(|message| ("DiscoveryFailed", message.to_owned()));
    note("NamespaceDeletionDiscoveryFailure", failure, ("ResourcesDiscovered", "All resources were found"));
    let parsed = ("ParsedGroupVersions", "All resources are understood");
    note("NamespaceDeletionGroupVersionParsingFailure", None, parsed);
    let deleted = ("ContentDeleted", "All content is deleted or waits for its finalizers");
    note("NamespaceDeletionContentFailure", None, deleted);
    let remain = ("SomeResourcesRemain", remaining_message(left));
    let remain = Some(remain).filter(|_| !left.is_empty());
    note("NamespaceContentRemaining", remain, ("ContentRemoved", "All content is gone"));
    let held = finalizer_message(left).map(|message| ("SomeFinalizersRemain", message));
    note("NamespaceFinalizersRemaining", held, ("ContentHasNoFinalizers", "No content is held"));
    NamespaceStatus { phase: "Terminating".to_owned(), conditions }
}

/// In the form upstream's condition has, which tests match.
fn remaining_message(left: &[&Remaining]) -> String {
    let one = |r: &&Remaining| {
        format!("{}.{} has {} resource instances", r.resource.resource, r.resource.group, r.count)
    };
    let mut all: Vec<String> = left.iter().map(one).collect();
    all.sort_unstable();
    format!("Some resources are remaining: {}", all.join(", "))
}

fn finalizer_message(left: &[&Remaining]) -> Option<String> {
    let mut sums: BTreeMap<&str, usize> = BTreeMap::new();
    for (finalizer, count) in left.iter().flat_map(|r| &r.finalizers) {
        *sums.entry(finalizer.as_str()).or_default() += count;
    }
    let one = |(finalizer, count): (&&str, &usize)| format!("{finalizer} in {count} resource instances");
    let all: Vec<String> = sums.iter().map(one).collect();
    (!all.is_empty())
        .then(|| format!("Some content in the namespace has finalizers remaining: {}", all.join(", ")))
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{action::CONFIG_MAPS, meta::read};

    fn remaining(resource: Gvr, count: usize) -> Remaining {
        Remaining { resource, count, finalizers: BTreeMap::from([("a/b".to_owned(), 1)]) }
    }

    fn check(deleting: bool, remaining: &[Remaining], expect: &[&str]) {
        let deletion = if deleting { json!("2026-01-01T00:00:00Z") } else { Value::Null };
        let object = json!({"metadata": {"name": "ns", "labels": {"a": "b"}, "deletionTimestamp": deletion},
            "spec": {"finalizers": ["kubernetes", "other"]}});
        let namespace: Namespace = read(&object).unwrap();
        let view = View { namespace: &namespace, object: &object, remaining, failure: None };
        let words: Vec<String> = step(&view, Timestamp::EPOCH).actions.iter().map(word).collect();
        assert_eq!(words, expect);
    }

    fn word(action: &Action) -> String {
        match action {
            Action::DeleteCollection { resource, .. } => format!("delete {}", resource.resource),
            Action::UpdateStatus { patch, .. } => {
                let conditions = patch["status"]["conditions"].as_array().unwrap();
                let holding = conditions.iter().filter(|c| c["status"] == "True").count();
                format!("status {} {holding}", patch["status"]["phase"].as_str().unwrap())
            }
            Action::Update { object, .. } => {
                format!("finalize {} {}", object["spec"], object["metadata"]["labels"])
            }
            other => format!("{other:?}"),
        }
    }

    #[test]
    fn pods_first_then_the_rest_then_itself() {
        check(false, &[], &[]);
        let both = [remaining(CONFIG_MAPS, 2), remaining(PODS, 1)];
        check(true, &both, &["delete pods", "status Terminating 2"]);
        check(true, &both[..1], &["delete configmaps", "status Terminating 2"]);
        check(true, &[], &[r#"finalize {"finalizers":["other"]} {"a":"b"}"#]);
    }
}
