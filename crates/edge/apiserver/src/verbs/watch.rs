//! watch: the events of a resource as a stream.

use std::{collections::VecDeque, sync::Arc, time::Duration};

use bytes::Bytes;
use http::{HeaderMap, Request, Response};
use serde_json::{Value, json};
use tokio::{sync::watch, time::Instant};
use wharf_api::{
    codec::{Format, encode_envelope, encode_json, encode_message, encode_watch_event},
    resource::Resource,
    schema::builtin,
    status::Status,
};
use wharf_http::{Body, remote::reader, stream};

use super::read::{Selection, too_large};
use crate::{
    ApiServer, Context,
    respond::{self, Accept, IncludeObject, View},
    storage::{Cache, Entry, Event, EventKind},
    streams,
};

/// How often an idle watch is told the revision it may resume from.
const BOOKMARK_EVERY: Duration = Duration::from_secs(60);
/// How long a watch lasts when the client does not say: 30 to 60 minutes, spread so that clients do
/// not all come back at once.
const DEFAULT_TIMEOUT: Duration = Duration::from_secs(1800);

/// A watch as the request wants it: as a body, or as the messages of a WebSocket.
pub(super) async fn watch_as(
    server: &Arc<ApiServer>,
    context: &Context,
    resource: &Arc<Resource>,
    request: Request<Body>,
) -> Result<Response<Body>, Status> {
    let accepted = reader::lines(&request).map_err(streams::refused)?;
    if accepted.is_some() && Accept::of(request.headers(), Some(resource))?.format == Format::Protobuf {
        return Err(Status::new(
            406,
            "NotAcceptable",
            "a watch over WebSocket is served as application/json only",
        ));
    }
    let response = watch(server, context, resource, request.headers()).await?;
    Ok(match accepted {
        Some((accepted, framing)) => streams::as_messages(request, accepted, response.into_body(), framing),
        None => response,
    })
}

async fn watch(
    server: &Arc<ApiServer>,
    context: &Context,
    resource: &Arc<Resource>,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let info = &context.info;
    let accept = Accept::of(headers, Some(resource))?;
    let initial = info.flag("sendInitialEvents");
    if initial && info.param("resourceVersionMatch") != Some("NotOlderThan") {
        return Err(Status::new(
            422,
            "Invalid",
            "resourceVersionMatch: Forbidden: sendInitialEvents requires setting resourceVersionMatch to NotOlderThan",
        ));
    }
    let since = match info.param("resourceVersion") {
        None | Some("" | "0") => None,
        Some(text) => Some(text.parse::<u64>().map_err(|_| {
            Status::bad_request(format!("Invalid value: {text:?}: resourceVersion is not a number"))
        })?),
    };
    let present = server.storage.revision();
    if let Some(asked) = since.filter(|asked| *asked > present) {
        return Err(too_large(asked, present));
    }
    let cache = server.storage.cache(&resource.storage_key());
    let name = Some(info.name.clone()).filter(|n| !n.is_empty());
    let spread = Duration::from_secs(u64::from(server.now().subsec_nanos().unsigned_abs()) % 1800);
    let timeout = info.number::<u64>("timeoutSeconds")?.map_or(DEFAULT_TIMEOUT + spread, Duration::from_secs);
    let mut watcher = Watcher {
        wake: cache.subscribe(),
        encode: Encoder {
            server: Arc::clone(server),
            resource: Arc::clone(resource),
            accept,
            include: IncludeObject::of(info.param("includeObject"))?,
            columns_sent: false,
        },
        selection: Selection::of(info, resource)?,
        namespace: if resource.namespaced { info.namespace.clone() } else { String::new() },
        name,
        revision: since.unwrap_or(present),
        bookmarks: info.flag("allowWatchBookmarks"),
        next_bookmark: Instant::now() + BOOKMARK_EVERY,
        deadline: Instant::now() + timeout,
        pending: VecDeque::new(),
        ended: false,
        cache,
    };
    if since.is_none() || initial {
        watcher.start_from_present(initial).await?;
    }
    let content_type = match accept.format {
        Format::Protobuf => "application/vnd.kubernetes.protobuf;stream=watch",
        _ => "application/json",
    };
    let chunks = futures_util::stream::unfold(watcher, |mut watcher| async move {
        watcher.next().await.map(|chunk| (Ok(chunk), watcher))
    });
    let mut response = respond::response(200, content_type, Bytes::new());
    *response.body_mut() = stream(chunks);
    Ok(response)
}

