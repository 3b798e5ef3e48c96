//! Objects that are kept encrypted: a store around another one, which sees of them only what no one can read.
//!
//! A value is `k8s:enc:aesgcm:v1:NAME:`, twelve random bytes, and the sealed object; the key it is stored under is
//! authenticated with it, so that no value can be put in another's place. What was written by another than the first
//! provider of a resource is written anew when it is next replaced, even by itself.
//!
//! What cannot be read at the beginning keeps the server from starting. What another server writes later and cannot be
//! read is not there any more, and from then on nothing is written, so that nobody acts upon that.
//!
//! Source: Kubernetes' encryption at rest.

mod configuration;
#[cfg(test)]
mod tests;

use std::{
    collections::HashSet,
    sync::{Arc, Mutex, OnceLock, PoisonError, RwLock},
};

use bytes::Bytes;
use ring::{
    aead::{Aad, NONCE_LEN, Nonce},
    rand::{SecureRandom, SystemRandom},
};
use wharf_state::{Change, Error, KeyValue, Pending, Revision, Snapshot, Store, Subscriber, Write};

use crate::configuration::ConfigError;

use configuration::{Key, Provider, Rule};

const PREFIX: &[u8] = b"k8s:enc:";
const AES_GCM: &str = "k8s:enc:aesgcm:v1:";

/// What an EncryptionConfiguration says.
#[derive(Debug, Default)]
pub struct Encryption(Vec<Rule>);

impl Encryption {
    /// Nothing is encrypted, and nothing that is can be read.
    pub const fn none() -> Self {
        Self(Vec::new())
    }

    /// Reads the file of `--encryption-provider-config`.
    ///
    /// # Errors
    /// The field that is wrong, and why. Keys are never shown.
    pub fn parse(text: &str) -> Result<Self, ConfigError> {
        configuration::parse(text).map(Self)
    }

    fn rule(&self, key: &[u8]) -> Option<&Rule> {
        let end = key.iter().position(|byte| *byte == b'/')?;
        let qualified = std::str::from_utf8(key.get(..end)?).ok()?;
        self.0.iter().find(|rule| rule.covers(qualified))
    }
}

/// Keys of objects that are not stored as their first provider writes them.
#[derive(Debug, Clone, Default)]
pub struct Stale(Arc<RwLock<HashSet<Vec<u8>>>>);

impl Stale {
    pub(crate) fn contains(&self, qualified: &str, key: &str) -> bool {
        let all = self.0.read().unwrap_or_else(PoisonError::into_inner);
        !all.is_empty() && all.contains(format!("{qualified}/{key}").as_bytes())
    }

    fn set(&self, key: &[u8], stale: bool) {
        if !stale && self.0.read().unwrap_or_else(PoisonError::into_inner).is_empty() {
            return;
        }
        let mut all = self.0.write().unwrap_or_else(PoisonError::into_inner);
        match stale {
            true => drop(all.insert(key.to_vec())),
            false => drop(all.remove(key)),
        }
    }
}

/// A store in which some objects are encrypted.
pub struct Encrypted {
    inner: Arc<dyn Store>,
    seal: Arc<Seal>,
}

struct Seal {
    encryption: Encryption,
    random: SystemRandom,
    stale: Stale,
    /// The first change that could not be read, and why.
    lost: OnceLock<String>,
}

impl Encrypted {
    /// Around a store, by a configuration.
    pub fn new(inner: Arc<dyn Store>, encryption: Encryption) -> Self {
        let seal =
            Seal { encryption, random: SystemRandom::new(), stale: Stale::default(), lost: OnceLock::new() };
        Self { inner, seal: Arc::new(seal) }
    }

    /// What is to be written anew, for the server.
    pub fn stale(&self) -> Stale {
        self.seal.stale.clone()
    }
}

fn unreadable(key: &[u8], why: impl Into<String>) -> Error {
    let place = String::from_utf8_lossy(key).into_owned();
    Error::Storage { doing: "decrypt", place, reason: why.into() }
}

impl Seal {
    /// A value as it is stored.
    fn close(&self, key: &[u8], value: &Bytes) -> Result<Bytes, Error> {
        let first = self.encryption.rule(key).and_then(|rule| rule.providers.first());
        let Some(Provider::AesGcm(own)) = first else { return Ok(value.clone()) };
        let Key { name, key: secret } = &**own;
        let mut nonce = [0; NONCE_LEN];
        self.random.fill(&mut nonce).map_err(|_| unreadable(key, "the system has no randomness"))?;
        let mut sealed = value.to_vec();
        secret
            .seal_in_place_append_tag(Nonce::assume_unique_for_key(nonce), Aad::from(key), &mut sealed)
            .map_err(|_| unreadable(key, "it cannot be encrypted"))?;
        Ok([AES_GCM.as_bytes(), name.as_bytes(), b":", &nonce, &sealed].concat().into())
    }

