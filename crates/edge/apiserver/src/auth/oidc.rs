//! Tokens of other issuers: who asks is said by a provider of OpenID Connect, whose keys are fetched and kept.
//!
//! Source: OpenID Connect Core and Discovery 1.0; Kubernetes' `--oidc-*` flags and AuthenticationConfiguration.

mod claims;
mod configuration;
#[cfg(test)]
mod tests;

use std::{
    sync::{Arc, PoisonError, RwLock},
    time::{Duration, Instant},
};

use http::{Request, header};
use serde_json::Value;
use tokio::sync::{Mutex, MutexGuard};
use wharf_base::Timestamp;
use wharf_http::{collect, empty};

use super::{
    Identity,
    jwt::{Jwt, Key, keys},
};
use crate::callout::Clients;

use claims::Mapping;

pub use configuration::{Anonymous, Authentication, OidcFlags};

/// Bytes of a provider's answer at the most, and how long it may take.
const MAX_ANSWER: usize = 1 << 20;
const PATIENCE: Duration = Duration::from_secs(10);
/// A provider is asked no more often than this, whatever tokens are shown.
const PAUSE: Duration = Duration::from_secs(10);
/// After this keys are fetched again, so that those a provider has withdrawn go.
const FRESH: Duration = Duration::from_secs(3600);
/// How far the clock of a provider may be ahead.
const AHEAD: i64 = 300;

/// A provider whose tokens are believed.
#[derive(Debug)]
pub struct Issuer {
    url: String,
    /// Where its keys are found out, if not at the usual place under its URL.
    discovery: Option<String>,
    /// Authorities of its certificate in PEM; those this machine trusts when empty.
    authority: String,
    audiences: Vec<String>,
    algorithms: Vec<String>,
    mapping: Mapping,
}

#[derive(Default)]
struct Known {
    keys: Vec<Key>,
    since: Option<Instant>,
}

struct Provider {
    issuer: Issuer,
    known: RwLock<Known>,
    /// When it was last asked; held while it is.
    asked: Mutex<Option<Instant>>,
}

/// Whether one of the keys of a JSON Web Key Set has signed a token, whatever it says.
pub fn is_signed(token: &str, key_set: &Value) -> bool {
    Jwt::parse(token).is_some_and(|jwt| jwt.is_signed_by(&keys(key_set)))
}

/// All providers.
pub(crate) struct Issuers(Vec<Arc<Provider>>);

impl Issuers {
    pub(crate) fn new(issuers: Vec<Issuer>) -> Self {
        let provider =
            |issuer| Arc::new(Provider { issuer, known: RwLock::default(), asked: Mutex::default() });
        Self(issuers.into_iter().map(provider).collect())
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.0.is_empty()
    }

    /// Who a token is of; nothing when it is no valid token of a provider.
    pub(crate) async fn check(
        &self,
        clients: &Arc<Clients>,
        token: &str,
        now: Timestamp,
    ) -> Option<Identity> {
        let jwt = Jwt::parse(token)?;
        let provider = self.0.iter().find(|provider| jwt.claims["iss"] == provider.issuer.url.as_str())?;
        match provider.identity(clients, &jwt, now).await {
            Ok(identity) => Some(identity),
            Err(why) => {
                tracing::debug!(issuer = provider.issuer.url, why, "a token is not believed");
                None
            }
        }
    }

    /// Asks every provider that has not answered yet for its keys; whether all have.
    pub(crate) async fn prepare(&self, clients: &Clients) -> bool {
        for provider in &self.0 {
            if provider.read().since.is_none() {
                provider.refresh(clients).await;
                // A token by a key that is newer still need not wait.
                *provider.asked.lock().await = None;
            }
        }
        self.0.iter().all(|provider| provider.read().since.is_some())
    }
}

