//! Source text to tokens (cel-spec, "Lexis").

use crate::issues::Issues;

/// A token and where it begins and ends, in bytes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) struct Token {
    pub(super) kind: Tok,
    pub(super) start: usize,
    pub(super) end: usize,
}

/// Kinds of token.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(super) enum Tok {
    Ident,
    /// `` `a-b` ``
    Escaped,
    Int,
    Uint,
    Float,
    String,
    Bytes,
    /// A sign or a keyword (`in`, `true`, `false`, `null`).
    Sign(&'static str),
    End,
}

const SIGNS: [&str; 24] = [
    "==", "!=", "<=", ">=", "&&", "||", "<", ">", "[", "]", "{", "}", "(", ")", ".", ",", "-", "!", "?", ":",
    "+", "*", "/", "%",
];
/// Words that are signs or literals.
pub(crate) const KEYWORDS: [&str; 4] = ["in", "true", "false", "null"];
/// Words kept back for languages CEL is embedded into; they name fields, but no variables.
pub(crate) const RESERVED: [&str; 17] = [
    "as",
    "break",
    "const",
    "continue",
    "else",
    "for",
    "function",
    "if",
    "import",
    "let",
    "loop",
    "package",
    "namespace",
    "return",
    "var",
    "void",
    "while",
];

/// All tokens of the source, an [`Tok::End`] last. What is no token is reported and skipped.
pub(super) fn tokens(source: &str, issues: &mut Issues) -> Vec<Token> {
    let mut lexer = Lexer { source, at: 0 };
    let mut tokens = Vec::new();
    loop {
        lexer.skip_blanks();
        let start = lexer.at;
        if start >= source.len() {
            tokens.push(Token { kind: Tok::End, start, end: start });
            return tokens;
        }
        match lexer.next() {
            Some(kind) => tokens.push(Token { kind, start, end: lexer.at }),
            None => lexer.skip_unknown(start, issues),
        }
    }
}

struct Lexer<'a> {
    source: &'a str,
    at: usize,
}

