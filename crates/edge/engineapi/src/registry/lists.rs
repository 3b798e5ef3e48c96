//! What there is: repositories, tags, and what refers to a manifest.

use std::{
    collections::{BTreeSet, HashMap},
    sync::{Arc, Mutex, PoisonError},
};

use http::{HeaderValue, header, request::Parts};
use serde::Deserialize;
use serde_json::{Map, Value, json};
use wharf_base::Digest;
use wharf_image::{Descriptor, Index, RefEntry, Store, media_type};

use super::{
    Answer, Registry,
    error::{Code, Failure},
    json_response, query,
    route::{Repository, Selector},
};

/// Entries of one page unless the client asks for fewer.
const PAGE: usize = 1000;
/// Manifests whose subject is remembered.
const MAX_REMEMBERED: usize = 10_000;

impl Registry {
    pub(super) async fn catalog(&self, head: &Parts) -> Answer {
        let names = self
            .with_store(|images| Ok(images.published()?.iter().map(wire_name).collect::<BTreeSet<_>>()))
            .await?;
        paged(names, head, "/v2/_catalog", |page| json!({ "repositories": page }))
    }

    pub(super) async fn tags(&self, repository: Repository, head: &Parts) -> Answer {
        let local = repository.local();
        let tags = self
            .with_store(move |images| {
                let mut entries = images.published()?;
                entries.retain(|e| e.reference.repository() == local);
                Ok((!entries.is_empty()).then(|| {
                    entries
                        .iter()
                        .filter_map(|e| e.reference.tag().map(str::to_owned))
                        .collect::<BTreeSet<_>>()
                }))
            })
            .await?;
        let unknown =
            || Failure::new(Code::NameUnknown, format!("there is no repository '{}'", repository.name));
        let path = format!("/v2/{}/tags/list", repository.name);
        paged(tags.ok_or_else(unknown)?, head, &path, |page| json!({"name": repository.name, "tags": page}))
    }

    pub(super) async fn referrers(&self, repository: Repository, subject: Digest, head: &Parts) -> Answer {
        let wanted = query(head, "artifactType");
        let cache = Arc::clone(&self.referrers);
        let mut found =
            self.with_store(move |images| referrers(images, &cache, &repository, &subject)).await?;
        if let Some(wanted) = &wanted {
            found.retain(|d| d.get("artifactType").and_then(Value::as_str) == Some(wanted));
        }
        let index = json!({ "schemaVersion": 2, "mediaType": media_type::OCI_INDEX, "manifests": found });
        let mut response = json_response(&index);
        let headers = response.headers_mut();
        headers.insert(header::CONTENT_TYPE, HeaderValue::from_static(media_type::OCI_INDEX));
        if wanted.is_some() {
            headers.insert("oci-filters-applied", HeaderValue::from_static("artifactType"));
        }
        Ok(response)
    }
}

/// A repository's name on the wire, which reads back as the same local name.
fn wire_name(entry: &RefEntry) -> String {
    let reference = &entry.reference;
    match (reference.domain(), reference.path().strip_prefix("library/")) {
        ("docker.io", Some(short)) if !short.contains('/') => short.to_owned(),
        ("docker.io", _) => reference.path().to_owned(),
        _ => reference.repository(),
    }
}

/// One page of sorted names, with a link to the next.
fn paged(names: BTreeSet<String>, head: &Parts, path: &str, body: impl FnOnce(&[String]) -> Value) -> Answer {
    let asked = match query(head, "n") {
        None => PAGE,
        Some(n) => n
            .parse()
            .map_err(|_| Failure::new(Code::PaginationInvalid, format!("n is '{n}', not a number")))?,
    };
    let most = asked.min(PAGE);
    let last = query(head, "last");
    let after = |name: &String| last.as_ref().is_none_or(|last| name > last);
    let mut page: Vec<String> = names.into_iter().filter(after).take(most + 1).collect();
    let more = page.len() > most;
    page.truncate(most);
    let mut response = json_response(&body(&page));
    if let Some(last) = page.last().filter(|_| more) {
        let query = form_urlencoded::Serializer::new(String::new())
            .append_pair("n", &most.to_string())
            .append_pair("last", last)
            .finish();
        let link = HeaderValue::from_str(&format!("<{path}?{query}>; rel=\"next\""));
        response.headers_mut().extend(link.ok().map(|link| (header::LINK, link)));
    }
    Ok(response)
}

/// Which manifest refers to which, remembered by the manifest's digest: content never changes.
#[derive(Default)]
pub(super) struct ReferrerCache {
    known: Mutex<HashMap<Digest, Option<(Digest, Value)>>>,
}

impl ReferrerCache {
    /// The subject of a manifest and its descriptor in the list of that subject's referrers.
    fn get(&self, images: &Store, target: &Descriptor) -> Option<(Digest, Value)> {
        let mut known = self.known.lock().unwrap_or_else(PoisonError::into_inner);
        if let Some(found) = known.get(&target.digest) {
            return found.clone();
        }
        let found = images.document(&target.digest).ok().and_then(|bytes| referrer(target, &bytes));
        if known.len() >= MAX_REMEMBERED {
            known.clear();
        }
        known.insert(target.digest, found.clone());
        found
    }
}

#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Referring {
    subject: Option<Descriptor>,
    artifact_type: Option<String>,
    config: Option<Descriptor>,
    #[serde(default)]
    annotations: Map<String, Value>,
}

fn referrer(target: &Descriptor, bytes: &[u8]) -> Option<(Digest, Value)> {
    let referring: Referring = serde_json::from_slice(bytes).ok()?;
    let subject = referring.subject?.digest;
    let mut entry = json!({ "mediaType": target.media_type, "digest": target.digest, "size": bytes.len() });
    let kind = referring.artifact_type.or(referring.config.map(|config| config.media_type));
    if let Some(kind) = kind {
        entry["artifactType"] = kind.into();
    }
    if !referring.annotations.is_empty() {
        entry["annotations"] = referring.annotations.into();
    }
    Some((subject, entry))
}

/// Everything in a repository that names `subject`, and what clients without this API noted under the
/// tag they use instead.
fn referrers(
    images: &Store,
    cache: &ReferrerCache,
    repository: &Repository,
    subject: &Digest,
) -> Result<Vec<Value>, Failure> {
    let local = repository.local();
    let mut found: Vec<Value> = Vec::new();
    let mut seen = BTreeSet::new();
    for entry in images.published()?.iter().filter(|e| e.reference.repository() == local) {
        if let Some((of, value)) = cache.get(images, &entry.target)
            && of == *subject
            && seen.insert(entry.target.digest)
        {
            found.push(value);
        }
    }
    let fallback = repository.reference(&Selector::Tag(subject.to_string().replace(':', "-")))?;
    let noted = images
        .lookup_published(&fallback)
        .and_then(|t| images.document(&t.digest))
        .and_then(|b| Index::parse(&b));
    for descriptor in noted.into_iter().flat_map(|index| index.manifests) {
        if seen.insert(descriptor.digest) {
            found.extend(serde_json::to_value(&descriptor).ok());
        }
    }
    Ok(found)
}
