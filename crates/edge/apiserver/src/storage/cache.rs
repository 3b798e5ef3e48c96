//! The watch cache of one resource: all its objects in order, and the latest events in a ring.

use std::{
    collections::{HashMap, VecDeque},
    sync::{Arc, OnceLock, RwLock},
    time::{Duration, Instant},
};

use bytes::Bytes;
use imbl::OrdMap;
use tokio::sync::watch;

use wharf_state::Change;

use super::entry::Entry;

/// How long events are kept per resource, and the most of them by bytes of the objects they hold.
const RING_LIFE: Duration = Duration::from_secs(300);
const RING_BYTES: usize = 16 << 20;
/// Snapshots kept for lists read in pages, and for how long.
const SNAPSHOTS: usize = 64;
const SNAPSHOT_LIFE: Duration = Duration::from_secs(300);

/// What happened to an object.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum EventKind {
    Added,
    Modified,
    Deleted,
}

impl EventKind {
    pub(crate) const fn name(self) -> &'static str {
        match self {
            Self::Added => "ADDED",
            Self::Modified => "MODIFIED",
            Self::Deleted => "DELETED",
        }
    }
}

/// Objects by key.
type Entries = OrdMap<Arc<str>, Arc<Entry>>;

/// One change, with the object before and after; after a deletion the object as it was last.
#[derive(Debug)]
pub(crate) struct Event {
    pub revision: u64,
    pub deleted: bool,
    pub entry: Arc<Entry>,
    pub before: Option<Arc<Entry>>,
    at: Instant,
    frames: [OnceLock<Bytes>; 3],
}

impl Event {
    /// The JSON line of this event under a kind; made once, whoever watches.
    pub(crate) fn frame(&self, kind: EventKind) -> Bytes {
        self.frames[kind as usize].get_or_init(|| json_frame(kind, &self.entry.bytes)).clone()
    }
}

/// One line of a JSON watch.
pub(crate) fn json_frame(kind: EventKind, object: &[u8]) -> Bytes {
    let mut line = Vec::with_capacity(object.len() + 40);
    line.extend_from_slice(b"{\"type\":\"");
    line.extend_from_slice(kind.name().as_bytes());
    line.extend_from_slice(b"\",\"object\":");
    line.extend_from_slice(object);
    line.extend_from_slice(b"}\n");
    line.into()
}

/// All objects of a resource at one revision.
#[derive(Debug, Clone)]
pub(crate) struct Snapshot {
    pub revision: u64,
    pub entries: Entries,
}

impl Snapshot {
    /// Entries of a namespace (all when empty), after a key, in order.
    pub(crate) fn range<'a>(
        &'a self,
        namespace: &str,
        after: Option<&str>,
    ) -> impl Iterator<Item = &'a Arc<Entry>> + use<'a> {
        let prefix = if namespace.is_empty() { String::new() } else { format!("{namespace}/") };
        let start: Arc<str> = after.unwrap_or(&prefix).into();
        let skip = after.map(str::to_owned);
        self.entries
            .range(start..)
            .map(|(_, entry)| entry)
            .skip_while(move |entry| skip.as_deref() == Some(&entry.key))
            .take_while(move |entry| entry.key.starts_with(&prefix))
    }
}

struct Inner {
    entries: Entries,
    /// Everything up to here is in `entries`.
    revision: u64,
    ring: VecDeque<Arc<Event>>,
    ring_bytes: usize,
    /// Events after this revision are all in the ring.
    complete_since: u64,
    snapshots: HashMap<u64, (Instant, Entries)>,
}

impl Inner {
    /// One change; the revision is that of all of them, and nobody sees it before the lock is given back.
    fn change(&mut self, key: &str, new: Option<Arc<Entry>>, revision: u64, at: Instant) {
        let before = match &new {
            Some(entry) => self.entries.insert(Arc::clone(&entry.key), Arc::clone(entry)),
            None => self.entries.remove(key),
        };
        let entry = match (&new, &before) {
            (Some(entry), _) => Arc::clone(entry),
            (None, Some(gone)) => Arc::new(gone.at_revision(revision)),
            (None, None) => return,
        };
        self.ring_bytes += entry.bytes.len();
        let frames = [const { OnceLock::new() }; 3];
        self.ring.push_back(Arc::new(Event { revision, deleted: new.is_none(), entry, before, at, frames }));
        self.revision = revision;
    }

    /// Drops what is too old or too much; who has not seen it by now lists again.
    fn forget(&mut self, now: Instant) {
        let too_old = |event: &Event| now.saturating_duration_since(event.at) > RING_LIFE;
        while self.ring_bytes > RING_BYTES || self.ring.front().is_some_and(|oldest| too_old(oldest)) {
            let Some(oldest) = self.ring.pop_front() else { break };
            self.ring_bytes -= oldest.entry.bytes.len();
            self.complete_since = oldest.revision;
        }
    }
}

