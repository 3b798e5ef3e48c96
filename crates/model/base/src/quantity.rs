//! Kubernetes resource quantities (`100m`, `1.5Gi`, `2e3`) and their canonical form.
//!
//! Source: Kubernetes API, `resource.Quantity`: the canonical form has no fractional digits, the
//! largest possible suffix, and keeps the family of suffix (decimal, binary, exponent) it was given.

use std::{fmt, str::FromStr};

use serde::{Deserialize, Deserializer, Serialize, Serializer};

/// An exact amount with nano precision, and the family of suffix it is written with.
#[derive(Clone, Copy, Debug)]
pub struct Quantity {
    nanos: i128,
    family: Family,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
enum Family {
    Decimal,
    Binary,
    Exponent,
}

/// A text that is not a quantity.
#[derive(Debug, Clone, PartialEq, Eq, thiserror::Error)]
#[error("'{0}' is not a quantity: write a number with an optional suffix such as 500m, 2, 128Mi or 1e3")]
pub struct QuantityError(String);

const NANO: i128 = 1_000_000_000;
const DECIMAL: [(&str, i128); 10] = [
    ("E", 1_000_000_000_000_000_000 * NANO),
    ("P", 1_000_000_000_000_000 * NANO),
    ("T", 1_000_000_000_000 * NANO),
    ("G", 1_000_000_000 * NANO),
    ("M", 1_000_000 * NANO),
    ("k", 1_000 * NANO),
    ("", NANO),
    ("m", NANO / 1_000),
    ("u", NANO / 1_000_000),
    ("n", 1),
];
const BINARY: [(&str, u32); 6] = [("Ei", 60), ("Pi", 50), ("Ti", 40), ("Gi", 30), ("Mi", 20), ("Ki", 10)];
/// Amounts are capped at 2^63-1 units, as Kubernetes caps them.
const LIMIT: i128 = i64::MAX as i128 * NANO;

impl Quantity {
    /// Nothing.
    pub const ZERO: Self = Self { nanos: 0, family: Family::Decimal };

    /// `units` whole units, written with decimal suffixes.
    pub const fn from_units(units: i64) -> Self {
        Self { nanos: units as i128 * NANO, family: Family::Decimal }
    }

    /// `bytes`, written with binary suffixes (`Ki`, `Mi`).
    pub const fn from_bytes(bytes: i64) -> Self {
        Self { nanos: bytes as i128 * NANO, family: Family::Binary }
    }

    /// `milli` thousandths of a unit.
    pub const fn from_milli(milli: i64) -> Self {
        Self { nanos: milli as i128 * (NANO / 1000), family: Family::Decimal }
    }

    /// `nanos` billionths of a unit.
    pub const fn from_nanos(nanos: i128) -> Self {
        Self { nanos, family: Family::Decimal }
    }

    /// Whole units, rounded up, as Kubernetes' `Value()`.
    pub fn units(self) -> i64 {
        clamp(div_up(self.nanos, NANO))
    }

    /// Thousandths of a unit, rounded up, as Kubernetes' `MilliValue()`.
    pub fn milli(self) -> i64 {
        clamp(div_up(self.nanos, NANO / 1000))
    }

    /// Billionths of a unit.
    pub fn nanos(self) -> i128 {
        self.nanos
    }

    /// As a floating-point number of units.
    pub fn as_f64(self) -> f64 {
        self.nanos as f64 / NANO as f64
    }

    /// The sum, written in this quantity's family (the other's when this is zero).
    #[must_use]
    pub fn plus(self, other: Self) -> Self {
        let family = if self.nanos == 0 { other.family } else { self.family };
        Self { nanos: (self.nanos + other.nanos).clamp(-LIMIT, LIMIT), family }
    }

    /// The difference, written in this quantity's family.
    #[must_use]
    pub fn minus(self, other: Self) -> Self {
        Self { nanos: (self.nanos - other.nanos).clamp(-LIMIT, LIMIT), family: self.family }
    }
}

fn clamp(n: i128) -> i64 {
    n.clamp(i64::MIN.into(), i64::MAX.into()) as i64
}

fn div_up(n: i128, by: i128) -> i128 {
    n.div_euclid(by) + i128::from(n.rem_euclid(by) != 0)
}

impl PartialEq for Quantity {
    fn eq(&self, other: &Self) -> bool {
        self.nanos == other.nanos
    }
}
impl Eq for Quantity {}
impl PartialOrd for Quantity {
    fn partial_cmp(&self, other: &Self) -> Option<std::cmp::Ordering> {
        Some(self.cmp(other))
    }
}
impl Ord for Quantity {
    fn cmp(&self, other: &Self) -> std::cmp::Ordering {
        self.nanos.cmp(&other.nanos)
    }
}

impl FromStr for Quantity {
    type Err = QuantityError;

