//! The distinguished encoding rules (X.690), as far as certificates are written in them.

use time::OffsetDateTime;

/// The first byte of a value.
#[derive(Clone, Copy)]
pub(super) struct Tag(u8);

impl Tag {
    pub(super) const NULL: Self = Self(0x05);
    pub(super) const OCTETS: Self = Self(0x04);
    pub(super) const SEQUENCE: Self = Self(0x30);

    /// `[n] IMPLICIT` of a simple type.
    pub(super) const fn context(n: u8) -> Self {
        Self(0x80 | n)
    }

    /// `[n] EXPLICIT`.
    pub(super) const fn explicit(n: u8) -> Self {
        Self(0xa0 | n)
    }
}

pub(super) fn tlv(tag: Tag, content: &[u8]) -> Vec<u8> {
    let mut out = vec![tag.0];
    match u8::try_from(content.len()) {
        Ok(short) if short < 0x80 => out.push(short),
        _ => {
            let bytes = content.len().to_be_bytes();
            let significant = bytes.iter().copied().skip_while(|byte| *byte == 0);
            let significant: Vec<u8> = significant.collect();
            out.push(0x80 | significant.len() as u8);
            out.extend(significant);
        }
    }
    out.extend_from_slice(content);
    out
}

pub(super) fn sequence(parts: &[Vec<u8>]) -> Vec<u8> {
    tlv(Tag::SEQUENCE, &parts.concat())
}

/// A positive number whose first byte is below 128.
pub(super) fn integer(bytes: &[u8]) -> Vec<u8> {
    tlv(Tag(0x02), bytes)
}

pub(super) fn boolean(value: bool) -> Vec<u8> {
    tlv(Tag(0x01), &[if value { 0xff } else { 0 }])
}

pub(super) fn bit_string(unused: u8, bytes: &[u8]) -> Vec<u8> {
    tlv(Tag(0x03), &[&[unused], bytes].concat())
}

/// Named bits, the first of them the highest, without trailing zeros.
pub(super) fn bits(bits: u16) -> Vec<u8> {
    let bytes = bits.to_be_bytes();
    let length = if bytes[1] == 0 { 1 } else { 2 };
    let last = bytes[length - 1];
    bit_string(last.trailing_zeros() as u8 & 7, &bytes[..length])
}

pub(super) fn oid(parts: &[u64]) -> Vec<u8> {
    let (first, rest) = match parts {
        [a, b, rest @ ..] => (a * 40 + b, rest),
        _ => (0, parts),
    };
    let mut out = Vec::new();
    for part in std::iter::once(first).chain(rest.iter().copied()) {
        let digits = (64 - part.max(1).leading_zeros()).div_ceil(7);
        for digit in (0..digits).rev() {
            let more = if digit == 0 { 0 } else { 0x80 };
            out.push((part >> (7 * digit)) as u8 & 0x7f | more);
        }
    }
    tlv(Tag(0x06), &out)
}

/// A time: two digits of the year until 2049, four from then on (RFC 5280 §4.1.2.5).
pub(super) fn when(at: OffsetDateTime) -> Vec<u8> {
    let (year, month, day) = at.to_calendar_date();
    let rest = format!("{:02}{day:02}{:02}{:02}{:02}Z", u8::from(month), at.hour(), at.minute(), at.second());
    match year {
        1950..2050 => tlv(Tag(0x17), format!("{:02}{rest}", year % 100).as_bytes()),
        _ => tlv(Tag(0x18), format!("{year:04}{rest}").as_bytes()),
    }
}
