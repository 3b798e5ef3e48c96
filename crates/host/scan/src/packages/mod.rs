//! What is installed, told from the files package managers leave.

mod cargo;
mod dpkg;
mod elf;
mod npm;
mod python;

use std::fs::File;

use serde::{Deserialize, Serialize};

use crate::version::Ecosystem;

/// A package found in an image.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Hash, Serialize, Deserialize)]
pub struct Package {
    /// Where it comes from.
    pub ecosystem: Ecosystem,
    /// Its name.
    pub name: String,
    /// Its version.
    pub version: String,
    /// The source package it was built from, when advisories speak of that: name and version.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub source: Option<(String, String)>,
}

impl Package {
    fn new(ecosystem: Ecosystem, name: &str, version: &str) -> Self {
        Self { ecosystem, name: name.to_owned(), version: version.to_owned(), source: None }
    }

    /// The name and version advisories know it by.
    pub fn advised(&self) -> (&str, &str) {
        self.source.as_ref().map_or((&self.name, &self.version), |(name, version)| (name, version))
    }

    /// Its package URL.
    pub fn purl(&self) -> String {
        let name = self.name.replace('@', "%40");
        let version = self.version.replace('+', "%2B").replace(':', "%3A");
        format!("pkg:{}/{name}@{version}", self.ecosystem.purl_type())
    }
}

/// Files read as a whole have at most this size.
pub(crate) const MAX_FILE: u64 = 64 << 20;

/// How the packages of one kind of file are read.
pub(crate) type Reader = fn(&[u8]) -> Vec<Package>;

/// The reader for a file, by its path in the image; `None` when it lists no packages. Which of the
/// distributions a dpkg file belongs to is decided later, by the image's os-release.
pub(crate) fn reader(path: &str) -> Option<Reader> {
    let (folder, name) = path.rsplit_once('/').unwrap_or(("", path));
    let parent = folder.rsplit('/').next().unwrap_or_default();
    match (folder, name) {
        ("var/lib/dpkg", "status") => Some(dpkg::debian),
        ("var/lib/dpkg/status.d", name) if !name.ends_with(".md5sums") => Some(dpkg::debian),
        ("lib/apk/db" | "usr/lib/apk/db", "installed") => Some(dpkg::alpine),
        (_, "METADATA") if parent.ends_with(".dist-info") => Some(python::metadata),
        (_, "PKG-INFO") if parent.ends_with(".egg-info") => Some(python::metadata),
        (_, name) if name.ends_with(".egg-info") => Some(python::metadata),
        (_, "Cargo.lock") => Some(cargo::lock),
        (_, "package-lock.json") => Some(npm::lock),
        (folder, "package.json") if npm::is_installed(folder) => Some(npm::manifest),
        _ => None,
    }
}

/// Packages a program was built from, if it says so.
pub(crate) fn of_program(file: &File) -> Vec<Package> {
    elf::section(file, ".dep-v0").map(|bytes| cargo::auditable(&bytes)).unwrap_or_default()
}

#[cfg(test)]
mod tests {
    use super::*;

    fn found(path: &str, text: &str) -> Vec<String> {
        let packages = reader(path).map(|read| read(text.as_bytes())).unwrap_or_default();
        packages
            .iter()
            .map(|p| format!("{} {}@{}", p.ecosystem.name(), p.advised().0, p.advised().1))
            .collect()
    }

    #[test]
    fn files_of_package_managers() {
        for (path, text, expect) in [
            (
                "var/lib/dpkg/status",
                "Package: libssl3\nStatus: install ok installed\nSource: openssl (3.0.9-1)\nVersion: 3.0.9-1+b1\nDescription: x\n more\n\nPackage: gone\nStatus: deinstall ok config-files\nVersion: 1\n\nPackage: bash\nStatus: install ok installed\nVersion: 5.2-1\n",
                &["Debian openssl@3.0.9-1", "Debian bash@5.2-1"][..],
            ),
            ("var/lib/dpkg/status.d/base", "Package: base-files\nVersion: 12\n", &["Debian base-files@12"]),
            ("var/lib/dpkg/status.d/base.md5sums", "Package: no\nVersion: 1\n", &[]),
            (
                "lib/apk/db/installed",
                "C:Q1\nP:libcrypto3\nV:3.1.4-r1\no:openssl\n\nP:musl\nV:1.2.4-r2\n\n",
                &["Alpine openssl@3.1.4-r1", "Alpine musl@1.2.4-r2"],
            ),
            (
                "usr/lib/python3/dist-packages/Jinja2-3.1.dist-info/METADATA",
                "Metadata-Version: 2.1\nName: Jinja2\nVersion: 3.1\n\nName: body\n",
                &["PyPI Jinja2@3.1"],
            ),
            ("a/x.egg-info", "Name: x\nVersion: 1\n", &["PyPI x@1"]),
            (
                "app/Cargo.lock",
                "version = 3\n\n[[package]]\nname = \"mine\"\nversion = \"0.1.0\"\n\n[[package]]\nname = \"time\"\nversion = \"0.1.43\"\nsource = \"registry+https://github.com/rust-lang/crates.io-index\"\n",
                &["crates.io time@0.1.43"],
            ),
            (
                "app/package-lock.json",
                r#"{"lockfileVersion":3,"packages":{"":{"name":"me","version":"1.0.0"},"node_modules/a":{"version":"1.2.3"},"node_modules/a/node_modules/@s/b":{"version":"2.0.0"},"node_modules/l":{"link":true}}}"#,
                &["npm a@1.2.3", "npm @s/b@2.0.0"],
            ),
            (
                "app/package-lock.json",
                r#"{"dependencies":{"a":{"version":"1.0.0","dependencies":{"b":{"version":"2.0.0"}}}}}"#,
                &["npm a@1.0.0", "npm b@2.0.0"],
            ),
            (
                "app/node_modules/@s/b/package.json",
                r#"{"name":"@s/b","version":"2.0.0"}"#,
                &["npm @s/b@2.0.0"],
            ),
            ("app/package.json", r#"{"name":"me","version":"1.0.0"}"#, &[]),
            ("app/node_modules/a/test/package.json", r#"{"name":"t","version":"1.0.0"}"#, &[]),
            ("app/package-lock.json", "{broken", &[]),
        ] {
            assert_eq!(found(path, text), expect, "{path}");
        }
        let package = Package::new(Ecosystem::Npm, "@s/b", "1.0.0+x");
        assert_eq!(package.purl(), "pkg:npm/%40s/b@1.0.0%2Bx");
    }
}
