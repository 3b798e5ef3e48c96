//! The documents of an image: index, manifest, configuration (OCI image spec 1.1, Docker schema 2).
//!
//! Documents are read here but never written back: a manifest's digest is that of the bytes received.

use std::collections::BTreeMap;

use serde::{Deserialize, Serialize};
use serde_json::{Map, Value};
use wharf_base::Digest;

use crate::error::{Error, Result};

/// The media types met in the wild.
#[allow(missing_docs, reason = "each name says which type it is")]
pub mod media_type {
    pub const OCI_INDEX: &str = "application/vnd.oci.image.index.v1+json";
    pub const OCI_MANIFEST: &str = "application/vnd.oci.image.manifest.v1+json";
    pub const OCI_CONFIG: &str = "application/vnd.oci.image.config.v1+json";
    pub const OCI_LAYER: &str = "application/vnd.oci.image.layer.v1.tar";
    pub const OCI_LAYER_GZIP: &str = "application/vnd.oci.image.layer.v1.tar+gzip";
    pub const OCI_LAYER_ZSTD: &str = "application/vnd.oci.image.layer.v1.tar+zstd";
    pub const DOCKER_LIST: &str = "application/vnd.docker.distribution.manifest.list.v2+json";
    pub const DOCKER_MANIFEST: &str = "application/vnd.docker.distribution.manifest.v2+json";
    pub const DOCKER_CONFIG: &str = "application/vnd.docker.container.image.v1+json";
    pub const DOCKER_LAYER: &str = "application/vnd.docker.image.rootfs.diff.tar.gzip";

    /// Whether this is the type of an index or manifest list.
    pub fn is_index(media_type: &str) -> bool {
        matches!(media_type, OCI_INDEX | DOCKER_LIST)
    }
}

/// The largest manifest, index or configuration accepted: registries allow 4 MiB.
pub(crate) const MAX_DOCUMENT: u64 = 4 << 20;
const MAX_LAYERS: usize = 500;

/// A pointer to content.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq)]
#[serde(rename_all = "camelCase")]
pub struct Descriptor {
    /// What kind of content.
    pub media_type: String,
    /// Its digest.
    pub digest: Digest,
    /// Its size in bytes.
    pub size: u64,
    /// For which machines it is, in an index.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub platform: Option<Platform>,
    /// Free annotations.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty")]
    pub annotations: BTreeMap<String, String>,
    /// What this version does not name.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Descriptor {
    /// A descriptor without platform and annotations.
    pub fn new(media_type: impl Into<String>, digest: Digest, size: u64) -> Self {
        Self {
            media_type: media_type.into(),
            digest,
            size,
            platform: None,
            annotations: BTreeMap::new(),
            other: Map::new(),
        }
    }
}

/// An operating system and processor.
#[derive(Debug, Clone, Serialize, Deserialize, PartialEq, Eq, Default)]
pub struct Platform {
    /// Processor, in Go's words (`amd64`, `arm64`).
    #[serde(default)]
    pub architecture: String,
    /// Operating system (`linux`).
    #[serde(default)]
    pub os: String,
    /// Processor variant (`v8`).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub variant: Option<String>,
}

impl Platform {
    /// The platform of this machine.
    pub fn host() -> Self {
        let architecture = match std::env::consts::ARCH {
            "x86_64" => "amd64",
            "aarch64" => "arm64",
            "x86" => "386",
            "powerpc64" => "ppc64le",
            other => other,
        };
        Self { architecture: architecture.into(), os: "linux".into(), variant: None }
    }

    fn runs(&self, offered: &Self) -> bool {
        offered.os == self.os && offered.architecture == self.architecture
    }
}

impl std::fmt::Display for Platform {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        write!(f, "{}/{}", self.os, self.architecture)?;
        self.variant.as_ref().map_or(Ok(()), |v| write!(f, "/{v}"))
    }
}

/// An index or manifest list: one image for several platforms.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Index {
    /// Always 2.
    pub schema_version: u32,
    /// Its own type, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The manifests.
    #[serde(default)]
    pub manifests: Vec<Descriptor>,
    /// What this version does not name.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Index {
    /// Reads an index.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        document("index", bytes)
    }

    /// The manifest that runs on `platform`.
    pub fn choose(&self, digest: &Digest, platform: &Platform) -> Result<&Descriptor> {
        let named = |d: &&Descriptor| d.platform.as_ref().is_some_and(|p| platform.runs(p));
        let exact = |d: &&Descriptor| named(d) && d.platform.as_ref() == Some(platform);
        let single = || match self.manifests.as_slice() {
            [only] if only.platform.is_none() => Some(only),
            _ => None,
        };
        let found = self.manifests.iter().find(exact).or_else(|| self.manifests.iter().find(named));
        found.or_else(single).ok_or_else(|| {
            let images = self.manifests.iter().filter_map(|d| d.platform.as_ref());
            // What is about an image, such as its attestations, is for no platform.
            let mut available: Vec<_> =
                images.filter(|p| p.os != "unknown").map(Platform::to_string).collect();
            available.truncate(20);
            Error::Platform {
                digest: Box::new(*digest),
                wanted: platform.to_string(),
                available: if available.is_empty() { "none".into() } else { available.join(", ") },
            }
        })
    }
}

