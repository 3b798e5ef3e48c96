//! `index.json`: which names the store knows, as an OCI image layout keeps them.
//!
//! Names are of two kinds: those of images on this machine, and those of this folder's registry, which were pushed to it. The same name
//! may be of both. What the registry has no name for it finds among the others, so that nothing has to be pushed to be pulled.
//!
//! Readers need no lock, since the file is only ever replaced whole. Writers take `index.lock`.

use std::{collections::HashSet, fs, io, path::PathBuf};

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
/// Set on names of the registry.
const OF_REGISTRY: &str = "dev.wharf.registry";

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

    /// All names of both kinds, sorted.
    pub(crate) fn all(&self) -> Result<Vec<RefEntry>> {
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

    /// The images of this machine.
    pub(crate) fn list(&self) -> Result<Vec<RefEntry>> {
        let mut all = self.all()?;
        all.retain(|entry| !is_of_registry(&entry.target));
        Ok(all)
    }

    /// What the registry has: names that were pushed, and of the others those it has none of.
    pub(crate) fn list_of_registry(&self) -> Result<Vec<RefEntry>> {
        let all = self.all()?;
        let pushed: HashSet<Reference> = all
            .iter()
            .filter(|entry| is_of_registry(&entry.target))
            .map(|entry| entry.reference.clone())
            .collect();
        let shown = |entry: &RefEntry| is_of_registry(&entry.target) || !pushed.contains(&entry.reference);
        Ok(all.into_iter().filter(shown).collect())
    }

    /// The target of a name of this machine; a name with a digest is found by that digest in its repository, also in the registry.
    pub(crate) fn get(&self, reference: &Reference) -> Result<Descriptor> {
        let entries = if reference.digest().is_some() { self.all()? } else { self.list()? };
        get_of(&entries, reference)
    }

    /// As [`Refs::get`], for what the registry has.
    pub(crate) fn get_of_registry(&self, reference: &Reference) -> Result<Descriptor> {
        get_of(&self.list_of_registry()?, reference)
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
        self.update(|entries| names.iter().for_each(|name| put(entries, name, target, now, false)))
    }

    /// Names something in the registry. What a tag named before stays in its repository by digest; and it is an image of this machine
    /// too.
    pub(crate) fn publish(&self, name: &Reference, target: &Descriptor, now: &str) -> Result<()> {
        self.update(|entries| {
            if name.tag().is_none() {
                let repository = name.repository();
                let has =
                    |d: &Descriptor| is_of_registry(d) && d.digest == target.digest && is_in(d, &repository);
                // Under a tag it is there by digest too.
                if !entries.iter().any(has) {
                    put(entries, name, target, now, true);
                }
                return;
            }
            if !entries.iter().any(|d| is(d, &name.to_string(), true) && d.digest == target.digest) {
                unname(entries, name, now);
                let pinned = format!("{}@{}", name.repository(), target.digest);
                // A tag holds it from now on.
                entries.retain(|d| !is(d, &pinned, true));
                put(entries, name, target, now, true);
            }
            put(entries, name, target, now, false);
        })
    }

    /// Removes a tag from the registry: its manifest stays in the repository by digest. It is gone from this machine's images too, where
    /// the registry would find it.
    pub(crate) fn unpublish(&self, name: &Reference, now: &str) -> Result<Option<Digest>> {
        self.update(|entries| unname(entries, name, now))
    }

    /// Removes a name of this machine's.
    pub(crate) fn remove(&self, name: &Reference) -> Result<Option<Digest>> {
        self.update(|entries| take(entries, &name.to_string(), false).map(|entry| entry.digest))
    }

    /// Removes a name of the registry's.
    pub(crate) fn forget(&self, name: &Reference) -> Result<Option<Digest>> {
        self.update(|entries| take(entries, &name.to_string(), true).map(|entry| entry.digest))
    }

    /// Removes every name of `repository` that points at `digest`, of both kinds; how many there were.
    pub(crate) fn remove_digest(&self, repository: &str, digest: &Digest) -> Result<usize> {
        self.update(|entries| {
            let before = entries.len();
            entries.retain(|d| d.digest != *digest || !is_in(d, repository));
            before - entries.len()
        })
    }
}

