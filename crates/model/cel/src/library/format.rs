//! `'%d of %s'.format([..])`: cel-go's `ext.Strings`, version 2, in the manner of `en_US`: digits in
//! groups of three, powers of ten in scientific notation.

use std::fmt::Write as _;

use super::{Outcome, Row, bounded, convert, no_overload};
use crate::{
    error::EvalError,
    types::Type,
    value::{List, Map, Value, key_text},
};

pub(super) const ROWS: &[Row] = &[("format", "string_format", "string.(list(dyn)) -> string", format)];

const DEFAULT_PRECISION: usize = 6;
/// More digits say nothing, but would take memory.
const MAX_PRECISION: usize = 10_000;

/// A piece of a template.
#[derive(Debug, PartialEq)]
enum Piece<'t> {
    Text(&'t str),
    Verb { verb: char, precision: Option<usize> },
}

/// The template in pieces; what is wrong with it comes after what is right.
fn pieces(template: &str) -> Vec<Result<Piece<'_>, String>> {
    let mut pieces = Vec::new();
    let mut rest = template;
    while let Some(start) = rest.find('%') {
        pieces.push(Ok(Piece::Text(&rest[..start])));
        let clause = &rest[start + 1..];
        if let Some(after) = clause.strip_prefix('%') {
            pieces.push(Ok(Piece::Text("%")));
            rest = after;
            continue;
        }
        match verb(clause) {
            Ok((piece, after)) => {
                pieces.push(Ok(piece));
                rest = after;
            }
            Err(error) => {
                pieces.push(Err(error));
                return pieces;
            }
        }
    }
    pieces.push(Ok(Piece::Text(rest)));
    pieces
}

fn verb(clause: &str) -> Result<(Piece<'_>, &str), String> {
    let wrong = |why: &str| Err(format!("could not parse formatting clause: {why}"));
    if clause.is_empty() {
        return Err("unexpected end of string".to_owned());
    }
    let (precision, rest) = match clause.strip_prefix('.') {
        None => (None, clause),
        Some(digits) => {
            let len = digits.bytes().take_while(u8::is_ascii_digit).count();
            let (digits, rest) = digits.split_at(len);
            if rest.is_empty() {
                return wrong("error while parsing precision: could not find end of precision specifier");
            }
            match digits.parse::<usize>().ok().filter(|p| *p <= MAX_PRECISION) {
                Some(precision) => (Some(precision), rest),
                None => {
                    return wrong(
                        "error while parsing precision: error while converting precision to integer",
                    );
                }
            }
        }
    };
    match rest.chars().next() {
        Some(verb @ ('s' | 'd' | 'f' | 'e' | 'b' | 'x' | 'X' | 'o')) => {
            Ok((Piece::Verb { verb, precision }, &rest[1..]))
        }
        other => wrong(&format!("unrecognized formatting clause \"{}\"", other.unwrap_or(' '))),
    }
}

/// What a verb prints, as the message says that a value is of another type.
fn expectation(verb: char) -> &'static str {
    match verb {
        'd' => "decimal clause can only be used on integers",
        'f' => "fixed-point clause can only be used on doubles",
        'e' => "scientific clause can only be used on doubles",
        'b' => "only integers and bools can be formatted as binary",
        'x' | 'X' => "only integers, byte buffers, and strings can be formatted as hex",
        'o' => "octal clause can only be used on integers",
        _ => {
            "string clause can only be used on strings, bools, bytes, ints, doubles, maps, lists, types, durations, and timestamps"
        }
    }
}

/// Checks a constant template against the types of its arguments; a fault may be an argument's.
pub(crate) fn check(template: &str, types: &[Type]) -> Result<(), (Option<usize>, String)> {
    let mut used = 0;
    for piece in pieces(template) {
        let Piece::Verb { verb, .. } = piece.map_err(|why| (None, why))? else { continue };
        let Some(ty) = types.get(used) else { return Err((None, format!("index {used} out of range"))) };
        if !prints(verb, ty) {
            let message = format!("error during formatting: {}, was given {}", expectation(verb), ty.head());
            return Err((Some(used), message));
        }
        used += 1;
    }
    if types.len() > used {
        let message =
            format!("too many arguments supplied to string.format (expected {used}, got {})", types.len());
        return Err((None, message));
    }
    Ok(())
}

