//! Blobs in: at once, in pieces, or taken over from another repository.

use std::{
    collections::HashMap,
    io::Write as _,
    sync::{Arc, Mutex, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use http::{HeaderMap, StatusCode, header, request::Parts};
use http_body_util::BodyExt as _;
use tokio::sync::{OwnedMutexGuard, mpsc};
use wharf_base::{Digest, random_hex};
use wharf_http::Body;
use wharf_image::{Partial, is_full};

use super::{
    Answer, Registry, bare, blocking,
    error::{Code, Failure},
    query,
    route::{self, Repository},
};

/// Uploads held open at once; each holds a file.
const MAX_OPEN: usize = 1000;
/// After this long without a request an upload's file is closed; it can still be continued.
const IDLE: Duration = Duration::from_secs(300);
/// The largest blob accepted.
const MAX_BLOB: u64 = 100 << 30;
/// Bytes of a body that are read to their end though they cannot be kept.
const MAX_UNWANTED: usize = 256 << 20;
/// Chunks received ahead of the disk.
const AHEAD: usize = 16;

type Slot = Arc<tokio::sync::Mutex<Option<Partial>>>;

/// The uploads this process has open. It is a cache: the files are the truth.
#[derive(Default)]
pub(super) struct Uploads {
    open: Mutex<HashMap<String, (Slot, Instant)>>,
}

impl Uploads {
    /// The slot of an upload, made when there is none.
    fn slot(&self, id: &str) -> Result<Slot, Failure> {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        if !open.contains_key(id) && open.len() >= MAX_OPEN {
            return Err(Failure::new(
                Code::TooManyRequests,
                format!("{MAX_OPEN} uploads are open already; try again later"),
            ));
        }
        let (slot, used) = open.entry(id.to_owned()).or_insert_with(|| (Slot::default(), Instant::now()));
        *used = Instant::now();
        Ok(Arc::clone(slot))
    }

    fn forget(&self, id: &str) {
        self.open.lock().unwrap_or_else(PoisonError::into_inner).remove(id);
    }

    /// Closes the files of uploads nobody used for a while.
    pub(super) fn forget_idle(&self) {
        let mut open = self.open.lock().unwrap_or_else(PoisonError::into_inner);
        open.retain(|_, (slot, used)| used.elapsed() < IDLE || slot.try_lock().is_err());
    }
}

/// The exclusive use of one upload; what it holds is there until it is committed or discarded.
struct Held {
    id: String,
    slot: OwnedMutexGuard<Option<Partial>>,
}

impl Held {
    fn size(&self) -> u64 {
        self.slot.as_ref().map_or(0, Partial::size)
    }

    fn part(&mut self) -> Result<&mut Partial, Failure> {
        let id = &self.id;
        self.slot.as_mut().ok_or_else(|| unknown(id))
    }
}

fn unknown(id: &str) -> Failure {
    Failure::new(Code::BlobUploadUnknown, format!("there is no upload '{id}'"))
}

fn file_name(id: &str) -> String {
    format!("up-{id}")
}

impl Registry {
    pub(super) async fn start_upload(&self, repository: Repository, head: &Parts, body: Body) -> Answer {
        if let Some(text) = query(head, "mount") {
            let digest = route::digest(&text)?;
            if self.with_store(move |images| Ok(images.blobs().touch(&digest))).await? {
                return Ok(created(&repository, &digest));
            }
        }
        let digest = query(head, "digest").map(|text| route::digest(&text)).transpose()?;
        let id = random_hex(16);
        let slot = self.uploads.slot(&id)?;
        let (images, name) = (Arc::clone(&self.images), file_name(&id));
        let part = blocking(move || Ok(images.blobs().partial(&name)?)).await?;
        let mut held = Held { id, slot: slot.lock_owned().await };
        *held.slot = part;
        match digest {
            None => Ok(progress(StatusCode::ACCEPTED, &repository, &held)),
            Some(digest) => self.complete(repository, held, digest, head, body).await,
        }
    }

    /// Takes hold of an upload, from its file when this process does not know it.
    async fn hold(&self, id: &str) -> Result<Held, Failure> {
        if id.len() != 32 || !id.bytes().all(|b| b.is_ascii_hexdigit()) {
            return Err(unknown(id));
        }
        let mut held = Held { id: id.to_owned(), slot: self.uploads.slot(id)?.lock_owned().await };
        if held.slot.is_none() {
            let (images, name) = (Arc::clone(&self.images), file_name(id));
            *held.slot = blocking(move || Ok(images.blobs().existing_partial(&name)?)).await?;
        }
        if held.slot.is_none() {
            self.uploads.forget(id);
            return Err(unknown(id));
        }
        Ok(held)
    }

    pub(super) async fn upload_status(&self, repository: Repository, id: &str) -> Answer {
        let held = self.hold(id).await?;
        Ok(progress(StatusCode::NO_CONTENT, &repository, &held))
    }

    pub(super) async fn cancel_upload(&self, id: &str) -> Answer {
        let mut held = self.hold(id).await?;
        self.uploads.forget(id);
        if let Some(part) = held.slot.take() {
            blocking(move || Ok(part.discard()?)).await?;
        }
        Ok(bare(StatusCode::NO_CONTENT, &[]))
    }

    pub(super) async fn add_to_upload(
        &self,
        repository: Repository,
        id: &str,
        head: &Parts,
        body: Body,
    ) -> Answer {
        let held = self.hold(id).await?;
        let held = receive_chunk(&repository, held, head, body).await?;
        Ok(progress(StatusCode::ACCEPTED, &repository, &held))
    }

    pub(super) async fn finish_upload(
        &self,
        repository: Repository,
        id: &str,
        head: &Parts,
        body: Body,
    ) -> Answer {
        let missing = || Failure::new(Code::DigestInvalid, "the query has no digest");
        let digest = route::digest(&query(head, "digest").ok_or_else(missing)?)?;
        let held = self.hold(id).await?;
        self.complete(repository, held, digest, head, body).await
    }

    async fn complete(
        &self,
        repository: Repository,
        held: Held,
        digest: Digest,
        head: &Parts,
        body: Body,
    ) -> Answer {
        let mut held = receive_chunk(&repository, held, head, body).await?;
        let part = held.slot.take().ok_or_else(|| unknown(&held.id))?;
        self.uploads.forget(&held.id);
        blocking(move || Ok(part.commit(Some(&digest))?)).await?;
        Ok(created(&repository, &digest))
    }
}

fn location(repository: &Repository, id: &str) -> String {
    format!("/v2/{}/blobs/uploads/{id}", repository.name)
}

/// The last byte received, as the specification's inclusive range.
fn received(held: &Held) -> String {
    format!("0-{}", held.size().saturating_sub(1))
}

fn progress(status: StatusCode, repository: &Repository, held: &Held) -> http::Response<Body> {
    let mut headers = vec![
        ("location", location(repository, &held.id)),
        ("range", received(held)),
        ("docker-upload-uuid", held.id.clone()),
    ];
    if status != StatusCode::NO_CONTENT {
        headers.push(("content-length", "0".into()));
    }
    let headers: Vec<_> = headers.iter().map(|(name, value)| (*name, value.as_str())).collect();
    bare(status, &headers)
}

fn created(repository: &Repository, digest: &Digest) -> http::Response<Body> {
    let location = format!("/v2/{}/blobs/{digest}", repository.name);
    let digest = digest.to_string();
    bare(
        StatusCode::CREATED,
        &[("location", &location), ("docker-content-digest", &digest), ("content-length", "0")],
    )
}

/// The bytes a chunk says it has, first and last, as `Content-Range` (without a unit in this protocol).
fn content_range(headers: &HeaderMap) -> Result<Option<(u64, u64)>, Failure> {
    let Some(value) = headers.get(header::CONTENT_RANGE) else { return Ok(None) };
    let parse = || {
        let text = value.to_str().ok()?;
        let text = text.strip_prefix("bytes ").unwrap_or(text);
        let (first, last) = text.split('/').next()?.split_once('-')?;
        let (first, last) = (first.parse::<u64>().ok()?, last.parse::<u64>().ok()?);
        (first <= last).then_some((first, last))
    };
    let bad = || Failure::new(Code::BlobUploadInvalid, "the Content-Range is not FIRST-LAST");
    parse().ok_or_else(bad).map(Some)
}

/// Adds the body to an upload. What arrives before a connection breaks is kept, so that the client can go
/// on from there; a chunk that is not what it says is taken back.
async fn receive_chunk(
    repository: &Repository,
    mut held: Held,
    head: &Parts,
    body: Body,
) -> Result<Held, Failure> {
    let range = content_range(&head.headers)?;
    if let Some((first, _)) = range
        && first != held.size()
    {
        let why = format!("the chunk starts at byte {first} but {} bytes are here", held.size());
        return Err(Failure::new(Code::RangeInvalid, why)
            .with(header::LOCATION, &location(repository, &held.id))
            .with(header::RANGE, &received(&held)));
    }
    let mark = held.part()?.mark();
    let before = held.size();
    let mut held = receive(held, body).await?;
    let got = held.size() - before;
    if let Some((first, last)) = range
        && got != last - first + 1
    {
        held.part()?.rewind(mark)?;
        let why = format!("the chunk has {got} bytes but its Content-Range {}", last - first + 1);
        return Err(Failure::new(Code::SizeInvalid, why));
    }
    Ok(held)
}

/// Writes a body to an upload's file. The writing thread holds the upload, so that a request that is
/// dropped half-way does not leave it to two writers.
async fn receive(mut held: Held, mut body: Body) -> Result<Held, Failure> {
    let (chunks, mut arrived) = mpsc::channel::<Bytes>(AHEAD);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(chunk) = arrived.blocking_recv() {
            let part = held.part()?;
            if part.size() + chunk.len() as u64 > MAX_BLOB {
                return Err(Failure::new(Code::SizeInvalid, format!("a blob has at most {MAX_BLOB} bytes")));
            }
            match part.write_all(&chunk) {
                Ok(()) => {}
                Err(error) if is_full(&error) => {
                    // What came so far would only hold the space that is wanted.
                    if let Some(part) = held.slot.take() {
                        part.discard()?;
                    }
                    return Err(Failure::new(Code::StorageFull, "the disk of the registry is full"));
                }
                Err(error) => {
                    return Err(Failure::new(Code::Internal, format!("cannot write the upload: {error}")));
                }
            }
        }
        Ok(held)
    });
    let mut broken = None;
    let mut unwanted = 0;
    while let Some(frame) = body.frame().await {
        match frame {
            Ok(frame) => {
                let Ok(data) = frame.into_data() else { continue };
                // The writer gave up: its error is the one to tell. Many clients listen only once they have sent all.
                if let Err(mpsc::error::SendError(data)) = chunks.send(data).await {
                    unwanted += data.len();
                    if unwanted > MAX_UNWANTED {
                        break;
                    }
                }
            }
            Err(error) => {
                broken =
                    Some(Failure::new(Code::BlobUploadInvalid, format!("the content broke off: {error}")));
                break;
            }
        }
    }
    drop(chunks);
    let held = writer
        .await
        .unwrap_or_else(|e| Err(Failure::new(Code::Internal, format!("the upload was not written: {e}"))))?;
    broken.map_or(Ok(held), Err)
}
