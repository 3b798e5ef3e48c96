//! Images out.

use std::sync::Arc;

use futures_util::{StreamExt as _, TryStreamExt as _, stream};
use http::{HeaderMap, HeaderValue, Method, StatusCode, Uri, header};
use wharf_base::Digest;
use wharf_http::{Body, full};
use wharf_image::{Descriptor, Error, Index, Manifest, Reference, Store, media_type};

use super::{
    Client, PARALLEL, Progress, Result, Step,
    hosts::{self, Capability},
    remote::{Ask, Remote},
};
use crate::registry::read_file;

impl Client {
    /// Pushes what the store has under `reference` to the registry that name is of. Gives what was pushed:
    /// of an index that is not here in full, the manifest for this machine.
    pub async fn push(
        &self,
        store: &Arc<Store>,
        reference: &Reference,
        progress: &dyn Progress,
    ) -> Result<Descriptor> {
        let remotes = self.remotes(reference, Capability::Push).await?;
        // To the registry itself rather than to a mirror.
        let lacks = || hosts::lacks(reference.domain(), Capability::Push);
        let remote = remotes.into_iter().min_by_key(|remote| remote.host.mirror).ok_or_else(lacks)?;
        let mut target = store.lookup(reference)?;
        let mut manifests = vec![target.clone()];
        if media_type::is_index(&target.media_type) {
            let index = Index::parse(&store.document(&target.digest)?)?;
            if index.manifests.iter().all(|d| store.blobs().size(&d.digest).is_some()) {
                manifests = index.manifests;
            } else {
                let (digest, _) = store.manifest(&target)?;
                let chosen = index.manifests.into_iter().find(|d| d.digest == digest);
                target = chosen.ok_or(Error::NoBlob(digest))?;
                manifests = vec![target.clone()];
            }
        }
        for descriptor in &manifests {
            remote.push_image(store, descriptor, progress).await?;
        }
        if media_type::is_index(&target.media_type) {
            for descriptor in &manifests {
                remote.put_manifest(store, descriptor, &descriptor.digest.to_string()).await?;
            }
        }
        remote.put_manifest(store, &target, &reference.selector()).await?;
        Ok(Descriptor::new(target.media_type, target.digest, target.size))
    }
}