/// An image manifest: a configuration and layers, the base first.
#[derive(Debug, Clone, Serialize, Deserialize)]
#[serde(rename_all = "camelCase")]
pub struct Manifest {
    /// Always 2.
    pub schema_version: u32,
    /// Its own type, where given.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub media_type: Option<String>,
    /// The configuration.
    pub config: Descriptor,
    /// The layers, the base first.
    #[serde(default)]
    pub layers: Vec<Descriptor>,
    /// What this version does not name.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl Manifest {
    /// Reads a manifest.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let manifest: Self = document("manifest", bytes)?;
        if manifest.layers.len() > MAX_LAYERS {
            return Err(Error::document("manifest", format!("has more than {MAX_LAYERS} layers")));
        }
        Ok(manifest)
    }
}

fn document<T: for<'de> Deserialize<'de>>(what: &str, bytes: &[u8]) -> Result<T> {
    #[derive(Deserialize)]
    #[serde(rename_all = "camelCase")]
    struct Version {
        schema_version: Option<u32>,
    }
    let version: Version = parse_json(what, bytes)?;
    match version.schema_version {
        Some(2) => parse_json(what, bytes),
        Some(1) => Err(Error::document(what, "uses schema version 1, which registries gave up")),
        _ => Err(Error::document(what, "has no schemaVersion 2")),
    }
}

fn parse_json<T: for<'de> Deserialize<'de>>(what: &str, bytes: &[u8]) -> Result<T> {
    serde_json::from_slice(bytes).map_err(|e| Error::document(what, format!("cannot be read: {e}")))
}

/// A JSON object without members, as Docker writes sets.
#[derive(Debug, Clone, Copy, PartialEq, Eq, Default, Serialize, Deserialize)]
pub struct Empty {}

/// The configuration of an image.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct ImageConfig {
    /// When it was made, RFC 3339.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// Who made it.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub author: Option<String>,
    /// Processor it is for.
    #[serde(default)]
    pub architecture: String,
    /// Operating system it is for.
    #[serde(default)]
    pub os: String,
    /// How containers of it run.
    #[serde(default, deserialize_with = "null_is_default")]
    pub config: ContainerConfig,
    /// The layers by the digests of their uncompressed content.
    pub rootfs: RootFs,
    /// How each layer came to be.
    #[serde(default, deserialize_with = "null_is_default", skip_serializing_if = "Vec::is_empty")]
    pub history: Vec<History>,
    /// What this version does not name.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

impl ImageConfig {
    /// An empty configuration for this machine.
    pub fn for_host() -> Self {
        let host = Platform::host();
        Self { architecture: host.architecture, os: host.os, ..Self::default() }
    }

    /// Reads a configuration.
    pub fn parse(bytes: &[u8]) -> Result<Self> {
        let config: Self = parse_json("image configuration", bytes)?;
        if config.rootfs.diff_ids.len() > MAX_LAYERS {
            return Err(Error::document("image configuration", format!("has more than {MAX_LAYERS} layers")));
        }
        Ok(config)
    }
}

fn null_is_default<'de, D: serde::Deserializer<'de>, T: Deserialize<'de> + Default>(
    d: D,
) -> Result<T, D::Error> {
    Option::<T>::deserialize(d).map(Option::unwrap_or_default)
}

