//! New connections, plain and TLS.

use std::sync::{Arc, OnceLock};

use hyper::client::conn::{http1, http2};
use hyper_util::rt::{TokioExecutor, TokioIo, TokioTimer};
use rustls::{
    ClientConfig as RustlsConfig, DigitallySignedStruct, RootCertStore, SignatureScheme,
    client::danger::{HandshakeSignatureValid, ServerCertVerified, ServerCertVerifier},
    crypto::{CryptoProvider, verify_tls12_signature, verify_tls13_signature},
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, ServerName, UnixTime, pem::PemObject};
use tokio::{
    io::{AsyncRead, AsyncWrite},
    net::TcpStream,
};

use super::{
    ClientError, Failure, Protocol, Target, Trust,
    pool::{Link, Pool},
};
use crate::{BoxError, Issued};

/// A shared connection is asked this often whether it still lives.
const PING: std::time::Duration = std::time::Duration::from_secs(20);

/// Connects to a target. With `http1_only` no HTTP/2 is offered.
pub(super) async fn connect(pool: &Pool, target: &Target, http1_only: bool) -> Result<Link, ClientError> {
    let failed =
        |e: BoxError| ClientError::new(Failure::Connect, format!("cannot connect to {}", target.address), e);
    let limit = pool.config.connect_timeout;
    match tokio::time::timeout(limit, open(pool, target, http1_only)).await {
        Ok(opened) => opened.map_err(failed),
        Err(_) => Err(failed(format!("no connection within {} s", limit.as_secs_f32()).into())),
    }
}

async fn open(pool: &Pool, target: &Target, http1_only: bool) -> Result<Link, BoxError> {
    let stream = TcpStream::connect(target.address).await?;
    stream.set_nodelay(true)?;
    match &target.protocol {
        Protocol::Http1 => http1(stream).await,
        Protocol::H2c if http1_only => http1(stream).await,
        Protocol::H2c => http2(stream).await,
        Protocol::Tls(name) => {
            let config = pool.tls.config(http1_only)?;
            let name = ServerName::try_from(name.clone())?;
            let stream = tokio_rustls::TlsConnector::from(config).connect(name, stream).await?;
            match stream.get_ref().1.alpn_protocol() {
                Some(b"h2") => http2(stream).await,
                _ => http1(stream).await,
            }
        }
    }
}

async fn http1(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Link, BoxError> {
    let (sender, connection) = http1::Builder::new().handshake(TokioIo::new(stream)).await?;
    tokio::spawn(async move {
        if let Err(error) = connection.with_upgrades().await {
            tracing::debug!(%error, "client connection ended");
        }
    });
    Ok(Link::Http1(sender))
}

async fn http2(stream: impl AsyncRead + AsyncWrite + Unpin + Send + 'static) -> Result<Link, BoxError> {
    let (sender, connection) = http2::Builder::new(TokioExecutor::new())
        .timer(TokioTimer::new())
        .keep_alive_interval(PING)
        .keep_alive_timeout(PING / 2)
        .keep_alive_while_idle(true)
        .handshake(TokioIo::new(stream))
        .await?;
    tokio::spawn(async move {
        if let Err(error) = connection.await {
            tracing::debug!(%error, "client connection ended");
        }
    });
    Ok(Link::Http2(sender))
}

/// TLS of a client, made when it is first needed: reading the machine's authorities takes a while.
pub(super) struct Tls {
    trust: Trust,
    identity: Option<Issued>,
    made: OnceLock<Result<Made, String>>,
}

/// With HTTP/2 offered and without.
type Made = (Arc<RustlsConfig>, Arc<RustlsConfig>);

impl Tls {
    pub(super) fn new(trust: Trust, identity: Option<Issued>) -> Self {
        Self { trust, identity, made: OnceLock::new() }
    }

    fn config(&self, http1_only: bool) -> Result<Arc<RustlsConfig>, BoxError> {
        let made = || both(&self.trust, self.identity.as_ref()).map_err(|e| e.to_string());
        let made = self.made.get_or_init(made);
        let (any, first) = made.as_ref().map_err(String::clone)?;
        Ok(Arc::clone(if http1_only { first } else { any }))
    }
}

fn both(trust: &Trust, identity: Option<&Issued>) -> Result<Made, BoxError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let builder =
        RustlsConfig::builder_with_provider(Arc::clone(&provider)).with_safe_default_protocol_versions()?;
    let config = match trust {
        Trust::Anything => {
            builder.dangerous().with_custom_certificate_verifier(Arc::new(AnyServer(provider)))
        }
        Trust::System => builder.with_root_certificates(system_roots()?),
        Trust::Authority(pem) => builder.with_root_certificates(roots(RootCertStore::empty(), pem)?),
        Trust::SystemAnd(pem) => {
            let system = system_roots().unwrap_or_else(|_| RootCertStore::empty());
            builder.with_root_certificates(roots(system, pem)?)
        }
    };
    let mut any = match identity {
        None => config.with_no_client_auth(),
        Some(Issued { certificate, key }) => {
            let chain = CertificateDer::pem_slice_iter(certificate.as_bytes()).collect::<Result<_, _>>()?;
            config.with_client_auth_cert(chain, PrivateKeyDer::from_pem_slice(key.as_bytes())?)?
        }
    };
    let mut first = any.clone();
    any.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    first.alpn_protocols = vec![b"http/1.1".to_vec()];
    Ok((Arc::new(any), Arc::new(first)))
}

