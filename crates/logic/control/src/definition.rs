//! CustomResourceDefinitions: their names are accepted and they are established; one that is deleted takes its
//! objects with it.

use serde::{Deserialize, Serialize};
use serde_json::Value;
use wharf_base::Timestamp;

use crate::{
    action::{Action, CUSTOM_RESOURCE_DEFINITIONS, Gvr, Step},
    claim::drop_finalizer,
    condition::{self, Condition},
    meta::{Meta, null_default},
};

/// Holds a definition until its objects are gone. The API server adds it at the deletion.
pub const FINALIZER: &str = "customresourcecleanup.apiextensions.k8s.io";

/// `apiextensions.k8s.io/v1.CustomResourceDefinition`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Definition {
    /// Metadata.
    pub metadata: Meta,
    /// What was asked for.
    pub spec: DefinitionSpec,
    /// What was last reported.
    #[serde(deserialize_with = "null_default")]
    pub status: DefinitionStatus,
}

/// `apiextensions.k8s.io/v1.CustomResourceDefinitionSpec`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefinitionSpec {
    /// API group.
    pub group: String,
    /// Names asked for.
    pub names: Names,
    /// Versions.
    #[serde(deserialize_with = "null_default")]
    pub versions: Vec<Version>,
}

/// `apiextensions.k8s.io/v1.CustomResourceDefinitionVersion`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct Version {
    /// Name.
    pub name: String,
    /// Whether the API has it.
    pub served: bool,
}

/// `apiextensions.k8s.io/v1.CustomResourceDefinitionNames`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct Names {
    /// Plural name, as in paths.
    pub plural: String,
    /// Singular name.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub singular: String,
    /// Short names.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub short_names: Vec<String>,
    /// Kind of the objects.
    pub kind: String,
    /// Kind of lists of them.
    #[serde(skip_serializing_if = "String::is_empty")]
    pub list_kind: String,
    /// Groups of resources it belongs to.
    #[serde(deserialize_with = "null_default", skip_serializing_if = "Vec::is_empty")]
    pub categories: Vec<String>,
}

/// `apiextensions.k8s.io/v1.CustomResourceDefinitionStatus`, in part.
#[derive(Clone, Debug, Default, PartialEq, Deserialize, Serialize)]
#[serde(rename_all = "camelCase", default)]
pub struct DefinitionStatus {
    /// Names it has.
    pub accepted_names: Option<Names>,
    /// `NamesAccepted`, `Established`, `Terminating`.
    #[serde(deserialize_with = "null_default")]
    pub conditions: Vec<Condition>,
}

/// What a decision about one definition sees.
#[derive(Clone, Copy, Debug)]
pub struct View<'a> {
    /// The definition.
    pub definition: &'a Definition,
    /// All definitions; those of other groups do no harm.
    pub all: &'a [&'a Definition],
    /// Namespaces that still have objects of it, the empty one for cluster-scoped objects. Only
    /// needed while it is being deleted.
    pub remaining: &'a [String],
}

/// Decides about one definition.
pub fn step(view: &View<'_>, now: Timestamp) -> Step {
    let definition = view.definition;
    if definition.metadata.deleting() {
        return clean_up(view, now);
    }
    let mut status = definition.status.clone();
    let conflict = conflict(view);
    let condition = match &conflict {
        None => Condition::new("NamesAccepted", "True", "NoConflicts", "no conflicts found", now),
        Some((reason, message)) => Condition::new("NamesAccepted", "False", reason, message.as_str(), now),
    };
    condition::set(&mut status.conditions, condition);
    if conflict.is_none() {
        status.accepted_names = Some(definition.spec.names.clone());
        let message = "the initial names have been accepted";
        let established = Condition::new("Established", "True", "InitialNamesAccepted", message, now);
        condition::set(&mut status.conditions, established);
    }
    let update = definition.metadata.status_update(CUSTOM_RESOURCE_DEFINITIONS, &definition.status, &status);
    Step::of(update.into_iter().collect())
}

