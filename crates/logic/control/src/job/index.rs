//! Sets of completion indexes, in the form the API writes them: `0-2,5,8-9`.

use std::collections::BTreeSet;

/// The most indexes a Job may have; a larger text is not believed.
const LIMIT: i64 = 100_000_000;

/// Reads a set below `total`; what is not understood is left out.
pub(super) fn parse(text: &str, total: i64) -> BTreeSet<i64> {
    let mut indexes = BTreeSet::new();
    for part in text.split(',').filter(|part| !part.is_empty()) {
        let (first, last) = part.split_once('-').unwrap_or((part, part));
        if let (Ok(first), Ok(last)) = (first.parse::<i64>(), last.parse::<i64>()) {
            indexes.extend(first.max(0)..=last.min(total - 1).min(LIMIT));
        }
    }
    indexes
}

/// Writes a set: three or more in a row become a range.
pub(super) fn format(indexes: &BTreeSet<i64>) -> String {
    let mut ranges: Vec<(i64, i64)> = Vec::new();
    for index in indexes {
        match ranges.last_mut() {
            Some((_, last)) if *last + 1 == *index => *last = *index,
            _ => ranges.push((*index, *index)),
        }
    }
    let text = |(first, last): &(i64, i64)| match last - first {
        0 => first.to_string(),
        1 => format!("{first},{last}"),
        _ => format!("{first}-{last}"),
    };
    ranges.iter().map(text).collect::<Vec<_>>().join(",")
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(text: &str, total: i64, expect: &str) {
        assert_eq!(format(&parse(text, total)), expect, "{text}");
    }

    #[test]
    fn ranges_are_read_and_written() {
        check("", 5, "");
        check("0-2,4", 5, "0-2,4");
        check("0,1,3", 5, "0,1,3");
        check("0,1,2,3", 5, "0-3");
        check("3-9", 5, "3,4");
        check("x,1-,2", 5, "2");
        check("5-1", 9, "");
    }
}
