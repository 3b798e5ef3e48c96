//! Accepting connections, plain and TLS, and handing requests to a handler.

use std::{
    convert::Infallible,
    future::Future,
    io,
    net::SocketAddr,
    os::fd::{AsFd as _, OwnedFd},
    path::Path,
    pin::Pin,
    sync::Arc,
    time::Duration,
};

use http::{Request, Response};
use hyper::{body::Incoming, service::service_fn};
use hyper_util::{
    rt::{TokioExecutor, TokioIo, TokioTimer},
    server::conn::auto,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::{TcpListener, UnixListener},
    sync::{Semaphore, watch},
};

use crate::{Body, BoxError, LocalSocket, PeerAddress, PeerCertificate, unread};

/// Connections served at once per listener.
const MAX_CONNECTIONS: usize = 10_000;
/// A client has this long for its TLS handshake and for its request's head.
const HEAD_TIMEOUT: Duration = Duration::from_secs(30);

/// Answers requests.
pub type Handler =
    Arc<dyn Fn(Request<Body>) -> Pin<Box<dyn Future<Output = Response<Body>> + Send>> + Send + Sync>;

/// Why a listener cannot be opened.
#[derive(Debug, thiserror::Error)]
pub enum ServeError {
    /// The address is taken or not allowed.
    #[error("cannot listen on {address}: {source}")]
    Bind {
        /// Address or path.
        address: String,
        /// Why.
        source: io::Error,
    },
    /// The certificate or key is not usable.
    #[error("cannot use the TLS certificate: {0}")]
    Tls(String),
}

/// TLS for a listener.
#[derive(Clone)]
pub struct TlsConfig(pub(crate) Arc<rustls::ServerConfig>);

/// TLS with a certificate chain and key in PEM; clients may show a certificate of `client_authority`.
///
/// # Errors
/// When the PEM texts hold no certificate or key, or they do not fit.
pub fn tls_config(chain: &str, key: &str, client_authority: Option<&str>) -> Result<TlsConfig, ServeError> {
    let bad = |e: &dyn std::fmt::Display| ServeError::Tls(e.to_string());
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let certificates = |pem: &str| -> Result<Vec<CertificateDer<'static>>, ServeError> {
        CertificateDer::pem_slice_iter(pem.as_bytes()).collect::<Result<_, _>>().map_err(|e| bad(&e))
    };
    let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| bad(&e))?;
    let builder = rustls::ServerConfig::builder_with_provider(Arc::clone(&provider))
        .with_safe_default_protocol_versions()
        .map_err(|e| bad(&e))?;
    let builder = match client_authority {
        None => builder.with_no_client_auth(),
        Some(pem) => {
            let mut roots = rustls::RootCertStore::empty();
            for certificate in certificates(pem)? {
                roots.add(certificate).map_err(|e| bad(&e))?;
            }
            let verifier =
                rustls::server::WebPkiClientVerifier::builder_with_provider(Arc::new(roots), provider)
                    .allow_unauthenticated()
                    .build()
                    .map_err(|e| bad(&e))?;
            builder.with_client_cert_verifier(verifier)
        }
    };
    let mut config = builder.with_single_cert(certificates(chain)?, key).map_err(|e| bad(&e))?;
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsConfig(Arc::new(config)))
}

enum Socket {
    Tcp(TcpListener),
    Unix(UnixListener),
}

/// An open listener that does not serve yet.
pub struct Listener {
    socket: Socket,
    tls: Option<TlsConfig>,
}

impl Listener {
    /// Listens on a TCP address; port 0 takes a free one.
    ///
    /// # Errors
    /// When the address is taken or not allowed.
    pub async fn tcp(address: SocketAddr, tls: Option<TlsConfig>) -> Result<Self, ServeError> {
        let listener = TcpListener::bind(address)
            .await
            .map_err(|source| ServeError::Bind { address: address.to_string(), source })?;
        Ok(Self { socket: Socket::Tcp(listener), tls })
    }

    /// Listens on a Unix socket that only its owner may use, replacing one left behind.
    ///
    /// # Errors
    /// When the path cannot be bound.
    pub fn unix(path: &Path) -> Result<Self, ServeError> {
        use std::os::unix::fs::PermissionsExt;
        let failed = |source| ServeError::Bind { address: path.display().to_string(), source };
        match std::fs::remove_file(path) {
            Err(e) if e.kind() != io::ErrorKind::NotFound => return Err(failed(e)),
            _ => {}
        }
        let listener = UnixListener::bind(path).map_err(failed)?;
        std::fs::set_permissions(path, std::fs::Permissions::from_mode(0o600)).map_err(failed)?;
        Ok(Self { socket: Socket::Unix(listener), tls: None })
    }

