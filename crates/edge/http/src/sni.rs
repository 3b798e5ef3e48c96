//! Certificates chosen by the name a client asks for, replaceable while serving.

use std::{
    collections::HashMap,
    fmt,
    sync::{Arc, PoisonError, RwLock},
};

use rustls::{
    server::{ClientHello, ResolvesServerCert},
    sign::CertifiedKey,
};
use rustls_pki_types::{CertificateDer, PrivateKeyDer, pem::PemObject};

use crate::{ServeError, TlsConfig};

/// A certificate chain with its key, checked to fit.
#[derive(Clone)]
pub struct Certificate(Arc<CertifiedKey>);

impl fmt::Debug for Certificate {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificate").finish_non_exhaustive()
    }
}

impl Certificate {
    /// From PEM texts.
    ///
    /// # Errors
    /// When they hold no certificate or key, or the two do not fit.
    pub fn from_pem(chain: &str, key: &str) -> Result<Self, ServeError> {
        let bad = |e: &dyn fmt::Display| ServeError::Tls(e.to_string());
        let chain: Vec<_> = CertificateDer::pem_slice_iter(chain.as_bytes())
            .collect::<Result<_, _>>()
            .map_err(|e| bad(&e))?;
        if chain.is_empty() {
            return Err(bad(&"it holds no certificate"));
        }
        let key = PrivateKeyDer::from_pem_slice(key.as_bytes()).map_err(|e| bad(&e))?;
        let provider = rustls::crypto::ring::default_provider();
        Ok(Self(Arc::new(CertifiedKey::from_der(chain, key, &provider).map_err(|e| bad(&e))?)))
    }
}

/// Certificates by host name; `*.example.org` stands for one label. Cheap to clone.
#[derive(Clone)]
pub struct Certificates {
    by_name: Arc<RwLock<HashMap<String, Certificate>>>,
    default: Certificate,
}

impl fmt::Debug for Certificates {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.debug_struct("Certificates").finish_non_exhaustive()
    }
}

impl Certificates {
    /// Only a default, for clients that ask for another name or none.
    pub fn new(default: Certificate) -> Self {
        Self { by_name: Arc::default(), default }
    }

    /// Puts these in the place of those before; connections from now on get them.
    pub fn replace(&self, by_name: HashMap<String, Certificate>) {
        *self.by_name.write().unwrap_or_else(PoisonError::into_inner) = by_name;
    }

    fn find(&self, name: &str) -> Option<Certificate> {
        let by_name = self.by_name.read().unwrap_or_else(PoisonError::into_inner);
        let name = name.to_ascii_lowercase();
        let wild = || by_name.get(&format!("*.{}", name.split_once('.')?.1));
        by_name.get(&name).or_else(wild).cloned()
    }
}

impl ResolvesServerCert for Certificates {
    fn resolve(&self, hello: ClientHello<'_>) -> Option<Arc<CertifiedKey>> {
        let found = hello.server_name().and_then(|name| self.find(name));
        Some(found.unwrap_or_else(|| self.default.clone()).0)
    }
}

/// TLS whose certificate depends on the name the client asks for.
///
/// # Errors
/// When the cryptography offers no protocol version.
pub fn tls_config_by_name(certificates: Certificates) -> Result<TlsConfig, ServeError> {
    let provider = Arc::new(rustls::crypto::ring::default_provider());
    let mut config = rustls::ServerConfig::builder_with_provider(provider)
        .with_safe_default_protocol_versions()
        .map_err(|e| ServeError::Tls(e.to_string()))?
        .with_no_client_auth()
        .with_cert_resolver(Arc::new(certificates));
    config.alpn_protocols = vec![b"h2".to_vec(), b"http/1.1".to_vec()];
    Ok(TlsConfig(Arc::new(config)))
}
