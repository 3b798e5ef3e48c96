//! Requests for certificates (PKCS #10), and certificates made of them.
//!
//! Subject and key are taken over as the bytes that were asked for, so that nothing of them is lost in between; the
//! extensions are those of this module.
//!
//! Source: RFC 2986, RFC 5280; Kubernetes' permissive signing policy for what a certificate says.

mod der;
#[cfg(test)]
mod tests;

use std::net::IpAddr;

use base64::{Engine, engine::general_purpose::STANDARD};
use rcgen::{KeyPair, SigningKey};
use time::OffsetDateTime;
use x509_parser::{
    certification_request::X509CertificationRequest,
    error::X509Error,
    extensions::{GeneralName, ParsedExtension},
    oid_registry::{OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA},
    pem::Pem,
    prelude::FromDer,
};

use crate::pki::Authority;
use der::{Tag, bit_string, boolean, integer, oid, sequence, tlv, when};

/// Bytes of a request at the most.
const MAX: usize = 128 << 10;
/// Clocks of clients may be behind by this.
const BACKDATE: i64 = 5 * 60;
/// Below this a certificate lives as long as was asked for, although it begins in the past.
const SHORT: i64 = 8 * 3600;

/// Why there is no certificate: the whole sentence.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("{0}")]
pub struct RequestError(String);

fn refuse<T>(why: impl Into<String>) -> Result<T, RequestError> {
    Err(RequestError(why.into()))
}

/// What a request asks to be certified. Its signature was found to be that of its key.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct CertificateRequest {
    /// Common name of the subject.
    pub common_name: String,
    /// Organizations of the subject.
    pub organizations: Vec<String>,
    /// Names of a server.
    pub dns_names: Vec<String>,
    /// Addresses of a server.
    pub addresses: Vec<IpAddr>,
    /// Addresses of mail.
    pub emails: Vec<String>,
    /// Uniform resource identifiers.
    pub uris: Vec<String>,
    subject: Vec<u8>,
    key: Vec<u8>,
}

impl CertificateRequest {
    /// Reads a request in PEM in base64, as the certificates API has it.
    ///
    /// # Errors
    /// When it is none, or not signed by the key it names.
    pub fn of_base64(text: &str) -> Result<Self, RequestError> {
        let pem = STANDARD.decode(text).map_err(|_| RequestError("the request is not base64".to_owned()))?;
        Self::parse(&pem)
    }

    /// Reads a request in PEM.
    ///
    /// # Errors
    /// When it is none, or not signed by the key it names.
    pub fn parse(pem: &[u8]) -> Result<Self, RequestError> {
        if pem.len() > MAX {
            return refuse(format!("the request has {} bytes, more than {MAX}", pem.len()));
        }
        let block = Pem::iter_from_buffer(pem).next().and_then(Result::ok);
        let Some(block) = block.filter(|block| block.label == "CERTIFICATE REQUEST") else {
            return refuse("PEM block type must be CERTIFICATE REQUEST");
        };
        let parsed = X509CertificationRequest::from_der(&block.contents);
        let (rest, request) =
            parsed.map_err(|error| RequestError(format!("no certificate request: {error}")))?;
        if !rest.is_empty() {
            return refuse("there are bytes after the request");
        }
        is_signed(&request)?;
        let info = &request.certification_request_info;
        // The subject is signed as it stands: what is not read here must not be read otherwise elsewhere.
        let text = |a: &x509_parser::x509::AttributeTypeAndValue<'_>| {
            let unread = "a name of the subject is neither UTF8String nor PrintableString nor IA5String";
            a.as_str().map(str::to_owned).map_err(|_| RequestError(unread.to_owned()))
        };
        let mut names = info.subject.iter_common_name().map(text).collect::<Result<Vec<_>, _>>()?;
        if names.len() > 1 {
            return refuse("the subject has more than one common name");
        }
        let mut read = Self {
            common_name: names.pop().unwrap_or_default(),
            organizations: info.subject.iter_organization().map(text).collect::<Result<_, _>>()?,
            subject: info.subject.as_raw().to_vec(),
            key: info.subject_pki.raw.to_vec(),
            ..Self::default()
        };
        for extension in request.requested_extensions().into_iter().flatten() {
            if let ParsedExtension::SubjectAlternativeName(names) = extension {
                for name in &names.general_names {
                    read.name(name)?;
                }
            }
        }
        Ok(read)
    }

    fn name(&mut self, name: &GeneralName<'_>) -> Result<(), RequestError> {
        match name {
            GeneralName::DNSName(name) => self.dns_names.push((*name).to_owned()),
            GeneralName::RFC822Name(name) => self.emails.push((*name).to_owned()),
            GeneralName::URI(name) => self.uris.push((*name).to_owned()),
            GeneralName::IPAddress(bytes) => {
                match (<[u8; 4]>::try_from(*bytes), <[u8; 16]>::try_from(*bytes)) {
                    (Ok(four), _) => self.addresses.push(four.into()),
                    (_, Ok(sixteen)) => self.addresses.push(sixteen.into()),
                    _ => return refuse("an address of the request has neither 4 nor 16 bytes"),
                }
            }
            // As by upstream, other names are not taken over.
            _ => {}
        }
        Ok(())
    }

    fn names(&self) -> Vec<u8> {
        let text = |tag: u8| move |name: &String| tlv(Tag::context(tag), name.as_bytes());
        let mut all: Vec<Vec<u8>> = self.dns_names.iter().map(text(2)).collect();
        all.extend(self.emails.iter().map(text(1)));
        all.extend(self.addresses.iter().map(|address| match address {
            IpAddr::V4(address) => tlv(Tag::context(7), &address.octets()),
            IpAddr::V6(address) => tlv(Tag::context(7), &address.octets()),
        }));
        all.extend(self.uris.iter().map(text(6)));
        all.concat()
    }
}

