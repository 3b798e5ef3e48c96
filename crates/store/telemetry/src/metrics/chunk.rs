//! Columns of timestamps and of values, compressed.

use pco::ChunkConfig;
use pco::standalone::{simple_compress, simple_decompress};

/// A sample: milliseconds since the epoch and a value.
#[derive(Debug, Clone, Copy, PartialEq)]
pub struct Point {
    /// Milliseconds since the epoch.
    pub t: i64,
    /// The value.
    pub v: f64,
}

/// The value that marks a series as gone.
pub const STALE_BITS: u64 = 0x7ff0_0000_0000_0002;

/// Is this the staleness marker (and not another NaN)?
pub fn is_stale(v: f64) -> bool {
    v.to_bits() == STALE_BITS
}

/// The staleness marker.
pub fn stale() -> f64 {
    f64::from_bits(STALE_BITS)
}

/// How hard to compress: quick for the head, thorough for blocks.
#[derive(Clone, Copy)]
pub(crate) enum Effort {
    Quick,
    Thorough,
}

impl Effort {
    fn config(self) -> ChunkConfig {
        ChunkConfig::default().with_compression_level(match self {
            Self::Quick => 3,
            Self::Thorough => 8,
        })
    }
}

// The first byte of a column says how the rest is kept.
const REGULAR: u8 = 0;
const PCO: u8 = 1;
const CONSTANT: u8 = 2;
const RAW: u8 = 3;
const PCO_BITS: u8 = 4;
const TINY: usize = 6;

/// A column that cannot be read.
#[derive(Debug, thiserror::Error)]
#[error("a compressed column is damaged: {0}")]
pub(crate) struct DamagedColumn(String);

fn damaged(what: impl ToString) -> DamagedColumn {
    DamagedColumn(what.to_string())
}

/// Timestamps in increasing order.
pub(crate) fn encode_times(times: &[i64], effort: Effort) -> Vec<u8> {
    let first = times.first().copied().unwrap_or(0);
    let step = times.get(1).map_or(0, |second| second - first);
    if times.windows(2).all(|pair| pair[1] - pair[0] == step) {
        let mut out = vec![REGULAR];
        put_varint(&mut out, zigzag(first));
        put_varint(&mut out, step as u64);
        put_varint(&mut out, times.len() as u64);
        return out;
    }
    // Kept as distances from the step line: jitter is small, so they pack into few bits.
    let typical = typical_step(times);
    let offsets: Vec<i64> = times.windows(2).map(|pair| pair[1] - pair[0] - typical).collect();
    let mut out = vec![PCO];
    put_varint(&mut out, zigzag(first));
    put_varint(&mut out, typical as u64);
    if let Ok(packed) = simple_compress(&offsets, &effort.config()) {
        out.extend(packed);
        return out;
    }
    let mut out = vec![RAW];
    times.iter().for_each(|t| out.extend(t.to_le_bytes()));
    out
}

fn typical_step(times: &[i64]) -> i64 {
    let span = times.last().copied().unwrap_or(0) - times.first().copied().unwrap_or(0);
    span / (times.len() as i64 - 1).max(1)
}

/// Appends the timestamps of a column.
pub(crate) fn decode_times(column: &[u8], out: &mut Vec<i64>) -> Result<(), DamagedColumn> {
    let (&kind, mut rest) = column.split_first().ok_or_else(|| damaged("no bytes"))?;
    match kind {
        REGULAR => {
            let first = unzigzag(take_varint(&mut rest)?);
            let step = take_varint(&mut rest)? as i64;
            let count = take_varint(&mut rest)?.min(1 << 24) as i64;
            out.extend((0..count).map(|i| first.wrapping_add(step.wrapping_mul(i))));
        }
        PCO => {
            let mut at = unzigzag(take_varint(&mut rest)?);
            let typical = take_varint(&mut rest)? as i64;
            out.push(at);
            for offset in simple_decompress::<i64>(rest).map_err(damaged)? {
                at = at.wrapping_add(typical).wrapping_add(offset);
                out.push(at);
            }
        }
        RAW => out.extend(rest.chunks_exact(8).map(|b| i64::from_le_bytes(b.try_into().unwrap_or_default()))),
        other => return Err(damaged(format!("unknown kind {other} of a time column"))),
    }
    Ok(())
}

/// Values, bit for bit.
pub(crate) fn encode_values(values: &[f64], effort: Effort) -> Vec<u8> {
    let first = values.first().map_or(0, |v| v.to_bits());
    if values.iter().all(|v| v.to_bits() == first) {
        let mut out = vec![CONSTANT];
        put_varint(&mut out, values.len() as u64);
        out.extend(first.to_le_bytes());
        return out;
    }
    if values.len() > TINY {
        // pco keeps every bit of a float, NaN payloads too; whole numbers go as integers, which packs tighter.
        let whole = whole_numbers(values);
        let (kind, packed) = match &whole {
            Some(integers) => (PCO, simple_compress(integers, &effort.config())),
            None => (PCO_BITS, simple_compress(values, &effort.config())),
        };
        if let Ok(packed) = packed
            && packed.len() < values.len() * 8
        {
            let mut out = Vec::with_capacity(packed.len() + 1);
            out.push(kind);
            out.extend(packed);
            return out;
        }
    }
    let mut out = vec![RAW];
    values.iter().for_each(|v| out.extend(v.to_le_bytes()));
    out
}

