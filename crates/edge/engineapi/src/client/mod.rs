//! The client of other registries: images in and out, with the credentials docker has.
//!
//! Content goes straight between the connection and the image store, every digest is checked while it
//! streams, and a download that breaks goes on where it stopped, even in another process. Manifests are
//! kept and sent as the bytes they are. Registries on this machine are spoken to in plain HTTP, all others
//! through TLS.

mod auth;
mod progress;
mod pull;
mod push;

use std::{
    collections::HashMap,
    sync::{Arc, Mutex, PoisonError},
    time::Duration,
};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use serde::Deserialize;
use wharf_http::{Body, Fetcher, empty};
use wharf_image::{Error, Reference};

pub use auth::{Credential, DockerConfig};
pub use progress::{Progress, Silent, Step};

use auth::Challenge;

/// A redirected download passes at most so many servers.
const MAX_REDIRECTS: usize = 5;
/// A server that sends nothing for so long is given up.
const SILENCE: Duration = Duration::from_secs(60);
/// Blobs in flight at once.
const PARALLEL: usize = 4;
/// Attempts of one blob.
const ATTEMPTS: usize = 5;
const MAX_ANSWER: usize = 1 << 20;

type Result<T> = std::result::Result<T, Error>;

/// A client of registries. Cheap to clone; clones share connections and tokens.
#[derive(Clone, Default)]
pub struct Client {
    http: Fetcher,
    credentials: Arc<DockerConfig>,
    /// What worked last, by host and repository.
    authorization: Arc<Mutex<HashMap<(String, String), HeaderValue>>>,
}

/// One repository of one registry.
struct Remote<'a> {
    client: &'a Client,
    domain: &'a str,
    repository: &'a str,
    base: String,
}

/// A request that can be sent again.
struct Ask<'a> {
    method: Method,
    url: String,
    headers: HeaderMap,
    body: Box<dyn FnMut() -> Result<Body> + Send + 'a>,
}

impl<'a> Ask<'a> {
    fn new(method: Method, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: HeaderMap::new(), body: Box::new(|| Ok(empty())) }
    }

    fn header(mut self, name: header::HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.append(name, value.into());
        self
    }

    fn body(mut self, make: impl FnMut() -> Result<Body> + Send + 'a) -> Self {
        self.body = Box::new(make);
        self
    }
}

impl Client {
    /// A client without credentials.
    pub fn new() -> Self {
        Self::default()
    }

    /// A client with these credentials.
    pub fn with_credentials(credentials: DockerConfig) -> Self {
        Self { credentials: Arc::new(credentials), ..Self::default() }
    }

    /// Tries the credentials for a registry: whether it lets one in with them.
    ///
    /// # Errors
    /// When it does not, or cannot be reached.
    pub async fn log_in(&self, domain: &str) -> Result<()> {
        let remote = Remote { client: self, domain, repository: "", base: base(domain) };
        let mut ask = Ask::new(Method::GET, remote.url(""));
        let response = remote.send(&mut ask).await?;
        match response.status().is_success() {
            true => Ok(()),
            false => Err(remote.refuse("this user", response).await),
        }
    }

    fn remote<'a>(&'a self, reference: &'a Reference) -> Remote<'a> {
        let (domain, repository) = (reference.domain(), reference.path());
        Remote { client: self, domain, repository, base: format!("{}/{repository}", base(domain)) }
    }
}

/// Where the API of a registry begins. Those of this machine speak plain HTTP.
fn base(domain: &str) -> String {
    let host = if domain == "docker.io" { "registry-1.docker.io" } else { domain };
    let scheme = if wharf_image::is_loopback_registry(domain) { "http" } else { "https" };
    format!("{scheme}://{host}/v2")
}

