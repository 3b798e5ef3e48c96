//! Literals of Go: strings, characters and numbers, and strings written as literals.

use super::tree::Number;

/// What a quoted string means. Bytes which are no UTF-8 become replacement characters.
pub(super) fn unquote(written: &str) -> Result<String, String> {
    let inner = written.get(1..written.len().saturating_sub(1)).unwrap_or_default();
    if written.starts_with('`') {
        return Ok(inner.replace('\r', ""));
    }
    let (mut bytes, mut rest) = (Vec::with_capacity(inner.len()), inner);
    while !rest.is_empty() {
        let (one, after) = unescape(rest, '"')?;
        match one {
            One::Byte(byte) => bytes.push(byte),
            One::Char(c) => bytes.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        }
        rest = after;
    }
    Ok(String::from_utf8(bytes)
        .unwrap_or_else(|error| String::from_utf8_lossy(error.as_bytes()).into_owned()))
}

enum One {
    Byte(u8),
    Char(char),
}

const INVALID: &str = "invalid syntax";

/// The first character of a literal's inside, and what is left.
fn unescape(text: &str, quote: char) -> Result<(One, &str), String> {
    let mut rest = text.chars();
    let first = rest.next().ok_or(INVALID)?;
    if first == quote {
        return Err(INVALID.into());
    }
    if first != '\\' {
        return Ok((One::Char(first), rest.as_str()));
    }
    let escape = rest.next().ok_or(INVALID)?;
    let plain = match escape {
        'a' => '\x07',
        'b' => '\x08',
        'f' => '\x0c',
        'n' => '\n',
        'r' => '\r',
        't' => '\t',
        'v' => '\x0b',
        '\\' => '\\',
        c if c == quote => c,
        'x' => return code(rest.as_str(), 2, 16),
        'u' => return code(rest.as_str(), 4, 16),
        'U' => return code(rest.as_str(), 8, 16),
        '0'..='7' => return code(text.get(1..).unwrap_or_default(), 3, 8),
        _ => return Err(INVALID.into()),
    };
    Ok((One::Char(plain), rest.as_str()))
}

/// A character by its number; two hexadecimal or three octal digits are a byte.
fn code(text: &str, length: usize, radix: u32) -> Result<(One, &str), String> {
    let digits =
        text.get(..length).filter(|digits| digits.chars().all(|c| c.is_digit(radix))).ok_or(INVALID)?;
    let number = u32::from_str_radix(digits, radix).map_err(|_| INVALID)?;
    let one = if length < 4 {
        One::Byte(u8::try_from(number).map_err(|_| INVALID)?)
    } else {
        One::Char(char::from_u32(number).ok_or(INVALID)?)
    };
    Ok((one, text.get(length..).unwrap_or_default()))
}

/// A character literal is its number.
pub(super) fn character(written: &str) -> Result<Number, String> {
    let (one, rest) = unescape(written.get(1..).unwrap_or_default(), '\'')?;
    if rest != "'" {
        return Err(format!("malformed character constant: {written}"));
    }
    let whole = match one {
        One::Byte(byte) => i64::from(byte),
        One::Char(c) => i64::from(u32::from(c)),
    };
    Ok(Number { written: written.to_owned(), whole: Some(whole), float: None })
}

/// A number: whole with the bases of Go, or with a point or exponent.
pub(super) fn number(written: &str) -> Result<Number, String> {
    let made = |whole, float| Ok(Number { written: written.to_owned(), whole, float });
    let illegal = || Err(format!("illegal number syntax: {}", quote(written, false)));
    if written.ends_with('i') {
        return Err(format!("complex numbers are not supported: {}", quote(written, false)));
    }
    let (sign, digits) = match written.strip_prefix(['+', '-']) {
        Some(digits) => (if written.starts_with('-') { -1 } else { 1 }, digits),
        None => (1, written),
    };
    if let Some(whole) = whole(digits) {
        // Beyond int64 a number without a sign is still an unsigned one, which no argument can be.
        let signed = i128::from(whole) * sign;
        return match i64::try_from(signed) {
            Ok(whole) => made(Some(whole), None),
            Err(_) if digits == written => made(None, None),
            Err(_) => Err(format!("integer overflow: {}", quote(written, false))),
        };
    }
    let Some(float) = float(digits) else { return illegal() };
    if !digits.contains(['.', 'e', 'E', 'p', 'P']) {
        return Err(format!("integer overflow: {}", quote(written, false)));
    }
    let float = if sign < 0 { -float } else { float };
    // 2^63 is the first float beyond int64.
    let fits = float.fract() == 0.0 && float.abs() < 9_223_372_036_854_775_808.0;
    made(fits.then_some(float as i64), Some(float))
}

