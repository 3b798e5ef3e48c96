//! Keeps secrets out of logs.

use base64::{
    Engine as _,
    engine::general_purpose::{STANDARD, URL_SAFE},
};

/// Characters of a line in the output of `base64`.
const WRAPPED: usize = 76;
/// Characters of base64 that are not taken for chance.
const TELLING: usize = 6;
/// What stands in a secret's place.
const MASK: &str = "***";

/// Texts that must not appear in a log.
#[derive(Debug, Clone, Default)]
pub struct Masker {
    secrets: Vec<String>,
}

impl Masker {
    /// A masker of these secrets.
    pub fn new<'a>(secrets: impl IntoIterator<Item = &'a str>) -> Self {
        let mut masker = Self::default();
        secrets.into_iter().for_each(|secret| masker.add(secret));
        masker
    }

    /// Adds a secret. Of one over several lines, each line is hidden too, since logs are cut into lines.
    pub fn add(&mut self, secret: &str) {
        let lines = secret.lines().map(str::trim);
        for part in std::iter::once(secret.trim_end_matches(['\r', '\n'])).chain(lines) {
            // A lone brace of a JSON key or a blank line would tear every log apart.
            let tells = !part.trim().is_empty() && (part == secret || part.trim().len() > 2);
            if tells && !self.secrets.iter().any(|known| known == part) {
                self.secrets.push(part.to_owned());
            }
        }
        for encoded in base64_forms(secret.trim_end_matches(['\r', '\n'])) {
            if !self.secrets.contains(&encoded) {
                self.secrets.push(encoded);
            }
        }
    }

    /// A text without secrets. Those that overlap are hidden together.
    pub fn mask(&self, text: &str) -> String {
        let mut spans: Vec<(usize, usize)> = Vec::new();
        for secret in &self.secrets {
            let mut from = 0;
            while let Some(at) = text.get(from..).and_then(|rest| rest.find(secret.as_str())) {
                let start = from + at;
                spans.push((start, start + secret.len()));
                // Overlapping occurrences of one secret count too.
                from = start + text[start..].chars().next().map_or(1, char::len_utf8);
            }
        }
        if spans.is_empty() {
            return text.to_owned();
        }
        spans.sort_unstable();
        let mut out = String::with_capacity(text.len());
        let mut end = 0;
        for (start, stop) in spans {
            if start >= end {
                out.push_str(&text[end..start]);
                out.push_str(MASK);
            }
            end = end.max(stop);
        }
        out.push_str(&text[end..]);
        out
    }
}

/// What base64 makes of a secret, alone and inside a longer text: there it begins at any of the three bytes of a group,
/// and only the characters no neighbour has a part in are known.
fn base64_forms(secret: &str) -> Vec<String> {
    let bytes = secret.as_bytes();
    let mut forms = Vec::new();
    for alphabet in [&STANDARD, &URL_SAFE] {
        let alone = alphabet.encode(bytes);
        let inside = |skipped: usize| {
            let own = &bytes[skipped..];
            let mut form = alphabet.encode(own);
            form.truncate(own.len() / 3 * 4 + own.len() % 3);
            form
        };
        let placed: Vec<String> = (0..bytes.len().min(3)).map(inside).collect();
        // `base64` breaks a long one into lines, and logs are hidden line by line.
        for whole in [Some(&alone), placed.first()].into_iter().flatten().filter(|form| form.len() > WRAPPED)
        {
            let lines = whole.as_bytes().chunks(WRAPPED);
            forms.extend(lines.map(|line| String::from_utf8_lossy(line).into_owned()));
        }
        forms.push(alone);
        forms.extend(placed);
    }
    forms.retain(|form| form.trim_end_matches('=').len() >= TELLING);
    forms
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn hides_base64_of_secrets() {
        let secret = "p4ss>word?~!";
        let masker = Masker::new([secret]);
        for before in ["", "u", "us", "user:", "user:x"] {
            for after in ["", "\n", "@host", "@h"] {
                for alphabet in [&STANDARD, &URL_SAFE] {
                    let masked = masker.mask(&alphabet.encode(format!("{before}{secret}{after}")));
                    assert!(masked.contains(MASK), "{before:?} {after:?}: {masked}");
                    // What is left tells of the neighbours, and of less than one byte at each end.
                    let left = masked.replace(MASK, "").len();
                    assert!(left <= (before.len() + after.len()).div_ceil(3) * 4 + 8, "{masked}");
                }
            }
        }
        assert_eq!(masker.mask(&STANDARD.encode(secret)), MASK);
        // As `base64` shows it: in lines.
        let long = "0123456789abcdef".repeat(10);
        let shown = STANDARD.encode(format!("{long}\n"));
        for line in shown.as_bytes().chunks(WRAPPED) {
            let masked = Masker::new([long.as_str()]).mask(std::str::from_utf8(line).unwrap());
            assert!(masked.starts_with(MASK) && masked.len() < 10, "{masked}");
        }
        // Too short to be told from other words.
        assert_eq!(Masker::new(["abc"]).mask("YWJj abc"), "YWJj ***");
    }

    #[test]
    fn hides_secrets() {
        for (secrets, text, expected) in [
            (&["s3cret"][..], "a s3cret b s3cret", "a *** b ***"),
            (&["abc", "bcd"], "xabcdx", "x***x"),
            (&["aba"], "ababa!", "***!"),
            (&["first\nsecond line\n"], "the second line", "the ***"),
            (&["{\n  \"key\": 1\n}"], "{ \"key\": 1 }", "{ *** }"),
            (&["", "  "], "a  b", "a  b"),
            (&["x"], "xy", "***y"),
            (&["é"], "déjà", "d***jà"),
        ] {
            assert_eq!(Masker::new(secrets.iter().copied()).mask(text), expected, "{secrets:?}");
        }
    }
}
