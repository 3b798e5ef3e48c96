//! Listeners, TLS, bodies and upgrades; the only room that names hyper and rustls.
//!
//! It knows no API: a [`Handler`] gets requests and gives responses. The other rooms of the edge
//! build on it.

mod body;
mod fetch;
mod pki;
mod serve;
mod upgrade;

pub use body::{Body, BodyTooLarge, BoxError, collect, empty, full, stream};
pub use fetch::{FetchError, Fetcher};
pub use pki::{Authority, Issued, PkiError, Usage};
pub use serve::{Handler, Listener, ServeError, TlsConfig, tls_config};
pub use upgrade::{Upgraded, upgrade};

/// Who the peer's certificate, verified against the client authority, says it is.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct PeerCertificate {
    /// Common name of the subject.
    pub common_name: String,
    /// Organizations of the subject.
    pub organizations: Vec<String>,
}

/// Address of the peer, as an extension of each request.
#[derive(Debug, Clone, Copy)]
pub struct PeerAddress(pub std::net::SocketAddr);
