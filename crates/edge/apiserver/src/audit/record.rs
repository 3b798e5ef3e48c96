//! What is known of a request by now, and the events made of it.

use std::collections::BTreeMap;

use http::{HeaderMap, Request, StatusCode, header};
use serde_json::{Value, json};
use wharf_api::meta;
use wharf_base::Timestamp;
use wharf_http::{Body, PeerAddress};

use super::{
    ID,
    policy::{Level, Stage, Wanted},
};
use crate::{ApiServer, Identity, request::RequestInfo, verbs::new_uid};

/// Characters of a client's own id at the most.
const MAX_ID: usize = 64;

/// What is known of a request by now.
#[derive(Debug)]
pub(crate) struct Record {
    pub(super) wanted: Wanted,
    pub(super) id: String,
    pub(super) is_long: bool,
    event: Value,
    request_object: Option<Value>,
    response_object: Option<Value>,
    pub(super) status: Option<Value>,
    annotations: BTreeMap<String, String>,
}

impl Record {
    pub(super) fn new(
        server: &ApiServer,
        request: &Request<Body>,
        info: &RequestInfo,
        who: Option<&Identity>,
        wanted: Wanted,
    ) -> Self {
        let headers = request.headers();
        let given = text(headers, ID).filter(|id| !id.is_empty());
        let id = given.map_or_else(new_uid, |id| id.chars().take(MAX_ID).collect());
        let mut event = json!({"kind": "Event", "apiVersion": "audit.k8s.io/v1", "level": wanted.level.name(),
            "auditID": id, "stage": "", "requestURI": request.uri().to_string(), "verb": info.verb,
            "user": who.map_or_else(|| json!({}), Identity::to_json),
            "requestReceivedTimestamp": server.now().to_micro()});
        let sources = sources(request);
        if !sources.is_empty() {
            event["sourceIPs"] = sources.into();
        }
        if let Some(agent) = text(headers, header::USER_AGENT.as_str()) {
            event["userAgent"] = agent.chars().take(1024).collect::<String>().into();
        }
        if !info.resource.is_empty() {
            let named = [
                ("resource", &info.resource),
                ("namespace", &info.namespace),
                ("name", &info.name),
                ("apiGroup", &info.group),
                ("apiVersion", &info.version),
                ("subresource", &info.subresource),
            ];
            let given = named.into_iter().filter(|(_, value)| !value.is_empty());
            event["objectRef"] = given.map(|(name, value)| (name.to_owned(), json!(value))).collect();
        }
        let (annotations, is_long) = (BTreeMap::new(), info.verb == "watch" || info.is_long());
        Self {
            wanted,
            id,
            is_long,
            event,
            request_object: None,
            response_object: None,
            status: None,
            annotations,
        }
    }

    /// The object a request brings; the first that is noted counts.
    pub(crate) fn request_object(&mut self, object: &Value) {
        for (field, name) in [
            ("name", "name"),
            ("namespace", "namespace"),
            ("uid", "uid"),
            ("resourceVersion", "resourceVersion"),
        ] {
            let value = meta::text(object, name);
            if let Some(reference) = self.event.get_mut("objectRef").and_then(Value::as_object_mut)
                && !value.is_empty()
                && !reference.contains_key(field)
            {
                reference.insert(field.to_owned(), value.into());
            }
        }
        if self.wanted.level >= Level::Request && self.request_object.is_none() {
            self.request_object = Some(self.shown(object.clone()));
        }
    }

    /// What an answer holds, before it is made a table or another format.
    pub(crate) fn response_object(&mut self, object: impl FnOnce() -> Value) {
        if self.wanted.level >= Level::RequestResponse && self.response_object.is_none() {
            self.response_object = Some(self.shown(object()));
        }
    }

    /// A Status that is the answer.
    pub(crate) fn status(&mut self, status: &Value) {
        let mut own = status.clone();
        if let Value::Object(map) = &mut own {
            map.retain(|name, _| !matches!(name.as_str(), "kind" | "apiVersion"));
        }
        self.status = Some(own);
        self.response_object(|| status.clone());
    }

    /// Whoever the request acts as.
    pub(crate) fn impersonated(&mut self, other: &Identity) {
        self.event["impersonatedUser"] = other.to_json();
    }

    /// An annotation; the first under a key counts.
    pub(crate) fn annotate(&mut self, key: &str, value: impl Into<String>) {
        self.annotations.entry(key.to_owned()).or_insert_with(|| value.into());
    }

    fn shown(&self, mut object: Value) -> Value {
        let strip = |object: &mut Value| {
            if let Some(metadata) = object.get_mut("metadata").and_then(Value::as_object_mut) {
                metadata.remove("managedFields");
            }
        };
        if self.wanted.omit_managed_fields {
            strip(&mut object);
            object.get_mut("items").and_then(Value::as_array_mut).into_iter().flatten().for_each(strip);
        }
        object
    }

    /// Leaves the objects out, and says so.
    pub(super) fn truncate(&mut self) {
        (self.request_object, self.response_object) = (None, None);
        self.annotate("audit.k8s.io/truncated", "true");
    }

    /// The event of a stage as a line.
    pub(super) fn line(&self, stage: Stage, code: Option<StatusCode>, now: Timestamp) -> String {
        let mut event = self.event.clone();
        event["stage"] = stage.name().into();
        event["stageTimestamp"] = now.to_micro().into();
        if let Some(code) = code {
            let mut status = self.status.clone().unwrap_or_else(|| json!({}));
            status["metadata"] = json!({});
            status["code"] = code.as_u16().into();
            event["responseStatus"] = status;
        }
        if stage != Stage::RequestReceived {
            for (name, object) in
                [("requestObject", &self.request_object), ("responseObject", &self.response_object)]
            {
                if let Some(object) = object {
                    event[name] = object.clone();
                }
            }
        }
        if !self.annotations.is_empty() {
            event["annotations"] = json!(self.annotations);
        }
        event.to_string()
    }
}

fn text<'a>(headers: &'a HeaderMap, name: &str) -> Option<&'a str> {
    headers.get(name)?.to_str().ok()
}

/// Where a request comes from, the client first.
fn sources(request: &Request<Body>) -> Vec<String> {
    let headers = request.headers();
    let addresses = |name: &str| {
        let listed = text(headers, name).unwrap_or_default().split(',').map(str::trim);
        listed.filter(|a| a.parse::<std::net::IpAddr>().is_ok()).map(str::to_owned).collect::<Vec<_>>()
    };
    let mut all = addresses("x-forwarded-for");
    all.extend(addresses("x-real-ip"));
    all.extend(request.extensions().get::<PeerAddress>().map(|peer| peer.0.ip().to_string()));
    all.truncate(16);
    all.dedup();
    all
}
