//! Variables in arguments: `$x`, `${x:-y}`, `${x#pattern}`, `${x/a/b}`, with quotes and escapes as in a Dockerfile.

use crate::error::{Error, Result};

/// The longest value substitution may make: doubling a variable in every line must not fill the memory.
const MAX_VALUE: usize = 1 << 20;
/// How deep `${a:-${b:-…}}` may go.
const MAX_DEPTH: usize = 50;

/// What happens to quotes.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub(crate) enum Quotes {
    /// They quote, and go.
    Removed,
    /// They quote, and stay.
    Raw,
    /// They are characters like others: the content of a heredoc.
    Ignored,
}

/// How a text is expanded.
#[derive(Debug, Clone, Copy)]
pub struct Expander {
    /// The file's escape character.
    pub(crate) escape: char,
    pub(crate) quotes: Quotes,
    /// Escape characters stay.
    pub(crate) raw_escapes: bool,
    /// Variables without value stay as they are written.
    pub(crate) keep_unset: bool,
}

/// An expanded text.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Expanded {
    /// As one text.
    pub text: String,
    /// As words: cut at blanks that are neither quoted nor escaped.
    pub words: Vec<String>,
}

type Lookup<'a> = &'a dyn Fn(&str) -> Option<String>;

impl Expander {
    /// The usual expansion of arguments.
    pub fn new(escape: char) -> Self {
        Self { escape, quotes: Quotes::Removed, raw_escapes: false, keep_unset: false }
    }

    /// The expansion inside a heredoc, where quotes are plain characters.
    pub fn for_heredoc(escape: char) -> Self {
        Self { quotes: Quotes::Ignored, ..Self::new(escape) }
    }

    /// Expands `text` to one text.
    pub fn text(&self, text: &str, variables: Lookup<'_>) -> Result<String> {
        Ok(self.expand(text, variables)?.text)
    }

    /// Expands `text` to words.
    pub fn words(&self, text: &str, variables: Lookup<'_>) -> Result<Vec<String>> {
        Ok(self.expand(text, variables)?.words)
    }

    /// Expands `text` both ways.
    pub fn expand(&self, text: &str, variables: Lookup<'_>) -> Result<Expanded> {
        let mut lexer =
            Lexer { rules: *self, chars: text.chars().collect(), at: 0, variables, depth: 0, spent: 0 };
        lexer.until(None, self.raw_escapes).map_err(|mut error| {
            error.what = format!("{} in '{}'", error.what, text.chars().take(200).collect::<String>());
            error
        })
    }
}

struct Lexer<'a> {
    rules: Expander,
    chars: Vec<char>,
    at: usize,
    variables: Lookup<'a>,
    depth: usize,
    spent: usize,
}

#[derive(Default)]
struct Words {
    done: Vec<String>,
    current: Option<String>,
}

impl Words {
    fn push(&mut self, c: char) {
        self.current.get_or_insert_default().push(c);
    }

    fn push_blank_aware(&mut self, c: char) {
        if !c.is_whitespace() {
            self.push(c);
        } else if self.current.as_ref().is_some_and(|word| !word.is_empty()) {
            self.done.extend(self.current.take());
        }
    }

    fn finish(mut self) -> Vec<String> {
        self.done.extend(self.current.filter(|word| !word.is_empty()));
        self.done
    }
}

