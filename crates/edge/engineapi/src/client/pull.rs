//! Images in.

use std::{io::Write as _, sync::Arc};

use bytes::Bytes;
use futures_util::{
    FutureExt as _, StreamExt as _, TryFutureExt as _, TryStreamExt as _, future::BoxFuture, stream,
};
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use wharf_base::{Digest, random_hex};
use wharf_http::Body;
use wharf_image::{
    Descriptor, Error, Follower, ImageConfig, Index, Layer, Manifest, Partial, Platform, Reference, Store,
    is_full, media_type,
};

use super::{
    ATTEMPTS, Client, PARALLEL, Progress, Result, SILENCE, Silent, Step,
    hosts::Capability,
    remote::{Ask, Broken, Remote},
};

const MAX_MANIFEST: usize = 4 << 20;
/// What is pulled of attestations: as much as BuildKit writes, and no heap of them.
const MAX_ATTESTATION: u64 = 64 << 20;
const MAX_ATTESTATIONS: usize = 16;
/// Chunks received ahead of the disk.
const AHEAD: usize = 16;

/// Types asked for, the preferred first.
const ACCEPT: [&str; 4] =
    [media_type::OCI_INDEX, media_type::OCI_MANIFEST, media_type::DOCKER_LIST, media_type::DOCKER_MANIFEST];

impl Client {
    /// Pulls an image for this machine's platform into the store, unpacks it and names it. Gives what the
    /// name points at: the manifest, or the index it was chosen from.
    pub async fn pull(
        &self,
        store: &Arc<Store>,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<Descriptor> {
        self.pull_for(store, reference, &Platform::host(), progress).await
    }

    /// As [`Client::pull`], for a machine of `platform`.
    pub async fn pull_for(
        &self,
        store: &Arc<Store>,
        reference: &Reference,
        platform: &Platform,
        progress: &dyn Progress,
    ) -> Result<Descriptor> {
        let (policies, name) = (self.policies.clone(), reference.clone());
        let wanted = blocking(move || policies.requirements(&name)).await?;
        let source = self.source(reference).await?;
        let (target, bytes) = source.manifest(&reference.selector()).await?;
        if let Some(wanted) = wanted {
            source.verify(wanted, reference, target.digest).await?;
        }
        let (digest, bytes, about) = if media_type::is_index(&target.media_type) {
            let index = Index::parse(&bytes)?;
            let chosen = index.choose(&target.digest, platform)?.digest;
            keep(store, target.digest, bytes).await?;
            (chosen, source.manifest(&chosen.to_string()).await?.1, attested(index, &chosen))
        } else {
            (target.digest, bytes, Vec::new())
        };
        let manifest = Manifest::parse(&bytes)?;
        source.image(store, &manifest, self.packed, progress).await?;
        for attestation in about {
            // The image is whole without what is said of it.
            if let Err(error) = source.attestation(store, &attestation, progress).await {
                tracing::warn!(%error, image = %reference, "an attestation was not pulled");
            }
        }
        // The manifest after its content, the name last: what has a name is whole.
        keep(store, digest, bytes).await?;
        let (store, name, kept) = (Arc::clone(store), reference.clone(), target.clone());
        blocking(move || store.tag(&[name], &kept)).await?;
        Ok(target)
    }

    /// The manifest or index a name stands for, as its registry has it now.
    pub(crate) async fn manifest(&self, name: &Reference) -> Result<(Descriptor, Bytes)> {
        self.source(name).await?.manifest(&name.selector()).await
    }

    /// How large a blob of a repository is there.
    pub(crate) async fn blob_size(&self, name: &Reference, digest: &Digest) -> Result<u64> {
        self.source(name).await?.blob_size(digest).await
    }

    /// Lets a blob of a repository come into the store; nothing when it is there. It comes to its end also when nobody
    /// reads along any more; what is `held` is dropped then.
    pub(crate) async fn fetch(
        &self,
        store: &Arc<Store>,
        name: &Reference,
        digest: Digest,
        held: impl Send + 'static,
    ) -> Result<Option<Arriving>> {
        let size = self.blob_size(name, &digest).await?;
        let wanted = Descriptor::new("application/octet-stream", digest, size);
        let Some(part) = begin(store, &wanted).await? else { return Ok(None) };
        let content = part.follow()?;
        let (client, name) = (self.clone(), name.clone());
        let whole = tokio::spawn(async move {
            let ended = client.source(&name).await?.fill(part, &wanted, &Silent).await;
            drop(held);
            ended.inspect_err(|error| tracing::warn!(%error, image = %name, "a blob was not fetched"))
        });
        Ok(Some(Arriving { size, content, whole }))
    }

    async fn source<'a>(&'a self, name: &'a Reference) -> Result<Source<'a>> {
        let resolving = self.remotes(name, Capability::Resolve).await?;
        Ok(Source { resolving, pulling: self.remotes(name, Capability::Pull).await? })
    }
}

/// A blob on its way.
pub(crate) struct Arriving {
    pub(crate) size: u64,
    /// What has come, and what will.
    pub(crate) content: Follower,
    /// Ends when it is in the store.
    pub(crate) whole: tokio::task::JoinHandle<Result<()>>,
}

/// One repository, at every server it can be had from, in the order these are asked.
pub(super) struct Source<'a> {
    /// Those that know tags.
    resolving: Vec<Remote<'a>>,
    /// Those that have content.
    pulling: Vec<Remote<'a>>,
}

