//! Whether a history of calls is one that a store may have: linearizable, and told to subscribers
//! as it happened.
//!
//! The feed is taken for the order of things, and everything else is held against it. Each change
//! must be one transaction that somebody asked for; each answer must be true at a moment between
//! its call's beginning and its end.

use std::collections::{BTreeMap, HashMap};

use bytes::Bytes;

use crate::{Change, KeyValue, Revision, Write};

/// What a call came to.
#[derive(Debug, Clone)]
pub enum Outcome {
    /// A transaction went through at this revision.
    Wrote(Revision),
    /// A key was not as expected.
    Conflict {
        /// Which write.
        write: usize,
        /// The key's revision.
        current: Option<Revision>,
    },
    /// Nothing was written.
    Refused,
    /// Nobody knows.
    Unknown,
    /// All keys were read.
    Read(Revision, Vec<KeyValue>),
}

/// A call of a store, between two moments of one clock that never stands still.
#[derive(Debug, Clone)]
pub struct Call {
    /// When it was made.
    pub began: u64,
    /// When it was answered.
    pub ended: u64,
    /// What the subscriber had seen when it was answered.
    pub seen: Revision,
    /// The transaction; nothing for a read.
    pub writes: Vec<Write>,
    /// The answer.
    pub outcome: Outcome,
}

/// All that happened.
#[derive(Debug, Clone, Default)]
pub struct History {
    /// What was there before the first call.
    pub start: (Revision, Vec<KeyValue>),
    /// All calls, in any order.
    pub calls: Vec<Call>,
    /// What the subscriber saw.
    pub feed: Vec<Change>,
    /// What is there after the last call.
    pub end: (Revision, Vec<KeyValue>),
}

/// Keys with their new values.
type Made = Vec<(Bytes, Option<Bytes>)>;
type Keys = BTreeMap<Bytes, (Bytes, Revision)>;

fn keys_of(keys: &[KeyValue]) -> Keys {
    keys.iter().map(|kv| (kv.key.clone(), (kv.value.clone(), kv.revision))).collect()
}

/// The keys at each revision at which something happened.
struct States(Vec<(Revision, Keys)>);

impl States {
    fn index(&self, revision: Revision) -> Option<usize> {
        self.0.partition_point(|(at, _)| *at <= revision).checked_sub(1)
    }

    fn at(&self, revision: Revision) -> Option<&Keys> {
        self.index(revision).map(|index| &self.0[index].1)
    }

    /// The states that were the newest at some moment from one revision to before another.
    fn between(&self, low: Revision, high: Revision) -> &[(Revision, Keys)] {
        let end = self.0.partition_point(|(at, _)| *at < high);
        &self.0[self.index(low).unwrap_or(0).min(end)..end]
    }
}

/// The changes of a transaction, or which write of it fails with which revision.
fn run(keys: &Keys, writes: &[Write]) -> Result<Made, (usize, Option<Revision>)> {
    for (index, write) in writes.iter().enumerate() {
        let current = keys.get(&write.key).map(|(_, revision)| *revision);
        if !write.expect.holds(current) {
            return Err((index, current));
        }
    }
    let changes = writes.iter().filter(|write| write.value.is_some() || keys.contains_key(&write.key));
    Ok(changes.map(|write| (write.key.clone(), write.value.clone())).collect())
}

fn same(changes: &[(Bytes, Option<Bytes>)], told: &[Change]) -> bool {
    // The order within a transaction says nothing.
    let told: HashMap<_, _> = told.iter().map(|change| (&change.key, &change.value)).collect();
    changes.len() == told.len() && changes.iter().all(|(key, value)| told.get(key) == Some(&value))
}

/// Checks a history.
///
/// # Errors
/// What of it cannot be.
pub fn check(history: &History) -> Result<(), String> {
    let states = replay(history)?;
    let owners = owners(history, &states)?;
    for (index, call) in history.calls.iter().enumerate() {
        let (low, high) = bounds(history, &owners, index);
        explain(call, owners.get(&index).copied(), low, high, &states)
            .map_err(|why| format!("{why}: {call:?}, which was between revisions {low} and {high}"))?;
    }
    let last = states.at(Revision::MAX).ok_or("there is no state")?;
    if keys_of(&history.end.1) != *last {
        return Err(format!("load and replay gives {last:?}, the store has {:?}", history.end.1));
    }
    Ok(())
}