impl Lexer<'_> {
    fn peek(&self) -> Option<char> {
        self.chars.get(self.at).copied()
    }

    fn next(&mut self) -> Option<char> {
        let c = self.peek();
        self.at += usize::from(c.is_some());
        c
    }

    /// Reads to the end, or over the character `stop`.
    fn until(&mut self, stop: Option<char>, raw_escapes: bool) -> Result<Expanded> {
        self.depth += 1;
        if self.depth > MAX_DEPTH {
            return Err(Error::invalid(format!("substitutions are nested more than {MAX_DEPTH} deep"))
                .hint("give the inner ones to ARG first, and use that"));
        }
        let mut text = String::new();
        let mut words = Words::default();
        while let Some(c) = self.next() {
            if Some(c) == stop {
                self.depth -= 1;
                return Ok(Expanded { text, words: words.finish() });
            }
            match c {
                '\'' | '"' if self.rules.quotes != Quotes::Ignored => {
                    let quoted = self.quoted(c, raw_escapes)?;
                    words.current.get_or_insert_default().push_str(&quoted);
                    text.push_str(&quoted);
                }
                '$' => {
                    let value = self.dollar()?;
                    value.chars().for_each(|c| words.push_blank_aware(c));
                    text.push_str(&value);
                }
                '<' if self.peek() == Some('<') => {
                    // Blanks between `<<` and the name belong to the word.
                    let mut mark = String::from("<");
                    while let Some(next) = self.peek().filter(|c| matches!(c, '<' | ' ' | '\t')) {
                        if next == '<' && mark.len() > 1 {
                            break;
                        }
                        mark.push(next);
                        self.at += 1;
                    }
                    words.current.get_or_insert_default().push_str(&mark);
                    text.push_str(&mark);
                }
                c if c == self.rules.escape => {
                    if raw_escapes {
                        words.push(c);
                        text.push(c);
                    }
                    let Some(escaped) = self.next() else { break };
                    words.push(escaped);
                    text.push(escaped);
                }
                c => {
                    words.push_blank_aware(c);
                    text.push(c);
                }
            }
        }
        self.depth -= 1;
        match stop {
            None => Ok(Expanded { text, words: words.finish() }),
            Some(stop) => Err(missing(stop)),
        }
    }

    fn quoted(&mut self, quote: char, raw_escapes: bool) -> Result<String> {
        let mut text = String::new();
        let raw = self.rules.quotes == Quotes::Raw;
        text.extend(raw.then_some(quote));
        loop {
            let Some(c) = self.next() else {
                return Err(Error::invalid(format!("the quote {quote} is not closed")).hint(format!(
                    "add the closing {quote}, or write {}{quote} where the sign itself is meant",
                    self.rules.escape
                )));
            };
            match c {
                c if c == quote => {
                    text.extend(raw.then_some(quote));
                    return Ok(text);
                }
                '$' if quote == '"' => text.push_str(&self.dollar()?),
                c if c == self.rules.escape && quote == '"' => match self.peek() {
                    None => text.extend(raw_escapes.then_some(c)),
                    Some(next) if matches!(next, '"' | '$') || next == c => {
                        text.extend(raw_escapes.then_some(c));
                        text.push(next);
                        self.at += 1;
                    }
                    // Elsewhere it is itself; as a raw escape it has been written already.
                    Some(_) => {
                        text.extend(raw_escapes.then_some(c));
                        text.push(c);
                    }
                },
                c => text.push(c),
            }
        }
    }

    fn value(&mut self, name: &str) -> Result<Option<String>> {
        let value = (self.variables)(name);
        self.spent += value.as_ref().map_or(0, String::len);
        if self.spent > MAX_VALUE {
            return Err(Error::invalid(format!("the values make more than {MAX_VALUE} bytes"))
                .hint("put the text into a file and COPY it"));
        }
        Ok(value)
    }

    fn name(&mut self) -> String {
        let mut name = String::new();
        match self.peek() {
            Some(c) if c.is_ascii_digit() => {
                while let Some(c) = self.peek().filter(char::is_ascii_digit) {
                    name.push(c);
                    self.at += 1;
                }
            }
            Some(c) if matches!(c, '@' | '*' | '#' | '?' | '-' | '$' | '!') => {
                name.push(c);
                self.at += 1;
            }
            _ => {
                while let Some(c) = self.peek().filter(|c| c.is_alphanumeric() || *c == '_') {
                    name.push(c);
                    self.at += 1;
                }
            }
        }
        name
    }

    /// After a `$`.
    fn dollar(&mut self) -> Result<String> {
        if self.peek() != Some('{') {
            let name = self.name();
            if name.is_empty() {
                return Ok("$".into());
            }
            return Ok(match self.value(&name)? {
                Some(value) => value,
                None if self.rules.keep_unset => format!("${name}"),
                None => String::new(),
            });
        }
        self.at += 1;
        if matches!(self.peek(), Some('{' | '}' | ':')) {
            return Err(Error::invalid("bad substitution").hint("write a name within the braces: ${NAME}"));
        }
        let name = self.name();
        let missing = || missing('}');
        let operator = self.next().ok_or_else(missing)?;
        match operator {
            '}' => Ok(match self.value(&name)? {
                Some(value) => value,
                None if self.rules.keep_unset => format!("${{{name}}}"),
                None => String::new(),
            }),
            ':' => {
                let operator = self.next().ok_or_else(missing)?;
                self.default(&name, operator, true)
            }
            '-' | '+' | '?' => self.default(&name, operator, false),
            '#' | '%' => self.trim(&name, operator),
            '/' => self.replace(&name),
            other => Err(unsupported(&other.to_string())),
        }
    }

    fn default(&mut self, name: &str, operator: char, empty_is_unset: bool) -> Result<String> {
        let colon = if empty_is_unset { ":" } else { "" };
        if !matches!(operator, '-' | '+' | '?') {
            return Err(unsupported(&format!("{colon}{operator}")));
        }
        let word = self.until(Some('}'), false)?.text;
        let value = self.value(name)?;
        if self.rules.keep_unset && value.is_none() {
            return Ok(format!("${{{name}{colon}{operator}{word}}}"));
        }
        let usable = value.filter(|value| !(empty_is_unset && value.is_empty()));
        match (operator, usable) {
            ('-', None) => Ok(word),
            ('-' | '?', Some(value)) => Ok(value),
            ('+', None) => Ok(String::new()),
            ('+', Some(_)) => Ok(word),
            _ => {
                let what = match word.as_str() {
                    "" => format!("the variable {name} must be set"),
                    word => format!("{name}: {word}"),
                };
                let hint = format!("give it a value: ENV {name}=…, or ARG {name} and --build-arg {name}=…");
                Err(Error::invalid(what).hint(hint))
            }
        }
    }

    fn trim(&mut self, name: &str, operator: char) -> Result<String> {
        let word = self.until(Some('}'), true)?.text;
        let Some(value) = self.value(name)? else {
            let kept = format!("${{{name}{operator}{word}}}");
            return Ok(if self.rules.keep_unset { kept } else { String::new() });
        };
        let (longest, pattern) = match word.strip_prefix(operator) {
            Some(pattern) => (true, pattern),
            None => (false, word.as_str()),
        };
        let mut pattern = pattern_of(pattern)?;
        let mut value: Vec<char> = value.chars().collect();
        if operator == '%' {
            pattern.reverse();
            value.reverse();
        }
        let ends = ends_of_match(&pattern, &value);
        let end = if longest { ends.last() } else { ends.first() };
        let mut kept: Vec<char> = value.split_off(end.copied().unwrap_or(0));
        if operator == '%' {
            kept.reverse();
        }
        Ok(kept.into_iter().collect())
    }

    fn replace(&mut self, name: &str) -> Result<String> {
        let all = self.peek() == Some('/');
        self.at += usize::from(all);
        let from = self.until(Some('/'), true)?.text;
        let to = self.until(Some('}'), true)?.text;
        let Some(value) = self.value(name)? else {
            let kept = format!("${{{name}/{from}/{to}}}");
            return Ok(if self.rules.keep_unset { kept } else { String::new() });
        };
        let pattern = pattern_of(&from)?;
        let value: Vec<char> = value.chars().collect();
        let mut text = String::new();
        let (mut at, mut replaced) = (0, false);
        while let Some(rest) = value.get(at..) {
            let end = ends_of_match(&pattern, rest).last().copied().filter(|end| *end > 0);
            match end {
                Some(end) if all || !replaced => {
                    text.push_str(&to);
                    at += end;
                    replaced = true;
                }
                _ => {
                    text.extend(rest.first());
                    at += 1;
                }
            }
            if text.len() > MAX_VALUE {
                return Err(Error::invalid(format!("the values make more than {MAX_VALUE} bytes"))
                    .hint("put the text into a file and COPY it"));
            }
        }
        Ok(text)
    }
}

