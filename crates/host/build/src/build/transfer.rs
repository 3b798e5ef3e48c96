//! The cache where it can be carried elsewhere: results of steps with their layers, in a folder as an OCI layout, or as an
//! image whose configuration has the results in a field of its own, which any registry takes.
//!
//! ```text
//! index.json -> manifest -> config: the results by key (JSON);  layers: their layers
//! ```

use std::{
    collections::{BTreeMap, HashMap},
    fs::{self, File},
    io::{self, Read},
    path::{Path, PathBuf},
};

use serde::{Deserialize, Serialize};
use wharf_base::{Digest, random_hex};
use wharf_image::{Descriptor, ImageConfig, Index, Layer, Manifest, Reference, Store, media_type};

use super::executor::{Build, Shared};
use crate::{
    cache::Record,
    error::{Error, IoContext, Result},
    workspace::replace_file,
};

const RESULTS: &str = "application/vnd.wharf.buildcache.results.v1+json";
/// The field of an image's configuration that has results.
pub(super) const FIELD: &str = "wharf.buildcache.v1";
/// BuildKit's inline cache.
const BUILDKIT: &str = "moby.buildkit.cache.v0";
const MAX_RESULTS: u64 = 64 << 20;

/// Where results are.
#[derive(Debug, Clone, PartialEq, Eq)]
pub enum CachePlace {
    /// A folder.
    Folder(PathBuf),
    /// An image of this name. It is pulled before it is read; whoever wants it in a registry pushes it.
    Image(Reference),
}

impl std::fmt::Display for CachePlace {
    fn fmt(&self, f: &mut std::fmt::Formatter<'_>) -> std::fmt::Result {
        match self {
            Self::Folder(folder) => folder.display().fmt(f),
            Self::Image(name) => name.fmt(f),
        }
    }
}

/// Where a build's results go.
#[derive(Debug, Clone, PartialEq, Eq)]
pub struct CacheTarget {
    /// Where.
    pub place: CachePlace,
    /// Results of all stages; otherwise of those the image is made of.
    pub all_stages: bool,
}

#[derive(Serialize, Deserialize)]
pub(super) struct Results {
    results: BTreeMap<String, Record>,
}

/// Results somebody else made. Layers are brought into the store only when a step needs them.
#[derive(Debug)]
pub(crate) struct Imported {
    /// Where layers are that are not in the store.
    folder: Option<PathBuf>,
    results: HashMap<String, Record>,
}

fn blob(folder: &Path, digest: &Digest) -> PathBuf {
    folder.join("blobs").join(digest.algorithm().name()).join(digest.hex())
}

fn document(folder: &Path, digest: &Digest) -> Result<Vec<u8>> {
    let path = blob(folder, digest);
    let mut bytes = Vec::new();
    File::open(&path).at("open", &path)?.take(MAX_RESULTS).read_to_end(&mut bytes).at("read", &path)?;
    match Digest::by(digest.algorithm(), &bytes) == *digest {
        true => Ok(bytes),
        false => Err(Error::host(format!("'{}' is damaged", path.display()))),
    }
}

impl Imported {
    /// The results an image has.
    pub(crate) fn of_image(images: &Store, name: &Reference) -> Result<Self> {
        let config = images.resolve(&name.to_string())?.config;
        let results =
            config.other.get(FIELD).cloned().ok_or_else(|| match config.other.contains_key(BUILDKIT) {
                true => Error::invalid(
                    "the results in the image are BuildKit's, whose keys are not those of steps here",
                ),
                false => Error::invalid("the image has no results of wharf's in it"),
            })?;
        let results: Results = serde_json::from_value(results)
            .map_err(|error| Error::invalid("the results in the image cannot be read").caused_by(error))?;
        Ok(Self { folder: None, results: results.results.into_iter().collect() })
    }

    pub(crate) fn open(folder: &Path) -> Result<Self> {
        let path = folder.join("index.json");
        let index = Index::parse(&fs::read(&path).at("read", &path)?)?;
        let entry = index.manifests.first().ok_or_else(|| Error::invalid("the cache is empty"))?;
        let manifest = Manifest::parse(&document(folder, &entry.digest)?)?;
        if manifest.config.media_type != RESULTS {
            return Err(Error::invalid(format!("'{}' holds no cache of wharf's", folder.display()))
                .hint("caches of other builders cannot be read; name a folder that --cache-to wrote"));
        }
        let bytes = document(folder, &manifest.config.digest)?;
        let results: Results = serde_json::from_slice(&bytes)
            .map_err(|error| Error::invalid("the results in the cache cannot be read").caused_by(error))?;
        Ok(Self { folder: Some(folder.to_owned()), results: results.results.into_iter().collect() })
    }

