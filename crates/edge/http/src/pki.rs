//! The platform's own certificate authority.

use std::net::IpAddr;

use rcgen::{
    BasicConstraints, CertificateParams, DistinguishedName, DnType, ExtendedKeyUsagePurpose, IsCa, Issuer,
    KeyPair, KeyUsagePurpose, SanType, SerialNumber,
};
use time::{Duration, OffsetDateTime};

/// Years the authority lives; what it issues lives one year and is issued anew at each start.
const AUTHORITY_YEARS: i64 = 10;

/// Why a certificate cannot be made or read.
#[derive(Debug, thiserror::Error)]
#[error("cannot {doing} a certificate: {source}")]
pub struct PkiError {
    doing: &'static str,
    source: rcgen::Error,
}

fn failed(doing: &'static str) -> impl Fn(rcgen::Error) -> PkiError {
    move |source| PkiError { doing, source }
}

/// A certificate with its key, in PEM.
#[derive(Clone)]
pub struct Issued {
    /// Certificate.
    pub certificate: String,
    /// Private key (PKCS #8).
    pub key: String,
}

impl std::fmt::Debug for Issued {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        f.debug_struct("Issued").field("certificate", &self.certificate).finish_non_exhaustive()
    }
}

/// What a certificate is for.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum Usage {
    /// A server, under these names and addresses.
    Server,
    /// A client, by common name and organizations.
    Client,
}

/// A certificate authority: signs, and is trusted by its certificate.
pub struct Authority {
    certificate: String,
    key: String,
    issuer: Issuer<'static, KeyPair>,
}

impl Authority {
    /// Makes a new authority.
    ///
    /// # Errors
    /// When the key cannot be made.
    pub fn create(common_name: &str) -> Result<Self, PkiError> {
        let key = KeyPair::generate().map_err(failed("make the key of"))?;
        let mut params = base(common_name, &[], Duration::days(365 * AUTHORITY_YEARS));
        params.is_ca = IsCa::Ca(BasicConstraints::Unconstrained);
        params.key_usages =
            vec![KeyUsagePurpose::KeyCertSign, KeyUsagePurpose::CrlSign, KeyUsagePurpose::DigitalSignature];
        let certificate = params.self_signed(&key).map_err(failed("sign"))?.pem();
        Self::open(&Issued { certificate, key: key.serialize_pem() })
    }

    /// Opens an authority made before.
    ///
    /// # Errors
    /// When certificate or key are broken.
    pub fn open(stored: &Issued) -> Result<Self, PkiError> {
        let key = KeyPair::from_pem(&stored.key).map_err(failed("read the key of"))?;
        let issuer = Issuer::from_ca_cert_pem(&stored.certificate, key).map_err(failed("read"))?;
        Ok(Self { certificate: stored.certificate.clone(), key: stored.key.clone(), issuer })
    }

    /// The authority's certificate and key, to store.
    pub fn stored(&self) -> Issued {
        Issued { certificate: self.certificate.clone(), key: self.key.clone() }
    }

    /// The certificate others trust.
    pub fn certificate(&self) -> &str {
        &self.certificate
    }

    /// Issues a certificate for a year. `names` are DNS names and addresses of a server.
    ///
    /// # Errors
    /// When a name is not usable.
    pub fn issue(
        &self,
        common_name: &str,
        organizations: &[&str],
        usage: Usage,
        names: &[String],
    ) -> Result<Issued, PkiError> {
        let key = KeyPair::generate().map_err(failed("make the key of"))?;
        let mut params = base(common_name, organizations, Duration::days(365));
        params.key_usages = vec![KeyUsagePurpose::DigitalSignature, KeyUsagePurpose::KeyEncipherment];
        params.extended_key_usages = vec![match usage {
            Usage::Server => ExtendedKeyUsagePurpose::ServerAuth,
            Usage::Client => ExtendedKeyUsagePurpose::ClientAuth,
        }];
        params.use_authority_key_identifier_extension = true;
        for name in names {
            params.subject_alt_names.push(match name.parse::<IpAddr>() {
                Ok(address) => SanType::IpAddress(address),
                Err(_) => SanType::DnsName(name.as_str().try_into().map_err(failed("name"))?),
            });
        }
        let certificate = params.signed_by(&key, &self.issuer).map_err(failed("sign"))?;
        Ok(Issued { certificate: certificate.pem(), key: key.serialize_pem() })
    }
}

fn base(common_name: &str, organizations: &[&str], life: Duration) -> CertificateParams {
    let mut params = CertificateParams::default();
    let now = OffsetDateTime::now_utc();
    // Clocks of clients may be a little behind.
    params.not_before = now - Duration::hours(1);
    params.not_after = now + life;
    params.serial_number = Some(SerialNumber::from(random_serial()));
    let mut subject = DistinguishedName::new();
    subject.push(DnType::CommonName, common_name);
    for organization in organizations {
        subject.push(DnType::OrganizationName, *organization);
    }
    params.distinguished_name = subject;
    params
}

fn random_serial() -> Vec<u8> {
    let mut serial = wharf_base::random_hex(8).into_bytes();
    serial[0] &= 0x7f;
    serial
}
