//! What is wrong with an expression, and how it is shown: `ERROR: <input>:LINE:COLUMN: MESSAGE`
//! above the line and a caret, the form cel-go prints and Kubernetes passes on to users.

use std::fmt;

/// Beyond this many, issues are counted and no longer kept.
const KEPT: usize = 100;
/// Lines longer than this are not shown below the message.
const LONGEST_SNIPPET: usize = 16384;

/// One fault in an expression.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issue {
    /// Where, as an offset in bytes into the source.
    pub at: u32,
    /// What is wrong.
    pub message: String,
}

/// Why an expression did not compile.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Issues {
    source: String,
    list: Vec<Issue>,
    total: usize,
}

impl Issues {
    pub(crate) fn new(source: &str) -> Self {
        Self { source: source.to_owned(), list: Vec::new(), total: 0 }
    }

    pub(crate) fn report(&mut self, at: u32, message: impl Into<String>) {
        self.total += 1;
        if self.list.len() < KEPT {
            self.list.push(Issue { at, message: message.into() });
        }
    }

    pub(crate) fn is_empty(&self) -> bool {
        self.total == 0
    }

    /// The faults, in the order they were found.
    pub fn iter(&self) -> impl Iterator<Item = &Issue> {
        self.list.iter()
    }

    fn write_one(&self, f: &mut fmt::Formatter<'_>, issue: &Issue) -> fmt::Result {
        let place = Place::of(&self.source, issue.at as usize);
        write!(f, "ERROR: <input>:{}:{}: {}", place.line, place.column + 1, issue.message)?;
        if place.text.len() > LONGEST_SNIPPET {
            return Ok(());
        }
        let text = place.text.replace('\t', " ");
        write!(f, "\n | {text}\n | ")?;
        for c in text.chars().take(place.column) {
            f.write_str(if c.len_utf8() > 1 { "\u{ff0e}" } else { "." })?;
        }
        let wide = text.chars().nth(place.column).is_some_and(|c| c.len_utf8() > 1);
        f.write_str(if wide { "\u{ff3e}" } else { "^" })
    }
}

impl fmt::Display for Issues {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let mut sorted: Vec<&Issue> = self.list.iter().collect();
        sorted.sort_by_key(|issue| issue.at);
        for (i, issue) in sorted.into_iter().enumerate() {
            if i > 0 {
                f.write_str("\n")?;
            }
            self.write_one(f, issue)?;
        }
        if self.total > self.list.len() {
            write!(f, "\n{} more errors were truncated", self.total - self.list.len())?;
        }
        Ok(())
    }
}

impl std::error::Error for Issues {}

/// A place in the source as people count: lines from one, columns in characters from zero.
struct Place<'a> {
    line: usize,
    column: usize,
    text: &'a str,
}

impl<'a> Place<'a> {
    fn of(source: &'a str, at: usize) -> Self {
        let at = (0..=at.min(source.len())).rev().find(|i| source.is_char_boundary(*i)).unwrap_or(0);
        let (before, after) = source.split_at(at);
        let start = before.rfind('\n').map_or(0, |i| i + 1);
        let end = after.find('\n').map_or(source.len(), |i| at + i);
        Self {
            line: before.matches('\n').count() + 1,
            column: before[start..].chars().count(),
            text: &source[start..end],
        }
    }
}
