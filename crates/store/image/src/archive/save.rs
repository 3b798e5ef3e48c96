//! Images into an archive.

use std::{collections::BTreeSet, io::Write};

use wharf_base::Digest;

use super::{Archived, BLOBS, DOCKER_MANIFEST, DockerEntry, FULL_NAME, INDEX, LAYOUT};
use crate::{
    error::{Error, IoContext, Result},
    layer::{TarEntry, TarKind, TarWriter},
    manifest::{Descriptor, Index, Manifest, media_type},
    refs::REF_NAME,
    store::Store,
};

impl Store {
    /// Writes images as one archive. Of an index that is not here in full, the manifest for this machine
    /// is written.
    pub fn save(&self, images: &[Archived], out: impl Write) -> Result<()> {
        let mut plan = Plan::default();
        for image in images {
            self.plan(image, &mut plan)?;
        }
        let mut tar = TarWriter::new(out);
        let mut file = |name: &str, content: &[u8]| {
            let mut entry = TarEntry::new(name, TarKind::File, 0o644);
            entry.size = content.len() as u64;
            tar.append(&entry, content).at("write archive entry", name)
        };
        file(LAYOUT, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        file(INDEX, &json(&plan.index)?)?;
        file(DOCKER_MANIFEST, &json(&plan.docker)?)?;
        for digest in plan.blobs {
            let blob = self.blobs.open_blob(&digest)?;
            let mut entry = TarEntry::new(place(&digest), TarKind::File, 0o644);
            entry.size = blob.metadata().at("read blob", self.blobs.path(&digest))?.len();
            tar.append(&entry, blob).at("write archive entry", entry.name())?;
        }
        let ended = tar.finish().and_then(|mut out| out.flush());
        ended.at("write archive", DOCKER_MANIFEST)
    }

    fn plan(&self, image: &Archived, plan: &mut Plan) -> Result<()> {
        let mut target = image.target.clone();
        if media_type::is_index(&target.media_type) {
            let index = Index::parse(&self.document(&target.digest)?)?;
            if index.manifests.iter().all(|d| self.blobs.size(&d.digest).is_some()) {
                plan.blobs.insert(target.digest);
                for child in &index.manifests {
                    self.plan_manifest(&child.digest, plan)?;
                }
            } else {
                let (digest, _) = self.manifest(&target)?;
                let chosen = index.manifests.into_iter().find(|d| d.digest == digest);
                target = chosen.ok_or(Error::NoBlob(digest))?;
            }
        }
        match self.manifest(&target) {
            Ok((digest, manifest)) => {
                self.plan_manifest(&digest, plan)?;
                plan.docker.push(DockerEntry {
                    config: place(&manifest.config.digest),
                    repo_tags: image
                        .names
                        .iter()
                        .filter(|n| n.tag().is_some())
                        .map(|n| n.familiar())
                        .collect(),
                    layers: manifest.layers.iter().map(|layer| place(&layer.digest)).collect(),
                });
            }
            // An index of other platforms is in the layout alone: docker's form knows one image by a name.
            Err(Error::Platform { .. }) => {}
            Err(error) => return Err(error),
        }
        let mut entry = Descriptor::new(&target.media_type, target.digest, target.size);
        if image.names.is_empty() {
            plan.index.manifests.push(entry.clone());
        }
        for name in &image.names {
            entry.annotations.insert(FULL_NAME.into(), name.to_string());
            entry.annotations.insert(REF_NAME.into(), name.selector());
            plan.index.manifests.push(entry.clone());
        }
        Ok(())
    }

    fn plan_manifest(&self, digest: &Digest, plan: &mut Plan) -> Result<()> {
        let manifest = Manifest::parse(&self.document(digest)?)?;
        plan.blobs.insert(*digest);
        plan.blobs.insert(manifest.config.digest);
        plan.blobs.extend(manifest.layers.iter().map(|layer| layer.digest));
        Ok(())
    }
}

fn json(value: &impl serde::Serialize) -> Result<Vec<u8>> {
    serde_json::to_vec(value).map_err(|e| Error::document("archive", format!("cannot be written: {e}")))
}

/// What an archive will hold.
struct Plan {
    index: Index,
    docker: Vec<DockerEntry>,
    blobs: BTreeSet<Digest>,
}

impl Default for Plan {
    fn default() -> Self {
        let index = Index {
            schema_version: 2,
            media_type: Some(media_type::OCI_INDEX.into()),
            manifests: Vec::new(),
            other: serde_json::Map::new(),
        };
        Self { index, docker: Vec::new(), blobs: BTreeSet::new() }
    }
}

/// Where a blob is in an archive.
fn place(digest: &Digest) -> String {
    format!("{BLOBS}{}/{}", digest.algorithm().name(), digest.hex())
}
