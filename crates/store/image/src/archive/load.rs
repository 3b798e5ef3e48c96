//! Images out of an archive.

use std::{
    collections::HashMap,
    io::{self, Read},
    path::{Component, Path, PathBuf},
};

use wharf_base::Digest;

use super::{Archived, BLOBS, DOCKER_MANIFEST, DockerEntry, FULL_NAME, INDEX, LAYOUT};
use crate::{
    compress::{Compression, Decoder},
    error::{Error, IoContext, Result},
    layer::{TarKind, TarReader},
    manifest::{Descriptor, ImageConfig, Index, Manifest, media_type},
    reference::Reference,
    refs::REF_NAME,
    store::{Store, pair_layers},
};

const MAX_ENTRIES: usize = 100_000;

impl Store {
    /// Reads an archive (plain, gzip or zstd) into the store and names its images. One that is not
    /// complete, or not what its digests say, names nothing.
    pub fn load(&self, input: impl Read) -> Result<Vec<Archived>> {
        let files = self.read_files(input)?;
        let images = if files.has(LAYOUT) && files.has(INDEX) {
            self.layout_images(&files)?
        } else if files.has(DOCKER_MANIFEST) {
            self.docker_images(&files)?
        } else {
            return Err(archive(
                "is neither an OCI layout (oci-layout, index.json) nor a docker archive (manifest.json)",
            ));
        };
        for image in &images {
            self.check_complete(&image.target)?;
        }
        for image in &images {
            self.tag(&image.names, &image.target)?;
        }
        Ok(images)
    }

    /// Takes every file in as a blob: which of them are needed is known only at the end.
    fn read_files(&self, input: impl Read) -> Result<Files> {
        let mut tar = TarReader::new(Decoder::new(input).at("read archive", "input")?);
        let mut files = Files::default();
        while let Some(entry) = tar.next_entry().map_err(of_archive)? {
            let path = clean(&PathBuf::from(String::from_utf8_lossy(&entry.path).into_owned()));
            if files.blobs.len() + files.links.len() >= MAX_ENTRIES {
                return Err(archive(&format!("has more than {MAX_ENTRIES} entries")));
            }
            match entry.kind {
                TarKind::File => {
                    // In a layout the name says the digest.
                    let digits = path.to_str().and_then(|path| path.strip_prefix(BLOBS));
                    let expected = digits.and_then(|name| name.replacen('/', ":", 1).parse::<Digest>().ok());
                    let mut blob = self
                        .blobs()
                        .writer_by(expected.map(|digest| digest.algorithm()).unwrap_or_default())?;
                    let copied = io::copy(&mut tar, &mut blob).at("write blob of", &path);
                    copied.map_err(|error| error.full_in(self.blobs().dir()))?;
                    let (digest, _) = blob.commit(expected.as_ref())?;
                    files.blobs.insert(path, digest);
                }
                TarKind::Symlink | TarKind::HardLink => {
                    let link = PathBuf::from(String::from_utf8_lossy(&entry.link).into_owned());
                    let base = if entry.kind == TarKind::Symlink { path.parent() } else { None };
                    files.links.insert(path.clone(), clean(&base.unwrap_or(Path::new("")).join(link)));
                }
                _ => {}
            }
        }
        Ok(files)
    }

    fn layout_images(&self, files: &Files) -> Result<Vec<Archived>> {
        let index = Index::parse(&self.document(&files.get(INDEX)?)?)?;
        let mut images: Vec<Archived> = Vec::new();
        for entry in index.manifests {
            let target = Descriptor::new(&entry.media_type, entry.digest, entry.size);
            let full = entry.annotations.get(FULL_NAME);
            // A bare word here is a tag without its image's name.
            let short = entry.annotations.get(REF_NAME).filter(|name| name.contains([':', '/']));
            let name: Option<Reference> = full.or(short).map(|name| name.parse()).transpose()?;
            match images.iter_mut().find(|image| image.target.digest == target.digest) {
                Some(image) => image.names.extend(name),
                None => images.push(Archived { names: name.into_iter().collect(), target }),
            }
        }
        Ok(images)
    }

