//! The pull-through cache: manifests and blobs that are not here come from the registry of their name, and stay.
//!
//! A tag is asked for again after a minute; when its registry does not answer, what it stood for last counts. Names of
//! the store come first: what was pushed or built here is never replaced. What is cached has no name in the store, so
//! that `wharf image prune` removes it like everything nobody uses.

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, MutexGuard, PoisonError},
    time::{Duration, Instant},
};

use bytes::Bytes;
use wharf_base::Digest;
use wharf_image::{Descriptor, Reference, Store};

use super::{
    blocking,
    error::{Code, Failure},
};
use crate::client::{Arriving, Client};

/// A tag is not asked for again for so long.
const FRESH: Duration = Duration::from_secs(60);

/// Brings what the registry lacks.
pub struct Through {
    client: Client,
    /// When each tag was last asked for.
    asked: Mutex<HashMap<String, Instant>>,
    /// One request fetches a blob, the others of that moment wait for it.
    busy: Mutex<HashMap<Digest, Arc<tokio::sync::Mutex<()>>>>,
}

impl Through {
    /// Brings it by this client, with its credentials and mirrors.
    pub fn new(client: Client) -> Self {
        Self { client, asked: Mutex::default(), busy: Mutex::default() }
    }

    /// The manifest or index of a name.
    pub(super) async fn manifest(
        &self,
        images: &Arc<Store>,
        name: &Reference,
    ) -> Result<(Descriptor, Bytes), Failure> {
        let key = name.to_string();
        let known = self.cached(images, &key).await?;
        let fresh = name.digest().is_some() || self.asked(&key);
        if let Some(known) = known.as_ref().filter(|_| fresh) {
            return Ok(known.clone());
        }
        match self.client.manifest(name).await {
            Ok((descriptor, bytes)) => {
                let (store, kept, content) = (Arc::clone(images), descriptor.clone(), bytes.clone());
                let key_kept = key.clone();
                blocking(move || {
                    store.blobs().put_by(kept.digest.algorithm(), &content)?;
                    Ok(store.keep_cached(&key_kept, &kept)?)
                })
                .await?;
                self.remember(key);
                Ok((descriptor, bytes))
            }
            Err(error) => match known {
                Some(known) => {
                    tracing::warn!(%error, image = %name, "its registry does not answer: what was cached is served");
                    Ok(known)
                }
                None => {
                    Err(Failure::new(Code::ManifestUnknown, format!("not here, and not brought: {error}")))
                }
            },
        }
    }

    /// What a name stood for last, when its content is still here.
    async fn cached(&self, images: &Arc<Store>, key: &str) -> Result<Option<(Descriptor, Bytes)>, Failure> {
        let (store, key) = (Arc::clone(images), key.to_owned());
        blocking(move || {
            let Some(descriptor) = store.cached(&key) else { return Ok(None) };
            if !store.blobs().touch(&descriptor.digest) {
                return Ok(None);
            }
            let bytes = store.document(&descriptor.digest)?.into();
            Ok(Some((descriptor, bytes)))
        })
        .await
    }

    fn asked(&self, key: &str) -> bool {
        locked(&self.asked).get(key).is_some_and(|at| at.elapsed() < FRESH)
    }

    fn remember(&self, key: String) {
        let mut asked = locked(&self.asked);
        asked.retain(|_, at| at.elapsed() < FRESH);
        asked.insert(key, Instant::now());
    }

    /// A blob of a repository, on its way; nothing when it is here meanwhile.
    pub(super) async fn blob(
        &self,
        images: &Arc<Store>,
        name: &Reference,
        digest: Digest,
    ) -> Result<Option<Arriving>, Failure> {
        let turn = {
            let mut busy = locked(&self.busy);
            busy.retain(|_, turn| Arc::strong_count(turn) > 1);
            Arc::clone(busy.entry(digest).or_default())
        };
        // Who comes later waits until it is here.
        let guard = turn.lock_owned().await;
        let store = Arc::clone(images);
        if blocking(move || Ok(store.blobs().touch(&digest))).await? {
            return Ok(None);
        }
        self.client.fetch(images, name, digest, guard).await.map_err(missing)
    }

    /// How large a blob of a repository is, which does not come for that.
    pub(super) async fn blob_size(&self, name: &Reference, digest: &Digest) -> Result<u64, Failure> {
        self.client.blob_size(name, digest).await.map_err(missing)
    }
}

fn missing(error: wharf_image::Error) -> Failure {
    Failure::new(Code::BlobUnknown, format!("not here, and not brought: {error}"))
}

fn locked<T>(mutex: &Mutex<T>) -> MutexGuard<'_, T> {
    mutex.lock().unwrap_or_else(PoisonError::into_inner)
}