fn prints(verb: char, ty: &Type) -> bool {
    match (verb, ty) {
        (_, Type::Dyn | Type::Error) => true,
        ('s', Type::Object(_) | Type::Opaque(_) | Type::Optional(_)) => false,
        ('s', _) => true,
        ('d' | 'o' | 'b' | 'x' | 'X', Type::Int | Type::Uint) => true,
        ('b', Type::Bool) => true,
        ('x' | 'X', Type::String | Type::Bytes) => true,
        ('f' | 'e', Type::Double | Type::String) => true,
        _ => false,
    }
}

fn format<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    let [Value::String(template), Value::List(list)] = args else { return no_overload() };
    let mut out = String::new();
    let mut next = 0;
    for piece in pieces(template) {
        match piece.map_err(EvalError::new)? {
            Piece::Text(text) => out.push_str(text),
            Piece::Verb { verb, precision } => {
                let value =
                    list.get(next).ok_or_else(|| EvalError::new(format!("index {next} out of range")))?;
                write(&mut out, verb, precision, &value?)?;
                next += 1;
            }
        }
        bounded(out.len())?;
    }
    Ok(Value::string(out))
}

fn write(out: &mut String, verb: char, precision: Option<usize>, value: &Value<'_>) -> Result<(), EvalError> {
    let precision = precision.unwrap_or(DEFAULT_PRECISION);
    let written = match (verb, value) {
        ('s', value) => return text(out, value),
        ('d', Value::Int(i)) => write!(out, "{i}"),
        ('d', Value::Uint(u)) => write!(out, "{u}"),
        // Go writes the sign before the digits of the amount.
        ('b' | 'o' | 'x' | 'X', Value::Int(i)) => {
            out.push_str(if *i < 0 { "-" } else { "" });
            radix(out, verb, i.unsigned_abs())
        }
        ('b' | 'o' | 'x' | 'X', Value::Uint(u)) => radix(out, verb, *u),
        ('b', Value::Bool(b)) => write!(out, "{}", u8::from(*b)),
        ('x' | 'X', Value::String(text)) => hex(out, verb, text.as_bytes()),
        ('x' | 'X', Value::Bytes(bytes)) => hex(out, verb, bytes),
        ('f', value) if number(value).is_some() => fixed(out, number(value).unwrap_or_default(), precision),
        ('e', value) if number(value).is_some() => {
            scientific(out, number(value).unwrap_or_default(), precision)
        }
        _ => {
            let given = value.ty();
            let message =
                format!("error during formatting: {}, was given {}", expectation(verb), given.head());
            return Err(EvalError::new(message));
        }
    };
    written.map_err(|_| EvalError::new("cannot format"))
}

/// A double, or one of the three that have no literal.
fn number(value: &Value<'_>) -> Option<f64> {
    match value {
        Value::Double(d) => Some(*d),
        Value::String(text) => match &**text {
            "NaN" => Some(f64::NAN),
            "Infinity" => Some(f64::INFINITY),
            "-Infinity" => Some(f64::NEG_INFINITY),
            _ => None,
        },
        _ => None,
    }
}

fn radix(out: &mut String, verb: char, amount: u64) -> std::fmt::Result {
    match verb {
        'b' => write!(out, "{amount:b}"),
        'o' => write!(out, "{amount:o}"),
        'x' => write!(out, "{amount:x}"),
        _ => write!(out, "{amount:X}"),
    }
}

fn hex(out: &mut String, verb: char, bytes: &[u8]) -> std::fmt::Result {
    bytes.iter().try_for_each(|b| if verb == 'x' { write!(out, "{b:02x}") } else { write!(out, "{b:02X}") })
}

