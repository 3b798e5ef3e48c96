//! `index.json`: which names the store knows, as an OCI image layout keeps them.
//!
//! Readers need no lock, since the file is only ever replaced whole. Writers take `index.lock`.

use std::{fs, io, path::PathBuf};

use rustix::fs::FlockOperation;
use serde_json::Map;
use wharf_base::{Digest, closest};

use crate::{
    error::{Error, IoContext, Result, is_full},
    fsx,
    manifest::{Descriptor, Index},
    reference::Reference,
};

pub(crate) const REF_NAME: &str = "org.opencontainers.image.ref.name";
const CREATED: &str = "org.opencontainers.image.created";

/// One name in the store.
#[derive(Debug, Clone)]
pub struct RefEntry {
    /// The name.
    pub reference: Reference,
    /// The manifest or index it names.
    pub target: Descriptor,
}

impl RefEntry {
    /// When the name was set, as RFC 3339.
    pub fn created(&self) -> Option<&str> {
        self.target.annotations.get(CREATED).map(String::as_str)
    }
}

#[derive(Debug, Clone)]
pub(crate) struct Refs {
    index: PathBuf,
    lock: PathBuf,
    /// A file that holds nothing but room for the next `index.json`.
    reserve: PathBuf,
}

/// As much as the index of a thousand names takes.
const RESERVE: usize = 256 << 10;

impl Refs {
    pub(crate) fn open(data_dir: &std::path::Path) -> Result<Self> {
        let refs = Self {
            index: data_dir.join("index.json"),
            lock: data_dir.join("index.lock"),
            reserve: data_dir.join("reserve"),
        };
        let layout = data_dir.join("oci-layout");
        if !layout.exists() {
            fsx::replace_file(&layout, br#"{"imageLayoutVersion":"1.0.0"}"#)?;
        }
        refs.keep_reserve();
        Ok(refs)
    }

    fn read(&self) -> Result<Index> {
        match fs::read(&self.index) {
            Ok(bytes) => Index::parse(&bytes),
            Err(e) if e.kind() == io::ErrorKind::NotFound => {
                Ok(Index { schema_version: 2, media_type: None, manifests: Vec::new(), other: Map::new() })
            }
            Err(e) => Err(e).at("read", &self.index),
        }
    }

    pub(crate) fn list(&self) -> Result<Vec<RefEntry>> {
        let mut entries: Vec<_> = self
            .read()?
            .manifests
            .into_iter()
            .filter_map(|target| {
                let reference = target.annotations.get(REF_NAME)?.parse().ok()?;
                Some(RefEntry { reference, target })
            })
            .collect();
        entries.sort_by(|a, b| a.reference.cmp(&b.reference));
        Ok(entries)
    }

    /// The target of a name; a name with a digest is found by that digest in its repository.
    pub(crate) fn get(&self, reference: &Reference) -> Result<Descriptor> {
        let entries = self.list()?;
        let found = match reference.digest() {
            Some(digest) => entries
                .iter()
                .find(|e| e.target.digest == digest && e.reference.repository() == reference.repository()),
            None => entries.iter().find(|e| e.reference == *reference),
        };
        match found {
            Some(entry) => Ok(entry.target.clone()),
            None => Err(no_image(reference, &entries)),
        }
    }

    /// Applies `change` to the list of names, alone and all at once.
    fn update<T>(&self, change: impl FnOnce(&mut Vec<Descriptor>) -> T) -> Result<T> {
        let _guard = fsx::lock(&self.lock, FlockOperation::LockExclusive)?;
        let mut index = self.read()?;
        let before = index.manifests.clone();
        let value = change(&mut index.manifests);
        if index.manifests != before {
            let bytes = serde_json::to_vec(&index)
                .map_err(|e| Error::document("index.json", format!("cannot be written: {e}")))?;
            self.write(&bytes, index.manifests.len() < before.len())?;
        }
        Ok(value)
    }

    /// Where names are taken away on a full disk, the reserve makes room.
    fn write(&self, bytes: &[u8], fewer: bool) -> Result<()> {
        match fsx::replace_file(&self.index, bytes) {
            Err(Error::Io { source, .. })
                if fewer && is_full(&source) && fs::remove_file(&self.reserve).is_ok() =>
            {
                let written = fsx::replace_file(&self.index, bytes);
                self.keep_reserve();
                written
            }
            written => written,
        }
    }

    /// Without room for it there is none.
    fn keep_reserve(&self) {
        if !self.reserve.exists() && fs::write(&self.reserve, [0; RESERVE]).is_err() {
            let _ = fs::remove_file(&self.reserve);
        }
    }

    pub(crate) fn set(&self, names: &[Reference], target: &Descriptor, now: &str) -> Result<()> {
        self.update(|entries| {
            for name in names {
                let text = name.to_string();
                if entries.iter().any(|d| is_named(d, &text) && d.digest == target.digest) {
                    continue;
                }
                entries.retain(|d| !is_named(d, &text));
                entries.push(named(target, text, now));
            }
        })
    }

    /// As [`Refs::set`] for one name; what it named before stays in its repository by digest.
    pub(crate) fn replace(&self, name: &Reference, target: &Descriptor, now: &str) -> Result<()> {
        let text = name.to_string();
        self.update(|entries| {
            if entries.iter().any(|d| is_named(d, &text) && d.digest == target.digest) {
                return;
            }
            unname(entries, name, &text);
            let pinned = |d: &Descriptor| is_named(d, &format!("{}@{}", name.repository(), target.digest));
            // A tag holds it from now on.
            entries.retain(|d| !pinned(d));
            entries.push(named(target, text, now));
        })
    }

    /// Removes a tag as registries do: its manifest stays in the repository by digest.
    pub(crate) fn remove_tag(&self, name: &Reference) -> Result<Option<Digest>> {
        let text = name.to_string();
        self.update(|entries| unname(entries, name, &text))
    }

    pub(crate) fn remove(&self, name: &Reference) -> Result<Option<Digest>> {
        let text = name.to_string();
        self.update(|entries| {
            let at = entries.iter().position(|d| d.annotations.get(REF_NAME) == Some(&text))?;
            Some(entries.remove(at).digest)
        })
    }

    /// Removes every name of `repository` that points at `digest`; how many there were.
    pub(crate) fn remove_digest(&self, repository: &str, digest: &Digest) -> Result<usize> {
        self.update(|entries| {
            let before = entries.len();
            entries.retain(|d| {
                d.digest != *digest
                    || d.annotations
                        .get(REF_NAME)
                        .and_then(|n| n.parse::<Reference>().ok())
                        .is_none_or(|r| r.repository() != repository)
            });
            before - entries.len()
        })
    }
}

fn is_named(entry: &Descriptor, name: &str) -> bool {
    entry.annotations.get(REF_NAME).is_some_and(|n| n == name)
}

fn named(target: &Descriptor, name: String, now: &str) -> Descriptor {
    let mut entry = Descriptor::new(&target.media_type, target.digest, target.size);
    entry.annotations.insert(REF_NAME.into(), name);
    entry.annotations.insert(CREATED.into(), now.into());
    entry
}

/// Takes a tag off its manifest, which stays by digest unless another tag of the repository has it.
fn unname(entries: &mut Vec<Descriptor>, name: &Reference, text: &str) -> Option<Digest> {
    let at = entries.iter().position(|d| is_named(d, text))?;
    let mut old = entries.remove(at);
    let digest = old.digest;
    let repository = name.repository();
    let held = entries.iter().filter(|d| d.digest == digest).any(|d| {
        let other = d.annotations.get(REF_NAME).and_then(|n| n.parse::<Reference>().ok());
        other.is_some_and(|r| r.repository() == repository)
    });
    if !held {
        old.annotations.insert(REF_NAME.into(), format!("{repository}@{digest}"));
        entries.push(old);
    }
    Some(digest)
}

fn no_image(reference: &Reference, entries: &[RefEntry]) -> Error {
    let name = reference.familiar();
    let known: Vec<_> = entries.iter().map(|e| e.reference.familiar()).collect();
    let similar = closest(&name, known.iter().map(String::as_str)).map(str::to_owned);
    Error::NoImage { name, similar }
}

#[cfg(test)]
mod tests {
    use super::*;
    use crate::manifest::media_type;

