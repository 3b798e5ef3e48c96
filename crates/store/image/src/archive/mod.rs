//! Images as one tar file, as `docker save`, `skopeo` and `podman` write and read them.
//!
//! What is written is an OCI image layout and a `docker save` archive at once, over the same blobs, so that
//! every reader finds the form it knows and every digest stays.

mod load;
mod save;

use serde::{Deserialize, Serialize};

use crate::reference::Reference;

const LAYOUT: &str = "oci-layout";
const INDEX: &str = "index.json";
const DOCKER_MANIFEST: &str = "manifest.json";
const BLOBS: &str = "blobs/";
/// Where containerd and docker keep an image's full name in a layout.
const FULL_NAME: &str = "io.containerd.image.name";

/// One image of an archive.
#[derive(Debug, Clone)]
pub struct Archived {
    /// Its names.
    pub names: Vec<Reference>,
    /// The manifest or index.
    pub target: crate::Descriptor,
}

/// An entry of `manifest.json`.
#[derive(Serialize, Deserialize)]
#[serde(rename_all = "PascalCase")]
struct DockerEntry {
    config: String,
    #[serde(default, deserialize_with = "null_is_empty")]
    repo_tags: Vec<String>,
    layers: Vec<String>,
}

fn null_is_empty<'de, D: serde::Deserializer<'de>>(d: D) -> Result<Vec<String>, D::Error> {
    Option::deserialize(d).map(Option::unwrap_or_default)
}
