//! What becomes of Events: repetitions are counted in one object, many similar ones become one, and an
//! object that floods is cut off. The thresholds are upstream's.

use std::{
    collections::{BTreeSet, HashMap},
    time::Duration,
};

use serde_json::{Value, json};
use wharf_base::Timestamp;

use crate::action::{Action, EVENTS, Event, EventType};

/// Different messages of one reason about one object; further ones are combined.
const DISTINCT: usize = 10;
/// After this long without a similar event the counting starts again.
const MEMORY: Duration = Duration::from_secs(600);
/// Events about one object that pass at once.
const BURST: u32 = 25;
/// How long it takes until one more passes.
const REFILL: Duration = Duration::from_secs(300);
/// Objects, groups and messages remembered at the most; the oldest half is forgotten then.
const REMEMBERED: usize = 4096;
const COMBINED: &str = "(combined from similar events): ";
/// Names have at most 253 characters; the time follows.
const NAME: usize = 230;

/// How long an Event is kept, as upstream's default.
const KEPT: Duration = Duration::from_secs(3600);

/// (component, kind, namespace, name, uid) of what is spoken of, and by whom.
type Subject = (String, String, String, String, String);

#[derive(Clone, Debug)]
struct Similar {
    messages: BTreeSet<String>,
    last: Timestamp,
}

#[derive(Clone, Debug)]
struct Known {
    name: String,
    count: i64,
    first: Timestamp,
    last: Timestamp,
}

#[derive(Clone, Copy, Debug)]
struct Bucket {
    tokens: u32,
    filled: Timestamp,
    last: Timestamp,
    /// The time in the name given last.
    named: Option<Timestamp>,
}