    #[test]
    fn names_move_and_go() {
        let dir = tempfile::tempdir().unwrap();
        let refs = Refs::open(dir.path()).unwrap();
        let name: Reference = "shop:1".parse().unwrap();
        let target = |text: &str| Descriptor::new(media_type::OCI_MANIFEST, Digest::of(text), 3);
        refs.set(std::slice::from_ref(&name), &target("a"), "t").unwrap();
        refs.set(std::slice::from_ref(&name), &target("b"), "t").unwrap();
        assert_eq!(refs.get(&name).unwrap().digest, Digest::of("b"));
        assert_eq!(refs.list().unwrap().len(), 1);
        let pinned: Reference = format!("shop@{}", Digest::of("b")).parse().unwrap();
        assert_eq!(refs.get(&pinned).unwrap().digest, Digest::of("b"));
        let hint = refs.get(&"shpo:1".parse().unwrap()).unwrap_err().hint();
        assert_eq!(hint.as_deref(), Some("did you mean 'shop:1'?"));
        assert_eq!(refs.remove(&name).unwrap(), Some(Digest::of("b")));
        assert!(refs.list().unwrap().is_empty());
    }

    #[test]
    fn concurrent_writers_lose_no_name() {
        let dir = tempfile::tempdir().unwrap();
        std::thread::scope(|scope| {
            for writer in 0..4 {
                let dir = dir.path();
                scope.spawn(move || {
                    let refs = Refs::open(dir).unwrap();
                    for n in 0..10 {
                        let name = format!("w{writer}:{n}").parse().unwrap();
                        let target = Descriptor::new(media_type::OCI_MANIFEST, Digest::of("x"), 1);
                        refs.set(&[name], &target, "t").unwrap();
                    }
                });
            }
        });
        assert_eq!(Refs::open(dir.path()).unwrap().list().unwrap().len(), 40);
    }
}
