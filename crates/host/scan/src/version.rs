//! Which of two versions is newer, in each ecosystem's own order.

use std::cmp::Ordering;

use serde::{Deserialize, Serialize};

/// Where a package comes from, without the release of a distribution.
#[derive(Debug, Clone, Copy, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub enum Ecosystem {
    /// Debian.
    Debian,
    /// Ubuntu.
    Ubuntu,
    /// Alpine.
    Alpine,
    /// Python's package index.
    PyPI,
    /// Rust's package index.
    #[serde(rename = "crates.io")]
    CratesIo,
    /// Node's package index.
    #[serde(rename = "npm")]
    Npm,
}

impl Ecosystem {
    /// Reads OSV's text, such as `Debian:12`: the ecosystem and the release.
    pub fn parse(text: &str) -> Option<(Self, Option<&str>)> {
        let (base, release) = match text.split_once(':') {
            Some((base, release)) => (base, Some(release)),
            None => (text, None),
        };
        let ecosystem = match base {
            "Debian" => Self::Debian,
            "Ubuntu" => Self::Ubuntu,
            "Alpine" => Self::Alpine,
            "PyPI" => Self::PyPI,
            "crates.io" => Self::CratesIo,
            "npm" => Self::Npm,
            _ => return None,
        };
        Some((ecosystem, release))
    }

    /// OSV's name.
    pub fn name(self) -> &'static str {
        match self {
            Self::Debian => "Debian",
            Self::Ubuntu => "Ubuntu",
            Self::Alpine => "Alpine",
            Self::PyPI => "PyPI",
            Self::CratesIo => "crates.io",
            Self::Npm => "npm",
        }
    }

    /// The type of a package URL.
    pub fn purl_type(self) -> &'static str {
        match self {
            Self::Debian => "deb/debian",
            Self::Ubuntu => "deb/ubuntu",
            Self::Alpine => "apk/alpine",
            Self::PyPI => "pypi",
            Self::CratesIo => "cargo",
            Self::Npm => "npm",
        }
    }

    /// A package's name in the form that equal packages share.
    pub fn normal_name(self, name: &str) -> String {
        if self != Self::PyPI {
            return name.to_owned();
        }
        let mut normal = String::with_capacity(name.len());
        for c in name.chars() {
            match c {
                '-' | '_' | '.' if normal.ends_with('-') => {}
                '-' | '_' | '.' => normal.push('-'),
                c => normal.extend(c.to_lowercase()),
            }
        }
        normal
    }

    /// The order of two versions; `None` when one of them is none of this ecosystem's.
    pub fn compare(self, a: &str, b: &str) -> Option<Ordering> {
        match self {
            Self::Debian | Self::Ubuntu => Some(debian(a, b)),
            Self::Alpine => alpine(a, b),
            Self::PyPI => {
                let parse = |text: &str| text.trim().parse::<pep440_rs::Version>().ok();
                Some(parse(a)?.cmp(&parse(b)?))
            }
            Self::CratesIo | Self::Npm => {
                let parse =
                    |text: &str| semver::Version::parse(text.trim().trim_start_matches(['v', '='])).ok();
                // Build metadata is no part of the order.
                Some(parse(a)?.cmp_precedence(&parse(b)?))
            }
        }
    }
}

/// Debian policy, 5.6.12: `[epoch:]upstream[-revision]`.
fn debian(a: &str, b: &str) -> Ordering {
    let parts = |text: &str| -> (u64, String, String) {
        let text = text.trim();
        let (epoch, rest) = match text.split_once(':') {
            Some((epoch, rest)) => (epoch.parse().unwrap_or(0), rest),
            None => (0, text),
        };
        let (upstream, revision) = rest.rsplit_once('-').unwrap_or((rest, ""));
        (epoch, upstream.to_owned(), revision.to_owned())
    };
    let ((epoch_a, upstream_a, revision_a), (epoch_b, upstream_b, revision_b)) = (parts(a), parts(b));
    epoch_a
        .cmp(&epoch_b)
        .then_with(|| debian_part(upstream_a.as_bytes(), upstream_b.as_bytes()))
        .then_with(|| debian_part(revision_a.as_bytes(), revision_b.as_bytes()))
}