pub(crate) struct Cache {
    qualified: String,
    inner: RwLock<Inner>,
    revision: watch::Sender<u64>,
}

impl Cache {
    pub(crate) fn new(qualified: &str, revision: u64) -> Self {
        Self {
            qualified: qualified.to_owned(),
            inner: RwLock::new(Inner {
                entries: OrdMap::new(),
                revision,
                ring: VecDeque::new(),
                ring_bytes: 0,
                complete_since: revision,
                snapshots: HashMap::new(),
            }),
            revision: watch::Sender::new(revision),
        }
    }

    fn read(&self) -> std::sync::RwLockReadGuard<'_, Inner> {
        self.inner.read().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    fn write(&self) -> std::sync::RwLockWriteGuard<'_, Inner> {
        self.inner.write().unwrap_or_else(std::sync::PoisonError::into_inner)
    }

    /// Takes in an object at start-up: no event.
    pub(crate) fn load(&self, key: &str, stored: &[u8], revision: u64) {
        match Entry::new(&self.qualified, key, stored, revision) {
            Some(entry) => {
                self.write().entries.insert(Arc::clone(&entry.key), Arc::new(entry));
            }
            None => tracing::error!(resource = self.qualified, key, "stored object cannot be read; left out"),
        }
    }

    /// All objects were taken in, as they are at `revision`.
    pub(crate) fn loaded(&self, revision: u64) {
        let mut inner = self.write();
        (inner.revision, inner.complete_since) = (revision, revision);
        drop(inner);
        self.revision.send_replace(revision);
    }

    /// Takes in changes in their order, all of them at one moment: several may be of one revision.
    pub(crate) fn apply(&self, changes: &[(&str, &Change)]) {
        let made = |(key, change): &(&str, &Change)| {
            let value = change.value.as_ref()?;
            Entry::new(&self.qualified, key, value, change.revision).map(Arc::new)
        };
        // Objects are read before the lock is taken.
        let made: Vec<Option<Arc<Entry>>> = changes.iter().map(made).collect();
        let mut inner = self.write();
        let at = Instant::now();
        for ((key, change), new) in changes.iter().zip(made) {
            inner.change(key, new, change.revision, at);
        }
        inner.forget(at);
    }

    /// Tells watchers that everything up to `revision` is in.
    pub(crate) fn advance(&self, revision: u64) {
        let changed = {
            let mut inner = self.write();
            let changed = inner.ring.back().is_some_and(|e| e.revision > *self.revision.borrow());
            inner.revision = inner.revision.max(revision);
            inner.forget(Instant::now());
            changed
        };
        if changed {
            self.revision.send_replace(revision);
        }
    }

    pub(crate) fn get(&self, key: &str) -> Option<Arc<Entry>> {
        self.read().entries.get(key).cloned()
    }

    /// All objects now.
    pub(crate) fn snapshot(&self) -> Snapshot {
        let inner = self.read();
        Snapshot { revision: inner.revision, entries: inner.entries.clone() }
    }

    /// Keeps a snapshot so that later pages of a list can be read from it; one that is kept lives no longer for being
    /// read again.
    pub(crate) fn keep(&self, snapshot: &Snapshot) {
        let mut inner = self.write();
        let now = Instant::now();
        inner.snapshots.retain(|_, (since, _)| now.duration_since(*since) < SNAPSHOT_LIFE);
        if inner.snapshots.contains_key(&snapshot.revision) {
            return;
        }
        if inner.snapshots.len() >= SNAPSHOTS {
            let oldest = inner.snapshots.iter().min_by_key(|(_, (since, _))| *since).map(|(r, _)| *r);
            oldest.and_then(|r| inner.snapshots.remove(&r));
        }
        inner.snapshots.insert(snapshot.revision, (now, snapshot.entries.clone()));
    }

    /// A snapshot kept before, or the present one if it is of that revision.
    pub(crate) fn kept(&self, revision: u64) -> Option<Snapshot> {
        let inner = self.read();
        if inner.revision == revision {
            return Some(Snapshot { revision, entries: inner.entries.clone() });
        }
        let (since, entries) = inner.snapshots.get(&revision)?;
        (since.elapsed() < SNAPSHOT_LIFE).then(|| Snapshot { revision, entries: entries.clone() })
    }

    /// Wakes when there are new events.
    pub(crate) fn subscribe(&self) -> watch::Receiver<u64> {
        self.revision.subscribe()
    }

    /// The events after a revision and the revision reached, or `None` when some are gone.
    pub(crate) fn events_after(&self, revision: u64) -> Option<(Vec<Arc<Event>>, u64)> {
        let inner = self.read();
        if revision < inner.complete_since {
            return None;
        }
        let start = inner.ring.partition_point(|e| e.revision <= revision);
        Some((inner.ring.range(start..).cloned().collect(), inner.revision.max(revision)))
    }
}
