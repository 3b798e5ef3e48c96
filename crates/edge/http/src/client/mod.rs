//! An HTTP client with pooled connections: HTTP/1.1, h2c and TLS, to a given address or to a URL.
//!
//! It says of each failure whether the request may have reached the server, and gives a request back that did not, so
//! that a caller can send it elsewhere. It follows no redirects and keeps no cookies.

mod connect;
mod pool;

use std::{
    future::Future,
    net::SocketAddr,
    pin::Pin,
    sync::{
        Arc,
        atomic::{AtomicU64, Ordering},
    },
    task::{Context, Poll},
    time::Duration,
};

use bytes::Bytes;
use http::{HeaderValue, Request, Response, Uri, Version, header, uri};
use http_body::{Body as _, Frame, SizeHint};
use http_body_util::BodyExt as _;

use crate::{Body, BoxError, Issued};
use pool::{Link, Pool};

/// Which servers are trusted over TLS.
#[derive(Debug, Clone, Default)]
pub enum Trust {
    /// Those this machine trusts.
    #[default]
    System,
    /// Those with a certificate of these authorities (PEM).
    Authority(String),
    /// Those this machine trusts, and those with a certificate of these authorities (PEM).
    SystemAnd(String),
    /// Any. For targets that ask for it by name, such as a scrape with `insecure_skip_verify`.
    Anything,
}

/// Speaks TLS over a connection to whoever answers, whatever certificate it shows: for probes, which ask whether
/// something answers and tell it nothing.
///
/// # Errors
/// When the other side does not speak TLS.
pub async fn to_anybody(
    stream: tokio::net::TcpStream,
    name: &str,
) -> std::io::Result<impl tokio::io::AsyncRead + tokio::io::AsyncWrite + Send + Unpin + 'static> {
    connect::to_anybody(stream, name).await
}

/// How a client connects and how long it waits.
#[derive(Debug, Clone)]
pub struct ClientConfig {
    /// For a connection, TLS included.
    pub connect_timeout: Duration,
    /// For the head of a response, counted from the last piece of the request that was sent.
    pub response_timeout: Duration,
    /// Unused connections are closed after this. Below the five seconds after which common servers do it, since a
    /// request that meets the server's close fails.
    pub idle_timeout: Duration,
    /// Unused connections kept per target.
    pub idle_per_target: usize,
    /// Servers trusted over TLS.
    pub trust: Trust,
    /// Who the client says it is over TLS, to servers that ask.
    pub identity: Option<Issued>,
    /// HTTP/2 is not offered: many large bodies at once pass faster over connections of their own.
    pub http1_only: bool,
}

impl Default for ClientConfig {
    fn default() -> Self {
        Self {
            connect_timeout: Duration::from_secs(5),
            response_timeout: Duration::from_secs(60),
            idle_timeout: Duration::from_secs(4),
            idle_per_target: 128,
            trust: Trust::System,
            identity: None,
            http1_only: false,
        }
    }
}

/// What is spoken to a target.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub enum Protocol {
    /// HTTP/1.1 in plain.
    Http1,
    /// HTTP/2 in plain, without an upgrade.
    H2c,
    /// HTTP/2 or HTTP/1.1 over TLS, to a server of this name.
    Tls(String),
}

/// A server to send requests to.
#[derive(Debug, Clone, PartialEq, Eq, Hash)]
pub struct Target {
    /// Its address.
    pub address: SocketAddr,
    /// What it speaks.
    pub protocol: Protocol,
}

/// How far a request that failed had come.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Failure {
    /// It cannot be sent at all: its URL or a header is not usable.
    Unusable,
    /// No connection could be made.
    Connect,
    /// A connection was there, but it closed before anything was sent.
    NotSent,
    /// The connection broke before the response's head was there.
    Broken,
    /// The response's head did not come in time.
    Timeout,
}

/// Why a request has no response.
#[derive(Debug, thiserror::Error)]
#[error("{what}: {source}")]
pub struct ClientError {
    /// How far it came.
    pub failure: Failure,
    /// The request as it was given, when nothing of it was sent.
    pub request: Option<Box<Request<Body>>>,
    what: String,
    source: BoxError,
}

