//! Packages in image layers to vulnerabilities, secrets and a bill of materials.
//!
//! Each layer is read once and what it holds is remembered by its digest; an image is the sum of its
//! layers minus what upper ones hide. Advisories come from a folder of OSV files. This room knows nothing of
//! networks: whoever runs it brings the advisories.

mod cvss;
mod layer;
mod osv;
mod packages;
mod report;
mod sbom;
mod secrets;
mod severity;
mod spdx;
mod version;
mod zip;

use std::path::{Path, PathBuf};

use wharf_image::{ResolvedImage, Store, View};

pub use cvss::base_score;
pub use osv::{Advisory, Database};
pub use packages::Package;
pub use report::{Finding, InstalledPackage, LayerSecret, Os, Report};
pub use sbom::cyclonedx;
pub use secrets::Secret;
pub use severity::{Severity, SeverityError};
pub use spdx::{About, spdx};
pub use version::Ecosystem;

/// Why a scan is not done.
#[derive(Debug, thiserror::Error)]
pub enum Error {
    /// The folder of advisories is not there.
    #[error("there is no advisory database at '{}'", .0.display())]
    NoDatabase(PathBuf),
    /// It is there but holds none.
    #[error("'{}' holds no advisory in OSV's JSON form", .0.display())]
    NoAdvisories(PathBuf),
    /// A layer is not sensible.
    #[error("a layer has more than {0} files")]
    TooMany(usize),
    /// The image store failed.
    #[error(transparent)]
    Image(#[from] wharf_image::Error),
    /// A file cannot be read.
    #[error("cannot read '{}'", path.display())]
    Io {
        /// Which.
        path: PathBuf,
        /// Why.
        source: std::io::Error,
    },
}

impl Error {
    /// What the reader can do about it.
    pub fn hint(&self) -> Option<String> {
        match self {
            Self::NoDatabase(_) | Self::NoAdvisories(_) => Some(
                "put advisories there, unpacked or as the archives OSV publishes, such as https://storage.googleapis.com/osv-vulnerabilities/Debian/all.zip (also PyPI, crates.io, npm, Alpine, Ubuntu), or name a folder with --osv".into(),
            ),
            Self::Image(error) => error.hint(),
            _ => None,
        }
    }
}

/// Scans images against one database of advisories.
#[derive(Debug)]
pub struct Scanner {
    database: Database,
}

impl Scanner {
    /// Reads the advisories below `osv_dir`.
    pub fn open(osv_dir: &Path) -> Result<Self, Error> {
        if !osv_dir.is_dir() {
            return Err(Error::NoDatabase(osv_dir.to_owned()));
        }
        Ok(Self { database: Database::open(osv_dir)? })
    }

    /// A scanner over advisories that are here already.
    pub fn new(database: Database) -> Self {
        Self { database }
    }

    /// The advisories.
    pub fn database(&self) -> &Database {
        &self.database
    }

    /// What is in an image, and what is known against it.
    pub fn scan(&self, store: &Store, image: &ResolvedImage) -> Result<Report, Error> {
        let mut report = inventory(store, image)?;
        report.match_advisories(&self.database);
        Ok(report)
    }
}

/// What is in an image, without advisories.
pub fn inventory(store: &Store, image: &ResolvedImage) -> Result<Report, Error> {
    let cache = store.data_dir().join("scan");
    std::fs::create_dir_all(&cache).map_err(|source| Error::Io { path: cache.clone(), source })?;
    layer::sweep(&cache);
    // Folders have the top first, layers the base first.
    let folders: Vec<&PathBuf> = image.lower_dirs.iter().rev().collect();
    let mut layers = Vec::new();
    for (layer, folder) in image.layers.iter().zip(&folders) {
        layers.push(layer::facts(&cache, &layer.diff_id, folder)?);
    }
    let view = View::overlay(&image.lower_dirs)?;
    report::merge(image, &folders, &layers, &view)
}
