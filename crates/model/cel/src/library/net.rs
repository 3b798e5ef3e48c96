//! Addresses and networks: Kubernetes' `pkg/cel/library/ip.go` and `cidr.go`.

use std::{fmt, net::IpAddr};

use super::{Outcome, Row, no_overload};
use crate::{error::EvalError, value::Value};

pub(super) const ROWS: &[Row] = &[
    ("ip", "string_to_ip", "(string) -> ip", |args| match args {
        [Value::String(text)] => address(text).map(Value::Ip),
        _ => no_overload(),
    }),
    ("ip", "cidr_ip", "cidr.() -> ip", |args| match args {
        [Value::Cidr(cidr)] => Ok(Value::Ip(cidr.address)),
        _ => no_overload(),
    }),
    ("ip.isCanonical", "ip_is_canonical", "(string) -> bool", |args| match args {
        [Value::String(text)] => Ok(Value::Bool(address(text)?.to_string() == **text)),
        _ => no_overload(),
    }),
    ("isIP", "is_ip", "(string) -> bool", |args| match args {
        [Value::String(text)] => Ok(Value::Bool(address(text).is_ok())),
        _ => no_overload(),
    }),
    ("family", "ip_family", "ip.() -> int", |args| match args {
        [Value::Ip(ip)] => Ok(Value::Int(if ip.is_ipv4() { 4 } else { 6 })),
        _ => no_overload(),
    }),
    ("isUnspecified", "ip_is_unspecified", "ip.() -> bool", |args| is(args, |ip| ip.is_unspecified())),
    ("isLoopback", "ip_is_loopback", "ip.() -> bool", |args| is(args, |ip| ip.is_loopback())),
    ("isLinkLocalMulticast", "ip_is_link_local_multicast", "ip.() -> bool", |args| {
        is(args, link_local_multicast)
    }),
    ("isLinkLocalUnicast", "ip_is_link_local_unicast", "ip.() -> bool", |args| is(args, link_local_unicast)),
    ("isGlobalUnicast", "ip_is_global_unicast", "ip.() -> bool", |args| is(args, global_unicast)),
    ("cidr", "string_to_cidr", "(string) -> cidr", |args| match args {
        [Value::String(text)] => network(text).map(Value::Cidr),
        _ => no_overload(),
    }),
    ("isCIDR", "is_cidr", "(string) -> bool", |args| match args {
        [Value::String(text)] => Ok(Value::Bool(network(text).is_ok())),
        _ => no_overload(),
    }),
    ("containsIP", "cidr_contains_ip_string", "cidr.(string) -> bool", contains_ip),
    ("containsIP", "cidr_contains_ip_ip", "cidr.(ip) -> bool", contains_ip),
    ("containsCIDR", "cidr_contains_cidr_string", "cidr.(string) -> bool", contains_cidr),
    ("containsCIDR", "cidr_contains_cidr", "cidr.(cidr) -> bool", contains_cidr),
    ("prefixLength", "cidr_prefix_length", "cidr.() -> int", |args| match args {
        [Value::Cidr(cidr)] => Ok(Value::Int(cidr.prefix.into())),
        _ => no_overload(),
    }),
    ("masked", "cidr_masked", "cidr.() -> cidr", |args| match args {
        [Value::Cidr(cidr)] => Ok(Value::Cidr(cidr.masked())),
        _ => no_overload(),
    }),
];

/// An address and how many of its bits name the network.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub struct Cidr {
    address: IpAddr,
    prefix: u8,
}

impl Cidr {
    /// The bytes of the prefix.
    pub(crate) fn size(self) -> u64 {
        u64::from(self.prefix.div_ceil(8))
    }

    /// The bits of an address after the prefix cleared.
    fn mask(self, address: IpAddr) -> Option<IpAddr> {
        match (self.address, address) {
            (IpAddr::V4(_), IpAddr::V4(ip)) => {
                let mask = u32::MAX.checked_shl(32 - u32::from(self.prefix)).unwrap_or(0);
                Some(IpAddr::V4((u32::from(ip) & mask).into()))
            }
            (IpAddr::V6(_), IpAddr::V6(ip)) => {
                let mask = u128::MAX.checked_shl(128 - u32::from(self.prefix)).unwrap_or(0);
                Some(IpAddr::V6((u128::from(ip) & mask).into()))
            }
            _ => None,
        }
    }

    fn masked(self) -> Self {
        Self { address: self.mask(self.address).unwrap_or(self.address), prefix: self.prefix }
    }

    fn contains(self, ip: IpAddr) -> bool {
        self.mask(ip).is_some_and(|masked| masked == self.masked().address)
    }
}

impl fmt::Display for Cidr {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "{}/{}", self.address, self.prefix)
    }
}

fn address(text: &str) -> Result<IpAddr, EvalError> {
    if let Some((before, _)) = text.split_once('%')
        && before.parse::<IpAddr>().is_ok_and(|ip| ip.is_ipv6())
    {
        return Err(EvalError::new(format!("IP address {text:?} with zone value is not allowed")));
    }
    let ip: IpAddr = text.parse().map_err(|_| {
        let fault = fault(text);
        EvalError::new(format!(
            "IP Address {text:?} parse error during conversion from string: ParseAddr({text:?}): {fault}"
        ))
    })?;
    if mapped(ip) {
        return Err(EvalError::new(format!("IPv4-mapped IPv6 address {text:?} is not allowed")));
    }
    Ok(ip)
}

