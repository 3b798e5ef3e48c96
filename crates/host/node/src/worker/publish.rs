//! A pod's status on its way to the API: the newest, in order, tried again until it is there.

use std::{sync::Arc, time::Duration};

use serde_json::{Value, json};
use tokio::{sync::watch, task::JoinHandle, time::sleep};
use wharf_base::{Clock, SystemClock, Timestamp};
use wharf_client::{Error, Object, Result, action::PODS};

use crate::{agent::Shared, model::Pod, status, step::PodState};

/// Writes one pod's status.
pub(super) struct Publisher {
    shared: Arc<Shared>,
    newest: watch::Sender<Value>,
    /// Conditions as last told, with their times.
    conditions: Vec<Value>,
    muted: bool,
    task: JoinHandle<()>,
}

/// The statuses of one pod in the API.
struct Place {
    shared: Arc<Shared>,
    path: String,
    uid: String,
}

impl Publisher {
    pub(super) fn start(shared: Arc<Shared>, pod: &Pod, object: &Object) -> Self {
        let (newest, mut statuses) = watch::channel(Value::Null);
        let conditions = object["status"]["conditions"].as_array().cloned().unwrap_or_default();
        let place = Place::of(&shared, pod);
        let task = tokio::spawn(async move {
            while statuses.changed().await.is_ok() {
                let mut pause = Duration::from_millis(20);
                loop {
                    let status = statuses.borrow_and_update().clone();
                    match place.write(&status).await {
                        Ok(()) => break,
                        Err(error) if !error.is_temporary() => {
                            tracing::debug!(%error, path = place.path, "a pod's status is not written");
                            break;
                        }
                        Err(_) => sleep(pause).await,
                    }
                    pause = (pause * 2).min(Duration::from_secs(5));
                }
            }
        });
        Self { shared, newest, conditions, muted: false, task }
    }

    /// Says nothing more: the pod is not the agent's to speak of.
    pub(super) fn mute(&mut self, muted: bool) {
        self.muted = muted;
    }

    fn status(&mut self, pod: &Pod, state: &PodState, now: Timestamp) -> Value {
        let host = self.shared.address.to_string();
        let status = status::of(pod, state, &host, &self.conditions, now);
        self.conditions = status["conditions"].as_array().cloned().unwrap_or_default();
        status
    }

    /// Tells the API how the pod is, if that is not what it was told last.
    pub(super) fn publish(&mut self, pod: &Pod, state: &PodState, now: Timestamp) {
        if self.muted {
            return;
        }
        let status = self.status(pod, state, now);
        self.newest.send_if_modified(|known| {
            let new = *known != status;
            *known = status;
            new
        });
    }

    /// The last status, written before this returns.
    pub(super) async fn last_word(&mut self, pod: &Pod, state: &PodState) {
        self.task.abort();
        if self.muted {
            return;
        }
        let status = self.status(pod, state, SystemClock.now());
        if let Err(error) = Place::of(&self.shared, pod).write(&status).await {
            tracing::debug!(%error, pod = %pod.metadata.name, "a pod's last status is not written");
        }
    }
}

impl Drop for Publisher {
    fn drop(&mut self) {
        self.task.abort();
    }
}

impl Place {
    fn of(shared: &Arc<Shared>, pod: &Pod) -> Self {
        let metadata = &pod.metadata;
        Self {
            shared: Arc::clone(shared),
            path: format!("/api/v1/namespaces/{}/pods/{}/status", metadata.namespace, metadata.name),
            uid: metadata.uid.clone(),
        }
    }

    /// Merged by type and key, so that conditions others own stay; refused when the name is another pod's by now.
    async fn write(&self, status: &Value) -> Result<()> {
        let mut status = status.clone();
        for addresses in ["podIPs", "hostIPs"] {
            // Merged, the address of an earlier sandbox would stay, and traffic would go there.
            if let Some(list) = status.get_mut(addresses).and_then(Value::as_array_mut) {
                list.insert(0, json!({"$patch": "replace"}));
            }
        }
        if let Some(conditions) = status.get_mut("conditions").and_then(Value::as_array_mut) {
            for kind in status::PASSING {
                if !conditions.iter().any(|condition| condition["type"] == kind) {
                    conditions.push(json!({"type": kind, "$patch": "delete"}));
                }
            }
        }
        let body = json!({"metadata": {"uid": self.uid}, "status": status});
        let kind = "application/strategic-merge-patch+json";
        let client = &self.shared.config.client;
        client.call(http::Method::PATCH, &self.path, kind, Some(&body)).await.map(drop)
    }
}

/// Deletes a pod's object for good; tries until the API has heard it.
pub(super) async fn delete(shared: &Shared, pod: &Pod) {
    let metadata = &pod.metadata;
    let options = json!({"apiVersion": "v1", "kind": "DeleteOptions", "gracePeriodSeconds": 0,
        "preconditions": {"uid": metadata.uid}});
    let mut pause = Duration::from_millis(20);
    loop {
        match shared.config.client.delete(&PODS, &metadata.namespace, &metadata.name, &options).await {
            Ok(_) => return,
            // Gone, or another pod has its name.
            Err(Error::Api { code: 404 | 409, .. }) => return,
            Err(error) => {
                tracing::warn!(%error, pod = %metadata.name, "a pod cannot be deleted; trying again")
            }
        }
        sleep(pause).await;
        pause = (pause * 2).min(Duration::from_secs(5));
    }
}