fn get_of(entries: &[RefEntry], reference: &Reference) -> Result<Descriptor> {
    let found = match reference.digest() {
        Some(digest) => entries
            .iter()
            .find(|e| e.target.digest == digest && e.reference.repository() == reference.repository()),
        None => entries.iter().find(|e| e.reference == *reference),
    };
    match found {
        Some(entry) => Ok(entry.target.clone()),
        None => Err(no_image(reference, entries)),
    }
}

fn is_of_registry(entry: &Descriptor) -> bool {
    entry.annotations.contains_key(OF_REGISTRY)
}

/// Whether the entry is this name of one of the two kinds.
fn is(entry: &Descriptor, name: &str, of_registry: bool) -> bool {
    is_of_registry(entry) == of_registry && entry.annotations.get(REF_NAME).is_some_and(|n| n == name)
}

fn is_in(entry: &Descriptor, repository: &str) -> bool {
    let name = entry.annotations.get(REF_NAME).and_then(|name| name.parse::<Reference>().ok());
    name.is_some_and(|name| name.repository() == repository)
}

/// Has a name of one of the two kinds point at `target`.
fn put(entries: &mut Vec<Descriptor>, name: &Reference, target: &Descriptor, now: &str, of_registry: bool) {
    let text = name.to_string();
    if entries.iter().any(|d| is(d, &text, of_registry) && d.digest == target.digest) {
        return;
    }
    entries.retain(|d| !is(d, &text, of_registry));
    let mut entry = Descriptor::new(&target.media_type, target.digest, target.size);
    entry.annotations.insert(REF_NAME.into(), text);
    entry.annotations.insert(CREATED.into(), now.into());
    if of_registry {
        entry.annotations.insert(OF_REGISTRY.into(), "true".into());
    }
    entries.push(entry);
}

fn take(entries: &mut Vec<Descriptor>, name: &str, of_registry: bool) -> Option<Descriptor> {
    let at = entries.iter().position(|d| is(d, name, of_registry))?;
    Some(entries.remove(at))
}

/// Takes a tag off what the registry has under it, which stays there by digest unless another tag of the repository has it.
fn unname(entries: &mut Vec<Descriptor>, name: &Reference, now: &str) -> Option<Digest> {
    let text = name.to_string();
    let (pushed, own) = (take(entries, &text, true), take(entries, &text, false));
    let old = pushed.or(own)?;
    let repository = name.repository();
    if !entries.iter().any(|d| d.digest == old.digest && is_in(d, &repository)) {
        let pinned = format!("{repository}@{}", old.digest).parse();
        pinned.iter().for_each(|pinned| put(entries, pinned, &old, now, true));
    }
    Some(old.digest)
}

fn no_image(reference: &Reference, entries: &[RefEntry]) -> Error {
    let name = reference.familiar();
    let known: Vec<_> = entries.iter().map(|e| e.reference.familiar()).collect();
    let similar = similar(&name, &known);
    Error::NoImage { name, similar }
}

/// The name nearest to one that is not there. Tags that both have do not make them alike.
fn similar(wanted: &str, known: &[String]) -> Option<String> {
    let (repository, tag) = parts(wanted);
    let of = |repository: &str| {
        let tags = known.iter().filter(|name| parts(name).0 == repository);
        tags.clone().find(|name| parts(name).1 == tag).or_else(|| tags.clone().next()).cloned()
    };
    of(repository).or_else(|| of(closest(repository, known.iter().map(|name| parts(name).0))?))
}

/// The repository of a name, and the rest.
fn parts(name: &str) -> (&str, &str) {
    let path = name.rfind('/').map_or(0, |slash| slash + 1);
    let end = name[path..].find([':', '@']).map_or(name.len(), |at| path + at);
    name.split_at(end)
}

#[cfg(test)]
mod tests {
    use super::*;