/// What is wrong with an address, in the words of Go's `netip`.
fn fault(text: &str) -> String {
    match text.chars().find(|c| ".:%".contains(*c)) {
        Some('.') => fault_v4(text),
        Some(':') => fault_v6(text),
        Some(_) => "missing IPv6 address".to_owned(),
        None => "unable to parse IP".to_owned(),
    }
}

fn fault_v4(text: &str) -> String {
    if let Some((at, c)) = text.char_indices().find(|(_, c)| !c.is_ascii_digit() && *c != '.') {
        return format!("unexpected character (at {:?})", &text[at..at + c.len_utf8()]);
    }
    let fields: Vec<&str> = text.split('.').collect();
    for field in fields.iter().take(4) {
        if field.is_empty() {
            return "IPv4 field must have at least one digit".to_owned();
        }
        if field.len() > 1 && field.starts_with('0') {
            return "IPv4 field has octet with leading zero".to_owned();
        }
        if field.parse::<u8>().is_err() {
            return "IPv4 field has value >255".to_owned();
        }
    }
    if fields.len() > 4 { "IPv4 address too long" } else { "IPv4 address too short" }.to_owned()
}

fn fault_v6(text: &str) -> String {
    let mut rest = text.strip_prefix("::").unwrap_or(text);
    while !rest.is_empty() {
        let digits = rest.bytes().take_while(u8::is_ascii_hexdigit).count();
        if digits == 0 {
            return format!("each colon-separated field must have at least one digit (at {rest:?})");
        }
        if digits > 4 {
            return format!("each group must have 4 or less digits (at {rest:?})");
        }
        let after = &rest[digits..];
        let Some(next) = after.strip_prefix("::").or_else(|| after.strip_prefix(':')) else { break };
        rest = next;
    }
    "unable to parse IP".to_owned()
}

fn mapped(ip: IpAddr) -> bool {
    matches!(ip, IpAddr::V6(v6) if v6.to_ipv4_mapped().is_some())
}

fn network(text: &str) -> Result<Cidr, EvalError> {
    let wrong = |why: &str| {
        let prefix = "network address parse error during conversion from string";
        EvalError::new(format!("{prefix}: {prefix}: netip.ParsePrefix({text:?}): {why}"))
    };
    let (ip, bits) = text.rsplit_once('/').ok_or_else(|| wrong("no '/'"))?;
    let ip: IpAddr = ip.parse().map_err(|_| wrong(&format!("ParseAddr({ip:?}): {}", fault(ip))))?;
    let bad = || wrong(&format!("bad bits after slash: {bits:?}"));
    let digits = !bits.is_empty() && bits.bytes().all(|b| b.is_ascii_digit());
    if !digits || (bits.len() > 1 && bits.starts_with('0')) {
        return Err(bad());
    }
    let prefix: u8 = bits.parse().map_err(|_| bad())?;
    if prefix > if ip.is_ipv4() { 32 } else { 128 } {
        return Err(wrong("prefix length out of range"));
    }
    if mapped(ip) {
        return Err(EvalError::new(format!(
            "network address parse error during conversion from string: IPv4-mapped IPv6 address {text:?} is not allowed"
        )));
    }
    Ok(Cidr { address: ip, prefix })
}

fn is<'a>(args: &[Value<'a>], holds: fn(IpAddr) -> bool) -> Outcome<'a> {
    match args {
        [Value::Ip(ip)] => Ok(Value::Bool(holds(*ip))),
        _ => no_overload(),
    }
}

fn link_local_multicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.octets().starts_with(&[224, 0, 0]),
        IpAddr::V6(v6) => v6.segments()[0] & 0xff0f == 0xff02,
    }
}

fn link_local_unicast(ip: IpAddr) -> bool {
    match ip {
        IpAddr::V4(v4) => v4.is_link_local(),
        IpAddr::V6(v6) => v6.segments()[0] & 0xffc0 == 0xfe80,
    }
}

fn global_unicast(ip: IpAddr) -> bool {
    let broadcast = matches!(ip, IpAddr::V4(v4) if v4.is_broadcast());
    !(broadcast || ip.is_unspecified() || ip.is_loopback() || ip.is_multicast() || link_local_unicast(ip))
}

fn contains_ip<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match args {
        [Value::Cidr(cidr), Value::Ip(ip)] => Ok(Value::Bool(cidr.contains(*ip))),
        [Value::Cidr(cidr), Value::String(text)] => Ok(Value::Bool(cidr.contains(address(text)?))),
        _ => no_overload(),
    }
}

fn contains_cidr<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let (outer, inner) = match args {
        [Value::Cidr(outer), Value::Cidr(inner)] => (*outer, *inner),
        [Value::Cidr(outer), Value::String(text)] => (*outer, network(text)?),
        _ => return no_overload(),
    };
    Ok(Value::Bool(outer.prefix <= inner.prefix && outer.contains(inner.address)))
}