    /// The TCP address listened on.
    pub fn address(&self) -> Option<SocketAddr> {
        match &self.socket {
            Socket::Tcp(listener) => listener.local_addr().ok(),
            Socket::Unix(_) => None,
        }
    }

    /// Serves until `stop` turns true, then lets open requests finish for a while.
    pub async fn serve(self, handler: Handler, mut stop: watch::Receiver<bool>) {
        let slots = Arc::new(Semaphore::new(MAX_CONNECTIONS));
        loop {
            let Ok(slot) = Arc::clone(&slots).acquire_owned().await else { return };
            let accepted = tokio::select! {
                accepted = self.accept() => accepted,
                _ = stop.wait_for(|stopping| *stopping) => return,
            };
            let (connection, peer) = match accepted {
                Ok(accepted) => accepted,
                Err(error) => {
                    // Out of descriptors or the like: others must close first.
                    tracing::warn!(%error, "cannot accept a connection");
                    tokio::time::sleep(Duration::from_millis(50)).await;
                    continue;
                }
            };
            let (handler, tls, stop) = (Arc::clone(&handler), self.tls.clone(), stop.clone());
            tokio::spawn(async move {
                if let Err(error) = connection_with(connection, peer, tls, handler, stop).await {
                    tracing::debug!(%error, "connection ended");
                }
                drop(slot);
            });
        }
    }

    async fn accept(&self) -> io::Result<(Connection, Peer)> {
        match &self.socket {
            Socket::Tcp(listener) => {
                let (stream, peer) = listener.accept().await?;
                stream.set_nodelay(true)?;
                Ok((Box::new(stream), Peer::Address(peer)))
            }
            Socket::Unix(listener) => {
                let stream = listener.accept().await?.0;
                let socket = Arc::new(stream.as_fd().try_clone_to_owned()?);
                Ok((Box::new(stream), Peer::Local(socket)))
            }
        }
    }
}

/// Who connected.
#[derive(Clone)]
enum Peer {
    Address(SocketAddr),
    Local(Arc<OwnedFd>),
}

trait Stream: AsyncRead + AsyncWrite + Send + Unpin {}
impl<T: AsyncRead + AsyncWrite + Send + Unpin> Stream for T {}
type Connection = Box<dyn Stream>;

async fn connection_with(
    connection: Connection,
    peer: Peer,
    tls: Option<TlsConfig>,
    handler: Handler,
    stop: watch::Receiver<bool>,
) -> Result<(), BoxError> {
    let Some(TlsConfig(config)) = tls else {
        return requests(connection, peer, None, handler, stop).await;
    };
    let accept = tokio_rustls::TlsAcceptor::from(config).accept(connection);
    let stream = tokio::time::timeout(HEAD_TIMEOUT, accept).await??;
    let certificate = stream.get_ref().1.peer_certificates().and_then(|chain| subject(chain.first()?));
    requests(stream, peer, certificate, handler, stop).await
}

fn subject(certificate: &CertificateDer<'_>) -> Option<PeerCertificate> {
    let (_, certificate) = x509_parser::parse_x509_certificate(certificate).ok()?;
    let subject = certificate.subject();
    let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| a.as_str().ok().map(str::to_owned);
    let common_name = subject.iter_common_name().next().and_then(text)?;
    Some(PeerCertificate {
        common_name,
        organizations: subject.iter_organization().filter_map(text).collect(),
    })
}

async fn requests(
    stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static,
    peer: Peer,
    certificate: Option<PeerCertificate>,
    handler: Handler,
    mut stop: watch::Receiver<bool>,
) -> Result<(), BoxError> {
    let service = service_fn(move |request: Request<Incoming>| {
        let (mut request, unread) = unread::given(request);
        match &peer {
            Peer::Address(address) => drop(request.extensions_mut().insert(PeerAddress(*address))),
            Peer::Local(socket) => drop(request.extensions_mut().insert(LocalSocket(Arc::downgrade(socket)))),
        }
        if let Some(certificate) = certificate.clone() {
            request.extensions_mut().insert(certificate);
        }
        let response = handler(request);
        async move {
            let response = response.await;
            unread.read_on().await;
            Ok::<_, Infallible>(response)
        }
    });
    let mut builder = auto::Builder::new(TokioExecutor::new());
    builder.http1().timer(TokioTimer::new()).header_read_timeout(HEAD_TIMEOUT);
    builder.http2().timer(TokioTimer::new()).max_concurrent_streams(1000).keep_alive_interval(HEAD_TIMEOUT);
    let connection = builder.serve_connection_with_upgrades(TokioIo::new(stream), service);
    let mut connection = std::pin::pin!(connection);
    tokio::select! {
        ended = connection.as_mut() => return ended,
        _ = stop.wait_for(|stopping| *stopping) => connection.as_mut().graceful_shutdown(),
    }
    connection.await
}