impl ClientError {
    fn new(failure: Failure, what: impl Into<String>, source: impl Into<BoxError>) -> Self {
        Self { failure, request: None, what: what.into(), source: source.into() }
    }

    fn with(mut self, request: Request<Body>) -> Self {
        self.request = Some(Box::new(request));
        self
    }
}

/// Sends requests. Cheap to clone; clones share their connections.
#[derive(Clone)]
pub struct Client {
    pool: Arc<Pool>,
}

impl Default for Client {
    fn default() -> Self {
        Self::new(ClientConfig::default())
    }
}

impl Client {
    /// A client without connections.
    pub fn new(config: ClientConfig) -> Self {
        Self { pool: Arc::new(Pool::new(config)) }
    }

    /// Sends a request to where its absolute `http` or `https` URL points, to the first of the host's addresses that
    /// can be connected to.
    ///
    /// # Errors
    /// When the URL is not usable or there is no response.
    pub async fn fetch(&self, mut request: Request<Body>) -> Result<Response<Body>, ClientError> {
        let mut targets = resolve(request.uri()).await?.into_iter().peekable();
        while let Some(target) = targets.next() {
            // Its state is large, and would be part of every caller's.
            match Box::pin(self.send(&target, request)).await {
                Err(ClientError { failure: Failure::Connect, request: Some(unsent), .. })
                    if targets.peek().is_some() =>
                {
                    request = *unsent;
                }
                ended => return ended,
            }
        }
        Err(ClientError::new(Failure::Unusable, "cannot send a request", "its host has no address"))
    }

    /// Gets a URL.
    ///
    /// # Errors
    /// As [`Client::fetch`].
    pub async fn get(&self, url: &str) -> Result<Response<Body>, ClientError> {
        let request = Request::get(url).body(crate::empty());
        self.fetch(request.map_err(|e| ClientError::new(Failure::Unusable, format!("cannot use {url}"), e))?)
            .await
    }

    /// Sends a request to a target, whatever host it names. The response comes once its head is there; its body
    /// streams.
    ///
    /// # Errors
    /// When there is no response.
    pub async fn send(&self, target: &Target, request: Request<Body>) -> Result<Response<Body>, ClientError> {
        let upgrade = self.pool.config.http1_only || request.headers().contains_key(header::UPGRADE);
        let link = match Pool::link(&self.pool, target, upgrade).await {
            Ok(link) => link,
            Err(error) => return Err(error.with(request)),
        };
        match link {
            Link::Http1(mut sender) => {
                let (request, activity) = watched(to_http1(request, target));
                let sent = sender.try_send_request(request);
                let response = self.answer(sent, target, activity).await?;
                Ok(self.pool.lease(target, sender, response))
            }
            Link::Http2(mut sender) => {
                let (request, activity) = watched(to_http2(request, target)?);
                let sent = sender.try_send_request(request);
                let response = self.answer(sent, target, activity).await?;
                Ok(response.map(|body| body.map_err(Into::into).boxed_unsync()))
            }
        }
    }

    async fn answer(
        &self,
        sent: impl Future<Output = Result<Incoming, hyper::client::conn::TrySendError<Request<Body>>>>,
        target: &Target,
        activity: Option<Arc<AtomicU64>>,
    ) -> Result<Incoming, ClientError> {
        let mut sent = std::pin::pin!(sent);
        let limit = self.pool.config.response_timeout;
        let mut seen = 0;
        let result = loop {
            if let Ok(result) = tokio::time::timeout(limit, sent.as_mut()).await {
                break result;
            }
            let now = activity.as_ref().map_or(0, |activity| activity.load(Ordering::Relaxed));
            if now == seen {
                let what = format!("{} gave no response", target.address);
                let source = format!("waited {} s", limit.as_secs_f32());
                return Err(ClientError::new(Failure::Timeout, what, source));
            }
            seen = now;
        };
        result.map_err(|mut failed| {
            let request = failed.take_message();
            let failure = if request.is_some() { Failure::NotSent } else { Failure::Broken };
            let what = format!("{} gave no response", target.address);
            let error = ClientError::new(failure, what, failed.into_error());
            match request {
                Some(request) => error.with(request),
                None => error,
            }
        })
    }
}

type Incoming = Response<hyper::body::Incoming>;

