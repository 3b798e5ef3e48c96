//! Content digests in the OCI form `sha256:<64 hex digits>` or `sha512:<128 hex digits>` (OCI image spec, "Digests").

use std::{fmt, io, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};
use sha2::{Digest as _, Sha256, Sha512};

/// How a digest is made.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub enum Algorithm {
    /// SHA-256: what this platform makes.
    #[default]
    Sha256,
    /// SHA-512: what others may make.
    Sha512,
}

impl Algorithm {
    /// All there are.
    pub const ALL: [Self; 2] = [Self::Sha256, Self::Sha512];

    /// Its name in digests, and of folders of blobs.
    pub const fn name(self) -> &'static str {
        match self {
            Self::Sha256 => "sha256",
            Self::Sha512 => "sha512",
        }
    }

    const fn bytes(self) -> usize {
        match self {
            Self::Sha256 => 32,
            Self::Sha512 => 64,
        }
    }

    /// The digest of these hexadecimal digits, when they are one of this algorithm.
    pub fn digest(self, digits: &str) -> Option<Digest> {
        let digits = digits.as_bytes();
        if digits.len() != 2 * self.bytes() {
            return None;
        }
        let mut raw = [0; 64];
        for (byte, pair) in raw.iter_mut().zip(digits.chunks_exact(2)) {
            *byte = nibble(pair[0]).zip(nibble(pair[1])).map(|(high, low)| high << 4 | low)?;
        }
        Some(Digest { algorithm: self, raw })
    }
}

/// A content digest. Displays as `sha256:…` or `sha512:…`.
#[derive(Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash)]
pub struct Digest {
    algorithm: Algorithm,
    /// As many bytes as the algorithm has, then zeros.
    raw: [u8; 64],
}

/// Why a text is not a digest this platform accepts.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
pub enum DigestError {
    /// Another algorithm than those.
    #[error("digest '{0}' uses neither sha256 nor sha512")]
    Algorithm(String),
    /// Not as many lower-case hexadecimal digits.
    #[error("digest '{0}' is not 'sha256:' and 64, or 'sha512:' and 128 lower-case hexadecimal digits")]
    Malformed(String),
}

impl Digest {
    /// The SHA-256 digest of `bytes`.
    pub fn of(bytes: impl AsRef<[u8]>) -> Self {
        Self::by(Algorithm::Sha256, bytes)
    }

    /// The digest of `bytes` by an algorithm.
    pub fn by(algorithm: Algorithm, bytes: impl AsRef<[u8]>) -> Self {
        let mut hasher = Hasher::by(algorithm);
        hasher.update(bytes.as_ref());
        hasher.finish()
    }

    /// The SHA-256 digest from its 32 raw bytes.
    pub fn from_raw(raw: [u8; 32]) -> Self {
        Self::made(Algorithm::Sha256, &raw)
    }

    fn made(algorithm: Algorithm, bytes: &[u8]) -> Self {
        let mut raw = [0; 64];
        raw[..bytes.len()].copy_from_slice(bytes);
        Self { algorithm, raw }
    }

    /// How it was made.
    pub fn algorithm(&self) -> Algorithm {
        self.algorithm
    }

    /// The hexadecimal digits, without the algorithm.
    pub fn hex(&self) -> String {
        hex(&self.raw[..self.algorithm.bytes()])
    }

    /// The first 12 hexadecimal digits, as tools show them to people.
    pub fn short(&self) -> String {
        hex(&self.raw[..6])
    }
}

/// Lower-case hexadecimal digits of `bytes`.
pub(crate) fn hex(bytes: &[u8]) -> String {
    const DIGITS: &[u8; 16] = b"0123456789abcdef";
    bytes
        .iter()
        .flat_map(|b| [DIGITS[(b >> 4) as usize] as char, DIGITS[(b & 15) as usize] as char])
        .collect()
}

impl fmt::Display for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}:{}", self.algorithm.name(), self.hex())
    }
}

impl fmt::Debug for Digest {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}

impl FromStr for Digest {
    type Err = DigestError;

