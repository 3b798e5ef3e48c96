//! The one watch that subscribers hear from.
//!
//! It resumes from the last revision it brought. When that has been compacted away meanwhile, all keys are read again
//! and held against what was known, so that subscribers hear of everything that is different.

use std::{collections::BTreeMap, sync::Arc, time::Duration};

use bytes::Bytes;
use tokio::sync::{Mutex, watch};
use wharf_state::{Change, Error, KeyValue, Revision, Subscriber};

use crate::{
    grpc::{Failure, Grpc, encode},
    pages::Pages,
    txn::{end_of, revision_of, signed, unsigned},
    v3::{Event, EventType, WatchCreateRequest, WatchRequest, WatchResponse},
};

/// How long it waits after a failure, at first and at the most.
const PAUSE: Duration = Duration::from_millis(50);
const LONGEST_PAUSE: Duration = Duration::from_secs(2);

/// What everybody shares who reads or waits.
pub(crate) struct Feed {
    grpc: Arc<Grpc>,
    prefix: Bytes,
    state: Mutex<State>,
    /// What subscribers have seen.
    seen: watch::Sender<Revision>,
    /// Whether there is anybody to feed.
    wanted: watch::Sender<bool>,
}

#[derive(Default)]
struct State {
    /// Each with the revision it was loaded at.
    subscribers: Vec<(Revision, Box<dyn Subscriber>)>,
    /// Keys with the revisions they were written by, as of what was seen.
    known: BTreeMap<Bytes, Revision>,
    /// What is known is as of this.
    revision: Revision,
}

/// Why a watch ended.
enum Ended {
    /// What comes next is gone.
    Compacted,
    Failed(Failure),
}

impl From<Failure> for Ended {
    fn from(failure: Failure) -> Self {
        Self::Failed(failure)
    }
}

impl Feed {
    pub(crate) fn new(grpc: Arc<Grpc>, prefix: Bytes) -> Arc<Self> {
        let (seen, wanted) = (watch::Sender::new(0), watch::Sender::new(false));
        Arc::new(Self { grpc, prefix, state: Mutex::default(), seen, wanted })
    }

    /// Loads everything into a subscriber and feeds it from there on.
    pub(crate) async fn subscribe(&self, mut subscriber: Box<dyn Subscriber>) -> Result<(), Error> {
        // Nothing is fed meanwhile, so that load and changes meet.
        let mut state = self.state.lock().await;
        let mut pages = Pages::new(Arc::clone(&self.grpc), self.prefix.clone());
        let mut known = BTreeMap::new();
        while let Some(keys) = pages.next().await.map_err(|failure| pages.failed(&failure))? {
            known.extend(keys.iter().map(|key| (key.key.clone(), key.revision)));
            subscriber.load(keys);
        }
        let revision = pages.revision();
        subscriber.loaded(revision);
        if state.subscribers.is_empty() {
            (state.known, state.revision) = (known, revision);
            self.seen.send_replace(revision);
        }
        state.subscribers.push((revision, subscriber));
        self.wanted.send_replace(true);
        Ok(())
    }

    /// Waits until subscribers have seen a revision; there may be none.
    pub(crate) async fn until_seen(&self, revision: Revision) {
        if *self.wanted.borrow() {
            // The sender lives as long as this does.
            let _ = self.seen.subscribe().wait_for(|seen| *seen >= revision).await;
        }
    }

    /// Watches until it is dropped.
    pub(crate) async fn run(self: Arc<Self>) {
        let _ = self.wanted.subscribe().wait_for(|wanted| *wanted).await;
        let (mut pause, mut told) = (PAUSE, false);
        let mut resume = self.state.lock().await.revision;
        loop {
            let before = resume;
            let failure = match self.watch(&mut resume).await {
                Ended::Failed(failure) if failure.is_compacted() => self.reload(&mut resume).await.err(),
                Ended::Failed(failure) => Some(failure),
                Ended::Compacted => self.reload(&mut resume).await.err(),
            };
            if failure.is_none() || resume > before {
                (pause, told) = (PAUSE, false);
            }
            let Some(failure) = failure else { continue };
            if !told {
                let place = self.grpc.place();
                tracing::warn!(place, error = failure.message, "the watch of the state broke; it is resumed");
                told = true;
            }
            tokio::time::sleep(pause).await;
            pause = (pause * 2).min(LONGEST_PAUSE);
        }
    }

    /// Takes in what a watch brings that begins after `resume`, which follows it.
    async fn watch(&self, resume: &mut Revision) -> Ended {
        match self.watch_on(resume).await {
            Ok(ended) | Err(ended) => ended,
        }
    }

