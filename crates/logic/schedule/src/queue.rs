//! Which pod is scheduled next: by priority, then by time; pods that did not fit wait until a change
//! may help them, and longer each time.

use std::{
    cmp::Reverse,
    collections::{BTreeMap, HashMap},
    time::Duration,
};

use wharf_base::Timestamp;

/// Back-off after the first failure; doubled with each further one.
const FIRST_BACKOFF: Duration = Duration::from_secs(1);
/// The longest back-off.
const LAST_BACKOFF: Duration = Duration::from_secs(10);
/// A pod that waits for a change is tried again after this long in any case.
const LONGEST_WAIT: Duration = Duration::from_secs(300);

/// Kinds of changes in the cluster, as a set.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub struct Wakes(u8);

impl Wakes {
    /// No change.
    pub const NONE: Self = Self(0);
    /// A node came; this wakes every pod.
    pub const NODE_ADDED: Self = Self(1);
    /// A node offers more.
    pub const NODE_CAPACITY: Self = Self(2);
    /// Labels of a node changed.
    pub const NODE_LABELS: Self = Self(4);
    /// Taints of a node changed, or it was uncordoned.
    pub const NODE_TAINTS: Self = Self(8);
    /// A pod left a node, or shrank.
    pub const POD_REMOVED: Self = Self(16);
    /// A pod came to a node, or labels of one changed.
    pub const POD_PLACED: Self = Self(32);

    /// Both.
    #[must_use]
    pub const fn with(self, other: Self) -> Self {
        Self(self.0 | other.0)
    }

    const fn meets(self, other: Self) -> bool {
        self.0 & other.0 != 0
    }
}

/// Sorts the pods that are ready: the higher priority, then the earlier, then the order of arrival.
type Rank = (Reverse<i64>, Timestamp, u64);

#[derive(Clone, Debug)]
struct Entry {
    rank: Rank,
    attempts: u32,
    state: State,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum State {
    /// In `ready`.
    Ready,
    /// Handed out.
    Busy,
    /// In `waiting`, to become ready by itself at that time.
    BackingOff(Timestamp),
    /// In `waiting`, to be tried at that time unless one of the changes comes first; not before
    /// the second time.
    Parked(Timestamp, Wakes, Timestamp),
}

/// The pods that have no node yet, by uid.
#[derive(Clone, Debug, Default)]
pub struct Queue {
    entries: HashMap<String, Entry>,
    ready: BTreeMap<Rank, String>,
    waiting: BTreeMap<(Timestamp, u64), String>,
    arrivals: u64,
}

impl Queue {
    /// An empty queue.
    pub fn new() -> Self {
        Self::default()
    }

    /// Pods in it, whatever they wait for.
    pub fn len(&self) -> usize {
        self.entries.len()
    }

    /// Whether there are none.
    pub fn is_empty(&self) -> bool {
        self.entries.is_empty()
    }

    /// Adds a pod, or takes over that its spec has changed: then it is tried at once.
    pub fn add(&mut self, uid: &str, priority: i64, created: Timestamp) {
        let attempts = self.entries.get(uid).map_or(0, |entry| entry.attempts);
        self.remove(uid);
        self.arrivals += 1;
        let rank = (Reverse(priority), created, self.arrivals);
        self.entries.insert(uid.to_owned(), Entry { rank, attempts, state: State::Ready });
        self.ready.insert(rank, uid.to_owned());
    }

    /// Removes a pod: it is bound or gone.
    pub fn remove(&mut self, uid: &str) {
        let Some(entry) = self.entries.remove(uid) else { return };
        match entry.state {
            State::Ready => drop(self.ready.remove(&entry.rank)),
            State::Busy => {}
            State::BackingOff(at) | State::Parked(at, ..) => drop(self.waiting.remove(&(at, entry.rank.2))),
        }
    }

    /// The next pod to schedule. It stays in the queue until it is removed, or given back with
    /// [`Queue::unschedulable`] or [`Queue::failed`].
    pub fn pop(&mut self, now: Timestamp) -> Option<String> {
        self.wake_due(now);
        let (_, uid) = self.ready.pop_first()?;
        if let Some(entry) = self.entries.get_mut(&uid) {
            entry.state = State::Busy;
            entry.attempts = entry.attempts.saturating_add(1);
        }
        Some(uid)
    }

    /// When the next waiting pod becomes ready by itself; nothing while there is one ready, or none
    /// waits.
    pub fn next_wake(&self) -> Option<Timestamp> {
        if !self.ready.is_empty() {
            return None;
        }
        self.waiting.first_key_value().map(|((at, _), _)| *at)
    }

    /// Gives back a pod that fits nowhere: it waits for a change that may help, at least for its
    /// back-off and at most for five minutes.
    pub fn unschedulable(&mut self, uid: &str, wakes: Wakes, now: Timestamp) {
        let state =
            |backoff| State::Parked(now.plus(LONGEST_WAIT), wakes.with(Wakes::NODE_ADDED), now.plus(backoff));
        self.wait(uid, state);
    }

