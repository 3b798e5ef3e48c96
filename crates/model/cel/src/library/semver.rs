//! Semantic versions: Kubernetes' `pkg/cel/library/semverlib.go`, version 1 (semver.org, 2.0.0).

use std::{cmp::Ordering, fmt, sync::Arc};

use super::{Outcome, Row, no_overload};
use crate::{error::EvalError, value::Value};

pub(super) const ROWS: &[Row] = &[
    ("semver", "string_to_semver", "(string) -> semver", semver),
    ("semver", "string_bool_to_semver", "(string, bool) -> semver", semver),
    ("isSemver", "is_semver_string", "(string) -> bool", is_semver),
    ("isSemver", "is_semver_string_bool", "(string, bool) -> bool", is_semver),
    ("isGreaterThan", "semver_is_greater_than", "semver.(semver) -> bool", |a| {
        Ok(Value::Bool(order(a)?.is_gt()))
    }),
    ("isLessThan", "semver_is_less_than", "semver.(semver) -> bool", |a| Ok(Value::Bool(order(a)?.is_lt()))),
    ("compareTo", "semver_compare_to", "semver.(semver) -> int", |a| Ok(Value::Int(order(a)? as i64))),
    ("major", "semver_major", "semver.() -> int", |a| number(a, 0)),
    ("minor", "semver_minor", "semver.() -> int", |a| number(a, 1)),
    ("patch", "semver_patch", "semver.() -> int", |a| number(a, 2)),
];

/// A version.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct Semver {
    numbers: [u64; 3],
    pre: Vec<String>,
    build: Vec<String>,
}

impl Semver {
    fn parse(text: &str) -> Result<Self, String> {
        let (text, build) = text.split_once('+').map_or((text, None), |(text, build)| (text, Some(build)));
        let (core, pre) = text.split_once('-').map_or((text, None), |(core, pre)| (core, Some(pre)));
        let parts: Vec<&str> = core.split('.').collect();
        let [major, minor, patch] = parts.as_slice() else {
            return Err("No Major.Minor.Patch elements found".to_owned());
        };
        let numbers = [numeral(major, "Major")?, numeral(minor, "Minor")?, numeral(patch, "Patch")?];
        let names = |text: Option<&str>, strict: bool| -> Result<Vec<String>, String> {
            let parts = text.map(|text| text.split('.')).into_iter().flatten();
            parts.map(|part| name(part, strict)).collect()
        };
        Ok(Self { numbers, pre: names(pre, true)?, build: names(build, false)? })
    }

    /// The order of semver.org, chapter 11: what was built does not count.
    pub(crate) fn precedence(&self, other: &Self) -> Ordering {
        let released = |v: &Self| v.pre.is_empty();
        self.numbers.cmp(&other.numbers).then_with(|| match (released(self), released(other)) {
            (true, false) => Ordering::Greater,
            (false, true) => Ordering::Less,
            _ => {
                let pairs = self.pre.iter().zip(&other.pre).map(|(a, b)| name_order(a, b));
                pairs.fold(Ordering::Equal, Ordering::then).then(self.pre.len().cmp(&other.pre.len()))
            }
        })
    }
}

impl fmt::Display for Semver {
    fn fmt(&self, f: &mut fmt::Formatter<'_>) -> fmt::Result {
        let [major, minor, patch] = self.numbers;
        write!(f, "{major}.{minor}.{patch}")?;
        for (sign, names) in [("-", &self.pre), ("+", &self.build)] {
            if !names.is_empty() {
                write!(f, "{sign}{}", names.join("."))?;
            }
        }
        Ok(())
    }
}

fn numeral(text: &str, what: &str) -> Result<u64, String> {
    if text.is_empty() || !text.bytes().all(|b| b.is_ascii_digit()) {
        return Err(format!("Invalid character(s) found in {} number {text:?}", what.to_lowercase()));
    }
    if text.len() > 1 && text.starts_with('0') {
        return Err(format!("{what} number must not contain leading zeroes {text:?}"));
    }
    text.parse().map_err(|_| format!("{what} number {text:?} is too large"))
}

fn name(text: &str, strict: bool) -> Result<String, String> {
    if text.is_empty() {
        return Err("Prerelease is empty".to_owned());
    }
    if !text.bytes().all(|b| b.is_ascii_alphanumeric() || b == b'-') {
        return Err(format!("Invalid character(s) found in prerelease {text:?}"));
    }
    let zeroes = text.len() > 1 && text.starts_with('0') && text.bytes().all(|b| b.is_ascii_digit());
    if strict && zeroes {
        return Err(format!("Numeric PreRelease version must not contain leading zeroes {text:?}"));
    }
    Ok(text.to_owned())
}

/// Numbers by their value and before names, names by their letters.
fn name_order(a: &str, b: &str) -> Ordering {
    let number = |text: &str| text.bytes().all(|b| b.is_ascii_digit());
    match (number(a), number(b)) {
        (true, true) => a.len().cmp(&b.len()).then(a.cmp(b)),
        (true, false) => Ordering::Less,
        (false, true) => Ordering::Greater,
        (false, false) => a.cmp(b),
    }
}

/// `v1.02` to `1.2.0`.
fn normalized(text: &str) -> Result<String, String> {
    let text = text.strip_prefix('v').unwrap_or(text);
    let mut parts: Vec<String> = text.splitn(3, '.').map(without_zeroes).collect();
    if parts.len() < 3 && parts.last().is_some_and(|last| last.contains(['+', '-'])) {
        return Err("short version cannot contain PreRelease/Build meta data".to_owned());
    }
    parts.resize(3, "0".to_owned());
    Ok(parts.join("."))
}

fn without_zeroes(part: &str) -> String {
    if part.len() < 2 {
        return part.to_owned();
    }
    let trimmed = part.trim_start_matches('0');
    let digit = trimmed.starts_with(|c: char| c.is_ascii_digit());
    if digit { trimmed.to_owned() } else { format!("0{trimmed}") }
}

fn parsed(args: &[Value<'_>]) -> Option<Result<Semver, String>> {
    match args {
        [Value::String(text)] | [Value::String(text), Value::Bool(false)] => Some(Semver::parse(text)),
        [Value::String(text), Value::Bool(true)] => {
            Some(normalized(text).and_then(|text| Semver::parse(&text)))
        }
        _ => None,
    }
}

fn semver<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    match parsed(args) {
        Some(version) => version.map(|v| Value::Semver(Arc::new(v))).map_err(EvalError::new),
        None => no_overload(),
    }
}

fn is_semver<'a>(args: &[Value<'a>]) -> Outcome<'a> {
    parsed(args).map_or_else(no_overload, |version| Ok(Value::Bool(version.is_ok())))
}

fn order(args: &[Value<'_>]) -> Result<Ordering, EvalError> {
    match args {
        [Value::Semver(a), Value::Semver(b)] => Ok(a.precedence(b)),
        _ => Err(EvalError::no_such_overload()),
    }
}

fn number<'a>(args: &[Value<'a>], which: usize) -> Outcome<'a> {
    match args {
        [Value::Semver(version)] => {
            let number = version.numbers.get(which).copied().unwrap_or_default();
            Ok(Value::Int(i64::try_from(number).unwrap_or(i64::MAX)))
        }
        _ => no_overload(),
    }
}