    async fn watch_on(&self, resume: &mut Revision) -> Result<Ended, Ended> {
        let create = WatchCreateRequest {
            key: self.prefix.clone(),
            range_end: end_of(&self.prefix),
            start_revision: signed(*resume + 1),
            progress_notify: true,
            fragment: true,
        };
        let message = encode(&WatchRequest { create_request: Some(create) });
        let mut answer = self.grpc.open("/etcdserverpb.Watch/Watch", message, true).await?;
        let mut events = Vec::new();
        while let Some(response) = answer.next::<WatchResponse>().await? {
            if response.canceled {
                let message = format!("the watch was ended: {}", response.cancel_reason);
                let failed = Failure { code: None, unsent: false, message };
                return Ok(if response.compact_revision > 0 { Ended::Compacted } else { failed.into() });
            }
            events.extend(response.events);
            if response.fragment {
                continue;
            }
            if events.is_empty() && !response.created {
                // So far there was nothing, which spares a resumption what is compacted meanwhile.
                *resume = (*resume).max(revision_of(response.header.as_ref()));
            } else if !events.is_empty() {
                let mut state = self.state.lock().await;
                let changes = changes(&self.prefix, std::mem::take(&mut events), state.revision);
                state.apply(&changes);
                *resume = (*resume).max(state.revision);
                self.seen.send_replace(state.revision);
            }
        }
        Ok(Failure { code: None, unsent: false, message: "the watch ended".to_owned() }.into())
    }

    /// Reads everything again, and tells what is different.
    async fn reload(&self, resume: &mut Revision) -> Result<(), Failure> {
        let mut pages = Pages::new(Arc::clone(&self.grpc), self.prefix.clone());
        let mut keys = Vec::new();
        while let Some(page) = pages.next().await? {
            keys.extend(page);
        }
        let mut state = self.state.lock().await;
        let changes = difference(&state.known, keys, pages.revision());
        tracing::warn!(changes = changes.len(), "the state's history was compacted; it was read again");
        state.apply(&changes);
        state.revision = state.revision.max(pages.revision());
        *resume = state.revision;
        self.seen.send_replace(state.revision);
        Ok(())
    }
}

impl State {
    fn apply(&mut self, changes: &[Change]) {
        let Some(last) = changes.last() else { return };
        self.revision = last.revision;
        for change in changes {
            match &change.value {
                Some(_) => drop(self.known.insert(change.key.clone(), change.revision)),
                None => drop(self.known.remove(&change.key)),
            }
        }
        for (since, subscriber) in &mut self.subscribers {
            let start = changes.partition_point(|change| change.revision <= *since);
            if let Some(new) = changes.get(start..).filter(|new| !new.is_empty()) {
                subscriber.apply(new);
            }
        }
    }
}

/// Events as changes, those of them that are new.
fn changes(prefix: &[u8], events: Vec<Event>, after: Revision) -> Vec<Change> {
    let change = |event: Event| {
        let is_put = event.r#type == i32::from(EventType::Put);
        let kv = event.kv?;
        let key = kv.key.starts_with(prefix).then(|| kv.key.slice(prefix.len()..))?;
        Some(Change { key, value: is_put.then_some(kv.value), revision: unsigned(kv.mod_revision) })
    };
    events.into_iter().filter_map(change).filter(|change| change.revision > after).collect()
}

/// What happened between what is known and `keys`, which are all there are at `revision`. When a key went, nobody can
/// say; it is gone at `revision`.
fn difference(known: &BTreeMap<Bytes, Revision>, keys: Vec<KeyValue>, revision: Revision) -> Vec<Change> {
    let present: BTreeMap<Bytes, Revision> = keys.iter().map(|key| (key.key.clone(), key.revision)).collect();
    let mut changes: Vec<Change> = keys
        .into_iter()
        .filter(|key| known.get(&key.key) != Some(&key.revision))
        .map(|key| Change { key: key.key, value: Some(key.value), revision: key.revision })
        .collect();
    changes.sort_by_key(|change| change.revision);
    let gone = known.keys().filter(|key| !present.contains_key(*key));
    changes.extend(gone.map(|key| Change { key: key.clone(), value: None, revision }));
    changes
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn the_difference_is_in_order_of_revision() {
        let key = |name: &'static str, revision| KeyValue {
            key: Bytes::from_static(name.as_bytes()),
            value: Bytes::from_static(b"new"),
            revision,
        };
        let known = [("a", 1), ("b", 2), ("c", 3)];
        let known = known.map(|(name, revision)| (Bytes::from_static(name.as_bytes()), revision)).into();
        let changes = difference(&known, vec![key("a", 9), key("b", 2), key("d", 5)], 12);
        let told: Vec<_> =
            changes.iter().map(|change| (&change.key[..], change.value.is_some(), change.revision)).collect();
        assert_eq!(told, [(&b"d"[..], true, 5), (b"a", true, 9), (b"c", false, 12)]);
    }
}