/// Runs of other characters and runs of digits in turn; `~` is before everything, even the end.
fn debian_part(mut a: &[u8], mut b: &[u8]) -> Ordering {
    let weight = |c: Option<&u8>| match c {
        Some(b'~') => -1,
        None => 0,
        Some(c) if c.is_ascii_digit() => 0,
        Some(c) if c.is_ascii_alphabetic() => i32::from(*c),
        Some(c) => i32::from(*c) + 256,
    };
    while !a.is_empty() || !b.is_empty() {
        loop {
            let text = |s: &[u8]| s.first().is_some_and(|c| !c.is_ascii_digit());
            if !text(a) && !text(b) {
                break;
            }
            match weight(a.first()).cmp(&weight(b.first())) {
                Ordering::Equal => {}
                other => return other,
            }
            a = a.get(1..).unwrap_or_default();
            b = b.get(1..).unwrap_or_default();
        }
        let (number_a, rest_a) = digits(a);
        let (number_b, rest_b) = digits(b);
        match compare_numbers(number_a, number_b) {
            Ordering::Equal => (a, b) = (rest_a, rest_b),
            other => return other,
        }
    }
    Ordering::Equal
}

fn digits(text: &[u8]) -> (&[u8], &[u8]) {
    text.split_at(text.iter().position(|c| !c.is_ascii_digit()).unwrap_or(text.len()))
}

/// Numbers of any length.
fn compare_numbers(a: &[u8], b: &[u8]) -> Ordering {
    let bare = |s: &[u8]| -> Vec<u8> { s.iter().copied().skip_while(|c| *c == b'0').collect() };
    let (a, b) = (bare(a), bare(b));
    a.len().cmp(&b.len()).then_with(|| a.cmp(&b))
}

/// Alpine: `number{.number}[letter]{_suffix[number]}[~hash][-rN]`.
#[derive(PartialEq, Eq)]
struct Apk<'a> {
    numbers: Vec<&'a str>,
    letter: u8,
    suffixes: Vec<(i32, u64)>,
    revision: u64,
}

impl<'a> Apk<'a> {
    fn parse(text: &'a str) -> Option<Self> {
        let (text, revision) = match text.trim().rsplit_once("-r") {
            Some((rest, number)) => (rest, number.parse().ok()?),
            None => (text.trim(), 0),
        };
        let text = text.split('~').next()?;
        let mut parts = text.split('_');
        let mut head = parts.next()?;
        let mut letter = 0;
        if let Some(last) = head.bytes().last().filter(u8::is_ascii_lowercase) {
            letter = last;
            head = head.get(..head.len() - 1)?;
        }
        let numbers: Vec<&str> = head.split('.').collect();
        if numbers.iter().any(|n| n.is_empty() || !n.bytes().all(|c| c.is_ascii_digit())) {
            return None;
        }
        let suffixes = parts.map(|part| {
            let (word, number) = part.split_at(part.find(|c: char| c.is_ascii_digit()).unwrap_or(part.len()));
            // Those before the release are negative, those after it positive.
            let rank = match word {
                "alpha" => -4,
                "beta" => -3,
                "pre" => -2,
                "rc" => -1,
                "cvs" => 1,
                "svn" => 2,
                "git" => 3,
                "hg" => 4,
                "p" => 5,
                _ => return None,
            };
            Some((rank, if number.is_empty() { 0 } else { number.parse().ok()? }))
        });
        Some(Self { numbers, letter, suffixes: suffixes.collect::<Option<_>>()?, revision })
    }
}

fn alpine(a: &str, b: &str) -> Option<Ordering> {
    let (a, b) = (Apk::parse(a)?, Apk::parse(b)?);
    Some(
        alpine_numbers(&a.numbers, &b.numbers)
            .then(a.letter.cmp(&b.letter))
            .then_with(|| alpine_suffixes(&a.suffixes, &b.suffixes))
            .then(a.revision.cmp(&b.revision)),
    )
}

