//! ControllerRevisions: the versions of a pod template, which DaemonSets and StatefulSets go forward to
//! and back.

use serde::Deserialize;
use serde_json::{Map, Value, json};

use crate::{
    action::{Action, CONTROLLER_REVISIONS},
    claim::{Claim, adopt, claim, release},
    deployment::{same, template_hash},
    meta::{Labels, Meta, null_default},
    replicaset::template_labels,
    selector::LabelSelector,
};

/// The label that tells the pods of one version from those of another.
pub const REVISION_LABEL: &str = "controller-revision-hash";
/// Names have at most 253 characters; the hash follows.
const NAME: usize = 223;
/// Names tried until one is free.
const TRIES: usize = 64;

/// `apps/v1.ControllerRevision`.
#[derive(Clone, Debug, Default, PartialEq, Deserialize)]
#[serde(default)]
pub struct ControllerRevision {
    /// Metadata.
    pub metadata: Meta,
    /// A patch of the owner with the template.
    #[serde(deserialize_with = "null_default")]
    pub data: Value,
    /// Counts the versions; the highest is the present one.
    pub revision: i64,
}

impl ControllerRevision {
    /// The template it keeps.
    pub(crate) fn template(&self) -> Value {
        let mut template = self.data.pointer("/spec/template").cloned().unwrap_or_default();
        if let Some(fields) = template.as_object_mut() {
            fields.remove("$patch");
        }
        template
    }

    fn keeps(&self, data: &Value) -> bool {
        same(self.data.get("spec"), data.get("spec"))
    }
}

/// Whose versions are looked at.
#[derive(Clone, Copy)]
pub(crate) struct Owner<'a> {
    pub metadata: &'a Meta,
    pub kind: &'static str,
    pub selector: &'a LabelSelector,
    pub template: &'a Value,
    /// Names that were taken by others so far.
    pub collisions: Option<i64>,
    /// The label of a revision with its hash.
    pub hash_label: &'static str,
}

/// The versions of an owner.
pub(crate) struct Versions<'a> {
    /// Name of the present one, which [`Versions::actions`] creates if it is new.
    pub name: String,
    /// Its hash.
    pub hash: String,
    /// The ones that are there, oldest first; without further ones of the present template.
    pub known: Vec<&'a ControllerRevision>,
    /// Further ones of the present template.
    pub doubles: Vec<&'a ControllerRevision>,
    /// Adoptions, releases, and what makes the present one the newest.
    pub actions: Vec<Action>,
    /// Names that were taken by others.
    pub collisions: Option<i64>,
}

