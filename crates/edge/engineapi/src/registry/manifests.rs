//! Manifests: by tag and by digest, as the bytes that came.

use http::{HeaderMap, HeaderValue, Response, StatusCode, header, request::Parts};
use serde::Deserialize;
use wharf_base::{Algorithm, Digest};
use wharf_http::{Body, BodyTooLarge, full};
use wharf_image::{Descriptor, Error, Index, Manifest, Platform, Reference, Store, media_type};

use super::{
    Answer, Registry, bare,
    error::{Code, Failure},
    route::{Repository, Selector},
};

/// The largest manifest accepted.
const MAX_MANIFEST: usize = 4 << 20;

/// The manifests a store can make something of.
const KNOWN: [&str; 4] =
    [media_type::OCI_MANIFEST, media_type::OCI_INDEX, media_type::DOCKER_MANIFEST, media_type::DOCKER_LIST];

impl Registry {
    pub(super) async fn get_manifest(
        &self,
        repository: Repository,
        selector: Selector,
        head: &Parts,
    ) -> Answer {
        let accepted = Accepted::read(&head.headers);
        let name = repository.reference(&selector)?;
        let found = self
            .with_store(move |images| {
                let target = find(images, &repository, &selector)?;
                let bytes = images.document(&target.digest)?;
                choose(images, accepted, target, bytes)
            })
            .await;
        let (target, bytes) = match (found, &self.through) {
            (Err(missing), Some(through)) if missing.code == Code::ManifestUnknown => {
                let (target, bytes) = through.manifest(&self.images, &name).await?;
                (target, bytes.into())
            }
            (found, _) => found?,
        };
        let mut response = Response::new(full(bytes));
        let headers = response.headers_mut();
        let digest = target.digest.to_string();
        headers.extend(
            [(header::CONTENT_TYPE, target.media_type.as_str()), (header::ETAG, &format!("\"{digest}\""))]
                .into_iter()
                .filter_map(|(name, value)| Some((name, HeaderValue::from_str(value).ok()?))),
        );
        headers
            .extend(digest.parse().ok().map(|v| (http::HeaderName::from_static("docker-content-digest"), v)));
        headers.insert(header::CONTENT_LENGTH, target.size.into());
        Ok(response)
    }

    pub(super) async fn put_manifest(
        &self,
        repository: Repository,
        selector: Selector,
        head: &Parts,
        body: Body,
    ) -> Answer {
        let given = head.headers.get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let given = given.map(|text| text.split(';').next().unwrap_or_default().trim().to_owned());
        let bytes = wharf_http::collect(body, MAX_MANIFEST).await.map_err(|e| {
            match e.downcast_ref::<BodyTooLarge>() {
                Some(_) => Failure::new(
                    Code::ManifestTooLarge,
                    format!("the manifest is larger than {MAX_MANIFEST} bytes"),
                ),
                None => Failure::new(Code::ManifestInvalid, format!("the manifest broke off: {e}")),
            }
        })?;
        let name = repository.reference(&selector)?;
        let subject = check(&bytes, given.as_deref())?.subject.map(|d| d.digest);
        let digest = self
            .with_store(move |images| {
                let algorithm = match &selector {
                    Selector::Digest(wanted) => wanted.algorithm(),
                    Selector::Tag(_) => Algorithm::default(),
                };
                let digest = Digest::by(algorithm, &bytes);
                if let Selector::Digest(wanted) = selector
                    && wanted != digest
                {
                    let why = format!("the manifest has digest {digest} instead of {wanted}");
                    return Err(Failure::new(Code::DigestInvalid, why));
                }
                store_manifest(images, &name, &bytes, given.as_deref(), algorithm)
            })
            .await?;
        let location = format!("/v2/{}/manifests/{digest}", repository.name);
        let digest = digest.to_string();
        let mut headers = vec![
            ("location", location.as_str()),
            ("docker-content-digest", &digest),
            ("content-length", "0"),
        ];
        let subject = subject.map(|digest| digest.to_string());
        headers.extend(subject.as_deref().map(|digest| ("oci-subject", digest)));
        Ok(bare(StatusCode::CREATED, &headers))
    }

    pub(super) async fn delete_manifest(&self, repository: Repository, selector: Selector) -> Answer {
        self.with_store(move |images| {
            let gone = match &selector {
                Selector::Tag(_) => images.unpublish(&repository.reference(&selector)?)?.is_some(),
                Selector::Digest(digest) => images.unpublish_digest(&repository.local(), digest)? > 0,
            };
            if gone { Ok(()) } else { Err(unknown(&repository, &selector)) }
        })
        .await?;
        Ok(bare(StatusCode::ACCEPTED, &[("content-length", "0")]))
    }
}

fn unknown(repository: &Repository, selector: &Selector) -> Failure {
    let what = match selector {
        Selector::Tag(tag) => format!("tag '{tag}'"),
        Selector::Digest(digest) => format!("manifest {digest}"),
    };
    Failure::new(Code::ManifestUnknown, format!("repository '{}' has no {what}", repository.name))
}

