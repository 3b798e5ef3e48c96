//! Garbage collection: objects whose owners are gone go too.
//!
//! [`Graph`] is fed with the metadata of every object ([`Graph::observe`], [`Graph::gone`]) and answers
//! with [`Graph::step`] what follows from the changes since. An owner no watch has shown is not
//! believed absent: it is asked for with `CheckOwner`, and the runner answers. `step` is called only
//! once every watch has shown its first list, or objects would look ownerless. A write that fails is
//! followed by [`Graph::touch`] after a back-off.

use std::collections::{BTreeMap, BTreeSet, HashMap};

use crate::{
    action::{Action, Gvr, ObjectRef, Propagation, Step},
    claim::{drop_finalizer, release, unblock},
    meta::{Meta, OwnerReference},
};

/// Holds an owner until its blocking dependents are gone.
pub const FOREGROUND: &str = "foregroundDeletion";
/// Holds an owner until its dependents have let go of it.
pub const ORPHAN: &str = "orphan";

/// What is known about an object.
#[derive(Clone, Debug)]
struct Node {
    resource: Gvr,
    meta: Meta,
}

/// What is known about an owner that no watch shows.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Unseen {
    /// `CheckOwner` is under way.
    Asked,
    /// It exists, in a resource that is not watched.
    Present,
    /// It does not exist.
    Absent,
}

/// Objects and who owns whom, by uid.
#[derive(Clone, Debug, Default)]
pub struct Graph {
    nodes: HashMap<String, Node>,
    dependents: HashMap<String, BTreeSet<String>>,
    unseen: HashMap<String, Unseen>,
    /// Objects to look at.
    changed: BTreeSet<String>,
}

/// How an owner stands, seen from a dependent.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Standing {
    /// Exists and stays.
    Solid,
    /// Is being deleted and waits for its dependents.
    Waiting,
    /// Does not exist.
    Absent,
    /// Not known yet.
    Unknown,
}

impl Graph {
    /// A graph of nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// Number of objects.
    pub fn len(&self) -> usize {
        self.nodes.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.nodes.is_empty()
    }

    /// Takes note of an object that was added or changed.
    pub fn observe(&mut self, resource: &Gvr, meta: &Meta) {
        let uid = &meta.uid;
        for owner in &meta.owner_references {
            self.dependents.entry(owner.uid.clone()).or_default().insert(uid.clone());
        }
        let before = self.nodes.get(uid).map_or(&[][..], |node| node.meta.owner_references.as_slice());
        let kept = |owner: &&OwnerReference| meta.owner_references.iter().any(|o| o.uid == owner.uid);
        let left: Vec<String> =
            before.iter().filter(|owner| !kept(owner)).map(|owner| owner.uid.clone()).collect();
        for owner in left {
            self.unlink(&owner, uid);
            // It may have waited for this.
            self.touch(&owner);
        }
        self.nodes.insert(uid.clone(), Node { resource: resource.clone(), meta: meta.clone() });
        let awaited = self.unseen.remove(uid).is_some();
        self.changed.insert(uid.clone());
        if awaited || meta.deleting() {
            self.touch_dependents(uid);
        }
    }

    /// Takes note that an object is gone.
    pub fn gone(&mut self, uid: &str) {
        let Some(node) = self.nodes.remove(uid) else { return };
        self.changed.remove(uid);
        for owner in &node.meta.owner_references {
            self.unlink(&owner.uid, uid);
            // An owner in foreground deletion may have waited for this one.
            self.touch(&owner.uid);
        }
        if self.dependents.contains_key(uid) {
            self.unseen.insert(uid.to_owned(), Unseen::Absent);
            self.touch_dependents(uid);
        }
    }

    /// The answer to `CheckOwner`: it exists.
    pub fn owner_present(&mut self, uid: &str) {
        self.answer(uid, Unseen::Present);
    }