/// Finds the version of the owner's template among `revisions` of its namespace, or makes it.
pub(crate) fn versions<'a>(owner: &Owner<'_>, revisions: &[&'a ControllerRevision]) -> Versions<'a> {
    let (mut known, mut actions) = claimed(owner, revisions);
    known.sort_by_key(|r| (r.revision, r.metadata.creation_timestamp, r.metadata.name.as_str()));
    let data = data(owner.template);
    let (mut present, old): (Vec<_>, Vec<_>) = known.iter().copied().partition(|r| r.keeps(&data));
    let newest = old.iter().map(|r| r.revision).max().unwrap_or(0);
    let mut collisions = owner.collisions;
    let (name, hash) = if let Some(found) = present.pop() {
        if found.revision <= newest {
            let body = json!({"revision": newest + 1});
            actions.push(found.metadata.locked_patch(CONTROLLER_REVISIONS, body));
        }
        known.retain(|r| !present.iter().any(|double| double.metadata.uid == r.metadata.uid));
        let label = found.metadata.labels.get(owner.hash_label);
        (found.metadata.name.clone(), label.unwrap_or(&found.metadata.name).clone())
    } else {
        let (name, hash) = free_name(owner, revisions, &mut collisions);
        actions.push(create(owner, &name, &hash, data, newest + 1));
        (name, hash)
    };
    Versions { name, hash, known, doubles: present, actions, collisions }
}

fn claimed<'a>(
    owner: &Owner<'_>,
    revisions: &[&'a ControllerRevision],
) -> (Vec<&'a ControllerRevision>, Vec<Action>) {
    let (mut known, mut actions) = (Vec::new(), Vec::new());
    for revision in revisions.iter().filter(|r| !r.metadata.deleting()) {
        match claim(owner.metadata, owner.selector, &revision.metadata) {
            Claim::Owned => known.push(*revision),
            Claim::Adopt => {
                let reference = owner.metadata.controller_ref("apps/v1", owner.kind);
                actions.push(adopt(CONTROLLER_REVISIONS, &revision.metadata, reference));
                known.push(*revision);
            }
            Claim::Release => {
                actions.push(release(CONTROLLER_REVISIONS, &revision.metadata, &[&owner.metadata.uid]));
            }
            Claim::Ignore => {}
        }
    }
    (known, actions)
}

/// The patch that brings back a template, in the form kubectl's rollback knows.
fn data(template: &Value) -> Value {
    let mut template = template.clone();
    if let Some(fields) = template.as_object_mut() {
        fields.retain(|_, value| !value.is_null());
        fields.insert("$patch".to_owned(), json!("replace"));
    }
    json!({"spec": {"template": template}})
}

/// A name and its hash nothing else has.
fn free_name(
    owner: &Owner<'_>,
    revisions: &[&ControllerRevision],
    collisions: &mut Option<i64>,
) -> (String, String) {
    let prefix: String = owner.metadata.name.chars().take(NAME).collect();
    let named = |collisions: Option<i64>| {
        let hash = template_hash(owner.template, collisions);
        (format!("{prefix}-{hash}"), hash)
    };
    for _ in 0..TRIES {
        let (name, hash) = named(*collisions);
        if !revisions.iter().any(|r| r.metadata.name == name) {
            return (name, hash);
        }
        *collisions = Some(collisions.unwrap_or(0) + 1);
    }
    named(*collisions)
}

fn create(owner: &Owner<'_>, name: &str, hash: &str, data: Value, revision: i64) -> Action {
    let mut labels: Labels = template_labels(owner.template);
    labels.insert(owner.hash_label.to_owned(), hash.to_owned());
    let mut metadata = Map::new();
    metadata.insert("name".to_owned(), json!(name));
    metadata.insert("namespace".to_owned(), json!(owner.metadata.namespace));
    metadata.insert("labels".to_owned(), json!(labels));
    if !owner.metadata.annotations.is_empty() {
        metadata.insert("annotations".to_owned(), json!(owner.metadata.annotations));
    }
    let reference = owner.metadata.controller_ref("apps/v1", owner.kind);
    metadata.insert("ownerReferences".to_owned(), json!([reference]));
    Action::Create {
        resource: CONTROLLER_REVISIONS,
        namespace: owner.metadata.namespace.clone(),
        object: json!({
            "apiVersion": "apps/v1",
            "kind": "ControllerRevision",
            "metadata": metadata,
            "data": data,
            "revision": revision,
        }),
        announce: None,
    }
}

/// Deletes the oldest of `known` that are beyond `limit` and not in use.
pub(crate) fn truncate(
    known: &[&ControllerRevision],
    limit: Option<i64>,
    in_use: impl Fn(&ControllerRevision) -> bool,
) -> Vec<Action> {
    let Ok(limit) = usize::try_from(limit.unwrap_or(10)) else { return Vec::new() };
    let idle: Vec<_> = known.iter().filter(|revision| !in_use(revision)).collect();
    let surplus = idle.len().saturating_sub(limit);
    idle.into_iter().take(surplus).map(|revision| delete(revision)).collect()
}

/// Deletes a revision.
pub(crate) fn delete(revision: &ControllerRevision) -> Action {
    revision.metadata.delete(CONTROLLER_REVISIONS, None)
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::meta::read;

    fn template(image: &str) -> Value {
        json!({"metadata": {"labels": {"app": "a"}}, "spec": {"containers": [{"image": image}]}})
    }

    fn revision(name: &str, image: &str, revision: i64) -> ControllerRevision {
        read(&json!({"metadata": {"name": name, "uid": name, "namespace": "ns",
                "labels": {"app": "a", REVISION_LABEL: name},
                "ownerReferences": [{"uid": "owner", "controller": true}]},
            "data": data(&template(image)), "revision": revision}))
        .unwrap()
    }

    /// The name, the ones known and doubled, and the actions as words.
    fn check(image: &str, revisions: &[ControllerRevision], expect: (&str, &[&str], &[&str], &[&str])) {
        let metadata: Meta = read(&json!({"name": "o", "namespace": "ns", "uid": "owner"})).unwrap();
        let selector = read(&json!({"matchLabels": {"app": "a"}})).unwrap();
        let template = template(image);
        let owner = Owner {
            metadata: &metadata,
            kind: "DaemonSet",
            selector: &selector,
            template: &template,
            collisions: None,
            hash_label: REVISION_LABEL,
        };
        let refs: Vec<&ControllerRevision> = revisions.iter().collect();
        let found = versions(&owner, &refs);
        let names = |list: &[&ControllerRevision]| -> Vec<String> {
            list.iter().map(|r| r.metadata.name.clone()).collect()
        };
        let word = |action: &Action| match action {
            Action::Create { object, .. } => format!("create {}", object["revision"]),
            Action::Patch { name, body, .. } => format!("patch {name} {}", body["revision"]),
            other => format!("{other:?}"),
        };
        let words: Vec<String> = found.actions.iter().map(word).collect();
        let name = if words.iter().any(|word| word.starts_with("create")) { "new" } else { &found.name };
        assert_eq!(name, expect.0);
        assert_eq!((names(&found.known), names(&found.doubles)), (owned(expect.1), owned(expect.2)));
        assert_eq!(words, expect.3);
    }

    fn owned(words: &[&str]) -> Vec<String> {
        words.iter().map(|word| (*word).to_owned()).collect()
    }

    #[test]
    fn a_template_is_found_or_made() {
        let (one, two) = (revision("one", "a", 1), revision("two", "b", 2));
        check("a", &[], ("new", &[], &[], &["create 1"]));
        check("b", &[two.clone(), one.clone()], ("two", &["one", "two"], &[], &[]));
        check("c", &[two.clone(), one.clone()], ("new", &["one", "two"], &[], &["create 3"]));
        // Going back makes the old one the newest.
        check("a", &[two, one], ("one", &["one", "two"], &[], &["patch one 3"]));
        let doubles = [revision("x", "a", 1), revision("y", "a", 2)];
        check("a", &doubles, ("y", &["y"], &["x"], &[]));
    }

    #[test]
    fn a_taken_name_makes_another() {
        let template = template("a");
        let metadata: Meta = read(&json!({"name": "o", "namespace": "ns", "uid": "owner"})).unwrap();
        let selector = read(&json!({"matchLabels": {"app": "a"}})).unwrap();
        let owner = Owner {
            metadata: &metadata,
            kind: "DaemonSet",
            selector: &selector,
            template: &template,
            collisions: None,
            hash_label: REVISION_LABEL,
        };
        let taken = format!("o-{}", template_hash(&template, None));
        let mut other = revision(&taken, "other", 1);
        other.metadata.owner_references[0].uid = "stranger".into();
        let found = versions(&owner, &[&other]);
        assert!(found.name != taken && found.collisions == Some(1));
    }

    #[test]
    fn a_revision_keeps_the_template_as_kubectl_wants_it() {
        let revision = revision("one", "a", 1);
        assert_eq!(revision.data.pointer("/spec/template/$patch"), Some(&json!("replace")));
        assert_eq!(revision.template(), template("a"));
    }

    #[test]
    fn old_ones_beyond_the_limit_go() {
        let all: Vec<_> = (1..=5).map(|n| revision(&format!("r{n}"), &n.to_string(), n)).collect();
        let refs: Vec<&ControllerRevision> = all.iter().collect();
        let gone = truncate(&refs, Some(2), |r| matches!(r.metadata.name.as_str(), "r1" | "r5"));
        let names: Vec<&str> = gone
            .iter()
            .filter_map(|action| match action {
                Action::Delete { name, .. } => Some(name.as_str()),
                _ => None,
            })
            .collect();
        assert_eq!(names, ["r2"]);
        assert_eq!(truncate(&refs, Some(9), |_| false), []);
    }
}
