//! Regular expressions in RE2's syntax: `matches` of the language, Kubernetes' `find` and `findAll`.
//!
//! The `regex` crate is of RE2's family, so that matching takes time linear in the text. What the two
//! read differently is written anew before it is compiled: `\d`, `\w`, `\s` and `\b` know only ASCII
//! in RE2, `\Q..\E` quotes, and within `[..]` there are no operations on classes.

use std::collections::HashMap;

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
const SIZE_LIMIT: usize = 10 << 20;
/// Before that is known they are trees, which this keeps small: the longest pattern, in bytes,
const LONGEST_PATTERN: usize = 512 << 10;
/// and the most classes of Unicode in it, each of which may be hundreds of ranges.
const MOST_CLASSES: usize = 5000;

fn fresh<'a>(function: &str, args: &[Value<'a>]) -> Outcome<'a> {
    let Some(Value::String(pattern)) = args.get(1) else { return no_overload() };
    let compiled = compile(pattern).map_err(EvalError::new)?;
    run(&compiled, function, args)
}

/// Compiles a pattern, or says what is wrong with it.
pub(crate) fn compile(pattern: &str) -> Result<regex::Regex, String> {
    let classes = || pattern.matches(r"\p").count() + pattern.matches(r"\P").count();
    if pattern.len() > LONGEST_PATTERN || classes() > MOST_CLASSES {
        return Err("error parsing regexp: expression too large".to_owned());
    }
    let translated = translate(pattern)?;
    let built = regex::RegexBuilder::new(&translated).size_limit(SIZE_LIMIT).build();
    built.map_err(|error| fault(pattern, &error.to_string()))
}

/// Patterns of a program. So many are kept compiled, the others are compiled when they are used: each may
/// take megabytes.
const MOST_PATTERNS: usize = 100;

/// Constant patterns, each tried once however many calls it is in.
#[derive(Debug, Default)]
pub(crate) struct Patterns {
    known: HashMap<String, Result<Option<regex::Regex>, String>>,
    kept: usize,
}

impl Patterns {
    /// The compiled pattern, unless there are too many to keep it.
    pub(crate) fn compile(&mut self, pattern: &str) -> Result<Option<regex::Regex>, String> {
        if let Some(known) = self.known.get(pattern) {
            return known.clone();
        }
        let room = self.kept < MOST_PATTERNS;
        let compiled = compile(pattern).map(|compiled| room.then_some(compiled));
        self.kept += usize::from(matches!(compiled, Ok(Some(_))));
        self.known.insert(pattern.to_owned(), compiled.clone());
        compiled
    }
}

/// Patterns an evaluation finds, which are kept compiled as long as they are not too many.
#[derive(Debug, Default)]
pub(crate) struct Found {
    compiled: HashMap<String, regex::Regex>,
    count: usize,
}

/// So many times an evaluation may compile a pattern: short ones cost little and may take long.
const MOST_COMPILATIONS: usize = 1000;

impl Found {
    /// The compiled pattern.
    pub(crate) fn compile(&mut self, pattern: &str) -> Result<&regex::Regex, EvalError> {
        if !self.compiled.contains_key(pattern) {
            self.count += 1;
            if self.count > MOST_COMPILATIONS {
                return Err(EvalError::cost_limit());
            }
            if self.compiled.len() >= MOST_PATTERNS {
                self.compiled.clear();
            }
            self.compiled.insert(pattern.to_owned(), compile(pattern).map_err(EvalError::new)?);
        }
        self.compiled.get(pattern).ok_or_else(EvalError::cost_limit)
    }
}

