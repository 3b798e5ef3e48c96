//! Random names: container ids and object name suffixes.

use std::{fmt, fs::File, io::Read, str::FromStr};

use serde::{Deserialize, Serialize};

use crate::digest::hex;

/// A container's id: 64 lower-case hexadecimal digits, as Docker's and containerd's.
#[derive(Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(try_from = "String", into = "String")]
pub struct ContainerId(String);

/// A text that is not a container id.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a container id of 64 lower-case hexadecimal digits")]
pub struct IdError(String);

impl ContainerId {
    /// A fresh random id.
    pub fn random() -> Self {
        Self(random_hex(32))
    }

    /// All 64 digits.
    pub fn as_str(&self) -> &str {
        &self.0
    }

    /// The first 12 digits, as tools show them to people.
    pub fn short(&self) -> &str {
        &self.0[..12]
    }
}

impl FromStr for ContainerId {
    type Err = IdError;

    fn from_str(text: &str) -> Result<Self, IdError> {
        let ok = text.len() == 64 && text.bytes().all(|b| matches!(b, b'0'..=b'9' | b'a'..=b'f'));
        if ok { Ok(Self(text.to_owned())) } else { Err(IdError(text.chars().take(80).collect())) }
    }
}

impl TryFrom<String> for ContainerId {
    type Error = IdError;

    fn try_from(text: String) -> Result<Self, IdError> {
        text.parse()
    }
}

impl From<ContainerId> for String {
    fn from(id: ContainerId) -> Self {
        id.0
    }
}

impl fmt::Display for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(&self.0)
    }
}

impl fmt::Debug for ContainerId {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        f.write_str(self.short())
    }
}

/// `bytes` random bytes of the kernel as hexadecimal digits.
///
/// # Panics
/// When the kernel's random device cannot be read: nothing secure can go on from there.
pub fn random_hex(bytes: usize) -> String {
    hex(&random(bytes))
}

/// A random suffix of `len` characters of the alphabet Kubernetes uses for `generateName`
/// (consonants and digits without look-alikes, so that no word is spelt).
///
/// # Panics
/// As [`random_hex`].
pub fn random_suffix(len: usize) -> String {
    const ALPHABET: &[u8; 27] = b"bcdfghjklmnpqrstvwxz2456789";
    random(len).into_iter().map(|b| ALPHABET[usize::from(b) % ALPHABET.len()] as char).collect()
}

/// Random bytes of the kernel.
///
/// # Panics
/// As [`random_hex`].
pub fn random_bytes<const N: usize>() -> [u8; N] {
    let mut bytes = [0; N];
    bytes.copy_from_slice(&random(N));
    bytes
}

fn random(bytes: usize) -> Vec<u8> {
    let mut raw = vec![0; bytes];
    File::open("/dev/urandom").and_then(|mut f| f.read_exact(&mut raw)).expect("/dev/urandom is readable");
    raw
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn ids_round_trip_and_differ() {
        let (a, b) = (ContainerId::random(), ContainerId::random());
        assert_ne!(a, b);
        assert_eq!(a.to_string().parse(), Ok(a));
        assert!("../../etc/passwd".parse::<ContainerId>().is_err());
    }
}
