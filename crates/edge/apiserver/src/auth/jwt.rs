//! JSON Web Tokens and the keys that sign them.
//!
//! Source: RFC 7515, 7517, 7518, 7519.

use base64::{Engine, engine::general_purpose::URL_SAFE_NO_PAD};
use ring::signature::{
    self, ECDSA_P256_SHA256_FIXED, ECDSA_P384_SHA384_FIXED, RsaParameters, RsaPublicKeyComponents,
    UnparsedPublicKey,
};
use serde_json::Value;

/// Bytes of a token, and keys of a set, at the most.
const MAX_TOKEN: usize = 64 << 10;
const MAX_KEYS: usize = 128;

/// Algorithms tokens may be signed by.
pub(crate) const ALGORITHMS: [&str; 8] =
    ["RS256", "RS384", "RS512", "ES256", "ES384", "PS256", "PS384", "PS512"];

/// A token taken apart; nothing of it is known to be true yet.
#[derive(Debug)]
pub(crate) struct Jwt<'a> {
    pub algorithm: String,
    pub key: Option<String>,
    pub claims: Value,
    message: &'a str,
    signature: Vec<u8>,
}

impl<'a> Jwt<'a> {
    /// Takes a text apart; nothing when it is no token.
    pub(crate) fn parse(token: &'a str) -> Option<Self> {
        if token.len() > MAX_TOKEN {
            return None;
        }
        let (message, signature) = token.rsplit_once('.')?;
        let (header, claims) = message.split_once('.')?;
        let json = |part: &str| serde_json::from_slice::<Value>(&URL_SAFE_NO_PAD.decode(part).ok()?).ok();
        let (header, claims) = (json(header)?, json(claims)?);
        // Extensions that must be understood are none that are.
        if header.get("crit").is_some() || !claims.is_object() {
            return None;
        }
        let text = |name: &str| header[name].as_str().map(str::to_owned);
        let signature = URL_SAFE_NO_PAD.decode(signature).ok()?;
        Some(Self { algorithm: text("alg")?, key: text("kid"), claims, message, signature })
    }

    /// Whether one of the keys has signed it.
    pub(crate) fn is_signed_by(&self, keys: &[Key]) -> bool {
        let named = |key: &&Key| self.key.is_none() || key.id.is_none() || key.id == self.key;
        keys.iter()
            .filter(named)
            .any(|key| key.verifies(&self.algorithm, self.message.as_bytes(), &self.signature))
    }
}

/// A public key.
#[derive(Debug, Clone)]
pub(crate) struct Key {
    id: Option<String>,
    /// The one algorithm it is for, when that is said.
    algorithm: Option<String>,
    material: Material,
}

#[derive(Debug, Clone)]
enum Material {
    /// Modulus and exponent, big-endian.
    Rsa(Vec<u8>, Vec<u8>),
    P256(Vec<u8>),
    P384(Vec<u8>),
}

/// The usable keys of a set.
pub(crate) fn keys(set: &Value) -> Vec<Key> {
    set["keys"].as_array().into_iter().flatten().take(MAX_KEYS).filter_map(Key::read).collect()
}

impl Key {
    fn read(key: &Value) -> Option<Self> {
        let text = |name: &str| key[name].as_str().map(str::to_owned);
        if key["use"].as_str().is_some_and(|used| used != "sig") {
            return None;
        }
        let bytes = |name: &str| {
            let bytes = URL_SAFE_NO_PAD.decode(key[name].as_str()?.trim_end_matches('=')).ok()?;
            let start = bytes.iter().position(|byte| *byte != 0)?;
            bytes.get(start..).map(<[u8]>::to_vec)
        };
        let point = |size: usize| {
            let mut point = vec![4];
            for name in ["x", "y"] {
                let part = bytes(name)?;
                point.extend(std::iter::repeat_n(0, size.checked_sub(part.len())?));
                point.extend(part);
            }
            Some(point)
        };
        let material = match (key["kty"].as_str()?, key["crv"].as_str()) {
            ("RSA", _) => Material::Rsa(bytes("n")?, bytes("e")?),
            ("EC", Some("P-256")) => Material::P256(point(32)?),
            ("EC", Some("P-384")) => Material::P384(point(48)?),
            _ => return None,
        };
        Some(Self { id: text("kid"), algorithm: text("alg"), material })
    }

    fn verifies(&self, algorithm: &str, message: &[u8], signed: &[u8]) -> bool {
        if self.algorithm.as_deref().is_some_and(|own| own != algorithm) {
            return false;
        }
        let verified = match &self.material {
            Material::Rsa(n, e) => match rsa(algorithm) {
                Some(parameters) => RsaPublicKeyComponents { n, e }.verify(parameters, message, signed),
                None => return false,
            },
            Material::P256(point) if algorithm == "ES256" => {
                UnparsedPublicKey::new(&ECDSA_P256_SHA256_FIXED, point).verify(message, signed)
            }
            Material::P384(point) if algorithm == "ES384" => {
                UnparsedPublicKey::new(&ECDSA_P384_SHA384_FIXED, point).verify(message, signed)
            }
            _ => return false,
        };
        verified.is_ok()
    }
}

fn rsa(algorithm: &str) -> Option<&'static RsaParameters> {
    Some(match algorithm {
        "RS256" => &signature::RSA_PKCS1_2048_8192_SHA256,
        "RS384" => &signature::RSA_PKCS1_2048_8192_SHA384,
        "RS512" => &signature::RSA_PKCS1_2048_8192_SHA512,
        "PS256" => &signature::RSA_PSS_2048_8192_SHA256,
        "PS384" => &signature::RSA_PSS_2048_8192_SHA384,
        "PS512" => &signature::RSA_PSS_2048_8192_SHA512,
        _ => return None,
    })
}