    fn take(&self, key: &Digest, build: &Build<'_>) -> Option<Record> {
        let record = self.results.get(&key.hex())?;
        if let Some(layer) = record.layer()
            && !build.builder.images.blobs().touch(&layer.descriptor.digest)
        {
            let mut from = File::open(blob(self.folder.as_deref()?, &layer.descriptor.digest)).ok()?;
            let mut writer = build.builder.images.blobs().writer().ok()?;
            io::copy(&mut from, &mut writer).ok()?;
            // What is not what its digest says is as if it were not there.
            writer.commit(Some(&layer.descriptor.digest)).ok()?;
        }
        build.builder.records.put(key, record).ok()?;
        Some(record.clone())
    }
}

impl Build<'_> {
    /// A result of one of the caches the build was given.
    pub(crate) fn imported(&self, key: &Digest) -> Option<Record> {
        self.imports.iter().find_map(|imported| imported.take(key, self))
    }
}

impl Shared<'_> {
    /// Writes the results of the build.
    pub(super) fn export_cache(&self, target: &CacheTarget, image: &[Digest]) -> Result<()> {
        match &target.place {
            CachePlace::Folder(folder) => self.export_folder(folder, target.all_stages, image),
            CachePlace::Image(name) => self.export_image(name, target.all_stages, image),
        }
    }

    /// Results and their layers; of all stages, or those the image is made of.
    pub(super) fn results_of(&self, all_stages: bool, image: &[Digest]) -> (Results, Vec<Layer>) {
        let (mut results, mut layers) = (BTreeMap::new(), BTreeMap::new());
        for (key, record) in self.results_so_far() {
            if let Some(layer) = record.layer() {
                if !all_stages && !image.contains(&layer.descriptor.digest) {
                    continue;
                }
                layers.insert(layer.descriptor.digest.hex(), layer);
            }
            results.insert(key.hex(), record);
        }
        (Results { results }, layers.into_values().collect())
    }

    fn export_image(&self, name: &Reference, all_stages: bool, image: &[Digest]) -> Result<()> {
        let (results, layers) = self.results_of(all_stages, image);
        let mut config = ImageConfig::for_host();
        config
            .other
            .insert(FIELD.into(), serde_json::to_value(&results).at("write the results of", "the cache")?);
        let images = &self.builder.images;
        let manifest = images.put_image(config, &layers)?;
        Ok(images.tag(std::slice::from_ref(name), &manifest)?)
    }

    fn export_folder(&self, folder: &Path, all_stages: bool, image: &[Digest]) -> Result<()> {
        let blobs = folder.join("blobs/sha256");
        fs::create_dir_all(&blobs).at("create folder", &blobs)?;
        let (results, layers) = self.results_of(all_stages, image);
        layers.iter().try_for_each(|layer| self.export_blob(folder, &layer.descriptor.digest))?;
        let put = |media_type: &str, bytes: &[u8]| -> Result<Descriptor> {
            let digest = Digest::of(bytes);
            replace_file(&blob(folder, &digest), bytes)?;
            Ok(Descriptor::new(media_type, digest, bytes.len() as u64))
        };
        let json = |value: serde_json::Result<Vec<u8>>| value.at("write the cache to", folder);
        let config = put(RESULTS, &json(serde_json::to_vec(&results))?)?;
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            config,
            layers: layers.into_iter().map(|layer| layer.descriptor).collect(),
            other: serde_json::Map::new(),
        };
        let manifest = put(media_type::OCI_MANIFEST, &json(serde_json::to_vec(&manifest))?)?;
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.into()),
            manifests: vec![manifest],
            other: serde_json::Map::new(),
        };
        replace_file(&folder.join("oci-layout"), br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        replace_file(&folder.join("index.json"), &json(serde_json::to_vec(&index))?)
    }

    fn export_blob(&self, folder: &Path, digest: &Digest) -> Result<()> {
        let path = blob(folder, digest);
        if path.exists() {
            return Ok(());
        }
        let draft = path.with_file_name(format!(".{}", random_hex(8)));
        let mut from = self.builder.images.blobs().open_blob(digest)?;
        let written = File::create(&draft)
            .and_then(|mut to| io::copy(&mut from, &mut to))
            .and_then(|_| fs::rename(&draft, &path));
        if written.is_err() {
            let _ = fs::remove_file(&draft);
        }
        written.at("write", &path)
    }
}
