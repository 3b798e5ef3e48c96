//! Anything with a `scale` subresource: found by kind, read and set.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
};

use serde_json::{Value, json};
use wharf_client::{Client, Gvr, PatchKind, Result};
use wharf_scale::hpa::TargetRef;

use super::discovery::discover;

/// What has been found so far. Cheap to clone.
#[derive(Clone)]
pub(super) struct Targets {
    client: Client,
    kinds: Arc<Mutex<HashMap<(String, String), Gvr>>>,
}

/// A target as its scale says.
pub(super) struct Scale {
    pub(super) resource: Gvr,
    /// Uid of the target.
    pub(super) uid: String,
    /// Size asked for.
    pub(super) asked: i64,
    /// Size there is.
    pub(super) there: i64,
    /// Label selector of its pods.
    pub(super) selector: String,
}

impl Targets {
    pub(super) fn new(client: Client) -> Self {
        Self { client, kinds: Arc::default() }
    }

    async fn resource(&self, target: &TargetRef) -> Result<Gvr, String> {
        let (group, kind) = target.group_kind();
        let (group, kind) = (group.to_owned(), kind.to_owned());
        let known = |kinds: &Mutex<HashMap<_, Gvr>>| {
            kinds.lock().unwrap_or_else(PoisonError::into_inner).get(&(group.clone(), kind.clone())).cloned()
        };
        if let Some(resource) = known(&self.kinds) {
            return Ok(resource);
        }
        let found = discover(&self.client).await.map_err(|e| e.to_string())?;
        for entry in found {
            let id = (entry.resource.group.to_string(), entry.kind.clone());
            self.kinds.lock().unwrap_or_else(PoisonError::into_inner).insert(id, entry.resource);
        }
        known(&self.kinds).ok_or_else(|| format!("there is no kind {kind} in the group {group:?}"))
    }

    /// Reads a target's scale.
    pub(super) async fn read(&self, namespace: &str, target: &TargetRef) -> Result<Scale, String> {
        let resource = self.resource(target).await?;
        let path = format!(
            "/apis/{}/{}/namespaces/{namespace}/{}/{}/scale",
            resource.group, resource.version, resource.resource, target.name
        );
        let scale = self.client.call(http::Method::GET, &path, "", None).await.map_err(|e| e.to_string())?;
        let number = |pointer: &str| scale.pointer(pointer).and_then(Value::as_i64).unwrap_or(0);
        let selector = scale.pointer("/status/selector").and_then(Value::as_str).unwrap_or_default();
        let uid = scale.pointer("/metadata/uid").and_then(Value::as_str).unwrap_or_default();
        Ok(Scale {
            resource,
            uid: uid.to_owned(),
            asked: number("/spec/replicas"),
            there: number("/status/replicas"),
            selector: selector.to_owned(),
        })
    }

    /// Asks for a size.
    pub(super) async fn set(&self, namespace: &str, name: &str, resource: &Gvr, replicas: i64) -> Result<()> {
        let body = json!({"spec": {"replicas": replicas}});
        self.client.patch(resource, namespace, name, Some("scale"), PatchKind::Merge, &body).await.map(drop)
    }
}