/// Whether a request is signed by the key it names, in a way that proves something.
fn is_signed(request: &X509CertificationRequest<'_>) -> Result<(), RequestError> {
    const SUPPORTED: &str =
        "keys are RSA of 2048 to 8192 bits, P-256, P-384 or Ed25519, and sign by SHA-256 or better";
    let algorithm = &request.signature_algorithm.algorithm;
    if [OID_PKCS1_SHA1WITHRSA, OID_SHA1_WITH_RSA].contains(algorithm) {
        return refuse(format!("signature of the request: SHA-1 proves nothing; {SUPPORTED}"));
    }
    request.verify_signature().map_err(|error| {
        RequestError(match error {
            X509Error::SignatureUnsupportedAlgorithm => {
                format!("signature of the request: this kind is not supported; {SUPPORTED}")
            }
            error => format!("signature of the request: {error}"),
        })
    })
}

/// Key usages by their names in the certificates API: the bit of RFC 5280 §4.2.1.3.
const KEY_USAGES: &[(&str, u8)] = &[
    ("signing", 0),
    ("digital signature", 0),
    ("content commitment", 1),
    ("key encipherment", 2),
    ("data encipherment", 3),
    ("key agreement", 4),
    ("cert sign", 5),
    ("crl sign", 6),
    ("encipher only", 7),
    ("decipher only", 8),
];