/// Manifests of an index that tell of the image `chosen` (BuildKit's attestation storage).
fn attested(index: Index, chosen: &Digest) -> Vec<Digest> {
    let of_image = |d: &Descriptor| {
        let says = |key: &str, value: &str| d.annotations.get(key).is_some_and(|have| have == value);
        says("vnd.docker.reference.type", "attestation-manifest")
            && says("vnd.docker.reference.digest", &chosen.to_string())
    };
    index.manifests.into_iter().filter(of_image).take(MAX_ATTESTATIONS).map(|d| d.digest).collect()
}

/// Runs `work` on a thread that may wait for the disk.
pub(super) async fn blocking<T: Send + 'static>(
    work: impl FnOnce() -> Result<T> + Send + 'static,
) -> Result<T> {
    let failed = |e: tokio::task::JoinError| Error::Io {
        action: "finish",
        path: "the transfer".into(),
        source: std::io::Error::other(e),
    };
    tokio::task::spawn_blocking(work).await.unwrap_or_else(|e| Err(failed(e)))
}

/// Where a blob is to arrive, with what came of it before; nothing when it is here.
async fn begin(store: &Arc<Store>, wanted: &Descriptor) -> Result<Option<Partial>> {
    let (blobs, digest) = (store.blobs().clone(), wanted.digest);
    blocking(move || {
        if blobs.touch(&digest) {
            return Ok(None);
        }
        if let Some(part) = blobs.partial(&format!("down-{}", digest.hex()))? {
            return Ok(Some(part));
        }
        // Somebody else downloads the same; this one does not wait for it.
        let name = format!("down-{}", random_hex(16));
        let taken = || {
            let source = std::io::ErrorKind::ResourceBusy.into();
            Error::Io { action: "start", path: name.clone().into(), source }
        };
        blobs.partial(&name)?.map(Some).ok_or_else(taken)
    })
    .await
}

async fn keep(store: &Arc<Store>, digest: Digest, bytes: Bytes) -> Result<Digest> {
    let store = Arc::clone(store);
    blocking(move || store.blobs().put_by(digest.algorithm(), &bytes)).await
}

