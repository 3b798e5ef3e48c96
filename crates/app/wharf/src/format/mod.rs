//! Templates of `--format`: Go's `text/template` over JSON, as the docker CLI has it.
//!
//! [`Template::parse`] reads a text into a tree, [`Template::render`] walks the tree over a value. The language is that of
//! <https://pkg.go.dev/text/template> with docker's functions, the verbs of `printf` are those of <https://pkg.go.dev/fmt>.
//! Left out, and refused by name: `define`, `template`, `block`, `call`, complex numbers, and of `printf` `*`, `[n]` and
//! the `#` of `%#v` and of floats.
//!
//! JSON knows fewer types than Go, so a value has the type which docker's own structures most likely have for it: a
//! number without a point is an `int`, a list or map of strings alone is a `[]string` or `map[string]string`. Hence
//! `index .Labels "none"` is the empty string. `null` prints as the nil pointer it is with docker.
//!
//! Texts are UTF-8: a part cut out in the middle of a character shows the replacement character.

mod call;
mod compare;
mod escape;
mod eval;
mod floats;
mod functions;
mod lex;
mod literal;
mod parse;
mod sink;
#[cfg(test)]
mod tests;
mod tree;
mod value;
mod verbs;

use std::fmt;

use serde_json::Value as Json;

/// The longest template, in bytes.
const MAX_TEMPLATE: usize = 64 << 10;
/// How deep blocks and parentheses may nest.
const MAX_NESTING: usize = 100;
/// The longest output and the longest text on the way to it, in bytes.
const MAX_TEXT: usize = 64 << 20;
/// The steps of one rendering: commands, rounds of `range`, and 64 bytes that a function looks at.
const MAX_STEPS: u64 = 4_000_000;
/// All texts that functions of one rendering make, in bytes.
const MAX_MADE: usize = 256 << 20;

/// What it means when a template names a key which an object does not have.
#[derive(Clone, Copy, Debug, Default, PartialEq, Eq)]
pub(crate) enum Missing {
    /// An error, as for an unknown field of docker's structures.
    #[default]
    Error,
    /// No value, printed as `<no value>`.
    NoValue,
}

/// A template that has been read.
#[derive(Debug)]
pub(crate) struct Template {
    text: String,
    body: Vec<tree::Statement>,
    missing: Missing,
}

impl Template {
    /// Reads a template; a [`Problem`] says in which line it is wrong.
    pub(crate) fn parse(text: &str) -> Result<Template, Problem> {
        if text.len() > MAX_TEMPLATE {
            return Err(Problem(format!("template: :1: the template is longer than {MAX_TEMPLATE} bytes")));
        }
        let body = parse::parse(text).map_err(Problem)?;
        Ok(Template { text: text.to_owned(), body, missing: Missing::default() })
    }

    /// The same template with another meaning of missing keys.
    pub(crate) fn missing(self, missing: Missing) -> Template {
        Template { missing, ..self }
    }

    /// The text for a value; nothing is added to its end.
    pub(crate) fn render(&self, value: &Json) -> Result<String, Problem> {
        eval::render(self, value).map_err(Problem)
    }
}

/// Why a template cannot be read or rendered, in docker's words.
#[derive(Clone, Debug, PartialEq, Eq)]
pub(crate) struct Problem(String);

impl fmt::Display for Problem {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        write!(f, "template parsing error: {}", self.0)
    }
}

impl std::error::Error for Problem {}