fn replay(history: &History) -> Result<States, String> {
    let mut keys = keys_of(&history.start.1);
    let mut states = vec![(history.start.0, keys.clone())];
    for told in history.feed.chunk_by(|a, b| a.revision == b.revision) {
        let revision = told[0].revision;
        if states.last().is_some_and(|(last, _)| *last >= revision) {
            return Err(format!("revision {revision} was told of out of order"));
        }
        for change in told {
            match &change.value {
                Some(value) => drop(keys.insert(change.key.clone(), (value.clone(), revision))),
                None if keys.remove(&change.key).is_some() => {}
                None => return Err(format!("a key was deleted that was not there: {change:?}")),
            }
        }
        states.push((revision, keys.clone()));
    }
    Ok(States(states))
}

/// Which call made which revision: by number of the call.
fn owners(history: &History, states: &States) -> Result<HashMap<usize, Revision>, String> {
    let mut owners = HashMap::new();
    for told in history.feed.chunk_by(|a, b| a.revision == b.revision) {
        let revision = told[0].revision;
        let before = states.at(revision - 1).ok_or("there is no state before the first")?;
        let made = |(_, call): &(usize, &Call)| run(before, &call.writes).is_ok_and(|made| same(&made, told));
        let calls = || history.calls.iter().enumerate();
        let known = calls()
            .filter(|(_, call)| matches!(call.outcome, Outcome::Wrote(at) if at == revision))
            .filter(made);
        // Beside one that deleted may be others that found nothing more to delete.
        let owner = known.min_by_key(|(_, call)| (call.seen < revision, call.began)).or_else(|| {
            let unknown = calls().filter(|(_, call)| matches!(call.outcome, Outcome::Unknown));
            unknown.filter(made).find(|(index, _)| !owners.contains_key(index))
        });
        let (index, _) = owner.ok_or_else(|| format!("nobody asked for what was told of: {told:?}"))?;
        if owners.insert(index, revision).is_some() {
            return Err(format!("a transaction was made twice: {told:?}"));
        }
    }
    Ok(owners)
}

/// The newest revision made for certain before a call, and the oldest made for certain after it.
fn bounds(history: &History, owners: &HashMap<usize, Revision>, index: usize) -> (Revision, Revision) {
    let call = &history.calls[index];
    let (mut low, mut high) = (history.start.0, Revision::MAX);
    for (other, one) in history.calls.iter().enumerate() {
        let made = owners.get(&other).copied();
        let known = match one.outcome {
            Outcome::Wrote(revision) | Outcome::Read(revision, _) => Some(revision),
            _ => None,
        };
        if let Some(revision) = known.filter(|_| one.ended < call.began) {
            low = low.max(revision);
        }
        if let Some(revision) = made.filter(|_| one.began > call.ended) {
            high = high.min(revision);
        }
    }
    (low, high)
}

