//! An image's packages and what is known against them.

use std::{
    collections::{BTreeMap, BTreeSet},
    os::unix::fs::MetadataExt,
    path::{Path, PathBuf},
};

use serde::Serialize;
use wharf_base::Digest;
use wharf_image::{ResolvedImage, View};

use crate::{
    Error, layer::LayerFacts, osv::Database, packages::Package, secrets::Secret, severity::Severity,
    version::Ecosystem,
};

const MAX_RELEASE_FILE: u64 = 64 << 10;

/// The result of a scan.
#[derive(Debug, Clone, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Report {
    /// The image, by the name it was found under.
    pub image: String,
    /// Its id.
    pub id: Digest,
    /// Its distribution.
    pub os: Option<Os>,
    /// What is installed.
    pub packages: Vec<InstalledPackage>,
    /// What is known against it, the worst first.
    pub findings: Vec<Finding>,
    /// Credentials in it.
    pub secrets: Vec<LayerSecret>,
    /// What limits this report.
    pub notes: Vec<String>,
}

/// A distribution and its release.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct Os {
    /// `ID` of os-release.
    pub id: String,
    /// `VERSION_ID` of os-release.
    pub version: Option<String>,
}

/// A package and where it was found.
#[derive(Debug, Clone, PartialEq, Eq, PartialOrd, Ord, Serialize)]
pub struct InstalledPackage {
    /// The package.
    #[serde(flatten)]
    pub package: Package,
    /// The file that tells of it.
    pub path: String,
    /// The layer that brought it, by the digest of its content.
    pub layer: Digest,
}

/// A credential and the layer it is in.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
pub struct LayerSecret {
    /// The credential.
    #[serde(flatten)]
    pub secret: Secret,
    /// The layer it is in.
    pub layer: Digest,
    /// Whether an upper layer hides it: it is still in the image for everyone who has it.
    pub hidden: bool,
}

/// A vulnerability of an installed package.
#[derive(Debug, Clone, PartialEq, Eq, Serialize)]
#[serde(rename_all = "camelCase")]
pub struct Finding {
    /// The advisory.
    pub id: String,
    /// Its other ids.
    pub aliases: Vec<String>,
    /// The ecosystem of the package.
    pub ecosystem: Ecosystem,
    /// The package.
    pub package: String,
    /// Its version.
    pub version: String,
    /// The version that has the fix, when there is one.
    pub fixed_in: Option<String>,
    /// How bad it is.
    pub severity: Severity,
    /// One line about it.
    pub summary: String,
    /// The file that tells of the package.
    pub path: String,
    /// The layer that brought it.
    pub layer: Digest,
}

impl Report {
    /// The findings that are at least so bad.
    pub fn at_least(&self, severity: Severity) -> impl Iterator<Item = &Finding> {
        self.findings.iter().filter(move |finding| finding.severity >= severity)
    }

    pub(crate) fn match_advisories(&mut self, database: &Database) {
        let release = self.os.as_ref().and_then(release_of);
        let mut found: Vec<Finding> = Vec::new();
        for installed in &self.packages {
            let package = &installed.package;
            let (name, version) = package.advised();
            // A distribution's advisories speak of releases; those of package indexes do not.
            for advisory in database.about(package.ecosystem, name) {
                let hit = advisory.affects(package.ecosystem, release.as_deref(), name, version);
                let Some((fixed_in, severity)) = hit else { continue };
                found.push(Finding {
                    id: advisory.id.clone(),
                    aliases: advisory.aliases.clone(),
                    ecosystem: package.ecosystem,
                    package: package.name.clone(),
                    version: package.version.clone(),
                    fixed_in,
                    severity,
                    summary: advisory.headline(),
                    path: installed.path.clone(),
                    layer: installed.layer,
                });
            }
        }
        self.findings = joined(found);
        self.findings.sort_by(|a, b| {
            b.severity.cmp(&a.severity).then_with(|| (&a.package, &a.id).cmp(&(&b.package, &b.id)))
        });
        if !database.unreadable.is_empty() {
            let first = database.unreadable.first().map(String::as_str).unwrap_or_default();
            self.notes.push(format!("some advisories cannot be read, such as {first}"));
        }
        let distribution = |p: &InstalledPackage| {
            matches!(p.package.ecosystem, Ecosystem::Debian | Ecosystem::Ubuntu | Ecosystem::Alpine)
        };
        if release.is_none() && self.packages.iter().any(distribution) {
            self.notes.push(
                "the image does not say its distribution's release (os-release), so the distribution's packages were not checked".into(),
            );
        }
    }
}

