//! Text to tokens.

use super::{ParseError, Span};

/// A token's kind; words keep their text in [`Token::text`].
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Kind {
    End,
    /// A name without colons; keywords too, told apart by their text.
    Identifier,
    /// A name with colons.
    Metric,
    Number,
    Duration,
    String,
    Operator,
    /// One of `( ) { } [ ] , :`, or `=` within braces.
    Mark,
}

#[derive(Debug, Clone, Copy)]
pub(crate) struct Token<'a> {
    pub(crate) kind: Kind,
    pub(crate) text: &'a str,
    pub(crate) span: Span,
}

pub(crate) const AGGREGATORS: [&str; 14] = [
    "sum",
    "avg",
    "count",
    "min",
    "max",
    "group",
    "stddev",
    "stdvar",
    "topk",
    "bottomk",
    "count_values",
    "quantile",
    "limitk",
    "limit_ratio",
];
const KEYWORDS: [&str; 19] = [
    "offset",
    "smoothed",
    "anchored",
    "by",
    "without",
    "on",
    "ignoring",
    "group_left",
    "group_right",
    "fill",
    "fill_left",
    "fill_right",
    "bool",
    "start",
    "end",
    "step",
    "range",
    "max_of",
    "min_of",
];
const WORD_OPERATORS: [&str; 4] = ["and", "or", "unless", "atan2"];

pub(crate) fn is_aggregator(word: &str) -> bool {
    AGGREGATORS.iter().any(|known| known.eq_ignore_ascii_case(word))
}

impl Token<'_> {
    /// Is it this word, in any case?
    pub(crate) fn is_word(&self, word: &str) -> bool {
        self.kind == Kind::Identifier && self.text.eq_ignore_ascii_case(word)
    }

    pub(crate) fn is_mark(&self, mark: &str) -> bool {
        self.kind == Kind::Mark && self.text == mark
    }

    /// How errors name it.
    pub(crate) fn describe(&self) -> String {
        let word = self.text.to_ascii_lowercase();
        let known = |list: &[&str]| self.kind == Kind::Identifier && list.contains(&word.as_str());
        if known(&AGGREGATORS) {
            return format!("<aggr:{word}>");
        }
        if self.kind == Kind::Operator || known(&WORD_OPERATORS) {
            return format!("<op:{word}>");
        }
        if known(&KEYWORDS) {
            return format!("<{word}>");
        }
        let quoted = match self.text.char_indices().nth(10) {
            Some((at, _)) if !matches!(self.kind, Kind::Identifier | Kind::Metric) => {
                format!("{}...", crate::metrics::quote(&self.text[..at]))
            }
            _ => crate::metrics::quote(self.text),
        };
        match self.kind {
            Kind::End => "end of input".into(),
            Kind::Identifier => format!("identifier {quoted}"),
            Kind::Metric => format!("metric identifier {quoted}"),
            Kind::Number => format!("number {quoted}"),
            Kind::Duration => format!("duration {quoted}"),
            Kind::String => format!("string {quoted}"),
            Kind::Operator | Kind::Mark => quoted,
        }
    }
}

struct Lexer<'a> {
    input: &'a str,
    at: usize,
    tokens: Vec<Token<'a>>,
    parens: usize,
    braces: bool,
    brackets: bool,
}

/// All tokens, the last one is [`Kind::End`].
pub(crate) fn lex(input: &str) -> Result<Vec<Token<'_>>, ParseError> {
    let mut lexer = Lexer { input, at: 0, tokens: Vec::new(), parens: 0, braces: false, brackets: false };
    while lexer.step()? {}
    lexer.tokens.push(Token {
        kind: Kind::End,
        text: "",
        span: Span { start: input.len(), end: input.len() },
    });
    Ok(lexer.tokens)
}

fn is_space(c: char) -> bool {
    matches!(c, ' ' | '\t' | '\n' | '\r')
}

fn is_alpha(c: char) -> bool {
    c == '_' || c.is_ascii_alphabetic()
}

fn is_alnum(c: char) -> bool {
    is_alpha(c) || c.is_ascii_digit()
}

