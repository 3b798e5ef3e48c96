//! Events of pods and of the node: repeated ones are counted on the first.

use std::collections::HashMap;

use serde_json::{Value, json};
use tokio::sync::mpsc;
use wharf_base::{Clock, SystemClock, Timestamp};
use wharf_client::{Client, Gvr, PatchKind};
use wharf_control::Meta;

const EVENTS: Gvr = Gvr::fixed("", "v1", "events");
/// Events waiting to be written; more are dropped, since they must not hold up a pod.
const WAITING: usize = 1024;
/// Events whose repetitions are counted.
const REMEMBERED: usize = 2048;

/// Ordinary or not.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Level {
    Normal,
    Warning,
}

struct Note {
    at: Timestamp,
    involved: Value,
    level: Level,
    reason: String,
    message: String,
}

/// Writes events in the background. Cheap to clone.
#[derive(Clone)]
pub(crate) struct Events {
    sender: mpsc::Sender<Note>,
}

impl Events {
    pub(crate) fn start(client: Client, node: &str) -> Self {
        let (sender, mut notes) = mpsc::channel::<Note>(WAITING);
        let node = node.to_owned();
        tokio::spawn(async move {
            let mut known = HashMap::new();
            while let Some(note) = notes.recv().await {
                if let Err(error) = write(&client, &node, &mut known, note).await {
                    tracing::debug!(%error, "an event was not written");
                }
            }
        });
        Self { sender }
    }

    fn note(&self, involved: Value, level: Level, reason: &str, message: String) {
        let note = Note { at: SystemClock.now(), involved, level, reason: reason.to_owned(), message };
        if self.sender.try_send(note).is_err() {
            tracing::debug!("too many events wait to be written; one is dropped");
        }
    }

    /// About a pod, or about one of its containers.
    pub(crate) fn pod(
        &self,
        pod: &Meta,
        container: Option<&str>,
        level: Level,
        reason: &str,
        message: impl Into<String>,
    ) {
        let mut involved = json!({"apiVersion": "v1", "kind": "Pod", "namespace": pod.namespace, "name": pod.name,
            "uid": pod.uid, "resourceVersion": pod.resource_version});
        if let Some(container) = container {
            involved["fieldPath"] = format!("spec.containers{{{container}}}").into();
        }
        self.note(involved, level, reason, message.into());
    }

    /// About the node.
    pub(crate) fn node(&self, name: &str, level: Level, reason: &str, message: impl Into<String>) {
        let involved = json!({"apiVersion": "v1", "kind": "Node", "name": name, "uid": name});
        self.note(involved, level, reason, message.into());
    }
}

async fn write(
    client: &Client,
    node: &str,
    known: &mut HashMap<String, (String, u64)>,
    note: Note,
) -> wharf_client::Result<()> {
    let namespace = match note.involved["namespace"].as_str() {
        Some(namespace) if !namespace.is_empty() => namespace.to_owned(),
        _ => "default".to_owned(),
    };
    let key =
        format!("{} {} {} {}", note.involved["uid"], note.involved["fieldPath"], note.reason, note.message);
    let now = note.at.to_string();
    if let Some((name, count)) = known.get_mut(&key) {
        *count += 1;
        let body = json!({"count": count, "lastTimestamp": now});
        match client.patch(&EVENTS, &namespace, name, None, PatchKind::Merge, &body).await {
            // It may have been cleared away meanwhile.
            Err(error) if error.is_not_found() => {}
            other => return other.map(drop),
        }
    }
    let name = wharf_control::events::name(note.involved["name"].as_str().unwrap_or("node"), note.at);
    let level = if note.level == Level::Normal { "Normal" } else { "Warning" };
    let event = json!({"apiVersion": "v1", "kind": "Event", "metadata": {"name": name, "namespace": namespace},
        "involvedObject": note.involved, "reason": note.reason, "message": note.message, "type": level, "count": 1,
        "firstTimestamp": now, "lastTimestamp": now, "eventTime": null,
        "source": {"component": "kubelet", "host": node}, "reportingComponent": "kubelet", "reportingInstance": node});
    client.create(&EVENTS, &namespace, &event).await?;
    if known.len() >= REMEMBERED {
        known.clear();
    }
    known.insert(key, (name, 1));
    Ok(())
}
