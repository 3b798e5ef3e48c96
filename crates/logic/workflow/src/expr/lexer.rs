//! Cuts the text of an expression into symbols.

use std::sync::Arc;

use super::{MAX_LENGTH, SyntaxError, value::text_number};

/// Said where people try to compute.
pub(super) const NO_ARITHMETIC: &str =
    "expressions have no arithmetic: compute in a 'run' step and give the result as an output";

#[derive(Debug, Clone, PartialEq)]
pub(super) enum Symbol {
    LeftParen,
    RightParen,
    LeftBracket,
    RightBracket,
    Comma,
    Dot,
    Star,
    Not,
    Equal,
    NotEqual,
    Greater,
    GreaterEqual,
    Less,
    LessEqual,
    And,
    Or,
    Number(f64),
    Text(Arc<str>),
    Name(String),
    True,
    False,
    Null,
    End,
}

#[derive(Debug, Clone)]
pub(super) struct Token {
    pub(super) symbol: Symbol,
    pub(super) text: String,
    pub(super) position: usize,
}

pub(super) fn error(expression: &str, position: usize, message: String) -> SyntaxError {
    let expression = match expression.chars().count() {
        0..=120 => expression.to_owned(),
        _ => expression.chars().take(117).collect::<String>() + "...",
    };
    SyntaxError { message, position, expression, lexical: false, hint: None }
}

struct Lexer<'a> {
    source: &'a str,
    characters: Vec<char>,
    at: usize,
    tokens: Vec<Token>,
}

pub(super) fn lex(source: &str) -> Result<Vec<Token>, SyntaxError> {
    let characters: Vec<char> = source.chars().collect();
    if characters.len() > MAX_LENGTH {
        let message = format!("there are more than {MAX_LENGTH} characters");
        let hint = Some("compute the value in a step and give it as an output".to_owned());
        return Err(SyntaxError { lexical: true, hint, ..error(source, MAX_LENGTH, message) });
    }
    let mut lexer = Lexer { source, characters, at: 0, tokens: Vec::new() };
    while lexer.at < lexer.characters.len() {
        lexer.symbol()?;
    }
    lexer.push(Symbol::End, lexer.at);
    Ok(lexer.tokens)
}

fn is_boundary(character: char) -> bool {
    matches!(character, '(' | '[' | ')' | ']' | ',' | '.' | '!' | '>' | '<' | '=' | '&' | '|')
        || character.is_whitespace()
}

fn is_name(text: &str) -> bool {
    let mut bytes = text.bytes();
    bytes.next().is_some_and(|first| first.is_ascii_alphabetic() || first == b'_')
        && bytes.all(|byte| byte.is_ascii_alphanumeric() || byte == b'_' || byte == b'-')
}