impl<'a> Lexer<'a> {
    fn rest(&self) -> &'a str {
        self.input.get(self.at..).unwrap_or("")
    }

    fn push(&mut self, kind: Kind, len: usize) {
        let span = Span { start: self.at, end: self.at + len };
        let text = self.input.get(span.start..span.end).unwrap_or("");
        self.tokens.push(Token { kind, text, span });
        self.at += len;
    }

    fn fail<T>(&self, what: impl Into<String>) -> Result<T, ParseError> {
        Err(ParseError::new(self.input, Span { start: self.at, end: self.input.len() }, what))
    }

    fn step(&mut self) -> Result<bool, ParseError> {
        let rest = self.rest();
        let Some(c) = rest.chars().next() else {
            return self.end();
        };
        if is_space(c) {
            self.at += rest.len() - rest.trim_start_matches(is_space).len();
            return Ok(true);
        }
        if c == '#' {
            self.at += rest.find('\n').unwrap_or(rest.len());
            return Ok(true);
        }
        if matches!(c, '"' | '\'' | '`') {
            let len = self.string(c)?;
            self.push(Kind::String, len);
            return Ok(true);
        }
        if self.braces {
            return self.inside_braces(c);
        }
        let second = rest.chars().nth(1);
        let digit_ahead = |c: Option<char>| c.is_some_and(|c| c.is_ascii_digit());
        match c {
            ',' => self.push(Kind::Mark, 1),
            '+' | '-' | '*' | '/' | '%' | '^' | '@' => self.push(Kind::Operator, 1),
            '=' => match second {
                Some('=') => self.push(Kind::Operator, 2),
                Some('~') => {
                    self.at += 2;
                    return self.fail("unexpected character after '=': '~'");
                }
                _ => self.push(Kind::Mark, 1),
            },
            '!' => match second {
                Some('=') => self.push(Kind::Operator, 2),
                other => {
                    let found = other.map_or_else(|| "\u{0}".into(), |c| c.to_string());
                    return self.fail(format!("unexpected character after '!': '{found}'"));
                }
            },
            '<' | '>' => {
                let len = if matches!(second, Some('=' | '/')) { 2 } else { 1 };
                self.push(Kind::Operator, len);
            }
            _ if c.is_ascii_digit() || (c == '.' && digit_ahead(second)) => self.number()?,
            '(' => {
                self.parens += 1;
                self.push(Kind::Mark, 1);
            }
            ')' => {
                if self.parens == 0 {
                    return self.fail("unexpected right parenthesis ')'");
                }
                self.parens -= 1;
                self.push(Kind::Mark, 1);
            }
            '{' => {
                self.braces = true;
                self.push(Kind::Mark, 1);
            }
            '[' => {
                if self.brackets {
                    return self.fail("unexpected left bracket '['");
                }
                self.brackets = true;
                self.push(Kind::Mark, 1);
            }
            ']' => {
                if !self.brackets {
                    return self.fail("unexpected right bracket ']'");
                }
                self.brackets = false;
                self.push(Kind::Mark, 1);
            }
            ':' if self.brackets => self.push(Kind::Mark, 1),
            _ if is_alpha(c) || c == ':' => {
                let colons = !self.brackets;
                let len = rest.find(|c| !(is_alnum(c) || (colons && c == ':'))).unwrap_or(rest.len());
                let metric = rest.get(..len).is_some_and(|word| word.contains(':'));
                self.word(if metric { Kind::Metric } else { Kind::Identifier }, len);
            }
            _ => return self.fail(format!("unexpected character: {c:?}")),
        }
        Ok(true)
    }

    fn word(&mut self, kind: Kind, len: usize) {
        let text = self.rest().get(..len).unwrap_or("");
        let is = |word: &str| text.eq_ignore_ascii_case(word);
        let kind = if kind == Kind::Identifier && (is("inf") || is("nan")) { Kind::Number } else { kind };
        self.push(kind, len);
    }

    fn end(&self) -> Result<bool, ParseError> {
        if self.braces {
            self.fail("unexpected end of input inside braces")
        } else if self.brackets {
            self.fail("unexpected end of input in duration expression")
        } else if self.parens > 0 {
            self.fail("unclosed left parenthesis")
        } else {
            Ok(false)
        }
    }

    fn inside_braces(&mut self, c: char) -> Result<bool, ParseError> {
        let rest = self.rest();
        match c {
            ',' => self.push(Kind::Mark, 1),
            '}' => {
                self.braces = false;
                self.push(Kind::Mark, 1);
            }
            '=' if rest.starts_with("=~") => self.push(Kind::Operator, 2),
            '=' => self.push(Kind::Mark, 1),
            '!' if rest.starts_with("!~") || rest.starts_with("!=") => self.push(Kind::Operator, 2),
            '!' => {
                let found = rest.chars().nth(1).unwrap_or('\0');
                return self.fail(format!("unexpected character after '!' inside braces: {found:?}"));
            }
            '{' => return self.fail("unexpected left brace '{'"),
            _ if is_alpha(c) => {
                let len = rest.find(|c| !is_alnum(c)).unwrap_or(rest.len());
                self.push(Kind::Identifier, len);
            }
            _ => return self.fail(format!("unexpected character inside braces: {c:?}")),
        }
        Ok(true)
    }

    fn string(&self, quote: char) -> Result<usize, ParseError> {
        let mut escaped = false;
        for (at, c) in self.rest().char_indices().skip(1) {
            match c {
                _ if escaped => escaped = false,
                '\\' if quote != '`' => escaped = true,
                '\n' if quote != '`' => break,
                _ if c == quote => return Ok(at + 1),
                _ => {}
            }
        }
        self.fail(if quote == '`' { "unterminated raw string" } else { "unterminated quoted string" })
    }

    fn number(&mut self) -> Result<(), ParseError> {
        let rest = self.rest();
        let len = number_len(rest);
        let next = rest.get(len..).and_then(|r| r.chars().next());
        if let Some(duration) = duration_len(rest) {
            self.push(Kind::Duration, duration);
            return Ok(());
        }
        if next.is_some_and(|c| is_alnum(c) || c == '.') {
            let end = rest.find(|c: char| !(is_alnum(c) || c == '.')).unwrap_or(rest.len());
            let text = rest.get(..end).unwrap_or("");
            return self.fail(format!("bad number or duration syntax: {}", crate::metrics::quote(text)));
        }
        self.push(Kind::Number, len);
        Ok(())
    }
}

