//! In-toto statements, and the manifests that hold them.

use std::collections::BTreeMap;

use serde_json::{Map, Value, json};
use wharf_base::Digest;
use wharf_image::{Descriptor, Index, Manifest, Platform, Reference, Store, media_type};

use super::image_purl;
use crate::error::{Error, Result};

const STATEMENT: &str = "application/vnd.in-toto+json";
const ARTIFACT: &str = "application/vnd.docker.attestation.manifest.v1+json";
const EMPTY_CONFIG: &str = "application/vnd.oci.empty.v1+json";
/// As BuildKit's limit.
const MAX_STATEMENT: usize = 40 << 20;

/// An image with what is attested of it.
#[derive(Debug, Clone)]
pub(crate) struct Attested {
    pub(crate) platform: Platform,
    pub(crate) manifest: Descriptor,
    /// Predicate types and statements.
    pub(crate) statements: Vec<(&'static str, Vec<u8>)>,
}

/// A statement about the image `manifest`, under every name it has.
pub(crate) fn statement(
    kind: &str,
    predicate: &Value,
    manifest: &Digest,
    names: &[Reference],
    platform: &Platform,
) -> Result<Vec<u8>> {
    let subject =
        |name: String| json!({ "name": name, "digest": { manifest.algorithm().name(): manifest.hex() } });
    let mut subjects: Vec<Value> =
        names.iter().map(|name| subject(image_purl("docker", name, platform))).collect();
    if subjects.is_empty() {
        subjects.push(subject("_".into()));
    }
    let statement = json!({
        "_type": "https://in-toto.io/Statement/v1",
        "predicateType": kind,
        "subject": subjects,
        "predicate": predicate,
    });
    let bytes = encode(&statement)?;
    match bytes.len() <= MAX_STATEMENT {
        true => Ok(bytes),
        false => Err(Error::host(format!("the attestation {kind} has more than {MAX_STATEMENT} bytes"))
            .hint("leave --sbom and mode=max out")),
    }
}

fn encode(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|error| Error::host("cannot write an attestation").caused_by(error))
}

/// Stores the index of images and of what is attested of them.
pub(crate) fn put_attestations(store: &Store, images: &[Attested], as_image: bool) -> Result<Descriptor> {
    let mut manifests: Vec<Descriptor> = images
        .iter()
        .map(|image| Descriptor { platform: Some(image.platform.clone()), ..image.manifest.clone() })
        .collect();
    for image in images.iter().filter(|image| !image.statements.is_empty()) {
        manifests.push(put_manifest(store, image, as_image)?);
    }
    let index = Index {
        schema_version: 2,
        media_type: Some(media_type::OCI_INDEX.into()),
        manifests,
        other: Map::new(),
    };
    put(store, media_type::OCI_INDEX, &encode(&index)?)
}

fn put(store: &Store, media_type: &str, bytes: &[u8]) -> Result<Descriptor> {
    Ok(Descriptor::new(media_type, store.blobs().put(bytes)?, bytes.len() as u64))
}

/// The manifest that holds the statements about one image.
fn put_manifest(store: &Store, image: &Attested, as_image: bool) -> Result<Descriptor> {
    let mut layers = Vec::new();
    for (kind, bytes) in &image.statements {
        let mut layer = put(store, STATEMENT, bytes)?;
        layer.annotations.insert("in-toto.io/predicate-type".into(), (*kind).to_owned());
        layers.push(layer);
    }
    let (config, other) = match as_image {
        true => {
            let diff_ids: Vec<Digest> = layers.iter().map(|layer| layer.digest).collect();
            let config = json!({
                "architecture": "unknown", "os": "unknown", "config": {},
                "rootfs": { "type": "layers", "diff_ids": diff_ids },
            });
            (put(store, media_type::OCI_CONFIG, &encode(&config)?)?, Map::new())
        }
        false => {
            let mut config = put(store, EMPTY_CONFIG, b"{}")?;
            config.other.insert("data".into(), "e30=".into());
            let subject =
                Descriptor::new(&image.manifest.media_type, image.manifest.digest, image.manifest.size);
            let subject = serde_json::to_value(subject)
                .map_err(|error| Error::host("cannot write an attestation").caused_by(error))?;
            (config, Map::from_iter([("artifactType".into(), ARTIFACT.into()), ("subject".into(), subject)]))
        }
    };
    let manifest = Manifest {
        schema_version: 2,
        media_type: Some(media_type::OCI_MANIFEST.into()),
        config,
        layers,
        other,
    };
    let stored = put(store, media_type::OCI_MANIFEST, &encode(&manifest)?)?;
    let unknown = Platform { architecture: "unknown".into(), os: "unknown".into(), variant: None };
    let annotations = BTreeMap::from([
        ("vnd.docker.reference.digest".to_owned(), image.manifest.digest.to_string()),
        ("vnd.docker.reference.type".to_owned(), "attestation-manifest".to_owned()),
    ]);
    Ok(Descriptor { platform: Some(unknown), annotations, ..stored })
}
