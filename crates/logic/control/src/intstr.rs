//! Numbers that may be percentages (`intstr.IntOrString`).

use serde::{Deserialize, Serialize};

/// A whole number, or a text: a percentage such as `25%`, or a port name.
#[derive(Clone, Debug, PartialEq, Eq, Deserialize, Serialize)]
#[serde(untagged)]
pub enum IntOrString {
    /// A number.
    Int(i64),
    /// A percentage or a name.
    Text(String),
}

impl IntOrString {
    /// The number meant when the whole is `total`; a fraction is rounded up or down as asked.
    /// Nothing when the text is no percentage.
    pub fn of_total(&self, total: i64, round_up: bool) -> Option<i64> {
        match self {
            Self::Int(n) => Some(*n),
            Self::Text(text) => {
                let percent: i64 = text.strip_suffix('%')?.parse().ok()?;
                let share = percent.checked_mul(total)?;
                let up = i64::from(round_up && share.rem_euclid(100) != 0);
                Some(share.div_euclid(100) + up)
            }
        }
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    fn check(json: &str, total: i64, expect: (Option<i64>, Option<i64>)) {
        let value: IntOrString = serde_json::from_str(json).unwrap();
        assert_eq!((value.of_total(total, true), value.of_total(total, false)), expect, "{json} of {total}");
    }

    #[test]
    fn percentages_round_both_ways() {
        check("3", 10, (Some(3), Some(3)));
        check("\"25%\"", 10, (Some(3), Some(2)));
        check("\"25%\"", 4, (Some(1), Some(1)));
        check("\"0%\"", 4, (Some(0), Some(0)));
        check("\"http\"", 4, (None, None));
    }
}