fn number_len(text: &str) -> usize {
    let bytes = text.as_bytes();
    let run = |from: usize, ok: fn(u8) -> bool| {
        // A single underscore may part digits.
        let mut at = from;
        while bytes
            .get(at)
            .is_some_and(|b| ok(*b) || (*b == b'_' && bytes.get(at + 1).is_some_and(|n| ok(*n)) && at > from))
        {
            at += 1;
        }
        at
    };
    let digit: fn(u8) -> bool = |b| b.is_ascii_digit();
    if bytes.first() == Some(&b'0') && matches!(bytes.get(1), Some(b'x' | b'X')) {
        return run(2, |b| b.is_ascii_hexdigit());
    }
    let mut at = run(0, digit);
    if bytes.get(at) == Some(&b'.') {
        at = run(at + 1, digit);
    }
    if matches!(bytes.get(at), Some(b'e' | b'E')) {
        let sign = usize::from(matches!(bytes.get(at + 1), Some(b'+' | b'-')));
        let end = run(at + 1 + sign, digit);
        if end > at + 1 + sign {
            at = end;
        }
    }
    at
}

const UNITS: [(&str, u64); 7] = [
    ("y", 365 * 24 * 3_600_000),
    ("w", 7 * 24 * 3_600_000),
    ("d", 24 * 3_600_000),
    ("h", 3_600_000),
    ("m", 60_000),
    ("s", 1000),
    ("ms", 1),
];

/// The length of a duration at the start of the text, such as `1h30m`.
fn duration_len(text: &str) -> Option<usize> {
    let mut at = 0;
    let mut parts = 0;
    loop {
        let rest = text.get(at..)?;
        let digits = rest.find(|c: char| !c.is_ascii_digit()).unwrap_or(rest.len());
        let unit_text = rest.get(digits..)?;
        let unit = ["ms", "y", "w", "d", "h", "m", "s"].into_iter().find(|unit| unit_text.starts_with(unit));
        let (Some(unit), true) = (unit, digits > 0) else { break };
        at += digits + unit.len();
        parts += 1;
    }
    let ends = !text.get(at..)?.starts_with(is_alnum);
    (parts > 0 && ends).then_some(at)
}

