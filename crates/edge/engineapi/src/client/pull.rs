//! Images in.

use std::{io::Write as _, sync::Arc};

use bytes::Bytes;
use futures_util::{StreamExt as _, TryStreamExt as _, future::BoxFuture, stream};
use http::{HeaderValue, Method, StatusCode, header};
use http_body_util::BodyExt as _;
use tokio::sync::mpsc;
use wharf_base::{Digest, random_hex};
use wharf_http::Body;
use wharf_image::{
    Descriptor, Error, ImageConfig, Index, Layer, Manifest, Partial, Platform, Reference, Store, is_full,
    media_type,
};

use super::{ATTEMPTS, Ask, Client, PARALLEL, Progress, Remote, Result, SILENCE, Step};

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
        let remote = self.remote(reference);
        let (target, bytes) = remote.manifest(&reference.selector()).await?;
        let (digest, bytes, about) = if media_type::is_index(&target.media_type) {
            let index = Index::parse(&bytes)?;
            let chosen = index.choose(&target.digest, platform)?.digest;
            remote.keep(store, target.digest, bytes).await?;
            (chosen, remote.manifest(&chosen.to_string()).await?.1, attested(index, &chosen))
        } else {
            (target.digest, bytes, Vec::new())
        };
        let manifest = Manifest::parse(&bytes)?;
        remote.image(store, &manifest, progress).await?;
        for attestation in about {
            // The image is whole without what is said of it.
            if let Err(error) = remote.attestation(store, &attestation, progress).await {
                tracing::warn!(%error, image = %reference, "an attestation was not pulled");
            }
        }
        // The manifest after its content, the name last: what has a name is whole.
        remote.keep(store, digest, bytes).await?;
        let (store, name, kept) = (Arc::clone(store), reference.clone(), target.clone());
        remote.blocking(move || store.tag(&[name], &kept)).await?;
        Ok(target)
    }
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

impl Remote<'_> {
    pub(super) async fn blocking<T: Send + 'static>(
        &self,
        work: impl FnOnce() -> Result<T> + Send + 'static,
    ) -> Result<T> {
        let ended = tokio::task::spawn_blocking(work).await;
        ended.unwrap_or_else(|e| Err(self.error(format!("the transfer was not finished: {e}"))))
    }

    async fn keep(&self, store: &Arc<Store>, digest: Digest, bytes: Bytes) -> Result<Digest> {
        let store = Arc::clone(store);
        self.blocking(move || store.blobs().put_by(digest.algorithm(), &bytes)).await
    }

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

    /// The configuration and layers of an image, each layer unpacked as soon as it is here.
    async fn image(&self, store: &Arc<Store>, manifest: &Manifest, progress: &dyn Progress) -> Result<()> {
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
            layers.push(Box::pin(self.layer(store, layer, progress)));
        }
        stream::iter(layers).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    async fn layer(&self, store: &Arc<Store>, layer: Layer, progress: &dyn Progress) -> Result<()> {
        let digest = layer.descriptor.digest;
        self.blob(store, &layer.descriptor, progress).await?;
        if !store.is_unpacked(&layer.diff_id) {
            progress.step(&digest, Step::Unpack);
            let store = Arc::clone(store);
            self.blocking(move || store.layer_dir(&layer)).await?;
        }
        progress.step(&digest, Step::Done);
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
        self.keep(store, *digest, bytes).await?;
        Ok(())
    }

    /// One blob, gone on with after broken connections.
    async fn blob(&self, store: &Arc<Store>, wanted: &Descriptor, progress: &dyn Progress) -> Result<()> {
        if store.blobs().touch(&wanted.digest) {
            progress.step(&wanted.digest, Step::Exists);
            return Ok(());
        }
        let (blobs, name) = (store.blobs().clone(), format!("down-{}", wanted.digest.hex()));
        let mut part = self
            .blocking(move || match blobs.partial(&name)? {
                Some(part) => Ok(Some(part)),
                // Another process downloads the same; this one does not wait for it.
                None => blobs.partial(&format!("down-{}", random_hex(16))),
            })
            .await?
            .ok_or_else(|| self.error("cannot start the download"))?;
        let mut attempt = 1;
        loop {
            let (back, ended) = self.attempt(part, wanted, progress).await;
            part = back.ok_or_else(|| self.error("the download was not written"))?;
            match ended {
                Ok(()) => break,
                Err(Broken::Connection(_)) if attempt < ATTEMPTS => {
                    attempt += 1;
                    progress.step(&wanted.digest, Step::Retry);
                    tokio::time::sleep(std::time::Duration::from_millis(100 << attempt)).await;
                }
                Err(Broken::Connection(error) | Broken::Refused(error)) => return Err(error),
            }
        }
        let expected = wanted.digest;
        self.blocking(move || part.commit(Some(&expected))).await?;
        Ok(())
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
            Err(error) => return (Some(part), Err(Broken::Connection(error))),
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

/// Why an attempt ended early: another one may help, or not.
enum Broken {
    Connection(Error),
    Refused(Error),
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