    /// A stored value as it was written, and whether its first provider would write it otherwise.
    fn open(&self, key: &[u8], value: &Bytes) -> Result<(Bytes, bool), Error> {
        let providers = self.encryption.rule(key).map_or(&[][..], |rule| &rule.providers);
        if !value.starts_with(PREFIX) {
            let place = providers.iter().position(|provider| matches!(provider, Provider::Identity));
            return match place {
                None if !providers.is_empty() => Err(unreadable(
                    key,
                    "it is not encrypted, and the provider identity is not configured for it; add it as the last one",
                )),
                place => Ok((value.clone(), place.is_some_and(|place| place > 0))),
            };
        }
        let rest = value
            .strip_prefix(AES_GCM.as_bytes())
            .ok_or_else(|| unreadable(key, "it is encrypted by a provider that is not known here"))?;
        let end = rest.iter().take(256).position(|byte| *byte == b':');
        let end = end.ok_or_else(|| unreadable(key, "the name of its key is missing"))?;
        let (name, sealed) = (rest.get(..end).unwrap_or_default(), rest.get(end + 1..).unwrap_or_default());
        let shown = String::from_utf8_lossy(name);
        let found = providers.iter().enumerate().find_map(|(place, provider)| match provider {
            Provider::AesGcm(own) if own.name.as_bytes() == name => Some((place, own)),
            _ => None,
        });
        let Some((place, own)) = found else {
            let why = format!(
                "it is encrypted by aesgcm with the key {shown:?}, which is not configured for it; give that key in the file of --encryption-provider-config"
            );
            return Err(unreadable(key, why));
        };
        let wrong = || {
            unreadable(
                key,
                format!(
                    "the aesgcm key {shown:?} of --encryption-provider-config is not the one it was encrypted with, or it was changed on disk"
                ),
            )
        };
        let (nonce, sealed) = sealed.split_at_checked(NONCE_LEN).ok_or_else(wrong)?;
        let nonce = Nonce::try_assume_unique_for_key(nonce).map_err(|_| wrong())?;
        let mut sealed = sealed.to_vec();
        let length = own.key.open_in_place(nonce, Aad::from(key), &mut sealed).map_err(|_| wrong())?.len();
        sealed.truncate(length);
        Ok((sealed.into(), place > 0))
    }

    /// A change as it was written.
    fn change(&self, change: &Change) -> Result<Change, Error> {
        let mut change = change.clone();
        let mut stale = false;
        if let Some(value) = &change.value {
            let (opened, is_stale) = self.open(&change.key, value)?;
            (change.value, stale) = (Some(opened), is_stale);
        }
        self.stale.set(&change.key, stale);
        Ok(change)
    }

    /// Whether changes are as they were written: nothing is configured, and nobody else has encrypted them.
    fn is_plain(&self, changes: &[Change]) -> bool {
        let is_sealed = |change: &Change| change.value.as_ref().is_some_and(|v| v.starts_with(PREFIX));
        self.encryption.0.is_empty() && !changes.iter().any(is_sealed)
    }

    fn feed(&self, changes: &[Change]) -> Vec<Change> {
        let opened = changes.iter().map(|change| {
            self.change(change).unwrap_or_else(|error| {
                tracing::error!(%error, "a change that another server wrote cannot be followed; nothing is written any more until the server is started anew and can read it");
                // Whoever asks gets no older one for the one there is.
                let _ = self.lost.set(error.to_string());
                Change { value: None, ..change.clone() }
            })
        });
        opened.collect()
    }

    /// Refuses writes of a server that does not know what there is.
    fn is_current(&self) -> Result<(), Error> {
        let Some(lost) = self.lost.get() else { return Ok(()) };
        let reason = format!(
            "what another server wrote is not known here ({lost}); start the server anew when it can be read"
        );
        Err(Error::Refused { reason })
    }
}

/// Reads what the inner store tells, for a subscriber of the outer one.
struct Opening {
    seal: Arc<Seal>,
    subscriber: Box<dyn Subscriber>,
    /// The first object that cannot be read.
    failure: Arc<Mutex<Option<Error>>>,
}

impl Subscriber for Opening {
    fn load(&mut self, mut keys: Vec<KeyValue>) {
        keys.retain_mut(|object| match self.seal.open(&object.key, &object.value) {
            Ok((value, stale)) => {
                self.seal.stale.set(&object.key, stale);
                object.value = value;
                true
            }
            Err(error) => {
                self.failure.lock().unwrap_or_else(PoisonError::into_inner).get_or_insert(error);
                false
            }
        });
        self.subscriber.load(keys);
    }

    fn loaded(&mut self, revision: Revision) {
        self.subscriber.loaded(revision);
    }

    fn apply(&mut self, changes: &[Change]) {
        match self.seal.is_plain(changes) {
            true => self.subscriber.apply(changes),
            false => self.subscriber.apply(&self.seal.feed(changes)),
        }
    }
}

impl Store for Encrypted {
    fn subscribe(&self, subscriber: Box<dyn Subscriber>) -> Pending<()> {
        let failure = Arc::<Mutex<Option<Error>>>::default();
        let opening = Opening { seal: Arc::clone(&self.seal), subscriber, failure: Arc::clone(&failure) };
        let subscribed = self.inner.subscribe(Box::new(opening));
        Box::pin(async move {
            subscribed.await?;
            failure.lock().unwrap_or_else(PoisonError::into_inner).take().map_or(Ok(()), Err)
        })
    }

    fn commit(&self, mut writes: Vec<Write>) -> Pending<Revision> {
        if let Err(error) = self.seal.is_current() {
            return Box::pin(std::future::ready(Err(error)));
        }
        for write in &mut writes {
            let Some(value) = &write.value else { continue };
            match self.seal.close(&write.key, value) {
                Ok(closed) => write.value = Some(closed),
                Err(error) => return Box::pin(std::future::ready(Err(error))),
            }
        }
        self.inner.commit(writes)
    }

    /// As they are stored: a backup is no place for what is encrypted everywhere else.
    fn snapshot(&self) -> Pending<Snapshot> {
        self.inner.snapshot()
    }
}