    fn from_str(text: &str) -> Result<Self, DigestError> {
        let malformed = || DigestError::Malformed(text.chars().take(80).collect());
        let (algorithm, digits) = text.split_once(':').ok_or_else(malformed)?;
        let known = Algorithm::ALL.into_iter().find(|known| known.name() == algorithm);
        let known = known.ok_or_else(|| DigestError::Algorithm(text.chars().take(80).collect()))?;
        known.digest(digits).ok_or_else(malformed)
    }
}

fn nibble(digit: u8) -> Option<u8> {
    match digit {
        b'0'..=b'9' => Some(digit - b'0'),
        b'a'..=b'f' => Some(digit - b'a' + 10),
        _ => None,
    }
}

impl Serialize for Digest {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Digest {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        std::borrow::Cow::<'de, str>::deserialize(d)?.parse().map_err(serde::de::Error::custom)
    }
}

/// Computes a [`Digest`] over bytes as they stream past.
#[derive(Clone)]
pub struct Hasher(State);

#[derive(Clone)]
enum State {
    Sha256(Sha256),
    Sha512(Sha512),
}

impl Default for Hasher {
    fn default() -> Self {
        Self::by(Algorithm::default())
    }
}

impl Hasher {
    /// A hasher for SHA-256 that has seen nothing.
    pub fn new() -> Self {
        Self::default()
    }

    /// A hasher for an algorithm that has seen nothing.
    pub fn by(algorithm: Algorithm) -> Self {
        Self(match algorithm {
            Algorithm::Sha256 => State::Sha256(Sha256::new()),
            Algorithm::Sha512 => State::Sha512(Sha512::new()),
        })
    }

    /// Which one it computes.
    pub fn algorithm(&self) -> Algorithm {
        match &self.0 {
            State::Sha256(_) => Algorithm::Sha256,
            State::Sha512(_) => Algorithm::Sha512,
        }
    }

    /// Adds `bytes`.
    pub fn update(&mut self, bytes: &[u8]) {
        match &mut self.0 {
            State::Sha256(state) => state.update(bytes),
            State::Sha512(state) => state.update(bytes),
        }
    }

    /// The digest of everything added.
    pub fn finish(self) -> Digest {
        let algorithm = self.algorithm();
        match self.0 {
            State::Sha256(state) => Digest::made(algorithm, &state.finalize()),
            State::Sha512(state) => Digest::made(algorithm, &state.finalize()),
        }
    }
}

impl io::Write for Hasher {
    fn write(&mut self, bytes: &[u8]) -> io::Result<usize> {
        self.update(bytes);
        Ok(bytes.len())
    }

    fn flush(&mut self) -> io::Result<()> {
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn prints_what_it_parses() {
        let digest = Digest::of("abc");
        assert_eq!(
            digest.to_string(),
            "sha256:ba7816bf8f01cfea414140de5dae2223b00361a396177a9cb410ff61f20015ad"
        );
        assert_eq!(digest.to_string().parse(), Ok(digest));
        assert_eq!(digest.short(), "ba7816bf8f01");
    }

    #[test]
    fn sha512_is_known_too() {
        let digest = Digest::by(Algorithm::Sha512, "abc");
        let text = digest.to_string();
        assert!(text.starts_with("sha512:ddaf35a193617aba") && text.len() == 7 + 128);
        assert_eq!((text.parse(), digest.short().as_str()), (Ok(digest), "ddaf35a19361"));
        assert_ne!(digest, Digest::of("abc"));
    }

    #[test]
    fn refuses_what_is_not_a_digest() {
        assert!(matches!("sha1:00".parse::<Digest>(), Err(DigestError::Algorithm(_))));
        assert!(matches!("sha512:00".parse::<Digest>(), Err(DigestError::Malformed(_))));
        for bad in ["", "sha256", "sha256:", "sha256:zz", &format!("sha256:{}", "A".repeat(64))] {
            assert!(matches!(bad.parse::<Digest>(), Err(DigestError::Malformed(_))), "{bad}");
        }
    }
}