    /// The answer to `CheckOwner`: there is none with this name, or it has another uid.
    pub fn owner_absent(&mut self, uid: &str) {
        self.answer(uid, Unseen::Absent);
    }

    fn answer(&mut self, uid: &str, answer: Unseen) {
        if !self.nodes.contains_key(uid) && self.dependents.contains_key(uid) {
            self.unseen.insert(uid.to_owned(), answer);
            self.touch_dependents(uid);
        }
    }

    /// Asks to look at an object again.
    pub fn touch(&mut self, uid: &str) {
        if self.nodes.contains_key(uid) {
            self.changed.insert(uid.to_owned());
        }
    }

    fn touch_dependents(&mut self, uid: &str) {
        let dependents = self.dependents.get(uid).into_iter().flatten();
        self.changed.extend(dependents.cloned());
    }

    fn unlink(&mut self, owner: &str, dependent: &str) {
        let Some(dependents) = self.dependents.get_mut(owner) else { return };
        dependents.remove(dependent);
        if dependents.is_empty() {
            self.dependents.remove(owner);
            self.unseen.remove(owner);
        }
    }

    /// What follows from everything that has changed.
    pub fn step(&mut self) -> Step {
        let mut actions = Vec::new();
        for uid in std::mem::take(&mut self.changed) {
            let Some(node) = self.nodes.get(&uid) else { continue };
            let mut asked = Vec::new();
            if node.meta.deleting() && node.meta.has_finalizer(FOREGROUND) {
                self.finish_foreground(node, &mut actions);
            } else if node.meta.deleting() && node.meta.has_finalizer(ORPHAN) {
                self.finish_orphaning(node, &mut actions);
            } else if !node.meta.deleting() && !node.meta.owner_references.is_empty() {
                self.collect(node, &mut actions, &mut asked);
            }
            for owner in asked {
                self.unseen.insert(owner.uid.clone(), Unseen::Asked);
                actions.push(Action::CheckOwner { owner });
            }
        }
        Step::of(actions)
    }

    fn dependents_of(&self, uid: &str) -> impl Iterator<Item = &Node> {
        self.dependents.get(uid).into_iter().flatten().filter_map(move |dependent| self.nodes.get(dependent))
    }

    /// The owner goes once no dependent blocks it.
    fn finish_foreground(&self, node: &Node, actions: &mut Vec<Action>) {
        let uid = &node.meta.uid;
        let blocks = |dependent: &Node| {
            let mut owners = dependent.meta.owner_references.iter();
            owners.any(|owner| owner.uid == *uid && owner.block_owner_deletion == Some(true))
        };
        if !self.dependents_of(uid).any(blocks) {
            actions.push(drop_finalizer(node.resource.clone(), &node.meta, FOREGROUND));
        }
    }

    /// The owner goes once no dependent names it.
    fn finish_orphaning(&self, node: &Node, actions: &mut Vec<Action>) {
        let uid = node.meta.uid.as_str();
        let before = actions.len();
        for dependent in self.dependents_of(uid) {
            actions.push(release(dependent.resource.clone(), &dependent.meta, &[uid]));
        }
        if actions.len() == before {
            actions.push(drop_finalizer(node.resource.clone(), &node.meta, ORPHAN));
        }
    }

    /// Deletes a dependent that no owner keeps; takes away owners that do not exist where another does.
    fn collect(&self, node: &Node, actions: &mut Vec<Action>, asked: &mut Vec<ObjectRef>) {
        let mut by_standing: BTreeMap<u8, Vec<&OwnerReference>> = BTreeMap::new();
        for owner in &node.meta.owner_references {
            by_standing.entry(self.standing(node, owner) as u8).or_default().push(owner);
        }
        let of = |standing: Standing| by_standing.get(&(standing as u8)).map_or(&[][..], Vec::as_slice);
        for owner in of(Standing::Unknown) {
            if self.unseen.get(&owner.uid) != Some(&Unseen::Asked)
                && !asked.iter().any(|other| other.uid == owner.uid)
            {
                asked.push(owner_ref(node, owner));
            }
        }
        let lost: Vec<&str> = of(Standing::Absent)
            .iter()
            .chain(of(Standing::Waiting))
            .map(|owner| owner.uid.as_str())
            .collect();
        if !of(Standing::Solid).is_empty() {
            if !lost.is_empty() {
                actions.push(release(node.resource.clone(), &node.meta, &lost));
            }
        } else if of(Standing::Unknown).is_empty() {
            let waiting = !of(Standing::Waiting).is_empty();
            actions.push(match waiting && self.closes_circle(node) {
                true => unblock(node.resource.clone(), &node.meta),
                false => delete(node, self.propagation(node, waiting)),
            });
        }
    }

