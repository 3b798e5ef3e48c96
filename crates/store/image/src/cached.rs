//! What names of other registries stood for when they were last asked for: a pull-through cache has their content, but
//! no image of it need be whole. A file for each name, so that one is kept without the others.

use std::{fs, path::PathBuf, time::SystemTime};

use wharf_base::Digest;

use crate::{
    error::{Error, IoContext, Result},
    fsx,
    manifest::Descriptor,
    store::Store,
};

const FOLDER: &str = "cached";
/// The most names that are kept; those that were kept first go first.
const MAX: usize = 4096;

impl Store {
    /// What a name stood for when it was last asked for. What cannot be read is as unknown: it can be asked for anew.
    pub fn cached(&self, name: &str) -> Option<Descriptor> {
        serde_json::from_slice(&fs::read(self.cached_file(name)).ok()?).ok()
    }

    /// Keeps what a name stands for.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_cached(&self, name: &str, target: &Descriptor) -> Result<()> {
        let (folder, file) = (self.data_dir.join(FOLDER), self.cached_file(name));
        fsx::create_private_dir(&folder)?;
        let new = !file.exists();
        let bytes = serde_json::to_vec(target).map_err(|e| Error::document(FOLDER, e.to_string()))?;
        fsx::replace_file(&file, &bytes)?;
        if new { self.forget_cached(MAX) } else { Ok(()) }
    }

    fn cached_file(&self, name: &str) -> PathBuf {
        self.data_dir.join(FOLDER).join(Digest::of(name).hex())
    }

    /// Removes the oldest names but so many.
    fn forget_cached(&self, most: usize) -> Result<()> {
        let folder = self.data_dir.join(FOLDER);
        let entries = fs::read_dir(&folder).at("list", &folder)?.flatten();
        let mut files: Vec<(SystemTime, PathBuf)> = entries
            .filter_map(|entry| Some((entry.metadata().ok()?.modified().ok()?, entry.path())))
            .collect();
        files.sort();
        for (_, file) in files.iter().take(files.len().saturating_sub(most)) {
            fsx::remove_any(file).at("remove", file)?;
        }
        Ok(())
    }
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn names_are_kept_the_oldest_go_and_what_is_broken_is_none() {
        let target = |text: &str| Descriptor::new("t", Digest::of(text), 1);
        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        assert_eq!(store.cached("a"), None);
        for (name, what) in [("a", "1"), ("b", "2"), ("a", "3")] {
            store.keep_cached(name, &target(what)).unwrap();
        }
        assert_eq!(Store::open(dir.path()).unwrap().cached("a"), Some(target("3")));
        let old = fs::File::open(store.cached_file("b")).unwrap();
        old.set_modified(SystemTime::UNIX_EPOCH).unwrap();
        store.forget_cached(1).unwrap();
        assert_eq!((store.cached("a"), store.cached("b")), (Some(target("3")), None));
        fs::write(store.cached_file("a"), "{").unwrap();
        assert_eq!(store.cached("a"), None);
    }
}
