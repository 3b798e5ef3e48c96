//! Label matchers with Prometheus' meaning: a label that is absent is the empty string.

use super::labels::{Labels, quote};
use regex::Regex;
use std::fmt;

/// How a matcher compares.
#[derive(Debug, Clone, Copy, PartialEq, Eq)]
pub enum MatchOp {
    /// `=`
    Equal,
    /// `!=`
    NotEqual,
    /// `=~`, anchored at both ends
    Regex,
    /// `!~`, anchored at both ends
    NotRegex,
}

impl MatchOp {
    /// The operator as written.
    pub fn as_str(self) -> &'static str {
        match self {
            Self::Equal => "=",
            Self::NotEqual => "!=",
            Self::Regex => "=~",
            Self::NotRegex => "!~",
        }
    }
}

/// One condition on one label.
#[derive(Clone)]
pub struct Matcher {
    /// The label's name.
    pub name: String,
    /// The comparison.
    pub op: MatchOp,
    /// The value or the pattern.
    pub value: String,
    regex: Option<Pattern>,
}

#[derive(Clone)]
enum Pattern {
    /// A pattern that is only a list of plain words: the index can be asked for each.
    Words(Vec<String>),
    Full(Regex),
}

impl PartialEq for Matcher {
    fn eq(&self, other: &Self) -> bool {
        self.name == other.name && self.op == other.op && self.value == other.value
    }
}

impl Matcher {
    /// Compiles a matcher; the error is the regular expression's.
    pub fn new(op: MatchOp, name: impl Into<String>, value: impl Into<String>) -> Result<Self, String> {
        let value = value.into();
        let regex = match op {
            MatchOp::Equal | MatchOp::NotEqual => None,
            MatchOp::Regex | MatchOp::NotRegex => Some(match plain_words(&value) {
                Some(words) => Pattern::Words(words),
                None => Pattern::Full(anchored(&value)?),
            }),
        };
        Ok(Self { name: name.into(), op, value, regex })
    }

    /// `name="value"`.
    pub fn equal(name: impl Into<String>, value: impl Into<String>) -> Self {
        Self { name: name.into(), op: MatchOp::Equal, value: value.into(), regex: None }
    }

    /// Does this value pass?
    pub fn matches(&self, value: &str) -> bool {
        match self.op {
            MatchOp::Equal => value == self.value,
            MatchOp::NotEqual => value != self.value,
            MatchOp::Regex => self.pattern(value),
            MatchOp::NotRegex => !self.pattern(value),
        }
    }

    /// Does this label set pass?
    pub fn accepts(&self, labels: &Labels) -> bool {
        self.matches(labels.get(&self.name))
    }

    /// The only values that can pass, when the index can be asked for them directly.
    pub(crate) fn values(&self) -> Option<Vec<&str>> {
        match (self.op, &self.regex) {
            (MatchOp::Equal, _) => Some(vec![&self.value]),
            (MatchOp::Regex, Some(Pattern::Words(words))) => Some(words.iter().map(String::as_str).collect()),
            _ => None,
        }
    }

    fn pattern(&self, value: &str) -> bool {
        match &self.regex {
            Some(Pattern::Words(words)) => words.iter().any(|word| word == value),
            Some(Pattern::Full(regex)) => regex.is_match(value),
            None => false,
        }
    }
}

/// A regular expression over the whole string, `.` matching newlines too.
pub(crate) fn anchored(pattern: &str) -> Result<Regex, String> {
    regex::RegexBuilder::new(&format!("^(?s:{pattern})$"))
        .size_limit(4 << 20)
        .build()
        .map_err(|e| format!("error parsing regexp: {}", e.to_string().replace('\n', " ")))
}

fn plain_words(pattern: &str) -> Option<Vec<String>> {
    let special = |c: char| "\\.+*?()[]{}^$".contains(c);
    (!pattern.contains(special)).then(|| pattern.split('|').map(str::to_string).collect())
}

impl fmt::Display for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let name =
            if super::labels::is_label_name(&self.name) { self.name.clone() } else { quote(&self.name) };
        write!(f, "{name}{}{}", self.op.as_str(), quote(&self.value))
    }
}

impl fmt::Debug for Matcher {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        fmt::Display::fmt(self, f)
    }
}