    /// Owners that wait for one another would wait for ever: one whose dependents wait already holds up nobody.
    fn closes_circle(&self, node: &Node) -> bool {
        let blocks = node.meta.owner_references.iter().any(|owner| owner.block_owner_deletion == Some(true));
        let waits = |dependent: &Node| dependent.meta.deleting() && dependent.meta.has_finalizer(FOREGROUND);
        blocks && self.dependents_of(&node.meta.uid).any(waits)
    }

    /// A dependent of an owner that waits, and with dependents of its own, waits for these in turn.
    fn propagation(&self, node: &Node, waiting: bool) -> Propagation {
        let has_dependents = self.dependents_of(&node.meta.uid).next().is_some();
        if node.meta.has_finalizer(ORPHAN) {
            Propagation::Orphan
        } else if node.meta.has_finalizer(FOREGROUND) || (waiting && has_dependents) {
            Propagation::Foreground
        } else {
            Propagation::Background
        }
    }

    fn standing(&self, node: &Node, owner: &OwnerReference) -> Standing {
        match self.nodes.get(&owner.uid) {
            // An owner in another namespace is no owner.
            Some(found)
                if !found.meta.namespace.is_empty() && found.meta.namespace != node.meta.namespace =>
            {
                Standing::Absent
            }
            Some(found) if found.meta.deleting() && found.meta.has_finalizer(FOREGROUND) => Standing::Waiting,
            Some(_) => Standing::Solid,
            None => match self.unseen.get(&owner.uid) {
                Some(Unseen::Present) => Standing::Solid,
                Some(Unseen::Absent) => Standing::Absent,
                Some(Unseen::Asked) | None => Standing::Unknown,
            },
        }
    }
}

fn owner_ref(node: &Node, owner: &OwnerReference) -> ObjectRef {
    ObjectRef {
        api_version: owner.api_version.clone(),
        kind: owner.kind.clone(),
        namespace: node.meta.namespace.clone(),
        name: owner.name.clone(),
        uid: owner.uid.clone(),
        resource_version: String::new(),
    }
}