/// The fault as Go names it; the crate's own words go with a picture of the pattern.
fn fault(pattern: &str, error: &str) -> String {
    const FAULTS: [(&str, &str); 6] = [
        ("unopened group", "unexpected )"),
        ("unclosed group", "missing closing )"),
        ("unclosed character class", "missing closing ]"),
        ("repetition operator missing expression", "missing argument to repetition operator"),
        ("invalid character class range", "invalid character class range"),
        ("look-around", "invalid or unsupported Perl syntax"),
    ];
    let known = FAULTS.into_iter().find(|(ours, _)| error.contains(ours));
    let what = known.map_or("invalid escape sequence or group", |(_, theirs)| theirs);
    format!("error parsing regexp: {what}: `{pattern}`")
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

/// Where in a class the translation is: a dash is a sign only between the ends of a range. The crate takes two
/// of them for an operation on classes, and in RE2 the second may be the end.
#[derive(Clone, Copy, PartialEq)]
enum Class {
    Outside,
    /// What comes begins something new.
    Next,
    /// A character may be the beginning of a range.
    Low,
    /// The end of a range follows.
    High,
}

impl Class {
    fn after_character(self) -> Self {
        match self {
            Self::Outside => Self::Outside,
            Self::High => Self::Next,
            Self::Next | Self::Low => Self::Low,
        }
    }
}

/// The pattern as the crate reads it.
fn translate(pattern: &str) -> Result<String, String> {
    let mut out = String::with_capacity(pattern.len() + 16);
    let mut rest = pattern;
    let mut place = Class::Outside;
    let mut repeated = false;
    let mut repeats = Repeats::default();
    let last_named = pattern.rfind(":]");
    while let Some(c) = rest.chars().next() {
        let class = place != Class::Outside;
        if let Some(len) = repetition(rest).filter(|_| !class) {
            let operator = &rest[..len];
            if !repeats.repeat(operator) {
                return Err(format!("error parsing regexp: invalid repeat count: `{operator}`"));
            }
            if repeated {
                return Err(format!(
                    "error parsing regexp: invalid nested repetition operator: `{operator}`"
                ));
            }
            out.push_str(operator);
            repeated = true;
            rest = &rest[len..];
            continue;
        }
        repeated = false;
        if !class {
            repeats.next(c);
        }
        let taken = match c {
            '\\' => {
                let set = rest[1..].starts_with(['d', 'D', 'w', 'W', 's', 'S', 'p', 'P']);
                if set && place == Class::High {
                    let escape: String = rest.chars().take(2).collect();
                    return Err(format!("error parsing regexp: invalid escape sequence: `{escape}`"));
                }
                place = if set && class { Class::Next } else { place.after_character() };
                escape(rest, class, &mut out)
            }
            '[' if !class => {
                let taken = open_class(rest, &mut out);
                place = if rest[..taken].ends_with(']') { Class::Low } else { Class::Next };
                taken
            }
            '[' => {
                let name = pattern.len() - rest.len() + 2;
                let closed = place != Class::High && last_named.is_some_and(|end| end >= name);
                let taken = in_class(rest, closed, &mut out)?;
                place = if taken > 1 { Class::Next } else { place.after_character() };
                taken
            }
            ']' if class => {
                place = Class::Outside;
                out.push(c);
                1
            }
            '-' if place == Class::Low && !rest[1..].starts_with(']') => {
                place = Class::High;
                out.push(c);
                1
            }
            '-' | '&' | '~' if class => {
                place = place.after_character();
                out.extend(['\\', c]);
                1
            }
            // What is no repetition is a brace.
            '{' | '}' if !class => {
                out.extend(['\\', c]);
                1
            }
            c => {
                place = place.after_character();
                out.push(c);
                c.len_utf8()
            }
        };
        rest = rest.get(taken..).unwrap_or_default();
    }
    Ok(out)
}

/// How often what is in parentheses is repeated: RE2 allows a thousand times, all levels multiplied.
#[derive(Default)]
struct Repeats {
    /// The most within each open group.
    open: Vec<u64>,
    /// The most in the innermost group, and that of what came last.
    here: u64,
    last: u64,
}

impl Repeats {
    fn next(&mut self, c: char) {
        match c {
            '(' => {
                self.open.push(self.here);
                (self.here, self.last) = (0, 0);
            }
            ')' => {
                self.last = self.here;
                self.here = self.here.max(self.open.pop().unwrap_or_default());
            }
            _ => self.last = 0,
        }
    }

    /// False when it becomes too much.
    fn repeat(&mut self, operator: &str) -> bool {
        let numbers = operator.split(|c: char| !c.is_ascii_digit()).filter(|digits| !digits.is_empty());
        let most = numbers.map(|digits| digits.parse().unwrap_or(u64::MAX)).max();
        let Some(most) = most else { return true };
        self.last = self.last.max(1).saturating_mul(most);
        self.here = self.here.max(self.last);
        self.last <= 1000
    }
}

/// The length of `*`, `+`, `?` or `{2,3}` here, with the `?` that makes it lazy.
fn repetition(rest: &str) -> Option<usize> {
    let len = if rest.starts_with(['*', '+', '?']) { 1 } else { counted(rest)? };
    Some(len + usize::from(rest[len..].starts_with('?')))
}

fn counted(rest: &str) -> Option<usize> {
    let inner = rest.strip_prefix('{')?;
    let least = digits(inner);
    let mut end = least;
    if inner[end..].starts_with(',') {
        end += 1 + digits(&inner[end + 1..]);
    }
    (least > 0 && inner[end..].starts_with('}')).then_some(end + 2)
}

/// How many digits it begins with.
fn digits(text: &str) -> usize {
    text.bytes().take_while(u8::is_ascii_digit).count()
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

/// `[:alpha:]` stays, any other bracket is an element unless it begins a name that is none. Its end is not
/// looked for here (`closed` tells whether there is one anywhere): a pattern may be nothing but brackets.
fn in_class(rest: &str, closed: bool, out: &mut String) -> Result<usize, String> {
    let Some(name) = rest.strip_prefix("[:").filter(|_| closed) else {
        out.push_str("\\[");
        return Ok(1);
    };
    let negated = usize::from(name.starts_with('^'));
    let end = negated + name[negated..].bytes().take_while(u8::is_ascii_lowercase).count();
    if !name[end..].starts_with(":]") {
        let named = name.split_once(":]").map_or(name, |(named, _)| named);
        return Err(format!("error parsing regexp: invalid character class range: `[:{named}:]`"));
    }
    let taken = &rest[..2 + end + 2];
    out.push_str(taken);
    Ok(taken.len())
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
        ('Q', false) => {
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
        ('p' | 'P' | 'x', _) if rest[2..].starts_with('{') => {
            let end = rest.find('}').map_or(rest.len(), |end| end + 1);
            out.push_str(&rest[..end]);
            return end;
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
    use super::{Found, MOST_COMPILATIONS, MOST_PATTERNS, Patterns, compile, translate};

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
            ("^a{b}$", "a{b}", true),
            ("^a{2,3}?$", "aa", true),
            ("^(a{10}){10}(b{10}){100}$", "a", false),
            ("^\\pL{2}$", "\u{e9}\u{e9}", true),
            ("^\\p{L}\\x{41}$", "aA", true),
            ("^[[:^digit:][:punct:]]$", "a", true),
            ("^[[:]$", ":", true),
            // Dashes as ends of ranges.
            ("^[+--]$", ",", true),
            ("^[+--]$", "+", true),
            ("^[+--]$", ".", false),
            ("^[--/]$", ".", true),
            ("^[---]$", "-", true),
            ("^[a-c--/]$", ".", true),
            ("^[\\d--/]$", ".", true),
            ("^[]-a]$", "_", true),
            ("^[a-]$", "-", true),
            ("^[^-a]$", "-", false),
            ("^[a-c-e]$", "d", false),
            ("^[+-[]$", "A", true),
            ("^a--b$", "a--b", true),
            ("^[x[:a]$", "[", true),
            ("^a{2,}$", "aaa", true),
            ("^a{,2}$", "a{,2}", true),
            ("^a{1,2$", "a{1,2", true),
        ] {
            let compiled = compile(pattern).expect(pattern);
            assert_eq!(compiled.is_match(text), expect, "{pattern} ({:?}) on {text}", translate(pattern));
        }
        for (pattern, expect) in [
            ("(", "missing closing )"),
            (")", "unexpected ): `)`"),
            ("x{1001}", "invalid repeat count: `{1001}`"),
            ("((x{10}){10}y){11}", "invalid repeat count: `{11}`"),
            ("x++", "invalid nested repetition operator: `+`"),
            ("(?=a)", "invalid or unsupported Perl syntax"),
            ("\\1", "invalid escape"),
            ("[a", "missing closing ]"),
            ("[+-\\d]", "invalid escape sequence: `\\d`"),
            ("[\\b]", "invalid escape"),
            ("[\\Qa\\E]", "invalid escape"),
            ("[b-a]", "invalid character class range"),
            ("[a--]", "invalid character class range"),
            ("[[:a b:]]", "invalid character class range: `[:a b:]`"),
            ("*", "missing argument to repetition operator"),
        ] {
            let error = compile(pattern).expect_err(pattern);
            assert!(error.contains(expect), "{pattern}: {error}");
        }
    }

    #[test]
    fn patterns_of_a_program_are_compiled_once_and_not_all_kept() {
        let mut patterns = Patterns::default();
        for n in 0..2 * MOST_PATTERNS {
            let kept = patterns.compile(&format!("^a{n}$")).expect("an expression").is_some();
            assert_eq!(kept, n < MOST_PATTERNS);
            assert!(patterns.compile("^a0$").expect("an expression").is_some());
        }
        assert_eq!(patterns.kept, MOST_PATTERNS);
    }

    #[test]
    fn patterns_of_an_evaluation_are_counted() {
        let mut found = Found::default();
        for n in 0..MOST_COMPILATIONS {
            assert!(found.compile(&format!("^a{n}$")).is_ok() && found.compile(&format!("^a{n}$")).is_ok());
            assert!(found.compiled.len() <= MOST_PATTERNS);
        }
        assert!(found.compile("^b$").is_err());
    }

    /// Whoever writes an object may choose a pattern as long as a request.
    #[test]
    fn long_patterns_take_little_time() {
        let started = std::time::Instant::now();
        for part in ["{", "{1", "{1,", "[[", "[[:", "[[:a", "\\p{", "\\Q"] {
            let _ = translate(&part.repeat((3 << 20) / part.len()));
        }
        let _ = translate(&format!("[{}:]", "[:".repeat(1 << 20)));
        for part in ["\\pL", ".", "(?i:a)"] {
            let error = compile(&part.repeat((3 << 20) / part.len())).expect_err(part);
            assert_eq!(error, "error parsing regexp: expression too large");
        }
        assert!(started.elapsed().as_secs() < 120, "{:?}", started.elapsed());
    }
}