struct Watcher {
    cache: Arc<Cache>,
    wake: watch::Receiver<u64>,
    encode: Encoder,
    selection: Selection,
    namespace: String,
    name: Option<String>,
    /// Everything up to here has been sent.
    revision: u64,
    bookmarks: bool,
    next_bookmark: Instant,
    deadline: Instant,
    pending: VecDeque<Bytes>,
    ended: bool,
}

impl Watcher {
    /// Sends what is there now as additions; with `bookmark`, then the end of the initial events.
    async fn start_from_present(&mut self, bookmark: bool) -> Result<(), Status> {
        let snapshot = self.cache.snapshot();
        self.revision = snapshot.revision;
        let mut entries: Vec<Arc<Entry>> = snapshot.range(&self.namespace, None).cloned().collect();
        if self.selection.needs_form() {
            entries = self.encode.server.served(&self.encode.resource, entries).await?;
        }
        entries.retain(|entry| self.selects(entry));
        for entry in self.encode.server.served(&self.encode.resource, entries).await? {
            self.pending.extend(self.encode.entry(EventKind::Added, &entry));
        }
        if bookmark {
            self.pending.extend(self.encode.bookmark(self.revision, true));
        }
        Ok(())
    }

    /// Whether it is where the watch looks, in whatever form.
    fn covers(&self, entry: &Entry) -> bool {
        (self.namespace.is_empty() || entry.namespace() == self.namespace)
            && self.name.as_deref().is_none_or(|name| entry.name() == name)
    }

    fn selects(&self, entry: &Entry) -> bool {
        self.covers(entry) && self.selection.selects(entry)
    }

    async fn next(&mut self) -> Option<Bytes> {
        loop {
            if let Some(chunk) = self.pending.pop_front() {
                return Some(chunk);
            }
            if self.ended {
                return None;
            }
            match self.cache.events_after(self.revision) {
                None => self.end_expired(),
                Some((events, reached)) => {
                    self.revision = reached;
                    for event in &events {
                        if let Err(status) = self.take(event).await {
                            self.pending.extend(self.encode.error(&status));
                            self.ended = true;
                            break;
                        }
                    }
                    if self.pending.is_empty() && !self.wait().await {
                        return None;
                    }
                }
            }
        }
    }

    /// Waits for events; `false` when the watch is over.
    async fn wait(&mut self) -> bool {
        // An event between the look into the ring and here has set the flag: no wake-up is lost.
        let bookmark = if self.bookmarks { self.next_bookmark } else { self.deadline };
        tokio::select! {
            woken = self.wake.changed() => woken.is_ok(),
            () = tokio::time::sleep_until(bookmark.min(self.deadline)) => {
                if Instant::now() >= self.deadline {
                    return false;
                }
                self.next_bookmark = Instant::now() + BOOKMARK_EVERY;
                self.pending.extend(self.encode.bookmark(self.revision, false));
                true
            }
        }
    }

    async fn take(&mut self, event: &Event) -> Result<(), Status> {
        if !self.covers(&event.entry) {
            return Ok(());
        }
        let (server, resource) = (&self.encode.server, &self.encode.resource);
        let before = match &event.before {
            Some(before) => Some(server.served_one(resource, Arc::clone(before)).await?),
            None => None,
        };
        let entry = server.served_one(resource, Arc::clone(&event.entry)).await?;
        let was = before.as_ref().is_some_and(|before| self.selects(before));
        let is = !event.deleted && self.selects(&entry);
        let kind = match (was, is) {
            (false, true) => EventKind::Added,
            (true, true) => EventKind::Modified,
            (true, false) => EventKind::Deleted,
            (false, false) => return Ok(()),
        };
        let chunk = if event.deleted || is {
            self.encode.event(kind, event, &entry)
        } else {
            // It left the selection: clients get the object as it was, at the new revision.
            before.and_then(|before| self.encode.entry(kind, &before.at_revision(event.revision)))
        };
        self.pending.extend(chunk);
        Ok(())
    }

