//! get and list.

use std::sync::Arc;

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use http::{HeaderMap, Response};
use serde_json::{Value, json};
use wharf_api::{
    resource::Resource,
    selector::{FieldSelector, LabelSelector, selectable_fields, text_at},
    status::Status,
};
use wharf_http::Body;

use crate::{
    ApiServer, Context,
    request::RequestInfo,
    respond::{self, Accept, IncludeObject, ListMeta},
    storage::{Cache, Entry, Snapshot},
};

pub(super) async fn get(
    server: &ApiServer,
    context: &Context,
    resource: &Resource,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let accept = Accept::of(headers, Some(resource))?;
    let key = ApiServer::key(resource, &context.info);
    let entry = server
        .storage
        .get(&resource.storage_key(), &key)
        .ok_or_else(|| Status::not_found(&resource.qualified(), &context.info.name))?;
    let entry = server.served_one(resource, entry).await?;
    Ok(respond::object(200, accept, resource, &entry, server.now()))
}

/// Label and field selectors of a request.
pub(super) struct Selection {
    labels: LabelSelector,
    fields: FieldSelector,
    /// The fields are those of a custom resource, read from the objects themselves.
    custom: bool,
}

impl Selection {
    pub(super) fn of(info: &RequestInfo, resource: &Resource) -> Result<Self, Status> {
        let bad = |e: wharf_api::selector::SelectorError| Status::bad_request(e.to_string());
        let builtin = selectable_fields(&resource.stored.group, &resource.plural);
        let custom = resource.custom.as_ref().map(|c| c.selectable.as_slice()).unwrap_or_default();
        let own = |path: &str| custom.iter().any(|p| p.strip_prefix('.') == Some(path));
        let supported = |path: &str| {
            matches!(path, "metadata.name" | "metadata.namespace")
                || builtin.iter().any(|f| f.path == path)
                || own(path)
        };
        let labels = LabelSelector::parse(info.param("labelSelector").unwrap_or_default()).map_err(bad)?;
        let fields = FieldSelector::parse(info.param("fieldSelector").unwrap_or_default(), supported);
        let fields = fields.map_err(bad)?;
        let custom = fields.paths().any(own);
        Ok(Self { labels, fields, custom })
    }

    pub(super) fn is_everything(&self) -> bool {
        self.labels.is_everything() && self.fields.is_everything()
    }

    /// Whether objects have to be in the form they are served in to be selected.
    pub(super) fn needs_form(&self) -> bool {
        self.custom
    }

    pub(super) fn selects(&self, entry: &Entry) -> bool {
        if !self.custom {
            return self.is_everything() || entry.selected(&self.labels, &self.fields);
        }
        let object = entry.object();
        let read = |path: &str| text_at(&object, &format!("/{}", path.replace('.', "/"))).unwrap_or_default();
        let values: Vec<(&str, String)> = self.fields.paths().map(|path| (path, read(path))).collect();
        self.labels.matches(&entry.labels)
            && self.fields.matches(|path| values.iter().find(|(p, _)| *p == path).map(|(_, v)| v.as_str()))
    }
}

pub(super) async fn list(
    server: &ApiServer,
    context: &Context,
    resource: &Resource,
    headers: &HeaderMap,
) -> Result<Response<Body>, Status> {
    let info = &context.info;
    let accept = Accept::of(headers, Some(resource))?;
    let selection = Selection::of(info, resource)?;
    let include = IncludeObject::of(info.param("includeObject"))?;
    let limit = info.number::<usize>("limit")?.filter(|n| *n > 0);
    let cache = server.storage.cache(&resource.storage_key());
    let (snapshot, after) = snapshot_for(server, &cache, info)?;

    let namespace = if resource.namespaced { info.namespace.as_str() } else { "" };
    let in_range = snapshot.range(namespace, after.as_deref()).cloned();
    let in_range: Box<dyn Iterator<Item = Arc<Entry>> + Send> = match selection.needs_form() {
        true => Box::new(server.served(resource, in_range.collect()).await?.into_iter()),
        false => Box::new(in_range),
    };
    let mut matching = in_range.filter(|entry| selection.selects(entry));
    let entries: Vec<_> = matching.by_ref().take(limit.unwrap_or(usize::MAX)).collect();
    let mut meta = ListMeta { revision: snapshot.revision, next: None, remaining: None };
    if let (Some(_), Some(last)) = (limit, entries.last()) {
        let left = matching.count();
        if left > 0 {
            cache.keep(&snapshot);
            meta.next = Some(continue_token(snapshot.revision, &last.key));
            // With a selector the number is not told, as upstream.
            meta.remaining = selection.is_everything().then_some(left);
        }
    }
    let entries = server.served(resource, entries).await?;
    Ok(respond::list(accept, resource, &entries, &meta, server.now(), include))
}

