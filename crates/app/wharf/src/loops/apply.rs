//! One action of a decision as a request, and how its effect is known to have been seen.

use std::time::Duration;

use serde_json::{Value, json};
use wharf_client::{Client, Error, Gvr, Result};
use wharf_control::{Action, Event, action::ObjectRef};

use super::cache::Informers;

/// How long a write may take to come back through a watch.
const SEEN_WITHIN: Duration = Duration::from_secs(10);

/// A write that went through.
pub(crate) struct Written {
    resource: Gvr,
    key: String,
    effect: Effect,
}

enum Effect {
    /// A new object, at this revision.
    Created(u64),
    /// The object has this revision, or is gone with it: its last finalizer may have been taken.
    Changed(u64),
    /// The object with this uid is gone or on its way.
    Deleted(String),
}

/// What became of an action: the write to wait for, and the event to record.
#[derive(Default)]
pub(crate) struct Done {
    pub(crate) written: Option<Written>,
    pub(crate) event: Option<Event>,
}

/// Sends one action. Not found is success for everything but a create.
pub(crate) async fn perform(client: &Client, action: Action) -> Result<Done> {
    match action {
        Action::Create { resource, namespace, object, announce } => {
            let stored = client.create(&resource, &namespace, &object).await?;
            let name = stored.pointer("/metadata/name").and_then(Value::as_str).unwrap_or_default();
            let named = |mut event: Box<Event>| {
                event.message = event.message.replace("{name}", name);
                *event
            };
            let event = announce.map(named);
            Ok(Done { written: Some(written(resource, &stored, Effect::Created)), event })
        }
        Action::Delete { resource, namespace, name, uid, resource_version, propagation, grace, announce } => {
            let options = delete_options(
                uid.as_deref(),
                resource_version.as_deref(),
                propagation.map(|p| p.as_str()),
                grace,
            );
            match client.delete(&resource, &namespace, &name, &options).await {
                Err(error) if error.is_not_found() => return Ok(Done::default()),
                result => result?,
            };
            let key = format!("{namespace}/{name}");
            let written = uid.map(|uid| Written { resource, key, effect: Effect::Deleted(uid) });
            Ok(Done { written, event: announce.map(|event| *event) })
        }
        Action::DeleteCollection { resource, namespace } => {
            client.delete_collection(&resource, &namespace).await?;
            Ok(Done::default())
        }
        Action::UpdateStatus { resource, namespace, name, patch } => {
            let merge = wharf_client::PatchKind::Merge;
            changed(client.patch(&resource, &namespace, &name, Some("status"), merge, &patch).await, resource)
        }
        Action::Patch { resource, namespace, name, kind, body } => {
            changed(client.patch(&resource, &namespace, &name, None, kind, &body).await, resource)
        }
        Action::Update { resource, subresource, object } => {
            changed(client.update(&resource, subresource, &object).await, resource)
        }
        Action::Event(event) => Ok(Done { written: None, event: Some(event) }),
        Action::CheckOwner { owner: ObjectRef { kind, name, .. } } => Err(Error::Transport(format!(
            "owner {kind} {name} cannot be checked here: only the garbage collector asks for that"
        ))),
    }
}

fn changed(result: Result<Value>, resource: Gvr) -> Result<Done> {
    match result {
        Err(error) if error.is_not_found() => Ok(Done::default()),
        Err(error) => Err(error),
        Ok(stored) => Ok(Done { written: Some(written(resource, &stored, Effect::Changed)), event: None }),
    }
}

fn written(resource: Gvr, stored: &Value, effect: fn(u64) -> Effect) -> Written {
    Written { resource, key: wharf_client::object_key(stored), effect: effect(revision(stored)) }
}

fn revision(object: &Value) -> u64 {
    let text = object.pointer("/metadata/resourceVersion").and_then(Value::as_str);
    text.and_then(|text| text.parse().ok()).unwrap_or(0)
}

fn delete_options(
    uid: Option<&str>,
    resource_version: Option<&str>,
    propagation: Option<&str>,
    grace: Option<i64>,
) -> Value {
    let mut options = json!({"apiVersion": "v1", "kind": "DeleteOptions"});
    for (field, value) in [("uid", uid), ("resourceVersion", resource_version)] {
        if let Some(value) = value {
            options["preconditions"][field] = json!(value);
        }
    }
    if let Some(policy) = propagation {
        options["propagationPolicy"] = json!(policy);
    }
    if let Some(grace) = grace {
        options["gracePeriodSeconds"] = json!(grace);
    }
    options
}

impl Written {
    /// Waits until the watch of the resource, if there is one, has shown this write.
    pub(crate) async fn seen(self, informers: &Informers) {
        let Some(informer) = informers.started(&self.resource) else { return };
        let (key, effect) = (&self.key, &self.effect);
        let seen = informer.until(|informer| match effect {
            Effect::Created(at) => informer.revision() >= *at,
            Effect::Changed(at) => {
                informer.revision() >= *at || informer.get(key).is_none_or(|object| revision(&object) >= *at)
            }
            Effect::Deleted(uid) => informer.get(key).is_none_or(|object| {
                object.pointer("/metadata/uid").and_then(Value::as_str) != Some(uid.as_str())
                    || object.pointer("/metadata/deletionTimestamp").is_some()
            }),
        });
        if tokio::time::timeout(SEEN_WITHIN, seen).await.is_err() {
            tracing::warn!(resource = %self.resource.resource, %key, "a write did not come back through the watch in time");
        }
    }
}
