//! Regular expressions in RE2's syntax: `matches` of the language, Kubernetes' `find` and `findAll`.
//!
//! The `regex` crate is of RE2's family, so that matching takes time linear in the text. What the two
//! read differently is written anew before it is compiled: `\d`, `\w`, `\s` and `\b` know only ASCII
//! in RE2, `\Q..\E` quotes, and within `[..]` there are no operations on classes.

use super::{Outcome, Row, no_overload};
use crate::{error::EvalError, value::Value};

pub(super) const ROWS: &[Row] = &[
    ("matches", "matches", "(string, string) -> bool", |args| fresh("matches", args)),
    ("matches", "matches_string", "string.(string) -> bool", |args| fresh("matches", args)),
    ("find", "string_find_string", "string.(string) -> string", |args| fresh("find", args)),
    ("findAll", "string_find_all_string", "string.(string) -> list(string)", |args| fresh("findAll", args)),
    ("findAll", "string_find_all_string_int", "string.(string, int) -> list(string)", |args| {
        fresh("findAll", args)
    }),
];

/// Compiled expressions may take this much memory, in bytes.
const SIZE_LIMIT: usize = 2 << 20;

fn fresh<'a>(function: &str, args: &[Value<'a>]) -> Outcome<'a> {
    let Some(Value::String(pattern)) = args.get(1) else { return no_overload() };
    let compiled = compile(pattern).map_err(EvalError::new)?;
    run(&compiled, function, args)
}

/// Compiles a pattern, or says what is wrong with it.
pub(crate) fn compile(pattern: &str) -> Result<regex::Regex, String> {
    let translated = translate(pattern);
    let built = regex::RegexBuilder::new(&translated).size_limit(SIZE_LIMIT).build();
    built.map_err(|_| format!("error parsing regexp: `{pattern}`"))
}

/// Applies a compiled pattern.
pub(crate) fn run<'a>(compiled: &regex::Regex, function: &str, args: &[Value<'a>]) -> Outcome<'a> {
    match (function, args) {
        ("matches", [Value::String(text), _]) => Ok(Value::Bool(compiled.is_match(text))),
        ("find", [Value::String(text), _]) => {
            Ok(Value::string(compiled.find(text).map_or("", |found| found.as_str())))
        }
        ("findAll", [Value::String(text), _]) => Ok(all(compiled, text, usize::MAX)),
        ("findAll", [Value::String(text), _, Value::Int(n)]) => {
            Ok(all(compiled, text, usize::try_from(*n).unwrap_or(usize::MAX)))
        }
        _ => no_overload(),
    }
}

fn all<'a>(compiled: &regex::Regex, text: &str, limit: usize) -> Value<'a> {
    let found = compiled.find_iter(text).take(limit);
    Value::list(found.map(|found| Value::string(found.as_str())).collect())
}

/// The pattern as the crate reads it.
fn translate(pattern: &str) -> String {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut class = false;
    while let Some(c) = rest.chars().next() {
        let taken = match c {
            '\\' => escape(rest, class, &mut out),
            '[' if !class => {
                class = true;
                open_class(rest, &mut out)
            }
            '[' => in_class(rest, &mut out),
            ']' if class => {
                class = false;
                out.push(c);
                1
            }
            '&' | '~' if class => {
                out.extend(['\\', c]);
                1
            }
            c => {
                out.push(c);
                c.len_utf8()
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    out
}

/// `[`, `[^`, and a `]` right after it, which is an element.
fn open_class(rest: &str, out: &mut String) -> usize {
    let mut taken = 1;
    out.push('[');
    if rest[taken..].starts_with('^') {
        out.push('^');
        taken += 1;
    }
    if rest[taken..].starts_with(']') {
        out.push_str("\\]");
        taken += 1;
    }
    taken
}

/// `[:alpha:]` stays, any other bracket is an element.
fn in_class(rest: &str, out: &mut String) -> usize {
    match rest.find(":]").filter(|_| rest.starts_with("[:")) {
        Some(end) => {
            out.push_str(&rest[..end + 2]);
            end + 2
        }
        None => {
            out.push_str("\\[");
            1
        }
    }
}

fn escape(rest: &str, class: bool, out: &mut String) -> usize {
    let Some(c) = rest.chars().nth(1) else {
        out.push('\\');
        return 1;
    };
    let ascii = match (c, class) {
        ('d', false) => "[0-9]",
        ('d', true) => "0-9",
        ('D', _) => "[^0-9]",
        ('w', false) => "[0-9A-Za-z_]",
        ('w', true) => "0-9A-Za-z_",
        ('W', _) => "[^0-9A-Za-z_]",
        ('s', false) => "[\\t\\n\\f\\r ]",
        ('s', true) => "\\t\\n\\f\\r ",
        ('S', _) => "[^\\t\\n\\f\\r ]",
        ('b', false) => "(?-u:\\b)",
        ('B', false) => "(?-u:\\B)",
        ('Q', _) => {
            let quoted = &rest[2..];
            let end = quoted.find("\\E").unwrap_or(quoted.len());
            out.push_str(&regex::escape(&quoted[..end]));
            return 2 + (end + 2).min(quoted.len());
        }
        // RE2 has no names for lengths of code points, the crate has: `\<` and `\>` are words' ends there.
        ('<' | '>', _) => {
            out.push(c);
            return 2;
        }
        _ => {
            out.extend(['\\', c]);
            return 1 + c.len_utf8();
        }
    };
    out.push_str(ascii);
    2
}

#[cfg(test)]
mod tests {
    use super::{compile, translate};

    #[test]
    fn patterns_mean_what_they_mean_in_re2() {
        for (pattern, text, expect) in [
            ("^\\d+$", "123", true),
            ("^\\d$", "\u{663}", false),
            ("^\\w$", "\u{e9}", false),
            ("^\\pL$", "\u{e9}", true),
            ("^\\p{Greek}$", "\u{3b1}", true),
            ("^[[:alpha:]]+$", "abc", true),
            ("^[a[b]$", "[", true),
            ("^[]a]$", "]", true),
            ("^[&&~~]$", "&", true),
            ("^\\Qa.b\\E$", "a.b", true),
            ("^\\Qa.b\\E$", "axb", false),
            ("(?i)^ABC$", "abc", true),
            ("^(?P<x>a)\\z", "a", true),
            ("\\bfoo\\b", "a foo b", true),
            ("^[\\d\\s]+$", "1 2", true),
        ] {
            let compiled = compile(pattern).expect(pattern);
            assert_eq!(compiled.is_match(text), expect, "{pattern} ({}) on {text}", translate(pattern));
        }
        for pattern in ["(", "a**b)", "(?=a)", "\\1", "[a"] {
            assert!(compile(pattern).is_err(), "{pattern}");
        }
    }
}
