//! The pods one after the other: those that should be there, those that should not, those to update.

use super::{BURST, Plan, claims::Ready, identity::repair};
use crate::{
    action::{Action, Event},
    history::REVISION_LABEL,
    pod::Pod,
};

impl<'a> Plan<'a> {
    /// The ordinals it wants.
    fn wanted(&self) -> std::ops::Range<i64> {
        self.set.first()..self.set.first() + self.set.replicas()
    }

    /// Creates and repairs the pods that should be there; false when something has to happen first.
    pub(super) fn keep_wanted(&mut self) -> bool {
        let mut done = true;
        for ordinal in self.wanted() {
            let well = match self.pods.get(&ordinal).copied() {
                None => self.add(ordinal),
                Some(pod) => self.keep(ordinal, pod),
            };
            done &= well != Progress::Blocked;
            if (self.set.ordered() && well != Progress::Well)
                || self.new_claims.len() + self.writes.len() >= BURST
            {
                return false;
            }
        }
        done
    }

    fn add(&mut self, ordinal: i64) -> Progress {
        if self.create_claims(ordinal) == Ready::No {
            return Progress::Blocked;
        }
        let create = self.create(ordinal);
        self.writes.push(create);
        Progress::Waits
    }

    fn keep(&mut self, ordinal: i64, pod: &'a Pod) -> Progress {
        if pod.ended() {
            if !pod.metadata.deleting() {
                self.writes.push(self.recreation(pod));
                self.writes.push(self.delete(pod));
            }
            return Progress::Waits;
        }
        // A pod that waits may do so for a claim somebody has deleted.
        if !pod.metadata.deleting()
            && matches!(pod.status.phase.as_str(), "" | "Pending")
            && self.create_claims(ordinal) == Ready::No
        {
            return Progress::Blocked;
        }
        self.own_claims(ordinal, pod);
        self.writes.extend(repair(self.set, ordinal, pod));
        if self.well(pod) { Progress::Well } else { Progress::Waits }
    }

    /// That a pod which has ended goes so that another comes.
    fn recreation(&self, pod: &Pod) -> Action {
        let involved = self.set.object_ref();
        let name = format!("{}/{}", pod.metadata.namespace, pod.metadata.name);
        Action::Event(match pod.status.phase.as_str() {
            "Failed" => {
                let message = format!("Pod {name} has failed and is made anew");
                Event::warning(involved, "RecreatingFailedPod", message)
            }
            _ => {
                let message = format!("Pod {name} has ended and is made anew");
                Event::normal(involved, "RecreatingTerminatedPod", message)
            }
        })
    }

    /// Whether a pod stays and is available.
    fn well(&self, pod: &Pod) -> bool {
        !pod.metadata.deleting() && self.running(pod)
    }

    fn running(&self, pod: &Pod) -> bool {
        pod.status.phase == "Running" && self.set.available(pod, self.now)
    }

    /// Deletes the pods that should not be there, the highest ordinal first; false while some are left.
    pub(super) fn remove_unwanted(&mut self) -> bool {
        let condemned: Vec<(i64, &Pod)> = self
            .pods
            .iter()
            .rev()
            .filter(|(ordinal, _)| !self.set.wants(**ordinal))
            .map(|(ordinal, pod)| (*ordinal, *pod))
            .collect();
        condemned.iter().for_each(|(ordinal, pod)| self.own_claims(*ordinal, pod));
        let unwell = self.first_unwell();
        for (_, pod) in condemned {
            if pod.metadata.deleting() {
                if self.set.ordered() {
                    return false;
                }
                continue;
            }
            // In order, one that is not well stops those after it, but not itself. One that has ended will
            // never be well again.
            let itself = unwell.is_some_and(|first| first.metadata.uid == pod.metadata.uid);
            let stopped = !self.running(pod) && !pod.ended() && !itself;
            if self.set.ordered() && stopped {
                return false;
            }
            self.writes.push(self.delete(pod));
            if self.set.ordered() {
                return false;
            }
        }
        true
    }

    /// The first pod that is not well: wanted ones before others, by ordinal.
    fn first_unwell(&self) -> Option<&'a Pod> {
        let unwell = self.pods.iter().filter(|(_, pod)| !self.well(pod));
        unwell.min_by_key(|(ordinal, _)| (!self.set.wants(**ordinal), **ordinal)).map(|(_, pod)| *pod)
    }

    /// Deletes pods of older versions, the highest ordinal first, as far as availability allows.
    pub(super) fn roll(&mut self) {
        let rolling = &self.set.spec.update_strategy.rolling_update;
        let from = self.set.first() + rolling.partition.max(0);
        let most = rolling.max_unavailable.as_ref().map(|most| most.of_total(self.set.replicas(), false));
        let due = match most {
            Some(most) => self.outdated(from, most.unwrap_or(1).max(1)),
            None => self.next_outdated(from).into_iter().collect(),
        };
        let deletes: Vec<_> = due.into_iter().map(|pod| self.delete(pod)).collect();
        self.writes.extend(deletes);
    }

    /// Whether a pod that stays is of an older version.
    fn is_old(&self, pod: &Pod) -> bool {
        !pod.metadata.deleting() && pod.metadata.labels.get(REVISION_LABEL) != Some(&self.versions.name)
    }

    fn stands(&self, pod: &Pod) -> bool {
        !pod.metadata.deleting() && self.set.available(pod, self.now)
    }

    /// Old pods, until `most` are missing.
    fn outdated(&self, from: i64, most: i64) -> Vec<&'a Pod> {
        let missing = |ordinal: &i64| !self.pods.get(ordinal).is_some_and(|pod| self.stands(pod));
        let missing = self.wanted().filter(missing).count();
        let room = usize::try_from(most).unwrap_or(1).saturating_sub(missing);
        let behind = self.wanted().rev().filter(|ordinal| *ordinal >= from);
        let pods = behind.filter_map(|ordinal| self.pods.get(&ordinal).copied());
        pods.filter(|pod| self.is_old(pod)).take(room).collect()
    }

    /// The next old pod, once everything above it is new and available. What is below does not count.
    fn next_outdated(&self, from: i64) -> Option<&'a Pod> {
        for ordinal in self.wanted().rev().take_while(|ordinal| *ordinal >= from) {
            let pod = self.pods.get(&ordinal).copied()?;
            if self.is_old(pod) {
                return Some(pod);
            }
            if !self.stands(pod) {
                return None;
            }
        }
        None
    }
}

/// How a pod that should be there stands.
#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Progress {
    /// It is there and available.
    Well,
    /// It is on its way.
    Waits,
    /// It cannot come before a claim has gone.
    Blocked,
}
