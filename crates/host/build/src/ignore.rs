//! `.dockerignore` patterns: the later one wins, `!` takes back, `**` crosses folders, a match covers all below it.

use std::path::Path;

use crate::error::{Error, Result};

const MAX_PATTERNS: usize = 10_000;

/// Patterns of paths that are left out.
#[derive(Debug, Clone, Default)]
pub struct Ignore {
    patterns: Vec<Pattern>,
    has_exceptions: bool,
}

#[derive(Debug, Clone)]
struct Pattern {
    exception: bool,
    text: String,
    shape: Shape,
}

#[derive(Debug, Clone)]
enum Shape {
    Exact,
    Prefix(String),
    Suffix(String),
    Parts(Vec<Part>),
}

#[derive(Debug, Clone)]
enum Part {
    Char(char),
    /// One character but `/`.
    Any,
    /// Any within a name.
    Star,
    /// Any number of whole folders.
    Folders,
    /// Anything.
    All,
    Class {
        negated: bool,
        ranges: Vec<(char, char)>,
    },
}

impl Ignore {
    /// Reads the text of a `.dockerignore`.
    pub fn parse(text: &str) -> Result<Self> {
        let text = text.strip_prefix('\u{feff}').unwrap_or(text);
        let lines = text.lines().filter(|line| !line.starts_with('#')).map(str::trim);
        let mut cleaned = Vec::new();
        for line in lines.filter(|line| !line.is_empty()) {
            let (mark, bare) = line.strip_prefix('!').map_or(("", line), |bare| ("!", bare.trim()));
            let bare = if bare.is_empty() { String::new() } else { clean(bare) };
            // A leading slash means the context's root, as everything does.
            let bare = bare.strip_prefix('/').filter(|rest| !rest.is_empty()).unwrap_or(&bare);
            cleaned.push(format!("{mark}{bare}"));
        }
        Self::of(cleaned.iter().map(String::as_str))
    }

    /// Patterns as they are given to `COPY --exclude`.
    pub fn of<'a>(patterns: impl IntoIterator<Item = &'a str>) -> Result<Self> {
        let mut ignore = Self::default();
        for text in patterns {
            let text = text.trim();
            if text.is_empty() {
                continue;
            }
            let (exception, text) = text.strip_prefix('!').map_or((false, text), |text| (true, text));
            if text.is_empty() {
                return Err(Error::invalid("the pattern '!' names nothing").hint("write a path after '!'"));
            }
            let text = clean(text);
            let shape = compile(&text)?;
            ignore.has_exceptions |= exception;
            ignore.patterns.push(Pattern { exception, text, shape });
            if ignore.patterns.len() > MAX_PATTERNS {
                return Err(Error::invalid(format!("there are more than {MAX_PATTERNS} patterns")));
            }
        }
        Ok(ignore)
    }

    /// Whether some pattern takes files back.
    pub(crate) fn has_exceptions(&self) -> bool {
        self.has_exceptions
    }

    /// Whether a pattern leaves everything out.
    pub(crate) fn leaves_nothing(&self) -> bool {
        self.patterns.iter().any(|p| !p.exception && matches!(p.text.as_str(), "*" | "**" | "**/*"))
    }

    /// Whether there is nothing to leave out.
    pub fn is_empty(&self) -> bool {
        self.patterns.is_empty()
    }

    /// Whether the file or folder at `path` is left out, by its own name or by one of the folders it is in.
    pub fn is_ignored(&self, path: &Path) -> bool {
        let path = path.to_string_lossy();
        if path.is_empty() || path == "." {
            return false;
        }
        let mut ignored = false;
        for pattern in &self.patterns {
            if pattern.exception == ignored && pattern.covers(&path) {
                ignored = !pattern.exception;
            }
        }
        ignored
    }

    /// Whether something below the ignored folder `path` may still be wanted.
    pub fn may_want_below(&self, path: &Path) -> bool {
        let below = format!("{}/", path.to_string_lossy());
        self.has_exceptions
            && self.patterns.iter().filter(|pattern| pattern.exception).any(|pattern| {
                let fixed: String = match pattern.text.find(['*', '?', '[', '\\']) {
                    Some(cut) => pattern.text.get(..cut).unwrap_or("").to_owned(),
                    None => format!("{}/", pattern.text),
                };
                fixed.starts_with(&below) || below.starts_with(&fixed)
            })
    }
}