/// Extended key usages by their names in the certificates API, in the order certificates list them.
const EXTENDED_USAGES: &[(&str, &[u64])] = &[
    ("any", &[2, 5, 29, 37, 0]),
    ("server auth", &[1, 3, 6, 1, 5, 5, 7, 3, 1]),
    ("client auth", &[1, 3, 6, 1, 5, 5, 7, 3, 2]),
    ("code signing", &[1, 3, 6, 1, 5, 5, 7, 3, 3]),
    ("email protection", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("s/mime", &[1, 3, 6, 1, 5, 5, 7, 3, 4]),
    ("ipsec end system", &[1, 3, 6, 1, 5, 5, 7, 3, 5]),
    ("ipsec tunnel", &[1, 3, 6, 1, 5, 5, 7, 3, 6]),
    ("ipsec user", &[1, 3, 6, 1, 5, 5, 7, 3, 7]),
    ("timestamping", &[1, 3, 6, 1, 5, 5, 7, 3, 8]),
    ("ocsp signing", &[1, 3, 6, 1, 5, 5, 7, 3, 9]),
    ("microsoft sgc", &[1, 3, 6, 1, 4, 1, 311, 10, 3, 3]),
    ("netscape sgc", &[2, 16, 840, 1, 113_730, 4, 1]),
];

/// Whether the certificates API knows a usage of this name.
pub fn is_usage(name: &str) -> bool {
    KEY_USAGES.iter().any(|(known, _)| *known == name)
        || EXTENDED_USAGES.iter().any(|(known, _)| *known == name)
}

impl Authority {
    /// Signs what a request asks for, for these usages of the certificates API and this many seconds from `now` (seconds
    /// since 1970); gives the certificate in PEM. It never lives longer than the authority.
    ///
    /// # Errors
    /// When a usage is unknown or the authority itself has expired.
    pub fn sign(
        &self,
        request: &CertificateRequest,
        usages: &[&str],
        seconds: i64,
        now: i64,
    ) -> Result<String, RequestError> {
        if let Some(unknown) = usages.iter().find(|usage| !is_usage(usage)) {
            return refuse(format!("unrecognized usage value: {unknown:?}"));
        }
        let stored = self.stored();
        let broken = |what: &str| RequestError(format!("the authority's {what} cannot be read"));
        let key = KeyPair::from_pem(&stored.key).map_err(|_| broken("key"))?;
        let block = Pem::iter_from_buffer(stored.certificate.as_bytes()).next().and_then(Result::ok);
        let block = block.ok_or_else(|| broken("certificate"))?;
        let own = block.parse_x509().map_err(|_| broken("certificate"))?;
        let ends = own.validity().not_after.timestamp();
        if now >= ends {
            return refuse("the authority itself has expired");
        }
        let until = now + seconds - if seconds < SHORT { 0 } else { BACKDATE };
        let algorithm = algorithm(&key)?;
        let body = sequence(&[
            tlv(Tag::explicit(0), &integer(&[2])),
            integer(&serial()),
            algorithm.clone(),
            own.subject().as_raw().to_vec(),
            sequence(&[moment(now - BACKDATE)?, moment(until.min(ends))?]),
            request.subject.clone(),
            request.key.clone(),
            tlv(Tag::explicit(3), &sequence(&extensions(request, usages, key_id(&own)))),
        ]);
        let signature = key.sign(&body).map_err(|error| RequestError(format!("cannot sign: {error}")))?;
        Ok(pem(&sequence(&[body, algorithm, bit_string(0, &signature)])))
    }
}

/// When a certificate in PEM ends, in seconds since 1970; nothing when it is none.
pub fn certificate_ends(pem: &[u8]) -> Option<i64> {
    let block = Pem::iter_from_buffer(pem).next()?.ok()?;
    Some(block.parse_x509().ok()?.validity().not_after.timestamp())
}

/// The identifier of the algorithm the authority's key signs by.
fn algorithm(key: &KeyPair) -> Result<Vec<u8>, RequestError> {
    let null = || tlv(Tag::NULL, &[]);
    let ours = key.algorithm();
    Ok(match () {
        () if *ours == rcgen::PKCS_ECDSA_P256_SHA256 => sequence(&[oid(&[1, 2, 840, 10_045, 4, 3, 2])]),
        () if *ours == rcgen::PKCS_ECDSA_P384_SHA384 => sequence(&[oid(&[1, 2, 840, 10_045, 4, 3, 3])]),
        () if *ours == rcgen::PKCS_ED25519 => sequence(&[oid(&[1, 3, 101, 112])]),
        () if *ours == rcgen::PKCS_RSA_SHA256 => sequence(&[oid(&[1, 2, 840, 113_549, 1, 1, 11]), null()]),
        () => return refuse(format!("keys of the kind {ours:?} do not sign certificates here")),
    })
}

fn extensions(request: &CertificateRequest, usages: &[&str], authority: Option<Vec<u8>>) -> Vec<Vec<u8>> {
    let extension = |id: &[u64], critical: bool, value: Vec<u8>| {
        let mut parts = vec![oid(id)];
        if critical {
            parts.push(boolean(true));
        }
        parts.push(tlv(Tag::OCTETS, &value));
        sequence(&parts)
    };
    let mut all = Vec::new();
    let bits = KEY_USAGES.iter().filter(|(name, _)| usages.contains(name));
    let bits = bits.fold(0u16, |bits, (_, bit)| bits | 0x8000 >> bit);
    if bits != 0 {
        all.push(extension(&[2, 5, 29, 15], true, der::bits(bits)));
    }
    let mut extended: Vec<Vec<u8>> =
        EXTENDED_USAGES.iter().filter(|(name, _)| usages.contains(name)).map(|(_, id)| oid(id)).collect();
    extended.dedup();
    if !extended.is_empty() {
        all.push(extension(&[2, 5, 29, 37], false, sequence(&extended)));
    }
    all.push(extension(&[2, 5, 29, 19], true, sequence(&[])));
    if let Some(id) = authority {
        all.push(extension(&[2, 5, 29, 35], false, sequence(&[tlv(Tag::context(0), &id)])));
    }
    let names = request.names();
    if !names.is_empty() {
        // Critical where there is no subject to go by (RFC 5280 §4.2.1.6).
        let alone = request.subject == sequence(&[]);
        all.push(extension(&[2, 5, 29, 17], alone, tlv(Tag::SEQUENCE, &names)));
    }
    all
}

fn key_id(certificate: &x509_parser::certificate::X509Certificate<'_>) -> Option<Vec<u8>> {
    certificate.iter_extensions().find_map(|extension| match extension.parsed_extension() {
        ParsedExtension::SubjectKeyIdentifier(id) => Some(id.0.to_vec()),
        _ => None,
    })
}

fn moment(seconds: i64) -> Result<Vec<u8>, RequestError> {
    let at = OffsetDateTime::from_unix_timestamp(seconds);
    at.map(when).map_err(|_| RequestError(format!("{seconds} s after 1970 is no date of a certificate")))
}

fn serial() -> Vec<u8> {
    let text = wharf_base::random_hex(16);
    let byte = |i: usize| text.get(i * 2..i * 2 + 2).and_then(|pair| u8::from_str_radix(pair, 16).ok());
    let mut bytes: Vec<u8> = (0..16).map(|i| byte(i).unwrap_or(0)).collect();
    // Positive, and of a shortest form.
    bytes[0] = bytes[0] & 0x7f | 0x40;
    bytes
}

fn pem(der: &[u8]) -> String {
    let text = STANDARD.encode(der);
    let lines: Vec<&str> =
        (0..text.len()).step_by(64).filter_map(|i| text.get(i..(i + 64).min(text.len()))).collect();
    format!("-----BEGIN CERTIFICATE-----\n{}\n-----END CERTIFICATE-----\n", lines.join("\n"))
}