/// The same vulnerability of the same package under several ids is one finding: the worst of their
/// severities, all ids.
fn joined(found: Vec<Finding>) -> Vec<Finding> {
    let mut joined: BTreeMap<(Ecosystem, String, String), Vec<Finding>> = BTreeMap::new();
    for finding in found {
        let key = (finding.ecosystem, finding.package.clone(), finding.version.clone());
        let same = joined.entry(key).or_default();
        let ids = |f: &Finding| -> BTreeSet<String> { f.aliases.iter().chain([&f.id]).cloned().collect() };
        match same.iter_mut().find(|known| !ids(known).is_disjoint(&ids(&finding))) {
            Some(known) => {
                let mut all = ids(known);
                all.extend(ids(&finding));
                all.remove(&known.id);
                known.aliases = all.into_iter().collect();
                known.severity = known.severity.max(finding.severity);
                known.fixed_in = known.fixed_in.take().or(finding.fixed_in);
            }
            None => same.push(finding),
        }
    }
    joined.into_values().flatten().collect()
}

/// The release as OSV writes it.
fn release_of(os: &Os) -> Option<String> {
    let version = os.version.as_ref()?;
    Some(match os.id.as_str() {
        "alpine" => {
            let mut parts = version.split('.');
            format!("v{}.{}", parts.next()?, parts.next()?)
        }
        "debian" => version.split('.').next()?.to_owned(),
        _ => version.clone(),
    })
}

/// Puts the layers' finds together as the image shows them.
pub(crate) fn merge(
    image: &ResolvedImage,
    folders: &[&PathBuf],
    layers: &[LayerFacts],
    view: &View,
) -> Result<Report, Error> {
    let os = os_release(view)?;
    let mut packages = BTreeSet::new();
    let mut secrets = Vec::new();
    let mut notes = Vec::new();
    if os.as_ref().is_some_and(|os| !matches!(os.id.as_str(), "debian" | "ubuntu" | "alpine"))
        && layers.iter().any(|l| l.files.iter().any(|(path, _)| path.starts_with("var/lib/dpkg")))
    {
        notes.push("this distribution has no advisories of its own here; Debian's are used".to_owned());
    }
    for (at, (facts, folder)) in layers.iter().zip(folders).enumerate() {
        for (path, found) in &facts.files {
            if !is_visible(view, folder, path)? {
                continue;
            }
            for package in found {
                let first = first_layer_with(layers, at, path, package);
                let layer = image.layers.get(first).map_or(image.id, |layer| layer.diff_id);
                let package = of_distribution(package.clone(), os.as_ref());
                packages.insert(InstalledPackage { package, path: path.clone(), layer });
            }
        }
        for secret in &facts.secrets {
            let hidden = !is_visible(view, folder, &secret.path)?;
            let layer = image.layers.get(at).map_or(image.id, |layer| layer.diff_id);
            secrets.push(LayerSecret { secret: secret.clone(), layer, hidden });
        }
    }
    let name = image.reference.as_ref().map_or_else(|| image.id.to_string(), |name| name.familiar());
    let packages = packages.into_iter().collect();
    Ok(Report { image: name, id: image.id, os, packages, findings: Vec::new(), secrets, notes })
}

/// Whether the file a layer has at `path` is the one the image shows there.
fn is_visible(view: &View, folder: &Path, path: &str) -> Result<bool, Error> {
    let shown = match view.find(Path::new(path), false) {
        Ok(found) => found.node,
        Err(_) => None,
    };
    let Some(shown) = shown else { return Ok(false) };
    let here = std::fs::symlink_metadata(folder.join(path));
    Ok(here.is_ok_and(|m| m.ino() == shown.stat.st_ino && m.dev() == shown.stat.st_dev))
}

/// The first layer whose list at `path` had the package: later ones carry the whole list along.
fn first_layer_with(layers: &[LayerFacts], at: usize, path: &str, package: &Package) -> usize {
    let has = |facts: &LayerFacts| facts.files.iter().any(|(p, found)| p == path && found.contains(package));
    layers.iter().take(at).position(has).unwrap_or(at)
}

fn of_distribution(package: Package, os: Option<&Os>) -> Package {
    let ubuntu = os.is_some_and(|os| os.id == "ubuntu");
    match package.ecosystem {
        Ecosystem::Debian if ubuntu => Package { ecosystem: Ecosystem::Ubuntu, ..package },
        _ => package,
    }
}

fn os_release(view: &View) -> Result<Option<Os>, Error> {
    for path in ["etc/os-release", "usr/lib/os-release"] {
        if let Some(bytes) = view.read_file(Path::new(path), MAX_RELEASE_FILE)? {
            let text = String::from_utf8_lossy(&bytes).into_owned();
            let field = |name: &str| {
                let value = text.lines().find_map(|line| line.strip_prefix(name)?.strip_prefix('='))?;
                Some(value.trim().trim_matches(['"', '\'']).to_owned()).filter(|v| !v.is_empty())
            };
            return Ok(field("ID").map(|id| Os { id, version: field("VERSION_ID") }));
        }
    }
    Ok(None)
}
