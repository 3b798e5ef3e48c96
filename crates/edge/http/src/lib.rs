//! Listeners, TLS, bodies, upgrades and a client; the only room that names hyper and rustls.
//!
//! It knows no API: a [`Handler`] gets requests and gives responses. The other rooms of the edge
//! build on it.

mod body;
pub mod client;
mod pki;
pub mod remote;
mod request;
mod serve;
mod sni;
pub mod spdy;
mod unread;
mod upgrade;
pub mod websocket;

pub use body::{Body, BodyTooLarge, BoxError, collect, empty, full, stream};
pub use pki::{Authority, Issued, PkiError, Usage};
pub use request::{CertificateRequest, RequestError, certificate_ends, is_usage};
pub use serve::{Handler, Listener, ServeError, TlsConfig, tls_config};
pub use sni::{Certificate, Certificates, tls_config_by_name};
pub use unread::read_on;
pub use upgrade::{Upgraded, upgrade, upgraded};

/// Who the peer's certificate, verified against the client authority, says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Common name of the subject.
    pub common_name: String,
    /// Organizations of the subject.
    pub organizations: Vec<String>,
}

/// The socket of a connection within this machine, as an extension of each request; gone when the connection leaves
/// HTTP, unless somebody holds it.
#[derive(Debug, Clone)]
pub struct LocalSocket(pub std::sync::Weak<std::os::fd::OwnedFd>);

/// Address of the peer, as an extension of each request.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub std::net::SocketAddr);
