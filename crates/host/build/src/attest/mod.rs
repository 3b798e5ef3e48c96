//! Attestations: what a build says of the image it made, stored beside the image as BuildKit does.
//!
//! ```text
//! index -> image manifest of each platform
//!       -> attestation manifest of each (platform unknown/unknown) -> in-toto statements
//! ```
//!
//! Formats: BuildKit's `docs/attestations`, in-toto Statement v1, SLSA provenance v1 and v0.2, SPDX 2.3.

mod predicate;
mod purl;
mod statement;
mod steps;

use std::sync::Arc;

use serde_json::Value;
use wharf_base::{Digest, Hinted};
use wharf_image::{ResolvedImage, Store};

pub(crate) use predicate::{ConfigSource, Facts, Material, Named, predicate};
pub(crate) use purl::image_purl;
pub(crate) use statement::{Attested, put_attestations, statement};
pub(crate) use steps::{Op, Traced};

/// Which attestations an image gets.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Attestations {
    /// How the image came to be.
    pub provenance: Option<Provenance>,
    /// Which packages are in it; needs [`crate::Builder::with_bill`].
    pub sbom: bool,
    /// The names the image is attested under; [`crate::BuildRequest::tags`] where there are none.
    pub names: Vec<wharf_image::Reference>,
    /// The manifest of attestations has an image configuration, as older registries want it, and is no OCI artifact.
    pub as_image: bool,
}

impl Attestations {
    /// Whether there is none.
    pub fn is_empty(&self) -> bool {
        self.provenance.is_none() && !self.sbom
    }
}

/// What a provenance tells.
#[derive(Debug, Clone, Default, PartialEq, Eq)]
pub struct Provenance {
    /// `mode=max`: build arguments, names of secrets, every step and the Dockerfile too.
    pub max: bool,
    /// Its format.
    pub version: Slsa,
    /// Who built, as an address.
    pub builder_id: String,
    /// The caller says that the build is reproducible.
    pub reproducible: bool,
}

/// A version of SLSA's provenance.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub enum Slsa {
    /// Version 1, BuildKit's default.
    #[default]
    V1,
    /// Version 0.2.
    V02,
}

impl Slsa {
    pub(crate) fn predicate_type(self) -> &'static str {
        match self {
            Self::V1 => "https://slsa.dev/provenance/v1",
            Self::V02 => "https://slsa.dev/provenance/v0.2",
        }
    }
}

/// The predicate type of a bill of materials.
pub(crate) const SPDX: &str = "https://spdx.dev/Document";

/// What a bill of materials is to say of itself.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct BillRequest {
    /// The image's name, or its digest where it has none.
    pub name: String,
    /// The digest of its manifest.
    pub manifest: Digest,
    /// When it is made, RFC 3339.
    pub created: String,
}

/// Lists the packages of an image as an SPDX document.
pub type Bill = Arc<dyn Fn(&Store, &ResolvedImage, &BillRequest) -> Result<Value, Hinted> + Send + Sync>;