/// Speaks TLS over a connection to whoever answers, whatever certificate it shows.
pub(super) async fn to_anybody(
    stream: TcpStream,
    name: &str,
) -> std::io::Result<tokio_rustls::client::TlsStream<TcpStream>> {
    static TLS: std::sync::LazyLock<Tls> = std::sync::LazyLock::new(|| Tls::new(Trust::Anything, None));
    let config = TLS.config(true).map_err(std::io::Error::other)?;
    let name = ServerName::try_from(name.to_owned()).map_err(std::io::Error::other)?;
    tokio_rustls::TlsConnector::from(config).connect(name, stream).await
}

/// Adds authorities to `roots`.
fn roots(mut roots: RootCertStore, pem: &str) -> Result<RootCertStore, BoxError> {
    let before = roots.len();
    for certificate in CertificateDer::pem_slice_iter(pem.as_bytes()) {
        roots.add(certificate?)?;
    }
    if roots.len() == before {
        return Err("the authority's PEM text holds no certificate".into());
    }
    Ok(roots)
}

fn system_roots() -> Result<RootCertStore, BoxError> {
    let found = rustls_native_certs::load_native_certs();
    let mut roots = RootCertStore::empty();
    roots.add_parsable_certificates(found.certs);
    if roots.is_empty() {
        return Err("this machine has no trusted authorities: install ca-certificates".into());
    }
    Ok(roots)
}

/// Takes every server; what it signs must still be right.
#[derive(Debug)]
struct AnyServer(Arc<CryptoProvider>);

impl ServerCertVerifier for AnyServer {
    fn verify_server_cert(
        &self,
        _: &CertificateDer<'_>,
        _: &[CertificateDer<'_>],
        _: &ServerName<'_>,
        _: &[u8],
        _: UnixTime,
    ) -> Result<ServerCertVerified, rustls::Error> {
        Ok(ServerCertVerified::assertion())
    }

    fn verify_tls12_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls12_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn verify_tls13_signature(
        &self,
        message: &[u8],
        certificate: &CertificateDer<'_>,
        signature: &DigitallySignedStruct,
    ) -> Result<HandshakeSignatureValid, rustls::Error> {
        verify_tls13_signature(message, certificate, signature, &self.0.signature_verification_algorithms)
    }

    fn supported_verify_schemes(&self) -> Vec<SignatureScheme> {
        self.0.signature_verification_algorithms.supported_schemes()
    }
}
