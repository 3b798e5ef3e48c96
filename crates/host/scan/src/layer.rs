//! What one layer holds, read once and remembered by the layer's digest.

use std::{
    fs,
    io::Read,
    path::{Path, PathBuf},
    time::{Duration, SystemTime},
};

use serde::{Deserialize, Serialize};
use wharf_base::Digest;
use wharf_image::{Dir, Node, View};

use crate::{
    Error,
    packages::{self, Package},
    secrets::{self, Secret},
};

/// Raised whenever more or other things are read from layers.
const EXTRACTOR: u32 = 1;
const MAX_DEPTH: usize = 64;
const MAX_FILES: usize = 2_000_000;
/// What no scan asked for in so long is forgotten.
const CACHE_AGE: Duration = Duration::from_secs(30 * 24 * 3600);

/// The finds of one layer.
#[derive(Debug, Clone, Default, PartialEq, Serialize, Deserialize)]
pub(crate) struct LayerFacts {
    extractor: u32,
    /// Packages by the file that tells of them.
    pub(crate) files: Vec<(String, Vec<Package>)>,
    pub(crate) secrets: Vec<Secret>,
}

/// The finds of a layer unpacked in `folder`, from the cache when it was read before.
pub(crate) fn facts(cache: &Path, diff_id: &Digest, folder: &Path) -> Result<LayerFacts, Error> {
    let path = cache.join(format!("{}.json", diff_id.hex()));
    let known = fs::read(&path).ok().and_then(|bytes| serde_json::from_slice::<LayerFacts>(&bytes).ok());
    if let Some(facts) = known.filter(|facts| facts.extractor == EXTRACTOR) {
        fs::File::open(&path).and_then(|f| f.set_modified(SystemTime::now())).ok();
        return Ok(facts);
    }
    let facts = extract(folder)?;
    // A cache that cannot be written costs time only.
    if let Err(error) = keep(&path, &facts) {
        tracing::debug!(%error, path = %path.display(), "cannot keep what a layer holds");
    }
    Ok(facts)
}

fn keep(path: &Path, facts: &LayerFacts) -> std::io::Result<()> {
    let part = path.with_extension(format!("{}.part", wharf_base::random_hex(8)));
    fs::write(&part, serde_json::to_vec(facts)?)?;
    fs::rename(&part, path)
}

/// Forgets what nobody asked for in a month.
pub(crate) fn sweep(cache: &Path) {
    let now = SystemTime::now();
    for entry in fs::read_dir(cache).into_iter().flatten().flatten() {
        let old = entry.metadata().and_then(|m| m.modified()).ok().and_then(|at| now.duration_since(at).ok());
        if old.is_some_and(|age| age > CACHE_AGE) {
            fs::remove_file(entry.path()).ok();
        }
    }
}

fn extract(folder: &Path) -> Result<LayerFacts, Error> {
    let view = View::overlay(&[folder])?;
    let mut walk =
        Walk { view, facts: LayerFacts { extractor: EXTRACTOR, ..LayerFacts::default() }, files: 0 };
    let root = walk.view.root();
    walk.folder(&root, "", 0)?;
    Ok(walk.facts)
}

struct Walk {
    view: View,
    facts: LayerFacts,
    files: usize,
}

impl Walk {
    fn folder(&mut self, dir: &Dir, path: &str, depth: usize) -> Result<(), Error> {
        for name in self.view.list(dir)? {
            let Some(node) = self.view.child(dir, &name)? else { continue };
            let name = name.to_string_lossy();
            let path = if path.is_empty() { name.into_owned() } else { format!("{path}/{name}") };
            if let Some(dir) = &node.dir {
                if depth < MAX_DEPTH {
                    self.folder(dir, &path, depth + 1)?;
                }
            } else if node.stat.st_mode & 0o170_000 == 0o100_000 {
                self.files += 1;
                if self.files > MAX_FILES {
                    return Err(Error::TooMany(MAX_FILES));
                }
                self.file(&node, path)?;
            }
        }
        Ok(())
    }

    fn file(&mut self, node: &Node, path: String) -> Result<(), Error> {
        let size = u64::try_from(node.stat.st_size).unwrap_or(0);
        if let Some(read) = packages::reader(&path) {
            let found = read(&self.content(node, packages::MAX_FILE)?);
            if !found.is_empty() {
                self.facts.files.push((path, found));
            }
            return Ok(());
        }
        if node.stat.st_mode & 0o111 != 0 && size > 64 {
            let found = packages::of_program(&node.open()?);
            if !found.is_empty() {
                self.facts.files.push((path.clone(), found));
            }
        }
        if size > 0 && size <= secrets::MAX_FILE && secrets::worth_reading(&path) {
            let bytes = self.content(node, secrets::MAX_FILE)?;
            self.facts.secrets.extend(secrets::find(&path, &bytes));
        }
        Ok(())
    }

    fn content(&self, node: &Node, limit: u64) -> Result<Vec<u8>, Error> {
        let mut bytes = Vec::new();
        let read = node.open()?.take(limit).read_to_end(&mut bytes);
        read.map_err(|source| Error::Io { path: PathBuf::from("a file of the layer"), source })?;
        Ok(bytes)
    }
}