fn whole(digits: &str) -> Option<u64> {
    let (radix, plain) = match digits.as_bytes() {
        [b'0', b'x' | b'X', ..] => (16, digits.get(2..)?),
        [b'0', b'o' | b'O', ..] => (8, digits.get(2..)?),
        [b'0', b'b' | b'B', ..] => (2, digits.get(2..)?),
        [b'0', _, ..] => (8, digits.get(1..)?),
        _ => (10, digits),
    };
    // An underscore stands between two digits, or between the prefix and a digit.
    let placed = !plain.ends_with('_') && !plain.contains("__") && (radix != 10 || !plain.starts_with('_'));
    let plain = plain.replace('_', "");
    let digits = placed && !plain.is_empty() && plain.chars().all(|c| c.is_digit(radix));
    if digits { u64::from_str_radix(&plain, radix).ok() } else { None }
}

fn float(digits: &str) -> Option<f64> {
    let hex = digits.strip_prefix("0x").or_else(|| digits.strip_prefix("0X"));
    let value = match hex {
        Some(hex) => hex_float(hex)?,
        None if digits.chars().all(|c| c.is_ascii_digit() || ".eE+-".contains(c)) => digits.parse().ok()?,
        None => return None,
    };
    value.is_finite().then_some(value)
}

/// `1.8p-2`: hexadecimal digits times a power of two. More digits than a float holds are refused.
fn hex_float(text: &str) -> Option<f64> {
    let (mantissa, exponent) = text.split_once(['p', 'P'])?;
    let (before, after) = mantissa.split_once('.').unwrap_or((mantissa, ""));
    let digits = format!("{before}{after}");
    if digits.len() > 13 || digits.is_empty() || !digits.chars().all(|c| c.is_ascii_hexdigit()) {
        return None;
    }
    let exponent = exponent.parse::<i32>().ok()?.checked_sub(4 * i32::try_from(after.len()).ok()?)?;
    Some(u64::from_str_radix(&digits, 16).ok()? as f64 * f64::from(exponent).exp2())
}

/// Whether Go prints the character as it is: letters, marks, numbers, punctuation, symbols and the space.
pub(super) fn is_print(c: char) -> bool {
    // Behind a letter, combining marks are not escaped; these signs always are.
    matches!(c, '\'' | '"' | '\\') || format!("a{c}").escape_debug().nth(1) == Some(c)
}

/// The text as a string literal, of ASCII alone if asked for.
pub(super) fn quote(text: &str, ascii: bool) -> String {
    let mut quoted = String::with_capacity(text.len() + 2);
    quoted.push('"');
    text.chars().for_each(|c| escaped(&mut quoted, c, '"', ascii));
    quoted.push('"');
    quoted
}

/// The character as a literal.
pub(super) fn quote_char(c: char, ascii: bool) -> String {
    let mut quoted = String::from("'");
    escaped(&mut quoted, c, '\'', ascii);
    quoted.push('\'');
    quoted
}

fn escaped(out: &mut String, c: char, quote: char, ascii: bool) {
    match c {
        '\x07' => out.push_str("\\a"),
        '\x08' => out.push_str("\\b"),
        '\x0c' => out.push_str("\\f"),
        '\n' => out.push_str("\\n"),
        '\r' => out.push_str("\\r"),
        '\t' => out.push_str("\\t"),
        '\x0b' => out.push_str("\\v"),
        '\\' => out.push_str("\\\\"),
        c if c == quote => out.extend(['\\', c]),
        c if (c.is_ascii() || !ascii) && is_print(c) => out.push(c),
        c if c < ' ' || c == '\x7f' => out.push_str(&format!("\\x{:02x}", u32::from(c))),
        c if c <= '\u{ffff}' => out.push_str(&format!("\\u{:04x}", u32::from(c))),
        c => out.push_str(&format!("\\U{:08x}", u32::from(c))),
    }
}