impl Source<'_> {
    /// An error of the last one asked.
    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        let problem = problem.into();
        match self.pulling.last() {
            Some(remote) => remote.error(problem),
            None => Error::Remote { host: String::new(), problem },
        }
    }

    /// What the first of these servers has; nothing when each says that there is none.
    async fn first<'s, T>(
        &'s self,
        remotes: &'s [Remote<'s>],
        ask: impl Fn(&'s Remote<'s>) -> BoxFuture<'s, Result<Option<T>>>,
    ) -> Result<Option<T>> {
        let mut left = remotes.iter();
        while let Some(remote) = left.next() {
            match ask(remote).await {
                Ok(None) => {}
                Err(error) if left.len() > 0 => tracing::warn!(%error, "the next server is asked"),
                ended => return ended,
            }
        }
        Ok(None)
    }

    /// A manifest or index by tag or digest.
    async fn manifest(&self, selector: &str) -> Result<(Descriptor, Bytes)> {
        let remotes = if selector.contains(':') { &self.pulling } else { &self.resolving };
        let found = self.first(remotes, |remote| remote.manifest(selector).map_ok(Some).boxed()).await?;
        found.ok_or_else(|| self.error("there is no server to ask"))
    }

    /// A small document of the repository; nothing when there is none.
    pub(super) async fn found(&self, path: &str) -> Result<Option<Bytes>> {
        self.first(&self.pulling, |remote| remote.found(path).boxed()).await
    }

    /// How large a blob is.
    async fn blob_size(&self, digest: &Digest) -> Result<u64> {
        let found = self.first(&self.pulling, |remote| remote.blob_size(digest).map_ok(Some).boxed()).await?;
        found.ok_or_else(|| self.error("there is no server to ask"))
    }

    /// The configuration and layers of an image, each layer unpacked as soon as it is here, unless they are to stay packed.
    async fn image(
        &self,
        store: &Arc<Store>,
        manifest: &Manifest,
        packed: bool,
        progress: &dyn Progress,
    ) -> Result<()> {
        self.blob(store, &manifest.config, progress).await?;
        let config = ImageConfig::parse(&store.document(&manifest.config.digest)?)?;
        let diff_ids = &config.rootfs.diff_ids;
        if diff_ids.len() != manifest.layers.len() {
            let (layers, known) = (manifest.layers.len(), diff_ids.len());
            return Err(self.error(format!("the manifest has {layers} layers, its configuration {known}")));
        }
        let mut layers: Vec<BoxFuture<'_, Result<()>>> = Vec::new();
        for (descriptor, diff_id) in manifest.layers.iter().zip(diff_ids) {
            let layer = Layer { descriptor: descriptor.clone(), diff_id: *diff_id };
            layers.push(match packed {
                true => Box::pin(async move {
                    self.blob(store, descriptor, progress).await?;
                    progress.step(&descriptor.digest, Step::Done);
                    Ok(())
                }),
                false => Box::pin(self.layer(store, layer, progress)),
            });
        }
        stream::iter(layers).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    /// A layer, unpacked while it arrives.
    async fn layer(&self, store: &Arc<Store>, layer: Layer, progress: &dyn Progress) -> Result<()> {
        let descriptor = layer.descriptor.clone();
        let mut unpacking = None;
        match begin(store, &descriptor).await? {
            None => progress.step(&descriptor.digest, Step::Exists),
            Some(part) => {
                if !store.is_unpacked(&layer.diff_id) {
                    let (store, layer, arriving) = (Arc::clone(store), layer.clone(), part.follow()?);
                    unpacking =
                        Some(tokio::task::spawn_blocking(move || store.unpack_arriving(&layer, arriving)));
                }
                self.fill(part, &descriptor, progress).await?;
            }
        }
        if !store.is_unpacked(&layer.diff_id) {
            progress.step(&descriptor.digest, Step::Unpack);
        }
        if let Some(unpacking) = unpacking {
            // Content that began anew, or was wrong at first, is unpacked below from what has the right digest.
            unpacking.await.ok();
        }
        let store = Arc::clone(store);
        blocking(move || store.layer_dir(&layer)).await?;
        progress.step(&descriptor.digest, Step::Done);
        Ok(())
    }

    /// A manifest of attestations with its statements.
    async fn attestation(&self, store: &Arc<Store>, digest: &Digest, progress: &dyn Progress) -> Result<()> {
        let bytes = self.manifest(&digest.to_string()).await?.1;
        let manifest = Manifest::parse(&bytes)?;
        for blob in manifest.layers.iter().chain([&manifest.config]) {
            if blob.size > MAX_ATTESTATION {
                return Err(self.error(format!("the attestation {} has {} bytes", blob.digest, blob.size)));
            }
            self.blob(store, blob, progress).await?;
        }
        keep(store, *digest, bytes).await?;
        Ok(())
    }

    /// One blob.
    async fn blob(&self, store: &Arc<Store>, wanted: &Descriptor, progress: &dyn Progress) -> Result<()> {
        match begin(store, wanted).await? {
            Some(part) => self.fill(part, wanted, progress).await,
            None => {
                progress.step(&wanted.digest, Step::Exists);
                Ok(())
            }
        }
    }

    /// What is missing of a blob, gone on with after broken connections.
    async fn fill(&self, mut part: Partial, wanted: &Descriptor, progress: &dyn Progress) -> Result<()> {
        let mut left = self.pulling.iter();
        while let Some(remote) = left.next() {
            let (back, ended) = remote.download(part, wanted, left.len() == 0, progress).await;
            part = back.ok_or_else(|| remote.error("the download was not written"))?;
            match ended {
                Ok(()) => break,
                Err(error) if left.len() == 0 => return Err(error),
                Err(error) => tracing::warn!(%error, "the next server is asked"),
            }
        }
        let expected = wanted.digest;
        blocking(move || part.commit(Some(&expected))).await?;
        Ok(())
    }
}