/// The sign that ends a substitution is not there.
fn missing(sign: char) -> Error {
    let hint = match sign {
        '}' => "close it: ${NAME}, or write \\$ where a dollar sign is meant",
        _ => "write ${NAME/FROM/TO}",
    };
    Error::invalid(format!("'{sign}' is missing")).hint(hint)
}

fn unsupported(operator: &str) -> Error {
    Error::invalid(format!("'{operator}' is no operator of a substitution"))
        .hint("use :- :+ :? - + ? # ## % %% / or //")
}

#[derive(Debug, Clone, Copy)]
enum Part {
    Any,
    Many,
    Char(char),
}

fn pattern_of(text: &str) -> Result<Vec<Part>> {
    let mut parts = Vec::new();
    let mut chars = text.chars().peekable();
    while let Some(c) = chars.next() {
        parts.push(match c {
            '*' => Part::Many,
            '?' => Part::Any,
            '\\' => match chars.next() {
                Some(c @ ('}' | '/' | '*' | '?' | '\\')) => Part::Char(c),
                _ => {
                    return Err(Error::invalid(format!("the pattern '{text}' has a bad escape"))
                        .hint("'\\' stands only before } / * ? and itself"));
                }
            },
            c => Part::Char(c),
        });
    }
    Ok(parts)
}

/// Every length of `text` from its start that the pattern covers, in order. Time is linear in the product of both.
fn ends_of_match(pattern: &[Part], text: &[char]) -> Vec<usize> {
    let mut ends = vec![0];
    for part in pattern {
        ends = match part {
            Part::Many => ends.first().map_or(Vec::new(), |first| (*first..=text.len()).collect()),
            Part::Any => ends.iter().filter(|at| **at < text.len()).map(|at| at + 1).collect(),
            Part::Char(c) => ends.iter().filter(|at| text.get(**at) == Some(c)).map(|at| at + 1).collect(),
        };
        if ends.is_empty() {
            break;
        }
    }
    ends
}