/// Milliseconds of a duration: units in falling order, each once.
pub(crate) fn duration_ms(text: &str) -> Result<u64, String> {
    let wrong = || format!("not a valid duration string: {}", crate::metrics::quote(text));
    if text == "0" {
        return Ok(0);
    }
    let (mut rest, mut total, mut units) = (text, 0u64, UNITS.iter());
    if rest.is_empty() {
        return Err("empty duration string".into());
    }
    while !rest.is_empty() {
        let digits = rest.find(|c: char| !c.is_ascii_digit()).ok_or_else(wrong)?;
        let (number, after) = rest.split_at(digits);
        let len = after.find(|c: char| !c.is_ascii_alphabetic()).unwrap_or(after.len());
        let (unit, after) = after.split_at(len);
        let (_, ms) = units.find(|(known, _)| *known == unit).ok_or_else(wrong)?;
        let number: u64 = number.parse().map_err(|_| wrong())?;
        total = number
            .checked_mul(*ms)
            .and_then(|part| total.checked_add(part))
            .ok_or("duration out of range")?;
        rest = after;
    }
    if total > i64::MAX as u64 / 1_000_000 { Err("duration out of range".into()) } else { Ok(total) }
}

/// The value of a number token.
pub(crate) fn number_value(text: &str) -> Option<f64> {
    let clean = text.replace('_', "");
    if let Some(hex) = clean.strip_prefix("0x").or_else(|| clean.strip_prefix("0X")) {
        return u64::from_str_radix(hex, 16).ok().map(|v| v as f64);
    }
    // Go reads a leading zero as octal when the rest allows it.
    if clean.len() > 1 && clean.starts_with('0') && clean.bytes().all(|b| (b'0'..=b'7').contains(&b)) {
        return u64::from_str_radix(&clean, 8).ok().map(|v| v as f64);
    }
    match clean.to_ascii_lowercase().as_str() {
        "inf" => Some(f64::INFINITY),
        "nan" => Some(f64::NAN),
        _ => clean.parse().ok(),
    }
}

/// The text of a string token without quotes and escapes.
pub(crate) fn unquote(token: &str) -> Result<String, String> {
    let wrong = || format!("error unquoting string {}: invalid syntax", crate::metrics::quote(token));
    let quote = token.chars().next().ok_or_else(wrong)?;
    let inner = token.get(1..token.len().saturating_sub(1)).ok_or_else(wrong)?;
    if quote == '`' {
        return Ok(inner.to_string());
    }
    let mut bytes: Vec<u8> = Vec::with_capacity(inner.len());
    let mut chars = inner.chars();
    while let Some(c) = chars.next() {
        if c != '\\' {
            bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
            continue;
        }
        let escape = chars.next().ok_or_else(wrong)?;
        let mut digits = |count: usize, radix: u32, first: Option<char>| {
            let mut value = first.map_or(Some(0), |c| c.to_digit(radix));
            for _ in 0..count {
                let digit = chars.next().and_then(|c| c.to_digit(radix));
                value = value.zip(digit).map(|(v, d)| v * radix + d);
            }
            value.ok_or_else(wrong)
        };
        let byte = match escape {
            'a' => 7,
            'b' => 8,
            'f' => 12,
            'n' => b'\n',
            'r' => b'\r',
            't' => b'\t',
            'v' => 11,
            '\\' => b'\\',
            '\'' | '"' if escape == quote => escape as u8,
            'x' => digits(2, 16, None)? as u8,
            '0'..='7' => u8::try_from(digits(2, 8, Some(escape))?).map_err(|_| wrong())?,
            'u' | 'U' => {
                let code = digits(if escape == 'u' { 4 } else { 8 }, 16, None)?;
                let c = char::from_u32(code).ok_or_else(wrong)?;
                bytes.extend(c.encode_utf8(&mut [0; 4]).as_bytes());
                continue;
            }
            _ => return Err(wrong()),
        };
        bytes.push(byte);
    }
    String::from_utf8(bytes).map_err(|_| format!("the string {} is not UTF-8", crate::metrics::quote(token)))
}
