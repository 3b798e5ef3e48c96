//! What a step prints, without the secrets it was given.

use crate::error::Result;

const SHOWN: &str = "***";
/// A shorter text would hide half of the output.
const SHORTEST: usize = 4;

/// Texts that are not to be seen.
#[derive(Debug, Default)]
pub(crate) struct Mask(Vec<String>);

impl Mask {
    /// Hides the whole of a secret and each of its lines.
    pub(crate) fn hide(&mut self, secret: &[u8]) {
        let text = String::from_utf8_lossy(secret);
        let lines = text.lines().map(str::trim).filter(|line| line.len() >= SHORTEST);
        self.0.extend(lines.map(str::to_owned));
        // One that begins with another must go first.
        self.0.sort_by_key(|text| std::cmp::Reverse(text.len()));
        self.0.dedup();
    }

    pub(crate) fn cover(&self, line: String) -> String {
        self.0.iter().fold(line, |line, secret| match line.contains(secret.as_str()) {
            true => line.replace(secret.as_str(), SHOWN),
            false => line,
        })
    }

    /// Covers what an error tells.
    pub(crate) fn over<T>(&self, result: Result<T>) -> Result<T> {
        result.map_err(|mut error| {
            error.what = self.cover(std::mem::take(&mut error.what));
            error
        })
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn secrets_and_their_lines_are_covered() {
        let mut mask = Mask::default();
        mask.hide(b"token\n");
        mask.hide(b"token-long\nab\n  indented\n");
        for (line, covered) in
            [("a token-long b token", "a *** b ***"), ("indented", "***"), ("ab", "ab"), ("", "")]
        {
            assert_eq!(mask.cover(line.into()), covered);
        }
    }
}