    /// Gives back a pod whose binding failed: it is tried again after its back-off.
    pub fn failed(&mut self, uid: &str, now: Timestamp) {
        self.wait(uid, |backoff| State::BackingOff(now.plus(backoff)));
    }

    /// Takes note of changes in the cluster. The pods they may help become ready once their back-off
    /// is over.
    pub fn wake(&mut self, changes: Wakes, now: Timestamp) {
        let mut woken: Vec<(Timestamp, u64)> = Vec::new();
        for (key, uid) in &self.waiting {
            let state = self.entries.get(uid).map(|entry| entry.state);
            if matches!(state, Some(State::Parked(_, wakes, _)) if wakes.meets(changes)) {
                woken.push(*key);
            }
        }
        for key in woken {
            let Some(uid) = self.waiting.remove(&key) else { continue };
            let Some(entry) = self.entries.get_mut(&uid) else { continue };
            let State::Parked(_, _, not_before) = entry.state else { continue };
            if not_before <= now {
                entry.state = State::Ready;
                self.ready.insert(entry.rank, uid);
            } else {
                entry.state = State::BackingOff(not_before);
                self.waiting.insert((not_before, key.1), uid);
            }
        }
    }

    fn wait(&mut self, uid: &str, state: impl FnOnce(Duration) -> State) {
        let Some(entry) = self.entries.get_mut(uid) else { return };
        // One that was changed meanwhile is ready again already.
        if entry.state != State::Busy {
            return;
        }
        entry.state = state(backoff(entry.attempts));
        if let State::BackingOff(at) | State::Parked(at, ..) = entry.state {
            self.waiting.insert((at, entry.rank.2), uid.to_owned());
        }
    }

    fn wake_due(&mut self, now: Timestamp) {
        while let Some(first) = self.waiting.first_entry() {
            if first.key().0 > now {
                return;
            }
            let uid = first.remove();
            if let Some(entry) = self.entries.get_mut(&uid) {
                entry.state = State::Ready;
                self.ready.insert(entry.rank, uid);
            }
        }
    }
}

fn backoff(attempts: u32) -> Duration {
    let doublings = attempts.saturating_sub(1).min(8);
    (FIRST_BACKOFF * 2u32.pow(doublings)).min(LAST_BACKOFF)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn at(seconds: i64) -> Timestamp {
        Timestamp::from_unix(seconds, 0)
    }

    #[test]
    fn priority_then_time() {
        let mut queue = Queue::new();
        for (uid, priority, created) in [("low", 0, 1), ("late", 5, 9), ("early", 5, 2)] {
            queue.add(uid, priority, at(created));
        }
        let order: Vec<String> = std::iter::from_fn(|| queue.pop(at(10))).collect();
        assert_eq!(order, ["early", "late", "low"]);
        assert_eq!(queue.len(), 3);
    }

    #[test]
    fn parked_pods_wake_by_what_helps_them() {
        let mut queue = Queue::new();
        queue.add("a", 0, at(0));
        assert_eq!(queue.pop(at(0)).as_deref(), Some("a"));
        queue.unschedulable("a", Wakes::POD_REMOVED, at(0));
        queue.wake(Wakes::NODE_LABELS, at(5));
        assert_eq!(queue.pop(at(5)), None);
        queue.wake(Wakes::POD_REMOVED, at(5));
        assert_eq!(queue.pop(at(5)).as_deref(), Some("a"));
        // The second back-off is two seconds, whatever happens.
        queue.unschedulable("a", Wakes::NONE, at(6));
        queue.wake(Wakes::NODE_ADDED, at(7));
        assert_eq!((queue.pop(at(7)), queue.next_wake()), (None, Some(at(8))));
        assert_eq!(queue.pop(at(8)).as_deref(), Some("a"));
        queue.unschedulable("a", Wakes::NONE, at(9));
        assert_eq!(queue.pop(at(308)), None);
        assert_eq!(queue.pop(at(309)).as_deref(), Some("a"));
    }

    #[test]
    fn failures_back_off_up_to_ten_seconds() {
        let waits: Vec<u64> = (1..7).map(|attempts| backoff(attempts).as_secs()).collect();
        assert_eq!(waits, [1, 2, 4, 8, 10, 10]);
    }

    #[test]
    fn removed_pods_are_not_handed_out() {
        let mut queue = Queue::new();
        queue.add("a", 0, at(0));
        queue.add("b", 0, at(1));
        queue.remove("a");
        assert_eq!(queue.pop(at(2)).as_deref(), Some("b"));
        queue.failed("b", at(2));
        queue.remove("b");
        assert_eq!((queue.pop(at(100)), queue.is_empty(), queue.next_wake()), (None, true, None));
    }
}