fn fixed(out: &mut String, d: f64, precision: usize) -> std::fmt::Result {
    if let Some(special) = special(d) {
        return out.write_str(special);
    }
    let plain = format!("{d:.precision$}");
    let (sign, digits) = plain.strip_prefix('-').map_or(("", &*plain), |digits| ("-", digits));
    let (whole, fraction) = digits.split_once('.').unwrap_or((digits, ""));
    out.push_str(sign);
    for (i, c) in whole.chars().enumerate() {
        let left = whole.len() - i;
        out.push_str(if i > 0 && left % 3 == 0 { "," } else { "" });
        out.push(c);
    }
    if fraction.is_empty() { Ok(()) } else { write!(out, ".{fraction}") }
}

fn special(d: f64) -> Option<&'static str> {
    if d.is_nan() {
        Some("NaN")
    } else if d.is_infinite() {
        Some(if d > 0.0 { "\u{221e}" } else { "-\u{221e}" })
    } else {
        None
    }
}

fn scientific(out: &mut String, d: f64, precision: usize) -> std::fmt::Result {
    const DIGITS: [char; 10] = [
        '\u{2070}', '\u{b9}', '\u{b2}', '\u{b3}', '\u{2074}', '\u{2075}', '\u{2076}', '\u{2077}', '\u{2078}',
        '\u{2079}',
    ];
    if let Some(special) = special(d) {
        return out.write_str(special);
    }
    let plain = format!("{d:.precision$e}");
    let (mantissa, exponent) = plain.split_once('e').unwrap_or((&plain, "0"));
    let exponent: i32 = exponent.parse().unwrap_or_default();
    write!(out, "{mantissa}\u{d7}10")?;
    out.push_str(if exponent < 0 { "\u{207b}" } else { "" });
    let digits = format!("{:02}", exponent.abs());
    out.extend(digits.chars().filter_map(|c| DIGITS.get(c.to_digit(10)? as usize)));
    Ok(())
}

/// `%s`: a value as text, at the top without quotes.
fn text(out: &mut String, value: &Value<'_>) -> Result<(), EvalError> {
    match value {
        Value::Null => out.push_str("null"),
        Value::List(items) => list(out, items)?,
        Value::Map(entries) if !matches!(entries, Map::Struct(_)) => map(out, entries)?,
        Value::Ip(_) | Value::Cidr(_) => return Err(not_text(value)),
        other => match convert::string(other) {
            Ok(text) => out.push_str(text.as_str().unwrap_or_default()),
            Err(_) => return Err(not_text(value)),
        },
    }
    Ok(())
}

fn not_text(value: &Value<'_>) -> EvalError {
    let given = value.ty();
    EvalError::new(format!("error during formatting: {}, was given {}", expectation('s'), given.head()))
}

fn list(out: &mut String, items: &List<'_>) -> Result<(), EvalError> {
    out.push('[');
    for (i, item) in items.iter().enumerate() {
        out.push_str(if i > 0 { ", " } else { "" });
        nested(out, &item?)?;
        bounded(out.len())?;
    }
    out.push(']');
    Ok(())
}

fn map(out: &mut String, map: &Map<'_>) -> Result<(), EvalError> {
    let mut entries = Vec::new();
    for (key, value) in map.entries() {
        let key = match &key {
            Value::String(text) => format!("{:?}", &**text),
            other => key_text(other),
        };
        let mut text = String::new();
        nested(&mut text, &value?)?;
        entries.push(format!("{key}:{text}"));
    }
    entries.sort();
    bounded(out.len() + entries.iter().map(String::len).sum::<usize>())?;
    let _ = write!(out, "{{{}}}", entries.join(", "));
    Ok(())
}

/// A value within a list or map: as a literal.
fn nested(out: &mut String, value: &Value<'_>) -> Result<(), EvalError> {
    let _ = match value {
        Value::String(text) => write!(out, "{:?}", &**text),
        Value::Bytes(bytes) => write!(out, "b{:?}", String::from_utf8_lossy(bytes)),
        Value::Double(d) if d.is_finite() => write!(out, "{d:.6}"),
        Value::Double(d) => write!(out, "{:?}", convert::double_text(*d)),
        Value::Timestamp(moment) => write!(out, "timestamp(\"{moment}\")"),
        Value::Duration(span) => write!(out, "duration(\"{span}\")"),
        other => return text(out, other),
    };
    Ok(())
}