/// How containers of an image run.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
pub struct ContainerConfig {
    /// `user[:group]`, by name or number.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub user: String,
    /// `PORT/PROTOCOL` the program listens on.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub exposed_ports: BTreeMap<String, Empty>,
    /// `NAME=value`.
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub env: Vec<String>,
    /// The program.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub entrypoint: Option<Vec<String>>,
    /// Its default arguments, or the program when there is no entry point.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub cmd: Option<Vec<String>>,
    /// Folders that hold data.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub volumes: BTreeMap<String, Empty>,
    /// The folder the program starts in.
    #[serde(default, skip_serializing_if = "String::is_empty", deserialize_with = "null_is_default")]
    pub working_dir: String,
    /// Free labels.
    #[serde(default, skip_serializing_if = "BTreeMap::is_empty", deserialize_with = "null_is_default")]
    pub labels: BTreeMap<String, String>,
    /// The signal that asks it to stop.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub stop_signal: Option<String>,
    /// How its health is checked (Docker's extension).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub healthcheck: Option<Healthcheck>,
    /// The shell of shell-form instructions (Docker's extension).
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub shell: Option<Vec<String>>,
    /// Instructions for images built on this one (Docker's extension).
    #[serde(default, skip_serializing_if = "Vec::is_empty", deserialize_with = "null_is_default")]
    pub on_build: Vec<String>,
    /// What this version does not name.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

/// A health check; times in nanoseconds, zero for the default.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize, Default)]
#[serde(rename_all = "PascalCase")]
pub struct Healthcheck {
    /// `["NONE"]`, `["CMD", …]` or `["CMD-SHELL", text]`.
    #[serde(default, skip_serializing_if = "Vec::is_empty")]
    pub test: Vec<String>,
    /// Time between checks.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub interval: i64,
    /// Time one check may take.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub timeout: i64,
    /// Time at the start in which failures do not count.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_period: i64,
    /// Time between checks during the start period.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub start_interval: i64,
    /// Failures in a row that make it unhealthy.
    #[serde(default, skip_serializing_if = "is_zero")]
    pub retries: i64,
}

#[allow(clippy::trivially_copy_pass_by_ref, reason = "serde passes a reference")]
fn is_zero(n: &i64) -> bool {
    *n == 0
}

/// The layers of an image by the digests of their uncompressed content, the base first.
#[derive(Debug, Clone, PartialEq, Eq, Serialize, Deserialize)]
pub struct RootFs {
    /// Always `layers`.
    #[serde(rename = "type", default = "layers")]
    pub kind: String,
    /// The digests.
    #[serde(default, deserialize_with = "null_is_default")]
    pub diff_ids: Vec<Digest>,
}

impl Default for RootFs {
    fn default() -> Self {
        Self { kind: layers(), diff_ids: Vec::new() }
    }
}

fn layers() -> String {
    "layers".into()
}

/// How one layer, or one change of the configuration, came to be.
#[derive(Debug, Clone, PartialEq, Serialize, Deserialize, Default)]
pub struct History {
    /// When.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created: Option<String>,
    /// By which instruction.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub created_by: Option<String>,
    /// A remark.
    #[serde(default, skip_serializing_if = "Option::is_none")]
    pub comment: Option<String>,
    /// Whether it changed the configuration only.
    #[serde(default, skip_serializing_if = "std::ops::Not::not")]
    pub empty_layer: bool,
    /// What this version does not name.
    #[serde(flatten)]
    pub other: Map<String, Value>,
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn reads_docker_configs_with_nulls_and_keeps_the_unknown() {
        let text = format!(
            r#"{{"architecture":"amd64","os":"linux","docker_version":"20.10","config":{{"Env":null,"Cmd":["sh"],"Volumes":null,"Image":"x","OnBuild":null}},
            "rootfs":{{"type":"layers","diff_ids":["sha256:{}"]}},"history":[{{"created_by":"ADD","empty_layer":true}}]}}"#,
            "0".repeat(64)
        );
        let config = ImageConfig::parse(text.as_bytes()).unwrap();
        assert_eq!(config.config.cmd, Some(vec!["sh".into()]));
        assert_eq!(config.other["docker_version"], "20.10");
        let back = serde_json::to_value(&config).unwrap();
        assert_eq!(back["config"]["Image"], "x");
    }

    #[test]
    fn chooses_the_platform_or_says_what_there_is() {
        let descriptor = |arch: &str| Descriptor {
            platform: Some(Platform { architecture: arch.into(), os: "linux".into(), variant: None }),
            ..Descriptor::new(media_type::OCI_MANIFEST, Digest::of(arch), 1)
        };
        let index = Index {
            schema_version: 2,
            media_type: None,
            manifests: vec![descriptor("s390x"), descriptor("amd64")],
            other: Map::new(),
        };
        let amd64 = Platform { architecture: "amd64".into(), os: "linux".into(), variant: None };
        let here = Digest::of("index");
        assert_eq!(index.choose(&here, &amd64).unwrap().digest, Digest::of("amd64"));
        let riscv = Platform { architecture: "riscv64".into(), ..amd64 };
        let said = index.choose(&here, &riscv).unwrap_err().to_string();
        assert!(said.ends_with("has no image for linux/riscv64; it has linux/s390x, linux/amd64"), "{said}");
    }

    #[test]
    fn refuses_other_documents() {
        for bad in [
            "",
            "{}",
            "[]",
            r#"{"schemaVersion":1}"#,
            r#"{"schemaVersion":2}"#,
            r#"{"schemaVersion":2,"config":{"digest":"x"}}"#,
        ] {
            assert!(Manifest::parse(bad.as_bytes()).is_err(), "{bad}");
        }
    }
}
