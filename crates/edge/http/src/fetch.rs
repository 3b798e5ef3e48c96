//! Requests to other servers: HTTP/1.1 over TCP or TLS, connections kept for the next request.

use std::{
    collections::HashMap,
    io,
    path::Path,
    sync::{Arc, Mutex, OnceLock, PoisonError},
    time::Duration,
};

use http::{HeaderValue, Request, Response, Uri, header};
use http_body_util::BodyExt as _;
use hyper::client::conn::http1::{self, SendRequest};
use hyper_util::rt::TokioIo;
use rustls_pki_types::{CertificateDer, ServerName, pem::PemObject};
use tokio::net::TcpStream;

use crate::{Body, BoxError};

const CONNECT_TIMEOUT: Duration = Duration::from_secs(15);
/// Idle connections kept to one server.
const MAX_IDLE: usize = 8;

/// Where distributions keep the authorities this machine trusts.
const TRUST: [&str; 4] = [
    "/etc/ssl/certs/ca-certificates.crt",
    "/etc/pki/tls/certs/ca-bundle.crt",
    "/etc/ssl/ca-bundle.pem",
    "/etc/ssl/cert.pem",
];

/// Why a request got no response.
#[derive(Debug, thiserror::Error)]
pub enum FetchError {
    /// The address is not usable.
    #[error("'{0}' is not an http or https address")]
    Address(String),
    /// No connection.
    #[error("cannot connect to {host}: {source}")]
    Connect {
        /// Host and port.
        host: String,
        /// Why.
        source: io::Error,
    },
    /// The server is not who it should be, or speaks no TLS.
    #[error("no TLS connection to {host}: {reason}")]
    Tls {
        /// Host and port.
        host: String,
        /// Why.
        reason: String,
    },
    /// The connection broke.
    #[error("{host} did not answer: {source}")]
    Http {
        /// Host and port.
        host: String,
        /// Why.
        source: hyper::Error,
    },
}

type Idle = HashMap<String, Vec<SendRequest<Body>>>;

/// Sends requests. Cheap to clone; clones share connections.
#[derive(Clone, Default)]
pub struct Fetcher {
    idle: Arc<Mutex<Idle>>,
    tls: Arc<OnceLock<Result<Arc<rustls::ClientConfig>, String>>>,
}

impl Fetcher {
    /// A client that trusts what this machine trusts.
    pub fn new() -> Self {
        Self::default()
    }

    /// Sends a request with an absolute address and gives the response as soon as its head is there.
    ///
    /// # Errors
    /// When there is no connection or no response; any status is a response.
    pub async fn send(&self, mut request: Request<Body>) -> Result<Response<Body>, FetchError> {
        let target = Target::of(request.uri())?;
        if let Ok(host) = HeaderValue::from_str(&target.authority) {
            request.headers_mut().entry(header::HOST).or_insert(host);
        }
        *request.uri_mut() = target.path.clone();
        while let Some(mut connection) = self.take_idle(&target.key) {
            match connection.try_send_request(request).await {
                Ok(response) => return Ok(self.keep(target.key, connection, response)),
                // The server closed a connection that seemed fine; nothing was sent.
                Err(mut error) => match error.take_message() {
                    Some(unsent) => request = unsent,
                    None => return Err(target.broke(error.into_error())),
                },
            }
        }
        let mut connection = self.connect(&target).await?;
        match connection.send_request(request).await {
            Ok(response) => Ok(self.keep(target.key, connection, response)),
            Err(error) => Err(target.broke(error)),
        }
    }