/// The addresses of a URL's host, at least one.
async fn resolve(url: &Uri) -> Result<Vec<Target>, ClientError> {
    let unusable = |why: &str| ClientError::new(Failure::Unusable, format!("cannot use {url}"), why);
    let host = url.host().ok_or_else(|| unusable("it names no host"))?;
    let host = host.trim_start_matches('[').trim_end_matches(']');
    let (protocol, default) = match url.scheme_str() {
        Some("http") => (Protocol::Http1, 80),
        Some("https") => (Protocol::Tls(host.to_owned()), 443),
        _ => return Err(unusable("only http:// and https:// are supported")),
    };
    let found = tokio::net::lookup_host((host, url.port_u16().unwrap_or(default)))
        .await
        .map_err(|e| ClientError::new(Failure::Connect, format!("cannot find {host}"), e))?;
    let targets: Vec<_> = found.map(|address| Target { address, protocol: protocol.clone() }).collect();
    match targets.is_empty() {
        true => Err(unusable("its host has no address")),
        false => Ok(targets),
    }
}

/// Origin form with a `Host`, as HTTP/1.1 wants it.
fn to_http1(mut request: Request<Body>, target: &Target) -> Request<Body> {
    *request.version_mut() = Version::HTTP_11;
    if !request.headers().contains_key(header::HOST) {
        let host = request.uri().authority().map_or_else(|| target.address.to_string(), host_of);
        if let Ok(value) = HeaderValue::from_str(&host) {
            request.headers_mut().insert(header::HOST, value);
        }
    }
    if request.uri().scheme().is_some() || request.uri().authority().is_some() {
        let path = request.uri().path_and_query().cloned();
        *request.uri_mut() = path.map_or_else(|| Uri::from_static("/"), Uri::from);
    }
    request
}

/// An authority without user and password, which do not belong into `Host`.
fn host_of(authority: &uri::Authority) -> String {
    let text = authority.as_str();
    text.rsplit_once('@').map_or(text, |(_, host)| host).to_owned()
}

/// Absolute form without a `Host`, from which the pseudo-headers of HTTP/2 are made.
fn to_http2(mut request: Request<Body>, target: &Target) -> Result<Request<Body>, ClientError> {
    *request.version_mut() = Version::HTTP_2;
    let host = request.headers_mut().remove(header::HOST);
    if request.uri().authority().is_some() {
        return Ok(request);
    }
    let scheme = if matches!(target.protocol, Protocol::Tls(_)) { "https" } else { "http" };
    let address = target.address.to_string();
    let authority = host.as_ref().and_then(|host| host.to_str().ok()).unwrap_or(&address);
    let path = request.uri().path_and_query().map_or("/", uri::PathAndQuery::as_str);
    match Uri::builder().scheme(scheme).authority(authority).path_and_query(path).build() {
        Ok(uri) => {
            *request.uri_mut() = uri;
            Ok(request)
        }
        Err(error) => {
            Err(ClientError::new(Failure::Unusable, format!("cannot use the host {authority}"), error))
        }
    }
}

/// Notes the progress of a request's body, where it has one, so that a long upload is not taken for silence.
fn watched(request: Request<Body>) -> (Request<Body>, Option<Arc<AtomicU64>>) {
    if request.body().is_end_stream() {
        return (request, None);
    }
    let activity = Arc::new(AtomicU64::new(0));
    let note = Arc::clone(&activity);
    (request.map(|body| Watched { body, note }.boxed_unsync()), Some(activity))
}

struct Watched {
    body: Body,
    note: Arc<AtomicU64>,
}

impl http_body::Body for Watched {
    type Data = Bytes;
    type Error = BoxError;

    fn poll_frame(
        mut self: Pin<&mut Self>,
        context: &mut Context<'_>,
    ) -> Poll<Option<Result<Frame<Bytes>, BoxError>>> {
        let polled = Pin::new(&mut self.body).poll_frame(context);
        if polled.is_ready() {
            self.note.fetch_add(1, Ordering::Relaxed);
        }
        polled
    }

    fn is_end_stream(&self) -> bool {
        self.body.is_end_stream()
    }

    fn size_hint(&self) -> SizeHint {
        self.body.size_hint()
    }
}