impl Lexer<'_> {
    fn peek(&self, ahead: usize) -> Option<char> {
        self.characters.get(self.at + ahead).copied()
    }

    fn push(&mut self, symbol: Symbol, start: usize) {
        let text = self.characters.get(start..self.at).unwrap_or_default().iter().collect();
        self.tokens.push(Token { symbol, text, position: start });
    }

    /// The symbol of one character, or of two when `next` follows.
    fn either(&mut self, next: char, two: Symbol, one: Option<Symbol>) -> Result<(), SyntaxError> {
        let start = self.at;
        self.at += 1;
        if self.peek(0) == Some(next) {
            self.at += 1;
            self.push(two, start);
            return Ok(());
        }
        match one {
            Some(one) => {
                self.push(one, start);
                Ok(())
            }
            // Not an operator: whatever follows belongs to the wrong word.
            None => self.name(start),
        }
    }

    fn symbol(&mut self) -> Result<(), SyntaxError> {
        let start = self.at;
        let Some(character) = self.peek(0) else { return Ok(()) };
        let single = match character {
            '(' => Some(Symbol::LeftParen),
            ')' => Some(Symbol::RightParen),
            '[' => Some(Symbol::LeftBracket),
            ']' => Some(Symbol::RightBracket),
            ',' => Some(Symbol::Comma),
            '*' => Some(Symbol::Star),
            '.' if self.after_value() => Some(Symbol::Dot),
            _ => None,
        };
        if let Some(symbol) = single {
            self.at += 1;
            self.push(symbol, start);
            return Ok(());
        }
        match character {
            ' ' | '\r' | '\t' | '\n' => {
                self.at += 1;
                Ok(())
            }
            '.' | '-' | '+' | '0'..='9' => self.number(start),
            '!' => self.either('=', Symbol::NotEqual, Some(Symbol::Not)),
            '<' => self.either('=', Symbol::LessEqual, Some(Symbol::Less)),
            '>' => self.either('=', Symbol::GreaterEqual, Some(Symbol::Greater)),
            '=' => self.either('=', Symbol::Equal, None),
            '&' => self.either('&', Symbol::And, None),
            '|' => self.either('|', Symbol::Or, None),
            '\'' => self.text(start),
            _ => {
                self.at += 1;
                self.name(start)
            }
        }
    }

    /// Whether a dot here looks something up rather than begins a number.
    fn after_value(&self) -> bool {
        let last = self.tokens.last().map(|token| &token.symbol);
        matches!(last, Some(Symbol::Name(_) | Symbol::RightBracket | Symbol::RightParen | Symbol::Star))
    }

    fn unexpected(&self, start: usize) -> SyntaxError {
        let word: String = self.characters.get(start..self.at).unwrap_or_default().iter().collect();
        let hint = match word.as_str() {
            "=" => "compare with '=='",
            "&" => "write '&&'",
            "|" => "write '||'",
            _ if word.starts_with('\'') => "add the closing quote (a quote within a text is written twice)",
            _ if word.contains('"') => "texts stand between single quotes",
            _ if word.contains(['{', '}', '$']) => {
                "'${{' and '}}' cannot stand inside an expression: leave them out"
            }
            _ if word.contains(['+', '-', '*', '/', '%', '^']) => NO_ARITHMETIC,
            _ => "names are made of letters, digits, '_' and '-'; texts stand between single quotes",
        };
        let message = format!("'{word}' is not understood");
        SyntaxError { lexical: true, hint: Some(hint.into()), ..error(self.source, start, message) }
    }

    fn number(&mut self, start: usize) -> Result<(), SyntaxError> {
        self.at += 1;
        while self.peek(0).is_some_and(|c| c == '.' || !is_boundary(c)) {
            self.at += 1;
        }
        let word: String = self.characters.get(start..self.at).unwrap_or_default().iter().collect();
        let value = text_number(&word);
        if value.is_nan() {
            return Err(self.unexpected(start));
        }
        self.push(Symbol::Number(value), start);
        Ok(())
    }

    fn text(&mut self, start: usize) -> Result<(), SyntaxError> {
        let mut text = String::new();
        self.at += 1;
        loop {
            match (self.peek(0), self.peek(1)) {
                (None, _) => {
                    return Err(self.unexpected(start));
                }
                (Some('\''), Some('\'')) => {
                    text.push('\'');
                    self.at += 2;
                }
                (Some('\''), _) => {
                    self.at += 1;
                    self.push(Symbol::Text(text.into()), start);
                    return Ok(());
                }
                (Some(character), _) => {
                    text.push(character);
                    self.at += 1;
                }
            }
        }
    }

    fn name(&mut self, start: usize) -> Result<(), SyntaxError> {
        while self.peek(0).is_some_and(|c| !is_boundary(c)) {
            self.at += 1;
        }
        let word: String = self.characters.get(start..self.at).unwrap_or_default().iter().collect();
        if !is_name(&word) {
            return Err(self.unexpected(start));
        }
        let property = self.tokens.last().is_some_and(|token| token.symbol == Symbol::Dot);
        let symbol = match word.as_str() {
            "true" if !property => Symbol::True,
            "false" if !property => Symbol::False,
            "null" if !property => Symbol::Null,
            "NaN" if !property => Symbol::Number(f64::NAN),
            "Infinity" if !property => Symbol::Number(f64::INFINITY),
            _ => Symbol::Name(word),
        };
        self.push(symbol, start);
        Ok(())
    }
}
