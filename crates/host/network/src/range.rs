//! IPv4 networks, and the choice of one that is free.

use std::{fmt, net::Ipv4Addr, str::FromStr};

use serde::{Deserialize, Serialize};

/// An IPv4 network in CIDR notation; the bits after the prefix are zero.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
#[serde(into = "String", try_from = "String")]
pub struct Ipv4Net {
    address: Ipv4Addr,
    prefix: u8,
}

impl Ipv4Net {
    /// The network of `prefix` bits that holds `address`; a prefix over 32 counts as 32.
    pub const fn new(address: Ipv4Addr, prefix: u8) -> Self {
        let prefix = if prefix > 32 { 32 } else { prefix };
        Self { address: Ipv4Addr::from_bits(address.to_bits() & mask(prefix)), prefix }
    }

    /// Its lowest address.
    pub fn address(self) -> Ipv4Addr {
        self.address
    }

    /// The number of fixed bits.
    pub fn prefix(self) -> u8 {
        self.prefix
    }

    /// Whether it holds `address`.
    pub fn contains(self, address: Ipv4Addr) -> bool {
        address.to_bits() & mask(self.prefix) == self.address.to_bits()
    }

    /// Whether the two have an address in common.
    pub fn overlaps(self, other: Self) -> bool {
        self.contains(other.address) || other.contains(self.address)
    }

    /// Its `n`th address.
    pub fn nth(self, n: u32) -> Option<Ipv4Addr> {
        let address = Ipv4Addr::from_bits(self.address.to_bits().checked_add(n)?);
        self.contains(address).then_some(address)
    }

    /// Its first usable address: the gateway of the pods.
    pub fn gateway(self) -> Ipv4Addr {
        Ipv4Addr::from_bits(self.address.to_bits() | 1)
    }

    /// Its lowest and its highest address.
    pub(crate) fn ends(self) -> (Ipv4Addr, Ipv4Addr) {
        (self.address, Ipv4Addr::from_bits(self.address.to_bits() | !mask(self.prefix)))
    }

    /// Whether something can have this address of it: neither the network's own nor the broadcast address.
    pub(crate) fn has_host(self, address: Ipv4Addr) -> bool {
        let (first, last) = self.ends();
        self.contains(address) && (self.prefix > 30 || (address != first && address != last))
    }

    /// Its addresses from the first on, not more than one could look through.
    pub(crate) fn addresses(self) -> impl Iterator<Item = Ipv4Addr> {
        let size = (1_u64 << (32 - self.prefix)).min(1 << 16);
        let first = self.address.to_bits();
        (0..size).map(move |n| Ipv4Addr::from_bits(first | n as u32))
    }

    /// The addresses pods can have: all but the network, the gateway and the broadcast address.
    pub(crate) fn hosts(self) -> impl Iterator<Item = Ipv4Addr> {
        let size = 1_u64 << (32 - self.prefix);
        let first = self.address.to_bits();
        (2..size.saturating_sub(1).min(1 << 16)).map(move |n| Ipv4Addr::from_bits(first | n as u32))
    }
}

const fn mask(prefix: u8) -> u32 {
    match u32::MAX.checked_shl(32 - prefix as u32) {
        Some(mask) => mask,
        None => 0,
    }
}

impl fmt::Display for Ipv4Net {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

impl FromStr for Ipv4Net {
    type Err = String;

    fn from_str(text: &str) -> Result<Self, String> {
        let wrong = || format!("`{text}` is not an IPv4 network such as 10.244.0.0/24");
        let (address, prefix) = text.split_once('/').ok_or_else(wrong)?;
        let (address, prefix) = (address.parse().map_err(|_| wrong())?, prefix.parse().map_err(|_| wrong())?);
        let network = Self::new(address, prefix);
        (network.address == address && network.prefix == prefix).then_some(network).ok_or_else(wrong)
    }
}

impl From<Ipv4Net> for String {
    fn from(network: Ipv4Net) -> Self {
        network.to_string()
    }
}

impl TryFrom<String> for Ipv4Net {
    type Error = String;

    fn try_from(text: String) -> Result<Self, String> {
        text.parse()
    }
}

/// The first network of `prefix` bits in `pool` that touches no network in use. Networks wider than the pool do not
/// count: a route to 10.0.0.0/8 is overruled by the narrower one made here.
pub(crate) fn free_range(pool: Ipv4Net, prefix: u8, used: &[Ipv4Net]) -> Option<Ipv4Net> {
    let used: Vec<_> = used.iter().filter(|network| network.prefix >= pool.prefix).collect();
    let prefix = prefix.clamp(pool.prefix, 32);
    let count = 1_u64 << (prefix - pool.prefix);
    (0..count)
        .filter_map(|n| Some(Ipv4Net::new(pool.nth(u32::try_from(n << (32 - prefix)).ok()?)?, prefix)))
        .find(|range| !used.iter().any(|network| network.overlaps(*range)))
}

#[cfg(test)]
mod tests {
    use super::*;

    fn net(text: &str) -> Ipv4Net {
        text.parse().unwrap()
    }

    #[test]
    fn text() {
        assert_eq!(net("10.244.0.0/24").to_string(), "10.244.0.0/24");
        assert_eq!(net("0.0.0.0/0").prefix(), 0);
        for wrong in ["10.244.0.1/24", "10.0.0.0", "10.0.0.0/33", "a/8", "10.0.0.0/-1", ""] {
            assert!(wrong.parse::<Ipv4Net>().is_err(), "{wrong}");
        }
    }

    #[test]
    fn addresses() {
        let network = net("10.244.3.0/24");
        assert_eq!(network.gateway(), Ipv4Addr::new(10, 244, 3, 1));
        assert_eq!(network.hosts().count(), 253);
        assert_eq!(network.hosts().last(), Some(Ipv4Addr::new(10, 244, 3, 254)));
        assert_eq!(network.nth(256), None);
    }

    #[test]
    fn a_free_range() {
        let pool = net("10.244.0.0/16");
        let check = |used: &[&str]| {
            let used: Vec<_> = used.iter().map(|text| net(text)).collect();
            free_range(pool, 24, &used).map(|range| range.to_string())
        };
        assert_eq!(check(&[]).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(check(&["10.244.0.0/24", "10.244.1.7/32"]).as_deref(), Some("10.244.2.0/24"));
        assert_eq!(check(&["10.0.0.0/8", "0.0.0.0/0"]).as_deref(), Some("10.244.0.0/24"));
        assert_eq!(check(&["10.244.0.0/16"]), None);
        assert_eq!(free_range(net("10.1.2.0/24"), 24, &[]), Some(net("10.1.2.0/24")));
        assert_eq!(free_range(net("10.1.2.0/25"), 24, &[]), Some(net("10.1.2.0/25")));
        let services = |used: &[Ipv4Net]| free_range(net("10.96.0.0/12"), 16, used);
        assert_eq!(services(&[net("10.96.0.0/16"), net("10.97.4.0/24")]), Some(net("10.98.0.0/16")));
        assert_eq!(services(&[net("10.96.0.0/12")]), None);
    }
}
