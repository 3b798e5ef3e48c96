//! The distributions' own lists: Debian's stanzas and Alpine's one-letter lines.

use super::Package;
use crate::version::Ecosystem;

/// Stanzas between empty lines, in lossy text: a stray byte in a description must not hide packages.
fn stanzas(bytes: &[u8]) -> Vec<String> {
    String::from_utf8_lossy(bytes).replace('\r', "").split("\n\n").map(str::to_owned).collect()
}

fn field<'a>(stanza: &'a str, name: &str) -> Option<&'a str> {
    stanza.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix(':')).map(str::trim)
}

pub(super) fn debian(bytes: &[u8]) -> Vec<Package> {
    let package = |stanza: &String| {
        // Single stanzas of distroless images have no status.
        let installed = field(stanza, "Status").is_none_or(|s| s.ends_with(" installed"));
        let (name, version) = (field(stanza, "Package")?, field(stanza, "Version")?);
        let source = field(stanza, "Source").map(|source| match source.split_once(" (") {
            Some((name, version)) => (name.to_owned(), version.trim_end_matches(')').to_owned()),
            None => (source.to_owned(), version.to_owned()),
        });
        installed.then(|| Package { source, ..Package::new(Ecosystem::Debian, name, version) })
    };
    stanzas(bytes).iter().filter_map(package).collect()
}

pub(super) fn alpine(bytes: &[u8]) -> Vec<Package> {
    let package = |stanza: &String| {
        let (name, version) = (field(stanza, "P")?, field(stanza, "V")?);
        let source = field(stanza, "o").map(|origin| (origin.to_owned(), version.to_owned()));
        Some(Package { source, ..Package::new(Ecosystem::Alpine, name, version) })
    };
    stanzas(bytes).iter().filter_map(package).collect()
}