impl Lexer<'_> {
    fn rest(&self) -> &str {
        self.source.get(self.at..).unwrap_or_default()
    }

    fn bytes(&self) -> &[u8] {
        self.rest().as_bytes()
    }

    fn skip_blanks(&mut self) {
        loop {
            let rest = self.rest();
            let trimmed = rest.trim_start_matches([' ', '\t', '\r', '\n', '\u{c}']);
            let blanks = rest.len() - trimmed.len();
            let comment =
                if trimmed.starts_with("//") { trimmed.find('\n').unwrap_or(trimmed.len()) } else { 0 };
            if blanks + comment == 0 {
                return;
            }
            self.at += blanks + comment;
        }
    }

    fn skip_unknown(&mut self, start: usize, issues: &mut Issues) {
        let quoted = self.rest().starts_with(['"', '\'']);
        let unknown = if quoted {
            // An unterminated string takes the rest of its line with it.
            self.rest().lines().next().unwrap_or_default().to_owned()
        } else {
            // Half of a sign is told with what came instead of its other half.
            let half = self.rest().starts_with(['=', '&', '|']);
            self.rest().chars().take(1 + usize::from(half)).collect()
        };
        self.at += unknown.len().max(1);
        issues.report(start as u32, format!("Syntax error: token recognition error at: '{unknown}'"));
    }

    fn next(&mut self) -> Option<Tok> {
        let first = *self.bytes().first()?;
        if let Some(kind) = self.string() {
            return Some(kind);
        }
        if first.is_ascii_alphabetic() || first == b'_' {
            return Some(self.word());
        }
        let fraction = first == b'.' && self.bytes().get(1).is_some_and(u8::is_ascii_digit);
        if first.is_ascii_digit() || fraction {
            return Some(self.number());
        }
        if first == b'`' {
            return self.escaped();
        }
        let sign = SIGNS.into_iter().find(|sign| self.rest().starts_with(*sign))?;
        self.at += sign.len();
        Some(Tok::Sign(sign))
    }

    fn word(&mut self) -> Tok {
        let rest = self.rest();
        let len = rest.bytes().take_while(|b| b.is_ascii_alphanumeric() || *b == b'_').count();
        let word = &rest[..len];
        let kind = KEYWORDS.into_iter().find(|k| *k == word).map_or(Tok::Ident, Tok::Sign);
        self.at += len;
        kind
    }

    fn escaped(&mut self) -> Option<Tok> {
        let inner = &self.rest()[1..];
        let allowed = |b: &u8| b.is_ascii_alphanumeric() || b"_.-/ ".contains(b);
        let len = inner.bytes().take_while(allowed).count();
        if len == 0 || inner.as_bytes().get(len) != Some(&b'`') {
            return None;
        }
        self.at += len + 2;
        Some(Tok::Escaped)
    }

    fn digits(&mut self, digit: fn(&u8) -> bool) -> usize {
        let len = self.bytes().iter().take_while(|b| digit(b)).count();
        self.at += len;
        len
    }

    fn number(&mut self) -> Tok {
        let hex = self.rest().starts_with("0x") && self.bytes().get(2).is_some_and(u8::is_ascii_hexdigit);
        if hex {
            self.at += 2;
            self.digits(u8::is_ascii_hexdigit);
            return self.unsigned().unwrap_or(Tok::Int);
        }
        self.digits(u8::is_ascii_digit);
        let mut float = false;
        if self.bytes().first() == Some(&b'.') && self.bytes().get(1).is_some_and(u8::is_ascii_digit) {
            self.at += 1;
            self.digits(u8::is_ascii_digit);
            float = true;
        }
        if self.exponent() || float { Tok::Float } else { self.unsigned().unwrap_or(Tok::Int) }
    }

    fn unsigned(&mut self) -> Option<Tok> {
        let found = matches!(self.bytes().first(), Some(b'u' | b'U'));
        self.at += usize::from(found);
        found.then_some(Tok::Uint)
    }

    fn exponent(&mut self) -> bool {
        let bytes = self.bytes();
        if !matches!(bytes.first(), Some(b'e' | b'E')) {
            return false;
        }
        let sign = usize::from(matches!(bytes.get(1), Some(b'+' | b'-')));
        if !bytes.get(1 + sign).is_some_and(u8::is_ascii_digit) {
            return false;
        }
        self.at += 1 + sign;
        self.digits(u8::is_ascii_digit);
        true
    }

    /// A string or bytes literal with its prefixes (`r`, `b`, `br`), when one begins here.
    fn string(&mut self) -> Option<Tok> {
        let rest = self.rest();
        let prefix = rest.bytes().take(2).take_while(u8::is_ascii_alphabetic).count();
        let (raw, bytes) = match rest[..prefix].to_ascii_lowercase().as_str() {
            "" => (false, false),
            "r" => (true, false),
            "b" => (false, true),
            "br" => (true, true),
            _ => return None,
        };
        let body = &rest[prefix..];
        let quote = body.chars().next().filter(|c| *c == '"' || *c == '\'')?;
        let triple: String = [quote; 3].iter().collect();
        let len = if body.starts_with(&triple) { closed(body, &triple, raw) } else { None }
            .or_else(|| closed(body, &triple[..1], raw))?;
        self.at += prefix + len;
        Some(if bytes { Tok::Bytes } else { Tok::String })
    }
}

/// The length of the literal that begins and ends with `quote`.
fn closed(body: &str, quote: &str, raw: bool) -> Option<usize> {
    let mut at = quote.len();
    loop {
        let rest = body.get(at..)?;
        if rest.starts_with(quote) {
            return Some(at + quote.len());
        }
        let c = rest.chars().next()?;
        if quote.len() == 1 && (c == '\n' || c == '\r') {
            return None;
        }
        at += c.len_utf8();
        if c == '\\' && !raw {
            at += body.get(at..)?.chars().next()?.len_utf8();
        }
    }
}