fn continue_token(revision: u64, after: &str) -> String {
    URL_SAFE_NO_PAD.encode(json!({"v": "meta.k8s.io/v1", "rv": revision, "start": after}).to_string())
}

fn read_token(token: &str) -> Option<(u64, String)> {
    let token: Value = serde_json::from_slice(&URL_SAFE_NO_PAD.decode(token).ok()?).ok()?;
    Some((token["rv"].as_u64()?, token["start"].as_str()?.to_owned()))
}

/// The state a list reads from: the present, one asked for by revision, or that of an earlier page.
fn snapshot_for(
    server: &ApiServer,
    cache: &Arc<Cache>,
    info: &RequestInfo,
) -> Result<(Snapshot, Option<String>), Status> {
    let version = info.param("resourceVersion").filter(|v| !v.is_empty());
    let matching = info.param("resourceVersionMatch").filter(|v| !v.is_empty());
    if let Some(token) = info.param("continue").filter(|t| !t.is_empty()) {
        if version.is_some_and(|v| v != "0") {
            return Err(Status::bad_request(
                "specifying resource version is not allowed when using continue",
            ));
        }
        let (revision, after) =
            read_token(token).ok_or_else(|| Status::bad_request("continue key is not valid"))?;
        let snapshot = cache.kept(revision).ok_or_else(|| expired_page(cache.snapshot().revision, &after))?;
        return Ok((snapshot, Some(after)));
    }
    let asked = match version {
        None => None,
        Some(text) => Some(text.parse::<u64>().map_err(|_| {
            Status::bad_request(format!(
                "Invalid value: {text:?}: strconv.ParseUint: parsing {text:?}: invalid syntax"
            ))
        })?),
    };
    match (matching, asked) {
        (Some(_), None) => {
            Err(Status::bad_request("resourceVersionMatch is forbidden unless resourceVersion is provided"))
        }
        (Some("Exact"), Some(0)) => {
            Err(Status::bad_request("resourceVersionMatch \"exact\" is forbidden for resourceVersion \"0\""))
        }
        (Some("Exact"), Some(revision)) => cache
            .kept(revision)
            .map(|snapshot| (snapshot, None))
            .ok_or_else(|| Status::expired(format!("The resourceVersion {revision} is no longer available"))),
        (None | Some("NotOlderThan"), asked) => {
            let present = server.storage.revision();
            match asked {
                Some(revision) if revision > present => Err(too_large(revision, present)),
                _ => Ok((cache.snapshot(), None)),
            }
        }
        (Some(other), _) => Err(Status::bad_request(format!(
            "resourceVersionMatch: Unsupported value: {other:?}: supported values: \"Exact\", \"NotOlderThan\""
        ))),
    }
}

/// A revision the server has not reached: the client asked another server before.
pub(super) fn too_large(asked: u64, present: u64) -> Status {
    let mut status =
        Status::new(504, "Timeout", format!("Too large resource version: {asked}, current: {present}"));
    status.details = json!({"causes": [{"reason": "ResourceVersionTooLarge", "message": "Too large resource version"}], "retryAfterSeconds": 1});
    status
}

fn expired_page(present: u64, after: &str) -> Status {
    let mut status = Status::expired(
        "The provided continue parameter is too old to display a consistent list result. You can start a new list without the continue parameter, or use the continue token in this response to retrieve the remainder of the results. Continuing with the provided token results in an inconsistent list - objects that were created, modified, or deleted between the time the first chunk was returned and now may show up in the list.",
    );
    status.continue_token = Some(continue_token(present, after));
    status
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn a_list_whose_pages_are_gone_says_where_it_goes_on() {
        let told = expired_page(7, "n/b").to_json();
        let token = told["metadata"]["continue"].as_str().unwrap();
        assert_eq!(read_token(token), Some((7, "n/b".to_owned())));
    }
}
