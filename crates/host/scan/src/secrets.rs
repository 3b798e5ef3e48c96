//! Credentials that should not be in an image: only forms that are nearly never anything else.

use serde::{Deserialize, Serialize};

/// A credential in a file. Its value is not kept.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize, Deserialize)]
pub struct Secret {
    /// The file.
    pub path: String,
    /// The line, from 1.
    pub line: usize,
    /// What kind of credential.
    pub kind: String,
}

/// Files larger than this are data, not configuration.
pub(crate) const MAX_FILE: u64 = 256 << 10;

/// One form of credential.
type Token = (&'static str, usize, fn(u8) -> bool, &'static str);

/// Prefix, how many characters follow at least, which characters, and what it is.
const TOKENS: [Token; 11] = [
    ("AKIA", 16, upper, "AWS access key id"),
    ("ASIA", 16, upper, "AWS temporary access key id"),
    ("ghp_", 36, word, "GitHub personal access token"),
    ("gho_", 36, word, "GitHub OAuth token"),
    ("ghs_", 36, word, "GitHub app token"),
    ("ghr_", 36, word, "GitHub refresh token"),
    ("github_pat_", 60, word, "GitHub fine-grained access token"),
    ("glpat-", 20, token, "GitLab personal access token"),
    ("xoxb-", 20, token, "Slack bot token"),
    ("npm_", 36, word, "npm access token"),
    ("AIza", 35, token, "Google API key"),
];

fn upper(c: u8) -> bool {
    c.is_ascii_uppercase() || c.is_ascii_digit()
}

fn word(c: u8) -> bool {
    c.is_ascii_alphanumeric() || c == b'_'
}

fn token(c: u8) -> bool {
    word(c) || c == b'-'
}

/// Whether a file may hold credentials of its owner: what packages bring is not looked into, since
/// their tests and documents are full of examples.
pub(crate) fn worth_reading(path: &str) -> bool {
    !["usr/share/", "usr/lib/", "usr/include/", "lib/", "usr/local/lib/python", "var/lib/dpkg/", "usr/src/"]
        .iter()
        .any(|prefix| path.starts_with(prefix))
        && !path.contains("/node_modules/")
        && !path.contains("/site-packages/")
}

/// The credentials in a file.
pub(crate) fn find(path: &str, bytes: &[u8]) -> Vec<Secret> {
    if bytes.iter().take(1024).any(|b| *b == 0) {
        return Vec::new();
    }
    let mut found = Vec::new();
    for (at, line) in bytes.split(|b| *b == b'\n').enumerate() {
        if let Some(kind) = kind_of(line) {
            found.push(Secret { path: path.to_owned(), line: at + 1, kind: kind.to_owned() });
        }
    }
    found
}

fn kind_of(line: &[u8]) -> Option<&'static str> {
    if contains(line, b"-----BEGIN ") && contains(line, b"PRIVATE KEY") {
        return Some("private key");
    }
    TOKENS.iter().find(|(prefix, length, allowed, _)| has_token(line, prefix, *length, *allowed)).map(|t| t.3)
}

fn contains(line: &[u8], part: &[u8]) -> bool {
    line.windows(part.len()).any(|window| window == part)
}

/// The prefix at the beginning of a word, with enough of the right characters after it. Placeholders
/// such as `AKIAXXXXXXXXXXXXXXXX` have too few different ones.
fn has_token(line: &[u8], prefix: &str, length: usize, allowed: fn(u8) -> bool) -> bool {
    let prefix = prefix.as_bytes();
    line.windows(prefix.len()).enumerate().any(|(at, window)| {
        let starts = at == 0 || line.get(at - 1).is_some_and(|c| !word(*c));
        if window != prefix || !starts {
            return false;
        }
        let rest = line.get(at + prefix.len()..).unwrap_or_default();
        let value: Vec<u8> = rest.iter().copied().take_while(|c| allowed(*c)).collect();
        let mut different = value.clone();
        different.sort_unstable();
        different.dedup();
        value.len() >= length && different.len() >= 6 && !contains(&value, b"EXAMPLE")
    })
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn finds_credentials_and_leaves_examples() {
        // Put together here, so that this file holds none itself.
        let aws = format!("key = {}{}", "AKIA", "Q3EGRIZ7K2M4XWPL");
        let github = format!("token: {}{}", "ghp_", "a1B2c3D4e5F6g7H8i9J0k1L2m3N4o5P6q7R8");
        let key = format!("-----BEGIN {}PRIVATE KEY-----", "RSA ");
        for (line, kind) in [
            (aws.as_str(), Some("AWS access key id")),
            (&github, Some("GitHub personal access token")),
            (&key, Some("private key")),
            ("AKIAXXXXXXXXXXXXXXXX", None),
            ("AKIAIOSFODNN7EXAMPLE", None),
            ("xAKIAQ3EGRIZ7K2M4XWPL", None),
            ("-----BEGIN PUBLIC KEY-----", None),
            ("ghp_short", None),
        ] {
            assert_eq!(kind_of(line.as_bytes()), kind, "{line}");
        }
        let text = format!("first\n{aws}\n");
        assert_eq!(find("app/.env", text.as_bytes())[0].line, 2);
        assert!(find("bin", b"\0AKIA").is_empty());
        assert!(worth_reading("app/.env") && !worth_reading("usr/share/doc/x"));
    }
}