    fn docker_images(&self, files: &Files) -> Result<Vec<Archived>> {
        let bytes = self.document(&files.get(DOCKER_MANIFEST)?)?;
        let entries: Vec<DockerEntry> = serde_json::from_slice(&bytes)
            .map_err(|e| archive(&format!("has a manifest.json that cannot be read: {e}")))?;
        entries.iter().map(|entry| self.docker_image(files, entry)).collect()
    }

    fn docker_image(&self, files: &Files, entry: &DockerEntry) -> Result<Archived> {
        let names = entry.repo_tags.iter().map(|name| name.parse()).collect::<Result<Vec<Reference>>>()?;
        let id = files.get(&entry.config)?;
        let bytes = self.document(&id)?;
        let config = ImageConfig::parse(&bytes)?;
        let mut layers = Vec::new();
        for (at, path) in entry.layers.iter().enumerate() {
            let digest = files.get(path)?;
            let (compression, size) = self.compression_of(&digest)?;
            if compression == Compression::None
                && let Some(expected) = config.rootfs.diff_ids.get(at)
                && *expected != digest
            {
                let what = format!("archive entry '{path}'");
                return Err(Error::mismatch(what, *expected, digest));
            }
            layers.push(Descriptor::new(compression.layer_media_type(), digest, size));
        }
        let manifest = Manifest {
            schema_version: 2,
            media_type: Some(media_type::OCI_MANIFEST.into()),
            config: Descriptor::new(media_type::OCI_CONFIG, id, bytes.len() as u64),
            layers,
            other: serde_json::Map::new(),
        };
        let bytes = serde_json::to_vec(&manifest)
            .map_err(|e| Error::document("manifest", format!("cannot be written: {e}")))?;
        let digest = self.blobs().put(&bytes)?;
        Ok(Archived { names, target: Descriptor::new(media_type::OCI_MANIFEST, digest, bytes.len() as u64) })
    }

    fn compression_of(&self, digest: &Digest) -> Result<(Compression, u64)> {
        let file = self.blobs().open_blob(digest)?;
        let size = file.metadata().at("read blob", self.blobs().path(digest))?.len();
        let decoder = Decoder::new(file).at("read blob", self.blobs().path(digest))?;
        Ok((decoder.compression(), size))
    }

    /// Whether everything the image for this machine needs is here.
    fn check_complete(&self, target: &Descriptor) -> Result<()> {
        let (digest, manifest) = match self.manifest(target) {
            // Images of other machines alone: none of them is run here.
            Err(Error::Platform { .. }) => return Ok(()),
            found => found?,
        };
        for needed in manifest.layers.iter().chain([&manifest.config]) {
            if self.blobs().size(&needed.digest).is_none() {
                return Err(Error::NoBlob(needed.digest));
            }
        }
        let config = ImageConfig::parse(&self.document(&manifest.config.digest)?)?;
        pair_layers(&digest, manifest.layers, &config).map(|_| ())
    }
}

/// What the tar reader says of layers, said of the archive.
fn of_archive(error: Error) -> Error {
    match error {
        Error::Layer(problem) => archive(&problem),
        other => other,
    }
}

fn archive(problem: &str) -> Error {
    Error::document("image archive", problem)
}

/// A path without `.` and `..`, relative to the archive.
fn clean(path: &Path) -> PathBuf {
    let mut clean = PathBuf::new();
    for part in path.components() {
        match part {
            Component::Normal(name) => clean.push(name),
            Component::ParentDir => {
                clean.pop();
            }
            _ => {}
        }
    }
    clean
}

/// The files of an archive by path.
#[derive(Default)]
struct Files {
    blobs: HashMap<PathBuf, Digest>,
    links: HashMap<PathBuf, PathBuf>,
}

impl Files {
    fn find(&self, path: &str) -> Option<Digest> {
        let mut path = &clean(Path::new(path));
        // Links to links end somewhere or are a ring.
        for _ in 0..10 {
            match self.links.get(path) {
                Some(next) => path = next,
                None => return self.blobs.get(path).copied(),
            }
        }
        None
    }

    fn has(&self, path: &str) -> bool {
        self.find(path).is_some()
    }

    fn get(&self, path: &str) -> Result<Digest> {
        self.find(path)
            .ok_or_else(|| archive(&format!("has no file '{}'", path.chars().take(200).collect::<String>())))
    }
}
