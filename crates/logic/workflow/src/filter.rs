//! Which pushes start a workflow: branches, tags and changed paths by patterns.

use regex_lite::Regex;

/// `on.push`.
#[derive(Debug, Clone, Default)]
pub struct PushFilter {
    /// `branches` or `branches-ignore`.
    pub branches: Option<Patterns>,
    /// `tags` or `tags-ignore`.
    pub tags: Option<Patterns>,
    /// `paths` or `paths-ignore`.
    pub paths: Option<Patterns>,
}

/// Patterns of which the last that fits decides.
#[derive(Debug, Clone)]
pub struct Patterns {
    rules: Vec<(bool, Regex)>,
    /// What fits is left out (`…-ignore`).
    ignore: bool,
}

impl Patterns {
    /// Reads patterns: `*`, `**`, `?`, `+`, `[…]`, `\`, and `!` at the beginning.
    ///
    /// # Errors
    /// The place in the list and what is wrong with it.
    pub fn new(texts: &[String], ignore: bool) -> Result<Self, (usize, String)> {
        let mut rules = Vec::new();
        for (index, text) in texts.iter().enumerate() {
            let (keep, pattern) = match text.strip_prefix('!') {
                Some(_) if ignore => {
                    return Err((index, "'!' cannot be used where matches are ignored".into()));
                }
                Some(rest) => (false, rest),
                None => (true, text.as_str()),
            };
            let regex = translate(pattern).and_then(|regex| Regex::new(&regex).map_err(|e| e.to_string()));
            rules.push((
                keep,
                regex.map_err(|why| (index, format!("the pattern '{text}' is not valid: {why}")))?,
            ));
        }
        if rules.iter().all(|(keep, _)| !keep) {
            return Err((0, "at least one pattern must not begin with '!'".into()));
        }
        Ok(Self { rules, ignore })
    }

    fn fits(&self, name: &str) -> bool {
        self.rules.iter().rev().find(|(_, regex)| regex.is_match(name)).is_some_and(|(keep, _)| *keep)
    }

    /// Whether a branch or tag is meant.
    pub fn matches(&self, name: &str) -> bool {
        self.fits(name) != self.ignore
    }
}

impl PushFilter {
    /// Whether a push of `reference` (`refs/heads/…`, `refs/tags/…`) that changed `paths` starts the workflow.
    /// `paths` is nothing when they cannot be told; then path patterns do not hold it back.
    pub fn matches(&self, reference: &str, paths: Option<&[String]>) -> bool {
        let only_other = |own: &Option<Patterns>, other: &Option<Patterns>| own.is_none() && other.is_some();
        if let Some(branch) = reference.strip_prefix("refs/heads/") {
            !only_other(&self.branches, &self.tags)
                && self.branches.as_ref().is_none_or(|patterns| patterns.matches(branch))
                && self.paths_match(paths)
        } else if let Some(tag) = reference.strip_prefix("refs/tags/") {
            !only_other(&self.tags, &self.branches)
                && self.tags.as_ref().is_none_or(|patterns| patterns.matches(tag))
        } else {
            false
        }
    }

    fn paths_match(&self, paths: Option<&[String]>) -> bool {
        match (&self.paths, paths) {
            (Some(patterns), Some(paths)) => paths.iter().any(|path| patterns.matches(path)),
            _ => true,
        }
    }
}

/// A pattern as a regular expression.
fn translate(pattern: &str) -> Result<String, String> {
    let mut regex = String::from("^");
    let mut rest = pattern.chars().peekable();
    let mut repeatable = false;
    let mut start = true;
    while let Some(character) = rest.next() {
        let after_repeat = repeatable;
        repeatable = true;
        match character {
            '*' => {
                repeatable = false;
                if rest.peek() == Some(&'*') {
                    rest.next();
                    // Between slashes `**` also stands for no folder at all.
                    if rest.peek() == Some(&'/') && start {
                        rest.next();
                        regex.push_str("(?:.*/)?");
                        start = true;
                        continue;
                    }
                    regex.push_str(".*");
                } else {
                    regex.push_str("[^/]*");
                }
            }
            '?' | '+' => {
                if !after_repeat {
                    return Err(format!("'{character}' has nothing before it to repeat"));
                }
                regex.push(character);
                repeatable = false;
            }
            '[' => set(&mut rest, &mut regex)?,
            '\\' => literal(rest.next().ok_or("it ends with a backslash")?, &mut regex),
            other => literal(other, &mut regex),
        }
        start = character == '/';
    }
    Ok(regex + "$")
}

