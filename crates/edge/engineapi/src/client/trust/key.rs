//! Public keys, and what they have signed.
//!
//! Keys are PEM texts of one SubjectPublicKeyInfo (RFC 7468 section 13, RFC 5280 section 4.1.2.7). As cosign
//! and containers/image sign, the digest of what is signed is SHA-256 for every ECDSA and RSA key; newer
//! signers take SHA-384 for P-384, which is accepted beside it.

use ring::signature::{
    self, ECDSA_P256_SHA256_ASN1, ECDSA_P384_SHA256_ASN1, ECDSA_P384_SHA384_ASN1, RSA_PKCS1_2048_8192_SHA256,
    UnparsedPublicKey, VerificationAlgorithm,
};
use rustls_pki_types::{
    alg_id,
    pem::{PemObject as _, SectionKind},
};

use super::{
    der::{BIT_STRING, Der, INTEGER, SEQUENCE, positive, whole_bytes},
    json::Fault,
};

/// The largest text of a key: one of RSA with 8192 bits has below 1.5 KiB.
pub(super) const MAX_KEY: u64 = 64 << 10;
const RSA_BITS: std::ops::RangeInclusive<usize> = 2048..=8192;
const SUPPORTED: &str = "take a key of cosign (`cosign generate-key-pair`), or ECDSA P-256 or P-384, Ed25519, RSA of 2048 to 8192 bits";

/// A public key that may sign images.
#[derive(Debug, Clone)]
pub(super) struct Key {
    /// Where it comes from, for people: a file's name, or which field of the policy.
    pub(super) source: String,
    scheme: Scheme,
    /// In the form `ring` takes: the point, the 32 bytes, or the RSAPublicKey.
    material: Vec<u8>,
}

#[derive(Debug, Clone, Copy, PartialEq, Eq)]
enum Scheme {
    P256,
    P384,
    Ed25519,
    Rsa,
}

impl Key {
    /// Reads a PEM text.
    pub(super) fn parse(source: String, pem: &[u8]) -> Result<Self, Fault> {
        let (scheme, material) = parse_spki(&only_section(pem)?)?;
        Ok(Self { source, scheme, material })
    }

    /// Whether this key signed exactly this message.
    pub(super) fn signed(&self, message: &[u8], signature: &[u8]) -> bool {
        let algorithms: &[&'static dyn VerificationAlgorithm] = match self.scheme {
            Scheme::P256 => &[&ECDSA_P256_SHA256_ASN1],
            Scheme::P384 => &[&ECDSA_P384_SHA256_ASN1, &ECDSA_P384_SHA384_ASN1],
            Scheme::Ed25519 => &[&signature::ED25519],
            Scheme::Rsa => &[&RSA_PKCS1_2048_8192_SHA256],
        };
        let by = |algorithm: &&'static dyn VerificationAlgorithm| {
            UnparsedPublicKey::new(*algorithm, &self.material).verify(message, signature).is_ok()
        };
        algorithms.iter().any(by)
    }
}

/// The DER bytes of a text that has one public key and no other section.
fn only_section(pem: &[u8]) -> Result<Vec<u8>, Fault> {
    let secret = String::from_utf8_lossy(pem).contains("PRIVATE KEY-----");
    if secret {
        return Err(Fault::new(
            "is a private key",
            "name the public key beside it; a policy needs no private key, keep that one where images are signed",
        ));
    }
    let mut sections = <(SectionKind, Vec<u8>)>::pem_slice_iter(pem);
    let malformed = |_| Fault::new("is a malformed PEM text", "copy the file of the key anew");
    match (sections.next().transpose().map_err(malformed)?, sections.next()) {
        (Some((SectionKind::PublicKey, der)), None) => Ok(der),
        (Some(_), Some(_)) => Err(Fault::new(
            "has more than one section",
            "put each key into a file of its own, and name them in keyPaths",
        )),
        _ => Err(Fault::new(
            "has no public key in the form of PEM",
            "it begins with '-----BEGIN PUBLIC KEY-----'; `openssl pkey -pubin -pubout` and `cosign public-key` write it",
        )),
    }
}