    #[test]
    fn only_near_names_are_meant() {
        let known = ["shop:latest", "shop:2", "base/python:3", "localhost:5000/web:latest"].map(String::from);
        for (wanted, expected) in [
            ("nope:latest", None),
            ("shpo:latest", Some("shop:latest")),
            ("shop:3", Some("shop:latest")),
            ("shpo:2", Some("shop:2")),
            ("base/pyhton:latest", Some("base/python:3")),
            ("localhost:5000/wbe:latest", Some("localhost:5000/web:latest")),
            ("other:2", None),
        ] {
            assert_eq!(similar(wanted, &known).as_deref(), expected, "{wanted}");
        }
    }
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
    fn the_registry_keeps_what_was_pushed() {
        let dir = tempfile::tempdir().unwrap();
        let refs = Refs::open(dir.path()).unwrap();
        let name = |text: &str| text.parse::<Reference>().unwrap();
        let target = |text: &str| Descriptor::new(media_type::OCI_MANIFEST, Digest::of(text), 3);
        let names = |entries: Vec<RefEntry>| -> Vec<String> {
            entries.iter().map(|entry| entry.reference.familiar()).collect()
        };
        let set = |text: &str, of: &str| refs.set(&[name(text)], &target(of), "t").unwrap();
        set("own:1", "own");
        refs.publish(&name("shop:1"), &target("a"), "t").unwrap();
        assert_eq!(names(refs.list().unwrap()), ["own:1", "shop:1"]);
        assert_eq!(names(refs.list_of_registry().unwrap()), ["own:1", "shop:1"]);
        // What is done to the image on this machine is not done to the registry's.
        set("shop:1", "b");
        assert_eq!(refs.get(&name("shop:1")).unwrap().digest, Digest::of("b"));
        assert_eq!(refs.get_of_registry(&name("shop:1")).unwrap().digest, Digest::of("a"));
        assert_eq!(refs.remove(&name("shop:1")).unwrap(), Some(Digest::of("b")));
        assert_eq!(refs.remove(&name("shop:1")).unwrap(), None);
        assert!(refs.get(&name("shop:1")).is_err());
        assert_eq!(refs.get_of_registry(&name("shop:1")).unwrap().digest, Digest::of("a"));
        let by_digest_of = |repository: &str, of: &str| name(&format!("{repository}@{}", Digest::of(of)));
        let by_digest = |of: &str| by_digest_of("shop", of);
        assert_eq!(refs.get(&by_digest("a")).unwrap().digest, Digest::of("a"));
        // A push moves both, and the registry has what was there before by digest.
        refs.publish(&name("shop:1"), &target("c"), "t").unwrap();
        assert_eq!(refs.get(&name("shop:1")).unwrap().digest, Digest::of("c"));
        assert_eq!(refs.get_of_registry(&by_digest("a")).unwrap().digest, Digest::of("a"));
        assert_eq!(names(refs.list().unwrap()), ["own:1", "shop:1"]);
        // Removed from the registry it is gone, but for its digest.
        assert_eq!(refs.unpublish(&name("shop:1"), "t").unwrap(), Some(Digest::of("c")));
        assert!(refs.get(&name("shop:1")).is_err() && refs.get_of_registry(&name("shop:1")).is_err());
        assert_eq!(refs.get_of_registry(&by_digest("c")).unwrap().digest, Digest::of("c"));
        assert_eq!(refs.remove_digest("docker.io/library/shop", &Digest::of("c")).unwrap(), 1);
        assert!(refs.get_of_registry(&by_digest("c")).is_err());
        // Pushed by digest it is the registry's, though this machine has it under a tag.
        let own = by_digest_of("own", "own");
        refs.publish(&own, &target("own"), "t").unwrap();
        refs.remove(&name("own:1")).unwrap();
        assert_eq!(refs.get_of_registry(&own).unwrap().digest, Digest::of("own"));
        // One without a tag can be let go alone.
        set("own:1", "own");
        assert_eq!(
            refs.forget(&name(&format!("own@{}", Digest::of("own")))).unwrap(),
            Some(Digest::of("own"))
        );
        assert_eq!(names(refs.list().unwrap()), ["own:1"]);
        assert_eq!(refs.unpublish(&name("own:1"), "t").unwrap(), Some(Digest::of("own")));
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
