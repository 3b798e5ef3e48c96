//! What pip installed.

use super::Package;
use crate::version::Ecosystem;

/// The head of a `METADATA` or `PKG-INFO` file.
pub(super) fn metadata(bytes: &[u8]) -> Vec<Package> {
    let text = String::from_utf8_lossy(bytes);
    let head = || text.lines().take_while(|line| !line.trim().is_empty());
    let field = |name: &str| head().find_map(|line| line.strip_prefix(name)).map(str::trim);
    match (field("Name:"), field("Version:")) {
        (Some(name), Some(version)) => vec![Package::new(Ecosystem::PyPI, name, version)],
        _ => Vec::new(),
    }
}