impl Pattern {
    fn covers(&self, path: &str) -> bool {
        let parents = path.match_indices('/').filter_map(|(cut, _)| path.get(..cut));
        self.matches(path) || parents.into_iter().any(|parent| self.matches(parent))
    }

    fn matches(&self, path: &str) -> bool {
        match &self.shape {
            Shape::Exact => path == self.text,
            Shape::Prefix(prefix) => path.starts_with(prefix),
            Shape::Suffix(suffix) => {
                path.ends_with(suffix) || suffix.strip_prefix('/').is_some_and(|name| path == name)
            }
            Shape::Parts(parts) => parts_match(parts, path),
        }
    }
}

fn compile(text: &str) -> Result<Shape> {
    let mut parts = Vec::new();
    let mut found = Found::Plain;
    let mut chars = text.chars().peekable();
    let mut is_first = true;
    while let Some(c) = chars.next() {
        let part = match c {
            '*' if chars.next_if_eq(&'*').is_some() => {
                chars.next_if_eq(&'/');
                let at_end = chars.peek().is_none();
                found = match found {
                    _ if is_first => Found::LeadingStars,
                    Found::Plain if at_end => Found::TrailingStars,
                    _ => Found::Wild,
                };
                if at_end { Part::All } else { Part::Folders }
            }
            '\\' => {
                found = Found::Wild;
                let escaped = chars.next();
                Part::Char(
                    escaped
                        .ok_or_else(|| Error::invalid(format!("the pattern '{text}' ends with a '\\'")))?,
                )
            }
            '*' | '?' | '[' => {
                found = Found::Wild;
                match c {
                    '*' => Part::Star,
                    '?' => Part::Any,
                    _ => class(&mut chars).ok_or_else(|| {
                        Error::invalid(format!("the pattern '{text}' has a '[' that is not closed"))
                            .hint("write '\\[' for the character itself")
                    })?,
                }
            }
            c => Part::Char(c),
        };
        parts.push(part);
        is_first = false;
    }
    Ok(match found {
        Found::Plain => Shape::Exact,
        Found::TrailingStars => {
            Shape::Prefix(text.trim_end_matches('/').strip_suffix("**").unwrap_or(text).to_owned())
        }
        Found::LeadingStars => Shape::Suffix(text.get(2..).unwrap_or("").to_owned()),
        Found::Wild => Shape::Parts(parts),
    })
}

/// What a pattern has in it so far. `**` at the very start and at the very end are compared as plain text.
enum Found {
    Plain,
    LeadingStars,
    TrailingStars,
    Wild,
}

fn class(chars: &mut std::iter::Peekable<std::str::Chars<'_>>) -> Option<Part> {
    let negated = chars.next_if_eq(&'^').is_some();
    let mut ranges = Vec::new();
    loop {
        let mut low = chars.next()?;
        if low == ']' && !ranges.is_empty() {
            return Some(Part::Class { negated, ranges });
        }
        if low == '\\' {
            low = chars.next()?;
        }
        let mut high = low;
        if chars.next_if_eq(&'-').is_some() {
            high = chars.next()?;
            if high == '\\' {
                high = chars.next()?;
            }
        }
        ranges.push((low, high));
    }
}

/// Follows every way to match at once: time is linear in the product of both lengths.
fn parts_match(parts: &[Part], path: &str) -> bool {
    let path: Vec<char> = path.chars().collect();
    let mut at = vec![0];
    for part in parts {
        let step = |one: &dyn Fn(char) -> bool| -> Vec<usize> {
            at.iter().filter(|i| path.get(**i).is_some_and(|c| one(*c))).map(|i| i + 1).collect()
        };
        at = match part {
            Part::Char(wanted) => step(&|c| c == *wanted),
            Part::Any => step(&|c| c != '/'),
            Part::Class { negated, ranges } => {
                step(&|c| ranges.iter().any(|(low, high)| (*low..=*high).contains(&c)) != *negated)
            }
            Part::All => at.first().map_or(Vec::new(), |first| (*first..=path.len()).collect()),
            Part::Star => {
                let mut ends = Vec::new();
                let mut reach = None;
                for i in 0..=path.len() {
                    if at.binary_search(&i).is_ok() {
                        reach = Some(());
                    }
                    if reach.is_some() {
                        ends.push(i);
                    }
                    if path.get(i) == Some(&'/') {
                        reach = None;
                    }
                }
                ends
            }
            Part::Folders => {
                let first = at.first().copied().unwrap_or(path.len());
                (0..=path.len())
                    .filter(|i| {
                        at.binary_search(i).is_ok()
                            || (*i > first && path.get(i.wrapping_sub(1)) == Some(&'/'))
                    })
                    .collect()
            }
        };
        if at.is_empty() {
            return false;
        }
    }
    at.last() == Some(&path.len())
}

