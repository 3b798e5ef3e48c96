//! IPv6 networks.

use std::{fmt, net::Ipv6Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// An IPv6 network in CIDR notation; the bits after the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Ipv6Net {
    address: Ipv6Addr,
    prefix: u8,
}

impl Ipv6Net {
    /// The network of `prefix` bits that holds `address`; a prefix over 128 counts as 128.
    pub fn new(address: Ipv6Addr, prefix: u8) -> Self {
        let prefix = prefix.min(128);
        Self { address: Ipv6Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    /// A network of unique local addresses, RFC 4193: 40 random bits make it one nobody else has.
    pub fn unique_local(random: [u8; 5]) -> Self {
        let [a, b, c, d, e] = random;
        let mut octets = [0; 16];
        octets[..6].copy_from_slice(&[0xfd, a, b, c, d, e]);
        Self::new(octets.into(), 64)
    }

    /// Its lowest address.
    pub fn address(self) -> Ipv6Addr {
        self.address
    }

    /// The number of fixed bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether it holds `address`.
    pub fn contains(self, address: Ipv6Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.address.to_bits()
    }

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Its first usable address.
    pub fn gateway(self) -> Ipv6Addr {
        Ipv6Addr::from_bits(self.address.to_bits() | 1)
    }

    /// Its lowest and its highest address.
    pub(crate) fn ends(self) -> (Ipv6Addr, Ipv6Addr) {
        (self.address, Ipv6Addr::from_bits(self.address.to_bits() | !mask(self.prefix)))
    }

    /// Addresses of it from the second on, not more than one could look through.
    pub(crate) fn hosts(self) -> impl Iterator<Item = Ipv6Addr> {
        let (first, last) = (self.address.to_bits(), self.ends().1.to_bits());
        (2..1_u128 << 17)
            .filter_map(move |n| first.checked_add(n))
            .filter(move |bits| *bits < last)
            .map(Ipv6Addr::from_bits)
    }
}

fn mask(prefix: u8) -> u128 {
    u128::MAX.checked_shl(128 - u32::from(prefix)).unwrap_or(0)
}

impl fmt::Display for Ipv6Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Ipv6Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an IPv6 network such as fd00:1::/64");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let (address, prefix) = (address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
        let network = Self::new(address, prefix);
        (network.address == address && network.prefix == prefix).then_some(network).ok_or_else(wrong)
    }
}

impl From<Ipv6Net> for String {
    fn from(network: Ipv6Net) -> Self {
        network.to_string()
    }
}

impl TryFrom<String> for Ipv6Net {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn text_and_addresses() {
        let network: Ipv6Net = "fd00:7::/64".parse().unwrap();
        assert_eq!(network.to_string(), "fd00:7::/64");
        assert_eq!(network.gateway().to_string(), "fd00:7::1");
        assert_eq!(network.hosts().next().unwrap().to_string(), "fd00:7::2");
        assert!(
            network.contains("fd00:7::9".parse().unwrap()) && !network.contains("fd00:8::9".parse().unwrap())
        );
        assert_eq!(Ipv6Net::unique_local([1, 2, 3, 4, 5]).to_string(), "fd01:203:405::/64");
        for wrong in ["fd00::1/64", "10.0.0.0/8", "fd00::/129", "fd00::", ""] {
            assert!(wrong.parse::<Ipv6Net>().is_err(), "{wrong}");
        }
        let small: Ipv6Net = "fd00::/126".parse().unwrap();
        assert_eq!(small.hosts().count(), 1);
    }
}
