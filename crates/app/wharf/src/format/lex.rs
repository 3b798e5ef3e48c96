//! The words of a template: text, and what stands between `{{` and `}}`.

use std::borrow::Cow;

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Kind {
    Text,
    Open,
    Close,
    Field,
    Variable,
    Identifier,
    Keyword(Keyword),
    Bool,
    Number,
    Complex,
    Character,
    Quoted,
    Raw,
    Pipe,
    Assign,
    Declare,
    LeftParen,
    RightParen,
    /// A sign that means something only at some places, as the comma.
    Sign,
    End,
    /// The text is what is wrong; no token follows.
    Wrong,
}

#[derive(Clone, Copy, Debug, PartialEq, Eq)]
pub(super) enum Keyword {
    Dot,
    Block,
    Break,
    Continue,
    Define,
    Else,
    End,
    If,
    Nil,
    Range,
    Template,
    With,
}

impl Keyword {
    fn of(word: &str) -> Option<Keyword> {
        Some(match word {
            "block" => Keyword::Block,
            "break" => Keyword::Break,
            "continue" => Keyword::Continue,
            "define" => Keyword::Define,
            "else" => Keyword::Else,
            "end" => Keyword::End,
            "if" => Keyword::If,
            "nil" => Keyword::Nil,
            "range" => Keyword::Range,
            "template" => Keyword::Template,
            "with" => Keyword::With,
            _ => return None,
        })
    }
}

#[derive(Clone, Debug)]
pub(super) struct Token<'t> {
    pub(super) kind: Kind,
    pub(super) text: Cow<'t, str>,
    /// Offset in bytes.
    pub(super) at: usize,
    pub(super) line: usize,
    /// Whether white space stands before it.
    pub(super) spaced: bool,
}

/// All tokens of a template; the last one is `End` or `Wrong`.
pub(super) fn tokens(text: &str) -> Vec<Token<'_>> {
    let mut lexer =
        Lexer { text, at: 0, start: 0, line: 1, counted: 0, spaced: false, parens: 0, tokens: Vec::new() };
    match lexer.all() {
        Ok(()) => lexer.emit(Kind::End),
        Err(wrong) => lexer.push(Kind::Wrong, Cow::Owned(wrong)),
    }
    lexer.tokens
}

const SPACES: [char; 4] = [' ', '\t', '\r', '\n'];

fn is_space(c: char) -> bool {
    SPACES.contains(&c)
}

fn is_name(c: char) -> bool {
    c == '_' || c.is_alphanumeric()
}

/// A character as errors show it: `U+0040 '@'`.
pub(super) fn described(c: char) -> String {
    let code = format!("U+{:04X}", u32::from(c));
    if super::literal::is_print(c) { format!("{code} '{c}'") } else { code }
}

struct Lexer<'t> {
    text: &'t str,
    at: usize,
    /// Where the token begins that is being read.
    start: usize,
    /// The line of `counted`, which moves with the tokens.
    line: usize,
    counted: usize,
    spaced: bool,
    parens: usize,
    tokens: Vec<Token<'t>>,
}

