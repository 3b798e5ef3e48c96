//! Records Events, apart from the loops: nobody waits for one.

use std::sync::Arc;

use futures_util::future::join_all;
use serde_json::Value;
use tokio::sync::mpsc;
use wharf_base::{Clock, Timestamp};
use wharf_client::{Client, PatchKind, action::EVENTS};
use wharf_control::{
    Event,
    events::{Correlator, Record},
};

/// Events waiting to be written; more are dropped.
const WAITING: usize = 8192;
/// Written at the same time.
const AT_ONCE: usize = 32;

/// Takes events. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Recorder {
    sender: mpsc::Sender<Noted>,
    clock: Arc<dyn Clock>,
}

/// Who recorded what, when.
type Noted = (&'static str, Event, Timestamp);

impl Recorder {
    /// A recorder, and the task that writes.
    pub(crate) fn new(client: Client, clock: Arc<dyn Clock>) -> (Self, impl Future<Output = ()> + Send) {
        let (sender, receiver) = mpsc::channel(WAITING);
        (Self { sender, clock }, write_all(client, receiver))
    }

    /// The time events are recorded at.
    pub(crate) fn now(&self) -> Timestamp {
        self.clock.now()
    }

    /// Records an event of a component.
    pub(crate) fn record(&self, component: &'static str, event: Event) {
        self.record_at(component, event, self.clock.now());
    }

    /// Records an event of a component that happened at a time.
    pub(crate) fn record_at(&self, component: &'static str, event: Event, at: Timestamp) {
        if self.sender.try_send((component, event, at)).is_err() {
            tracing::debug!(component, "event dropped: too many wait to be written");
        }
    }
}

async fn write_all(client: Client, mut receiver: mpsc::Receiver<Noted>) {
    let mut correlator = Correlator::default();
    let mut taken = Vec::with_capacity(AT_ONCE);
    while receiver.recv_many(&mut taken, AT_ONCE).await > 0 {
        let mut records: Vec<Record> = Vec::with_capacity(taken.len());
        for (component, event, at) in taken.drain(..) {
            let Some(record) = correlator.note(component, &event, at) else { continue };
            // Two of one object in the same round become one write.
            match records.iter_mut().find(|r| r.name == record.name && r.namespace == record.namespace) {
                Some(earlier) => {
                    let is_new = earlier.is_new;
                    *earlier = record;
                    earlier.is_new = is_new;
                }
                None => records.push(record),
            }
        }
        join_all(records.iter().map(|record| write(&client, record))).await;
    }
}

async fn write(client: &Client, record: &Record) {
    let create = async || client.create(&EVENTS, &record.namespace, &record.object()).await;
    let result = if record.is_new {
        create().await
    } else {
        let patch: Value = record.patch();
        let patched =
            client.patch(&EVENTS, &record.namespace, &record.name, None, PatchKind::Merge, &patch).await;
        match patched {
            Err(error) if error.is_not_found() => create().await,
            result => result,
        }
    };
    if let Err(error) = result {
        tracing::debug!(name = %record.name, %error, "event not written");
    }
}
