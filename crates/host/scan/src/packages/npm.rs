//! What npm installed or would install.

use serde_json::{Map, Value};

use super::Package;
use crate::version::Ecosystem;

const MAX_DEPTH: usize = 50;

/// Whether a folder is that of an installed package: `…/node_modules/NAME` or `…/node_modules/@SCOPE/NAME`.
pub(super) fn is_installed(folder: &str) -> bool {
    let mut parts = folder.rsplit('/');
    let (_, above) = (parts.next(), parts.next());
    match above {
        Some("node_modules") => true,
        Some(scope) if scope.starts_with('@') => parts.next() == Some("node_modules"),
        _ => false,
    }
}

pub(super) fn manifest(bytes: &[u8]) -> Vec<Package> {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    match (value["name"].as_str(), value["version"].as_str()) {
        (Some(name), Some(version)) => vec![Package::new(Ecosystem::Npm, name, version)],
        _ => Vec::new(),
    }
}

pub(super) fn lock(bytes: &[u8]) -> Vec<Package> {
    let value: Value = serde_json::from_slice(bytes).unwrap_or_default();
    let mut found = Vec::new();
    if let Some(packages) = value["packages"].as_object() {
        for (path, entry) in packages {
            // The project itself and links to its parts have other keys.
            let name = path.rsplit_once("node_modules/").map(|(_, name)| name);
            if let (Some(name), Some(version)) = (name, entry["version"].as_str()) {
                let name = entry["name"].as_str().unwrap_or(name);
                found.push(Package::new(Ecosystem::Npm, name, version));
            }
        }
    } else if let Some(dependencies) = value["dependencies"].as_object() {
        nested(dependencies, 0, &mut found);
    }
    found
}

fn nested(dependencies: &Map<String, Value>, depth: usize, found: &mut Vec<Package>) {
    for (name, entry) in dependencies {
        if let Some(version) = entry["version"].as_str() {
            found.push(Package::new(Ecosystem::Npm, name, version));
        }
        if let Some(more) = entry["dependencies"].as_object().filter(|_| depth < MAX_DEPTH) {
            nested(more, depth + 1, found);
        }
    }
}