impl Remote<'_> {
    /// A manifest or index by tag or digest, its bytes checked against the digest.
    async fn manifest(&self, selector: &str) -> Result<(Descriptor, Bytes)> {
        let mut ask = Ask::new(Method::GET, self.url(&format!("manifests/{selector}")));
        for kind in ACCEPT {
            ask = ask.header(header::ACCEPT, HeaderValue::from_static(kind));
        }
        let response = self.send(&mut ask).await?;
        if response.status() != StatusCode::OK {
            let what = match selector.contains(':') {
                true => format!("manifest {}@{selector}", self.repository),
                false => format!("image {}:{selector}", self.repository),
            };
            return Err(self.refuse(&what, response).await);
        }
        let kind = response.headers().get(header::CONTENT_TYPE).and_then(|v| v.to_str().ok());
        let kind = kind.map(|k| k.split(';').next().unwrap_or_default().trim().to_owned());
        let bytes = wharf_http::collect(response.into_body(), MAX_MANIFEST)
            .await
            .map_err(|e| self.error(format!("cannot read the manifest: {e}")))?;
        let expected = selector.parse::<Digest>().ok();
        let digest = Digest::by(expected.map(|digest| digest.algorithm()).unwrap_or_default(), &bytes);
        if let Some(expected) = expected
            && expected != digest
        {
            let what = format!("manifest of {}", self.domain);
            return Err(Error::mismatch(what, expected, digest));
        }
        let inside = serde_json::from_slice::<serde_json::Value>(&bytes).ok();
        let inside = inside.and_then(|value| value["mediaType"].as_str().map(str::to_owned));
        let kind = inside.or(kind).unwrap_or_else(|| media_type::OCI_MANIFEST.into());
        if !ACCEPT.contains(&kind.as_str()) {
            return Err(self.error(format!("'{selector}' is of type {kind}, not an image")));
        }
        Ok((Descriptor::new(kind, digest, bytes.len() as u64), bytes))
    }

    /// A small document; nothing when the server says that there is none.
    async fn found(&self, path: &str) -> Result<Option<Bytes>> {
        let mut ask = Ask::new(Method::GET, self.url(path));
        let kinds = ACCEPT.iter().filter(|_| path.starts_with("manifests/"));
        ask = kinds.fold(ask, |ask, kind| ask.header(header::ACCEPT, HeaderValue::from_static(kind)));
        let response = self.send(&mut ask).await?;
        match response.status() {
            StatusCode::NOT_FOUND => return Ok(None),
            StatusCode::OK => {}
            _ => return Err(self.refuse(path, response).await),
        }
        let bytes = wharf_http::collect(response.into_body(), MAX_MANIFEST).await;
        bytes.map(Some).map_err(|e| self.error(format!("cannot read {path}: {e}")))
    }

    async fn blob_size(&self, digest: &Digest) -> Result<u64> {
        let mut ask = Ask::new(Method::HEAD, self.url(&format!("blobs/{digest}")));
        let response = self.send(&mut ask).await?;
        if response.status() != StatusCode::OK {
            return Err(self.refuse(&format!("blob {digest}"), response).await);
        }
        let length =
            response.headers().get(header::CONTENT_LENGTH).and_then(|v| v.to_str().ok()?.parse().ok());
        length.ok_or_else(|| self.error(format!("it does not say how large the blob {digest} is")))
    }

    /// Fills `part`, and goes on after broken connections when no other server can be asked; gives it back.
    async fn download(
        &self,
        mut part: Partial,
        wanted: &Descriptor,
        patient: bool,
        progress: &dyn Progress,
    ) -> (Option<Partial>, Result<()>) {
        let mut attempt = 1;
        loop {
            let (back, ended) = self.attempt(part, wanted, progress).await;
            match (back, ended) {
                (Some(back), Err(Broken::Connection(_))) if patient && attempt < ATTEMPTS => part = back,
                (back, ended) => return (back, ended.map_err(Error::from)),
            }
            attempt += 1;
            progress.step(&wanted.digest, Step::Retry);
            tokio::time::sleep(std::time::Duration::from_millis(100 << attempt)).await;
        }
    }

    /// Adds to `part` until it is whole or the connection breaks; gives it back.
    async fn attempt(
        &self,
        mut part: Partial,
        wanted: &Descriptor,
        progress: &dyn Progress,
    ) -> (Option<Partial>, std::result::Result<(), Broken>) {
        if part.size() > wanted.size
            && let Err(error) = part.restart()
        {
            return (Some(part), Err(Broken::Refused(error)));
        }
        if part.size() == wanted.size {
            return (Some(part), Ok(()));
        }
        let mut ask = Ask::new(Method::GET, self.url(&format!("blobs/{}", wanted.digest)));
        if part.size() > 0 {
            let range = HeaderValue::from_str(&format!("bytes={}-", part.size()));
            ask.headers.extend(range.ok().map(|range| (header::RANGE, range)));
        }
        let response = match self.send(&mut ask).await {
            Ok(response) => response,
            Err(broken) => return (Some(part), Err(broken)),
        };
        match response.status() {
            StatusCode::PARTIAL_CONTENT => {}
            StatusCode::OK => {
                if let Err(error) = part.restart() {
                    return (Some(part), Err(Broken::Refused(error)));
                }
            }
            status => {
                let error = self.refuse(&format!("blob {}", wanted.digest), response).await;
                let again = status.is_server_error() || status == StatusCode::TOO_MANY_REQUESTS;
                let broken = if again { Broken::Connection(error) } else { Broken::Refused(error) };
                return (Some(part), Err(broken));
            }
        }
        self.receive(part, response.into_body(), wanted, progress).await
    }

    async fn receive(
        &self,
        part: Partial,
        mut body: Body,
        wanted: &Descriptor,
        progress: &dyn Progress,
    ) -> (Option<Partial>, std::result::Result<(), Broken>) {
        let (mut done, total) = (part.size(), wanted.size);
        let (chunks, writer) = write_chunks(part);
        let mut ended = Ok(());
        while done < total {
            let frame = match tokio::time::timeout(SILENCE, body.frame()).await {
                Ok(Some(Ok(frame))) => frame,
                Ok(Some(Err(e))) => {
                    ended = Err(Broken::Connection(self.error(format!("the connection broke: {e}"))));
                    break;
                }
                Ok(None) => {
                    let short = format!("blob {} ends after {done} of {total} bytes", wanted.digest);
                    ended = Err(Broken::Connection(self.error(short)));
                    break;
                }
                Err(_) => {
                    ended = Err(Broken::Connection(self.error("it sends nothing any more")));
                    break;
                }
            };
            let Ok(data) = frame.into_data() else { continue };
            done += data.len() as u64;
            if done > total {
                let long = format!("blob {} is longer than its {total} bytes", wanted.digest);
                ended = Err(Broken::Refused(self.error(long)));
                break;
            }
            if chunks.send(data).await.is_err() {
                break;
            }
            progress.step(&wanted.digest, Step::Transfer { done, total });
        }
        drop(chunks);
        match writer.await {
            Ok((part, Ok(()))) => (Some(part), ended),
            Ok((mut part, Err(source))) => {
                // What came so far would only hold the space that is wanted.
                let freed = if is_full(&source) { part.restart() } else { Ok(()) };
                let error = Error::Io { action: "write", path: part.path().to_owned(), source };
                (Some(part), Err(Broken::Refused(freed.err().unwrap_or(error))))
            }
            Err(_) => (None, ended),
        }
    }
}

type Writer = tokio::task::JoinHandle<(Partial, std::io::Result<()>)>;

/// A thread that writes what is sent to it.
fn write_chunks(mut part: Partial) -> (mpsc::Sender<Bytes>, Writer) {
    let (chunks, mut arrived) = mpsc::channel::<Bytes>(AHEAD);
    let writer = tokio::task::spawn_blocking(move || {
        while let Some(chunk) = arrived.blocking_recv() {
            if let Err(error) = part.write_all(&chunk) {
                return (part, Err(error));
            }
        }
        (part, Ok(()))
    });
    (chunks, writer)
}
