//! Keeps secrets out of logs.

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

#[cfg(test)]
mod tests {
    use super::*;

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