/// The manifest a repository has under a tag or digest; by digest also what an index of it lists.
fn find(images: &Store, repository: &Repository, selector: &Selector) -> Result<Descriptor, Failure> {
    match images.lookup_published(&repository.reference(selector)?) {
        Ok(target) => return Ok(target),
        Err(Error::NoImage { .. }) => {}
        Err(e) => return Err(e.into()),
    }
    if let Selector::Digest(digest) = selector {
        let local = repository.local();
        for entry in images.published()?.iter().filter(|e| e.reference.repository() == local) {
            if !media_type::is_index(&entry.target.media_type) {
                continue;
            }
            let index = images.document(&entry.target.digest).and_then(|bytes| Index::parse(&bytes));
            let child = index.ok().and_then(|i| i.manifests.into_iter().find(|d| d.digest == *digest));
            if let Some(child) = child.filter(|d| images.blobs().size(&d.digest).is_some()) {
                return Ok(child);
            }
        }
    }
    Err(unknown(repository, selector))
}

/// The media types a client takes.
struct Accepted(Option<Vec<String>>);

impl Accepted {
    fn read(headers: &HeaderMap) -> Self {
        let types: Vec<String> = headers
            .get_all(header::ACCEPT)
            .iter()
            .filter_map(|value| value.to_str().ok())
            .flat_map(|value| value.split(','))
            .map(|one| one.split(';').next().unwrap_or_default().trim().to_ascii_lowercase())
            .filter(|one| !one.is_empty())
            .collect();
        let any = types.is_empty() || types.iter().any(|t| t == "*/*" || t == "application/*");
        Self((!any).then_some(types))
    }

    fn takes(&self, media_type: &str) -> bool {
        self.0.as_ref().is_none_or(|types| types.iter().any(|t| t == media_type))
    }
}

/// What is sent for `target`: itself, or for a client that knows no indexes the manifest for this platform.
fn choose(
    images: &Store,
    accepted: Accepted,
    target: Descriptor,
    bytes: Vec<u8>,
) -> Result<(Descriptor, Vec<u8>), Failure> {
    if accepted.takes(&target.media_type) {
        return Ok((Descriptor { size: bytes.len() as u64, ..target }, bytes));
    }
    if media_type::is_index(&target.media_type) {
        let index = Index::parse(&bytes)?;
        let chosen = index.choose(&target.digest, &Platform::host()).ok().cloned();
        if let Some(chosen) = chosen.filter(|d| accepted.takes(&d.media_type)) {
            let bytes = images.document(&chosen.digest)?;
            return Ok((Descriptor { size: bytes.len() as u64, ..chosen }, bytes));
        }
    }
    let why = format!("the manifest is of type {}, which the request does not accept", target.media_type);
    Err(Failure::new(Code::ManifestUnknown, why))
}

/// What every manifest and index may say of itself.
#[derive(Deserialize)]
#[serde(rename_all = "camelCase")]
struct Head {
    media_type: Option<String>,
    subject: Option<Descriptor>,
}

/// A manifest of a known kind that says nothing contradictory, or why it is none.
fn check(bytes: &[u8], given: Option<&str>) -> Result<Head, Failure> {
    let invalid = |why: String| Failure::new(Code::ManifestInvalid, why);
    let head: Head = serde_json::from_slice(bytes).map_err(|e| invalid(format!("cannot be read: {e}")))?;
    if let (Some(inside), Some(given)) = (head.media_type.as_deref(), given)
        && inside != given
    {
        return Err(invalid(format!("the manifest says it is {inside} but was sent as {given}")));
    }
    Ok(head)
}

/// The type of a manifest: as sent, or as it says itself, or by what it has.
fn type_of(head: &Head, given: Option<&str>, bytes: &[u8]) -> Result<String, Failure> {
    let guess = || match Index::parse(bytes) {
        Ok(index) if !index.manifests.is_empty() => media_type::OCI_INDEX,
        _ => media_type::OCI_MANIFEST,
    };
    let kind = given.or(head.media_type.as_deref()).unwrap_or_else(guess);
    if KNOWN.contains(&kind) {
        return Ok(kind.to_owned());
    }
    let why = format!("manifests of type '{kind}' are not supported; those of {} are", KNOWN.join(", "));
    Err(Failure::new(Code::ManifestInvalid, why))
}

/// Stores a manifest whose content is complete and names it.
fn store_manifest(
    images: &Store,
    name: &Reference,
    bytes: &[u8],
    given: Option<&str>,
    algorithm: Algorithm,
) -> Result<Digest, Failure> {
    let kind = type_of(&check(bytes, given)?, given, bytes)?;
    let invalid = |e: Error| Failure::new(Code::ManifestInvalid, e.to_string());
    let needed = if media_type::is_index(&kind) {
        Index::parse(bytes).map_err(invalid)?.manifests
    } else {
        let manifest = Manifest::parse(bytes).map_err(invalid)?;
        [vec![manifest.config], manifest.layers].concat()
    };
    for descriptor in &needed {
        // Layers that live elsewhere by their nature are not the registry's to have.
        if descriptor.other.get("urls").is_some_and(|urls| urls.as_array().is_some_and(|u| !u.is_empty())) {
            continue;
        }
        if !images.blobs().touch(&descriptor.digest) {
            let why = format!("the manifest needs {}, which was not pushed", descriptor.digest);
            return Err(Failure::new(Code::ManifestBlobUnknown, why));
        }
        let size = images.blobs().size(&descriptor.digest);
        if size != Some(descriptor.size) {
            let why = format!(
                "the manifest says {} has {} bytes, but it has {}",
                descriptor.digest,
                descriptor.size,
                size.unwrap_or(0)
            );
            return Err(Failure::new(Code::ManifestInvalid, why));
        }
    }
    let digest = images.blobs().put_by(algorithm, bytes)?;
    let target = Descriptor::new(kind, digest, bytes.len() as u64);
    images.publish(name, &target)?;
    Ok(digest)
}
