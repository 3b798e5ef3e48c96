//! The text of literals to their values (cel-spec, "String and Bytes Values").

use std::sync::Arc;

use crate::ast::Literal;

const UNABLE: &str = "unable to unescape string";

/// `12`, `0x1f`, with a minus sign before it when `negative`.
pub(super) fn int(text: &str, negative: bool) -> Option<Literal> {
    let (digits, radix) = radix(text);
    let sign = if negative { "-" } else { "" };
    i64::from_str_radix(&format!("{sign}{digits}"), radix).ok().map(Literal::Int)
}

/// `12u`, `0x1fU`.
pub(super) fn uint(text: &str) -> Option<Literal> {
    let (digits, radix) = radix(text.trim_end_matches(['u', 'U']));
    u64::from_str_radix(digits, radix).ok().map(Literal::Uint)
}

fn radix(text: &str) -> (&str, u32) {
    text.strip_prefix("0x").map_or((text, 10), |hex| (hex, 16))
}

/// `1.5`, `.5`, `1e9`; what is too large for a double is no literal.
pub(super) fn double(text: &str, negative: bool) -> Option<Literal> {
    let value: f64 = text.parse().ok()?;
    value.is_finite().then_some(Literal::Double(if negative { -value } else { value }))
}

/// A quoted string with its prefix.
pub(super) fn string(text: &str) -> Result<Literal, &'static str> {
    let (raw, body) = unquoted(text);
    if raw {
        return Ok(Literal::String(body.into()));
    }
    let mut out = String::with_capacity(body.len());
    Escapes { rest: body, bytes: false }.each(|piece| match piece {
        Piece::Char(c) => out.push(c),
        Piece::Byte(b) => out.push(char::from(b)),
    })?;
    Ok(Literal::String(out.into()))
}

/// A quoted sequence of bytes with its prefixes.
pub(super) fn bytes(text: &str) -> Result<Literal, &'static str> {
    let (raw, body) = unquoted(text);
    if raw {
        return Ok(Literal::Bytes(Arc::from(body.as_bytes())));
    }
    let mut out = Vec::with_capacity(body.len());
    Escapes { rest: body, bytes: true }.each(|piece| match piece {
        Piece::Char(c) => out.extend_from_slice(c.encode_utf8(&mut [0; 4]).as_bytes()),
        Piece::Byte(b) => out.push(b),
    })?;
    Ok(Literal::Bytes(out.into()))
}

/// What is between the quotes, and whether escapes count for nothing in it.
fn unquoted(text: &str) -> (bool, &str) {
    let body = text.trim_start_matches(|c: char| c.is_ascii_alphabetic());
    let raw = text[..text.len() - body.len()].contains(['r', 'R']);
    for quote in ["\"\"\"", "'''", "\"", "'"] {
        if let Some(inner) = body.strip_prefix(quote).and_then(|b| b.strip_suffix(quote)) {
            return (raw, inner);
        }
    }
    (raw, "")
}

enum Piece {
    Char(char),
    Byte(u8),
}

struct Escapes<'a> {
    rest: &'a str,
    bytes: bool,
}

impl Escapes<'_> {
    fn each(mut self, mut take: impl FnMut(Piece)) -> Result<(), &'static str> {
        while let Some(c) = self.next() {
            take(match c {
                '\\' => self.escape()?,
                // Line ends in source are one character, however they were written.
                '\r' => {
                    self.rest = self.rest.strip_prefix('\n').unwrap_or(self.rest);
                    Piece::Char('\n')
                }
                c => Piece::Char(c),
            });
        }
        Ok(())
    }

    fn next(&mut self) -> Option<char> {
        let c = self.rest.chars().next()?;
        self.rest = &self.rest[c.len_utf8()..];
        Some(c)
    }

    fn escape(&mut self) -> Result<Piece, &'static str> {
        let c = self.next().ok_or("unable to unescape string, found '\\' as last character")?;
        Ok(match c {
            'a' => Piece::Char('\u{7}'),
            'b' => Piece::Char('\u{8}'),
            'f' => Piece::Char('\u{c}'),
            'n' => Piece::Char('\n'),
            'r' => Piece::Char('\r'),
            't' => Piece::Char('\t'),
            'v' => Piece::Char('\u{b}'),
            '\\' | '\'' | '"' | '`' | '?' => Piece::Char(c),
            'x' | 'X' => self.code(2, 16)?,
            'u' if !self.bytes => self.code(4, 16)?,
            'U' if !self.bytes => self.code(8, 16)?,
            '0'..='3' => {
                let high = c.to_digit(8).unwrap_or_default();
                self.octal(high)?
            }
            _ => return Err(UNABLE),
        })
    }

    fn octal(&mut self, high: u32) -> Result<Piece, &'static str> {
        let wrong = "unable to unescape octal sequence in string";
        let low = self.digits(2, 8).ok_or(wrong)?;
        self.piece(high * 64 + low)
    }

    fn code(&mut self, digits: usize, radix: u32) -> Result<Piece, &'static str> {
        let code = self.digits(digits, radix).ok_or(UNABLE)?;
        self.piece(code)
    }

    fn digits(&mut self, count: usize, radix: u32) -> Option<u32> {
        let text = self.rest.get(..count)?;
        let value = u32::from_str_radix(text, radix).ok().filter(|_| !text.starts_with('+'))?;
        self.rest = &self.rest[count..];
        Some(value)
    }

    fn piece(&self, code: u32) -> Result<Piece, &'static str> {
        if self.bytes {
            return u8::try_from(code).map(Piece::Byte).map_err(|_| UNABLE);
        }
        char::from_u32(code).map(Piece::Char).ok_or("invalid unicode code point")
    }
}