impl Remote<'_> {
    /// The blobs of one manifest.
    async fn push_image(
        &self,
        store: &Arc<Store>,
        target: &Descriptor,
        progress: &dyn Progress,
    ) -> Result<()> {
        let manifest = Manifest::parse(&store.document(&target.digest)?)?;
        let mut blobs = manifest.layers;
        blobs.push(manifest.config);
        blobs.sort_by_key(|d| d.digest);
        blobs.dedup_by_key(|d| d.digest);
        let pushes = blobs.into_iter().map(|blob| self.push_blob(store, blob, progress));
        stream::iter(pushes).buffer_unordered(PARALLEL).try_collect::<Vec<()>>().await?;
        Ok(())
    }

    async fn push_blob(&self, store: &Arc<Store>, blob: Descriptor, progress: &dyn Progress) -> Result<()> {
        let digest = blob.digest;
        let there = self.send(&mut Ask::new(Method::HEAD, self.url(&format!("blobs/{digest}")))).await?;
        if there.status() == StatusCode::OK {
            progress.step(&digest, Step::Exists);
            return Ok(());
        }
        let mut start = format!("blobs/uploads/?mount={digest}");
        if let Some(from) = self.other_home(store, &digest) {
            let from: String = form_urlencoded::byte_serialize(from.as_bytes()).collect();
            start = format!("{start}&from={from}");
        } else {
            start = "blobs/uploads/".into();
        }
        let mut ask = Ask::new(Method::POST, self.url(&start)).header(header::CONTENT_LENGTH, 0);
        let response = self.send(&mut ask).await?;
        match response.status() {
            StatusCode::CREATED => {
                progress.step(&digest, Step::Mounted);
                return Ok(());
            }
            StatusCode::ACCEPTED => {}
            _ => return Err(self.refuse(&format!("upload to {}", self.repository), response).await),
        }
        let (head, _) = response.into_parts();
        self.upload(store, &blob, &head.headers, progress).await
    }

    async fn upload(
        &self,
        store: &Arc<Store>,
        blob: &Descriptor,
        started: &HeaderMap,
        progress: &dyn Progress,
    ) -> Result<()> {
        let location = started.get(header::LOCATION).and_then(|v| v.to_str().ok());
        let location = location.ok_or_else(|| self.error("it started an upload without a Location"))?;
        let base: Uri = self.host.base.parse().map_err(|_| self.error("bad address"))?;
        let url = self.resolve(&base, location)?.to_string();
        let joint = if url.contains('?') { '&' } else { '?' };
        let (digest, total) = (blob.digest, blob.size);
        // A local size that differs would make a request that never ends.
        if store.blobs().size(&digest) != Some(total) {
            return Err(Error::NoBlob(digest));
        }
        // The body outlives this call in the connection's task, so the steps come over a channel.
        let (steps, mut told) = tokio::sync::mpsc::unbounded_channel::<u64>();
        let mut ask = Ask::new(Method::PUT, format!("{url}{joint}digest={digest}"))
            .header(header::CONTENT_TYPE, HeaderValue::from_static("application/octet-stream"))
            .header(header::CONTENT_LENGTH, total)
            .body(|| {
                let file = store.blobs().open_blob(&digest)?;
                Ok(counted(read_file(file, 0, total), steps.clone()))
            });
        let mut send = std::pin::pin!(self.send(&mut ask));
        let response = loop {
            tokio::select! {
                response = &mut send => break response?,
                Some(done) = told.recv() => progress.step(&digest, Step::Transfer { done, total }),
            }
        };
        if response.status() != StatusCode::CREATED {
            return Err(self.refuse(&format!("blob {digest}"), response).await);
        }
        progress.step(&digest, Step::Done);
        Ok(())
    }

    /// Another repository of the same registry that has this blob, as far as the store's names tell.
    fn other_home(&self, store: &Store, digest: &Digest) -> Option<String> {
        let entries = store.references().ok()?;
        let others = entries
            .iter()
            .filter(|e| e.reference.domain() == self.domain && e.reference.path() != self.repository);
        for entry in others {
            let has = store
                .manifest(&entry.target)
                .is_ok_and(|(_, m)| m.layers.iter().any(|layer| layer.digest == *digest));
            if has {
                return Some(entry.reference.path().to_owned());
            }
        }
        None
    }

    async fn put_manifest(&self, store: &Store, target: &Descriptor, selector: &str) -> Result<()> {
        let bytes: bytes::Bytes = store.document(&target.digest)?.into();
        let kind = HeaderValue::from_str(&target.media_type)
            .map_err(|_| self.error(format!("'{}' is not a media type", target.media_type)))?;
        let mut ask = Ask::new(Method::PUT, self.url(&format!("manifests/{selector}")))
            .header(header::CONTENT_TYPE, kind)
            .body(|| Ok(full(bytes.clone())));
        let response = self.send(&mut ask).await?;
        if !response.status().is_success() {
            return Err(self.refuse(&format!("manifest {}:{selector}", self.repository), response).await);
        }
        let said = response.headers().get("docker-content-digest").and_then(|v| v.to_str().ok());
        match said.and_then(|text| text.parse::<Digest>().ok()) {
            Some(actual) if actual != target.digest => {
                let what = format!("the manifest as {} stored it", self.domain);
                Err(Error::mismatch(what, target.digest, actual))
            }
            _ => Ok(()),
        }
    }
}

/// The same body, telling how many bytes have passed.
fn counted(body: Body, steps: tokio::sync::mpsc::UnboundedSender<u64>) -> Body {
    use http_body_util::BodyExt as _;
    let mut done = 0;
    body.map_frame(move |frame| {
        if let Some(data) = frame.data_ref() {
            done += data.len() as u64;
            steps.send(done).ok();
        }
        frame
    })
    .boxed_unsync()
}