/// Whether an answer was true at a moment of its call.
fn explain(
    call: &Call,
    made: Option<Revision>,
    low: Revision,
    high: Revision,
    states: &States,
) -> Result<(), &'static str> {
    let within = states.between(low, high);
    match &call.outcome {
        Outcome::Wrote(revision) if made == Some(*revision) => match *revision > low && *revision < high {
            _ if call.seen < *revision => Err("its writer heard before the subscriber"),
            true => Ok(()),
            false => Err("it was written outside of its time"),
        },
        Outcome::Wrote(_) => {
            let nothing = |(_, keys): &(Revision, Keys)| run(keys, &call.writes).is_ok_and(|c| c.is_empty());
            within.iter().any(nothing).then_some(()).ok_or("it was acknowledged and never told of")
        }
        Outcome::Conflict { write, current } => {
            let failed = |(_, keys): &(Revision, Keys)| run(keys, &call.writes) == Err((*write, *current));
            within.iter().any(failed).then_some(()).ok_or("there was no such conflict")
        }
        Outcome::Read(revision, keys) => {
            let timely = *revision >= low && *revision < high;
            let read = keys_of(keys);
            let right = timely && states.at(*revision) == Some(&read);
            right.then_some(()).ok_or("what it read was never there")
        }
        Outcome::Refused => Ok(()),
        Outcome::Unknown => match made {
            Some(revision) if revision <= low => Err("it was written before it was asked for"),
            _ => Ok(()),
        },
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::{
        Expect,
        testsuite::{delete, put},
    };

    fn call(began: u64, ended: u64, writes: Vec<Write>, outcome: Outcome) -> Call {
        Call { began, ended, seen: 99, writes, outcome }
    }

    fn change(key: &'static str, value: Option<&'static str>, revision: Revision) -> Change {
        let value = value.map(|value| Bytes::from_static(value.as_bytes()));
        Change { key: Bytes::from_static(key.as_bytes()), value, revision }
    }

    fn kv(key: &'static str, value: &'static str, revision: Revision) -> KeyValue {
        let bytes = |text: &'static str| Bytes::from_static(text.as_bytes());
        KeyValue { key: bytes(key), value: bytes(value), revision }
    }

    /// Two writes of one key, one after the other, and a conflict beside the second.
    fn good() -> History {
        let conflict = Outcome::Conflict { write: 0, current: Some(1) };
        History {
            start: (0, Vec::new()),
            calls: vec![
                call(1, 2, vec![put("a", "1", Expect::Absent)], Outcome::Wrote(1)),
                call(3, 6, vec![put("a", "2", Expect::At(1))], Outcome::Wrote(2)),
                call(4, 5, vec![put("a", "3", Expect::Absent)], conflict),
                call(7, 8, Vec::new(), Outcome::Read(2, vec![kv("a", "2", 2)])),
            ],
            feed: vec![change("a", Some("1"), 1), change("a", Some("2"), 2)],
            end: (2, vec![kv("a", "2", 2)]),
        }
    }

    fn refused(bend: impl FnOnce(&mut History), why: &str) {
        let mut history = good();
        bend(&mut history);
        let said = check(&history).unwrap_err();
        assert!(said.contains(why), "{said}");
    }

    #[test]
    fn a_good_history_passes() {
        check(&good()).unwrap();
        let mut history = good();
        // Nobody knows of the second write, which is there; nor of a third, which is not.
        history.calls[1].outcome = Outcome::Unknown;
        history.calls.push(call(1, 9, vec![put("b", "x", Expect::Any)], Outcome::Unknown));
        history.calls.push(call(1, 9, vec![delete("b", Expect::Any)], Outcome::Wrote(1)));
        check(&history).unwrap();
    }

    #[test]
    fn what_cannot_be_is_told() {
        refused(|h| h.calls[0].seen = 0, "heard before the subscriber");
        refused(|h| drop(h.feed.pop()), "never told of");
        refused(|h| h.feed[1].value = Some("9".into()), "nobody asked");
        refused(|h| h.feed[1].revision = 1, "nobody asked");
        refused(|h| h.feed.swap(0, 1), "out of order");
        refused(|h| h.calls[1].outcome = Outcome::Refused, "nobody asked");
        refused(|h| h.calls[2].outcome = Outcome::Conflict { write: 0, current: None }, "no such conflict");
        refused(|h| (h.calls[2].began, h.calls[2].ended) = (9, 10), "no such conflict");
        refused(|h| h.calls[3].outcome = Outcome::Read(1, vec![kv("a", "1", 1)]), "never there");
        refused(|h| h.calls[3].outcome = Outcome::Read(2, vec![kv("a", "1", 1)]), "never there");
        refused(|h| h.end.1.clear(), "load and replay");
        refused(|h| (h.calls[0].began, h.calls[0].ended) = (9, 10), "outside of its time");
        refused(
            |h| {
                h.calls[1].outcome = Outcome::Unknown;
                (h.calls[1].began, h.calls[1].ended) = (9, 10);
            },
            "before it was asked for",
        );
    }
}
