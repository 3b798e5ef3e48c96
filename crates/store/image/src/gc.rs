//! Removes what no name, lease or build record reaches any more, and says what takes space.

use std::{
    collections::HashSet,
    fs,
    os::unix::fs::MetadataExt,
    path::Path,
    time::{Duration, SystemTime},
};

use rustix::fs::FlockOperation;
use wharf_base::{Algorithm, Digest};

use crate::{
    error::{IoContext, Result},
    fsx,
    manifest::{ImageConfig, Index, Manifest},
    store::Store,
};

/// What a collection spares besides names and leases.
#[derive(Debug, Clone)]
pub struct GcOptions {
    /// Blobs and layers younger than this stay: a push may be about to name them.
    pub grace: Duration,
    /// Blobs and layers (by diff-id) that stay, such as those of the build cache.
    pub keep: HashSet<Digest>,
}

impl Default for GcOptions {
    fn default() -> Self {
        Self { grace: Duration::from_secs(3600), keep: HashSet::new() }
    }
}

/// What a collection removed.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct GcReport {
    /// Blobs removed.
    pub blobs: u64,
    /// Unpacked layers removed.
    pub layers: u64,
    /// Bytes of the removed blobs.
    pub bytes: u64,
}

/// What the store takes on disk.
#[derive(Debug, Clone, Copy, Default, PartialEq, Eq)]
pub struct DiskUsage {
    /// Number of names.
    pub references: u64,
    /// Number of blobs.
    pub blobs: u64,
    /// Their bytes.
    pub blob_bytes: u64,
    /// Number of unpacked layers.
    pub layers: u64,
    /// Bytes of the unpacked layers.
    pub layer_bytes: u64,
}

impl Store {
    /// Removes blobs and unpacked layers that nothing reaches.
    pub fn gc(&self, options: &GcOptions) -> Result<GcReport> {
        let _alone = fsx::lock(&self.data_dir.join("gc.lock"), FlockOperation::LockExclusive)?;
        let mut reached = self.reached()?;
        reached.extend(&options.keep);
        let mut report = GcReport::default();
        let now = SystemTime::now();
        let blobs = self.blobs.dirs().iter().map(|dir| digest_names(dir)).collect::<Result<Vec<_>>>()?;
        for (path, digest) in blobs.into_iter().flatten() {
            let Ok(meta) = fs::metadata(&path) else { continue };
            if !reached.contains(&digest) && is_older(&meta, now, options.grace) {
                fs::remove_file(&path).at("remove blob", &path)?;
                report.blobs += 1;
                report.bytes += meta.len();
            }
        }
        for (path, digest) in digest_names(&self.layers)? {
            let Ok(meta) = fs::metadata(path.join("boot")) else { continue };
            if !reached.contains(&digest) && is_older(&meta, now, options.grace) {
                // Out of its name first, so that nobody takes a half-removed folder for a layer.
                let going = self.layers.join("tmp").join(digest.hex());
                fs::rename(&path, &going).at("remove layer", &path)?;
                fsx::remove_any(&going).at("remove layer", &going)?;
                report.layers += 1;
            }
        }
        Ok(report)
    }

    /// Removes one blob now, unless a name or a lease leads to it; whether it was removed.
    pub fn remove_blob(&self, digest: &Digest) -> Result<bool> {
        let _alone = fsx::lock(&self.data_dir.join("gc.lock"), FlockOperation::LockExclusive)?;
        if self.reached()?.contains(digest) {
            return Ok(false);
        }
        let path = self.blobs.path(digest);
        fs::remove_file(&path).at("remove blob", &path)?;
        Ok(true)
    }

    /// Everything that names and leases lead to.
    fn reached(&self) -> Result<HashSet<Digest>> {
        let mut reached = HashSet::new();
        for entry in self.all_references()? {
            self.reach(entry.target.digest, &mut reached);
        }
        reached.extend(self.leased()?);
        Ok(reached)
    }

    /// Everything that leases lead to: blobs, and unpacked layers by diff-id.
    pub fn leased(&self) -> Result<HashSet<Digest>> {
        let mut leased = HashSet::new();
        for digest in self.leases.all()?.into_iter().flat_map(|(_, manifests)| manifests) {
            self.reach(digest, &mut leased);
        }
        Ok(leased)
    }

    /// Adds everything `digest` leads to. A document that cannot be read leads nowhere: it must not
    /// keep the rest from being collected.
    fn reach(&self, digest: Digest, reached: &mut HashSet<Digest>) {
        if !reached.insert(digest) {
            return;
        }
        let Ok(bytes) = self.document(&digest) else { return };
        if let Ok(manifest) = Manifest::parse(&bytes) {
            reached.insert(manifest.config.digest);
            reached.extend(manifest.layers.iter().map(|l| l.digest));
            let config = self.document(&manifest.config.digest).and_then(|b| ImageConfig::parse(&b));
            reached.extend(config.iter().flat_map(|c| &c.rootfs.diff_ids));
        } else if let Ok(index) = Index::parse(&bytes) {
            for manifest in &index.manifests {
                self.reach(manifest.digest, reached);
            }
        }
    }

    /// What the store takes on disk.
    pub fn disk_usage(&self) -> Result<DiskUsage> {
        let mut usage = DiskUsage { references: self.references()?.len() as u64, ..DiskUsage::default() };
        let blobs = self.blobs.dirs().iter().map(|dir| digest_names(dir)).collect::<Result<Vec<_>>>()?;
        for (path, _) in blobs.into_iter().flatten() {
            usage.blobs += 1;
            usage.blob_bytes += fs::metadata(&path).map_or(0, |m| m.len());
        }
        for (_, bytes) in self.layer_sizes()? {
            usage.layers += 1;
            usage.layer_bytes += bytes;
        }
        Ok(usage)
    }

    /// The unpacked layers by diff-id, with what each takes on disk.
    pub fn layer_sizes(&self) -> Result<Vec<(Digest, u64)>> {
        let layers = digest_names(&self.layers)?.into_iter();
        Ok(layers.map(|(path, digest)| (digest, bytes_below(&path))).collect())
    }
}

fn is_older(meta: &fs::Metadata, now: SystemTime, grace: Duration) -> bool {
    meta.modified().is_ok_and(|at| now.duration_since(at).is_ok_and(|age| age >= grace))
}

/// The entries of a folder whose names are digests.
fn digest_names(dir: &Path) -> Result<Vec<(std::path::PathBuf, Digest)>> {
    let mut found = Vec::new();
    for entry in fs::read_dir(dir).at("list", dir)? {
        let entry = entry.at("list", dir)?;
        let name = entry.file_name();
        let digest =
            name.to_str().and_then(|hex| Algorithm::ALL.into_iter().find_map(|known| known.digest(hex)));
        if let Some(digest) = digest {
            found.push((entry.path(), digest));
        }
    }
    Ok(found)
}

/// What the files below a folder take on disk in bytes, one with several names counted once; what cannot be read counts
/// nothing.
pub fn bytes_below(dir: &Path) -> u64 {
    fsx::sum_below(dir, |meta| meta.blocks() * 512)
}