    fn take_idle(&self, key: &str) -> Option<SendRequest<Body>> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.get_mut(key)?;
        connections.retain(|c| !c.is_closed());
        // Those whose response is still being read are not ready.
        let at = connections.iter().position(SendRequest::is_ready)?;
        Some(connections.swap_remove(at))
    }

    fn keep(
        &self,
        key: String,
        connection: SendRequest<Body>,
        response: Response<hyper::body::Incoming>,
    ) -> Response<Body> {
        let mut idle = self.idle.lock().unwrap_or_else(PoisonError::into_inner);
        let connections = idle.entry(key).or_default();
        if connections.len() < MAX_IDLE {
            connections.push(connection);
        }
        response.map(|body| body.map_err(|e| Box::new(e) as BoxError).boxed_unsync())
    }

    async fn connect(&self, target: &Target) -> Result<SendRequest<Body>, FetchError> {
        let failed = |source| FetchError::Connect { host: target.host_port(), source };
        let connect = TcpStream::connect((target.host.as_str(), target.port));
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(failed)?;
        stream.set_nodelay(true).map_err(failed)?;
        if !target.tls {
            return handshake(TokioIo::new(stream)).await.map_err(|e| target.broke(e));
        }
        let refused = |reason: String| FetchError::Tls { host: target.host_port(), reason };
        let config = self.tls.get_or_init(client_tls).clone().map_err(refused)?;
        let name = ServerName::try_from(target.host.clone()).map_err(|e| refused(e.to_string()))?;
        let connect = tokio_rustls::TlsConnector::from(config).connect(name, stream);
        let stream = tokio::time::timeout(CONNECT_TIMEOUT, connect)
            .await
            .unwrap_or_else(|_| Err(io::ErrorKind::TimedOut.into()))
            .map_err(|e| refused(e.to_string()))?;
        handshake(TokioIo::new(stream)).await.map_err(|e| target.broke(e))
    }
}

async fn handshake<T>(io: T) -> Result<SendRequest<Body>, hyper::Error>
where
    T: hyper::rt::Read + hyper::rt::Write + Unpin + Send + 'static,
{
    let (sender, connection) = http1::handshake(io).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "connection to a server ended");
        }
    });
    Ok(sender)
}

/// Where a request goes.
struct Target {
    tls: bool,
    host: String,
    port: u16,
    authority: String,
    key: String,
    path: Uri,
}

impl Target {
    fn of(uri: &Uri) -> Result<Self, FetchError> {
        let bad = || FetchError::Address(uri.to_string());
        let tls = match uri.scheme_str() {
            Some("http") => false,
            Some("https") => true,
            _ => return Err(bad()),
        };
        let host = uri.host().filter(|h| !h.is_empty()).ok_or_else(bad)?;
        let port = uri.port_u16().unwrap_or(if tls { 443 } else { 80 });
        let authority = match uri.port() {
            Some(port) => format!("{host}:{port}"),
            None => host.to_owned(),
        };
        let bare = host.strip_prefix('[').and_then(|h| h.strip_suffix(']')).unwrap_or(host);
        let path = uri.path_and_query().map_or("/", |p| p.as_str());
        Ok(Self {
            tls,
            host: bare.to_owned(),
            port,
            key: format!("{tls} {host}:{port}"),
            authority,
            path: path.parse().map_err(|_| bad())?,
        })
    }

    fn host_port(&self) -> String {
        format!("{}:{}", self.host, self.port)
    }

    fn broke(&self, source: hyper::Error) -> FetchError {
        FetchError::Http { host: self.host_port(), source }
    }
}

/// TLS that trusts the machine's authorities.
fn client_tls() -> Result<Arc<rustls::ClientConfig>, String> {
    let named = std::env::var("SSL_CERT_FILE").ok();
    let files = named.iter().map(String::as_str).chain(TRUST);
    let file = files.into_iter().find(|file| Path::new(file).exists()).ok_or(
        "this machine has no list of trusted authorities; install the package ca-certificates or set SSL_CERT_FILE",
    )?;
    let mut roots = rustls::RootCertStore::empty();
    let certificates = CertificateDer::pem_file_iter(file).map_err(|e| format!("cannot read {file}: {e}"))?;
    // One authority this library cannot read must not cost the others.
    roots.add_parsable_certificates(certificates.filter_map(Result::ok));
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ClientConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| e.to_string())?
        .with_root_certificates(roots)
        .with_no_client_auth();
    config.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok(Arc::new(config))
}
