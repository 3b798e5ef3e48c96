//! From pods of an older version to the present one.

use super::{Plan, nodes::Place};
use crate::pod::Pod;

/// The pods of a node by version; nothing when one of them is there twice.
type Pair<'a> = Option<(Option<&'a Pod>, Option<&'a Pod>)>;

impl<'a> Plan<'a> {
    /// Replaces as many old pods as may be replaced now.
    pub(super) fn roll(&mut self) {
        let desired = self.desired();
        let surge = self.set.max_surge(desired);
        let mut unavailable = self.set.max_unavailable(desired);
        if surge <= 0 && unavailable <= 0 && desired > 0 {
            unavailable = 1;
        }
        if surge > 0 {
            self.surge(surge, desired);
        } else {
            self.replace(unavailable);
        }
    }

    /// Nodes that should have a pod.
    pub(super) fn desired(&self) -> i64 {
        self.places.values().filter(|place| **place == Place::Should).count() as i64
    }

    /// The new and the old pod of a node.
    fn pair(&self, pods: &[&'a Pod]) -> Pair<'a> {
        let staying = pods.iter().copied().filter(|pod| !pod.metadata.deleting());
        let (new, old): (Vec<&Pod>, Vec<&Pod>) = staying.partition(|pod| self.updated(pod));
        (new.len() <= 1 && old.len() <= 1).then(|| (new.first().copied(), old.first().copied()))
    }

    /// Every node that has a pod or should have one, with its pods.
    fn pairs(&self) -> Vec<(&'a str, Pair<'a>)> {
        let empty = self.places.keys().filter(|node| self.should(node) && !self.by_node.contains_key(**node));
        let filled = self.by_node.iter().map(|(node, pods)| (*node, self.pair(pods)));
        filled.chain(empty.map(|node| (*node, Some((None, None))))).collect()
    }

    /// Without surge: old pods go, as long as not too many nodes are without an available one. Old ones that
    /// are not available go in any case.
    fn replace(&mut self, max_unavailable: i64) {
        let mut unavailable = 0;
        let (mut broken, mut candidates) = (Vec::new(), Vec::new());
        for (_, pair) in self.pairs() {
            match pair {
                Some((Some(new), None)) => unavailable += i64::from(!self.set.available(new, self.now)),
                Some((None, Some(old))) if self.set.available(old, self.now) => candidates.push(old),
                Some((None, Some(old))) => {
                    unavailable += 1;
                    broken.push(old);
                }
                _ => unavailable += 1,
            }
        }
        let room = usize::try_from(max_unavailable - unavailable).unwrap_or(0);
        candidates.truncate(room);
        self.deletes.extend(broken);
        self.deletes.extend(candidates);
    }

    /// With surge: a new pod comes beside the old one, which goes once the new one is available.
    fn surge(&mut self, max_surge: i64, desired: i64) {
        let (mut surging, mut available) = (0, 0);
        let (mut due, mut candidates, mut misplaced) = (Vec::new(), Vec::new(), Vec::new());
        for (node, pair) in self.pairs() {
            let Some((new, old)) = pair else {
                surging += 1;
                continue;
            };
            let stands = |pod: Option<&Pod>| pod.is_some_and(|pod| self.set.available(pod, self.now));
            available += i64::from(stands(old.or(new)));
            let Some(old) = old else { continue };
            match new {
                Some(_) if stands(new) => self.deletes.push(old),
                Some(_) => surging += 1,
                None => match (self.should(node), stands(Some(old))) {
                    (true, true) => candidates.push(node),
                    (true, false) => due.push(node),
                    (false, true) => misplaced.push(old),
                    (false, false) => self.deletes.push(old),
                },
            }
        }
        // A pod where none should be is kept until another place has one.
        misplaced.truncate(usize::try_from(available - desired).unwrap_or(0));
        candidates.truncate(usize::try_from(max_surge - surging).unwrap_or(0));
        self.deletes.extend(misplaced);
        self.creates.extend(due);
        self.creates.extend(candidates);
    }

    fn should(&self, node: &str) -> bool {
        self.places.get(node) == Some(&Place::Should)
    }
}
