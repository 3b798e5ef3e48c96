//! The two ways from old pods to new ones.

use super::Plan;
use crate::{pod::Pod, replicaset::ReplicaSet};

impl<'a> Plan<'a> {
    /// Rolling update: add new pods up to the surge, remove old ones down to the availability wanted.
    pub(super) fn roll(&mut self) {
        let Some(new) = self.new else { return self.create_new() };
        self.sync_new();
        let wanted = self.new_size(self.size(new));
        if self.resize(new, wanted) || self.shrink_old(new) {
            return;
        }
        self.clean_up();
    }

    /// Recreate: all old pods go, and only once they are gone do new ones come.
    pub(super) fn recreate(&mut self) {
        self.sync_new();
        let mut scaled = false;
        for set in self.active_old() {
            scaled |= self.resize(set, 0);
        }
        if scaled || self.old_pods_run() {
            return;
        }
        match self.new {
            None => self.create_new(),
            Some(new) => {
                if !self.resize(new, self.d.replicas()) {
                    self.clean_up();
                }
            }
        }
    }

    /// Whether a pod of an old version has not ended, those being deleted included.
    fn old_pods_run(&self) -> bool {
        let of_old = |pod: &Pod| self.old.iter().any(|set| pod.metadata.controlled_by(&set.metadata.uid));
        // Without a pod in sight, the ReplicaSets' own word counts.
        self.view.pods.iter().any(|pod| !pod.ended() && of_old(pod))
            || self.old.iter().any(|set| set.status.replicas > 0)
    }

    /// How many replicas the new ReplicaSet, now of size `present`, should have.
    pub(super) fn new_size(&self, present: i64) -> i64 {
        let wanted = self.d.replicas();
        if self.d.recreates() || present >= wanted {
            return wanted;
        }
        let room = wanted + self.d.max_surge() - self.total_size();
        present + room.min(wanted - present).max(0)
    }

    /// Takes pods from the old ReplicaSets as far as availability allows: first those that are not
    /// available anyway, then available ones, oldest ReplicaSet first. True when any was taken.
    fn shrink_old(&mut self, new: &'a ReplicaSet) -> bool {
        let old = self.active_old();
        if old.is_empty() {
            return false;
        }
        let least = self.d.replicas() - self.d.max_unavailable();
        let new_unavailable = (self.size(new) - new.status.available_replicas).max(0);
        // New pods that are not available yet must not make old ones go.
        let allowed = self.total_size() - least - new_unavailable;
        if allowed <= 0 {
            return false;
        }
        let unhealthy = self.shrink_unhealthy(&old, allowed);
        // A ReplicaSet that was just made smaller may still report more than it keeps.
        let available: i64 = self.all().map(|set| set.status.available_replicas.min(self.size(set))).sum();
        let healthy = self.shrink_by(&old, available - least, |_| i64::MAX);
        unhealthy + healthy > 0
    }

    fn shrink_unhealthy(&mut self, old: &[&'a ReplicaSet], allowed: i64) -> i64 {
        self.shrink_by(old, allowed, |set| (set.replicas() - set.status.available_replicas).max(0))
    }

    /// Takes at most `total` pods, from each ReplicaSet at most what `most` says. Returns how many.
    fn shrink_by(&mut self, old: &[&'a ReplicaSet], total: i64, most: impl Fn(&ReplicaSet) -> i64) -> i64 {
        let mut left = total.max(0);
        for set in old.iter().copied() {
            let size = self.size(set);
            let take = size.min(left).min(most(set));
            if take > 0 {
                self.resize(set, size - take);
                left -= take;
            }
        }
        total.max(0) - left
    }
}
