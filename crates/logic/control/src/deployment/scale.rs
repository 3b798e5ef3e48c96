//! Scaling: the Deployment's size changes while one or several versions run.

use serde_json::{Map, Value, json};

use super::{DESIRED_REPLICAS, Edit, MAX_REPLICAS, Plan};
use crate::{
    action::{Action, Event, REPLICA_SETS},
    replicaset::ReplicaSet,
};

impl<'a> Plan<'a> {
    /// Whether the size of the Deployment has changed since a ReplicaSet with replicas was last scaled.
    pub(super) fn is_scaling(&self) -> bool {
        let active = self.all().filter(|set| set.replicas() > 0);
        active.filter_map(|set| annotation(set, DESIRED_REPLICAS)).any(|size| size != self.d.replicas())
    }

    /// Gives a ReplicaSet a size, and the annotations that go with it. True when the size changes.
    pub(super) fn resize(&mut self, set: &'a ReplicaSet, size: i64) -> bool {
        let before = self.size(set);
        if before != size {
            self.annotate_size(set);
            self.edit(set).replicas = Some(size);
        }
        before != size
    }

    fn annotate_size(&mut self, set: &'a ReplicaSet) {
        let wanted = self.d.replicas();
        for (key, value) in [(DESIRED_REPLICAS, wanted), (MAX_REPLICAS, wanted + self.d.max_surge())] {
            if annotation(set, key) != Some(value) {
                self.edit(set).annotations.insert(key.to_owned(), value.to_string());
            }
        }
    }

    /// Brings the ReplicaSets to the Deployment's size: the only one with replicas directly, several
    /// in proportion to their present sizes.
    pub(super) fn scale(&mut self) {
        let active: Vec<&ReplicaSet> = self.all().filter(|set| set.replicas() > 0).collect();
        let only = match active.as_slice() {
            [] => self.new.or(self.old.last().copied()),
            [only] => Some(*only),
            _ => None,
        };
        if let Some(set) = only {
            self.annotate_size(set);
            self.resize(set, self.d.replicas());
        } else if self.is_saturated() {
            for set in self.active_old() {
                self.resize(set, 0);
            }
        } else if !self.d.recreates() {
            self.scale_in_proportion(active);
        }
    }

    /// Whether the new ReplicaSet alone is all that is wanted.
    fn is_saturated(&self) -> bool {
        let wanted = self.d.replicas();
        self.new.is_some_and(|new| {
            new.replicas() == wanted
                && annotation(new, DESIRED_REPLICAS) == Some(wanted)
                && new.status.available_replicas == wanted
        })
    }

    fn scale_in_proportion(&mut self, mut active: Vec<&'a ReplicaSet>) {
        let wanted = self.d.replicas();
        let allowed = if wanted > 0 { wanted + self.d.max_surge() } else { 0 };
        let add = allowed - active.iter().map(|set| set.replicas()).sum::<i64>();
        // The largest first; among equals the newest grows first and the oldest shrinks first.
        let age = |set: &ReplicaSet| set.metadata.creation_timestamp;
        active.sort_by(|a, b| {
            let age = if add > 0 { age(b).cmp(&age(a)) } else { age(a).cmp(&age(b)) };
            b.replicas().cmp(&a.replicas()).then(age).then_with(|| a.metadata.name.cmp(&b.metadata.name))
        });
        let mut left = add;
        let mut sizes: Vec<i64> = Vec::with_capacity(active.len());
        for set in &active {
            let share = self.share(set, add, left);
            sizes.push(set.replicas() + share);
            left -= share;
        }
        // What rounding left over goes to the largest.
        if let Some(first) = sizes.first_mut() {
            *first = (*first + left).max(0);
        }
        for (set, size) in active.into_iter().zip(sizes) {
            self.annotate_size(set);
            self.resize(set, size);
        }
    }

    /// How many of `left` replicas to add (or remove, when negative) fall to one ReplicaSet.
    fn share(&self, set: &ReplicaSet, add: i64, left: i64) -> i64 {
        if set.replicas() == 0 || add == 0 || left == 0 {
            return 0;
        }
        let fraction = self.fraction(set);
        if add > 0 { fraction.min(left) } else { fraction.max(left) }
    }

    /// By how much a ReplicaSet grows when it keeps its part of the whole.
    fn fraction(&self, set: &ReplicaSet) -> i64 {
        if self.d.replicas() == 0 {
            return -set.replicas();
        }
        let known = annotation(set, MAX_REPLICAS).filter(|before| *before > 0);
        let before = known.unwrap_or(self.d.status.replicas);
        if before <= 0 {
            return 0;
        }
        let size = (set.replicas() * (self.d.replicas() + self.d.max_surge())) as f64 / before as f64;
        size.round() as i64 - set.replicas()
    }
}

fn annotation(set: &ReplicaSet, key: &str) -> Option<i64> {
    set.metadata.annotations.get(key)?.parse().ok()
}

/// One patch with all changes to a ReplicaSet, and the Event when its size changes.
pub(super) fn patch(set: &ReplicaSet, edit: &Edit) -> Vec<Action> {
    let mut spec = Map::new();
    let mut body = Map::new();
    if let Some(replicas) = edit.replicas {
        spec.insert("replicas".to_owned(), Value::from(replicas));
    }
    if let Some(seconds) = edit.min_ready_seconds {
        spec.insert("minReadySeconds".to_owned(), Value::from(seconds));
    }
    if !spec.is_empty() {
        body.insert("spec".to_owned(), Value::Object(spec));
    }
    if !edit.annotations.is_empty() {
        body.insert("metadata".to_owned(), json!({"annotations": edit.annotations}));
    }
    if body.is_empty() {
        return Vec::new();
    }
    let mut actions = vec![set.metadata.locked_patch(REPLICA_SETS, Value::Object(body))];
    let owner = set.metadata.controller();
    if let Some((size, owner)) = edit.replicas.filter(|size| *size != set.replicas()).zip(owner) {
        let direction = if size > set.replicas() { "up" } else { "down" };
        let message =
            format!("Scaled {direction} replica set {} from {} to {size}", set.metadata.name, set.replicas());
        let involved = crate::action::ObjectRef {
            api_version: owner.api_version.clone(),
            kind: owner.kind.clone(),
            namespace: set.metadata.namespace.clone(),
            name: owner.name.clone(),
            uid: owner.uid.clone(),
            resource_version: String::new(),
        };
        actions.push(Action::Event(Event::normal(involved, "ScalingReplicaSet", message)));
    }
    actions
}