fn alpine_numbers(a: &[&str], b: &[&str]) -> Ordering {
    for (at, (x, y)) in a.iter().zip(b).enumerate() {
        // After the first, numbers with leading zeros are compared as fractions.
        let fraction = at > 0 && (x.starts_with('0') || y.starts_with('0'));
        let order = match fraction {
            true => x.trim_end_matches('0').cmp(y.trim_end_matches('0')),
            false => compare_numbers(x.as_bytes(), y.as_bytes()),
        };
        if order != Ordering::Equal {
            return order;
        }
    }
    a.len().cmp(&b.len())
}

fn alpine_suffixes(a: &[(i32, u64)], b: &[(i32, u64)]) -> Ordering {
    for at in 0..a.len().max(b.len()) {
        let none = (0, 0);
        match a.get(at).unwrap_or(&none).cmp(b.get(at).unwrap_or(&none)) {
            Ordering::Equal => {}
            other => return other,
        }
    }
    Ordering::Equal
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn each_ecosystem_has_its_order() {
        for (ecosystem, rising) in [
            (
                Ecosystem::Debian,
                &[
                    "1.0~rc1-1",
                    "1.0-1",
                    "1.0-1+deb12u1",
                    "1.0-1.1",
                    "1.0-2",
                    "1.0a-1",
                    "1.0+dfsg-1",
                    "1.9-1",
                    "1.10-1",
                    "1:0.1-1",
                ][..],
            ),
            (Ecosystem::Debian, &["2.0~~", "2.0~", "2.0", "2.0a", "2.0+"]),
            (
                Ecosystem::Alpine,
                &[
                    "1.0_alpha1",
                    "1.0_rc1",
                    "1.0_rc2-r3",
                    "1.0",
                    "1.0-r1",
                    "1.0-r10",
                    "1.0_p1",
                    "1.0a",
                    "1.0.1",
                    "1.2",
                    "1.10",
                    "10.0",
                ],
            ),
            (Ecosystem::PyPI, &["1.0.dev1", "1.0a1", "1.0rc1", "1.0", "1.0.post1", "1.1", "1.10", "1!0.1"]),
            (
                Ecosystem::CratesIo,
                &["0.9.9", "1.0.0-alpha.1", "1.0.0-alpha.beta", "1.0.0", "1.0.1", "1.10.0"],
            ),
            (Ecosystem::Npm, &["1.0.0-rc.1", "1.0.0", "v1.0.1"]),
        ] {
            for (i, a) in rising.iter().enumerate() {
                for (j, b) in rising.iter().enumerate() {
                    assert_eq!(ecosystem.compare(a, b), Some(i.cmp(&j)), "{ecosystem:?}: {a} and {b}");
                }
            }
        }
        for (ecosystem, a, b) in [
            (Ecosystem::Debian, "1.0-0", "1.0"),
            (Ecosystem::Debian, "0:1.01", "1.1"),
            (Ecosystem::PyPI, "1.0", "1.0.0"),
            (Ecosystem::CratesIo, "1.0.0+a", "1.0.0+b"),
        ] {
            assert_eq!(ecosystem.compare(a, b), Some(Ordering::Equal), "{a} and {b}");
        }
        assert_eq!(Ecosystem::CratesIo.compare("1.0", "1.0.0"), None);
        assert_eq!(Ecosystem::Alpine.compare("x", "1"), None);
    }

    #[test]
    fn names_and_ecosystems() {
        assert_eq!(Ecosystem::PyPI.normal_name("Foo._Bar"), "foo-bar");
        assert_eq!(Ecosystem::parse("Ubuntu:22.04:LTS"), Some((Ecosystem::Ubuntu, Some("22.04:LTS"))));
        assert_eq!(Ecosystem::parse("Hackage"), None);
    }
}