fn whole_numbers(values: &[f64]) -> Option<Vec<i64>> {
    let exact = |v: f64| {
        (v.abs() < 9e15 && v.fract() == 0.0 && (v != 0.0 || v.is_sign_positive())).then_some(v as i64)
    };
    values.iter().map(|&v| exact(v)).collect()
}

/// Appends the values of a column.
pub(crate) fn decode_values(column: &[u8], out: &mut Vec<f64>) -> Result<(), DamagedColumn> {
    let (&kind, mut rest) = column.split_first().ok_or_else(|| damaged("no bytes"))?;
    match kind {
        CONSTANT => {
            let count = take_varint(&mut rest)?.min(1 << 24) as usize;
            let bits =
                rest.get(..8).and_then(|b| b.try_into().ok()).ok_or_else(|| damaged("short constant"))?;
            out.extend(std::iter::repeat_n(f64::from_bits(u64::from_le_bytes(bits)), count));
        }
        PCO => out.extend(simple_decompress::<i64>(rest).map_err(damaged)?.into_iter().map(|v| v as f64)),
        PCO_BITS => out.extend(simple_decompress::<f64>(rest).map_err(damaged)?),
        RAW => out.extend(rest.chunks_exact(8).map(|b| f64::from_le_bytes(b.try_into().unwrap_or_default()))),
        other => return Err(damaged(format!("unknown kind {other} of a value column"))),
    }
    Ok(())
}

pub(crate) fn zigzag(v: i64) -> u64 {
    ((v << 1) ^ (v >> 63)) as u64
}

pub(crate) fn unzigzag(v: u64) -> i64 {
    ((v >> 1) as i64) ^ -((v & 1) as i64)
}

pub(crate) fn put_varint(out: &mut Vec<u8>, mut v: u64) {
    while v >= 0x80 {
        out.push(v as u8 | 0x80);
        v >>= 7;
    }
    out.push(v as u8);
}

pub(crate) fn take_varint(bytes: &mut &[u8]) -> Result<u64, DamagedColumn> {
    let mut v = 0;
    for shift in (0..64).step_by(7) {
        let (&byte, rest) = bytes.split_first().ok_or_else(|| damaged("a number is cut short"))?;
        *bytes = rest;
        v |= u64::from(byte & 0x7f) << shift;
        if byte < 0x80 {
            return Ok(v);
        }
    }
    Err(damaged("a number is too long"))
}

pub(crate) fn put_text(out: &mut Vec<u8>, text: &str) {
    put_varint(out, text.len() as u64);
    out.extend(text.as_bytes());
}

pub(crate) fn take_text<'a>(bytes: &mut &'a [u8]) -> Result<&'a str, DamagedColumn> {
    let len = take_varint(bytes)? as usize;
    if len > bytes.len() {
        return Err(damaged("a text is cut short"));
    }
    let (text, rest) = bytes.split_at(len);
    *bytes = rest;
    std::str::from_utf8(text).map_err(damaged)
}

#[cfg(test)]
mod tests {
    use super::*;

    fn round(times: &[i64], values: &[f64]) -> (usize, usize) {
        for effort in [Effort::Quick, Effort::Thorough] {
            let (mut t, mut v) = (Vec::new(), Vec::new());
            decode_times(&encode_times(times, effort), &mut t).unwrap();
            decode_values(&encode_values(values, effort), &mut v).unwrap();
            assert_eq!(t, times);
            assert!(v.iter().map(|v| v.to_bits()).eq(values.iter().map(|v| v.to_bits())));
        }
        (encode_times(times, Effort::Thorough).len(), encode_values(values, Effort::Thorough).len())
    }

    #[test]
    fn columns_come_back_bit_for_bit() {
        round(&[5], &[1.5]);
        round(&[-5, 0, 7], &[f64::NAN, -0.0, 0.0]);
        let jitter: Vec<i64> = (0..200).map(|i| i * 15_000 + (i * 7919) % 5).collect();
        let mut values: Vec<f64> = (0..200).map(|i| f64::from(i) * 0.1).collect();
        values[100] = stale();
        values[101] = f64::from_bits(0x7ff8_0000_dead_beef);
        round(&jitter, &values);
        let counter: Vec<f64> = (0..480).map(|i| f64::from(i * 3)).collect();
        let regular: Vec<i64> = (0..480).map(|i| 1_700_000_000_000 + i * 15_000).collect();
        let (t, v) = round(&regular, &counter);
        assert!(t < 16 && v < 80, "{t} {v}");
    }

    #[test]
    fn damage_is_an_error() {
        for bad in [&[][..], &[9, 1], &[PCO, 0, 0, 1, 2], &[CONSTANT, 3, 1]] {
            assert!(
                decode_times(bad, &mut Vec::new()).is_err() || decode_values(bad, &mut Vec::new()).is_err()
            );
        }
    }
}