fn parse_spki(der: &[u8]) -> Result<(Scheme, Vec<u8>), Fault> {
    let malformed = || Fault::new("is a malformed public key", "copy the file of the key anew");
    let (algorithm, material) = split_spki(der).ok_or_else(malformed)?;
    let scheme = match algorithm {
        a if a == alg_id::ECDSA_P256.as_ref() => Scheme::P256,
        a if a == alg_id::ECDSA_P384.as_ref() => Scheme::P384,
        a if a == alg_id::ED25519.as_ref() => Scheme::Ed25519,
        a if a == alg_id::RSA_ENCRYPTION.as_ref() => Scheme::Rsa,
        _ => return Err(Fault::new("is a key of a kind that is not supported", SUPPORTED)),
    };
    let well_formed = match scheme {
        // An uncompressed point.
        Scheme::P256 => material.len() == 65 && material.starts_with(&[4]),
        Scheme::P384 => material.len() == 97 && material.starts_with(&[4]),
        Scheme::Ed25519 => material.len() == 32,
        Scheme::Rsa => {
            let (bits, odd) = rsa(material).ok_or_else(malformed)?;
            if !RSA_BITS.contains(&bits) {
                return Err(Fault::new(format!("is an RSA key of {bits} bits"), SUPPORTED));
            }
            odd
        }
    };
    well_formed.then(|| (scheme, material.to_vec())).ok_or_else(malformed)
}

/// The content of the AlgorithmIdentifier, and the bytes of the key.
fn split_spki(der: &[u8]) -> Option<(&[u8], &[u8])> {
    let mut spki = Der::new(Der::new(der).only(SEQUENCE)?);
    let algorithm = spki.next(SEQUENCE)?;
    let key = spki.only(BIT_STRING)?;
    Some((algorithm, whole_bytes(key)?))
}

/// The bits of the modulus of an RSAPublicKey (RFC 8017 A.1.1), and whether modulus and exponent are such as RSA
/// can have.
fn rsa(der: &[u8]) -> Option<(usize, bool)> {
    let mut key = Der::new(Der::new(der).only(SEQUENCE)?);
    let modulus = positive(key.next(INTEGER)?)?;
    let exponent = positive(key.only(INTEGER)?)?;
    let odd = |number: &[u8]| number.last().is_some_and(|byte| byte & 1 == 1);
    let leading = modulus.first()?.leading_zeros() as usize;
    Some((
        modulus.len() * 8 - leading,
        odd(modulus) && odd(exponent) && exponent != [1] && exponent.len() <= 4,
    ))
}

#[cfg(test)]
mod tests {
    use base64::{Engine as _, engine::general_purpose::STANDARD};

    use super::*;

    fn pem(label: &str, der: &[u8]) -> String {
        format!("-----BEGIN {label}-----\n{}\n-----END {label}-----\n", STANDARD.encode(der))
    }

    /// RFC 8410, section 10.1: an Ed25519 key.
    const ED25519: &str = "MCowBQYDK2VwAyEAGb9ECWmEzf6FQbrBZ9w7lshQhqowtrbLDFw4rXAxZuE=";

    fn problem(text: &str) -> String {
        Key::parse("k".into(), text.as_bytes()).unwrap_err().problem
    }

    #[test]
    fn reads_one_key_of_a_text() {
        let key = pem("PUBLIC KEY", &STANDARD.decode(ED25519).unwrap());
        let read = Key::parse("a.pub".into(), format!("a remark\n{key}").as_bytes()).unwrap();
        assert_eq!((read.scheme, read.material.len(), read.source.as_str()), (Scheme::Ed25519, 32, "a.pub"));
        assert_eq!(problem(&format!("{key}{key}")), "has more than one section");
        assert_eq!(problem(&pem("CERTIFICATE", &[0x30, 0])), "has no public key in the form of PEM");
        assert_eq!(problem(&pem("PRIVATE KEY", &[0x30, 0])), "is a private key");
        assert_eq!(problem(&pem("ENCRYPTED SIGSTORE PRIVATE KEY", &[0x30, 0])), "is a private key");
        assert_eq!(problem(""), "has no public key in the form of PEM");
        assert_eq!(problem("-----BEGIN PUBLIC KEY-----\nAAAA\n"), "is a malformed PEM text");
        assert_eq!(
            problem("-----BEGIN PUBLIC KEY-----\n#\n-----END PUBLIC KEY-----\n"),
            "is a malformed PEM text"
        );
    }

    #[test]
    fn refuses_every_truncation_extension_and_other_kind() {
        let der = STANDARD.decode(ED25519).unwrap();
        for length in 0..der.len() {
            assert_eq!(problem(&pem("PUBLIC KEY", &der[..length])), "is a malformed public key", "{length}");
        }
        let longer = [der.as_slice(), &[0]].concat();
        assert_eq!(problem(&pem("PUBLIC KEY", &longer)), "is a malformed public key");
        let mut x25519 = der.clone();
        x25519[8] = 0x6e;
        assert_eq!(problem(&pem("PUBLIC KEY", &x25519)), "is a key of a kind that is not supported");
        let mut unused_bits = der;
        unused_bits[11] = 1;
        assert_eq!(problem(&pem("PUBLIC KEY", &unused_bits)), "is a malformed public key");
    }
}
