//! One repository at one server: requests, redirects, and what opens the door.

use std::sync::{Arc, PoisonError};

use http::{HeaderMap, HeaderValue, Method, Request, Response, StatusCode, Uri, header};
use serde::Deserialize;
use wharf_http::{
    Body,
    client::{ClientError, Failure},
    empty,
};
use wharf_image::Error;

use super::{Client, Credential, MAX_TOKENS, Result, auth::Challenge, hosts::Host};

/// A redirected download passes at most so many servers.
const MAX_REDIRECTS: usize = 5;
const MAX_ANSWER: usize = 1 << 20;

/// One repository at one server of a registry.
pub(super) struct Remote<'a> {
    pub(super) client: &'a Client,
    /// The registry, as names of images have it.
    pub(super) domain: &'a str,
    pub(super) repository: &'a str,
    pub(super) host: Arc<Host>,
}

/// A request that can be sent again.
pub(super) struct Ask<'a> {
    pub(super) method: Method,
    pub(super) url: String,
    pub(super) headers: HeaderMap,
    body: Box<dyn FnMut() -> Result<Body> + Send + 'a>,
}

/// Why there is no answer: another attempt may get one, or not.
pub(super) enum Broken {
    Connection(Error),
    Refused(Error),
}

impl From<Broken> for Error {
    fn from(broken: Broken) -> Self {
        match broken {
            Broken::Connection(error) | Broken::Refused(error) => error,
        }
    }
}

impl From<Error> for Broken {
    fn from(error: Error) -> Self {
        Self::Refused(error)
    }
}

impl<'a> Ask<'a> {
    pub(super) fn new(method: Method, url: impl Into<String>) -> Self {
        Self { method, url: url.into(), headers: HeaderMap::new(), body: Box::new(|| Ok(empty())) }
    }

    pub(super) fn header(mut self, name: header::HeaderName, value: impl Into<HeaderValue>) -> Self {
        self.headers.append(name, value.into());
        self
    }

    pub(super) fn body(mut self, make: impl FnMut() -> Result<Body> + Send + 'a) -> Self {
        self.body = Box::new(make);
        self
    }
}

impl Remote<'_> {
    pub(super) fn error(&self, problem: impl Into<String>) -> Error {
        Error::Remote { host: self.host.name.clone(), problem: problem.into() }
    }

    /// An address below the repository. A mirror is told of which registry.
    pub(super) fn url(&self, rest: &str) -> String {
        let base = &self.host.base;
        let mut url = match self.repository {
            "" => format!("{base}/{rest}"),
            repository => format!("{base}/{repository}/{rest}"),
        };
        if self.host.mirror {
            url.push(if rest.contains('?') { '&' } else { '?' });
            url.extend(["ns=", self.domain]);
        }
        url
    }

    /// Sends a request, first with the authorization that worked before, and once more with what the
    /// registry then asks for.
    pub(super) async fn send(&self, ask: &mut Ask<'_>) -> std::result::Result<Response<Body>, Broken> {
        let key = (self.host.base.clone(), self.repository.to_owned());
        let known = || self.client.authorization.lock().unwrap_or_else(PoisonError::into_inner);
        let before = known().get(&key).cloned();
        let response = self.send_once(ask, before.as_ref()).await?;
        if response.status() != StatusCode::UNAUTHORIZED {
            return Ok(response);
        }
        let challenges = response.headers().get_all(header::WWW_AUTHENTICATE).iter();
        let challenge = challenges.filter_map(|v| v.to_str().ok()).find_map(Challenge::parse);
        let Some(challenge) = challenge else {
            return Err(self.error("it wants an authentication this client does not know").into());
        };
        let push = ask.method != Method::GET && ask.method != Method::HEAD;
        let authorization = self.authorize(challenge, push).await?;
        {
            let mut known = known();
            if known.len() >= MAX_TOKENS {
                known.clear();
            }
            known.insert(key, authorization.clone());
        }
        self.send_once(ask, Some(&authorization)).await
    }

    async fn send_once(
        &self,
        ask: &mut Ask<'_>,
        authorization: Option<&HeaderValue>,
    ) -> std::result::Result<Response<Body>, Broken> {
        let mut url: Uri = ask.url.parse().map_err(|_| self.error(format!("bad address '{}'", ask.url)))?;
        let own = url.authority().cloned();
        for _ in 0..=MAX_REDIRECTS {
            let mut request = Request::new((ask.body)()?);
            *request.method_mut() = ask.method.clone();
            *request.uri_mut() = url.clone();
            *request.headers_mut() = ask.headers.clone();
            // Whom a registry redirects to must not see what opens the registry.
            if url.authority() == own.as_ref() {
                request.headers_mut().extend(self.host.headers.clone());
                request.headers_mut().extend(authorization.map(|v| (header::AUTHORIZATION, v.clone())));
            }
            let agent = HeaderValue::from_static(concat!("wharf/", env!("CARGO_PKG_VERSION")));
            request.headers_mut().insert(header::USER_AGENT, agent);
            let response = self.host.http.fetch(request).await.map_err(|e| self.broken(&e))?;
            let redirect = matches!(response.status().as_u16(), 301 | 302 | 303 | 307 | 308);
            let next = response.headers().get(header::LOCATION).and_then(|v| v.to_str().ok());
            match next.filter(|_| redirect && (ask.method == Method::GET || ask.method == Method::HEAD)) {
                Some(next) => url = self.resolve(&url, next)?,
                None => return Ok(response),
            }
        }
        Err(self.error(format!("it redirects more than {MAX_REDIRECTS} times")).into())
    }

    fn broken(&self, error: &ClientError) -> Broken {
        let told = self.error(error.to_string());
        match error.failure {
            Failure::Unusable => Broken::Refused(told),
            _ => Broken::Connection(told),
        }
    }

    /// A `Location` relative to the address it came from.
    pub(super) fn resolve(&self, from: &Uri, location: &str) -> Result<Uri> {
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
        let (credentials, host) = (self.client.credentials.clone(), self.host.name.clone());
        // A credential helper is a program to wait for.
        let found = tokio::task::spawn_blocking(move || credentials.find(&host)).await;
        let credential = found.unwrap_or(Ok(None)).map_err(|problem| self.error(problem))?;
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
        let domain = &self.host.name;
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
        let safe = realm.starts_with("https://") || self.host.base.starts_with("http://");
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
        let response = self.host.http.fetch(request).await.map_err(|e| self.error(e.to_string()))?;
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
    pub(super) async fn refuse(&self, what: &str, response: Response<Body>) -> Error {
        let status = response.status();
        let said = said(response).await;
        match status {
            StatusCode::NOT_FOUND => self.error(format!("it has no {what} ({said})")),
            StatusCode::UNAUTHORIZED | StatusCode::FORBIDDEN => self.error(format!(
                "it does not allow access to {what} ({said}); does it exist, and is `docker login {}` done?",
                self.host.name
            )),
            _ => self.error(format!("{what}: {said}")),
        }
    }
}

/// The status and the registry's own words for it.
pub(super) async fn said(response: Response<Body>) -> String {
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