/// The shortest path that means the same, by its text alone.
pub(crate) fn clean(path: &str) -> String {
    let rooted = path.starts_with('/');
    let mut parts: Vec<&str> = Vec::new();
    for part in path.split('/') {
        match part {
            "" | "." => {}
            ".." if parts.last().is_some_and(|last| *last != "..") => drop(parts.pop()),
            ".." if rooted => {}
            part => parts.push(part),
        }
    }
    let joined = parts.join("/");
    match (rooted, joined.is_empty()) {
        (true, _) => format!("/{joined}"),
        (false, true) => ".".into(),
        (false, false) => joined,
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn decides_as_docker_does() {
        for (patterns, path, expect) in [
            ("a", "a", true),
            ("a", "a/b/c", true),
            ("a", "b/a", false),
            ("/a", "a", true),
            ("a/", "a/b", true),
            ("./a/../b", "b", true),
            ("*", "a/b", true),
            ("*.md", "x.md", true),
            ("*.md", "d/x.md", false),
            ("**/*.md", "d/e/x.md", true),
            ("**/*.md", "x.md", true),
            ("*/temp*", "s/temporary.txt", true),
            ("*/temp*", "s/t/temporary.txt", false),
            ("temp?", "tempa/x", true),
            ("temp?", "temp/x", false),
            ("**", "a/b", true),
            ("a/**", "a/b/c", true),
            ("a/**", "a", false),
            ("a/**/b", "a/b", true),
            ("a/**/b", "a/x/y/b", true),
            ("a/**/b", "a/xb", false),
            ("**/foo", "foo", true),
            ("**/foo", "x/foo", true),
            ("**/foo", "x/foo/y", true),
            ("**/foo", "xfoo", false),
            ("**foo", "xfoo", true),
            ("**/**", "a/b", true),
            ("a**/b*", "axx/y/bc", true),
            ("a[bc]d", "acd", true),
            ("a[^bc]d", "acd", false),
            ("a[a-c]", "ab", true),
            ("a\\*", "a*", true),
            ("a\\*", "ab", false),
            ("a.b", "axb", false),
            ("*\n!x", "x/y", false),
            ("*\n!x", "y", true),
            ("*\n!x\nx/y", "x/y", true),
            ("*\n!x\nx/y", "x/z", false),
            ("# a\n  b  ", "a", false),
            ("# a\n  b  ", "b", true),
            ("**/*.pyc\n!keep.pyc", "d/a.pyc", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README-secret.md", true),
            ("*.md\n!README*.md\nREADME-secret.md", "README-x.md", false),
            ("x/*\n!x/y", "x/y/z", false),
            ("", "a", false),
            (".", "a", false),
        ] {
            let ignore = Ignore::parse(patterns).unwrap();
            assert_eq!(ignore.is_ignored(Path::new(path)), expect, "{patterns:?} on {path}");
        }
        assert!(Ignore::parse("!").is_err());
        assert!(Ignore::parse("a[b").is_err());
        assert!(Ignore::parse("a\\").is_err());
    }

    #[test]
    fn knows_where_exceptions_may_lie() {
        let ignore = Ignore::parse("*\n!a/b/c\n!d/*.x").unwrap();
        for (path, expect) in [("a", true), ("a/b", true), ("a/b/c/d", true), ("e", false), ("d", true)] {
            assert_eq!(ignore.may_want_below(Path::new(path)), expect, "{path}");
        }
        assert!(!Ignore::parse("*").unwrap().may_want_below(Path::new("a")));
    }

    #[test]
    fn stays_fast_on_hostile_patterns() {
        let ignore = Ignore::parse(&"*a".repeat(200)).unwrap();
        assert!(!ignore.is_ignored(Path::new(&"a".repeat(150))));
    }
}
