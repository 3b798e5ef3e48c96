//! Keys and certificates of the platform, kept in DIR/pki.

use std::{
    fs,
    io::ErrorKind,
    os::unix::fs::DirBuilderExt,
    path::{Path, PathBuf},
    sync::Arc,
};

use anyhow::{Context, Result};
use wharf_apiserver::{FrontProxy, SigningKey};
use wharf_http::{Authority, Issued, Usage};

use super::write_private;

/// The platform's authority and signing key.
pub(crate) struct Identities {
    dir: PathBuf,
    authority: Arc<Authority>,
}

impl Identities {
    /// Opens the folder; makes the authority on first use.
    pub(crate) fn open(dir: &Path) -> Result<Self> {
        fs::DirBuilder::new().recursive(true).mode(0o700).create(dir)?;
        let authority = Arc::new(authority(dir, "ca", "wharf")?);
        Ok(Self { dir: dir.to_owned(), authority })
    }

    /// The certificate by which extension API servers believe what the API server says of its clients. It has an
    /// authority of its own, so that no client's certificate can pass for it.
    pub(crate) fn front_proxy(&self) -> Result<FrontProxy> {
        let authority = authority(&self.dir, "front-proxy-ca", "wharf-front-proxy")?;
        let identity = authority.issue(FrontProxy::NAME, &[], Usage::Client, &[])?;
        Ok(FrontProxy { authority: authority.certificate().to_owned(), identity })
    }

    /// The authority's certificate in PEM.
    pub(crate) fn authority(&self) -> &str {
        self.authority.certificate()
    }

    /// The authority, which signs what the loops approve.
    pub(crate) fn signer(&self) -> &Arc<Authority> {
        &self.authority
    }

    /// The key that signs service account tokens.
    pub(crate) fn signing_key(&self) -> Result<SigningKey> {
        let path = self.dir.join("service-account.key");
        let bytes = match fs::read(&path) {
            Ok(bytes) => bytes,
            Err(e) if e.kind() == ErrorKind::NotFound => {
                let bytes = SigningKey::generate()?;
                write_private(&path, &bytes)?;
                bytes
            }
            Err(e) => return Err(e).with_context(|| format!("cannot read {}", path.display())),
        };
        SigningKey::open(&bytes).with_context(|| format!("{} is broken", path.display()))
    }

    /// A serving certificate for the API.
    pub(crate) fn server(&self, addresses: &[&str]) -> Result<Issued> {
        let mut names: Vec<String> = [
            "kubernetes",
            "kubernetes.default",
            "kubernetes.default.svc",
            "kubernetes.default.svc.cluster.local",
        ]
        .map(String::from)
        .to_vec();
        names.extend(addresses.iter().map(|a| (*a).to_owned()));
        Ok(self.authority.issue("wharf-api", &[], Usage::Server, &names)?)
    }

    /// A serving certificate for the registry.
    pub(crate) fn registry(&self, names: &[String]) -> Result<Issued> {
        Ok(self.authority.issue("wharf-registry", &[], Usage::Server, names)?)
    }

    /// Writes a kubeconfig for the administrator.
    pub(crate) fn write_kubeconfig(&self, path: &Path, server: &str) -> Result<()> {
        use base64::{Engine, engine::general_purpose::STANDARD};
        let admin = self.authority.issue("wharf-admin", &["system:masters"], Usage::Client, &[])?;
        let [authority, certificate, key] =
            [self.authority(), &admin.certificate, &admin.key].map(|text| STANDARD.encode(text));
        let text = format!(
            "apiVersion: v1\nkind: Config\ncurrent-context: wharf\n\
             clusters:\n- name: wharf\n  cluster:\n    server: {server}\n    certificate-authority-data: {authority}\n\
             users:\n- name: wharf-admin\n  user:\n    client-certificate-data: {certificate}\n    client-key-data: {key}\n\
             contexts:\n- name: wharf\n  context:\n    cluster: wharf\n    user: wharf-admin\n"
        );
        write_private(path, text.as_bytes())
    }
}

/// An authority kept in the folder; made on first use.
fn authority(dir: &Path, file: &str, name: &str) -> Result<Authority> {
    let (certificate, key) = (dir.join(format!("{file}.crt")), dir.join(format!("{file}.key")));
    if let Some(stored) = read_both(&certificate, &key)? {
        return Authority::open(&stored).with_context(|| format!("{} is broken", certificate.display()));
    }
    let authority = Authority::create(name)?;
    let stored = authority.stored();
    write_private(&key, stored.key.as_bytes())?;
    write_private(&certificate, stored.certificate.as_bytes())?;
    Ok(authority)
}

fn read_both(certificate: &Path, key: &Path) -> Result<Option<Issued>> {
    let read = |path: &Path| match fs::read_to_string(path) {
        Ok(text) => Ok(Some(text)),
        Err(e) if e.kind() == ErrorKind::NotFound => Ok(None),
        Err(e) => Err(e).with_context(|| format!("cannot read {}", path.display())),
    };
    Ok(read(certificate)?.zip(read(key)?).map(|(certificate, key)| Issued { certificate, key }))
}