impl Provider {
    fn read(&self) -> std::sync::RwLockReadGuard<'_, Known> {
        self.known.read().unwrap_or_else(PoisonError::into_inner)
    }

    async fn identity(
        self: &Arc<Self>,
        clients: &Arc<Clients>,
        jwt: &Jwt<'_>,
        now: Timestamp,
    ) -> Result<Identity, String> {
        if !self.issuer.algorithms.contains(&jwt.algorithm) {
            return Err(format!("it is signed by {:?}, which is not among those allowed", jwt.algorithm));
        }
        if self.read().since.is_some_and(|since| since.elapsed() > FRESH) {
            // The old ones may do: whoever asks does not wait for the new ones.
            let (provider, clients) = (Arc::clone(self), Arc::clone(clients));
            tokio::spawn(async move { Box::pin(provider.refresh_old(&clients)).await });
        }
        if !jwt.is_signed_by(&self.read().keys) {
            self.refresh(clients).await;
            if !jwt.is_signed_by(&self.read().keys) {
                return Err("none of the provider's keys has signed it".into());
            }
        }
        self.issuer.valid(&jwt.claims, now)?;
        self.issuer.mapping.identity(&jwt.claims)
    }

    /// Fetches the keys, unless that was tried just now. Others that need them at the same time wait for them.
    async fn refresh(&self, clients: &Clients) {
        let seen = self.read().since;
        self.fetch(clients, self.asked.lock().await, seen).await;
    }

    /// Fetches the keys, unless somebody does.
    async fn refresh_old(&self, clients: &Clients) {
        let seen = self.read().since;
        if let Ok(asked) = self.asked.try_lock() {
            self.fetch(clients, asked, seen).await;
        }
    }

    async fn fetch(
        &self,
        clients: &Clients,
        mut asked: MutexGuard<'_, Option<Instant>>,
        seen: Option<Instant>,
    ) {
        let renewed = self.read().since != seen;
        if renewed || asked.is_some_and(|at| at.elapsed() < PAUSE) {
            return;
        }
        match self.issuer.fetch(clients).await {
            Ok(keys) => {
                let known = Known { keys, since: Some(Instant::now()) };
                *self.known.write().unwrap_or_else(PoisonError::into_inner) = known;
            }
            Err(why) => tracing::warn!(
                issuer = self.issuer.url,
                why,
                "the keys of an issuer of tokens cannot be fetched"
            ),
        }
        *asked = Some(Instant::now());
    }
}

/// Without usable keys there is none to replace others by: a provider that sends none is out of order.
fn usable(set: &Value) -> Result<Vec<Key>, String> {
    let keys = keys(set);
    if keys.is_empty() {
        return Err("there is no key of a supported kind (RSA, P-256, P-384) in the key set".into());
    }
    Ok(keys)
}

impl Issuer {
    /// Whether claims are for this server, and now.
    fn valid(&self, claims: &Value, now: Timestamp) -> Result<(), String> {
        let audience = |wanted: &String| match &claims["aud"] {
            Value::String(one) => one == wanted,
            Value::Array(list) => list.iter().any(|one| one == wanted.as_str()),
            _ => false,
        };
        // Numbers of seconds, which may have a fraction.
        let time = |name: &str| claims[name].as_f64().map(|seconds| seconds as i64);
        match () {
            () if !self.audiences.iter().any(audience) => Err("it is for another audience".into()),
            () if time("exp").is_none_or(|end| end <= now.as_second()) => Err("it has expired".into()),
            () if time("nbf").is_some_and(|start| start > now.as_second() + AHEAD) => {
                Err("it is not valid yet".into())
            }
            () => Ok(()),
        }
    }

    async fn fetch(&self, clients: &Clients) -> Result<Vec<Key>, String> {
        let usual = || format!("{}/.well-known/openid-configuration", self.url.trim_end_matches('/'));
        let place = self.discovery.clone().unwrap_or_else(usual);
        let found = self.get(clients, &place).await?;
        if found["issuer"] != self.url.as_str() {
            return Err(format!("{place} is of the issuer {}, not of {:?}", found["issuer"], self.url));
        }
        let set = found["jwks_uri"].as_str().unwrap_or_default();
        if !set.starts_with("https://") {
            return Err(format!("{place} names {set:?} as jwks_uri, which is no https URL"));
        }
        usable(&self.get(clients, set).await?).map_err(|why| format!("{set}: {why}"))
    }

    async fn get(&self, clients: &Clients, url: &str) -> Result<Value, String> {
        let request = Request::get(url)
            .header(header::ACCEPT, "application/json")
            .header(header::USER_AGENT, "wharf-apiserver")
            .body(empty())
            .map_err(|error| format!("{url}: {error}"))?;
        let exchange = async {
            let response = Box::pin(clients.trusting(&self.authority).fetch(request)).await;
            let response = response.map_err(|error| error.to_string())?;
            let status = response.status();
            if !status.is_success() {
                return Err(format!("the provider answered {status}"));
            }
            let bytes = collect(response.into_body(), MAX_ANSWER).await.map_err(|error| error.to_string())?;
            serde_json::from_slice(&bytes).map_err(|error| format!("the answer is not JSON: {error}"))
        };
        let answer = tokio::time::timeout(PATIENCE, exchange).await;
        let late = || Err(format!("no answer within {} s", PATIENCE.as_secs()));
        answer.unwrap_or_else(|_| late()).map_err(|why| format!("{url}: {why}"))
    }
}