fn literal(character: char, regex: &mut String) {
    regex.push_str(&regex_lite::escape(character.encode_utf8(&mut [0; 4])));
}

fn set(rest: &mut impl Iterator<Item = char>, regex: &mut String) -> Result<(), String> {
    regex.push('[');
    let mut empty = true;
    for character in rest {
        match character {
            ']' if empty => return Err("'[]' is empty".into()),
            ']' => {
                regex.push(']');
                return Ok(());
            }
            '-' => regex.push('-'),
            other if other.is_ascii_alphanumeric() => regex.push(other),
            other => {
                regex.push('\\');
                regex.push(other);
            }
        }
        empty = false;
    }
    Err("'[' is not closed".into())
}

#[cfg(test)]
mod tests {
    use super::*;

    fn patterns(texts: &[&str]) -> Patterns {
        Patterns::new(&texts.iter().map(|t| (*t).to_owned()).collect::<Vec<_>>(), false).unwrap()
    }

    #[test]
    fn patterns_match_as_upstream() {
        for (pattern, yes, no) in [
            ("main", "main", "mains"),
            ("*", "main", "feature/x"),
            ("**", "feature/x", ""),
            ("feature/*", "feature/x", "feature/x/y"),
            ("feature/**", "feature/x/y", "feature"),
            ("releases/**-alpha", "releases/beta/3-alpha", "releases/beta"),
            ("v2*", "v2.0", "v1"),
            ("v[12].[0-9]+.[0-9]+", "v1.10.1", "v3.1.1"),
            ("*.jsx?", "page.js", "page.jsxx"),
            ("**.js", "js/index.js", "js/index.ts"),
            ("docs/**", "docs/a/b.md", "doc/a"),
            ("**/docs/**", "docs/hello.md", "docs"),
            ("**/docs/**", "a/docs/hello.md", "a/doc/hello.md"),
            ("**/README.md", "README.md", "README.txt"),
            ("a.c", "a.c", "abc"),
        ] {
            assert!(patterns(&[pattern]).matches(yes), "{pattern} {yes}");
            assert!(no.is_empty() || !patterns(&[pattern]).matches(no), "{pattern} {no}");
        }
        let last_decides = patterns(&["releases/**", "!releases/**-alpha", "releases/x-alpha"]);
        assert!(last_decides.matches("releases/10"));
        assert!(!last_decides.matches("releases/10-alpha"));
        assert!(last_decides.matches("releases/x-alpha"));
        assert!(Patterns::new(&["!x".into()], false).is_err());
        assert!(Patterns::new(&["[x".into()], false).is_err());
        assert!(Patterns::new(&["?x".into()], false).is_err());
    }

    #[test]
    fn a_push_is_held_against_branches_tags_and_paths() {
        let filter = |branches: Option<&[&str]>, tags: Option<&[&str]>, paths: Option<&[&str]>| PushFilter {
            branches: branches.map(patterns),
            tags: tags.map(patterns),
            paths: paths.map(patterns),
        };
        let changed = ["src/a.rs".to_owned()];
        let changed = Some(&changed[..]);
        for (filter, reference, expected) in [
            (filter(None, None, None), "refs/heads/x", true),
            (filter(None, None, None), "refs/tags/x", true),
            (filter(Some(&["main"]), None, None), "refs/heads/main", true),
            (filter(Some(&["main"]), None, None), "refs/heads/x", false),
            (filter(Some(&["main"]), None, None), "refs/tags/v1", false),
            (filter(None, Some(&["v*"]), None), "refs/tags/v1", true),
            (filter(None, Some(&["v*"]), None), "refs/heads/main", false),
            (filter(None, None, Some(&["src/**"])), "refs/heads/main", true),
            (filter(None, None, Some(&["docs/**"])), "refs/heads/main", false),
            (filter(None, None, Some(&["docs/**"])), "refs/tags/v1", true),
            (filter(None, None, None), "refs/notes/x", false),
        ] {
            assert_eq!(filter.matches(reference, changed), expected, "{filter:?} {reference}");
        }
    }
}
