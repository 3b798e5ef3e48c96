//! What names of other registries stood for when they were last asked for: a pull-through cache has their content, but
//! no image of it need be whole.

use std::{collections::BTreeMap, fs};

use rustix::fs::FlockOperation;
use serde::{Deserialize, Serialize};

use crate::{
    error::{Error, Result},
    fsx,
    manifest::Descriptor,
    store::Store,
};

const FILE: &str = "cached.json";
const LOCK: &str = "cached.lock";
/// The most names that are kept; those that were kept first go first.
const MAX: usize = 4096;

#[derive(Default, Serialize, Deserialize)]
struct Names {
    /// Counts what was kept.
    last: u64,
    names: BTreeMap<String, Entry>,
}

#[derive(Serialize, Deserialize)]
struct Entry {
    at: u64,
    target: Descriptor,
}

impl Names {
    fn keep(&mut self, name: &str, target: &Descriptor) {
        self.last += 1;
        self.names.insert(name.to_owned(), Entry { at: self.last, target: target.clone() });
        while self.names.len() > MAX {
            let oldest = self.names.iter().min_by_key(|(_, entry)| entry.at);
            let Some(oldest) = oldest.map(|(name, _)| name.clone()) else { return };
            self.names.remove(&oldest);
        }
    }
}

impl Store {
    /// What a name stood for when it was last asked for.
    pub fn cached(&self, name: &str) -> Option<Descriptor> {
        self.cached_names().names.remove(name).map(|entry| entry.target)
    }

    /// Keeps what a name stands for.
    ///
    /// # Errors
    /// When the file cannot be written.
    pub fn keep_cached(&self, name: &str, target: &Descriptor) -> Result<()> {
        let _alone = fsx::lock(&self.data_dir.join(LOCK), FlockOperation::LockExclusive)?;
        let mut names = self.cached_names();
        names.keep(name, target);
        let bytes = serde_json::to_vec(&names).map_err(|e| Error::document(FILE, e.to_string()))?;
        fsx::replace_file(&self.data_dir.join(FILE), &bytes)
    }

    /// A file that cannot be read is as none: a cache can be filled anew.
    fn cached_names(&self) -> Names {
        let read = fs::read(self.data_dir.join(FILE)).ok();
        read.and_then(|bytes| serde_json::from_slice(&bytes).ok()).unwrap_or_default()
    }
}

#[cfg(test)]
mod tests {
    use wharf_base::Digest;

    use super::*;

    #[test]
    fn the_oldest_go_and_a_broken_file_is_none() {
        let target = |text: &str| Descriptor::new("t", Digest::of(text), 1);
        let mut names = Names::default();
        for n in 0..=MAX {
            names.keep(&format!("{}", MAX - n), &target("x"));
        }
        assert!(names.names.len() == MAX && !names.names.contains_key(&format!("{MAX}")));

        let dir = tempfile::tempdir().unwrap();
        let store = Store::open(dir.path()).unwrap();
        store.keep_cached("a", &target("1")).unwrap();
        store.keep_cached("b", &target("2")).unwrap();
        assert_eq!(Store::open(dir.path()).unwrap().cached("a"), Some(target("1")));
        fs::write(dir.path().join(FILE), "{").unwrap();
        assert_eq!(store.cached("a"), None);
        store.keep_cached("c", &target("3")).unwrap();
        assert_eq!(store.cached("c"), Some(target("3")));
    }
}