impl Remote<'_> {
    fn error(&self, problem: impl Into<String>) -> Error {
        Error::Remote { host: self.domain.to_owned(), problem: problem.into() }
    }

    fn url(&self, rest: &str) -> String {
        format!("{}/{rest}", self.base)
    }

    /// Sends a request, first with the authorization that worked before, and once more with what the
    /// registry then asks for.
    async fn send(&self, ask: &mut Ask<'_>) -> Result<Response<Body>> {
        let key = (self.domain.to_owned(), self.repository.to_owned());
        let known = || self.client.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known().get(&key).cloned();
        let response = self.send_once(ask, before.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let challenge = challenges.filter_map(|v| v.to_str().ok()).find_map(Challenge::parse);
        let Some(challenge) = challenge else {
            return Err(self.error("it wants an authentication this client does not know"));
        };
        let push = ask.method != Method::GET && ask.method != Method::HEAD;
        let authorization = self.authorize(challenge, push).await?;
        known().insert(key, authorization.clone());
        self.send_once(ask, Some(&authorization)).await
    }

    async fn send_once(
        &self,
        ask: &mut Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> Result<Response<Body>> {
        let mut url: Uri = ask.url.parse().map_err(|_| self.error(format!("bad address '{}'", ask.url)))?;
        let own = url.authority().cloned();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::new((ask.body)()?);
            *request.method_mut() = ask.method.clone();
            *request.uri_mut() = url.clone();
            *request.headers_mut() = ask.headers.clone();
            // Whom a registry redirects to must not see what opens the registry.
            if let Some(value) = authorization.filter(|_| url.authority() == own.as_ref()) {
                request.headers_mut().insert(header::AUTHORIZATION, value.clone());
            }
            let agent = HeaderValue::from_static(concat!("wharf/", env!("CARGO_PKG_VERSION")));
            request.headers_mut().insert(header::USER_AGENT, agent);
            let response = self.client.http.send(request).await.map_err(|e| self.error(e.to_string()))?;
            let redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let next = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
            match next.filter(|_| redirect && (ask.method == Method::GET || ask.method == Method::HEAD)) {
                Some(next) => url = self.resolve(&url, next)?,
                None => return Ok(response),
            }
        }
        Err(self.error(format!("it redirects more than {MAX_REDIRECTS} times")))
    }

    /// A `Location` relative to the address it came from.
    fn resolve(&self, from: &Uri, location: &str) -> Result<Uri> {
        let bad = || self.error(format!("it redirects to the malformed address '{location}'"));
        let text = match location.starts_with('/') {
            true => {
                let scheme = from.scheme_str().unwrap_or("https");
                format!("{scheme}://{}{location}", from.authority().map_or("", |a| a.as_str()))
            }
            false => location.to_owned(),
        };
        let uri: Uri = text.parse().map_err(|_| bad())?;
        // From TLS to plain text would give the content away to change.
        if uri.authority().is_none()
            || (from.scheme_str() == Some("https") && uri.scheme_str() != Some("https"))
        {
            return Err(bad());
        }
        Ok(uri)
    }

    async fn authorize(&self, challenge: Challenge, push: bool) -> Result<HeaderValue> {
        let (credentials, domain) = (Arc::clone(&self.client.credentials), self.domain.to_owned());
        // A credential helper is a program to wait for.
        let credential = tokio::task::spawn_blocking(move || credentials.credential(&domain));
        let credential = credential.await.ok().flatten();
        let value = match challenge {
            Challenge::Basic => credential.and_then(|c| c.basic()).ok_or_else(|| self.log_in())?,
            Challenge::Bearer { realm, service, scope } => {
                let actions = if push { "pull,push" } else { "pull" };
                let own = || match self.repository {
                    "" => String::new(),
                    repository => format!("repository:{repository}:{actions}"),
                };
                let scope = scope.unwrap_or_else(own);
                format!("Bearer {}", self.token(&realm, service, scope, credential).await?)
            }
        };
        HeaderValue::from_str(&value).map_err(|_| self.error("its token is not usable in a header"))
    }

    fn log_in(&self) -> Error {
        let domain = self.domain;
        self.error(format!("it wants a user and password; `docker login {domain}` stores them for wharf too"))
    }

    /// The request for a token: a POST with a refresh token, else a GET.
    fn token_request(
        &self,
        realm: &str,
        service: Option<&str>,
        scope: &str,
        credential: Option<&Credential>,
    ) -> Result<Request<Body>> {
        let safe = realm.starts_with("https://") || self.base.starts_with("http://");
        if !safe && credential.is_some() {
            return Err(self.error(format!("it wants the password sent in plain text to {realm}")));
        }
        let mut form = form_urlencoded::Serializer::new(String::new());
        form.extend_pairs((!scope.is_empty()).then_some(("scope", scope)));
        form.extend_pairs(service.map(|service| ("service", service)));
        let mut url = realm.to_owned();
        let mut request = Request::new(empty());
        if let Some(Credential::Identity(token)) = credential {
            form.append_pair("grant_type", "refresh_token").append_pair("client_id", "wharf");
            form.append_pair("refresh_token", token);
            request = Request::new(wharf_http::full(form.finish()));
            *request.method_mut() = Method::POST;
            let kind = HeaderValue::from_static("application/x-www-form-urlencoded");
            request.headers_mut().insert(header::CONTENT_TYPE, kind);
        } else {
            url.push(if realm.contains('?') { '&' } else { '?' });
            url.push_str(&form.finish());
        }
        *request.uri_mut() =
            url.parse().map_err(|_| self.error(format!("its token address '{realm}' is malformed")))?;
        let secret = credential.and_then(Credential::basic).and_then(|s| HeaderValue::from_str(&s).ok());
        request.headers_mut().extend(secret.map(|value| (header::AUTHORIZATION, value)));
        Ok(request)
    }

    async fn token(
        &self,
        realm: &str,
        service: Option<String>,
        scope: String,
        credential: Option<Credential>,
    ) -> Result<String> {
        #[derive(Deserialize)]
        struct Answer {
            token: Option<String>,
            access_token: Option<String>,
        }
        let request = self.token_request(realm, service.as_deref(), &scope, credential.as_ref())?;
        let response = self.client.http.send(request).await.map_err(|e| self.error(e.to_string()))?;
        if !response.status().is_success() {
            let said = said(response).await;
            return Err(match credential {
                None => self.log_in(),
                Some(_) => self.error(format!("it gives no token for {scope}: {said}")),
            });
        }
        let bytes = wharf_http::collect(response.into_body(), MAX_ANSWER)
            .await
            .map_err(|e| self.error(format!("cannot read its token: {e}")))?;
        let answer: Option<Answer> = serde_json::from_slice(&bytes).ok();
        let token = answer.and_then(|a| a.token.or(a.access_token)).filter(|token| !token.is_empty());
        token.ok_or_else(|| self.error("its token service answered without a token"))
    }

    /// What a response that is no success says, as an error about `what`.
    async fn refuse(&self, what: &str, response: Response<Body>) -> Error {
        let status = response.status();
        let said = said(response).await;
        match status {
            StatusCode::NOT_FOUND => self.error(format!("it has no {what} ({said})")),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.error(format!(
                "it does not allow access to {what} ({said}); does it exist, and is `docker login {}` done?",
                self.domain
            )),
            _ => self.error(format!("{what}: {said}")),
        }
    }
}

/// The status and the registry's own words for it.
async fn said(response: Response<Body>) -> String {
    let status = response.status();
    let bytes = wharf_http::collect(response.into_body(), MAX_ANSWER).await.unwrap_or_default();
    let body: serde_json::Value = serde_json::from_slice(&bytes).unwrap_or_default();
    let error = &body["errors"][0];
    let words = error["message"].as_str().filter(|m| !m.is_empty()).or(error["code"].as_str());
    match words.or(body["details"].as_str()) {
        Some(words) => format!("{status}: {}", words.chars().take(300).collect::<String>()),
        None => status.to_string(),
    }
}