/// Remembers what was recorded.
#[derive(Clone, Debug, Default)]
pub struct Correlator {
    similar: HashMap<(Subject, &'static str, bool), Similar>,
    known: HashMap<(Subject, &'static str, bool, String), Known>,
    buckets: HashMap<Subject, Bucket>,
}

/// An Event object to write.
#[derive(Clone, Debug, PartialEq)]
pub struct Record {
    /// Namespace of the Event object.
    pub namespace: String,
    /// Its name.
    pub name: String,
    /// Whether it has to be created; otherwise [`Record::patch`] is enough, if it still exists.
    pub is_new: bool,
    /// Times it happened.
    pub count: i64,
    first: Timestamp,
    last: Timestamp,
    message: String,
    component: String,
    event: Event,
}

impl Bucket {
    /// The time for a name: no two names have the same.
    fn next_name(&mut self, now: Timestamp) -> Timestamp {
        let at = self.named.map_or(now, |named| now.max(named.plus(Duration::from_nanos(1))));
        self.named = Some(at);
        at
    }
}

impl Correlator {
    /// Takes note of an event; gives what is to be written, or nothing when its subject floods.
    pub fn note(&mut self, component: &str, event: &Event, now: Timestamp) -> Option<Record> {
        self.forget();
        let involved = &event.involved;
        let subject: Subject = (
            component.to_owned(),
            involved.kind.clone(),
            involved.namespace.clone(),
            involved.name.clone(),
            involved.uid.clone(),
        );
        if !self.passes(&subject, now) {
            return None;
        }
        let warning = event.kind == EventType::Warning;
        let combined = self.combined(&subject, event, warning, now);
        let (text, message) = match combined {
            true => (String::new(), format!("{COMBINED}{}", event.message)),
            false => (event.message.clone(), event.message.clone()),
        };
        let bucket = self.buckets.get_mut(&subject);
        let fresh = || Known {
            name: name(&event.involved.name, bucket.map_or(now, |bucket| bucket.next_name(now))),
            count: 0,
            first: now,
            last: now,
        };
        let known = self.known.entry((subject, event.reason, warning, text)).or_insert_with(fresh);
        known.count += 1;
        known.last = now;
        Some(Record {
            namespace: if involved.namespace.is_empty() { "default" } else { &involved.namespace }.to_owned(),
            name: known.name.clone(),
            is_new: known.count == 1,
            count: known.count,
            first: known.first,
            last: now,
            message,
            component: component.to_owned(),
            event: event.clone(),
        })
    }

    fn passes(&mut self, subject: &Subject, now: Timestamp) -> bool {
        let full = Bucket { tokens: BURST, filled: now, last: now, named: None };
        let bucket = self.buckets.entry(subject.clone()).or_insert(full);
        bucket.last = now;
        let refills = u32::try_from(now.since(bucket.filled).as_secs() / REFILL.as_secs()).unwrap_or(BURST);
        if refills > 0 {
            bucket.tokens = bucket.tokens.saturating_add(refills).min(BURST);
            bucket.filled = now;
        }
        let passes = bucket.tokens > 0;
        bucket.tokens = bucket.tokens.saturating_sub(1);
        passes
    }

    /// Whether there were too many different messages like this one.
    fn combined(&mut self, subject: &Subject, event: &Event, warning: bool, now: Timestamp) -> bool {
        let fresh = || Similar { messages: BTreeSet::new(), last: now };
        let similar = self.similar.entry((subject.clone(), event.reason, warning)).or_insert_with(fresh);
        if now.since(similar.last) > MEMORY {
            similar.messages.clear();
        }
        similar.last = now;
        if similar.messages.contains(&event.message) {
            return false;
        }
        if similar.messages.len() >= DISTINCT {
            return true;
        }
        similar.messages.insert(event.message.clone());
        false
    }

    fn forget(&mut self) {
        forget_oldest(&mut self.similar, |similar| similar.last);
        forget_oldest(&mut self.known, |known| known.last);
        forget_oldest(&mut self.buckets, |bucket| bucket.last);
    }
}

/// Deletes the Events nothing was added to for an hour.
pub fn expire(events: &[Value], now: Timestamp) -> Vec<Action> {
    let text = |event: &Value, pointer: &str| {
        event.pointer(pointer).and_then(Value::as_str).unwrap_or_default().to_owned()
    };
    let times = ["/series/lastObservedTime", "/lastTimestamp", "/eventTime", "/metadata/creationTimestamp"];
    let last = |event: &Value| {
        times.iter().filter_map(|pointer| text(event, pointer).parse::<Timestamp>().ok()).max()
    };
    let old = events.iter().filter(|event| last(event).is_some_and(|last| now.since(last) >= KEPT));
    let delete = |event: &Value| Action::Delete {
        resource: EVENTS,
        namespace: text(event, "/metadata/namespace"),
        name: text(event, "/metadata/name"),
        uid: Some(text(event, "/metadata/uid")),
        resource_version: Some(text(event, "/metadata/resourceVersion")),
        propagation: None,
        grace: None,
        announce: None,
    };
    old.map(delete).collect()
}

fn forget_oldest<K, V>(map: &mut HashMap<K, V>, last: impl Fn(&V) -> Timestamp) {
    if map.len() <= REMEMBERED {
        return;
    }
    let mut times: Vec<Timestamp> = map.values().map(&last).collect();
    times.sort_unstable();
    let Some(median) = times.get(times.len() / 2).copied() else { return };
    map.retain(|_, value| last(value) > median);
}

/// The name of the Event of a time about something. Clients show Events of one second in the order of their names,
/// which is that of the times.
pub fn name(subject: &str, at: Timestamp) -> String {
    let nanos = at.as_second().unsigned_abs() * 1_000_000_000 + u64::from(at.subsec_nanos().unsigned_abs());
    let subject: String = subject.chars().take(NAME).collect();
    format!("{subject}.{nanos:016x}")
}

impl Record {
    /// The whole object, for its creation.
    pub fn object(&self) -> Value {
        let involved = &self.event.involved;
        let mut reference = json!({"kind": involved.kind, "apiVersion": involved.api_version,
            "name": involved.name, "uid": involved.uid});
        for (field, value) in
            [("namespace", &involved.namespace), ("resourceVersion", &involved.resource_version)]
        {
            if !value.is_empty() {
                reference[field] = json!(value);
            }
        }
        let kind = if self.event.kind == EventType::Warning { "Warning" } else { "Normal" };
        json!({"apiVersion": "v1", "kind": "Event",
            "metadata": {"name": self.name, "namespace": self.namespace},
            "involvedObject": reference, "reason": self.event.reason, "message": self.message, "type": kind,
            "source": {"component": self.component}, "reportingComponent": self.component,
            "reportingInstance": "", "count": self.count,
            "firstTimestamp": self.first, "lastTimestamp": self.last})
    }

    /// The merge patch that counts one more.
    pub fn patch(&self) -> Value {
        json!({"count": self.count, "lastTimestamp": self.last, "message": self.message})
    }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::action::ObjectRef;

    fn event(message: &str) -> Event {
        let involved = ObjectRef { kind: "Pod".into(), name: "p".into(), ..ObjectRef::default() };
        Event::normal(involved, "Happened", message)
    }

    #[test]
    fn repetitions_are_counted_in_one_object() {
        let mut all = Correlator::default();
        let at = |s| Timestamp::from_unix(s, 0);
        let first = all.note("c", &event("a"), at(1)).unwrap();
        let again = all.note("c", &event("a"), at(2)).unwrap();
        assert!(first.is_new && !again.is_new);
        assert_eq!((again.count, &again.name, again.namespace.as_str()), (2, &first.name, "default"));
        assert_eq!(again.object()["firstTimestamp"], "1970-01-01T00:00:01Z");
        let other = all.note("c", &event("b"), at(2)).unwrap();
        assert!(other.is_new && other.name > first.name);
        let third = all.note("c", &event("c"), at(2)).unwrap();
        assert!(third.name > other.name, "{} after {}", third.name, other.name);
    }

    #[test]
    fn old_ones_expire() {
        let events = [
            json!({"metadata": {"name": "old", "creationTimestamp": "2026-01-01T00:00:00Z"}}),
            json!({"metadata": {"name": "renewed", "creationTimestamp": "2026-01-01T00:00:00Z"},
                "lastTimestamp": "2026-01-01T00:30:00Z"}),
            json!({"metadata": {"name": "odd"}}),
        ];
        let names = |now: &str| -> Vec<String> {
            let actions = expire(&events, now.parse().unwrap());
            let name = |action| match action {
                Action::Delete { name, .. } => name,
                other => format!("{other:?}"),
            };
            actions.into_iter().map(name).collect()
        };
        assert_eq!(names("2026-01-01T00:59:59Z"), [""; 0]);
        assert_eq!(names("2026-01-01T01:00:00Z"), ["old"]);
        assert_eq!(names("2026-01-01T01:30:00Z"), ["old", "renewed"]);
    }

    #[test]
    fn many_similar_ones_become_one_and_a_flood_is_cut_off() {
        let mut all = Correlator::default();
        let now = Timestamp::from_unix(1000, 0);
        let texts: Vec<String> = (0..40).map(|n| n.to_string()).collect();
        let records: Vec<Option<Record>> = texts.iter().map(|t| all.note("c", &event(t), now)).collect();
        let created = records.iter().flatten().filter(|r| r.is_new).count();
        assert_eq!((created, records.iter().flatten().count()), (DISTINCT + 1, BURST as usize));
        let combined = records[12].as_ref().unwrap();
        assert_eq!((combined.count, combined.message.as_str()), (3, "(combined from similar events): 12"));
        assert!(all.note("c", &event("later"), now.plus(REFILL)).is_some());
    }
}