/// Deletes the object as it was seen: with owners added meanwhile it conflicts and is looked at again.
fn delete(node: &Node, propagation: Propagation) -> Action {
    Action::Delete {
        resource: node.resource.clone(),
        namespace: node.meta.namespace.clone(),
        name: node.meta.name.clone(),
        uid: Some(node.meta.uid.clone()),
        resource_version: Some(node.meta.resource_version.clone()),
        propagation: Some(propagation),
        grace: None,
        announce: None,
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{action::PODS, meta::read};
    use serde_json::json;

    fn meta(uid: &str, owners: &[&str], finalizers: &[&str], deleting: bool) -> Meta {
        let owners: Vec<_> = owners
            .iter()
            .map(|uid| json!({"apiVersion": "v1", "kind": "X", "name": uid, "uid": uid, "blockOwnerDeletion": true}))
            .collect();
        let deletion = deleting.then_some("2026-01-01T00:00:00Z");
        read(&json!({"name": uid, "namespace": "ns", "uid": uid, "ownerReferences": owners,
            "finalizers": finalizers, "deletionTimestamp": deletion}))
        .unwrap()
    }

    fn words(step: Step) -> Vec<String> {
        let word = |action| match action {
            Action::Delete { name, propagation, .. } => {
                format!("delete {name} {}", propagation.map_or("", Propagation::as_str))
            }
            Action::Patch { name, body, .. } => {
                let owners = body.pointer("/metadata/ownerReferences").map(ToString::to_string);
                let owners = owners.map(|owners| format!("owners {}", owners.matches("\"uid\"").count()));
                format!("patch {name} {}", owners.unwrap_or_else(|| "finalizers".to_owned()))
            }
            Action::CheckOwner { owner } => format!("check {}", owner.name),
            other => format!("{other:?}"),
        };
        step.actions.into_iter().map(word).collect()
    }

    fn graph(objects: &[Meta]) -> Graph {
        let mut graph = Graph::new();
        objects.iter().for_each(|meta| graph.observe(&PODS, meta));
        graph
    }

    fn check(mut graph: Graph, expect: &[&str]) -> Graph {
        assert_eq!(words(graph.step()), expect);
        assert_eq!(words(graph.step()), [""; 0], "nothing is asked for twice");
        graph
    }

    #[test]
    fn background() {
        let mut graph = check(graph(&[meta("o", &[], &[], false), meta("d", &["o"], &[], false)]), &[]);
        graph.gone("o");
        check(graph, &["delete d Background"]);
    }

    #[test]
    fn unseen_owners_are_verified() {
        let mut graph =
            check(graph(&[meta("a", &["o"], &[], false), meta("b", &["o"], &[], false)]), &["check o"]);
        graph.owner_absent("o");
        check(graph.clone(), &["delete a Background", "delete b Background"]);
        graph.owner_present("o");
        check(graph, &[]);
    }

    #[test]
    fn lost_owners_are_taken_away_where_another_stays() {
        let mut graph = check(
            graph(&[
                meta("o", &[], &[], false),
                meta("p", &[], &[], false),
                meta("d", &["o", "p"], &[], false),
            ]),
            &[],
        );
        graph.gone("o");
        check(graph, &["patch d owners 1"]);
    }

    #[test]
    fn foreground_waits_for_dependents() {
        let owner = meta("o", &[], &[FOREGROUND], true);
        let mut graph = check(
            graph(&[owner, meta("d", &["o"], &[], false), meta("e", &["d"], &[], false)]),
            &["delete d Foreground"],
        );
        graph.observe(&PODS, &meta("d", &["o"], &[FOREGROUND], true));
        let mut graph = check(graph, &["delete e Background"]);
        graph.gone("e");
        let mut graph = check(graph, &["patch d finalizers"]);
        graph.gone("d");
        check(graph, &["patch o finalizers"]);
    }

    #[test]
    fn a_circle_of_owners_ends() {
        let waiting = |uid: &str, owner: &str| meta(uid, &[owner], &[FOREGROUND], true);
        let all = [waiting("a", "c"), waiting("b", "a"), meta("c", &["b"], &[], false)];
        let mut graph = check(graph(&all), &["patch c owners 1"]);
        let mut unblocked = meta("c", &["b"], &[], false);
        unblocked.owner_references[0].block_owner_deletion = Some(false);
        graph.observe(&PODS, &unblocked);
        let mut graph = check(graph, &["delete c Foreground"]);
        unblocked = waiting("c", "b");
        unblocked.owner_references[0].block_owner_deletion = Some(false);
        graph.observe(&PODS, &unblocked);
        graph.touch("b");
        check(graph, &["patch b finalizers"]);
    }

    #[test]
    fn orphans_let_go_of_their_owner() {
        let owner = meta("o", &[], &[ORPHAN], true);
        let mut graph = check(graph(&[owner.clone(), meta("d", &["o"], &[], false)]), &["patch d owners 0"]);
        graph.observe(&PODS, &meta("d", &[], &[], false));
        graph.observe(&PODS, &owner);
        check(graph, &["patch o finalizers"]);
    }
}