    fn from_str(text: &str) -> Result<Self, QuantityError> {
        parse(text).ok_or_else(|| QuantityError(text.chars().take(60).collect()))
    }
}

fn parse(text: &str) -> Option<Quantity> {
    let unsigned = text.strip_prefix(['+', '-']).unwrap_or(text);
    let number_len = unsigned.bytes().take_while(|b| b.is_ascii_digit() || *b == b'.').count();
    let (number, suffix) = unsigned.split_at(number_len);
    let (whole, fraction) = number.split_once('.').unwrap_or((number, ""));
    if (whole.is_empty() && fraction.is_empty()) || fraction.contains('.') {
        return None;
    }
    let (numerator, power, family) = scale(suffix)?;
    let nanos = amount(whole, fraction, numerator, power);
    let nanos = if text.starts_with('-') { -nanos } else { nanos };
    // A binary suffix below one unit is written in decimal, as upstream's canonical form does.
    let family = if family == Family::Binary && nanos.abs() < 1024 * NANO { Family::Decimal } else { family };
    Some(Quantity { nanos, family })
}

/// A suffix as (nano units of 1, power of ten on top, family).
fn scale(suffix: &str) -> Option<(i128, i32, Family)> {
    if let Some((_, nanos)) = DECIMAL.iter().find(|(s, _)| *s == suffix) {
        return Some((*nanos, 0, Family::Decimal));
    }
    if let Some((_, shift)) = BINARY.iter().find(|(s, _)| *s == suffix) {
        return Some((NANO << shift, 0, Family::Binary));
    }
    let exponent = suffix.strip_prefix(['e', 'E'])?;
    Some((NANO, exponent.parse::<i32>().ok()?, Family::Exponent))
}

/// `whole.fraction × scale × 10^power`, rounded up to a nano and capped.
fn amount(whole: &str, fraction: &str, scale: i128, power: i32) -> i128 {
    let digits = format!("{whole}{fraction}");
    let significant = digits.trim_start_matches('0');
    if significant.is_empty() {
        return 0;
    }
    let shift = i64::from(power) - fraction.len() as i64;
    // More digits than i128 can hold: far beyond the cap, or far below a nano.
    if significant.len() as i64 + shift > 20 {
        return LIMIT;
    }
    if significant.len() as i64 + shift < -30 {
        return 1;
    }
    let kept = &significant[..significant.len().min(18)];
    let shift = shift + (significant.len() - kept.len()) as i64;
    let mut value = kept.parse::<i128>().unwrap_or(0).saturating_mul(scale);
    for _ in 0..shift {
        value = value.saturating_mul(10);
    }
    for _ in shift..0 {
        value = div_up(value, 10);
    }
    value.min(LIMIT)
}

impl fmt::Display for Quantity {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let n = self.nanos;
        if n == 0 {
            return f.write_str("0");
        }
        match self.family {
            Family::Binary if n % NANO == 0 => {
                let units = n / NANO;
                let (suffix, shift) =
                    BINARY.iter().find(|(_, s)| units % (1i128 << s) == 0).copied().unwrap_or(("", 0));
                write!(f, "{}{suffix}", units >> shift)
            }
            Family::Exponent => {
                let (_, scale) = largest(n);
                let exponent = power_of_ten(scale);
                if exponent == 0 { write!(f, "{}", n / scale) } else { write!(f, "{}e{exponent}", n / scale) }
            }
            _ => {
                let (suffix, scale) = largest(n);
                write!(f, "{}{suffix}", n / scale)
            }
        }
    }
}

/// The largest decimal suffix that leaves no fraction.
fn largest(nanos: i128) -> (&'static str, i128) {
    DECIMAL.iter().copied().find(|(_, scale)| nanos % scale == 0).unwrap_or(("n", 1))
}

fn power_of_ten(scale: i128) -> i32 {
    let (mut power, mut rest) = (-9, scale);
    while rest >= 10 {
        rest /= 10;
        power += 1;
    }
    power
}

impl Serialize for Quantity {
    fn serialize<S: Serializer>(&self, s: S) -> Result<S::Ok, S::Error> {
        s.collect_str(self)
    }
}

impl<'de> Deserialize<'de> for Quantity {
    fn deserialize<D: Deserializer<'de>>(d: D) -> Result<Self, D::Error> {
        struct Visitor;
        impl serde::de::Visitor<'_> for Visitor {
            type Value = Quantity;

            fn expecting(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
                f.write_str("a quantity")
            }
            fn visit_str<E: serde::de::Error>(self, text: &str) -> Result<Quantity, E> {
                text.parse().map_err(E::custom)
            }
            fn visit_i64<E: serde::de::Error>(self, n: i64) -> Result<Quantity, E> {
                Ok(Quantity::from_units(n))
            }
            fn visit_u64<E: serde::de::Error>(self, n: u64) -> Result<Quantity, E> {
                Ok(Quantity::from_units(n.min(i64::MAX as u64) as i64))
            }
            fn visit_f64<E: serde::de::Error>(self, n: f64) -> Result<Quantity, E> {
                n.to_string().parse().map_err(E::custom)
            }
        }
        d.deserialize_any(Visitor)
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn canonical_form_is_upstreams() {
        for (given, canonical) in [
            ("0", "0"),
            ("1000m", "1"),
            ("0.5", "500m"),
            ("1.5", "1500m"),
            ("1024Mi", "1Gi"),
            ("1536Mi", "1536Mi"),
            ("1.5Gi", "1536Mi"),
            ("1000Ki", "1000Ki"),
            ("1e3", "1e3"),
            ("1500e3", "1500e3"),
            ("2000", "2k"),
            ("12E", "9223372036854775807"),
            ("-100m", "-100m"),
            ("0.1n", "1n"),
            (".5", "500m"),
            ("5.", "5"),
            ("100000000", "100M"),
            ("1e-3", "1e-3"),
            ("0.5Ki", "512"),
        ] {
            assert_eq!(given.parse::<Quantity>().unwrap().to_string(), canonical, "{given}");
        }
    }

    #[test]
    fn refuses_what_is_no_quantity() {
        for bad in ["", ".", "m", "1.2.3", "1 Gi", "1GiB", "e3", "1e", "--1", "1e99999999999"] {
            assert!(bad.parse::<Quantity>().is_err(), "{bad}");
        }
    }

    #[test]
    fn rounds_up() {
        let q: Quantity = "1500u".parse().unwrap();
        assert_eq!((q.milli(), q.units()), (2, 1));
    }
}