    fn end_expired(&mut self) {
        let status = Status::expired(format!("too old resource version: {}", self.revision));
        self.pending.extend(self.encode.error(&status));
        self.ended = true;
    }
}

/// Events in the form the client asked for.
struct Encoder {
    server: Arc<ApiServer>,
    resource: Arc<Resource>,
    accept: Accept,
    include: IncludeObject,
    columns_sent: bool,
}

impl Encoder {
    /// An event whose object is served as `entry`; watchers who get it as it is stored share the bytes.
    fn event(&mut self, kind: EventKind, event: &Event, entry: &Arc<Entry>) -> Option<Bytes> {
        let shared = self.accept.view == View::Object
            && self.accept.format == Format::Json
            && Arc::ptr_eq(entry, &event.entry);
        if shared { Some(event.frame(kind)) } else { self.entry(kind, entry) }
    }

    fn entry(&mut self, kind: EventKind, entry: &Entry) -> Option<Bytes> {
        match (self.accept.view, self.accept.format) {
            (View::Object, Format::Protobuf) => {
                Some(encode_watch_event(kind.name(), &entry.enveloped(&self.resource)).into())
            }
            (View::Object, _) => Some(crate::storage::json_frame(kind, &entry.bytes)),
            (View::Metadata, _) => {
                let object = respond::metadata_of(&entry.object());
                Some(crate::storage::json_frame(kind, &encode_json(&object)))
            }
            (View::Table, _) => {
                let object = entry.object();
                let row = respond::row(&self.resource, &object, self.server.now(), self.include);
                let meta = json!({"resourceVersion": entry.revision.to_string()});
                let table = respond::table_of(&self.resource, vec![row], meta, !self.columns_sent);
                self.columns_sent = true;
                Some(crate::storage::json_frame(kind, &encode_json(&table)))
            }
        }
    }

    fn bookmark(&self, revision: u64, initial_end: bool) -> Option<Bytes> {
        let mut metadata = json!({"resourceVersion": revision.to_string()});
        if initial_end {
            metadata["annotations"] = json!({"k8s.io/initial-events-end": "true"});
        }
        let gvk = &self.resource.gvk;
        let object = match self.accept.view {
            View::Metadata => {
                json!({"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata})
            }
            View::Table => {
                let row = json!({"cells": [], "object": {"kind": "PartialObjectMetadata", "apiVersion": "meta.k8s.io/v1", "metadata": metadata}});
                json!({"kind": "Table", "apiVersion": "meta.k8s.io/v1", "metadata": {"resourceVersion": revision.to_string()}, "columnDefinitions": [], "rows": [row]})
            }
            View::Object => json!({"kind": gvk.kind, "apiVersion": gvk.api_version(), "metadata": metadata}),
        };
        Some(self.frame("BOOKMARK", &object))
    }

    fn error(&self, status: &Status) -> Option<Bytes> {
        Some(self.frame("ERROR", &status.to_json()))
    }

    fn frame(&self, kind: &str, object: &Value) -> Bytes {
        if self.accept.format != Format::Protobuf {
            return format!("{}\n", json!({"type": kind, "object": object})).into();
        }
        let text = |name: &str| object[name].as_str().unwrap_or_default();
        let ty = match text("kind") {
            "Status" => builtin().named("apimachinery.pkg.apis.meta.v1.Status"),
            _ => Some(self.resource.ty.clone()),
        };
        let message = ty.map(|ty| encode_message(object, &ty)).unwrap_or_default();
        encode_watch_event(kind, &encode_envelope(text("apiVersion"), text("kind"), &message)).into()
    }
}