/// A name another definition of the group has been given already.
fn conflict(view: &View<'_>) -> Option<(&'static str, String)> {
    let own = &view.definition.spec.names;
    let others = view.all.iter().filter(|other| {
        other.spec.group == view.definition.spec.group && other.metadata.uid != view.definition.metadata.uid
    });
    for taken in others.filter_map(|other| other.status.accepted_names.as_ref()) {
        let words: Vec<&String> =
            [&taken.plural, &taken.singular].into_iter().chain(&taken.short_names).collect();
        let mut wanted =
            [&own.plural, &own.singular].into_iter().chain(&own.short_names).filter(|name| !name.is_empty());
        if let Some(name) = wanted.find(|name| words.contains(name)) {
            return Some(("NameConflict", format!("{name:?} is already in use")));
        }
        let kinds = [&taken.kind, &taken.list_kind];
        if let Some(kind) =
            [&own.kind, &own.list_kind].into_iter().find(|k| !k.is_empty() && kinds.contains(k))
        {
            return Some(("KindConflict", format!("{kind:?} is already in use")));
        }
    }
    None
}

fn clean_up(view: &View<'_>, now: Timestamp) -> Step {
    let definition = view.definition;
    if !definition.metadata.has_finalizer(FINALIZER) {
        return Step::idle();
    }
    if view.remaining.is_empty() {
        return Step::of(vec![drop_finalizer(CUSTOM_RESOURCE_DEFINITIONS, &definition.metadata, FINALIZER)]);
    }
    let Some(resource) = resource(definition) else { return Step::idle() };
    let delete = |namespace: &String| Action::DeleteCollection {
        resource: resource.clone(),
        namespace: namespace.clone(),
    };
    let mut step = Step::of(view.remaining.iter().map(delete).collect());
    let mut status = definition.status.clone();
    let message = "CustomResource deletion is in progress";
    let condition = Condition::new("Terminating", "True", "InstanceDeletionInProgress", message, now);
    condition::set(&mut status.conditions, condition);
    step.actions.extend(definition.metadata.status_update(
        CUSTOM_RESOURCE_DEFINITIONS,
        &definition.status,
        &status,
    ));
    step.requeue(std::time::Duration::from_millis(500));
    step
}

/// The resource of a definition in a version the API has.
pub fn resource(definition: &Definition) -> Option<Gvr> {
    let version = definition.spec.versions.iter().find(|version| version.served)?;
    Some(Gvr::dynamic(&definition.spec.group, &version.name, &definition.spec.names.plural))
}

/// The namespace of an object, as [`View::remaining`] has it.
pub fn namespace_of(object: &Value) -> String {
    object.pointer("/metadata/namespace").and_then(Value::as_str).unwrap_or_default().to_owned()
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::read;
    use serde_json::json;

    fn definition(plural: &str, kind: &str, accepted: bool, deleting: bool) -> Definition {
        let names = json!({"plural": plural, "kind": kind, "singular": kind.to_lowercase()});
        let finalizers: &[&str] = if deleting { &[FINALIZER] } else { &[] };
        let mut object = json!({"metadata": {"name": format!("{plural}.g"), "uid": plural, "finalizers": finalizers},
            "spec": {"group": "g", "names": names, "versions": [{"name": "v1", "served": true}]}});
        if accepted {
            object["status"] = json!({"acceptedNames": names});
        }
        if deleting {
            object["metadata"]["deletionTimestamp"] = json!("2026-01-01T00:00:00Z");
        }
        read(&object).unwrap()
    }

    fn check(definition: &Definition, all: &[&Definition], remaining: &[&str], expect: &[&str]) {
        let remaining: Vec<String> = remaining.iter().map(|n| (*n).to_owned()).collect();
        let step = step(&View { definition, all, remaining: &remaining }, Timestamp::EPOCH);
        let word = |action: &Action| match action {
            Action::UpdateStatus { patch, .. } => {
                let conditions = patch["status"]["conditions"].as_array().unwrap();
                let one =
                    |c: &Value| format!("{}={}", c["type"].as_str().unwrap(), c["status"].as_str().unwrap());
                conditions.iter().map(one).collect::<Vec<_>>().join(" ")
            }
            Action::DeleteCollection { namespace, .. } => format!("empty {namespace}"),
            Action::Patch { .. } => "let go".to_owned(),
            other => format!("{other:?}"),
        };
        assert_eq!(step.actions.iter().map(word).collect::<Vec<_>>(), expect);
    }

    #[test]
    fn names_are_accepted_unless_taken() {
        let carts = definition("carts", "Cart", false, false);
        check(&carts, &[&carts], &[], &["NamesAccepted=True Established=True"]);
        let taken = definition("trolleys", "Cart", true, false);
        check(&carts, &[&carts, &taken], &[], &["NamesAccepted=False"]);
    }

    #[test]
    fn objects_go_first() {
        let carts = definition("carts", "Cart", true, true);
        check(&carts, &[], &["a"], &["empty a", "Terminating=True"]);
        check(&carts, &[], &[], &["let go"]);
    }
}