impl<'t> Lexer<'t> {
    fn rest(&self) -> &'t str {
        self.text.get(self.at..).unwrap_or_default()
    }

    fn peek(&self) -> Option<char> {
        self.rest().chars().next()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek()?;
        self.at += c.len_utf8();
        Some(c)
    }

    fn take_while(&mut self, wanted: impl Fn(char) -> bool) {
        while self.peek().is_some_and(&wanted) {
            self.next();
        }
    }

    fn take_one_of(&mut self, set: &str) -> bool {
        let found = self.peek().is_some_and(|c| set.contains(c));
        if found {
            self.next();
        }
        found
    }

    fn word(&self) -> &'t str {
        self.text.get(self.start..self.at).unwrap_or_default()
    }

    fn emit(&mut self, kind: Kind) {
        let text = Cow::Borrowed(self.word());
        self.push(kind, text);
        self.start = self.at;
    }

    fn push(&mut self, kind: Kind, text: Cow<'t, str>) {
        let passed = self.text.get(self.counted..self.start).unwrap_or_default();
        self.line += passed.bytes().filter(|byte| *byte == b'\n').count();
        self.counted = self.start;
        let spaced = std::mem::take(&mut self.spaced);
        self.tokens.push(Token { kind, text, at: self.start, line: self.line, spaced });
    }

    fn all(&mut self) -> Result<(), String> {
        while !self.rest().is_empty() {
            let Some(length) = self.rest().find("{{") else {
                self.at = self.text.len();
                self.emit(Kind::Text);
                break;
            };
            self.text_before(length);
            self.open()?;
        }
        self.start = self.at;
        Ok(())
    }

    fn text_before(&mut self, length: usize) {
        let rest = self.rest();
        let (text, after) =
            (rest.get(..length).unwrap_or_default(), rest.get(length + 2..).unwrap_or_default());
        let text = if trims_left(after) { text.trim_end_matches(SPACES) } else { text };
        self.at += text.len();
        if !text.is_empty() {
            self.emit(Kind::Text);
        }
        self.at += length - text.len();
        self.start = self.at;
    }

    /// What begins with `{{`: a comment or an action.
    fn open(&mut self) -> Result<(), String> {
        self.at += 2;
        let marker = if trims_left(self.rest()) { 2 } else { 0 };
        if self.rest().get(marker..).is_some_and(|rest| rest.starts_with("/*")) {
            self.at += marker;
            self.start = self.at;
            return self.comment();
        }
        self.emit(Kind::Open);
        self.at += marker;
        self.start = self.at;
        self.parens = 0;
        while !self.closed()? {
            self.part()?;
        }
        Ok(())
    }

    fn comment(&mut self) -> Result<(), String> {
        self.at += 2;
        let length = self.rest().find("*/").ok_or("unclosed comment")?;
        self.at += length + 2;
        let trims = self.at_close().ok_or("comment ends before closing delimiter")?;
        self.close(trims);
        self.start = self.at;
        Ok(())
    }

    /// Whether an action ends here, and then whether the white space behind it goes too.
    fn at_close(&self) -> Option<bool> {
        let rest = self.rest();
        let trimmed = rest.strip_prefix(SPACES).is_some_and(|rest| rest.starts_with("-}}"));
        (trimmed || rest.starts_with("}}")).then_some(trimmed)
    }

    /// Goes behind the `}}`.
    fn close(&mut self, trims: bool) {
        self.at += if trims { 4 } else { 2 };
        if trims {
            self.take_while(is_space);
        }
    }

    fn closed(&mut self) -> Result<bool, String> {
        let Some(trims) = self.at_close() else { return Ok(false) };
        if self.parens > 0 {
            return Err("unclosed left paren".into());
        }
        self.start += if trims { 2 } else { 0 };
        self.push(Kind::Close, Cow::Borrowed("}}"));
        self.close(trims);
        self.start = self.at;
        Ok(true)
    }

    /// One token of an action, or one white space.
    fn part(&mut self) -> Result<(), String> {
        let Some(c) = self.next() else { return Err("unclosed action".into()) };
        match c {
            c if is_space(c) => {
                self.spaced = true;
                self.start = self.at;
            }
            '=' => self.emit(Kind::Assign),
            ':' if self.next() == Some('=') => self.emit(Kind::Declare),
            ':' => return Err("expected :=".into()),
            '|' => self.emit(Kind::Pipe),
            '"' => self.quoted(Kind::Quoted, '"', "unterminated quoted string")?,
            '\'' => self.quoted(Kind::Character, '\'', "unterminated character constant")?,
            '`' => self.raw()?,
            '$' => self.name(Kind::Variable)?,
            '.' if self.peek().is_some_and(|c| !c.is_ascii_digit()) => self.name(Kind::Field)?,
            '.' | '+' | '-' | '0'..='9' => self.number()?,
            c if is_name(c) => self.name(Kind::Identifier)?,
            '(' => {
                self.parens += 1;
                self.emit(Kind::LeftParen);
            }
            ')' => {
                self.parens = self.parens.checked_sub(1).ok_or("unexpected right paren")?;
                self.emit(Kind::RightParen);
            }
            ' '..='~' => self.emit(Kind::Sign),
            c => return Err(format!("unrecognized character in action: {}", described(c))),
        }
        Ok(())
    }

    /// An identifier, a `.Field` or a `$variable`; the first character has been read.
    fn name(&mut self, kind: Kind) -> Result<(), String> {
        self.take_while(is_name);
        let ends = match self.peek() {
            None | Some('.' | ',' | '|' | ':' | ')' | '(') => true,
            Some(c) => is_space(c) || self.rest().starts_with("}}"),
        };
        if let Some(c) = self.peek().filter(|_| !ends) {
            return Err(format!("bad character {}", described(c)));
        }
        self.emit(match (kind, self.word()) {
            (Kind::Field, ".") => Kind::Keyword(Keyword::Dot),
            (Kind::Identifier, "true" | "false") => Kind::Bool,
            (Kind::Identifier, word) => Keyword::of(word).map_or(kind, Kind::Keyword),
            _ => kind,
        });
        Ok(())
    }

    fn quoted(&mut self, kind: Kind, quote: char, unterminated: &str) -> Result<(), String> {
        loop {
            let ends = match self.next() {
                Some('\\') => self.next().is_none_or(|c| c == '\n'),
                Some(c) if c == quote => break,
                c => c.is_none_or(|c| c == '\n'),
            };
            if ends {
                return Err(unterminated.into());
            }
        }
        self.emit(kind);
        Ok(())
    }

    fn raw(&mut self) -> Result<(), String> {
        let length = self.rest().find('`').ok_or("unterminated raw quoted string")?;
        self.at += length + 1;
        self.emit(Kind::Raw);
        Ok(())
    }

    fn number(&mut self) -> Result<(), String> {
        self.at = self.start;
        let wrong =
            |lexer: &Lexer<'_>| format!("bad number syntax: {}", super::literal::quote(lexer.word(), false));
        if !self.digits() {
            return Err(wrong(self));
        }
        if !matches!(self.peek(), Some('+' | '-')) {
            self.emit(Kind::Number);
            return Ok(());
        }
        if !self.digits() || !self.word().ends_with('i') {
            return Err(wrong(self));
        }
        self.emit(Kind::Complex);
        Ok(())
    }

    /// Goes over what may be a number; whether it is one is found when it is read.
    fn digits(&mut self) -> bool {
        self.take_one_of("+-");
        let mut digits = "0123456789_";
        if self.take_one_of("0") {
            if self.take_one_of("xX") {
                digits = "0123456789abcdefABCDEF_";
            } else if self.take_one_of("oO") {
                digits = "01234567_";
            } else if self.take_one_of("bB") {
                digits = "01_";
            }
        }
        let (decimal, hex) = (digits.len() == 11, digits.len() == 23);
        self.take_while(|c| digits.contains(c));
        if self.take_one_of(".") {
            self.take_while(|c| digits.contains(c));
        }
        if decimal && self.take_one_of("eE") || hex && self.take_one_of("pP") {
            self.take_one_of("+-");
            self.take_while(|c| c == '_' || c.is_ascii_digit());
        }
        self.take_one_of("i");
        let ends = !self.peek().is_some_and(is_name);
        if !ends {
            self.next();
        }
        ends
    }
}

fn trims_left(rest: &str) -> bool {
    rest.strip_prefix('-').is_some_and(|rest| rest.starts_with(SPACES))
}
